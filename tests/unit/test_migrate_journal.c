/* SPDX-License-Identifier: PostgreSQL */
#include "base/mem.h"
#include "migrate/journal.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- JSON ---- */

static void test_json_round(void **state)
{
	struct sbuf out;
	struct json *json;

	(void)state;
	sbuf_init(&out, 4096);
	json_open(&out, NULL, '{');
	json_str(&out, "text", "a \"quoted\"\\ line\nand\ttab\x01");
	json_str(&out, "none", NULL);
	json_int(&out, "number", -42);
	json_bool(&out, "yes", true);
	json_msec(&out, "ms", 1500);
	json_open(&out, "list", '[');
	json_str(&out, NULL, "one");
	json_int(&out, NULL, 2);
	json_open(&out, NULL, '{');
	json_close(&out, '}');
	json_close(&out, ']');
	json_close(&out, '}');
	json = json_parse(sbuf_text(&out));
	assert_non_null(json);
	assert_string_equal(json_text(json, "text"), "a \"quoted\"\\ line\nand\ttab\x01");
	assert_null(json_text(json, "none"));
	assert_int_equal(json_number(json, "number", 0), -42);
	assert_string_equal(json_text(json, "yes"), "true");
	assert_string_equal(json_text(json, "ms"), "1.500");
	assert_int_equal(json_number(json, "text", 7), 7);
	assert_int_equal(json_number(json, "missing", 7), 7);
	assert_int_equal(json_get(json, "list")->type, JSON_ARRAY);
	assert_string_equal(json_get(json, "list")->first->text, "one");
	json_free(json);
	sbuf_free(&out);
}

static void test_json_malformed(void **state)
{
	static const char *const bad[] = {"",         "{",          "}",       "{\"a\"}",
	                                  "{\"a\":}", "{a:1}",      "[1,]",    "[1 2]",
	                                  "\"open",   "{\"a\":1}x", "\"\\q\"", "\"\\u12\"",
	                                  "nul",      "{\"a\":1,}", "1.2.3"};
	char deep[200];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_null(json_parse(bad[i]));
	memset(deep, '[', sizeof(deep));
	deep[sizeof(deep) - 1] = '\0';
	assert_null(json_parse(deep));
}

/* ---- the text of a journal ---- */

#define PLAN "{\"seq\":1,\"kind\":\"outcome\",\"phase\":\"plan\",\"data\":{\"epoch\":3}}\n"
#define HOLD "{\"seq\":2,\"kind\":\"intent\",\"phase\":\"hold\",\"data\":{}}\n"
#define END(result)                                                                                \
	"{\"seq\":3,\"kind\":\"outcome\",\"phase\":\"end\",\"data\":{\"result\":\"" result "\"}}"  \
	                                                                                   "\n"

static void test_parse(void **state)
{
	struct journal_records records = {0};

	(void)state;
	assert_true(journal_parse(PLAN HOLD, &records));
	assert_false(records.truncated);
	assert_false(journal_finished(&records));
	assert_non_null(journal_find(&records, "intent", "hold"));
	assert_null(journal_find(&records, "outcome", "hold"));
	assert_int_equal(
	    json_number(json_get(journal_find(&records, "outcome", "plan"), "data"), "epoch", 0),
	    3);
	journal_records_free(&records);
}

/* Wherever the last line is cut off, the records before it count and it does not. */
static void test_truncated(void **state)
{
	(void)state;
	for (size_t keep = 1; keep < strlen(HOLD); keep++) {
		struct journal_records records = {0};
		char *text = mem_must_printf("%s%.*s", PLAN, (int)keep, HOLD);

		assert_true(journal_parse(text, &records));
		assert_true(records.truncated);
		assert_non_null(journal_find(&records, "outcome", "plan"));
		assert_null(journal_find(&records, "intent", "hold"));
		journal_records_free(&records);
		free(text);
	}
}

/* A later run ends the line that was cut off and goes on. */
static void test_truncated_then_resumed(void **state)
{
	struct journal_records records = {0};

	(void)state;
	for (size_t keep = 1; keep + 1 < strlen(HOLD); keep++) {
		char *text = mem_must_printf("%s%.*s\n%s%s", PLAN, (int)keep, HOLD, HOLD,
		                             END("undone"));

		assert_true(journal_parse(text, &records));
		assert_non_null(journal_find(&records, "intent", "hold"));
		assert_true(journal_finished(&records));
		journal_records_free(&records);
		free(text);
	}
}

static void test_end(void **state)
{
	struct journal_records records = {0};

	(void)state;
	assert_true(journal_parse(PLAN END("done"), &records));
	assert_true(journal_finished(&records));
	journal_records_free(&records);
	assert_true(journal_parse(PLAN END("something else"), &records));
	assert_false(journal_finished(&records));
	journal_records_free(&records);
}

static void test_no_journal(void **state)
{
	struct journal_records records = {0};

	(void)state;
	assert_false(journal_parse("hello\n", &records));
	journal_records_free(&records);
	assert_false(journal_parse("{\"a\":1}\n", &records));
	journal_records_free(&records);
	assert_true(journal_parse("", &records));
	assert_null(records.first);
}

/* ---- on disk ---- */

static void test_disk(void **state)
{
	char parent[] = "/tmp/pgshunt-journal-XXXXXX";
	struct journal journal;
	struct journal_records records;
	struct sbuf error;
	char **ids;
	char *id;
	int lock;

	(void)state;
	assert_non_null(mkdtemp(parent));
	sbuf_init(&error, 1024);
	lock = journal_lock(parent, &error);
	assert_true(lock >= 0);
	assert_true(journal_lock(parent, &error) < 0); /* the second operator */
	journal_init(&journal);
	assert_true(journal_write(&journal, "intent", "hold", "", true)); /* no move yet: nothing */
	assert_true(journal_create(&journal, parent, "p2", &error));
	id = mem_must_strdup(journal.id);
	assert_true(journal_write(&journal, "outcome", "plan", "\"epoch\":1", true));
	assert_true(journal_write(&journal, "intent", "hold", "", false));
	/* As if it had been killed in the middle of a write. */
	assert_true(write(journal.fd, "{\"seq\":3", 8) == 8);
	journal_close(&journal);
	assert_int_equal(journal_list(parent, false, &ids), 1);
	assert_string_equal(ids[0], id);
	free(ids[0]);
	free(ids);
	assert_true(journal_read(parent, id, &records, &error));
	assert_true(records.truncated);
	assert_true(journal_reopen(&journal, parent, &records, &error));
	assert_int_equal(journal.sequence, 2);
	assert_true(journal_write(&journal, "outcome", "end", "\"result\":\"undone\"", true));
	assert_true(journal_save(&journal, "report.json", "{}\n"));
	journal_records_free(&records);
	assert_true(journal_read(parent, id, &records, &error));
	assert_true(journal_finished(&records));
	journal_records_free(&records);
	assert_int_equal(journal_list(parent, false, &ids), 0);
	assert_int_equal(journal_list(parent, true, &ids), 1);
	free(ids[0]);
	free(ids);
	/* Two moves in the same second have their own directories. */
	journal_close(&journal);
	assert_true(journal_create(&journal, parent, "p2", &error));
	journal_close(&journal);
	free(id);
	sbuf_free(&error);
	(void)close(lock);
}

/* The disk is full in the middle of a record, and has room again for the next. */
static void test_full_disk(void **state)
{
	char parent[] = "/tmp/pgshunt-journal-XXXXXX";
	struct journal journal;
	struct journal_records records;
	struct rlimit limit;
	struct rlimit before;
	struct sbuf error;
	int lock;

	(void)state;
	assert_non_null(mkdtemp(parent));
	sbuf_init(&error, 1024);
	lock = journal_lock(parent, &error);
	journal_init(&journal);
	assert_true(journal_create(&journal, parent, "p2", &error));
	assert_true(journal_write(&journal, "outcome", "plan", "\"epoch\":1", true));
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = (rlim_t)lseek(journal.fd, 0, SEEK_END) + 20;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_false(journal_write(&journal, "outcome", "promote", "", false));
	assert_false(journal_write(&journal, "outcome", "proof", "", false));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_true(journal_write(&journal, "intent", "open", "", false));
	assert_true(journal_write(&journal, "outcome", "open", "", false));
	assert_true(journal_read(parent, journal.id, &records, &error));
	assert_null(journal_find(&records, "outcome", "promote"));
	assert_non_null(journal_find(&records, "intent", "open"));
	assert_non_null(journal_find(&records, "outcome", "open"));
	journal_records_free(&records);
	journal_close(&journal);
	sbuf_free(&error);
	(void)close(lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_json_round),
	    cmocka_unit_test(test_json_malformed),
	    cmocka_unit_test(test_parse),
	    cmocka_unit_test(test_truncated),
	    cmocka_unit_test(test_truncated_then_resumed),
	    cmocka_unit_test(test_end),
	    cmocka_unit_test(test_no_journal),
	    cmocka_unit_test(test_disk),
	    cmocka_unit_test(test_full_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
