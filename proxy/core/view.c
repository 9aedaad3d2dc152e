/* SPDX-License-Identifier: PostgreSQL */
#include "core/view.h"

#include "base/utf8.h"
#include "net/sock.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define VIEW(id, name, argument, source, access, help)                                             \
	static const struct view_column view_columns_##id[] = {
#define COLUMN(name, type, merge, help) {name, COLUMN_##type, MERGE_##merge, help},
#define VIEW_END(id)                                                                               \
	}                                                                                          \
	;
#include "core/views.def"
#undef VIEW
#undef COLUMN
#undef VIEW_END

static const struct view_info view_infos[] = {
#define VIEW(id, name, argument, source, access, help)                                             \
	[VIEW_##id] = {name, argument,          VIEW_FROM_##source,          VIEW_FOR_##access,    \
	               help, view_columns_##id, ARRAY_LEN(view_columns_##id)},
#define COLUMN(name, type, merge, help)
#define VIEW_END(id)
#include "core/views.def"
#undef VIEW
#undef COLUMN
#undef VIEW_END
};

const int64_t view_wait_limits[VIEW_WAITS - 1] = {10, 20, 50, 100, 200, 500, 1000, 2000};

const struct view_info *view_info(enum view view)
{
	assert(view < VIEW_COUNT);
	return &view_infos[view];
}

bool view_find(const char *name, enum view *view)
{
	for (size_t i = 0; i < VIEW_COUNT; i++) {
		if (view_infos[i].access != VIEW_FOR_HIDDEN &&
		    strcasecmp(view_infos[i].name, name) == 0) {
			*view = (enum view)i;
			return true;
		}
	}
	return false;
}

void rowset_init(struct rowset *set, enum view view)
{
	memset(set, 0, sizeof(*set));
	set->view = view;
	sbuf_init(&set->cells, VIEW_ROWS_MAX);
}

void rowset_free(struct rowset *set)
{
	sbuf_free(&set->cells);
	set->rows = 0;
	set->row_start = 0;
	set->row_cells = 0;
}

/* Copies `len` bytes to `out` (VIEW_CELL_MAX), cut at a character, bad bytes as '?', control
 * characters as blanks; returns the length. */
static size_t cell_clean(const unsigned char *bytes, size_t len, char *out)
{
	size_t used = 0;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_length(bytes + i, len - i);

		if (used + (n == 0 ? 1 : n) > VIEW_CELL_MAX)
			break;
		if (n == 0) {
			out[used++] = '?';
			i++;
		} else if (n == 1) {
			out[used++] = bytes[i] < 0x20 || bytes[i] == 0x7f ? ' ' : (char)bytes[i];
			i++;
		} else {
			memcpy(out + used, bytes + i, n);
			used += n;
			i += n;
		}
	}
	return used;
}

static void cell_add(struct rowset *set, const void *bytes, uint32_t len)
{
	set->row_cells++;
	sbuf_add(&set->cells, &len, sizeof(len));
	if (bytes != NULL)
		sbuf_add(&set->cells, bytes, len);
}

void rowset_null(struct rowset *set)
{
	cell_add(set, NULL, UINT32_MAX);
}

void rowset_bytes(struct rowset *set, const void *bytes, size_t len)
{
	char clean[VIEW_CELL_MAX];

	len = cell_clean(bytes, len, clean);
	cell_add(set, clean, (uint32_t)len);
}

void rowset_text(struct rowset *set, const char *text)
{
	if (text == NULL)
		rowset_null(set);
	else
		rowset_bytes(set, text, strlen(text));
}

void rowset_socket(struct rowset *set, const struct sock_name *name, int unix_port)
{
	rowset_text(set, name->addr);
	rowset_int(set, strcmp(name->addr, "unix") == 0 ? unix_port : name->port);
}

void rowset_printf(struct rowset *set, const char *fmt, ...)
{
	char text[VIEW_CELL_MAX + 1];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	rowset_text(set, text);
}

void rowset_int(struct rowset *set, int64_t value)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%" PRId64, value);

	cell_add(set, text, (uint32_t)len);
}

void rowset_time(struct rowset *set, usec_t at)
{
	time_t seconds = (time_t)(at / USEC_PER_SEC);
	char text[40];
	struct tm tm;

	if (at == 0) {
		rowset_null(set);
		return;
	}
	(void)gmtime_r(&seconds, &tm);
	(void)strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
	rowset_text(set, text);
}

void rowset_end_row(struct rowset *set)
{
	assert(set->row_cells == view_info(set->view)->column_count);
	set->row_cells = 0;
	if (!sbuf_ok(&set->cells)) {
		/* Only the row that did not fit goes; those before it are whole. */
		set->cells.len = set->row_start;
		set->cells.failed = false;
		set->cut = true;
		return;
	}
	set->row_start = set->cells.len;
	set->rows++;
}

void rowset_append(struct rowset *to, struct rowset *from)
{
	assert(to->view == from->view && to->row_cells == 0 && from->row_cells == 0);
	to->cut = to->cut || from->cut;
	sbuf_add(&to->cells, from->cells.data, from->cells.len);
	if (sbuf_ok(&to->cells)) {
		to->rows += from->rows;
		to->row_start = to->cells.len;
	} else {
		to->cells.failed = false;
		to->cut = true;
	}
	rowset_free(from);
}

bool rowset_next(const struct rowset *set, size_t *offset, struct rowset_cell *cells)
{
	size_t count = view_info(set->view)->column_count;

	if (*offset >= set->row_start)
		return false;
	for (size_t i = 0; i < count; i++) {
		uint32_t len;

		memcpy(&len, set->cells.data + *offset, sizeof(len));
		*offset += sizeof(len);
		cells[i].bytes = len == UINT32_MAX ? NULL : set->cells.data + *offset;
		cells[i].len = len == UINT32_MAX ? 0 : len;
		*offset += cells[i].len;
	}
	return true;
}

int64_t rowset_cell_int(const struct rowset_cell *cell)
{
	char text[24];
	char *end;
	long long value;

	if (cell->bytes == NULL || cell->len == 0 || cell->len >= sizeof(text))
		return 0;
	memcpy(text, cell->bytes, cell->len);
	text[cell->len] = '\0';
	errno = 0;
	value = strtoll(text, &end, 10);
	return *end != '\0' || errno != 0 ? 0 : (int64_t)value;
}

bool rowset_cell_is(const struct rowset_cell *cell, const char *text)
{
	return cell->bytes != NULL && cell->len == strlen(text) &&
	       memcmp(cell->bytes, text, cell->len) == 0;
}

/* A row of the set that is being merged. */
struct merge_row {
	struct rowset_cell *cells;
	size_t order;
};

static int cell_compare(const struct rowset_cell *a, const struct rowset_cell *b,
                        enum column_type type)
{
	const bool number = type != COLUMN_TEXT && type != COLUMN_BYTEA;
	int64_t x = number ? rowset_cell_int(a) : 0;
	int64_t y = number ? rowset_cell_int(b) : 0;
	size_t n = a->len < b->len ? a->len : b->len;
	int diff = n == 0 ? 0 : memcmp(a->bytes, b->bytes, n);

	if (number)
		return (x > y) - (x < y);
	return diff != 0 ? diff : (a->len > b->len) - (a->len < b->len);
}

/* By keys, which qsort_r() is told as the view's columns; equal keys in order of arrival. */
static int merge_compare(const void *a, const void *b, void *arg)
{
	const struct view_info *info = arg;
	const struct merge_row *x = a;
	const struct merge_row *y = b;

	for (size_t i = 0; i < info->column_count; i++) {
		int diff = info->columns[i].merge == MERGE_KEY
		               ? cell_compare(&x->cells[i], &y->cells[i], info->columns[i].type)
		               : 0;

		if (diff != 0)
			return diff;
	}
	return (x->order > y->order) - (x->order < y->order);
}

static bool merge_same_key(const struct view_info *info, const struct merge_row *x,
                           const struct merge_row *y)
{
	for (size_t i = 0; i < info->column_count; i++) {
		if (info->columns[i].merge == MERGE_KEY &&
		    cell_compare(&x->cells[i], &y->cells[i], info->columns[i].type) != 0)
			return false;
	}
	return true;
}

/* One cell of the row that stands for `rows[0..count)`. */
static void merge_cell(struct rowset *out, const struct merge_row *rows, size_t count, size_t i,
                       enum column_merge merge)
{
	int64_t value = 0;

	if (merge == MERGE_SUM || merge == MERGE_MAX) {
		for (size_t r = 0; r < count; r++) {
			int64_t share = rowset_cell_int(&rows[r].cells[i]);

			if (merge == MERGE_SUM)
				value += share;
			else if (share > value)
				value = share;
		}
		rowset_int(out, value);
		return;
	}
	for (size_t r = 0; r < count; r++) {
		if (rows[r].cells[i].bytes != NULL) {
			rowset_bytes(out, rows[r].cells[i].bytes, rows[r].cells[i].len);
			return;
		}
	}
	rowset_null(out);
}

void rowset_merge(struct rowset *set)
{
	const struct view_info *info = view_info(set->view);
	struct merge_row *rows = calloc(set->rows + 1, sizeof(*rows));
	struct rowset_cell *cells = calloc((set->rows + 1) * info->column_count, sizeof(*cells));
	struct rowset merged;
	size_t offset = 0;
	size_t count = 0;

	rowset_init(&merged, set->view);
	merged.cut = set->cut;
	if (rows == NULL || cells == NULL) {
		set->cut = true;
		free(rows);
		free(cells);
		return;
	}
	for (; count < set->rows; count++) {
		rows[count].cells = cells + count * info->column_count;
		rows[count].order = count;
		if (!rowset_next(set, &offset, rows[count].cells))
			break;
	}
	qsort_r(rows, count, sizeof(*rows), merge_compare, (void *)(uintptr_t)info);
	for (size_t from = 0, to; from < count; from = to) {
		for (to = from + 1; to < count && merge_same_key(info, &rows[from], &rows[to]);)
			to++;
		for (size_t i = 0; i < info->column_count; i++)
			merge_cell(&merged, rows + from, to - from, i, info->columns[i].merge);
		rowset_end_row(&merged);
	}
	free(rows);
	free(cells);
	rowset_free(set);
	*set = merged;
}
