/* SPDX-License-Identifier: PostgreSQL */
/*
 * The configuration: what one YAML file says, with defaults filled in and every reference resolved.
 * A loaded configuration never changes; any thread that holds a reference may read it.  A reload
 * makes a new one and the old one dies with its last reference.
 *
 * The fields come from conf/settings.def, one a setting, under the setting's name.  No string field
 * is ever NULL ("" = none).  The configuration holds no secret, only where secrets are to be found
 * (conf/secret.h), but for the passwords that stand in a pgbouncer.ini.
 */
#ifndef CONF_CONFIG_H
#define CONF_CONFIG_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/log.h"
#include "base/sbuf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The value of a number or word that was not given where another setting then applies. */
#define CONFIG_UNSET (-1)

/* server_check_query: the query without text. */
#define CONFIG_EMPTY_QUERY "<empty>"

enum config_auth_type {
#define CONFIG_AUTH_TYPE_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_pool_mode {
	CONFIG_POOL_UNSET = CONFIG_UNSET,
#define CONFIG_POOL_MODE_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_pinned {
	CONFIG_PINNED_UNSET = CONFIG_UNSET,
#define CONFIG_PINNED_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_hold_overflow {
#define CONFIG_HOLD_OVERFLOW_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_balance {
#define CONFIG_BALANCE_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_drain_policy {
#define CONFIG_DRAIN_POLICY_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_sslmode {
	CONFIG_SSL_UNSET = CONFIG_UNSET,
#define CONFIG_SSLMODE_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_sslnegotiation {
	CONFIG_SSLNEGOTIATION_UNSET = CONFIG_UNSET,
#define CONFIG_SSLNEGOTIATION_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_channel_binding {
	CONFIG_BINDING_UNSET = CONFIG_UNSET,
#define CONFIG_CHANNEL_BINDING_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_protocol {
	CONFIG_PROTOCOL_UNSET = CONFIG_UNSET,
#define CONFIG_PROTOCOL_ROW(constant, word) constant,
#include "conf/enums.def"
};

enum config_log_destination {
#define CONFIG_LOG_DESTINATION_ROW(constant, word) constant,
#include "conf/enums.def"
};

struct config_list {
	const char *const *items;
	size_t count;
};

/* The C types of the types of settings.def; the definition after them makes one field of a row. */
#define CONFIG_C_BOOL bool
#define CONFIG_C_INT int
#define CONFIG_C_PORT int
#define CONFIG_C_DURATION usec_t
#define CONFIG_C_SIZE int64_t
#define CONFIG_C_STRING const char *
#define CONFIG_C_PATH const char *
#define CONFIG_C_QUERY const char *
#define CONFIG_C_ENV const char *
#define CONFIG_C_LIST struct config_list
#define CONFIG_C_MODE int
#define CONFIG_C_SERVER const struct config_server *
#define CONFIG_C_AUTH_TYPE enum config_auth_type
#define CONFIG_C_POOL_MODE enum config_pool_mode
#define CONFIG_C_PINNED enum config_pinned
#define CONFIG_C_BALANCE enum config_balance
#define CONFIG_C_HOLD_OVERFLOW enum config_hold_overflow
#define CONFIG_C_DRAIN_POLICY enum config_drain_policy
#define CONFIG_C_SSLMODE enum config_sslmode
#define CONFIG_C_SSLNEGOTIATION enum config_sslnegotiation
#define CONFIG_C_CHANNEL_BINDING enum config_channel_binding
#define CONFIG_C_PROTOCOL enum config_protocol
#define CONFIG_C_LOG_LEVEL enum log_level
#define CONFIG_C_LOG_FORMAT enum log_format
#define CONFIG_C_LOG_DESTINATION enum config_log_destination
#define CONFIG_C_SYSLOG_FACILITY int
#define CONFIG_FIELD(name, type, fallback, least, most, reload, help) CONFIG_C_##type name;

struct config_proxy {
#define PROXY_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* What holds for TLS with one peer.  Strings are "" if there is none. */
struct config_tls {
	enum config_sslmode sslmode;
	enum config_sslnegotiation sslnegotiation;
	enum config_channel_binding channel_binding;
	const char *ca_file;
	const char *cert_file;
	const char *key_file;
	const char *crl_file;
	const char *protocols;
	const char *ciphers;
	const char *tls13_ciphers;
};

struct config_server {
	const char *name;
	size_t index; /* its place in config.servers */
#define SERVER_SETTING CONFIG_FIELD
#include "conf/settings.def"
	struct config_tls tls; /* its own settings, else the proxy's server_tls_* */
};

struct config_database {
	const char *name; /* as clients say it */
	size_t index;
	const char *password; /* of pgbouncer.ini only, where it stands in the file; NULL: none */
#define DATABASE_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

struct config_user {
	const char *name;
	size_t index;
#define USER_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* What fits into the process id of a cancel key (core/cancel.h). */
#define CONFIG_PEER_ID_MAX 16383
#define CONFIG_PEER_CLIENTS_MAX 200000

/* Another process behind the same address; its name is its peer_id. */
struct config_peer {
	const char *name;
	size_t index;
#define PEER_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* A proxy whose console the mover uses. */
struct config_mover_proxy {
	const char *name;
	size_t index;
#define MOVER_PROXY_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* A pgbouncer, of one or several processes, whose entries the mover changes. */
struct config_pgbouncer {
	const char *name;
	size_t index;
#define PGBOUNCER_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* A command of the operator's before or after a phase of a move. */
struct config_hook {
	const char *name;
	size_t index;
#define HOOK_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

/* A PL/Proxy cluster in which the mover changes the address of a shard. */
struct config_plproxy {
	const char *name;
	size_t index;
#define PLPROXY_SETTING CONFIG_FIELD
#include "conf/settings.def"
};

struct config_mover {
#define MOVER_SETTING CONFIG_FIELD
#include "conf/settings.def"
	struct config_mover_proxy *proxies; /* in the order of the file, as all arrays here */
	size_t proxy_count;
	struct config_pgbouncer *pgbouncers;
	size_t pgbouncer_count;
	struct config_hook *hooks;
	size_t hook_count;
	struct config_plproxy *plproxy;
	size_t plproxy_count;
};

/* Kinds of entries with a name; each of their structs begins with it. */
enum config_entry_kind {
	CONFIG_ENTRY_SERVER,
	CONFIG_ENTRY_DATABASE,
	CONFIG_ENTRY_USER,
	CONFIG_ENTRY_PEER,
	CONFIG_ENTRY_MOVER_PROXY,
	CONFIG_ENTRY_PGBOUNCER,
	CONFIG_ENTRY_HOOK,
	CONFIG_ENTRY_PLPROXY,
	CONFIG_ENTRY_KINDS
};

struct config_block;

struct config {
	struct config_proxy proxy;
	struct config_mover mover;
	struct config_server *servers;
	size_t server_count;
	struct config_database *databases;
	size_t database_count;
	struct config_user *users;
	size_t user_count;
	struct config_peer *peers;
	size_t peer_count;
	const void **sorted[CONFIG_ENTRY_KINDS]; /* entries by name, for the lookups */
	const char *path;                        /* the file it was read from */
	atomic_uint refs;                        /* of config_ref and config_unref only */
	struct config_block *blocks;             /* all memory of the strings and arrays */
	struct config *base; /* of config_with(): the one whose entries this one has; or NULL */
};

/* Most bytes a configuration file may have. */
#define CONFIG_FILE_MAX ((size_t)1024 * 1024)

/*
 * Reads the file.  True: *out is the configuration, with one reference.  False: *out is NULL and
 * `errors` has all errors that were found, a line each: "file:line:column: what is wrong and what
 * would be right".
 */
bool config_load(const char *path, struct config **out, struct sbuf *errors) MUST_CHECK;

/* The same for the `len` bytes at `bytes`; `name` stands for the file in errors, and paths are
 * relative to its directory. */
bool config_load_buffer(const char *name, const void *bytes, size_t len, struct config **out,
                        struct sbuf *errors) MUST_CHECK;

/*
 * `old` with another value of one setting of the proxy, under our name or pgbouncer's: SET of the
 * console.  True: *out, with one reference, and `note` has what is to be known of it.  False:
 * `sqlstate` (6 bytes) and `why` say what is wrong.
 */
bool config_with(struct config *old, const char *name, const char *value, struct config **out,
                 struct sbuf *note, char *sqlstate, struct sbuf *why) MUST_CHECK;

/* Whether the proxy, or pgbouncer, has a setting of that name. */
bool config_has_setting(const char *name);

/* One more reference to it; returns it.  Any thread. */
struct config *config_ref(struct config *config);

/* Gives a reference back; the last one frees it.  NULL is allowed.  Any thread. */
void config_unref(struct config *config);

/* The entry of that name, NULL if there is none. */
const struct config_server *config_find_server(const struct config *config, const char *name);
const struct config_database *config_find_database(const struct config *config, const char *name);
/* The same, or the fallback "*". */
const struct config_database *config_database_of(const struct config *config, const char *name);
/* Whether servers cut the name, so that it would be another one there than here, where rules and
 * holds are looked up: such a user is unknown, such a database of the fallback does not exist. */
bool config_name_is_long(const char *name);
const struct config_user *config_find_user(const struct config *config, const char *name);
/* The process with that peer_id; NULL: none that is known. */
const struct config_peer *config_find_peer(const struct config *config, unsigned id);
const struct config_mover_proxy *config_find_mover_proxy(const struct config *config,
                                                         const char *name);
const struct config_plproxy *config_find_plproxy(const struct config *config, const char *name);

/* The database with that short name for the mover. */
const struct config_database *config_find_shard(const struct config *config, const char *shard);

/* The server that is reached at host and port: by its own address, by the one of its PostgreSQL
 * itself (admin_host, admin_port) or by one of its aliases. */
const struct config_server *config_find_server_at(const struct config *config, const char *host,
                                                  int port);

/* What holds for a pool: the user's setting, else the database's, else the proxy's.  `database` and
 * `user` may be NULL. */
int config_pool_size(const struct config *config, const struct config_database *database,
                     const struct config_user *user);
enum config_pinned config_session_pinned(const struct config *config,
                                         const struct config_database *database,
                                         const struct config_user *user);
int64_t config_session_temp_tables(const struct config *config,
                                   const struct config_database *database,
                                   const struct config_user *user);
int64_t config_session_cursors(const struct config *config, const struct config_database *database,
                               const struct config_user *user);
enum config_pool_mode config_pool_mode(const struct config *config,
                                       const struct config_database *database,
                                       const struct config_user *user);

int config_peer_pool_size(const struct config *config, const struct config_peer *peer);
int config_min_pool_size(const struct config *config, const struct config_database *database);
int config_reserve_pool_size(const struct config *config, const struct config_database *database,
                             const struct config_user *user);
usec_t config_server_lifetime(const struct config *config, const struct config_database *database);
usec_t config_query_wait_timeout(const struct config *config,
                                 const struct config_database *database,
                                 const struct config_user *user);

/* Limits of a whole database and of a user; 0 = none. */
int config_max_db_connections(const struct config *config, const struct config_database *database);
int config_max_db_clients(const struct config *config, const struct config_database *database);
int config_max_user_connections(const struct config *config, const struct config_user *user);
int config_max_user_clients(const struct config *config, const struct config_user *user);

/* Whether the list has the text; without regard to case. */
bool config_list_has_name(const struct config_list *list, const char *text);

/* TLS of the mover's connection to a proxy or a PL/Proxy database. */
struct config_tls config_mover_proxy_tls(const struct config_mover_proxy *proxy);
struct config_tls config_plproxy_tls(const struct config_plproxy *plproxy);

/*
 * Takes those variables out of the environment by which libpq would connect elsewhere than the
 * configuration says, or make sessions of another kind; credentials and TLS stay.  Before the first
 * thread.
 */
void config_clean_environment(void);

/*
 * TLS as parameters of libpq: names and values, NULL-terminated lists of at most
 * CONFIG_LIBPQ_TLS_MAX - 1.  An authority is only named where it is to be asked: with sslmode require
 * libpq would ask it, too.
 */
#define CONFIG_LIBPQ_TLS_MAX 7
size_t config_libpq_tls(const struct config_tls *tls,
                        const char *names[CONFIG_LIBPQ_TLS_MAX],
                        const char *values[CONFIG_LIBPQ_TLS_MAX]);

/* Whether the user is in admin_users, or in admin_users or stats_users; and whether it may look: all
 * may if nobody has to prove who it is. */
bool config_is_admin(const struct config *config, const char *user);
bool config_names_console_user(const struct config *config, const char *user);
bool config_is_stats_user(const struct config *config, const char *user);

/* Whether the name is one of the console: pgshunt or pgbouncer. */
bool config_is_console(const char *dbname);

/* The one of its names that views have, as those of pgbouncer. */
#define CONFIG_CONSOLE "pgbouncer"

/* The words of enums.def. */
const char *config_auth_type_name(enum config_auth_type value);
const char *config_pinned_name(enum config_pinned value);
const char *config_pool_mode_name(enum config_pool_mode value);
const char *config_balance_name(enum config_balance value);
const char *config_sslmode_name(enum config_sslmode value);
const char *config_channel_binding_name(enum config_channel_binding value);
const char *config_drain_policy_name(enum config_drain_policy value);
bool config_drain_policy_parse(const char *word, enum config_drain_policy *value) MUST_CHECK;

/* A duration or size as the file spells it: "250ms", "64kB" …; false if it is not one. */
bool config_parse_duration(const char *text, usec_t *value) MUST_CHECK;
bool config_parse_size(const char *text, int64_t *value) MUST_CHECK;

#endif
