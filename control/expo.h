/* SPDX-License-Identifier: PostgreSQL */
/*
 * Text exposition of metrics (metrics.def): Prometheus' format 0.0.4 or OpenMetrics 1.0.  Builds
 * text only.
 */
#ifndef CONTROL_EXPO_H
#define CONTROL_EXPO_H

#include "base/clock.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stdint.h>

enum metric {
#define METRIC(id, name, type, labels, help) METRIC_##id,
#include "control/metrics.def"
	METRIC_COUNT
};

struct expo {
	struct sbuf *out;
	bool openmetrics;
	enum metric metric; /* whose samples are being written */
	bool labels;        /* the present sample has one */
};

/* Begins a family: its HELP and TYPE.  Every family once, samples of others not in between. */
void expo_family(struct expo *expo, enum metric metric);

/* One sample: expo_sample(), labels, a value.  `suffix` is for histograms; else "". */
void expo_sample(struct expo *expo, const char *suffix);
/* `value` is any text; it is escaped. */
void expo_label(struct expo *expo, const char *name, const char *value);
void expo_value(struct expo *expo, int64_t value);
void expo_value_real(struct expo *expo, double value);
void expo_value_usec(struct expo *expo, usec_t value); /* as seconds */

/* "0.000064" for use in a label. */
void expo_format_usec(usec_t value, char out[32]);

/* After the last family. */
void expo_end(struct expo *expo);

#endif
