/* SPDX-License-Identifier: PostgreSQL */
/*
 * The host names of servers, and the addresses that each had when it was looked up last.  A server
 * connection to an address that its name no longer has is one to a server that others have left, as
 * after a failover by DNS: it is closed as soon as it is free, and a session leaves it as for
 * RECONNECT.  A name whose addresses come and go is one that spreads load, and nothing is concluded
 * from it.  Names are looked up whenever a connection is opened, and every dns_check_interval.
 *
 * All of it belongs to one worker and runs on its thread.
 */
#ifndef CORE_NAMES_H
#define CORE_NAMES_H

#include "base/compiler.h"

#include <event2/util.h>
#include <stdbool.h>

struct rowset;
struct worker;

/* Makes the worker's resolver.  False: there is no memory. */
bool names_open(struct worker *worker) MUST_CHECK;

/* What a look-up of `host` has found.  May be called from anywhere: the next tick acts on it. */
void names_found(struct worker *worker, const char *host, const struct evutil_addrinfo *list);

/* Each tick: leaves addresses, looks names up again, and reads the resolver's files when they have
 * changed. */
void names_tick(struct worker *worker);

/* Rows of DNS_HOSTS. */
void names_fill(const struct worker *worker, struct rowset *rows);

/* Ends look-ups, for which the event loop has to run once more. */
void names_stop(struct worker *worker);

/* After all server connections: the resolver goes. */
void names_close(struct worker *worker);

#endif
