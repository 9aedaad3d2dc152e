/* SPDX-License-Identifier: PostgreSQL */
/*
 * Where the costly steps of logins are done (PBKDF2, the name of a user id), so that no worker
 * stands still for them: a thread of low priority with a bounded queue.  What servers ask for comes
 * before what clients ask for, since a client that has not proved anything yet can ask often.
 *
 * A job belongs to its poster until it is posted, and comes back to the poster's worker, which runs
 * done().  If the owner goes away meanwhile it sets job->owner to NULL; nobody but its worker looks
 * at that field.
 */
#ifndef CORE_COMPUTE_H
#define CORE_COMPUTE_H

#include "base/compiler.h"
#include "net/mailbox.h"

#include <stdbool.h>

struct compute;
struct proxy;

struct compute_job {
	struct letter letter;
	struct compute_job *next;
	unsigned worker;
	bool for_server;
	void *subject; /* what run() works on; done()'s to keep or to free */
	void *owner;   /* NULL: has gone */
	void (*run)(struct compute_job *job);
	void (*done)(struct compute_job *job);
};

/* Starts the thread; NULL with a log line. */
struct compute *compute_start(struct proxy *proxy) MUST_CHECK;

/* Ends the thread, and every job that it has not begun. */
void compute_stop(struct compute *compute);

/* Any worker.  False: too much is waiting already; the job is still the caller's. */
bool compute_post(struct compute *compute, struct compute_job *job) MUST_CHECK;

#endif
