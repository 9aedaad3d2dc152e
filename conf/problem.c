/* SPDX-License-Identifier: PostgreSQL */
#include "conf/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 64

void problem_add(struct problems *problems, size_t line, size_t column, const char *fmt, ...)
{
	struct problem *problem;
	struct sbuf text;
	char line_text[1024];
	va_list ap;

	if (problems->count++ >= PROBLEMS_MAX)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(line_text, sizeof(line_text), fmt, ap);
	va_end(ap);
	sbuf_init(&text, sizeof(line_text));
	sbuf_add_str(&text, line_text);
	problem = &problems->items[problems->count - 1];
	problem->line = line;
	problem->column = column;
	problem->text = sbuf_take(&text);
}

/* Insertion sort: stable, and there are few. */
static void problems_sort(struct problem *items, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		struct problem moved = items[i];
		size_t at = i;

		while (at > 0 &&
		       (items[at - 1].line > moved.line || (items[at - 1].line == moved.line &&
		                                            items[at - 1].column > moved.column))) {
			items[at] = items[at - 1];
			at--;
		}
		items[at] = moved;
	}
}

void problems_report(struct problems *problems, struct sbuf *errors)
{
	size_t kept = problems->count < PROBLEMS_MAX ? problems->count : PROBLEMS_MAX;

	problems_sort(problems->items, kept);
	for (size_t i = 0; i < kept; i++) {
		struct problem *problem = &problems->items[i];
		const char *text = problem->text == NULL ? "out of memory" : problem->text;

		if (problem->line == 0)
			sbuf_printf(errors, "%s: %s\n", problems->file, text);
		else
			sbuf_printf(errors, "%s:%zu:%zu: %s\n", problems->file, problem->line,
			            problem->column, text);
		free(problem->text);
		problem->text = NULL;
	}
	if (problems->count > kept)
		sbuf_printf(errors, "%s: %zu more errors\n", problems->file,
		            problems->count - kept);
	problems->count = 0;
}

const char *problem_quote(const char *text, char out[PROBLEM_QUOTE_MAX])
{
	const size_t room = PROBLEM_QUOTE_MAX - 6; /* two quotes, "...", zero */
	size_t len = strlen(text);
	bool cut = len > room;
	size_t at = 0;

	if (cut) {
		len = room;
		/* not in the middle of a UTF-8 character */
		while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
			len--;
	}
	out[at++] = '"';
	for (size_t i = 0; i < len; i++)
		out[at++] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
	if (cut) {
		memcpy(out + at, "...", 3);
		at += 3;
	}
	out[at++] = '"';
	out[at] = '\0';
	return out;
}

static size_t least_of(size_t a, size_t b, size_t c)
{
	size_t least = a < b ? a : b;

	return least < c ? least : c;
}

/* Letters to insert, delete or change, or neighbours to swap, to make one word of the other. */
static size_t word_distance(const char *a, const char *b)
{
	size_t rows[3][WORD_MAX + 1]; /* of the letters i - 2, i - 1 and i of a, in turn */
	size_t len_a = strlen(a);
	size_t len_b = strlen(b);

	if (len_a > WORD_MAX || len_b > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= len_b; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= len_a; i++) {
		size_t *row = rows[i % 3];
		const size_t *above = rows[(i + 2) % 3];

		row[0] = i;
		for (size_t j = 1; j <= len_b; j++) {
			size_t changed = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);

			row[j] = least_of(above[j] + 1, row[j - 1] + 1, changed);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = least_of(row[j], rows[(i + 1) % 3][j - 2] + 1, row[j]);
		}
	}
	return rows[len_a % 3][len_b];
}

const char *problem_nearest(const char *word, const char *(*next)(const void *arg, size_t index),
                            const void *arg)
{
	size_t best = 1 + (strlen(word) >= 6 ? 2 : 1); /* the first distance that is too far */
	const char *nearest = NULL;
	const char *candidate;

	for (size_t i = 0; (candidate = next(arg, i)) != NULL; i++) {
		size_t distance = word_distance(word, candidate);

		if (distance < best && distance < strlen(candidate)) {
			best = distance;
			nearest = candidate;
		}
	}
	return nearest;
}
