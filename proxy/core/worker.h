/* SPDX-License-Identifier: PostgreSQL */
/*
 * A worker: a thread with its event base and everything that it serves.  Nothing of it is touched
 * by another thread, but the mailbox and the atomic counters at the end.
 */
#ifndef CORE_WORKER_H
#define CORE_WORKER_H

#include "base/clock.h"
#include "base/list.h"
#include "core/conn.h"
#include "core/pool.h"
#include "core/tally.h"
#include "net/mailbox.h"
#include "session/params.h"
#include "session/stmts.h"

#include <event2/dns.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

struct acceptor;
struct conn_tls_io;
struct hba;
struct auth_ldap;
struct ident;
struct proxy;
struct ring;
struct route_table;
struct userlist;

/* Received at a time: large enough that a big result costs few system calls, small enough for the
 * second-level cache. */
#define WORKER_INBUF ((size_t)128 * 1024)

/* Counters that belong to no database. */
struct worker_stats {
	uint64_t accepted;       /* connections of clients, whatever became of them */
	uint64_t cancels_taken;  /* cancel requests of clients … */
	uint64_t cancels_wrong;  /* … with a key that nobody has */
	uint64_t cancels_sent;   /* to servers */
	uint64_t cancels_failed; /* that could not be sent to a server */
	uint64_t tls_done;       /* handshakes with clients that want to log in … */
	uint64_t tls_resumed;    /* … of these, resumed sessions */
	uint64_t tls_failed;
	uint64_t servers_opened; /* server connections that have logged in */
	uint64_t servers_failed; /* … that could not be made */
};

struct worker {
	struct proxy *proxy;
	unsigned index;
	pthread_t thread;
	struct event_base *base;
	struct evdns_base *dns;
	struct list names;      /* of servers (core/names.c) */
	usec_t hosts_changed;   /* the time of the hosts file when it was read … */
	usec_t resolv_changed;  /* … and of resolv.conf … */
	usec_t resolver_looked; /* … and when they were looked at last */
	struct event *tick;
	struct event *stand_still;   /* SUSPEND */
	bool suspended;
	bool suspend_answered;
	uint64_t suspend_epoch;
	struct mailbox mailbox;
	struct letter *last;         /* MAIL_STOPPED: made at the start, so that it cannot be lacking */
	struct route_table *routes;  /* a reference */
	struct userlist *users;      /* references: who may log in, and how */
	int auth_type;               /* enum config_auth_type that goes with them */
	struct hba *hba;             /* NULL: auth_type is not hba */
	struct ident *ident;         /* NULL: no maps */
	struct auth_ldap *ldap;      /* NULL: auth_type is another */
	uint64_t standing_version;   /* of the table that pool_make_standing() was called for */
	struct param_pool *params;
	struct stmt_store *stmts;
	struct list databases;       /* struct database.node */
	struct list joining;         /* clients before their pool is known (STARTUP, AUTH) */
	struct list doomed_clients;  /* to be destroyed at the end of the turn */
	struct list doomed_servers;
	struct acceptor *acceptors;  /* listening sockets of this worker */
	struct list askers;          /* auth_query's connections (core/auth_query.c) */
	struct list cancels;         /* cancel requests under way (struct cancel.node) */
	struct tally tally;          /* errors of clients that have no database */
	struct worker_stats stats;
	usec_t now;                  /* of the present event */
	bool shutting_down;          /* no new requests */
	bool leaving;                /* … and clients go at their safe points */
	bool console_only;           /* no new clients but those of the console */
	bool refusing;               /* no new clients, for another process serves them */
	bool stopping;
	bool ended;                  /* everything is freed but the mailbox and the base */
	struct out_vec to_client;
	struct out_vec to_server;
	uint8_t *inbuf;              /* WORKER_INBUF */
	struct ring *ring;           /* sends that are put off; NULL: none is */
	struct event *batch_end;     /* behind the events of the present batch: they are sent */
	struct conn_tls_io *tls_io;  /* buffers of encrypted connections; NULL: there were none */
	uint64_t unnamed_ids;        /* given to unnamed statements (statement.h) */
	atomic_uint client_count;    /* read by the main thread, which gives new ones to the least */
	atomic_uint linked;          /* while shutting down: clients that have a server; before: UINT_MAX */
	atomic_uint busy;            /* per mille of its time, lately; read by all */
	usec_t cpu_before;           /* CPU time of the thread at the last tick … */
	usec_t tick_before;          /* … and when that was */
	unsigned shed;               /* so many clients are to go to another worker … */
	unsigned shed_to;            /* … this one, each when it is at its safe point */
	unsigned shed_pause;         /* ticks before clients are sent away again */
};

/* Starts the thread; false with a log line. */
bool worker_start(struct worker *worker, struct proxy *proxy, unsigned index,
		  struct route_table *routes) MUST_CHECK;

/* Waits for the end of the thread, after MAIL_STOP. */
void worker_join(struct worker *worker);

/* When no thread posts any more: drops letters that came too late. */
void worker_close(struct worker *worker);

/* The end of every event callback: destroys what was doomed in it. */
void worker_end_turn(struct worker *worker);

/* Of a connection, of either side: counts up from 1, in the whole process. */
uint64_t worker_new_client_id(struct worker *worker);

#endif
