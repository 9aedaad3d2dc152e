/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/diff.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 3
/* Between the first and the last change; more is shown as one exchange of all lines. */
#define COMPARED_MAX ((size_t)2000)

struct line {
	const char *text;
	size_t len;  /* without its line break */
	bool broken; /* it has one */
};

struct lines {
	struct line *items;
	size_t count;
};

/* A line of the result: ' ', '-' or '+'. */
struct mark {
	char kind;
	const struct line *line;
};

static struct lines split(const char *text)
{
	struct lines out = {0};

	while (*text != '\0') {
		size_t len = strcspn(text, "\n");

		out.items = mem_must_grow(out.items, out.count + 1, sizeof(*out.items));
		out.items[out.count++] =
		    (struct line){.text = text, .len = len, .broken = text[len] == '\n'};
		text += len + (text[len] == '\n' ? 1 : 0);
	}
	return out;
}

static bool same(const struct line *a, const struct line *b)
{
	return a->len == b->len && a->broken == b->broken && memcmp(a->text, b->text, a->len) == 0;
}

static size_t put(struct mark *marks, size_t at, char kind, const struct line *line)
{
	marks[at] = (struct mark){.kind = kind, .line = line};
	return at + 1;
}

/* The longest common subsequence of what lies between equal beginnings and ends. */
static size_t compare_middle(const struct line *a, size_t n, const struct line *b, size_t m,
                             struct mark *marks, size_t at)
{
	uint16_t *best;
	size_t i = 0;
	size_t j = 0;

	if (n > COMPARED_MAX || m > COMPARED_MAX) {
		for (; i < n; i++)
			at = put(marks, at, '-', &a[i]);
		for (; j < m; j++)
			at = put(marks, at, '+', &b[j]);
		return at;
	}
	best = mem_must_alloc((n + 1) * (m + 1) * sizeof(*best));
	for (i = n; i-- > 0;)
		for (j = m; j-- > 0;) {
			uint16_t down = best[(i + 1) * (m + 1) + j];
			uint16_t right = best[i * (m + 1) + j + 1];

			best[i * (m + 1) + j] =
			    same(&a[i], &b[j]) ? (uint16_t)(best[(i + 1) * (m + 1) + j + 1] + 1)
			    : down > right     ? down
			                       : right;
		}
	i = 0;
	j = 0;
	while (i < n || j < m) {
		if (i < n && j < m && same(&a[i], &b[j])) {
			at = put(marks, at, ' ', &a[i++]);
			j++;
		} else if (j == m ||
		           (i < n && best[(i + 1) * (m + 1) + j] >= best[i * (m + 1) + j + 1])) {
			at = put(marks, at, '-', &a[i++]);
		} else {
			at = put(marks, at, '+', &b[j++]);
		}
	}
	free(best);
	return at;
}

static size_t compare(const struct lines *a, const struct lines *b, struct mark *marks)
{
	size_t head = 0;
	size_t tail = 0;
	size_t at = 0;

	while (head < a->count && head < b->count && same(&a->items[head], &b->items[head]))
		head++;
	while (tail < a->count - head && tail < b->count - head &&
	       same(&a->items[a->count - 1 - tail], &b->items[b->count - 1 - tail]))
		tail++;
	for (size_t i = 0; i < head; i++)
		at = put(marks, at, ' ', &a->items[i]);
	at = compare_middle(a->items + head, a->count - head - tail, b->items + head,
	                    b->count - head - tail, marks, at);
	for (size_t i = a->count - tail; i < a->count; i++)
		at = put(marks, at, ' ', &a->items[i]);
	return at;
}

/* Where the hunk that begins at or after `from` begins and ends. */
static bool next_hunk(const struct mark *marks, size_t count, size_t from, size_t *begin,
                      size_t *end)
{
	size_t last;

	while (from < count && marks[from].kind == ' ')
		from++;
	if (from == count)
		return false;
	*begin = from;
	last = from;
	for (size_t i = from; i < count && i <= last + 2 * CONTEXT + 1; i++) {
		if (marks[i].kind != ' ')
			last = i;
	}
	*end = last + 1 + CONTEXT > count ? count : last + 1 + CONTEXT;
	return true;
}

static void print_hunk(const struct mark *marks, size_t begin, size_t end, size_t old_line,
                       size_t new_line, struct sbuf *out)
{
	size_t old_count = 0;
	size_t new_count = 0;

	for (size_t i = begin; i < end; i++) {
		old_count += marks[i].kind != '+' ? 1 : 0;
		new_count += marks[i].kind != '-' ? 1 : 0;
	}
	sbuf_printf(out, "@@ -%zu,%zu +%zu,%zu @@\n", old_line + (old_count > 0 ? 1 : 0), old_count,
	            new_line + (new_count > 0 ? 1 : 0), new_count);
	for (size_t i = begin; i < end; i++) {
		sbuf_add_char(out, marks[i].kind);
		sbuf_add(out, marks[i].line->text, marks[i].line->len);
		sbuf_add_str(out,
		             marks[i].line->broken ? "\n" : "\n\\ No newline at end of file\n");
	}
}

void text_diff(const char *old_name, const char *old_text, const char *new_name,
               const char *new_text, struct sbuf *out)
{
	struct lines a = split(old_text);
	struct lines b = split(new_text);
	struct mark *marks = mem_must_alloc((a.count + b.count + 1) * sizeof(*marks));
	size_t count = compare(&a, &b, marks);
	size_t begin = 0;
	size_t end = 0;
	size_t done = 0;
	size_t old_line = 0;
	size_t new_line = 0;

	if (strcmp(old_text, new_text) != 0)
		sbuf_printf(out, "--- %s\n+++ %s\n", old_name, new_name);
	while (next_hunk(marks, count, end, &begin, &end)) {
		begin = begin < done + CONTEXT ? done : begin - CONTEXT;
		for (; done < begin; done++) {
			old_line += marks[done].kind != '+' ? 1 : 0;
			new_line += marks[done].kind != '-' ? 1 : 0;
		}
		print_hunk(marks, begin, end, old_line, new_line, out);
		for (; done < end; done++) {
			old_line += marks[done].kind != '+' ? 1 : 0;
			new_line += marks[done].kind != '-' ? 1 : 0;
		}
	}
	free(marks);
	free(a.items);
	free(b.items);
}
