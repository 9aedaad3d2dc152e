/* SPDX-License-Identifier: PostgreSQL */
/*
 * Views of SHOW (views.def) and their rows.  A rowset is built by one thread, given as a whole to
 * the main thread, and appended or merged there.  Values are cut to a bound and made valid UTF-8
 * without control characters, because they come from clients and go to terminals and logs.
 */
#ifndef CORE_VIEW_H
#define CORE_VIEW_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum view {
#define VIEW(id, name, argument, source, access, help) VIEW_##id,
#define COLUMN(name, type, merge, help)
#define VIEW_END(id)
#include "core/views.def"
#undef VIEW
#undef COLUMN
#undef VIEW_END
	VIEW_COUNT
};

/* Held requests are counted by how long they have waited: up to these milliseconds, or more. */
#define VIEW_WAITS 9
extern const int64_t view_wait_limits[VIEW_WAITS - 1];

/* No view has more columns. */
#define VIEW_COLUMNS_MAX 40

enum view_source { VIEW_FROM_WORKERS, VIEW_FROM_MERGED, VIEW_FROM_MAIN };
enum view_access { VIEW_FOR_STATS, VIEW_FOR_ADMIN, VIEW_FOR_HIDDEN };
enum column_type {
	COLUMN_TEXT,
	COLUMN_BYTEA, /* only NULL so far */
	COLUMN_INT,
	COLUMN_INT4, /* the largest of them for a larger number */
	COLUMN_NUMERIC
};
enum column_merge { MERGE_KEY, MERGE_SUM, MERGE_MAX, MERGE_FIRST };

struct view_column {
	const char *name;
	enum column_type type;
	enum column_merge merge;
	const char *help;
};

struct view_info {
	const char *name;
	const char *argument; /* "" when SHOW takes none */
	enum view_source source;
	enum view_access access;
	const char *help;
	const struct view_column *columns;
	size_t column_count;
};

const struct view_info *view_info(enum view view);

/* The view that SHOW calls `name` (any case); false when there is none. */
bool view_find(const char *name, enum view *view) MUST_CHECK;

struct mail_view;
struct worker;

/* view_worker.c: takes over a letter MAIL_VIEW on a worker, fills in the rows and posts it to the
 * main thread as MAIL_ROWS, which gives it to admin_receive(). */
void view_answer(struct worker *worker, struct mail_view *mail);

/* The same, after what had to be waited for. */
void view_answer_now(struct worker *worker, struct mail_view *mail);

/* Longest value of a cell, and most bytes of the rows of one worker. */
#define VIEW_CELL_MAX 1024
#define VIEW_ROWS_MAX ((size_t)64 << 20)

struct sock_name;

struct rowset {
	enum view view;
	struct sbuf cells; /* of every cell: int32 length (-1: NULL), bytes */
	size_t rows;
	size_t row_start; /* where the unfinished row begins */
	size_t row_cells; /* cells of the unfinished row */
	bool cut;         /* rows were dropped: no memory, or past the bound */
};

void rowset_init(struct rowset *set, enum view view);
void rowset_free(struct rowset *set);

/* The cells of a row, in the order of views.def; then rowset_end_row(), which asserts that all are
 * there.  A row for which there is no memory is dropped as a whole and marks the set cut. */
void rowset_text(struct rowset *set, const char *text); /* NULL gives NULL */
/* Address and port in two cells; a Unix socket has the port in its name, which is given. */
void rowset_socket(struct rowset *set, const struct sock_name *name, int unix_port);
void rowset_bytes(struct rowset *set, const void *bytes, size_t len);
void rowset_printf(struct rowset *set, const char *fmt, ...) PRINTF_LIKE(2, 3);
void rowset_int(struct rowset *set, int64_t value);
void rowset_null(struct rowset *set);
/* An instant of clock_wall() as pgbouncer prints times; 0 gives NULL. */
void rowset_time(struct rowset *set, usec_t at);
void rowset_end_row(struct rowset *set);

/* All rows of `from` to the end of `to`; `from` is empty afterwards. */
void rowset_append(struct rowset *to, struct rowset *from);

/* Makes one row of all rows whose KEY columns are equal, and sorts by them. */
void rowset_merge(struct rowset *set);

/* Reading: cell after cell, row after row. */
struct rowset_cell {
	const char *bytes; /* no terminating zero; NULL for NULL */
	size_t len;
};

/* Reads the row at `*offset` (0 at first) into `cells` (column_count of the view) and moves on;
 * false at the end. */
bool rowset_next(const struct rowset *set, size_t *offset, struct rowset_cell *cells) MUST_CHECK;

/* The number in a cell; 0 for NULL or text. */
int64_t rowset_cell_int(const struct rowset_cell *cell);

/* Whether a cell is the text `text`. */
bool rowset_cell_is(const struct rowset_cell *cell, const char *text);

#endif
