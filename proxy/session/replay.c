/* SPDX-License-Identifier: PostgreSQL */
/*
 * The order of a replay:
 *
 *   on the standby     late settings made harmless, client_encoding = the server's (texts are sent
 *                      as the old server gave them), settings, custom settings, session
 *                      authorization, role, then prepared statements, under that role
 *   after promotion    temporary tables and, if there are any, only now prepared statements (with a
 *                      temporary schema that is empty these are prepared once more); cursors,
 *                      advisory locks, LISTEN, late settings, client_encoding, the client's
 *                      unnamed statement; in two parts if others wait for the locks and channels,
 *                      which come first then
 *
 * A session without temporary objects, whose late settings a standby can work under, is given these
 * and its cursors on the standby, too, at the end: nothing but its channels and the unnamed
 * statement is left to do in the hold.  Advisory locks are no matter of WAL: a standby has its own,
 * and keeps them when it is promoted.  One that is another's there now is taken with the channels.
 *
 * A PREPARE is sent by the extended protocol, which refuses a text of several statements: nothing
 * but a PREPARE can be executed, whatever the lexer thinks.
 */
#include "session/replay.h"

#include "session/cursors.h"
#include "session/inspect_internal.h"
#include "session/locks.h"
#include "session/sql_lex.h"
#include "session/stmts.h"
#include "session/temp_table.h"
#include "wire/build.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET_NAME SESSION_OWN_PREFIX "set"

/* Milliseconds. */
#define SHORT_LIMIT 10000

static const struct {
	const char *name;
	const char *meanwhile;
} late_settings[] = {
#define LATE_SETTING(name, meanwhile) {name, meanwhile},
#include "session/late_settings.def"
#undef LATE_SETTING
};

/* A message that has been answered when ReadyForQuery comes. */
static void step_note(struct replay *replay, const char *what, const char *name)
{
	sbuf_add_str(&replay->labels, what);
	if (name != NULL)
		sbuf_printf(&replay->labels, " \"%s\"", name);
	sbuf_add_char(&replay->labels, '\0');
	replay->steps++;
}

static void step_end(struct replay *replay, const char *what, const char *name)
{
	wire_add_sync(&replay->out);
	step_note(replay, what, name);
}

/* The row that tells what the setting is, whoever has set it; or NULL. */
static const struct session_row *any_setting(const struct session_state *old, const char *name)
{
	static const enum session_kind where[] = {SESSION_SETTING, SESSION_GIVEN, SESSION_BASE};
	const struct session_row *row = NULL;
	size_t i;

	for (i = 0; i < ARRAY_LEN(where) && row == NULL; i++)
		row = session_state_find(old, where[i], name);
	return row;
}

/* PostgreSQL 13 has no idle_session_timeout, 16 no transaction_timeout. */
static bool is_known(const struct session_state *old, const char *name)
{
	return (strcmp(name, "idle_session_timeout") != 0 &&
	        strcmp(name, "transaction_timeout") != 0) ||
	       any_setting(old, name) != NULL;
}

/* ---- settings: one prepared set_config() for all of a stage ---- */

static void set_begin(struct replay *replay)
{
	wire_add_close(&replay->out, 'S', SET_NAME);
	wire_add_parse(&replay->out, SET_NAME, "SELECT pg_catalog.set_config($1, $2, false)",
	               "\0\2\0\0\0\31\0\0\0\31", 10);
}

static void set_one(struct replay *replay, const char *name, const char *value)
{
	const char *values[2] = {name, value};

	wire_add_bind_texts(&replay->out, "", SET_NAME, values, 2);
	wire_add_execute(&replay->out, "", 0);
}

static void set_end(struct replay *replay, const char *what)
{
	wire_add_close(&replay->out, 'S', SET_NAME);
	step_end(replay, what, NULL);
}

static void replay_meanwhile(struct replay *replay, const struct session_state *old)
{
	size_t i;

	/* A standby executes nothing that needs a snapshot in a transaction that is serializable,
	 * as its configuration may say.  In a transaction of its own: it counts from the next. */
	session_add_run(&replay->out, "SET default_transaction_isolation TO 'read committed'");
	step_end(replay, "isolation level", NULL);
	set_begin(replay);
	set_one(replay, "client_encoding", session_state_info(old, "server_encoding"));
	/* One that the startup parameters name may not be allowed to set what the session's user has. */
	if (session_state_find(old, SESSION_ROLE, "role") != NULL)
		set_one(replay, "role", "none");
	for (i = 0; i < ARRAY_LEN(late_settings); i++) {
		if (late_settings[i].meanwhile != NULL && is_known(old, late_settings[i].name) &&
		    strcmp(late_settings[i].name, "default_transaction_isolation") != 0)
			set_one(replay, late_settings[i].name, late_settings[i].meanwhile);
	}
}

/* "a"."b": both identifiers are in quotes, as quote_all_identifiers has them. */
static bool all_quoted(const char *name)
{
	const size_t len = strlen(name);

	return len > 1 && name[0] == '"' && name[len - 1] == '"' && strstr(name, "\".\"") != NULL;
}

/* The server writes this one as quote_all_identifiers is when it is set. */
static const struct session_row *replay_text_search(struct replay *replay,
                                                    const struct session_state *old)
{
	const struct session_row *row =
	    session_state_find(old, SESSION_SETTING, "default_text_search_config");

	if (row == NULL || row->value == NULL)
		return NULL;
	set_one(replay, "quote_all_identifiers", all_quoted(row->value) ? "on" : "off");
	set_one(replay, row->name, row->value);
	if (session_state_find(old, SESSION_SETTING, "quote_all_identifiers") == NULL)
		session_add_run(&replay->out, "RESET quote_all_identifiers");
	if (replay->apart)
		step_end(replay, REPLAY_SETTING, row->name);
	return row;
}

static void replay_settings(struct replay *replay, const struct session_state *old)
{
	const struct session_row *done = replay_text_search(replay, old);
	size_t i;

	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);

		if (row->value == NULL || row == done)
			continue;
		if ((row->kind == SESSION_SETTING && !session_setting_late(row->name)) ||
		    (row->kind == SESSION_CUSTOM && row->extra == NULL)) {
			set_one(replay, row->name, row->value);
			if (replay->apart)
				step_end(replay, REPLAY_SETTING, row->name);
		}
	}
}

static void replay_role(struct replay *replay, const struct session_state *old)
{
	const struct session_row *session =
	    session_state_find(old, SESSION_ROLE, "session_authorization");
	const struct session_row *role = session_state_find(old, SESSION_ROLE, "role");

	set_begin(replay);
	/* That of the connection's own user is always allowed, and changes nothing but the role. */
	if (session != NULL && session->value != NULL)
		set_one(replay, "session_authorization", session->value);
	if (role != NULL && role->value != NULL)
		set_one(replay, "role", role->value);
	set_end(replay, "role");
}

/* ---- prepared statements ---- */

/* "{23,25}" as the types of a Parse message; false: it is none. */
bool replay_types(const char *text, struct sbuf *types)
{
	uint16_t count = 0;
	const char *p = text;

	sbuf_add_be16(types, 0);
	if (p == NULL || *p != '{')
		return false;
	for (p++; *p != '}' && *p != '\0';) {
		char *end;
		unsigned long oid = strtoul(p, &end, 10);

		if (end == p || oid > UINT32_MAX || count == UINT16_MAX)
			return false;
		sbuf_add_be32(types, (uint32_t)oid);
		count++;
		p = *end == ',' ? end + 1 : end;
	}
	if (*p != '}' || !sbuf_ok(types))
		return false;
	types->data[0] = (char)(count >> 8);
	types->data[1] = (char)count;
	return true;
}

static bool replay_protocol_statement(struct replay *replay, const struct session_row *row,
                                      bool again)
{
	struct sbuf types;
	bool good;

	sbuf_init(&types, 2 + 4 * (size_t)UINT16_MAX);
	good = row->value != NULL && replay_types(row->extra, &types);
	if (good) {
		if (again)
			wire_add_close(&replay->out, 'S', row->name);
		wire_add_parse(&replay->out, row->name, row->value, types.data, types.len);
		step_end(replay, REPLAY_STATEMENT, row->name);
	}
	sbuf_free(&types);
	return good;
}

/* `again`: they are there, but were prepared when what they are about was looked up elsewhere. */
static bool replay_statements(struct replay *replay, const struct session_state *old, bool again)
{
	size_t i;

	/* First those of PREPARE: what EXECUTE as one of the protocol returns is found out when it is parsed. */
	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);

		if (row->kind != SESSION_SQL_STATEMENT || row->value == NULL)
			continue;
		if (again)
			wire_add_close(&replay->out, 'S', row->name);
		session_add_run(&replay->out, row->value);
		step_end(replay, REPLAY_STATEMENT, row->name);
	}
	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);

		if (row->kind == SESSION_PROTOCOL_STATEMENT &&
		    !replay_protocol_statement(replay, row, again))
			return false;
	}
	return true;
}

/* Their texts are in the server's encoding; all else is as the session has it. */
static void try_statement(const struct session_row *row, const char *encoding, struct sbuf *out)
{
	const char *text = row->kind == SESSION_SQL_STATEMENT ? sql_prepare_body(row->value) : row->value;
	struct sbuf types;

	session_add_unlimited(out);
	session_add_encoding(out, encoding);
	sbuf_init(&types, 2 + 4 * (size_t)UINT16_MAX);
	if (text != NULL && replay_types(row->extra, &types))
		session_add_parse(out, text, types.data, types.len);
	wire_add_sync(out);
	sbuf_free(&types);
}

/* Of the types only those stay that the text of PREPARE names: others come of what it is about.  False:
 * there are none. */
static bool keep_declared(const char *text, struct sbuf *types)
{
	const size_t count = (types->len - 2) / 4;
	struct sql_lexer lexer;
	bool declared = false;
	bool open = false;
	size_t i = 0;
	int depth;

	sql_lex_begin(&lexer, text, strlen(text));
	(void)sql_lex_next(&lexer); /* PREPARE */
	(void)sql_lex_next(&lexer); /* its name */
	depth = sql_lex_next(&lexer) == SQL_OTHER && sql_lex_is(&lexer, "(");
	while (depth > 0 && i < count) {
		const enum sql_token token = sql_lex_next(&lexer);

		if (token == SQL_END || token == SQL_BROKEN)
			break;
		if (token == SQL_OTHER)
			depth += sql_lex_is(&lexer, "(") - sql_lex_is(&lexer, ")");
		else if (depth == 1)
			declared = !sql_lex_is(&lexer, "unknown") &&
			           !sql_lex_is(&lexer, "\"unknown\"");
		if (depth > 1 || token != SQL_OTHER || (depth == 1 && !sql_lex_is(&lexer, ",")))
			continue;
		if (!declared)
			memset(types->data + 2 + 4 * i, 0, 4);
		open = open || !declared;
		i++;
	}
	memset(types->data + 2 + 4 * i, 0, 4 * (count - i));
	return open || i < count;
}

void replay_try_types(const struct session_row *row, const char *encoding, struct sbuf *out)
{
	const bool readable = row->value != NULL &&
	                      sql_judge_prepare(row->value, row->name) != SQL_PREPARE_SEVERAL;
	const char *text = readable ? sql_prepare_body(row->value) : NULL;
	struct sbuf types;
	char sql[240];

	sbuf_init(&types, 2 + 4 * (size_t)UINT16_MAX);
	if (text != NULL && replay_types(row->extra, &types) && keep_declared(row->value, &types)) {
		session_add_unlimited(out);
		/* Who waits for a lock here lets the client's next request wait. */
		(void)snprintf(
		    sql, sizeof(sql),
		    "SELECT WHERE pg_catalog.set_config('client_encoding', '%.60s', true) IS NULL"
		    " OR pg_catalog.set_config('lock_timeout', '10', true) IS NULL",
		    encoding);
		session_add_run(out, sql);
		session_add_described(out, text, types.data, types.len);
	}
	wire_add_sync(out);
	sbuf_free(&types);
}

unsigned replay_try_add(const struct session_state *old, struct sbuf *out)
{
	unsigned steps = 0;
	size_t i;

	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);

		if ((row->kind != SESSION_PROTOCOL_STATEMENT && row->kind != SESSION_SQL_STATEMENT) ||
		    row->value == NULL)
			continue;
		try_statement(row, session_state_info(old, "server_encoding"), out);
		steps++;
	}
	return steps;
}

void replay_try_unnamed(const struct stmt *unnamed, struct sbuf *out)
{
	const size_t text = strnlen(unnamed->text, unnamed->len - 1) + 1;

	session_add_unlimited(out);
	/* Who waits for a lock here lets the client's next request wait. */
	session_add_run(out,
	                "SELECT WHERE pg_catalog.set_config('lock_timeout', '10', true) IS NULL");
	session_add_parse(out, unnamed->text, unnamed->text + text, unnamed->len - text);
	wire_add_describe(out, 'S', ""); /* refused if it would return other columns now */
	wire_add_sync(out);
}

bool replay_try_again(const char *sqlstate)
{
	return strcmp(sqlstate, "55P03") == 0 || strcmp(sqlstate, "57014") == 0;
}

bool replay_may_come(const char *sqlstate)
{
	/* Something is not there, is another, or must not be used; no schema; no role. */
	return strncmp(sqlstate, "42", 2) == 0 || strcmp(sqlstate, "3F000") == 0 ||
	       strcmp(sqlstate, "22023") == 0;
}

/* ---- cursors ---- */

static void replay_cursors(struct replay *replay, const struct session_state *old)
{
	size_t i;

	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);

		if (row->kind == SESSION_CURSOR && cursor_make_add(old, row->name, &replay->out))
			step_end(replay, "cursor", row->name);
	}
}

/* ---- after promotion ---- */

static bool setting_is(const struct session_state *old, const char *name, const char *value)
{
	const struct session_row *row = any_setting(old, name);

	return row != NULL && row->value != NULL && strcmp(row->value, value) == 0;
}

/* A time limit that a busy server might not keep: "5", "500ms", "5s"; 0 is none. */
static bool is_short(const struct session_state *old, const char *name)
{
	const struct session_row *row = any_setting(old, name);
	const char *value = row == NULL || row->value == NULL ? "0" : row->value;
	char *unit;
	const double limit = strtod(value, &unit) * (strcmp(unit, "s") == 0 ? 1000 : 1);

	return limit > 0 && limit < SHORT_LIMIT && strcmp(unit, "min") != 0 &&
	       strcmp(unit, "h") != 0 && strcmp(unit, "d") != 0;
}

static bool replay_hurries(const struct session_state *old)
{
	return replay_is_early(old) &&
	       (is_short(old, "statement_timeout") || is_short(old, "transaction_timeout"));
}

static bool is_ascii(const char *text)
{
	while (*text != '\0' && (unsigned char)*text < 128)
		text++;
	return *text == '\0';
}

/* In the transaction of what follows, where late settings have been made already. */
static void replay_guard(struct replay *replay, const struct session_state *old, const char *name)
{
	const char *encoding = session_state_info(old, "server_encoding");

	if (!replay_is_early(old))
		return;
	if (replay_hurries(old)) {
		session_add_unlimited(&replay->out);
		session_add_run(&replay->out,
		                "SELECT WHERE pg_catalog.set_config('statement_timeout', '0', true)"
		                " IS NULL");
	}
	if (!is_ascii(name) && !setting_is(old, "client_encoding", encoding))
		session_add_encoding(&replay->out, encoding);
}

static void replay_listen(struct replay *replay, const struct session_state *old)
{
	size_t i;

	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);
		struct sbuf sql;
		const char *p;

		if (row->kind != SESSION_CHANNEL)
			continue;
		sbuf_init(&sql, 1024);
		sbuf_add_str(&sql, "LISTEN \"");
		for (p = row->name; *p != '\0'; p++) {
			if (*p == '"')
				sbuf_add_char(&sql, '"');
			sbuf_add_char(&sql, *p);
		}
		sbuf_add_char(&sql, '"');
		replay_guard(replay, old, row->name);
		session_add_run(&replay->out, sbuf_text(&sql));
		step_end(replay, "LISTEN", row->name);
		sbuf_free(&sql);
	}
}

static void replay_call_locks(struct replay *replay, const struct session_state *old)
{
	size_t i;

	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);
		unsigned calls = locks_call_add(row, &replay->out);

		while (calls-- > 0)
			step_note(replay, REPLAY_LOCK, row->name);
	}
}

/* One that was not counted is not taken: the comparison finds that. */
static void replay_locks(struct replay *replay, const struct session_state *old)
{
	size_t i;

	if (session_state_count_kind(old, SESSION_LOCK) == 0)
		return;
	/* It may have got some of them on the standby. */
	locks_free_add(&replay->out);
	step_note(replay, "giving back of advisory locks", NULL);
	if (locks_callable(old) && !replay_hurries(old)) {
		replay_call_locks(replay, old);
		return;
	}
	for (i = 0; i < session_state_count(old); i++) {
		const struct session_row *row = session_state_at(old, i);
		struct sbuf sql;

		sbuf_init(&sql, 1024);
		if (row->kind == SESSION_LOCK && locks_take_sql(row, &sql)) {
			replay_guard(replay, old, "");
			session_add_run(&replay->out, sbuf_text(&sql));
			step_end(replay, REPLAY_LOCK, row->name);
		}
		sbuf_free(&sql);
	}
}

/* All late ones have their value, or that of the connection, again. */
static void replay_late(struct replay *replay, const struct session_state *old)
{
	const struct session_row *encoding =
	    session_state_find(old, SESSION_SETTING, "client_encoding");
	size_t i;

	for (i = 0; i < ARRAY_LEN(late_settings); i++) {
		const char *name = late_settings[i].name;
		struct sbuf sql;

		if (session_state_find(old, SESSION_SETTING, name) != NULL || !is_known(old, name) ||
		    (late_settings[i].meanwhile == NULL && strcmp(name, "client_encoding") != 0))
			continue;
		sbuf_init(&sql, 128);
		sbuf_printf(&sql, "RESET %s", name);
		session_add_run(&replay->out, sbuf_text(&sql));
		sbuf_free(&sql);
	}
	set_begin(replay);
	for (i = 0; i < ARRAY_LEN(late_settings); i++) {
		const struct session_row *row =
		    session_state_find(old, SESSION_SETTING, late_settings[i].name);

		if (row != NULL && row != encoding && row->value != NULL)
			set_one(replay, row->name, row->value);
	}
	if (encoding != NULL && encoding->value != NULL)
		set_one(replay, encoding->name, encoding->value);
	set_end(replay, REPLAY_SETTINGS);
}

static void replay_unnamed(struct replay *replay, const struct stmt *unnamed)
{
	uint8_t head[WIRE_HEADER_LEN + 1] = {FE_PARSE};

	wire_put_be32(head + 1, (uint32_t)(4 + 1 + unnamed->len));
	sbuf_add(&replay->out, head, sizeof(head));
	sbuf_add(&replay->out, unnamed->text, unnamed->len);
	step_end(replay, REPLAY_UNNAMED, NULL);
}

bool replay_is_early(const struct session_state *old)
{
	/* Under the first setting a standby answers no question; the second would end the connection
	 * while it waits for the hold. */
	return session_state_count_kind(old, SESSION_TEMPORARY) == 0 &&
	       session_state_count_kind(old, SESSION_TEMP_SCHEMA) == 0 &&
	       !setting_is(old, "default_transaction_isolation", "serializable") &&
	       (!is_known(old, "idle_session_timeout") ||
	        setting_is(old, "idle_session_timeout", "0"));
}

/* What holds what is temporary; and statements are to have been prepared when it was there, since a
 * server looks up anew what they are about once search_path has another schema. */
static bool replay_temporary(struct replay *replay, const struct session_state *old)
{
	if (session_state_copies(old) != NULL) {
		temp_write_add(old, &replay->out);
		step_end(replay, "temporary tables", NULL);
	} else if (temp_schema_alone(old)) {
		temp_schema_add(old, &replay->out);
		step_end(replay, "temporary schema", NULL);
		if (session_statement_stage(old) == REPLAY_ON_STANDBY)
			return replay_statements(replay, old, true);
	}
	return true;
}

static void replay_begin(struct replay *replay, const struct session_state *old)
{
	replay_meanwhile(replay, old);
	if (replay->apart)
		step_end(replay, REPLAY_SETTINGS, NULL);
	replay_settings(replay, old);
	set_end(replay, REPLAY_SETTINGS);
	replay_role(replay, old);
}

static bool replay_claims(struct replay *replay, const struct session_state *old,
                          enum replay_stage stage)
{
	if (stage != REPLAY_CHANNELS)
		replay_locks(replay, old);
	replay_listen(replay, old);
	return sbuf_ok(&replay->out) && sbuf_ok(&replay->labels);
}

bool replay_build(const struct session_state *old, const struct stmt *unnamed,
                  enum replay_stage stage, bool apart, struct replay *replay)
{
	const bool on_standby = stage == REPLAY_ON_STANDBY || stage == REPLAY_AHEAD;
	const bool here = replay_is_early(old) == on_standby;
	bool good = true;

	memset(replay, 0, sizeof(*replay));
	replay->apart = apart;
	sbuf_init(&replay->out, SESSION_REPLAY_MAX + session_state_carried(old));
	sbuf_init(&replay->labels, SESSION_REPLAY_MAX);
	if (stage == REPLAY_CLAIMS || stage == REPLAY_CHANNELS)
		return replay_claims(replay, old, stage);
	if (on_standby)
		replay_begin(replay, old);
	else
		good = replay_temporary(replay, old);
	if ((session_statement_stage(old) == REPLAY_ON_STANDBY) == on_standby)
		good = good && replay_statements(replay, old, false);
	if (here)
		replay_cursors(replay, old);
	if (stage == REPLAY_AHEAD && replay_is_early(old) && locks_callable(old))
		replay_call_locks(replay, old);
	if (stage == REPLAY_AFTER_PROMOTION)
		good = replay_claims(replay, old, stage) && good;
	if (here)
		replay_late(replay, old);
	if (!on_standby && unnamed != NULL)
		replay_unnamed(replay, unnamed);
	return good && sbuf_ok(&replay->out) && sbuf_ok(&replay->labels);
}

void replay_free(struct replay *replay)
{
	sbuf_free(&replay->out);
	sbuf_free(&replay->labels);
	replay->steps = 0;
}

const char *replay_step(const struct replay *replay, unsigned int i)
{
	const char *label = sbuf_text(&replay->labels);

	if (i >= replay->steps)
		return "";
	while (i-- > 0)
		label += strlen(label) + 1;
	return label;
}
