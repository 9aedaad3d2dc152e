/* SPDX-License-Identifier: PostgreSQL */
/*
 * A connection to a PostgreSQL server.
 *
 *   DIALING -> LOGIN -> IDLE <-> ACTIVE (linked with a client)
 *                  \-> WARMING -> PREPARED (opened before a swap; IDLE at the swap)
 *                       ACTIVE -> RESETTING -> IDLE   (session pools; IDLE -> RESETTING: a check)
 *                       ACTIVE -> CANCELLED -> IDLE   (a cancel request for it is under way)
 *                       ACTIVE <-> PARKED <- PREPARED (kept, or set up, for a session: session_move.h)
 *
 * Its state is the list of the pool that it is in (server_set_state() does both).  Worker thread of
 * its pool only; between workers it travels without events, as struct server_parcel.
 */
#ifndef CORE_SERVER_H
#define CORE_SERVER_H

#include "auth/server_auth.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "core/change.h"
#include "core/conn.h"
#include "core/ledger.h"
#include "core/resend.h"
#include "core/starttls.h"
#include "net/dial.h"
#include "session/params.h"
#include "session/stmts.h"

struct client;
struct compute_job;
struct pool;
struct pool_share;
struct route_table;
struct session_move;
struct worker;

enum server_state {
#define SERVER_STATE(constant, name) constant,
#include "core/server_states.def"
	SERVER_STATE_COUNT
};

/* Why a server connection was closed: log text, whether it is worth a warning. */
enum server_close {
#define SERVER_CLOSE(constant, text, loud) constant,
#include "core/server_close.def"
};

/* A query of the proxy's own without a client: what it is for. */
enum server_task {
	SERVER_TASK_RESET,   /* server_reset_query */
	SERVER_TASK_CHECK,   /* server_check_query */
	SERVER_TASK_ROLE,    /* whether its role still exists */
	SERVER_TASK_CONNECT, /* connect_query, or another first one; state LOGIN */
	SERVER_TASK_TRY,     /* startup parameters of a client that logs in (trial.h) */
	SERVER_TASK_CHANGE,  /* change.h, whose client has left */
};

/* Which no client has chosen: no parameter's bit. */
#define SERVER_RELOADED 0x8000u

#define SERVER_KEY_MAX 256
#define SERVER_QUERY_MAX 128

struct server {
	/* What every request needs stands together. */
	struct list_node node;  /* in the pool's list of its state */
	struct conn conn;
	struct worker *worker;
	struct pool *pool;
	struct client *client; /* ACTIVE: whose transaction or session it serves */
	struct client *promised; /* who was told its process id, and gets it first (promise.h); or NULL */
	struct session_move *move; /* of the session that it is kept, opened or asked for; or NULL */
	struct ledger ledger;
	uint32_t left;          /* bytes of the current message still to come */
	uint32_t left_to;       /* of the current message *to* it, still to come from the client */
	bool left_hidden;       /* `left`: which are not for the client */
	bool doomed;            /* to be closed at the end of this turn */
	bool stale;             /* of a former route, or RELOAD: to be closed when free */
	bool spoilt;            /* the same, for what was done on it */
	bool unlisted;          /* the same: its address is none of its host's any more */
	bool used;              /* by a client */
	bool end_logged;
	bool counted;           /* in the pool's share */
	bool checked;           /* server_check_query has succeeded since its last client */
	bool failing;           /* a block is made to fail on it (keep.h) */
	bool doubted;           /* has had an error as of a role that was dropped */
	bool proven;            /* has answered since its login */
	bool cancelling;        /* a cancel request for it is under way */
	bool cancel_again;      /* … and another came since that was sent */
	bool cancel_next;       /* … or for what the client has sent meanwhile */
	bool apart; /* this block has SET what texts mean, or a name is another statement's:
	             * what is prepared is its own */
	bool altered;           /* … and has altered what statements return */
	bool given;             /* statements were prepared in this batch */
	bool defaulted;         /* its client is being given what the server has by itself */
	bool query_whole;       /* `query` is all of it */
	uint16_t may_set;  /* parameters that may be SET on it (param_bit()), and SERVER_RELOADED */
	uint16_t synced;   /* those which its client is being given */
	uint16_t reloaded; /* with that: of which another one has shown a new value */
	uint8_t replication;    /* enum wire_replication: of one client only, from its login to its end */
	char tx_status;         /* of the last ReadyForQuery: I, T or E */
	enum server_state state;
	struct param_set *params;
	struct param_set *tried;   /* SERVER_TASK_TRY: these */
	struct param_set *boot;    /* startup parameters of the clients it is for (boot.h) */
	struct change change;
	struct resend resend;            /* the first request after it was linked */
	unsigned host_number;   /* of several hosts: pool->host when it was chosen */
	uint64_t unnamed_id;    /* of the unnamed statement that it has (statement.h); 0: nobody's */
	usec_t since;           /* of the present state */
	usec_t born;
	usec_t request_start;
	usec_t xact_start;
	usec_t ready_at;        /* of the last ReadyForQuery to the client, or of the link */
	usec_t sealed_at;       /* nothing but its end is sent on it any more (seal.h); 0: not so */
	usec_t query_noted;     /* request_start of the request that `query` is of */
	char query[SERVER_QUERY_MAX]; /* beginning of the last query text, or "" */
	struct server_stmts stmts;
	/* The others seldom. */
	uint64_t id;            /* as that of a client */
	struct client *own;     /* LOGIN: for whose replication it is opened */
	enum server_task task;  /* RESETTING, LOGIN */
	unsigned role_losses;   /* of the pool's share, when its role was last known to exist */
	bool connected;         /* the first query has been sent, if there is one */
	bool for_swap;          /* opened by PREPARE SWAP: becomes PREPARED */
	uint8_t close_reason;
	struct param_set *refused; /* `boot` that the server refused, and it was opened without */
	struct dial *dial;
	struct server_auth *auth;
	struct compute_job *job; /* a costly step of the login is being done elsewhere */
	struct starttls starttls; /* LOGIN: how far the encryption is */
	bool try_plain;         /* sslmode prefer: TLS has failed */
	bool try_tls;           /* sslmode allow: plain has failed */
	bool try_old;           /* protocol 3.2 has failed */
	bool answered;          /* the startup message was */
	uint8_t protocol;       /* minor version: that was asked for, then that which is spoken */
	int32_t backend_pid;
	uint16_t key_len;
	uint8_t key[SERVER_KEY_MAX];
	const struct config_server *target; /* of `routes` */
	const char *host;       /* of target: the one of its hosts that is or was dialled */
	char *host_text;        /* its memory, where there are several */
	struct route_table *routes; /* the table it was dialled by: keeps target alive */
	char *error;            /* of its login, or of a query of the proxy's own; malloc'ed */
	char error_sqlstate[6];
	bool fatal_sent;        /* a FATAL of its own was forwarded to the client */
};

/* Of how many hosts the server may be any. */
unsigned server_host_count(const struct config_server *target) MUST_CHECK;

/* Dials a new connection for the pool, to `target` of `routes`; counted already in the pool's
 * share.  NULL on lack of memory (then the count is given back). */
struct server *server_dial(struct pool *pool, struct route_table *routes,
			   const struct config_server *target, bool for_swap) MUST_CHECK;

void server_set_state(struct server *server, enum server_state state);

/* To be closed at the end of the turn; the first reason counts. */
void server_doom(struct server *server, enum server_close reason);

/* The log says, once, that and why a doomed server is closed. */
void server_log_end(struct server *server);

/* Whether a query of the proxy's own failed there for a statement_timeout that a former client has left
 * behind: no other client is to have it, and this one can have another connection. */
bool server_has_leftover(const struct server *server, const char *sqlstate);

/* Closes and frees a doomed server (worker's end of turn only). */
void server_destroy(struct server *server);

/* Links an idle server with a client of its pool, and takes the link away again. */
void server_link(struct server *server, struct client *client);
void server_unlink(struct server *server);

/* The client needs the server no more, which is at a safe point: makes it useful again (reset, idle,
 * next waiting client). */
void server_release(struct server *server);

/* Nothing of a client's is under way on it. */
static inline bool server_quiet(const struct server *server)
{
	return server->tx_status == 'I' && ledger_quiet(&server->ledger) && server->left_to == 0 &&
	       server->left == 0;
}

/* A query of the proxy's own is under way. */
static inline bool server_busy_inside(const struct server *server)
{
	return server->ledger.count > 0 &&
	       server->ledger.ring[server->ledger.head].op == OWES_HIDDEN_QUERY;
}

/* Sends a query of the proxy's own; the answers are not forwarded.  False: the server was doomed. */
bool server_inject_query(struct server *server, const char *sql, size_t len) MUST_CHECK;

/* Leaves its list for RESETTING with that query.  False: the server was doomed. */
bool server_start_task(struct server *server, enum server_task task, const char *sql) MUST_CHECK;

/* The login is complete and connect_query, if any, has run. */
void server_login_done(struct server *server);

/* The event callback, and the connection as it is after the dial (server_login.c). */
void server_event(evutil_socket_t fd, short what, void *arg);
void server_login_begin(struct server *server);
void server_login_readable(struct server *server);

/* Closes the connection and dials anew, for another way to log in. */
void server_redial(struct server *server);
/* The server is going away: leaves what is being done elsewhere to itself. */
void server_login_end(struct server *server);

/* Bytes arrived from a server that is logged in (reply.c). */
void server_readable(struct server *server);

/* ledger.mark_due: sends what OWES_MARK is owed for, if no message is partly sent. */
void server_send_mark(struct server *server);

/* A log line about the connection. */
void server_log(const struct server *server, enum log_level level, const char *fmt,
		...) PRINTF_LIKE(3, 4);

const char *server_state_name(enum server_state state);
const char *server_close_text(enum server_close reason);

/* A server on its way to another worker: everything but events and interned sets. */
struct server_parcel {
	int fd;
	struct tls *tls;       /* NULL: not encrypted */
	struct server *server; /* its memory travels along */
	void *params;          /* param_set_encode() */
	size_t params_len;
	void *boot;            /* the same, or NULL */
	size_t boot_len;
};

/* Detaches an idle server.  False: not possible now. */
bool server_pack(struct server *server, struct server_parcel *parcel) MUST_CHECK;
/* Attaches it to `pool` of the receiving worker.  NULL: lost (closed). */
struct server *server_unpack(struct server_parcel *parcel, struct pool *pool) MUST_CHECK;
/* Closes one that comes too late (or nothing, if there is none) and uncounts it.  Any thread. */
void server_drop_parcel(struct server_parcel *parcel, struct pool_share *share);

#endif
