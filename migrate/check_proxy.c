/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of the proxies: do they lead where they should, and may the mover command them?
 */
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/pgbouncer.h"
#include "migrate/sessions.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void check_holds(struct checks *checks, struct proxy *proxy)
{
	struct link *link = &proxy->status;

	if (!check_query(checks, CHECK_HOLDS, link, "SHOW HOLDS"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");
		const char *state = link_value(link, row, "state");

		for (size_t i = 0; i < checks->move->route_count; i++) {
			const struct route *route = &checks->move->routes[i];

			if (route->proxy == proxy && database != NULL && state != NULL &&
			    strcmp(route->database, database) == 0 && strcmp(state, "open") != 0)
				check_find(checks, CHECK_HOLDS, CHECK_REFUSE,
				           "%s: database %s is %s, epoch %s", proxy->label,
				           database, state, link_value(link, row, "epoch"));
			else if (route->proxy == proxy && database != NULL &&
			         strcmp(route->database, database) == 0 &&
			         link_value(link, row, "target") != NULL)
				check_find(checks, CHECK_HOLDS, CHECK_REFUSE,
				           "%s: a swap of database %s to %s is prepared",
				           proxy->label, database, link_value(link, row, "target"));
		}
	}
}

/* A proxy that gives its clients up before the move does. */
static void check_patience(struct checks *checks, struct proxy *proxy)
{
	const struct config_mover *conf = &checks->move->config->mover;
	usec_t budget = conf->hold_timeout + conf->catch_up_timeout;
	struct link *link = &proxy->status;
	usec_t patience;

	if (!check_query(checks, CHECK_PATIENCE, link, "SHOW CONFIG"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		const char *key = link_value(link, row, "key");
		const char *value = link_value(link, row, "value");

		if (key == NULL || value == NULL ||
		    (strcmp(key, "hold_wait_timeout") != 0 &&
		     strcmp(key, "proxy.hold_wait_timeout") != 0) ||
		    !config_parse_duration(value, &patience) || patience == 0 || patience >= budget)
			continue;
		check_find(checks, CHECK_PATIENCE, CHECK_WARN,
		           "%s: its hold_wait_timeout is %s, and the hold may take up to %" PRId64
		           " ms",
		           proxy->label, value, budget / USEC_PER_MSEC);
	}
}

static void check_route(struct checks *checks, struct route *route)
{
	struct move *move = checks->move;

	if (strcmp(route->server, move->source.conf->name) != 0)
		check_find(checks, CHECK_ROUTES, CHECK_REFUSE,
		           "%s sends database %s to %s, not to %s", route->proxy->label,
		           route->database, route->server, move->source.conf->name);
}

/* Names that lead to the standby: they stay, but their clients do not. */
static void check_reading_routes(struct checks *checks)
{
	struct move *move = checks->move;

	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		for (size_t j = 0; j < move->shard_count; j++) {
			if (plan_is_reader(move, seen) &&
			    strcmp(move->shards[j].dbname, seen->dbname) == 0)
				check_find(checks, CHECK_ROUTES, CHECK_WARN,
				           "%s sends database %s to %s already: it stays, its "
				           "clients are not held, and their sessions there are "
				           "ended before the promotion",
				           seen->proxy->label, seen->database, seen->server);
		}
	}
}

/* A proxy that knows the source by another address would swap something else. */
static void check_addresses(struct checks *checks)
{
	struct move *move = checks->move;

	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];
		const struct config_server *conf = config_find_server(move->config, seen->server);

		if (seen->proxy == NULL || conf != move->source.conf || *seen->host == '\0' ||
		    config_find_server_at(move->config, seen->host, seen->port) == conf)
			continue;
		check_find(checks, CHECK_ROUTES, CHECK_WARN,
		           "%s knows %s as %s:%d, our configuration as %s:%d", seen->proxy->label,
		           conf->name, seen->host, seen->port, conf->host, conf->port);
		return;
	}
}

static void check_pgbouncers(struct checks *checks)
{
	struct move *move = checks->move;
	struct sbuf warnings;
	char *text;
	char *save = NULL;

	sbuf_init(&warnings, 65536);
	bouncers_check(move, &warnings);
	text = mem_must_strdup(sbuf_text(&warnings));
	sbuf_free(&warnings);
	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		check_find(checks, CHECK_PGBOUNCERS, CHECK_WARN, "%s", line);
	free(text);
	check_pass(checks, CHECK_PGBOUNCERS, "%zu processes", move->bouncer_count);
}

void check_proxies(struct checks *checks)
{
	struct move *move = checks->move;

	if (move->proxy_count == 0 && !bouncers_involved(move))
		check_find(checks, CHECK_PROXIES, CHECK_WARN, "no proxy is configured");
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];
		bool has_route = false;

		for (size_t j = 0; j < move->route_count; j++)
			has_route = has_route || move->routes[j].proxy == proxy;
		for (size_t j = 0; j < move->seen_count; j++)
			has_route =
			    has_route || (move->seen[j].proxy == proxy && move->seen[j].through);
		if (!has_route)
			check_find(checks, CHECK_PROXIES, CHECK_WARN, "%s has none of the shards",
			           proxy->label);
		check_holds(checks, proxy);
		check_patience(checks, proxy);
	}
	for (size_t i = 0; i < move->route_count; i++)
		check_route(checks, &move->routes[i]);
	check_reading_routes(checks);
	check_addresses(checks);
	check_pgbouncers(checks);
	check_pass(checks, CHECK_PROXIES, "%zu", move->proxy_count);
	check_sessions(checks);
	check_pass(checks, CHECK_HOLDS, "nobody");
	check_pass(checks, CHECK_PATIENCE, "every hold_wait_timeout is long enough");
	check_pass(checks, CHECK_ROUTES, "%zu routes lead to %s", move->route_count,
	           move->source.conf->name);
}
