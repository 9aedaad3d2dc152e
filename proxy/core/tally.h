/* SPDX-License-Identifier: PostgreSQL */
/*
 * Errors that clients were sent, counted by SQLSTATE: of a database, and of a worker's clients
 * whose database is not known or not served.  Worker thread only; nothing is allocated before the
 * first error.  Servers can make up SQLSTATEs, so there is a bound: what is beyond it, or no
 * SQLSTATE at all, counts as "other".
 */
#ifndef CORE_TALLY_H
#define CORE_TALLY_H

#include <stdint.h>

struct client;

#define TALLY_MAX 256
#define TALLY_OTHER "other"

/* Whose error it is: one that a server sent and the proxy passed on, or one of the proxy's own. */
enum tally_origin { TALLY_SERVER, TALLY_PROXY, TALLY_ORIGIN_COUNT };

struct tally_entry {
	char sqlstate[6];
	uint64_t counts[TALLY_ORIGIN_COUNT];
};

/* All zero at birth. */
struct tally {
	struct tally_entry *entries;
	uint32_t count;
	uint32_t capacity;
};

/* `sqlstate` may be NULL or anything else that a server can send. */
void tally_add(struct tally *tally, const char *sqlstate, enum tally_origin origin);
void tally_free(struct tally *tally);

/* The client is sent an error.  Those of the proxy's own connections are not counted. */
void tally_client(const struct client *client, const char *sqlstate, enum tally_origin origin);

#endif
