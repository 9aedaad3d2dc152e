/* SPDX-License-Identifier: PostgreSQL */
/*
 * The lines of pg_hba.conf and pg_ident.conf, cut into fields and tokens by PostgreSQL's rules
 * (PostgreSQL documentation 21.1): a field is a list of tokens with commas between, a token may be
 * quoted, "@file" stands for the tokens of another file, a backslash at the end continues a line,
 * "include" directives bring in other files.  No state; for the thread that loads the files.
 */
#ifndef AUTH_TOKENS_H
#define AUTH_TOKENS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define TOKENS_FILE_MAX ((size_t)4 * 1024 * 1024)
#define TOKENS_DEPTH_MAX 10 /* files that include files, as in PostgreSQL */
#define TOKENS_ERRORS_MAX ((size_t)16 * 1024)
/* Longer names never match a regular expression: matching takes time that grows with them. */
#define TOKENS_REGEX_INPUT_MAX 255

struct token {
	char *text;
	bool quoted;    /* began with a quote: no keyword, no @file */
	regex_t *regex; /* of a token "/…", after token_compile(); NULL: plain text */
};

struct field {
	struct token *tokens;
	size_t count;
};

struct line {
	const char *file;
	unsigned number; /* of its first line in the file */
	struct field *fields;
	size_t count;
};

/* Takes a line over (moves out what it keeps, sets it to NULL or 0).  False: a text that ends with
 * a line break was added to the errors. */
typedef bool (*tokens_take)(void *owner, struct line *line, struct sbuf *errors);

/* Gives every line of the text, and of what it includes, to take().  False if anything was wrong;
 * `errors` then has a line for each problem, "file:line: what is wrong". */
bool tokens_parse(const char *path, const char *text, size_t len, tokens_take take, void *owner,
                  struct sbuf *errors) MUST_CHECK;
bool tokens_load(const char *path, tokens_take take, void *owner, struct sbuf *errors) MUST_CHECK;

/* "file:line: …\n"; returns false, so that a parser can return it. */
bool tokens_fail(struct sbuf *errors, const struct line *line, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* Compiles the regular expression of a token that begins with a slash; others are left alone. */
bool token_compile(struct token *token, const struct line *line, struct sbuf *errors) MUST_CHECK;

bool token_is_keyword(const struct token *token, const char *word);

/* The text, or the regular expression, fits `name`. */
bool token_matches(const struct token *token, const char *name);

void field_free(struct field *field);

/* The field as the file spells it, for SHOW. */
void field_format(const struct field *field, struct sbuf *out);

#endif
