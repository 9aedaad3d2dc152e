/* SPDX-License-Identifier: PostgreSQL */
/*
 * Cancel requests.  A client's key is the proxy's own, so it stays valid whatever server the client
 * is on; the request goes on to the server that runs the client's query at that moment (PostgreSQL
 * documentation 55.2.8).  A server with a request under way gets no further statement before that
 * request's connection is closed, so it can never hit what comes after, of this client or another.
 * One is under way for a server at most; those that come meanwhile are one more after it, if the
 * statement still runs then.  Worker thread.
 */
#ifndef CORE_CANCEL_H
#define CORE_CANCEL_H

#include <stdint.h>

struct server;
struct worker;

/* A CancelRequest came in: handled here, or mailed to the worker whose client it is for. */
void cancel_request(struct worker *worker, uint32_t pid, uint32_t key);

/* The same for a client of this worker.  Wrong keys are ignored. */
void cancel_client(struct worker *worker, uint32_t slot, uint32_t key);

/* Asks the server to cancel what it runs. */
void cancel_server(struct server *server);

/* The server is about to be freed. */
void cancel_forget_server(struct worker *worker, struct server *server);

/* At the end of the worker. */
void cancel_drop_all(struct worker *worker);

#endif
