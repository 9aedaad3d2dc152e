/* SPDX-License-Identifier: PostgreSQL */
/*
 * Tokens of the console's commands, with PostgreSQL's rules for words, "quoted names", 'strings'
 * and comments.  Keeps nothing between calls but an offset; any thread.
 */
#ifndef CONTROL_LEX_H
#define CONTROL_LEX_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longest name, string or number. */
#define LEX_TEXT_MAX 255

enum lex_kind {
	LEX_END,    /* end of the text */
	LEX_SEMI,   /* ; */
	LEX_WORD,   /* key word or name, as written */
	LEX_NAME,   /* "quoted name" */
	LEX_STRING, /* 'string' */
	LEX_NUMBER, /* begins with a digit: 12, 250ms, 1.5; a name, too: 1db */
	LEX_OTHER,  /* any other character */
	LEX_BAD,    /* see `bad` */
};

struct lex_token {
	enum lex_kind kind;
	size_t start; /* bytes of the source: [start, end) */
	size_t end;
	char text[LEX_TEXT_MAX + 1]; /* without quotes; cut for LEX_OTHER and LEX_BAD */
	const char *bad;             /* "unterminated quoted string" … */
};

/* Reads the token at or after `offset`. */
void lex_next(const char *source, size_t len, size_t offset, struct lex_token *token);

/* Puts capital letters in lower case, only those of ASCII; whether there were any. */
bool lex_fold(char *text);

/* The place of byte `at` in characters, from 1, as ErrorResponse counts. */
uint32_t lex_position(const char *source, size_t len, size_t at);

#endif
