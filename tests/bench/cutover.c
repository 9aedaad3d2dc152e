/* SPDX-License-Identifier: PostgreSQL */
/*
 * The same cutover as a move, by hand, over connections that are open before it begins: what
 * pgshunt is measured against.
 *
 *   pgshunt_cutover limit     DATABASE ADMIN1 ADMIN2 CLIENT1 CLIENT2
 *     a client without any proxy: commits on CLIENT1, then fence, barrier, promotion, and the first
 *     commit that CLIENT2 (opened on the standby) is granted.  No proxy can be faster.
 *   pgshunt_cutover pgbouncer DATABASE ADMIN1 ADMIN2 CONSOLE INI MOVED_INI
 *     PAUSE, fence, terminate, barrier, promotion, opening, RELOAD with MOVED_INI, RESUME.
 *
 * Prints the duration of every step in milliseconds as one line of JSON.
 */
#include "base/clock.h"
#include "base/compiler.h"
#include "base/mem.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_EVERY_USEC 500
#define GIVE_UP (60 * USEC_PER_SEC)

struct cutover {
	const char *database;
	PGconn *admin1; /* superuser on pg1, another database */
	PGconn *admin2; /* the same on pg2 */
	usec_t last;
	bool first;
};

static NORETURN void give_up(const char *what, const char *why)
{
	fprintf(stderr, "pgshunt_cutover: %s: %s\n", what, why);
	exit(1);
}

static PGconn *connect_to(const char *conninfo)
{
	PGconn *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		give_up("connect", PQerrorMessage(conn));
	return conn;
}

/* The first value of the answer, or "" for none; valid until the next call. */
static const char *ask(PGconn *conn, const char *sql)
{
	static char answer[256];
	PGresult *result = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		give_up(sql, PQerrorMessage(conn));
	snprintf(answer, sizeof(answer), "%s",
	         PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "");
	PQclear(result);
	return answer;
}

static void step_done(struct cutover *cutover, const char *name)
{
	usec_t now = clock_now();

	printf("%s\"%s\": %.2f", cutover->first ? "{" : ", ", name,
	       (double)(now - cutover->last) / USEC_PER_MSEC);
	cutover->first = false;
	cutover->last = now;
}

static void fence(struct cutover *cutover)
{
	char *alter =
	    mem_must_printf("ALTER DATABASE %s ALLOW_CONNECTIONS false", cutover->database);
	char *end = mem_must_printf("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
	                            "WHERE datname = '%s'",
	                            cutover->database);

	(void)ask(cutover->admin1, alter);
	step_done(cutover, "fence");
	while (strcmp(ask(cutover->admin1, end), "0") != 0)
		usleep(POLL_EVERY_USEC);
	step_done(cutover, "terminate");
	free(alter);
	free(end);
}

/* A commit flushes what went before it; pg2 must have replayed it before it is promoted. */
static void barrier(struct cutover *cutover)
{
	char *lsn;
	char *replayed;

	(void)ask(cutover->admin1, "SELECT pg_logical_emit_message(true, 'cutover', '')");
	lsn = mem_must_strdup(ask(cutover->admin1, "SELECT pg_current_wal_flush_lsn()"));
	replayed = mem_must_printf("SELECT pg_last_wal_replay_lsn() >= '%s'", lsn);
	while (strcmp(ask(cutover->admin2, replayed), "t") != 0)
		usleep(POLL_EVERY_USEC);
	step_done(cutover, "barrier");
	free(lsn);
	free(replayed);
}

/* pg_promote() itself returns in steps of 100 ms. */
static void promote(struct cutover *cutover)
{
	(void)ask(cutover->admin2, "SELECT pg_promote(false)");
	while (strcmp(ask(cutover->admin2, "SELECT pg_is_in_recovery()"), "f") != 0)
		usleep(POLL_EVERY_USEC);
	step_done(cutover, "promote");
}

static bool commit_on(PGconn *conn)
{
	PGresult *result =
	    PQexec(conn, "INSERT INTO pgshunt_load_row (run, client, number) VALUES (0, 0, 0)");
	bool committed = PQresultStatus(result) == PGRES_COMMAND_OK;

	PQclear(result);
	return committed;
}

static void run_limit(struct cutover *cutover, const char *before, const char *after)
{
	PGconn *client1 = connect_to(before);
	PGconn *client2 = connect_to(after);
	usec_t started;

	for (int i = 0; i < 100; i++) {
		if (!commit_on(client1))
			give_up("a commit on pg1", PQerrorMessage(client1));
	}
	started = clock_now();
	cutover->last = started;
	fence(cutover);
	barrier(cutover);
	(void)ask(cutover->admin2, "SELECT pg_promote(false)");
	while (!commit_on(client2)) {
		if (clock_now() - started > GIVE_UP)
			give_up("the first commit on pg2", PQerrorMessage(client2));
		usleep(POLL_EVERY_USEC);
	}
	step_done(cutover, "promote");
	cutover->last = started;
	step_done(cutover, "gap");
	PQfinish(client1);
	PQfinish(client2);
}

static void run_pgbouncer(struct cutover *cutover, const char *conninfo, const char *ini,
                          const char *moved)
{
	PGconn *console = connect_to(conninfo);
	char *pause = mem_must_printf("PAUSE %s", cutover->database);
	char *resume = mem_must_printf("RESUME %s", cutover->database);
	char *open = mem_must_printf("ALTER DATABASE %s ALLOW_CONNECTIONS true", cutover->database);
	usec_t started = clock_now();

	cutover->last = started;
	(void)ask(console, pause);
	step_done(cutover, "pause");
	fence(cutover);
	barrier(cutover);
	promote(cutover);
	(void)ask(cutover->admin2, open);
	step_done(cutover, "open");
	if (rename(moved, ini) != 0)
		give_up("rename", ini);
	/* Nothing may come in between: a login that begins here would be killed by the pause. */
	(void)ask(console, "RELOAD");
	(void)ask(console, resume);
	step_done(cutover, "resume");
	cutover->last = started;
	step_done(cutover, "total");
	free(pause);
	free(resume);
	free(open);
	PQfinish(console);
}

int main(int argc, char **argv)
{
	struct cutover cutover = {.first = true};
	bool limit = argc == 7 && strcmp(argv[1], "limit") == 0;

	if (!limit && !(argc == 8 && strcmp(argv[1], "pgbouncer") == 0)) {
		fprintf(stderr,
		        "usage: pgshunt_cutover limit DATABASE ADMIN1 ADMIN2 CLIENT1 CLIENT2\n"
		        "       pgshunt_cutover pgbouncer DATABASE ADMIN1 ADMIN2 CONSOLE INI "
		        "MOVED_INI\n");
		return 2;
	}
	cutover.database = argv[2];
	cutover.admin1 = connect_to(argv[3]);
	cutover.admin2 = connect_to(argv[4]);
	/* As the mover does before it holds anybody. */
	(void)ask(cutover.admin1, "CHECKPOINT");
	if (limit)
		run_limit(&cutover, argv[5], argv[6]);
	else
		run_pgbouncer(&cutover, argv[5], argv[6], argv[7]);
	printf("}\n");
	PQfinish(cutover.admin1);
	PQfinish(cutover.admin2);
	return 0;
}
