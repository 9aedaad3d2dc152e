/* SPDX-License-Identifier: PostgreSQL */
#include "wire/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char option_hint[] =
    "Only -c name=value and --name=value are understood in the parameter \"options\".";

/* PostgreSQL's pg_split_opts() uses isspace() of the C locale. */
static bool option_is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Copies the next word to *to, ending it with a zero byte; NULL at the end of the text. */
static char *option_next_word(const char **from, char **to)
{
	char *word = *to;
	bool escaped = false;

	while (option_is_space(**from))
		(*from)++;
	if (**from == '\0')
		return NULL;
	for (; **from != '\0' && (escaped || !option_is_space(**from)); (*from)++) {
		if (!escaped && **from == '\\') {
			escaped = true;
			continue;
		}
		escaped = false;
		*(*to)++ = **from;
	}
	*(*to)++ = '\0';
	return word;
}

static PRINTF_LIKE(2, 3) bool option_fail(struct wire_options *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(out->error, sizeof(out->error), fmt, ap);
	va_end(ap);
	out->sqlstate = "42601";
	out->hint = option_hint;
	out->count = 0;
	return false;
}

/* "name=value", which is cut in two; `dashes`: it stood after "--". */
static bool option_add(struct wire_options *out, char *text, bool dashes)
{
	char *value = strchr(text, '=');

	if (value == NULL || value == text)
		return option_fail(
		    out, dashes ? "--%.80s requires a value" : "-c %.80s requires a value", text);
	*value = '\0';
	for (char *p = text; p < value; p++) {
		if (*p == '-')
			*p = '_';
	}
	out->items[out->count].name = text;
	out->items[out->count].value = value + 1;
	out->count++;
	return true;
}

static bool option_take(struct wire_options *out, char *word, const char **from, char **to)
{
	if (strncmp(word, "--", 2) == 0 && word[2] != '\0')
		return option_add(out, word + 2, true);
	if (strncmp(word, "-c", 2) != 0)
		return option_fail(out, "unsupported switch \"%.80s\" in parameter \"options\"",
		                   word);
	if (word[2] == '\0')
		word = option_next_word(from, to);
	else
		word += 2;
	if (word == NULL)
		return option_fail(out, "switch \"%s\" in parameter \"options\" requires a value",
		                   "-c");
	return option_add(out, word, false);
}

bool wire_options_parse(const char *text, struct wire_options *out)
{
	size_t len = strlen(text);
	const char *from = text;
	char *to;
	char *word;

	memset(out, 0, sizeof(*out));
	/* A word takes at least one byte and a separator, and grows by its zero byte only; an item
	 * takes at least four bytes ("--a="). */
	out->store = calloc(1, len + 2);
	out->items = calloc(len / 4 + 1, sizeof(*out->items));
	if (out->store == NULL || out->items == NULL) {
		(void)snprintf(out->error, sizeof(out->error), "out of memory");
		out->sqlstate = "53200";
		return false;
	}
	to = out->store;
	while ((word = option_next_word(&from, &to)) != NULL) {
		if (!option_take(out, word, &from, &to))
			return false;
	}
	return true;
}

void wire_options_free(struct wire_options *options)
{
	free(options->store);
	free(options->items);
	memset(options, 0, sizeof(*options));
}
