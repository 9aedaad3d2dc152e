/* SPDX-License-Identifier: PostgreSQL */
/*
 * Replication connections (PostgreSQL documentation 55.4): physical, which is of a whole server, and
 * logical, which is of a database.  Whatever the pool mode, each has a server connection of its own
 * that is opened for it, with its startup parameters, and closed with it; it counts under all limits
 * like any other.  From the login on they are linked like a session, but no hold waits for its end
 * and nothing can move it: the drain policies that end anything end it, and it connects again.
 *
 *   AUTH, in the pool's list (waits for room, or the server's login) -> ACTIVE
 *
 * Worker thread.
 */
#ifndef CORE_REPLICATION_H
#define CORE_REPLICATION_H

#include "base/clock.h"
#include "wire/startup.h"

#include <stdbool.h>

struct client;
struct database;
struct pool;
struct server;

/* The client is authenticated, and in its pool: has a server opened for it. */
void replication_enter(struct client *client);

/* Waits for its server: what it sends has to wait, too. */
bool replication_waits(const struct client *client);

/* Its server is logged in. */
void replication_begin(struct server *server);

/* Its server cannot be had, with the server's error. */
void replication_failed(struct server *server, const char *error, const char *sqlstate);

/* One of them is about to be freed. */
void replication_forget_client(struct client *client);
void replication_forget_server(struct server *server);

/* Every 100 ms: those who wait. */
void replication_tick(struct pool *pool, usec_t now);

/* The deadline of a drain has come: all that are linked are ended. */
void replication_end_all(struct database *database);

/* Word of the column replication. */
const char *replication_name(enum wire_replication replication);

#endif
