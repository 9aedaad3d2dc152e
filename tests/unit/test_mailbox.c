/* SPDX-License-Identifier: PostgreSQL */
/*
 * The mailbox: nothing is lost, letters of one sender keep their order, and the owner wakes, also
 * with several threads posting at once.
 */
#include "net/mailbox.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

#define SENDERS 4
#define LETTERS 5000

struct note {
	struct letter letter;
	int number;
};

struct owner {
	struct mailbox box;
	struct event_base *base;
	int received[SENDERS];
	int total;
	bool disorder;
};

struct sender {
	struct owner *owner;
	int type;
};

static void receive(void *arg, struct letter *letter)
{
	struct owner *owner = arg;
	struct note *note = (struct note *)(void *)letter;

	if (note->number != owner->received[letter->type]++)
		owner->disorder = true;
	owner->total++;
	free(note);
	if (owner->total == SENDERS * LETTERS)
		(void)event_base_loopbreak(owner->base);
}

static void post(struct owner *owner, int type, int number)
{
	struct note *note = calloc(1, sizeof(*note));

	if (note == NULL)
		abort();
	note->letter.type = type;
	note->number = number;
	mailbox_post(&owner->box, &note->letter);
}

static void *send_all(void *arg)
{
	const struct sender *sender = arg;

	for (int i = 0; i < LETTERS; i++)
		post(sender->owner, sender->type, i);
	return NULL;
}

static void open_owner(struct owner *owner)
{
	memset(owner, 0, sizeof(*owner));
	owner->base = event_base_new();
	assert_non_null(owner->base);
	assert_true(mailbox_open(&owner->box, owner->base, receive, owner));
}

static void close_owner(struct owner *owner)
{
	mailbox_close(&owner->box);
	event_base_free(owner->base);
}

static void test_several_senders(void **state)
{
	struct owner owner;
	struct sender senders[SENDERS];
	pthread_t threads[SENDERS];

	(void)state;
	open_owner(&owner);
	for (int i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){&owner, i};
		assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
	}
	(void)event_base_dispatch(owner.base);
	for (int i = 0; i < SENDERS; i++)
		(void)pthread_join(threads[i], NULL);
	close_owner(&owner);
	assert_int_equal(owner.total, SENDERS * LETTERS);
	assert_false(owner.disorder);
}

static void test_letters_at_the_end_are_received(void **state)
{
	struct owner owner;

	(void)state;
	open_owner(&owner);
	for (int i = 0; i < 10; i++)
		post(&owner, 0, i);
	close_owner(&owner);
	assert_int_equal(owner.total, 10);
	assert_false(owner.disorder);
}

static void test_drain_without_loop(void **state)
{
	struct owner owner;

	(void)state;
	open_owner(&owner);
	mailbox_drain(&owner.box);
	post(&owner, 1, 0);
	mailbox_drain(&owner.box);
	assert_int_equal(owner.total, 1);
	/* The wake-up that is left finds nothing, and the next letter wakes again. */
	(void)event_base_loop(owner.base, EVLOOP_NONBLOCK);
	assert_int_equal(owner.total, 1);
	post(&owner, 1, 1);
	(void)event_base_loop(owner.base, EVLOOP_NONBLOCK);
	assert_int_equal(owner.total, 2);
	close_owner(&owner);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_several_senders),
	    cmocka_unit_test(test_letters_at_the_end_are_received),
	    cmocka_unit_test(test_drain_without_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
