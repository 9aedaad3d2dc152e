/* SPDX-License-Identifier: PostgreSQL */
/*
 * The clients: prepare, hold, swap and release through the consoles of the proxies.
 *
 * Every route has a connection of its own, so that the commands for all databases of all proxies
 * are under way at once.  The status connection of each proxy renews the leases meanwhile.
 */
#include "base/mem.h"
#include "migrate/guard.h"
#include "migrate/identity.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/read_only.h"
#include "migrate/readers.h"
#include "migrate/sessions.h"
#include "migrate/unlogged.h"
#include "migrate/verify.h"
#include "migrate/watch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND_MAX 4096
/* How often leases are renewed within one, and how often progress is asked for. */
#define RENEWALS_PER_LEASE 4
#define PROGRESS_EVERY (200 * USEC_PER_MSEC)
/* What a proxy may take beyond the drain deadline to say that it passed. */
#define HOLD_GRACE (3 * USEC_PER_SEC)
/* A proxy that does not answer in the hold must not keep the clients of the others waiting. */
#define CONSOLE_PATIENCE (500 * USEC_PER_MSEC)
/* Shorter stops before the hold are nothing that the checks would not go through, too. */
#define STOPPED_MIN (3 * USEC_PER_SEC)
/* So long may one connection to the target take in the preparation: nobody waits for it. */
#define PREPARE_EACH (100 * USEC_PER_MSEC)
/* With a transaction that is open for longer, sessions are not let leave their servers. */
#define LEAVE_OPEN_MAX "interval '1 second'"
/* SWAP … SESSIONS takes no longer than that; others wait for the answer. */
#define SESSIONS_PATIENCE (5 * USEC_PER_SEC)
/* Looks for a failure among many answers that often. */
#define FAILURE_SLICE (5 * USEC_PER_MSEC)

/* "VERB db" */
static void begin_command(struct sbuf *sql, const char *verb, const struct route *route)
{
	sbuf_init(sql, COMMAND_MAX);
	sbuf_printf(sql, "%s ", verb);
	sql_identifier(sql, route->database);
}

static void send_command(struct link *link, struct sbuf *sql)
{
	link_send(link, sbuf_text(sql));
	sbuf_free(sql);
}

struct link **hold_links(struct move *move)
{
	struct link **links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));

	for (size_t i = 0; i < move->route_count; i++)
		links[i] = &move->routes[i].link;
	return links;
}

/* ---- lease and progress ---- */

static void read_holds(struct move *move, struct proxy *proxy)
{
	for (int row = 0; row < link_rows(&proxy->status); row++) {
		const char *database = link_value(&proxy->status, row, "database");

		for (size_t i = 0; database != NULL && i < move->route_count; i++) {
			struct route *route = &move->routes[i];

			if (route->proxy != proxy || strcmp(route->database, database) != 0)
				continue;
			route->active = link_number(&proxy->status, row, "active", 0);
			route->waiting = link_number(&proxy->status, row, "held", 0);
		}
	}
}

static void on_status(struct link *link, void *arg)
{
	struct move *move = arg;

	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];

		if (&proxy->status != link)
			continue;
		if (proxy->asked == PROXY_ASKED_RENEW && !link_ok(link) && !move->hold_lost) {
			move->hold_lost = true;
			(void)move_fail(move, "%s: the hold could not be renewed: %s", proxy->label,
			                link_error(link));
		} else if (proxy->asked == PROXY_ASKED_HOLDS && link_ok(link)) {
			read_holds(move, proxy);
		}
		proxy->asked = PROXY_ASKED_NOTHING;
	}
}

static void renew_next(struct move *move, struct proxy *proxy)
{
	for (; proxy->renew_next < move->route_count; proxy->renew_next++) {
		const struct route *route = &move->routes[proxy->renew_next];
		struct sbuf sql;

		/* While HOLD itself is under way its lease is young. */
		if (route->proxy != proxy || !route->held)
			continue;
		begin_command(&sql, "RENEW", route);
		sbuf_printf(&sql, " EPOCH %" PRId64 " LEASE %" PRId64 "ms", move->epoch,
		            move->config->mover.lease / USEC_PER_MSEC);
		proxy->asked = PROXY_ASKED_RENEW;
		proxy->renew_next++;
		send_command(&proxy->status, &sql);
		return;
	}
	proxy->renew_next = 0;
	proxy->renewed_at = clock_now();
}

static void draw(struct move *move, usec_t now)
{
	size_t drained = 0;
	int64_t waiting = 0;
	int64_t active = 0;

	if (now - move->drawn_at < 100 * USEC_PER_MSEC || move->journal.id == NULL)
		return;
	move->drawn_at = now;
	for (size_t i = 0; i < move->route_count; i++) {
		drained += move->routes[i].drained ? 1 : 0;
		waiting += move->routes[i].waiting;
		active += move->routes[i].active;
	}
	ui_status(move->ui,
	          "%-18s %6.1f s   lag %" PRId64 " bytes   drained %zu/%zu   active %" PRId64
	          "   held %" PRId64,
	          phase_row(move->phase)->title,
	          (double)(now - move->times[move->phase].began) / (double)USEC_PER_SEC, move->lag,
	          drained, move->route_count, active, waiting);
}

void hold_tick(void *arg)
{
	struct move *move = arg;
	usec_t now = clock_now();

	if (move_continued() && now - move->ticked_at >= STOPPED_MIN)
		move->was_stopped = true;
	move->ticked_at = now;
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];
		bool due =
		    now - proxy->renewed_at >= move->config->mover.lease / RENEWALS_PER_LEASE;

		if (proxy->status.state != LINK_IDLE || move->phase < PHASE_HOLD ||
		    move->promote_sent || move->undoing || proxy->renewed_at == 0)
			continue;
		if (!move->lease_none && (due || proxy->renew_next > 0)) {
			renew_next(move, proxy);
		} else if (move->phase == PHASE_HOLD && now - proxy->polled_at >= PROGRESS_EVERY) {
			proxy->polled_at = now;
			proxy->asked = PROXY_ASKED_HOLDS;
			link_send(&proxy->status, "SHOW HOLDS");
		}
	}
	bouncers_tick(move);
	guard_renew(move);
	watch_renew(move);
	draw(move, now);
}

/* ---- prepare ---- */

/* A proxy that does not answer may itself be waiting for one of the servers: that one is named. */
static bool servers_answer(struct move *move)
{
	struct link *servers[] = {&move->source.link, &move->target.link};

	for (size_t i = 0; i < ARRAY_LEN(servers); i++) {
		if (!link_run(&move->loop, servers[i], move->config->mover.connect_timeout,
		              "SELECT"))
			return move_fail(move, "%s: %s", servers[i]->name, link_error(servers[i]));
	}
	return true;
}

/* Whether the hold will probably be drained soon.  If not, it may be given up, and what sessions
 * that leave their servers save is nothing against its length.  *count: so many connections there
 * may be to open at the target.  False: the source does not answer. */
static bool sessions_may_leave(struct move *move, bool *leave, int64_t *count)
{
	struct link *source = &move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, COMMAND_MAX * (1 + move->shard_count));
	sbuf_add_str(
	    &sql, "SELECT count(*) FILTER (WHERE xact_start < clock_timestamp() - " LEAVE_OPEN_MAX
	          ") AS open, count(*) AS sessions FROM pg_stat_activity WHERE backend_type ="
	          " 'client backend' AND datname IN ");
	shards_literals(move, &sql);
	ok = link_run(&move->loop, source, move->config->mover.connect_timeout, sbuf_text(&sql));
	sbuf_free(&sql);
	*leave = ok && link_number(source, 0, "open", 1) == 0;
	*count = ok ? link_number(source, 0, "sessions", 0) : 0;
	return ok || move_fail(move, "%s: %s", source->name, link_error(source));
}

/* No CHECKPOINT on either server: since PostgreSQL 9.3 a promotion does not wait for one (it ends
 * recovery with a record and lets the checkpointer begin afterwards), while the full page images
 * that follow one on the source slow the standby down just when it matters. */
bool phase_prepare(struct move *move)
{
	struct link **links = hold_links(move);
	int64_t sessions;
	enum wait_end end;
	bool leave;
	bool ok = true;

	if (!read_only_begin(move) || !sessions_may_leave(move, &leave, &sessions)) {
		free(links);
		return false;
	}
	plproxy_prepare(move);
	for (size_t i = 0; i < move->proxy_count; i++) {
		move->proxies[i].status.done = on_status;
		move->proxies[i].status.arg = move;
	}
	for (size_t i = 0; i < move->route_count; i++) {
		struct sbuf sql;

		begin_command(&sql, "PREPARE SWAP", &move->routes[i]);
		sbuf_add_str(&sql, " TO ");
		sql_identifier(&sql, move->target.conf->name);
		sbuf_printf(&sql, " EPOCH %" PRId64 "%s", move->epoch,
		            leave ? " LEAVE SEAL" : " SEAL");
		send_command(links[i], &sql);
		loop_apart(&move->loop, links[i]);
	}
	end = loop_wait(
	    &move->loop, links, move->route_count,
	    clock_now() + 4 * move->config->mover.connect_timeout + sessions * PREPARE_EACH, true);
	if (end == WAIT_STOPPED) {
		free(links);
		return move_fail(move, "interrupted");
	}
	if (end == WAIT_DEADLINE)
		ok = servers_answer(move);
	json_open(&move->evidence, "connections", '[');
	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		json_int(&move->evidence, NULL, link_number(links[i], 0, "connections", 0));
		if (!link_ok(links[i]))
			ok = move_fail(move, "%s: PREPARE SWAP %s: %s", route->proxy->label,
			               route->database, link_error(links[i]));
		else if (link_number(links[i], 0, "failed", 0) > 0)
			ok =
			    move_fail(move,
			              "%s: %" PRId64 " of its connections for %s to %s failed; see "
			              "the proxy's log",
			              route->proxy->label, link_number(links[i], 0, "failed", 0),
			              route->database, move->target.conf->name);
	}
	json_close(&move->evidence, ']');
	free(links);
	outcome_before(move);
	if (!ok || !identity_prove(move))
		return false;
	sessions_prepare(move);
	return (move->verify == NULL || verify_prepare(move->verify)) &&
	       bouncer_files_prepare(move) && fence_warm(move) && unlogged_prepare(move) &&
	       readers_know(move) && readers_prove(move) && readers_warm(move) &&
	       fence_await_follower(move) && watch_start(move);
}

/* ---- hold ---- */

static void send_holds(struct move *move)
{
	const struct config_mover *conf = &move->config->mover;

	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];
		struct sbuf sql;

		begin_command(&sql, "HOLD", route);
		sbuf_printf(
		    &sql, " EPOCH %" PRId64 " LEASE %" PRId64 "ms DRAIN %" PRId64 "ms POLICY %s",
		    move->epoch, conf->lease / USEC_PER_MSEC, conf->hold_timeout / USEC_PER_MSEC,
		    config_drain_policy_name(conf->drain_policy));
		route->held = true;
		if (route->shard->held_at == 0)
			route->shard->held_at = clock_now();
		send_command(&route->link, &sql);
	}
	for (size_t i = 0; i < move->proxy_count; i++)
		move->proxies[i].renewed_at = clock_now();
}

/* Waits for all routes, but not longer than for the first failure. */
static bool await_holds(struct move *move, usec_t deadline)
{
	struct link **links = hold_links(move);
	enum wait_end end = WAIT_DEADLINE;
	bool failed = false;

	while (end == WAIT_DEADLINE && !failed && !move->hold_lost && clock_now() < deadline) {
		end = loop_wait(&move->loop, links, move->route_count, clock_now() + FAILURE_SLICE,
		                true);
		for (size_t i = 0; i < move->route_count; i++) {
			struct route *route = &move->routes[i];

			if (links[i]->state == LINK_BROKEN || links[i]->error != NULL)
				failed = true;
			if (route->drained || !link_ok(links[i]))
				continue;
			route->drained = true;
			route->shard->drained_at = links[i]->done_at;
		}
	}
	free(links);
	if (end == WAIT_STOPPED)
		return move_fail(move, "interrupted");
	return end == WAIT_DONE && !failed && !move->hold_lost;
}

static void show_blockers(struct move *move, struct route *route)
{
	struct link *link = &route->link;
	struct sbuf sql;
	bool ok;

	if (link->state != LINK_IDLE)
		return;
	begin_command(&sql, "SHOW BLOCKERS", route);
	ok = link_run(&move->loop, link, CONSOLE_PATIENCE, sbuf_text(&sql));
	sbuf_free(&sql);
	for (int row = 0; ok && row < link_rows(link) && row < 10; row++)
		ui_error(move->ui, "  user %s, application %s, address %s: %s, %s ms: %.100s",
		         link_value(link, row, "user"), link_value(link, row, "application_name"),
		         link_value(link, row, "client_addr"), link_value(link, row, "state"),
		         link_value(link, row, "age_ms"), link_value(link, row, "query"));
}

bool phase_hold(struct move *move)
{
	usec_t paused_by;
	usec_t deadline;

	if (move->was_stopped)
		return move_fail(move, "the mover was stopped meanwhile, and what it has found may not "
		                       "be so any more");
	move->anything_changed = true;
	/* On disk before the first client waits: the fence follows in the same breath. */
	if (!run_intend(move, PHASE_FENCE))
		return false;
	ui_hurry(move->ui, true);
	if (!guard_start(move))
		return false;
	bouncers_send_pauses(move, false);
	send_holds(move);
	paused_by = clock_now() + move->config->mover.hold_timeout;
	deadline = paused_by + HOLD_GRACE;
	if (await_holds(move, deadline)) {
		if (!bouncers_await_pauses(move, paused_by))
			return false;
		json_int(&move->evidence, "routes", (int64_t)move->route_count);
		if (move->entry_count > 0)
			json_int(&move->evidence, "pgbouncers", (int64_t)move->entry_count);
		json_int(&move->evidence, "epoch", move->epoch);
		return true;
	}
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (route->drained || route->link.error == NULL)
			continue;
		(void)move_fail(move, "%s: HOLD %s: %s", route->proxy->label, route->database,
		                link_error(&route->link));
		if (strcmp(route->link.sqlstate, "55P03") == 0)
			show_blockers(move, route);
	}
	if (move->failure == NULL)
		(void)move_fail(move, "not every proxy answered within %" PRId64 " ms",
		                (move->config->mover.hold_timeout + HOLD_GRACE) / USEC_PER_MSEC);
	return false;
}

void hold_send_forever(struct move *move)
{
	if (move->lease_none)
		return;
	move->lease_none = true;
	for (size_t i = 0; i < move->route_count; i++) {
		struct sbuf sql;

		begin_command(&sql, "RENEW", &move->routes[i]);
		sbuf_printf(&sql, " EPOCH %" PRId64 " LEASE NONE", move->epoch);
		send_command(&move->routes[i].link, &sql);
	}
}

bool hold_await_forever(struct move *move)
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
		const char *state = link_value(links[i], 0, "state");

		if (!link_ok(links[i]))
			ok = move_fail(move, "%s: RENEW %s: %s", route->proxy->label,
			               route->database, link_error(links[i]));
		else if (state == NULL || strcmp(state, "held") != 0)
			ok = move_fail(move, "%s: database %s is %s instead of held",
			               route->proxy->label, route->database,
			               state == NULL ? "?" : state);
		move->routes[i].settling = link_number(links[i], 0, "sessions_left", 0) > 0;
	}
	free(links);
	if (!ok || move->hold_lost ||
	    !guard_await_end(move, clock_now() + move->config->mover.lease / 4))
		return false;
	return bouncers_await_confirm(move, clock_now() + move->config->mover.lease / 2);
}

/* ---- swap and release ---- */

void hold_send_swaps(struct move *move)
{
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];
		struct sbuf sql;

		begin_command(&sql, "SWAP", route);
		sbuf_add_str(&sql, " TO ");
		sql_identifier(&sql, move->target.conf->name);
		/* A proxy that crashed now would come back held: RELEASE waits for its disk. */
		sbuf_printf(&sql, " EPOCH %" PRId64 " NOWAIT%s", move->epoch,
		            route->settling ? " SESSIONS" : "");
		send_command(&route->link, &sql);
	}
}

static void send_release(struct move *move, struct route *route)
{
	struct sbuf sql;

	begin_command(&sql, "RELEASE", route);
	sbuf_printf(&sql, " EPOCH %" PRId64, move->epoch);
	route->release_sent_at = clock_now();
	send_command(&route->link, &sql);
}

static void take_swap(struct move *move, struct route *route)
{
	struct link *link = &route->link;

	route->settling = false;
	route->swapped = link_ok(link);
	route->clients_held = link_number(link, 0, "held", 0);
	route->longest_wait = link_number(link, 0, "oldest_wait_ms", 0) * USEC_PER_MSEC;
	route->swapped_at = link->done_at;
	if (route->swapped)
		outcome_waits(move, route);
}

/* Whether sessions that came to the shard by another way have yet to get their advisory locks and
 * channels: clients of this one could take them, or notify too early. */
static bool awaits_others(const struct move *move, const struct route *route)
{
	for (size_t i = 0; i < move->route_count; i++) {
		if (move->routes[i].settling && &move->routes[i] != route &&
		    move->routes[i].shard == route->shard)
			return true;
	}
	return false;
}

/* The shards are open: whoever is swapped is released, and waits for others only if there is a
 * reason (and time) for it. */
static void release_swapped(struct move *move, bool patient)
{
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!route->swapped || route->release_sent || route->shard->gone ||
		    (patient && awaits_others(move, route)))
			continue;
		route->release_sent = true;
		if (!run_intend(move, PHASE_RELEASE))
			move_problem(move, "the journal could not be written");
		send_release(move, route);
	}
}

static bool any_settles(const struct move *move)
{
	for (size_t i = 0; i < move->route_count; i++) {
		if (move->routes[i].settling)
			return true;
	}
	return false;
}

bool phase_swap(struct move *move)
{
	struct link **links = hold_links(move);
	const usec_t deadline = clock_now() + CONSOLE_PATIENCE;
	usec_t until;
	size_t left = move->route_count;
	int64_t swapped = 0;
	bool *taken = mem_must_alloc((move->route_count + 1) * sizeof(bool));

	bouncer_files_commit(move);
	for (;;) {
		for (size_t i = 0; i < move->route_count; i++) {
			if (taken[i] || links[i]->state == LINK_BUSY)
				continue;
			taken[i] = true;
			left--;
			take_swap(move, &move->routes[i]);
		}
		release_swapped(move, true);
		until = deadline + (any_settles(move) ? SESSIONS_PATIENCE : 0);
		if (left == 0 || clock_now() >= until)
			break;
		loop_step(&move->loop, links, move->route_count, until);
	}
	release_swapped(move, false);
	free(taken);
	if (left > 0)
		ui_error(move->ui,
		         "swap routes: not every proxy answered at once; the others go on");
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		swapped += route->swapped ? 1 : 0;
		if (!route->swapped)
			ui_error(move->ui,
			         "swap routes: %s: SWAP %s: %s; it is repaired after the "
			         "others are released",
			         route->proxy->label, route->database, link_error(links[i]));
	}
	json_int(&move->evidence, "swapped", swapped);
	json_int(&move->evidence, "routes", (int64_t)move->route_count);
	free(links);
	return true;
}

static void mark_released(struct route *route, usec_t when)
{
	route->released = true;
	route->held = false;
	if (route->shard->released_at < when)
		route->shard->released_at = when;
}

bool phase_release(struct move *move)
{
	struct link **links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));
	size_t count = 0;
	int64_t released = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		if (move->routes[i].release_sent)
			links[count++] = &move->routes[i].link;
	}
	bouncers_send_release(move);
	(void)!loop_wait(&move->loop, links, count, clock_now() + CONSOLE_PATIENCE, false);
	bouncers_await_release(move, clock_now() + CONSOLE_PATIENCE);
	free(links);
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!route->release_sent)
			continue;
		if (!link_ok(&route->link)) {
			ui_error(move->ui, "release clients: %s: RELEASE %s: %s", route->proxy->label,
			         route->database, link_error(&route->link));
			continue;
		}
		/* The gate opens at once; the answer waits until that is on the proxy's disk. */
		mark_released(route, route->release_sent_at);
		released++;
	}
	if (released == (int64_t)move->route_count)
		ui_hurry(move->ui, false);
	json_int(&move->evidence, "released", released);
	json_int(&move->evidence, "routes", (int64_t)move->route_count);
	return true;
}

/* ---- repair ---- */

/* One command of a repair on the route's connection. */
static bool repair_command(struct move *move, struct route *route, const char *verb, int64_t epoch,
                           const char *rest)
{
	struct sbuf sql;
	bool ok;

	begin_command(&sql, verb, route);
	if (strcmp(verb, "SWAP") == 0) {
		sbuf_add_str(&sql, " TO ");
		sql_identifier(&sql, move->target.conf->name);
	}
	sbuf_printf(&sql, " EPOCH %" PRId64 "%s", epoch, rest);
	ok = link_run(&move->loop, &route->link, 2 * move->config->mover.connect_timeout,
	              sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

/* A route that is being repaired. */
struct repair {
	int64_t epoch;
	bool on_target;
	bool held;
	bool ready; /* to be released */
};

/* The proxy's own word on one database. */
static bool ask_route(struct move *move, struct route *route, struct repair *repair)
{
	struct link *link = &route->link;
	usec_t timeout = move->config->mover.connect_timeout;
	bool known = false;

	if (!link_run(&move->loop, link, timeout, "SHOW ROUTES"))
		return false;
	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");
		const char *server = link_value(link, row, "server");

		if (database == NULL || server == NULL || strcmp(database, route->database) != 0)
			continue;
		known = true;
		repair->on_target = strcmp(server, move->target.conf->name) == 0;
		repair->epoch = link_number(link, row, "epoch", 0);
	}
	route->absent = !known;
	if (!known || !link_run(&move->loop, link, timeout, "SHOW HOLDS"))
		return false;
	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");
		const char *state = link_value(link, row, "state");
		int64_t of_hold = link_number(link, row, "epoch", 0);

		if (database == NULL || state == NULL || strcmp(database, route->database) != 0)
			continue;
		repair->held = strcmp(state, "open") != 0;
		route->settling = link_number(link, row, "sessions_left", 0) > 0;
		if (repair->epoch < of_hold)
			repair->epoch = of_hold;
	}
	return true;
}

/* Up to the release. */
static bool repair_swap(struct move *move, struct route *route, struct repair *repair)
{
	if (route->link.state == LINK_BUSY)
		link_close(&route->link);
	if (!link_revive(move, &route->link) || !ask_route(move, route, repair))
		return false;
	if (!repair->on_target && !repair->held) {
		/* The clients' transactions, cut off by the fence, need not be waited for. */
		if (repair->epoch < move->epoch)
			repair->epoch = move->epoch;
		else
			repair->epoch++;
		if (!repair_command(move, route, "HOLD", repair->epoch,
		                    " LEASE NONE DRAIN 1s POLICY terminate"))
			return false;
		repair->held = true;
		route->held = true;
	}
	if ((!repair->on_target || (repair->held && route->settling)) &&
	    !repair_command(move, route, "SWAP", repair->epoch, " NOWAIT SESSIONS"))
		return false;
	route->settling = false;
	route->swapped = true;
	return true;
}

static void repair_release(struct move *move, struct route *route, const struct repair *repair)
{
	if (!repair->held || repair_command(move, route, "RELEASE", repair->epoch, ""))
		mark_released(route, clock_now());
}

static bool is_done(const struct route *route)
{
	return route->released || route->shard->gone;
}

/* Those that answer (or the others) are all swapped before the first of them is released, for the
 * same reason as in phase_swap(). */
static void repair_routes(struct move *move, bool answering)
{
	struct repair *repairs = mem_must_alloc((move->route_count + 1) * sizeof(struct repair));

	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!is_done(route) && (route->link.state == LINK_IDLE) == answering)
			repairs[i].ready = repair_swap(move, route, &repairs[i]);
	}
	for (size_t i = 0; i < move->route_count; i++) {
		if (repairs[i].ready)
			repair_release(move, &move->routes[i], &repairs[i]);
	}
	free(repairs);
}

bool hold_repair(struct move *move, usec_t deadline)
{
	bool all;

	move->phase = PHASE_RELEASE;
	do {
		repair_routes(move, true);
		repair_routes(move, false);
		all = bouncers_repair(move);
		for (size_t i = 0; i < move->route_count; i++)
			all = all && is_done(&move->routes[i]);
		if (!all && clock_now() < deadline)
			loop_sleep(&move->loop, 250 * USEC_PER_MSEC);
	} while (!all && clock_now() < deadline);
	bouncers_give_up(move);
	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		if (!is_done(route))
			move_problem(
			    move,
			    "%s: database %s is not on %s yet: %s; its clients get errors, "
			    "not wrong answers, until \"pgshunt resume\" repairs it",
			    route->proxy->label, route->database, move->target.conf->name,
			    route->absent ? "its configuration has no such database, put it back "
			                    "and RELOAD"
			                  : link_error(&route->link));
	}
	for (size_t i = 0; i < move->shard_count; i++)
		all = all && !move->shards[i].gone;
	return all;
}

/* ---- undo ---- */

static void begin_release(const struct move *move, struct sbuf *sql, const struct route *route)
{
	begin_command(sql, "RELEASE", route);
	sbuf_printf(sql, " EPOCH %" PRId64, move->epoch);
}

/* A stale epoch means that the hold is somebody else's: ours is over. */
static bool is_released(const struct link *link)
{
	return link_ok(link) || (link->state == LINK_IDLE && strcmp(link->sqlstate, "55000") == 0);
}

/* Over the connections that are free; the others are busy with a HOLD that drains.  `sessions`:
 * only those that have lost their servers go on, to have their locks and channels again. */
static void release_links(struct move *move, bool sessions)
{
	struct link **links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));
	size_t count = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];
		struct sbuf sql;

		if (!route->held || route->link.state != LINK_IDLE)
			continue;
		begin_release(move, &sql, route);
		if (sessions)
			sbuf_add_str(&sql, " SESSIONS");
		links[count++] = &route->link;
		send_command(&route->link, &sql);
	}
	(void)!loop_wait(&move->loop, links, count,
	                 clock_now() + CONSOLE_PATIENCE + (sessions ? SESSIONS_PATIENCE : 0),
	                 false);
	for (size_t i = 0; i < move->route_count && !sessions; i++) {
		struct route *route = &move->routes[i];

		for (size_t j = 0; j < count; j++) {
			if (links[j] == &route->link && is_released(&route->link))
				route->held = false;
		}
	}
	free(links);
}

/* Clients of one proxy could take the locks of another's sessions, or notify too early.  (A proxy
 * of an older version refuses the first command.) */
static void release_at_once(struct move *move)
{
	if (move->fenced && move->route_count > 1) {
		struct link **links = hold_links(move);

		/* Answers that nobody waits for any more. */
		(void)!loop_wait(&move->loop, links, move->route_count,
		                 clock_now() + CONSOLE_PATIENCE, false);
		free(links);
		release_links(move, true);
	}
	release_links(move, false);
}

/* The status connection free for a command; what the tick asked last is waited for. */
static bool settle_status(struct move *move, struct proxy *proxy)
{
	struct link *link = &proxy->status;

	if (link->state == LINK_BUSY)
		(void)!loop_wait(&move->loop, &link, 1, clock_now() + CONSOLE_PATIENCE, false);
	if (link->state == LINK_BUSY)
		link_close(link);
	proxy->asked = PROXY_ASKED_NOTHING;
	return link_revive(move, link);
}

static bool release_by_status(struct move *move, struct route *route)
{
	struct link *link = &route->proxy->status;
	struct sbuf sql;
	bool ok;

	if (!settle_status(move, route->proxy))
		return false;
	begin_release(move, &sql, route);
	ok = link_run(&move->loop, link, move->config->mover.connect_timeout, sbuf_text(&sql)) ||
	     is_released(link);
	sbuf_free(&sql);
	if (ok)
		route->held = false;
	return ok;
}

static void cancel_swaps(struct move *move)
{
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];
		struct link *link = &route->proxy->status;
		struct sbuf sql;

		if (!settle_status(move, route->proxy)) {
			ui_error(move->ui, "%s: CANCEL SWAP %s: %s", route->proxy->label,
			         route->database, link_error(link));
			continue;
		}
		begin_command(&sql, "CANCEL SWAP", route);
		if (!link_run(&move->loop, link, move->config->mover.connect_timeout,
		              sbuf_text(&sql)))
			ui_error(move->ui, "%s: CANCEL SWAP %s: %s", route->proxy->label,
			         route->database, link_error(link));
		sbuf_free(&sql);
	}
}

bool hold_undo(struct move *move)
{
	bool all = true;

	move->undoing = true;
	for (size_t i = 0; i < move->proxy_count; i++)
		move->proxies[i].status.done = NULL;
	release_at_once(move);
	all = bouncers_undo(move);
	/* It goes on trying where we could not. */
	if (all)
		guard_send_end(move);
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!route->held || release_by_status(move, route))
			continue;
		/* Before the leases were taken away, a hold ends by itself. */
		ui_error(move->ui, "%s: database %s could not be released: %s%s",
		         route->proxy->label, route->database, link_error(&route->proxy->status),
		         move->lease_none ? "" : "; its hold ends with its lease");
		all = all && !move->lease_none;
	}
	ui_hurry(move->ui, false);
	cancel_swaps(move);
	return all;
}

void hold_leave(struct move *move)
{
	move->undoing = true;
	for (size_t i = 0; i < move->proxy_count; i++)
		move->proxies[i].status.done = NULL;
	/* Resumed, the pgbouncers would send their clients into the fence. */
	guard_send_end(move);
	ui_hurry(move->ui, false);
}
