/* SPDX-License-Identifier: PostgreSQL */
#include "control/expo.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum metric_type { TYPE_GAUGE, TYPE_COUNTER, TYPE_HISTOGRAM };

static const char *const type_names[] = {
    [TYPE_GAUGE] = "gauge", [TYPE_COUNTER] = "counter", [TYPE_HISTOGRAM] = "histogram"};

static const struct {
	const char *name;
	enum metric_type type;
	const char *help;
} metrics[] = {
#define METRIC(id, name, type, labels, help) [METRIC_##id] = {name, TYPE_##type, help},
#include "control/metrics.def"
};

/* Of HELP a quote is escaped by OpenMetrics only; of a label by both. */
static void expo_escape(struct expo *expo, const char *text, bool quotes)
{
	for (; *text != '\0'; text++) {
		if (*text == '\\')
			sbuf_add_str(expo->out, "\\\\");
		else if (*text == '\n')
			sbuf_add_str(expo->out, "\\n");
		else if (*text == '"' && quotes)
			sbuf_add_str(expo->out, "\\\"");
		else
			sbuf_add_char(expo->out, *text);
	}
}

void expo_family(struct expo *expo, enum metric metric)
{
	const char *name = metrics[metric].name;
	size_t len = strlen(name);

	/* OpenMetrics calls the family of a counter by its name without _total. */
	if (expo->openmetrics && metrics[metric].type == TYPE_COUNTER)
		len -= strlen("_total");
	expo->metric = metric;
	sbuf_printf(expo->out, "# HELP %.*s ", (int)len, name);
	expo_escape(expo, metrics[metric].help, expo->openmetrics);
	sbuf_printf(expo->out, "\n# TYPE %.*s %s\n", (int)len, name,
	            type_names[metrics[metric].type]);
}

void expo_sample(struct expo *expo, const char *suffix)
{
	sbuf_add_str(expo->out, metrics[expo->metric].name);
	sbuf_add_str(expo->out, suffix);
	expo->labels = false;
}

void expo_label(struct expo *expo, const char *name, const char *value)
{
	sbuf_printf(expo->out, "%c%s=\"", expo->labels ? ',' : '{', name);
	expo_escape(expo, value, true);
	sbuf_add_char(expo->out, '"');
	expo->labels = true;
}

static void expo_before_value(struct expo *expo)
{
	sbuf_add_str(expo->out, expo->labels ? "} " : " ");
}

void expo_value(struct expo *expo, int64_t value)
{
	expo_before_value(expo);
	sbuf_printf(expo->out, "%" PRId64 "\n", value);
}

void expo_value_real(struct expo *expo, double value)
{
	expo_before_value(expo);
	sbuf_printf(expo->out, "%.15g\n", value);
}

void expo_format_usec(usec_t value, char out[32])
{
	const char *sign = value < 0 ? "-" : "";
	const usec_t size = value < 0 ? -value : value;
	size_t len;

	(void)snprintf(out, 32, "%s%" PRId64 ".%06" PRId64, sign, size / USEC_PER_SEC,
	               size % USEC_PER_SEC);
	/* One digit behind the point stays: labels of OpenMetrics are numbers with a point. */
	for (len = strlen(out); out[len - 1] == '0' && out[len - 2] != '.'; len--)
		out[len - 1] = '\0';
}

void expo_value_usec(struct expo *expo, usec_t value)
{
	char text[32];

	expo_before_value(expo);
	expo_format_usec(value, text);
	sbuf_printf(expo->out, "%s\n", text);
}

void expo_end(struct expo *expo)
{
	if (expo->openmetrics)
		sbuf_add_str(expo->out, "# EOF\n");
}
