/* SPDX-License-Identifier: PostgreSQL */
/* The cache of auth_query: ages, bound, and that what was learned outlives an equal answer. */
#include "auth/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_ages(void **state)
{
	struct auth_cache *cache = auth_cache_new(10);
	struct auth_user *user;
	struct auth_user *again;

	(void)state;
	assert_int_equal(auth_cache_get(cache, "s", "u", 100, 50, 5, &user), AUTH_CACHE_MISS);
	assert_null(user);
	assert_true(auth_cache_put(cache, "s", "u", "secret", 100, &user));
	assert_string_equal(auth_user_secret(user), "secret");
	assert_int_equal(auth_cache_get(cache, "s", "u", 149, 50, 5, &again), AUTH_CACHE_FRESH);
	assert_ptr_equal(user, again);
	auth_user_unref(again);
	assert_int_equal(auth_cache_get(cache, "s", "u", 150, 50, 5, &again), AUTH_CACHE_STALE);
	assert_ptr_equal(user, again);
	auth_user_unref(again);
	assert_int_equal(auth_cache_get(cache, "t", "u", 100, 50, 5, &again), AUTH_CACHE_MISS);
	assert_int_equal(auth_cache_get(cache, "", "su", 100, 50, 5, &again), AUTH_CACHE_MISS);
	/* Absent ones have an age of their own. */
	assert_true(auth_cache_put(cache, "s", "nobody", NULL, 100, &again));
	assert_null(again);
	assert_int_equal(auth_cache_get(cache, "s", "nobody", 104, 50, 5, &again),
	                 AUTH_CACHE_FRESH);
	assert_null(again);
	assert_int_equal(auth_cache_get(cache, "s", "nobody", 105, 50, 5, &again),
	                 AUTH_CACHE_STALE);
	/* The same answer keeps the object, another one does not. */
	assert_true(auth_cache_put(cache, "s", "u", "secret", 200, &again));
	assert_ptr_equal(user, again);
	auth_user_unref(again);
	assert_true(auth_cache_put(cache, "s", "u", "other", 200, &again));
	assert_ptr_not_equal(user, again);
	auth_user_unref(again);
	auth_user_unref(user);
	/* Doubted once in a while, whatever is answered meanwhile. */
	assert_false(auth_cache_doubt(cache, "s", "unknown", 200, 5));
	assert_true(auth_cache_doubt(cache, "s", "u", 200, 5));
	assert_true(auth_cache_put(cache, "s", "u", "third", 201, &user));
	auth_user_unref(user);
	assert_false(auth_cache_doubt(cache, "s", "u", 204, 5));
	assert_true(auth_cache_doubt(cache, "s", "u", 205, 5));
	assert_true(auth_cache_put(cache, "s", "u", NULL, 201, &user));
	assert_int_equal(auth_cache_get(cache, "s", "u", 201, 50, 5, &user), AUTH_CACHE_FRESH);
	assert_null(user);
	auth_cache_expire_all(cache);
	assert_int_equal(auth_cache_get(cache, "s", "u", 201, 50, 5, &user), AUTH_CACHE_STALE);
	auth_cache_free(cache);
}

static void test_bound(void **state)
{
	struct auth_cache *cache = auth_cache_new(100);
	struct auth_user *user;
	char name[32];

	(void)state;
	assert_true(auth_cache_put(cache, "s", "kept", "x", 1, &user));
	auth_user_unref(user);
	for (int i = 0; i < 10000; i++) {
		(void)snprintf(name, sizeof(name), "u%d", i);
		assert_true(auth_cache_put(cache, "s", name, NULL, 1, &user));
		assert_int_equal(auth_cache_get(cache, "s", "kept", 1, 9, 9, &user),
		                 AUTH_CACHE_FRESH);
		auth_user_unref(user);
	}
	assert_int_equal(auth_cache_count(cache), 100);
	assert_int_equal(auth_cache_get(cache, "s", "u9901", 1, 9, 9, &user), AUTH_CACHE_FRESH);
	assert_int_equal(auth_cache_get(cache, "s", "u9900", 1, 9, 9, &user), AUTH_CACHE_MISS);
	auth_cache_free(cache);
}

static void test_wrong_secret(void **state)
{
	struct auth_cache *cache = auth_cache_new(2);
	struct auth_user *user;

	(void)state;
	assert_false(auth_cache_put(cache, "s", "u", "SCRAM-SHA-256$nonsense", 1, &user));
	assert_null(user);
	assert_int_equal(auth_cache_count(cache), 0);
	auth_cache_free(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ages),
	    cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_wrong_secret),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
