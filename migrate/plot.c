/* SPDX-License-Identifier: PostgreSQL */
/*
 * Charts as inline SVG.  The samples are counters; what is drawn are their differences, at the
 * middle of the time between two of them.
 */
#include "base/mem.h"
#include "migrate/page.h"
#include "migrate/phase.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 860
#define HEIGHT 220
#define LEFT 62
#define RIGHT 14
#define TOP 14
#define BOTTOM 30
#define SERIES_MAX 5
#define BEFORE 15000000 /* microseconds of the samples that are shown around the hold */
#define AFTER 20000000

static const char *const colours[SERIES_MAX] = {"#0b6e99", "#d9730d", "#448361", "#9065b0",
                                                "#787774"};

struct point {
	double t; /* seconds since the hold began */
	double y;
};

struct series {
	char *name;
	struct point *points;
	size_t count;
	const struct json *last; /* the sample before */
};

struct chart {
	const struct plot *plot;
	struct series series[SERIES_MAX];
	size_t count;
	double zero; /* microseconds since 1970 */
	double from;
	double to;
	double top;
};

/* ---- series ---- */

static bool is_moved(const struct json *report, const char *database)
{
	const struct json *shards = json_get(report, "shards");

	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		if (json_text(at, "dbname") != NULL &&
		    strcmp(json_text(at, "dbname"), database) == 0)
			return true;
	}
	return false;
}

/* A database's line, or a shard's on one server; NULL when it is one too many. */
static struct series *series_of(struct chart *chart, const struct json *sample)
{
	const char *server = json_text(sample, "server");
	const char *database = json_text(sample, "db");
	char *name;
	struct series *found = NULL;

	if (database == NULL || (server != NULL) != (chart->plot->value == PLOT_COMMITS) ||
	    (server != NULL && !is_moved(chart->plot->report, database)))
		return NULL;
	name = server == NULL ? mem_must_strdup(database)
	                      : mem_must_printf("%s on %s", database, server);
	for (size_t i = 0; i < chart->count; i++) {
		if (strcmp(chart->series[i].name, name) == 0)
			found = &chart->series[i];
	}
	if (found == NULL && chart->count < SERIES_MAX) {
		found = &chart->series[chart->count++];
		*found = (struct series){.name = name};
		name = NULL;
	}
	free(name);
	return found;
}

static double difference(const struct json *a, const struct json *b, const char *key)
{
	return (double)(json_number(b, key, 0) - json_number(a, key, 0));
}

/* False when nothing can be said of this span: a counter began anew, nothing ran. */
static bool value_of(const struct plot *plot, const struct json *a, const struct json *b, double *y)
{
	double seconds = difference(a, b, "t") / 1e6;
	double count = difference(a, b, plot->value == PLOT_COMMITS ? "c" : "x");

	if (seconds <= 0.0 || count < 0.0)
		return false;
	*y = count / seconds;
	if (plot->value != PLOT_LATENCY)
		return true;
	if (count <= 0.0)
		return false;
	*y = (difference(a, b, "xt") + difference(a, b, "wt")) / count / 1000.0;
	return *y >= 0.0;
}

static void add_point(struct chart *chart, struct series *series, const struct json *sample)
{
	double middle;
	double y;

	if (series->last != NULL && value_of(chart->plot, series->last, sample, &y)) {
		middle = ((double)json_number(series->last, "t", 0) +
		          (double)json_number(sample, "t", 0)) /
		         2.0;
		series->points =
		    mem_must_grow(series->points, series->count + 1, sizeof(*series->points));
		series->points[series->count++] =
		    (struct point){.t = (middle - chart->zero) / 1e6, .y = y};
		if (y > chart->top)
			chart->top = y;
		if (series->points[series->count - 1].t < chart->from)
			chart->from = series->points[series->count - 1].t;
		if (series->points[series->count - 1].t > chart->to)
			chart->to = series->points[series->count - 1].t;
	}
	series->last = sample;
}

static void read_samples(struct chart *chart)
{
	for (const struct json *at = chart->plot->samples; at != NULL; at = at->next) {
		double t = (double)json_number(at, "t", 0);
		struct series *series;

		if (t < chart->zero - BEFORE || t > chart->zero + AFTER)
			continue;
		series = series_of(chart, at);
		if (series != NULL)
			add_point(chart, series, at);
	}
}

/* ---- drawing ---- */

/* 1, 2 or 5 times a power of ten, so that about `lines` of them reach `span`. */
static double nice_step(double span, double lines)
{
	double power = pow(10.0, floor(log10(span / lines)));
	double part = span / lines / power;

	return power * (part > 5.0 ? 10.0 : part > 2.0 ? 5.0 : part > 1.0 ? 2.0 : 1.0);
}

static double place_x(const struct chart *chart, double t)
{
	return LEFT + (t - chart->from) / (chart->to - chart->from) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct chart *chart, double y)
{
	return HEIGHT - BOTTOM - y / chart->top * (HEIGHT - TOP - BOTTOM);
}

static void draw_axes(const struct chart *chart, struct sbuf *out)
{
	double step = nice_step(chart->top, 4.0);

	for (double y = 0.0; y <= chart->top * 1.001; y += step)
		sbuf_printf(out,
		            "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
		            "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>",
		            LEFT, WIDTH - RIGHT, place_y(chart, y), place_y(chart, y), LEFT - 6,
		            place_y(chart, y) + 4.0, y);
	step = nice_step(chart->to - chart->from, 9.0);
	for (double t = ceil(chart->from / step) * step; t <= chart->to; t += step)
		sbuf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g s</text>",
		            place_x(chart, t), HEIGHT - BOTTOM + 18, fabs(t) < step / 2 ? 0.0 : t);
}

static void draw_hold(const struct chart *chart, struct sbuf *out)
{
	double from = (double)json_number(chart->plot->report, "held_from", 0);
	double to = (double)json_number(chart->plot->report, "held_to", 0);
	double x;
	double width;

	if (from <= 0.0 || to <= from)
		return;
	x = place_x(chart, (from - chart->zero) / 1e6);
	width = place_x(chart, (to - chart->zero) / 1e6) - x;
	sbuf_printf(out,
	            "<rect class=\"hold\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\">"
	            "<title>hold: %.1f ms</title></rect>",
	            x, TOP, width < 2.0 ? 2.0 : width, HEIGHT - TOP - BOTTOM, (to - from) / 1000.0);
}

static void draw_series(const struct chart *chart, size_t index, struct sbuf *out)
{
	const struct series *series = &chart->series[index];

	sbuf_printf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\" points=\"",
	            colours[index]);
	for (size_t i = 0; i < series->count; i++)
		sbuf_printf(out, "%.1f,%.1f ", place_x(chart, series->points[i].t),
		            place_y(chart, series->points[i].y));
	sbuf_add_str(out, "\"/>");
}

static void draw_chart(struct chart *chart, struct sbuf *out)
{
	sbuf_add_str(out, "<figure><figcaption><b>");
	page_text(out, chart->plot->title);
	sbuf_add_str(out, "</b>, ");
	page_text(out, chart->plot->unit);
	for (size_t i = 0; i < chart->count; i++) {
		sbuf_printf(out, "<span class=\"key\" style=\"--c:%s\">", colours[i]);
		page_text(out, chart->series[i].name);
		sbuf_add_str(out, "</span>");
	}
	sbuf_printf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, HEIGHT);
	draw_axes(chart, out);
	draw_hold(chart, out);
	for (size_t i = 0; i < chart->count; i++)
		draw_series(chart, i, out);
	sbuf_add_str(out, "</svg></figure>\n");
}

bool plot_draw(const struct plot *plot, struct sbuf *out)
{
	struct chart chart = {.plot = plot, .from = 1e9, .to = -1e9};
	bool drawn;

	chart.zero = (double)json_number(plot->report, "held_from", 0);
	read_samples(&chart);
	drawn = chart.zero > 0.0 && chart.top > 0.0 && chart.to > chart.from;
	if (drawn) {
		double step = nice_step(chart.top, 4.0);

		chart.top = ceil(chart.top / step) * step;
		draw_chart(&chart, out);
	}
	for (size_t i = 0; i < chart.count; i++) {
		free(chart.series[i].name);
		free(chart.series[i].points);
	}
	return drawn;
}

/* ---- phases ---- */

static const char *title_of(const char *name)
{
	for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
		if (name != NULL && strcmp(phase_row(phase)->name, name) == 0)
			return phase_row(phase)->title;
	}
	return name == NULL ? "" : name;
}

#define BAR_STEP 22
#define BAR_LEFT 150

void plot_phases(const struct json *report, struct sbuf *out)
{
	const struct json *phases = json_get(report, "phases");
	double from = (double)json_number(report, "held_from", 0);
	double to = (double)json_number(report, "held_to", 0);
	double scale = to > from ? (WIDTH - BAR_LEFT - 90) / (to - from) : 0.0;
	int row = 0;

	if (scale <= 0.0)
		return;
	for (const struct json *at = phases == NULL ? NULL : phases->first; at != NULL;
	     at = at->next)
		row += (double)json_number(at, "began", 0) >= from - 1000.0 &&
		               (double)json_number(at, "began", 0) <= to
		           ? 1
		           : 0;
	sbuf_printf(out,
	            "<figure><figcaption><b>While the clients were held</b>, ms since the hold"
	            "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">",
	            WIDTH, row * BAR_STEP + 8);
	row = 0;
	for (const struct json *at = phases == NULL ? NULL : phases->first; at != NULL;
	     at = at->next) {
		double began = (double)json_number(at, "began", 0);
		double msec = json_text(at, "ms") == NULL ? 0.0 : strtod(json_text(at, "ms"), NULL);
		double x = BAR_LEFT + (began - from) * scale;
		double width = (began + msec * 1000.0 < to ? msec * 1000.0 : to - began) * scale;
		const char *name = json_text(at, "name");
		int y = row * BAR_STEP;

		if (began < from - 1000.0 || began > to)
			continue;
		sbuf_printf(out,
		            "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>"
		            "<rect class=\"bar%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\""
		            " height=\"14\" rx=\"2\"/><text x=\"%.1f\" y=\"%d\">%.1f</text>",
		            BAR_LEFT - 10, y + 15, title_of(name),
		            name != NULL && strcmp(name, "promote") == 0 ? " promote" : "", x,
		            y + 4, width < 1.5 ? 1.5 : width, x + (width < 1.5 ? 1.5 : width) + 6,
		            y + 15, msec);
		row++;
	}
	sbuf_add_str(out, "</svg></figure>\n");
}
