/* SPDX-License-Identifier: PostgreSQL */
#include "core/conn_tls.h"

#include "core/conn_internal.h"
#include "core/worker.h"
#include "wire/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Encrypted bytes received at a time: with what they may yield they fit into half of inbuf. */
#define TLS_IN_MAX ((size_t)40 * 1024)
/* A smaller limit than that would only cost system calls: a record comes whole anyway. */
#define TLS_IN_LEAST ((size_t)1024)
#define TLS_OUT_MAX ((size_t)4 * 1024 * 1024)
/* More than that is not kept for the next time. */
#define TLS_OUT_KEPT ((size_t)512 * 1024)

_Static_assert(TLS_IN_MAX + TLS_ROOM_EXTRA <= WORKER_INBUF / 2, "what is received must fit");

struct conn_tls_io {
	struct sbuf out; /* records to be sent */
	uint8_t in[TLS_IN_MAX];
	uint8_t joined[TLS_RECORD_MAX]; /* small parts that make one record */
};

static struct conn_tls_io *conn_tls_io(struct worker *worker)
{
	if (LIKELY(worker->tls_io != NULL))
		return worker->tls_io;
	worker->tls_io = malloc(sizeof(*worker->tls_io));
	if (worker->tls_io != NULL)
		sbuf_init(&worker->tls_io->out, TLS_OUT_MAX);
	return worker->tls_io;
}

void conn_tls_io_free(struct conn_tls_io *io)
{
	if (io == NULL)
		return;
	sbuf_free(&io->out);
	free(io);
}

/* Sends the records of io->out; what is left goes to conn->out. */
static enum conn_io conn_tls_send(struct conn *conn, struct conn_tls_io *io)
{
	enum conn_io result = sbuf_ok(&io->out) ? CONN_IO_OK : CONN_IO_ERROR;
	size_t sent = 0;

	if (result == CONN_IO_OK && io->out.len > 0 && conn_unsent(conn) == 0) {
		ssize_t n;

		do {
			n = send(conn->fd, io->out.data, io->out.len, MSG_NOSIGNAL);
		} while (n < 0 && errno == EINTR);
		if (n >= 0)
			sent = (size_t)n;
		else if (errno != EAGAIN && errno != EWOULDBLOCK)
			result = CONN_IO_ERROR;
	}
	if (result == CONN_IO_OK && sent < io->out.len)
		result = conn_keep_bytes(conn, io->out.data + sent, io->out.len - sent);
	if (io->out.cap > TLS_OUT_KEPT)
		sbuf_free(&io->out);
	else
		sbuf_reset(&io->out);
	return result;
}

/* ---- handshake ---- */

enum conn_io conn_start_tls(struct conn *conn, struct worker *worker, struct tls *tls,
                            const void *bytes, size_t len)
{
	struct conn_tls_io *io = conn_tls_io(worker);
	enum tls_status status;
	enum conn_io sent;
	size_t got = 0;

	conn_send_put_off(worker);
	conn->tls = tls;
	if (io == NULL || tls == NULL)
		return CONN_IO_ERROR;
	if (len == 0) {
		status = tls_begin(tls, &io->out);
	} else {
		/* A hello is one record: nothing for us can be behind it yet. */
		status =
		    tls_decrypt(tls, bytes, len, io->joined, sizeof(io->joined), &got, &io->out);
		if (got > 0)
			status = TLS_FAILED;
	}
	sent = conn_tls_send(conn, io);
	return status == TLS_OK ? sent : CONN_IO_ERROR;
}

struct tls *conn_take_tls(struct conn *conn)
{
	struct tls *tls = conn->tls;

	conn->tls = NULL;
	return tls;
}

/* ---- receiving ---- */

static enum conn_io conn_tls_recv(struct conn *conn, struct conn_tls_io *io, size_t limit, void *to,
                                  size_t room, size_t *got)
{
	enum tls_status status;
	enum conn_io sent = CONN_IO_OK;
	ssize_t n;

	do {
		n = recv(conn->fd, io->in, limit, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? CONN_IO_AGAIN : CONN_IO_ERROR;
	if (n == 0) {
		conn->eof = true;
		return CONN_IO_EOF;
	}
	status = tls_decrypt(conn->tls, io->in, (size_t)n, to, room, got, &io->out);
	if (io->out.len > 0)
		sent = conn_tls_send(conn, io);
	if (status != TLS_OK || sent != CONN_IO_OK)
		return CONN_IO_ERROR;
	if (*got > 0) {
		/* The end came with it, and the socket may say nothing more. */
		if (UNLIKELY(tls_ended(conn->tls)))
			event_active(&conn->event, EV_READ, 0);
		return CONN_IO_OK;
	}
	if (!tls_ended(conn->tls))
		return CONN_IO_AGAIN;
	conn->eof = true;
	return CONN_IO_EOF;
}

enum conn_io conn_tls_receive(struct conn *conn, struct worker *worker, size_t limit,
                              struct input *input)
{
	struct conn_tls_io *io = conn_tls_io(worker);
	size_t kept = conn_kept(conn);
	size_t got = 0;
	enum conn_io result;

	if (io == NULL)
		return CONN_IO_ERROR;
	if (tls_ended(conn->tls)) {
		conn->eof = true;
		return CONN_IO_EOF;
	}
	if (limit == 0 || limit > TLS_IN_MAX)
		limit = TLS_IN_MAX;
	if (limit < TLS_IN_LEAST)
		limit = TLS_IN_LEAST;
	if (kept > WORKER_INBUF / 2) {
		/* A long message that is needed as a whole: it grows where it is. */
		if (!conn_reserve_in(conn, limit + TLS_ROOM_EXTRA))
			return CONN_IO_ERROR;
		result = conn_tls_recv(conn, io, limit, conn->in->data + conn->in->end,
		                       limit + TLS_ROOM_EXTRA, &got);
		if (result != CONN_IO_OK)
			return result;
		return conn_received_behind(conn, kept, got, input);
	}
	result = conn_tls_recv(conn, io, limit, worker->inbuf + kept, WORKER_INBUF - kept, &got);
	if (result != CONN_IO_OK)
		return result;
	return conn_received(conn, worker, kept, got, input);
}

bool conn_tls_seems_dead(struct conn *conn, struct worker *worker)
{
	struct conn_tls_io *io = conn_tls_io(worker);
	size_t before = conn_kept(conn);
	size_t got = 0;
	enum conn_io result;

	/* Not into the worker's buffer: a request that needs a server may lie there. */
	if (io == NULL || !conn_reserve_in(conn, TLS_IN_LEAST + TLS_ROOM_EXTRA))
		return true;
	result = conn_tls_recv(conn, io, TLS_IN_LEAST, conn->in->data + conn->in->end,
	                       TLS_IN_LEAST + TLS_ROOM_EXTRA, &got);
	conn->in->end += (uint32_t)got;
	if (conn_kept(conn) == 0) {
		free(conn->in);
		conn->in = NULL;
	}
	if (result != CONN_IO_OK)
		return result != CONN_IO_AGAIN;
	return before == 0 && conn->in->data[conn->in->begin] == BE_ERROR_RESPONSE;
}

/* ---- sending ---- */

/* As few records as the parts fill: each costs some 30 bytes and a microsecond. */
static enum tls_status conn_tls_encrypt(struct out_vec *out, struct tls *tls,
                                        struct conn_tls_io *io)
{
	enum tls_status status = TLS_OK;
	size_t joined = 0;

	for (int i = 0; i < out->count && status == TLS_OK; i++) {
		const uint8_t *data = out->part[i].data;
		size_t len = out->part[i].len;

		while (len > 0 && status == TLS_OK) {
			size_t n = TLS_RECORD_MAX - joined;

			if (joined == 0 && (len >= TLS_RECORD_MAX || i == out->count - 1)) {
				n = len < TLS_RECORD_MAX ? len : TLS_RECORD_MAX;
				status = tls_encrypt(tls, data, n, &io->out);
			} else {
				n = n < len ? n : len;
				memcpy(io->joined + joined, data, n);
				joined += n;
				if (joined == TLS_RECORD_MAX) {
					status = tls_encrypt(tls, io->joined, joined, &io->out);
					joined = 0;
				}
			}
			data += n;
			len -= n;
		}
	}
	if (status == TLS_OK && joined > 0)
		status = tls_encrypt(tls, io->joined, joined, &io->out);
	return status;
}

enum conn_io conn_tls_flush(struct out_vec *out, struct worker *worker)
{
	struct conn *conn = out->conn;
	struct conn_tls_io *io = conn_tls_io(worker);
	enum conn_io result = CONN_IO_OK;

	/* Before the handshake is done nothing can be said: such a text is lost. */
	if (io == NULL || (tls_ready(conn->tls) && conn_tls_encrypt(out, conn->tls, io) != TLS_OK))
		result = CONN_IO_ERROR;
	if (result == CONN_IO_OK)
		result = conn_tls_send(conn, io);
	else if (io != NULL)
		sbuf_reset(&io->out);
	conn_forget_output(out, conn);
	return result;
}

void conn_tls_goodbye(struct conn *conn, struct worker *worker)
{
	struct conn_tls_io *io = conn_tls_io(worker);

	if (io == NULL || conn_unsent(conn) > 0 || !tls_ready(conn->tls))
		return;
	tls_goodbye(conn->tls, &io->out);
	if (sbuf_ok(&io->out) && io->out.len > 0)
		(void)send(conn->fd, io->out.data, io->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	sbuf_reset(&io->out);
}

const char *conn_tls_text(const struct conn *conn, char out[TLS_TEXT_MAX])
{
	out[0] = '\0';
	if (conn->tls != NULL && tls_ready(conn->tls))
		tls_describe(conn->tls, out);
	return out;
}
