/* SPDX-License-Identifier: PostgreSQL */
/*
 * Both servers have databases of the same names and the same system identifier: which copy is the
 * one out of use, is proved by role, timeline, fence and sessions, of both servers at once and
 * right before every step.
 */
#include "base/mem.h"
#include "migrate/cleanup.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define EVIDENCE_SQL_MAX ((size_t)64 * 1024)

void cleanup_refuse(struct cleanup *cleanup, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = mem_must_vprintf(fmt, args);
	va_end(args);
	cleanup->refused++;
	ui_error(cleanup->move->ui, "cleanup: %s", text);
	free(text);
}

/* What a server is, and of one database of it whether it is open and who is in it. */
static void probe_sql(const char *dbname, struct sbuf *sql)
{
	sbuf_add_str(
	    sql, "SELECT r.recovery, (SELECT system_identifier FROM pg_control_system()) AS system,"
	         " CASE WHEN NOT r.recovery THEN ('x' || substr(pg_walfile_name("
	         "pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,"
	         " CASE WHEN NOT r.recovery THEN pg_current_wal_lsn() END AS lsn,"
	         " d.oid IS NOT NULL AS there, d.datallowconn AS open, d.datistemplate AS template,"
	         " (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND"
	         "  a.backend_type = 'client backend' AND a.application_name NOT LIKE 'pgshunt%')"
	         "  AS clients,"
	         " (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND"
	         "  a.backend_type <> 'autovacuum worker') AS sessions,"
	         /* What keeps it from being dropped, as what ends that. */
	         " (SELECT string_agg(t, ' ') FROM (SELECT format('ROLLBACK PREPARED %L;', gid)"
	         "  FROM pg_prepared_xacts p WHERE p.database = d.datname"
	         "  UNION ALL SELECT format('SELECT pg_drop_replication_slot(%L);', slot_name)"
	         "  FROM pg_replication_slots s WHERE s.database = d.datname"
	         "  UNION ALL SELECT format('(with max_logical_replication_workers = 0 only:) ALTER"
	         " SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); DROP"
	         " SUBSCRIPTION %1$I;', subname) FROM pg_subscription s WHERE s.subdbid = d.oid)"
	         " ties(t)) AS ties"
	         " FROM (SELECT pg_is_in_recovery() AS recovery) r LEFT JOIN pg_database d ON"
	         " d.datname = ");
	sql_literal(sql, dbname);
}

static bool ask_both(struct cleanup *cleanup, struct copy *copy)
{
	struct link *links[] = {&copy->here->link, &copy->there->link};
	const char *names[] = {copy->state == COPY_RENAMED ? copy->stale : copy->dbname,
	                       copy->dbname};
	bool ok = true;

	for (size_t i = 0; i < 2; i++) {
		struct sbuf sql;

		if (!link_revive(cleanup->move, links[i])) {
			cleanup_refuse(cleanup, "%s cannot be asked: %s", links[i]->name,
			               link_error(links[i]));
			return false;
		}
		sbuf_init(&sql, EVIDENCE_SQL_MAX);
		probe_sql(names[i], &sql);
		link_send(links[i], sbuf_text(&sql));
		sbuf_free(&sql);
	}
	(void)!loop_wait(&cleanup->move->loop, links, 2, clock_now() + ASK_TIMEOUT, false);
	for (size_t i = 0; i < 2; i++) {
		if (link_ok(links[i]))
			continue;
		cleanup_refuse(cleanup, "%s cannot be asked: %s", links[i]->name,
		               link_error(links[i]));
		ok = false;
	}
	return ok;
}

/* Each server is the one it was after the move. */
static const char *wrong_server(const struct move *move, const struct server *server)
{
	const struct link *link = &server->link;
	int64_t timeline = link_number(link, 0, "timeline", 0);
	const char *system = link_value(link, 0, "system");

	if (link_true(link, 0, "recovery"))
		return "is a standby now";
	if (system == NULL || move->system_identifier == NULL ||
	    strcmp(system, move->system_identifier) != 0)
		return "is another database system than at the move";
	if (server == &move->source && timeline != move->old_timeline)
		return "is not on the timeline any more on which the move left it";
	if (server == &move->target && timeline < move->new_timeline)
		return "is on a timeline before that of the move";
	return NULL;
}

static bool judge_stale(struct cleanup *cleanup, const struct copy *copy)
{
	const struct link *link = &copy->here->link;
	const char *name = copy->state == COPY_RENAMED ? copy->stale : copy->dbname;
	const char *ties = link_value(link, 0, "ties");
	const char *why = NULL;

	if (!link_true(link, 0, "there"))
		why = "is not there any more";
	else if (link_true(link, 0, "open"))
		why = "is open: its fence was lifted, somebody may have written to it";
	else if (link_true(link, 0, "template"))
		why = "is a template: ALTER DATABASE ... IS_TEMPLATE false, if it may go";
	else if (link_number(link, 0, "sessions", 1) > 0)
		why = "still has sessions";
	if (why != NULL)
		cleanup_refuse(cleanup, "database %s on %s %s", name, link->name, why);
	if (why == NULL && ties != NULL)
		cleanup_refuse(
		    cleanup,
		    "database %s on %s has what keeps it from being dropped; ALTER DATABASE "
		    "%s ALLOW_CONNECTIONS true there, in it %s and then ALLOW_CONNECTIONS "
		    "false again",
		    name, link->name, name, ties);
	return why == NULL && ties == NULL;
}

static bool judge_live(struct cleanup *cleanup, const struct copy *copy)
{
	const struct link *link = &copy->there->link;
	const char *why = NULL;
	uint64_t lsn = 0;

	if (!link_true(link, 0, "there"))
		why = "is not there";
	else if (!link_true(link, 0, "open"))
		why = "is closed: it is not the copy in use";
	else if (cleanup->line->option[OPTION_IDLE] == NULL &&
	         cleanup->line->option[OPTION_UNDO] == NULL &&
	         link_number(link, 0, "clients", 0) == 0)
		why = "has no client: is it in use? (--idle if it may have none)";
	else if (copy->of_shard &&
	         (!lsn_parse(link_value(link, 0, "lsn"), &lsn) || lsn <= cleanup->switch_point))
		why = "has nothing newer than the move";
	if (why != NULL)
		cleanup_refuse(cleanup, "database %s on %s %s", copy->dbname, link->name, why);
	return why == NULL;
}

bool cleanup_prove(struct cleanup *cleanup, struct copy *copy, usec_t *asked_at)
{
	const struct server *servers[] = {copy->here, copy->there};
	bool ok;

	*asked_at = clock_now();
	if (!ask_both(cleanup, copy))
		return false;
	for (size_t i = 0; i < 2; i++) {
		const char *why = wrong_server(cleanup->move, servers[i]);

		if (why == NULL)
			continue;
		cleanup_refuse(cleanup, "%s %s", servers[i]->link.name, why);
		return false;
	}
	ok = judge_stale(cleanup, copy);
	return judge_live(cleanup, copy) && ok;
}

/* ---- routers ---- */

static bool leads_to(const struct copy *copy, const struct seen_route *seen)
{
	return !seen->through && strcmp(seen->dbname, copy->dbname) == 0 &&
	       strcmp(seen->server, copy->here->conf->name) == 0;
}

static const char *who_says(const struct seen_route *seen)
{
	return seen->proxy != NULL     ? seen->proxy->label
	       : seen->bouncer != NULL ? seen->bouncer->label
	                               : "the configuration";
}

bool cleanup_routers(struct cleanup *cleanup)
{
	struct move *move = cleanup->move;
	size_t before = cleanup->refused;

	for (size_t i = 0; i < cleanup->copy_count; i++) {
		const struct copy *copy = &cleanup->copies[i];

		for (size_t j = 0; copy->state != COPY_GONE && j < move->seen_count; j++) {
			if (leads_to(copy, &move->seen[j]))
				cleanup_refuse(cleanup, "%s sends database %s to %s",
				               who_says(&move->seen[j]), move->seen[j].database,
				               copy->here->conf->name);
		}
	}
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		if (partition->new != NULL)
			cleanup_refuse(cleanup, "%s: option %s of cluster %s leads to %s",
			               partition->cluster->label, partition->option,
			               partition->cluster->conf->cluster, partition->where);
	}
	return cleanup->refused == before;
}
