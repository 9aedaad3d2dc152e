/* SPDX-License-Identifier: PostgreSQL */
/*
 * The coordinator of holds, swaps and releases, on the main thread: what the console commands mean.
 *
 *	           admin_hold            every worker drained
 *	   OPEN ───────────────▶ DRAINING ───────────────▶ HELD
 *	    ▲                       │  deadline, policy      │
 *	    └───────────────────────┴── release, lease ends ─┘
 *
 * Every command is asynchronous: its callback comes exactly once, from the event loop and never
 * from inside the call, unless the request was abandoned.  A command that is repeated with the
 * epoch it was issued for gives the same answer again.  What a command answers has been written to
 * the state directory before.  Never blocks: the state file is written by a thread of its own, and
 * checks of servers run in threads.
 */
#ifndef CORE_ADMIN_H
#define CORE_ADMIN_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "core/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct admin;
struct admin_request;
struct config;
struct letter;
struct proxy;
struct route_table;

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

struct prepare_options {
	uint64_t epoch;
	bool trial; /* one connection a pool, closed again */
	bool leave; /* idle sessions may leave their servers before the hold */
	bool seal;  /* SEAL will come in the hold */
};

struct swap_options {
	uint64_t epoch;
	bool force;  /* without checks */
	bool nowait; /* the answer does not wait for the write; see swap.c */
	bool sessions; /* … but for their locks and channels */
};

/*
 * Commands.  The returned request is never NULL and valid until its callback.  An abandoned request
 * goes on, its answer is dropped; but PREPARE SWAP ends, and closes what it has opened.
 */
struct admin_request *admin_hold(struct admin *admin, const char *database,
                                 const struct hold_options *options, admin_done_fn *done,
                                 void *arg);
struct admin_request *admin_renew(struct admin *admin, const char *database, uint64_t epoch,
                                  usec_t lease, admin_done_fn *done, void *arg);
struct admin_request *admin_prepare_swap(struct admin *admin, const char *database,
                                         const char *server, const struct prepare_options *options,
                                         admin_done_fn *done, void *arg);
struct admin_request *admin_cancel_swap(struct admin *admin, const char *database,
                                        admin_done_fn *done, void *arg);
struct admin_request *admin_swap(struct admin *admin, const char *database, const char *server,
                                 const struct swap_options *options, admin_done_fn *done,
                                 void *arg);
/* The server connections of a held database that are idle are put out of use (seal.h); the rows of
 * SHOW SEALED. */
struct admin_request *admin_seal(struct admin *admin, const char *database, uint64_t epoch,
                                 admin_done_fn *done, void *arg);
/* `sessions`: no swap will come, and sessions are to have their locks and channels again where the
 * database is; nobody else goes on yet. */
struct admin_request *admin_release(struct admin *admin, const char *database, uint64_t epoch,
                                    bool sessions, admin_done_fn *done, void *arg);
/* `database` narrows the view where it takes an argument; NULL otherwise.  `whole`: with what only
 * admin_users may see. */
struct admin_request *admin_view(struct admin *admin, enum view view, const char *database, bool whole,
                                 admin_done_fn *done, void *arg);
struct admin_request *admin_reload(struct admin *admin, admin_done_fn *done, void *arg);
struct admin_request *admin_shutdown(struct admin *admin, bool immediate, admin_done_fn *done,
                                     void *arg);
/* `database` NULL: all.  PAUSE answers when it is paused, or fails after `limit` (0 or
 * ADMIN_TIME_DEFAULT: never). */
struct admin_request *admin_pause(struct admin *admin, const char *database, usec_t limit,
                                  admin_done_fn *done, void *arg);
struct admin_request *admin_resume(struct admin *admin, const char *database, admin_done_fn *done,
                                   void *arg);
struct admin_request *admin_kill(struct admin *admin, const char *database, admin_done_fn *done,
                                 void *arg);
struct admin_request *admin_kill_client(struct admin *admin, int64_t id, admin_done_fn *done,
                                        void *arg);
struct admin_request *admin_reconnect(struct admin *admin, const char *database,
                                      admin_done_fn *done, void *arg);
struct admin_request *admin_wait_close(struct admin *admin, const char *database,
                                       admin_done_fn *done, void *arg);
struct admin_request *admin_enable(struct admin *admin, const char *database, bool enable,
                                   admin_done_fn *done, void *arg);
struct admin_request *admin_suspend(struct admin *admin, admin_done_fn *done, void *arg);
struct admin_request *admin_set(struct admin *admin, const char *name, const char *value,
                                admin_done_fn *done, void *arg);
/* New connections are refused; the process ends when all clients have gone. */
struct admin_request *admin_shutdown_later(struct admin *admin, admin_done_fn *done, void *arg);
void admin_request_abandon(struct admin_request *request);

/* Ctrl-C: ends the wait of a command with 57014 and takes back what it has begun: a HOLD that waits
 * for drained opens the gate, unless it only joined somebody else's.  What is being written already
 * goes on, and answers soon. */
void admin_request_cancel(struct admin_request *request);

/*
 * Another process is to take over: nothing is changed any more, and what there is gets written, by
 * the write *number.  False with a text in `why`: not now.  Until admin_thaw().
 */
bool admin_freeze(struct admin *admin, uint64_t *number, struct sbuf *why) MUST_CHECK;
void admin_thaw(struct admin *admin);

/* Whether that write is done. */
bool admin_written(const struct admin *admin, uint64_t number);

/* The state directory is another process's: nothing is written any more. */
void admin_leave_state(struct admin *admin);

/* The lock of the state directory. */
int admin_lock_fd(const struct admin *admin);

/* Whether there is a database of that name for commands: a configured one, one of the fallback, or
 * one that is still held. */
bool admin_has_database(struct admin *admin, const char *database) MUST_CHECK;

/* SUSPEND is in force. */
bool admin_is_suspended(const struct admin *admin);

/* The proxy has another configuration. */
void admin_configured(struct admin *admin);

/* Takes over a letter of a worker: MAIL_DRAINED, MAIL_PREPARED, MAIL_ROWS or MAIL_LEARNED.  The
 * main thread gives it every such letter; the callee frees it. */
void admin_receive(struct admin *admin, struct letter *letter);

/*
 * Life, in the order of proxy_init():
 *   admin_create()  needs proxy->base, config and worker_count.  Locks and reads the state
 *                   directory; NULL with a message in `error` when that fails (exit code 1).
 *   admin_routes()  the first table, for proxy->routes; and at every RELOAD the next one, for
 *                   proxy_set_routes()
 *   (workers start)
 *   admin_start()   posts the holds and the remembered parameters that outlived the process: before
 *                   the first client is accepted
 */
struct admin *admin_create(struct proxy *proxy, struct sbuf *error) MUST_CHECK;
void admin_start(struct admin *admin);
void admin_free(struct admin *admin);

/* The routes of `config` with what swaps have changed, one reference.  NULL with a message when a
 * swapped database is on a server that `config` does not know: going back to the configured one
 * could be going back to before the move. */
struct route_table *admin_routes(struct admin *admin, struct config *config,
                                 struct sbuf *error) MUST_CHECK;

#endif
