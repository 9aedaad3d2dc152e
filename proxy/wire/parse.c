/* SPDX-License-Identifier: PostgreSQL */
#include "wire/parse.h"

#include <string.h>

const void *wire_read_bytes(struct wire_reader *reader, size_t len)
{
	const uint8_t *at = reader->at;

	if (reader->bad || len > wire_left(reader)) {
		reader->bad = true;
		return NULL;
	}
	if (len > 0)
		reader->at += len;
	return at;
}

uint8_t wire_read_byte(struct wire_reader *reader)
{
	const uint8_t *b = wire_read_bytes(reader, 1);

	return b == NULL ? 0 : *b;
}

uint16_t wire_read_be16(struct wire_reader *reader)
{
	const void *b = wire_read_bytes(reader, 2);

	return b == NULL ? 0 : wire_get_be16(b);
}

uint32_t wire_read_be32(struct wire_reader *reader)
{
	const void *b = wire_read_bytes(reader, 4);

	return b == NULL ? 0 : wire_get_be32(b);
}

const char *wire_read_str(struct wire_reader *reader)
{
	size_t left = reader->bad ? 0 : wire_left(reader);
	const uint8_t *end = left == 0 ? NULL : memchr(reader->at, '\0', left);

	if (end == NULL) {
		reader->bad = true;
		return NULL;
	}
	return wire_read_bytes(reader, (size_t)(end - reader->at) + 1);
}

/* Everything was read and nothing was missing. */
static bool reader_at_end(const struct wire_reader *reader)
{
	return !reader->bad && wire_left(reader) == 0;
}

static bool parse_position(const char *text, uint32_t *position)
{
	uint32_t n = 0;

	for (; *text >= '0' && *text <= '9'; text++) {
		if (n > (UINT32_MAX - 9) / 10)
			return false;
		n = n * 10 + (uint32_t)(*text - '0');
	}
	*position = n;
	return *text == '\0';
}

bool wire_parse_error(const void *body, size_t len, struct wire_error *out)
{
	struct wire_reader reader = wire_reader(body, len);
	const char *localized = NULL;
	uint8_t field;

	memset(out, 0, sizeof(*out));
	while ((field = wire_read_byte(&reader)) != 0) {
		const char *text = wire_read_str(&reader);

		if (text == NULL)
			return false;
		switch (field) {
		case 'S':
			localized = text;
			break;
		case 'V':
			out->severity = text;
			break;
		case 'C':
			out->sqlstate = text;
			break;
		case 'M':
			out->message = text;
			break;
		case 'D':
			out->detail = text;
			break;
		case 'H':
			out->hint = text;
			break;
		case 'R':
			out->routine = text;
			break;
		case 'P':
			if (!parse_position(text, &out->position))
				out->position = 0;
			break;
		default:
			break;
		}
	}
	if (out->severity == NULL)
		out->severity = localized;
	return reader_at_end(&reader);
}

bool wire_peek_sqlstate(const void *body, size_t len, char out[6])
{
	struct wire_reader reader = wire_reader(body, len);
	uint8_t field;

	while ((field = wire_read_byte(&reader)) != 0) {
		const char *text = wire_read_str(&reader);

		if (text == NULL)
			return false;
		if (field == 'C') {
			if (strlen(text) != 5)
				return false;
			memcpy(out, text, 6);
			return true;
		}
	}
	return false;
}

bool wire_parse_parameter_status(const void *body, size_t len, const char **name,
                                 const char **value)
{
	struct wire_reader reader = wire_reader(body, len);

	*name = wire_read_str(&reader);
	*value = wire_read_str(&reader);
	return reader_at_end(&reader);
}

bool wire_parse_backend_key(const void *body, size_t len, uint32_t *pid, const uint8_t **key,
                            size_t *key_len)
{
	struct wire_reader reader = wire_reader(body, len);

	*pid = wire_read_be32(&reader);
	*key_len = wire_left(&reader);
	*key = wire_read_bytes(&reader, *key_len);
	return !reader.bad && *key_len >= WIRE_CANCEL_KEY_MIN && *key_len <= WIRE_CANCEL_KEY_MAX;
}

bool wire_parse_ready(const void *body, size_t len, enum wire_tx_status *status)
{
	struct wire_reader reader = wire_reader(body, len);
	uint8_t byte = wire_read_byte(&reader);

	if (!reader_at_end(&reader))
		return false;
	*status = (enum wire_tx_status)byte;
	return byte == WIRE_TX_IDLE || byte == WIRE_TX_BLOCK || byte == WIRE_TX_FAILED;
}

/* A body that is one text and nothing else. */
static bool parse_only_str(const void *body, size_t len, const char **text)
{
	struct wire_reader reader = wire_reader(body, len);

	*text = wire_read_str(&reader);
	return reader_at_end(&reader);
}

bool wire_parse_command_complete(const void *body, size_t len, const char **tag)
{
	return parse_only_str(body, len, tag);
}

bool wire_parse_auth(const void *body, size_t len, uint32_t *code, const uint8_t **data,
                     size_t *data_len)
{
	struct wire_reader reader = wire_reader(body, len);

	*code = wire_read_be32(&reader);
	*data_len = wire_left(&reader);
	*data = wire_read_bytes(&reader, *data_len);
	return !reader.bad;
}

bool wire_parse_negotiate(const void *body, size_t len, uint32_t *version, uint32_t *option_count)
{
	struct wire_reader reader = wire_reader(body, len);

	*version = wire_read_be32(&reader);
	*option_count = wire_read_be32(&reader);
	for (uint32_t i = 0; i < *option_count && !reader.bad; i++)
		(void)wire_read_str(&reader);
	return reader_at_end(&reader);
}

bool wire_parse_row_description(const void *body, size_t len, struct wire_column_view *columns,
                                size_t max, size_t *count)
{
	struct wire_reader reader = wire_reader(body, len);

	*count = wire_read_be16(&reader);
	for (size_t i = 0; i < *count && !reader.bad; i++) {
		struct wire_column_view column;

		column.name = wire_read_str(&reader);
		(void)wire_read_bytes(&reader, 6); /* table, attribute */
		column.type_oid = wire_read_be32(&reader);
		(void)wire_read_be16(&reader); /* length of the type */
		column.type_modifier = (int32_t)wire_read_be32(&reader);
		(void)wire_read_be16(&reader); /* format */
		if (i < max)
			columns[i] = column;
	}
	return reader_at_end(&reader);
}

bool wire_parse_data_row(const void *body, size_t len, struct wire_cell *cells, size_t max,
                         size_t *count)
{
	struct wire_reader reader = wire_reader(body, len);

	*count = wire_read_be16(&reader);
	for (size_t i = 0; i < *count && !reader.bad; i++) {
		struct wire_cell cell = {NULL, 0};
		uint32_t cell_len = wire_read_be32(&reader);

		if (cell_len != UINT32_MAX) {
			cell.data = wire_read_bytes(&reader, cell_len);
			cell.len = cell_len;
		}
		if (i < max)
			cells[i] = cell;
	}
	return reader_at_end(&reader);
}

bool wire_parse_query(const void *body, size_t len, const char **text)
{
	return parse_only_str(body, len, text);
}

bool wire_parse_parse(const void *body, size_t len, struct wire_parse_message *out)
{
	struct wire_reader reader = wire_reader(body, len);

	out->name = wire_read_str(&reader);
	out->query = wire_read_str(&reader);
	out->rest = reader.at;
	out->rest_len = wire_left(&reader);
	(void)wire_read_bytes(&reader, (size_t)wire_read_be16(&reader) * 4);
	return reader_at_end(&reader);
}

bool wire_parse_bind(const void *body, size_t len, struct wire_bind_message *out)
{
	struct wire_reader reader = wire_reader(body, len);

	out->portal = wire_read_str(&reader);
	out->statement = wire_read_str(&reader);
	out->rest_offset = len - wire_left(&reader);
	return !reader.bad;
}

bool wire_parse_target(const void *body, size_t len, char *kind, const char **name)
{
	struct wire_reader reader = wire_reader(body, len);

	*kind = (char)wire_read_byte(&reader);
	*name = wire_read_str(&reader);
	return reader_at_end(&reader) && (*kind == 'S' || *kind == 'P');
}

bool wire_parse_execute(const void *body, size_t len, const char **portal, uint32_t *max_rows)
{
	struct wire_reader reader = wire_reader(body, len);

	*portal = wire_read_str(&reader);
	*max_rows = wire_read_be32(&reader);
	return reader_at_end(&reader);
}

bool wire_parse_password(const void *body, size_t len, const char **password)
{
	return parse_only_str(body, len, password);
}

bool wire_parse_sasl_initial(const void *body, size_t len, const char **mechanism,
                             const uint8_t **data, size_t *data_len)
{
	struct wire_reader reader = wire_reader(body, len);
	uint32_t length;

	*mechanism = wire_read_str(&reader);
	length = wire_read_be32(&reader);
	*data = NULL;
	*data_len = 0;
	if (length != UINT32_MAX) {
		*data = wire_read_bytes(&reader, length);
		*data_len = length;
	}
	return reader_at_end(&reader);
}
