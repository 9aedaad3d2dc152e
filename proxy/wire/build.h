/* SPDX-License-Identifier: PostgreSQL */
/*
 * Appends whole messages to a struct sbuf: those which the proxy or its console makes itself.  A
 * message that does not fit marks the buffer failed, and the buffer then ends somewhere in it:
 * check sbuf_ok() before sending, and send nothing of a failed buffer.  Any thread.
 *
 * Texts are C strings in the client's encoding.
 */
#ifndef WIRE_BUILD_H
#define WIRE_BUILD_H

#include "base/sbuf.h"
#include "wire/error.h"
#include "wire/message.h"
#include "wire/startup.h"

#include <stddef.h>
#include <stdint.h>

/* Type OIDs of PostgreSQL's pg_type, for result columns. */
enum wire_oid {
	WIRE_OID_BOOL = 16,
	WIRE_OID_BYTEA = 17,
	WIRE_OID_INT8 = 20,
	WIRE_OID_INT4 = 23,
	WIRE_OID_TEXT = 25,
	WIRE_OID_FLOAT8 = 701,
	WIRE_OID_NUMERIC = 1700,
};

struct wire_column {
	const char *name;
	uint32_t type_oid;
	int16_t type_len; /* pg_type.typlen: -1 for text and numeric */
};

/* ---- from the backend ---- */

/* `error->severity` is sent as S and V.  NULL severity, sqlstate or message become "ERROR", "XX000"
 * and "". */
void wire_add_error(struct sbuf *buf, const struct wire_error *error);
void wire_add_notice(struct sbuf *buf, const struct wire_error *notice);

/* The short form: no detail, no hint. */
void wire_add_error_text(struct sbuf *buf, const char *severity, const char *sqlstate,
                         const char *message);

void wire_add_auth_ok(struct sbuf *buf);
void wire_add_auth_cleartext(struct sbuf *buf);
void wire_add_auth_md5(struct sbuf *buf, const uint8_t salt[4]);
/* `mechanisms`: array of `count` names, in order of preference. */
void wire_add_auth_sasl(struct sbuf *buf, const char *const *mechanisms, size_t count);
void wire_add_auth_sasl_continue(struct sbuf *buf, const void *data, size_t len);
void wire_add_auth_sasl_final(struct sbuf *buf, const void *data, size_t len);

void wire_add_parameter_status(struct sbuf *buf, const char *name, const char *value);
/* `key_len` is 4 in protocol 3.0. */
void wire_add_backend_key(struct sbuf *buf, uint32_t pid, const void *key, size_t key_len);
void wire_add_ready(struct sbuf *buf, enum wire_tx_status status);
/* Says which version is spoken, and names the "_pq_." options of `startup` as not known. */
void wire_add_negotiate(struct sbuf *buf, const struct wire_startup *startup);

/* All columns in text format. */
/* ParameterDescription: the types as a Parse has them, behind its text; `def` is from that text on. */
void wire_add_parameter_types(struct sbuf *buf, const char *def, size_t len);

void wire_add_row_description(struct sbuf *buf, const struct wire_column *columns, size_t count);
/* `cells`: `count` C strings, NULL for SQL NULL. */
void wire_add_data_row(struct sbuf *buf, const char *const *cells, size_t count);
void wire_add_command_complete(struct sbuf *buf, const char *tag);
void wire_add_empty_query(struct sbuf *buf);
void wire_add_parse_complete(struct sbuf *buf);
void wire_add_bind_complete(struct sbuf *buf);
void wire_add_close_complete(struct sbuf *buf);
void wire_add_no_data(struct sbuf *buf);
void wire_add_parameter_description(struct sbuf *buf, const uint32_t *type_oids, size_t count);
void wire_add_portal_suspended(struct sbuf *buf);

/* ---- from the frontend ---- */

/*
 * A StartupMessage in three steps: begin returns where it starts in the buffer, which end needs to
 * write the length.
 *     start = wire_begin_startup(buf, WIRE_PROTOCOL_3_0);
 *     wire_add_startup_param(buf, "user", name); …
 *     wire_end_startup(buf, start);
 */
size_t wire_begin_startup(struct sbuf *buf, uint32_t version);
void wire_add_startup_param(struct sbuf *buf, const char *name, const char *value);
void wire_end_startup(struct sbuf *buf, size_t start);

void wire_add_ssl_request(struct sbuf *buf);
void wire_add_cancel_request(struct sbuf *buf, uint32_t pid, const void *key, size_t key_len);
void wire_add_password(struct sbuf *buf, const char *password);
void wire_add_sasl_initial(struct sbuf *buf, const char *mechanism, const void *data, size_t len);
void wire_add_sasl_response(struct sbuf *buf, const void *data, size_t len);

void wire_add_query(struct sbuf *buf, const char *text);
/* `rest` is the number and OIDs of parameter types as they stood in another Parse message (see
 * wire_parse_parse()); NULL: no types given. */
void wire_add_parse(struct sbuf *buf, const char *name, const char *query, const void *rest,
                    size_t rest_len);
/* Parameters (none NULL) and results as text. */
void wire_add_bind_texts(struct sbuf *buf, const char *portal, const char *statement,
                         const char *const *values, uint16_t count);
/* Without parameters, results as text. */
void wire_add_bind(struct sbuf *buf, const char *portal, const char *statement);
/* A call of the function with this OID; `args` holds `count` arguments, each its length (4 bytes)
 * and its binary form.  The result is binary, too. */
void wire_add_function_call(struct sbuf *buf, uint32_t oid, const void *args, size_t args_len,
                            uint16_t count);
/* `kind` is 'S' (statement) or 'P' (portal). */
void wire_add_describe(struct sbuf *buf, char kind, const char *name);
void wire_add_close(struct sbuf *buf, char kind, const char *name);
/* `max_rows` 0: all. */
void wire_add_execute(struct sbuf *buf, const char *portal, uint32_t max_rows);
void wire_add_sync(struct sbuf *buf);
void wire_add_flush(struct sbuf *buf);
void wire_add_copy_fail(struct sbuf *buf, const char *reason);
void wire_add_terminate(struct sbuf *buf);

#endif
