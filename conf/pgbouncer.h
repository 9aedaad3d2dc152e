/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgbouncer's configuration in our terms: pgbouncer.def as data, pgbouncer.ini as our YAML.  Nothing
 * here has a state; any thread.
 */
#ifndef CONF_PGBOUNCER_H
#define CONF_PGBOUNCER_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"

#include <stdbool.h>
#include <stddef.h>

enum pgbouncer_part { PGB_MAIN, PGB_DATABASE, PGB_USER, PGB_PEER };
enum pgbouncer_how {
	PGB_SAME,
	PGB_SECONDS,
	PGB_SWITCH,
	PGB_MSEC,
	PGB_EXACT,
	PGB_UNSIGNED,
	PGB_OWN,
	PGB_LIFETIME,
	PGB_SYSLOG,
	PGB_VERBOSE,
	PGB_PLACE,
	PGB_NONE
};

struct pgbouncer_setting {
	enum pgbouncer_part part;
	const char *name;
	const char *fallback; /* NULL: none */
	enum pgbouncer_how how;
	const char *ours; /* "NULL" where there is none */
	const char *note; /* NULL: nothing to say */
};

size_t pgbouncer_setting_count(void);
const struct pgbouncer_setting *pgbouncer_setting_at(size_t index);

/* NULL if pgbouncer has no such setting. */
const struct pgbouncer_setting *pgbouncer_setting_find(enum pgbouncer_part part, const char *name);

/* The value in our spelling (a list: with commas); nothing for a number that means "not set".  `note`
 * has what is to be known of it, if anything.  False: `why` says what is wrong. */
bool pgbouncer_value(const struct pgbouncer_setting *setting, const char *value, struct sbuf *out,
                     struct sbuf *note, struct sbuf *why) MUST_CHECK;

/* The first number in the text, as pgbouncer reads those of a connection string; what follows it is in
 * *rest.  False: the text does not begin with one. */
bool pgbouncer_leading_number(const char *text, int64_t *number, const char **rest) MUST_CHECK;

/* The value that `config` has for it, in pgbouncer's spelling; false: there is none. */
bool pgbouncer_show(const struct config *config, const struct pgbouncer_setting *setting,
                    struct sbuf *out) MUST_CHECK;

/* Whether SET and RELOAD can change it. */
bool pgbouncer_reloadable(const struct pgbouncer_setting *setting);

/* Whether the file is one of pgbouncer, by its name or its first line that is no comment. */
bool pgbouncer_is_ini(const char *path);

/* Reads pgbouncer.ini as config_load() reads YAML. */
bool pgbouncer_load(const char *path, struct config **out, struct sbuf *errors) MUST_CHECK;

/* The YAML that means the same, with comments on what has no counterpart. */
bool pgbouncer_import(const char *path, struct sbuf *yaml, struct sbuf *errors) MUST_CHECK;

#endif
