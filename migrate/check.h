/* SPDX-License-Identifier: PostgreSQL */
/*
 * The checks before a move: their table and how a check says what it found.  Internal to check*.c.
 */
#ifndef MIGRATE_CHECK_H
#define MIGRATE_CHECK_H

#include "base/compiler.h"
#include "migrate/move.h"

enum check {
#define CHECK(constant, name, title, remedy) constant,
#include "migrate/checks.def"
	CHECK_COUNT
};

enum check_result { CHECK_PASS, CHECK_WARN, CHECK_REFUSE };

struct checks {
	struct move *move;
	enum check_result results[CHECK_COUNT];
	size_t refused;
	size_t warned;
	bool broken; /* a server stopped answering: what follows cannot be checked */
};

/* A finding; several for one check are allowed. */
void check_find(struct checks *checks, enum check check, enum check_result result, const char *fmt,
                ...) PRINTF_LIKE(4, 5);

/* Runs a query of a check; false (and refused) if it fails. */
bool check_query(struct checks *checks, enum check check, struct link *link,
                 const char *sql) MUST_CHECK;

/* check_standby.c: what the two servers are to each other. */
void check_servers(struct checks *checks);
/* check_shard.c: what is in the databases that move, and the proxies. */
void check_shards(struct checks *checks);
void check_proxies(struct checks *checks);

#endif
