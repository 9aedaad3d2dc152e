/* SPDX-License-Identifier: PostgreSQL */
#include "core/conn.h"

#include "core/conn_internal.h"
#include "core/conn_tls.h"
#include "core/worker.h"

#include "net/ring.h"
#include "wire/message.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK_LEAST 512u
#define SEND_JOINED_MAX 2048

static bool conn_register(struct conn *conn)
{
	if (conn->events == 0)
		return true;
	return event_add(&conn->event, NULL) == 0;
}

bool conn_open(struct conn *conn, struct worker *worker, int fd, event_callback_fn callback,
	       void *arg)
{
	conn->fd = fd;
	conn->events = EV_READ;
	conn->eof = false;
	conn->reset = false;
	conn->put_off = false;
	conn->broken = false;
	if (event_assign(&conn->event, worker->base, fd, EV_READ | EV_PERSIST, callback, arg) != 0)
		return false;
	return conn_register(conn);
}

/* Before anything else is done with the socket. */
static inline void conn_settle(const struct conn *conn, struct worker *worker)
{
	if (UNLIKELY(conn->put_off))
		conn_send_put_off(worker);
}

int conn_detach(struct conn *conn, struct worker *worker)
{
	int fd = conn->fd;

	conn_settle(conn, worker);
	if (fd >= 0 && conn->events != 0)
		(void)event_del(&conn->event);
	conn->events = 0;
	conn->fd = -1;
	tls_free(conn->tls);
	conn->tls = NULL;
	free(conn->in);
	free(conn->out);
	conn->in = NULL;
	conn->out = NULL;
	return fd;
}

void conn_forget_output(struct out_vec *out, const struct conn *conn)
{
	if (out->conn != conn)
		return;
	out->conn = NULL;
	out->count = 0;
	out->bytes = 0;
	out->scratch_used = 0;
}

void conn_close(struct conn *conn, struct worker *worker)
{
	int fd;

	conn_forget_output(&worker->to_client, conn);
	conn_forget_output(&worker->to_server, conn);
	conn_settle(conn, worker);
	if (UNLIKELY(conn->tls != NULL) && conn->fd >= 0)
		conn_tls_goodbye(conn, worker);
	fd = conn_detach(conn, worker);
	if (fd >= 0)
		(void)close(fd);
}

void conn_want(struct conn *conn, short events)
{
	if (conn->events == events || conn->fd < 0)
		return;
	if (conn->events != 0)
		(void)event_del(&conn->event);
	conn->events = events;
	if (events == 0)
		return;
	(void)event_assign(&conn->event, event_get_base(&conn->event), conn->fd,
			   (short)(events | EV_PERSIST), event_get_callback(&conn->event),
			   event_get_callback_arg(&conn->event));
	/* The descriptor was registered before: what was freed then is there to be used again. */
	if (!conn_register(conn))
		conn->events = 0;
}

static struct chunk *chunk_new(size_t cap)
{
	struct chunk *chunk;

	if (cap < CHUNK_LEAST)
		cap = CHUNK_LEAST;
	if (cap > UINT32_MAX / 2)
		return NULL;
	chunk = malloc(sizeof(*chunk) + cap);
	if (chunk == NULL)
		return NULL;
	chunk->begin = 0;
	chunk->end = 0;
	chunk->cap = (uint32_t)cap;
	return chunk;
}

/* Room for `len` more bytes behind the end of *slot, which may be NULL or move. */
static bool chunk_reserve(struct chunk **slot, size_t len)
{
	struct chunk *chunk = *slot;
	size_t used = chunk == NULL ? 0 : chunk->end - chunk->begin;
	struct chunk *grown;

	if (chunk != NULL && chunk->cap - chunk->end >= len)
		return true;
	if (chunk != NULL && chunk->cap - used >= len && chunk->begin >= chunk->cap / 2) {
		memmove(chunk->data, chunk->data + chunk->begin, used);
		chunk->begin = 0;
		chunk->end = (uint32_t)used;
		return true;
	}
	grown = chunk_new(used == 0 ? len : (used + len) + (used + len) / 2);
	if (grown == NULL)
		return false;
	if (used > 0)
		memcpy(grown->data, chunk->data + chunk->begin, used);
	grown->end = (uint32_t)used;
	free(chunk);
	*slot = grown;
	return true;
}

bool conn_reserve_in(struct conn *conn, size_t len)
{
	return chunk_reserve(&conn->in, len);
}

enum conn_io conn_keep_bytes(struct conn *conn, const void *data, size_t len)
{
	if (!chunk_reserve(&conn->out, len))
		return CONN_IO_ERROR;
	memcpy(conn->out->data + conn->out->end, data, len);
	conn->out->end += (uint32_t)len;
	conn_want(conn, (short)(conn->events | EV_WRITE));
	return CONN_IO_OK;
}

static inline enum conn_io conn_recv(struct conn *conn, void *to, size_t len, size_t *got)
{
	ssize_t n;

	do {
		n = recv(conn->fd, to, len, 0);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		*got = (size_t)n;
		return CONN_IO_OK;
	}
	if (n == 0) {
		conn->eof = true;
		return CONN_IO_EOF;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return CONN_IO_AGAIN;
	conn->reset = errno == ECONNRESET;
	return CONN_IO_ERROR;
}

enum conn_io conn_receive(struct conn *conn, struct worker *worker, size_t limit,
			  struct input *input)
{
	size_t kept = conn_kept(conn);
	size_t room;
	size_t got = 0;
	enum conn_io io;

	conn_settle(conn, worker);
	if (UNLIKELY(conn->broken))
		return CONN_IO_ERROR;
	if (UNLIKELY(conn->tls != NULL))
		return conn_tls_receive(conn, worker, limit, input);
	if (kept > WORKER_INBUF / 2) {
		/* A long message that is needed as a whole: it grows where it is. */
		room = kept;
		if (limit != 0 && room > limit)
			room = limit;
		if (!chunk_reserve(&conn->in, room))
			return CONN_IO_ERROR;
		io = conn_recv(conn, conn->in->data + conn->in->end, room, &got);
		if (io != CONN_IO_OK)
			return io;
		return conn_received_behind(conn, kept, got, input);
	}
	room = WORKER_INBUF - kept;
	if (limit != 0 && room > limit)
		room = limit;
	io = conn_recv(conn, worker->inbuf + kept, room, &got);
	if (io != CONN_IO_OK)
		return io;
	return conn_received(conn, worker, kept, got, input);
}

struct input conn_pending(struct conn *conn, struct worker *worker)
{
	struct input input = {worker->inbuf, 0};

	if (conn->in != NULL) {
		input.data = conn->in->data + conn->in->begin;
		input.len = conn_kept(conn);
	}
	return input;
}

bool conn_keep_rest(struct conn *conn, const struct input *input, size_t used)
{
	size_t left = input->len - used;

	if (conn->in != NULL && input->data == conn->in->data + conn->in->begin) {
		conn->in->begin += (uint32_t)used;
		if (left == 0) {
			free(conn->in);
			conn->in = NULL;
		}
		return true;
	}
	if (left == 0)
		return true;
	conn->in = chunk_new(left);
	if (conn->in == NULL)
		return false;
	memcpy(conn->in->data, input->data + used, left);
	conn->in->end = (uint32_t)left;
	return true;
}

bool conn_unread(struct conn *conn, const void *data, size_t len)
{
	size_t kept = conn_kept(conn);
	struct chunk *chunk;

	if (len == 0)
		return true;
	chunk = chunk_new(len + kept);
	if (chunk == NULL)
		return false;
	memcpy(chunk->data, data, len);
	if (kept > 0)
		memcpy(chunk->data + len, conn->in->data + conn->in->begin, kept);
	chunk->end = (uint32_t)(len + kept);
	free(conn->in);
	conn->in = chunk;
	return true;
}

/* Keeps in conn->out what the kernel did not take: all parts without the first `skip` bytes. */
static enum conn_io conn_keep_output(struct out_vec *out, struct conn *conn, size_t skip)
{
	if (!chunk_reserve(&conn->out, out->bytes - skip))
		return CONN_IO_ERROR;
	for (int i = 0; i < out->count; i++) {
		const uint8_t *data = out->part[i].data;
		size_t len = out->part[i].len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		memcpy(conn->out->data + conn->out->end, data + skip, len - skip);
		conn->out->end += (uint32_t)(len - skip);
		skip = 0;
	}
	conn_want(conn, (short)(conn->events | EV_WRITE));
	return CONN_IO_OK;
}

static void conn_join_parts(const struct out_vec *out, uint8_t *joined)
{
	for (int i = 0; i < out->count; i++) {
		memcpy(joined, out->part[i].data, out->part[i].len);
		joined += out->part[i].len;
	}
}

/* A few parts of a small message: one copy costs less than the kernel's reading of a vector. */
static ssize_t conn_send_small(const struct out_vec *out, const struct conn *conn)
{
	uint8_t joined[SEND_JOINED_MAX];

	conn_join_parts(out, joined);
	return send(conn->fd, joined, out->bytes, MSG_NOSIGNAL);
}

static ssize_t conn_send_vector(const struct out_vec *out, const struct conn *conn)
{
	struct iovec iov[OUT_VEC_MAX];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)out->count};

	for (int i = 0; i < out->count; i++) {
		iov[i].iov_base = (void *)(uintptr_t)out->part[i].data;
		iov[i].iov_len = out->part[i].len;
	}
	return sendmsg(conn->fd, &msg, MSG_NOSIGNAL);
}

static enum conn_io conn_send_parts(struct out_vec *out, struct conn *conn, size_t *sent)
{
	ssize_t n;

	do {
		if (out->count == 1)
			n = send(conn->fd, out->part[0].data, out->part[0].len, MSG_NOSIGNAL);
		else if (out->bytes <= SEND_JOINED_MAX)
			n = conn_send_small(out, conn);
		else
			n = conn_send_vector(out, conn);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		return CONN_IO_ERROR;
	*sent = n < 0 ? 0 : (size_t)n;
	return CONN_IO_OK;
}

/* What the kernel has made of what was put off. */
static void conn_put_off_sent(void *owner, const uint8_t *data, size_t len, int result)
{
	struct conn *conn = owner;

	conn->put_off = false;
	if (LIKELY(result == (int)len))
		return;
	if (result == -EAGAIN || result == -EINTR)
		result = 0;
	if (result >= 0 && conn_keep_bytes(conn, data + result, len - (size_t)result) == CONN_IO_OK)
		return;
	/* It ends when it is next read from. */
	conn->broken = true;
	conn->reset = true;
	if (conn->events != 0)
		event_active(&conn->event, EV_READ, 0);
}

void conn_send_put_off(struct worker *worker)
{
	if (worker->ring != NULL && ring_count(worker->ring) > 0)
		ring_send(worker->ring, conn_put_off_sent);
}

/* False: it is to be sent now. */
static bool conn_put_off(const struct out_vec *out, struct worker *worker)
{
	struct conn *conn = out->conn;

	if (worker->ring == NULL || out->bytes > RING_BYTES || conn_unsent(conn) > 0)
		return false;
	if (ring_count(worker->ring) == RING_SENDS)
		conn_send_put_off(worker);
	if (ring_count(worker->ring) == 0) {
		/* Nobody else has anything to say. */
		if (event_base_get_num_events(worker->base, EVENT_BASE_COUNT_ACTIVE) == 0)
			return false;
		event_active(worker->batch_end, EV_TIMEOUT, 0);
	}
	conn_join_parts(out, ring_add(worker->ring, conn->fd, out->bytes, conn));
	conn->put_off = true;
	return true;
}

enum conn_io conn_flush_parts(struct out_vec *out, struct worker *worker)
{
	struct conn *conn = out->conn;
	enum conn_io io = CONN_IO_OK;
	size_t sent = 0;

	if (UNLIKELY(conn->tls != NULL))
		return conn_tls_flush(out, worker);
	conn_settle(conn, worker);
	if (UNLIKELY(conn->broken))
		io = CONN_IO_ERROR;
	else if (out->bytes > 0 && !conn_put_off(out, worker)) {
		if (conn_unsent(conn) == 0)
			io = conn_send_parts(out, conn, &sent);
		if (io == CONN_IO_OK && sent < out->bytes)
			io = conn_keep_output(out, conn, sent);
	}
	conn_forget_output(out, conn);
	return io;
}

/* Empties the vector for `conn`.  That somebody else could not be sent what was in it is not for
 * this caller: it finds its connection at its end. */
static enum conn_io conn_turn_to(struct out_vec *out, struct conn *conn, struct worker *worker)
{
	struct conn *before = out->conn;
	enum conn_io io = conn_flush(out, worker);

	if (io != CONN_IO_OK && before != conn) {
		(void)shutdown(before->fd, SHUT_RDWR);
		io = CONN_IO_OK;
	}
	out->conn = conn;
	return io;
}

enum conn_io conn_send_part(struct out_vec *out, struct conn *conn, struct worker *worker,
                            const void *data, size_t len)
{
	if (out->conn != conn || out->count == OUT_VEC_MAX) {
		enum conn_io io = conn_turn_to(out, conn, worker);

		if (io != CONN_IO_OK)
			return io;
	}
	if (len == 0)
		return CONN_IO_OK;
	out->bytes += len;
	out->part[out->count].data = data;
	out->part[out->count].len = len;
	out->count++;
	return CONN_IO_OK;
}

enum conn_io conn_send_copy(struct out_vec *out, struct conn *conn, struct worker *worker,
			    const void *data, size_t len)
{
	const uint8_t *from = data;

	while (len > 0) {
		size_t n;
		enum conn_io io;

		if (out->conn != conn || out->count == OUT_VEC_MAX ||
		    out->scratch_used == OUT_SCRATCH) {
			io = conn_turn_to(out, conn, worker);
			if (io != CONN_IO_OK)
				return io;
		}
		n = OUT_SCRATCH - out->scratch_used;
		if (n > len)
			n = len;
		memcpy(out->scratch + out->scratch_used, from, n);
		io = conn_send(out, conn, worker, out->scratch + out->scratch_used, n);
		if (io != CONN_IO_OK)
			return io;
		out->scratch_used += n;
		from += n;
		len -= n;
	}
	return CONN_IO_OK;
}

void conn_send_last(struct conn *conn, struct worker *worker, const void *data, size_t len)
{
	if (conn->fd < 0)
		return;
	conn_settle(conn, worker);
	if (conn_unsent(conn) > 0)
		return;
	if (conn->tls == NULL)
		(void)send(conn->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (conn_send(&worker->to_server, conn, worker, data, len) == CONN_IO_OK)
		(void)!conn_flush(&worker->to_server, worker);
}

bool conn_seems_dead(struct conn *conn, struct worker *worker)
{
	uint8_t byte;
	ssize_t n;

	conn_settle(conn, worker);
	n = recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (LIKELY(n < 0))
		return false;
	if (n > 0 && conn->tls != NULL)
		return conn_tls_seems_dead(conn, worker);
	return n == 0 || byte == BE_ERROR_RESPONSE;
}

bool conn_peer_left(const struct conn *conn)
{
	struct pollfd look = {.fd = conn->fd};

	return conn->reset || (poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0);
}

enum conn_io conn_write_more(struct conn *conn, struct worker *worker)
{
	size_t len = conn_unsent(conn);
	ssize_t n = 0;

	(void)worker;
	if (len > 0) {
		do {
			n = send(conn->fd, conn->out->data + conn->out->begin, len, MSG_NOSIGNAL);
		} while (n < 0 && errno == EINTR);
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? CONN_IO_AGAIN
								       : CONN_IO_ERROR;
		conn->out->begin += (uint32_t)n;
	}
	if (conn_unsent(conn) > 0)
		return CONN_IO_AGAIN;
	free(conn->out);
	conn->out = NULL;
	conn_want(conn, (short)(conn->events & ~EV_WRITE));
	return CONN_IO_OK;
}
