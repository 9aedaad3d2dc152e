/* SPDX-License-Identifier: PostgreSQL */
/*
 * Message types of protocol 3 and the check of a message's five-byte header, which needs nothing of
 * the body.  Constant tables made from messages.def; any thread.
 *
 *   +------+----------------------+-----------------------
 *   | type | Int32 length (>= 4)  | body, length - 4 bytes
 *   +------+----------------------+-----------------------
 */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_HEADER_LEN 5u

/* Bounds of the length field, used by messages.def.  The names in PostgreSQL:
 * PQ_LARGE_MESSAGE_LIMIT (MaxAllocSize - 1), the limit of short messages in libpq,
 * PQ_SMALL_MESSAGE_LIMIT and PG_MAX_AUTH_TOKEN_LENGTH. */
#define WIRE_LARGE 0x3ffffffeu
#define WIRE_MEDIUM 30000u
#define WIRE_SMALL 10000u
#define WIRE_AUTH_TOKEN 65535u

/* Longest body that WIRE_MEDIUM, WIRE_SMALL … admit: what a buffer for a whole body must hold. */
#define WIRE_MEDIUM_BODY (WIRE_MEDIUM - 4u)

#define WIRE_CANCEL_KEY_MIN 4u
#define WIRE_CANCEL_KEY_MAX 256u

#define WIRE_PROTOCOL(major, minor) (((uint32_t)(major) << 16) | (uint32_t)(minor))
#define WIRE_PROTOCOL_3_0 WIRE_PROTOCOL(3, 0)
#define WIRE_PROTOCOL_3_2 WIRE_PROTOCOL(3, 2)

enum wire_fe_type {
#define FE(byte, name, min, max, help) FE_##name = (byte),
#include "wire/messages.def"
};

enum wire_be_type {
#define BE(byte, name, min, max, help) BE_##name = (byte),
#include "wire/messages.def"
};

/* Transaction status in ReadyForQuery. */
enum wire_tx_status { WIRE_TX_IDLE = 'I', WIRE_TX_BLOCK = 'T', WIRE_TX_FAILED = 'E' };

/* Who sends the message. */
enum wire_direction { WIRE_FRONTEND, WIRE_BACKEND };

struct wire_rule {
	const char *name; /* NULL: no such message */
	const char *help;
	uint32_t min;  /* least length field */
	uint32_t span; /* how many lengths from there on are good; 0 if there is no such message */
};

extern const struct wire_rule wire_rules[2][256];

enum wire_header_status {
	WIRE_HEADER_OK,
	WIRE_HEADER_UNKNOWN,   /* no message of that type from that side */
	WIRE_HEADER_TOO_SHORT, /* the length cannot hold the message's fixed parts */
	WIRE_HEADER_TOO_LONG,
};

static inline uint16_t wire_get_be16(const void *from)
{
	const uint8_t *b = from;

	return (uint16_t)((unsigned)b[0] << 8 | b[1]);
}

static inline uint32_t wire_get_be32(const void *from)
{
	const uint8_t *b = from;

	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline void wire_put_be16(void *to, uint16_t value)
{
	uint8_t *b = to;

	b[0] = (uint8_t)(value >> 8);
	b[1] = (uint8_t)value;
}

static inline void wire_put_be32(void *to, uint32_t value)
{
	uint8_t *b = to;

	b[0] = (uint8_t)(value >> 24);
	b[1] = (uint8_t)(value >> 16);
	b[2] = (uint8_t)(value >> 8);
	b[3] = (uint8_t)value;
}

static inline const struct wire_rule *wire_rule(enum wire_direction from, uint8_t type)
{
	return &wire_rules[from][type];
}

/* The name in messages.def, such as "READY_FOR_QUERY", for logs; "?" for an unknown type. */
static inline const char *wire_type_name(enum wire_direction from, uint8_t type)
{
	const char *name = wire_rules[from][type].name;

	return name == NULL ? "?" : name;
}

/*
 * Judges the five bytes at `header`.  If they are good, *total is the size of the whole message,
 * header included (5 … WIRE_LARGE + 1, so it never overflows).  Anything but WIRE_HEADER_OK (*total
 * is 0 then) means that the stream cannot be followed any further: close the connection.
 */
static inline MUST_CHECK enum wire_header_status
wire_header_check(enum wire_direction from, const void *header, size_t *total)
{
	const uint8_t *b = header;
	const struct wire_rule *rule = &wire_rules[from][b[0]];
	uint32_t length = wire_get_be32(b + 1);

	if (LIKELY(length - rule->min < rule->span)) {
		*total = (size_t)length + 1;
		return WIRE_HEADER_OK;
	}
	*total = 0;
	if (rule->name == NULL)
		return WIRE_HEADER_UNKNOWN;
	return length < rule->min ? WIRE_HEADER_TOO_SHORT : WIRE_HEADER_TOO_LONG;
}

/*
 * The text of a refusal, in PostgreSQL's words where it has some: "invalid frontend message type
 * 33", "invalid length 3 of QUERY message".  The SQLSTATE is 08P01.  Returns out.
 */
char *wire_header_error(enum wire_direction from, const void *header, char *out, size_t out_size);

#endif
