/* SPDX-License-Identifier: PostgreSQL */
/*
 * Temporary tables of a session, and temporary sequences.  What a server knows of them becomes rows
 * of the session's state, beside those of the inspection:
 *
 *     tshape   all of a definition but its expressions: compared with the new server's
 *     tdef     the commands that make it, in the order of their names, before there are rows …
 *     tend     … and behind them: indexes, constraints, comments, privileges
 *     tdata    a relation and its owner; its value, once read, is the number and hash of its rows
 *     ton      what is known of ON COMMIT, and a column by which more can be learnt
 *     tpin     what cannot be made again, and why
 *     tsize    bytes on the server's disk
 *
 * No catalog tells ON COMMIT DELETE ROWS.  A table that has pages at a safe point has it not (each
 * commit would have truncated it).  Of an empty one the server is asked in a transaction of which
 * nothing stays: a foreign key from another table, ON COMMIT DROP, makes the commit fail if the
 * table was to be truncated by it (0A000; catalog/heap.c, heap_truncate_check_FKs), and else goes
 * with that table.  The unique constraint that this needs is taken away again.  The server logs one
 * error for each table that has it.
 *
 * Everything is done in the role of the owner, for the transaction, under settings of our own: each
 * step is one implicit transaction.  No I/O; used like the inspection.
 */
#ifndef SESSION_TEMP_TABLE_H
#define SESSION_TEMP_TABLE_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>

struct copies;

enum temp_step {
	TEMP_STEP_GOOD = '+',
	TEMP_STEP_REFUSED = '0',
	TEMP_STEP_FAILED = '-',
};

/* The session has any. */
bool temp_exists(const struct session_state *state);

/* What they are has been asked, or why that was not possible noted. */
bool temp_described(const struct session_state *state);

/* ---- the old server ---- */

/* Asks what they are; the steps.  The rows are the state's (session_state_more()). */
unsigned temp_describe_add(const struct session_state *state, struct sbuf *out);

/* Asks of ON COMMIT what is not known yet: two steps a table. */
bool temp_wants_probe(const struct session_state *state);
unsigned temp_probe_add(const struct session_state *state, struct sbuf *out);
/* How a step ended, by the SQLSTATE of its error or NULL: the outcomes of all, one character each,
 * go to temp_probe_done().  False: no memory. */
char temp_probe_outcome(const char *sqlstate);
bool temp_probe_done(struct session_state *state, const char *outcomes, size_t count) MUST_CHECK;

/* Reads the rows: a step for each relation that has tdata, in the order of the state: the streams
 * of `copies`. */
unsigned temp_read_add(const struct session_state *state, struct sbuf *out);

/* The numbers and hashes of the rows into `state`, or, asked with the names of `like`, into another
 * one that is not finished.  False: no memory. */
bool temp_read_done(struct session_state *state, const struct session_state *like,
                    const struct copies *copies) MUST_CHECK;

/* Notes that they cannot be carried.  False: no memory. */
bool temp_give_up(struct session_state *state, const char *name, const char *why) MUST_CHECK;

/* What holds them where they are; nothing is appended if nothing does.  "; " between reasons. */
void temp_why(const struct session_state *state, struct sbuf *why);

long long temp_size(const struct session_state *state);

/* ---- the new server ---- */

/* Makes them, with the state's copies of their rows, which must be there: one step, without its
 * Sync. */
void temp_write_add(const struct session_state *state, struct sbuf *out);

/* It has a temporary schema, but no tables of which copies make one. */
bool temp_schema_alone(const struct session_state *state);

/* Makes that: one step, without its Sync. */
void temp_schema_add(const struct session_state *state, struct sbuf *out);

/* Asks what they are there: one step, whose rows are those of a state like this one. */
unsigned temp_shape_add(const struct session_state *like, struct sbuf *out);

#endif
