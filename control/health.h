/* SPDX-License-Identifier: PostgreSQL */
/*
 * Whether the proxy works: for /healthz and /readyz, and for systemd's watchdog, which is told only
 * as long as every worker answers.  Main thread.
 */
#ifndef CONTROL_HEALTH_H
#define CONTROL_HEALTH_H

#include "base/sbuf.h"

#include <stdbool.h>

struct proxy;

/* Whether new clients are served.  If not and `why` is not NULL: a JSON array of reasons. */
bool health_ready(const struct proxy *proxy, struct sbuf *why);

typedef void health_done_fn(unsigned answered, void *arg);

/* Asks every worker; `done` comes once from the event loop. */
void health_ask(struct proxy *proxy, health_done_fn *done, void *arg);

/* Keeps the watchdog and the status line of systemd, if it wants them; before proxy_run(). */
void health_start(struct proxy *proxy);
void health_stop(void);

#endif
