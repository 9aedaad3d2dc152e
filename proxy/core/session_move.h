/* SPDX-License-Identifier: PostgreSQL */
/*
 * How the client of a session pool comes from its server connection to another one, between two of
 * its transactions and without noticing: before a swap to the standby, in its hold to what was
 * promoted, after RECONNECT to a fresh connection of the same server.
 *
 *   linked with `old`        asked what state it has, at its safe point        (session_ask.c)
 *   PREPARED -> `fresh`      a server opened for it gets that state, as far as a standby allows:
 *                            all but channels, as a rule, and is asked the same question
 *   hold: parked             taken off `old`, which is kept untouched (SERVER_PARKED) for an abort;
 *                            what its client asks now waits as that of any held client
 *   route changed            channels to `fresh`, and advisory locks that it could not have before,
 *                            before anybody else goes on; then the rest of the state, if there is
 *                            any, and the same question as before
 *   release                  equal answers: the client goes on at `fresh`, `old` is closed;
 *                            no swap: it goes on at `old`
 *
 * One that does nothing, and of which nothing but its unnamed statement is left to be done at
 * `fresh`, *leaves* before the hold: it is parked, and `old` closed, so that the fence need not
 * wait for its end. It rests until the swap; or its client asks something, or the swap is given up:
 * then it is set up on another connection to where its database is.
 *
 * A session about which nothing was asked has no struct session_move.  Everything of a session
 * happens on its worker; nothing here decides when a hold begins or ends.  Nothing that would
 * change `old` is sent to it while it is parked, until it is sealed (seal.h), but where `fresh` is of
 * the same server: to listen to one channel more (session_notes.h).  When the last client
 * of the database has come to its safe point, sessions that listen are asked once more
 * (MAIL_SETTLE). Never does a client get a server that has not answered as its own had.
 */
#ifndef CORE_SESSION_MOVE_H
#define CORE_SESSION_MOVE_H

#include "base/clock.h"
#include "base/list.h"
#include "base/sbuf.h"
#include "session/classify.h"
#include "session/inspect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct copies;
struct cursors;
struct database;
struct mail_view;
struct pool;
struct server;
struct session_notes;
struct session_state;
struct stmt;
struct worker;

/* 64 hexadecimal digits and a zero. */
#define SESSION_DIGEST_SIZE 65

/* What a server is asked on behalf of a session. */
enum session_question {
	SESSION_ASKS_NOTHING,
	SESSION_ASKS_STATE,   /* its own: what state there is */
	SESSION_ASKS_NEWS,    /* its own, parked: nothing; notifications come before the answer */
	SESSION_ASKS_LOCKS,   /* its own: how often it has each advisory lock; notifications, too */
	SESSION_ASKS_SHAPES,  /* its own: what its prepared statements return (session/shapes.h) */
	SESSION_ASKS_TEMP,    /* its own: what its temporary tables are */
	SESSION_ASKS_PROBE,   /* its own: what their ON COMMIT is */
	SESSION_ASKS_ROWS,    /* its own: their rows */
	SESSION_ASKS_CURSORS, /* its own: the rows of its cursors and where they stand */
	SESSION_ASKS_CLEANUP, /* its own: to forget that it was asked, after an error */
	SESSION_ASKS_STANDBY, /* fresh: to take what a standby allows */
	SESSION_ASKS_CLAIMS,  /* fresh, promoted, in a hold: to take advisory locks and channels */
	SESSION_ASKS_REST,    /* fresh: to take the rest, and then what state there is */
	SESSION_ASKS_AGAIN,   /* fresh: what state there is, neutral */
	SESSION_ASKS_UNNAMED, /* fresh, that has all else: to take the unnamed statement */
	SESSION_ASKS_LISTEN,  /* its own, parked: to listen to the mark (session_notes.h) */
	SESSION_ASKS_MARK,    /* fresh, that has all: to notify it */
	SESSION_ASKS_FORGET,  /* its own, linked again: not to listen to it any more */
};

/* How far `fresh` is. */
enum session_stage {
	SESSION_STAGE_NONE,    /* there is none, or it is logging in */
	SESSION_STAGE_OPEN,    /* as after its login */
	SESSION_STAGE_STANDBY, /* has what a standby allows, of the state digest_fresh */
	SESSION_STAGE_PROVEN, /* … which is all but its channels (and, unless fresh_locked, advisory
	                         locks), and has answered so */
	SESSION_STAGE_CLAIMED, /* has these, and what a standby allows */
	SESSION_STAGE_DONE, /* has answered as the old one had; nothing but the unnamed statement,
	                       which no server tells, is left */
};

struct session_move {
	struct list_node node;   /* database->sessions */
	struct list_node queued; /* waits until it may ask, in database->session_queue … */
	bool later;              /* … or, with this, in session_later */
	struct client *client;
	struct server *old;   /* parked; NULL: linked with its client, or lost */
	struct server *fresh; /* NULL: none yet */
	struct server *asked; /* whose answers are awaited */
	enum session_question question;
	enum session_stage stage;
	unsigned steps_left;          /* ReadyForQuery messages until the last answer */
	unsigned state_steps;         /* … the last of which tell a state */
	unsigned read_steps;          /* … and of these the last are of session_carry.c */
	struct session_state *answer; /* coming in */
	bool shapes;                  /* … with what statements return: so many rows … */
	size_t shape_at;              /* … of the old state are looked at */
	unsigned cursor_steps;        /* … of which the last are about cursors */
	struct copies *arriving;      /* rows of temporary tables, coming in */
	struct cursors *cursors;      /* being read */
	struct sbuf outcomes;         /* of the steps of SESSION_ASKS_PROBE */
	struct session_state *state;  /* of its own server, as of ready_at; NULL: not asked yet */
	usec_t ready_at;              /* server->ready_at then: another value means it was active */
	enum session_class class;
	char *what;
	char *why;
	usec_t class_since;
	char digest[SESSION_DIGEST_SIZE];
	char digest_fresh[SESSION_DIGEST_SIZE]; /* the state that `fresh` was given */
	bool fresh_locked;                      /* it has the advisory locks … */
	uint64_t locks_fresh;                   /* … of then, which a digest tells no number of */
	char digest_told[SESSION_DIGEST_SIZE];  /* the state that it has, by its own account */
	struct stmt *unnamed_fresh;             /* the unnamed statement that it has; NULL: none */
	char digest_failed[SESSION_DIGEST_SIZE]; /* a state that could not be given to a server … */
	char *failed_why;                        /* … and why; NULL: it is to be tried again */
	usec_t failed_at;                        /* first of all; 0: never, or forgotten */
	usec_t failed_wait;                      /* before it is tried again … */
	usec_t failed_until;                     /* … which is then */
	bool failed_passes;                      /* what a standby may replay yet was missing */
	bool failed_tried;                       /* it is being tried again */
	char *failure;                           /* the first error of the answer */
	char *unnamed_failure; /* its unnamed statement cannot be prepared again; NULL: it can */
	char *unnamed_types;   /* of its parameters, "{23,25}"; NULL: not known */
	bool unnamed_bare;     /* it returns no rows */
	bool unnamed_changed;  /* its server refuses that, because it would return other columns */
	char failure_sqlstate[6];
	unsigned steps_before;        /* of the question, those before the replay … */
	unsigned steps_all;           /* … and all; 0 without a replay */
	unsigned failed_step;         /* of the replay, in which the failure came */
	enum replay_stage replayed;   /* which replay */
	bool apart;                   /* each setting by itself, to learn which is refused */
	char *forgone; /* what it is set up without on the server that it had; NULL: nothing */
	char digest_before[SESSION_DIGEST_SIZE]; /* of the last move: on the old server … */
	char digest_after[SESSION_DIGEST_SIZE];  /* … and on the new one; "": never moved */
	usec_t moved_at;                         /* 0: never */
	char from[64];                           /* name of `old` when it was parked */
	char *moved_from;                        /* name of the server */
	char *moved_to;
	char *lost;      /* what was lost then; NULL: nothing */
	struct session_notes *notes; /* of notifications that both tell; NULL: none are expected */
	usec_t retry_at; /* no dialling before */
	usec_t claims_since; /* its locks, back on its server, are another's, as of its old process;
	                        0: no */
	usec_t claims_at;    /* … and not asked for before */
	bool broken_claims;  /* its client is to be told that others may have had them */
	uint64_t ahead_epoch; /* of the hold in which one was opened for it before the swap */
	usec_t asked_at;
	usec_t kept_at;       /* RECONNECT: found to have to keep its server; 0: never */
	usec_t asked_ready_at; /* server->ready_at when its state was last asked for */
	bool unreadable;       /* the answer is not a state */
	bool failure_in_state; /* the error came to the question for the state */
	bool neutral;    /* the question is put without the session's role and statement_timeout */
	bool wanted;     /* PREPARE SWAP or SHOW SESSIONS: to be asked at its next safe point */
	bool pending;    /* … and counted in database->sessions_pending */
	bool parked;     /* taken off `old` */
	bool pass;       /* pinned, policy wait: its requests pass the gate of the hold */
	bool drop;       /* parked though pinned: its client is ended when the route has changed */
	bool lossy;      /* parked though pinned: moved without what it has */
	bool rest;       /* counted in the database's share: session_count_rest() */
	bool left;       /* parked before any hold, and its old server closed */
	bool placed;     /* … whose place in the pool is kept for it */
	bool dialling;   /* `fresh` is counted in database->session_dials */
	bool reconnect;  /* to be moved to a fresh connection of the same server */
	bool settle;     /* parked: is to be asked once more, now that nobody is active any more */
	bool told_abort; /* policy abort: the main thread was told in this hold */
};

/* ---- session_move.c: one session ---- */

/* Found or made; NULL: no memory. */
struct session_move *session_move_get(struct client *client) MUST_CHECK;

/* Whether the client's session has a server of before a RECONNECT. */
bool session_outdated(const struct client *client) MUST_CHECK;

/* Whether RECONNECT means it, at this safe point.  One that had to keep its server for what it has is
 * asked again, but not after each of its transactions: its next request would wait for the answer. */
bool session_shall_reconnect(const struct session_move *move) MUST_CHECK;

/* Does what can be done next, if anything.  The client may be parked, or linked with another
 * server, after it. */
void session_step(struct session_move *move);

/* The linked client of a session pool has come to its safe point, and its database has something
 * under way with sessions.  True: it is not linked with that server any more. */
bool session_at_safe_point(struct client *client) MUST_CHECK;

/* Takes the client off its server, which is kept. */
void session_park(struct session_move *move);
/* Back to the server that was kept. */
void session_unpark(struct session_move *move);

/* Whose session the server is kept or opened for; NULL: of none. */
struct client *session_client(const struct server *server);

/* In a hold: pinned, and waited for. */
bool session_passes(const struct client *client);

/* Whether the client is parked: no other server may be linked with it. */
bool session_is_parked(const struct client *client);

/* Parked, because it has left its server, with nothing to do before the swap. */
bool session_rests(const struct client *client);

/* Whether it has left, and it has yet to be seen that it can go on at the server of the swap to come … */
bool session_unproven(const struct session_move *move) MUST_CHECK;
/* … or one of the database's. */
bool session_some_unproven(const struct database *database) MUST_CHECK;

/* A parked one asks something. */
void session_called(struct client *client);

/* A server that was opened for a session can be used. */
void session_server_ready(struct server *server);

/* PREPARE SWAP has opened one more. */
void session_server_prepared(struct server *server);

/* … and opens no more: those that are waited for and got none are to say so. */
void session_all_prepared(struct database *database);

/* The server is doomed: its session, if any, knows it no more. */
void session_server_lost(struct server *server);

/* The answer to all that was asked of it is here. */
void session_on_answer(struct server *server);

/* The client is being freed. */
void session_end(struct client *client);

/* Whether its state, or what pins it, is known as of its last transaction. */
bool session_known(const struct session_move *move, const struct server *server);

/* Its linked server ends, or says so, while nothing is asked of it: whether the session can be set up
 * again elsewhere (session_recover_after). */
bool session_recovers(const struct server *server);

/* … or why not, were it to end now; NULL: it can.  Of what has died with a server nothing can be
 * read any more, and others may have taken the locks or sent the notifications meanwhile. */
const char *session_unrecoverable(const struct server *server);

/* … and is: the client waits for that as one whose old server was lost in a hold. */
void session_recover(struct server *server);

/* What pins it; "" if nothing does. */
const char *session_why(const struct session_move *move);

/* Its state cannot be set up on the new server. */
void session_failed(struct session_move *move, const char *why);

/* … but when a swap is prepared anew, and by and by if it was for something that a standby may replay
 * yet. */
void session_try_again(struct session_move *move, bool anew);
bool session_failure_passes(const struct session_move *move) MUST_CHECK;
/* It was taken, now. */
void session_tried(struct session_move *move);
/* Pinned, but that this may be over: failed_why and failed_at are what is to be said of it. */
bool session_is_tried(const struct session_move *move) MUST_CHECK;
/* In a hold it is too early to do anything about it. */
bool session_failure_is_new(const struct session_move *move) MUST_CHECK;

/* Its last question in the hold is answered, or needs no answer any more. */
void session_settle_over(struct session_move *move);

/* Ends a client whose session cannot be kept, and tells it why. */
void session_drop(struct session_move *move, const char *why);

/* Gives the fresh server away; it is closed. */
void session_drop_fresh(struct session_move *move);

/* ---- session_ask.c: question and answer ---- */

/* Sends the question; false: its turn has not come, or the server was doomed. */
bool session_ask(struct session_move *move, struct server *server,
                 enum session_question question) MUST_CHECK;

/* Whether an answer is awaited from this server. */
bool session_awaits(const struct server *server);

/* A message of that answer; whole, or, with a body of NULL, COPY data that is longer than what
 * session_takes_whole() says. */
void session_take(struct server *server, uint8_t type, const uint8_t *body, size_t len);

/* Whether a message of so many bytes is to be there as a whole first. */
bool session_takes_whole(const struct server *server, uint8_t type, size_t total);

/* The answers are complete, or never will be: the next in the queue may ask. */
void session_ask_over(struct session_move *move);

/* So many more questions may be asked now, if this session is one of those that ask. */
size_t session_ask_room(const struct session_move *move);
/* Whether some wait for that. */
bool session_some_queued(const struct database *database);

/* ---- session_gate.c: all sessions of a database in this worker ---- */

void session_prepare(struct database *database);
void session_hold(struct database *database);
/* SHOW SESSIONS: those at their safe point are asked first.  True: the letter is kept until then.
 */
bool session_look(struct worker *worker, struct mail_view *mail) MUST_CHECK;
/* So many have something to be asked when all clients of the database are at their safe points … */
unsigned session_unsettled(const struct database *database);
/* … and now they are. */
void session_settle(struct database *database);
/* Seals their old servers (seal.h). */
void session_seal(struct database *database);
/* The hold will end without a swap: those that have lost their servers get their locks and channels
 * again.  `lapsed`: with its lease. */
void session_come_back(struct worker *worker, const char *name, uint64_t epoch, bool lapsed);
/* Before the pools of a database that was held are opened, and after it. */
void session_release(struct database *database);
void session_new_routes(struct database *database);
void session_reconnect(struct database *database);

/* The same for those whose server is to be closed when it is free. */
void session_leave_outdated(struct database *database);
void session_tick(struct database *database);

/* Has session_step() done outside of whatever is being done now, when there is room to ask. */
void session_enqueue(struct session_move *move, struct database *database);
void session_dequeue(struct session_move *move);
/* … when somebody else wakes them. */
void session_line_up(struct session_move *move, struct database *database);
/* … in a moment, when what has come meanwhile may have been read. */
void session_enqueue_soon(struct session_move *move, struct database *database);
void session_wake(struct database *database);
void session_gate_free(struct database *database);

/* A swap is prepared: sessions that may leave their servers do so from now on, a few at a time.
 * True as long as there are some that have not; gate_prepare_report() is called when it is over. */
bool session_leave_begin(struct database *database);

/* No longer counted among those that PREPARE SWAP waits for. */
void session_settled(struct session_move *move);

/* Whether something is to happen at the safe points of the database's sessions. */
void session_watch(struct database *database);

#endif
