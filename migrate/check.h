/* SPDX-License-Identifier: PostgreSQL */
/*
 * The checks before a move: their table and how a check says what it found.  Internal to check*.c.
 *
 * Every check says at least once what it found, also when it is that all is well.  One that has
 * said nothing was not made, and then the move is refused: a check that cannot be made never counts
 * as passed.
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

struct finding {
	enum check check;
	enum check_result result;
	char *text;
};

struct checks {
	struct move *move;
	struct finding *findings;
	size_t finding_count;
	enum check_result results[CHECK_COUNT]; /* the worst */
	bool made[CHECK_COUNT];                 /* it has said something */
	bool unmade[CHECK_COUNT];               /* not made, because of what else is refused */
	size_t unmade_count;
	size_t refused;
	size_t warned;
	bool broken; /* a server stopped answering: what follows cannot be checked */
};

/* A finding; several for one check are allowed. */
void check_find(struct checks *checks, enum check check, enum check_result result, const char *fmt,
                ...) PRINTF_LIKE(4, 5);

/* What there is to say when nothing was found against it; nothing if something was. */
void check_pass(struct checks *checks, enum check check, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Runs a query of a check; false (and refused) if it fails. */
bool check_query(struct checks *checks, enum check check, struct link *link,
                 const char *sql) MUST_CHECK;

/* Whether the mover reaches the server on its own machine. */
bool check_is_local(const struct server *server) MUST_CHECK;

/* check_standby.c: what the two servers are to each other. */
void check_servers(struct checks *checks);
/* check_synchronous.c: whose commits would wait for ever; the target's slot, "" = it has none. */
void check_synchronous(struct checks *checks, const char *slot);
/* check_settings.c: what they are built and set like. */
void check_settings(struct checks *checks);
/* check_wal.c: slots, other standbys, sessions on the target. */
void check_wal(struct checks *checks);
/* check_archive.c: the WAL archive. */
void check_archive(struct checks *checks);
/* check_disk.c: room on both machines. */
void check_disk(struct checks *checks);
/* check_shard.c: what is in the databases that move. */
void check_shards(struct checks *checks);
/* check_databases.c: the databases that do not move.  First by their rows, which the last results
 * of both links are, then by what is in them. */
void check_other_databases(struct checks *checks);
void check_others_inside(struct checks *checks);
/* check_inside.c: what only sessions in them can see. */
void check_inside(struct checks *checks);
/* check_proxy.c: the proxies. */
void check_proxies(struct checks *checks);
/* check_access.c: who will be let in on the target. */
void check_access(struct checks *checks);
/* check_bypass.c: sessions that no router holds. */
void check_bypass(struct checks *checks);

#endif
