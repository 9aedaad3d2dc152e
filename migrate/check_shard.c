/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of the databases that move.
 */
#include "base/mem.h"
#include "migrate/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_SQL_MAX ((size_t)1024 * 1024)
#define CLIENTS_SQL                                                                                \
	" (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.backend_type ="     \
	" 'client backend' AND a.application_name NOT LIKE 'pgshunt%') AS clients,"

static const struct {
	enum check check;
	enum check_result result;
	const char *what; /* "database %s: <what> <names>" */
	const char *sql;  /* (dbname, …) and a parenthesis follow */
} server_checks[] = {
    {CHECK_PREPARED, CHECK_PASS, "prepared transactions, which go along",
     "SELECT database AS dbname, count(*) AS found, left(string_agg(gid, ', '), 200) AS names"
     " FROM pg_prepared_xacts GROUP BY 1 HAVING database IN "},
    {CHECK_SLOTS, CHECK_REFUSE, "logical slots",
     "SELECT database AS dbname, count(*) AS found,"
     " left(string_agg(slot_name, ', '), 200) AS names"
     " FROM pg_replication_slots GROUP BY 1 HAVING database IN "},
    {CHECK_SUBSCRIPTIONS, CHECK_REFUSE, "subscriptions",
     "SELECT datname AS dbname, count(*) AS found, left(string_agg(subname, ', '), 200) AS names"
     " FROM pg_subscription JOIN pg_database d ON d.oid = subdbid GROUP BY 1 HAVING datname IN "},
};

static void check_on_source(struct checks *checks)
{
	struct link *link = &checks->move->source.link;
	struct sbuf sql;

	for (size_t i = 0; i < sizeof(server_checks) / sizeof(server_checks[0]); i++) {
		sbuf_init(&sql, CHECK_SQL_MAX);
		sbuf_add_str(&sql, server_checks[i].sql);
		shards_literals(checks->move, &sql);
		if (check_query(checks, server_checks[i].check, link, sbuf_text(&sql))) {
			for (int row = 0; row < link_rows(link); row++)
				check_find(checks, server_checks[i].check, server_checks[i].result,
				           "database %s has %s %s: %s",
				           link_value(link, row, "dbname"),
				           link_value(link, row, "found"), server_checks[i].what,
				           link_value(link, row, "names"));
			if (server_checks[i].check == CHECK_PREPARED)
				checks->move->prepared_seen = link_sum(link, "found", 0);
			check_pass(checks, server_checks[i].check, "none");
		}
		sbuf_free(&sql);
	}
}

static void check_transactions(struct checks *checks)
{
	struct move *move = checks->move;
	struct link *link = &move->source.link;
	struct sbuf sql;

	sbuf_init(&sql, CHECK_SQL_MAX);
	sbuf_printf(
	    &sql,
	    "SELECT datname, pid, usename, round(extract(epoch FROM now() - xact_start))::bigint"
	    " AS age, state FROM pg_stat_activity WHERE backend_type = 'client backend'"
	    " AND now() - xact_start > interval '%.3f seconds' AND datname IN ",
	    (double)move->config->mover.hold_timeout / (double)USEC_PER_SEC);
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " ORDER BY age DESC LIMIT 5");
	if (check_query(checks, CHECK_TRANSACTIONS, link, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(link); row++)
			check_find(checks, CHECK_TRANSACTIONS, CHECK_WARN,
			           "pid %s of user %s in %s: %s s, %s",
			           link_value(link, row, "pid"), link_value(link, row, "usename"),
			           link_value(link, row, "datname"), link_value(link, row, "age"),
			           link_value(link, row, "state"));
		check_pass(checks, CHECK_TRANSACTIONS, "none is older than mover.hold_timeout");
	}
	sbuf_free(&sql);
}

/* The row of a database in the last result, -1 if it has none. */
static int row_of(const struct link *link, const char *dbname)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "datname");

		if (name != NULL && strcmp(name, dbname) == 0)
			return row;
	}
	return -1;
}

/* The order of the database itself; what is recorded is that of its indexes. */
static void compare_collations(struct checks *checks, const char *dbname, int here, int there)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;
	const char *recorded = link_value(source, here, "recorded");
	const char *collation = link_value(source, here, "collation");
	const char *other = link_value(target, there, "collation");

	if (collation == NULL || other == NULL)
		return;
	if (strcmp(collation, other) != 0)
		check_find(checks, CHECK_COLLATION, CHECK_REFUSE,
		           "the collation version of database %s is %s on %s, %s on %s", dbname,
		           collation, source->name, other, target->name);
	if (recorded != NULL && strcmp(recorded, collation) != 0)
		check_find(checks, CHECK_COLLATION, CHECK_WARN,
		           "database %s was made with collation version %s, %s has %s: its indexes "
		           "may be corrupt already",
		           dbname, recorded, source->name, collation);
}

static void compare_database(struct checks *checks, const char *dbname)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;
	int here = row_of(source, dbname);
	int there = row_of(target, dbname);

	if (here < 0 || there < 0) {
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE, "%s has no database %s",
		           here < 0 ? source->name : target->name, dbname);
		return;
	}
	if (!link_true(source, here, "datallowconn"))
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE,
		           "database %s does not allow connections on %s", dbname, source->name);
	if (link_true(source, here, "datistemplate"))
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE, "database %s is a template",
		           dbname);
	if (strcmp(dbname, checks->move->source.conf->admin_dbname) == 0 ||
	    strcmp(dbname, checks->move->target.conf->admin_dbname) == 0)
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE,
		           "the mover itself works in database %s (servers.*.admin_dbname)",
		           dbname);
	if (link_number(source, here, "datconnlimit", -1) == 0)
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE,
		           "database %s has CONNECTION LIMIT 0", dbname);
	compare_collations(checks, dbname, here, there);
}

static void check_databases(struct checks *checks)
{
	struct move *move = checks->move;
	static const char with_versions[] =
	    "SELECT datname, datallowconn, datistemplate, datconnlimit," CLIENTS_SQL
	    " datcollversion AS recorded,"
	    " pg_database_collation_actual_version(oid) AS collation FROM pg_database d ORDER BY 1";
	/* Before 15 nothing is recorded; the version is that of the collation of that name. */
	static const char without[] =
	    "SELECT datname, datallowconn, datistemplate, datconnlimit," CLIENTS_SQL
	    " NULL::text AS recorded,"
	    " (SELECT max(pg_collation_actual_version(c.oid)) FROM pg_collation c WHERE"
	    " c.collprovider = 'c' AND c.collcollate = d.datcollate AND c.collencoding IN"
	    " (-1, d.encoding)) AS collation FROM pg_database d ORDER BY 1";
	bool new_enough = PQserverVersion(move->source.link.conn) >= 150000;
	const char *sql = new_enough ? with_versions : without;

	if (!check_query(checks, CHECK_DATABASES, &move->source.link, sql) ||
	    !check_query(checks, CHECK_DATABASES, &move->target.link, sql))
		return;
	for (size_t i = 0; i < move->shard_count; i++)
		compare_database(checks, move->shards[i].dbname);
	check_other_databases(checks);
}

void check_shards(struct checks *checks)
{
	check_databases(checks);
	if (checks->results[CHECK_DATABASES] == CHECK_REFUSE || checks->broken)
		return;
	check_others_inside(checks);
	check_on_source(checks);
	check_transactions(checks);
	check_inside(checks);
	check_pass(checks, CHECK_DATABASES, "%zu", checks->move->shard_count);
}
