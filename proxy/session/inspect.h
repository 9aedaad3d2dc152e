/* SPDX-License-Identifier: PostgreSQL */
/*
 * A session as its server describes it: the question, and the answer as rows.  No I/O: whoever owns
 * the connection sends the messages and hands in the rows.  One thread.
 *
 * The question is one named statement of the extended protocol (a simple Query would end the
 * client's unnamed statement), ASCII, schema-qualified to the last operator: no search_path, role,
 * encoding or output setting changes what it means.  Its answer is ASCII too (texts in hexadecimal,
 * in the server's encoding).
 *
 *     session_inspect_add(&out, &ask)      send; one ReadyForQuery follows
 *     DataRow                              session_state_row(state, body, len)
 *     ErrorResponse                        the session cannot be judged; also: clean up, see below
 *     ReadyForQuery                        session_state_finish(state)
 */
#ifndef SESSION_INSPECT_H
#define SESSION_INSPECT_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/facts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of statements that the proxy prepares for itself in a session. */
#define SESSION_OWN_PREFIX "pgshunt%"
#define SESSION_INSPECT_MAX ((size_t)256 * 1024)

/* When something is done on the new server. */
enum replay_stage {
	REPLAY_ON_STANDBY,      /* while it still is a standby */
	REPLAY_AFTER_PROMOTION, /* once it accepts writes … */
	REPLAY_NEVER,           /* (only of kinds: nothing is done) */
	REPLAY_CLAIMS, /* (not of kinds) … or then in two parts: advisory locks and channels … */
	REPLAY_CHANNELS,     /* (not of kinds) … or channels alone, if it has the locks … */
	REPLAY_AFTER_CLAIMS, /* (not of kinds) … and what is left */
	REPLAY_AHEAD,        /* (not of kinds) on the standby, with advisory locks */
};

enum session_kind {
#define SESSION_KIND(constant, word, stage) constant,
#include "session/session_kinds.def"
#undef SESSION_KIND
	SESSION_KIND_COUNT
};

struct session_row {
	enum session_kind kind;
	const char *name;  /* never NULL */
	const char *value; /* NULL: SQL NULL */
	const char *extra; /* NULL: SQL NULL */
};

struct copies;
struct session_state; /* opaque */

/* ---- asking ---- */

struct session_ask {
	const struct session_facts *facts; /* NULL: nothing seen */
	const char *custom; /* configured names of custom settings, separated by commas; or NULL */
	const struct session_state
	    *like;    /* what the old server said: ask for the same names; or NULL */
	bool shapes;  /* `like` has statements, whose columns are asked for behind it: shapes_check() */
	bool neutral; /* without the session's role and statement_timeout (see
	                 session_state_again()) */
};

/* Appends Close, Parse, Bind, Execute, Close, Sync: one ReadyForQuery, no row description.  Check
 * sbuf_ok(): SESSION_INSPECT_MAX bytes suffice. */
void session_inspect_add(struct sbuf *out, const struct session_ask *ask);

/* What to send when it failed: takes our statement out of the session.  One ReadyForQuery. */
void session_inspect_cleanup(struct sbuf *out);

/* One command by itself that returns nothing.  One ReadyForQuery; after an error that cleanup is
 * due. */
void session_inspect_run(struct sbuf *out, const char *sql);

/* The error is one that another question with `neutral` may not meet: statement_timeout. */
bool session_inspect_retry(const char *sqlstate);

/* ---- the answer ---- */

/* NULL on no memory. */
struct session_state *session_state_new(void) MUST_CHECK;
void session_state_free(struct session_state *state); /* NULL is allowed */

/* The body of a DataRow.  False: not a row of ours, too much, or no memory; the state is of no use
 * then (session_state_finish() says the same). */
bool session_state_row(struct session_state *state, const void *body, size_t len) MUST_CHECK;

/* All rows are there.  False: the answer is not complete. */
bool session_state_finish(struct session_state *state) MUST_CHECK;

/* More rows of a finished state come: those of another question to the same server.  To be finished
 * again. */
void session_state_more(struct session_state *state);

/* Some of it was hidden from the session's role: ask once more, neutral, into a new state. */
bool session_state_again(const struct session_state *state);

/* ---- reading a finished state ---- */

size_t session_state_count(const struct session_state *state);
/* Takes a row out: the session is to be set up without it. */
void session_state_remove(struct session_state *state, const struct session_row *row);
const struct session_row *session_state_at(const struct session_state *state, size_t i);
size_t session_state_count_kind(const struct session_state *state, enum session_kind kind);
/* Something that lives in its server alone, in words: locks, channels, cursors or temporary
 * objects; NULL: there is nothing of that. */
const char *session_state_bound(const struct session_state *state);

/* The row of that kind and name, or NULL. */
const struct session_row *session_state_find(const struct session_state *state,
                                             enum session_kind kind, const char *name);

/* What the server's session says of "server_encoding", "login" …; "" if it is not known. */
const char *session_state_info(const struct session_state *state, const char *name);

/* The rows of its temporary tables, which the state frees; NULL: not read. */
void session_state_set_copies(struct session_state *state, struct copies *copies);
const struct copies *session_state_copies(const struct session_state *state);

/* … and of its cursors. */
void session_state_set_cursors(struct session_state *state, struct copies *copies);
const struct copies *session_state_cursors(const struct session_state *state);

/* Not fewer than the bytes of all messages that make them anew. */
size_t session_state_carried(const struct session_state *state);

/* SHA-256 of all that the session is, in canonical form: equal for equal sessions, whatever the
 * server or process. */
void session_state_digest(const struct session_state *state, char hex[65]);

/* Whether the new server's session is what the old one's was, as far as it can be at that stage
 * (after promotion: the digests are equal).  If not, `why` names the first difference; it may be
 * NULL. */
bool session_state_same(const struct session_state *old, const struct session_state *now,
                        enum replay_stage stage, struct sbuf *why);

/* Whether nothing is missing on the new server but channels (and, with `locks`, advisory locks, of
 * which it may have others, too): what it is given only when others are to go on. */
bool session_state_same_but_claims(const struct session_state *old, const struct session_state *now,
                                   bool locks) MUST_CHECK;

/* Whether nothing but settings differs. */
bool session_state_same_but_settings(const struct session_state *old,
                                     const struct session_state *now) MUST_CHECK;

/* The stage after which old and new server must agree on a row.  Some settings come late. */
enum replay_stage session_row_stage(const struct session_row *row);

/* When prepared statements are set up. */
enum replay_stage session_statement_stage(const struct session_state *state);

/* A setting that is left alone on the new server until everything else is done. */
bool session_setting_late(const char *name);

#endif
