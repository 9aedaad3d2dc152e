/* SPDX-License-Identifier: PostgreSQL */
/*
 * What workers share: entries that are made once, the limit of a pool under contention, and the
 * slots of cancel keys.
 */
#include "core/share.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

#define THREADS 4
#define ROUNDS 20000
#define LIMIT 3

static int setup(void **state)
{
	*state = share_registry_new(4);
	return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	share_registry_free(*state);
	return 0;
}

static void test_found_again(void **state)
{
	struct share_registry *registry = *state;
	struct pool_share *pool = share_pool(registry, "db", "app", false);
	struct database_share *database = share_database(registry, "db");
	struct user_share *user = share_user(registry, "app");

	assert_non_null(pool);
	assert_ptr_equal(pool->database, database);
	assert_ptr_equal(share_pool(registry, "db", "app", false), pool);
	assert_ptr_equal(share_user(registry, "app"), user);
	assert_ptr_not_equal(share_pool(registry, "db", "other", false), pool);
	assert_ptr_not_equal(share_pool(registry, "other", "app", false), pool);
	assert_int_equal((uintptr_t)&pool->worker[1] % 64, 0);
	assert_int_equal((uintptr_t)&pool->worker[WORKERS_MAX - 1] % 64, 0);
}

/* With the last reference an entry goes, and what it said; but one that is disabled, or has clients. */
static void test_ends_with_its_last_reference(void **state)
{
	struct share_registry *registry = *state;
	struct database_share *database = share_database(registry, "db");
	struct pool_share *pool = share_pool(registry, "db", "app", false);

	atomic_store(&database->client_limit, 7);
	atomic_store(&pool->limit, 7);
	share_pool_unref(registry, pool_share_ref(pool));
	share_database_unref(registry, database);
	database = share_database(registry, "db"); /* the pool has it */
	assert_int_equal(atomic_load(&database->client_limit), 7);
	assert_int_equal(atomic_load(&pool->limit), 7);
	share_database_unref(registry, database);
	share_pool_unref(registry, pool);
	pool = share_pool(registry, "db", "app", false);
	assert_int_equal(atomic_load(&pool->limit), 0);
	assert_int_equal(atomic_load(&pool->database->client_limit), 0);
	share_pool_unref(registry, pool);

	database = share_database(registry, "db");
	atomic_store(&database->disabled, true);
	share_database_unref(registry, database);
	assert_true(share_is_disabled(registry, "db"));
	database = share_database(registry, "db");
	atomic_store(&database->disabled, false);
	atomic_store(&database->clients, 1);
	share_database_unref(registry, database);
	assert_ptr_equal(share_database(registry, "db"), database);
}

static void test_limit(void **state)
{
	enum share_full full;
	struct pool_share *pool = share_pool(*state, "db", "app", false);

	atomic_store(&pool->limit, 2);
	assert_true(pool_share_take(pool, 0, &full));
	assert_true(pool_share_take(pool, 0, &full));
	assert_false(pool_share_take(pool, 0, &full));
	pool_share_give_back(pool);
	assert_true(pool_share_take(pool, 0, &full));
	/* A limit that was lowered below what there is. */
	atomic_store(&pool->limit, 1);
	pool_share_give_back(pool);
	assert_false(pool_share_take(pool, 0, &full));
	pool_share_give_back(pool);
	assert_true(pool_share_take(pool, 0, &full));
	assert_int_equal(atomic_load(&pool->servers), 1);
}

static void test_limits_of_database_and_user(void **state)
{
	struct pool_share *one = share_pool(*state, "db", "app", false);
	struct pool_share *two = share_pool(*state, "db", "other", false);
	struct pool_share *elsewhere = share_pool(*state, "db2", "other", false);
	enum share_full full;

	atomic_store(&one->limit, 5);
	atomic_store(&two->limit, 5);
	atomic_store(&elsewhere->limit, 1);
	atomic_store(&one->database->server_limit, 2);
	atomic_store(&two->user_share->server_limit, 1);
	assert_true(pool_share_take(two, 0, &full));
	assert_false(pool_share_take(elsewhere, 0, &full));
	assert_int_equal(full, FULL_USER);
	assert_true(pool_share_take(one, 0, &full));
	assert_false(pool_share_take(one, 0, &full));
	assert_int_equal(full, FULL_DATABASE);
	/* What was refused counts nowhere. */
	assert_int_equal(atomic_load(&elsewhere->servers), 0);
	assert_int_equal(atomic_load(&elsewhere->database->servers), 0);
	assert_int_equal(atomic_load(&one->database->servers), 2);
	pool_share_give_back(two);
	assert_true(pool_share_take(elsewhere, 0, &full));
	assert_false(pool_share_take(elsewhere, 0, &full));
	assert_int_equal(full, FULL_POOL);
	pool_share_give_back(elsewhere);
	/* The reserve is beyond the pool's limit, not beyond the others. */
	atomic_store(&one->limit, 1);
	assert_true(pool_share_take(one, 1, &full));
	assert_false(pool_share_take(one, 2, &full));
	assert_int_equal(full, FULL_DATABASE);
}

struct contest {
	struct pool_share *pool;
	atomic_int inside;
	atomic_int most;
};

static void *contend(void *arg)
{
	struct contest *contest = arg;
	enum share_full full;

	for (int i = 0; i < ROUNDS; i++) {
		int now;
		int most;

		if (!pool_share_take(contest->pool, 0, &full))
			continue;
		now = atomic_fetch_add(&contest->inside, 1) + 1;
		most = atomic_load(&contest->most);
		while (now > most && !atomic_compare_exchange_weak(&contest->most, &most, now))
			;
		atomic_fetch_sub(&contest->inside, 1);
		pool_share_give_back(contest->pool);
	}
	return NULL;
}

static void test_limit_under_contention(void **state)
{
	struct contest contest = {.pool = share_pool(*state, "db", "app", false)};
	pthread_t threads[THREADS];

	atomic_store(&contest.pool->limit, LIMIT);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, contend, &contest), 0);
	for (int i = 0; i < THREADS; i++)
		(void)pthread_join(threads[i], NULL);
	assert_true(atomic_load(&contest.most) <= LIMIT);
	assert_int_equal(atomic_load(&contest.pool->servers), 0);
}

static void test_slots(void **state)
{
	struct share_registry *registry = *state;
	uint32_t slots[1000];
	unsigned worker;
	uint32_t again;

	assert_false(share_slot_find(registry, 0, &worker));
	for (unsigned i = 0; i < 1000; i++) {
		assert_true(share_slot_take(registry, i % 7, &slots[i]));
		for (unsigned j = 0; j < i && i < 50; j++)
			assert_int_not_equal(slots[i], slots[j]);
	}
	for (unsigned i = 0; i < 1000; i++) {
		assert_true(share_slot_find(registry, slots[i], &worker));
		assert_int_equal(worker, i % 7);
	}
	share_slot_move(registry, slots[5], 200);
	assert_true(share_slot_find(registry, slots[5], &worker));
	assert_int_equal(worker, 200);
	share_slot_give_back(registry, slots[5]);
	assert_false(share_slot_find(registry, slots[5], &worker));
	for (unsigned i = 0; i < 500; i++) {
		assert_true(share_slot_take(registry, 1, &again));
		assert_int_not_equal(again, slots[5]);
		share_slot_give_back(registry, again);
	}
	assert_false(share_slot_find(registry, UINT32_MAX, &worker));
	assert_false(share_slot_find(registry, 1u << 30, &worker));
}

/* A slot and one has to fit into the 18 bits that a key has for it (cancel.h), also when the slots go
 * round. */
static void test_slots_fit_into_keys(void **state)
{
	struct share_registry *registry = *state;
	uint32_t slot;

	for (unsigned i = 0; i < 131072; i++)
		assert_true(share_slot_take(registry, 1, &slot));
	for (unsigned i = 0; i < 262144; i++) {
		assert_true(share_slot_take(registry, 1, &slot));
		assert_true(slot + 1 < 1u << 18);
		share_slot_give_back(registry, slot);
	}
}

static void *take_slots(void *arg)
{
	struct share_registry *registry = arg;

	for (int i = 0; i < 2000; i++) {
		uint32_t slot;
		unsigned worker;

		if (!share_slot_take(registry, 3, &slot) ||
		    !share_slot_find(registry, slot, &worker) || worker != 3)
			return arg;
		share_slot_give_back(registry, slot);
	}
	return NULL;
}

static void test_slots_under_contention(void **state)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, take_slots, *state), 0);
	for (int i = 0; i < THREADS; i++) {
		void *failed = NULL;

		(void)pthread_join(threads[i], &failed);
		assert_null(failed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_found_again, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_ends_with_its_last_reference, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_limit, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_limits_of_database_and_user, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_limit_under_contention, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slots, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slots_fit_into_keys, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slots_under_contention, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
