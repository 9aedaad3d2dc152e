/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of the databases that do not move: the target inherits copies of all of them, which take
 * writes from the promotion until they are closed, and those that the mover leaves open ever after.
 */
#include "base/mem.h"
#include "migrate/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define OTHERS_SQL_MAX ((size_t)1024 * 1024)

static bool is_shard(const struct move *move, const char *dbname)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, dbname) == 0)
			return true;
	}
	return false;
}

/* Who sends clients to a database of that name on the source, NULL if nobody.  A pgbouncer before a
 * server has entries for its administrators, too. */
static const char *who_routes(const struct move *move, const char *dbname, bool bouncers)
{
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		if (seen->through || strcmp(seen->dbname, dbname) != 0 ||
		    strcmp(seen->server, move->source.conf->name) != 0)
			continue;
		if (seen->proxy != NULL)
			return seen->proxy->label;
		if (bouncers)
			return seen->bouncer == NULL ? "the configuration" : "a pgbouncer";
	}
	return NULL;
}

/* postgres and the database in which the mover works stay open on the target. */
static void check_open(struct checks *checks, const struct link *source, int row)
{
	struct move *move = checks->move;
	const char *dbname = link_value(source, row, "datname");
	bool admin = strcmp(dbname, move->target.conf->admin_dbname) == 0;
	bool postgres = strcmp(dbname, "postgres") == 0;
	const char *who;

	/* Of a shard it is said elsewhere. */
	if (is_shard(move, dbname) || (!admin && !postgres))
		return;
	who = who_routes(move, dbname, !postgres);
	if (who != NULL)
		check_find(checks, CHECK_LEFT_OPEN, CHECK_REFUSE,
		           "%s sends clients to database %s%s", who, dbname,
		           admin ? ", in which the mover works" : "");
	else if (!postgres && link_number(source, row, "clients", 0) > 0)
		check_find(checks, CHECK_LEFT_OPEN, CHECK_REFUSE,
		           "database %s on %s, in which the mover works, has %" PRId64 " clients",
		           dbname, source->name, link_number(source, row, "clients", 0));
}

/* A template is closed if it is more than that. */
static bool is_used(const struct move *move, const char *dbname)
{
	const struct link *source = &move->source.link;

	if (who_routes(move, dbname, true) != NULL)
		return true;
	for (int row = 0; row < link_rows(source); row++) {
		if (strcmp(link_value(source, row, "datname"), dbname) == 0)
			return link_number(source, row, "clients", 0) > 0;
	}
	return false;
}

/* Those that are closed on the target after the promotion. */
static void find_others(struct move *move)
{
	const struct link *target = &move->target.link;

	for (int row = 0; row < link_rows(target); row++) {
		const char *name = link_value(target, row, "datname");

		if (!link_true(target, row, "datallowconn") || is_shard(move, name) ||
		    strcmp(name, move->target.conf->admin_dbname) == 0 ||
		    strcmp(name, "postgres") == 0 || strcmp(name, "template1") == 0 ||
		    (link_true(target, row, "datistemplate") && !is_used(move, name)))
			continue;
		move->others =
		    mem_must_grow(move->others, move->other_count + 1, sizeof(*move->others));
		move->others[move->other_count++] = mem_must_strdup(name);
	}
}

void check_other_databases(struct checks *checks)
{
	struct move *move = checks->move;
	const struct link *source = &move->source.link;

	for (int row = 0; row < link_rows(source); row++) {
		/* What DROP DATABASE leaves when it is interrupted can be dropped, nothing else. */
		if (link_number(source, row, "datconnlimit", 0) == -2)
			check_find(checks, CHECK_INVALID, CHECK_REFUSE, "database %s on %s",
			           link_value(source, row, "datname"), source->name);
		check_open(checks, source, row);
	}
	find_others(move);
	check_pass(checks, CHECK_INVALID, "%d databases", link_rows(source));
	check_pass(checks, CHECK_LEFT_OPEN, "nobody is sent to %s",
	           move->target.conf->admin_dbname);
}

/* What of the others goes on by itself on the target, or is left over there. */
void check_others_inside(struct checks *checks)
{
	struct move *move = checks->move;
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	int64_t workers;
	struct sbuf sql;

	if (!check_query(checks, CHECK_SUBSCRIPTIONS, target,
	                 "SELECT current_setting('max_logical_replication_workers') AS workers"))
		return;
	workers = link_number(target, 0, "workers", 1);
	sbuf_init(&sql, OTHERS_SQL_MAX);
	sbuf_add_str(&sql, "SELECT datname, left(string_agg(subname, ', '), 200) AS names FROM"
	                   " pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE subenabled"
	                   " AND datname NOT IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " GROUP BY 1 ORDER BY 1");
	if (workers > 0 && check_query(checks, CHECK_SUBSCRIPTIONS, source, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(source); row++)
			check_find(checks, CHECK_SUBSCRIPTIONS, CHECK_REFUSE,
			           "database %s, which does not move, has enabled subscriptions, "
			           "which %s would take over from %s for a moment: %s",
			           link_value(source, row, "datname"), target->name, source->name,
			           link_value(source, row, "names"));
	}
	sbuf_reset(&sql);
	sbuf_add_str(&sql, "SELECT database, count(*) AS found, left(string_agg(gid, ', '), 200) AS"
	                   " names FROM pg_prepared_xacts WHERE database NOT IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " GROUP BY 1 ORDER BY 1");
	if (check_query(checks, CHECK_PREPARED, source, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(source); row++) {
			const char *name = link_value(source, row, "database");
			bool closed = promote_is_other(move, name);

			check_find(
			    checks, CHECK_PREPARED, closed ? CHECK_PASS : CHECK_WARN,
			    "database %s, which does not move, has %s, which %s: %s", name,
			    link_value(source, row, "found"),
			    closed ? "are rolled back in its copy on the target alone"
			           : "stay for ever in its copy on the target, which is not closed",
			    link_value(source, row, "names"));
			if (closed)
				move->prepared_copies += link_number(source, row, "found", 0);
		}
	}
	sbuf_free(&sql);
}
