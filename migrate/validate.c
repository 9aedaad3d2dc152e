/* SPDX-License-Identifier: PostgreSQL */
/*
 * After the release: who is connected where, do all routers agree, is the new state on disk, and
 * does a PL/Proxy call land on the target?
 */
#include "base/mem.h"
#include "migrate/commcare.h"
#include "migrate/fence_look.h"
#include "migrate/json.h"
#include "migrate/leftover.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/prepared.h"
#include "migrate/sessions.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define VALIDATE_SQL_MAX ((size_t)4 * 1024 * 1024)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* For a server or router that died: longer than one that is started again at once needs. */
#define VALIDATE_PATIENCE (30 * USEC_PER_SEC)
#define WATCH_EVERY (250 * USEC_PER_MSEC)
#define LOOK_AGAIN (500 * USEC_PER_MSEC)
/* When none of the sessions on the source has ended for so long, none will. */
#define ENDING_PATIENCE (3 * USEC_PER_SEC)

/* Sessions on the source, which get fewer. */
struct ending {
	int64_t least;
	usec_t since;
};

/* Client sessions per shard; ours do not count, nor do autovacuum workers, which have a database
 * too. */
static void sessions_sql(const struct move *move, struct sbuf *sql)
{
	sbuf_add_str(sql, "SELECT d.datname, d.datallowconn, pg_is_in_recovery() AS recovery,"
	                  " (SELECT system_identifier FROM pg_control_system()) AS system,"
	                  " count(a.pid) AS sessions FROM"
	                  " pg_database d LEFT JOIN pg_stat_activity a ON a.datid = d.oid AND"
	                  " a.backend_type = 'client backend' AND a.application_name NOT LIKE"
	                  " 'pgshunt%' WHERE d.datname IN ");
	shards_literals(move, sql);
	sbuf_add_str(sql, " GROUP BY 1, 2, 3, 4 ORDER BY 1");
}

/* Whether, for this reason, it is looked once more: server processes of connections that the
 * proxies had put out of use end after the release. */
static bool still_ending(struct ending *ending, int64_t sessions, bool open)
{
	const usec_t now = clock_now();

	if (ending->since == 0 || sessions < ending->least) {
		ending->since = now;
		ending->least = sessions;
	}
	return sessions > 0 && !open && now - ending->since < ENDING_PATIENCE;
}

/* 1 = as it should be, 0 = not, -1 = could not be asked.  *open: a fence is not there any more. */
static int look_at_source(struct move *move, const char *sql, int64_t *sessions, bool *open)
{
	struct link *link = &move->source.link;

	*sessions = 0;
	*open = false;
	if (!link_revive(move, link) || !link_run(&move->loop, link, ASK_TIMEOUT, sql))
		return -1;
	for (int row = 0; row < link_rows(link); row++) {
		const char *system = link_value(link, row, "system");

		/* A standby by now, or another database system: nobody writes to the old copy. */
		if (link_true(link, row, "recovery") ||
		    (system != NULL && move->system_identifier != NULL &&
		     strcmp(system, move->system_identifier) != 0))
			continue;
		*sessions += link_number(link, row, "sessions", 0);
		*open = *open || link_true(link, row, "datallowconn");
	}
	return *sessions == 0 && !*open;
}

static bool watch(struct move *move)
{
	struct link *target = &move->target.link;
	usec_t end = clock_now() + move->config->mover.validate_seconds * USEC_PER_SEC;
	int64_t on_source = 0;
	int64_t on_target = 0;
	int source_ok;
	struct ending ending = {0, 0};
	bool target_ok;
	bool ends;
	bool open;
	struct sbuf sql;

	sbuf_init(&sql, VALIDATE_SQL_MAX);
	sessions_sql(move, &sql);
	do {
		int64_t now_on_target = 0;

		source_ok = look_at_source(move, sbuf_text(&sql), &on_source, &open);
		target_ok = link_revive(move, target) &&
		            link_run(&move->loop, target, ASK_TIMEOUT, sbuf_text(&sql));
		for (int row = 0; target_ok && row < link_rows(target); row++) {
			now_on_target += link_number(target, row, "sessions", 0);
			target_ok = link_true(target, row, "datallowconn");
		}
		if (on_target < now_on_target)
			on_target = now_on_target;
		ends = source_ok == 0 && still_ending(&ending, on_source, open);
		if ((source_ok == 0 && !ends) || !target_ok)
			break;
		if (ends || clock_now() < end)
			loop_sleep(&move->loop, WATCH_EVERY);
	} while ((ends || clock_now() < end) && *move->loop.stop == 0);
	sbuf_free(&sql);
	json_int(&move->evidence, "sessions_on_source", on_source);
	json_int(&move->evidence, "sessions_on_target", on_target);
	ui_line(move->ui, "  sessions in the shards: %" PRId64 " on %s, %" PRId64 " on %s",
	        on_source, move->source.conf->name, on_target, move->target.conf->name);
	if (open)
		move_problem(move,
		             "%s: somebody lifted the fence; what was written there since is not "
		             "on %s",
		             move->source.conf->name, move->target.conf->name);
	if (on_source > 0)
		move_problem(move, "%s: %" PRId64 " sessions in the shards",
		             move->source.conf->name, on_source);
	if (source_ok < 0)
		ui_error(move->ui, "validate: %s cannot be asked: %s; its copy is fenced",
		         move->source.conf->name, link_error(&move->source.link));
	if (!target_ok)
		move_problem(move, "%s: the shards are not open: %s", target->name,
		             target->error == NULL ? "ALLOW_CONNECTIONS is false" : target->error);
	return source_ok != 0 && target_ok;
}

static bool compare_routes(struct move *move)
{
	struct sbuf error;
	bool ok;

	sbuf_init(&error, 65536);
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];

		proxy->status.done = NULL;
		if (proxy->status.state == LINK_BUSY)
			link_close(&proxy->status);
		(void)!link_revive(move, &proxy->status);
	}
	bouncers_settle(move);
	ok = plan_read_seen(move, &error);
	if (!ok)
		move_problem(move, "%s", sbuf_text(&error));
	sbuf_free(&error);
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		for (size_t j = 0; seen->proxy != NULL && !seen->through && j < move->shard_count;
		     j++) {
			if (strcmp(move->shards[j].dbname, seen->dbname) != 0 ||
			    strcmp(seen->server, move->target.conf->name) == 0)
				continue;
			move_problem(move, "%s sends database %s to %s", seen->proxy->label,
			             seen->database, seen->server);
			ok = false;
		}
	}
	return ok;
}

/* What was opened and closed on the target with an unflushed commit is on disk after this one. */
static bool flush_target(struct move *move)
{
	struct link *link = &move->target.link;

	if (link_revive(move, link) &&
	    link_run(&move->loop, link, ASK_TIMEOUT,
	             "SET synchronous_commit = local;"
	             "SELECT pg_logical_emit_message(true, 'pgshunt', 'opened')"))
		return true;
	move_problem(move, "%s: %s", link->name, link_error(link));
	return false;
}

static bool close_on_target(struct move *move, char **names, size_t count)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	bool ok = true;

	sbuf_init(&sql, VALIDATE_SQL_MAX);
	for (size_t i = 0; i < count; i++) {
		ui_error(move->ui,
		         "validate: database %s was made meanwhile; its copy on %s is closed",
		         names[i], link->name);
		sbuf_add_str(&sql, "ALTER DATABASE ");
		sql_identifier(&sql, names[i]);
		sbuf_add_str(&sql, " ALLOW_CONNECTIONS false;");
	}
	if (count > 0)
		ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		move_problem(move, "%s: %s", link->name, link_error(link));
	return ok;
}

/* Databases that are open on the target; false if it cannot be asked. */
static bool list_open(struct move *move, char ***names, size_t *count)
{
	struct link *link = &move->target.link;

	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, VALIDATE_SQL_MAX);
	promote_others_sql(move, &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok) {
		move_problem(move, "%s: %s", link->name, link_error(link));
		return false;
	}
	for (int row = 0; row < link_rows(link); row++) {
		*names = mem_must_grow(*names, *count + 1, sizeof(**names));
		(*names)[(*count)++] = mem_must_strdup(link_value(link, row, "datname"));
	}
	return true;
}

/* A database that was made on the source while the move ran has a writable copy on the target.  In a
 * resumed move, which may be days later, what is new on the target alone may be wanted. */
static bool fence_strays(struct move *move)
{
	char **names = NULL;
	size_t count = 0;
	bool ok = true;

	if (move->resumed)
		count = promote_open_copies(move, &names);
	else
		ok = list_open(move, &names, &count);
	ok = close_on_target(move, names, count) && ok;
	fence_free_names(names, count);
	return ok;
}

/* The sessions with the target and all routers so far, -1 = one of them is not there now. */
static int64_t count_sessions(const struct move *move)
{
	const struct link *target = &move->target.link;
	bool all = target->state == LINK_IDLE;
	int64_t sessions = target->sessions;

	for (size_t i = 0; i < move->proxy_count; i++) {
		all = all && move->proxies[i].status.state == LINK_IDLE;
		sessions += move->proxies[i].status.sessions;
	}
	for (size_t i = 0; i < move->bouncer_count; i++) {
		all = all && move->bouncers[i].control.state == LINK_IDLE;
		sessions += move->bouncers[i].control.sessions;
	}
	return all ? sessions : -1;
}

static bool look(struct move *move, usec_t deadline)
{
	bool ok = flush_target(move);

	ok = fence_strays(move) && ok;
	ok = prepared_end(move) && ok;
	ok = compare_routes(move) && ok;
	ok = bouncers_validate(move) && ok;
	ok = commcare_validate(move) && ok;
	ok = plproxy_verify(move, deadline) && ok;
	return watch(move) && ok;
}

/* A look during which somebody could not be asked says nothing: one that is not there may just be
 * starting again, and all is looked at anew.  Not if something is to be repaired already. */
bool phase_validate(struct move *move)
{
	usec_t deadline = clock_now() + (move->problems.len == 0 ? VALIDATE_PATIENCE : 0);
	int64_t before;
	bool ok;

	for (;;) {
		before = count_sessions(move);
		ok = look(move, deadline);
		if (ok || (before >= 0 && count_sessions(move) == before) ||
		    clock_now() >= deadline || *move->loop.stop != 0)
			break;
		loop_sleep(&move->loop, LOOK_AGAIN);
		sbuf_reset(&move->evidence);
	}
	sessions_after(move);
	leftover_drop(move);
	outcome_after(move);
	return ok;
}

/* ---- pgshunt validate ---- */

/* The query of the manual procedure, of both servers: who is connected to the shards? */
static bool show_connections(struct move *move, struct link *link)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, VALIDATE_SQL_MAX);
	sbuf_add_str(&sql,
	             "SELECT datname, usename, coalesce(host(client_addr), 'local') AS address,"
	             " application_name, count(*) AS sessions,"
	             " count(*) FILTER (WHERE state = 'active') AS active FROM pg_stat_activity"
	             " WHERE backend_type = 'client backend' AND application_name NOT LIKE"
	             " 'pgshunt%' AND datname IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4");
	ok = link_revive(move, link) && link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_reset(&sql);
	if (!ok)
		move_problem(move, "%s cannot be asked: %s", link->name, link_error(link));
	else
		ui_line(move->ui, "connections on %s:%s", link->name,
		        link_rows(link) == 0 ? " none" : "");
	for (int row = 0; ok && row < link_rows(link); row++) {
		ui_line(move->ui, "  %-24s %-16s %-24s %s sessions, %s active  %s",
		        link_value(link, row, "datname"), link_value(link, row, "usename"),
		        link_value(link, row, "address"), link_value(link, row, "sessions"),
		        link_value(link, row, "active"), link_value(link, row, "application_name"));
		sbuf_reset(&sql);
		json_str(&sql, "server", link->name);
		json_str(&sql, "database", link_value(link, row, "datname"));
		json_str(&sql, "user", link_value(link, row, "usename"));
		json_str(&sql, "address", link_value(link, row, "address"));
		json_str(&sql, "application", link_value(link, row, "application_name"));
		json_int(&sql, "sessions", link_number(link, row, "sessions", 0));
		ui_event(move->ui, "connections", sbuf_text(&sql));
	}
	sbuf_free(&sql);
	return ok;
}

/* The target's copies of what did not move are closed; one that was moved there since is not. */
static bool check_others(struct move *move)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	bool ok = true;

	for (size_t i = 0; i < move->other_count; i++) {
		const struct config_database *database =
		    config_find_database(move->config, move->others[i]);

		sbuf_init(&sql, VALIDATE_SQL_MAX);
		sbuf_add_str(&sql, "SELECT datallowconn FROM pg_database WHERE datname = ");
		sql_literal(&sql, move->others[i]);
		if (!link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql))) {
			move_problem(move, "%s cannot be asked: %s", link->name, link_error(link));
			ok = false;
		} else if (link_true(link, 0, "datallowconn")) {
			move_problem(move,
			             "%s: the fence of its copy of database %s was lifted: whoever "
			             "writes there writes in the wrong place",
			             link->name,
			             database == NULL ? move->others[i] : database->name);
			ok = false;
		}
		sbuf_free(&sql);
	}
	return ok;
}

/* Where the pgbouncers send the shards; read with the routes. */
static bool check_bouncers(struct move *move)
{
	bool ok = true;

	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		for (size_t j = 0; j < move->shard_count; j++) {
			if (seen->bouncer == NULL || seen->through ||
			    strcmp(move->shards[j].dbname, seen->dbname) != 0 ||
			    strcmp(seen->server, move->target.conf->name) == 0)
				continue;
			move_problem(move, "%s sends database %s to %s", seen->bouncer->label,
			             seen->database, seen->server);
			ok = false;
		}
	}
	return ok;
}

static bool check_role(struct move *move)
{
	struct link *link = &move->target.link;

	if (link_run(&move->loop, link, ASK_TIMEOUT, "SELECT pg_is_in_recovery() AS recovery") &&
	    !link_true(link, 0, "recovery"))
		return true;
	move_problem(move, "%s is not a primary: %s", link->name,
	             link_ok(link) ? "it is in recovery" : link_error(link));
	return false;
}

bool validate_look(struct move *move)
{
	bool ok = show_connections(move, &move->source.link);

	ok = show_connections(move, &move->target.link) && ok;
	ok = check_role(move) && ok;
	ok = check_others(move) && ok;
	ok = compare_routes(move) && ok;
	ok = check_bouncers(move) && ok;
	ok = plproxy_verify(move, clock_now()) && ok;
	return watch(move) && ok;
}
