/* SPDX-License-Identifier: PostgreSQL */
/*
 * What can be done with a session: nothing is to be carried, all can be carried, or something holds
 * it where it is.  No I/O; any thread.
 */
#ifndef SESSION_CLASSIFY_H
#define SESSION_CLASSIFY_H

#include "base/sbuf.h"
#include "session/inspect.h"

#include <stdbool.h>

struct stmt;
struct param_set;

enum session_class {
	SESSION_CLEAN,   /* nothing but what every new connection of this client has */
	SESSION_MOVABLE, /* has state that can be carried exactly */
	SESSION_PINNED,  /* has state that cannot */
};

/* What the engine can carry besides what is in messages (see carry.h). */
struct session_abilities {
	bool locks;   /* advisory locks */
	bool cursors; /* WITH HOLD cursors that can be read backward */
	bool temporary;
	bool custom_known; /* the configured names of custom settings are complete */
};

struct session_verdict {
	enum session_class class;
	struct sbuf
	    what;        /* "2 settings, 1 prepared statement, listens on 1 channel"; "" if clean */
	struct sbuf why; /* pinned: what holds it, "; " between reasons; else "" */
};

void session_verdict_init(struct session_verdict *verdict);
void session_verdict_free(struct session_verdict *verdict);

/* `startup`: the parameters of the client's own startup packet, which do not count as state; or
 * NULL.  `unnamed`: the client's unnamed statement, or NULL. */
void session_classify(const struct session_state *state, const struct session_facts *facts,
                      const struct stmt *unnamed, const struct param_set *startup,
                      const struct session_abilities *abilities, struct session_verdict *verdict);

/* It has a temporary table, and a statement that may be about another of that name: its server is not to
 * look names up again before its client has it do so. */
bool session_state_ambiguous(const struct session_state *state) MUST_CHECK;

/* Pinned for one more reason. */
void session_verdict_pin(struct session_verdict *verdict, const char *reason);

const char *session_class_name(enum session_class class);

#endif
