/* SPDX-License-Identifier: PostgreSQL */
#include "session/temp_table.h"

#include "session/copies.h"
#include "session/inspect_internal.h"
#include "session/neutral.h"
#include "session/temp_sql.h"
#include "wire/build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest command of ours; a definition may be long. */
#define SQL_MAX ((size_t)4 * 1024 * 1024)

#define PROBE "pgshunt_probe"

/* ---- texts ---- */

static void add_relation(struct sbuf *sql, const char *name)
{
	sbuf_add_str(sql, "pg_temp.");
	neutral_add_quoted(sql, '"', name);
}

static void add_role(struct sbuf *out, const char *role)
{
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, "SELECT WHERE pg_catalog.set_config('role', ");
	neutral_add_literal(&sql, role == NULL ? "none" : role);
	sbuf_add_str(&sql, ", true) IS NULL");
	neutral_run(out, &sql);
}

/* ---- what there is ---- */

bool temp_exists(const struct session_state *state)
{
	return session_state_count_kind(state, SESSION_TEMPORARY) > 0;
}

bool temp_described(const struct session_state *state)
{
	return session_state_count_kind(state, SESSION_TEMP_SHAPE) > 0 ||
	       session_state_count_kind(state, SESSION_TEMP_PIN) > 0;
}

static const char *relation_kind(const struct session_state *state, const char *name)
{
	const struct session_row *row = session_state_find(state, SESSION_TEMPORARY, name);

	return row == NULL || row->value == NULL ? "" : row->value;
}

static bool is_sequence(const struct session_state *state, const char *name)
{
	return strcmp(relation_kind(state, name), "S") == 0;
}

unsigned temp_describe_add(const struct session_state *state, struct sbuf *out)
{
	neutral_add(state, out);
	session_add_run(out, temp_touch_sql);
	wire_add_sync(out);
	neutral_add(state, out);
	session_add_run(out, temp_shape_sql);
	session_add_run(out, temp_define_sql);
	wire_add_sync(out);
	return 2;
}

unsigned temp_shape_add(const struct session_state *state, struct sbuf *out)
{
	neutral_add(state, out);
	session_add_run(out, temp_shape_sql);
	wire_add_sync(out);
	return 1;
}

long long temp_size(const struct session_state *state)
{
	const struct session_row *row = session_state_find(state, SESSION_TEMP_SIZE, "bytes");

	return row == NULL || row->value == NULL ? 0 : strtoll(row->value, NULL, 10);
}

bool temp_give_up(struct session_state *state, const char *name, const char *why)
{
	const struct session_row row = {.kind = SESSION_TEMP_PIN, .name = name, .value = why};

	return session_state_put(state, &row);
}

static void add_reason(struct sbuf *why, const char *name, const char *reason)
{
	if (why->len > 0)
		sbuf_add_str(why, "; ");
	if (name[0] == '\0')
		sbuf_printf(why, "temporary tables: %.200s", reason);
	else
		sbuf_printf(why, "temporary object \"%.64s\": %.200s", name, reason);
}

void temp_why(const struct session_state *state, struct sbuf *why)
{
	const size_t count = session_state_count_kind(state, SESSION_TEMPORARY);
	const size_t before = why->len;
	size_t i;

	for (i = 0; i < session_state_count(state) && why->len + 400 < why->max; i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_TEMP_PIN)
			add_reason(why, row->name, row->value == NULL ? "" : row->value);
		else if (row->kind == SESSION_ON_COMMIT &&
		         (row->value == NULL || strcmp(row->value, "unknown") == 0))
			add_reason(why, row->name, "its ON COMMIT cannot be learnt");
	}
	/* One may be about another: they go together or not at all. */
	if (why->len > before && count > 1)
		sbuf_printf(why, "; so none of its %zu temporary objects goes along", count);
}

/* ---- ON COMMIT ---- */

static const char *owner_of(const struct session_state *state, const char *name)
{
	const struct session_row *row = session_state_find(state, SESSION_TEMP_DATA, name);

	return row == NULL ? NULL : row->extra;
}

static bool wants_probe(const struct session_row *row)
{
	return row->kind == SESSION_ON_COMMIT && row->value == NULL && row->extra != NULL;
}

static void probe_one(const struct session_state *state, const struct session_row *row,
                      struct sbuf *out)
{
	const char *name = row->name;
	const char *column = row->extra;
	const char *owner = owner_of(state, name);
	struct sbuf sql;

	neutral_add(state, out);
	add_role(out, owner);
	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, "ALTER TABLE ");
	add_relation(&sql, name);
	sbuf_printf(&sql, " ADD CONSTRAINT " PROBE "_key UNIQUE (%s)", column);
	neutral_run(out, &sql);
	sbuf_printf(&sql,
	            "CREATE TEMPORARY TABLE pg_temp." PROBE " ON COMMIT DROP AS SELECT %s FROM ",
	            column);
	add_relation(&sql, name);
	neutral_run(out, &sql);
	sbuf_printf(&sql, "ALTER TABLE pg_temp." PROBE " ADD FOREIGN KEY (%s) REFERENCES ", column);
	add_relation(&sql, name);
	sbuf_printf(&sql, " (%s)", column);
	neutral_run(out, &sql);
	wire_add_sync(out);

	neutral_add(state, out);
	add_role(out, owner);
	sbuf_add_str(&sql, "ALTER TABLE ");
	add_relation(&sql, name);
	sbuf_add_str(&sql, " DROP CONSTRAINT IF EXISTS " PROBE "_key");
	neutral_run(out, &sql);
	wire_add_sync(out);
}

bool temp_wants_probe(const struct session_state *state)
{
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		if (wants_probe(session_state_at(state, i)))
			return true;
	}
	return false;
}

unsigned temp_probe_add(const struct session_state *state, struct sbuf *out)
{
	unsigned steps = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (!wants_probe(row))
			continue;
		probe_one(state, row, out);
		steps += 2;
	}
	return steps;
}

static const char *probe_meaning(char probed, char restored)
{
	if (restored != TEMP_STEP_GOOD || probed == TEMP_STEP_FAILED)
		return "unknown";
	return probed == TEMP_STEP_GOOD ? "preserve" : "delete";
}

bool temp_probe_done(struct session_state *state, const char *outcomes, size_t count)
{
	size_t step = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		if (!wants_probe(session_state_at(state, i)))
			continue;
		if (!session_state_set_value(state, i,
		                             step + 1 < count
		                                 ? probe_meaning(outcomes[step], outcomes[step + 1])
		                                 : "unknown"))
			return false;
		step += 2;
	}
	return true;
}

char temp_probe_outcome(const char *sqlstate)
{
	if (sqlstate == NULL)
		return TEMP_STEP_GOOD;
	return strcmp(sqlstate, "0A000") == 0 ? TEMP_STEP_REFUSED : TEMP_STEP_FAILED;
}

/* ---- rows ---- */

static void read_one(const struct session_state *state, const struct session_row *row,
                     struct sbuf *out)
{
	struct sbuf sql;

	neutral_add(state, out);
	add_role(out, row->extra);
	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, "COPY ");
	if (is_sequence(state, row->name)) {
		sbuf_add_str(&sql, "(SELECT last_value, is_called FROM ");
		add_relation(&sql, row->name);
		sbuf_add_char(&sql, ')');
	} else {
		add_relation(&sql, row->name);
	}
	sbuf_add_str(&sql, " TO STDOUT WITH (ENCODING ");
	neutral_add_literal(&sql, session_state_info(state, "server_encoding"));
	sbuf_add_char(&sql, ')');
	neutral_run(out, &sql);
	wire_add_sync(out);
}

unsigned temp_read_add(const struct session_state *state, struct sbuf *out)
{
	unsigned steps = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		if (session_state_at(state, i)->kind != SESSION_TEMP_DATA)
			continue;
		read_one(state, session_state_at(state, i), out);
		steps++;
	}
	return steps;
}

static bool read_done_one(struct session_state *state, const struct session_state *like, size_t i,
                          const char *digest)
{
	struct session_row row = *session_state_at(like, i);

	if (state == like)
		return session_state_set_value(state, i, digest);
	row.value = digest;
	return session_state_put(state, &row);
}

bool temp_read_done(struct session_state *state, const struct session_state *like,
                    const struct copies *copies)
{
	size_t stream = 0;
	size_t i;

	for (i = 0; i < session_state_count(like); i++) {
		struct sbuf digest;
		bool good;

		if (session_state_at(like, i)->kind != SESSION_TEMP_DATA)
			continue;
		sbuf_init(&digest, 128);
		good = stream < copies_count(copies) && copies_digest(copies, stream, &digest) &&
		       read_done_one(state, like, i, sbuf_text(&digest));
		sbuf_free(&digest);
		if (!good)
			return false;
		stream++;
	}
	return true;
}

/* ---- making them again ---- */

/* The command that makes a table (its name is "2 table") of which commits take the rows. */
static bool empties_itself(const struct session_state *state, const struct session_row *row)
{
	const struct session_row *on_commit =
	    row->kind != SESSION_TEMP_BEFORE || strncmp(row->name, "2 ", 2) != 0
	        ? NULL
	        : session_state_find(state, SESSION_ON_COMMIT, row->name + 2);

	return on_commit != NULL && on_commit->value != NULL &&
	       strcmp(on_commit->value, "delete") == 0;
}

static void write_commands(const struct session_state *state, enum session_kind kind,
                           const char **role, struct sbuf *out)
{
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		struct sbuf sql;

		if (row->kind != kind || row->value == NULL)
			continue;
		if (*role == NULL || row->extra == NULL || strcmp(*role, row->extra) != 0)
			add_role(out, row->extra);
		*role = row->extra;
		sbuf_init(&sql, SQL_MAX);
		sbuf_add_str(&sql, row->value);
		if (empties_itself(state, row))
			sbuf_add_str(&sql, " ON COMMIT DELETE ROWS");
		neutral_run(out, &sql);
	}
}

/* "last_value<tab>is_called<newline>" */
static void write_sequence(const char *name, const char *data, size_t len, struct sbuf *out)
{
	struct sbuf relation;
	struct sbuf sql;
	char text[64];
	long long value;
	char called;

	(void)snprintf(text, sizeof(text), "%.*s", (int)(len < 60 ? len : 60), data);
	if (sscanf(text, "%lld\t%c", &value, &called) != 2 || (called != 't' && called != 'f')) {
		out->failed = true;
		return;
	}
	sbuf_init(&relation, SQL_MAX);
	sbuf_init(&sql, SQL_MAX);
	add_relation(&relation, name);
	sbuf_add_str(&sql, "SELECT pg_catalog.setval(");
	neutral_add_literal(&sql, sbuf_text(&relation));
	sbuf_free(&relation);
	sbuf_printf(&sql, "::pg_catalog.regclass, '%lld'::pg_catalog.int8, %s)", value,
	            called == 't' ? "true" : "false");
	neutral_run(out, &sql);
}

static void write_rows(const struct session_state *state, const struct session_row *row,
                       const struct copies *copies, size_t stream, struct sbuf *out)
{
	const char *data;
	struct sbuf sql;
	size_t len;

	data = copies_data(copies, stream, &len);
	if (is_sequence(state, row->name)) {
		write_sequence(row->name, data, len, out);
		return;
	}
	if (len == 0)
		return;
	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, "COPY ");
	add_relation(&sql, row->name);
	sbuf_add_str(&sql, " FROM STDIN WITH (ENCODING ");
	neutral_add_literal(&sql, session_state_info(state, "server_encoding"));
	sbuf_add_char(&sql, ')');
	session_begin_run(out, sbuf_text(&sql));
	out->failed = out->failed || !sbuf_ok(&sql);
	sbuf_free(&sql);
	copies_add(copies, stream, out);
	session_end_run(out);
}

void temp_write_add(const struct session_state *state, struct sbuf *out)
{
	const struct copies *copies = session_state_copies(state);
	const struct session_row *read_only =
	    session_state_find(state, SESSION_SETTING, "default_transaction_read_only");
	const char *role = NULL;
	size_t stream = 0;
	size_t i;

	/* A table may not be made in such a transaction; and it must be said before anything else.
	 */
	if (read_only == NULL)
		read_only =
		    session_state_find(state, SESSION_GIVEN, "default_transaction_read_only");
	if (read_only == NULL)
		read_only =
		    session_state_find(state, SESSION_BASE, "default_transaction_read_only");
	if (read_only != NULL && read_only->value != NULL && strcmp(read_only->value, "on") == 0)
		session_add_run(out, "SET TRANSACTION READ WRITE");
	neutral_add(state, out);
	write_commands(state, SESSION_TEMP_BEFORE, &role, out);
	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind != SESSION_TEMP_DATA)
			continue;
		if (role == NULL || row->extra == NULL || strcmp(role, row->extra) != 0)
			add_role(out, row->extra);
		role = row->extra;
		write_rows(state, row, copies, stream++, out);
	}
	write_commands(state, SESSION_TEMP_AFTER, &role, out);
}

bool temp_schema_alone(const struct session_state *state)
{
	return session_state_copies(state) == NULL &&
	       session_state_count_kind(state, SESSION_TEMP_SCHEMA) > 0;
}

/* No command that an event trigger hears of, nor one that is refused where transactions are read
 * only. */
void temp_schema_add(const struct session_state *state, struct sbuf *out)
{
	const struct session_row *row = session_state_find(state, SESSION_TEMP_SCHEMA, "pg_temp");

	if (row == NULL || row->extra == NULL || strcmp(row->extra, "role") != 0)
		add_role(out, NULL);
	session_add_run(
	    out, "SELECT WHERE pg_catalog.set_config('search_path', 'pg_temp', true) IS NULL");
	session_add_run(out, "SELECT WHERE pg_catalog.current_schema() IS NULL");
}
