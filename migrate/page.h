/* SPDX-License-Identifier: PostgreSQL */
/*
 * The report as one HTML page for the change ticket, from the files of a move alone: report.json,
 * comparison.json, samples.jsonl and the journal.  Nothing is loaded from elsewhere.
 */
#ifndef MIGRATE_PAGE_H
#define MIGRATE_PAGE_H

#include "base/sbuf.h"
#include "migrate/json.h"

#include <stdbool.h>

#define PAGE_FILE "report.html"
#define PAGE_MAX ((size_t)64 * 1024 * 1024)

/* Writes the page into the directory of the move. */
bool page_save(const char *directory) MUST_CHECK;

/* Text with what HTML would take for markup written out. */
void page_text(struct sbuf *out, const char *text);

/* plot.c: a line chart of one value of the samples, with the hold as a band. */

enum plot_value { PLOT_THROUGHPUT, PLOT_LATENCY, PLOT_COMMITS };

struct plot {
	const struct json *samples; /* linked by next */
	const struct json *report;
	enum plot_value value;
	const char *title;
	const char *unit;
};

/* False, and nothing appended, if there are too few samples for it. */
bool plot_draw(const struct plot *plot, struct sbuf *out);

/* The phases from the hold to the release as bars on one line of time. */
void plot_phases(const struct json *report, struct sbuf *out);

#endif
