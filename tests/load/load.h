/* SPDX-License-Identifier: PostgreSQL */
/*
 * The load: targets, each with clients of one kind, all in one thread around one epoll set.
 *
 * A client works in units.  A unit is what an application calls a transaction: it is acknowledged
 * as a whole when the server said ReadyForQuery after it, or it failed.  A number is used for one
 * row and never again, whatever became of it: so a row that is there twice was written twice.
 */
#ifndef LOAD_LOAD_H
#define LOAD_LOAD_H

#include "base/clock.h"
#include "base/compiler.h"
#include "record.h"
#include "script.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

/* name on the command line, extended protocol, named statements, many units in flight */
#define LOAD_MODES(X)                                                                              \
	X(SIMPLE, "simple", false, false, false)                                                   \
	X(EXTENDED, "extended", true, false, false)                                                \
	X(PREPARED, "prepared", true, true, false)                                                 \
	X(PIPELINED, "pipelined", true, false, true)                                               \
	X(PIPELINED_PREPARED, "pipelined-prepared", true, true, true)

#define LOAD_MODE_ENUM(id, name, extended, prepared, pipelined) MODE_##id,
enum load_mode { LOAD_MODES(LOAD_MODE_ENUM) MODE_COUNT };
#undef LOAD_MODE_ENUM

struct load_mode_traits {
	const char *name;
	bool extended;
	bool prepared;
	bool pipelined;
};
extern const struct load_mode_traits load_modes[MODE_COUNT];

#define LOAD_DEPTH_MAX 64
#define LOAD_STATEMENTS_MAX 100

struct load_target {
	const char *name;
	const char *group; /* targets of one group write to the same database */
	const char *conninfo;
	int index;
	int clients;
	int first_client;
	enum load_mode mode;
	bool block;     /* BEGIN … COMMIT, statement by statement */
	bool batch;     /* BEGIN … COMMIT in one simple query */
	bool reconnect; /* one connection a unit */
	int statements; /* rows a unit */
	int reads;      /* percent of units that (also) read */
	int depth;      /* units in flight, pipelined modes */
	double rate;    /* units a second of the whole target; 0: closed loop */
	struct script write;
	struct script read;

	usec_t last_ack;
	int64_t acked; /* rows */
	int64_t errors;
};

struct load_unit {
	int64_t first; /* number of its first row */
	int rows;
	bool reads;
	int64_t read_number; /* 0: the answer of the read proves nothing */
	int step;            /* the next to send */
	int answered;        /* the step whose answer is awaited */
	usec_t start;
	bool failed;
	bool stale;
	char sqlstate[6];
	char text[160];
};

enum load_client_state {
	CLIENT_WAITING, /* no connection; connects when due */
	CLIENT_CONNECTING,
	CLIENT_PREPARING,
	CLIENT_READY,   /* nothing in flight */
	CLIENT_BUSY,    /* units in flight */
	CLIENT_UNDOING, /* ROLLBACK after a failed unit */
	CLIENT_DONE,
};

struct load_client {
	struct load_run *run;
	struct load_target *target;
	int number;
	enum load_client_state state;
	PGconn *conn;
	uint32_t events;
	usec_t due;          /* of the next unit */
	usec_t idle_since;   /* when the last unit ended */
	usec_t connected_at; /* when the connection was begun */
	usec_t retry_at;
	int preparing; /* how many statements are prepared */
	int64_t last_number;
	int64_t last_acked;
	int head; /* of the ring of units in flight */
	int in_flight;
	bool begun;  /* was logged in once: the open loop runs from then on */
	bool broken; /* a unit in the pipeline failed: no new ones until the others ended */
	struct load_unit units[LOAD_DEPTH_MAX];
	char sqlstate[6]; /* of the last FATAL that came without a request */
	char text[160];
};

struct load_run {
	int epoll;
	struct record *record;
	int64_t run;
	usec_t start;
	usec_t gap; /* pauses longer than this are logged */
	usec_t retry;
	bool stopping;
	bool quiet;
	int target_count;
	struct load_target *targets;
	int client_count;
	struct load_client *clients;
	int done; /* clients that have ended */
	uint64_t random;
	int64_t shown; /* errors shown on stderr */
};

/* --- client.c: the connection --------------------------------------------------------------- */

void load_client_init(struct load_client *client, struct load_run *run, struct load_target *target,
                      int number, int place);

/* Starts what is due.  Returns when it wants to be called again (INT64_MAX: not by time). */
usec_t load_client_tick(struct load_client *client, usec_t now);
void load_client_event(struct load_client *client, usec_t now);

/* At the end of the time of grace: what is unanswered is logged, the connection closed. */
void load_client_give_up(struct load_client *client, usec_t now);

/* --- unit.c: what is sent over it ------------------------------------------------------------ */

/* From one unit of a client to its next in the open loop, whose rate is that of all clients. */
usec_t unit_interval(const struct load_target *target);

/* Each false if the connection is broken. */
bool unit_prepare_next(struct load_client *client, bool *all) MUST_CHECK;
bool unit_start(struct load_client *client, usec_t now) MUST_CHECK;
bool unit_send_step(struct load_client *client, struct load_unit *unit) MUST_CHECK;
bool unit_undo(struct load_client *client) MUST_CHECK;

/* Takes one result into account for `unit`. */
void unit_result(struct load_client *client, struct load_unit *unit, const PGresult *result);

/* True if another step of it is to be sent. */
bool unit_has_next(const struct load_client *client, const struct load_unit *unit);

/* The oldest unit ended: logs it and takes it out of the ring. */
void unit_finish(struct load_client *client, usec_t now);
void unit_fail(struct load_unit *unit, const char *sqlstate, const char *text);
struct load_unit *unit_oldest(struct load_client *client);

/* Logs an error that belongs to no unit. */
void load_error(struct load_client *client, usec_t now, const char *sqlstate, const char *text);

#endif
