/* SPDX-License-Identifier: PostgreSQL */
/* Between the files that ask and replay.  For nobody else. */
#ifndef SESSION_INSPECT_INTERNAL_H
#define SESSION_INSPECT_INTERNAL_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>

/* One statement of SQL without parameters, by a named statement of ours that is closed again: the
 * unnamed one is the client's.  No Sync. */
void session_add_run(struct sbuf *out, const char *sql);

/* Before what may take its time: transaction_timeout, which PostgreSQL has from 17 on, would end
 * the session.  It is as before after the Sync.  No row comes of it. */
#define SESSION_UNLIMITED                                                                          \
	"CASE WHEN NOT pg_catalog.current_setting('transaction_timeout', true)"                    \
	" OPERATOR(pg_catalog.=) '0'"                                                              \
	" THEN pg_catalog.set_config('transaction_timeout', '0', true) END"
void session_add_unlimited(struct sbuf *out);

/* Before texts that are in this encoding, the server's.  It is as before after the Sync. */
void session_add_encoding(struct sbuf *out, const char *encoding);

/* session_add_run() in two halves: what a COPY … FROM STDIN reads goes in between. */
void session_begin_run(struct sbuf *out, const char *sql);
void session_end_run(struct sbuf *out);

/* Parses a statement by our name, and forgets it again.  No Sync. */
void session_add_parse(struct sbuf *out, const char *sql, const void *types, size_t types_len);

/* … in between it is described. */
void session_add_described(struct sbuf *out, const char *sql, const void *types, size_t types_len);

/* Gives the i-th row another extra. */
bool session_state_set_extra(struct session_state *state, size_t i, const char *text,
                             size_t len) MUST_CHECK;

bool session_state_set_value(struct session_state *state, size_t i, const char *text) MUST_CHECK;

/* Of one that is not finished: its rows are in order, as long as none is added … */
void session_state_sort(struct session_state *state);
/* … and one can be found among thousands. */
const struct session_row *session_state_find_sorted(const struct session_state *state,
                                                    enum session_kind kind, const char *name);

/* shapes.c has asked about the rows before this one. */
size_t session_state_described(const struct session_state *state);
void session_state_set_described(struct session_state *state, size_t i);

/* Adds a copy of a row. */
bool session_state_put(struct session_state *state, const struct session_row *row) MUST_CHECK;

/* … in place of all of that kind and name. */
bool session_state_replace(struct session_state *state, const struct session_row *row) MUST_CHECK;

#endif
