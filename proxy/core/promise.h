/* SPDX-License-Identifier: PostgreSQL */
/*
 * Session pooling: a client is told the process id of its server process at its login, when it has
 * none yet (BackendKeyData, PostgreSQL documentation 55.2.1).  So the login takes an idle server, or
 * opens one where the limits allow it now, and *promises* it to the client: its first request gets
 * that one.
 *
 * Until then it is idle like any other, and what happens to those happens to it: server_idle_timeout,
 * RECONNECT, a hold, another pool that needs the room; but not server_lifetime, for with a short one
 * the id would be wrong as a rule.  Whoever else needs a server gets it if there
 * is no other and the pool may open none, or none comes within PROMISE_FIRM.  Then the client's
 * first request gets another server, and the id it was told is nobody's, or somebody else's.
 *
 * No login waits where the pool is full, held or cannot reach its server, nor for longer than
 * PROMISE_WAIT: the client is told the proxy's own number, as in transaction pooling.
 *
 * The key is the proxy's own in any case: core/told.h finds clients by these ids.  Worker thread.
 */
#ifndef CORE_PROMISE_H
#define CORE_PROMISE_H

#include "core/client.h"
#include "core/pool.h"
#include "core/server.h"
#include "core/session_see.h"

/* The login need not wait for a server to be promised.  Promises one if that is possible. */
bool promise_is_settled(struct client *client) MUST_CHECK;

/* That server, or NULL. */
static inline struct server *promise_of(const struct client *client)
{
	return LIKELY(client->seen == NULL) ? NULL : client->seen->promised;
}

/* The id that the client is told at its login: that of `server`, or without one (NULL) the proxy's
 * own. */
uint32_t promise_pid(struct client *client, const struct server *server);

/* The id that it was told. */
uint32_t promise_told(const struct client *client);

/* Whether the server may be given to the client, or to somebody else who waits since `since`. */
bool promise_yields(const struct pool *pool, const struct server *server,
                    const struct client *client, usec_t since);

/* The client has got a server, or either side goes away. */
void promise_forget_client(struct client *client);
void promise_forget_server(struct server *server);

#endif
