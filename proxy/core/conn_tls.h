/* SPDX-License-Identifier: PostgreSQL */
/*
 * The encrypted half of core/conn.h.  Records are decrypted from a buffer of the worker's into
 * where plain bytes would have been received, and encrypted into another one; what the kernel does
 * not take is kept in conn->out as records, so that EV_WRITE knows no difference.
 *
 * A limit of conn_receive() counts encrypted bytes here: what comes out may be more by one record.
 * Worker thread only.
 */
#ifndef CORE_CONN_TLS_H
#define CORE_CONN_TLS_H

#include "core/conn.h"
#include "net/tls.h"

/* Of a worker, made when it gets its first encrypted connection. */
struct conn_tls_io;
void conn_tls_io_free(struct conn_tls_io *io); /* NULL is allowed */

/*
 * From now on the connection is encrypted by `tls`, which it takes over in any case.  `bytes` are
 * the beginning of the handshake if it was received already.  On the client's side this sends the
 * first message.
 */
enum conn_io conn_start_tls(struct conn *conn, struct worker *worker, struct tls *tls,
                            const void *bytes, size_t len) MUST_CHECK;

/* What conn_receive() and conn_flush() do for encrypted connections. */
enum conn_io conn_tls_receive(struct conn *conn, struct worker *worker, size_t limit,
                              struct input *input) MUST_CHECK;
enum conn_io conn_tls_flush(struct out_vec *out, struct worker *worker) MUST_CHECK;

/* What conn_seems_dead() does: a record says nothing from outside, so it is decrypted, and kept for
 * when it is read. */
bool conn_tls_seems_dead(struct conn *conn, struct worker *worker);

/* Tells the peer that the connection ends, if that costs no waiting. */
void conn_tls_goodbye(struct conn *conn, struct worker *worker);

/* Of an encrypted connection whose handshake is done, "" otherwise: for views and logs. */
const char *conn_tls_text(const struct conn *conn, char out[TLS_TEXT_MAX]);

/* The TLS of a connection that goes to another thread, taken out before conn_detach(); NULL: not
 * encrypted.  There conn->tls gets it back after conn_open(). */
struct tls *conn_take_tls(struct conn *conn);

#endif
