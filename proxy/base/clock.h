/* SPDX-License-Identifier: PostgreSQL */
/*
 * Time.  Durations and instants of the program are microseconds of CLOCK_MONOTONIC; wall-clock
 * time serves only logs and evidence.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

typedef int64_t usec_t;

#define USEC_PER_MSEC ((usec_t)1000)
#define USEC_PER_SEC ((usec_t)1000000)

/* Microseconds of CLOCK_MONOTONIC. */
usec_t clock_now(void);

/* Microseconds since 1970-01-01 UTC. */
usec_t clock_wall(void);

#define CLOCK_TEXT_MAX 40

/* "2026-01-31T12:00:00.123456Z" of `wall` (microseconds since 1970) into `out`; returns out. */
char *clock_format(usec_t wall, char out[CLOCK_TEXT_MAX]);

#endif
