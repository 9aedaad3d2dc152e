/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/seal.h"

#include "base/mem.h"
#include "base/sbuf.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SEAL_SQL_MAX ((size_t)4 * 1024 * 1024)
/* Others are ended: a query has two lists of them, the second with longer rows. */
#define OFFERED_MAX ((size_t)1024 * 1024)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* In an undo, while clients wait: a proxy answers when its sessions have dropped what they have, or
 * after a second. */
#define SEALED_PATIENCE (2 * USEC_PER_SEC)
/* The answer has had the time of a promotion. */
#define LOOK_PATIENCE (500 * USEC_PER_MSEC)
#define POLL_EVERY (2 * USEC_PER_MSEC)

/* What does not move while a session does nothing, as numbers: they have no time zone. */
#define STARTED "(extract(epoch FROM a.backend_start) * 1000000)::int8"
#define CHANGED "(extract(epoch FROM a.state_change) * 1000000)::int8"
#define IDLE "a.backend_type = 'client backend' AND a.state = 'idle' AND a.backend_xid IS NULL"

void seal_send(struct move *move)
{
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];
		struct sbuf sql;

		sbuf_init(&sql, SEAL_SQL_MAX);
		sbuf_add_str(&sql, "SEAL ");
		sql_identifier(&sql, route->database);
		sbuf_printf(&sql, " EPOCH %" PRId64, move->epoch);
		link_send(&route->link, sbuf_text(&sql));
		sbuf_free(&sql);
	}
}

/* An address is told without its zone by pg_stat_activity. */
static void add_offered(struct move *move, const struct link *link, int row, const char *pid)
{
	struct sbuf *offered = &move->seal_offered;
	char *addr;

	if (offered->len > OFFERED_MAX)
		return;
	addr = mem_must_strdup(link_value(link, row, "local_addr"));
	addr[strcspn(addr, "%")] = '\0';
	sbuf_printf(offered, "%s(%" PRId64 ",", offered->len == 0 ? "" : ",",
	            link_number(link, row, pid, 0));
	sql_literal(offered, addr);
	sbuf_printf(offered, "::inet,%" PRId64 ")", link_number(link, row, "local_port", 0));
	free(addr);
}

bool seal_take(struct move *move)
{
	struct link **links = hold_links(move);
	enum wait_end end;
	bool ok = true;

	end = loop_wait(&move->loop, links, move->route_count,
	                clock_now() + move->config->mover.lease / 2, true);
	if (end == WAIT_STOPPED)
		ok = move_fail(move, "interrupted");
	for (size_t i = 0; ok && i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		/* One of an older version does not know the command: its connections end as others
		 * do. */
		if (!link_ok(links[i]) && strcmp(links[i]->sqlstate, "42601") != 0)
			ok = move_fail(move, "%s: SEAL %s: %s", route->proxy->label,
			               route->database, link_error(links[i]));
		for (int row = 0; ok && link_ok(links[i]) && row < link_rows(links[i]); row++)
			add_offered(move, links[i], row, "server_pid");
	}
	free(links);
	return ok;
}

static bool is_of_shards(const struct move *move, const struct proxy *proxy, const char *database)
{
	for (size_t i = 0; database != NULL && i < move->route_count; i++) {
		if (move->routes[i].proxy == proxy &&
		    strcmp(move->routes[i].database, database) == 0)
			return true;
	}
	return false;
}

/* Those of SHOW SERVERS. */
static bool offer_servers(struct move *move, struct proxy *proxy)
{
	struct link *link = &proxy->status;

	if (!link_run(&move->loop, link, ASK_TIMEOUT, "SHOW SERVERS"))
		return move_fail(move, "%s: SHOW SERVERS: %s", proxy->label, link_error(link));
	for (int row = 0; row < link_rows(link); row++) {
		if (is_of_shards(move, proxy, link_value(link, row, "database")) &&
		    link_number(link, row, "local_port", 0) > 0)
			add_offered(move, link, row, "remote_pid");
	}
	return true;
}

static bool offer_all_servers(struct move *move)
{
	bool ok = true;

	sbuf_reset(&move->seal_offered);
	for (size_t i = 0; ok && i < move->proxy_count; i++)
		ok = offer_servers(move, &move->proxies[i]);
	return ok;
}

/* IS TRUE and IS NOT TRUE have the planner make a hash of the list, not compare all with all. */
static void add_offered_ones(const struct move *move, struct sbuf *out)
{
	sbuf_printf(out, "(a.pid, a.client_addr, a.client_port) IN (VALUES %s)",
	            sbuf_text(&move->seal_offered));
}

bool seal_count_possible(struct move *move, int64_t *count)
{
	struct link *source = &move->source.link;
	struct sbuf sql;
	bool ok = offer_all_servers(move);

	*count = 0;
	if (ok && move->seal_offered.len > 0) {
		sbuf_init(&sql, SEAL_SQL_MAX);
		sbuf_add_str(&sql, "SELECT count(*) AS possible FROM pg_stat_activity a WHERE (");
		add_offered_ones(move, &sql);
		sbuf_add_str(&sql, ") IS TRUE AND a.datname IN ");
		shards_literals(move, &sql);
		ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql)) ||
		     move_fail(move, "%s: %s", source->name, link_error(source));
		sbuf_free(&sql);
		*count = ok ? link_number(source, 0, "possible", 0) : 0;
	}
	sbuf_reset(&move->seal_offered);
	return ok;
}

static void add_picked(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, IDLE " AND a.xact_start IS NULL AND ");
	add_offered_ones(move, out);
}

/* One of those, whatever it has done since. */
static void add_known(const struct move *move, struct sbuf *out)
{
	sbuf_printf(out,
	            "((a.pid, " STARTED ") IN (SELECT s.pid, s.started FROM (VALUES %s)"
	            " s(pid, started, changed))) IS TRUE",
	            sbuf_text(&move->sealed));
}

/* The same session, which has done nothing since: nobody has asked it anything.  One that sits idle
 * begins a transaction by itself to read what others have notified, or changed in the catalogs; it
 * has no number then, nor does its state change. */
static void add_unchanged(const struct move *move, struct sbuf *out)
{
	sbuf_printf(out, IDLE " AND (a.pid, " STARTED ", " CHANGED ") IN (VALUES %s)",
	            sbuf_text(&move->sealed));
}

void seal_pick_sql(const struct move *move, struct sbuf *out)
{
	if (move->seal_offered.len == 0)
		return;
	sbuf_add_str(out, "SELECT a.pid, " STARTED " AS started, " CHANGED " AS changed FROM"
	                  " pg_stat_activity a WHERE (");
	add_picked(move, out);
	sbuf_add_str(out, ") IS TRUE AND a.datname IN ");
	shards_literals(move, out);
	sbuf_add_char(out, ';');
}

void seal_know(struct move *move, const struct link *link, int result)
{
	const PGresult *rows = link->results[result];

	for (int row = 0; row < PQntuples(rows); row++)
		sbuf_printf(&move->sealed, "%s(%s,%s,%s)", row == 0 ? "" : ",",
		            PQgetvalue(rows, row, 0), PQgetvalue(rows, row, 1),
		            PQgetvalue(rows, row, 2));
	move->sealed_count = (size_t)PQntuples(rows);
	sbuf_reset(&move->seal_offered);
}

void seal_exclude(const struct move *move, struct sbuf *out)
{
	if (move->seal_offered.len == 0 && move->sealed_count == 0)
		return;
	/* Not true: what may not be seen of a session is null. */
	sbuf_add_str(out, " AND (");
	if (move->sealed_count > 0)
		add_unchanged(move, out);
	else
		add_picked(move, out);
	sbuf_add_str(out, ") IS NOT TRUE");
}

size_t seal_count(const struct move *move)
{
	return move->sealed_count;
}

/* Those that are there, and whether they have done something. */
static void look_sql(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, "SELECT count(*) FILTER (WHERE l.same) AS idle, count(*) AS there,"
	                  " coalesce(string_agg(l.pid::text, ', ') FILTER (WHERE NOT l.same), '') AS"
	                  " others FROM (SELECT a.pid, (");
	add_unchanged(move, out);
	sbuf_add_str(out, ") IS TRUE AS same FROM pg_stat_activity a WHERE ");
	add_known(move, out);
	sbuf_add_str(out, ") l");
}

void seal_look(struct move *move)
{
	struct sbuf sql;

	if (move->sealed_count == 0)
		return;
	sbuf_init(&sql, SEAL_SQL_MAX);
	look_sql(move, &sql);
	link_send(&move->source.link, sbuf_text(&sql));
	sbuf_free(&sql);
}

bool seal_warm(struct move *move)
{
	struct link *source = &move->source.link;
	struct sbuf sql;
	bool ok;

	if (!offer_all_servers(move))
		return false;
	sbuf_init(&sql, SEAL_SQL_MAX);
	seal_pick_sql(move, &sql);
	ok = sql.len == 0 || link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
	if (ok && sql.len > 0)
		seal_know(move, source, 0);
	if (ok && move->sealed_count > 0) {
		sbuf_reset(&sql);
		look_sql(move, &sql);
		ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
	}
	sbuf_free(&sql);
	return ok || move_fail(move, "%s: %s", source->name, link_error(source));
}

void seal_forget(struct move *move)
{
	sbuf_reset(&move->seal_offered);
	sbuf_reset(&move->sealed);
	move->sealed_count = 0;
}

/* After the promotion nothing waits for a source that does not answer. */
static bool await_look(struct move *move)
{
	struct link *link = &move->source.link;
	const bool before = !move->promote_sent;
	enum wait_end end = loop_wait(&move->loop, &link, 1,
	                              clock_now() + (before ? ASK_TIMEOUT : LOOK_PATIENCE), before);

	if (end == WAIT_STOPPED)
		return move_fail(move, "interrupted");
	if (end == WAIT_DEADLINE && !before)
		link_close(link);
	if (link_ok(link))
		return true;
	if (before)
		return move_fail(move, "%s: %s", link->name, link_error(link));
	ui_error(move->ui, "%s: %s", link->name, link_error(link));
	return false;
}

bool seal_prove(struct move *move)
{
	const struct link *link = &move->source.link;

	if (move->sealed_count == 0)
		return true;
	if (!await_look(move))
		return move->promote_sent;
	json_int(&move->evidence, "sealed_idle", link_number(link, 0, "idle", 0));
	if (link_number(link, 0, "idle", 0) == link_number(link, 0, "there", 0))
		return true;
	if (!move->promote_sent)
		return move_fail(move,
		                 "%s: sessions that nobody could use any more have done something "
		                 "after the barrier: processes %s",
		                 link->name, link_value(link, 0, "others"));
	move->sealed_acted = true;
	move_problem(move,
	             "%s: sessions that nobody could use any more have done something after the "
	             "barrier, which may not be on %s: processes %s; compare the shards, then run "
	             "\"pgshunt resume\"",
	             link->name, move->target.link.name, link_value(link, 0, "others"));
	return true;
}

/* Those that were sealed, but not known yet, or known to a mover that has died. */
static void seal_find(struct move *move)
{
	struct link *source = &move->source.link;
	struct link **links = hold_links(move);
	struct sbuf sql;

	sbuf_init(&sql, SEAL_SQL_MAX);
	links_revive(move, links, move->route_count);
	for (size_t i = 0; i < move->route_count; i++) {
		if (links[i]->state != LINK_IDLE)
			continue;
		sbuf_reset(&sql);
		sbuf_add_str(&sql, "SHOW SEALED ");
		sql_identifier(&sql, move->routes[i].database);
		link_send(links[i], sbuf_text(&sql));
	}
	/* Whoever does not answer closes them when its hold is over. */
	(void)!loop_wait(&move->loop, links, move->route_count, clock_now() + SEALED_PATIENCE,
	                 false);
	for (size_t i = 0; i < move->route_count; i++) {
		for (int row = 0; link_ok(links[i]) && row < link_rows(links[i]); row++)
			add_offered(move, links[i], row, "server_pid");
	}
	free(links);
	sbuf_reset(&sql);
	seal_pick_sql(move, &sql);
	if (sql.len > 0 && link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql)))
		seal_know(move, source, 0);
	sbuf_free(&sql);
}

void seal_end(struct move *move)
{
	struct link *link = &move->source.link;
	const usec_t deadline = clock_now() + ASK_TIMEOUT;
	struct sbuf sql;
	bool ok;

	if (move->sealed_count == 0)
		seal_find(move);
	if (move->sealed_count == 0)
		return;
	sbuf_init(&sql, SEAL_SQL_MAX);
	sbuf_add_str(&sql, "SELECT count(pg_terminate_backend(a.pid)) AS left FROM"
	                   " pg_stat_activity a WHERE ");
	add_known(move, &sql);
	while ((ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql))) &&
	       link_number(link, 0, "left", 0) > 0 && clock_now() < deadline)
		loop_sleep(&move->loop, POLL_EVERY * (1 + link_number(link, 0, "left", 0) / 8));
	sbuf_free(&sql);
	if (ok)
		seal_forget(move);
}
