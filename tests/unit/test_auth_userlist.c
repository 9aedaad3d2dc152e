/* SPDX-License-Identifier: PostgreSQL */
/* The users file, and what a user object computes once and keeps. */
#include "auth/userlist.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PG_SECRET                                                                                  \
	"SCRAM-SHA-256$4096:WNksj8MQwLfcIVIPhgB62w==$"                                             \
	"c8qA8pA3msxP4b+NG/NxWm7sLtkBR/W0XzQux1V3un0=:"                                            \
	"IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI="

static struct userlist *parse(const char *text, size_t len, const struct userlist *previous)
{
	struct sbuf error;
	char *copy = malloc(len + 1);
	struct userlist *list;

	assert_non_null(copy);
	copy = realloc(copy, len == 0 ? 1 : len);
	assert_non_null(copy);
	memcpy(copy, text, len);
	sbuf_init(&error, 1000);
	list = userlist_parse("userlist.txt", copy, len, previous, false, &error);
	assert_string_equal(sbuf_text(&error), "");
	assert_non_null(list);
	free(copy);
	sbuf_free(&error);
	return list;
}

#define PARSE(text) parse(text, sizeof(text) - 1, NULL)

static void expect_error(const char *text, size_t len, const char *expected)
{
	struct sbuf error;

	sbuf_init(&error, 1000);
	assert_null(userlist_parse("userlist.txt", text, len, NULL, false, &error));
	assert_string_equal(sbuf_text(&error), expected);
	sbuf_free(&error);
}

#define EXPECT_ERROR(text, expected) expect_error(text, sizeof(text) - 1, expected)

static void expect_user(const struct userlist *list, const char *name, enum auth_secret_kind kind,
                        const char *secret)
{
	struct auth_user *user = userlist_find(list, name);

	assert_non_null(user);
	assert_string_equal(auth_user_name(user), name);
	assert_int_equal(auth_user_kind(user), kind);
	assert_string_equal(auth_user_secret(user), secret);
}

static void test_format(void **state)
{
	struct userlist *list = PARSE("; comment \"not\" \"a user\"\n"
	                              "\n"
	                              "  \t\r\n"
	                              "\"plain\" \"pass word\"\n"
	                              "  \"indented\"\t\"x\" \"more\" is ignored ; \"\n"
	                              "\"quote\"\"d\" \"a\"\"b\"\"\"\"c\"\r\n"
	                              "\"md5u\" \"md5e7a97d395fb22b42266826188b3f53e0\"\n"
	                              "\"scramu\" \"" PG_SECRET "\"\n"
	                              "\"none\" \"\"\n"
	                              "\"no space\"\"\" \"odd\"\n"
	                              "\"plain\" \"the last one wins\"\n"
	                              "\"\xc3\xa4\" \"\xc3\xb6\"");

	(void)state;
	assert_int_equal(userlist_count(list), 8);
	expect_user(list, "plain", AUTH_SECRET_PLAIN, "the last one wins");
	expect_user(list, "indented", AUTH_SECRET_PLAIN, "x");
	expect_user(list, "quote\"d", AUTH_SECRET_PLAIN, "a\"b\"\"c");
	expect_user(list, "md5u", AUTH_SECRET_MD5, "md5e7a97d395fb22b42266826188b3f53e0");
	expect_user(list, "scramu", AUTH_SECRET_SCRAM, PG_SECRET);
	expect_user(list, "none", AUTH_SECRET_NONE, "");
	expect_user(list, "no space\"", AUTH_SECRET_PLAIN, "odd");
	expect_user(list, "\xc3\xa4", AUTH_SECRET_PLAIN, "\xc3\xb6");
	assert_null(userlist_find(list, "not"));
	assert_null(userlist_find(list, ""));
	assert_null(userlist_find(list, "zzz"));
	userlist_unref(list);
	list = PARSE("");
	assert_int_equal(userlist_count(list), 0);
	assert_null(userlist_find(list, "x"));
	userlist_unref(list);
	list = userlist_empty();
	assert_null(userlist_find(list, "x"));
	userlist_unref(list);
}

static void test_errors(void **state)
{
	char text[70000];

	(void)state;
	EXPECT_ERROR("user \"x\"\n", "userlist.txt:1: expected a user name in double quotes");
	EXPECT_ERROR("\n\n# \"x\"\n", "userlist.txt:3: expected a user name in double quotes");
	EXPECT_ERROR("\"u\"\n", "userlist.txt:1: expected a password in double quotes");
	EXPECT_ERROR("\"u\" secret\n", "userlist.txt:1: expected a password in double quotes");
	EXPECT_ERROR("\"u", "userlist.txt:1: the user name has no closing double quote");
	EXPECT_ERROR("\"u\n\" \"x\"", "userlist.txt:1: the user name has no closing double quote");
	EXPECT_ERROR("\"u\0v\" \"x\"", "userlist.txt:1: the user name has no closing double quote");
	EXPECT_ERROR("\"u\" \"secret", "userlist.txt:1: the password has no closing double quote");
	EXPECT_ERROR("\"u\" \"secret\"\"",
	             "userlist.txt:1: the password has no closing double quote");
	EXPECT_ERROR("\"\" \"secret\"", "userlist.txt:1: the user name is empty");
	EXPECT_ERROR("\"ok\" \"x\"\n\"u\" \"SCRAM-SHA-256$4096:bad\"",
	             "userlist.txt:2: malformed SCRAM secret; expected "
	             "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>");
	memset(text, 'x', sizeof(text));
	text[0] = '"';
	expect_error(text, sizeof(text), "userlist.txt:1: the user name is longer than 127 bytes");
	memcpy(text, "\"u\" \"", 5);
	expect_error(text, sizeof(text), "userlist.txt:1: the password is longer than 65530 bytes");
}

/* As pgbouncer: what comes before a wrong line counts. */
static void test_theirs(void **state)
{
	static const char text[] = "\"a\" \"x\"\n\"b\" \"SCRAM-SHA-256$nonsense\"\n\"\" \"y\"\n"
	                           "\"c\" \"z\"\n# no comment there\n\"d\" \"y\"\n";
	struct userlist *list;
	struct sbuf error;

	(void)state;
	sbuf_init(&error, 1024);
	list = userlist_parse("f", text, strlen(text), NULL, true, &error);
	assert_non_null(list);
	assert_int_equal(userlist_count(list), 2);
	assert_non_null(userlist_find(list, "a"));
	assert_non_null(userlist_find(list, "c"));
	assert_string_equal(sbuf_text(&error), "f:5: expected a user name in double quotes");
	userlist_unref(list);
	sbuf_free(&error);
}

static void test_files(void **state)
{
	char path[] = "/tmp/test_userlist_XXXXXX";
	int fd = mkstemp(path);
	struct sbuf error;
	struct userlist *list;

	(void)state;
	sbuf_init(&error, 1000);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "\"a\" \"b\"\n", 8), 8);
	(void)close(fd);
	list = userlist_load(path, NULL, false, &error);
	assert_non_null(list);
	expect_user(list, "a", AUTH_SECRET_PLAIN, "b");
	userlist_unref(list);
	(void)unlink(path);
	assert_null(userlist_load(path, NULL, false, &error));
	assert_non_null(strstr(sbuf_text(&error), "No such file"));
	sbuf_reset(&error);
	assert_null(userlist_load("/tmp", NULL, false, &error));
	/* No device but the empty one; a pipe could be read once, and nobody may ever write to it. */
	list = userlist_load("/dev/null", NULL, false, &error);
	assert_non_null(list);
	assert_int_equal(userlist_count(list), 0);
	userlist_unref(list);
	assert_null(userlist_load("/dev/zero", NULL, false, &error));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_null(userlist_load(path, NULL, false, &error));
	(void)unlink(path);
	sbuf_free(&error);
}

/* Many users out of order are all found. */
static void test_many(void **state)
{
	struct sbuf text;
	struct userlist *list;
	char name[20];

	(void)state;
	sbuf_init(&text, 1 << 20);
	for (unsigned i = 0; i < 1000; i++)
		sbuf_printf(&text, "\"u%u\" \"p%u\"\n", i * 7919 % 1000, i);
	list = parse(text.data, text.len, NULL);
	assert_int_equal(userlist_count(list), 1000);
	for (unsigned i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof(name), "u%u", i);
		assert_non_null(userlist_find(list, name));
	}
	userlist_unref(list);
	sbuf_free(&text);
}

/* A reload keeps the objects of users that did not change. */
static void test_reload(void **state)
{
	struct userlist *old = PARSE("\"same\" \"x\"\n\"changed\" \"x\"\n\"gone\" \"x\"\n");
	static const char text[] = "\"changed\" \"y\"\n\"new\" \"x\"\n\"same\" \"x\"\n";
	struct userlist *list = parse(text, sizeof(text) - 1, old);
	struct auth_user *gone = auth_user_ref(userlist_find(old, "gone"));

	(void)state;
	assert_ptr_equal(userlist_find(list, "same"), userlist_find(old, "same"));
	assert_ptr_not_equal(userlist_find(list, "changed"), userlist_find(old, "changed"));
	assert_null(userlist_find(list, "gone"));
	userlist_unref(old);
	expect_user(list, "same", AUTH_SECRET_PLAIN, "x");
	assert_string_equal(auth_user_name(gone), "gone");
	auth_user_unref(gone);
	userlist_unref(userlist_ref(list));
	userlist_unref(list);
}

static void test_derive(void **state)
{
	struct userlist *list = PARSE("\"plain\" \"pencil\"\n"
	                              "\"md5u\" \"md5e7a97d395fb22b42266826188b3f53e0\"\n"
	                              "\"none\" \"\"\n");
	struct auth_user *plain = userlist_find(list, "plain");
	struct scram_secret first;
	struct scram_secret second;

	(void)state;
	userlist_warm(list, NULL);
	assert_true(auth_user_scram_secret(plain, &first));
	assert_true(auth_user_scram_secret(plain, &second));
	assert_memory_equal(&first, &second, sizeof(first));
	assert_int_equal(first.iterations, SCRAM_ITERATIONS);
	assert_false(auth_user_scram_secret(userlist_find(list, "md5u"), &first));
	assert_false(auth_user_scram_secret(userlist_find(list, "none"), &first));
	userlist_unref(list);
}

static void *derive_thread(void *arg)
{
	struct scram_secret *out = malloc(sizeof(*out));

	if (out != NULL && !auth_user_scram_secret(arg, out)) {
		free(out);
		return NULL;
	}
	return out;
}

/* Threads that derive at the same time all get the same secret. */
static void test_derive_threads(void **state)
{
	struct auth_user *user = auth_user_new("u", "pencil");
	pthread_t threads[4];
	void *secrets[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, derive_thread, user), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		assert_int_equal(pthread_join(threads[i], &secrets[i]), 0);
		assert_non_null(secrets[i]);
		assert_memory_equal(secrets[0], secrets[i], sizeof(struct scram_secret));
	}
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		free(secrets[i]);
	auth_user_unref(user);
}

static void test_learn(void **state)
{
	struct auth_user *user = auth_user_new("scramu", PG_SECRET);
	struct scram_secret secret;
	struct scram_keys keys;
	struct scram_keys got;
	uint8_t wrong[SCRAM_KEY_LEN] = {1};
	const char *why;

	(void)state;
	assert_non_null(user);
	assert_true(auth_user_scram_secret(user, &secret));
	assert_true(scram_derive("pencil", secret.salt, secret.salt_len, 4096, &keys, NULL));
	assert_false(auth_user_can_scram(user, &why));
	assert_non_null(why);
	auth_user_learn(user, wrong);
	assert_false(auth_user_can_scram(user, &why));
	auth_user_learn(user, keys.client_key);
	assert_true(auth_user_can_scram(user, &why));
	assert_true(auth_user_server_keys(user, secret.salt, secret.salt_len, 4096, &got, &why));
	assert_memory_equal(&got, &keys, sizeof(keys));
	/* Another salt or count: another secret. */
	assert_false(auth_user_server_keys(user, "salt", 4, 4096, &got, &why));
	assert_non_null(why);
	assert_false(auth_user_server_keys(user, secret.salt, secret.salt_len, 4097, &got, &why));
	auth_user_unref(user);
}

/* More salts than are kept: all answers stay right. */
static void test_server_keys(void **state)
{
	struct auth_user *user = auth_user_new("u", "pencil");
	struct scram_keys expected;
	struct scram_keys got;
	const char *why;
	char salt[4] = "sal0";

	(void)state;
	for (unsigned round = 0; round < 3; round++) {
		for (salt[3] = '0'; salt[3] < '7'; salt[3]++) {
			assert_true(scram_derive("pencil", salt, 4, 10, &expected, NULL));
			assert_true(auth_user_server_keys(user, salt, 4, 10, &got, &why));
			assert_memory_equal(&got, &expected, sizeof(got));
			assert_true(auth_user_server_keys(user, salt, 4, 10, &got, &why));
			assert_memory_equal(&got, &expected, sizeof(got));
		}
	}
	assert_false(auth_user_server_keys(user, salt, 4, 0, &got, &why));
	assert_false(auth_user_server_keys(user, salt, 4, SCRAM_ITERATIONS_MAX + 1, &got, &why));
	auth_user_unref(user);
}

static void test_user_new(void **state)
{
	struct auth_user *user = auth_user_new("u", NULL);

	(void)state;
	assert_int_equal(auth_user_kind(user), AUTH_SECRET_NONE);
	assert_string_equal(auth_user_secret(user), "");
	auth_user_unref(user);
	assert_null(auth_user_new("u", "SCRAM-SHA-256$broken"));
	user = auth_user_new("u", "md5 is not a hash");
	assert_int_equal(auth_user_kind(user), AUTH_SECRET_PLAIN);
	auth_user_unref(user);
	auth_user_unref(NULL);
	assert_null(auth_user_ref(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_format),         cmocka_unit_test(test_errors),
	    cmocka_unit_test(test_files),
	    cmocka_unit_test(test_theirs),          cmocka_unit_test(test_many),
	    cmocka_unit_test(test_reload),         cmocka_unit_test(test_derive),
	    cmocka_unit_test(test_derive_threads), cmocka_unit_test(test_learn),
	    cmocka_unit_test(test_server_keys),    cmocka_unit_test(test_user_new),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
