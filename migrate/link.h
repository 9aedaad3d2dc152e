/* SPDX-License-Identifier: PostgreSQL */
/*
 * One connection of the mover (libpq, never blocking) and the loop that waits for many at once.
 *
 * A link is closed, connecting, idle, busy (a query is under way) or broken.  link_send() starts a
 * query, loop_wait() waits for the links it is given and meanwhile serves the background links: the
 * lease of the holds and the progress display work while a phase waits.  One thread; nothing here
 * ends the program or decides what a failure means.
 */
#ifndef MIGRATE_LINK_H
#define MIGRATE_LINK_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"

#include <libpq-fe.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Results of one query text that are kept; a text has at most that many statements. */
#define LINK_RESULTS_MAX 12

enum link_state { LINK_CLOSED, LINK_CONNECTING, LINK_IDLE, LINK_BUSY, LINK_BROKEN };

/* Where it goes.  All strings live as long as the link. */
struct link_target {
	const char *host;
	int port;
	const char *user;
	const char *dbname;
	const char *password_file;
	const char *password_env;
	struct config_tls tls; /* all zero: as libpq does by itself */
	bool console;          /* a proxy's console: no settings are made after login */
	const char *options;   /* more command-line options for the server; NULL = none */
};

struct link {
	const char *name; /* "pg1", "proxy a": for messages */
	struct link_target target;
	enum link_state state;
	PGconn *conn;
	unsigned sessions; /* how often it was connected: what is prepared ends with its session */
	char address[80];  /* where its host was found when it was connected last, or "" */
	bool same_address; /* it is to be there again, too: no name is looked up */
	PostgresPollingStatusType polling; /* while connecting */
	bool setting_up;                   /* logged in, the settings are under way */
	PGresult *results[LINK_RESULTS_MAX];
	size_t result_count;
	char *error; /* of the last query or connection, NULL = none; a line without prefix */
	char sqlstate[6];
	char *notice; /* the last one of the last query, a line; NULL = none */
	usec_t sent_at;
	usec_t done_at;
	/* For a background link: called when its query has ended, well or not. */
	void (*done)(struct link *link, void *arg);
	void *arg;
};

/* What loop_wait() does beside waiting. */
struct loop {
	struct link **background;
	size_t background_count;
	void (*tick)(void *arg); /* called about every tick_every, and at least once a wait */
	void *arg;
	usec_t tick_every;
	usec_t ticked_at;
	volatile sig_atomic_t *stop; /* set by SIGINT and SIGTERM */
};

void link_init(struct link *link, const char *name, const struct link_target *target);
void link_close(struct link *link);

/* Closes it as well, and keeps the reason: it is broken then. */
void link_give_up(struct link *link);

/* Begins to connect; the outcome is the link's state after loop_wait(). */
void link_connect(struct link *link);

/* Sends one query text, which may have several statements.  If the link is not idle nothing is
 * sent, its error is set and it is broken: the wait for it then ends at once. */
void link_send(struct link *link, const char *sql);

enum wait_end { WAIT_DONE, WAIT_DEADLINE, WAIT_STOPPED };

/* Until none of the links is connecting or busy, the deadline has passed, or (if `stoppable`) a
 * signal came. */
enum wait_end loop_wait(struct loop *loop, struct link *const *links, size_t count, usec_t deadline,
                        bool stoppable) MUST_CHECK;

/* Waits for a link whose work has just begun, a moment at most: what costs its server some work, a new
 * session above all, is so begun one after the other where the answers are quick, and where they
 * are not, it is under way everywhere soon. */
void loop_apart(struct loop *loop, struct link *link);

/* One turn: until something happens at one of the links, at most until `until`. */
void loop_step(struct loop *loop, struct link *const *links, size_t count, usec_t until);

/* Serves background links and the tick for that long. */
void loop_sleep(struct loop *loop, usec_t duration);

/* Sends and waits; true if every statement succeeded. */
bool link_run(struct loop *loop, struct link *link, usec_t timeout, const char *sql) MUST_CHECK;

/* Whether its last query has ended without an error. */
bool link_ok(const struct link *link);

/* The value in a row of the last result, NULL for null or if there is no such column or row. */
const char *link_value(const struct link *link, int row, const char *column);
int link_rows(const struct link *link);
int64_t link_number(const struct link *link, int row, const char *column, int64_t otherwise);
/* Of a column, over all rows of all results of the last query text; `otherwise` if there are none. */
int64_t link_sum(const struct link *link, const char *column, int64_t otherwise);
bool link_true(const struct link *link, int row, const char *column);

/* Its error, "timed out" for one that is still busy. */
const char *link_error(const struct link *link);

/* Appends an identifier or a literal, quoted. */
void sql_identifier(struct sbuf *out, const char *name);
void sql_literal(struct sbuf *out, const char *text);

#endif
