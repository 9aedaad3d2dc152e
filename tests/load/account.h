/* SPDX-License-Identifier: PostgreSQL */
/*
 * The account of a run: what its log promises (account_read), what the databases hold
 * (account_check), and the verdict on both (account_print).
 */
#ifndef LOAD_ACCOUNT_H
#define LOAD_ACCOUNT_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define ACCOUNT_GROUPS_MAX 16
#define ACCOUNT_TARGETS_MAX 64
#define ACCOUNT_ROWS_MAX 4
#define ACCOUNT_STATES_MAX 32

/* Pauses and latencies of a target or of a group. */
struct pace {
	usec_t last;        /* the last acknowledgement; -1 before the first */
	usec_t longest_gap; /* between two successive acknowledgements */
	usec_t gap_end;
	usec_t slowest; /* of one unit */
	usec_t *latencies;
	int64_t count;
	int64_t room;
};

struct error_count {
	char sqlstate[6];
	char text[160];
	int64_t count;
};

struct account_group {
	const char *name;
	const char *new_conninfo;
	const char *old_conninfo;
	const char *rows[ACCOUNT_ROWS_MAX];
	int rows_count;
	struct pace pace;
	int64_t acked;
	int64_t unacked; /* numbers that were used and not acknowledged */
	int64_t errors;
	struct error_count states[ACCOUNT_STATES_MAX];
	int state_count;
	int64_t lost;
	int64_t duplicated;
	int64_t phantom;  /* rows that no client of this group wrote */
	int64_t old_only; /* rows on the old server that are not on the new one */
};

struct account_target {
	char name[64];
	int group; /* -1: not asked for */
	int64_t acked;
	int64_t errors;
	struct pace pace;
};

struct account_client {
	int target;
	int64_t last; /* -1: the log has no end */
	int64_t room;
	uint8_t *acked; /* by number */
	uint8_t *seen;  /* on the new server; stops at 255 */
};

struct account {
	int64_t run;
	usec_t wall;
	usec_t from;
	usec_t to;
	usec_t stopped; /* -1: the log has no end */
	bool allow_errors;
	int group_count;
	struct account_group groups[ACCOUNT_GROUPS_MAX];
	int target_count;
	struct account_target targets[ACCOUNT_TARGETS_MAX];
	int client_count;
	struct account_client *clients; /* by number, from 1 */
};

/* False, with a message, if the file cannot be read or is no log. */
bool account_read(struct account *account, const char *path) MUST_CHECK;

/* False, with a message, if a database cannot be asked. */
bool account_check(struct account *account) MUST_CHECK;

bool account_broken(const struct account *account, const struct account_group *group);
void account_print(struct account *account);
bool account_print_json(struct account *account, const char *path) MUST_CHECK;

/* The latency that `part` (0 … 1) of the units did not pass. */
usec_t pace_quantile(struct pace *pace, double part);

#endif
