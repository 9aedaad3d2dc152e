/* SPDX-License-Identifier: PostgreSQL */
/*
 * PostgreSQL's tokens (scan.l), as far as it takes to tell where a statement ends and to read
 * names: comments, strings of every kind, dollar quotes, quoted names.  No grammar.  Owns nothing;
 * any thread.  The text is in an encoding in which no byte of a longer character is ASCII, as all
 * encodings of servers are.
 */
#ifndef SESSION_SQL_LEX_H
#define SESSION_SQL_LEX_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

enum sql_token {
	SQL_END,    /* of the text */
	SQL_WORD,   /* identifier or keyword, as it stands */
	SQL_NAME,   /* "quoted", quotes included */
	SQL_STRING, /* a literal of any kind, with its quotes */
	SQL_DOLLAR, /* $tag$ … $tag$, as a whole */
	SQL_OTHER,  /* number, parameter or one character */
	SQL_BROKEN, /* a literal or comment without its end */
};

struct sql_lexer {
	const char *at;
	const char *end;
	const char *token;
	size_t len;
	bool backslash; /* so far: a backslash in a literal, where it means what
	                   standard_conforming_strings says */
};

void sql_lex_begin(struct sql_lexer *lexer, const char *text, size_t len);
enum sql_token sql_lex_next(struct sql_lexer *lexer);

/* Whether the token is this symbol, or this word in any case. */
bool sql_lex_is(const struct sql_lexer *lexer, const char *word);

/* The identifier that a SQL_WORD or SQL_NAME token means (folded, or without its quotes) into
 * `out` with a zero; false if it is longer than `size` admits. */
bool sql_lex_identifier(const struct sql_lexer *lexer, char *out, size_t size) MUST_CHECK;

/* What a text is that a server shows as the source of a prepared statement. */
enum sql_prepare {
	SQL_PREPARE_ALONE,   /* exactly one statement, PREPARE of that name */
	SQL_PREPARE_SEVERAL, /* it stands among others, or is none */
	SQL_PREPARE_STRINGS, /* alone, but has strings whose meaning depends on a setting */
};
enum sql_prepare sql_judge_prepare(const char *text, const char *name);

/* Of a text that is SQL_PREPARE_ALONE or _STRINGS: what it prepares, behind AS; NULL: not found. */
const char *sql_prepare_body(const char *text);

/* Whether the text has this identifier, other than behind a dot. */
bool sql_mentions(const char *text, const char *name);

/* Whether the text has a backslash in a plain literal. */
bool sql_has_backslash(const char *text);

/* What a text may have of which a server keeps what it meant under the settings of then. */
#define SQL_HAS_TIME 1u        /* a literal that may be a date, a time or an interval */
#define SQL_HAS_NULL 2u        /* the word */
#define SQL_HAS_NULL_STRING 4u /* that word in a literal, which may be of an array */
#define SQL_HAS_XML 8u
#define SQL_HAS_MONEY 16u
unsigned sql_constants(const char *text);

/*
 * Calls `found` with every name (in lower case) that the text sets by SET, RESET or set_config() —
 * what stands behind SET: a part of UPDATE, too, and the first word of two as in TIME ZONE —, also
 * inside dollar quotes, and inside the strings of these and of DO, which may be executed.  False:
 * it has a set_config(), or there a SET, whose name cannot be read from the text, or a name that is
 * not plain ASCII.
 */
bool sql_find_custom(const char *text, size_t len, void (*found)(void *arg, const char *name),
                     void *arg) MUST_CHECK;

#endif
