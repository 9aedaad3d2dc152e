/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the files of the coordinator share: admin.c (requests, letters, life), hold.c, swap.c,
 * admin_view.c (SHOW).  Main thread only.
 */
#ifndef CORE_ADMIN_INTERNAL_H
#define CORE_ADMIN_INTERNAL_H

#include "base/list.h"
#include "core/admin.h"
#include "core/mail.h"
#include "core/proxy.h"
#include "core/state.h"
#include "core/state_writer.h"
#include "core/swap_check.h"

#include <event2/event.h>

enum hold_state { HOLD_OPEN, HOLD_DRAINING, HOLD_HELD };

/* One database, whether the present configuration knows it or not; lives as long as the admin. */
struct admin_db {
	struct list_node node; /* admin->databases */
	struct admin *admin;
	char *name;

	/* hold.c */
	enum hold_state state;
	uint64_t epoch; /* the last one; of the hold while there is one */
	usec_t began; /* when the gates were closed; 0: not yet */
	usec_t lease; /* 0: no expiry */
	usec_t lease_end;
	usec_t drain;
	int policy;       /* enum config_drain_policy */
	bool gate_closed;    /* the workers were told */
	uint64_t gate_token; /* what was asked of them later, was asked of a closed gate */
	bool drain_acted; /* cancel or terminate was carried out: the next deadline aborts */
	bool end_wanted;  /* the lease ended during a swap */
	bool drained[WORKERS_MAX];
	unsigned drained_count;
	unsigned unsettled; /* sessions that are to be asked once more when all are drained */
	bool settled;       /* … and have been */
	bool sealed;        /* in this hold there was a SEAL … */
	bool lapsing;       /* … and it has ended with its lease, here as maybe elsewhere */
	int rest_seen;      /* hold_rest() when it was last looked at … */
	usec_t rest_at;     /* … and when it was last another */
	char *held_server;  /* the route's when the hold began; NULL: there was none */
	uint64_t hold_number; /* of the write that has the hold */
	uint64_t forever_number; /* … and that it has no expiry; 0: it has one, or is a PAUSE */
	struct event *lease_timer;
	struct event *drain_timer;
	struct event *open_timer;   /* the hold is over, but the gate not open yet … */
	enum mail_type open_letter; /* … until this is sent */
	struct list waiters; /* requests HOLD that wait for drained */
	bool paused;         /* the hold is a PAUSE */

	/* swap.c */
	char *server; /* route made by a swap; NULL: the configuration's */
	enum route_origin origin;
	char *target;                   /* PREPARE SWAP; NULL: none */
	uint64_t target_token;          /* … of the last that was begun */
	char *swap_to;                  /* a swap is under way */
	uint64_t swapped_epoch;         /* of the hold of the last swap */
	usec_t swapped_at;              /* 0: none since the start */
	uint64_t returned_epoch;        /* of the last hold that is released without a swap … */
	usec_t returned_at;             /* … though sessions have to get their claims back */
	char *source_name;              /* server of which `source` was read */
	struct server_identity source;  /* the route's server before a swap */
	char *checked_name; /* server that a swap is to lead to, or has led to: asked, and asked
	                     * once more by SWAP */
	struct server_identity checked; /* what it said last */
};

struct admin_request {
	struct list_node node;
	struct list *in; /* the list it is in, one at a time */
	struct admin *admin;
	struct admin_db *db; /* NULL for commands without */
	admin_done_fn *done; /* NULL: abandoned */
	void *arg;

	uint64_t number; /* of the write it waits for */
	void (*saved)(struct admin_request *request, bool ok, const char *error);
	bool nowait; /* HOLD, SWAP */
	bool sessions; /* SWAP, RELEASE */
	bool trial;  /* PREPARE SWAP */
	bool leave;  /* … */
	bool seal;   /* … */
	bool owner;  /* … which began the hold, or named its epoch */

	/* swap.c */
	uint64_t token; /* of letters that belong to it */
	uint64_t epoch;
	usec_t began;	/* SWAP came */
	usec_t checked; /* … and was found good */
	char *server;
	unsigned left; /* answers that are still to come */
	unsigned opened;
	unsigned failed;
	uint64_t target_asked; /* the questions whose answers it waits for (swap_ask.c); 0: none */
	uint64_t source_asked;
	char check_error[512]; /* of the check of the target */
	struct event *timer;

	/* pause.c */
	usec_t limit;      /* PAUSE: TIMEOUT */
	bool waits_close;  /* WAIT_CLOSE */
	bool asking;       /* … and the workers have been asked */
	bool cancelled;
	unsigned suspends; /* SUSPEND: workers that do not stand still yet */

	/* admin_view.c */
	enum view view;
	uint64_t asked; /* the workers' rows are not older than this token */
	size_t names;   /* LISTS: rows of DNS_HOSTS */

	/* the answer */
	struct admin_error error;
	struct rowset rows;
	bool has_rows;
	struct sbuf notice;
};

/* What is asked of one server. */
struct asked {
	struct list_node node; /* admin->asked */
	char *server;
	PGconn *conn; /* kept open so that SWAP's check is one round trip; NULL: none, or in use */
	uint64_t now; /* the question that is under way; 0: none */
	usec_t now_ends;  /* … at the latest */
	uint64_t next;    /* that which follows it, for those who came meanwhile; 0: nobody has */
	usec_t next_ends; /* … the last of their deadlines */
};

typedef void view_done_fn(struct admin *admin, struct rowset *rows, void *arg);

/* Rows that were asked of the workers and are not yet all here. */
struct view_wait {
	struct list_node node; /* admin->views */
	struct admin *admin;
	uint64_t token;
	unsigned left;
	struct rowset rows;
	view_done_fn *done;
	void *arg;
	struct event *timer;
};

struct admin {
	struct proxy *proxy;
	int lock_fd;
	bool ending;
	bool frozen; /* nothing changes: another process takes over, or has */
	struct mailbox box; /* letters of enum admin_letter */
	struct state_writer *writer;
	uint64_t saved; /* the highest number that was written */
	bool unsaved;   /* a release is to be written in a moment, or what could not be written */
	bool unwritable; /* the last write has failed */
	uint64_t last_token;
	struct list databases; /* struct admin_db.node */
	struct list asked;     /* struct asked.node */
	struct list working;   /* requests that wait for workers, checks or rows */
	struct list pauses;    /* requests PAUSE that wait */
	bool paused_all;       /* PAUSE or KILL without a database */
	bool suspended;
	uint64_t suspend_epoch; /* of the last SUSPEND */
	struct list saving;    /* requests that wait for a write */
	struct list answered;  /* requests whose callback comes next */
	struct list views;     /* struct view_wait.node */
	struct event *answer_event;
	struct event *welcome_timer;
	struct event *save_timer; /* what could not be written */
	struct event *stats_timer;
	struct rowset stats_old; /* samples of STATS, for averages */
	struct rowset stats_new;
	usec_t stats_period; /* of stats_timer */
	usec_t stats_old_at;
	usec_t stats_new_at;
	struct state_welcome *welcomes;
	size_t welcome_count;
};

enum admin_letter { ADMIN_STATE_WRITTEN = 1, ADMIN_CHECKED };

/* ---- admin.c ---- */

struct admin_request *request_new(struct admin *admin, admin_done_fn *done, void *arg);
void request_move(struct admin_request *request, struct list *list);

/* A timer of the main thread, and its start: lack of memory is waited for. */
struct event *admin_timer_new(struct admin *admin, event_callback_fn callback,
                              void *arg) MUST_CHECK;
void admin_timer_add(struct event *timer, usec_t wait);

/* Calls back after `wait`, unless the request has ended. */
void request_set_timer(struct admin_request *request, event_callback_fn callback, usec_t wait);

/* The end of a request: its callback comes from the event loop. */
void request_succeed(struct admin_request *request);
void request_fail(struct admin_request *request, const char *sqlstate, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
void request_detail(struct admin_request *request, const char *fmt, ...) PRINTF_LIKE(2, 3);
void request_hint(struct admin_request *request, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The request goes on with saved(request) when the state as it is now has been written. */
void request_save(struct admin_request *request,
                  void (*saved)(struct admin_request *request, bool ok, const char *error));

/* Writes the state as it is now; the number of the write. */
uint64_t admin_save(struct admin *admin);

/* The usual end of saved(): the row of SHOW HOLDS, or 58030. */
void request_saved_holds(struct admin_request *request, bool ok, const char *error);
void request_fail_save(struct admin_request *request, const char *error);

struct admin_db *admin_find(struct admin *admin, const char *database);

/* The database of a command: sets request->db, or fails the request with 3D000. */
bool request_find_db(struct admin_request *request, const char *database) MUST_CHECK;

/* Whether commands may change anything now; false: the request has failed. */
bool request_may_change(struct admin_request *request) MUST_CHECK;

/* A letter with the database's name for every worker. */
void admin_post_all(struct admin_db *db, enum mail_type type, uint64_t epoch);

/* The configured entry and the server of the present route; NULL when it is not configured. */
const struct config_server *admin_db_server(const struct admin_db *db);

/* ---- hold.c ---- */

const char *hold_state_name(enum hold_state state);
void hold_init(struct admin_db *db);
void hold_free(struct admin_db *db);
/* A hold that outlived the process. */
void hold_restore(struct admin_db *db);
/* A session cannot be moved, and its policy is abort. */
void hold_on_pinned(struct admin_db *db, uint64_t epoch, const char *text);
void hold_on_drained(struct admin_db *db, uint64_t epoch, unsigned worker, unsigned unsettled);
void hold_on_undrained(struct admin_db *db, uint64_t epoch, unsigned worker);
/* The state has been written up to admin->saved, or the write `number` failed. */
void hold_on_saved(struct admin_db *db);
void hold_on_save_failed(struct admin_db *db, uint64_t number, const char *error);
/* A HOLD that waits is cancelled. */
void hold_cancel(struct admin_request *request);
/* Opens the gate, when sessions that have lost their servers have their claims back; HOLDs that
 * wait fail with the reason. */
void hold_end(struct admin_db *db, const char *reason);
/* The same because nobody renewed the lease: who fenced the server may have died before undoing it. */
void hold_lapse(struct admin_db *db);
/* Fails a request whose epoch is not that of the hold; false then. */
bool hold_check_epoch(struct admin_request *request, uint64_t epoch) MUST_CHECK;

/* Whether it is held, and a restart would find it held without expiry. */
bool hold_is_forever(const struct admin_db *db) MUST_CHECK;

/* Parked sessions with advisory locks or channels, which they have yet to get elsewhere. */
int hold_rest(const struct admin_db *db) MUST_CHECK;

/* Whether there are some, the database was swapped in this hold, and that is to be waited for:
 * nobody else is to take those locks, or notify, before. */
bool hold_awaits_rest(struct admin_db *db) MUST_CHECK;

/* How often that is looked at. */
#define HOLD_REST_LOOK USEC_PER_MSEC

/* A hold that is a PAUSE: of an open database only. */
void hold_pause(struct admin_db *db);

/* ---- pause.c ---- */

/* Something has changed for PAUSEs that wait. */
void pause_check(struct admin *admin);
void pause_cancel(struct admin_request *request);
void wait_close_cancel(struct admin_request *request);
/* One more worker stands still for the SUSPEND of this epoch. */
void pause_on_suspended(struct admin *admin, uint64_t epoch);
/* The entry of that name, found or made. */
struct admin_db *admin_know(struct admin *admin, const char *database);

/* ---- swap.c ---- */

void swap_free(struct admin_db *db);
void swap_forget_target(struct admin_db *db);
/* A PREPARE SWAP or SWAP that waits for workers or checks is cancelled. */
void swap_cancel(struct admin_request *request);
void swap_abandon(struct admin_request *request);
void swap_on_prepared(struct admin *admin, struct mail_database *mail);
/* The server that the request asked as its target, or as its source, has answered. */
void swap_on_checked(struct admin_request *request, const struct check *check, bool target);
/* A moment after the release: what SWAP's check has left is closed. */
void swap_released(struct admin_db *db);

/* ---- swap_ask.c ---- */

/*
 * Who a server is, over one connection for all databases: who asks while a question is under way
 * waits for the next, which is then that of all of them.  The answer comes to swap_on_checked().
 *
 * The number of the question, or 0: nothing is asked and `error` says why.
 */
uint64_t swap_ask(struct admin *admin, const struct config_server *server, usec_t timeout,
                  struct sbuf *error) MUST_CHECK;
void swap_ask_answered(struct admin *admin, struct check *check);
/* Closes the connections that no database wants to be kept. */
void swap_ask_trim(struct admin *admin);
void swap_ask_free(struct admin *admin);

/* ---- admin_view.c ---- */

/* Asks all workers; done(admin, rows, arg) comes from the event loop, with MERGED views merged. */
void view_ask(struct admin *admin, enum view view, const char *database, view_done_fn *done,
              void *arg);
void view_on_rows(struct admin *admin, struct mail_view *mail);
void view_wait_free(struct view_wait *wait);
/* Ends the request with the row of SHOW HOLDS of its database. */
void request_answer_holds(struct admin_request *request);
/* … with those of SHOW SEALED. */
void request_answer_sealed(struct admin_request *request);
void stats_sample(evutil_socket_t fd, short what, void *arg);

#endif
