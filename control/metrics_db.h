/* SPDX-License-Identifier: PostgreSQL */
/*
 * The metrics that are kept by database.  The first `metrics_max_databases` that are seen have a
 * label of their own for the life of the process; those after them are summed up under one, so that
 * a counter never goes backwards and clients cannot fill the memory of Prometheus.  Main thread.
 */
#ifndef CONTROL_METRICS_DB_H
#define CONTROL_METRICS_DB_H

#include "control/expo.h"
#include "core/view.h"

#include <stddef.h>

/* Rows of the workers; each may be NULL. */
struct metrics_views {
	const struct rowset *gauges;
	const struct rowset *histograms;
	const struct rowset *stats;
	const struct rowset *errors;
	const struct rowset *holds;
};

/* Gives labels to databases that are new. */
void metrics_db_learn(const struct metrics_views *views, size_t limit);
size_t metrics_db_left_out(void);
void metrics_db_render(const struct metrics_views *views, struct expo *expo);
void metrics_db_forget(void);

/* Where a column stands, which the view must have. */
size_t metrics_column(enum view view, const char *name);

#endif
