/* SPDX-License-Identifier: PostgreSQL */
/*
 * Every reader of a message body.  The first byte chooses the reader, the rest is the body; texts
 * that come out are read to their ends, so that a sanitizer sees one that leaves the body.
 */
#include "wire/build.h"
#include "wire/parse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t sink;

static void use_text(const char *text)
{
	if (text != NULL)
		sink += strlen(text);
}

static void use_bytes(const void *bytes, size_t len)
{
	const uint8_t *b = bytes;

	for (size_t i = 0; i < len; i++)
		sink += b[i];
}

static void fuzz_error(const uint8_t *body, size_t len)
{
	struct wire_error error;
	struct wire_error again;
	struct sbuf buf;
	char sqlstate[6];

	if (wire_peek_sqlstate(body, len, sqlstate) && strlen(sqlstate) != 5)
		abort();
	if (!wire_parse_error(body, len, &error))
		return;
	use_text(error.severity);
	use_text(error.message);
	/* What was parsed and is built again stays the same. */
	sbuf_init(&buf, 3 * len + 100);
	wire_add_error(&buf, &error);
	if (!sbuf_ok(&buf) ||
	    !wire_parse_error(buf.data + WIRE_HEADER_LEN, buf.len - WIRE_HEADER_LEN, &again) ||
	    again.position != error.position || (again.detail == NULL) != (error.detail == NULL) ||
	    (error.hint != NULL && strcmp(error.hint, again.hint) != 0))
		abort();
	sbuf_free(&buf);
}

static void fuzz_backend(unsigned which, const uint8_t *body, size_t len)
{
	struct wire_column_view columns[4];
	struct wire_cell cells[4];
	enum wire_tx_status status;
	const char *name;
	const char *value;
	const uint8_t *bytes;
	size_t count;
	uint32_t a;
	uint32_t b;

	switch (which) {
	case 0:
		if (wire_parse_parameter_status(body, len, &name, &value)) {
			use_text(name);
			use_text(value);
		}
		break;
	case 1:
		if (wire_parse_backend_key(body, len, &a, &bytes, &count))
			use_bytes(bytes, count);
		break;
	case 2:
		if (wire_parse_ready(body, len, &status) && len != 1)
			abort();
		break;
	case 3:
		if (wire_parse_command_complete(body, len, &name))
			use_text(name);
		break;
	case 4:
		if (wire_parse_auth(body, len, &a, &bytes, &count))
			use_bytes(bytes, count);
		break;
	case 5:
		(void)!wire_parse_negotiate(body, len, &a, &b);
		break;
	case 6:
		if (wire_parse_row_description(body, len, columns, 4, &count)) {
			for (size_t i = 0; i < count && i < 4; i++)
				use_text(columns[i].name);
		}
		break;
	default:
		if (wire_parse_data_row(body, len, cells, 4, &count)) {
			for (size_t i = 0; i < count && i < 4; i++)
				use_bytes(cells[i].data, cells[i].len);
		}
		break;
	}
}

static void fuzz_frontend(unsigned which, const uint8_t *body, size_t len)
{
	struct wire_parse_message parse;
	struct wire_bind_message bind;
	const char *text;
	const uint8_t *bytes;
	size_t bytes_len;
	uint32_t rows;
	char kind;

	switch (which) {
	case 0:
		if (wire_parse_query(body, len, &text))
			use_text(text);
		break;
	case 1:
		if (wire_parse_parse(body, len, &parse)) {
			use_text(parse.name);
			use_text(parse.query);
			use_bytes(parse.rest, parse.rest_len);
		}
		break;
	case 2:
		if (wire_parse_bind(body, len, &bind)) {
			use_text(bind.portal);
			use_text(bind.statement);
			use_bytes(body + bind.rest_offset, len - bind.rest_offset);
		}
		break;
	case 3:
		if (wire_parse_target(body, len, &kind, &text))
			use_text(text);
		break;
	case 4:
		if (wire_parse_execute(body, len, &text, &rows))
			use_text(text);
		break;
	case 5:
		if (wire_parse_password(body, len, &text))
			use_text(text);
		break;
	default:
		if (wire_parse_sasl_initial(body, len, &text, &bytes, &bytes_len)) {
			use_text(text);
			use_bytes(bytes, bytes_len);
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned which;

	if (size == 0)
		return 0;
	which = data[0] % 16;
	if (which < 8)
		fuzz_backend(which, data + 1, size - 1);
	else if (which < 15)
		fuzz_frontend(which - 8, data + 1, size - 1);
	else
		fuzz_error(data + 1, size - 1);
	return 0;
}
