/* SPDX-License-Identifier: PostgreSQL */
/*
 * The first packets of a connection, which have no type byte: SSLRequest, GSSENCRequest,
 * CancelRequest, StartupMessage; also the first byte of a direct TLS handshake.  Works on the bytes
 * received so far, copies nothing, keeps nothing.  Any thread.
 *
 * Never reads a byte beyond the packet: what follows an SSLRequest in the same buffer must be taken
 * as an attack by the caller (CVE-2021-23222), what follows a StartupMessage is the next message.
 */
#ifndef WIRE_STARTUP_H
#define WIRE_STARTUP_H

#include "base/compiler.h"
#include "wire/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_CODE_CANCEL 80877102u
#define WIRE_CODE_SSL 80877103u
#define WIRE_CODE_GSSENC 80877104u

/* MAX_STARTUP_PACKET_LENGTH of PostgreSQL, which does not count the length field; and with it. */
#define WIRE_STARTUP_BODY_MAX 10000u
#define WIRE_STARTUP_MAX (WIRE_STARTUP_BODY_MAX + 4u)

enum wire_startup_kind {
	WIRE_STARTUP_MORE,       /* call again with at least `size` bytes */
	WIRE_STARTUP_SSL,        /* SSLRequest: answer one byte, S or N */
	WIRE_STARTUP_GSSENC,     /* GSSENCRequest: answer N */
	WIRE_STARTUP_CANCEL,     /* CancelRequest: pid, key, key_len; no answer, close */
	WIRE_STARTUP_MESSAGE,    /* StartupMessage */
	WIRE_STARTUP_DIRECT_TLS, /* first byte 0x16: a TLS ClientHello, nothing is consumed */
	WIRE_STARTUP_BAD,        /* sqlstate, error; see silent */
};

struct wire_startup {
	enum wire_startup_kind kind;
	size_t size; /* of the packet: consume so many bytes; for MORE: bytes needed at least */

	/* CANCEL; key points into the bytes given, key_len is 4 … 256 */
	uint32_t pid;
	const uint8_t *key;
	size_t key_len;

	/* MESSAGE; texts point into the bytes given and end with a zero byte */
	uint32_t version;        /* as sent; the major version is 3 */
	const char *params;      /* name, value, name, value … and an empty name */
	const char *user;        /* never empty */
	const char *database;    /* the user's name if none was given */
	const char *options;     /* NULL: not given; see wire/options.h */
	const char *replication; /* NULL: not given; see wire_startup_replication() */
	unsigned unknown_count;  /* parameters that begin with "_pq_.": we know none of them */

	/* BAD */
	const char *sqlstate;
	char error[160];
	bool silent; /* PostgreSQL only logs this one and closes: the peer may speak no protocol */
};

/*
 * Looks at the first `len` bytes of a connection (or the first after a refused SSLRequest or
 * GSSENCRequest).  Fills in *out and returns its kind.  Wrong lengths are found as soon as four
 * bytes are there.
 */
enum wire_startup_kind wire_startup_parse(const void *bytes, size_t len,
                                          struct wire_startup *out) MUST_CHECK;

/*
 * The parameters of a StartupMessage one after another, user, database and "_pq_." options
 * included: start with *cursor = NULL; false at the end.
 */
bool wire_startup_next(const struct wire_startup *startup, const char **cursor, const char **name,
                       const char **value);

/* The version that is spoken with the client: 3.0 or 3.2.  There never was a server of 3.1. */
static inline uint32_t wire_startup_spoken(const struct wire_startup *startup)
{
	return startup->version >= WIRE_PROTOCOL_3_2 ? WIRE_PROTOCOL_3_2 : WIRE_PROTOCOL_3_0;
}

/* True if NegotiateProtocolVersion must be sent before authentication: the client asked for another
 * version than is spoken, or for protocol options. */
static inline bool wire_startup_must_negotiate(const struct wire_startup *startup)
{
	return startup->version != wire_startup_spoken(startup) || startup->unknown_count > 0;
}

enum wire_replication {
	WIRE_REPLICATION_NONE,
	WIRE_REPLICATION_PHYSICAL,
	WIRE_REPLICATION_LOGICAL, /* replication=database */
	WIRE_REPLICATION_BAD,     /* neither "database" nor a boolean: error 22023 */
};

/* The meaning of the parameter "replication"; NULL is allowed. */
enum wire_replication wire_startup_replication(const char *value);

#endif
