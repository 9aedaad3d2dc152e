/* SPDX-License-Identifier: PostgreSQL */
/*
 * The beginning of encryption on a connection to a server, for logins and cancel requests:
 *
 *   ASKED      SSLRequest sent, one byte is awaited
 *   HANDSHAKE  after 'S', or at once (direct)
 *
 * Nothing but that one byte may come before the handshake: more could have been put there by
 * anybody (CVE-2021-23222).  Worker thread.
 */
#ifndef CORE_STARTTLS_H
#define CORE_STARTTLS_H

#include "base/compiler.h"
#include "net/tls.h"

#include <stdbool.h>

struct conn;
struct worker;

enum starttls_stage {
	STARTTLS_NONE, /* not begun, or refused: not encrypted */
	STARTTLS_ASKED,
	STARTTLS_HANDSHAKE,
	STARTTLS_OVER, /* encrypted, or failed */
};

struct starttls {
	enum starttls_stage stage;
	struct tls_context *context; /* of the routes that the connection was dialled by */
	const char *host;
	bool lost; /* failed, because the connection ended: another may be luckier */
};

enum starttls_result {
	STARTTLS_MORE,    /* wait for more to read */
	STARTTLS_OPEN,    /* encrypted */
	STARTTLS_REFUSED, /* the server has said N: the connection is as it was */
	STARTTLS_FAILED,  /* `why` says how; of no use any more */
};

static inline bool starttls_pending(const struct starttls *start)
{
	return start->stage == STARTTLS_ASKED || start->stage == STARTTLS_HANDSHAKE;
}

/* Begins.  `context` and `host` must live as long as this does. */
enum starttls_result starttls_begin(struct starttls *start, struct conn *conn,
                                    struct worker *worker, struct tls_context *context,
                                    const char *host, bool direct, const char **why) MUST_CHECK;

/* Bytes arrived. */
enum starttls_result starttls_readable(struct starttls *start, struct conn *conn,
                                       struct worker *worker, const char **why) MUST_CHECK;

#endif
