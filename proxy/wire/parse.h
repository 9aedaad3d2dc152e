/* SPDX-License-Identifier: PostgreSQL */
/*
 * Readers of message bodies.  `body` is what follows the five-byte header, `len` its length (length
 * field - 4).  Nothing is read beyond `len`; texts in results point into the body and are proven to
 * end with a zero byte inside it.  False: the body is malformed (08P01), and the results are not to
 * be used.  Owns nothing, keeps nothing; any thread.
 */
#ifndef WIRE_PARSE_H
#define WIRE_PARSE_H

#include "base/compiler.h"
#include "wire/error.h"
#include "wire/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- a cursor, of which the readers below are made; a read past the end sets `bad` and gives 0,
 * NULL */

struct wire_reader {
	const uint8_t *at;
	const uint8_t *end;
	bool bad;
};

static inline struct wire_reader wire_reader(const void *body, size_t len)
{
	return (struct wire_reader){body, len == 0 ? body : (const uint8_t *)body + len, false};
}

static inline size_t wire_left(const struct wire_reader *reader)
{
	return (size_t)(reader->end - reader->at);
}

uint8_t wire_read_byte(struct wire_reader *reader);
uint16_t wire_read_be16(struct wire_reader *reader);
uint32_t wire_read_be32(struct wire_reader *reader);
const void *wire_read_bytes(struct wire_reader *reader, size_t len);
const char *wire_read_str(struct wire_reader *reader); /* a text with its zero byte */

/* ---- from the backend ---- */

/* ErrorResponse or NoticeResponse.  A field that is missing is NULL (position: 0), so are all texts
 * of an error without fields; unknown fields are skipped. */
bool wire_parse_error(const void *body, size_t len, struct wire_error *out) MUST_CHECK;

/* The SQLSTATE in the first `len` bytes of an error whose rest may not be here yet: true if it was
 * found; then `out` holds five characters and a zero byte. */
bool wire_peek_sqlstate(const void *body, size_t len, char out[6]) MUST_CHECK;

bool wire_parse_parameter_status(const void *body, size_t len, const char **name,
                                 const char **value) MUST_CHECK;

/* `key_len` is 4 … 256. */
bool wire_parse_backend_key(const void *body, size_t len, uint32_t *pid, const uint8_t **key,
                            size_t *key_len) MUST_CHECK;

bool wire_parse_ready(const void *body, size_t len, enum wire_tx_status *status) MUST_CHECK;

bool wire_parse_command_complete(const void *body, size_t len, const char **tag) MUST_CHECK;

/* Codes of the Authentication message. */
enum wire_auth_code {
	WIRE_AUTH_OK = 0,
	WIRE_AUTH_KERBEROS_V5 = 2,
	WIRE_AUTH_CLEARTEXT = 3,
	WIRE_AUTH_MD5 = 5,
	WIRE_AUTH_GSS = 7,
	WIRE_AUTH_GSS_CONTINUE = 8,
	WIRE_AUTH_SSPI = 9,
	WIRE_AUTH_SASL = 10,
	WIRE_AUTH_SASL_CONTINUE = 11,
	WIRE_AUTH_SASL_FINAL = 12,
};

/* `data` is what follows the code: salt, mechanism names, SASL data; not judged here. */
bool wire_parse_auth(const void *body, size_t len, uint32_t *code, const uint8_t **data,
                     size_t *data_len) MUST_CHECK;

/* NegotiateProtocolVersion: the version the server speaks; the option names are checked only. */
bool wire_parse_negotiate(const void *body, size_t len, uint32_t *version,
                          uint32_t *option_count) MUST_CHECK;

/* The columns' names and types: at most `max` are stored, *count is how many there are. */
struct wire_column_view {
	const char *name;
	uint32_t type_oid;
	int32_t type_modifier;
};
bool wire_parse_row_description(const void *body, size_t len, struct wire_column_view *columns,
                                size_t max, size_t *count) MUST_CHECK;

/* A cell has no zero byte at its end.  At most `max` are stored, *count is how many there are. */
struct wire_cell {
	const char *data; /* NULL: SQL NULL */
	size_t len;
};
bool wire_parse_data_row(const void *body, size_t len, struct wire_cell *cells, size_t max,
                         size_t *count) MUST_CHECK;

/* ---- from the frontend ---- */

bool wire_parse_query(const void *body, size_t len, const char **text) MUST_CHECK;

struct wire_parse_message {
	const char *name; /* "" = the unnamed statement */
	const char *query;
	const uint8_t *rest; /* Int16 count and so many type OIDs, checked */
	size_t rest_len;
};
bool wire_parse_parse(const void *body, size_t len, struct wire_parse_message *out) MUST_CHECK;

/* Portal and statement name at the head of a Bind.  Needs only the part of the body that holds them
 * (false also if that is not all here), so that parameters can be streamed; `rest_offset` is where
 * the parameters begin in the body, statement - body where the statement's name does. */
struct wire_bind_message {
	const char *portal;
	const char *statement;
	size_t rest_offset;
};
bool wire_parse_bind(const void *body, size_t len, struct wire_bind_message *out) MUST_CHECK;

/* Describe or Close: kind is 'S' (statement) or 'P' (portal). */
bool wire_parse_target(const void *body, size_t len, char *kind, const char **name) MUST_CHECK;

bool wire_parse_execute(const void *body, size_t len, const char **portal,
                        uint32_t *max_rows) MUST_CHECK;

/* PasswordMessage: one text that fills the body. */
bool wire_parse_password(const void *body, size_t len, const char **password) MUST_CHECK;

/* SASLInitialResponse; `data` is NULL if the client sent none (length -1). */
bool wire_parse_sasl_initial(const void *body, size_t len, const char **mechanism,
                             const uint8_t **data, size_t *data_len) MUST_CHECK;

#endif
