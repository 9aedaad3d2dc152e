/* SPDX-License-Identifier: PostgreSQL */
/*
 * Server connections put out of use in a hold.  The fence must know that nobody can write through a
 * connection of the proxy's any more; that its server process has ended shows it, but takes the
 * host milliseconds for each, while clients wait.  A sealed connection shows it as well: it has no
 * client, no pool and no buffers, nothing in this process can send on it until it is closed when
 * the hold is over.  Till then its server process sits idle, and who looks at pg_stat_activity
 * finds it there by its process id and by the address and port that its connection comes from.
 *
 * That of a session that listens stays with it, parked and for good: what comes on it is still told
 * its client, so that no notification is lost that was sent before the last sender had left; but
 * nothing is sent on it any more.
 *
 * Temporary tables stay until the server process ends, which drops them where it is.  To drop them
 * in the hold is what costs: each tells every other process there, and then on the standby, what to
 * forget of its catalog caches, hundreds of processes hundreds of times, which clients waited for.
 * That the new server is promoted with their definitions is of no harm (migrate/leftover.h). Worker
 * thread.
 */
#ifndef CORE_SEAL_H
#define CORE_SEAL_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/list.h"
#include "core/conn.h"
#include "net/sock.h"

#include <stdbool.h>
#include <stdint.h>

struct database;
struct server;
struct worker;

struct sealed {
	struct list_node node; /* database->sealed */
	struct conn conn;      /* its descriptor and TLS state, nothing else */
	int32_t pid;           /* of the server process */
	uint64_t epoch;        /* of the hold */
	usec_t since;
	struct sock_name local; /* our side of it */
};

/* Seals what is idle of a database that is held with this epoch: servers of its pools, and those of
 * parked sessions that are not needed any more. */
void seal_database(struct worker *worker, const char *name, uint64_t epoch);

/* Seals one.  False: it is not quiet, or could not be recognized at the server; it stays as it is.
 */
bool seal_server(struct server *server) MUST_CHECK;

/* … but keeps it where it is, to hear what it has to tell (server->sealed_at). */
bool seal_keep(struct server *server) MUST_CHECK;

/* Nothing has come on it that is not read yet. */
bool seal_is_silent(const struct server *server) MUST_CHECK;

/* The hold is over: the connections are closed, a few at a tick if the database was swapped, since
 * each takes its server milliseconds, and other databases are there; at once if its clients need
 * the places. */
void seal_tick(struct database *database);
void seal_release(struct database *database);

/* Closes all. */
void seal_free(struct database *database);

#endif
