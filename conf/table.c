/* SPDX-License-Identifier: PostgreSQL */
#include "conf/table.h"

#include <string.h>

/* How messages and the reference name a type. */
#define TYPE_TEXT_BOOL "boolean"
#define TYPE_TEXT_INT "whole number"
#define TYPE_TEXT_PORT "port"
#define TYPE_TEXT_DURATION "duration"
#define TYPE_TEXT_SIZE "size"
#define TYPE_TEXT_STRING "string"
#define TYPE_TEXT_PATH "path"
#define TYPE_TEXT_QUERY "SQL"
#define TYPE_TEXT_ENV "name of an environment variable"
#define TYPE_TEXT_LIST "list"
#define TYPE_TEXT_MODE "octal file mode"
#define TYPE_TEXT_SERVER "name of a server"
#define TYPE_TEXT_AUTH_TYPE auth_type_text
#define TYPE_TEXT_POOL_MODE pool_mode_text
#define TYPE_TEXT_PINNED pinned_text
#define TYPE_TEXT_BALANCE balance_text
#define TYPE_TEXT_HOLD_OVERFLOW hold_overflow_text
#define TYPE_TEXT_DRAIN_POLICY drain_policy_text
#define TYPE_TEXT_SSLMODE sslmode_text
#define TYPE_TEXT_SSLNEGOTIATION sslnegotiation_text
#define TYPE_TEXT_CHANNEL_BINDING channel_binding_text
#define TYPE_TEXT_PROTOCOL protocol_text
#define TYPE_TEXT_LOG_LEVEL log_level_text
#define TYPE_TEXT_LOG_FORMAT log_format_text
#define TYPE_TEXT_LOG_DESTINATION log_destination_text
#define TYPE_TEXT_SYSLOG_FACILITY syslog_facility_text

#define ENUM_TEXT_ROW(constant, word) " " word
static const char auth_type_text[] = "one of:"
#define CONFIG_AUTH_TYPE_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char pool_mode_text[] = "one of:"
#define CONFIG_POOL_MODE_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char pinned_text[] = "one of:"
#define CONFIG_PINNED_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char balance_text[] = "one of:"
#define CONFIG_BALANCE_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char hold_overflow_text[] = "one of:"
#define CONFIG_HOLD_OVERFLOW_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char drain_policy_text[] = "one of:"
#define CONFIG_DRAIN_POLICY_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char sslmode_text[] = "one of:"
#define CONFIG_SSLMODE_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char sslnegotiation_text[] = "one of:"
#define CONFIG_SSLNEGOTIATION_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char channel_binding_text[] = "one of:"
#define CONFIG_CHANNEL_BINDING_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char protocol_text[] = "one of:"
#define CONFIG_PROTOCOL_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char log_level_text[] = "one of:"
#define CONFIG_LOG_LEVEL_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char log_destination_text[] = "one of:"
#define CONFIG_LOG_DESTINATION_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char syslog_facility_text[] = "one of:"
#define CONFIG_SYSLOG_FACILITY_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;
static const char log_format_text[] = "one of:"
#define CONFIG_LOG_FORMAT_ROW ENUM_TEXT_ROW
#include "conf/enums.def"
    ;

/* The words that rows use.  REQUIRED stands where the default would. */
#define YES true
#define NO false
#define INHERIT NULL
#define REQUIRED NULL, .text.required = true
#define HIDDEN_WITH(word) "", .text.secret = (word)
#define FOR_ADMINS(fallback) fallback, .text.for_admins = true

#define PLACE(part, label, holder, setting)                                                        \
	.section = (part), .text.section = (label), .offset = offsetof(holder, setting)
#define ROW(setting, kind, low, high, reload, what)                                                \
	.text.name = #setting, .text.type = TYPE_TEXT_##kind, .text.least = (low),                 \
	.text.most = (high), .text.reloadable = (reload), .text.help = (what),                     \
	.type = VALUE_##kind, .size = sizeof(CONFIG_C_##kind)

/* clang-format off */
const struct setting setting_table[] = {
#define PROXY_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_PROXY, "proxy", struct config_proxy, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define SERVER_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_SERVERS, "servers", struct config_server, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define DATABASE_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_DATABASES, "databases", struct config_database, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define USER_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_USERS, "users", struct config_user, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define PEER_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_PEERS, "peers", struct config_peer, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define MOVER_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_MOVER, "mover", struct config_mover, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define MOVER_PROXY_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_MOVER_PROXIES, "mover.proxies", struct config_mover_proxy, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define PGBOUNCER_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_MOVER_PGBOUNCERS, "mover.pgbouncers", struct config_pgbouncer, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define HOOK_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_MOVER_HOOKS, "mover.hooks", struct config_hook, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#define PLPROXY_SETTING(setting, kind, fallback_, low, high, reload, what) \
	{PLACE(SECTION_MOVER_PLPROXY, "mover.plproxy", struct config_plproxy, setting), \
	 ROW(setting, kind, low, high, reload, what), .text.fallback = fallback_},
#include "conf/settings.def"
};
/* clang-format on */

size_t setting_count(void)
{
	return ARRAY_LEN(setting_table);
}

const struct setting *setting_find(enum setting_section section, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(setting_table); i++)
		if (setting_table[i].section == section &&
		    strcmp(setting_table[i].text.name, name) == 0)
			return &setting_table[i];
	return NULL;
}

#define ENTRY_KIND(which, part, label, what, array, counter, holder)                               \
	[which] = {.kind = (which),                                                                \
	           .section = (part),                                                              \
	           .section_name = (label),                                                        \
	           .noun = (what),                                                                 \
	           .array_offset = offsetof(struct config, array),                                 \
	           .count_offset = offsetof(struct config, counter),                               \
	           .entry_size = sizeof(holder),                                                   \
	           .index_offset = offsetof(holder, index)}

const struct entry_kind entry_kinds[CONFIG_ENTRY_KINDS] = {
    ENTRY_KIND(CONFIG_ENTRY_SERVER, SECTION_SERVERS, "servers", "server", servers, server_count,
               struct config_server),
    ENTRY_KIND(CONFIG_ENTRY_DATABASE, SECTION_DATABASES, "databases", "database", databases,
               database_count, struct config_database),
    ENTRY_KIND(CONFIG_ENTRY_USER, SECTION_USERS, "users", "user", users, user_count,
               struct config_user),
    ENTRY_KIND(CONFIG_ENTRY_PEER, SECTION_PEERS, "peers", "peer", peers, peer_count,
               struct config_peer),
    ENTRY_KIND(CONFIG_ENTRY_MOVER_PROXY, SECTION_MOVER_PROXIES, "mover.proxies", "proxy",
               mover.proxies, mover.proxy_count, struct config_mover_proxy),
    ENTRY_KIND(CONFIG_ENTRY_PGBOUNCER, SECTION_MOVER_PGBOUNCERS, "mover.pgbouncers", "pgbouncer",
               mover.pgbouncers, mover.pgbouncer_count, struct config_pgbouncer),
    ENTRY_KIND(CONFIG_ENTRY_HOOK, SECTION_MOVER_HOOKS, "mover.hooks", "hook", mover.hooks,
               mover.hook_count, struct config_hook),
    ENTRY_KIND(CONFIG_ENTRY_PLPROXY, SECTION_MOVER_PLPROXY, "mover.plproxy", "PL/Proxy cluster",
               mover.plproxy, mover.plproxy_count, struct config_plproxy),
};

size_t entry_count(const struct config *config, const struct entry_kind *kind)
{
	return *(const size_t *)(const void *)((const char *)config + kind->count_offset);
}

void *entry_at(const struct config *config, const struct entry_kind *kind, size_t index)
{
	char *array = *(char *const *)(const void *)((const char *)config + kind->array_offset);

	return array + index * kind->entry_size;
}

const char *entry_name(const struct config *config, const struct entry_kind *kind, size_t index)
{
	return *(const char *const *)entry_at(config, kind, index);
}
