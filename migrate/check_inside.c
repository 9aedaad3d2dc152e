/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks that only sessions inside the shards can make, on both servers: tables without WAL,
 * publications, extensions and their libraries, collations.
 */
#include "migrate/check.h"
#include "migrate/unlogged.h"

#include <inttypes.h>
#include <string.h>

#define INSIDE_SQL_MAX ((size_t)1024 * 1024)
#define LIST_MAX 1024

/* The two sessions in one shard. */
struct inside {
	struct checks *checks;
	const char *dbname;
	struct link source;
	struct link target;
};

static const char publications_sql[] =
    "SELECT count(*) AS found, left(string_agg(pubname, ', '), 200) AS names FROM pg_publication";

static const char extensions_sql[] = "SELECT e.extname, e.extversion, a.default_version FROM"
                                     " pg_extension e LEFT JOIN pg_available_extensions a"
                                     " ON a.name = e.extname ORDER BY 1";

static const char available_sql[] =
    "SELECT name AS extname, default_version FROM pg_available_extensions";

/* 13 is the language C (ClanguageId), by number because its name can be changed. */
static const char libraries_sql[] = "SELECT probin, count(*) AS functions FROM pg_proc"
                                    " WHERE prolang = 13 GROUP BY 1 ORDER BY 1";

/* Collations by which something is sorted on disk: of indexes, of partition keys, of range types.
 */
static const char collations_sql[] =
    "SELECT c.oid, c.collname AS name, c.collversion AS recorded,"
    " pg_collation_actual_version(c.oid) AS actual FROM pg_collation c WHERE c.oid IN"
    " (SELECT unnest(indcollation) FROM pg_index UNION SELECT unnest(partcollation)"
    " FROM pg_partitioned_table UNION SELECT rngcollation FROM pg_range)"
    " AND c.collprovider <> 'd' ORDER BY 1";

static void check_unlogged(struct inside *inside)
{
	struct checks *checks = inside->checks;
	struct link *source = &inside->source;

	if (check_query(checks, CHECK_UNLOGGED, source, unlogged_sql) &&
	    link_number(source, 0, "found", 0) > 0)
		check_find(checks, CHECK_UNLOGGED, CHECK_REFUSE, "database %s has %s: %s",
		           inside->dbname, link_value(source, 0, "found"),
		           link_value(source, 0, "names"));
	if (check_query(checks, CHECK_PUBLICATIONS, source, publications_sql) &&
	    link_number(source, 0, "found", 0) > 0)
		check_find(checks, CHECK_PUBLICATIONS, CHECK_WARN, "database %s has %s: %s",
		           inside->dbname, link_value(source, 0, "found"),
		           link_value(source, 0, "names"));
}

static const char *available(const struct link *target, const char *extension)
{
	for (int row = 0; row < link_rows(target); row++) {
		const char *name = link_value(target, row, "extname");

		if (name != NULL && strcmp(name, extension) == 0)
			return link_value(target, row, "default_version");
	}
	return NULL;
}

/* The control files; whether the functions can be loaded is another check. */
static void check_extensions(struct inside *inside)
{
	struct checks *checks = inside->checks;
	const struct link *source = &inside->source;
	const struct link *target = &inside->target;

	if (!check_query(checks, CHECK_EXTENSIONS, &inside->source, extensions_sql) ||
	    !check_query(checks, CHECK_EXTENSIONS, &inside->target, available_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		const char *name = link_value(source, row, "extname");
		const char *here = link_value(source, row, "default_version");
		const char *there = available(target, name);

		if (there == NULL)
			check_find(
			    checks, CHECK_EXTENSIONS, CHECK_WARN,
			    "database %s: extension %s %s is not installed on the machine of "
			    "%s",
			    inside->dbname, name, link_value(source, row, "extversion"),
			    target->name);
		else if (here != NULL && strcmp(here, there) != 0)
			check_find(checks, CHECK_EXTENSIONS, CHECK_WARN,
			           "database %s: of extension %s, %s has the package of version "
			           "%s, %s of %s",
			           inside->dbname, name, target->name, there, inside->source.name,
			           here);
	}
}

/* PostgreSQL's own check of a C function loads its library and looks for its symbol; a standby
 * makes it as well.  True if all functions of the library can be called. */
static bool load_library(struct inside *inside, const char *library)
{
	struct checks *checks = inside->checks;
	struct link *target = &inside->target;
	usec_t timeout = checks->move->config->mover.connect_timeout * 4;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, INSIDE_SQL_MAX);
	sbuf_add_str(&sql, "SELECT count(fmgr_c_validator(oid)) AS functions FROM pg_proc"
	                   " WHERE prolang = 13 AND probin = ");
	sql_literal(&sql, library);
	ok = link_run(&checks->move->loop, target, timeout, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		check_find(checks, CHECK_LIBRARIES, CHECK_REFUSE, "database %s: %s on %s: %s",
		           inside->dbname, library, target->name, link_error(target));
	return target->state == LINK_IDLE;
}

static void check_libraries(struct inside *inside)
{
	struct checks *checks = inside->checks;
	struct link *source = &inside->source;

	if (!check_query(checks, CHECK_LIBRARIES, source, libraries_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		if (link_value(source, row, "probin") == NULL)
			continue;
		/* Some libraries end the session that loads them without having been preloaded. */
		if (!load_library(inside, link_value(source, row, "probin")) &&
		    !link_revive(checks->move, &inside->target))
			return;
	}
}

static void compare_collation(struct inside *inside, int here, int there)
{
	struct checks *checks = inside->checks;
	const struct link *source = &inside->source;
	const struct link *target = &inside->target;
	const char *name = link_value(source, here, "name");
	const char *recorded = link_value(source, here, "recorded");
	const char *actual = link_value(source, here, "actual");
	const char *other = link_value(target, there, "actual");

	if (actual == NULL || other == NULL)
		return;
	if (strcmp(actual, other) != 0)
		check_find(checks, CHECK_COLLATION, CHECK_REFUSE,
		           "database %s: the version of collation %s is %s on %s, %s on %s",
		           inside->dbname, name, actual, source->name, other, target->name);
	if (recorded != NULL && strcmp(recorded, actual) != 0)
		check_find(checks, CHECK_COLLATION, CHECK_WARN,
		           "database %s: collation %s was made with version %s, %s has %s: its "
		           "indexes may be corrupt already",
		           inside->dbname, name, recorded, source->name, actual);
}

static void check_collations(struct inside *inside)
{
	const struct link *source = &inside->source;
	const struct link *target = &inside->target;

	if (!check_query(inside->checks, CHECK_COLLATION, &inside->source, collations_sql) ||
	    !check_query(inside->checks, CHECK_COLLATION, &inside->target, collations_sql))
		return;
	for (int here = 0; here < link_rows(source); here++) {
		for (int there = 0; there < link_rows(target); there++) {
			if (strcmp(link_value(source, here, "oid"),
			           link_value(target, there, "oid")) == 0)
				compare_collation(inside, here, there);
		}
	}
}

static void check_one(struct checks *checks, const struct shard *shard)
{
	struct move *move = checks->move;
	struct inside inside = {.checks = checks, .dbname = shard->dbname};
	struct link *links[] = {&inside.source, &inside.target};
	const struct config_server *servers[] = {move->source.conf, move->target.conf};
	struct sbuf error;

	for (size_t i = 0; i < ARRAY_LEN(links); i++) {
		struct link_target target;

		server_target(servers[i], &target);
		target.dbname = shard->dbname;
		link_init(links[i], servers[i]->name, &target);
	}
	sbuf_init(&error, 4096);
	if (links_connect(&move->loop, links, 2, move->config->mover.connect_timeout, &error)) {
		check_unlogged(&inside);
		check_extensions(&inside);
		check_collations(&inside);
		check_libraries(&inside);
	} else {
		check_find(checks, CHECK_DATABASES, CHECK_REFUSE,
		           "cannot look into database %s: %s", shard->dbname, sbuf_text(&error));
	}
	sbuf_free(&error);
	link_close(links[0]);
	link_close(links[1]);
}

void check_inside(struct checks *checks)
{
	for (size_t i = 0; i < checks->move->shard_count; i++)
		check_one(checks, &checks->move->shards[i]);
	if (checks->results[CHECK_DATABASES] == CHECK_REFUSE)
		return;
	check_pass(checks, CHECK_UNLOGGED, "no tables or sequences without WAL");
	check_pass(checks, CHECK_PUBLICATIONS, "none");
	check_pass(checks, CHECK_EXTENSIONS, "in the versions of the source");
	check_pass(checks, CHECK_LIBRARIES, "all libraries and symbols are there");
	check_pass(checks, CHECK_COLLATION, "the versions agree");
}
