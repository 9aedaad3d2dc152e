/* SPDX-License-Identifier: PostgreSQL */
#include "session/locks.h"

#include "session/hash.h"
#include "session/inspect_internal.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* OIDs of functions, which are those of all PostgreSQL (pg_proc.dat). */
#define TRY_LOCK_INT8 2882
#define TRY_LOCK_SHARED_INT8 2883
#define TRY_LOCK_INT4 2888
#define TRY_LOCK_SHARED_INT4 2889
#define UNLOCK_ALL 2892

/* Function calls for one session. */
#define CALLS_MAX 64

#define EQ " OPERATOR(pg_catalog.=) "

struct advisory_lock {
	uint32_t class_id;
	uint32_t object_id;
	unsigned int sub_id; /* 1: one key of 64 bits; 2: two of 32 */
	bool shared;
};

/* "class object sub mode", as the inspection says it. */
static bool lock_read(const char *name, struct advisory_lock *lock)
{
	char mode[32];

	if (sscanf(name, "%" SCNu32 " %" SCNu32 " %u %31s", &lock->class_id, &lock->object_id,
	           &lock->sub_id, mode) != 4 ||
	    (lock->sub_id != 1 && lock->sub_id != 2))
		return false;
	lock->shared = strcmp(mode, "ShareLock") == 0;
	return lock->shared || strcmp(mode, "ExclusiveLock") == 0;
}

/* The function's arguments. */
static void add_key(struct sbuf *sql, const struct advisory_lock *lock)
{
	if (lock->sub_id == 1)
		sbuf_printf(sql, "('%" PRId64 "'::pg_catalog.int8)",
		            (int64_t)((uint64_t)lock->class_id << 32 | lock->object_id));
	else
		sbuf_printf(sql, "('%" PRId32 "'::pg_catalog.int4, '%" PRId32 "'::pg_catalog.int4)",
		            (int32_t)lock->class_id, (int32_t)lock->object_id);
}

static void add_call(struct sbuf *sql, const char *function, const struct advisory_lock *lock)
{
	sbuf_printf(sql, "pg_catalog.%s%s", function, lock->shared ? "_shared" : "");
	add_key(sql, lock);
}

/* r counts the locks given back.  The last call finds none, which is a warning. */
static void add_count_sql(struct sbuf *sql, const char *name, const struct advisory_lock *lock)
{
	sbuf_add_str(sql, "WITH RECURSIVE r (n) AS (SELECT 0 UNION ALL"
	                  " SELECT r.n OPERATOR(pg_catalog.+) 1 FROM r WHERE ");
	add_call(sql, "pg_advisory_unlock", lock);
	sbuf_add_str(
	    sql, "), c AS MATERIALIZED (SELECT pg_catalog.max(r.n) AS n FROM r) SELECT 'lock', ");
	sbuf_printf(sql, "'%s', c.n::pg_catalog.text, (SELECT COALESCE(pg_catalog.sum(CASE WHEN ",
	            name);
	add_call(sql, "pg_try_advisory_lock", lock);
	sbuf_add_str(sql, " THEN 1 ELSE 0 END), 0) FROM pg_catalog.generate_series(1, c.n))"
	                  "::pg_catalog.text FROM c");
}

void locks_count_add(const struct session_state *state, struct sbuf *out)
{
	size_t counted = 0;
	size_t i;

	if (session_state_count_kind(state, SESSION_LOCK) == 0)
		return;
	session_add_unlimited(out);
	/* What ended it halfway would leave the session with less than it had. */
	session_add_run(out, "SELECT pg_catalog.set_config('statement_timeout', '0', true)");

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		struct advisory_lock lock;
		struct sbuf sql;

		if (row->kind != SESSION_LOCK || !lock_read(row->name, &lock) ||
		    ++counted > SESSION_LOCKS_MAX)
			continue;
		sbuf_init(&sql, 8192);
		sbuf_add_str(&sql, "SELECT ");
		add_call(&sql, "pg_advisory_xact_lock", &lock);
		session_add_run(out, sbuf_text(&sql));
		sbuf_reset(&sql);
		add_count_sql(&sql, row->name, &lock);
		session_add_run(out, sbuf_text(&sql));
		out->failed = out->failed || !sbuf_ok(&sql);
		sbuf_free(&sql);
	}
	wire_add_sync(out);
}

static bool cell_is(const struct wire_cell *cell, const char *text)
{
	return cell->data != NULL && strlen(text) == cell->len &&
	       memcmp(text, cell->data, cell->len) == 0;
}

bool locks_count_row(struct session_state *state, const void *body, size_t len)
{
	struct wire_cell cells[4];
	size_t count;
	size_t i;

	if (!wire_parse_data_row(body, len, cells, 4, &count) || count != 4 ||
	    !cell_is(&cells[0], "lock") || cells[2].data == NULL || cells[3].data == NULL)
		return false;
	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		bool same = cells[2].len == cells[3].len &&
		            memcmp(cells[2].data, cells[3].data, cells[2].len) == 0;

		if (row->kind != SESSION_LOCK || !cell_is(&cells[1], row->name))
			continue;
		return same && session_state_set_extra(state, i, cells[2].data, cells[2].len);
	}
	return false;
}

static long lock_count(const struct session_row *row)
{
	return row->extra == NULL ? 0 : strtol(row->extra, NULL, 10);
}

bool locks_counted(const struct session_state *state, struct sbuf *why)
{
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind != SESSION_LOCK || lock_count(row) > 0)
			continue;
		if (why != NULL)
			sbuf_printf(why,
			            "session-level advisory lock \"%s\", of which it is not known "
			            "how often it was taken",
			            row->name);
		return false;
	}
	return true;
}

uint64_t locks_print(const struct session_state *state)
{
	/* Each text is hashed under what came before. */
	struct hash_key key = {.a = UINT64_C(0x9e3779b97f4a7c15), .b = 0};
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		const char *count = row->extra == NULL ? "" : row->extra;

		if (row->kind != SESSION_LOCK)
			continue;
		key.b = hash_bytes(&key, row->name, strlen(row->name));
		key.b = hash_bytes(&key, count, strlen(count));
	}
	return key.b;
}

bool locks_refused(const char *sqlstate)
{
	/* Class 42: the function may not be called, or is not there.  That is found out before any
	 * is. */
	return strncmp(sqlstate, "42", 2) == 0;
}

bool locks_take_sql(const struct session_row *row, struct sbuf *sql)
{
	struct advisory_lock lock;
	long count = lock_count(row);

	if (row->kind != SESSION_LOCK || count <= 0 || !lock_read(row->name, &lock))
		return false;
	sbuf_add_str(sql, "SELECT 1 OPERATOR(pg_catalog./) CASE WHEN pg_catalog.bool_and(");
	add_call(sql, "pg_try_advisory_lock", &lock);
	sbuf_printf(sql, ") THEN 1 ELSE 0 END FROM pg_catalog.generate_series(1, %ld)", count);
	return true;
}

bool locks_callable(const struct session_state *state)
{
	long calls = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		struct advisory_lock lock;

		if (row->kind != SESSION_LOCK)
			continue;
		if (lock_count(row) <= 0 || lock_count(row) > CALLS_MAX ||
		    !lock_read(row->name, &lock))
			return false;
		calls += lock_count(row);
	}
	return calls <= CALLS_MAX;
}

unsigned locks_call_add(const struct session_row *row, struct sbuf *out)
{
	struct advisory_lock lock;
	long count = lock_count(row);
	uint8_t args[16];
	long i;

	if (row->kind != SESSION_LOCK || !lock_read(row->name, &lock))
		return 0;
	for (i = 0; i < count; i++) {
		if (lock.sub_id == 1) {
			wire_put_be32(args, 8);
			wire_put_be32(args + 4, lock.class_id);
			wire_put_be32(args + 8, lock.object_id);
			wire_add_function_call(
			    out, lock.shared ? TRY_LOCK_SHARED_INT8 : TRY_LOCK_INT8, args, 12, 1);
		} else {
			wire_put_be32(args, 4);
			wire_put_be32(args + 4, lock.class_id);
			wire_put_be32(args + 8, 4);
			wire_put_be32(args + 12, lock.object_id);
			wire_add_function_call(
			    out, lock.shared ? TRY_LOCK_SHARED_INT4 : TRY_LOCK_INT4, args, 16, 2);
		}
	}
	return (unsigned)i;
}

bool locks_call_failed(const void *body, size_t len)
{
	static const uint8_t no[] = {0, 0, 0, 1, 0};

	return len == sizeof(no) && memcmp(body, no, len) == 0;
}

void locks_free_add(struct sbuf *out)
{
	wire_add_function_call(out, UNLOCK_ALL, NULL, 0, 0);
}
