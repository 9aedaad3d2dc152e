/* SPDX-License-Identifier: PostgreSQL */
#include "control/metrics_db.h"

#include "base/compiler.h"
#include "base/histogram.h"
#include "base/mem.h"
#include "core/route.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define OTHER "(other)"

/* Classes of SQLSTATEs, PostgreSQL documentation, appendix A.  Others can be made up. */
static const char *const classes[] = {
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21",   "22",
    "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D",   "3F",
    "40", "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX", "other"};
#define CLASS_COUNT ARRAY_LEN(classes)

/* Names that have a label, sorted; the index `count` stands for all others. */
static char **names;
static size_t count;
static size_t left_out;

static int compare_name(const void *key, const void *item)
{
	const struct rowset_cell *cell = key;
	const char *name = *(char *const *)item;
	const size_t len = strlen(name);
	const size_t n = cell->len < len ? cell->len : len;
	const int diff = n == 0 ? 0 : memcmp(cell->bytes, name, n);

	return diff != 0 ? diff : (cell->len > len) - (cell->len < len);
}

static size_t index_of(const struct rowset_cell *cell)
{
	char **found =
	    count == 0 ? NULL : bsearch(cell, names, count, sizeof(*names), compare_name);

	return found == NULL ? count : (size_t)(found - names);
}

static const char *label_of(size_t index)
{
	return index == count ? OTHER : names[index];
}

static void learn(const struct rowset_cell *cell)
{
	size_t at = 0;

	names = mem_must_grow(names, count + 1, sizeof(*names));
	while (at < count && compare_name(cell, &names[at]) > 0)
		at++;
	memmove(names + at + 1, names + at, (count - at) * sizeof(*names));
	names[at] = mem_must_alloc(cell->len + 1);
	if (cell->len > 0)
		memcpy(names[at], cell->bytes, cell->len);
	count++;
}

static void learn_from(const struct rowset *rows, size_t limit)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	size_t offset = 0;

	while (rows != NULL && rowset_next(rows, &offset, cells)) {
		if (index_of(&cells[0]) < count)
			continue;
		/* "*" is an entry of the configuration, no database; the other label is taken. */
		if (rowset_cell_is(&cells[0], ROUTE_FALLBACK))
			continue;
		if (count < limit && !rowset_cell_is(&cells[0], OTHER))
			learn(&cells[0]);
		else
			left_out++;
	}
}

void metrics_db_learn(const struct metrics_views *views, size_t limit)
{
	left_out = 0;
	/* Those of the configuration first. */
	learn_from(views->holds, limit);
	left_out = 0;
	learn_from(views->gauges, limit);
}

size_t metrics_db_left_out(void)
{
	return left_out;
}

void metrics_db_forget(void)
{
	while (count > 0)
		free(names[--count]);
	free(names);
	names = NULL;
}

size_t metrics_column(enum view view, const char *name)
{
	const struct view_info *info = view_info(view);
	size_t at = 0;

	while (at < info->column_count && strcmp(info->columns[at].name, name) != 0)
		at++;
	assert(at < info->column_count);
	return at;
}

/* ---- sums of a view by database, and another key ---- */

struct sums {
	size_t keys;    /* values of the other key; 1: there is none */
	size_t columns; /* of the view */
	int64_t *cells;
	bool *seen;
};

typedef size_t key_fn(const struct rowset_cell *cells);

static size_t key_none(const struct rowset_cell *cells)
{
	(void)cells;
	return 0;
}

static void sums_make(struct sums *sums, const struct rowset *rows, size_t keys, key_fn *key)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	const struct view_info *info;
	size_t offset = 0;

	*sums = (struct sums){.keys = keys};
	if (rows == NULL)
		return;
	info = view_info(rows->view);
	sums->columns = info->column_count;
	sums->cells = mem_must_alloc((count + 1) * keys * sums->columns * sizeof(*sums->cells));
	sums->seen = mem_must_alloc((count + 1) * keys * sizeof(*sums->seen));
	while (rowset_next(rows, &offset, cells)) {
		const size_t row = index_of(&cells[0]) * keys + key(cells);
		int64_t *sum = sums->cells + row * sums->columns;

		sums->seen[row] = true;
		for (size_t i = 1; i < sums->columns; i++) {
			const int64_t value = rowset_cell_int(&cells[i]);

			if (info->columns[i].merge != MERGE_MAX)
				sum[i] += value;
			else if (value > sum[i])
				sum[i] = value;
		}
	}
}

static void sums_free(struct sums *sums)
{
	free(sums->cells);
	free(sums->seen);
}

static bool sums_seen(const struct sums *sums, size_t index, size_t key)
{
	return sums->cells != NULL && sums->seen[index * sums->keys + key];
}

static int64_t sums_at(const struct sums *sums, size_t index, size_t key, size_t column)
{
	return sums->cells[(index * sums->keys + key) * sums->columns + column];
}

/* Samples of a family: one for each database, or one for each of these columns. */
struct part {
	const char *column;
	const char *label; /* value of the label `name`; NULL: none */
};

static void parts_render(struct expo *expo, const struct sums *sums, enum view view,
                         enum metric metric, const char *name, const struct part *parts, size_t n)
{
	expo_family(expo, metric);
	for (size_t i = 0; i <= count; i++) {
		for (size_t p = 0; p < n && sums_seen(sums, i, 0); p++) {
			const int64_t value =
			    sums_at(sums, i, 0, metrics_column(view, parts[p].column));

			expo_sample(expo, "");
			expo_label(expo, "database", label_of(i));
			if (parts[p].label != NULL)
				expo_label(expo, name, parts[p].label);
			if (metric == METRIC_LONGEST)
				expo_value_usec(expo, value);
			else
				expo_value(expo, value);
		}
	}
}

static void render_gauges(struct expo *expo, const struct rowset *rows)
{
	static const struct part clients[] = {{"cl_active", "active"},
	                                      {"cl_idle", "idle"},
	                                      {"cl_waiting", "waiting"},
	                                      {"cl_held", "held"},
	                                      {"cl_login", "login"}};
	static const struct part servers[] = {
#define SERVER_STATE(constant, state) {"sv_" state, state},
#include "core/server_states.def"
	};
	static const struct part statements[] = {{"client_statements", "client"},
	                                         {"server_statements", "server"}};
	static const struct part longest[] = {{"longest_usec", NULL}};
	struct sums sums;

	sums_make(&sums, rows, 1, key_none);
	parts_render(expo, &sums, VIEW_GAUGES, METRIC_CLIENTS, "state", clients,
	             ARRAY_LEN(clients));
	parts_render(expo, &sums, VIEW_GAUGES, METRIC_SERVERS, "state", servers,
	             ARRAY_LEN(servers));
	parts_render(expo, &sums, VIEW_GAUGES, METRIC_STATEMENTS, "side", statements,
	             ARRAY_LEN(statements));
	parts_render(expo, &sums, VIEW_GAUGES, METRIC_LONGEST, "", longest, 1);
	sums_free(&sums);
}

static void render_stats(struct expo *expo, const struct rowset *rows)
{
	static const struct part logins[] = {{"total_client_login_count", NULL}};
	static const struct part received[] = {{"total_received", NULL}};
	static const struct part sent[] = {{"total_sent", NULL}};
	static const struct part bound[] = {{"total_bind_count", NULL}};
	static const struct part parsed[] = {{"total_client_parse_count", "client"},
	                                     {"total_server_parse_count", "server"}};
	struct sums sums;

	sums_make(&sums, rows, 1, key_none);
	parts_render(expo, &sums, VIEW_STATS, METRIC_LOGINS, "", logins, 1);
	parts_render(expo, &sums, VIEW_STATS, METRIC_RECEIVED, "", received, 1);
	parts_render(expo, &sums, VIEW_STATS, METRIC_SENT, "", sent, 1);
	parts_render(expo, &sums, VIEW_STATS, METRIC_PARSED, "side", parsed, ARRAY_LEN(parsed));
	parts_render(expo, &sums, VIEW_STATS, METRIC_BOUND, "", bound, 1);
	sums_free(&sums);
}

/* ---- histograms ---- */

enum { KIND_QUERY, KIND_TRANSACTION, KIND_WAIT, KINDS };

static size_t key_kind(const struct rowset_cell *cells)
{
	return rowset_cell_is(&cells[1], "query")         ? KIND_QUERY
	       : rowset_cell_is(&cells[1], "transaction") ? KIND_TRANSACTION
	                                                  : KIND_WAIT;
}

static void histogram_sample(struct expo *expo, const char *suffix, size_t index, const char *bound)
{
	expo_sample(expo, suffix);
	expo_label(expo, "database", label_of(index));
	if (bound != NULL)
		expo_label(expo, "le", bound);
}

static void render_histogram(struct expo *expo, const struct sums *sums, enum metric metric,
                             size_t kind)
{
	const size_t first = metrics_column(VIEW_HISTOGRAMS, "b0");
	const size_t usec = metrics_column(VIEW_HISTOGRAMS, "usec");

	expo_family(expo, metric);
	for (size_t i = 0; i <= count; i++) {
		int64_t below = 0;

		if (!sums_seen(sums, i, kind))
			continue;
		for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
			char bound[32] = "+Inf";

			if (b < HISTOGRAM_BOUNDS)
				expo_format_usec(histogram_bound(b), bound);
			below += sums_at(sums, i, kind, first + b);
			histogram_sample(expo, "_bucket", i, bound);
			expo_value(expo, below);
		}
		histogram_sample(expo, "_sum", i, NULL);
		expo_value_usec(expo, sums_at(sums, i, kind, usec));
		histogram_sample(expo, "_count", i, NULL);
		expo_value(expo, below);
	}
}

static void render_histograms(struct expo *expo, const struct rowset *rows)
{
	struct sums sums;

	sums_make(&sums, rows, KINDS, key_kind);
	render_histogram(expo, &sums, METRIC_QUERY_TIME, KIND_QUERY);
	render_histogram(expo, &sums, METRIC_XACT_TIME, KIND_TRANSACTION);
	render_histogram(expo, &sums, METRIC_WAIT_TIME, KIND_WAIT);
	sums_free(&sums);
}

/* ---- errors ---- */

static size_t key_class(const struct rowset_cell *cells)
{
	size_t i = 0;

	while (i < CLASS_COUNT - 1 &&
	       (cells[1].len != 5 || memcmp(cells[1].bytes, classes[i], 2) != 0))
		i++;
	return i;
}

static void error_samples(struct expo *expo, const char *database, const char *class,
                          int64_t server, int64_t proxy)
{
	const int64_t values[] = {server, proxy};

	for (size_t i = 0; i < 2; i++) {
		expo_sample(expo, "");
		expo_label(expo, "database", database);
		expo_label(expo, "class", class);
		expo_label(expo, "origin", i == 0 ? "server" : "proxy");
		expo_value(expo, values[i]);
	}
}

static void render_errors(struct expo *expo, const struct rowset *rows)
{
	const size_t server = metrics_column(VIEW_ERRORS, "from_server");
	const size_t proxy = metrics_column(VIEW_ERRORS, "from_proxy");
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	int64_t nowhere[CLASS_COUNT] = {0};
	size_t offset = 0;
	struct sums sums;

	expo_family(expo, METRIC_ERRORS);
	sums_make(&sums, rows, CLASS_COUNT, key_class);
	/* Of no database: only the proxy's. */
	while (rows != NULL && rowset_next(rows, &offset, cells)) {
		const size_t key = key_class(cells);

		if (cells[0].bytes != NULL)
			continue;
		nowhere[key] += rowset_cell_int(&cells[proxy]);
		sums.cells[(count * CLASS_COUNT + key) * sums.columns + proxy] -=
		    rowset_cell_int(&cells[proxy]);
	}
	for (size_t k = 0; k < CLASS_COUNT; k++) {
		if (nowhere[k] > 0)
			error_samples(expo, "", classes[k], 0, nowhere[k]);
	}
	for (size_t i = 0; i <= count; i++) {
		for (size_t k = 0; k < CLASS_COUNT; k++) {
			if (sums_seen(&sums, i, k) &&
			    sums_at(&sums, i, k, server) + sums_at(&sums, i, k, proxy) > 0)
				error_samples(expo, label_of(i), classes[k],
				              sums_at(&sums, i, k, server),
				              sums_at(&sums, i, k, proxy));
		}
	}
	sums_free(&sums);
}

/* ---- holds and routes ---- */

static void text_of(const struct rowset_cell *cell, char out[VIEW_CELL_MAX + 1])
{
	if (cell->len > 0)
		memcpy(out, cell->bytes, cell->len);
	out[cell->len] = '\0';
}

static void hold_states(struct expo *expo, const struct rowset_cell *cells, const char *database)
{
	static const char *const states[] = {"open", "draining", "held"};
	const size_t at = metrics_column(VIEW_HOLDS, "state");

	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		expo_sample(expo, "");
		expo_label(expo, "database", database);
		expo_label(expo, "state", states[i]);
		expo_value(expo, rowset_cell_is(&cells[at], states[i]));
	}
}

static void hold_route(struct expo *expo, const struct rowset_cell *cells, const char *database)
{
	char server[VIEW_CELL_MAX + 1];

	text_of(&cells[metrics_column(VIEW_HOLDS, "server")], server);
	expo_sample(expo, "");
	expo_label(expo, "database", database);
	expo_label(expo, "server", server);
	expo_value(expo, 1);
}

/* A number of HOLDS; `unit`: microseconds of one, 0 for a mere number.  Left out where it is NULL,
 * and `held_only` where there is no hold. */
static void render_hold_number(struct expo *expo, const struct rowset *rows, enum metric metric,
                               const char *column, usec_t unit, bool held_only)
{
	const size_t at = metrics_column(VIEW_HOLDS, column);
	const size_t state = metrics_column(VIEW_HOLDS, "state");
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	char database[VIEW_CELL_MAX + 1];
	size_t offset = 0;

	expo_family(expo, metric);
	while (rows != NULL && rowset_next(rows, &offset, cells)) {
		if (index_of(&cells[0]) == count || cells[at].bytes == NULL ||
		    (held_only && rowset_cell_is(&cells[state], "open")))
			continue;
		text_of(&cells[0], database);
		expo_sample(expo, "");
		expo_label(expo, "database", database);
		if (unit > 0)
			expo_value_usec(expo, rowset_cell_int(&cells[at]) * unit);
		else
			expo_value(expo, rowset_cell_int(&cells[at]));
	}
}

static void render_hold_texts(struct expo *expo, const struct rowset *rows, enum metric metric)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	char database[VIEW_CELL_MAX + 1];
	size_t offset = 0;

	expo_family(expo, metric);
	while (rows != NULL && rowset_next(rows, &offset, cells)) {
		if (index_of(&cells[0]) == count)
			continue;
		text_of(&cells[0], database);
		if (metric == METRIC_ROUTE)
			hold_route(expo, cells, database);
		else
			hold_states(expo, cells, database);
	}
}

static void render_holds(struct expo *expo, const struct rowset *rows)
{
	render_hold_texts(expo, rows, METRIC_HOLD_STATE);
	render_hold_number(expo, rows, METRIC_HOLD_AGE, "age_ms", USEC_PER_MSEC, true);
	render_hold_number(expo, rows, METRIC_HOLD_LEASE, "lease_left_ms", USEC_PER_MSEC, true);
	render_hold_number(expo, rows, METRIC_HOLD_BLOCKERS, "active", 0, true);
	render_hold_number(expo, rows, METRIC_HELD_REQUESTS, "held", 0, false);
	render_hold_number(expo, rows, METRIC_HELD_BYTES, "held_bytes", 0, false);
	render_hold_number(expo, rows, METRIC_HELD_OLDEST, "oldest_wait_ms", USEC_PER_MSEC, false);
	render_hold_texts(expo, rows, METRIC_ROUTE);
	render_hold_number(expo, rows, METRIC_ROUTE_EPOCH, "epoch", 0, false);
}

void metrics_db_render(const struct metrics_views *views, struct expo *expo)
{
	render_gauges(expo, views->gauges);
	render_stats(expo, views->stats);
	render_histograms(expo, views->histograms);
	render_errors(expo, views->errors);
	render_holds(expo, views->holds);
}
