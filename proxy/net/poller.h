/* SPDX-License-Identifier: PostgreSQL */
/*
 * Readiness of the many sockets of one thread, beside its event base, which has all that is less
 * frequent: timers, letters, dials, names.
 *
 *   event base --(the epoll set is one descriptor of it)--> poller: batch after batch, for a
 *   few milliseconds while more comes, then back to the event base
 *
 * Events are edges (EPOLLET): each is told once, and poller_change() makes the kernel tell anew what
 * is the case.  Owning thread only.
 */
#ifndef NET_POLLER_H
#define NET_POLLER_H

#include "base/compiler.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

struct poller;

/* Part of whatever has the descriptor.  `events` are those of epoll. */
struct poller_watch {
	void (*ready)(struct poller_watch *watch, uint32_t events);
	uint32_t place; /* in the present batch, from 1 on; 0: nothing that has yet to be told */
};

/* NULL: no memory, or no descriptor. */
struct poller *poller_new(struct event_base *base) MUST_CHECK;
/* Nothing is watched any more. */
void poller_free(struct poller *poller);

/* Watches `fd` for `events` (EPOLLIN, EPOLLOUT, or none); the end is told in any case.  False: no
 * memory.  `watch` has its function already. */
bool poller_add(struct poller *poller, struct poller_watch *watch, int fd,
                uint32_t events) MUST_CHECK;
void poller_change(struct poller *poller, struct poller_watch *watch, int fd, uint32_t events);
/* Nothing is told of it any more, not even of the present batch. */
void poller_remove(struct poller *poller, struct poller_watch *watch, int fd);

/* Something that came for `fd`, of which the event base tells, does not wait until the poller has
 * nothing to do.  Until it is closed. */
void poller_give_way_to(struct poller *poller, int fd);

#endif
