/* SPDX-License-Identifier: PostgreSQL */
#include "session/shapes.h"

#include "session/inspect_internal.h"
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
/* Before the columns, behind the parameters' types. */
#define MARK '|'

static bool is_ascii(const char *text)
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
	       row->extra != NULL && is_ascii(row->name) && !is_about_another(row->value);
}

static bool has_shape(const struct session_row *row)
{
	return is_statement(row) && strchr(row->extra, MARK) != NULL;
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

void shapes_ask(const struct session_state *state, struct sbuf *out)
{
	/* Who waits for a lock here lets the client's next request wait. */
	session_add_run(out,
	                "SELECT WHERE pg_catalog.set_config('lock_timeout', '10', true) IS NULL"
	                " OR pg_catalog.set_config('statement_timeout', '0', true) IS NULL");
	describe_all(state, session_state_described(state), is_statement, out);
	wire_add_sync(out);
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

void shapes_check_add(const struct session_state *like, struct sbuf *out)
{
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
