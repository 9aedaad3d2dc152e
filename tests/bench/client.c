/* SPDX-License-Identifier: PostgreSQL */
/*
 * The clients that pgbench has no mode for.
 *
 *   pgshunt_client idle   CONNINFO COUNT    logs COUNT clients in, says "ready", waits for stdin's
 * end pgshunt_client result CONNINFO MB       reads a result of MB megabytes in rows of 1000 bytes
 *   pgshunt_client copy   CONNINFO MB       sends MB megabytes by COPY into a table that it
 * truncates
 */
#include "base/compiler.h"
#include "base/mem.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MEGABYTE 1000000
#define ROW 1000
#define CHUNK 8000

static NORETURN void give_up(const char *what, PGconn *conn)
{
	fprintf(stderr, "pgshunt_client: %s: %s\n", what, PQerrorMessage(conn));
	exit(1);
}

static PGconn *log_in(const char *conninfo)
{
	PGconn *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
		give_up("connect", conn);
	return conn;
}

static void idle(const char *conninfo, int count)
{
	PGconn **conns = mem_must_alloc((size_t)count * sizeof(PGconn *));
	char byte;

	for (int i = 0; i < count; i++)
		conns[i] = log_in(conninfo);
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		continue;
	for (int i = 0; i < count; i++)
		PQfinish(conns[i]);
	free(conns);
}

static void result(const char *conninfo, int megabytes)
{
	PGconn *conn = log_in(conninfo);
	long rows = (long)megabytes * (MEGABYTE / ROW);
	char *sql =
	    mem_must_printf("SELECT repeat('x', %d) FROM generate_series(1, %ld)", ROW, rows);
	PGresult *row;
	long got = 0;

	if (PQsendQuery(conn, sql) != 1 || PQsetSingleRowMode(conn) != 1)
		give_up("result", conn);
	while ((row = PQgetResult(conn)) != NULL) {
		got += PQntuples(row);
		if (PQresultStatus(row) == PGRES_FATAL_ERROR)
			give_up("result", conn);
		PQclear(row);
	}
	if (got != rows)
		give_up("too few rows", conn);
	free(sql);
	PQfinish(conn);
}

static void copy(const char *conninfo, int megabytes)
{
	PGconn *conn = log_in(conninfo);
	char *chunk = mem_must_alloc(CHUNK);
	PGresult *answer = PQexec(conn, "BEGIN; TRUNCATE bench_copy; COPY bench_copy FROM STDIN");

	if (PQresultStatus(answer) != PGRES_COPY_IN)
		give_up("copy", conn);
	PQclear(answer);
	memset(chunk, 'x', CHUNK);
	for (int i = ROW - 1; i < CHUNK; i += ROW)
		chunk[i] = '\n';
	for (long left = (long)megabytes * (MEGABYTE / CHUNK); left > 0; left--) {
		if (PQputCopyData(conn, chunk, CHUNK) != 1)
			give_up("copy", conn);
	}
	if (PQputCopyEnd(conn, NULL) != 1)
		give_up("copy", conn);
	while ((answer = PQgetResult(conn)) != NULL) {
		if (PQresultStatus(answer) == PGRES_FATAL_ERROR)
			give_up("copy", conn);
		PQclear(answer);
	}
	PQclear(PQexec(conn, "COMMIT"));
	free(chunk);
	PQfinish(conn);
}

int main(int argc, char **argv)
{
	struct rlimit files;
	int number = argc == 4 ? atoi(argv[3]) : 0;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	if (number > 0 && strcmp(argv[1], "idle") == 0)
		idle(argv[2], number);
	else if (number > 0 && strcmp(argv[1], "result") == 0)
		result(argv[2], number);
	else if (number > 0 && strcmp(argv[1], "copy") == 0)
		copy(argv[2], number);
	else
		return fputs("usage: pgshunt_client idle|result|copy CONNINFO NUMBER\n", stderr), 2;
	return 0;
}
