/* SPDX-License-Identifier: PostgreSQL */
/*
 * Temporary tables and cursors of a session on their way: what the old server is asked beyond the
 * inspection, at the same safe point, and what the new one is asked beyond it.  See
 * session/temp_table.h and session/cursors.h for the questions, session_move.h for the way.
 *
 * The rows are read when the session is to be moved, and kept with its state: at most
 * session_temp_tables and session_cursors of a session, session_carry_memory of all.  They are read
 * again only if the session was active since.  Worker thread.
 */
#ifndef CORE_SESSION_CARRY_H
#define CORE_SESSION_CARRY_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "core/session_move.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session_state;

/* What its own server has to be asked next before its class is known or, `moving`, before it is
 * moved; SESSION_ASKS_NOTHING: nothing. */
enum session_question session_carry_next(const struct session_move *move, bool moving);

/* Appends the messages of a question that session_carry_next() has named; the steps. */
unsigned session_carry_build(struct session_move *move, enum session_question question,
                             struct sbuf *out);

/* Appends what the new server is asked behind the inspection, if anything; the steps, which count
 * into move->state_steps. */
unsigned session_carry_build_check(struct session_move *move, struct sbuf *out);

/* A message of an answer.  `body` NULL: one that is too long to be kept.  True: it is about cursors,
 * and nothing else. */
bool session_carry_take(struct session_move *move, uint8_t type, const uint8_t *body, size_t len);

/* Whether a message of so many bytes is kept, and so is to be there as a whole first. */
bool session_carry_takes_whole(const struct session_move *move, uint8_t type, size_t total);

/* Cursors have been moved, or may have been: SESSION_ASKS_CURSORS is to be asked again, at once. */
bool session_carry_halfway(const struct session_move *move);

/* Not fewer than the bytes of what is carried, as messages. */
size_t session_carry_bytes(const struct session_move *move);

/* The answer to a question of session_carry_build() is here.  True: the class is known again, or
 * there is more to be asked; false: the server has to forget the question first. */
bool session_carry_answer(struct session_move *move, enum session_question question) MUST_CHECK;

/* The new server's answers become part of its state, which is finished after it.  False: they are
 * not whole. */
bool session_carry_told(struct session_move *move) MUST_CHECK;

/* The rows are of no more use. */
void session_carry_drop(struct session_move *move);

/* No answer will come, or none is awaited any more. */
void session_carry_forget(struct session_move *move);

#endif
