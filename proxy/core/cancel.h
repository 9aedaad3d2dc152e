/* SPDX-License-Identifier: PostgreSQL */
/*
 * Cancel requests.  A client's key is the proxy's own, so it stays valid whatever server the client
 * is on; the request goes on to the server that runs the client's query at that moment (PostgreSQL
 * documentation 55.2.8).  A server with a request under way gets no further statement before that
 * request's connection is closed, so it can never hit what comes after, of this client or another.
 * One is under way for a server at most; those that come meanwhile are one more after it, if the
 * statement still runs then, or the client had sent the next one.  Worker thread.
 *
 * Several processes may stand behind one address, and the request comes to any of them.  The process
 * id in a client's key is that of its server (told.h), or else says whose client it is:
 *
 *   bits 31 .. 18  peer_id of the process (0: it has no peers)     17 .. 0  slot of the client + 1
 *
 * A request for another process is forwarded to that one with one byte behind the key: how often it
 * may be forwarded yet, so that processes that know each other by wrong addresses end it.  One that
 * fits nobody may be of a client that was told its server's id: it is forwarded once, to all.
 */
#ifndef CORE_CANCEL_H
#define CORE_CANCEL_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct proxy;
struct server;
struct worker;

/* 4 bytes in protocol 3.0; from 3.2 on so many that nobody guesses them. */
#define CANCEL_KEY_LONG 32

struct cancel_key {
	uint8_t len;
	uint8_t bytes[CANCEL_KEY_LONG];
};

/* A CancelRequest as it came. */
struct cancel_ask {
	uint32_t pid;
	uint8_t forwards; /* so often it may be forwarded yet */
	struct cancel_key key;
};

/* The key of a client with that slot and random number.  A long one is made from these, with a
 * secret of the process: no client has to keep it.  False: OpenSSL failed. */
bool cancel_make_key(const struct proxy *proxy, uint32_t slot, uint32_t number, bool is_long,
		     struct cancel_key *key) MUST_CHECK;

bool cancel_key_equal(const struct cancel_key *a, const struct cancel_key *b);

/* The process id that is told to the client with that slot. */
uint32_t cancel_pid(const struct proxy *proxy, uint32_t slot);

/* A CancelRequest came in with these bytes (one at least) as key: handled here, mailed to the worker whose client it
 * is for, or forwarded to the process that has the client. */
void cancel_take(struct worker *worker, uint32_t pid, const void *bytes, size_t len);

/* For a client of this process: handled here, or mailed to its worker. */
void cancel_request(struct worker *worker, const struct cancel_ask *ask);

/* The same from the main thread.  False: there is no such client. */
bool cancel_request_from_main(struct proxy *proxy, const struct cancel_ask *ask) MUST_CHECK;

/* The slot in a process id; false: it is not one of this process'. */
bool cancel_slot(const struct proxy *proxy, uint32_t pid, uint32_t *slot) MUST_CHECK;

/* Refuses, as cancelled, the request of a client that is WAITING. */
void cancel_waiting(struct client *client);

/* A client that was cancelled while its server was asked something, whenever it has had its turn:
 * what it has sent is refused, or cancelled at the server, as soon as that is possible. */
void cancel_in_turn(struct client *client);

/* Asks the server to cancel what it runs. */
void cancel_server(struct server *server);

/* This worker's requests to that peer: on their way, of these those whose connection is being made,
 * and those that wait for one of the connections before to end. */
struct cancel_peer_load {
	unsigned active;
	unsigned dialling;
	unsigned waiting;
};

struct cancel_peer_load cancel_peer_load(const struct worker *worker, unsigned peer_id);

/* The server is about to be freed. */
void cancel_forget_server(struct worker *worker, struct server *server);

/* At the end of the worker. */
void cancel_drop_all(struct worker *worker);

#endif
