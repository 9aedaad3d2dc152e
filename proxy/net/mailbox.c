/* SPDX-License-Identifier: PostgreSQL */
#include "net/mailbox.h"

#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

void mailbox_drain(struct mailbox *box)
{
	struct letter *letter = atomic_exchange_explicit(&box->head, NULL, memory_order_acquire);
	struct letter *oldest = NULL;

	while (letter != NULL) {
		struct letter *next = letter->next;

		letter->next = oldest;
		oldest = letter;
		letter = next;
	}
	while (oldest != NULL) {
		struct letter *next = oldest->next;

		oldest->next = NULL;
		box->receive(box->owner, oldest);
		oldest = next;
	}
}

static void mailbox_woken(evutil_socket_t fd, short what, void *arg)
{
	struct mailbox *box = arg;
	uint64_t count;

	(void)what;
	/* The counter is cleared before the box is emptied: a letter posted in between wakes again.
	 */
	if (read(fd, &count, sizeof(count)) < 0)
		count = 0;
	mailbox_drain(box);
}

void mailbox_wait(struct mailbox *box)
{
	struct pollfd ready = {.fd = box->wake_fd, .events = POLLIN};

	if (poll(&ready, 1, -1) > 0)
		mailbox_woken(box->wake_fd, EV_READ, box);
}

bool mailbox_open(struct mailbox *box, struct event_base *base, mailbox_receive receive,
                  void *owner)
{
	atomic_init(&box->head, NULL);
	box->receive = receive;
	box->owner = owner;
	box->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (box->wake_fd < 0)
		return false;
	box->event = event_new(base, box->wake_fd, EV_READ | EV_PERSIST, mailbox_woken, box);
	if (box->event == NULL || event_add(box->event, NULL) != 0) {
		if (box->event != NULL)
			event_free(box->event);
		(void)close(box->wake_fd);
		return false;
	}
	return true;
}

void mailbox_post(struct mailbox *box, struct letter *letter)
{
	struct letter *head = atomic_load_explicit(&box->head, memory_order_relaxed);
	const uint64_t one = 1;

	do {
		letter->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
	    &box->head, &head, letter, memory_order_release, memory_order_relaxed));
	/* Whoever put the first letter in wakes; the others ride along. */
	if (head == NULL && write(box->wake_fd, &one, sizeof(one)) < 0)
		abort(); /* EAGAIN needs 2^64-1 unread wake-ups: cannot be */
}

void mailbox_close(struct mailbox *box)
{
	mailbox_drain(box);
	event_free(box->event);
	(void)close(box->wake_fd);
}
