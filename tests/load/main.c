/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt_load: a load of numbered rows, and the account of what became of them.  It speaks to
 * anything that speaks the PostgreSQL protocol and knows nothing of how a move is made.
 */
#include "run.h"
#include "script.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "pgshunt_load setup CONNINFO…\n"
    "  makes the table pgshunt_load_row in each of these databases\n"
    "\n"
    "pgshunt_load run --log FILE --target NAME:CONNINFO:CLIENTS [option…] [--target …]\n"
    "  until --duration SECONDS, SIGINT or SIGTERM.  Before the first --target an option is\n"
    "  for all of them, after it for that one:\n"
    "  --mode M        simple (default), extended, prepared, pipelined, pipelined-prepared\n"
    "  --group NAME    targets of one group write to the same database (default: its name)\n"
    "  --rate N        units a second of all its clients (open loop; 0: closed loop, default)\n"
    "  --block         a unit is BEGIN, its statements, COMMIT, one after the other\n"
    "  --batch         a unit is the same in one simple query\n"
    "  --statements N  rows a unit (1)\n"
    "  --reads P       percent of the units that (also) read an acknowledged row (0)\n"
    "  --reconnect     one connection a unit\n"
    "  --depth N       units in flight in the pipelined modes (5)\n"
    "  --sql SQL       writes one row; placeholders :run, :client, :number\n"
    "  --read-sql SQL  must return 1 for a row that was acknowledged\n"
    "  of the run:\n"
    "  --run N (wall clock)  --grace SECONDS to wait for answers at the end (10)\n"
    "  --gap MS: log longer pauses (50)  --retry MS after a lost connection (50)  --quiet\n"
    "\n"
    "pgshunt_load account --log FILE --new GROUP=CONNINFO [--old GROUP=CONNINFO] …\n"
    "  checks the rows of the run in the database that each group writes to now and, if it has\n"
    "  moved, in the one that it left.  Exit code 1 if a promise is broken.\n"
    "  --rows GROUP=SQL  what lists client and number of the rows (:run); may be repeated\n"
    "  --allow-errors    errors of clients break no promise (for comparisons)\n"
    "  --from US --to US the stretch of the run that gaps and latencies are taken from\n"
    "  --json FILE       the same for machines\n";

static int setup_main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "pgshunt_load: setup needs connection strings\n");
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		PGconn *conn = PQconnectdb(argv[i]);
		PGresult *result = PQexec(conn, SCRIPT_SETUP);
		bool made = PQresultStatus(result) == PGRES_COMMAND_OK;

		if (!made)
			fprintf(stderr, "pgshunt_load: %s", PQerrorMessage(conn));
		PQclear(result);
		PQfinish(conn);
		if (!made)
			return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "--help";

	if (strcmp(command, "setup") == 0)
		return setup_main(argc - 1, argv + 1);
	if (strcmp(command, "run") == 0)
		return run_main(argc - 1, argv + 1);
	if (strcmp(command, "account") == 0)
		return account_main(argc - 1, argv + 1);
	if (strcmp(command, "--help") == 0 || strcmp(command, "help") == 0) {
		fputs(help, stdout);
		return argc > 1 ? 0 : 2;
	}
	fprintf(stderr, "pgshunt_load: unknown command \"%s\"; try --help\n", command);
	return 2;
}
