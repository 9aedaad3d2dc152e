/* SPDX-License-Identifier: PostgreSQL */
/*
 * The first request that a server gets from a client it was just given: it is kept until the server
 * answers.  A server that was idle may have been ended in that moment (an operator, a time-out, a
 * restart); if it is certain that it has executed nothing of the request, another server gets it
 * and the client does not notice.
 *
 * Certain is:
 *   - in the extended protocol, that its goodbye is the first thing it says: whatever it had done
 *     would have been answered before (ParseComplete, BindComplete ...)
 *   - otherwise, if the request is one message, that the server closed the connection before it had
 *     read all of it: the kernel says so by a reset, or by bytes that were never acknowledged
 *
 * Everything else (it closed after it had read the request) is told to the client, whose business
 * it is whether the request may be repeated.  Worker thread; part of the server.
 */
#ifndef CORE_RESEND_H
#define CORE_RESEND_H

#include "base/compiler.h"
#include "core/conn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct server;

/* Longest request that is kept. */
#define RESEND_MAX ((size_t)8192)

/* Of a server: all zero is nothing kept. */
struct resend {
	uint8_t *data;
	uint32_t len; /* 0: nothing is kept */
	uint32_t cap;
	bool fresh;      /* nothing of its client has been answered since they were linked */
	bool alone;      /* what is kept is one message */
	bool parting;    /* it has said goodbye; how the connection ends is to tell the rest */
	bool unexecuted; /* certain, as above */
	bool unnamed;    /* the request has used the client's unnamed statement as it was before */
};

/* The server was given to a client. */
void resend_begin(struct server *server);

/* Keeps a copy of the client's bytes, which have just been sent.  Those of a second turn make the
 * first worthless: nothing is kept then. */
void resend_keep(struct server *server, const uint8_t *data, size_t len);

/* The server has answered, or the request became such that it cannot be repeated. */
void resend_forget(struct server *server);

/* Looks at the first bytes of the answer.  True: the server has said goodbye and nothing else: it
 * was doomed, or its end is awaited and the bytes must be kept; false: an answer like others. */
bool resend_goodbye(struct server *server, const struct input *input) MUST_CHECK;

/* The connection has ended in this way, with the server still fresh. */
void resend_judge_end(struct server *server, enum conn_io io);

/* The send of what was just kept has failed: nothing of it went out, unless it took several. */
void resend_judge_unsent(struct server *server);

/* The server is doomed: if nothing was executed, its client gets the request back and waits for
 * another.  False: it has to be told. */
bool resend_take_back(struct server *server) MUST_CHECK;

/* For how many servers in a row that ended so a request is sent again. */
#define RESEND_TRIES 5

#endif
