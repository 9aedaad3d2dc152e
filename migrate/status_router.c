/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: where each proxy and each PL/Proxy cluster sends the shards, who is held, and
 * which routes lead to where nobody can work.
 */
#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/connstr.h"
#include "migrate/json.h"
#include "migrate/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_MAX ((size_t)64 * 1024)
#define LINE_MAX_BYTES ((size_t)64 * 1024)

/* What the views of one proxy say of one database. */
struct at_proxy {
	char *state; /* open, draining, held */
	char *target;
	char *lease;
	int64_t active;
	int64_t waiting;
	int64_t held;
	int64_t servers;
};

static bool ask(struct status *status, struct link *link, const char *sql)
{
	return link_run(&status->move->loop, link, status->move->config->mover.connect_timeout,
	                sql);
}

static bool is_row_of(const struct link *link, int row, const char *database)
{
	const char *name = link_value(link, row, "database");

	return name != NULL && strcmp(name, database) == 0;
}

static void ask_holds(struct status *status, struct link *link, const char *database,
                      struct at_proxy *at)
{
	if (!ask(status, link, "SHOW HOLDS"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		if (!is_row_of(link, row, database))
			continue;
		at->state = mem_must_strdup(link_value(link, row, "state"));
		at->target = mem_must_strdup(link_value(link, row, "target"));
		at->lease = mem_must_strdup(link_value(link, row, "lease_left_ms"));
		at->held = link_number(link, row, "held", 0);
	}
}

static void ask_pools(struct status *status, struct link *link, const char *database,
                      struct at_proxy *at)
{
	if (!ask(status, link, "SHOW POOLS"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		if (!is_row_of(link, row, database))
			continue;
		at->active += link_number(link, row, "cl_active", 0);
		at->waiting += link_number(link, row, "cl_waiting", 0);
		at->servers +=
		    link_number(link, row, "sv_active", 0) + link_number(link, row, "sv_idle", 0) +
		    link_number(link, row, "sv_used", 0) + link_number(link, row, "sv_login", 0);
	}
}

/* A route to where its clients get errors, unless they are held. */
static void judge_route(struct status *status, const struct seen_route *seen, bool held)
{
	for (size_t i = 0; i < status->server_count; i++) {
		const struct status_server *server = &status->servers[i];
		const struct status_database *database = status_database(server, seen->dbname);

		if (held || !server->reached || strcmp(server->conf->name, seen->server) != 0)
			continue;
		if (database == NULL || !database->open)
			status_alarm(status, "%s sends database %s to %s, where %s is %s",
			             seen->proxy->label, seen->database, seen->server, seen->dbname,
			             database == NULL ? "not" : "closed");
	}
}

static void show_route(struct status *status, const struct seen_route *seen)
{
	struct link *link = &seen->proxy->status;
	struct at_proxy at = {0};
	bool held;
	struct sbuf event;

	ask_holds(status, link, seen->database, &at);
	ask_pools(status, link, seen->database, &at);
	held = at.state != NULL && strcmp(at.state, "open") != 0;
	status_line(status,
	            "  database %s: to %s on %s, epoch %" PRId64 "; clients: %" PRId64
	            " active, %" PRId64 " waiting, %" PRId64 " held; servers: %" PRId64 "%s%s",
	            seen->database, seen->dbname, seen->server, seen->epoch, at.active, at.waiting,
	            at.held, at.servers, at.target == NULL ? "" : "; a swap is prepared to ",
	            at.target == NULL ? "" : at.target);
	if (held)
		status_line(status, "    %s, the hold ends %s%s%s",
		            strcmp(at.state, "held") == 0 ? "HELD" : "DRAINING",
		            at.lease == NULL ? "never by itself" : "in ",
		            at.lease == NULL ? "" : at.lease, at.lease == NULL ? "" : " ms");
	if (held && at.lease == NULL && !status->unfinished)
		status_alarm(status,
		             "%s: database %s is held without end, and no move is under way here; "
		             "RELEASE %s on its console lets its clients go on",
		             seen->proxy->label, seen->database, seen->database);
	judge_route(status, seen, held);
	sbuf_init(&event, EVENT_MAX);
	json_str(&event, "proxy", seen->proxy->conf->name);
	json_str(&event, "database", seen->database);
	json_str(&event, "server", seen->server);
	json_int(&event, "epoch", seen->epoch);
	json_str(&event, "state", at.state);
	json_str(&event, "prepared", at.target);
	json_int(&event, "clients_active", at.active);
	json_int(&event, "clients_waiting", at.waiting);
	json_int(&event, "clients_held", at.held);
	json_int(&event, "servers", at.servers);
	ui_event(status->move->ui, "route", sbuf_text(&event));
	sbuf_free(&event);
	free(at.state);
	free(at.target);
	free(at.lease);
}

static void show_proxies(struct status *status)
{
	struct move *move = status->move;
	struct link **links;
	struct sbuf ignored; /* links keep their errors */

	proxies_make(move);
	links = mem_must_alloc((move->proxy_count + 1) * sizeof(struct link *));
	for (size_t i = 0; i < move->proxy_count; i++) {
		links[i] = &move->proxies[i].status;
		if (links[i]->state != LINK_IDLE)
			link_connect(links[i]);
	}
	(void)!loop_wait(&move->loop, links, move->proxy_count,
	                 clock_now() + move->config->mover.connect_timeout, true);
	free(links);
	sbuf_init(&ignored, LINE_MAX_BYTES);
	if (move->proxy_count > 0)
		(void)!plan_read_seen(move, &ignored);
	sbuf_free(&ignored);
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];
		bool reached = proxy->status.state == LINK_IDLE;

		status_line(
		    status, "%s (%s)%s%s", proxy->label,
		    endpoint_text(proxy->conf->host, proxy->conf->port).text,
		    reached ? ":" : ": UNREACHABLE: ", reached ? "" : link_error(&proxy->status));
		for (size_t j = 0; reached && j < move->seen_count; j++) {
			if (move->seen[j].proxy == proxy &&
			    status_wants(status, move->seen[j].dbname))
				show_route(status, &move->seen[j]);
		}
	}
}

/* ---- PL/Proxy ---- */

/* The name of what listens there. */
static const char *place_of(const struct move *move, const char *host, int port)
{
	const struct config_server *server = config_find_server_at(move->config, host, port);
	const char *router = router_at(move, host, port);

	if (router != NULL)
		return router;
	return server == NULL ? "an unknown place" : server->name;
}

static bool take_address(const char *connstr, char **dbname, char **host, char **port)
{
	*dbname = *host = *port = NULL;
	return connstr_get(connstr, "dbname", dbname) && connstr_get(connstr, "host", host) &&
	       connstr_get(connstr, "port", port) && *dbname != NULL;
}

/* At a proxy the name is that which clients say. */
static bool wants_name(const struct status *status, const char *name)
{
	const struct config_database *database = config_find_database(status->move->config, name);

	return status_wants(status, name) ||
	       (database != NULL && status_wants(status, database->dbname));
}

/* "p3", "4 partitions, p4 to p7": those with the text of this row.  Empty if the row is no
 * partition, or not the first of them. */
static void partitions_of(const struct link *link, int row, struct sbuf *out)
{
	const char *value = link_value(link, row, "option_value");
	const char *first = NULL;
	const char *last = NULL;
	int low = 0;
	int high = 0;
	int count = 0;

	for (int i = 0; i < link_rows(link); i++) {
		const char *name = link_value(link, i, "option_name");
		const char *other = link_value(link, i, "option_value");
		int number;

		if (name == NULL || other == NULL || value == NULL || strcmp(value, other) != 0 ||
		    !partition_number(name, &number))
			continue;
		if (count == 0 && i != row)
			return;
		if (count == 0 || number < low) {
			low = number;
			first = name;
		}
		if (count++ == 0 || number > high) {
			high = number;
			last = name;
		}
	}
	if (count == 1)
		sbuf_add_str(out, first);
	else if (count > 1)
		sbuf_printf(out, "%d partitions, %s to %s", count, first, last);
}

/* Partitions that lead to the same place are one line. */
static void show_cluster(struct status *status, const struct config_plproxy *conf,
                         const struct link *link)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *value = link_value(link, row, "option_value");
		struct sbuf options;
		char *dbname;
		char *host;
		char *port;

		sbuf_init(&options, EVENT_MAX);
		partitions_of(link, row, &options);
		if (options.len == 0) {
			sbuf_free(&options);
			continue;
		}
		if (take_address(value, &dbname, &host, &port) && wants_name(status, dbname)) {
			const char *where = place_of(status->move, host == NULL ? "" : host,
			                             port == NULL ? 5432 : atoi(port));
			struct sbuf event;

			status_line(status, "  database %s: to %s (%s:%s): %s", dbname, where,
			            host == NULL ? "" : host, port == NULL ? "5432" : port,
			            sbuf_text(&options));
			sbuf_init(&event, EVENT_MAX);
			json_str(&event, "plproxy", conf->name);
			json_str(&event, "database", dbname);
			json_str(&event, "to", where);
			json_str(&event, "options", sbuf_text(&options));
			ui_event(status->move->ui, "partitions", sbuf_text(&event));
			sbuf_free(&event);
		}
		free(dbname);
		free(host);
		free(port);
		sbuf_free(&options);
	}
}

static void show_clusters(struct status *status)
{
	const struct config_mover *conf = &status->move->config->mover;

	for (size_t i = 0; i < conf->plproxy_count; i++) {
		struct link *link = &status->clusters[i];
		bool functions;
		bool ok;

		if (link->state != LINK_IDLE)
			link_connect(link);
		(void)!loop_wait(&status->move->loop, &link, 1, clock_now() + conf->connect_timeout,
		                 true);
		ok = link->state == LINK_IDLE &&
		     plproxy_ask(&status->move->loop, link, conf->plproxy[i].cluster, &functions);
		status_line(status, "PL/Proxy %s (%s, database %s, cluster %s)%s%s",
		            conf->plproxy[i].name,
		            endpoint_text(conf->plproxy[i].host, conf->plproxy[i].port).text,
		            conf->plproxy[i].dbname, conf->plproxy[i].cluster,
		            ok ? ":" : ": UNREACHABLE: ", ok ? "" : link_error(link));
		if (ok)
			show_cluster(status, &conf->plproxy[i], link);
	}
}

void status_show_routers(struct status *status)
{
	show_proxies(status);
	status_show_bouncers(status);
	show_clusters(status);
}
