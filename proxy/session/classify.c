/* SPDX-License-Identifier: PostgreSQL */
#include "session/classify.h"

#include "session/cursors.h"
#include "session/params.h"
#include "session/shapes.h"
#include "session/sql_lex.h"
#include "session/stmts.h"
#include "session/temp_table.h"
#include "wire/message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)4096)

void session_verdict_init(struct session_verdict *verdict)
{
	verdict->class = SESSION_CLEAN;
	sbuf_init(&verdict->what, TEXT_MAX);
	sbuf_init(&verdict->why, TEXT_MAX);
}

void session_verdict_free(struct session_verdict *verdict)
{
	sbuf_free(&verdict->what);
	sbuf_free(&verdict->why);
}

const char *session_class_name(enum session_class class)
{
	static const char *const names[] = {"clean", "movable", "pinned"};

	return names[class];
}

/* ---- texts; what does not fit any more is left out ---- */

static void add_part(struct sbuf *text, const char *separator, const char *part)
{
	if (text->len + strlen(part) + 8 > text->max)
		return;
	if (text->len > 0)
		sbuf_add_str(text, separator);
	sbuf_add_str(text, part);
}

static void add_count(struct sbuf *what, size_t count, const char *one, const char *many)
{
	char part[128];

	if (count == 0)
		return;
	(void)snprintf(part, sizeof(part), "%zu %s", count, count == 1 ? one : many);
	add_part(what, ", ", part);
}

static void add_reason(struct sbuf *why, const char *before, const char *name, const char *after)
{
	char part[512];

	(void)snprintf(part, sizeof(part), "%s \"%.64s\"%s", before, name, after);
	add_part(why, "; ", part);
}

/* ---- what there is ---- */

/* The client asked for it when it connected. */
static bool from_startup(const struct session_row *row, const struct param_set *startup)
{
	const char *value = param_set_get(startup, row->name);

	return value != NULL && row->value != NULL && strcmp(value, row->value) == 0;
}

static size_t count_settings(const struct session_state *state, const struct param_set *startup)
{
	size_t count = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_SETTING)
			count += !from_startup(row, startup);
		else if (row->kind == SESSION_CUSTOM)
			count +=
			    row->value != NULL && row->extra == NULL && !from_startup(row, startup);
	}
	return count;
}

static void say_what(const struct session_state *state, const struct stmt *unnamed,
                     const struct param_set *startup, struct sbuf *what)
{
	const struct session_row *role = session_state_find(state, SESSION_ROLE, "role");

	add_count(what, count_settings(state, startup), "setting", "settings");
	if (role != NULL && role->value != NULL && strcmp(role->value, "none") != 0)
		add_reason(what, "role", role->value, "");
	add_count(what,
	          session_state_count_kind(state, SESSION_PROTOCOL_STATEMENT) +
	              session_state_count_kind(state, SESSION_SQL_STATEMENT),
	          "prepared statement", "prepared statements");
	if (unnamed != NULL)
		add_part(what, ", ", "the unnamed statement");
	add_count(what, session_state_count_kind(state, SESSION_CHANNEL), "channel listened to",
	          "channels listened to");
	add_count(what, session_state_count_kind(state, SESSION_LOCK), "advisory lock",
	          "advisory locks");
	add_count(what, session_state_count_kind(state, SESSION_CURSOR), "cursor", "cursors");
	add_count(what, session_state_count_kind(state, SESSION_TEMPORARY), "temporary object",
	          "temporary objects");
	if (session_state_count_kind(state, SESSION_TEMPORARY) == 0 &&
	    session_state_count_kind(state, SESSION_TEMP_SCHEMA) > 0)
		add_part(what, ", ", "an empty temporary schema");
	add_count(what, session_state_count_kind(state, SESSION_SLOT), "temporary replication slot",
	          "temporary replication slots");
}

/* ---- what holds it ---- */

static bool strings_differ(const struct session_state *state, const struct session_facts *facts)
{
	return session_facts_strings_changed(facts) ||
	       session_state_find(state, SESSION_SETTING, "standard_conforming_strings") != NULL;
}

/* What a text may have so that it may mean another thing if it was prepared now, `times`: if dates
 * and times would be others; NULL: nothing.  A server tells of these settings only what they are
 * now. */
static const char *means_another(const struct session_state *state,
                                 const struct session_facts *facts, bool times, const char *text)
{
	static const struct {
		const char *setting;
		unsigned has;
		const char *after;
	} others[] = {
	    {"timezone_abbreviations", SQL_HAS_TIME,
	     " with a time in a string, timezone_abbreviations having been set"},
	    {"transform_null_equals", SQL_HAS_NULL,
	     " with NULL, transform_null_equals having been set"},
	    {"array_nulls", SQL_HAS_NULL_STRING,
	     " with NULL in a string, array_nulls having been set"},
	    {"xmloption", SQL_HAS_XML, " with XML, xmloption having been set"},
	    {"lc_monetary", SQL_HAS_MONEY, " with money, lc_monetary having been set"},
	};
	const unsigned has = sql_constants(text);
	size_t i;

	if (times && (has & SQL_HAS_TIME) != 0)
		return " with a date or time in a string, DateStyle, IntervalStyle or TimeZone "
		       "having "
		       "changed since";
	for (i = 0; i < ARRAY_LEN(others); i++) {
		if ((has & others[i].has) != 0 &&
		    (session_facts_has_set(facts, others[i].setting) ||
		     session_state_find(state, SESSION_SETTING, others[i].setting) != NULL))
			return others[i].after;
	}
	return NULL;
}

static void judge_constants(const struct session_state *state, const struct session_facts *facts,
                            const struct stmt *unnamed, struct sbuf *why)
{
	const char *after;
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if ((row->kind != SESSION_PROTOCOL_STATEMENT &&
		     row->kind != SESSION_SQL_STATEMENT) ||
		    row->value == NULL)
			continue;
		after = means_another(state, facts, session_facts_times_changed(facts), row->value);
		if (after != NULL)
			add_reason(why, "prepared statement", row->name, after);
	}
	if (unnamed == NULL)
		return;
	after =
	    means_another(state, facts, session_facts_unnamed_times_changed(facts), unnamed->text);
	if (after != NULL)
		add_reason(why, "prepared statement", "", after);
}

static void judge_statement(const struct session_row *row, bool strings, struct sbuf *why)
{
	enum sql_prepare judged = SQL_PREPARE_ALONE;

	if (row->value == NULL) {
		add_reason(why, "prepared statement", row->name, " whose text is not known");
		return;
	}
	if (row->kind == SESSION_SQL_STATEMENT)
		judged = sql_judge_prepare(row->value, row->name);
	if (judged == SQL_PREPARE_SEVERAL)
		add_reason(why, "prepared statement", row->name,
		           ", made by PREPARE among other statements in one query");
	else if (strings && (judged == SQL_PREPARE_STRINGS || sql_has_backslash(row->value)))
		add_reason(
		    why, "prepared statement", row->name,
		    " with a backslash in a string, standard_conforming_strings having changed");
}

static void judge_row(const struct session_row *row, const struct session_abilities *abilities,
                      bool strings, struct sbuf *why)
{
	switch (row->kind) {
	case SESSION_PROTOCOL_STATEMENT:
	case SESSION_SQL_STATEMENT:
		judge_statement(row, strings, why);
		break;
	case SESSION_CHANGED:
		if (row->extra != NULL && strcmp(row->extra, SHAPES_BY_SQL) == 0)
			add_reason(why, "prepared statement", row->name,
			           ", made by PREPARE, whose result type has changed");
		else if (row->extra != NULL && strcmp(row->extra, SHAPES_TYPES) == 0)
			add_reason(why, "prepared statement", row->name,
			           ", made by PREPARE, whose parameters would be of other types now");
		else if (!shapes_is_ascii(row->name))
			add_reason(why, "prepared statement", row->name,
			           ", whose name is not ASCII and whose result type has changed");
		break;
	case SESSION_LOCK:
		if (!abilities->locks)
			add_reason(why, "session-level advisory lock", row->name, "");
		break;
	case SESSION_CURSOR:
		if (!abilities->cursors)
			add_reason(why, "cursor", row->name, " WITH HOLD");
		else if (cursor_is_forward(row))
			add_reason(why, "cursor", row->name,
			           " WITH HOLD and without SCROLL: no server tells where it stands");
		break;
	case SESSION_TEMPORARY:
		if (!abilities->temporary)
			add_reason(why, "temporary object", row->name, "");
		break;
	case SESSION_SLOT:
		add_reason(why, "temporary replication slot", row->name, "");
		break;
	default:
		break;
	}
}

/* Whether it is about the one or the other depends on which was there when it was prepared, and on whether
 * its server has looked the name up again since then: no catalog tells. */
static bool is_ambiguous(const struct session_state *state, const char *text)
{
	for (size_t i = 0; text != NULL && i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_TEMPORARY && row->extra != NULL && sql_mentions(text, row->name))
			return true;
	}
	return false;
}

static bool is_ambiguous_statement(const struct session_state *state, const struct session_row *row)
{
	return (row->kind == SESSION_PROTOCOL_STATEMENT || row->kind == SESSION_SQL_STATEMENT) &&
	       is_ambiguous(state, row->value);
}

bool session_state_ambiguous(const struct session_state *state)
{
	if (session_state_count_kind(state, SESSION_TEMPORARY) == 0)
		return false;
	for (size_t i = 0; i < session_state_count(state); i++) {
		if (is_ambiguous_statement(state, session_state_at(state, i)))
			return true;
	}
	return false;
}

static void judge_names(const struct session_state *state, const struct stmt *unnamed, struct sbuf *why)
{
	static const char after[] =
	    ": a temporary table hides another of a name in it, which it may be about";

	if (session_state_count_kind(state, SESSION_TEMPORARY) == 0)
		return;
	for (size_t i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (is_ambiguous_statement(state, row))
			add_reason(why, "prepared statement", row->name, after);
	}
	if (unnamed != NULL && is_ambiguous(state, unnamed->text))
		add_reason(why, "prepared statement", "", after);
}

/* ",16390,16389," */
static bool is_temporary_type(const char *types, unsigned long oid)
{
	char item[32];

	(void)snprintf(item, sizeof(item), ",%lu,", oid);
	return strstr(types, item) != NULL;
}

/* "{23,16390}", and anything behind it */
static bool has_temporary_type(const char *types, const char *list)
{
	const char *p = list == NULL ? "" : list;

	while (*p == '{' || *p == ',') {
		char *end;
		const unsigned long oid = strtoul(p + 1, &end, 10);

		if (end == p + 1)
			break;
		if (is_temporary_type(types, oid))
			return true;
		p = end;
	}
	return false;
}

/* A table is a type, too, which has another number on every server; what has it by its number does
 * not find it there. */
static void judge_types(const struct session_state *state, const struct stmt *unnamed,
                        struct sbuf *why)
{
	static const char after[] = " with a parameter of the type of a temporary table's rows";
	const char *types = session_state_info(state, "temp_types");
	const uint8_t *given = NULL;
	size_t count = 0;
	size_t i;

	if (types[0] == '\0')
		return;
	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if ((row->kind == SESSION_PROTOCOL_STATEMENT ||
		     row->kind == SESSION_SQL_STATEMENT) &&
		    has_temporary_type(types, row->extra))
			add_reason(why, "prepared statement", row->name, after);
	}
	if (unnamed != NULL) {
		given =
		    (const uint8_t *)unnamed->text + strnlen(unnamed->text, unnamed->len - 1) + 1;
		count = (unnamed->len - (size_t)(given - (const uint8_t *)unnamed->text)) / 4;
	}
	for (i = 0; i < count; i++) {
		if (!is_temporary_type(types, wire_get_be32(given + 2 + 4 * i)))
			continue;
		add_reason(why, "prepared statement", "", after);
		break;
	}
}

/* An empty one, which nobody may make; its tables have owners that are asked for. */
static void judge_schema(const struct session_state *state, struct sbuf *why)
{
	const struct session_row *row = session_state_find(state, SESSION_TEMP_SCHEMA, "pg_temp");

	if (row != NULL && row->extra == NULL &&
	    session_state_count_kind(state, SESSION_TEMPORARY) == 0)
		add_part(why, "; ", "a temporary schema, which it may not make any more");
}

/* Of which nobody looks what it executes when it is used. */
static bool executes(const char *text)
{
	struct sql_lexer lexer;

	sql_lex_begin(&lexer, text == NULL ? "" : text, text == NULL ? 0 : strlen(text));
	return sql_lex_next(&lexer) == SQL_WORD && sql_lex_is(&lexer, "execute");
}

/* While one is refused that it may be about. */
static void judge_executing(const struct session_state *state, const struct stmt *unnamed,
                            struct sbuf *why)
{
	static const char after[] = ", which may execute one whose result type has changed";

	if (session_state_count_kind(state, SESSION_CHANGED) == 0)
		return;
	for (size_t i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_PROTOCOL_STATEMENT && executes(row->value))
			add_reason(why, "prepared statement", row->name, after);
	}
	if (unnamed != NULL && executes(unnamed->text))
		add_reason(why, "prepared statement", "", after);
}

/* Its bytes are in the encoding the client had then, which may not be that of now. */
static bool is_ascii(const struct stmt *unnamed)
{
	const char *end = memchr(unnamed->text, '\0', unnamed->len);
	const char *p;

	for (p = unnamed->text; p < end; p++) {
		if (((unsigned char)*p & 0x80) != 0)
			return false;
	}
	return true;
}

static void say_why(const struct session_state *state, const struct session_facts *facts,
                    const struct stmt *unnamed, const struct session_abilities *abilities,
                    struct sbuf *why)
{
	bool strings = strings_differ(state, facts);
	size_t i;

	for (i = 0; i < session_state_count(state); i++)
		judge_row(session_state_at(state, i), abilities, strings, why);
	judge_constants(state, facts, unnamed, why);
	judge_executing(state, unnamed, why);
	judge_names(state, unnamed, why);
	temp_why(state, why);
	judge_schema(state, why);
	judge_types(state, unnamed, why);
	cursors_why(state, why);
	if (session_facts_unreadable(facts) && !abilities->custom_known)
		add_part(why, "; ",
		         "a custom setting whose name was not seen (set_config() of a "
		         "computed name)");
	if (session_facts_concealed(facts) != NULL &&
	    strcmp(session_state_info(state, "sees_all"), "true") != 0)
		sbuf_printf(why, "%sthe setting %s, which was SET and which its role may not see",
		            why->len > 0 ? "; " : "", session_facts_concealed(facts));
	if (session_facts_unnamed_lost(facts))
		add_part(why, "; ",
		         "an unnamed statement that is too long to be kept, or of which an error "
		         "has left open whether it was prepared");
	if (unnamed != NULL && strings && sql_has_backslash(unnamed->text))
		add_part(why, "; ",
		         "an unnamed statement with a backslash in a string, "
		         "standard_conforming_strings having changed");
	if (unnamed != NULL && session_facts_encoding_changed(facts) && !is_ascii(unnamed))
		add_part(why, "; ",
		         "an unnamed statement that is not plain ASCII, client_encoding "
		         "having changed");
}

void session_verdict_pin(struct session_verdict *verdict, const char *reason)
{
	add_part(&verdict->why, "; ", reason);
	verdict->class = SESSION_PINNED;
}

void session_classify(const struct session_state *state, const struct session_facts *facts,
                      const struct stmt *unnamed, const struct param_set *startup,
                      const struct session_abilities *abilities, struct session_verdict *verdict)
{
	sbuf_reset(&verdict->what);
	sbuf_reset(&verdict->why);
	say_what(state, unnamed, startup, &verdict->what);
	say_why(state, facts, unnamed, abilities, &verdict->why);
	/* Without memory it is not known to have nothing of that. */
	if (!sbuf_ok(&verdict->why) && verdict->why.len == 0) {
		sbuf_reset(&verdict->why);
		sbuf_add_str(&verdict->why, "out of memory");
	}
	if (verdict->why.len > 0 || !sbuf_ok(&verdict->why))
		verdict->class = SESSION_PINNED;
	else if (verdict->what.len > 0 || !sbuf_ok(&verdict->what))
		verdict->class = SESSION_MOVABLE;
	else
		verdict->class = SESSION_CLEAN;
}
