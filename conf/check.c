/* SPDX-License-Identifier: PostgreSQL */
/*
 * What only several settings together can show to be wrong.
 */
#include "conf/load.h"

#include "base/endpoint.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

/* Longest "/.s.PGSQL.65535". */
#define SOCKET_NAME_MAX 15

static void check_listening(struct loader *loader)
{
	const struct config_proxy *proxy = &loader->config->proxy;
	const size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 - SOCKET_NAME_MAX;
	const struct node *place;

	place = loader_place(loader->proxy, "listen_addresses", loader->proxy);
	if (proxy->listen_addresses.count == 0 && proxy->unix_socket_directory[0] == '\0' &&
	    place != NULL && place->kind != NODE_REFUSED)
		problem_add(loader->problems, place->line, place->column,
		            "proxy: nobody can connect; give listen_addresses or "
		            "unix_socket_directory");
	place = loader_place(loader->proxy, "unix_socket_directory", loader->proxy);
	if (place != NULL && strlen(proxy->unix_socket_directory) > room)
		problem_add(loader->problems, place->line, place->column,
		            "proxy.unix_socket_directory: the path is too long for a Unix socket; "
		            "at most %zu bytes",
		            room);
}

static void check_monitoring(struct loader *loader)
{
	const struct config_proxy *proxy = &loader->config->proxy;
	const struct node *period = loader_place(loader->proxy, "stats_period", loader->proxy);
	const struct node *place = loader_place(loader->proxy, "metrics_socket", loader->proxy);

	if (place != NULL &&
	    strlen(proxy->metrics_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		problem_add(loader->problems, place->line, place->column,
		            "proxy.metrics_socket: the path is too long for a Unix socket");
	if (period != NULL && proxy->stats_period > 0 && proxy->stats_period < USEC_PER_SEC)
		problem_add(loader->problems, period->line, period->column,
		            "proxy.stats_period: expected 0 or at least 1s");
}

/* Two places for one password: which of them holds would be a guess. */
static void check_one_source(struct loader *loader, const char *label, const struct node *map,
                             const char *prefix)
{
	char file[64];
	char env[64];
	const struct node *file_key;
	const struct node *env_key;

	(void)snprintf(file, sizeof(file), "%spassword_file", prefix);
	(void)snprintf(env, sizeof(env), "%spassword_env", prefix);
	file_key = node_find_key(map, file);
	env_key = node_find_key(map, env);
	if (file_key == NULL || env_key == NULL || file_key->value->text == NULL ||
	    env_key->value->text == NULL || file_key->value->text[0] == '\0' ||
	    env_key->value->text[0] == '\0')
		return;
	if (env_key->line < file_key->line)
		env_key = file_key;
	problem_add(loader->problems, env_key->line, env_key->column, "%s: give %s or %s, not both",
	            label, file, env);
}

static void check_secrets(struct loader *loader, const struct entry_kind *kind)
{
	const size_t count = entry_count(loader->config, kind);

	for (size_t i = 0; i < count; i++) {
		const struct node *map = loader->keys[kind->kind][i]->value;
		char label[LOADER_LABEL_MAX];

		loader_label(kind, entry_name(loader->config, kind, i), label);
		check_one_source(loader, label, map, "");
		check_one_source(loader, label, map, "check_");
		check_one_source(loader, label, map, "admin_");
	}
}

/* "10.0.0.1:5432" in host: the most likely mistake.  IPv6 addresses have more colons. */
static void check_host(struct loader *loader, const struct entry_kind *kind, size_t index,
                       const char *host)
{
	const struct node *key = loader->keys[kind->kind][index];
	const struct node *place = loader_place(key->value, "host", key);
	const char *colon = strchr(host, ':');
	const char *mistake = NULL;
	char label[LOADER_LABEL_MAX];

	if (colon != NULL && strchr(colon + 1, ':') == NULL && !endpoint_is_unix(host))
		mistake = "a port does not stand in host; give it as port";
	else if (strchr(host, ' ') != NULL)
		mistake = "a host has no spaces; expected a name, an address or a directory";
	else if (strchr(host, ',') != NULL && kind->kind != CONFIG_ENTRY_SERVER)
		mistake = "expected one host, not several";
	else if (host[0] == ',' || (host[0] != '\0' && host[strlen(host) - 1] == ',') ||
	         strstr(host, ",,") != NULL)
		mistake = "between two commas a host is missing";
	else if (endpoint_is_unix(host) &&
	         strlen(host) >
	             sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 - SOCKET_NAME_MAX)
		mistake = "the path is too long for a Unix socket";
	if (mistake != NULL)
		problem_add(loader->problems, place->line, place->column, "%s.host: %s",
		            loader_label(kind, key->text, label), mistake);
}

static void check_hosts(struct loader *loader)
{
	const struct config *config = loader->config;

	for (size_t i = 0; i < config->server_count; i++)
		check_host(loader, &entry_kinds[CONFIG_ENTRY_SERVER], i, config->servers[i].host);
	for (size_t i = 0; i < config->mover.proxy_count; i++)
		check_host(loader, &entry_kinds[CONFIG_ENTRY_MOVER_PROXY], i,
		           config->mover.proxies[i].host);
	for (size_t i = 0; i < config->mover.pgbouncer_count; i++)
		check_host(loader, &entry_kinds[CONFIG_ENTRY_PGBOUNCER], i,
		           config->mover.pgbouncers[i].host);
	for (size_t i = 0; i < config->mover.plproxy_count; i++)
		check_host(loader, &entry_kinds[CONFIG_ENTRY_PLPROXY], i,
		           config->mover.plproxy[i].host);
}

/* ---- what may be there only once ---- */

/* One thing that must be unique: its identity as text, and where it stands. */
struct claim {
	char *identity;
	const char *owner; /* name of the entry */
	const struct node *place;
};

static int compare_claims(const void *a, const void *b)
{
	const struct claim *left = a;
	const struct claim *right = b;
	int order = strcmp(left->identity, right->identity);

	if (order != 0)
		return order;
	if (left->place->line != right->place->line)
		return left->place->line < right->place->line ? -1 : 1;
	return left->place->column < right->place->column
	           ? -1
	           : left->place->column > right->place->column;
}

/* Complains about every claim after the first with the same identity; frees the identities. */
static void check_claims(struct loader *loader, struct claim *claims, size_t count,
                         const char *what)
{
	char identity[PROBLEM_QUOTE_MAX];
	char owner[PROBLEM_QUOTE_MAX];

	if (count > 1)
		qsort(claims, count, sizeof(*claims), compare_claims);
	for (size_t i = 1, first = 0; i < count; i++) {
		if (strcmp(claims[first].identity, claims[i].identity) != 0) {
			first = i;
			continue;
		}
		/* an entry that is there twice was complained about already */
		if (strcmp(claims[first].owner, claims[i].owner) == 0)
			continue;
		problem_add(loader->problems, claims[i].place->line, claims[i].place->column,
		            "%s %s is already that of %s in line %zu; it must be there only once",
		            what, problem_quote(claims[i].identity, identity),
		            problem_quote(claims[first].owner, owner), claims[first].place->line);
	}
	for (size_t i = 0; i < count; i++)
		free(claims[i].identity);
	free(claims);
}

static struct claim *claims_new(size_t count)
{
	return mem_must_grow(NULL, count + 1, sizeof(struct claim));
}

static void check_shards(struct loader *loader)
{
	const struct config *config = loader->config;
	struct claim *claims = claims_new(config->database_count);

	for (size_t i = 0; i < config->database_count; i++) {
		const struct node *key = loader->keys[CONFIG_ENTRY_DATABASE][i];

		claims[i].identity = mem_must_strdup(config->databases[i].shard);
		claims[i].owner = config->databases[i].name;
		claims[i].place = loader_place(key->value, "shard", key);
	}
	check_claims(loader, claims, config->database_count, "the shard name");
}

/* "host:port", where the port is a number. */
static bool is_address(const char *text)
{
	const char *colon = strrchr(text, ':');

	if (colon == NULL || colon == text || colon[1] == '\0' || strlen(colon + 1) > 5)
		return false;
	return strspn(colon + 1, "0123456789") == strlen(colon + 1);
}

static void check_aliases(struct loader *loader)
{
	const struct config *config = loader->config;
	struct claim *claims;
	char quoted[PROBLEM_QUOTE_MAX];
	size_t count = 0;

	for (size_t i = 0; i < config->server_count; i++)
		count += config->servers[i].aliases.count;
	claims = claims_new(count);
	count = 0;
	for (size_t i = 0; i < config->server_count; i++) {
		const struct config_server *server = &config->servers[i];
		const struct node *key = loader->keys[CONFIG_ENTRY_SERVER][i];
		const struct node *place = loader_place(key->value, "aliases", key);
		char label[LOADER_LABEL_MAX];

		for (size_t j = 0; j < server->aliases.count; j++) {
			if (!is_address(server->aliases.items[j]))
				problem_add(loader->problems, place->line, place->column,
				            "%s.aliases: %s is not right; expected host:port",
				            loader_label(&entry_kinds[CONFIG_ENTRY_SERVER],
				                         server->name, label),
				            problem_quote(server->aliases.items[j], quoted));
			claims[count].identity = mem_must_strdup(server->aliases.items[j]);
			claims[count].owner = server->name;
			claims[count++].place = place;
		}
	}
	check_claims(loader, claims, count, "the alias");
}

static void check_proxies(struct loader *loader)
{
	const struct config_mover *mover = &loader->config->mover;
	struct claim *claims = claims_new(mover->proxy_count);
	size_t count = 0;

	for (size_t i = 0; i < mover->proxy_count; i++) {
		const struct config_mover_proxy *proxy = &mover->proxies[i];
		const struct node *key = loader->keys[CONFIG_ENTRY_MOVER_PROXY][i];
		const struct node *place = loader_place(key->value, "dbname", key);
		char label[LOADER_LABEL_MAX];

		if (proxy->host[0] != '\0') /* else it was complained about already */
			claims[count++] = (struct claim){
			    .identity = mem_must_printf("%s:%d", proxy->host, proxy->port),
			    .owner = proxy->name,
			    .place = key};
		if (!config_is_console(proxy->dbname))
			problem_add(
			    loader->problems, place->line, place->column,
			    "%s.dbname: expected pgshunt or pgbouncer, the names of the console",
			    loader_label(&entry_kinds[CONFIG_ENTRY_MOVER_PROXY], proxy->name,
			                 label));
	}
	check_claims(loader, claims, count, "the address");
}

static void check_plproxy(struct loader *loader)
{
	const struct config_mover *mover = &loader->config->mover;
	struct claim *claims = claims_new(mover->plproxy_count);
	size_t count = 0;

	for (size_t i = 0; i < mover->plproxy_count; i++) {
		const struct config_plproxy *plproxy = &mover->plproxy[i];

		if (plproxy->host[0] == '\0' || plproxy->dbname[0] == '\0' ||
		    plproxy->cluster[0] == '\0')
			continue;
		claims[count].identity = mem_must_printf(
		    "%s:%d/%s %s", plproxy->host, plproxy->port, plproxy->dbname, plproxy->cluster);
		claims[count].owner = plproxy->name;
		claims[count++].place = loader->keys[CONFIG_ENTRY_PLPROXY][i];
	}
	check_claims(loader, claims, count, "the PL/Proxy cluster");
}

static void check_auth(struct loader *loader)
{
	const struct config *config = loader->config;
	const struct node *place = loader_place(loader->proxy, "auth_type", loader->proxy);
	char label[LOADER_LABEL_MAX];

	if (place == NULL)
		return;
	if (config->proxy.auth_type == CONFIG_AUTH_HBA && config->proxy.auth_hba_file[0] == '\0')
		problem_add(loader->problems, place->line, place->column,
		            "proxy.auth_type: hba needs auth_hba_file");
	/* pgbouncer tells whoever wants to log in there. */
	if (config->proxy.auth_type != CONFIG_AUTH_ANY || config->proxy.as_pgbouncer)
		return;
	for (size_t i = 0; i < config->database_count; i++) {
		const struct node *key = loader->keys[CONFIG_ENTRY_DATABASE][i];

		if (config->databases[i].user[0] == '\0')
			problem_add(
			    loader->problems, key->line, key->column,
			    "%s: auth_type any asks nobody who it is, so user must say as whom "
			    "to log in to the server",
			    loader_label(&entry_kinds[CONFIG_ENTRY_DATABASE], key->text, label));
	}
}

/* Each process has to be found again for certain. */
static void check_pgbouncer(struct loader *loader, const struct config_pgbouncer *bouncer,
                            const struct node *key)
{
	const size_t sockets = bouncer->unix_socket_directories.count;
	const size_t processes = (size_t)bouncer->processes;
	char label[LOADER_LABEL_MAX];
	char quoted[PROBLEM_QUOTE_MAX];

	loader_label(&entry_kinds[CONFIG_ENTRY_PGBOUNCER], bouncer->name, label);
	if (sockets == 0 && bouncer->host[0] == '\0')
		problem_add(loader->problems, key->line, key->column,
		            "%s: give host or unix_socket_directories", label);
	if (sockets > 0 && processes > 0 && sockets != processes)
		problem_add(loader->problems, key->line, key->column,
		            "%s: unix_socket_directories has %zu directories for %zu processes",
		            label, sockets, processes);
	if (bouncer->ini.count > 1 && bouncer->ini.count != (sockets > 0 ? sockets : processes))
		problem_add(loader->problems, key->line, key->column,
		            "%s.ini: expected one file, or one for each process", label);
	for (size_t i = 0; i < bouncer->ini.count; i++) {
		if (bouncer->ini.items[i][0] != '/')
			problem_add(loader->problems, key->line, key->column,
			            "%s.ini: %s is not right; expected an absolute path", label,
			            problem_quote(bouncer->ini.items[i], quoted));
	}
	for (size_t i = 0; i < bouncer->addresses.count; i++) {
		const char *item = bouncer->addresses.items[i];
		const char *equal = strchr(item, '=');

		if (equal == NULL || !is_address(equal + 1))
			problem_add(loader->problems, key->line, key->column,
			            "%s.addresses: %s is not right; expected NAME=HOST:PORT", label,
			            problem_quote(item, quoted));
	}
}

static void check_pgbouncers(struct loader *loader)
{
	const struct config_mover *mover = &loader->config->mover;

	for (size_t i = 0; i < mover->pgbouncer_count; i++)
		check_pgbouncer(loader, &mover->pgbouncers[i],
		                loader->keys[CONFIG_ENTRY_PGBOUNCER][i]);
	for (size_t i = 0; i < mover->hook_count; i++) {
		const struct config_hook *hook = &mover->hooks[i];
		const struct node *key = loader->keys[CONFIG_ENTRY_HOOK][i];
		char label[LOADER_LABEL_MAX];

		if (hook->before[0] == '\0' && hook->after[0] == '\0')
			problem_add(
			    loader->problems, key->line, key->column,
			    "%s: give before or after, and the name of a phase",
			    loader_label(&entry_kinds[CONFIG_ENTRY_HOOK], hook->name, label));
	}
}

static void check_auth_dbname(struct loader *loader, const char *name, const struct node *place,
                              const char *label)
{
	char quoted[PROBLEM_QUOTE_MAX];

	if (name[0] == '\0')
		return;
	if (config_is_console(name))
		problem_add(loader->problems, place->line, place->column,
		            "%s.auth_dbname: cannot use the reserved \"%s\" database as an "
		            "auth_dbname",
		            label, name);
	else if (config_database_of(loader->config, name) == NULL &&
	         !loader->config->proxy.as_pgbouncer) /* whose file may name any */
		problem_add(loader->problems, place->line, place->column,
		            "%s.auth_dbname: there is no database %s in this file", label,
		            problem_quote(name, quoted));
}

/* In which database users are asked for. */
static void check_auth_databases(struct loader *loader)
{
	const struct config *config = loader->config;
	char label[LOADER_LABEL_MAX];

	if (loader->proxy != NULL) {
		check_auth_dbname(loader, config->proxy.auth_dbname,
		                  loader_place(loader->proxy, "auth_dbname", loader->proxy),
		                  "proxy");
		check_one_source(loader, "proxy", loader->proxy, "auth_");
	}
	/* pgbouncer tells whoever has to be asked for there, not who starts it. */
	for (size_t i = 0; i < config->database_count && !config->proxy.as_pgbouncer; i++) {
		const struct node *key = loader->keys[CONFIG_ENTRY_DATABASE][i];

		check_auth_dbname(
		    loader, config->databases[i].auth_dbname,
		    loader_place(key->value, "auth_dbname", key),
		    loader_label(&entry_kinds[CONFIG_ENTRY_DATABASE], key->text, label));
	}
}

/* A password without a user would be sent for whoever comes. */
static void check_database_users(struct loader *loader)
{
	const struct config *config = loader->config;

	for (size_t i = 0; i < config->database_count; i++) {
		const struct config_database *database = &config->databases[i];
		const struct node *key = loader->keys[CONFIG_ENTRY_DATABASE][i];
		char label[LOADER_LABEL_MAX];

		if (database->user[0] == '\0' &&
		    (database->password_file[0] != '\0' || database->password_env[0] != '\0'))
			problem_add(
			    loader->problems, key->line, key->column,
			    "%s: a password is given without the user it belongs to; give user",
			    loader_label(&entry_kinds[CONFIG_ENTRY_DATABASE], key->text, label));
	}
}

/* Peers are numbers, and the numbers of their clients have to fit beside them in a cancel key. */
static void check_peers(struct loader *loader)
{
	struct config *config = loader->config;
	const struct node *place;

	for (size_t i = 0; i < config->peer_count; i++) {
		const char *name = config->peers[i].name;
		const struct node *key = loader->keys[CONFIG_ENTRY_PEER][i];
		const size_t len = strlen(name);

		if (len == 0 || len > 5 || name[0] == '0' || strspn(name, "0123456789") != len ||
		    strtol(name, NULL, 10) > CONFIG_PEER_ID_MAX)
			problem_add(loader->problems, key->line, key->column,
			            "peers: the name of a peer is its peer_id; expected a number "
			            "from 1 to %d",
			            CONFIG_PEER_ID_MAX);
	}
	place = loader_place(loader->proxy, "max_client_connections", loader->proxy);
	if (config->proxy.peer_id != 0 && place != NULL &&
	    config->proxy.max_client_connections > CONFIG_PEER_CLIENTS_MAX &&
	    config->proxy.as_pgbouncer) {
		log_warning("max_client_conn: with a peer_id %d clients is the most, and in force",
		            CONFIG_PEER_CLIENTS_MAX);
		config->proxy.max_client_connections = CONFIG_PEER_CLIENTS_MAX;
	}
	if (config->proxy.peer_id != 0 && place != NULL &&
	    config->proxy.max_client_connections > CONFIG_PEER_CLIENTS_MAX)
		problem_add(loader->problems, place->line, place->column,
		            "proxy.max_client_connections: at most %d with a peer_id",
		            CONFIG_PEER_CLIENTS_MAX);
}

void config_check(struct loader *loader)
{
	check_listening(loader);
	check_monitoring(loader);
	check_hosts(loader);
	for (size_t i = 0; i < CONFIG_ENTRY_KINDS; i++)
		check_secrets(loader, &entry_kinds[i]);
	check_auth(loader);
	check_auth_databases(loader);
	check_database_users(loader);
	check_peers(loader);
	check_shards(loader);
	check_aliases(loader);
	check_proxies(loader);
	check_pgbouncers(loader);
	check_plproxy(loader);
}
