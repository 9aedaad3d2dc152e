/* SPDX-License-Identifier: PostgreSQL */
/*
 * One socket of a worker: what has been received and not yet used, what could not yet be sent.
 *
 * Bytes are received into the worker's buffer and forwarded from there: while nothing is left over,
 * a connection owns no memory but this struct.  What is left over on the receiving side (a part of
 * a message, a request that waits) moves to `in`, what the kernel did not take to `out`.
 *
 *   socket -> worker->inbuf (or in) -> conn_send() into the peer's out_vec -> conn_flush() -> socket
 *                                                                         \-> out, and EV_WRITE
 *
 * While the present batch of events has more of them, small sends are put off: one system call for
 * all at its end (net/ring.h).  Whatever else is done with the socket first sends what was put off.
 *
 * An encrypted connection is used no differently: core/conn_tls.h.
 *
 * Worker thread only.  Nothing here closes a connection.
 */
#ifndef CORE_CONN_H
#define CORE_CONN_H

#include "base/compiler.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tls;
struct worker;

/* Bytes in memory of their own: data[begin .. end). */
struct chunk {
	uint32_t begin;
	uint32_t end;
	uint32_t cap;
	uint8_t data[];
};

struct conn {
	int fd; /* -1: closed */
	short events; /* of `event`: EV_READ, EV_WRITE */
	bool eof;     /* the peer has sent its last byte */
	bool reset;   /* … or has closed with bytes unread */
	bool put_off; /* something for it is to be sent at the end of the batch of events */
	bool broken;  /* … and could not be */
	struct event event;
	struct chunk *in;
	struct chunk *out;
	struct tls *tls; /* NULL: not encrypted */
};

/* What a relay step reads from: either the worker's buffer or the connection's own. */
struct input {
	uint8_t *data;
	size_t len;
};

/* Registers an open descriptor for reading; callback(fd, what, arg) on events.  False: no memory. */
bool conn_open(struct conn *conn, struct worker *worker, int fd, event_callback_fn callback,
	       void *arg) MUST_CHECK;

/* Unregisters, frees both chunks and the TLS (see conn_take_tls()).  Returns the descriptor, now the caller's, or -1. */
int conn_detach(struct conn *conn, struct worker *worker);

/* The same, and closes the descriptor. */
void conn_close(struct conn *conn, struct worker *worker);

/* Reading and writing wanted or not; no system call when nothing changes. */
void conn_want(struct conn *conn, short events);

static inline void conn_want_read(struct conn *conn, bool on)
{
	short want = on ? (short)(conn->events | EV_READ) : (short)(conn->events & ~EV_READ);

	if (UNLIKELY(want != conn->events))
		conn_want(conn, want);
}

enum conn_io { CONN_IO_OK, CONN_IO_AGAIN, CONN_IO_EOF, CONN_IO_ERROR };

/*
 * Receives once, behind what `in` already holds.  On CONN_IO_OK *input is everything that is there
 * now, in contiguous memory, valid until the next conn_receive() of this worker.  Afterwards
 * conn_keep() must be told what was not used.  At most `limit` bytes are taken from the socket
 * (0 = as much as fits).
 */
enum conn_io conn_receive(struct conn *conn, struct worker *worker, size_t limit,
			  struct input *input) MUST_CHECK;

/* What `in` holds, without receiving; conn_keep() as above. */
struct input conn_pending(struct conn *conn, struct worker *worker);

/* Whether the present batch of events has one of this connection that has yet to be looked at.  No
 * system call. */
static inline bool conn_has_news(const struct conn *conn)
{
	return (conn->event.ev_evcallback.evcb_flags & EVLIST_ACTIVE) != 0;
}

/* Puts bytes back before what `in` holds.  False: no memory. */
bool conn_unread(struct conn *conn, const void *data, size_t len) MUST_CHECK;

/* Keeps input->data[used .. len) for the next time.  False: no memory. */
bool conn_keep_rest(struct conn *conn, const struct input *input, size_t used) MUST_CHECK;

static inline MUST_CHECK bool conn_keep(struct conn *conn, const struct input *input, size_t used)
{
	return LIKELY(conn->in == NULL && used == input->len) || conn_keep_rest(conn, input, used);
}

static inline size_t conn_kept(const struct conn *conn)
{
	return conn->in == NULL ? 0 : conn->in->end - conn->in->begin;
}

static inline size_t conn_unsent(const struct conn *conn)
{
	return conn->out == NULL ? 0 : conn->out->end - conn->out->begin;
}

/*
 * Output of a relay step.  Bytes are only pointed to, and must stay until conn_flush(); bytes that
 * do not, go through conn_send_copy().  One conn_flush() sends them all with one system call.
 */
#define OUT_VEC_MAX 64
#define OUT_SCRATCH ((size_t)32 * 1024)

struct out_vec {
	struct conn *conn; /* whom for; NULL: nothing gathered */
	int count;
	size_t bytes;
	size_t scratch_used;
	struct {
		const uint8_t *data;
		size_t len;
	} part[OUT_VEC_MAX];
	uint8_t scratch[OUT_SCRATCH];
};

/* All return CONN_IO_OK or CONN_IO_ERROR: the peer is gone (or no memory), and nothing more can be
 * sent to it. */
enum conn_io conn_send_part(struct out_vec *out, struct conn *conn, struct worker *worker,
                            const void *data, size_t len) MUST_CHECK;
enum conn_io conn_send_copy(struct out_vec *out, struct conn *conn, struct worker *worker,
			    const void *data, size_t len) MUST_CHECK;
enum conn_io conn_flush_parts(struct out_vec *out, struct worker *worker) MUST_CHECK;

static inline MUST_CHECK enum conn_io conn_send(struct out_vec *out, struct conn *conn,
                                                struct worker *worker, const void *data, size_t len)
{
	/* Behind the message before, as most are. */
	if (out->conn == conn && out->count > 0 &&
	    out->part[out->count - 1].data + out->part[out->count - 1].len == data) {
		out->part[out->count - 1].len += len;
		out->bytes += len;
		return CONN_IO_OK;
	}
	return conn_send_part(out, conn, worker, data, len);
}

static inline MUST_CHECK enum conn_io conn_flush(struct out_vec *out, struct worker *worker)
{
	return out->conn == NULL ? CONN_IO_OK : conn_flush_parts(out, worker);
}

/* The last bytes to a peer whose connection is about to be closed: sent if the kernel takes them at
 * once. */
void conn_send_last(struct conn *conn, struct worker *worker, const void *data, size_t len);

/* Whether an idle peer has said something that means its end: a look that takes nothing away. */
bool conn_seems_dead(struct conn *conn, struct worker *worker);

/* Whether a peer that has sent its last byte will not read either: of what was sent to it since, the
 * network has said that nobody is there. */
bool conn_peer_left(const struct conn *conn);

/* Forgets what was gathered for this connection, which is about to be closed. */
void conn_forget_output(struct out_vec *out, const struct conn *conn);

/* Sends what was put off, for all connections of the worker. */
void conn_send_put_off(struct worker *worker);

/* Sends what `out` holds, on EV_WRITE. */
enum conn_io conn_write_more(struct conn *conn, struct worker *worker) MUST_CHECK;

#endif
