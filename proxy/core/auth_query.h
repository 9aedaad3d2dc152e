/* SPDX-License-Identifier: PostgreSQL */
/*
 * auth_query: users that the users file does not name are asked of a server.
 *
 * The worker asks as a client of its own pools would, over a pair of connected sockets: pool, hold,
 * swap and time limits are those of every client.  It is a pool apart (pool->internal): no other
 * client has ever changed anything in its server connections, and nothing of the client that wants
 * to log in reaches them but its name, as a parameter.  Answers are cached for the process
 * (auth/cache.h).  One question for a name at a time; a bounded number of names wait.
 *
 *   client, in AUTH -> lookup (a name) -> asker (a database, role and query) -> internal client
 *
 * Worker thread.
 */
#ifndef CORE_AUTH_QUERY_H
#define CORE_AUTH_QUERY_H

#include "base/compiler.h"

#include <stdbool.h>

struct auth_user;
struct client;
struct pool;
struct worker;

enum auth_query_result {
	AUTH_QUERY_KNOWN,  /* *user is the answer (a reference), NULL: there is no such user */
	AUTH_QUERY_NOBODY, /* there is nobody to ask */
	AUTH_QUERY_WAIT,   /* login_answered() comes later */
	AUTH_QUERY_FAILED, /* the client is doomed */
};

/* Whom the users file does not name. */
enum auth_query_result auth_query_ask(struct client *client, struct auth_user **user) MUST_CHECK;

/* The client does not wait any more. */
void auth_query_leave(struct client *client);

/* The client's proof does not fit an answer that was not asked for it, which may be out of date: asks once
 * more, at most once in auth_cache_absent_age for each user.  True: login_answered() comes later. */
bool auth_query_doubt(struct client *client) MUST_CHECK;

/* The last answer about the pool's user, however old; a reference or NULL. */
struct auth_user *auth_query_last(struct pool *pool);

/* As whom the pool of questions logs in; a reference, NULL: the secret cannot be read, or no
 * memory. */
struct sbuf;
struct auth_user *auth_query_role(struct pool *pool, struct sbuf *why);

/* Every 100 ms: questions that take too long, connections that nobody needs. */
void auth_query_tick(struct worker *worker);

/* At the end of the worker. */
void auth_query_free(struct worker *worker);

#endif
