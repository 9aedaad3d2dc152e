/* SPDX-License-Identifier: PostgreSQL */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

usec_t clock_now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (usec_t)ts.tv_sec * USEC_PER_SEC + ts.tv_nsec / 1000;
}

usec_t clock_wall(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (usec_t)ts.tv_sec * USEC_PER_SEC + ts.tv_nsec / 1000;
}

char *clock_format(usec_t wall, char out[CLOCK_TEXT_MAX])
{
	time_t seconds = (time_t)(wall / USEC_PER_SEC);
	struct tm tm;
	size_t n;

	(void)gmtime_r(&seconds, &tm);
	n = strftime(out, CLOCK_TEXT_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(out + n, CLOCK_TEXT_MAX - n, ".%06dZ", (int)(wall % USEC_PER_SEC));
	return out;
}
