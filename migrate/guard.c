/* SPDX-License-Identifier: PostgreSQL */
/* The child (child.h) opens connections of its own when it has something to do. */
#include "migrate/guard.h"

#include "base/mem.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RESUME_PATIENCE (60 * USEC_PER_SEC)
#define RETRY_EVERY (500 * USEC_PER_MSEC)

/* Reads what the mover says until the lease is over; false if it says that there is none. */
static bool watch(const struct move *move, int fd)
{
	usec_t lease = move->config->mover.lease;
	usec_t until = clock_now() + lease;
	bool open = true;

	for (usec_t now = clock_now(); now < until; now = clock_now()) {
		struct pollfd wait = {.fd = open ? fd : -1, .events = POLLIN};
		char bytes[64];
		ssize_t n;

		if (poll(&wait, 1, (int)((until - now) / USEC_PER_MSEC) + 1) <= 0)
			continue;
		n = read(fd, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			open = false; /* it died; the lease goes on, as that of a proxy */
		else if (memchr(bytes, CHILD_END, (size_t)n) != NULL)
			return false;
		else
			until = clock_now() + lease;
	}
	return true;
}

/* One attempt for one process; true if nothing of ours is paused there any more. */
static bool resume(struct move *move, struct bouncer *bouncer)
{
	struct link link;
	bool ok = true;

	link_init(&link, bouncer->label, &bouncer->target);
	if (!bouncer_link(move, bouncer, &link)) {
		ok = bouncer_is_gone(&link);
		link_close(&link);
		return ok;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];
		struct sbuf sql;

		if (entry->bouncer != bouncer || !entry->change)
			continue;
		sbuf_init(&sql, 4096);
		sbuf_add_str(&sql, "RESUME ");
		sql_identifier(&sql, entry->name);
		/* That it is not paused is an error, too. */
		ok = (link_run(&move->loop, &link, 5 * USEC_PER_SEC, sbuf_text(&sql)) ||
		      link.state == LINK_IDLE) &&
		     ok;
		sbuf_free(&sql);
	}
	link_close(&link);
	return ok;
}

static void resume_all(struct move *move)
{
	usec_t deadline = clock_now() + RESUME_PATIENCE;
	bool all;

	do {
		all = true;
		for (size_t i = 0; i < move->bouncer_count; i++) {
			if (!resume(move, &move->bouncers[i]))
				all = false;
		}
		if (!all)
			loop_sleep(&move->loop, RETRY_EVERY);
	} while (!all && clock_now() < deadline);
}

static void live(struct move *move, int fd, pid_t mover)
{
	(void)mover;
	if (watch(move, fd))
		resume_all(move);
}

bool guard_start(struct move *move)
{
	return !bouncers_involved(move) ||
	       child_start(move, &move->guard, "the watch over the pgbouncers", live);
}

void guard_renew(struct move *move)
{
	if (!move->guard_ending)
		child_renew(&move->guard, move->config->mover.lease);
}

void guard_send_end(struct move *move)
{
	if (move->guard.fd <= 0 || move->guard_ending)
		return;
	child_say(&move->guard, CHILD_END);
	move->guard_ending = true;
}

bool guard_await_end(struct move *move, usec_t deadline)
{
	char byte;
	ssize_t n = 1;

	if (move->guard.fd <= 0)
		return true;
	guard_send_end(move);
	while (clock_now() < deadline) {
		struct pollfd wait = {.fd = move->guard.fd, .events = POLLIN};

		if (poll(&wait, 1, 1) > 0 && (n = recv(move->guard.fd, &byte, 1, 0)) <= 0)
			break;
		/* The leases of the proxies go on. */
		loop_sleep(&move->loop, 0);
	}
	child_close(&move->guard);
	move->guard_ending = false;
	return n <= 0 || move_fail(move, "the watch over the pgbouncers does not end");
}
