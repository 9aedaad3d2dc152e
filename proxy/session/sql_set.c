/* SPDX-License-Identifier: PostgreSQL */
#include "session/sql_set.h"

#include "session/params.h"
#include "session/sql_lex.h"

#include <string.h>

/* Names that are longer belong to no parameter that is reported. */
#define NAME_MAX_LEN ((size_t)(PARAM_MAX_NAME + 1))

struct set_scan {
	struct sql_lexer lexer;
	enum sql_token token; /* where it stands */
	struct sql_settings *settings;
	unsigned found;  /* commands */
	bool ends;       /* a command that begins or ends a transaction, or a part of one */
	bool unreadable; /* a name in U&"…" */
};

static void scan_next(struct set_scan *scan)
{
	scan->token = sql_lex_next(&scan->lexer);
}

/* Goes on behind it if it is this word, unquoted. */
static bool scan_word(struct set_scan *scan, const char *word)
{
	if (scan->token != SQL_WORD || !sql_lex_is(&scan->lexer, word))
		return false;
	scan_next(scan);
	return true;
}

static bool scan_is_symbol(const struct set_scan *scan, const char *symbol)
{
	return scan->token == SQL_OTHER && sql_lex_is(&scan->lexer, symbol);
}

/* On the first token behind the statement, or its semicolon. */
static void scan_to_end(struct set_scan *scan)
{
	int depth = 0;

	while (scan->token != SQL_END && scan->token != SQL_BROKEN &&
	       (depth > 0 || !scan_is_symbol(scan, ";"))) {
		depth += scan_is_symbol(scan, "(") - scan_is_symbol(scan, ")");
		scan_next(scan);
	}
}

static void scan_set(struct set_scan *scan, uint16_t bits)
{
	scan->settings->set |= bits;
	scan->settings->reset &= (uint16_t)~bits;
}

static void scan_reset(struct set_scan *scan, uint16_t bits)
{
	scan->settings->reset |= bits;
	scan->settings->set &= (uint16_t)~bits;
}

/* A name of one part; 0 for all that servers do not report. */
static uint16_t scan_name(struct set_scan *scan)
{
	char name[NAME_MAX_LEN] = "";
	const bool is_name = scan->token == SQL_WORD || scan->token == SQL_NAME;

	if (scan->token == SQL_STRING)
		scan->unreadable = true;
	if (is_name && !sql_lex_identifier(&scan->lexer, name, sizeof(name)))
		name[0] = '\0';
	scan_next(scan);
	return scan_is_symbol(scan, ".") ? 0 : param_bit(name);
}

/* SET SESSION CHARACTERISTICS AS TRANSACTION mode, … */
static void scan_characteristics(struct set_scan *scan)
{
	while (scan->token != SQL_END && scan->token != SQL_BROKEN && !scan_is_symbol(scan, ";")) {
		if (scan_word(scan, "read") &&
		    (scan_word(scan, "only") || scan_word(scan, "write")))
			scan_set(scan, param_bit(PARAM_READ_ONLY));
		else
			scan_next(scan);
	}
}

/* Behind SET [SESSION]. */
static void scan_session_set(struct set_scan *scan)
{
	uint16_t bit;

	if (scan_word(scan, "characteristics")) {
		scan_characteristics(scan);
		return;
	}
	if (scan_word(scan, "time")) {
		bit = scan_word(scan, "zone") ? param_bit("TimeZone") : 0;
		if (scan_word(scan, "default") || scan_word(scan, "local"))
			scan_reset(scan, bit);
		else
			scan_set(scan, bit);
		return;
	}
	if (scan_word(scan, "names")) {
		bit = param_bit("client_encoding");
		if (scan->token == SQL_END || scan_is_symbol(scan, ";") ||
		    scan_word(scan, "default"))
			scan_reset(scan, bit);
		else
			scan_set(scan, bit);
		return;
	}
	if (scan_word(scan, "schema")) {
		scan_set(scan, param_bit("search_path"));
		return;
	}
	/* So begin SET TRANSACTION, CONSTRAINTS, ROLE, AUTHORIZATION, XML OPTION, too: names of
	 * none. */
	bit = scan_name(scan);
	if (!scan_is_symbol(scan, "=") && !scan_word(scan, "to"))
		return;
	if (scan_is_symbol(scan, "="))
		scan_next(scan);
	if (scan_word(scan, "default"))
		scan_reset(scan, bit);
	else
		scan_set(scan, bit);
}

static void scan_statement(struct set_scan *scan)
{
	static const char *const ends[] = {"begin", "start",     "commit",  "end",    "rollback",
	                                   "abort", "savepoint", "release", "prepare"};

	if (scan_word(scan, "set")) {
		scan->found++;
		if (!scan_word(scan, "local")) {
			(void)scan_word(scan, "session");
			scan_session_set(scan);
		}
	} else if (scan_word(scan, "reset")) {
		scan->found++;
		if (scan_word(scan, "all"))
			scan_reset(scan, PARAM_BITS_ALL);
		else if (scan_word(scan, "time"))
			scan_reset(scan, param_bit("TimeZone"));
		else
			scan_reset(scan, scan_name(scan));
	} else {
		for (size_t i = 0; i < ARRAY_LEN(ends); i++)
			scan->ends = scan->ends || scan_word(scan, ends[i]);
	}
	scan_to_end(scan);
}

bool sql_read_settings(const char *text, struct sql_settings *settings)
{
	struct set_scan scan = {.settings = settings};

	*settings = (struct sql_settings){0};
	sql_lex_begin(&scan.lexer, text, strlen(text));
	do {
		scan_next(&scan);
		scan_statement(&scan);
	} while (scan_is_symbol(&scan, ";"));
	return scan.token == SQL_END && !scan.unreadable &&
	       (scan.found == 1 || (scan.found > 1 && !scan.ends));
}

/* A literal without escapes. */
static uint16_t scan_literal(struct set_scan *scan)
{
	char name[NAME_MAX_LEN];
	const char *token = scan->lexer.token;
	const size_t len = scan->lexer.len;
	const bool plain = scan->token == SQL_STRING && len >= 2 && len - 2 < sizeof(name) &&
	                   token[0] == '\'' && memchr(token + 1, '\'', len - 2) == NULL;

	if (!plain)
		return 0;
	memcpy(name, token + 1, len - 2);
	name[len - 2] = '\0';
	scan_next(scan);
	return param_bit(name);
}

static bool scan_symbol(struct set_scan *scan, const char *symbol)
{
	if (!scan_is_symbol(scan, symbol))
		return false;
	scan_next(scan);
	return true;
}

uint16_t sql_read_set_config(const char *text)
{
	struct set_scan scan = {0};
	int depth = 0;
	uint16_t bit;

	sql_lex_begin(&scan.lexer, text, strlen(text));
	scan_next(&scan);
	if (!scan_word(&scan, "select"))
		return 0;
	if (scan_word(&scan, "pg_catalog") && !scan_symbol(&scan, "."))
		return 0;
	if (!scan_word(&scan, "set_config") || !scan_symbol(&scan, "("))
		return 0;
	bit = scan_literal(&scan);
	if (!scan_symbol(&scan, ","))
		return 0;
	while (scan.token != SQL_END && scan.token != SQL_BROKEN &&
	       (depth > 0 || !scan_is_symbol(&scan, ","))) {
		depth += scan_is_symbol(&scan, "(") - scan_is_symbol(&scan, ")");
		scan_next(&scan);
	}
	if (!scan_symbol(&scan, ",") || !scan_word(&scan, "false") || !scan_symbol(&scan, ")"))
		return 0;
	(void)scan_symbol(&scan, ";");
	return scan.token == SQL_END ? bit : 0;
}
