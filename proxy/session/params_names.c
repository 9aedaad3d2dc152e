/* SPDX-License-Identifier: PostgreSQL */
/*
 * What is known of parameters by name: spelling, whether SQL can set them, normal forms of values.
 * Pure functions over three tables; any thread.
 */
#include "session/params_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reported_name {
	const char *name;
	bool settable;
	int since;
};

struct encoding_name {
	const char *simplified;
	const char *name;
};

static const struct reported_name reported_names[] = {
#define GUC_REPORTED(spelling, can_be_set, first_version) {spelling, can_be_set, first_version},
#include "session/guc_report.def"
#undef GUC_REPORTED
};

struct fixed_name {
	const char *name;
	enum param_kind kind;
};

static const struct fixed_name fixed_names[] = {
#define GUC_FIXED(spelling, why) {spelling, why},
#include "session/guc_fixed.def"
#undef GUC_FIXED
};

static const struct encoding_name encodings[] = {
#define ENCODING(spelling, reported_as) {spelling, reported_as},
#include "session/encodings.def"
#undef ENCODING
};

static int lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : (unsigned char)c;
}

static bool is_letter(char c)
{
	return lower(c) >= 'a' && lower(c) <= 'z';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

int param_name_compare(const char *a, const char *b)
{
	/* Most are spelt alike, or differ at once. */
	for (;; a++, b++) {
		if (*a != *b) {
			int order = lower(*a) - lower(*b);

			if (order != 0)
				return order;
		} else if (*a == '\0') {
			return 0;
		}
	}
}

static int compare_reported(const void *key, const void *row)
{
	return param_name_compare(key, ((const struct reported_name *)row)->name);
}

static int compare_fixed(const void *key, const void *row)
{
	return param_name_compare(key, ((const struct fixed_name *)row)->name);
}

static int compare_encoding(const void *key, const void *row)
{
	return strcmp(key, ((const struct encoding_name *)row)->simplified);
}

static const struct reported_name *find_reported(const char *name)
{
	return bsearch(name, reported_names, ARRAY_LEN(reported_names), sizeof(reported_names[0]),
	               compare_reported);
}

const char *param_reported_name(const char *name)
{
	const struct reported_name *row = find_reported(name);

	return row == NULL ? NULL : row->name;
}

int param_reported_since(const char *name)
{
	const struct reported_name *row = find_reported(name);

	return row == NULL ? -1 : row->since;
}

enum param_kind param_kind(const char *name)
{
	const struct reported_name *row = find_reported(name);
	const struct fixed_name *fixed;

	if (row != NULL && row->settable)
		return PARAM_SETTABLE;
	if (row != NULL) /* the server sets it, after the startup packet, for the user who logs in */
		return strcmp(row->name, "session_authorization") == 0 ? PARAM_WITHOUT_EFFECT
		                                                       : PARAM_INTERNAL;
	if (!param_name_valid(name))
		return PARAM_UNKNOWN;
	if (strncmp(name, "_pq_.", 5) == 0)
		return PARAM_WITHOUT_EFFECT; /* an option of the protocol */
	fixed = bsearch(name, fixed_names, ARRAY_LEN(fixed_names), sizeof(fixed_names[0]),
	                compare_fixed);
	return fixed == NULL ? PARAM_SETTABLE : fixed->kind;
}

bool param_settable(const char *name)
{
	return param_kind(name) == PARAM_SETTABLE;
}

bool param_names_unreported(const char *sql)
{
	static const char *const names[] = {
#define GUC_PARSED(name, why) name,
#include "session/guc_parsed.def"
#undef GUC_PARSED
	};

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		/* Versions before 18 do not report search_path. */
		if ((param_reported_name(names[i]) == NULL || strcmp(names[i], "search_path") == 0) &&
		    strcasestr(sql, names[i]) != NULL)
			return true;
	}
	return false;
}

static_assert(ARRAY_LEN(reported_names) <= 15, "a bit for each in uint16_t, and one more");

uint16_t param_bit(const char *name)
{
	const struct reported_name *row = find_reported(name);

	return row == NULL || !row->settable ? 0 : (uint16_t)(1u << (row - reported_names));
}

uint16_t param_bits(const struct param_set *set)
{
	unsigned bits = 0;

	for (size_t i = 0; i < param_set_count(set); i++)
		bits |= param_bit(param_set_at(set, i)->name);
	return (uint16_t)bits;
}

uint16_t param_bits_differing(const struct param_set *a, const struct param_set *b)
{
	unsigned bits = 0;

	for (size_t i = 0; i < param_set_count(a); i++) {
		const struct param_entry *entry = param_set_at(a, i);
		const struct param_entry *other = param_set_find(b, entry->name);

		if (entry->reported && other != NULL && other->reported &&
		    strcmp(entry->value, other->value) != 0)
			bits |= param_bit(entry->name);
	}
	return (uint16_t)bits;
}

bool param_name_valid(const char *name)
{
	bool start = true;
	size_t i;

	for (i = 0; name[i] != '\0'; i++) {
		if (i >= PARAM_MAX_NAME)
			return false;
		if (is_letter(name[i]) || name[i] == '_')
			start = false;
		else if (name[i] == '.' && !start)
			start = true;
		else if (start || (!is_digit(name[i]) && name[i] != '$'))
			return false;
	}
	return !start;
}

bool param_normalise_name(const char *name, bool reported, char *out)
{
	const char *spelling = param_reported_name(name);
	size_t i;

	if (!param_name_valid(name))
		return false;
	if (spelling == NULL)
		spelling = name;
	else
		reported = true;
	for (i = 0; spelling[i] != '\0'; i++)
		out[i] = reported ? spelling[i] : (char)lower(spelling[i]);
	out[i] = '\0';
	return true;
}

/* PostgreSQL compares names of encodings by their letters and digits alone. */
static const char *find_encoding(const char *value)
{
	const struct encoding_name *row;
	char simplified[32];
	size_t len = 0;

	for (; *value != '\0'; value++) {
		if (!is_letter(*value) && !is_digit(*value))
			continue;
		if (len == sizeof(simplified) - 1)
			return NULL;
		simplified[len++] = (char)lower(*value);
	}
	simplified[len] = '\0';
	row = bsearch(simplified, encodings, ARRAY_LEN(encodings), sizeof(encodings[0]),
	              compare_encoding);
	return row == NULL ? NULL : row->name;
}

size_t param_identifier_len(const char *value)
{
	size_t kept = 63; /* NAMEDATALEN - 1 */
	size_t len = strnlen(value, kept + 1);

	if (len <= kept)
		return len;
	while (kept > 0 && ((unsigned char)value[kept] & 0xc0) == 0x80)
		kept--;
	return kept;
}

bool param_normalise_value(const char *name, const char *value, char *out)
{
	size_t len = strnlen(value, PARAM_MAX_VALUE + 1);
	const char *encoding;
	size_t i;

	if (len > PARAM_MAX_VALUE)
		return false;
	if (strcmp(name, "client_encoding") == 0) {
		encoding = find_encoding(value);
		if (encoding != NULL) {
			value = encoding;
			len = strlen(encoding);
		}
	}
	if (strcmp(name, "application_name") == 0)
		len = param_identifier_len(value);
	memcpy(out, value, len);
	out[len] = '\0';
	if (strcmp(name, "application_name") == 0) {
		for (i = 0; i < len; i++)
			if (out[i] < ' ' || out[i] > '~')
				out[i] = '?';
	}
	return true;
}

bool param_escape_name(const struct param_set *have, const char *sent, char out[PARAM_NAME_SHOWN])
{
	const char *version = param_set_get(have, "server_version");
	size_t used = 0;

	if (version == NULL || strtol(version, NULL, 10) < 16)
		return false;
	for (; *sent != '\0'; sent++) {
		const bool plain = *sent >= ' ' && *sent <= '~';

		if (used + (plain ? 1 : 4) >= PARAM_NAME_SHOWN)
			break;
		used += (size_t)snprintf(out + used, PARAM_NAME_SHOWN - used,
		                         plain ? "%c" : "\\x%02x", (unsigned char)*sent);
	}
	out[used] = '\0';
	return true;
}

bool param_can_sync(const struct param_entry *entry, const struct param_set *have)
{
	const char *version;
	int since;

	if (!param_settable(entry->name))
		return false;
	if (!entry->reported || param_set_find(have, entry->name) != NULL)
		return true;
	/* Another server reported it, this one does not: has it the parameter at all?  A name with
	 * a dot can be set everywhere. */
	since = param_reported_since(entry->name);
	if (since < 0)
		return strchr(entry->name, '.') != NULL;
	if (since == 0)
		return true;
	version = param_set_get(have, "server_version");
	return version != NULL && strtol(version, NULL, 10) >= since;
}
