/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks around the replication: slots and the WAL they keep, other standbys, who works on the
 * target, and what may delay its replay.
 */
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/readers.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WAL_SQL_MAX ((size_t)1024 * 1024)

/* wal_status is there from 13 on. */
static const char slots_sql[] =
    "SELECT s.slot_name, s.active, to_jsonb(s) ->> 'wal_status' AS wal_status, s.slot_type,"
    " CASE WHEN s.restart_lsn IS NULL THEN 0 ELSE"
    " pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn)::bigint END AS kept"
    " FROM pg_replication_slots s ORDER BY 1";

static void check_own_slot(struct checks *checks, int row)
{
	const struct link *source = &checks->move->source.link;
	const char *status = link_value(source, row, "wal_status");
	const char *name = link_value(source, row, "slot_name");

	if (status != NULL && (strcmp(status, "unreserved") == 0 || strcmp(status, "lost") == 0))
		check_find(checks, CHECK_SLOT, CHECK_REFUSE,
		           "the WAL of slot %s on %s is %s: max_slot_wal_keep_size is too small",
		           name, source->name, status);
	check_pass(checks, CHECK_SLOT, "slot %s, %s, keeps %s bytes", name,
	           status == NULL ? "reserved" : status, link_value(source, row, "kept"));
}

static void check_slots(struct checks *checks, const char *own)
{
	struct link *source = &checks->move->source.link;

	if (!check_query(checks, CHECK_SLOT, source, slots_sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		const char *name = link_value(source, row, "slot_name");

		if (own != NULL && strcmp(own, name) == 0)
			check_own_slot(checks, row);
		else if (!link_true(source, row, "active"))
			check_find(checks, CHECK_WAL_KEPT, CHECK_WARN,
			           "slot %s (%s) on %s is inactive and keeps %" PRId64
			           " bytes of WAL",
			           name, link_value(source, row, "slot_type"), source->name,
			           link_number(source, row, "kept", 0));
	}
	if (own == NULL || *own == '\0')
		check_find(checks, CHECK_SLOT, CHECK_WARN,
		           "%s uses no slot: %s may remove WAL that it still needs",
		           checks->move->target.link.name, source->name);
	else if (!checks->made[CHECK_SLOT])
		check_find(checks, CHECK_SLOT, CHECK_REFUSE, "slot %s does not exist on %s", own,
		           source->name);
	check_pass(checks, CHECK_WAL_KEPT, "none is inactive");
}

/* Whoever else receives from the source, and who receives from the target. */
static void check_standbys(struct checks *checks, const char *own)
{
	static const char sql[] =
	    "SELECT r.application_name, coalesce(host(r.client_addr), 'the same machine') AS"
	    " address, s.slot_name FROM pg_stat_replication r LEFT JOIN pg_replication_slots s"
	    " ON s.active_pid = r.pid WHERE coalesce(s.slot_type, 'physical') = 'physical'"
	    " AND r.state <> 'backup' ORDER BY 1, 2";
	struct link *source = &checks->move->source.link;
	struct link *target = &checks->move->target.link;
	bool own_seen = false;

	if (!check_query(checks, CHECK_STANDBYS, source, sql) ||
	    !check_query(checks, CHECK_STANDBYS, target, sql))
		return;
	for (int row = 0; row < link_rows(source); row++) {
		const char *slot = link_value(source, row, "slot_name");
		bool is_own = own != NULL && *own != '\0' ? slot != NULL && strcmp(slot, own) == 0
		                                          : slot == NULL && !own_seen;

		own_seen = own_seen || is_own;
		if (!is_own)
			check_find(checks, CHECK_STANDBYS, CHECK_WARN,
			           "%s at %s is a standby of %s too",
			           link_value(source, row, "application_name"),
			           link_value(source, row, "address"), source->name);
	}
	for (int row = 0; row < link_rows(target); row++)
		check_find(checks, CHECK_STANDBYS, CHECK_WARN,
		           "%s at %s is a standby of %s and will follow it",
		           link_value(target, row, "application_name"),
		           link_value(target, row, "address"), target->name);
	check_pass(checks, CHECK_STANDBYS, "none");
}

static void check_readers(struct checks *checks)
{
	struct link *target = &checks->move->target.link;
	bool end = checks->move->config->mover.end_readers;
	struct sbuf sql;

	sbuf_init(&sql, WAL_SQL_MAX);
	sbuf_add_str(&sql, "SELECT datname, usename, application_name, coalesce(host(client_addr),"
	                   " 'its own machine') AS address, count(*) AS sessions, datname IN ");
	shards_literals(checks->move, &sql);
	sbuf_add_str(&sql, " AS moves FROM pg_stat_activity WHERE backend_type = 'client backend'"
	                   " AND application_name NOT LIKE 'pgshunt%' AND datname NOT IN"
	                   " ('postgres', ");
	sql_literal(&sql, target->target.dbname);
	sbuf_add_str(&sql, ") AND pid <> ALL (");
	readers_known(checks->move, &sql);
	sbuf_add_str(&sql, ") GROUP BY 1, 2, 3, 4 ORDER BY 6 DESC, 5 DESC LIMIT 10");
	if (readers_know(checks->move) &&
	    check_query(checks, CHECK_READERS, target, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(target); row++)
			check_find(
			    checks, CHECK_READERS,
			    link_true(target, row, "moves") && !end ? CHECK_REFUSE : CHECK_WARN,
			    "%s: %s sessions in %s of user %s, application \"%s\", from %s",
			    target->name, link_value(target, row, "sessions"),
			    link_value(target, row, "datname"), link_value(target, row, "usename"),
			    link_value(target, row, "application_name"),
			    link_value(target, row, "address"));
		check_pass(checks, CHECK_READERS, "no sessions");
	}
	sbuf_free(&sql);
}

/* A query on a standby may hold up the replay of what it conflicts with. */
static void check_conflicts(struct checks *checks)
{
	struct move *move = checks->move;
	struct link *target = &move->target.link;
	struct sbuf sql;

	sbuf_init(&sql, WAL_SQL_MAX);
	sbuf_printf(&sql,
	            "SELECT a.pid, a.usename, a.datname,"
	            " round(extract(epoch FROM clock_timestamp() - a.xact_start))::bigint AS age,"
	            " s.setting || 'ms' AS delay FROM pg_stat_activity a, pg_settings s"
	            " WHERE s.name = 'max_standby_streaming_delay' AND (s.setting::bigint < 0 OR"
	            " s.setting::bigint > %" PRId64 ") AND a.backend_type = 'client backend'"
	            " AND a.pid <> pg_backend_pid() AND clock_timestamp() - a.xact_start >"
	            " interval '%.3f seconds' ORDER BY age DESC LIMIT 5",
	            move->config->mover.catch_up_timeout / USEC_PER_MSEC,
	            (double)move->config->mover.hold_timeout / (double)USEC_PER_SEC);
	if (check_query(checks, CHECK_CONFLICTS, target, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(target); row++)
			check_find(
			    checks, CHECK_CONFLICTS, CHECK_WARN,
			    "%s: pid %s of user %s in %s runs for %s s, and replay may wait "
			    "for it (max_standby_streaming_delay %s)",
			    target->name, link_value(target, row, "pid"),
			    link_value(target, row, "usename"), link_value(target, row, "datname"),
			    link_value(target, row, "age"), link_value(target, row, "delay"));
		check_pass(checks, CHECK_CONFLICTS, "none");
	}
	sbuf_free(&sql);
}

void check_wal(struct checks *checks)
{
	struct link *target = &checks->move->target.link;
	char *own;

	if (!check_query(checks, CHECK_SLOT, target,
	                 "SELECT max(slot_name) AS slot FROM pg_stat_wal_receiver"))
		return;
	own = mem_must_strdup(link_value(target, 0, "slot"));
	check_slots(checks, own);
	check_standbys(checks, own);
	check_readers(checks);
	check_conflicts(checks);
	free(own);
}
