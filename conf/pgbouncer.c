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

bool pgbouncer_leading_number(const char *text, int64_t *number, const char **rest)
{
	char *end;

	*number = strtol(text, &end, 10); /* which ends at the largest number */
	*rest = end;
	return end != text;
}

/* A whole number as in its section [pgbouncer]: octal with 0 before it, hexadecimal with 0x. */
static bool whole_number(const char *value, int64_t *number)
{
	char *end;

	*number = strtol(value, &end, 0);
	return end != value && *end == '\0';
}

static bool value_bool(const char *value, struct sbuf *out)
{
	static const char *const words[][2] = {{"true", "true"}, {"false", "false"}, {"on", "true"},
	                                       {"off", "false"}, {"yes", "true"},    {"no", "false"},
	                                       {"t", "true"},    {"f", "false"}};
	int64_t number;

	if (whole_number(value, &number)) {
		sbuf_add_str(out, number != 0 ? "true" : "false");
		return true;
	}
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcasecmp(value, words[i][0]) == 0) {
			sbuf_add_str(out, words[i][1]);
			return true;
		}
	}
	return false;
}

/* Seconds with a fraction, in microseconds. */
static bool decimal_seconds(const char *value, int64_t *usec)
{
	char *end;
	double number = strtod(value, &end);

	if (end == value || *end != '\0' || !(number >= 0))
		return false;
	*usec = number > 1e12 ? INT64_MAX : (int64_t)(number * (double)USEC_PER_SEC + 0.5);
	return true;
}

static int64_t unit_of(const struct pgbouncer_setting *row, const struct setting *setting)
{
	if (setting->type != VALUE_DURATION)
		return 1;
	return row->how == PGB_MSEC ? USEC_PER_MSEC : USEC_PER_SEC;
}

/* The number that stands there, in microseconds if it is a duration. */
static bool read_number(const struct pgbouncer_setting *row, const struct setting *setting,
                        const char *value, int64_t *number, struct sbuf *note, struct sbuf *why)
{
	const bool time = setting->type == VALUE_DURATION;
	const char *rest;
	bool good;

	if (row->part != PGB_MAIN) {
		good = pgbouncer_leading_number(value, number, &rest);
		if (good && *rest != '\0')
			sbuf_printf(note, "\"%s\" is read as %" PRId64, value, *number);
	} else if (time && (row->how == PGB_SAME || row->how == PGB_LIFETIME)) {
		good = decimal_seconds(value, number);
		if (good)
			return true;
	} else {
		good = whole_number(value, number);
	}
	if (!good)
		sbuf_printf(why, "expected a number%s", !time                   ? ""
		                                        : row->how == PGB_MSEC ? " of milliseconds"
		                                                               : " of seconds");
	else if (__builtin_mul_overflow(*number, unit_of(row, setting), number))
		*number = *number < 0 ? INT64_MIN : INT64_MAX;
	return good;
}

/* Of a database, a user or a peer: what is not positive.  False: it is as not set. */
static bool settle_entry(const struct pgbouncer_setting *row, bool time, int64_t *number)
{
	if (*number > 0)
		return true;
	if (*number < 0 && time) {
		*number = 0; /* there a time that never comes */
		return true;
	}
	return *number == 0 && row->how != PGB_OWN;
}

/* Numbers that are too large are as good as the largest that there is here, and negative ones as the
 * least, but where the kernel would not have them. */
static int64_t settle_range(const struct pgbouncer_setting *row, const struct setting *setting,
                            int64_t number, struct sbuf *note)
{
	const int64_t unit = unit_of(row, setting);
	int64_t least;
	int64_t most;
	int64_t kept = number;

	value_range(setting, &least, &most);
	if (row->how == PGB_EXACT || row->how == PGB_MSEC)
		return number;
	if (number > most || (number < 0 && row->how == PGB_UNSIGNED))
		kept = most;
	else if (number < least)
		kept = least;
	if (kept != number)
		sbuf_printf(note, "%s is taken as %" PRId64,
		            number < 0 ? "a negative number" : "it is out of range and", kept / unit);
	return kept;
}

static bool value_number(const struct pgbouncer_setting *row, const struct setting *setting,
                         const char *value, struct sbuf *out, struct sbuf *note, struct sbuf *why)
{
	const bool time = setting->type == VALUE_DURATION;
	int64_t number;

	if (!read_number(row, setting, value, &number, note, why))
		return false;
	if (row->part != PGB_MAIN && !settle_entry(row, time, &number))
		return true;
	if (row->how == PGB_SWITCH && number != 0)
		number = USEC_PER_SEC;
	/* There a connection that serves once, here the shortest life. */
	if (row->part == PGB_MAIN && row->how == PGB_LIFETIME && number == 0)
		number = USEC_PER_MSEC;
	sbuf_printf(out, "%" PRId64 "%s", settle_range(row, setting, number, note),
	            time ? "us" : "");
	return true;
}

/* Octal with 0 before it, else decimal: the bits that a file mode has. */
static bool value_mode(const char *value, struct sbuf *out, struct sbuf *note, struct sbuf *why)
{
	int64_t number;

	if (!whole_number(value, &number)) {
		sbuf_add_str(why, "expected an octal number such as 0770");
		return false;
	}
	if (value[0] != '0')
		sbuf_printf(note, "without 0 before it, it is decimal: the mode is %04o",
		            (unsigned)(number & 0777));
	sbuf_printf(out, "%04o", (unsigned)(number & 0777));
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

/* Those that it does not know are the default. */
static void value_facility(const char *value, struct sbuf *out, struct sbuf *note)
{
	static const char *const known[] = {
#define CONFIG_SYSLOG_FACILITY_ROW(constant, word) word,
#include "conf/enums.def"
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(value, known[i]) == 0) {
			sbuf_add_str(out, value);
			return;
		}
	}
	sbuf_add_str(note, "it is not known and taken as daemon");
	sbuf_add_str(out, "daemon");
}

/* Names with commas between them, or also with blanks, as a list with commas. */
static void value_names(const char *value, bool blanks, struct sbuf *out)
{
	const char *comma = "";

	while (*(value += strspn(value, ", \t\v\f\r")) != '\0') {
		size_t len = strcspn(value, blanks ? ", \t\v\f\r" : ",");

		sbuf_add_str(out, comma);
		sbuf_add(out, value, len);
		comma = ",";
		value += len;
	}
}

bool pgbouncer_value(const struct pgbouncer_setting *row, const char *value, struct sbuf *out,
                     struct sbuf *note, struct sbuf *why)
{
	const struct setting *setting = ours_of(row);
	int64_t level;

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
		if (!whole_number(value, &level)) {
			sbuf_add_str(why, "expected a number from 0 to 3");
			return false;
		}
		sbuf_add_str(out, level > 0 ? "debug" : "info");
		return true;
	default:
		break;
	}
	switch (setting == NULL ? VALUE_STRING : setting->type) {
	case VALUE_INT:
	case VALUE_PORT:
	case VALUE_DURATION:
		return value_number(row, setting, value, out, note, why);
	case VALUE_MODE:
		return value_mode(value, out, note, why);
	case VALUE_BOOL:
		if (value_bool(value, out))
			return true;
		sbuf_add_str(why, "expected 0 or 1");
		return false;
	case VALUE_SYSLOG_FACILITY:
		value_facility(value, out, note);
		return true;
	case VALUE_LIST:
		value_names(value, strcmp(row->name, "listen_addr") != 0, out);
		return true;
	default:
		if (setting != NULL && is_word_of_theirs(setting))
			add_lower(out, value);
		else
			sbuf_add_str(out, value);
		return true;
	}
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
	else if (row->how == PGB_LIFETIME && *(const usec_t *)field == USEC_PER_MSEC)
		sbuf_add_char(out, '0');
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
