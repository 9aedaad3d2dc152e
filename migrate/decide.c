/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/decide.h"

const char *decide_barrier(enum barrier_state barrier)
{
	if (barrier == BARRIER_MISSED)
		return "the target was promoted before it had replayed the last writes of the "
		       "shards: its copy lacks acknowledged commits and must not be opened; the "
		       "source's copy is complete and fenced";
	return "the target has been promoted, but it is not known whether it had replayed the last "
	       "writes of the shards by then, so its copy is not opened; the source's copy is "
	       "complete and fenced; run \"pgshunt resume\" when the source can be asked (its WAL "
	       "says it, read by its extension pg_walinspect), or compare the copies by hand";
}

static enum decision decide_promoted(const struct decide_facts *facts, const char **why)
{
	if (facts->barrier != BARRIER_PASSED) {
		*why = decide_barrier(facts->barrier);
		return DECIDE_REFUSE;
	}
	if (facts->abort_wanted) {
		*why = "the target has been promoted: the move can only be completed, with "
		       "\"pgshunt resume\"";
		return DECIDE_REFUSE;
	}
	*why = "the target has been promoted: the move is completed";
	return DECIDE_FORWARD;
}

enum decision decide(const struct decide_facts *facts, const char **why)
{
	if (!facts->changed_anything) {
		*why = "the move had not changed anything yet";
		return DECIDE_UNDO;
	}
	if (!facts->promote_intended) {
		/* Somebody else may have completed a move of his own meanwhile, with another
		 * journal: then the source's copy is old. */
		if (facts->target == TARGET_PRIMARY && facts->in_use_on_target) {
			*why = "somebody else has promoted the target, and the shards are in use "
			       "there: to allow connections on the source again would leave two "
			       "copies that can be written; if that other move is the one that "
			       "counts, delete the journal of this one";
			return DECIDE_REFUSE;
		}
		/* Whatever the target is by now, it did not become it by our request, and nobody
		 * works there. */
		if (!facts->source_reachable) {
			*why = "the promotion had not been requested, but the source cannot be "
			       "reached to allow connections again";
			return DECIDE_HOLD;
		}
		*why = "the promotion had not been requested: the clients go on on the source";
		return DECIDE_UNDO;
	}
	switch (facts->target) {
	case TARGET_PRIMARY:
		return decide_promoted(facts, why);
	case TARGET_PROMOTING:
		if (facts->abort_wanted) {
			*why = "the promotion of the target is under way: the move can only be "
			       "completed, with \"pgshunt resume\"";
			return DECIDE_REFUSE;
		}
		*why = "the promotion has been requested and is under way";
		return DECIDE_WAIT;
	case TARGET_UNREACHABLE:
		*why = "the promotion may have been requested and the target cannot be reached: "
		       "the source stays fenced until the target says what it is";
		return DECIDE_HOLD;
	case TARGET_STANDBY:
		break;
	}
	if (!facts->source_reachable) {
		*why = "the target is still a standby, but the source cannot be reached to allow "
		       "connections again";
		return DECIDE_HOLD;
	}
	*why = "the target is still a standby and no request to promote is waiting: the clients "
	       "go on on the source";
	return DECIDE_UNDO;
}

const char *target_state_name(enum target_state state)
{
	switch (state) {
	case TARGET_UNREACHABLE:
		return "unreachable";
	case TARGET_STANDBY:
		return "standby";
	case TARGET_PROMOTING:
		return "promoting";
	case TARGET_PRIMARY:
		return "primary";
	}
	return "?";
}
