/* SPDX-License-Identifier: PostgreSQL */
/*
 * Rows of a session on their way from its old server to a new one: several streams of COPY data, or
 * of DataRow messages, each with its number of rows and its SHA-256.  The same streams read back from the new server,
 * only counted and hashed, tell whether it has the same.  No I/O; one thread, but for the total.
 */
#ifndef SESSION_COPIES_H
#define SESSION_COPIES_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct copies; /* opaque */

struct copies_bound {
	size_t most;         /* bytes that these may have */
	atomic_size_t *used; /* bytes that all of the process have; NULL: not counted */
	size_t most_used;
};

/* `count` streams.  NULL bound: nothing is kept.  NULL on no memory. */
struct copies *copies_new(size_t count, const struct copies_bound *bound) MUST_CHECK;
void copies_free(struct copies *copies); /* NULL is allowed */

size_t copies_count(const struct copies *copies);
size_t copies_bytes(const struct copies *copies);

/* A message of the answer to the i-th COPY … TO STDOUT, or the i-th cursor's rows: its type and
 * body.  Others than those of the data are ignored. */
void copies_take(struct copies *copies, size_t i, uint8_t type, const void *body, size_t len);

/* A message that is too long to be taken has come. */
void copies_too_long(struct copies *copies);

/* So many of the i-th are there.  Of COPY it is known at its end. */
uint64_t copies_rows(const struct copies *copies, size_t i);

/* Why these are of no use: more than they may be; NULL: they are whole. */
const char *copies_failure(const struct copies *copies);

/* "rows SHA-256" of the i-th; false: no memory. */
bool copies_digest(const struct copies *copies, size_t i, struct sbuf *out) MUST_CHECK;

/* The kept bytes. */
const char *copies_data(const struct copies *copies, size_t i, size_t *len);

/* Not fewer than the bytes of all messages of copies_add(); NULL: 0. */
size_t copies_messages(const struct copies *copies);

/* Appends them as the messages that a COPY … FROM STDIN waits for. */
void copies_add(const struct copies *copies, size_t i, struct sbuf *out);

#endif
