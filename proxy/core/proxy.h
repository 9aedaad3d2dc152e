/* SPDX-License-Identifier: PostgreSQL */
/*
 * The proxy as a whole, on the main thread: listening sockets, workers, signals, configuration.
 * Only what is marked so may be read by other threads.
 */
#ifndef CORE_PROXY_H
#define CORE_PROXY_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"
#include "core/listen.h"
#include "core/mail.h"
#include "core/route.h"
#include "core/share.h"
#include "core/worker.h"
#include "net/inherit.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct admin;    /* core/admin.h */
struct address_table; /* core/address.h */
struct auth_cache; /* auth/cache.h */
struct compute;  /* core/compute.h */
struct handover; /* core/handover.h */
struct hba;      /* auth/hba.h */
struct ident;    /* auth/ident.h */
struct auth_ldap; /* auth/ldap.h */
struct takeover; /* core/takeover.h */
struct userlist; /* auth/userlist.h */

/* control/ takes the clients of the console over with this; it owns the letter. */
typedef void (*proxy_console_fn)(struct proxy *proxy, struct mail_console *mail);

/* A CancelRequest for one of them. */
typedef void (*proxy_console_cancel_fn)(uint32_t pid, const struct cancel_key *key);

/* What a view has to show of them, behind the rows of the workers. */
typedef void (*proxy_console_rows_fn)(struct rowset *rows);

/* Ends the one with that id; false: none has it. */
typedef bool (*proxy_console_kill_fn)(uint64_t id);

struct proxy {
	struct event_base *base;
	struct mailbox mailbox;
	struct config *config;      /* a reference; the present one */
	char *config_path;
	struct route_table *routes; /* the present one, a reference */
	struct share_registry *shares; /* any thread */
	struct told_table *told;       /* the same */
	struct worker *workers;     /* any thread: index and mailbox */
	unsigned worker_count;      /* any thread */
	atomic_uint client_count;   /* any thread: connections, in their login too */
	atomic_uint server_count;   /* any thread: connections to servers */
	unsigned descriptors;       /* any thread: that the process may have; 0: not known */
	atomic_uint descriptors_own; /* any thread: that it had before the first connection */
	atomic_uint admitted;       /* any thread: those that are authenticated */
	atomic_size_t carried;      /* any thread: bytes of temporary tables kept for sessions */
	atomic_ullong last_id;      /* any thread: of worker_new_client_id() */
	struct address_table *addresses; /* any thread */
	uint8_t cancel_secret[32];  /* any thread: of the long cancel keys */
	unsigned peer_id;           /* any thread: of this process; 0: it has no peers */
	atomic_bool pause_new;      /* any thread: a database that comes into use is paused */
	struct admin *admin;
	proxy_console_fn console;
	proxy_console_cancel_fn console_cancel; /* may be NULL, as those that follow */
	proxy_console_rows_fn console_rows;
	proxy_console_kill_fn console_kill;
	/* control/ opens sockets of its own; false: with a log line.  May be NULL. */
	bool (*before_listen)(struct proxy *proxy);
	void (*left)(void);         /* another process serves now; may be NULL */
	void (*before_free)(void);  /* control/ closes its clients; may be NULL */
	pthread_mutex_t users_lock; /* of `users`: taken at start and RELOAD only */
	struct userlist *users;
	int auth_type;              /* enum config_auth_type, with the same lock */
	struct hba *hba;            /* with the same lock; NULL: auth_type is not hba */
	struct ident *ident;        /* the same; NULL: no maps */
	struct auth_ldap *ldap;     /* the same; NULL: auth_type is another */
	struct compute *compute;    /* any thread */
	struct compute *asking;     /* the same for what may take long: PAM, LDAP */
	struct auth_cache *auth_cache; /* any thread */
	pthread_t warm_thread;      /* derives the secrets of `users`, so that no login has to */
	bool warming;
	atomic_bool stop_warming;
	struct inheritance inherited; /* listening sockets that it was given; before proxy_run() */
	struct listeners listeners; /* the first worker's, but who hands over sends them */
	struct listeners web;       /* of HTTP: control/ accepts on them and closes them */
	struct takeover *takeover;  /* what another process has offered; NULL: nothing */
	struct handover *handover;
	atomic_bool has_former;     /* any thread: the process before this one still has clients */
	bool pid_written;
	int interrupts;
	bool listening;             /* clients are accepted */
	bool reload_failed;         /* the last one */
	usec_t loaded;              /* when the configuration in force was read, by clock_wall() */
	bool shutting_down;
	bool waits_clients; /* SHUTDOWN WAIT_FOR_CLIENTS */
	bool stop_sent;
	usec_t shutdown_began;
	unsigned stopped;           /* workers that have ended */
	usec_t started;
	struct event *signals[8];
	struct event *shutdown_timer;
	struct event *log_timer; /* says what was left out of the log */
};

/* Whether the users, HBA and ident files and the files of TLS can be read; false with lines in
 * `error`. */
bool proxy_check_files(const struct config *config, struct sbuf *error) MUST_CHECK;

/* Builds everything but the listening sockets: state directory, routes, workers.  False with log
 * lines.  The configuration's reference passes to the proxy.  `proxy->takeover` is set already, or
 * NULL. */
bool proxy_init(struct proxy *proxy, struct config *config, const char *config_path,
		proxy_console_fn console) MUST_CHECK;

/* Opens the listening sockets and runs until shutdown; the exit code. */
int proxy_run(struct proxy *proxy) MUST_CHECK;

/* Reads the configuration and the users file again.  False: nothing has changed and `errors` says
 * why; true: `notes` names settings that need a restart. */
bool proxy_reload(struct proxy *proxy, struct sbuf *errors, struct sbuf *notes) MUST_CHECK;

/* One setting gets another value, until the next RELOAD.  False: `sqlstate` (6 bytes) and `errors`
 * say why not. */
bool proxy_set(struct proxy *proxy, const char *name, const char *value, char *sqlstate,
	       struct sbuf *errors, struct sbuf *notes) MUST_CHECK;

/* No new connections; the end comes when all clients have gone. */
void proxy_shutdown_later(struct proxy *proxy);

/* Another process serves from now on: nobody is accepted here any more, and the files that both have
 * are the other's. */
void proxy_leave(struct proxy *proxy);

/* Graceful shutdown, or at once. */
void proxy_shutdown(struct proxy *proxy, bool immediate);

/* Makes `routes` (a reference, taken over) the present table and mails it to every worker. */
void proxy_set_routes(struct proxy *proxy, struct route_table *routes);

/* A copy of the letter for every worker, through make(arg), which is never NULL. */
void proxy_tell_workers(struct proxy *proxy, struct letter *(*make)(void *arg), void *arg);

#endif
