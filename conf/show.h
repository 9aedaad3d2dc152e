/* SPDX-License-Identifier: PostgreSQL */
/*
 * The settings as text: for SHOW CONFIG, for RELOAD's answer and for the reference.
 */
#ifndef CONF_SHOW_H
#define CONF_SHOW_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* What settings.def says about one setting. */
struct config_setting {
	const char *section;  /* "proxy", "servers", "databases", "users", "mover",
	                         "mover.proxies" or "mover.plproxy" */
	const char *name;     /* "pool_size" */
	const char *type;     /* "duration", "one of abort, cancel, terminate" … */
	const char *fallback; /* the default as text; NULL = required or inherited */
	const char *least;    /* NULL = no range */
	const char *most;
	const char *secret; /* a value with this word in it is not shown; NULL = all are */
	bool for_admins;    /* only they are shown a value */
	bool required;
	bool reloadable;
	const char *help;
};

size_t config_setting_count(void);
const struct config_setting *config_setting_at(size_t index);

/* One line of SHOW CONFIG.  The texts live until the callback returns. */
struct config_show_row {
	const char *section; /* "proxy", "mover", "servers.pg1", "databases.p1" … */
	const char *name;
	const char *value; /* NULL = not given, another setting applies */
	const char *fallback;
	bool reloadable;
	bool for_admins; /* only they may see the value */
	const char *help;
};

typedef void config_show_fn(void *arg, const struct config_show_row *row);

/* Calls `show` for every setting of every section and entry, in the order of settings.def. */
void config_show(const struct config *config, config_show_fn *show, void *arg);

/* Appends to `names` the settings that differ and that RELOAD cannot change, "proxy.port,
 * proxy.workers"; returns how many they are. */
size_t config_compare_reload(const struct config *old, const struct config *fresh,
                             struct sbuf *names);

/* Gives `fresh`, which nobody else knows yet, the values of `old` for the settings that RELOAD
 * cannot change, so that it says what the process really does. */
void config_keep_fixed(const struct config *old, struct config *fresh);

/* The reference of all settings as Markdown tables. */
void config_print_reference(FILE *out);

#endif
