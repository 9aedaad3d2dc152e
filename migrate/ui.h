/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the operator sees: plain lines, a status line that is redrawn on a terminal, or JSON
 * objects, one a line, for machines.
 *
 * While clients are held no write may wait for whoever reads our output: such lines are queued when
 * the reader is not ready, and written after the release.
 */
#ifndef MIGRATE_UI_H
#define MIGRATE_UI_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdatomic.h>
#include <stdbool.h>

struct ui {
	bool json;
	bool terminal; /* a status line may be redrawn on stderr */
	bool hurry;    /* clients are held: never wait for the reader */
	atomic_int
	    *held; /* the same for the sampler: 1 while clients are held; NULL = there is none */
	bool status_shown;
	usec_t started_at;
	struct sbuf queue;  /* of stdout */
	struct sbuf errors; /* of stderr */
};

void ui_init(struct ui *ui, bool json);
void ui_free(struct ui *ui);

/* A line for people; nothing with --json. */
void ui_line(struct ui *ui, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* An event for machines: {"event":name,"time":…,members}; nothing without --json. */
void ui_event(struct ui *ui, const char *name, const char *members);

/* A line on stderr, in both forms. */
void ui_error(struct ui *ui, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The same for every line of a text; nothing if it has none. */
void ui_lines(struct ui *ui, const struct sbuf *text);

/* The status line; only on a terminal. */
void ui_status(struct ui *ui, const char *fmt, ...) PRINTF_LIKE(2, 3);
void ui_status_clear(struct ui *ui);

/* From now on never wait for the reader; and the end of it, which writes what was queued. */
void ui_hurry(struct ui *ui, bool hurry);

/* Asks yes or no on the terminal; true without a terminal. */
bool ui_confirm(struct ui *ui, const char *question) MUST_CHECK;

#endif
