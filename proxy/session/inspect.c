/* SPDX-License-Identifier: PostgreSQL */
#include "session/inspect.h"

#include "session/copies.h"
#include "session/inspect_internal.h"
#include "session/inspect_sql.h"
#include "session/shapes.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ASK_NAME SESSION_OWN_PREFIX "inspect"
#define NEUTRAL_NAME SESSION_OWN_PREFIX "neutral"
#define LIMIT_NAME SESSION_OWN_PREFIX "limit"
#define RUN_NAME SESSION_OWN_PREFIX "run"

/* More than this a session is not asked for: it is pinned. */
#define STATE_BYTES_MAX ((size_t)24 * 1024 * 1024)

struct session_state {
	struct session_row *rows;
	size_t count;
	size_t cap;
	size_t bytes;
	bool bad;
	bool finished;
	bool merged;           /* state_merge_timeout() is done */
	bool temporary;        /* has temporary objects */
	size_t described;      /* rows before this one; see shapes.h */
	struct copies *copies; /* of their rows */
	struct copies *cursors;
};

static const struct {
	const char *word;
	enum replay_stage stage;
} kinds[] = {
#define SESSION_KIND(constant, word, stage) {word, stage},
#include "session/session_kinds.def"
#undef SESSION_KIND
};

/* ---- asking ---- */

static void add_name(struct sbuf *names, const char *name)
{
	if (names->len > 0)
		sbuf_add_char(names, ',');
	sbuf_add_str(names, name);
}

static void add_names(struct sbuf *names, const struct session_ask *ask)
{
	size_t i;

	for (i = 0; i < session_facts_names(ask->facts); i++)
		add_name(names, session_facts_name(ask->facts, i));
	for (i = 0; ask->like != NULL && i < ask->like->count; i++) {
		if (ask->like->rows[i].kind == SESSION_CUSTOM)
			add_name(names, ask->like->rows[i].name);
	}
	if (ask->custom != NULL && ask->custom[0] != '\0')
		add_name(names, ask->custom);
}

static void add_statement(struct sbuf *out, const char *name, const char *sql,
                          const char *const *values, uint16_t count)
{
	/* Three parameters of type text. */
	static const uint8_t types[] = {
	    0, 3, 0, 0, 0, WIRE_OID_TEXT, 0, 0, 0, WIRE_OID_TEXT, 0, 0, 0, WIRE_OID_TEXT};

	wire_add_close(out, 'S', name);
	wire_add_parse(out, name, sql, count == 0 ? NULL : types, count == 0 ? 0 : sizeof(types));
	wire_add_bind_texts(out, "", name, values, count);
	wire_add_execute(out, "", 0);
	wire_add_close(out, 'S', name);
}

void session_inspect_add(struct sbuf *out, const struct session_ask *ask)
{
	struct sbuf names;
	const char *values[3];

	sbuf_init(&names, SESSION_INSPECT_MAX / 2);
	add_names(&names, ask);
	values[0] = sbuf_text(&names);
	values[1] = ask->neutral ? "neutral" : "";
	values[2] = ask->like == NULL ? "reset" : ""; /* else it has just logged in */
	add_statement(out, LIMIT_NAME, limit_sql, NULL, 0);
	if (ask->neutral)
		add_statement(out, NEUTRAL_NAME, neutral_sql, NULL, 0);
	add_statement(out, ASK_NAME, inspect_sql, values, 3);
	if (ask->shapes)
		shapes_check_add(ask->like, out);
	wire_add_sync(out);
	if (!sbuf_ok(&names))
		out->failed = true;
	sbuf_free(&names);
}

void session_add_unlimited(struct sbuf *out)
{
	session_add_run(out, "SELECT WHERE " SESSION_UNLIMITED " OPERATOR(pg_catalog.=) ''");
}

void session_add_encoding(struct sbuf *out, const char *encoding)
{
	char sql[160];

	(void)snprintf(
	    sql, sizeof(sql),
	    "SELECT WHERE pg_catalog.set_config('client_encoding', '%.60s', true) IS NULL",
	    encoding);
	session_add_run(out, sql);
}

void session_add_parse(struct sbuf *out, const char *sql, const void *types, size_t types_len)
{
	wire_add_close(out, 'S', RUN_NAME);
	wire_add_parse(out, RUN_NAME, sql, types, types_len);
	wire_add_close(out, 'S', RUN_NAME);
}

void session_add_described(struct sbuf *out, const char *sql, const void *types, size_t types_len)
{
	wire_add_close(out, 'S', RUN_NAME);
	wire_add_parse(out, RUN_NAME, sql, types, types_len);
	wire_add_describe(out, 'S', RUN_NAME);
	wire_add_close(out, 'S', RUN_NAME);
}

void session_begin_run(struct sbuf *out, const char *sql)
{
	wire_add_close(out, 'S', RUN_NAME);
	wire_add_parse(out, RUN_NAME, sql, NULL, 0);
	wire_add_bind(out, "", RUN_NAME);
	wire_add_execute(out, "", 0);
}

void session_end_run(struct sbuf *out)
{
	wire_add_close(out, 'S', RUN_NAME);
}

void session_add_run(struct sbuf *out, const char *sql)
{
	session_begin_run(out, sql);
	session_end_run(out);
}

void session_inspect_cleanup(struct sbuf *out)
{
	wire_add_close(out, 'S', LIMIT_NAME);
	wire_add_close(out, 'S', NEUTRAL_NAME);
	wire_add_close(out, 'S', ASK_NAME);
	wire_add_close(out, 'S', RUN_NAME);
	wire_add_sync(out);
}

void session_inspect_run(struct sbuf *out, const char *sql)
{
	session_add_run(out, sql);
	wire_add_sync(out);
}

bool session_inspect_retry(const char *sqlstate)
{
	return sqlstate != NULL && strcmp(sqlstate, "57014") == 0;
}

/* ---- the answer ---- */

struct session_state *session_state_new(void)
{
	return calloc(1, sizeof(struct session_state));
}

static void row_free(struct session_row *row)
{
	free((char *)row->name);
	free((char *)row->value);
	free((char *)row->extra);
}

void session_state_free(struct session_state *state)
{
	size_t i;

	if (state == NULL)
		return;
	for (i = 0; i < state->count; i++)
		row_free(&state->rows[i]);
	free(state->rows);
	copies_free(state->copies);
	copies_free(state->cursors);
	free(state);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* The text that a cell says in hexadecimal, malloc'ed; *out is NULL for NULL.  False: it does not,
 * or no memory. */
static bool cell_text(const struct wire_cell *cell, const char **out)
{
	char *text;
	size_t i;

	*out = NULL;
	if (cell->data == NULL)
		return true;
	if (cell->len % 2 != 0)
		return false;
	text = malloc(cell->len / 2 + 1);
	if (text == NULL)
		return false;
	for (i = 0; i < cell->len / 2; i++) {
		int high = hex_digit(cell->data[2 * i]);
		int low = hex_digit(cell->data[2 * i + 1]);

		if (high < 0 || low < 0 || (high == 0 && low == 0)) {
			free(text);
			return false;
		}
		text[i] = (char)(high << 4 | low);
	}
	text[i] = '\0';
	*out = text;
	return true;
}

static bool cell_kind(const struct wire_cell *cell, enum session_kind *kind)
{
	size_t i;

	for (i = 0; cell->data != NULL && i < SESSION_KIND_COUNT; i++) {
		if (strlen(kinds[i].word) == cell->len &&
		    memcmp(kinds[i].word, cell->data, cell->len) == 0) {
			*kind = (enum session_kind)i;
			return true;
		}
	}
	return false;
}

static bool state_room(struct session_state *state)
{
	size_t cap = state->cap == 0 ? 32 : state->cap * 2;
	struct session_row *rows;

	if (state->count < state->cap)
		return true;
	rows = realloc(state->rows, cap * sizeof(*rows));
	if (rows == NULL)
		return false;
	state->rows = rows;
	state->cap = cap;
	return true;
}

bool session_state_row(struct session_state *state, const void *body, size_t len)
{
	struct wire_cell cells[4];
	struct session_row row = {0};
	size_t count;

	state->bytes += len;
	if (!state->bad && !state->finished && state->bytes <= STATE_BYTES_MAX &&
	    wire_parse_data_row(body, len, cells, 4, &count) && count == 4 &&
	    cell_kind(&cells[0], &row.kind) && cell_text(&cells[1], &row.name) &&
	    row.name != NULL && cell_text(&cells[2], &row.value) &&
	    cell_text(&cells[3], &row.extra) && state_room(state)) {
		state->rows[state->count++] = row;
		return true;
	}
	row_free(&row);
	state->bad = true;
	return false;
}

void session_state_remove(struct session_state *state, const struct session_row *row)
{
	const size_t i = (size_t)(row - state->rows);

	row_free(&state->rows[i]);
	state->count--;
	memmove(&state->rows[i], &state->rows[i + 1],
	        (state->count - i) * sizeof(state->rows[0]));
}

bool session_state_set_extra(struct session_state *state, size_t i, const char *text, size_t len)
{
	char *copy = strndup(text, len);

	if (copy == NULL)
		return false;
	free((char *)state->rows[i].extra);
	state->rows[i].extra = copy;
	return true;
}

/* "90s", "1500" (of milliseconds) … in milliseconds; -1: cannot be read. */
static long long milliseconds(const char *text)
{
	static const struct {
		const char *unit;
		long long factor;
	} units[] = {{"", 1},        {"ms", 1},      {"s", 1000},
	             {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
	char *end;
	long long value = text == NULL ? -1 : strtoll(text, &end, 10);
	size_t i;

	if (value < 0)
		return -1;
	for (i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(end, units[i].unit) == 0)
			return value * units[i].factor;
	}
	return -1;
}

/* A neutral inspection tells what statement_timeout was in two rows, and with its unit. */
static bool state_merge_timeout(struct session_state *state)
{
	static const enum session_kind where[] = {SESSION_SETTING, SESSION_GIVEN, SESSION_BASE};
	struct session_row *reset =
	    (struct session_row *)session_state_find(state, SESSION_RESET, "statement_timeout");
	struct session_row *row = NULL;
	long long value;
	char text[32];
	size_t i;

	for (i = 0; i < ARRAY_LEN(where) && row == NULL; i++)
		row =
		    (struct session_row *)session_state_find(state, where[i], "statement_timeout");
	if (reset == NULL)
		return true;
	value = row == NULL ? -1 : milliseconds(row->value);
	if (value < 0)
		return false;
	(void)snprintf(text, sizeof(text), "%lld", value);
	free((char *)row->value);
	free((char *)row->extra);
	row->value = strdup(text);
	row->extra = reset->extra;
	reset->extra = NULL;
	return row->value != NULL;
}

/* What transaction_timeout was, and who had set it, before the question has set it. */
static bool state_merge_limit(struct session_state *state)
{
	static const enum session_kind where[] = {SESSION_SETTING, SESSION_GIVEN, SESSION_BASE};
	const struct session_row *was =
	    session_state_find(state, SESSION_RESET, "transaction_timeout");
	struct session_row *row = NULL;
	size_t i;

	for (i = 0; i < ARRAY_LEN(where) && row == NULL; i++)
		row = (struct session_row *)session_state_find(state, where[i],
		                                               "transaction_timeout");
	if (was == NULL)
		return true;
	if (row == NULL || was->value == NULL || was->extra == NULL)
		return false;
	if (was->extra[0] == '\0')
		row->kind = row->extra != NULL ? SESSION_GIVEN : SESSION_BASE;
	free((char *)row->value);
	row->value = strdup(was->value);
	return row->value != NULL;
}

/* What RESET leads to, which the catalog may not say any more. */
static void state_merge_resets(struct session_state *state)
{
	for (size_t i = 0; i < state->count; i++) {
		struct session_row *to = &state->rows[i];
		struct session_row *row = to->kind != SESSION_RESET_TO
		                              ? NULL
		                              : (struct session_row *)session_state_find(
		                                    state, SESSION_SETTING, to->name);

		if (row == NULL || row->extra != NULL)
			continue;
		row->extra = to->extra;
		to->extra = NULL;
	}
}

static int compare_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return (a != NULL) - (b != NULL);
	return strcmp(a, b);
}

/* Who has set a setting is no difference, as long as it is state at all. */
static enum session_kind canonical_kind(enum session_kind kind)
{
	return kind == SESSION_GIVEN ? SESSION_SETTING : kind;
}

static int compare_place(const struct session_row *a, const struct session_row *b)
{
	int kind = (int)canonical_kind(a->kind) - (int)canonical_kind(b->kind);

	return kind != 0 ? kind : strcmp(a->name, b->name);
}

static int compare_rows(const void *left, const void *right)
{
	const struct session_row *a = left;
	const struct session_row *b = right;
	int order = compare_place(a, b);

	return order != 0 ? order : compare_text(a->value, b->value);
}

void session_state_sort(struct session_state *state)
{
	qsort(state->rows, state->count, sizeof(*state->rows), compare_rows);
}

static int compare_to_place(const void *left, const void *right)
{
	return compare_place(left, right);
}

const struct session_row *session_state_find_sorted(const struct session_state *state,
                                                    enum session_kind kind, const char *name)
{
	const struct session_row key = {.kind = kind, .name = name};

	return state->count == 0 ? NULL
	                         : bsearch(&key, state->rows, state->count, sizeof(key),
	                                   compare_to_place);
}

bool session_state_set_value(struct session_state *state, size_t i, const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL)
		return false;
	free((char *)state->rows[i].value);
	state->rows[i].value = copy;
	return true;
}

bool session_state_put(struct session_state *state, const struct session_row *row)
{
	struct session_row copy = {.kind = row->kind, .name = strdup(row->name)};

	if (row->value != NULL)
		copy.value = strdup(row->value);
	if (row->extra != NULL)
		copy.extra = strdup(row->extra);
	if (copy.name == NULL || (row->value != NULL && copy.value == NULL) ||
	    (row->extra != NULL && copy.extra == NULL) || !state_room(state)) {
		row_free(&copy);
		return false;
	}
	state->rows[state->count++] = copy;
	if (state->finished)
		qsort(state->rows, state->count, sizeof(*state->rows), compare_rows);
	return true;
}

bool session_state_replace(struct session_state *state, const struct session_row *row)
{
	size_t kept = 0;
	size_t i;

	for (i = 0; i < state->count; i++) {
		struct session_row *old = &state->rows[i];

		if (old->kind == row->kind && strcmp(old->name, row->name) == 0)
			row_free(old);
		else
			state->rows[kept++] = *old;
	}
	state->count = kept;
	return session_state_put(state, row);
}

size_t session_state_described(const struct session_state *state)
{
	return state->described;
}

void session_state_set_described(struct session_state *state, size_t i)
{
	state->described = i;
}

void session_state_set_copies(struct session_state *state, struct copies *copies)
{
	copies_free(state->copies);
	state->copies = copies;
}

const struct copies *session_state_copies(const struct session_state *state)
{
	return state->copies;
}

void session_state_set_cursors(struct session_state *state, struct copies *copies)
{
	copies_free(state->cursors);
	state->cursors = copies;
}

const struct copies *session_state_cursors(const struct session_state *state)
{
	return state->cursors;
}

size_t session_state_carried(const struct session_state *state)
{
	return copies_messages(state->copies) + copies_messages(state->cursors);
}

bool session_state_finish(struct session_state *state)
{
	if (state->bad || state->finished ||
	    session_state_info(state, "server_encoding")[0] == '\0' ||
	    (!state->merged && !(state_merge_timeout(state) && state_merge_limit(state)))) {
		state->bad = true;
		return false;
	}
	state_merge_resets(state);
	state->merged = true;
	state->temporary = session_state_count_kind(state, SESSION_TEMPORARY) > 0;
	qsort(state->rows, state->count, sizeof(*state->rows), compare_rows);
	state->finished = true;
	return true;
}

void session_state_more(struct session_state *state)
{
	state->finished = false;
}

bool session_state_again(const struct session_state *state)
{
	return strcmp(session_state_info(state, "hidden"), "true") == 0;
}

/* ---- reading ---- */

size_t session_state_count(const struct session_state *state)
{
	return state->count;
}

const struct session_row *session_state_at(const struct session_state *state, size_t i)
{
	return &state->rows[i];
}

size_t session_state_count_kind(const struct session_state *state, enum session_kind kind)
{
	size_t count = 0;
	size_t i;

	for (i = 0; i < state->count; i++)
		count += state->rows[i].kind == kind;
	return count;
}

const char *session_state_bound(const struct session_state *state)
{
	static const struct {
		enum session_kind kind;
		const char *words;
	} bound[] = {{SESSION_LOCK, "advisory locks"},
	             {SESSION_CHANNEL, "channels listened to"},
	             {SESSION_CURSOR, "cursors"},
	             {SESSION_TEMPORARY, "temporary objects"},
	             {SESSION_SLOT, "temporary replication slots"}};
	size_t i;

	for (i = 0; i < ARRAY_LEN(bound); i++) {
		if (session_state_count_kind(state, bound[i].kind) > 0)
			return bound[i].words;
	}
	return NULL;
}

const struct session_row *session_state_find(const struct session_state *state,
                                             enum session_kind kind, const char *name)
{
	size_t i;

	for (i = 0; i < state->count; i++) {
		if (state->rows[i].kind == kind && strcmp(state->rows[i].name, name) == 0)
			return &state->rows[i];
	}
	return NULL;
}

const char *session_state_info(const struct session_state *state, const char *name)
{
	const struct session_row *row = session_state_find(state, SESSION_INFO, name);

	return row == NULL || row->value == NULL ? "" : row->value;
}

bool session_setting_late(const char *name)
{
	static const char *const late[] = {
#define LATE_SETTING(name, value) name,
#include "session/late_settings.def"
#undef LATE_SETTING
	};
	size_t i;

	for (i = 0; i < ARRAY_LEN(late); i++) {
		if (strcmp(late[i], name) == 0)
			return true;
	}
	return false;
}

enum replay_stage session_row_stage(const struct session_row *row)
{
	enum replay_stage stage = kinds[row->kind].stage;

	if (stage == REPLAY_ON_STANDBY && canonical_kind(row->kind) == SESSION_SETTING &&
	    session_setting_late(row->name))
		return REPLAY_AFTER_PROMOTION;
	return stage;
}

/* ---- comparing ---- */

/* Statements may be about temporary tables, which come after the promotion. */
enum replay_stage session_statement_stage(const struct session_state *state)
{
	return state->temporary ? REPLAY_AFTER_PROMOTION : REPLAY_ON_STANDBY;
}

static bool is_statement(const struct session_row *row)
{
	return row->kind == SESSION_PROTOCOL_STATEMENT || row->kind == SESSION_SQL_STATEMENT;
}

/* A late setting is not yet what it will be, but what RESET leads to, where the catalog says so,
 * is. */
static bool is_reset_only(const struct session_row *row, enum replay_stage stage)
{
	return stage == REPLAY_ON_STANDBY && canonical_kind(row->kind) == SESSION_SETTING &&
	       session_setting_late(row->name) && row->extra != NULL;
}

/* A custom setting that does not exist is as if nobody had asked for it, and RESET leads to nothing
 * as a rule. */
static bool row_counts(const struct session_state *state, const struct session_row *row,
                       enum replay_stage stage)
{
	return (session_row_stage(row) <= stage || is_reset_only(row, stage)) &&
	       (!is_statement(row) || session_statement_stage(state) <= stage) &&
	       !(row->kind == SESSION_CUSTOM && row->value == NULL) &&
	       !(row->kind == SESSION_CUSTOM_RESET &&
	         (row->value == NULL || row->value[0] == '\0'));
}

/* The next row from *i on that counts, or NULL. */
static const struct session_row *next_row(const struct session_state *state, size_t *i,
                                          enum replay_stage stage)
{
	while (*i < state->count) {
		const struct session_row *row = &state->rows[(*i)++];

		if (row_counts(state, row, stage))
			return row;
	}
	return NULL;
}

/* What of a row's extra is state: not who gave a custom setting, nor what else has its name, nor
 * who may make a schema, nor how often a lock was taken, which the new server is not asked. */
static const char *row_extra(const struct session_row *row)
{
	return row->kind == SESSION_CUSTOM || row->kind == SESSION_LOCK ||
	               row->kind == SESSION_TEMPORARY || row->kind == SESSION_TEMP_SCHEMA
	           ? NULL
	           : row->extra;
}

/* A cursor's text is that of the query that made it, wherever that was. */
static const char *row_value(const struct session_row *row)
{
	return row->kind == SESSION_CURSOR ? NULL : row->value;
}

static void digest_text(EVP_MD_CTX *context, const char *text)
{
	/* The length first, so that no two lists of texts are one string. */
	uint32_t len = text == NULL ? UINT32_MAX : (uint32_t)strlen(text);
	uint8_t bytes[4];

	wire_put_be32(bytes, len);
	(void)EVP_DigestUpdate(context, bytes, sizeof(bytes));
	if (text != NULL)
		(void)EVP_DigestUpdate(context, text, len);
}

void session_state_digest(const struct session_state *state, char hex[65])
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	const struct session_row *row;
	unsigned char digest[32] = {0};
	size_t i = 0;

	hex[0] = '\0';
	if (context == NULL || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
		EVP_MD_CTX_free(context);
		return;
	}
	while ((row = next_row(state, &i, REPLAY_AFTER_PROMOTION)) != NULL) {
		digest_text(context, kinds[canonical_kind(row->kind)].word);
		digest_text(context, row->name);
		digest_text(context, row_value(row));
		digest_text(context, row_extra(row));
	}
	if (EVP_DigestFinal_ex(context, digest, NULL) == 1) {
		for (i = 0; i < sizeof(digest); i++)
			(void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	}
	EVP_MD_CTX_free(context);
}

static void tell_difference(struct sbuf *why, const struct session_row *old,
                            const struct session_row *now)
{
	const struct session_row *any = old != NULL ? old : now;

	if (why == NULL)
		return;
	sbuf_printf(why, "%s \"%s\"",
	            canonical_kind(any->kind) == SESSION_SETTING ? "setting" : kinds[any->kind].word,
	            any->name);
	if (old == NULL || now == NULL)
		sbuf_add_str(why, old == NULL ? " is on the new server only"
		                              : " is on the old server only");
	else if (compare_text(row_value(old), row_value(now)) != 0 &&
	         !(canonical_kind(old->kind) == SESSION_SETTING &&
	           session_setting_late(old->name) &&
	           compare_text(row_extra(old), row_extra(now)) != 0))
		sbuf_printf(why, ": \"%.200s\" became \"%.200s\"",
		            old->value == NULL ? "" : old->value,
		            now->value == NULL ? "" : now->value);
	else if (is_statement(any) && shapes_differ(old, now))
		sbuf_add_str(why, " returns other columns");
	else
		sbuf_printf(why, ": %s\"%.200s\" became \"%.200s\"",
		            canonical_kind(old->kind) == SESSION_SETTING ? "RESET to " : "",
		            row_extra(old) == NULL ? "" : row_extra(old),
		            row_extra(now) == NULL ? "" : row_extra(now));
}

/* Next row of a comparison, or NULL. */
typedef const struct session_row *next_fn(const struct session_state *state, size_t *i,
                                          enum replay_stage stage);

static bool same_rows(const struct session_state *old, const struct session_state *now,
                      next_fn *next, enum replay_stage stage, struct sbuf *why)
{
	size_t i = 0;
	size_t j = 0;

	for (;;) {
		const struct session_row *a = next(old, &i, stage);
		const struct session_row *b = next(now, &j, stage);
		int order;

		if (a == NULL && b == NULL)
			return true;
		order = a == NULL ? 1 : b == NULL ? -1 : compare_place(a, b);
		if (order != 0 ||
		    (!is_reset_only(a, stage) && compare_text(row_value(a), row_value(b)) != 0) ||
		    compare_text(row_extra(a), row_extra(b)) != 0) {
			tell_difference(why, order > 0 ? NULL : a, order < 0 ? NULL : b);
			return false;
		}
	}
}

bool session_state_same(const struct session_state *old, const struct session_state *now,
                        enum replay_stage stage, struct sbuf *why)
{
	return same_rows(old, now, next_row, stage, why);
}

static const struct session_row *next_but_channels(const struct session_state *state, size_t *i,
                                                   enum replay_stage stage)
{
	const struct session_row *row;

	do {
		row = next_row(state, i, stage);
	} while (row != NULL && row->kind == SESSION_CHANNEL);
	return row;
}

static const struct session_row *next_but_claims(const struct session_state *state, size_t *i,
                                                 enum replay_stage stage)
{
	const struct session_row *row;

	do {
		row = next_but_channels(state, i, stage);
	} while (row != NULL && row->kind == SESSION_LOCK);
	return row;
}

bool session_state_same_but_claims(const struct session_state *old, const struct session_state *now,
                                   bool locks)
{
	return session_state_count_kind(now, SESSION_CHANNEL) == 0 &&
	       same_rows(old, now, locks ? next_but_claims : next_but_channels,
	                 REPLAY_AFTER_PROMOTION, NULL);
}

/* One that is no setting, nor what RESET makes of one. */
static const struct session_row *next_other(const struct session_state *state, size_t *i,
                                            enum replay_stage stage)
{
	const struct session_row *row;

	do {
		row = next_row(state, i, stage);
	} while (row != NULL && (canonical_kind(row->kind) == SESSION_SETTING ||
	                         row->kind == SESSION_CUSTOM_RESET));
	return row;
}

bool session_state_same_but_settings(const struct session_state *old,
                                     const struct session_state *now)
{
	return same_rows(old, now, next_other, REPLAY_AFTER_PROMOTION, NULL);
}
