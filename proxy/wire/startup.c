/* SPDX-License-Identifier: PostgreSQL */
/*
 * The rules, their order and their words are those of PostgreSQL's ProcessStartupPacket().
 */
#include "wire/startup.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define TLS_HANDSHAKE_RECORD 0x16
#define CANCEL_FIXED_LEN 12u /* length, code, pid */

static PRINTF_LIKE(3, 4) enum wire_startup_kind
    startup_bad(struct wire_startup *out, const char *sqlstate, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(out->error, sizeof(out->error), fmt, ap);
	va_end(ap);
	out->sqlstate = sqlstate;
	return WIRE_STARTUP_BAD;
}

static enum wire_startup_kind startup_bad_length(struct wire_startup *out)
{
	/* What comes may be anything but our protocol: PostgreSQL does not answer it. */
	out->silent = true;
	return startup_bad(out, "08P01", "invalid length of startup packet");
}

static enum wire_startup_kind startup_parse_cancel(const uint8_t *b, struct wire_startup *out)
{
	size_t key_len;

	if (out->size < CANCEL_FIXED_LEN + WIRE_CANCEL_KEY_MIN)
		return startup_bad_length(out);
	key_len = out->size - CANCEL_FIXED_LEN;
	if (key_len > WIRE_CANCEL_KEY_MAX)
		return startup_bad_length(out);
	out->pid = wire_get_be32(b + 8);
	out->key = b + CANCEL_FIXED_LEN;
	out->key_len = key_len;
	return WIRE_STARTUP_CANCEL;
}

static void startup_note_param(struct wire_startup *out, const char *name, const char *value)
{
	/* As in PostgreSQL the last of several wins. */
	if (strcmp(name, "user") == 0)
		out->user = value;
	else if (strcmp(name, "database") == 0)
		out->database = value;
	else if (strcmp(name, "options") == 0)
		out->options = value;
	else if (strcmp(name, "replication") == 0)
		out->replication = value;
	else if (strncmp(name, "_pq_.", 5) == 0)
		out->unknown_count++;
}

static enum wire_startup_kind startup_parse_message(const uint8_t *b, struct wire_startup *out)
{
	const char *at = (const char *)b + 8;
	const char *end = (const char *)b + out->size;

	if (out->version >> 16 != 3)
		return startup_bad(
		    out, "0A000", "unsupported frontend protocol %u.%u: server supports 3.0 to 3.2",
		    out->version >> 16, out->version & 0xffff);
	out->params = at;
	while (at < end && *at != '\0') {
		const char *name = at;
		const char *value = memchr(name, '\0', (size_t)(end - name));
		const char *value_end;

		if (value == NULL || ++value >= end)
			break;
		value_end = memchr(value, '\0', (size_t)(end - value));
		if (value_end == NULL)
			break;
		startup_note_param(out, name, value);
		at = value_end + 1;
	}
	/* Only an empty name at the very last byte ends the list as it should. */
	if (at != end - 1 || *at != '\0')
		return startup_bad(
		    out, "08P01",
		    "invalid startup packet layout: expected terminator as last byte");
	if (out->user == NULL || *out->user == '\0')
		return startup_bad(out, "28000",
		                   "no PostgreSQL user name specified in startup packet");
	if (out->database == NULL || *out->database == '\0')
		out->database = out->user;
	return WIRE_STARTUP_MESSAGE;
}

static enum wire_startup_kind startup_parse_packet(const uint8_t *b, struct wire_startup *out)
{
	uint32_t code = wire_get_be32(b + 4);

	switch (code) {
	case WIRE_CODE_CANCEL:
		return startup_parse_cancel(b, out);
	case WIRE_CODE_SSL:
	case WIRE_CODE_GSSENC:
		/* PostgreSQL ignores a body here; nobody sends one, so it is somebody else's
		 * protocol. */
		if (out->size != 8)
			return startup_bad_length(out);
		return code == WIRE_CODE_SSL ? WIRE_STARTUP_SSL : WIRE_STARTUP_GSSENC;
	default:
		out->version = code;
		return startup_parse_message(b, out);
	}
}

enum wire_startup_kind wire_startup_parse(const void *bytes, size_t len, struct wire_startup *out)
{
	const uint8_t *b = bytes;
	uint32_t size;

	memset(out, 0, sizeof(*out));
	if (len >= 1 && b[0] == TLS_HANDSHAKE_RECORD)
		return out->kind = WIRE_STARTUP_DIRECT_TLS;
	out->size = 8;
	if (len < 4)
		return out->kind = WIRE_STARTUP_MORE;
	size = wire_get_be32(b);
	if (size < 8 || size > WIRE_STARTUP_MAX)
		return out->kind = startup_bad_length(out);
	out->size = size;
	if (len < size)
		return out->kind = WIRE_STARTUP_MORE;
	return out->kind = startup_parse_packet(b, out);
}

bool wire_startup_next(const struct wire_startup *startup, const char **cursor, const char **name,
                       const char **value)
{
	const char *at = *cursor == NULL ? startup->params : *cursor;

	if (at == NULL || *at == '\0')
		return false;
	*name = at;
	*value = at + strlen(at) + 1;
	*cursor = *value + strlen(*value) + 1;
	return true;
}

/* As PostgreSQL's parse_bool(): any beginning of a word that is not ambiguous. */
static bool startup_parse_bool(const char *text, bool *value)
{
	static const struct {
		const char *word;
		size_t least;
		bool value;
	} words[] = {
	    {"true", 1, true}, {"false", 1, false}, {"yes", 1, true}, {"no", 1, false},
	    {"on", 2, true},   {"off", 2, false},   {"1", 1, true},   {"0", 1, false},
	};
	size_t len = strlen(text);

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (len < words[i].least || len > strlen(words[i].word) ||
		    strncasecmp(text, words[i].word, len) != 0)
			continue;
		*value = words[i].value;
		return true;
	}
	return false;
}

enum wire_replication wire_startup_replication(const char *value)
{
	bool on;

	if (value == NULL)
		return WIRE_REPLICATION_NONE;
	if (strcmp(value, "database") == 0)
		return WIRE_REPLICATION_LOGICAL;
	if (!startup_parse_bool(value, &on))
		return WIRE_REPLICATION_BAD;
	return on ? WIRE_REPLICATION_PHYSICAL : WIRE_REPLICATION_NONE;
}
