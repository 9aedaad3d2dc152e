/* SPDX-License-Identifier: PostgreSQL */
#include "control/lex.h"

#include <stdbool.h>
#include <string.h>

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Bytes above 127 are letters, as in PostgreSQL's scanner. */
static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
	       (unsigned char)c >= 0x80;
}

bool lex_fold(char *text)
{
	bool folded = false;

	for (; *text != '\0'; text++) {
		if (*text >= 'A' && *text <= 'Z') {
			*text = (char)(*text - 'A' + 'a');
			folded = true;
		}
	}
	return folded;
}

/* Past the comment that begins at `at` (nested as in SQL); `len` + 1 when it does not end. */
static size_t skip_block_comment(const char *source, size_t len, size_t at)
{
	size_t depth = 1;

	for (at += 2; at + 1 < len; at++) {
		if (source[at] == '/' && source[at + 1] == '*') {
			depth++;
			at++;
		} else if (source[at] == '*' && source[at + 1] == '/') {
			at++;
			if (--depth == 0)
				return at + 1;
		}
	}
	return len + 1;
}

/* Past blanks and comments; `len` + 1 when a comment does not end, then *comment is its begin. */
static size_t skip_blank(const char *source, size_t len, size_t at, size_t *comment)
{
	while (at < len) {
		if (is_space(source[at])) {
			at++;
		} else if (at + 1 < len && source[at] == '-' && source[at + 1] == '-') {
			while (at < len && source[at] != '\n')
				at++;
		} else if (at + 1 < len && source[at] == '/' && source[at + 1] == '*') {
			*comment = at;
			at = skip_block_comment(source, len, at);
		} else {
			break;
		}
	}
	return at;
}

static void set_text(struct lex_token *token, const char *bytes, size_t len)
{
	if (len > LEX_TEXT_MAX)
		len = LEX_TEXT_MAX;
	memcpy(token->text, bytes, len);
	token->text[len] = '\0';
}

static void set_bad(struct lex_token *token, const char *source, size_t end, const char *why)
{
	token->kind = LEX_BAD;
	token->end = end;
	token->bad = why;
	set_text(token, source + token->start, end - token->start);
}

/* "name" or 'string', in which a doubled quote stands for one. */
static void lex_quoted(const char *source, size_t len, struct lex_token *token)
{
	char quote = source[token->start];
	size_t used = 0;
	size_t at = token->start + 1;

	for (; at < len; at++) {
		if (source[at] == quote) {
			if (at + 1 >= len || source[at + 1] != quote)
				break;
			at++;
		}
		if (used < LEX_TEXT_MAX)
			token->text[used] = source[at];
		used++;
	}
	if (at >= len) {
		set_bad(token, source, len,
		        quote == '"' ? "unterminated quoted identifier"
		                     : "unterminated quoted string");
	} else if (used > LEX_TEXT_MAX) {
		set_bad(token, source, at + 1, "quoted text is too long");
	} else if (used == 0 && quote == '"') {
		set_bad(token, source, at + 1, "zero-length delimited identifier");
	} else {
		token->text[used] = '\0';
		token->end = at + 1;
		token->kind = quote == '"' ? LEX_NAME : LEX_STRING;
	}
}

static void lex_word(const char *source, size_t len, struct lex_token *token)
{
	size_t at = token->start;
	bool number = is_digit(source[at]);

	while (at < len && (is_letter(source[at]) || is_digit(source[at]) ||
	                    (number ? source[at] == '.' : source[at] == '$')))
		at++;
	if (at - token->start > LEX_TEXT_MAX) {
		set_bad(token, source, at, "word is too long");
		return;
	}
	token->kind = number ? LEX_NUMBER : LEX_WORD;
	token->end = at;
	set_text(token, source + token->start, at - token->start);
}

void lex_next(const char *source, size_t len, size_t offset, struct lex_token *token)
{
	size_t at = skip_blank(source, len, offset, &token->start);

	token->bad = NULL;
	token->text[0] = '\0';
	if (at > len) {
		set_bad(token, source, len, "unterminated /* comment");
		return;
	}
	token->start = at;
	token->end = at;
	if (at == len) {
		token->kind = LEX_END;
	} else if (source[at] == ';') {
		token->kind = LEX_SEMI;
		token->end = at + 1;
		set_text(token, ";", 1);
	} else if (source[at] == '"' || source[at] == '\'') {
		lex_quoted(source, len, token);
	} else if (is_letter(source[at]) || is_digit(source[at])) {
		lex_word(source, len, token);
	} else {
		token->kind = LEX_OTHER;
		token->end = at + 1;
		set_text(token, source + at, 1);
	}
}

uint32_t lex_position(const char *source, size_t len, size_t at)
{
	uint32_t position = 1;

	for (size_t i = 0; i < at && i < len; i++) {
		/* Bytes 10xxxxxx continue a character. */
		if (((unsigned char)source[i] & 0xc0) != 0x80)
			position++;
	}
	return position;
}
