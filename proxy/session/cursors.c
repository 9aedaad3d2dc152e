/* SPDX-License-Identifier: PostgreSQL */
#include "session/cursors.h"

#include "session/inspect_internal.h"
#include "session/neutral.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest command of ours. */
#define SQL_MAX ((size_t)1024 * 1024)

/* MaxTupleAttributeNumber */
#define COLUMNS_MAX 1664

/* So much a row counts at least: a server takes microseconds for each that it moves back by. */
#define ROW_LEAST 64

/* Read at a time: so many rows at first, then what comes to so many bytes. */
#define CHUNK_ROWS 200
#define CHUNK_BYTES ((size_t)1024 * 1024)
#define CHUNK_ROWS_MAX 50000

#define TRIAL_NAME SESSION_OWN_PREFIX "cursor"
#define MAKE_NAME SESSION_OWN_PREFIX "run"

/* What a cursor is asked next. */
enum cursor_phase {
	CURSOR_PLACE,  /* where it stands; it stands at its beginning then */
	CURSOR_READ,   /* some rows */
	CURSOR_RETURN, /* to go back to where it stood */
	CURSOR_TRY,    /* the trial */
	CURSOR_CHECK,  /* all at once: rows and place are known from another server */
	CURSOR_DONE,
};

/* Commands of a step, as their ends are counted: before these comes neutral_add(). */
enum {
	PLACE_ON_ROW = 1,
	PLACE_BEFORE = 2,
	CHECK_ROWS = 3,
	READ_LIST = 1, /* once; then the rows have its number */
};

struct cursor {
	char *name;
	bool binary;
	enum cursor_phase phase;
	unsigned int ended; /* commands of the step */
	bool on_row;        /* it stood on a row … */
	uint64_t before;    /* … with so many before it; if not on one, behind all of these */
	bool whole;         /* all rows are read */
	size_t width;       /* columns */
	char *columns;      /* names, types, type modifiers */
	char *values;       /* the same as rows of VALUES */
	char *list;         /* the same as what a SELECT returns */
	char *why;          /* it cannot be carried; NULL: nothing is against it */
};

struct cursors {
	struct copies *copies;
	struct copies *tried;
	uint32_t most_rows;
	bool failed;
	size_t steps; /* of the question under way */
	size_t count;
	struct cursor **asked; /* for each step */
	struct cursor all[];
};

/* ---- the state ---- */

bool cursor_is_forward(const struct session_row *row)
{
	return row->extra == NULL || strlen(row->extra) != 3 || row->extra[2] != 't';
}

static bool is_readable(const struct session_row *row)
{
	return row->kind == SESSION_CURSOR && !cursor_is_forward(row);
}

static size_t count_readable(const struct session_state *state)
{
	size_t count = 0;
	size_t i;

	for (i = 0; i < session_state_count(state); i++)
		count += is_readable(session_state_at(state, i));
	return count;
}

bool cursors_exist(const struct session_state *state)
{
	return count_readable(state) > 0;
}

void cursors_why(const struct session_state *state, struct sbuf *why)
{
	size_t i;

	for (i = 0; i < session_state_count(state) && why->len + 400 < why->max; i++) {
		const struct session_row *row = session_state_at(state, i);

		if (row->kind == SESSION_CURSOR_PIN)
			sbuf_printf(why, "%scursor \"%.64s\": %.200s", why->len > 0 ? "; " : "",
			            row->name, row->value == NULL ? "" : row->value);
	}
}

/* ---- life ---- */

struct cursors *cursors_new(const struct session_state *state, const struct copies_bound *bound,
                            bool keep)
{
	const size_t count = count_readable(state);
	struct cursors *cursors = calloc(1, sizeof(*cursors) + count * sizeof(cursors->all[0]));
	bool good;
	size_t i;

	if (cursors == NULL)
		return NULL;
	cursors->most_rows = bound->most / ROW_LEAST + 1 < INT32_MAX
	                         ? (uint32_t)(bound->most / ROW_LEAST + 1)
	                         : INT32_MAX;
	cursors->copies = copies_new(count, keep ? bound : NULL);
	cursors->tried = copies_new(count, NULL);
	cursors->asked = calloc(count + 1, sizeof(struct cursor *));
	good = cursors->copies != NULL && cursors->tried != NULL && cursors->asked != NULL;
	for (i = 0; good && i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);
		struct cursor *cursor = &cursors->all[cursors->count];

		if (!is_readable(row))
			continue;
		cursor->name = strdup(row->name);
		cursor->binary = row->extra[1] == 't';
		good = cursor->name != NULL;
		cursors->count++;
	}
	if (good)
		return cursors;
	cursors_free(cursors);
	return NULL;
}

void cursors_free(struct cursors *cursors)
{
	size_t i;

	if (cursors == NULL)
		return;
	for (i = 0; i < cursors->count; i++) {
		free(cursors->all[i].name);
		free(cursors->all[i].columns);
		free(cursors->all[i].values);
		free(cursors->all[i].list);
		free(cursors->all[i].why);
	}
	copies_free(cursors->copies);
	copies_free(cursors->tried);
	free(cursors->asked);
	free(cursors);
}

size_t cursors_bytes(const struct cursors *cursors)
{
	return copies_messages(cursors->copies) + cursors->count * SQL_MAX;
}

bool cursors_more(const struct cursors *cursors)
{
	size_t i;

	for (i = 0; i < cursors->count; i++) {
		if (cursors->all[i].phase != CURSOR_DONE)
			return true;
	}
	return false;
}

bool cursors_clean(const struct cursors *cursors)
{
	return !cursors->failed;
}

/* The first reason stays. */
static void give_up(struct cursor *cursor, const char *what, const char *why)
{
	struct sbuf text;

	if (cursor->why != NULL)
		return;
	sbuf_init(&text, 600);
	sbuf_printf(&text, "%s%.400s", what, why);
	cursor->why = sbuf_take(&text);
}

/* ---- asking ---- */

static void run_on(struct sbuf *out, const char *command, const char *name)
{
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, command);
	neutral_add_quoted(&sql, '"', name);
	neutral_run(out, &sql);
}

static size_t stream_of(const struct cursors *cursors, const struct cursor *cursor)
{
	return (size_t)(cursor - cursors->all);
}

static void ask_place(const struct cursors *cursors, const struct cursor *cursor, struct sbuf *out)
{
	char command[64];

	run_on(out, "MOVE 0 IN ", cursor->name);
	(void)snprintf(command, sizeof(command), "MOVE BACKWARD %" PRIu32 " IN ",
	               cursors->most_rows);
	run_on(out, command, cursor->name);
	wire_add_describe(out, 'P', cursor->name);
}

static void ask_list(const struct cursor *cursor, struct sbuf *out)
{
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql,
	             "SELECT string_agg(concat('u.c', v.n, '::', format_type(v.t, v.m), ' AS ',"
	             " quote_ident(v.c)), ', ' ORDER BY v.n), bool_or((SELECT t.typnamespace ="
	             " pg_my_temp_schema() FROM pg_catalog.pg_type t WHERE t.oid = v.t))"
	             " FROM (VALUES ");
	sbuf_add_str(&sql, cursor->values);
	sbuf_add_str(&sql, ") v (n, t, m, c)");
	neutral_run(out, &sql);
}

static uint32_t chunk_rows(const struct cursors *cursors, const struct cursor *cursor)
{
	const uint64_t rows = copies_rows(cursors->copies, stream_of(cursors, cursor));
	uint64_t next;
	size_t bytes;

	(void)copies_data(cursors->copies, stream_of(cursors, cursor), &bytes);
	if (rows == 0)
		return CHUNK_ROWS;
	next = CHUNK_BYTES / (bytes / rows + 1);
	return next < 1 ? 1 : next > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : (uint32_t)next;
}

/* "MOVE …" to where it stood, from wherever it stands; of one with more rows than were asked for,
 * from as many before it. */
static void add_return(const struct cursors *cursors, const struct cursor *cursor, struct sbuf *sql)
{
	if (cursor->before == cursors->most_rows)
		sbuf_printf(sql, "MOVE FORWARD %" PRIu32 " IN ", cursors->most_rows);
	else if (cursor->on_row)
		sbuf_printf(sql, "MOVE ABSOLUTE %" PRIu64 " IN ", cursor->before + 1);
	else if (cursor->before > 0)
		sbuf_add_str(sql, "MOVE FORWARD ALL IN ");
	else
		sbuf_add_str(sql, "MOVE ABSOLUTE 0 IN ");
	neutral_add_quoted(sql, '"', cursor->name);
}

static void ask_return(const struct cursors *cursors, const struct cursor *cursor, struct sbuf *out)
{
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	add_return(cursors, cursor, &sql);
	neutral_run(out, &sql);
}

/* ---- making one ---- */

/* The command, without what it does with its name. */
static void add_make(const struct cursor *cursor, const char *name, struct sbuf *sql)
{
	size_t i;

	sbuf_add_str(sql, "DECLARE ");
	neutral_add_quoted(sql, '"', name);
	sbuf_printf(sql, "%s SCROLL CURSOR WITH HOLD FOR SELECT %s FROM unnest(",
	            cursor->binary ? " BINARY" : "", cursor->list);
	for (i = 1; i <= cursor->width; i++)
		sbuf_printf(sql, "%s$%zu::pg_catalog.text[]", i == 1 ? "" : ", ", i);
	sbuf_add_str(sql, ") u (");
	for (i = 1; i <= cursor->width; i++)
		sbuf_printf(sql, "%sc%zu", i == 1 ? "" : ", ", i);
	sbuf_add_char(sql, ')');
}

/* Rows, one DataRow body behind the other, as the cells of each column. */
static bool split_columns(const char *data, size_t len, struct sbuf *columns, size_t width)
{
	struct wire_reader reader = wire_reader(data, len);
	size_t i;

	while (wire_left(&reader) > 0 && !reader.bad) {
		if (wire_read_be16(&reader) != width)
			return false;
		for (i = 0; i < width && !reader.bad; i++) {
			const uint32_t cell = wire_read_be32(&reader);

			sbuf_add_be32(&columns[i], cell);
			if (cell != UINT32_MAX)
				sbuf_add(&columns[i], wire_read_bytes(&reader, cell),
				         reader.bad ? 0 : cell);
		}
	}
	return !reader.bad;
}

/* An array of texts, as array_recv() takes it. */
static void add_array(struct sbuf *out, const struct sbuf *cells, uint64_t rows)
{
	const uint32_t dimensions = rows > 0 ? 1 : 0;

	sbuf_add_be32(out, (uint32_t)((dimensions == 0 ? 12 : 20) + cells->len));
	sbuf_add_be32(out, dimensions);
	sbuf_add_be32(out, 1); /* may have NULLs */
	sbuf_add_be32(out, WIRE_OID_TEXT);
	if (dimensions == 0)
		return;
	sbuf_add_be32(out, (uint32_t)rows);
	sbuf_add_be32(out, 1); /* the first has the number 1 */
	sbuf_add(out, sbuf_text(cells), cells->len);
}

/* Bind with an array for each column, all in binary. */
static void add_bind_arrays(struct sbuf *out, const struct sbuf *columns, size_t width,
                            uint64_t rows)
{
	const size_t start = out->len;
	size_t i;

	sbuf_add_char(out, FE_BIND);
	sbuf_add_be32(out, 0);
	sbuf_add(out, "\0" MAKE_NAME, sizeof("\0" MAKE_NAME)); /* the unnamed portal */
	sbuf_add_be16(out, 1);
	sbuf_add_be16(out, 1);
	sbuf_add_be16(out, (uint16_t)width);
	for (i = 0; i < width; i++)
		add_array(out, &columns[i], rows);
	sbuf_add_be16(out, 0);
	if (sbuf_ok(out))
		wire_put_be32((uint8_t *)out->data + start + 1, (uint32_t)(out->len - start - 1));
}

/* Runs the command with the rows of a stream. */
static void run_make(const char *sql, size_t width, const struct copies *copies, size_t stream,
                     struct sbuf *out)
{
	struct sbuf *columns = calloc(width, sizeof(*columns));
	const char *data;
	size_t len;
	size_t i;

	data = copies_data(copies, stream, &len);
	for (i = 0; columns != NULL && i < width; i++)
		sbuf_init(&columns[i], len);
	if (columns == NULL || !split_columns(data, len, columns, width)) {
		out->failed = true;
	} else {
		wire_add_close(out, 'S', MAKE_NAME);
		wire_add_parse(out, MAKE_NAME, sql, NULL, 0);
		add_bind_arrays(out, columns, width, copies_rows(copies, stream));
		wire_add_execute(out, "", 0);
		wire_add_close(out, 'S', MAKE_NAME);
	}
	for (i = 0; columns != NULL && i < width; i++) {
		out->failed = out->failed || !sbuf_ok(&columns[i]);
		sbuf_free(&columns[i]);
	}
	free(columns);
}

static void ask_try(const struct cursors *cursors, const struct cursor *cursor, struct sbuf *out)
{
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	add_make(cursor, TRIAL_NAME, &sql);
	run_make(sbuf_text(&sql), cursor->width, cursors->copies, stream_of(cursors, cursor), out);
	out->failed = out->failed || !sbuf_ok(&sql);
	sbuf_free(&sql);
	wire_add_describe(out, 'P', TRIAL_NAME);
	wire_add_execute(out, TRIAL_NAME, 0);
	wire_add_close(out, 'P', TRIAL_NAME);
}

unsigned cursors_ask(struct cursors *cursors, const struct session_state *state, struct sbuf *out)
{
	size_t i;

	cursors->steps = 0;
	for (i = 0; i < cursors->count; i++) {
		struct cursor *cursor = &cursors->all[i];

		if (cursor->phase == CURSOR_DONE)
			continue;
		cursor->ended = 0;
		cursors->asked[cursors->steps++] = cursor;
		neutral_add(state, out);
		if (cursor->phase == CURSOR_PLACE) {
			ask_place(cursors, cursor, out);
		} else if (cursor->phase == CURSOR_READ) {
			if (cursor->list == NULL)
				ask_list(cursor, out);
			wire_add_execute(out, cursor->name, chunk_rows(cursors, cursor));
		} else if (cursor->phase == CURSOR_RETURN) {
			ask_return(cursors, cursor, out);
		} else {
			ask_try(cursors, cursor, out);
		}
		wire_add_sync(out);
	}
	return (unsigned)cursors->steps;
}

/* ---- answers ---- */

static void take_error(struct cursors *cursors, struct cursor *cursor, const uint8_t *body,
                       size_t len)
{
	struct wire_error error = {0};

	cursors->failed = true;
	if (!wire_parse_error(body, len, &error) || error.message == NULL)
		error.message = "unknown error";
	give_up(cursor,
	        cursor->phase == CURSOR_TRY    ? "it cannot be made again: "
	        : cursor->phase == CURSOR_READ ? "it could not be read: "
	                                       : "it could not be moved: ",
	        error.message);
}

/* The columns of the cursor; or, if they are known, whether they are the same. */
static void take_columns(struct cursor *cursor, const uint8_t *body, size_t len)
{
	struct wire_column_view *columns = calloc(COLUMNS_MAX, sizeof(*columns));
	struct sbuf values;
	struct sbuf text;
	size_t width;
	size_t i;

	sbuf_init(&text, SQL_MAX);
	sbuf_init(&values, SQL_MAX);
	if (columns == NULL ||
	    !wire_parse_row_description(body, len, columns, COLUMNS_MAX, &width) || width == 0 ||
	    width > COLUMNS_MAX) {
		give_up(cursor, "", columns == NULL ? "out of memory" : "it has no columns");
		width = 0;
	}
	for (i = 0; i < width; i++) {
		sbuf_printf(&text, "%s%s %" PRIu32 " %" PRId32, i == 0 ? "" : ", ", columns[i].name,
		            columns[i].type_oid, columns[i].type_modifier);
		sbuf_printf(&values,
		            "%s(%zu, %" PRIu32 "::pg_catalog.oid, '%" PRId32 "'::pg_catalog.int4, ",
		            i == 0 ? "" : ", ", i + 1, columns[i].type_oid,
		            columns[i].type_modifier);
		neutral_add_literal(&values, columns[i].name);
		sbuf_add_str(&values, "::pg_catalog.text)");
	}
	free(columns);
	if (cursor->columns != NULL) {
		if (strcmp(cursor->columns, sbuf_text(&text)) != 0)
			give_up(cursor, "",
			        "its columns come out differently when it is made again");
		sbuf_free(&text);
		sbuf_free(&values);
		return;
	}
	cursor->width = width;
	cursor->columns = sbuf_take(&text);
	cursor->values = sbuf_take(&values);
	if (cursor->columns == NULL || cursor->values == NULL)
		give_up(cursor, "", "out of memory");
}

static void take_list(struct cursor *cursor, const void *body, size_t len)
{
	struct wire_cell cells[2];
	size_t count;

	if (body == NULL || !wire_parse_data_row(body, len, cells, 2, &count) || count != 2 ||
	    cells[0].data == NULL || cells[1].data == NULL)
		give_up(cursor, "", "the types of its columns are not known");
	else if (cells[1].len != 1 || cells[1].data[0] != 'f')
		give_up(cursor, "", "a type of its columns is temporary");
	else
		cursor->list = strndup(cells[0].data, cells[0].len);
}

static void take_rows(struct copies *copies, size_t stream, const void *body, size_t len)
{
	if (body == NULL)
		copies_too_long(copies);
	else
		copies_take(copies, stream, BE_DATA_ROW, body, len);
}

static void take_row(struct cursors *cursors, struct cursor *cursor, const void *body, size_t len)
{
	const size_t stream = stream_of(cursors, cursor);

	if (cursor->phase == CURSOR_TRY)
		take_rows(cursors->tried, stream, body, len);
	else if (cursor->phase == CURSOR_READ && cursor->list == NULL && cursor->ended == READ_LIST)
		take_list(cursor, body, len);
	else if (cursor->phase == CURSOR_READ ||
	         (cursor->phase == CURSOR_CHECK && cursor->ended == CHECK_ROWS))
		take_rows(cursors->copies, stream, body, len);
}

/* "MOVE n" */
static uint64_t moved(const void *body, size_t len)
{
	const char *tag;

	return wire_parse_command_complete(body, len, &tag) && strncmp(tag, "MOVE ", 5) == 0
	           ? strtoull(tag + 5, NULL, 10)
	           : 0;
}

static void take_end(struct cursor *cursor, uint8_t type, const void *body, size_t len)
{
	if (cursor->phase == CURSOR_PLACE || cursor->phase == CURSOR_CHECK) {
		if (cursor->ended == PLACE_ON_ROW)
			cursor->on_row = moved(body, len) > 0;
		else if (cursor->ended == PLACE_BEFORE)
			cursor->before = moved(body, len);
		else if (cursor->ended == CHECK_ROWS)
			cursor->whole = true;
	} else if (cursor->phase == CURSOR_READ) {
		/* What comes last counts: that of the rows. */
		cursor->whole = type == BE_COMMAND_COMPLETE;
	}
	cursor->ended++;
}

static void compare_trial(const struct cursors *cursors, struct cursor *cursor)
{
	const size_t stream = stream_of(cursors, cursor);
	struct sbuf one;
	struct sbuf two;

	sbuf_init(&one, 200);
	sbuf_init(&two, 200);
	if (!copies_digest(cursors->copies, stream, &one) ||
	    !copies_digest(cursors->tried, stream, &two) ||
	    strcmp(sbuf_text(&one), sbuf_text(&two)) != 0)
		give_up(cursor, "", "its rows come out differently when it is made again");
	sbuf_free(&one);
	sbuf_free(&two);
}

/* The step has ended: what comes next. */
static void step_ended(struct cursors *cursors, struct cursor *cursor)
{
	const bool failed = cursor->why != NULL;

	switch (cursor->phase) {
	case CURSOR_PLACE:
		if (cursor->ended <= PLACE_BEFORE)
			cursor->phase = CURSOR_DONE; /* it has not been moved */
		else if (cursor->before >= cursors->most_rows)
			give_up(cursor, "", "it has more rows than may be carried");
		else if (cursor->columns == NULL)
			give_up(cursor, "", "its columns are not known");
		if (cursor->phase != CURSOR_DONE)
			cursor->phase = cursor->why != NULL ? CURSOR_RETURN : CURSOR_READ;
		break;
	case CURSOR_READ:
		if (!failed && cursor->list == NULL)
			give_up(cursor, "", "out of memory");
		if (!failed && copies_failure(cursors->copies) != NULL)
			give_up(cursor, "its rows: ", copies_failure(cursors->copies));
		if (cursor->why != NULL || cursor->whole)
			cursor->phase = CURSOR_RETURN;
		break;
	case CURSOR_RETURN:
		cursor->phase = failed ? CURSOR_DONE : CURSOR_TRY;
		break;
	case CURSOR_TRY:
		if (!failed)
			compare_trial(cursors, cursor);
		cursor->phase = CURSOR_DONE;
		break;
	case CURSOR_CHECK:
	case CURSOR_DONE:
		cursor->phase = CURSOR_DONE;
		break;
	}
}

void cursors_take(struct cursors *cursors, size_t step, uint8_t type, const void *body, size_t len)
{
	struct cursor *cursor;

	if (step >= cursors->steps)
		return;
	cursor = cursors->asked[step];
	switch (type) {
	case BE_ERROR_RESPONSE:
		take_error(cursors, cursor, body, len);
		break;
	case BE_ROW_DESCRIPTION:
		take_columns(cursor, body, len);
		break;
	case BE_DATA_ROW:
		take_row(cursors, cursor, body, len);
		break;
	case BE_COMMAND_COMPLETE:
	case BE_PORTAL_SUSPENDED:
		take_end(cursor, type, body, len);
		break;
	case BE_READY_FOR_QUERY:
		step_ended(cursors, cursor);
		break;
	default:
		break;
	}
}

/* ---- what it came to ---- */

static bool put_rows(const struct cursors *cursors, const struct cursor *cursor,
                     struct session_state *state)
{
	struct session_row row = {
	    .kind = SESSION_CURSOR_ROWS, .name = cursor->name, .extra = cursor->columns};
	struct sbuf text;
	bool good;

	sbuf_init(&text, 200);
	good = copies_digest(cursors->copies, stream_of(cursors, cursor), &text);
	if (cursor->on_row)
		sbuf_printf(&text, " at %" PRIu64, cursor->before + 1);
	else
		sbuf_add_str(&text, cursor->before > 0 ? " at the end" : " at the beginning");
	row.value = sbuf_text(&text);
	good = good && sbuf_ok(&text) && session_state_replace(state, &row);
	sbuf_free(&text);
	return good;
}

static bool put_make(const struct cursors *cursors, const struct cursor *cursor,
                     struct session_state *state)
{
	struct session_row row = {.kind = SESSION_CURSOR_MAKE, .name = cursor->name};
	struct sbuf make;
	struct sbuf back;
	bool good;

	sbuf_init(&make, SQL_MAX);
	sbuf_init(&back, SQL_MAX);
	sbuf_printf(&make, "%zu ", cursor->width);
	add_make(cursor, cursor->name, &make);
	add_return(cursors, cursor, &back);
	row.value = sbuf_text(&make);
	row.extra = sbuf_text(&back);
	good = sbuf_ok(&make) && sbuf_ok(&back) && session_state_replace(state, &row);
	sbuf_free(&make);
	sbuf_free(&back);
	return good;
}

bool cursors_read_done(struct cursors *cursors, struct session_state *state)
{
	size_t i;

	for (i = 0; i < cursors->count; i++) {
		const struct cursor *cursor = &cursors->all[i];
		const struct session_row pin = {
		    .kind = SESSION_CURSOR_PIN, .name = cursor->name, .value = cursor->why};

		if (cursor->why != NULL
		        ? !session_state_replace(state, &pin)
		        : !put_rows(cursors, cursor, state) || !put_make(cursors, cursor, state))
			return false;
	}
	session_state_set_cursors(state, cursors->copies);
	cursors->copies = NULL;
	return true;
}

/* ---- the new server ---- */

bool cursor_make_add(const struct session_state *state, const char *name, struct sbuf *out)
{
	const struct session_row *make = session_state_find(state, SESSION_CURSOR_MAKE, name);
	const struct copies *copies = session_state_cursors(state);
	size_t stream = 0;
	size_t width;
	char *sql;
	size_t i;

	if (make == NULL || copies == NULL)
		return false;
	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		if (is_readable(row) && strcmp(row->name, name) < 0)
			stream++;
	}
	width = strtoul(make->value, &sql, 10); /* "columns DECLARE …" */
	neutral_add(state, out);
	run_make(sql, width, copies, stream, out);
	session_add_run(out, make->extra);
	return true;
}

unsigned cursors_check_add(struct cursors *cursors, const struct session_state *like,
                           struct sbuf *out)
{
	size_t i;

	cursors->steps = 0;
	for (i = 0; i < cursors->count; i++) {
		struct cursor *cursor = &cursors->all[i];
		const struct session_row *make =
		    session_state_find(like, SESSION_CURSOR_MAKE, cursor->name);

		cursor->phase = make == NULL ? CURSOR_DONE : CURSOR_CHECK;
		if (make == NULL)
			continue;
		cursors->asked[cursors->steps++] = cursor;
		neutral_add(like, out);
		ask_place(cursors, cursor, out);
		wire_add_execute(out, cursor->name, 0);
		session_add_run(out, make->extra);
		wire_add_sync(out);
	}
	return (unsigned)cursors->steps;
}

bool cursors_check_done(struct cursors *cursors, struct session_state *state)
{
	size_t i;

	for (i = 0; i < cursors->steps; i++) {
		const struct cursor *cursor = cursors->asked[i];

		if (cursor->why != NULL || !cursor->whole || !put_rows(cursors, cursor, state))
			return false;
	}
	return copies_failure(cursors->copies) == NULL;
}
