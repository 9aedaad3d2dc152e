/* SPDX-License-Identifier: PostgreSQL */
/*
 * settings.def as data: where each setting lies in its struct, and of what type it is.  Internal to
 * conf.
 */
#ifndef CONF_TABLE_H
#define CONF_TABLE_H

#include "conf/config.h"
#include "conf/show.h"

#include <stddef.h>

enum value_type {
	VALUE_BOOL,
	VALUE_INT,
	VALUE_PORT,
	VALUE_DURATION,
	VALUE_SIZE,
	VALUE_STRING,
	VALUE_PATH,
	VALUE_QUERY,
	VALUE_ENV,
	VALUE_LIST,
	VALUE_MODE,
	VALUE_SERVER,
	VALUE_AUTH_TYPE,
	VALUE_POOL_MODE,
	VALUE_PINNED,
	VALUE_BALANCE,
	VALUE_HOLD_OVERFLOW,
	VALUE_DRAIN_POLICY,
	VALUE_SSLMODE,
	VALUE_SSLNEGOTIATION,
	VALUE_CHANNEL_BINDING,
	VALUE_PROTOCOL,
	VALUE_LOG_LEVEL,
	VALUE_LOG_FORMAT,
	VALUE_LOG_DESTINATION,
	VALUE_SYSLOG_FACILITY
};

enum setting_section {
	SECTION_PROXY,
	SECTION_SERVERS,
	SECTION_DATABASES,
	SECTION_USERS,
	SECTION_PEERS,
	SECTION_MOVER,
	SECTION_MOVER_PROXIES,
	SECTION_MOVER_PGBOUNCERS,
	SECTION_MOVER_HOOKS,
	SECTION_MOVER_PLPROXY
};

struct setting {
	struct config_setting text;
	enum setting_section section;
	enum value_type type;
	size_t offset; /* of the field in the struct of the section */
	size_t size;
};

/* All settings, in the order of settings.def. */
extern const struct setting setting_table[];
size_t setting_count(void);

/* The setting of that section and name, NULL if there is none. */
const struct setting *setting_find(enum setting_section section, const char *name);

/* A kind of entries with names: where its array lies in struct config. */
struct entry_kind {
	enum config_entry_kind kind;
	enum setting_section section;
	const char *section_name;
	const char *noun; /* "server" */
	size_t array_offset;
	size_t count_offset;
	size_t entry_size;
	size_t index_offset;
};

extern const struct entry_kind entry_kinds[CONFIG_ENTRY_KINDS];

/* The entries of a kind: entry_at() gives the address of one, which begins with its name. */
size_t entry_count(const struct config *config, const struct entry_kind *kind);
void *entry_at(const struct config *config, const struct entry_kind *kind, size_t index);
const char *entry_name(const struct config *config, const struct entry_kind *kind, size_t index);

#endif
