/* SPDX-License-Identifier: PostgreSQL */
/*
 * The log file of a run: one line an event, times in microseconds since the start of the run.
 *
 *   V 1 RUN WALL MONOTONIC            version; wall clock and CLOCK_MONOTONIC of the start
 *   T TARGET NAME GROUP FIRST COUNT   a target and the numbers of its clients
 *   A TIME CLIENT FIRST COUNT LATENCY rows FIRST … FIRST+COUNT-1 of the client are acknowledged
 *   R TIME CLIENT LATENCY             a read was answered
 *   E TIME CLIENT SQLSTATE TEXT       an error; NOANS: no answer, STALE: an acknowledged row unseen
 *   G TIME TARGET LENGTH              no acknowledgement of the target for LENGTH until TIME
 *   N CLIENT LAST                     at the end: the last number that the client used
 *   Z TIME                            when the run was told to stop
 */
#ifndef LOAD_RECORD_H
#define LOAD_RECORD_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

struct record;

/* NULL, with a message on stderr, if the file cannot be written. */
struct record *record_create(const char *path, int64_t run) MUST_CHECK;

/* False if anything could not be written. */
bool record_close(struct record *record) MUST_CHECK;

/* To the file what was gathered; the loop calls it a few times a second. */
void record_flush(struct record *record);

void record_target(struct record *record, int target, const char *name, const char *group,
                   int first_client, int clients);
void record_ack(struct record *record, usec_t now, int client, int64_t first, int count,
                usec_t latency);
void record_read(struct record *record, usec_t now, int client, usec_t latency);
void record_error(struct record *record, usec_t now, int client, const char *sqlstate,
                  const char *text);
void record_gap(struct record *record, usec_t now, int target, usec_t length);
void record_last(struct record *record, int client, int64_t last);
void record_stop(struct record *record, usec_t now);

#endif
