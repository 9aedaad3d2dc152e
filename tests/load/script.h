/* SPDX-License-Identifier: PostgreSQL */
/*
 * SQL with the placeholders :run, :client and :number, as the clients send it: with literals in a
 * simple query, with $n in the extended protocol.
 */
#ifndef LOAD_SCRIPT_H
#define LOAD_SCRIPT_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRIPT_PARAMS_MAX 16

/* The table that `pgshunt_load setup` makes.  It has no unique index: a row that was written twice
 * must be there twice to be counted. */
#define SCRIPT_SETUP                                                                               \
	"CREATE TABLE IF NOT EXISTS pgshunt_load_row (run bigint NOT NULL, client integer NOT "    \
	"NULL, "                                                                                   \
	"number bigint NOT NULL, written_at timestamptz NOT NULL DEFAULT clock_timestamp(), "      \
	"payload text NOT NULL DEFAULT repeat('x', 100)); "                                        \
	"CREATE INDEX IF NOT EXISTS pgshunt_load_row_key ON pgshunt_load_row (run, client, "       \
	"number)"
#define SCRIPT_WRITE                                                                               \
	"INSERT INTO pgshunt_load_row (run, client, number) VALUES (:run, :client, :number)"
#define SCRIPT_READ                                                                                \
	"SELECT count(*) FROM pgshunt_load_row WHERE run = :run AND client = :client "             \
	"AND number = :number"
#define SCRIPT_ROWS "SELECT client, number FROM pgshunt_load_row WHERE run = :run"

enum script_value { VALUE_RUN, VALUE_CLIENT, VALUE_NUMBER, VALUE_COUNT };

struct script {
	char *text;   /* as given */
	char *params; /* with $1, $2 … */
	int count;
	enum script_value values[SCRIPT_PARAMS_MAX];
	unsigned types[SCRIPT_PARAMS_MAX];
};

struct script_values {
	int64_t number[VALUE_COUNT];
};

/* False, with a message on stderr, if it has more placeholders than SCRIPT_PARAMS_MAX. */
bool script_parse(struct script *script, const char *text) MUST_CHECK;
void script_free(struct script *script);

/* The text with literals; free()d by the caller. */
char *script_expand(const struct script *script, const struct script_values *values) MUST_CHECK;

#define SCRIPT_NUMBER_MAX 24

/* The parameters as text, for PQsendQueryParams(). */
void script_bind(const struct script *script, const struct script_values *values,
                 char text[SCRIPT_PARAMS_MAX][SCRIPT_NUMBER_MAX],
                 const char *params[SCRIPT_PARAMS_MAX]);

#endif
