/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the relay notes of a session's messages, because no server can be asked for it later: the
 * client's unnamed statement, and what session/facts.h wants to see.  Nothing is parsed that is not
 * a header or a name; a statement costs a copy of its Parse message.  Worker thread.
 */
#ifndef CORE_SESSION_SEE_H
#define CORE_SESSION_SEE_H

#include "base/compiler.h"
#include "core/told.h"
#include "wire/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct param_set;
struct server;
struct session_facts;
struct session_lost;
struct stmt;

/* Longest unnamed statement that is kept; with a longer one the session cannot be moved. */
#define SESSION_UNNAMED_MAX ((size_t)64 * 1024)

struct session_unnamed {
	uint32_t len; /* 0: there is none */
	uint32_t cap;
	bool last; /* the last Parse was of it */
	bool lost; /* there may be one, and it is not this */
	bool times_changed; /* since it was prepared, its times would be others */
	uint8_t def[];
};

/* Of a client of a session pool, from its login or its first message on. */
struct session_seen {
	struct session_facts *facts;     /* what it did that changes a session, or NULL */
	struct session_unnamed *unnamed; /* its unnamed statement, or NULL */
	struct param_set *startup;       /* what it asked for at its login, or NULL */
	struct server *promised;         /* for its first request (promise.h), or NULL */
	struct told told;                /* whose process id it was told */
	struct session_lost *lost;       /* statements that its server does not take, or NULL */
	bool prepared;                   /* statements that have a name */
	bool prepared_last;              /* … behind the last Query */
	bool piped; /* other messages since the last Sync come before this Parse */
};

/* client->seen; NULL: no memory, and the client was doomed. */
struct session_seen *session_see(struct client *client) MUST_CHECK;

/* Of the others session_see_message() wants to know nothing. */
static inline bool session_sees(uint8_t type)
{
	return type == FE_QUERY || type == FE_PARSE || type == FE_CLOSE;
}

/* A message of `total` bytes, of which `have` are here, that the server will not skip.  False: no
 * memory, and the client was doomed. */
bool session_see_message(struct client *client, const uint8_t *msg, size_t total,
                         size_t have) MUST_CHECK;

/* A Parse has failed, and none came behind it. */
void session_see_failed_parse(struct client *client);

/* An error has made the server skip a Parse, or one of several has failed: which unnamed statement it
 * has is not certain. */
void session_see_skipped_parse(struct client *client);

/* The server reported another value of a parameter. */
void session_see_parameter(struct client *client, const char *name);

/* CommandComplete. */
void session_see_tag(struct client *client, const uint8_t *tag, size_t len);

/* The unnamed statement is not to be set up anywhere. */
void session_see_no_unnamed(struct client *client);

/* The unnamed statement, a reference, or NULL: there is none.  False: no memory. */
bool session_seen_unnamed(struct client *client, struct stmt **stmt) MUST_CHECK;

void session_see_end(struct client *client);

#endif
