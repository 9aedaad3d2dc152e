/* SPDX-License-Identifier: PostgreSQL */
#include "session/sql_lex.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Names longer than this are no parameters' names (NAMEDATALEN is 64; parts make them longer). */
#define CUSTOM_NAME_MAX 256
/* Quotes inside quotes are looked into so deep. */
#define QUOTES_DEPTH 4

void sql_lex_begin(struct sql_lexer *lexer, const char *text, size_t len)
{
	memset(lexer, 0, sizeof(*lexer));
	lexer->at = text;
	lexer->end = text + len;
	lexer->token = text;
}

static bool starts_word(char c)
{
	return isalpha((unsigned char)c) || c == '_' || ((unsigned char)c & 0x80) != 0;
}

static bool in_word(char c)
{
	return starts_word(c) || (c >= '0' && c <= '9') || c == '$';
}

static char peek(const struct sql_lexer *lexer, size_t ahead)
{
	return (size_t)(lexer->end - lexer->at) > ahead ? lexer->at[ahead] : '\0';
}

/* Behind white space and comments.  False: a comment does not end. */
static bool skip_space(struct sql_lexer *lexer)
{
	while (lexer->at < lexer->end) {
		if (strchr(" \t\n\r\f\v", *lexer->at) != NULL && *lexer->at != '\0') {
			lexer->at++;
		} else if (*lexer->at == '-' && peek(lexer, 1) == '-') {
			while (lexer->at < lexer->end && *lexer->at != '\n' && *lexer->at != '\r')
				lexer->at++;
		} else if (*lexer->at == '/' && peek(lexer, 1) == '*') {
			unsigned int depth = 0;

			do {
				if (lexer->end - lexer->at < 2)
					return false;
				if (lexer->at[0] == '/' && lexer->at[1] == '*') {
					depth++;
					lexer->at += 2;
				} else if (lexer->at[0] == '*' && lexer->at[1] == '/') {
					depth--;
					lexer->at += 2;
				} else {
					lexer->at++;
				}
			} while (depth > 0);
		} else {
			break;
		}
	}
	return true;
}

/* at is on the opening quote. */
static bool skip_quoted(struct sql_lexer *lexer, char quote, bool escapes, bool plain)
{
	for (lexer->at++; lexer->at < lexer->end; lexer->at++) {
		if (*lexer->at == '\\') {
			if (plain)
				lexer->backslash = true;
			if (escapes)
				lexer->at++;
		} else if (*lexer->at == quote) {
			lexer->at++;
			if (lexer->at == lexer->end || *lexer->at != quote)
				return true;
		}
	}
	lexer->at = lexer->end;
	return false;
}

/* at is on '$'.  SQL_OTHER: it is none. */
static enum sql_token skip_dollar(struct sql_lexer *lexer)
{
	const char *tag = lexer->at;
	const char *p = tag + 1;
	size_t len;

	if (p < lexer->end && starts_word(*p)) {
		while (p < lexer->end && in_word(*p) && *p != '$')
			p++;
	}
	if (p == lexer->end || *p != '$') {
		/* A parameter. */
		for (lexer->at++; lexer->at < lexer->end && isdigit((unsigned char)*lexer->at);)
			lexer->at++;
		return SQL_OTHER;
	}
	len = (size_t)(++p - tag);
	p = memmem(p, (size_t)(lexer->end - p), tag, len);
	lexer->at = p == NULL ? lexer->end : p + len;
	return p == NULL ? SQL_BROKEN : SQL_DOLLAR;
}

static enum sql_token lex_word(struct sql_lexer *lexer)
{
	char first = *lexer->at;
	char second = peek(lexer, 1);

	if (second == '\'' && strchr("eEbBxXnN", first) != NULL) {
		bool escapes = first == 'e' || first == 'E';

		lexer->at++;
		return skip_quoted(lexer, '\'', escapes, first == 'n' || first == 'N') ? SQL_STRING
		                                                                       : SQL_BROKEN;
	}
	if ((first == 'u' || first == 'U') && second == '&' &&
	    (peek(lexer, 2) == '\'' || peek(lexer, 2) == '"')) {
		char quote = peek(lexer, 2);

		lexer->at += 2;
		if (!skip_quoted(lexer, quote, false, quote == '\''))
			return SQL_BROKEN;
		return SQL_STRING; /* as a name, too: it is not read */
	}
	while (lexer->at < lexer->end && in_word(*lexer->at))
		lexer->at++;
	return SQL_WORD;
}

static enum sql_token lex_token(struct sql_lexer *lexer)
{
	char c = *lexer->at;

	if (starts_word(c))
		return lex_word(lexer);
	switch (c) {
	case '\'':
		return skip_quoted(lexer, c, false, true) ? SQL_STRING : SQL_BROKEN;
	case '"':
		return skip_quoted(lexer, c, false, false) ? SQL_NAME : SQL_BROKEN;
	case '$':
		return skip_dollar(lexer);
	default:
		lexer->at++;
		if (isdigit((unsigned char)c)) {
			while (lexer->at < lexer->end && isdigit((unsigned char)*lexer->at))
				lexer->at++;
		}
		return SQL_OTHER;
	}
}

enum sql_token sql_lex_next(struct sql_lexer *lexer)
{
	enum sql_token token;

	if (!skip_space(lexer)) {
		lexer->at = lexer->end;
		return SQL_BROKEN;
	}
	lexer->token = lexer->at;
	lexer->len = 0;
	if (lexer->at == lexer->end)
		return SQL_END;
	token = lex_token(lexer);
	lexer->len = (size_t)(lexer->at - lexer->token);
	return token;
}

bool sql_lex_is(const struct sql_lexer *lexer, const char *word)
{
	return lexer->len == strlen(word) && strncasecmp(lexer->token, word, lexer->len) == 0;
}

bool sql_lex_identifier(const struct sql_lexer *lexer, char *out, size_t size)
{
	bool quoted = lexer->len > 0 && lexer->token[0] == '"';
	const char *p = lexer->token + (quoted ? 1 : 0);
	const char *end = lexer->token + lexer->len - (quoted ? 1 : 0);
	size_t n = 0;

	for (; p < end; p++) {
		if (quoted && *p == '"')
			p++;
		if (n + 1 >= size)
			return false;
		out[n++] = quoted || ((unsigned char)*p & 0x80) != 0
		               ? *p
		               : (char)tolower((unsigned char)*p);
	}
	out[n] = '\0';
	return true;
}

/* ---- prepared statements ---- */

/* Servers cut names to 63 bytes. */
static bool same_name(const char *written, const char *name)
{
	size_t len = strlen(name);

	return strncmp(written, name, len) == 0 && (written[len] == '\0' || len >= 60);
}

bool sql_mentions(const char *text, const char *name)
{
	char written[CUSTOM_NAME_MAX];
	struct sql_lexer lexer;
	enum sql_token token;
	bool qualified = false;

	sql_lex_begin(&lexer, text, strlen(text));
	while ((token = sql_lex_next(&lexer)) != SQL_END && token != SQL_BROKEN) {
		if (!qualified && (token == SQL_WORD || token == SQL_NAME) &&
		    sql_lex_identifier(&lexer, written, sizeof(written)) &&
		    same_name(written, name))
			return true;
		qualified = token == SQL_OTHER && sql_lex_is(&lexer, ".");
	}
	return false;
}

enum sql_prepare sql_judge_prepare(const char *text, const char *name)
{
	struct sql_lexer lexer;
	enum sql_token token;
	char written[256];
	bool ended = false;

	sql_lex_begin(&lexer, text, strlen(text));
	if (sql_lex_next(&lexer) != SQL_WORD || !sql_lex_is(&lexer, "prepare"))
		return SQL_PREPARE_SEVERAL;
	token = sql_lex_next(&lexer);
	if ((token != SQL_WORD && token != SQL_NAME) ||
	    !sql_lex_identifier(&lexer, written, sizeof(written)) || !same_name(written, name))
		return SQL_PREPARE_SEVERAL;
	while ((token = sql_lex_next(&lexer)) != SQL_END) {
		bool semicolon = token == SQL_OTHER && sql_lex_is(&lexer, ";");

		if (token == SQL_BROKEN || (ended && !semicolon))
			return SQL_PREPARE_SEVERAL;
		ended = ended || semicolon;
	}
	return lexer.backslash ? SQL_PREPARE_STRINGS : SQL_PREPARE_ALONE;
}

const char *sql_prepare_body(const char *text)
{
	struct sql_lexer lexer;
	enum sql_token token;
	int depth = 0;

	sql_lex_begin(&lexer, text, strlen(text));
	(void)sql_lex_next(&lexer); /* PREPARE */
	(void)sql_lex_next(&lexer); /* its name, which may be "as" */
	while ((token = sql_lex_next(&lexer)) != SQL_END && token != SQL_BROKEN) {
		if (token == SQL_WORD && depth == 0 && sql_lex_is(&lexer, "as"))
			return lexer.at;
		if (token == SQL_OTHER)
			depth += sql_lex_is(&lexer, "(") - sql_lex_is(&lexer, ")");
	}
	return NULL;
}

bool sql_has_backslash(const char *text)
{
	struct sql_lexer lexer;
	enum sql_token token;

	if (strchr(text, '\\') == NULL)
		return false;
	sql_lex_begin(&lexer, text, strlen(text));
	do {
		token = sql_lex_next(&lexer);
	} while (token != SQL_END && token != SQL_BROKEN);
	return lexer.backslash || token == SQL_BROKEN;
}

/* Three digits, or some and what stands between the parts of a date, or before an interval. */
static bool is_time(const char *text, size_t len)
{
	size_t digits = 0;
	bool parts = false;

	for (size_t i = 0; i < len; i++) {
		digits += text[i] >= '0' && text[i] <= '9';
		parts = parts || text[i] == '-' || text[i] == '/' || text[i] == ':';
	}
	return digits >= 3 || (digits > 0 && parts);
}

static bool has_null(const char *text, size_t len)
{
	for (size_t i = 0; i + 4 <= len; i++) {
		if (strncasecmp(text + i, "null", 4) == 0)
			return true;
	}
	return false;
}

unsigned sql_constants(const char *text)
{
	struct sql_lexer lexer;
	enum sql_token token;
	unsigned has = 0;

	sql_lex_begin(&lexer, text, strlen(text));
	while ((token = sql_lex_next(&lexer)) != SQL_END) {
		if (token == SQL_BROKEN)
			return SQL_HAS_TIME | SQL_HAS_NULL | SQL_HAS_NULL_STRING | SQL_HAS_XML |
			       SQL_HAS_MONEY;
		if (token == SQL_WORD || token == SQL_NAME) {
			has |= sql_lex_is(&lexer, "null") ? SQL_HAS_NULL : 0;
			has |= sql_lex_is(&lexer, "xml") ? SQL_HAS_XML : 0;
			has |= sql_lex_is(&lexer, "money") ? SQL_HAS_MONEY : 0;
		} else if (token == SQL_STRING || token == SQL_DOLLAR) {
			has |= is_time(lexer.token, lexer.len) ? SQL_HAS_TIME : 0;
			has |= has_null(lexer.token, lexer.len) ? SQL_HAS_NULL_STRING : 0;
			has |= memchr(lexer.token, '<', lexer.len) != NULL ? SQL_HAS_XML : 0;
		}
	}
	return has;
}

/* ---- custom settings ---- */

struct custom_scan {
	void (*found)(void *arg, const char *name);
	void *arg;
	bool readable;
};

static void custom_scan(struct custom_scan *scan, const char *text, size_t len, unsigned int depth);

/* A name in any case.  False: it is none that can be asked for. */
static bool custom_valid(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++) {
		if (!in_word(name[i]) && name[i] != '.')
			return false;
		if (((unsigned char)name[i] & 0x80) != 0)
			return false;
	}
	return len > 0 && len < CUSTOM_NAME_MAX;
}

static void custom_report(struct custom_scan *scan, const char *name, size_t len)
{
	const bool custom = memchr(name, '.', len) != NULL;
	char lower[CUSTOM_NAME_MAX];
	size_t i;

	if (custom && name[len - 1] == '.')
		return; /* no name, and an error */
	if (!custom_valid(name, len)) {
		if (!custom)
			return; /* the server shows those */
		scan->readable = false;
		return;
	}
	for (i = 0; i < len; i++)
		lower[i] = (char)tolower((unsigned char)name[i]);
	lower[len] = '\0';
	scan->found(scan->arg, lower);
}

/* Behind SET: [SESSION | LOCAL] part . part …; the lexer ends behind the first token that is no
 * part of it. */
static enum sql_token custom_in_set(struct custom_scan *scan, struct sql_lexer *lexer)
{
	char name[CUSTOM_NAME_MAX];
	size_t n = 0;
	enum sql_token token = sql_lex_next(lexer);

	if (token == SQL_WORD && (sql_lex_is(lexer, "session") || sql_lex_is(lexer, "local")))
		token = sql_lex_next(lexer);
	while (token == SQL_WORD || token == SQL_NAME) {
		if (!sql_lex_identifier(lexer, name + n, sizeof(name) - n)) {
			scan->readable = false;
			return token;
		}
		n += strlen(name + n);
		token = sql_lex_next(lexer);
		if (token != SQL_OTHER || !sql_lex_is(lexer, ".") || n + 2 > sizeof(name))
			break;
		name[n++] = '.';
		token = sql_lex_next(lexer);
	}
	if (n > 0)
		custom_report(scan, name, n);
	return token;
}

/* Behind set_config. */
static enum sql_token custom_in_call(struct custom_scan *scan, struct sql_lexer *lexer)
{
	enum sql_token token = sql_lex_next(lexer);
	const char *literal;
	size_t len;

	if (token != SQL_OTHER || !sql_lex_is(lexer, "("))
		return token; /* no call */
	token = sql_lex_next(lexer);
	literal = lexer->token;
	len = lexer->len;
	if (token != SQL_STRING || literal[0] != '\'') {
		scan->readable = false;
		return token;
	}
	token = sql_lex_next(lexer);
	if (token != SQL_OTHER || (!sql_lex_is(lexer, ",") && !sql_lex_is(lexer, ":")))
		scan->readable = false;
	else
		custom_report(scan, literal + 1, len - 2);
	return token;
}

/* What EXECUTE runs may be a text that begins with SET, and whose name is computed: by what format()
 * puts in, or by what is appended. */
static void custom_in_command(struct custom_scan *scan, const char *text, size_t len)
{
	struct sql_lexer lexer;
	enum sql_token token;

	sql_lex_begin(&lexer, text, len);
	token = sql_lex_next(&lexer);
	if (token != SQL_WORD || lexer.at == lexer.end ||
	    (!sql_lex_is(&lexer, "set") && !sql_lex_is(&lexer, "reset")))
		return;
	token = sql_lex_next(&lexer);
	if (token == SQL_WORD && (sql_lex_is(&lexer, "session") || sql_lex_is(&lexer, "local")))
		token = sql_lex_next(&lexer);
	while ((token == SQL_WORD || token == SQL_NAME) && peek(&lexer, 0) == '.') {
		(void)sql_lex_next(&lexer);
		token = sql_lex_next(&lexer);
	}
	/* It ends where the name should be, or right behind it; or a placeholder stands there. */
	if ((token != SQL_WORD && token != SQL_NAME) || lexer.at == lexer.end ||
	    peek(&lexer, 0) == '%')
		scan->readable = false;
}

/* A string inside of code, where it may be code itself. */
static void custom_in_string(struct custom_scan *scan, const struct sql_lexer *lexer,
                             unsigned int depth)
{
	const char *from = memchr(lexer->token, '\'', lexer->len);
	const char *end = lexer->token + lexer->len - 1;
	char *text;
	size_t len = 0;

	if (from == NULL || ++from >= end)
		return;
	text = malloc((size_t)(end - from));
	if (text == NULL) {
		scan->readable = false;
		return;
	}
	while (from < end) {
		text[len++] = *from;
		from += *from == '\'' ? 2 : 1;
	}
	custom_in_command(scan, text, len);
	custom_scan(scan, text, len, depth);
	free(text);
}

/* The words behind which a string is a message. */
static bool tells(const struct sql_lexer *lexer)
{
	static const char *const words[] = {"raise", "debug",   "log",      "info",
	                                    "notice", "warning", "exception"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (sql_lex_is(lexer, words[i]))
			return true;
	}
	return false;
}

static void custom_scan(struct custom_scan *scan, const char *text, size_t len, unsigned int depth)
{
	struct sql_lexer lexer;
	enum sql_token token;
	bool code = depth > 0;
	bool told = false;

	sql_lex_begin(&lexer, text, len);
	token = sql_lex_next(&lexer);
	if (token == SQL_WORD && sql_lex_is(&lexer, "do"))
		code = true;
	while (token != SQL_END && token != SQL_BROKEN) {
		/* RESET makes one that is empty. */
		if (token == SQL_WORD && (sql_lex_is(&lexer, "set") || sql_lex_is(&lexer, "reset"))) {
			token = custom_in_set(scan, &lexer);
			continue;
		}
		if ((token == SQL_WORD && sql_lex_is(&lexer, "set_config")) ||
		    (token == SQL_NAME && sql_lex_is(&lexer, "\"set_config\""))) {
			token = custom_in_call(scan, &lexer);
			continue;
		}
		if (token == SQL_DOLLAR && depth < QUOTES_DEPTH) {
			const char *body = memchr(lexer.token + 1, '$', lexer.len - 1);
			size_t tag = (size_t)(body - lexer.token) + 1;

			if (code)
				custom_in_command(scan, lexer.token + tag, lexer.len - 2 * tag);
			custom_scan(scan, lexer.token + tag, lexer.len - 2 * tag, depth + 1);
		}
		if (token == SQL_STRING && code && !told && depth < QUOTES_DEPTH)
			custom_in_string(scan, &lexer, depth + 1);
		told = token == SQL_WORD && tells(&lexer);
		token = sql_lex_next(&lexer);
	}
}

bool sql_find_custom(const char *text, size_t len, void (*found)(void *arg, const char *name),
                     void *arg)
{
	struct custom_scan scan = {found, arg, true};

	custom_scan(&scan, text, len, 0);
	return scan.readable;
}
