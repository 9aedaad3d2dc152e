/* SPDX-License-Identifier: PostgreSQL */
#include "net/poller.h"

#include "base/clock.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define POLLER_BATCH 256

/* How long the event base may be kept waiting: where it waits for something of the moment, as a dial,
 * and where it waits only for what poller_give_way_to() names and for what comes regularly.  Where
 * nothing comes in that time, to wait is the base's business. */
#define POLLER_STAY_BUSY_MSEC 1
#define POLLER_STAY_MSEC 10

struct poller {
	int fd;
	struct event_base *base;
	struct event *event;
	int resting; /* as few events has the base had as yet */
	bool lively; /* the last batch came soon after the one before */
	usec_t told; /* … which was then */
	struct epoll_event batch[POLLER_BATCH];
};

/* True: something came for which the event base is needed. */
static bool poller_tell(struct poller *poller, int count)
{
	bool give_way = false;

	for (int i = 0; i < count; i++) {
		struct poller_watch *watch = poller->batch[i].data.ptr;

		if (watch != NULL)
			watch->place = (uint32_t)i + 1;
		else
			give_way = true;
	}
	for (int i = 0; i < count; i++) {
		struct poller_watch *watch = poller->batch[i].data.ptr;

		/* What was told before may have removed it. */
		if (watch == NULL)
			continue;
		watch->place = 0;
		watch->ready(watch, poller->batch[i].events);
	}
	return give_way;
}

static int poller_patience(struct poller *poller)
{
	int count = event_base_get_num_events(poller->base, EVENT_BASE_COUNT_ADDED);

	if (count < poller->resting)
		poller->resting = count;
	return count > poller->resting ? POLLER_STAY_BUSY_MSEC : POLLER_STAY_MSEC;
}

static void poller_ready(evutil_socket_t fd, short what, void *arg)
{
	struct poller *poller = arg;
	usec_t since = 0;
	int wait = 0;

	(void)what;
	for (;;) {
		int count = epoll_wait(fd, poller->batch, POLLER_BATCH, wait);
		usec_t now;

		if (count <= 0) {
			poller->lively = poller->lively && wait == 0;
			return;
		}
		if (poller_tell(poller, count) ||
		    event_base_get_num_events(poller->base, EVENT_BASE_COUNT_ACTIVE) > 0)
			return;
		wait = poller_patience(poller);
		now = clock_now();
		poller->lively =
		    poller->lively || now - poller->told < POLLER_STAY_MSEC * USEC_PER_MSEC;
		poller->told = now;
		if (since == 0)
			since = now;
		if (!poller->lively || now - since >= wait * USEC_PER_MSEC)
			return;
	}
}

struct poller *poller_new(struct event_base *base)
{
	struct poller *poller = calloc(1, sizeof(*poller));

	if (poller == NULL)
		return NULL;
	poller->base = base;
	poller->resting = INT_MAX;
	poller->fd = epoll_create1(EPOLL_CLOEXEC);
	if (poller->fd >= 0)
		poller->event =
		    event_new(base, poller->fd, EV_READ | EV_PERSIST, poller_ready, poller);
	if (poller->event == NULL || event_add(poller->event, NULL) != 0) {
		poller_free(poller);
		return NULL;
	}
	return poller;
}

void poller_free(struct poller *poller)
{
	if (poller == NULL)
		return;
	if (poller->event != NULL)
		event_free(poller->event);
	if (poller->fd >= 0)
		(void)close(poller->fd);
	free(poller);
}

static int poller_control(struct poller *poller, int what, struct poller_watch *watch, int fd,
                          uint32_t events)
{
	struct epoll_event event = {.events = events | EPOLLRDHUP | EPOLLET, .data.ptr = watch};

	return epoll_ctl(poller->fd, what, fd, &event);
}

bool poller_add(struct poller *poller, struct poller_watch *watch, int fd, uint32_t events)
{
	watch->place = 0;
	return poller_control(poller, EPOLL_CTL_ADD, watch, fd, events) == 0;
}

void poller_change(struct poller *poller, struct poller_watch *watch, int fd, uint32_t events)
{
	int rc = poller_control(poller, EPOLL_CTL_MOD, watch, fd, events);

	assert(rc == 0);
	(void)rc;
}

void poller_remove(struct poller *poller, struct poller_watch *watch, int fd)
{
	if (watch->place != 0)
		poller->batch[watch->place - 1].data.ptr = NULL;
	watch->place = 0;
	(void)poller_control(poller, EPOLL_CTL_DEL, watch, fd, 0);
}

void poller_give_way_to(struct poller *poller, int fd)
{
	/* Without memory for it, it waits for a millisecond at most. */
	(void)poller_control(poller, EPOLL_CTL_ADD, NULL, fd, EPOLLIN);
}
