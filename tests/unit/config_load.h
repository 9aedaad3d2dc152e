/* SPDX-License-Identifier: PostgreSQL */
/* Loading a configuration from a text, for its tests. */
#ifndef TESTS_UNIT_CONFIG_LOAD_H
#define TESTS_UNIT_CONFIG_LOAD_H

#include "base/sbuf.h"
#include "conf/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* What every right configuration has; the tests put it behind what they test. */
#define REST "servers: {pg1: {host: h1}}\ndatabases: {d1: {server: pg1}}\n"

static inline struct config *load_bytes(const char *yaml, size_t len, struct sbuf *errors)
{
	struct config *config;
	bool right;

	sbuf_init(errors, (size_t)1024 * 1024);
	right = config_load_buffer("f", yaml, len, &config, errors);
	assert_true(right == (config != NULL));
	assert_true(right == (errors->len == 0));
	assert_true(sbuf_ok(errors));
	return config;
}

static inline struct config *must_load(const char *yaml)
{
	struct sbuf errors;
	struct config *config = load_bytes(yaml, strlen(yaml), &errors);

	if (config == NULL)
		fail_msg("%s", sbuf_text(&errors));
	sbuf_free(&errors);
	return config;
}

/* The whole of the errors must be `expected`. */
static inline void expect_errors_len(const char *yaml, size_t len, const char *expected)
{
	struct sbuf errors;
	struct config *config = load_bytes(yaml, len, &errors);

	assert_null(config);
	assert_string_equal(sbuf_text(&errors), expected);
	sbuf_free(&errors);
}

static inline void expect_errors(const char *yaml, const char *expected)
{
	expect_errors_len(yaml, strlen(yaml), expected);
}

#endif
