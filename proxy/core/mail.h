/* SPDX-License-Identifier: PostgreSQL */
/*
 * The letters between threads.  A letter is malloc'ed by the sender and free()d by the receiver,
 * with what it points to unless it says otherwise.
 */
#ifndef CORE_MAIL_H
#define CORE_MAIL_H

#include "base/compiler.h"
#include "core/cancel.h"
#include "core/server.h"
#include "net/mailbox.h"

#include <stdint.h>

struct database_share;
struct route_table;
struct rowset;
struct user_share;

enum mail_type {
	/* main -> worker */
	MAIL_LISTEN = 1,   /* mail_fd: a listening socket, from now on yours */
	MAIL_HOLD,         /* mail_database: name, epoch, number (1: PAUSE).  Answer: MAIL_DRAINED, when it is */
	MAIL_RELEASE,      /* mail_database: name */
	MAIL_SETTLE,       /* mail_database: name, epoch: all are drained.  Answer: MAIL_DRAINED once more */
	MAIL_RETURN,       /* mail_database: name, epoch: no swap comes (session_come_back()) */
	MAIL_RETURN_LAPSED, /* the same; the hold ends with its lease, and others' may have before */
	MAIL_SEAL,         /* mail_database: name, epoch: put out of use what is idle (seal.h) */
	MAIL_LAPSE,        /* mail_database: name; the hold ended with its lease */
	MAIL_CANCEL_BLOCKERS,    /* mail_database: name */
	MAIL_TERMINATE_BLOCKERS, /* mail_database: name */
	MAIL_KEEP_BLOCKERS,      /* mail_database: name */
	MAIL_PREPARE,      /* mail_database: name, server, token, trial, leave, seal.  Answer: MAIL_PREPARED */
	MAIL_PREPARE_END,  /* mail_database: name: close what PREPARE opened */
	MAIL_ROUTES,       /* mail_routes: from now on this table (a reference) */
	MAIL_VIEW,         /* mail_view: fill a view.  Answer: MAIL_ROWS */
	MAIL_WELCOME,      /* mail_welcome: remembered parameters of a (database, user) */
	MAIL_SHUTDOWN,     /* struct letter: no new requests; close clients at their safe points, or
			      (as_pgbouncer) with their next request */
	MAIL_CONSOLE_ONLY, /* struct letter: no new clients but those of the console */
	MAIL_STOP,         /* struct letter: close everything, end the thread */
	MAIL_USERS,        /* struct letter: the users file was read again (proxy->users) */
	/* compute thread -> worker */
	MAIL_COMPUTED,     /* struct compute_job (core/compute.h) */
	MAIL_RECONNECT,    /* mail_database: name, "" = all: what is open now is closed when free */
	MAIL_LEAVE,        /* mail_database: name = the text of a command that waits (leave.h) */
	MAIL_KILL,         /* mail_database: name, "" = all: end of all clients and servers */
	MAIL_SUSPEND,      /* mail_database: stand still.  Answer: MAIL_SUSPENDED */
	MAIL_RESUME,       /* mail_database: go on */
	MAIL_REFUSE,       /* struct letter: no new connections */
	/* worker -> worker */
	MAIL_EVICT_HELD,    /* mail_database: name: too much is held, and yours is the oldest */
	MAIL_SECRET,        /* mail_database: name of a user: how to log in as him is known better */
	MAIL_SERVER_WANTED, /* mail_server: `from` starves: give one if you can.  Answer: the same
			       letter as MAIL_SERVER */
	MAIL_SERVER,        /* mail_server: here is one */
	MAIL_EVICT,         /* mail_pool: close an idle one of another pool: a limit is reached */
	MAIL_ROOM,          /* mail_pool: there may be room for a connection under its limits */
	MAIL_CANCEL,        /* mail_cancel: a CancelRequest for a client of yours; also -> main: for
			       one of the console */
	MAIL_ACCEPT,        /* mail_fd: a new connection */
	MAIL_CLIENT,        /* mail_client (core/relocate.h): a client that lives with you now */
	/* worker -> main */
	MAIL_PINNED,       /* mail_database: name, epoch, text: a session that cannot be moved, policy abort */
	MAIL_DRAINED,      /* mail_database: name, epoch, worker, number: sessions for MAIL_SETTLE */
	MAIL_UNDRAINED,    /* mail_database: name, epoch, worker: not any more; MAIL_DRAINED will come again */
	MAIL_PREPARED,     /* mail_database: name, token, worker, number = opened, failed, text */
	MAIL_SUSPENDED,    /* mail_database: the epoch of the SUSPEND */
	MAIL_ROWS,         /* mail_view */
	MAIL_CANCEL_FORMER, /* mail_cancel: fits nobody here, perhaps one of the process before */
	MAIL_CONSOLE,      /* mail_console: a client of the console, logged in */
	MAIL_LEARNED,      /* mail_welcome: to be remembered in the state directory */
	MAIL_STOPPED,      /* struct letter: the worker's last */
};

struct mail_fd {
	struct letter letter;
	int fd;
	bool readable; /* MAIL_ACCEPT: its first bytes are there already */
};

struct mail_database {
	struct letter letter;
	char *name;
	char *server;
	char *text;
	uint64_t epoch;
	uint64_t token;
	unsigned worker;
	unsigned number;
	unsigned failed;
	bool trial;
	bool leave;
	bool seal;
};

struct mail_routes {
	struct letter letter;
	struct route_table *routes;
};

/* The same letter goes there and back. */
struct mail_view {
	struct letter letter;
	int view;          /* enum view */
	char *database;    /* SHOW BLOCKERS db; NULL: all */
	struct mail_view *next; /* that waits for the same: database->session_views */
	uint64_t token;
	unsigned worker;
	struct rowset *rows; /* on the way back */
};

struct mail_welcome {
	struct letter letter;
	char *database;
	char *user;
	void *params; /* param_set_encode() */
	size_t params_len;
};

struct mail_pool {
	struct letter letter;
	struct pool_share *share;
	int full; /* MAIL_EVICT: enum share_full */
};

struct mail_server {
	struct letter letter;
	struct pool_share *share;
	unsigned from; /* MAIL_SERVER_WANTED */
	bool login;    /* … for a login: only one that is promised to nobody */
	struct server_parcel parcel;
};

struct mail_cancel {
	struct letter letter;
	struct cancel_ask ask;
};

struct mail_console {
	struct letter letter;
	int fd;
	struct tls *tls; /* NULL: not encrypted */
	char *database; /* pgshunt or pgbouncer */
	char *user;
	bool owner; /* may do everything, whoever it is */
	char *application_name;
	uint64_t id;
	usec_t connected;
	struct user_share *user_share;         /* it is counted in both */
	struct database_share *database_share;
	uint32_t cancel_pid;
	struct cancel_key cancel_key;
	void *bytes; /* received behind the login, not yet used */
	size_t bytes_len;
};

/* A zeroed letter of `size` bytes; NULL on lack of memory, when what is kept for letters is used up,
 * too. */
void *mail_new(size_t size, enum mail_type type) MUST_CHECK;
/* mail_new() for mail_database with a copy of the name. */
struct mail_database *mail_new_database(enum mail_type type, const char *name) MUST_CHECK;

/* The same of the main thread, whose letters must not get lost: waits for memory. */
void *mail_must_new(size_t size, enum mail_type type) MUST_CHECK;
struct mail_database *mail_must_new_database(enum mail_type type, const char *name) MUST_CHECK;
void mail_free_database(struct mail_database *mail);
void mail_free_welcome(struct mail_welcome *mail);

#endif
