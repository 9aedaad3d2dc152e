/* SPDX-License-Identifier: PostgreSQL */
/*
 * What pgshunt status has learned in one round, and its screen.  Internal to status*.c.
 */
#ifndef MIGRATE_STATUS_H
#define MIGRATE_STATUS_H

#include "base/sbuf.h"
#include "migrate/link.h"
#include "migrate/move.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A database on one server. */
struct status_database {
	char *dbname;
	char *sessions; /* "12 from 10.0.0.5 (app), ...", NULL = none */
	bool open;      /* connections are allowed */
	int64_t oid;    /* a copy has the same */
	bool template;
};

/* A server; its link lives as long as the command. */
struct status_server {
	const struct config_server *conf;
	struct link link;
	bool reached;
	bool recovery;
	char *system;
	struct status_database *databases;
	size_t database_count;
};

struct status {
	struct move *move;
	char *const *names; /* the shards to show, all if there are none */
	size_t name_count;
	struct status_server *servers;
	size_t server_count;
	struct link *clusters; /* of mover.plproxy */
	bool unfinished;       /* a move here has not ended */
	struct sbuf screen;
	struct sbuf alarms; /* a line each; first on the screen */
};

void status_line(struct status *status, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* What nobody may overlook. */
void status_alarm(struct status *status, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Whether the database of this name on the servers is to be shown. */
bool status_wants(const struct status *status, const char *dbname);

/* The database on the server, NULL if it is not there or not known. */
const struct status_database *status_database(const struct status_server *server,
                                              const char *dbname);

/* status_server.c: asks all servers; and shows them. */
void status_ask_servers(struct status *status);
void status_show_servers(struct status *status);
void status_forget_servers(struct status *status);

/* status_router.c: proxies and PL/Proxy. */
void status_show_routers(struct status *status);

/* status_pgbouncer.c */
void status_show_bouncers(struct status *status);

/* status_moves.c: journals, and what they say that must still be true. */
void status_show_moves(struct status *status);

#endif
