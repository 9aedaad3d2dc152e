/* SPDX-License-Identifier: PostgreSQL */
#include "control/session.h"
#include "wire/build.h"

#include <string.h>

#define COLUMNS_MAX 64

/* Digits of base 10000 that an int64 can have. */
#define NUMERIC_DIGITS 5
#define NUMERIC_BASE 10000

static const struct {
	uint32_t oid;
	uint16_t size; /* UINT16_MAX: varies */
} types[] = {
    [COLUMN_TEXT] = {WIRE_OID_TEXT, UINT16_MAX},
    [COLUMN_BYTEA] = {WIRE_OID_BYTEA, UINT16_MAX},
    [COLUMN_INT] = {WIRE_OID_INT8, 8},
    [COLUMN_INT4] = {WIRE_OID_INT4, 4},
    [COLUMN_NUMERIC] = {WIRE_OID_NUMERIC, UINT16_MAX},
};

size_t result_columns(const struct command *command, struct view_column *one,
                      const struct view_column **columns)
{
	enum view view = VIEW_COUNT;

	switch (command->id) {
	case COMMAND_HOLD:
	case COMMAND_RENEW:
	case COMMAND_CANCEL_SWAP:
	case COMMAND_SWAP:
	case COMMAND_RELEASE:
		view = VIEW_HOLDS;
		break;
	case COMMAND_PREPARE_SWAP:
		view = VIEW_PREPARED;
		break;
	case COMMAND_SEAL:
		view = VIEW_SEALED;
		break;
	case COMMAND_SHOW:
		view = command->view;
		one->name = command->parameter;
		one->type = COLUMN_TEXT;
		break;
	case COMMAND_SELECT:
		one->name = command_function_name(command->function);
		one->type = command->function == FUNCTION_NONE ? COLUMN_INT4 : COLUMN_TEXT;
		break;
	default:
		return 0;
	}
	if (view == VIEW_COUNT) {
		*columns = one;
		return 1;
	}
	*columns = view_info(view)->columns;
	return view_info(view)->column_count;
}

static size_t message_begin(struct sbuf *out, char type)
{
	size_t start = out->len;

	sbuf_add_char(out, type);
	sbuf_add_be32(out, 0);
	return start;
}

/* The length is known now. */
static void message_end(struct sbuf *out, size_t start)
{
	if (sbuf_ok(out))
		wire_put_be32(out->data + start + 1, (uint32_t)(out->len - start - 1));
}

static bool is_binary(uint64_t binary, size_t column)
{
	return (binary >> column & 1) != 0;
}

void result_add_description(struct sbuf *out, const struct command *command, uint64_t binary)
{
	struct view_column one;
	const struct view_column *columns;
	size_t count = result_columns(command, &one, &columns);
	size_t start;

	if (count == 0) {
		wire_add_no_data(out);
		return;
	}
	start = message_begin(out, BE_ROW_DESCRIPTION);
	sbuf_add_be16(out, (uint16_t)count);
	for (size_t i = 0; i < count; i++) {
		sbuf_add(out, columns[i].name, strlen(columns[i].name) + 1);
		sbuf_add_be32(out, 0);
		sbuf_add_be16(out, 0);
		sbuf_add_be32(out, types[columns[i].type].oid);
		sbuf_add_be16(out, types[columns[i].type].size);
		sbuf_add_be32(out, UINT32_MAX);
		sbuf_add_be16(out, is_binary(binary, i));
	}
	message_end(out, start);
}

/* As numeric_send() in PostgreSQL's numeric.c: number of digits, weight of the first, sign, digits
 * after the point, digits of base 10000. */
static void add_numeric(struct sbuf *out, int64_t value)
{
	uint16_t digits[NUMERIC_DIGITS];
	uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;
	unsigned count = 0;

	for (; rest > 0; rest /= NUMERIC_BASE)
		digits[count++] = (uint16_t)(rest % NUMERIC_BASE);
	sbuf_add_be32(out, 8 + 2 * count);
	sbuf_add_be16(out, (uint16_t)count);
	sbuf_add_be16(out, (uint16_t)(count == 0 ? 0 : count - 1));
	sbuf_add_be16(out, value < 0 ? 0x4000 : 0);
	sbuf_add_be16(out, 0);
	while (count > 0)
		sbuf_add_be16(out, digits[--count]);
}

static void add_binary(struct sbuf *out, int64_t value, enum column_type type)
{
	if (type == COLUMN_NUMERIC) {
		add_numeric(out, value);
	} else if (type == COLUMN_INT4) {
		sbuf_add_be32(out, 4);
		sbuf_add_be32(out, (uint32_t)value);
	} else {
		sbuf_add_be32(out, 8);
		sbuf_add_be32(out, (uint32_t)((uint64_t)value >> 32));
		sbuf_add_be32(out, (uint32_t)value);
	}
}

static void add_cell(struct sbuf *out, const struct rowset_cell *cell, enum column_type type,
                     bool binary)
{
	const bool number = type != COLUMN_TEXT && type != COLUMN_BYTEA;
	const int64_t value = number && cell->bytes != NULL ? rowset_cell_int(cell) : 0;

	if (cell->bytes == NULL) {
		sbuf_add_be32(out, UINT32_MAX);
	} else if (type == COLUMN_INT4 && value > INT32_MAX) {
		const struct rowset_cell most = {"2147483647", 10};

		add_cell(out, &most, type, binary);
	} else if (binary && number) {
		add_binary(out, value, type);
	} else {
		sbuf_add_be32(out, (uint32_t)cell->len);
		sbuf_add(out, cell->bytes, cell->len);
	}
}

size_t result_add_rows(struct sbuf *out, const struct command *command, const struct rowset *rows,
                       uint64_t binary, size_t *offset, size_t max, bool *more)
{
	struct rowset_cell cells[COLUMNS_MAX];
	struct view_column one;
	const struct view_column *columns;
	size_t count = result_columns(command, &one, &columns);
	size_t sent = 0;
	size_t next = *offset;

	*more = false;
	while (rowset_next(rows, &next, cells)) {
		size_t start;

		if (max != 0 && sent == max) {
			*more = true;
			break;
		}
		start = message_begin(out, BE_DATA_ROW);
		sbuf_add_be16(out, (uint16_t)count);
		for (size_t i = 0; i < count; i++)
			add_cell(out, &cells[i], columns[i].type, is_binary(binary, i));
		message_end(out, start);
		*offset = next;
		sent++;
	}
	return sent;
}
