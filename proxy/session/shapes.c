/* SPDX-License-Identifier: PostgreSQL */
#include "session/shapes.h"

#include "session/inspect_internal.h"
#include "session/replay.h"
#include "session/sql_lex.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* PostgreSQL's limit is 1,664. */
#define COLUMNS_MAX 2048u
#define FIRST_OTHER_OID 16384u
/* Of 65,535 types. */
#define TYPES_TEXT_MAX ((size_t)1024 * 1024)
/* Before the columns, behind the parameters' types. */
#define MARK '|'

bool shapes_is_ascii(const char *text)
{
	for (; *text != '\0'; text++) {
		if (((unsigned char)*text & 0x80) != 0)
			return false;
	}
	return true;
}

/* What FETCH or EXECUTE returns is what something else does, which may be another by now: no server
 * compares it. */
static bool is_about_another(const char *text)
{
	struct sql_lexer lexer;

	if (text == NULL)
		return true;
	sql_lex_begin(&lexer, text, strlen(text));
	return sql_lex_next(&lexer) == SQL_WORD &&
	       (sql_lex_is(&lexer, "fetch") || sql_lex_is(&lexer, "execute"));
}

static bool is_statement(const struct session_row *row)
{
	return (row->kind == SESSION_PROTOCOL_STATEMENT || row->kind == SESSION_SQL_STATEMENT) &&
	       row->extra != NULL && !is_about_another(row->value);
}

static bool has_shape(const struct session_row *row)
{
	return is_statement(row) && strchr(row->extra, MARK) != NULL;
}

/* Which its client calls by other bytes if it has another encoding. */
static bool has_other_name(const struct session_row *row)
{
	return has_shape(row) && !shapes_is_ascii(row->name);
}

/* The next statement from *at on for which `good` is true, *at being behind it then; or NULL. */
static const struct session_row *next(const struct session_state *state, size_t *at,
                                      bool (*good)(const struct session_row *row))
{
	while (*at < session_state_count(state)) {
		const struct session_row *row = session_state_at(state, (*at)++);

		if (good(row))
			return row;
	}
	return NULL;
}

static void describe_all(const struct session_state *state, size_t at,
                         bool (*good)(const struct session_row *row), struct sbuf *out)
{
	const struct session_row *row;

	while ((row = next(state, &at, good)) != NULL)
		wire_add_describe(out, 'S', row->name);
}

/* 16 hexadecimal digits.  With `temporary` tables, which are types, too, and others where they are
 * made anew, types that are not PostgreSQL's own are one. */
static bool digest_columns(const void *body, size_t len, bool temporary, char text[17])
{
	struct wire_column_view columns[COLUMNS_MAX];
	uint8_t bytes[8 * COLUMNS_MAX];
	unsigned char digest[32] = {0};
	size_t count;

	if (!wire_parse_row_description(body, len, columns, COLUMNS_MAX, &count) ||
	    count > COLUMNS_MAX)
		return false;
	for (size_t i = 0; i < count; i++) {
		const bool own = columns[i].type_oid < FIRST_OTHER_OID;

		wire_put_be32(bytes + 8 * i, own || !temporary ? columns[i].type_oid : 0);
		wire_put_be32(bytes + 8 * i + 4, (uint32_t)columns[i].type_modifier);
	}
	if (EVP_Digest(bytes, 8 * count, digest, NULL, EVP_sha256(), NULL) != 1)
		return false;
	for (size_t i = 0; i < 8; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", digest[i]);
	return true;
}

static bool note_columns(struct session_state *state, size_t i, const struct session_state *old,
                         uint8_t type, const void *body, size_t len)
{
	const bool temporary = session_state_count_kind(old, SESSION_TEMPORARY) > 0;
	char columns[17] = "";
	struct sbuf extra;
	bool good;

	if (type == BE_ROW_DESCRIPTION &&
	    (body == NULL || !digest_columns(body, len, temporary, columns)))
		return false;
	sbuf_init(&extra, strlen(session_state_at(state, i)->extra) + 32);
	sbuf_printf(&extra, "%s%c%s", session_state_at(state, i)->extra, MARK, columns);
	good = sbuf_ok(&extra) && session_state_set_extra(state, i, sbuf_text(&extra), extra.len);
	sbuf_free(&extra);
	return good;
}

bool shapes_wanted(const struct session_state *state)
{
	size_t at = session_state_described(state);

	return next(state, &at, is_statement) != NULL;
}

/* The first statement of PREPARE; the others follow it. */
static size_t first_by_sql(const struct session_state *state)
{
	size_t i = 0;

	while (i < session_state_count(state) &&
	       session_state_at(state, i)->kind != SESSION_SQL_STATEMENT)
		i++;
	return i;
}

/* Each in a step of its own: of those that cannot be prepared any more the new server is to say it. */
static unsigned ask_types(const struct session_state *state, struct sbuf *out)
{
	const size_t first = first_by_sql(state);
	size_t i;

	for (i = first; i < session_state_count(state) &&
	                session_state_at(state, i)->kind == SESSION_SQL_STATEMENT;
	     i++)
		replay_try_types(session_state_at(state, i),
		                 session_state_info(state, "server_encoding"), out);
	return (unsigned)(i - first);
}

unsigned shapes_ask(const struct session_state *state, struct sbuf *out)
{
	session_add_unlimited(out);
	session_add_encoding(out, session_state_info(state, "server_encoding"));
	/* Who waits for a lock here lets the client's next request wait. */
	session_add_run(out,
	                "SELECT WHERE pg_catalog.set_config('lock_timeout', '10', true) IS NULL"
	                " OR pg_catalog.set_config('statement_timeout', '0', true) IS NULL");
	describe_all(state, session_state_described(state), is_statement, out);
	wire_add_sync(out);
	return 1 + ask_types(state, out);
}

bool shapes_take(struct session_state *state, uint8_t type, const void *body, size_t len,
                 const char *sqlstate)
{
	size_t at = session_state_described(state);
	struct session_row changed;

	if (next(state, &at, is_statement) == NULL)
		return false;
	session_state_set_described(state, at);
	if (type != BE_ERROR_RESPONSE)
		return note_columns(state, at - 1, state, type, body, len);
	/* Of other errors the new server may know more. */
	if (strcmp(sqlstate, "0A000") != 0)
		return true;
	changed = *session_state_at(state, at - 1);
	if (changed.kind == SESSION_SQL_STATEMENT)
		changed.extra = SHAPES_BY_SQL;
	changed.kind = SESSION_CHANGED;
	changed.value = NULL;
	return session_state_put(state, &changed);
}

bool shapes_types_text(const uint8_t *body, size_t len, struct sbuf *text)
{
	size_t count;

	if (body == NULL || len < 2)
		return false;
	count = wire_get_be16(body);
	if (len != 2 + 4 * count)
		return false;
	sbuf_add_char(text, '{');
	for (size_t i = 0; i < count; i++)
		sbuf_printf(text, "%s%u", i == 0 ? "" : ",", wire_get_be32(body + 2 + 4 * i));
	sbuf_add_char(text, '}');
	return sbuf_ok(text);
}

bool shapes_take_types(struct session_state *state, unsigned step, const void *body, size_t len)
{
	const size_t at = step == 0 ? 0 : first_by_sql(state) + step - 1;
	struct session_row changed;
	struct sbuf text;
	bool good;

	if (step == 0)
		return true; /* what the statement has */
	if (at >= session_state_count(state) ||
	    session_state_at(state, at)->kind != SESSION_SQL_STATEMENT ||
	    session_state_at(state, at)->extra == NULL)
		return false;
	changed = *session_state_at(state, at);
	sbuf_init(&text, TYPES_TEXT_MAX);
	good = shapes_types_text(body, len, &text);
	if (good && strncmp(changed.extra, sbuf_text(&text), text.len) != 0 &&
	    session_state_find(state, SESSION_CHANGED, changed.name) == NULL) {
		changed.kind = SESSION_CHANGED;
		changed.value = NULL;
		changed.extra = SHAPES_TYPES;
		good = session_state_put(state, &changed);
	}
	sbuf_free(&text);
	return good;
}

bool shapes_is_bare(const struct session_row *row)
{
	const char *mark = has_shape(row) ? strchr(row->extra, MARK) : NULL;

	return mark != NULL && mark[1] == '\0';
}

bool shapes_is_refused(const struct session_row *row)
{
	return row->kind == SESSION_CHANGED && strcmp(row->extra, SHAPES_BY_SQL) != 0 &&
	       strcmp(row->extra, SHAPES_TYPES) != 0;
}

void shapes_check_add(const struct session_state *like, struct sbuf *out)
{
	size_t at = 0;

	if (next(like, &at, has_other_name) != NULL)
		session_add_encoding(out, session_state_info(like, "server_encoding"));
	describe_all(like, 0, has_shape, out);
}

bool shapes_differ(const struct session_row *a, const struct session_row *b)
{
	const char *mark = has_shape(a) ? strchr(a->extra, MARK) : NULL;
	const size_t types = mark == NULL ? 0 : (size_t)(mark - a->extra);

	return mark != NULL && has_shape(b) && strncmp(a->extra, b->extra, types + 1) == 0 &&
	       strcmp(mark, b->extra + types) != 0;
}

bool shapes_adopt(struct session_state *state, size_t i, const struct session_row *now)
{
	return session_state_set_extra(state, i, now->extra, strlen(now->extra));
}

bool shapes_check(const struct session_state *like, struct session_state *now, size_t *at,
                  uint8_t type, const void *body, size_t len)
{
	const struct session_row *old;
	const struct session_row *row;

	if (*at == 0)
		session_state_sort(now);
	old = next(like, at, has_shape);
	row = old == NULL ? NULL : session_state_find_sorted(now, old->kind, old->name);
	return row != NULL && row->extra != NULL &&
	       note_columns(now, (size_t)(row - session_state_at(now, 0)), like, type, body, len);
}
