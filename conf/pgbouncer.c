/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgbouncer.def as data, and values from pgbouncer's spelling to ours and back.
 */
#include "conf/pgbouncer.h"

#include "conf/table.h"
#include "conf/value.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NULL_NAME "NULL"

static const struct pgbouncer_setting settings[] = {
#define PGBOUNCER_SETTING(part, name, fallback, how, ours, note)                                   \
	{PGB_##part, #name, fallback, PGB_##how, #ours, note},
#include "conf/pgbouncer.def"
};

size_t pgbouncer_setting_count(void)
{
	return ARRAY_LEN(settings);
}

const struct pgbouncer_setting *pgbouncer_setting_at(size_t index)
{
	return &settings[index];
}

const struct pgbouncer_setting *pgbouncer_setting_find(enum pgbouncer_part part, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (settings[i].part == part && strcmp(settings[i].name, name) == 0)
			return &settings[i];
	return NULL;
}

static const struct setting *ours_of(const struct pgbouncer_setting *row)
{
	static const enum setting_section sections[] = {
	    [PGB_MAIN] = SECTION_PROXY,
	    [PGB_DATABASE] = SECTION_DATABASES,
	    [PGB_USER] = SECTION_USERS,
	    [PGB_PEER] = SECTION_PEERS,
	};

	return strcmp(row->ours, NULL_NAME) == 0 ? NULL
	                                         : setting_find(sections[row->part], row->ours);
}

/* ---- from pgbouncer ---- */

static bool value_bool(const char *value, struct sbuf *out)
{
	static const char *const words[][2] = {
	    {"1", "true"},  {"0", "false"},   {"true", "true"}, {"false", "false"},
	    {"on", "true"}, {"off", "false"}, {"yes", "true"},  {"no", "false"},
	    {"t", "true"},  {"f", "false"}};

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcasecmp(value, words[i][0]) == 0) {
			sbuf_add_str(out, words[i][1]);
			return true;
		}
	}
	return false;
}

/* A decimal number of units of `usec` microseconds. */
static bool value_time(const char *value, usec_t usec, usec_t *result)
{
	char *end;
	double number;

	if (strspn(value, "0123456789.") != strlen(value) || *value == '\0')
		return false;
	number = strtod(value, &end);
	if (*end != '\0' || number * (double)usec > 1e15)
		return false;
	*result = (usec_t)(number * (double)usec + 0.5);
	return true;
}

static bool value_duration(const struct pgbouncer_setting *row, const char *value, struct sbuf *out,
                           struct sbuf *why)
{
	usec_t time;

	if (!value_time(value, row->how == PGB_MSEC ? USEC_PER_MSEC : USEC_PER_SEC, &time)) {
		sbuf_printf(why, "expected a number of %sseconds",
		            row->how == PGB_MSEC ? "milli" : "");
		return false;
	}
	/* There a connection that serves once, here the shortest life. */
	if (row->how == PGB_LIFETIME && time == 0)
		time = USEC_PER_MSEC;
	sbuf_printf(out, "%" PRId64 "us", time);
	return true;
}

/* One of a list of words, which pgbouncer takes in any case. */
static bool is_word_of_theirs(const struct setting *setting)
{
	return setting->type == VALUE_AUTH_TYPE || setting->type == VALUE_POOL_MODE ||
	       setting->type == VALUE_BALANCE || setting->type == VALUE_SSLMODE;
}

static void add_lower(struct sbuf *out, const char *text)
{
	for (; *text != '\0'; text++)
		sbuf_add_char(out, *text >= 'A' && *text <= 'Z' ? (char)(*text + 32) : *text);
}

bool pgbouncer_value(const struct pgbouncer_setting *row, const char *value, struct sbuf *out,
                     struct sbuf *why)
{
	const struct setting *setting = ours_of(row);
	usec_t level;

	switch (row->how) {
	case PGB_SYSLOG:
		if (!value_bool(value, out)) {
			sbuf_add_str(why, "expected 0 or 1");
			return false;
		}
		level = strcmp(sbuf_text(out), "true") == 0;
		sbuf_reset(out);
		sbuf_add_str(out, level != 0 ? "syslog" : "stderr");
		return true;
	case PGB_VERBOSE:
		if (!value_time(value, 1, &level)) {
			sbuf_add_str(why, "expected a number from 0 to 3");
			return false;
		}
		sbuf_add_str(out, level > 0 ? "debug" : "info");
		return true;
	default:
		break;
	}
	if (setting == NULL) {
		sbuf_add_str(out, value);
		return true;
	}
	if (setting->type == VALUE_DURATION)
		return value_duration(row, value, out, why);
	if (setting->type == VALUE_BOOL && !value_bool(value, out)) {
		sbuf_add_str(why, "expected 0 or 1");
		return false;
	}
	if (is_word_of_theirs(setting))
		add_lower(out, value);
	else if (setting->type != VALUE_BOOL)
		sbuf_add_str(out, value);
	return true;
}

/* ---- to pgbouncer ---- */

static void show_time(usec_t time, usec_t unit, struct sbuf *out)
{
	if (time % unit == 0)
		sbuf_printf(out, "%" PRId64, time / unit);
	else
		sbuf_printf(out, "%.6g", (double)time / (double)unit);
}

bool pgbouncer_show(const struct config *config, const struct pgbouncer_setting *row,
                    struct sbuf *out)
{
	const struct setting *setting = ours_of(row);
	const void *field;

	if (row->part != PGB_MAIN)
		return false;
	if (setting == NULL) {
		if (strcmp(row->name, "conffile") == 0)
			sbuf_add_str(out, config->path);
		else
			sbuf_add_str(out, row->fallback == NULL ? "" : row->fallback);
		return true;
	}
	field = (const char *)&config->proxy + setting->offset;
	if (row->how == PGB_SYSLOG)
		sbuf_add_char(out, config->proxy.log_destination == CONFIG_LOG_SYSLOG ? '1' : '0');
	else if (row->how == PGB_VERBOSE)
		sbuf_add_char(out, config->proxy.log_level == LOG_LEVEL_DEBUG ? '1' : '0');
	else if (setting->type == VALUE_BOOL)
		sbuf_add_char(out, *(const bool *)field ? '1' : '0');
	else if (setting->type == VALUE_DURATION)
		show_time(*(const usec_t *)field,
		          row->how == PGB_MSEC ? USEC_PER_MSEC : USEC_PER_SEC, out);
	else if (setting->type == VALUE_MODE)
		sbuf_printf(out, "%d", *(const int *)field); /* as there, in decimal */
	else
		value_format(setting, &config->proxy, out);
	return true;
}

bool pgbouncer_reloadable(const struct pgbouncer_setting *row)
{
	const struct setting *setting = ours_of(row);

	return setting != NULL && setting->text.reloadable;
}
