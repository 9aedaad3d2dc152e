/* SPDX-License-Identifier: PostgreSQL */
#include "session/locks.h"

#include "session/inspect_internal.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* `row`: what the columns are of. */
static void add_same_key(struct sbuf *sql, const char *row, const struct advisory_lock *lock)
{
	sbuf_printf(sql,
	            "%s.locktype" EQ "'advisory' AND %s.classid" EQ "'%" PRIu32
	            "'::pg_catalog.oid AND %s.objid" EQ "'%" PRIu32 "'::pg_catalog.oid"
	            " AND %s.objsubid" EQ "%u AND %s.database" EQ
	            "(SELECT d.oid FROM pg_catalog.pg_database d"
	            " WHERE d.datname" EQ "pg_catalog.current_database())",
	            row, row, lock->class_id, row, lock->object_id, row, lock->sub_id, row);
}

/*
 * r counts the locks given back: before each it looks whether there is one (unlocking what one does
 * not have is a warning in the server's log), and CASE keeps the order.  The function must stand in
 * a list of results: in FROM it would be called once and its rows used again.
 */
static void add_count_sql(struct sbuf *sql, const char *name, const struct advisory_lock *lock)
{
	sbuf_add_str(sql, "WITH RECURSIVE r (n) AS (SELECT 0 WHERE NOT EXISTS"
	                  " (SELECT FROM pg_catalog.pg_locks l WHERE NOT l.granted AND ");
	add_same_key(sql, "l", lock);
	sbuf_add_str(sql, ") UNION ALL SELECT r.n OPERATOR(pg_catalog.+) 1 FROM r WHERE CASE WHEN"
	                  " (SELECT pg_catalog.count(*) FROM"
	                  " (SELECT pg_catalog.pg_lock_status() AS s) l"
	                  " WHERE r.n OPERATOR(pg_catalog.>=) 0 AND ");
	add_same_key(sql, "(l.s)", lock);
	sbuf_printf(sql,
	            " AND (l.s).pid" EQ "pg_catalog.pg_backend_pid() AND (l.s).mode" EQ
	            "'%s') OPERATOR(pg_catalog.>) 0 THEN ",
	            lock->shared ? "ShareLock" : "ExclusiveLock");
	add_call(sql, "pg_advisory_unlock", lock);
	sbuf_add_str(sql,
	             " ELSE false END), c AS MATERIALIZED (SELECT COALESCE(pg_catalog.max(r.n), 0)"
	             " AS n FROM r) SELECT 'lock', ");
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

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		struct advisory_lock lock;
		struct sbuf sql;

		if (row->kind != SESSION_LOCK || !lock_read(row->name, &lock) ||
		    ++counted > SESSION_LOCKS_MAX)
			continue;
		sbuf_init(&sql, 8192);
		add_count_sql(&sql, row->name, &lock);
		session_add_run(out, sbuf_text(&sql));
		out->failed = out->failed || !sbuf_ok(&sql);
		sbuf_free(&sql);
	}
	if (counted > 0)
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
		return session_state_set_extra(state, i, same ? cells[2].data : "lost",
		                               same ? cells[2].len : 4);
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
			            "session-level advisory lock \"%s\": how often it was taken "
			            "cannot be counted while another session waits for it",
			            row->name);
		return false;
	}
	return true;
}

bool locks_lost(const struct session_state *state)
{
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_LOCK && row->extra != NULL &&
		    strcmp(row->extra, "lost") == 0)
			return true;
	}
	return false;
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
