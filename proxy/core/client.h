/* SPDX-License-Identifier: PostgreSQL */
/*
 * A connection of an application.
 *
 *   STARTUP -> AUTH -> WELCOME (needs a server once, to learn its parameters) -> IDLE
 *   IDLE -> ACTIVE (linked with a server) -> IDLE
 *   IDLE -> WAITING (a request is in `in`, no server to be had, or the database is held) -> ACTIVE
 *
 * Its state is the list it is in (client_set_state() does both); a client that waits while its
 * database is held is what is called held.  Worker thread only.
 */
#ifndef CORE_CLIENT_H
#define CORE_CLIENT_H

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "core/conn.h"
#include "net/sock.h"
#include "session/params.h"
#include "session/stmts.h"

#include <stdbool.h>
#include <stdint.h>

struct pool;
struct proxy;
struct server;
struct session_move;
struct session_seen;
struct user_share;
struct database_share;
struct worker;
struct client_login;

enum client_state {
#define CLIENT_STATE(constant, name) constant,
#include "core/client_states.def"
	CLIENT_STATE_COUNT
};

/* Why a client connection ended: log text, whether the client did it. */
enum client_close {
#define CLIENT_CLOSE(constant, text, whose) constant,
#include "core/client_close.def"
};

struct client {
	/* What every request needs stands together. */
	struct list_node node;    /* in the list of its state: the worker's, or the pool's */
	struct conn conn;
	struct worker *worker;
	struct pool *pool;        /* NULL before the login is complete */
	struct server *server;    /* ACTIVE */
	struct param_set *params;
	struct param_set *boot;   /* session pooling: startup parameters (boot.h) */
	struct client_stmts *stmts;
	struct session_seen *seen;  /* session pooling: see session_see.h; or NULL */
	struct session_move *move;  /* … what is known and done about that session, or NULL */
	struct client_login *login; /* only while logging in */
	uint64_t id;              /* unique in the process, never used again */
	uint64_t unnamed_id;      /* of its unnamed statement (statement.h), or 0 */
	usec_t asked;             /* when its request came */
	usec_t since;             /* of the present state: for WAITING, of the request */
	uint32_t discard;         /* bytes of a refused message still to be thrown away */
	uint8_t state;            /* enum client_state */
	uint8_t close_reason;
	uint8_t replication;      /* enum wire_replication */
	uint8_t resends;          /* servers in a row that ended before they executed its request */
	bool doomed;
	bool discard_to_sync;     /* a refused extended request: all is thrown away up to Sync */
	bool discard_ready;       /* … and ReadyForQuery follows after `discard` */
	bool counted_held;        /* in the database's share of held requests */
	bool in_session;          /* session pool: keeps its server */
	bool failed;              /* in a transaction block that has failed, without a server (keep.h) */
	bool cancelled;           /* its request was, before anything of it was sent */
	bool turning;             /* inside client_turn() */
	bool again;               /* … which is to look once more */
	bool notified;            /* WAITING: was told that it waits */
	/* Transaction pooling, param_bit(): the parameters that it has asked for.  What the others
	 * are is the server's affair: it is told what that has by itself. */
	uint16_t chosen;
	uint16_t started; /* … at its start */
	/* Of login and end only: of many idle clients every byte counts. */
	bool slot_given : 1; /* to the console */
	bool end_logged : 1; /* why it ends */
	bool long_key : 1;   /* speaks protocol 3.2 */
	bool admitted : 1;   /* among max_client_connections */
	bool counted : 1;    /* in the shares of its database and user */
	bool parting : 1;    /* its server was told, behind what it owes, that this is all */
	uint32_t held_bytes;      /* counted_held: with so many bytes */
	uint32_t slot;            /* of share_slot_take(); the pid of its cancel key is one more */
	uint32_t cancel_key;      /* random; see cancel_make_key() */
	struct sock_address peer; /* see client_peer() */
	struct user_share *user_share; /* counted in it */
	struct change_doubt *doubt;    /* whose some of its parameters are (change.h); NULL: none */
	char *told;                    /* the error that ends it, for the log; NULL: none */
	usec_t connected;
};

/* A new connection, counted already; takes the descriptor over (closes it on lack of memory). */
/* `readable`: its first bytes are there already. */
void client_accept(struct worker *worker, int fd, bool readable);
/* The same; NULL: it could not be made. */
struct client *client_new(struct worker *worker, int fd) MUST_CHECK;

/* A client of our own at the other end of a socket, past its login (auth_query). */
void client_open_internal(struct worker *worker, int fd, const char *database, const char *role);

void client_set_state(struct client *client, enum client_state state);

/* Counts it among max_client_connections, from its authentication on; false: there are too many. */
bool client_admit(struct client *client) MUST_CHECK;
void client_unadmit(struct client *client, struct proxy *proxy);

/* To be closed at the end of the turn; the first reason counts. */
void client_doom(struct client *client, enum client_close reason);

/* It no longer counts in the shares of its user and this database. */
void client_uncount(struct client *client, struct database_share *database);

/* The same after a FATAL ErrorResponse, which is sent if the socket takes it at once, and if the
 * client is not in the middle of a message. */
void client_doom_fatal(struct client *client, enum client_close reason, const char *sqlstate,
		       const char *message, const char *detail, const char *hint);

/* The same, with pgbouncer's words for it as detail and in the log: people have programs that look for
 * them. */
void client_doom_words(struct client *client, enum client_close reason, const char *sqlstate,
		       const char *message, const char *words);

/* The same; with as_pgbouncer its words are the message, and ours the detail if there is none. */
void client_doom_theirs(struct client *client, enum client_close reason, const char *sqlstate,
			const char *theirs, const char *message, const char *detail,
			const char *hint);

/* Closes and frees a doomed client (worker's end of turn only). */
void client_destroy(struct client *client);

/* The event callback. */
void client_event(evutil_socket_t fd, short what, void *arg);

/* At a shutdown: ends the client if it is at its safe point. */
void client_leave_at_shutdown(struct client *client);

/* ---- client_login.c ---- */

bool client_login_begin(struct client *client) MUST_CHECK;

/* Bytes arrived; or (client_login_step) a server's parameters have become known. */
void client_login_readable(struct client *client);
void client_login_step(struct client *client);
void client_login_free(struct client *client);

/* What the client called itself at its login; "" before. */
const char *client_login_user(const struct client *client);
const char *client_login_database(const struct client *client);

/* ---- request.c: from client to server ---- */

/* Bytes arrived (receive them), or the client got a server (use those that are there). */
void client_readable(struct client *client);
void client_go_on(struct client *client);

/* The held or waiting request is answered with this ERROR and the connection stays usable
 * (PostgreSQL documentation 55.2.3: discard to Sync, then ReadyForQuery). */
void client_refuse_request(struct client *client, const char *sqlstate, const char *message,
			   const char *hint);

/* A log line about the client. */
void client_log(const struct client *client, enum log_level level, const char *fmt,
		...) PRINTF_LIKE(3, 4);

/* A NOTICE, where it can stand: between messages. */
void client_notice(struct client *client, const char *message);

/* Where it came from. */
void client_peer(const struct client *client, struct sock_name *peer);

/* What an operator sees of the client. */
const char *client_user(const struct client *client);
const char *client_database(const struct client *client);
const char *client_state_name(enum client_state state);
const char *client_close_text(enum client_close reason);

#endif
