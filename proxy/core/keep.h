/* SPDX-License-Identifier: PostgreSQL */
/*
 * The drain policy `keep`: a client that is idle in a transaction at the drain deadline loses its
 * server and the transaction, but not its connection.  From then on it is where PostgreSQL has it
 * after an error in a transaction block: every statement is answered 25P02, until it ends the
 * block.
 *
 *   ACTIVE, idle in transaction --keep_client()--> IDLE, failed
 *   failed, database held: what can be answered for certain is answered here, the rest waits
 *   failed, database open: it is given a server on which a block has failed (keep_fail_block());
 * from there on that server answers, and nothing of it is our business any more
 *
 * A statement that runs at the deadline is cancelled; its client is kept when it has been answered.
 * Transaction pools only: nothing can stand in for what a session has.  Worker thread.
 */
#ifndef CORE_KEEP_H
#define CORE_KEEP_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct database;
struct server;

/* The deadline has come. */
void keep_blockers(struct database *database);

/* While the database is kept: if the client is now such that it can be, takes its server away.
 * False: nothing has changed. */
bool keep_client(struct client *client) MUST_CHECK;

/* What the next message of a client that has failed, on a held database, is answered. */
enum keep_answer {
	KEEP_WAIT,   /* not to be told from here: it waits for a server as other requests do */
	KEEP_MORE,   /* more of the message is needed */
	KEEP_REFUSE, /* 25P02 */
	KEEP_END, /* a Query that only ends the block: the tag ROLLBACK, and the client is idle */
};
enum keep_answer keep_judge(const struct client *client, const uint8_t *msg, size_t total,
                            size_t have) MUST_CHECK;

extern const char keep_refusal[]; /* the message of 25P02 */

/* Begins a block on the server and lets it fail; the answer comes to pool_sync_done().  False: the
 * server was doomed. */
bool keep_fail_block(struct server *server) MUST_CHECK;

#endif
