/* SPDX-License-Identifier: PostgreSQL */
/*
 * Loaded before libpq into isolationtester: the process id of a connection is asked of the server,
 * for the one that the connection was given at its login is the proxy's.
 */
#include <libpq-fe.h>

#include <stdlib.h>

int PQbackendPID(const PGconn *conn)
{
	PGresult *result = PQexec((PGconn *)conn, "SELECT pg_catalog.pg_backend_pid()");
	int pid = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;

	PQclear(result);
	return pid;
}
