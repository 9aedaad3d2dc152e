/* SPDX-License-Identifier: PostgreSQL */
/*
 * Asks a server who it is, through libpq in a thread of its own: names are resolved and passwords
 * hashed there, and a server that does not answer costs nobody else anything.  The answer comes as
 * a letter.
 */
#ifndef CORE_SWAP_CHECK_H
#define CORE_SWAP_CHECK_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"
#include "net/mailbox.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct server_identity {
	bool known; /* the rest was read */
	bool in_recovery;
	uint32_t timeline;
	char system_identifier[24];
	int64_t started; /* when, in microseconds since 1970 by its clock: tells copies apart */
};

/* The letter, free()d with check_free(). */
struct check {
	struct letter letter;
	uint64_t token;
	/* what is asked */
	char *server; /* name in the configuration */
	char *host;
	char *user;
	char *password; /* NULL: none */
	char *dbname;
	const char *tls_names[CONFIG_LIBPQ_TLS_MAX]; /* of libpq, and their values */
	char *tls_values[CONFIG_LIBPQ_TLS_MAX];
	int port;
	usec_t timeout;
	/* the answer; an open connection goes in and comes back */
	PGconn *conn; /* NULL: to be opened; on the way back NULL after a failure */
	struct server_identity identity;
	char error[512]; /* "" on success */
	struct mailbox *answer_to;
};

/* Whether the configuration gives a user for checks of that server. */
bool check_possible(const struct config_server *server);

/*
 * Starts a check; `conn` (taken over, may be NULL) is an open connection of an earlier one.  The
 * letter comes to `answer_to` exactly once, with letter.type `type` and the token.  False: nothing
 * was started and `error` says why; conn is closed.
 */
bool check_start(const struct config_server *server, PGconn *conn, usec_t timeout,
                 struct mailbox *answer_to, int type, uint64_t token,
                 struct sbuf *error) MUST_CHECK;

void check_free(struct check *check);

/* How many checks have not yet answered: to be waited for before the mailbox is closed. */
unsigned check_running(void);

/*
 * The verdict on `target` as the next route of a database that is on `source` now.  True: it may
 * be.  False: `reason` says why not.  An unknown source is not held against the target.
 */
bool check_verdict(const struct server_identity *source, const struct server_identity *target,
                   struct sbuf *reason) MUST_CHECK;

#endif
