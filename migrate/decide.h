/* SPDX-License-Identifier: PostgreSQL */
/*
 * What to do with a move that did not end, from what is really there.  A pure function, so that the
 * whole table can be read and tested.
 *
 * The two facts that rule everything: whether the request to promote may have been sent (its intent
 * is in the journal), and what the target says about itself.  As long as the target may become a
 * primary by our request, the source's fence stays: un-fencing it could leave two writable copies.
 */
#ifndef MIGRATE_DECIDE_H
#define MIGRATE_DECIDE_H

#include <stdbool.h>

enum target_state {
	TARGET_UNREACHABLE,
	TARGET_STANDBY,   /* in recovery, and no request to promote is waiting or under way */
	TARGET_PROMOTING, /* in recovery, promotion requested */
	TARGET_PRIMARY
};

enum decision {
	DECIDE_UNDO,    /* clients go on on the source */
	DECIDE_FORWARD, /* complete the move */
	DECIDE_WAIT,    /* the promotion is under way: wait for it, then go forward */
	DECIDE_HOLD,    /* nobody can know: stay held and fenced, ask again later */
	DECIDE_REFUSE   /* what was asked for is not possible any more */
};

/* What the target's new timeline has of the barrier, the record after the shards' last writes. */
enum barrier_state {
	BARRIER_PASSED, /* it begins after it; or there is no such timeline */
	BARRIER_MISSED, /* it begins before it */
	BARRIER_UNKNOWN /* nobody can say where the barrier is */
};

struct decide_facts {
	bool changed_anything; /* any intent of hold or later in the journal */
	bool promote_intended; /* the intent to promote is in the journal */
	enum target_state target;
	bool source_reachable;
	enum barrier_state barrier; /* of a target that is promoted */
	bool in_use_on_target;      /* promoted, and a route leads there, or its copy is open */
	bool abort_wanted;          /* the operator asked for abort, not for resume */
};

/* *why says it in a sentence. */
enum decision decide(const struct decide_facts *facts, const char **why);

/* The sentence for a barrier that the target has not passed. */
const char *decide_barrier(enum barrier_state barrier);

const char *target_state_name(enum target_state state);

#endif
