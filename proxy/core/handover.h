/* SPDX-License-Identifier: PostgreSQL */
/*
 * Restart without dropping, the side of the process that runs (core/takeover.h has the whole story
 * and the messages).  It answers on the control socket, and it is the link between processes that
 * have taken over from one another: cancel requests go back along it, each process waits with its
 * end for that of the one before.  Main thread.
 *
 *   SERVING --HELLO--> FREEZING (the state is being written) --OFFER--> OFFERED --READY--> GONE
 *      ^                      \__________ the other has gone, or is slow ___/
 */
#ifndef CORE_HANDOVER_H
#define CORE_HANDOVER_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "core/cancel.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct handover;
struct proxy;
struct takeover;

/* From now on another process may take over.  `from`: what this one has taken over (its link and
 * control socket are taken out of it), or NULL.  NULL on failure, with a log line: nobody can take
 * over then, which is no reason not to serve. */
struct handover *handover_start(struct proxy *proxy, struct takeover *from);
void handover_free(struct handover *handover);

/* Another process serves in the place of this one. */
bool handover_gone(const struct handover *handover);

/* The process from which this one has taken over still has clients; 0: there is none. */
pid_t handover_former(const struct handover *handover, unsigned *clients);

/* The state could not be written up to this number: who waits for it is told why. */
void handover_not_written(struct handover *handover, uint64_t number, const char *error);

/* This process shuts down: who was about to take over is told. */
void handover_withdraw(struct handover *handover);

/* Tells that process to end as well: at once, or gracefully. */
void handover_end_former(struct handover *handover, bool immediate);

/* A cancel request that fits no client of this process: perhaps one of the former's. */
void handover_cancel(struct handover *handover, const struct cancel_ask *ask);

/* The same, in a worker. */
void handover_cancel_from_worker(struct proxy *proxy, const struct cancel_ask *ask);

#endif
