/* SPDX-License-Identifier: PostgreSQL */
/*
 * Loaded before libpq into isolationtester and, for transaction pooling, into psql.
 *
 * The process id of a connection is asked of the server, for the one that the connection was given
 * at its login, and its own notifications carry, is the proxy's.  With SUITE_DISCARD set a
 * connection that is closed leaves nothing behind on the server connection, as the server's own end
 * of a session does.
 */
#include <libpq-fe.h>

#include <dlfcn.h>
#include <stdlib.h>

#define NEXT(function) ((__typeof__(&(function)))dlsym(RTLD_NEXT, #function))

static struct {
	const PGconn *conn;
	int pid;
} asked[100];
static size_t asked_count;

int PQbackendPID(const PGconn *conn)
{
	PGresult *result = PQexec((PGconn *)conn, "SELECT pg_catalog.pg_backend_pid()");
	int pid = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;

	PQclear(result);
	if (asked_count < sizeof(asked) / sizeof(asked[0])) {
		asked[asked_count].conn = conn;
		asked[asked_count++].pid = pid;
	}
	return pid;
}

PGnotify *PQnotifies(PGconn *conn)
{
	PGnotify *notify = NEXT(PQnotifies)(conn);
	size_t i;

	for (i = 0; notify != NULL && i < asked_count; i++) {
		if (notify->be_pid == NEXT(PQbackendPID)(asked[i].conn))
			notify->be_pid = asked[i].pid;
	}
	return notify;
}

void PQfinish(PGconn *conn)
{
	if (getenv("SUITE_DISCARD") && PQstatus(conn) == CONNECTION_OK) {
		if (PQtransactionStatus(conn) != PQTRANS_IDLE)
			PQclear(PQexec(conn, "ROLLBACK"));
		PQclear(PQexec(conn, "DISCARD ALL"));
	}
	NEXT(PQfinish)(conn);
}
