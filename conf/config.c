/* SPDX-License-Identifier: PostgreSQL */
/*
 * Life and lookups of a loaded configuration.
 */
#include "conf/config.h"

#include "base/endpoint.h"
#include "conf/arena.h"
#include "conf/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct config *config_ref(struct config *config)
{
	atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
	return config;
}

void config_unref(struct config *config)
{
	/* acquire and release: whatever another holder read, it has read before the memory goes */
	if (config == NULL ||
	    atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
		return;
	arena_free(&config->blocks);
	config_unref(config->base);
	free(config);
}

static int compare_name_to_entry(const void *name, const void *element)
{
	const void *entry = *(const void *const *)element;

	return strcmp(name, *(const char *const *)entry);
}

static const void *find_entry(const struct config *config, enum config_entry_kind kind,
                              size_t count, const char *name)
{
	const void **found;

	if (count == 0)
		return NULL;
	found = bsearch(name, config->sorted[kind], count, sizeof(*config->sorted[kind]),
	                compare_name_to_entry);
	return found == NULL ? NULL : *found;
}

const struct config_server *config_find_server(const struct config *config, const char *name)
{
	return find_entry(config, CONFIG_ENTRY_SERVER, config->server_count, name);
}

const struct config_database *config_find_database(const struct config *config, const char *name)
{
	return find_entry(config, CONFIG_ENTRY_DATABASE, config->database_count, name);
}

const struct config_database *config_database_of(const struct config *config, const char *name)
{
	const struct config_database *database = config_find_database(config, name);

	return database != NULL || config_name_is_long(name) ? database
	                                                     : config_find_database(config, "*");
}

bool config_name_is_long(const char *name)
{
	return strlen(name) > CONFIG_NAME_MAX;
}

const struct config_user *config_find_user(const struct config *config, const char *name)
{
	return find_entry(config, CONFIG_ENTRY_USER, config->user_count, name);
}

const struct config_peer *config_find_peer(const struct config *config, unsigned id)
{
	char name[16];

	(void)snprintf(name, sizeof(name), "%u", id);
	return find_entry(config, CONFIG_ENTRY_PEER, config->peer_count, name);
}

const struct config_mover_proxy *config_find_mover_proxy(const struct config *config,
                                                         const char *name)
{
	return find_entry(config, CONFIG_ENTRY_MOVER_PROXY, config->mover.proxy_count, name);
}

const struct config_plproxy *config_find_plproxy(const struct config *config, const char *name)
{
	return find_entry(config, CONFIG_ENTRY_PLPROXY, config->mover.plproxy_count, name);
}

const struct config_database *config_find_shard(const struct config *config, const char *shard)
{
	for (size_t i = 0; i < config->database_count; i++)
		if (strcmp(config->databases[i].shard, shard) == 0)
			return &config->databases[i];
	return NULL;
}

const struct config_server *config_find_server_at(const struct config *config, const char *host,
                                                  int port)
{
	for (size_t i = 0; i < config->server_count; i++) {
		const struct config_server *server = &config->servers[i];

		if (server->port == port && strcmp(server->host, host) == 0)
			return server;
	}
	for (size_t i = 0; i < config->server_count; i++) {
		const struct config_server *server = &config->servers[i];

		if (server->admin_port == port && strcmp(server->admin_host, host) == 0)
			return server;
	}
	/* Only then: an address of its own goes before an alias of another server. */
	for (size_t i = 0; i < config->server_count; i++)
		for (size_t j = 0; j < config->servers[i].aliases.count; j++)
			if (endpoint_is(config->servers[i].aliases.items[j], host, port))
				return &config->servers[i];
	return NULL;
}

int config_pool_size(const struct config *config, const struct config_database *database,
                     const struct config_user *user)
{
	if (user != NULL && user->pool_size != CONFIG_UNSET)
		return user->pool_size;
	if (database != NULL && database->pool_size != CONFIG_UNSET)
		return database->pool_size;
	return config->proxy.pool_size;
}

int config_peer_pool_size(const struct config *config, const struct config_peer *peer)
{
	return peer->pool_size != CONFIG_UNSET ? peer->pool_size : config->proxy.pool_size;
}

/* A setting that may stand in several places: the first one that is given. */
#define OF_DATABASE(database, field, otherwise)                                                    \
	((database) != NULL && (database)->field != CONFIG_UNSET ? (database)->field : (otherwise))
#define OF_USER(user, field, otherwise)                                                            \
	((user) != NULL && (user)->field != CONFIG_UNSET ? (user)->field : (otherwise))

int config_min_pool_size(const struct config *config, const struct config_database *database)
{
	return OF_DATABASE(database, min_pool_size, config->proxy.min_pool_size);
}

int config_reserve_pool_size(const struct config *config, const struct config_database *database,
                             const struct config_user *user)
{
	return OF_USER(user, reserve_pool_size,
	               OF_DATABASE(database, reserve_pool_size, config->proxy.reserve_pool_size));
}

usec_t config_server_lifetime(const struct config *config, const struct config_database *database)
{
	return OF_DATABASE(database, server_lifetime, config->proxy.server_lifetime);
}

usec_t config_query_wait_timeout(const struct config *config,
                                 const struct config_database *database,
                                 const struct config_user *user)
{
	return OF_USER(user, query_wait_timeout,
	               OF_DATABASE(database, query_wait_timeout, config->proxy.query_wait_timeout));
}

int config_max_db_connections(const struct config *config, const struct config_database *database)
{
	return OF_DATABASE(database, max_db_connections, config->proxy.max_db_connections);
}

int config_max_db_clients(const struct config *config, const struct config_database *database)
{
	return OF_DATABASE(database, max_db_client_connections,
	                   config->proxy.max_db_client_connections);
}

int config_max_user_connections(const struct config *config, const struct config_user *user)
{
	return OF_USER(user, max_user_connections, config->proxy.max_user_connections);
}

int config_max_user_clients(const struct config *config, const struct config_user *user)
{
	return OF_USER(user, max_client_connections, config->proxy.max_user_client_connections);
}

bool config_list_has_name(const struct config_list *list, const char *text)
{
	for (size_t i = 0; i < list->count; i++)
		if (strcasecmp(list->items[i], text) == 0)
			return true;
	return false;
}

enum config_pinned config_session_pinned(const struct config *config,
                                         const struct config_database *database,
                                         const struct config_user *user)
{
	if (user != NULL && user->session_pinned != CONFIG_PINNED_UNSET)
		return user->session_pinned;
	if (database != NULL && database->session_pinned != CONFIG_PINNED_UNSET)
		return database->session_pinned;
	return config->proxy.session_pinned;
}

int64_t config_session_temp_tables(const struct config *config,
                                   const struct config_database *database,
                                   const struct config_user *user)
{
	return OF_USER(user, session_temp_tables,
	               OF_DATABASE(database, session_temp_tables,
	                           config->proxy.session_temp_tables));
}

int64_t config_session_cursors(const struct config *config, const struct config_database *database,
                               const struct config_user *user)
{
	return OF_USER(user, session_cursors,
	               OF_DATABASE(database, session_cursors, config->proxy.session_cursors));
}

enum config_pool_mode config_pool_mode(const struct config *config,
                                       const struct config_database *database,
                                       const struct config_user *user)
{
	if (user != NULL && user->pool_mode != CONFIG_POOL_UNSET)
		return user->pool_mode;
	if (database != NULL && database->pool_mode != CONFIG_POOL_UNSET)
		return database->pool_mode;
	return config->proxy.pool_mode;
}

static const char *either(const char *own, const char *general)
{
	return own[0] != '\0' ? own : general;
}

void config_resolve_tls(struct config *config)
{
	const struct config_proxy *proxy = &config->proxy;

	for (size_t i = 0; i < config->server_count; i++) {
		struct config_server *server = &config->servers[i];

		server->tls = (struct config_tls){
		    .sslmode = server->sslmode == CONFIG_SSL_UNSET ? proxy->server_tls_sslmode
		                                                   : server->sslmode,
		    .sslnegotiation = server->sslnegotiation == CONFIG_SSLNEGOTIATION_UNSET
		                          ? proxy->server_tls_sslnegotiation
		                          : server->sslnegotiation,
		    .channel_binding = server->channel_binding == CONFIG_BINDING_UNSET
		                           ? proxy->server_tls_channel_binding
		                           : server->channel_binding,
		    .ca_file = either(server->sslrootcert, proxy->server_tls_ca_file),
		    .cert_file = either(server->sslcert, proxy->server_tls_cert_file),
		    .key_file = either(server->sslkey, proxy->server_tls_key_file),
		    .crl_file = either(server->sslcrl, proxy->server_tls_crl_file),
		    .protocols = either(server->tls_protocols, proxy->server_tls_protocols),
		    .ciphers = either(server->tls_ciphers, proxy->server_tls_ciphers),
		    .tls13_ciphers = either(server->tls13_ciphers, proxy->server_tls13_ciphers),
		};
	}
}

static struct config_tls plain_tls(enum config_sslmode sslmode, const char *ca_file,
                                   const char *cert_file, const char *key_file)
{
	return (struct config_tls){.sslmode = sslmode,
	                           .sslnegotiation = CONFIG_SSL_POSTGRES,
	                           .channel_binding = CONFIG_BINDING_PREFER,
	                           .ca_file = ca_file,
	                           .cert_file = cert_file,
	                           .key_file = key_file,
	                           .crl_file = "",
	                           .protocols = "",
	                           .ciphers = "",
	                           .tls13_ciphers = ""};
}

struct config_tls config_mover_proxy_tls(const struct config_mover_proxy *proxy)
{
	return plain_tls(proxy->sslmode, proxy->sslrootcert, proxy->sslcert, proxy->sslkey);
}

struct config_tls config_plproxy_tls(const struct config_plproxy *plproxy)
{
	return plain_tls(plproxy->sslmode, plproxy->sslrootcert, "", "");
}

void config_clean_environment(void)
{
	static const char *const names[] = {"PGHOST",
	                                    "PGHOSTADDR",
	                                    "PGPORT",
	                                    "PGSERVICE",
	                                    "PGTARGETSESSIONATTRS",
	                                    "PGLOADBALANCEHOSTS",
	                                    "PGOPTIONS",
	                                    "PGCLIENTENCODING",
	                                    "PGDATESTYLE",
	                                    "PGTZ",
	                                    "PGGEQO"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		(void)unsetenv(names[i]);
}

static void libpq_add(const char **names, const char **values, size_t *count, const char *name,
                      const char *value)
{
	if (value[0] == '\0')
		return;
	names[*count] = name;
	values[(*count)++] = value;
}

size_t config_libpq_tls(const struct config_tls *tls, const char *names[CONFIG_LIBPQ_TLS_MAX],
                        const char *values[CONFIG_LIBPQ_TLS_MAX])
{
	size_t count = 0;

	libpq_add(names, values, &count, "sslmode", config_sslmode_name(tls->sslmode));
	if (tls->sslmode >= CONFIG_SSL_VERIFY_CA) {
		libpq_add(names, values, &count, "sslrootcert", tls->ca_file);
		libpq_add(names, values, &count, "sslcrl", tls->crl_file);
	}
	libpq_add(names, values, &count, "sslcert", tls->cert_file);
	libpq_add(names, values, &count, "sslkey", tls->key_file);
	libpq_add(names, values, &count, "channel_binding",
	          config_channel_binding_name(tls->channel_binding));
	names[count] = NULL;
	values[count] = NULL;
	return count;
}

static bool list_has(const struct config_list *list, const char *text)
{
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->items[i], text) == 0)
			return true;
	return false;
}

bool config_is_admin(const struct config *config, const char *user)
{
	return list_has(&config->proxy.admin_users, user);
}

bool config_names_console_user(const struct config *config, const char *user)
{
	return config_is_admin(config, user) || list_has(&config->proxy.stats_users, user);
}

bool config_is_stats_user(const struct config *config, const char *user)
{
	return config->proxy.auth_type == CONFIG_AUTH_ANY ||
	       config_names_console_user(config, user);
}

bool config_is_console(const char *dbname)
{
	return strcmp(dbname, "pgshunt") == 0 || strcmp(dbname, CONFIG_CONSOLE) == 0;
}
