/* SPDX-License-Identifier: PostgreSQL */
/*
 * The coordinator of holds, swaps and releases, on the main thread: what the console commands mean.
 *
 *	           admin_hold            every worker drained
 *	   OPEN ───────────────▶ DRAINING ───────────────▶ HELD
 *	    ▲                       │  deadline, policy      │
 *	    └───────────────────────┴── release, lease ends ─┘
 *
 * Every command is asynchronous: its callback comes exactly once, from the event loop or from
 * inside the call, unless the request was abandoned.  A command that is repeated with the epoch it
 * was issued for gives the same answer again.  What a command answers has been written to the state
 * directory before.  Never blocks: the state file is written by a thread of its own, and checks of
 * servers run in threads.
 */
#ifndef CORE_ADMIN_H
#define CORE_ADMIN_H

#include "base/clock.h"
#include "base/compiler.h"
#include "core/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct admin;
struct admin_request;
struct proxy;

/* Why a command failed, as ErrorResponse has it.  Texts are static or belong to the answer. */
struct admin_error {
	char sqlstate[6]; /* "" when there was no error */
	char message[256];
	char detail[2048]; /* "" for none */
	char hint[512];    /* "" for none */
};

/* The answer of a command: rows (possibly none), a notice for the operator, or an error. */
struct admin_answer {
	const struct admin_error *error; /* NULL on success */
	struct rowset *rows; /* NULL when the command has no rows; the callee may take them */
	const char *notice;  /* NULL for none */
};

typedef void admin_done_fn(void *arg, struct admin_answer *answer);

#define ADMIN_EPOCH_NEXT ((uint64_t)0)  /* EPOCH not given */
#define ADMIN_TIME_DEFAULT ((usec_t)-1) /* LEASE or DRAIN not given */
#define ADMIN_LEASE_NONE ((usec_t)0)    /* LEASE NONE: no expiry */

struct hold_options {
	uint64_t epoch;
	usec_t lease;
	usec_t drain; /* 0: no deadline */
	int policy;   /* enum config_drain_policy; CONFIG_UNSET: as configured */
	bool nowait;
};

/*
 * Commands.  The returned request is valid until its callback; NULL when the callback has already
 * come.  An abandoned request goes on, its answer is dropped.
 */
struct admin_request *admin_hold(struct admin *admin, const char *database,
                                 const struct hold_options *options, admin_done_fn *done,
                                 void *arg);
struct admin_request *admin_renew(struct admin *admin, const char *database, uint64_t epoch,
                                  usec_t lease, admin_done_fn *done, void *arg);
struct admin_request *admin_prepare_swap(struct admin *admin, const char *database,
                                         const char *server, uint64_t epoch, admin_done_fn *done,
                                         void *arg);
struct admin_request *admin_cancel_swap(struct admin *admin, const char *database,
                                        admin_done_fn *done, void *arg);
struct admin_request *admin_swap(struct admin *admin, const char *database, const char *server,
                                 uint64_t epoch, bool force, admin_done_fn *done, void *arg);
struct admin_request *admin_release(struct admin *admin, const char *database, uint64_t epoch,
                                    admin_done_fn *done, void *arg);
/* `database` narrows the view where it takes an argument; NULL otherwise. */
struct admin_request *admin_view(struct admin *admin, enum view view, const char *database,
                                 admin_done_fn *done, void *arg);
struct admin_request *admin_reload(struct admin *admin, admin_done_fn *done, void *arg);
struct admin_request *admin_shutdown(struct admin *admin, bool immediate, admin_done_fn *done,
                                     void *arg);
void admin_request_abandon(struct admin_request *request);

/* What workers report; called by the main thread for every such message. */
void admin_on_drained(struct admin *admin, const char *database, uint64_t epoch, int worker);
void admin_on_prepared(struct admin *admin, const char *database, uint64_t epoch, int worker,
                       unsigned opened, unsigned failed);
/* Takes the rows. */
void admin_on_view_rows(struct admin *admin, uint64_t token, struct rowset *rows);

/*
 * Life.  admin_create() locks and reads the state directory (a clear message in `error` when that
 * fails) before workers start, so that the first route table is the right one and held databases
 * are held before the first client is accepted: admin_start() posts those holds.
 */
struct admin *admin_create(struct proxy *proxy, char *error, size_t error_size) MUST_CHECK;
void admin_start(struct admin *admin);
void admin_free(struct admin *admin);

/* The route of `database` as it stands: the name of its server, NULL when it is unknown. */
const char *admin_route(const struct admin *admin, const char *database);

/* ParameterStatus of the last server of `database` (pairs of zero-terminated strings), kept so that
 * clients can log in while it is held, also after a restart; NULL when there was never one. */
const char *admin_welcome(const struct admin *admin, const char *database, size_t *len);
void admin_set_welcome(struct admin *admin, const char *database, const char *bytes, size_t len);

#endif
