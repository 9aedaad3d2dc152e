/* SPDX-License-Identifier: PostgreSQL */
/*
 * The part of a rehearsal that the proxies take part in: connections, the answer times of the
 * consoles, and how long transactions take to end.
 */
#include "base/mem.h"
#include "migrate/guard.h"
#include "migrate/pgbouncer.h"
#include "migrate/rehearse.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CONSOLE_SAMPLES 10
/* Between two samples: holds must not line up. */
#define PAUSE_BETWEEN (200 * USEC_PER_MSEC)
#define WATCH_POLL (5 * USEC_PER_MSEC)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define LEASE_MSEC 2000
#define SERVER_SQL_MAX ((size_t)4 * 1024 * 1024)

/* ---- connections ---- */

bool rehearse_command(struct move *move, const char *verb, const char *rest, usec_t timeout)
{
	struct link **links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));
	bool ok = true;

	for (size_t i = 0; i < move->route_count; i++) {
		struct sbuf sql;

		links[i] = &move->routes[i].link;
		sbuf_init(&sql, 4096);
		sbuf_printf(&sql, "%s ", verb);
		sql_identifier(&sql, move->routes[i].database);
		sbuf_add_str(&sql, rest);
		link_send(links[i], sbuf_text(&sql));
		sbuf_free(&sql);
	}
	(void)!loop_wait(&move->loop, links, move->route_count, clock_now() + timeout, false);
	for (size_t i = 0; i < move->route_count; i++)
		ok = ok && link_ok(links[i]);
	free(links);
	return ok;
}

/* As the move will open them; they stay until the end. */
bool rehearse_connections(struct move *move, struct prediction *prediction)
{
	usec_t began = clock_now();
	struct sbuf rest;
	bool ok;

	sbuf_init(&rest, 4096);
	sbuf_add_str(&rest, " TO ");
	sql_identifier(&rest, move->target.conf->name);
	ok = rehearse_command(move, "PREPARE SWAP", sbuf_text(&rest), 12 * ASK_TIMEOUT);
	sbuf_free(&rest);
	prediction->connect = clock_now() - began;
	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		prediction->connections += link_number(&route->link, 0, "connections", 0);
		if (!link_ok(&route->link))
			return move_fail(move, "%s: PREPARE SWAP %s: %s", route->proxy->label,
			                 route->database, link_error(&route->link));
	}
	return ok;
}

/* What RELOAD and RESUME cost at least. */
static bool ask_entries(struct move *move)
{
	bool any = false;

	for (size_t i = 0; i < move->entry_count; i++) {
		struct link *link = &move->entries[i].link;

		if (!move->entries[i].change)
			continue;
		any = true;
		if (!link_run(&move->loop, link, ASK_TIMEOUT, "SHOW DATABASES") ||
		    !link_run(&move->loop, link, ASK_TIMEOUT, "SHOW DATABASES"))
			return false;
	}
	return any;
}

void rehearse_console(struct move *move, struct prediction *prediction)
{
	for (int i = 0; i < CONSOLE_SAMPLES; i++) {
		usec_t began = clock_now();

		if (move->route_count > 0 && rehearse_command(move, "RELEASE", "", ASK_TIMEOUT))
			samples_add(&prediction->console, clock_now() - began);
		else if (move->route_count == 0 && ask_entries(move))
			samples_add(&prediction->console, clock_now() - began);
	}
}

/* ---- the drain ---- */

/* One that did not end counts with the limit: it is at least that. */
static void add_drain(struct prediction *prediction, bool drained, usec_t time)
{
	samples_add(&prediction->drain, drained ? time : prediction->drain_limit);
	if (!drained)
		prediction->undrained++;
}

static bool entry_command(struct move *move, struct bouncer_entry *entry, const char *verb,
                          bool wait)
{
	struct sbuf sql;
	bool ok = true;

	sbuf_init(&sql, 4096);
	sbuf_printf(&sql, "%s ", verb);
	sql_identifier(&sql, entry->name);
	if (wait)
		ok = link_run(&move->loop, &entry->link, ASK_TIMEOUT, sbuf_text(&sql));
	else
		link_send(&entry->link, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

/* The pgbouncers go on.  A PAUSE that still waits is given up with its connection; that it was
 * never drained does not matter to RESUME. */
static bool resume_entries(struct move *move)
{
	bool ok = true;

	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!entry->change)
			continue;
		if (entry->link.state == LINK_BUSY)
			link_close(&entry->link);
		if (bouncer_link(move, entry->bouncer, &entry->link) &&
		    (entry_command(move, entry, "RESUME", true) || entry->link.state == LINK_IDLE))
			continue;
		ok = move_fail(move,
		               "%s: RESUME %s: %s; it is resumed within mover.lease if it can be "
		               "reached",
		               entry->bouncer->label, entry->name, link_error(&entry->link));
	}
	return ok;
}

/* A pause of all entries that is ended as soon as they are drained.  It has no lease of its own:
 * the guard resumes if we die. */
static bool sample_pause(struct move *move, usec_t limit, bool *drained, usec_t *took)
{
	struct link **links = mem_must_alloc((move->entry_count + 1) * sizeof(struct link *));
	usec_t began = clock_now();
	size_t count = 0;
	bool ok = true;

	guard_renew(move);
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!entry->change)
			continue;
		(void)entry_command(move, entry, "PAUSE", false);
		links[count++] = &entry->link;
	}
	*drained = loop_wait(&move->loop, links, count, began + limit, false) == WAIT_DONE;
	*took = clock_now() - began;
	for (size_t i = 0; i < count; i++) {
		if (links[i]->state != LINK_BUSY && !link_ok(links[i]))
			ok = move_fail(move, "%s: PAUSE: %s", links[i]->name, link_error(links[i]));
	}
	free(links);
	return resume_entries(move) && ok;
}

static bool any_behind(const struct move *move)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		if (move->entries[i].change && move->entries[i].behind)
			return true;
	}
	return false;
}

/* A hold of all routes that is released as soon as it is drained. */
static bool hold_routes(struct move *move, struct prediction *prediction, bool *drained_out,
                        usec_t *took)
{
	usec_t began = clock_now();
	struct sbuf rest;
	bool drained;

	sbuf_init(&rest, 256);
	sbuf_printf(&rest, " EPOCH %" PRId64 " LEASE %dms DRAIN %" PRId64 "ms POLICY abort",
	            move->epoch, LEASE_MSEC, prediction->drain_limit / USEC_PER_MSEC);
	drained =
	    rehearse_command(move, "HOLD", sbuf_text(&rest), prediction->drain_limit + ASK_TIMEOUT);
	*drained_out = drained;
	*took = clock_now() - began;
	sbuf_reset(&rest);
	sbuf_printf(&rest, " EPOCH %" PRId64, move->epoch);
	move->epoch++;
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		/* The drain deadline is what is being looked for; anything else is trouble. */
		if (!link_ok(&route->link) && strcmp(route->link.sqlstate, "55P03") != 0)
			(void)move_fail(move, "%s: HOLD %s: %s", route->proxy->label,
			                route->database, link_error(&route->link));
		if (route->link.state != LINK_IDLE)
			(void)!link_revive(move, &route->link);
	}
	if (!rehearse_command(move, "RELEASE", sbuf_text(&rest), ASK_TIMEOUT) && drained)
		(void)move_fail(move, "a hold could not be released; it ends by itself in %d s",
		                LEASE_MSEC / 1000);
	sbuf_free(&rest);
	return move->failure == NULL;
}

/* Both, one after the other, so that no client waits longer than rehearse_hold.  In the move they
 * are at the same time, but for pgbouncers behind a proxy. */
static bool sample_hold(struct move *move, struct prediction *prediction)
{
	bool held = true;
	bool paused = true;
	usec_t hold = 0;
	usec_t pause = 0;
	usec_t took;

	if (move->route_count > 0 && !hold_routes(move, prediction, &held, &hold))
		return false;
	if (bouncers_involved(move) &&
	    !sample_pause(move, prediction->drain_limit, &paused, &pause))
		return false;
	took = any_behind(move) ? hold + pause : hold > pause ? hold : pause;
	add_drain(prediction, held && paused, took);
	return true;
}

/* Whether a client of the first look is still in the transaction it was in then. */
static bool still_there(const struct link *link, char *const *first, size_t count, usec_t elapsed)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *id = link_value(link, row, "client_id");
		usec_t age = link_number(link, row, "age_ms", 0) * USEC_PER_MSEC;

		/* A millisecond is lost by rounding. */
		for (size_t i = 0; id != NULL && i < count; i++) {
			if (strcmp(first[i], id) == 0 && age + USEC_PER_MSEC >= elapsed)
				return true;
		}
	}
	return false;
}

/* How long those transactions last that are open now in one route. */
static bool watch_route(struct move *move, struct route *route, usec_t limit, usec_t *lasted)
{
	struct link *link = &route->link;
	usec_t began = clock_now();
	char **first = NULL;
	size_t count;
	struct sbuf sql;
	bool there;
	bool ok;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SHOW BLOCKERS ");
	sql_identifier(&sql, route->database);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	count = ok ? (size_t)link_rows(link) : 0;
	first = mem_must_alloc((count + 1) * sizeof(*first));
	for (size_t i = 0; i < count; i++)
		first[i] = mem_must_strdup(link_value(link, (int)i, "client_id"));
	there = count > 0;
	*lasted = 0;
	while (ok && there && *lasted < limit && !move_stopped(move)) {
		loop_sleep(&move->loop, WATCH_POLL);
		ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
		*lasted = clock_now() - began;
		there = still_there(link, first, count, *lasted);
	}
	for (size_t i = 0; i < count; i++)
		free(first[i]);
	free(first);
	sbuf_free(&sql);
	return ok || move_fail(move, "%s: %s", route->proxy->label, link_error(link));
}

static bool sample_watching(struct move *move, struct prediction *prediction)
{
	usec_t longest = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		usec_t lasted;

		if (!watch_route(move, &move->routes[i], prediction->drain_limit, &lasted))
			return false;
		if (lasted > longest)
			longest = lasted;
	}
	add_drain(prediction, longest < prediction->drain_limit, longest);
	return true;
}

/* How long those transactions last that are open now in the shards on the source: where no proxy
 * can be asked. */
static bool sample_server(struct move *move, struct prediction *prediction)
{
	struct link *source = &move->source.link;
	usec_t began = clock_now();
	usec_t lasted = 0;
	struct sbuf sql;
	bool ok;
	int64_t left = 0;

	sbuf_init(&sql, SERVER_SQL_MAX);
	sbuf_add_str(&sql, "SELECT pid, xact_start::text AS since FROM pg_stat_activity WHERE"
	                   " backend_type = 'client backend' AND xact_start IS NOT NULL AND"
	                   " application_name NOT LIKE 'pgshunt%' AND datname IN ");
	shards_literals(move, &sql);
	ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_reset(&sql);
	sbuf_add_str(&sql,
	             "SELECT count(*) AS left FROM pg_stat_activity WHERE (pid, xact_start) IN"
	             " (VALUES (0, NULL::timestamptz)");
	for (int row = 0; ok && row < link_rows(source); row++, left++) {
		sbuf_printf(&sql, ",(%s,", link_value(source, row, "pid"));
		sql_literal(&sql, link_value(source, row, "since"));
		sbuf_add_str(&sql, "::timestamptz)");
	}
	sbuf_add_char(&sql, ')');
	while (ok && left > 0 && lasted < prediction->drain_limit && !move_stopped(move)) {
		loop_sleep(&move->loop, WATCH_POLL);
		ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
		left = link_number(source, 0, "left", 0);
		lasted = clock_now() - began;
	}
	sbuf_free(&sql);
	if (!ok)
		return move_fail(move, "%s: %s", source->name, link_error(source));
	add_drain(prediction, left == 0, lasted);
	return true;
}

bool rehearse_drain(struct move *move, struct prediction *prediction)
{
	const struct config_mover *conf = &move->config->mover;

	bool (*sample)(struct move *, struct prediction *);

	prediction->held =
	    conf->rehearse_hold > 0 && (move->route_count > 0 || bouncers_involved(move));
	/* pg_stat_activity has the transactions of both. */
	sample = prediction->held                                    ? sample_hold
	         : move->route_count == 0 || bouncers_involved(move) ? sample_server
	                                                             : sample_watching;
	if (prediction->held && !guard_start(move))
		return false;
	prediction->drain_limit = prediction->held ? conf->rehearse_hold : conf->hold_timeout;
	for (int64_t i = 0; i < conf->rehearse_samples; i++) {
		if (move_stopped(move))
			return move_fail(move, "interrupted");
		ui_status(move->ui, "transactions end: sample %" PRId64 " of %" PRId64, i + 1,
		          (int64_t)conf->rehearse_samples);
		if (!sample(move, prediction))
			return false;
		loop_sleep(&move->loop, PAUSE_BETWEEN);
	}
	ui_status_clear(move->ui);
	return guard_await_end(move, clock_now() + conf->lease);
}
