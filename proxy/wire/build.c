/* SPDX-License-Identifier: PostgreSQL */
#include "wire/build.h"

#include "wire/parse.h"

#include <string.h>

/* The header of a message whose length is not known yet; returns where the message starts. */
static size_t message_begin(struct sbuf *buf, char type)
{
	size_t start = buf->len;

	sbuf_add_char(buf, type);
	sbuf_add_be32(buf, 0);
	return start;
}

/* Writes the length of the packet that began at `start`, whose length field is `skip` bytes on. */
static void length_end(struct sbuf *buf, size_t start, size_t skip)
{
	if (sbuf_ok(buf))
		wire_put_be32(buf->data + start + skip, (uint32_t)(buf->len - start - skip));
}

static void message_end(struct sbuf *buf, size_t start)
{
	length_end(buf, start, 1);
}

static void add_cstr(struct sbuf *buf, const char *text)
{
	sbuf_add(buf, text, strlen(text) + 1);
}

static void add_empty(struct sbuf *buf, char type)
{
	message_end(buf, message_begin(buf, type));
}

static void add_one_str(struct sbuf *buf, char type, const char *text)
{
	size_t start = message_begin(buf, type);

	add_cstr(buf, text);
	message_end(buf, start);
}

/* ---- from the backend ---- */

static void add_field(struct sbuf *buf, char field, const char *text)
{
	if (text == NULL)
		return;
	sbuf_add_char(buf, field);
	add_cstr(buf, text);
}

static void add_report(struct sbuf *buf, char type, const struct wire_error *error,
                       const char *default_severity)
{
	const char *severity = error->severity == NULL ? default_severity : error->severity;
	size_t start = message_begin(buf, type);

	add_field(buf, 'S', severity);
	add_field(buf, 'V', severity);
	add_field(buf, 'C', error->sqlstate == NULL ? "XX000" : error->sqlstate);
	add_field(buf, 'M', error->message == NULL ? "" : error->message);
	add_field(buf, 'D', error->detail);
	add_field(buf, 'H', error->hint);
	if (error->position > 0) {
		sbuf_printf(buf, "P%u", error->position);
		sbuf_add_char(buf, '\0');
	}
	add_field(buf, 'R', error->routine);
	sbuf_add_char(buf, '\0');
	message_end(buf, start);
}

void wire_add_error(struct sbuf *buf, const struct wire_error *error)
{
	add_report(buf, BE_ERROR_RESPONSE, error, "ERROR");
}

void wire_add_notice(struct sbuf *buf, const struct wire_error *notice)
{
	add_report(buf, BE_NOTICE_RESPONSE, notice, "NOTICE");
}

void wire_add_error_text(struct sbuf *buf, const char *severity, const char *sqlstate,
                         const char *message)
{
	struct wire_error error = {.severity = severity, .sqlstate = sqlstate, .message = message};

	wire_add_error(buf, &error);
}

static void add_auth(struct sbuf *buf, uint32_t code, const void *data, size_t len)
{
	size_t start = message_begin(buf, BE_AUTHENTICATION);

	sbuf_add_be32(buf, code);
	sbuf_add(buf, data, len);
	message_end(buf, start);
}

void wire_add_auth_ok(struct sbuf *buf)
{
	add_auth(buf, WIRE_AUTH_OK, "", 0);
}

void wire_add_auth_cleartext(struct sbuf *buf)
{
	add_auth(buf, WIRE_AUTH_CLEARTEXT, "", 0);
}

void wire_add_auth_md5(struct sbuf *buf, const uint8_t salt[4])
{
	add_auth(buf, WIRE_AUTH_MD5, salt, 4);
}

void wire_add_auth_sasl(struct sbuf *buf, const char *const *mechanisms, size_t count)
{
	size_t start = message_begin(buf, BE_AUTHENTICATION);

	sbuf_add_be32(buf, WIRE_AUTH_SASL);
	for (size_t i = 0; i < count; i++)
		add_cstr(buf, mechanisms[i]);
	sbuf_add_char(buf, '\0');
	message_end(buf, start);
}

void wire_add_auth_sasl_continue(struct sbuf *buf, const void *data, size_t len)
{
	add_auth(buf, WIRE_AUTH_SASL_CONTINUE, data, len);
}

void wire_add_auth_sasl_final(struct sbuf *buf, const void *data, size_t len)
{
	add_auth(buf, WIRE_AUTH_SASL_FINAL, data, len);
}

void wire_add_parameter_status(struct sbuf *buf, const char *name, const char *value)
{
	size_t start = message_begin(buf, BE_PARAMETER_STATUS);

	add_cstr(buf, name);
	add_cstr(buf, value);
	message_end(buf, start);
}

void wire_add_backend_key(struct sbuf *buf, uint32_t pid, const void *key, size_t key_len)
{
	size_t start = message_begin(buf, BE_BACKEND_KEY_DATA);

	sbuf_add_be32(buf, pid);
	sbuf_add(buf, key, key_len);
	message_end(buf, start);
}

void wire_add_ready(struct sbuf *buf, enum wire_tx_status status)
{
	size_t start = message_begin(buf, BE_READY_FOR_QUERY);

	sbuf_add_char(buf, (char)status);
	message_end(buf, start);
}

void wire_add_negotiate(struct sbuf *buf, const struct wire_startup *startup)
{
	size_t start = message_begin(buf, BE_NEGOTIATE_PROTOCOL_VERSION);
	const char *cursor = NULL;
	const char *name;
	const char *value;

	sbuf_add_be32(buf, wire_startup_spoken(startup));
	sbuf_add_be32(buf, startup->unknown_count);
	while (wire_startup_next(startup, &cursor, &name, &value)) {
		if (strncmp(name, "_pq_.", 5) == 0)
			add_cstr(buf, name);
	}
	message_end(buf, start);
}

void wire_add_parameter_types(struct sbuf *buf, const char *def, size_t len)
{
	const size_t text = strnlen(def, len - 1) + 1;
	size_t start = message_begin(buf, BE_PARAMETER_DESCRIPTION);

	sbuf_add(buf, def + text, len - text);
	message_end(buf, start);
}

void wire_add_row_description(struct sbuf *buf, const struct wire_column *columns, size_t count)
{
	size_t start = message_begin(buf, BE_ROW_DESCRIPTION);

	sbuf_add_be16(buf, (uint16_t)count);
	for (size_t i = 0; i < count; i++) {
		add_cstr(buf, columns[i].name);
		sbuf_add_be32(buf, 0); /* no table */
		sbuf_add_be16(buf, 0); /* no attribute */
		sbuf_add_be32(buf, columns[i].type_oid);
		sbuf_add_be16(buf, (uint16_t)columns[i].type_len);
		sbuf_add_be32(buf, UINT32_MAX); /* no type modifier */
		sbuf_add_be16(buf, 0);          /* text */
	}
	message_end(buf, start);
}

void wire_add_data_row(struct sbuf *buf, const char *const *cells, size_t count)
{
	size_t start = message_begin(buf, BE_DATA_ROW);

	sbuf_add_be16(buf, (uint16_t)count);
	for (size_t i = 0; i < count; i++) {
		if (cells[i] == NULL) {
			sbuf_add_be32(buf, UINT32_MAX);
			continue;
		}
		sbuf_add_be32(buf, (uint32_t)strlen(cells[i]));
		sbuf_add_str(buf, cells[i]);
	}
	message_end(buf, start);
}

void wire_add_command_complete(struct sbuf *buf, const char *tag)
{
	add_one_str(buf, BE_COMMAND_COMPLETE, tag);
}

void wire_add_empty_query(struct sbuf *buf)
{
	add_empty(buf, BE_EMPTY_QUERY_RESPONSE);
}

void wire_add_parse_complete(struct sbuf *buf)
{
	add_empty(buf, BE_PARSE_COMPLETE);
}

void wire_add_bind_complete(struct sbuf *buf)
{
	add_empty(buf, BE_BIND_COMPLETE);
}

void wire_add_close_complete(struct sbuf *buf)
{
	add_empty(buf, BE_CLOSE_COMPLETE);
}

void wire_add_no_data(struct sbuf *buf)
{
	add_empty(buf, BE_NO_DATA);
}

void wire_add_parameter_description(struct sbuf *buf, const uint32_t *type_oids, size_t count)
{
	size_t start = message_begin(buf, BE_PARAMETER_DESCRIPTION);

	sbuf_add_be16(buf, (uint16_t)count);
	for (size_t i = 0; i < count; i++)
		sbuf_add_be32(buf, type_oids[i]);
	message_end(buf, start);
}

void wire_add_portal_suspended(struct sbuf *buf)
{
	add_empty(buf, BE_PORTAL_SUSPENDED);
}

/* ---- from the frontend ---- */

size_t wire_begin_startup(struct sbuf *buf, uint32_t version)
{
	size_t start = buf->len;

	sbuf_add_be32(buf, 0);
	sbuf_add_be32(buf, version);
	return start;
}

void wire_add_startup_param(struct sbuf *buf, const char *name, const char *value)
{
	add_cstr(buf, name);
	add_cstr(buf, value);
}

void wire_end_startup(struct sbuf *buf, size_t start)
{
	sbuf_add_char(buf, '\0');
	length_end(buf, start, 0);
}

void wire_add_ssl_request(struct sbuf *buf)
{
	sbuf_add_be32(buf, 8);
	sbuf_add_be32(buf, WIRE_CODE_SSL);
}

void wire_add_cancel_request(struct sbuf *buf, uint32_t pid, const void *key, size_t key_len)
{
	sbuf_add_be32(buf, (uint32_t)(12 + key_len));
	sbuf_add_be32(buf, WIRE_CODE_CANCEL);
	sbuf_add_be32(buf, pid);
	sbuf_add(buf, key, key_len);
}

void wire_add_password(struct sbuf *buf, const char *password)
{
	add_one_str(buf, FE_PASSWORD, password);
}

void wire_add_sasl_initial(struct sbuf *buf, const char *mechanism, const void *data, size_t len)
{
	size_t start = message_begin(buf, FE_PASSWORD);

	add_cstr(buf, mechanism);
	sbuf_add_be32(buf, (uint32_t)len);
	sbuf_add(buf, data, len);
	message_end(buf, start);
}

void wire_add_sasl_response(struct sbuf *buf, const void *data, size_t len)
{
	size_t start = message_begin(buf, FE_PASSWORD);

	sbuf_add(buf, data, len);
	message_end(buf, start);
}

void wire_add_query(struct sbuf *buf, const char *text)
{
	add_one_str(buf, FE_QUERY, text);
}

void wire_add_parse(struct sbuf *buf, const char *name, const char *query, const void *rest,
                    size_t rest_len)
{
	size_t start = message_begin(buf, FE_PARSE);

	add_cstr(buf, name);
	add_cstr(buf, query);
	if (rest == NULL)
		sbuf_add_be16(buf, 0);
	else
		sbuf_add(buf, rest, rest_len);
	message_end(buf, start);
}

void wire_add_bind_texts(struct sbuf *buf, const char *portal, const char *statement,
                         const char *const *values, uint16_t count)
{
	size_t start = message_begin(buf, FE_BIND);

	add_cstr(buf, portal);
	add_cstr(buf, statement);
	sbuf_add_be16(buf, 0); /* parameter formats: all text */
	sbuf_add_be16(buf, count);
	for (uint16_t i = 0; i < count; i++) {
		sbuf_add_be32(buf, (uint32_t)strlen(values[i]));
		sbuf_add_str(buf, values[i]);
	}
	sbuf_add_be16(buf, 0); /* result formats: all text */
	message_end(buf, start);
}

void wire_add_bind(struct sbuf *buf, const char *portal, const char *statement)
{
	wire_add_bind_texts(buf, portal, statement, NULL, 0);
}

static void add_target(struct sbuf *buf, char type, char kind, const char *name)
{
	size_t start = message_begin(buf, type);

	sbuf_add_char(buf, kind);
	add_cstr(buf, name);
	message_end(buf, start);
}

void wire_add_describe(struct sbuf *buf, char kind, const char *name)
{
	add_target(buf, FE_DESCRIBE, kind, name);
}

void wire_add_function_call(struct sbuf *buf, uint32_t oid, const void *args, size_t args_len,
                            uint16_t count)
{
	size_t start = message_begin(buf, FE_FUNCTION_CALL);

	sbuf_add_be32(buf, oid);
	sbuf_add_be16(buf, 1); /* one format for all arguments */
	sbuf_add_be16(buf, 1);
	sbuf_add_be16(buf, count);
	sbuf_add(buf, args, args_len);
	sbuf_add_be16(buf, 1);
	message_end(buf, start);
}

void wire_add_close(struct sbuf *buf, char kind, const char *name)
{
	add_target(buf, FE_CLOSE, kind, name);
}

void wire_add_execute(struct sbuf *buf, const char *portal, uint32_t max_rows)
{
	size_t start = message_begin(buf, FE_EXECUTE);

	add_cstr(buf, portal);
	sbuf_add_be32(buf, max_rows);
	message_end(buf, start);
}

void wire_add_sync(struct sbuf *buf)
{
	add_empty(buf, FE_SYNC);
}

void wire_add_flush(struct sbuf *buf)
{
	add_empty(buf, FE_FLUSH);
}

void wire_add_copy_fail(struct sbuf *buf, const char *reason)
{
	add_one_str(buf, FE_COPY_FAIL, reason);
}

void wire_add_terminate(struct sbuf *buf)
{
	add_empty(buf, FE_TERMINATE);
}
