/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/leftover.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* Nobody waits for it. */
#define DROP_TIMEOUT (60 * USEC_PER_SEC)
#define LEFTOVER_SQL_MAX ((size_t)4 * 1024 * 1024)

/* A session may be about to drop the same, which is never to fail for us, nor to wait longer than for
 * one of them; and event triggers have not heard of such an end either. */
static const char drop_settings[] = "SET lock_timeout = '100ms'; SET deadlock_timeout = '10ms';"
                                    " SET session_replication_role = replica;"
                                    " SET synchronous_commit = off";

/* A session that drops all of a schema may come to them in another order, and would be the one to
 * see the deadlock: as autovacuum does, the schema is locked first, which excludes that one, and
 * nobody else.  That session may have made another of that name since: once it is locked, the name
 * tells which one that is.  Of a schema and a sequence no other lock can be had. */
#define DROP_BEGIN                                                                                 \
	"DO LANGUAGE plpgsql $$ DECLARE r record; BEGIN"                                           \
	" FOR r IN SELECT c.oid, n.nspname AS schema,"                                             \
	" format('%I.%I', n.nspname, c.relname) AS name,"                                          \
	" c.relkind = 'S' AS sequence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"  \
	" WHERE c.relpersistence = 't' AND c.oid IN ("
#define DROP_END                                                                                   \
	") LOOP BEGIN"                                                                             \
	" EXECUTE format('COMMENT ON SCHEMA %I IS NULL', r.schema);"                               \
	" IF r.sequence THEN EXECUTE format('COMMENT ON SEQUENCE %s IS NULL', r.name);"            \
	" ELSE EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', r.name); END IF;"          \
	" IF to_regclass(r.name) IS DISTINCT FROM r.oid THEN RAISE 'another one'; END IF;"         \
	" EXECUTE format('DROP %s %s CASCADE', CASE WHEN r.sequence THEN 'SEQUENCE' ELSE 'TABLE'"  \
	" END, r.name); EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; END $$"

void leftover_note(struct shard *shard, const char *oids)
{
	free(shard->leftover);
	shard->leftover = oids == NULL ? NULL : mem_must_strdup(oids);
}

static int64_t drop_in(struct move *move, struct link *link, const char *oids)
{
	struct sbuf sql;
	int64_t left = -1;

	sbuf_init(&sql, LEFTOVER_SQL_MAX);
	sbuf_printf(&sql, "%s%s%s", DROP_BEGIN, oids, DROP_END);
	if (sbuf_ok(&sql) && link_revive(move, link) &&
	    link_run(&move->loop, link, ASK_TIMEOUT, drop_settings) &&
	    link_run(&move->loop, link, DROP_TIMEOUT, sbuf_text(&sql))) {
		sbuf_reset(&sql);
		sbuf_printf(&sql,
		            "SELECT count(*) AS left FROM pg_class WHERE relpersistence = 't' AND"
		            " oid IN (%s)",
		            oids);
		if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
			left = link_number(link, 0, "left", -1);
	}
	sbuf_free(&sql);
	return left;
}

static void drop_of(struct move *move, struct shard *shard)
{
	struct link_target target;
	struct link link;
	int64_t left;

	server_target(move->target.conf, &target);
	target.dbname = shard->dbname;
	link_init(&link, move->target.conf->name, &target);
	left = drop_in(move, &link, shard->leftover);
	if (left < 0)
		ui_line(move->ui,
		        "  %s, database %s: temporary tables that were left are not dropped yet, "
		        "PostgreSQL does that: %s",
		        link.name, shard->dbname, link_error(&link));
	else if (left > 0)
		ui_line(move->ui,
		        "  %s, database %s: PostgreSQL will drop %" PRId64
		        " temporary tables that were left",
		        link.name, shard->dbname, left);
	link_close(&link);
}

void leftover_drop(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].leftover != NULL && !move->shards[i].gone)
			drop_of(move, &move->shards[i]);
		leftover_note(&move->shards[i], NULL);
	}
}

void leftover_free(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++)
		leftover_note(&move->shards[i], NULL);
}
