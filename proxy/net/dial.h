/* SPDX-License-Identifier: PostgreSQL */
/*
 * Opening a connection without blocking: asynchronous DNS, then each address in turn until one
 * answers, within one time-out.  Runs on the thread of its event base.
 *
 *   dial_start -> (resolving) -> connecting to 1st, 2nd … address -> done(fd) or done(-1, error)
 *
 * The callback is called exactly once, never from inside dial_start(), unless dial_cancel() came
 * first.
 */
#ifndef NET_DIAL_H
#define NET_DIAL_H

#include "base/clock.h"
#include "base/compiler.h"

#include <event2/dns.h>
#include <event2/event.h>

struct dial;

enum { DIAL_FAILED = -1, DIAL_UNRESOLVED = -2 /* there is no address for the name */ };

/* `fd`: a connected non-blocking socket that now belongs to the callee, or one of the above and
 * `error` says why.  The dial no longer exists when this is called. */
typedef void (*dial_done)(void *arg, int fd, const char *error);

/* Starts.  `host` is a name, a numeric address, or a directory of Unix sockets if it begins with a
 * slash.  `dns` may be NULL if `host` needs no resolution.  NULL on lack of memory. */
struct dial *dial_start(struct event_base *base, struct evdns_base *dns, const char *host, int port,
                        usec_t timeout, dial_done done, void *arg) MUST_CHECK;

/* The addresses that the resolver has found for a name, before the first is tried. */
typedef void (*dial_found)(void *arg, const struct evutil_addrinfo *list);

/* Has it called with the `arg` of the dial, at once if they are known; not for an address, which
 * needs no resolver.  It must not touch the dial. */
void dial_on_found(struct dial *dial, dial_found found);

/* Gives up; done is not called any more. */
void dial_cancel(struct dial *dial);

#endif
