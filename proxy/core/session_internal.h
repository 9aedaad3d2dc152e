/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the files about one session share.  For session_*.c only.
 */
#ifndef CORE_SESSION_INTERNAL_H
#define CORE_SESSION_INTERNAL_H

#include "core/session_move.h"

#include "core/client.h"
#include "core/pool.h"
#include "core/server.h"
#include "session/inspect.h"
#include "session/locks.h"

/* Before the next attempt to open a server for a session that waits for one. */
#define SESSION_RETRY_AFTER (200 * USEC_PER_MSEC)

static inline struct database *session_database(const struct session_move *move)
{
	return move->client->pool->database;
}

static inline bool session_has_locks(const struct session_move *move)
{
	return move->state != NULL && session_state_count_kind(move->state, SESSION_LOCK) > 0;
}

/* What others could take, or miss, once they go on. */
static inline bool session_has_claims(const struct session_move *move)
{
	return session_has_locks(move) ||
	       (move->state != NULL && session_state_count_kind(move->state, SESSION_CHANNEL) > 0);
}

/* … of which it is not known yet how often each was taken. */
static inline bool session_has_uncounted(const struct session_move *move)
{
	return session_has_locks(move) && !locks_counted(move->state, NULL);
}

/* Whether its client may be waiting for what is asked next, or the mover is. */
static inline bool session_waits(const struct session_move *move)
{
	return !move->parked || move->client->state == CLIENT_WAITING ||
	       session_database(move)->held;
}

/* Whether nobody may use its old server any more. */
static inline bool session_is_sealed(const struct session_move *move)
{
	return move->old != NULL && move->old->sealed_at != 0;
}

/* Whether it can go on at its old server.  One that a RELOAD would close when it is free serves its
 * session as long as that lasts. */
static inline bool session_has_way_back(const struct session_move *move)
{
	return move->old != NULL && !session_is_sealed(move) &&
	       (!session_database(move)->swapped || gate_server_current(move->old));
}

/* For the log: who the client is. */
const char *session_name(const struct session_move *move, char text[128]);

/* Pinned, in a hold; linked, or found out when it was parked already: what the policy says. */
void session_apply_policy(struct session_move *move);

/* The main thread is to end the hold. */
void session_tell_abort(struct session_move *move);

/* ---- session_known.c: what is known of it ---- */

void session_set_class(struct session_move *move, enum session_class class, const char *what,
                       const char *why);

/* A state that has failed once to be set up elsewhere is not tried again while it is the same … */
void session_note_failure(struct session_move *move, const char *why, bool passes);

/* The class of the state that its own server has told. */
void session_classify_state(struct session_move *move);

/* ---- session_return.c: back to the server that it had ---- */

/* It is being set up there anew, and its old process has gone. */
bool session_comes_back(const struct session_move *move) MUST_CHECK;

/* It has failed for an advisory lock that a process which has been told to end may still have, its
 * own old one or what was opened for another session: once more, a little later.  False: it was
 * something else, or too often. */
bool session_return_later(struct session_move *move) MUST_CHECK;

/* It has its advisory locks and channels. */
void session_claimed(struct session_move *move);

/* What has failed there is left out, and the next step sets up the rest.  False: it must not be, or
 * nobody knows what it was. */
bool session_return_without(struct session_move *move) MUST_CHECK;

/* The new server does not take the unnamed statement: it is kept as a text, and its error is that of
 * whoever uses it, if it still is one by then.  False: no memory. */
bool session_keep_unnamed(struct session_move *move) MUST_CHECK;

/* It differs there, as `what` says.  True: in settings only, which its client will be told, and in what
 * statements return, which are refused when they are used. */
bool session_return_differs(struct session_move *move, const char *what) MUST_CHECK;

/* Behind a hold that has ended with its lease: the server was closed then, so that others waited,
 * too. False: it was not, and the session, whose locks others may have had, has ended; its policy
 * move_anyway tells the client of it instead. */
bool session_may_claim(struct session_move *move) MUST_CHECK;

/* Its client is to be told that this is missing. */
void session_forgo(struct session_move *move, const char *what, const char *why);

/* ---- session_link.c: from one server to the other ---- */

/* Makes sure of a server to move to, as far as there can be one now. */
void session_find_fresh(struct session_move *move);

/* Parked, with advisory locks or channels, which it gets at the new server only when that is
 * promoted: until then nobody else is to be let go on (hold.c). */
void session_count_rest(struct session_move *move);

/* The server that was dialled for it is there, or will never be. */
void session_dial_over(struct session_move *move);

/* It has left, and what it was to go on with at the server of a swap to come has gone: opens another. */
void session_open_again(struct session_move *move);

/* A hold begins, or one of it: what it was about to come back with is given up. */
void session_turn_round(struct session_move *move);

/* The place in the pool that was kept for it is another's. */
void session_give_place(struct session_move *move);

/* The unnamed statement that `fresh` has been given (a new reference is kept), or NULL. */
void session_note_unnamed(struct session_move *move, struct stmt *unnamed);

/* Whether that is the one that the client has. */
bool session_has_unnamed(struct session_move *move) MUST_CHECK;

/* The client goes on at the new server. */
void session_arrive(struct session_move *move);

#endif
