/* SPDX-License-Identifier: PostgreSQL */
#include "session/neutral.h"

#include "session/inspect_internal.h"

#include <string.h>

/* Longest literal. */
#define LITERAL_MAX ((size_t)4 * 1024 * 1024)

static const char *const our_settings[][2] = {
    {"statement_timeout", "0"},
    {"search_path", ""},
    {"client_min_messages", "error"},
    {"DateStyle", "ISO, YMD"},
    {"IntervalStyle", "postgres"},
    {"TimeZone", "UTC"},
    {"extra_float_digits", "3"},
    {"bytea_output", "hex"},
    {"lc_monetary", "C"},
    {"xmloption", "content"},
    {"quote_all_identifiers", "off"},
    {"standard_conforming_strings", "on"},
    {"array_nulls", "on"},
    {"transform_null_equals", "off"},
    {"default_tablespace", ""},
    {"temp_tablespaces", ""},
    /* Not of meaning: what is asked runs once, and to compile it took sixteen seconds. */
    {"jit", "off"},
};

void neutral_add_quoted(struct sbuf *sql, char quote, const char *text)
{
	const char *p;

	sbuf_add_char(sql, quote);
	for (p = text; *p != '\0'; p++) {
		if (*p == quote)
			sbuf_add_char(sql, quote);
		sbuf_add_char(sql, *p);
	}
	sbuf_add_char(sql, quote);
}

void neutral_add_literal(struct sbuf *sql, const char *text)
{
	struct sbuf doubled;
	const char *p;

	if (strchr(text, '\\') == NULL) {
		neutral_add_quoted(sql, '\'', text);
		return;
	}
	sbuf_init(&doubled, LITERAL_MAX);
	for (p = text; *p != '\0'; p++) {
		if (*p == '\\')
			sbuf_add_char(&doubled, '\\');
		sbuf_add_char(&doubled, *p);
	}
	sbuf_add_char(sql, 'E');
	neutral_add_quoted(sql, '\'', sbuf_text(&doubled));
	sql->failed = sql->failed || !sbuf_ok(&doubled);
	sbuf_free(&doubled);
}

void neutral_run(struct sbuf *out, struct sbuf *sql)
{
	session_add_run(out, sbuf_text(sql));
	out->failed = out->failed || !sbuf_ok(sql);
	sbuf_free(sql);
}

void neutral_add(const struct session_state *state, struct sbuf *out)
{
	struct sbuf sql;
	size_t i;

	sbuf_init(&sql, 4096);
	/* No row comes of it. */
	sbuf_add_str(&sql, "SELECT WHERE pg_catalog.concat("
	                   "pg_catalog.set_config('client_encoding', ");
	neutral_add_literal(&sql, session_state_info(state, "server_encoding"));
	sbuf_add_str(&sql, ", true)");
	for (i = 0; i < ARRAY_LEN(our_settings); i++)
		sbuf_printf(&sql, ", pg_catalog.set_config('%s', '%s', true)", our_settings[i][0],
		            our_settings[i][1]);
	sbuf_add_str(&sql, ", " SESSION_UNLIMITED ") IS NULL");
	neutral_run(out, &sql);
}
