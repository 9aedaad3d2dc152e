/* SPDX-License-Identifier: PostgreSQL */
/*
 * Notifications of a session that goes from one connection to another of the same server: for a
 * while both listen, and each notification is to reach the client once.
 *
 * A server tells all who listen the same notifications in the same order (commands/async.c: their
 * commits are serialized), each from its LISTEN on.  So both listen to one channel more, which
 * nobody else knows, and the new one notifies it when it has all the client's channels:
 *
 *   old    a b c [mark] d e        the client gets  a b c  from the old connection as they come,
 *   fresh    b c [mark] d e        and  d e  from the new one
 *
 * Where the old connection has answered without having seen the mark they are not of one server:
 * then all is told that comes.  Worker thread.
 */
#ifndef CORE_SESSION_NOTES_H
#define CORE_SESSION_NOTES_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct server;
struct session_move;

/* Before `fresh` listens.  True: the old connection listens to the mark, or there is no need. */
bool session_notes_begin(struct session_move *move) MUST_CHECK;

/* Before the client goes on at `fresh`.  True: both have seen the mark, or will not. */
bool session_notes_meet(struct session_move *move) MUST_CHECK;

/* What is asked for that. */
unsigned session_notes_ask_listen(const struct session_move *move, struct sbuf *out);
unsigned session_notes_ask_mark(const struct session_move *move, struct sbuf *out);
unsigned session_notes_ask_forget(const struct session_move *move, struct sbuf *out);

/* The answers, and that of the old connection which comes behind the mark. */
void session_notes_listens(struct session_move *move, bool good);
void session_notes_marked(struct session_move *move, bool good);
void session_notes_passed(struct session_move *move);

/* A notification of one of the two, whole.  True: it is not for the client, or not yet. */
bool session_notes_take(struct server *server, const uint8_t *msg, size_t total) MUST_CHECK;

/* The client goes on at `fresh`, or at the old one after all, and is linked with it; `fresh` has
 * gone (nothing is sent); the session ends. */
void session_notes_arrive(struct session_move *move);
void session_notes_stay(struct session_move *move);
void session_notes_lost_fresh(struct session_move *move);
void session_notes_free(struct session_move *move);

#endif
