/* SPDX-License-Identifier: PostgreSQL */
/*
 * Session-level advisory locks.  A server shows that a session has one, not how often it has taken
 * it.  The only way to learn that is to give it back until it is gone; locks_count_add() does so,
 * and takes it again as often, while a lock of the same key that belongs to the transaction keeps
 * everybody else out: nobody can have it in between, and afterwards the session is as before.  The
 * server logs one warning a lock ("you don't own a lock of type …"), at the last attempt.
 *
 * No I/O; used like the inspection: the state takes the rows.
 */
#ifndef SESSION_LOCKS_H
#define SESSION_LOCKS_H

#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stdint.h>

/* More locks than this in one session are not counted. */
#define SESSION_LOCKS_MAX 256

/* To its own server, if its state, finished, has locks, at its safe point: one ReadyForQuery.
 * Nothing is appended if it has none.  After an error: session_inspect_cleanup(). */
void locks_count_add(const struct session_state *state, struct sbuf *out);

/* The body of a DataRow of the answer.  False: not a row of ours. */
bool locks_count_row(struct session_state *state, const void *body, size_t len) MUST_CHECK;

/* Every lock's count is known.  If not, `why` (may be NULL) says of which. */
bool locks_counted(const struct session_state *state, struct sbuf *why);

/* A number that is another if a lock, or how often it was taken, is. */
uint64_t locks_print(const struct session_state *state);

/* Whether an answer with this error says that nothing was done: such a session still has all its
 * locks.  After any other error it may not. */
bool locks_refused(const char *sqlstate);

/* The SQL that takes the lock of a row as often as it was counted, or fails (division by zero).
 * False: not counted, or no lock. */
bool locks_take_sql(const struct session_row *row, struct sbuf *sql) MUST_CHECK;

/* The same by function calls, which cost the server a third: one ReadyForQuery each.  False: there
 * would be too many, or one is not counted. */
bool locks_callable(const struct session_state *state) MUST_CHECK;
/* Those of a row; how many. */
unsigned locks_call_add(const struct session_row *row, struct sbuf *out);
/* The body of a FunctionCallResponse says that another session has the lock. */
bool locks_call_failed(const void *body, size_t len);

/* Gives back all that there are: one ReadyForQuery. */
void locks_free_add(struct sbuf *out);

#endif
