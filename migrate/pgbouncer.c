/* SPDX-License-Identifier: PostgreSQL */
/*
 * Which pgbouncer processes there are, and which of their entries lead where.  Nothing here changes
 * anything.
 */
#include "migrate/pgbouncer.h"

#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* Connections that are tried for each process behind one address before it counts as missing. */
#define TRIES_PER_PROCESS 40

/* ---- the processes ---- */

static size_t process_count(const struct config_pgbouncer *conf)
{
	if (conf->unix_socket_directories.count > 0)
		return conf->unix_socket_directories.count;
	return conf->processes > 0 ? (size_t)conf->processes : 1;
}

static void make_bouncer(struct bouncer *bouncer, const struct config_pgbouncer *conf, size_t index)
{
	const struct config_list *sockets = &conf->unix_socket_directories;
	size_t count = process_count(conf);

	*bouncer = (struct bouncer){
	    .conf = conf,
	    .shared = sockets->count == 0 && count > 1,
	    .target = {.host = sockets->count > 0 ? sockets->items[index] : conf->host,
	               .port = conf->port,
	               .user = conf->user,
	               .dbname = "pgbouncer",
	               .password_file = conf->password_file,
	               .password_env = conf->password_env,
	               .console = true}};
	if (count == 1)
		bouncer->label = mem_must_printf("pgbouncer %s", conf->name);
	else if (sockets->count > 0)
		bouncer->label =
		    mem_must_printf("pgbouncer %s (%s)", conf->name, sockets->items[index]);
	else
		bouncer->label =
		    mem_must_printf("pgbouncer %s (process %zu)", conf->name, index + 1);
	link_init(&bouncer->control, bouncer->label, &bouncer->target);
}

static void make_bouncers(struct move *move)
{
	const struct config_mover *conf = &move->config->mover;
	size_t count = 0;

	if (move->bouncers != NULL)
		return;
	for (size_t i = 0; i < conf->pgbouncer_count; i++)
		move->bouncer_count += process_count(&conf->pgbouncers[i]);
	move->bouncers = mem_must_alloc((move->bouncer_count + 1) * sizeof(*move->bouncers));
	for (size_t i = 0; i < conf->pgbouncer_count; i++) {
		for (size_t j = 0; j < process_count(&conf->pgbouncers[i]); j++)
			make_bouncer(&move->bouncers[count++], &conf->pgbouncers[i], j);
	}
	/* Their answers are taken while other links are waited for. */
	move->loop.background = mem_must_grow(move->loop.background,
	                                      move->loop.background_count + move->bouncer_count + 1,
	                                      sizeof(struct link *));
	for (size_t i = 0; i < move->bouncer_count; i++)
		move->loop.background[move->loop.background_count++] = &move->bouncers[i].control;
}

/* ---- what a process says of itself ---- */

static const char *config_value(const struct link *link, const char *key)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "key");

		if (name != NULL && strcmp(name, key) == 0)
			return link_value(link, row, "value");
	}
	return NULL;
}

/* What tells a process from the others behind its address; from SHOW CONFIG. */
static char *identity_of(const struct link *link)
{
	static const char *const keys[] = {"conffile", "unix_socket_dir", "pidfile",
	                                   "logfile",  "peer_id",         "job_name"};
	struct sbuf text;
	char *out;

	sbuf_init(&text, 65536);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const char *value = config_value(link, keys[i]);

		sbuf_printf(&text, "%s;", value == NULL ? "" : value);
	}
	out = mem_must_strdup(sbuf_text(&text));
	sbuf_free(&text);
	return out;
}

static void take_config(struct bouncer *bouncer, const struct link *link)
{
	const struct config_list *files = &bouncer->conf->ini;
	const char *file = config_value(link, "conffile");
	const char *mode = config_value(link, "pool_mode");
	const char *wait = config_value(link, "query_wait_timeout");
	const char *retry = config_value(link, "server_login_retry");

	free(bouncer->identity);
	free(bouncer->ini);
	free(bouncer->session);
	bouncer->identity = identity_of(link);
	bouncer->session =
	    mode == NULL || strcmp(mode, "session") != 0 ? NULL : mem_must_strdup(mode);
	bouncer->query_wait_timeout =
	    wait == NULL ? 0 : (usec_t)(strtod(wait, NULL) * (double)USEC_PER_SEC);
	if (bouncer->retry == NULL)
		bouncer->retry = mem_must_strdup(retry);
	if (files->count == 1)
		file = files->items[0];
	else if (files->count > 1 && bouncer->conf->unix_socket_directories.count > 0)
		for (size_t i = 0; i < files->count; i++) {
			if (strcmp(bouncer->conf->unix_socket_directories.items[i],
			           bouncer->target.host) == 0)
				file = files->items[i];
		}
	bouncer->ini = mem_must_strdup(file);
}

/* Connects and asks who answered; false if nobody did. */
static bool meet(struct move *move, struct link *link)
{
	return link_revive(move, link) && link_run(&move->loop, link, ASK_TIMEOUT, "SHOW CONFIG");
}

bool bouncer_link(struct move *move, struct bouncer *bouncer, struct link *link)
{
	size_t tries = TRIES_PER_PROCESS * process_count(bouncer->conf);

	if (!bouncer->shared || link->state == LINK_IDLE)
		return link_revive(move, link);
	for (size_t i = 0; i < tries; i++) {
		char *identity;
		bool right;

		link_close(link);
		if (!meet(move, link))
			return false;
		identity = identity_of(link);
		right = bouncer->identity != NULL && strcmp(identity, bouncer->identity) == 0;
		free(identity);
		if (right)
			return true;
	}
	link_close(link);
	return false;
}

static bool is_known(const struct move *move, const struct bouncer *like, const char *identity)
{
	for (size_t i = 0; i < move->bouncer_count; i++) {
		const struct bouncer *other = &move->bouncers[i];

		if (other->conf == like->conf && other != like && other->identity != NULL &&
		    strcmp(other->identity, identity) == 0)
			return true;
	}
	return false;
}

/* One of several processes behind an address: connects until it is one that is not known yet. */
static bool find_process(struct move *move, struct bouncer *bouncer, struct sbuf *error)
{
	size_t count = process_count(bouncer->conf);

	if (bouncer->identity != NULL)
		return bouncer_link(move, bouncer, &bouncer->control);
	for (size_t i = 0; i < TRIES_PER_PROCESS * count; i++) {
		char *identity;
		bool known;

		link_close(&bouncer->control);
		if (!meet(move, &bouncer->control)) {
			sbuf_printf(error, "%s: %s\n", bouncer->label,
			            link_error(&bouncer->control));
			return false;
		}
		identity = identity_of(&bouncer->control);
		known = is_known(move, bouncer, identity);
		free(identity);
		if (!known) {
			take_config(bouncer, &bouncer->control);
			return true;
		}
	}
	link_close(&bouncer->control);
	sbuf_printf(error,
	            "%s: %zu processes are expected at %s:%d, but only fewer can be told apart: "
	            "is one not running, or have they the same unix_socket_dir, pidfile, logfile "
	            "and file?  Give unix_socket_directories\n",
	            bouncer->label, count, bouncer->conf->host, bouncer->conf->port);
	return false;
}

/* Nobody else may be behind the address: each of some more connections is one that is known. */
static bool find_strangers(struct move *move, const struct bouncer *bouncer, struct sbuf *error)
{
	struct link link;
	bool ok = true;

	link_init(&link, bouncer->label, &bouncer->target);
	for (size_t i = 0; ok && i < 5 * process_count(bouncer->conf); i++) {
		char *identity;

		link_close(&link);
		if (!meet(move, &link))
			break;
		identity = identity_of(&link);
		ok = is_known(move, &(struct bouncer){.conf = bouncer->conf}, identity);
		free(identity);
	}
	link_close(&link);
	if (!ok)
		sbuf_printf(error, "pgbouncer %s: there are more than %zu processes at %s:%d\n",
		            bouncer->conf->name, process_count(bouncer->conf), bouncer->conf->host,
		            bouncer->conf->port);
	return ok;
}

/* A single process at a TCP address that is one of several: the others would go on. */
static bool check_single(struct bouncer *bouncer, struct sbuf *error)
{
	const char *reuse = config_value(&bouncer->control, "so_reuseport");

	if (bouncer->conf->unix_socket_directories.count > 0 || bouncer->conf->processes > 0 ||
	    reuse == NULL || strcmp(reuse, "1") != 0)
		return true;
	sbuf_printf(error,
	            "%s: its so_reuseport is on, so that there may be several processes at %s:%d; "
	            "give unix_socket_directories or processes\n",
	            bouncer->label, bouncer->conf->host, bouncer->conf->port);
	return false;
}

bool bouncers_connect(struct move *move, struct sbuf *error)
{
	struct link **links;
	size_t count = 0;
	bool ok;

	make_bouncers(move);
	links = mem_must_alloc((move->bouncer_count + 1) * sizeof(struct link *));
	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (!move->bouncers[i].shared)
			links[count++] = &move->bouncers[i].control;
	}
	ok = links_connect(&move->loop, links, count, move->config->mover.connect_timeout, error);
	free(links);
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];

		if (bouncer->shared) {
			ok = find_process(move, bouncer, error) && ok;
		} else if (bouncer->control.state == LINK_IDLE) {
			if (link_run(&move->loop, &bouncer->control, ASK_TIMEOUT, "SHOW CONFIG")) {
				take_config(bouncer, &bouncer->control);
				ok = check_single(bouncer, error) && ok;
			} else {
				sbuf_printf(error, "%s: SHOW CONFIG: %s\n", bouncer->label,
				            link_error(&bouncer->control));
				ok = false;
			}
		}
	}
	for (size_t i = 0; ok && i < move->bouncer_count; i++) {
		if (move->bouncers[i].shared &&
		    (i == 0 || move->bouncers[i - 1].conf != move->bouncers[i].conf))
			ok = find_strangers(move, &move->bouncers[i], error);
	}
	return ok;
}

/* ---- where an entry leads ---- */

static bool is_loopback(const char *host)
{
	return *host == '\0' || endpoint_is_unix(host) || strcmp(host, "localhost") == 0 ||
	       strcmp(host, "127.0.0.1") == 0 || strcmp(host, "::1") == 0;
}

/* Whether the process runs on the machine of the mover. */
static bool is_here(const struct config_pgbouncer *conf)
{
	return conf->command[0] == '\0' &&
	       (conf->unix_socket_directories.count > 0 || is_loopback(conf->host));
}

/* The server that this pgbouncer's file means by host and port. */
static const struct config_server *
server_at(const struct move *move, const struct config_pgbouncer *conf, const char *host, int port)
{
	static const char *const here[] = {"127.0.0.1", "localhost", "::1"};
	const struct config_server *server = NULL;

	for (size_t i = 0; server == NULL && i < conf->addresses.count; i++) {
		const char *item = conf->addresses.items[i];
		const char *equal = strchr(item, '=');
		char *name = mem_must_strndup(item, (size_t)(equal - item));

		if (endpoint_is(equal + 1, *host == '\0' ? "localhost" : host, port))
			server = config_find_server(move->config, name);
		free(name);
	}
	if (server != NULL)
		return server;
	if (!is_loopback(host))
		return config_find_server_at(move->config, host, port);
	/* "localhost" there is our "localhost" only if it is the same machine. */
	if (!is_here(conf))
		return conf->host[0] == '\0'
		           ? NULL
		           : config_find_server_at(move->config, conf->host, port);
	server = config_find_server_at(move->config, host, port);
	for (size_t i = 0; server == NULL && i < ARRAY_LEN(here); i++)
		server = config_find_server_at(move->config, here[i], port);
	return server;
}

/* How this pgbouncer's file names the target. */
static void address_of(const struct config_pgbouncer *conf, const struct config_server *server,
                       char **host, int *port)
{
	size_t len = strlen(server->name);

	for (size_t i = 0; i < conf->addresses.count; i++) {
		const char *item = conf->addresses.items[i];
		const char *colon = strrchr(item, ':');

		if (strncmp(item, server->name, len) != 0 || item[len] != '=' || colon == NULL)
			continue;
		item += len + 1;
		if (*item == '[' && colon[-1] == ']')
			*host = mem_must_strndup(item + 1, (size_t)(colon - item) - 2);
		else
			*host = mem_must_strndup(item, (size_t)(colon - item));
		*port = atoi(colon + 1);
		return;
	}
	*host = mem_must_strdup(server->admin_host);
	*port = server->admin_port;
}

static const struct config_pgbouncer *conf_at(const struct move *move, const char *host, int port)
{
	const struct config_mover *conf = &move->config->mover;

	for (size_t i = 0; i < conf->pgbouncer_count; i++) {
		const struct config_pgbouncer *bouncer = &conf->pgbouncers[i];

		if (bouncer->port != port)
			continue;
		if (strcmp(bouncer->host, host) == 0 ||
		    (is_loopback(host) && is_loopback(bouncer->host) && !endpoint_is_unix(host) &&
		     is_here(bouncer)))
			return bouncer;
		for (size_t j = 0; j < bouncer->unix_socket_directories.count; j++) {
			if (strcmp(bouncer->unix_socket_directories.items[j], host) == 0)
				return bouncer;
		}
	}
	return NULL;
}

const char *bouncer_at(const struct move *move, const char *host, int port)
{
	const struct config_pgbouncer *conf = conf_at(move, host, port);

	for (size_t i = 0; conf != NULL && i < move->bouncer_count; i++) {
		if (move->bouncers[i].conf == conf && process_count(conf) == 1)
			return move->bouncers[i].label;
	}
	return conf == NULL ? NULL : conf->name;
}

bool bouncer_listens(const struct move *move, const struct bouncer *bouncer, const char *host,
                     int port)
{
	return conf_at(move, host, port) == bouncer->conf;
}

/* A row of SHOW DATABASES. */
struct row {
	const char *name;
	const char *host;
	int port;
	const char *dbname;
	bool paused;
};

static bool read_row(const struct link *link, int row, struct row *out)
{
	const char *host = link_value(link, row, "host");

	out->name = link_value(link, row, "name");
	out->host = host == NULL ? "" : host;
	out->port = (int)link_number(link, row, "port", 5432);
	out->dbname = link_value(link, row, "database");
	out->paused = link_number(link, row, "paused", 0) != 0;
	return out->name != NULL && out->dbname != NULL && strcmp(out->name, "pgbouncer") != 0;
}

static bool ask_databases(struct move *move, struct bouncer *bouncer, struct sbuf *error)
{
	if (link_run(&move->loop, &bouncer->control, ASK_TIMEOUT, "SHOW DATABASES"))
		return true;
	sbuf_printf(error, "%s: SHOW DATABASES: %s\n", bouncer->label,
	            link_error(&bouncer->control));
	return false;
}

bool bouncers_read_seen(struct move *move, struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		struct row row;

		if (!ask_databases(move, bouncer, error)) {
			ok = false;
			continue;
		}
		for (int n = 0; n < link_rows(&bouncer->control); n++) {
			const struct config_server *server;
			struct seen_route *seen;

			if (!read_row(&bouncer->control, n, &row))
				continue;
			server = server_at(move, bouncer->conf, row.host, row.port);
			if (server == NULL || router_at(move, row.host, row.port) != NULL)
				continue;
			seen = plan_add_seen(move);
			seen->bouncer = bouncer;
			seen->database = mem_must_strdup(row.name);
			seen->server = mem_must_strdup(server->name);
			seen->dbname = mem_must_strdup(row.dbname);
			seen->host = mem_must_strdup(row.host);
			seen->port = row.port;
		}
	}
	return ok;
}

/* ---- the entries ---- */

static void drop_entries(struct move *move)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		link_close(&move->entries[i].link);
		free(move->entries[i].name);
		free(move->entries[i].host);
		free(move->entries[i].new_host);
	}
	free(move->entries);
	move->entries = NULL;
	move->entry_count = 0;
}

static struct bouncer_entry *add_entry(struct move *move, struct bouncer *bouncer,
                                       struct shard *shard, const char *name, const char *host,
                                       int port)
{
	struct bouncer_entry *entry;

	move->entries = mem_must_grow(move->entries, move->entry_count + 1, sizeof(*move->entries));
	entry = &move->entries[move->entry_count++];
	*entry = (struct bouncer_entry){.bouncer = bouncer,
	                                .shard = shard,
	                                .name = mem_must_strdup(name),
	                                .host = mem_must_strdup(host),
	                                .port = port};
	return entry;
}

/* Whether a proxy sends the shards to this pgbouncer. */
static bool is_behind(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		if (seen->proxy != NULL && conf_at(move, seen->host, seen->port) == bouncer->conf)
			return true;
	}
	return false;
}

const char *bouncer_leads_to(const struct move *move, const struct bouncer *bouncer,
                             const char *host, int port)
{
	const char *router = router_at(move, host, port);
	const struct config_server *server;

	if (router != NULL)
		return router;
	server = server_at(move, bouncer->conf, host, port);
	return server == NULL ? NULL : server->name;
}

/* Decides about one entry that has the name of a shard; false and an error if it cannot. */
static bool judge(struct move *move, struct bouncer_entry *entry, bool paused, struct sbuf *error)
{
	struct bouncer *bouncer = entry->bouncer;
	const struct config_server *server =
	    server_at(move, bouncer->conf, entry->host, entry->port);

	entry->where = bouncer_leads_to(move, bouncer, entry->host, entry->port);
	if (entry->where == NULL) {
		sbuf_printf(error,
		            "%s: entry %s leads to %s:%d, which is neither a proxy nor %s; add the "
		            "spelling to mover.pgbouncers.%s.addresses if it is that server\n",
		            bouncer->label, entry->name,
		            *entry->host == '\0' ? "a socket" : entry->host, entry->port,
		            move->source.conf->name, bouncer->conf->name);
		return false;
	}
	if (server == move->source.conf && strcmp(entry->where, server->name) == 0) {
		entry->change = true;
		entry->behind = is_behind(move, bouncer);
		address_of(bouncer->conf, move->target.conf, &entry->new_host, &entry->new_port);
		if (paused && !move->anything_changed) {
			sbuf_printf(
			    error,
			    "%s: database %s is paused already; finish the move that paused "
			    "it (\"pgshunt resume\" or \"pgshunt abort\"), or RESUME it\n",
			    bouncer->label, entry->name);
			return false;
		}
		return bouncer_file_add(move, entry, error);
	}
	return true;
}

static struct shard *shard_of(struct move *move, const char *dbname)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, dbname) == 0)
			return &move->shards[i];
	}
	return NULL;
}

static bool plan_bouncer(struct move *move, struct bouncer *bouncer, struct sbuf *error)
{
	const struct config_list *wanted = &bouncer->conf->databases;
	size_t first = move->entry_count;
	struct row row;
	bool ok = true;
	bool *paused;

	if (bouncer->control.state != LINK_IDLE || !ask_databases(move, bouncer, error))
		return false;
	paused = mem_must_alloc((size_t)link_rows(&bouncer->control) + 1);
	for (int n = 0; n < link_rows(&bouncer->control); n++) {
		struct shard *shard;

		if (!read_row(&bouncer->control, n, &row) ||
		    (shard = shard_of(move, row.dbname)) == NULL)
			continue;
		paused[move->entry_count - first] = row.paused;
		(void)add_entry(move, bouncer, shard, row.name, row.host, row.port);
	}
	for (size_t i = first; i < move->entry_count; i++)
		ok = judge(move, &move->entries[i], paused[i - first], error) && ok;
	free(paused);
	for (size_t i = 0; i < wanted->count; i++) {
		bool found = false;

		for (int n = 0; n < link_rows(&bouncer->control); n++)
			found = found || (read_row(&bouncer->control, n, &row) &&
			                  strcmp(row.name, wanted->items[i]) == 0);
		if (!found)
			sbuf_printf(error, "%s has no entry %s\n", bouncer->label,
			            wanted->items[i]);
		ok = ok && found;
	}
	return ok;
}

bool bouncers_involved(const struct move *move)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		if (move->entries[i].change)
			return true;
	}
	return false;
}

bool bouncers_plan(struct move *move, struct sbuf *error)
{
	bool ok = true;

	drop_entries(move);
	bouncer_files_free(move);
	for (size_t i = 0; i < move->bouncer_count; i++)
		ok = plan_bouncer(move, &move->bouncers[i], error) && ok;
	/* Only now do the entries stay where they are. */
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		link_init(&entry->link, entry->bouncer->label, &entry->bouncer->target);
		if (entry->change && !bouncer_link(move, entry->bouncer, &entry->link)) {
			sbuf_printf(error, "%s: %s\n", entry->bouncer->label,
			            link_error(&entry->link));
			ok = false;
		}
	}
	return ok;
}

bool bouncer_holds(const struct move *move, const struct bouncer *bouncer, const char *name)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (entry->bouncer == bouncer && entry->change && strcmp(entry->name, name) == 0)
			return true;
	}
	return false;
}

void bouncers_check(const struct move *move, struct sbuf *warnings)
{
	usec_t budget = move->config->mover.hold_timeout + move->config->mover.catch_up_timeout;

	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];
		const struct bouncer *bouncer = entry->bouncer;

		if (!entry->change)
			continue;
		if (bouncer->session != NULL)
			sbuf_printf(
			    warnings,
			    "%s: its pool_mode is session: PAUSE waits until every client of "
			    "%s has disconnected\n",
			    bouncer->label, entry->name);
		if (bouncer->query_wait_timeout > 0 && bouncer->query_wait_timeout < budget)
			sbuf_printf(
			    warnings,
			    "%s: its query_wait_timeout is %" PRId64
			    " s: clients that wait longer are disconnected, and the hold may "
			    "take up to %" PRId64 " s\n",
			    bouncer->label, bouncer->query_wait_timeout / USEC_PER_SEC,
			    budget / USEC_PER_SEC);
	}
}

void bouncers_add_missing(struct move *move, const struct journal_records *records)
{
	const struct json *plan = json_get(journal_find(records, "outcome", "plan"), "data");
	const struct json *list = json_get(plan, "pgbouncers");

	for (const struct json *at = list == NULL ? NULL : list->first; at != NULL; at = at->next) {
		const char *label = json_text(at, "process");
		const char *name = json_text(at, "entry");
		const char *shard_name = json_text(at, "shard");
		struct bouncer *bouncer = NULL;
		struct shard *shard = NULL;
		bool known = json_text(at, "new") == NULL || label == NULL || name == NULL;
		struct bouncer_entry *entry;

		for (size_t i = 0; !known && i < move->bouncer_count; i++) {
			if (strcmp(move->bouncers[i].label, label) == 0)
				bouncer = &move->bouncers[i];
		}
		if (bouncer != NULL && json_text(at, "server_login_retry") != NULL) {
			/* What it says now may be what we set. */
			free(bouncer->retry);
			bouncer->retry = mem_must_strdup(json_text(at, "server_login_retry"));
			bouncer->retry_changed = true;
		}
		for (size_t i = 0; !known && i < move->shard_count; i++) {
			if (shard_name != NULL && strcmp(move->shards[i].name, shard_name) == 0)
				shard = &move->shards[i];
		}
		for (size_t i = 0; !known && i < move->entry_count; i++) {
			if (move->entries[i].bouncer != bouncer ||
			    strcmp(move->entries[i].name, name) != 0)
				continue;
			/* It may lead to the target already and be paused all the same. */
			known = true;
			move->entries[i].change = true;
		}
		if (known || bouncer == NULL || shard == NULL)
			continue;
		entry = add_entry(move, bouncer, shard, name, "", 0);
		entry->change = true;
		entry->where = move->source.conf->name;
		link_init(&entry->link, bouncer->label, &bouncer->target);
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!entry->change || entry->new_host != NULL)
			continue;
		address_of(entry->bouncer->conf, move->target.conf, &entry->new_host,
		           &entry->new_port);
	}
}

/* ---- showing ---- */

void bouncers_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "pgbouncers", '[');
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];
		char *old = mem_must_printf("%s:%d", entry->host, entry->port);
		char *new = !entry->change
		                ? NULL
		                : mem_must_printf("%s:%d", entry->new_host, entry->new_port);

		json_open(out, NULL, '{');
		json_str(out, "pgbouncer", entry->bouncer->conf->name);
		json_str(out, "process", entry->bouncer->label);
		json_str(out, "entry", entry->name);
		json_str(out, "shard", entry->shard->name);
		json_str(out, "leads_to", entry->where);
		json_str(out, "old", old);
		json_str(out, "new", new);
		json_str(out, "ini", entry->bouncer->ini);
		json_str(out, "server_login_retry", entry->bouncer->retry);
		json_close(out, '}');
		free(old);
		free(new);
	}
	json_close(out, ']');
	json_open(out, "files", '[');
	for (size_t i = 0; i < move->file_count; i++) {
		struct sbuf diff;

		sbuf_init(&diff, INI_FILE_MAX);
		bouncer_files_diff(&move->files[i], &diff);
		json_open(out, NULL, '{');
		json_str(out, "pgbouncer",
		         move->files[i].conf == NULL ? NULL : move->files[i].conf->name);
		json_str(out, "path", move->files[i].path);
		json_str(out, "diff", sbuf_text(&diff));
		json_close(out, '}');
		sbuf_free(&diff);
	}
	json_close(out, ']');
}

static void print_lines(struct ui *ui, const char *text)
{
	while (*text != '\0') {
		int len = (int)strcspn(text, "\n");

		ui_line(ui, "    %.*s", len, text);
		text += len + (text[len] == '\n' ? 1 : 0);
	}
}

void bouncers_print(struct move *move)
{
	struct ui *ui = move->ui;

	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (entry->change)
			ui_line(ui,
			        "  %s: database %s is paused%s, led from %s (%s) to %s (%s), "
			        "reloaded, resumed",
			        entry->bouncer->label, entry->name,
			        entry->behind ? " when the proxies are drained" : "", entry->where,
			        endpoint_text(*entry->host == '\0' ? "socket" : entry->host,
			                      entry->port)
			            .text,
			        move->target.conf->name,
			        endpoint_text(entry->new_host, entry->new_port).text);
		else
			ui_line(ui, "  %s: database %s leads to %s: nothing to change",
			        entry->bouncer->label, entry->name, entry->where);
	}
	for (size_t i = 0; i < move->bouncer_count; i++) {
		bool found = false;

		for (size_t j = 0; j < move->entry_count; j++)
			found = found || move->entries[j].bouncer == &move->bouncers[i];
		if (!found)
			ui_line(ui, "  %s: no entry leads to these shards",
			        move->bouncers[i].label);
	}
	for (size_t i = 0; i < move->file_count; i++) {
		const struct bouncer_file *file = &move->files[i];
		struct sbuf diff;

		ui_line(ui, "  %s%s%s, the original is kept next to it (.bak):", file->path,
		        file->conf == NULL || *file->conf->command == '\0' ? "" : " by ",
		        file->conf == NULL ? "" : file->conf->command);
		sbuf_init(&diff, INI_FILE_MAX);
		bouncer_files_diff(file, &diff);
		print_lines(ui, sbuf_text(&diff));
		sbuf_free(&diff);
	}
}

void bouncers_free(struct move *move)
{
	for (size_t i = 0; i < move->bouncer_count; i++)
		move->bouncers[i].control.done = NULL;
	drop_entries(move);
	bouncer_files_free(move);
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];

		link_close(&bouncer->control);
		free(bouncer->label);
		free(bouncer->identity);
		free(bouncer->ini);
		free(bouncer->retry);
		free(bouncer->session);
		free(bouncer->error);
	}
	free(move->bouncers);
	move->bouncers = NULL;
	move->bouncer_count = 0;
}
