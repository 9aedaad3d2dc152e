/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the prepared statements of a session return.  When a table has been changed since one was
 * prepared, its server refuses it ("cached plan must not change result type"), because the client
 * counts on the columns that it was told.  Prepared anew it would return others, and nobody would
 * say so.
 *
 *     old server   shapes_ask(), and for each answer shapes_take(); of those that are refused there
 *                  is a row SESSION_CHANGED: where they are set up anew nobody is to use them.
 *                  More may be wanted after an error.
 *     new server   shapes_check_add(), and for each answer shapes_check()
 *
 * The columns' types count, not their names, which are in the client's encoding; the old server has
 * compared these, too.  Of PREPARE also the parameters' types are asked, as far as its text does not name them:
 * they come of what the statement is about.  Used like the inspection; no I/O, one thread.
 */
#ifndef SESSION_SHAPES_H
#define SESSION_SHAPES_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The extra of a row SESSION_CHANGED that PREPARE has made: EXECUTE is a text, in which nobody
 * looks for it. */
#define SHAPES_BY_SQL "sql"
/* … or of which the parameters would have other types. */
#define SHAPES_TYPES "types"

/* There are statements of which it is not known. */
bool shapes_wanted(const struct session_state *state);

/* Appends the question; its steps. */
unsigned shapes_ask(const struct session_state *state, struct sbuf *out);

/* RowDescription, NoData or ErrorResponse of the answer; of the last `sqlstate` says which.  False:
 * no memory, or not understood. */
bool shapes_take(struct session_state *state, uint8_t type, const void *body, size_t len,
                 const char *sqlstate) MUST_CHECK;

/* ParameterDescription of the answer's step number `step`.  False as above. */
bool shapes_take_types(struct session_state *state, unsigned step, const void *body,
                       size_t len) MUST_CHECK;

/* The body of a ParameterDescription as "{23,25}", appended.  False as above. */
bool shapes_types_text(const uint8_t *body, size_t len, struct sbuf *text) MUST_CHECK;

/* Appends the question about those of `like` of which it is known, without a Sync. */
void shapes_check_add(const struct session_state *like, struct sbuf *out);

/* RowDescription or NoData of the answer; *at is 0 before the first.  `now` is not finished. */
bool shapes_check(const struct session_state *like, struct session_state *now, size_t *at,
                  uint8_t type, const void *body, size_t len) MUST_CHECK;

/* A row SESSION_CHANGED of a statement of the protocol. */
bool shapes_is_refused(const struct session_row *row);

bool shapes_is_ascii(const char *text);

/* It is known to return no rows. */
bool shapes_is_bare(const struct session_row *row);

/* The same statement, but that it returns other columns. */
bool shapes_differ(const struct session_row *a, const struct session_row *b);

/* … and the i-th row is to return those of the other. */
bool shapes_adopt(struct session_state *state, size_t i, const struct session_row *now) MUST_CHECK;

#endif
