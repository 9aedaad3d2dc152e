/* SPDX-License-Identifier: PostgreSQL */
/*
 * Cursors WITH HOLD, the only ones that outlive a transaction.  The server has their rows already
 * (PersistHoldablePortal()); what becomes of them is rows of the session's state:
 *
 *     crows    columns, number and hash of the rows, and where it stands: compared with the new one
 *     cmake    the command that makes it again of its rows, and the one that moves it there
 *     cpin     what cannot be made again, and why
 *
 * Nothing tells where a cursor stands but moving it.  One with SCROLL is moved to its beginning,
 * which tells, read from there, and moved back: never by more rows than can be carried, by relative
 * counts if there are more.  Then it is made again from its rows under another name on its own
 * server, to compare, and closed.  One without SCROLL moves forward only: where it stands, which
 * FETCH ABSOLUTE shows, no server tells, and what is read of it is gone.  It is not touched.
 *
 * A command that fails ends the cursor that it was for (MarkPortalFailed()): none of ours may.  So
 * rows are read by Execute messages for the cursor's own portal, which need no room on the server's
 * disk as FETCH does, in the encoding of the server.  Moves are no part of a transaction: until
 * cursors_ask() has nothing more to ask, nobody else may use the server.
 *
 * Used like the inspection; no I/O, one thread.
 */
#ifndef SESSION_CURSORS_H
#define SESSION_CURSORS_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/copies.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursors; /* opaque: those that are being read */

/* The session has any that can be read. */
bool cursors_exist(const struct session_state *state);

/* A cursor's row: it can only be read forward. */
bool cursor_is_forward(const struct session_row *row);

/* What holds them where they are, but that they cannot be read backward; "; " between reasons. */
void cursors_why(const struct session_state *state, struct sbuf *why);

/* ---- reading: the old server ---- */

/* `keep`: the rows, not only their number and hash.  NULL on no memory. */
struct cursors *cursors_new(const struct session_state *state, const struct copies_bound *bound,
                            bool keep) MUST_CHECK;
void cursors_free(struct cursors *cursors); /* NULL is allowed */

/* Not fewer than the bytes of the longest question. */
size_t cursors_bytes(const struct cursors *cursors);

/* There is more to be asked. */
bool cursors_more(const struct cursors *cursors);

/* Appends the next question; the steps. */
unsigned cursors_ask(struct cursors *cursors, const struct session_state *state, struct sbuf *out);

/* A message of the answer to a step.  `body` NULL: rows that are too long to be kept. */
void cursors_take(struct cursors *cursors, size_t step, uint8_t type, const void *body, size_t len);

/* Whether all commands succeeded. */
bool cursors_clean(const struct cursors *cursors);

/* All that was learnt, and the rows, into the state, which is finished.  False: no memory. */
bool cursors_read_done(struct cursors *cursors, struct session_state *state) MUST_CHECK;

/* ---- the new server ---- */

/* Makes the cursor of this name, with the state's rows, and moves it to its place: one step,
 * without its Sync.  False: it was not read, or cannot be made. */
bool cursor_make_add(const struct session_state *state, const char *name,
                     struct sbuf *out) MUST_CHECK;

/* Appends the question what those of a state are there, one step each, to be answered by the same
 * messages (cursors_take()). */
unsigned cursors_check_add(struct cursors *cursors, const struct session_state *like,
                           struct sbuf *out);

/* What it came to, into a state that is not finished.  False: not all were read, or no memory. */
bool cursors_check_done(struct cursors *cursors, struct session_state *state) MUST_CHECK;

#endif
