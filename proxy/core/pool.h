/* SPDX-License-Identifier: PostgreSQL */
/*
 * Of one worker: the databases it serves, and for each (database, user) the pool of its servers and
 * the queue of its clients.
 *
 * The gate: while database->held no client of it gets a server.  `active` counts the clients that
 * have one; when it is 0 the worker has drained.
 */
#ifndef CORE_POOL_H
#define CORE_POOL_H

#include "base/clock.h"
#include "base/histogram.h"
#include "base/list.h"
#include "conf/config.h"
#include "core/client.h"
#include "core/server.h"
#include "core/share.h"
#include "core/tally.h"

#include <stdbool.h>
#include <stdint.h>

struct auth_user;
struct event;
struct mail_server;
struct route_table;
struct worker;

struct pool_stats {
	uint64_t assigned;   /* servers given to clients */
	uint64_t logins;
	uint64_t client_parses; /* of named statements, not in session pooling; so the next two */
	uint64_t server_parses;
	uint64_t binds;
	uint64_t xacts;
	uint64_t queries;
	uint64_t received;   /* bytes from clients */
	uint64_t sent;       /* bytes to clients */
	uint64_t xact_usec;
	uint64_t query_usec;
	uint64_t wait_usec;
	struct histogram query_times;
	struct histogram xact_times;
	struct histogram wait_times; /* of those who waited; the others: none */
};

/* All fields are counts. */
void pool_stats_add(struct pool_stats *sum, const struct pool_stats *more);

struct database {
	struct list_node node; /* worker->databases */
	struct worker *worker;
	char *name;
	struct database_share *share;
	usec_t used;           /* as of a pool */
	struct list pools;     /* struct pool.node */
	size_t active;         /* clients of it that have a server, and servers in a reset */
	bool held;
	bool paused;           /* held by PAUSE: server connections are closed, idle sessions wait */
	usec_t reconnect_at;   /* RECONNECT: what was made before is closed when free; 0: never */
	bool keeping;          /* of the running hold: drain policy keep is being carried out */
	bool drained_told;     /* the last that was mailed for hold_epoch is DRAINED */
	bool lapsed;           /* the last hold ended with its lease: its mover may have died fencing */
	/* … after SEAL, or sessions had lost what only one can have; 0: no.  pace_yields() */
	usec_t yields_since;
	uint64_t hold_epoch;
	struct route_table *held_routes; /* when the hold began; NULL: not held */
	/* pace.h */
	unsigned pace; /* so many clients at most have a server; 0: no bound */
	struct event *pace_timer;
	/* PREPARE SWAP */
	const struct config_server *swap_target; /* of swap_routes; NULL: none */
	struct route_table *swap_routes;
	uint64_t swap_token;   /* of the request that is to be answered; 0: answered */
	unsigned swap_pending;
	unsigned swap_opened;
	unsigned swap_failed;
	bool swap_leave;  /* idle sessions may leave their servers before the hold … */
	bool leaving;     /* … and some of those that may have not left yet */
	usec_t leave_end; /* … when they do so no more; 0: they have not begun */
	struct event *leave_timer;
	bool swap_seal;        /* SEAL will come in the hold: idle servers are left open for it */
	struct list sealed;    /* struct sealed.node (seal.h) … */
	size_t seal_pace;      /* … of which so many are closed at a tick; 0: not known yet */
	bool swap_trial;       /* one login a pool, and nothing that prepares for a hold */
	char *swap_error;      /* the last failure */
	struct tally tally;    /* errors that its clients were sent */
	struct pool_stats *past; /* of pools that were given up; NULL: there were none */
	/* Sessions (session_move.h) */
	struct list sessions;      /* struct session_move.node */
	struct list session_queue; /* struct session_move.queued: who may ask next … */
	struct list session_later; /* … and who after all of them: no client waits for it */
	struct event *session_event;
	size_t session_asking;     /* questions under way */
	unsigned session_dials;    /* servers being opened for a session each */
	unsigned session_refreshes; /* sessions that may still be asked in this tick */
	unsigned session_returns;   /* sessions that have left and may still come back in it */
	size_t sessions_pending;   /* sessions that the answer to PREPARE SWAP waits for */
	struct mail_view *session_views; /* SHOW SESSIONS, until they are all asked … */
	usec_t session_views_at;         /* … since when */
	bool sessions_watched;     /* something is to be done at the safe points of sessions */
	bool sessions_returning;   /* held, but no swap will come: who has lost his server gets
	                              another */
	bool sessions_reconnecting;
	size_t sessions_settling;  /* parked sessions that are being asked once more */
	bool settled;              /* in this hold: they have been told to be */
	bool swapped;              /* in this hold: the route is another than when it began */
};

struct pool {
	struct list_node node; /* database->pools */
	struct worker *worker;
	struct database *database;
	char *user;
	struct pool_share *share;
	bool internal;         /* of auth_query's questions: no client of the network's is in it */
	struct auth_user *auth_user; /* whom auth_query found last for `user`; NULL: nobody */
	bool session;          /* session pooling */
	bool statement;        /* statement pooling: no transaction blocks */
	bool pqexec_off;       /* no simple queries */
	bool own_user;         /* the clients' user, not one of the database's */
	int min_size;
	int reserve;
	usec_t lifetime;
	usec_t query_wait;
	usec_t evict_at;       /* other workers are not asked to make room before */
	unsigned host;         /* of several: the next one to try */
	enum config_pinned session_pinned;
	const char *session_pin; /* "user", "database": whose session_pin is on; NULL: neither's */
	int64_t session_temp_tables; /* most bytes of temporary tables of a session */
	int64_t session_cursors;     /* … and of its cursors' rows */
	size_t promised;       /* servers that are (promise.h) */
	size_t parked;         /* clients whose session's server is kept */
	bool some_at_eof;      /* clients may wait that have sent their last byte */
	struct limit_wait limit_wait;
	bool letting_in;       /* inside pool_let_in() */
	bool asked;            /* another worker has been asked for a server … */
	bool asked_login;      /* … for a login */
	unsigned asked_last;   /* … this one */
	unsigned swap_left;    /* connections to the target of a swap that are still to be dialled */
	struct list clients[CLIENT_STATE_COUNT]; /* those after login: WELCOME to ACTIVE */
	struct list servers[SERVER_STATE_COUNT]; /* idle: the most recently used first */
	struct param_set *welcome; /* parameters of a fresh server, some of them guesses; NULL: not
			      known yet */
	bool learned;              /* `welcome` has changed, and the other threads are to be told */
	struct param_set *last_wanted; /* what the last client asked for at its login … */
	struct param_set *last_params; /* … and got over `welcome`; NULL: none yet */
	struct trials *trials;     /* what is known of startup parameters (trial.h), or NULL */
	struct param_set *boot;    /* of the last client that was given a server (boot.h) */
	usec_t retry_at;       /* no dialling before */
	usec_t leave_at;       /* the next look of leave_tick() */
	char *last_error;      /* of the last failed dial or login; NULL: none since a success */
	char last_sqlstate[6]; /* "" if the server gave none */
	bool last_permanent;   /* such that waiting would not help */
	unsigned hosts_failed;  /* of several, one after the other */
	usec_t failing_since;
	usec_t used;           /* when there last was a client or a server, as far as ticks see it */
	struct pool_stats stats;
};

struct database *database_get(struct worker *worker, const char *name) MUST_CHECK;
struct database *database_find(struct worker *worker, const char *name);

/* Whether a server connection is to be closed as soon as nobody uses it. */
static inline bool pool_outdated(const struct pool *pool, const struct server *server)
{
	return server->stale || server->spoilt || server->unlisted ||
	       server->born <= pool->database->reconnect_at;
}

/* Another worker, or (`share` NULL is not allowed) a pool here, needs room under the limit of the
 * database or user: closes the idle server of another pool that was unused longest; of the same one
 * if its own limit is reached.  False: there is none. */
bool pool_evict(struct worker *worker, const struct pool_share *share, enum share_full full);

/* There may be room for a connection under the limits of its database and user. */
void pool_room(struct worker *worker, const struct pool_share *share);

/* Once per worker and route table: the pools that exist without clients (min_pool_size). */
void pool_make_standing(struct worker *worker);

/* ---- timeout.c: by the tick of the worker, never by a timer of a client's own ---- */
void timeout_tick(struct pool *pool, usec_t now);

/* A client that waited for a server for query_wait_timeout. */
void pool_refuse_late(struct pool *pool, struct client *client);

/* Takes limit and mode from the worker's present route table. */
void pool_apply_settings(struct pool *pool);

/* Found or made; NULL on lack of memory. */
struct pool *pool_get(struct worker *worker, const char *database, const char *user) MUST_CHECK;
struct pool *pool_get_internal(struct worker *worker, const char *database,
			       const char *role) MUST_CHECK;
struct pool *pool_find(struct worker *worker, const char *database, const char *user);
struct pool *pool_find_share(struct worker *worker, const struct pool_share *share);

/* A client has logged in with a secret that auth_query found (NULL: with none). */
void pool_set_user(struct pool *pool, struct auth_user *user);

/* Every pool of the worker. */
void pool_for_each(struct worker *worker, void (*act)(struct pool *pool, void *arg), void *arg);

/* The client has a request: links it with a server, or puts it into the queue (WAITING), held or
 * not.  True if it is linked and may go on at once. */
bool pool_serve(struct pool *pool, struct client *client) MUST_CHECK;

/* Lets waiting clients have idle servers, dials or asks other workers for what is missing. */
void pool_kick(struct pool *pool);

/* Back into the queue, before all others: its request has not been sent to anybody. */
void pool_wait_first(struct pool *pool, struct client *client);

/* Tells the other workers how many servers are idle here, and since when somebody waits. */
void pool_publish_idle(struct pool *pool);
void pool_publish_waiting(struct pool *pool);

/* Letters of other workers: one asks for a server (`from`), one gives a server or says no. */
void pool_asked(struct worker *worker, struct mail_server *mail);
void pool_given(struct worker *worker, struct pool_share *share, struct server_parcel *parcel);

/* A server is ready for its first query: what it reported is what new clients are told. */
void pool_login_succeeded(struct pool *pool, struct server *server);
/* What the server has of these parameters (param_bit()) is what servers have by themselves now. */
void pool_learn_defaults(struct server *server, uint16_t bits);
/* The same, after a reload: what others of the pool may have SET where it does not show is RESET
 * when they are next given to a client, and what a client has asked for is SET there. */
void pool_reloaded(struct server *server, uint16_t bits);
/* Tells the other threads.  By the tick: where servers differ it may be news with every
 * transaction. */
void pool_tick_learned(struct pool *pool);

/* The parameters of the pool's servers have become known, by a server or from the state. */
void pool_set_welcome(struct pool *pool, struct param_set *welcome);

/* Lets those in who only waited for that. */
void pool_let_in(struct pool *pool);

/* The parameters of a client that is let in, a reference; `welcome` is known.  NULL: no memory. */
struct param_set *pool_login_params(struct pool *pool, const struct client_login *login) MUST_CHECK;

/* While the database is held: takes the welcome of another user's pool, if there is one. */
void pool_find_welcome(struct pool *pool);

/* The answer to the query that made a server's parameters those of its client. */
void pool_sync_done(struct server *server);

/* A server of the pool has become free: to a waiting client, another worker, or idle. */
void pool_server_free(struct pool *pool, struct server *server);

/* How to log in as the user has become known, or what is known has changed: what failed before says nothing
 * any more, in any worker. */
void pool_secret_learned(struct worker *worker, const char *user);
/* … in this one (MAIL_SECRET). */
void pool_try_again(struct worker *worker, const char *user);

/* The next dial is not put off any more by failures of the past. */
void pool_forget_failures(struct pool *pool);

/* A dial or login failed. */
void pool_server_failed(struct pool *pool, struct server *server, const char *error,
			const char *sqlstate);

/* Every 100 ms: time-outs of clients and servers. */
void pool_tick(struct pool *pool, usec_t now);

/* Behind it, and when nothing is doomed: pool_idle_timeout and autodb_idle_timeout.  May free the
 * database's pools, and the database. */
void database_tick_idle(struct database *database, usec_t now);

/* ---- gate.c: hold, release, prepare, new routes ---- */
void gate_hold(struct worker *worker, const char *database, uint64_t epoch, bool paused);
/* `database` "": all. */
void gate_reconnect(struct worker *worker, const char *database);
void gate_kill_client(struct client *client);
void gate_kill(struct worker *worker, const char *database);
/* While a database is held for a swap that has been prepared, its connections to the old server are
 * closed as soon as nobody uses them: backends take milliseconds to end, and the fence waits for
 * them.  If the swap does not come about, new ones are opened at the release. */
bool gate_leaves_server(const struct database *database);
void gate_release(struct worker *worker, const char *database, bool lapsed);
void gate_check_drained(struct database *database);
/* Every client of the database, in all workers, is at its safe point. */
void gate_settle(struct worker *worker, const char *database, uint64_t epoch);
void gate_blockers_cancel(struct worker *worker, const char *database);
void gate_blockers_terminate(struct worker *worker, const char *database);
void gate_blockers_keep(struct worker *worker, const char *database);
/* At the end of the worker. */
void pool_free_all(struct worker *worker);
void gate_prepare(struct worker *worker, const char *database, const char *server, uint64_t token,
                  bool trial, bool leave, bool seal);
void gate_prepare_end(struct worker *worker, const char *database);
/* One more, in a hold.  False: none is being opened. */
bool gate_prepare_one(struct pool *pool) MUST_CHECK;
/* Answers PREPARE SWAP, if everything is there. */
void gate_prepare_report(struct database *database);
/* A connection to the target of a swap is ready, or will never be: the next one is dialled. */
void gate_prepared(struct server *server, bool ready);
/* ---- held.c: bounds of what is held ---- */
/* Counts what the client has waiting while its database is held; beyond the bounds it is refused, or
 * another. */
void gate_count_held(struct client *client);
void gate_uncount_held(struct client *client);
/* Another worker, or this one, had to hold one too many: the one held longest here is refused. */
void gate_evict_held(struct worker *worker, const char *database);
/* Every 100 ms: time-outs and notices of a pool whose database is held. */
void gate_tick_held(struct pool *pool, usec_t now);

/* Tells the main thread what could not be told before, for lack of memory. */
void gate_tick(struct worker *worker);
/* Whether the server is one of the present route of its database. */
bool gate_server_current(const struct server *server);
void gate_new_routes(struct worker *worker, struct route_table *routes);

#endif
