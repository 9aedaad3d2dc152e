/* SPDX-License-Identifier: PostgreSQL */
/*
 * How long things took: counts by powers of two from 64 µs to 67 s, and one bucket beyond.  Plain
 * memory of one thread.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include "base/clock.h"

#include <stdint.h>

#define HISTOGRAM_FIRST 6 /* the first bucket ends at 1 << 6 µs */
#define HISTOGRAM_BOUNDS 21
#define HISTOGRAM_BUCKETS (HISTOGRAM_BOUNDS + 1)

struct histogram {
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* The longest time that falls into bucket `i` < HISTOGRAM_BOUNDS. */
static inline usec_t histogram_bound(unsigned i)
{
	return (usec_t)1 << (HISTOGRAM_FIRST + i);
}

static inline void histogram_add(struct histogram *histogram, usec_t took)
{
	unsigned i = 0;

	if (took > histogram_bound(0))
		i = 64 - HISTOGRAM_FIRST - (unsigned)__builtin_clzll((unsigned long long)took - 1);
	histogram->buckets[i < HISTOGRAM_BOUNDS ? i : HISTOGRAM_BOUNDS]++;
}

#endif
