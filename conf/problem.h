/* SPDX-License-Identifier: PostgreSQL */
/*
 * The errors found in a configuration file: collected with their places in any order, reported in
 * the order of the file.
 */
#ifndef CONF_PROBLEM_H
#define CONF_PROBLEM_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>

/* Most errors that are kept; the others are only counted. */
#define PROBLEMS_MAX 100

struct problem {
	size_t line; /* from 1; 0 = the file as a whole */
	size_t column;
	char *text;
};

struct problems {
	const char *file;
	struct problem items[PROBLEMS_MAX];
	size_t count; /* may be more than PROBLEMS_MAX */
};

void problem_add(struct problems *problems, size_t line, size_t column, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* Whether further ones would only be counted: then the search for good advice can be spared. */
static inline bool problems_full(const struct problems *problems)
{
	return problems->count >= PROBLEMS_MAX;
}

/* Appends all of them to `errors`, a line each, and frees them. */
void problems_report(struct problems *problems, struct sbuf *errors);

#define PROBLEM_QUOTE_MAX 80

/* `text` in double quotes, shortened and with control characters shown as '?'; returns out. */
const char *problem_quote(const char *text, char out[PROBLEM_QUOTE_MAX]);

/* The candidate nearest to `word`, NULL if none is near.  `next` gives the candidates one by one
 * from 0 on and then NULL. */
const char *problem_nearest(const char *word, const char *(*next)(const void *arg, size_t index),
                            const void *arg);

#endif
