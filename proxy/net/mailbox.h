/* SPDX-License-Identifier: PostgreSQL */
/*
 * A mailbox: the only way in which threads of the proxy talk.  Any thread may post; one thread (the
 * owner, the one that runs the event base) receives.  Posting is lock-free: a stack of letters that
 * the owner takes as a whole and turns round, so letters of one sender arrive in their order.  An
 * eventfd wakes the owner; it is written only when the box was empty.
 */
#ifndef NET_MAILBOX_H
#define NET_MAILBOX_H

#include "base/compiler.h"

#include <event2/event.h>
#include <stdatomic.h>
#include <stdbool.h>

/* The head of every letter.  A letter belongs to its sender until it is posted, then to the
 * receiver. */
struct letter {
	struct letter *next;
	int type;
};

typedef void (*mailbox_receive)(void *owner, struct letter *letter);

struct mailbox {
	_Atomic(struct letter *) head;
	int wake_fd;
	struct event *event;
	mailbox_receive receive;
	void *owner;
};

/* Opens the mailbox in `base`; every letter is given to receive(owner, letter) on the thread that
 * runs the base.  Returns false with errno when out of descriptors or memory. */
bool mailbox_open(struct mailbox *box, struct event_base *base, mailbox_receive receive,
                  void *owner) MUST_CHECK;

/* Posts a letter.  Any thread, until mailbox_close(). */
void mailbox_post(struct mailbox *box, struct letter *letter);

/* Receives what lies in the box now (owner's thread). */
void mailbox_drain(struct mailbox *box);

/* Closes it (owner's thread, when nobody posts any more); letters in it are received first. */
/* Sleeps until letters come, and has them received; for a thread that leaves its loop alone. */
void mailbox_wait(struct mailbox *box);

void mailbox_close(struct mailbox *box);

#endif
