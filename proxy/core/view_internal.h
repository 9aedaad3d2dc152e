/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the files that make a worker's rows share.  Worker thread.
 */
#ifndef CORE_VIEW_INTERNAL_H
#define CORE_VIEW_INTERNAL_H

#include "core/view.h"

struct worker;

/* view_metrics.c: all rows of HISTOGRAMS, GAUGES and LIVES. */
void view_fill_histograms(struct worker *worker, struct rowset *rows);
void view_fill_gauges(struct worker *worker, struct rowset *rows);
void view_fill_lives(struct worker *worker, struct rowset *rows);

#endif
