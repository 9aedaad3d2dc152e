/* SPDX-License-Identifier: PostgreSQL */
/*
 * The numbers behind /metrics: asks the workers for theirs, sums them up by database and writes
 * them as text.  Main thread.
 */
#ifndef CONTROL_METRICS_H
#define CONTROL_METRICS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

struct metrics; /* what was true at one moment */
struct proxy;

typedef void metrics_done_fn(struct metrics *metrics, void *arg);

/* Begins to collect; `done` comes once from the event loop, after which the callee frees them.  Not
 * again before that. */
void metrics_collect(struct proxy *proxy, metrics_done_fn *done, void *arg);

void metrics_render(const struct metrics *metrics, bool openmetrics, struct sbuf *out);
void metrics_free(struct metrics *metrics);

/* At the end: drops what is being collected. */
void metrics_stop(void);

#endif
