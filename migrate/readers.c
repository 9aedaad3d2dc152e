/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/readers.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define READERS_SQL_MAX ((size_t)4 * 1024 * 1024)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define POLL_EVERY (2 * USEC_PER_MSEC)
/* Who has not ended by then gets another SIGTERM. */
#define AGAIN_EVERY 50
/* A connection may end between two questions; those that stay are where they are. */
#define PROOF_LOOKS 10
#define PROOF_EVERY (100 * USEC_PER_MSEC)

static void know(struct move *move, int64_t pid)
{
	move->target_pids = mem_must_grow(move->target_pids, move->target_pid_count + 1,
	                                  sizeof(*move->target_pids));
	move->target_pids[move->target_pid_count++] = pid;
}

static bool is_route(const struct move *move, const struct proxy *proxy, const char *database)
{
	for (size_t i = 0; i < move->route_count; i++) {
		if (move->routes[i].proxy == proxy &&
		    strcmp(move->routes[i].database, database) == 0)
			return true;
	}
	return false;
}

/* The connections that a proxy has opened for the swap: those of the routes that are held. */
static bool ask_proxy(struct move *move, struct proxy *proxy)
{
	struct link *link = &proxy->status;

	/* What the tick asked last. */
	(void)!loop_wait(&move->loop, &link, 1, clock_now() + ASK_TIMEOUT, false);
	if (!link_run(&move->loop, link, ASK_TIMEOUT, "SHOW SERVERS"))
		return move_fail(move, "%s: SHOW SERVERS: %s", proxy->label, link_error(link));
	for (int row = 0; row < link_rows(link); row++) {
		const char *server = link_value(link, row, "server");
		const char *database = link_value(link, row, "database");

		if (server != NULL && database != NULL &&
		    strcmp(server, move->target.conf->name) == 0 && is_route(move, proxy, database))
			know(move, link_number(link, row, "remote_pid", 0));
	}
	return true;
}

/* Where a pgbouncer stands between the proxies and the target, the sessions are its own.  Asked on
 * a connection of its own, because the control connection is the tick's. */
static bool ask_bouncer(struct move *move, struct bouncer *bouncer)
{
	struct link link;
	bool ok;

	link_init(&link, bouncer->label, &bouncer->target);
	ok = bouncer_link(move, bouncer, &link) &&
	     link_run(&move->loop, &link, ASK_TIMEOUT, "SHOW SERVERS");
	if (!ok)
		(void)move_fail(move, "%s: SHOW SERVERS: %s", bouncer->label, link_error(&link));
	for (int row = 0; ok && row < link_rows(&link); row++) {
		const char *database = link_value(&link, row, "database");

		for (size_t i = 0; database != NULL && i < move->entry_count; i++) {
			const struct bouncer_entry *entry = &move->entries[i];

			if (entry->bouncer == bouncer && !entry->change &&
			    strcmp(entry->name, database) == 0)
				know(move, link_number(&link, row, "remote_pid", 0));
		}
	}
	link_close(&link);
	return ok;
}

bool readers_know(struct move *move)
{
	const struct config_server *target = move->target.conf;

	move->target_pid_count = 0;
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].inside.conn != NULL)
			know(move, PQbackendPID(move->shards[i].inside.conn));
	}
	for (size_t i = 0; i < move->proxy_count; i++) {
		if (!ask_proxy(move, &move->proxies[i]))
			return false;
	}
	move->proxy_pid_count = move->target_pid_count;
	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (bouncer_listens(move, &move->bouncers[i], target->host, target->port) &&
		    !ask_bouncer(move, &move->bouncers[i]))
			return false;
	}
	return true;
}

/* The processes whose numbers are the target's own: a pgbouncer on the way gives its clients, the
 * proxies, others. */
static void provable(const struct move *move, size_t *first, size_t *end)
{
	const struct config_server *target = move->target.conf;
	bool direct =
	    target->port == target->admin_port && strcmp(target->host, target->admin_host) == 0;

	*first = 0;
	*end = direct ? move->proxy_pid_count : 0;
	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (!bouncer_listens(move, &move->bouncers[i], target->host, target->port))
			continue;
		*first = move->proxy_pid_count;
		*end = move->target_pid_count;
	}
}

bool readers_prove(struct move *move)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	size_t first;
	size_t end;
	bool ok;

	for (int look = 0; look < PROOF_LOOKS; look++) {
		if (look > 0) {
			loop_sleep(&move->loop, PROOF_EVERY);
			if (!readers_know(move))
				return false;
		}
		provable(move, &first, &end);
		sbuf_init(&sql, READERS_SQL_MAX);
		sbuf_add_str(&sql, "SELECT count(*) AS missing, left(string_agg(p.pid::text, ', '),"
		                   " 100) AS pids FROM unnest('{0");
		for (size_t i = first; i < end; i++)
			sbuf_printf(&sql, ",%" PRId64, move->target_pids[i]);
		sbuf_add_str(&sql, "}'::int[]) p(pid) WHERE p.pid <> 0 AND NOT EXISTS (SELECT FROM"
		                   " pg_stat_activity a WHERE a.pid = p.pid)");
		ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
		sbuf_free(&sql);
		if (!ok)
			return move_fail(move, "%s: %s", link->name, link_error(link));
		if (link_number(link, 0, "missing", 1) == 0)
			return true;
	}
	return move_fail(move,
	                 "connections that routers have opened to %s are not there (process %s): "
	                 "what they call %s is another server; compare servers.%s, or the host of "
	                 "the pgbouncer's entry, with the mover's",
	                 link->name, link_value(link, 0, "pids"), link->name, link->name);
}

void readers_known(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, "'{0");
	for (size_t i = 0; i < move->target_pid_count; i++)
		sbuf_printf(out, ",%" PRId64, move->target_pids[i]);
	sbuf_add_str(out, "}'::int[]");
}

static void add_condition(const struct move *move, struct sbuf *sql, const char *name,
                          const char *pid)
{
	sbuf_printf(sql, "%s IN ", name);
	shards_literals(move, sql);
	sbuf_printf(sql, " AND %s <> ALL (", pid);
	readers_known(move, sql);
	sbuf_printf(sql, ") AND %s <> ALL (", pid);
	verify_spared(move, TARGET, sql);
	sbuf_add_char(sql, ')');
}

/*
 * Who is starting, and passed the fence before it was replayed, holds a lock on the database until
 * it is in pg_stat_activity; it is in one of the two at every moment, and the locks are looked at
 * first.
 */
static void readers_sql(const struct move *move, bool end, struct sbuf *sql)
{
	sbuf_add_str(sql, "SELECT (SELECT count(*) FROM pg_locks l JOIN pg_database d ON"
	                  " d.oid = l.objid WHERE l.locktype = 'object' AND"
	                  " l.classid = 'pg_database'::regclass AND ");
	add_condition(move, sql, "d.datname", "l.pid");
	sbuf_add_str(sql, ") AS starting, sessions, ended, who FROM (SELECT count(*) AS sessions,"
	                  " string_agg(DISTINCT usename || ' from ' || coalesce(host(client_addr),"
	                  " 'its own machine') || ' (' || application_name || ')', ', ') AS who,");
	sbuf_add_str(sql, end ? " count(*) FILTER (WHERE pg_terminate_backend(pid)) AS ended"
	                      : " 0 AS ended");
	sbuf_add_str(sql, " FROM pg_stat_activity WHERE backend_type <> 'autovacuum worker' AND ");
	add_condition(move, sql, "datname", "pid");
	sbuf_add_str(sql, ") s");
}

static void send_look(struct move *move, bool end)
{
	struct sbuf sql;

	sbuf_init(&sql, READERS_SQL_MAX);
	readers_sql(move, end, &sql);
	link_send(&move->target.link, sbuf_text(&sql));
	sbuf_free(&sql);
}

void readers_send(struct move *move)
{
	send_look(move, false);
}

/* How many are left; -1 after move_fail(). */
static int64_t await_look(struct move *move)
{
	struct link *link = &move->target.link;
	enum wait_end end =
	    loop_wait(&move->loop, &link, 1, clock_now() + ASK_TIMEOUT, !move->promote_sent);

	if (end == WAIT_STOPPED) {
		(void)move_fail(move, "interrupted");
		return -1;
	}
	if (!link_ok(link)) {
		(void)move_fail(move, "%s: %s", link->name, link_error(link));
		return -1;
	}
	return link_number(link, 0, "sessions", 1) + link_number(link, 0, "starting", 1);
}

bool readers_warm(struct move *move)
{
	readers_send(move);
	return await_look(move) >= 0;
}

static bool end_all(struct move *move, usec_t deadline)
{
	struct link *link = &move->target.link;
	int64_t left;

	for (int look = 0;; look++) {
		send_look(move, look % AGAIN_EVERY == 0);
		left = await_look(move);
		if (left < 0)
			return false;
		if (look == 0) {
			const char *who = link_value(link, 0, "who");

			json_int(&move->evidence, "readers_ended",
			         link_number(link, 0, "ended", 0));
			json_str(&move->evidence, "readers", who == NULL ? "" : who);
		}
		if (left == 0)
			return true;
		if (clock_now() >= deadline)
			return move_fail(move,
			                 "%" PRId64 " sessions that read the shards on %s did not "
			                 "end",
			                 left, link->name);
		loop_sleep(&move->loop, POLL_EVERY);
	}
}

bool readers_end(struct move *move, usec_t deadline)
{
	struct link *link = &move->target.link;
	int64_t left = await_look(move);

	if (left <= 0)
		return left == 0;
	/* A router may have opened more since it was asked. */
	if (!readers_know(move))
		return false;
	readers_send(move);
	left = await_look(move);
	if (left <= 0)
		return left == 0;
	if (!move->config->mover.end_readers && !move->promote_sent) {
		const char *who = link_value(link, 0, "who");

		return move_fail(move,
		                 "%" PRId64 " sessions read the shards on %s, could write after "
		                 "its promotion, and mover.end_readers is off: %s",
		                 left, link->name, who == NULL ? "they are just starting" : who);
	}
	return end_all(move, deadline);
}

bool readers_end_late(struct move *move, usec_t deadline)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	bool open;

	sbuf_init(&sql, READERS_SQL_MAX);
	sbuf_add_str(&sql, "SELECT count(*) AS open FROM pg_database WHERE datallowconn AND"
	                   " datname IN ");
	shards_literals(move, &sql);
	if (!link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql))) {
		sbuf_free(&sql);
		return move_fail(move, "%s: %s", link->name, link_error(link));
	}
	sbuf_free(&sql);
	open = link_number(link, 0, "open", 1) > 0;
	if (open)
		return true;
	readers_send(move);
	return readers_end(move, deadline);
}

char *readers_delaying(struct move *move, bool end)
{
	struct link *link = &move->target.link;
	char *who = NULL;
	struct sbuf sql;

	sbuf_init(&sql, READERS_SQL_MAX);
	sbuf_printf(&sql,
	            "SELECT left(string_agg(DISTINCT usename || ' from ' || coalesce("
	            "host(client_addr), 'its own machine') || ' (' || application_name ||"
	            " ') in database ' || datname, ', '), 1000) AS who%s FROM pg_stat_activity"
	            " WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND"
	            " pid <> pg_backend_pid() AND EXISTS (SELECT FROM pg_stat_activity WHERE"
	            " backend_type = 'startup' AND (wait_event LIKE 'RecoveryConflict%%' OR"
	            " wait_event_type IN ('Lock', 'BufferPin'))) AND pid <> ALL (",
	            end ? ", count(pg_terminate_backend(pid)) AS ended" : "");
	readers_known(move, &sql);
	sbuf_add_str(&sql, ") AND pid <> ALL (");
	verify_spared(move, TARGET, &sql);
	sbuf_add_char(&sql, ')');
	if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)) &&
	    link_value(link, 0, "who") != NULL)
		who = mem_must_strdup(link_value(link, 0, "who"));
	sbuf_free(&sql);
	return who;
}
