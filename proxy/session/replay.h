/* SPDX-License-Identifier: PostgreSQL */
/*
 * The messages that make a new server connection what an old session is.  No I/O.
 *
 * On the standby, before anything is held: settings (but those that a standby refuses, or that
 * would work against what follows: replay.c), custom settings, role, prepared statements.  After
 * promotion: advisory locks, LISTEN, the settings left out, client_encoding.  Where nothing else of
 * the session has to wait for the promotion, all but LISTEN is done on the standby:
 * replay_is_early().  Last comes the client's unnamed statement, which may be another one after
 * each of its transactions.
 *
 * The connection must have been opened as the old one was: same user, database, startup parameters.
 * Each step ends in a Sync; any ErrorResponse means that the session cannot be carried, and
 * replay_step() of the number of ReadyForQuery messages seen before it says what could not.
 */
#ifndef SESSION_REPLAY_H
#define SESSION_REPLAY_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>

struct stmt;

/* More than this is not carried. */
#define SESSION_REPLAY_MAX ((size_t)32 * 1024 * 1024)

struct replay {
	struct sbuf out;    /* to be sent as it is */
	unsigned int steps; /* ReadyForQuery messages that answer it; 0: nothing to be sent */
	struct sbuf labels; /* texts, each with its zero */
	bool apart;         /* each setting is a step of its own */
};

/* replay_step() of such ones begins with these words; a name in quotes follows. */
#define REPLAY_STATEMENT "prepared statement"
#define REPLAY_LOCK "advisory lock"
#define REPLAY_UNNAMED "unnamed prepared statement"
#define REPLAY_SETTING "setting"
#define REPLAY_SETTINGS "settings"

/* Whether a standby can be given all of this state but channels and the unnamed statement. */
bool replay_is_early(const struct session_state *old);

/* `unnamed`: the client's unnamed statement, or NULL; used after promotion.  `apart`: so that an
 * error says which setting was refused.  False: no memory, or too much.  The replay is to be freed
 * in either case. */
bool replay_build(const struct session_state *old, const struct stmt *unnamed,
                  enum replay_stage stage, bool apart, struct replay *replay) MUST_CHECK;

/* The types that a Parse message has behind its text, from "{23,25}", into an empty buffer; false:
 * it is none. */
bool replay_types(const char *text, struct sbuf *types) MUST_CHECK;

/* Appends messages by which the old server parses what PREPARE has prepared once more, as the new one will,
 * and tells its parameters' types, unless all are declared, or the text cannot be read; one step. */
void replay_try_types(const struct session_row *row, const char *encoding, struct sbuf *out);

/* Appends messages by which the old server parses each prepared statement once more, as the new one
 * will; the steps.  An error means that this one cannot be carried. */
unsigned replay_try_add(const struct session_state *old, struct sbuf *out);

/* The same for the unnamed statement, which no server tells, by one step: it leaves nothing behind,
 * not even if it fails, and waits for no lock. */
void replay_try_unnamed(const struct stmt *unnamed, struct sbuf *out);

/* Whether such an error says nothing about the statement: it may be tried again. */
bool replay_try_again(const char *sqlstate);

/* Whether it is the error of a standby that has not replayed yet what the statement, setting or role is
 * about, or may be. */
bool replay_may_come(const char *sqlstate);

void replay_free(struct replay *replay);

/* What step number `i`, from 0, does: "prepared statement \"p1\"".  For messages to people. */
const char *replay_step(const struct replay *replay, unsigned int i);

#endif
