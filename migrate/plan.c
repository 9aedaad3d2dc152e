/* SPDX-License-Identifier: PostgreSQL */
/*
 * The plan: from what the operator named to shards, source server, routes and partitions.  Where a
 * shard is, is asked of the proxies: after an earlier move the configuration file may be behind.
 */
#include "base/mem.h"
#include "migrate/commcare.h"
#include "migrate/hook.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <stdlib.h>
#include <string.h>

#define PLAN_ERROR_MAX ((size_t)64 * 1024)

struct shard *plan_add_shard(struct move *move, const char *name, const char *dbname)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, dbname) == 0)
			return &move->shards[i];
	}
	move->shards = mem_must_grow(move->shards, move->shard_count + 1, sizeof(*move->shards));
	move->shards[move->shard_count] =
	    (struct shard){.name = mem_must_strdup(name), .dbname = mem_must_strdup(dbname)};
	return &move->shards[move->shard_count++];
}

struct seen_route *plan_add_seen(struct move *move)
{
	move->seen = mem_must_grow(move->seen, move->seen_count + 1, sizeof(*move->seen));
	move->seen[move->seen_count] = (struct seen_route){0};
	return &move->seen[move->seen_count++];
}

static void seen_from_config(struct move *move)
{
	for (size_t i = 0; i < move->config->database_count; i++) {
		const struct config_database *database = &move->config->databases[i];
		struct seen_route *seen = plan_add_seen(move);

		seen->database = mem_must_strdup(database->name);
		seen->server = mem_must_strdup(database->server->name);
		seen->dbname = mem_must_strdup(database->dbname);
		seen->host = mem_must_strdup(database->server->host);
		seen->port = database->server->port;
	}
}

static bool is_own_listener(const struct config *config, const char *host, int port)
{
	const struct config_list *list = &config->proxy.listen_addresses;

	if (port != config->proxy.port)
		return false;
	for (size_t i = 0; i < list->count; i++) {
		if (strcmp(list->items[i], host) == 0 ||
		    (strcmp(list->items[i], "127.0.0.1") == 0 && strcmp(host, "localhost") == 0))
			return true;
	}
	return false;
}

const char *router_at(const struct move *move, const char *host, int port)
{
	for (size_t i = 0; i < move->proxy_count; i++) {
		const struct config_mover_proxy *conf = move->proxies[i].conf;

		if (conf->port == port && strcmp(conf->host, host) == 0)
			return move->proxies[i].label;
	}
	if (move->proxy_count > 0 && is_own_listener(move->config, host, port))
		return "the proxy";
	return bouncer_at(move, host, port);
}

/* Whether what listens there is no server.  A server of ours may be reached through a pgbouncer all
 * the same: then it has an admin_host or admin_port of its own. */
static bool leads_on(const struct move *move, const struct seen_route *seen)
{
	const struct config_server *server = config_find_server(move->config, seen->server);

	if (router_at(move, seen->host, seen->port) == NULL)
		return false;
	return server == NULL || (server->admin_port == server->port &&
	                          strcmp(server->admin_host, server->host) == 0);
}

static void seen_from_proxy(struct move *move, struct proxy *proxy)
{
	const struct link *link = &proxy->status;

	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");
		const char *server = link_value(link, row, "server");
		const char *dbname = link_value(link, row, "dbname");
		const char *host = link_value(link, row, "host");
		struct seen_route *seen;

		if (database == NULL || server == NULL)
			continue;
		seen = plan_add_seen(move);
		seen->proxy = proxy;
		seen->database = mem_must_strdup(database);
		seen->server = mem_must_strdup(server);
		seen->dbname =
		    mem_must_strdup(dbname == NULL || *dbname == '\0' ? database : dbname);
		seen->host = mem_must_strdup(host == NULL ? "" : host);
		seen->port = (int)link_number(link, row, "port", 0);
		seen->epoch = link_number(link, row, "epoch", 0);
		seen->through = leads_on(move, seen);
	}
}

bool plan_read_seen(struct move *move, struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < move->seen_count; i++) {
		free(move->seen[i].database);
		free(move->seen[i].server);
		free(move->seen[i].dbname);
		free(move->seen[i].host);
	}
	move->seen_count = 0;
	ok = bouncers_read_seen(move, error);
	if (move->proxy_count == 0 && move->seen_count == 0)
		seen_from_config(move);
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];

		if (link_run(&move->loop, &proxy->status, move->config->mover.connect_timeout,
		             "SHOW ROUTES")) {
			seen_from_proxy(move, proxy);
			continue;
		}
		sbuf_printf(error, "%s: SHOW ROUTES: %s\n", proxy->label,
		            link_error(&proxy->status));
		ok = false;
	}
	return ok;
}

/* The shard that a route leads to by its database on the server, NULL if none. */
static struct shard *shard_of(struct move *move, const struct seen_route *seen)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, seen->dbname) == 0)
			return &move->shards[i];
	}
	return NULL;
}

bool plan_is_reader(const struct move *move, const struct seen_route *seen)
{
	return seen->proxy != NULL && !seen->through &&
	       strcmp(seen->server, move->target.conf->name) == 0;
}

static void add_route(struct move *move, const struct seen_route *seen, struct shard *shard)
{
	struct route *route;
	struct link_target target = seen->proxy->status.target;

	move->routes = mem_must_grow(move->routes, move->route_count + 1, sizeof(*move->routes));
	route = &move->routes[move->route_count++];
	*route = (struct route){.proxy = seen->proxy,
	                        .shard = shard,
	                        .database = mem_must_strdup(seen->database),
	                        .server = mem_must_strdup(seen->server),
	                        .epoch = seen->epoch};
	link_init(&route->link, seen->proxy->label, &target);
}

bool plan_pick_routes(struct move *move, struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < move->route_count; i++) {
		link_close(&move->routes[i].link);
		free(move->routes[i].database);
		free(move->routes[i].server);
	}
	move->route_count = 0;
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];
		struct shard *shard = shard_of(move, seen);

		if (shard == NULL || seen->proxy == NULL || seen->through ||
		    (plan_is_reader(move, seen) && !move->anything_changed))
			continue;
		if (strcmp(seen->server, move->source.conf->name) != 0 &&
		    strcmp(seen->server, move->target.conf->name) != 0) {
			sbuf_printf(
			    error,
			    "%s sends database %s to server %s, which is neither %s nor %s\n",
			    seen->proxy->label, seen->database, seen->server,
			    move->source.conf->name, move->target.conf->name);
			ok = false;
			continue;
		}
		add_route(move, seen, shard);
		if (move->epoch <= seen->epoch)
			move->epoch = seen->epoch + 1;
	}
	if (move->epoch == 0)
		move->epoch = 1;
	return ok;
}

bool plan_connect_routes(struct move *move, struct sbuf *error)
{
	struct link **links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));
	bool ok;

	for (size_t i = 0; i < move->route_count; i++)
		links[i] = &move->routes[i].link;
	ok = links_connect(&move->loop, links, move->route_count,
	                   move->config->mover.connect_timeout, error);
	free(links);
	return ok;
}

static const char *seen_label(const struct seen_route *seen)
{
	if (seen->proxy != NULL)
		return seen->proxy->label;
	return seen->bouncer != NULL ? seen->bouncer->label : "the configuration";
}

/*
 * Whether it says where the database is.  Where there are proxies, they do; pgbouncers may have
 * other names for it, and one that waits with an entry that leads to the target already says
 * nothing about where the database is.
 */
static bool is_named(const struct move *move, const struct seen_route *seen,
                     const struct config_database *database)
{
	bool by_proxy = false;

	if (seen->bouncer == NULL)
		return strcmp(seen->database, database->name) == 0;
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *other = &move->seen[i];

		by_proxy = by_proxy || (other->proxy != NULL && !other->through &&
		                        strcmp(other->database, database->name) == 0);
		if (strcmp(seen->server, move->target.conf->name) == 0 && other != seen &&
		    other->bouncer != NULL && strcmp(other->dbname, database->dbname) == 0 &&
		    strcmp(other->server, seen->server) != 0)
			return false;
	}
	return !by_proxy && strcmp(seen->dbname, database->dbname) == 0;
}

/* Where the routers say that the database of this name is; NULL and an error if they disagree or do
 * not know it. */
static const char *server_of(struct move *move, const struct config_database *database,
                             struct sbuf *error)
{
	const struct seen_route *first = NULL;

	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		if (seen->through || !is_named(move, seen, database))
			continue;
		if (first != NULL && strcmp(first->server, seen->server) != 0) {
			sbuf_printf(
			    error,
			    "%s sends database %s to server %s, but %s sends it to %s; bring "
			    "them to the same server first: the one that takes the writes, with "
			    "\"SWAP %s TO server\" on the console of the other, or RELOAD if its "
			    "file was changed; readers of a standby need a name of their own\n",
			    seen_label(first), database->name, first->server, seen_label(seen),
			    seen->server, database->name);
			return NULL;
		}
		first = seen;
	}
	if (first == NULL)
		sbuf_printf(error, "no %s has the database %s\n",
		            move->proxy_count > 0 ? "proxy" : "pgbouncer", database->name);
	return first == NULL ? NULL : first->server;
}

static void list_shards(const struct move *move, struct sbuf *error)
{
	sbuf_add_str(error, "the configuration has the shards");
	for (size_t i = 0; i < move->config->database_count; i++)
		sbuf_printf(error, " %s", move->config->databases[i].shard);
	if (config_find_shard(move->config, "*") != NULL)
		sbuf_add_str(error, "; a database that clients reach by the entry \"*\" needs an entry of its "
		                    "own, here and in every proxy (RELOAD)");
	sbuf_add_char(error, '\n');
}

/* Takes the shards by name; the source is where they are. */
static enum exit_code take_names(struct move *move, char *const *names, size_t count,
                                 struct sbuf *error)
{
	for (size_t i = 0; i < count; i++) {
		const struct config_database *database = config_find_shard(move->config, names[i]);
		const char *server;

		if (database == NULL)
			database = config_find_database(move->config, names[i]);
		if (database == NULL) {
			sbuf_printf(error, "no shard is called %s; ", names[i]);
			list_shards(move, error);
			return EXIT_USAGE;
		}
		server = server_of(move, database, error);
		if (server == NULL)
			return EXIT_REFUSED;
		if (move->source.conf != NULL && strcmp(move->source.conf->name, server) != 0) {
			sbuf_printf(
			    error,
			    "shard %s is on server %s, but shard %s on %s: one move has one "
			    "source\n",
			    names[i], server, move->shards[0].name, move->source.conf->name);
			return EXIT_USAGE;
		}
		move->source.conf = config_find_server(move->config, server);
		if (move->source.conf == NULL) {
			sbuf_printf(error,
			            "shard %s is on server %s, which the configuration lacks\n",
			            names[i], server);
			return EXIT_USAGE;
		}
		(void)plan_add_shard(move, database->shard, database->dbname);
	}
	return EXIT_DONE;
}

static enum exit_code take_all(struct move *move, const char *all_of, struct sbuf *error)
{
	move->source.conf = config_find_server(move->config, all_of);
	if (move->source.conf == NULL) {
		sbuf_printf(error, "--all-of %s: the configuration has no such server\n", all_of);
		return EXIT_USAGE;
	}
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];
		const struct config_database *database;

		if (strcmp(seen->server, all_of) != 0)
			continue;
		if (strcmp(seen->database, "*") == 0) {
			sbuf_printf(error,
			            "--all-of %s: %s sends every database that has no entry of its "
			            "own to %s, by the entry \"*\"; which these are is not known: name "
			            "the shards to move, and give each an entry\n",
			            all_of, seen_label(seen), all_of);
			return EXIT_REFUSED;
		}
		database = config_find_database(move->config, seen->database);
		(void)plan_add_shard(move, database == NULL ? seen->database : database->shard,
		                     seen->dbname);
	}
	if (move->shard_count > 0)
		return EXIT_DONE;
	sbuf_printf(error, "no shard is on server %s\n", all_of);
	return EXIT_REFUSED;
}

/* Of several hosts another one might be fenced or promoted than the proxies have in mind. */
static bool has_one_host(const struct config_server *server, struct sbuf *error)
{
	bool several = strchr(server->host, ',') != NULL;

	if (!several && strchr(server->admin_host, ',') == NULL)
		return true;
	sbuf_printf(
	    error,
	    "servers.%s.%s names several hosts (%s): a move needs to know which one it means, so "
	    "give that one only\n",
	    server->name, several ? "host" : "admin_host",
	    several ? server->host : server->admin_host);
	return false;
}

static enum exit_code unreachable(struct sbuf *error)
{
	sbuf_add_str(error,
	             "remedy: is it running?  Check host, port, user and password file in the "
	             "configuration, and who may log in there (pg_hba.conf, users_file)\n");
	return EXIT_REFUSED;
}

static enum exit_code make(struct move *move, char *const *names, size_t count, const char *all_of,
                           const char *to, struct sbuf *error)
{
	enum exit_code code;

	move->target.conf = config_find_server(move->config, to);
	if (move->target.conf == NULL) {
		sbuf_printf(error, "--to %s: the configuration has no such server; it has", to);
		for (size_t i = 0; i < move->config->server_count; i++)
			sbuf_printf(error, " %s", move->config->servers[i].name);
		sbuf_add_char(error, '\n');
		return EXIT_USAGE;
	}
	if (!hooks_check(move, error))
		return EXIT_USAGE;
	if (!proxies_connect(move, error) || !bouncers_connect(move, error) ||
	    !plan_read_seen(move, error))
		return unreachable(error);
	code =
	    all_of != NULL ? take_all(move, all_of, error) : take_names(move, names, count, error);
	if (code != EXIT_DONE)
		return code;
	if (move->source.conf == move->target.conf) {
		sbuf_printf(error, "shard %s is on server %s already\n", move->shards[0].name, to);
		return EXIT_REFUSED;
	}
	if (!has_one_host(move->source.conf, error) || !has_one_host(move->target.conf, error) ||
	    !plan_pick_routes(move, error))
		return EXIT_REFUSED;
	if (!servers_connect(move, error) || !plan_connect_routes(move, error))
		return unreachable(error);
	if (!bouncers_plan(move, error) || !commcare_plan(move, error))
		return EXIT_REFUSED;
	return plproxy_plan(move, error) ? EXIT_DONE : EXIT_REFUSED;
}

enum exit_code plan_make(struct move *move, char *const *names, size_t count, const char *all_of,
                         const char *to)
{
	struct sbuf error;
	enum exit_code code;

	move->phase = PHASE_PLAN;
	move->times[PHASE_PLAN].began = clock_now();
	sbuf_init(&error, PLAN_ERROR_MAX);
	code = make(move, names, count, all_of, to, &error);
	if (code != EXIT_DONE) {
		char *text = mem_must_strdup(sbuf_text(&error));
		char *save = NULL;

		for (char *line = strtok_r(text, "\n", &save); line != NULL;
		     line = strtok_r(NULL, "\n", &save))
			(void)move_fail(move, "%s", line);
		free(text);
	}
	sbuf_free(&error);
	move->times[PHASE_PLAN].ended = clock_now();
	move->times[PHASE_PLAN].ok = code == EXIT_DONE;
	return code;
}
