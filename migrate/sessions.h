/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sessions of session pools, as the proxies see them: before the move, whether they can be taken
 * along; after it, what has become of them.
 */
#ifndef MIGRATE_SESSIONS_H
#define MIGRATE_SESSIONS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stdint.h>

struct checks;
struct move;

struct sessions {
	int64_t clean;
	int64_t movable;
	int64_t pinned;
	int64_t unknown;   /* in a transaction since before they could be asked */
	int64_t stopping;  /* pinned, and the move will fail because of them */
	struct sbuf lines; /* of pinned ones: who, why and what will be done; a line each */
};

/* Asks every proxy that has a shard.  False: one did not answer; `lines` says which and why. */
bool sessions_count(struct move *move, struct sessions *sessions) MUST_CHECK;
void sessions_free(struct sessions *sessions);

/* "12 clean, 3 movable, 1 pinned, 0 unknown", or "none". */
void sessions_text(const struct sessions *sessions, struct sbuf *out);

void check_sessions(struct checks *checks);

/* The numbers into the evidence of the phase; pinned ones are shown. */
void sessions_prepare(struct move *move);

/* Those that rehearse has found. */
void sessions_rehearse(struct move *move);

/* After the release: each session with both digests into move->sessions, the numbers into the
 * evidence. */
void sessions_after(struct move *move);

#endif
