/* SPDX-License-Identifier: PostgreSQL */
/*
 * One client of the console: its socket, messages and simple queries (session.c), the extended
 * protocol (extended.c), what it asks for (execute.c), the form of results (result.c).  Main thread
 * only.
 *
 *   bytes -> in -> message -> command -> request to core/admin.h ... answer -> out -> bytes
 *
 * One command runs at a time; while its answer is awaited, further messages stay in `in`, and a
 * CancelRequest ends the wait.  A client that goes away leaves its command running: a HOLD ends with
 * its lease.
 */
#ifndef CONTROL_SESSION_H
#define CONTROL_SESSION_H

#include "base/list.h"
#include "base/sbuf.h"
#include "control/command.h"
#include "core/admin.h"
#include "core/mail.h"
#include "core/view.h"
#include "net/sock.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SESSION_NAME_MAX 63
#define SESSION_STATEMENTS_MAX 100
#define SESSION_MESSAGE_MAX ((size_t)256 * 1024)
#define SESSION_OUT_MAX ((size_t)160 << 20)

/* A command as Parse or Query gave it. */
struct prepared {
	struct command command;
	bool empty; /* no command in it */
};

struct statement {
	struct list_node node;
	char name[SESSION_NAME_MAX + 1];
	struct prepared prepared;
};

struct portal {
	struct list_node node;
	char name[SESSION_NAME_MAX + 1];
	struct prepared prepared;
	uint64_t binary; /* bit i: column i in binary format */
	bool ran;        /* rows hold its result */
	bool has_rows;
	struct rowset rows;
	size_t offset; /* of the row that comes next */
	bool more;     /* some are left for another Execute */
};

/* What all sessions have done since the start. */
struct session_counts {
	uint64_t logins;
	uint64_t queries;
	uint64_t xacts;
	uint64_t received; /* bytes, as they are on the network */
	uint64_t sent;
};

struct session {
	struct list_node node;
	struct list *list; /* it is in; NULL: none */
	struct proxy *proxy;
	int fd;
	struct tls *tls; /* NULL: not encrypted */
	struct sbuf records; /* of `out`, encrypted: what is to be sent */
	size_t records_sent;
	char *user;
	bool owner; /* runs this process: may do everything */
	char *database; /* the name it came by */
	char *application_name;
	uint64_t id;
	usec_t connected; /* by clock_wall(), as `asked` */
	usec_t asked;     /* its last message */
	struct user_share *user_share; /* it is counted in both */
	struct database_share *database_share;
	struct session_counts *counts;
	struct sock_name peer;
	struct event *read_event;
	struct event *write_event;
	struct sbuf in;
	size_t in_used;
	struct sbuf out;
	size_t out_sent;
	bool closing; /* to be closed when `out` has been sent */
	bool dead;    /* to be closed now */
	bool skip_to_sync;
	/* simple protocol */
	char *query; /* NULL: none under way */
	size_t query_offset;
	bool query_ran; /* it held at least one command */
	/* extended protocol */
	struct list statements; /* struct statement.node */
	struct list portals;    /* struct portal.node */
	struct portal *running; /* NULL: simple */
	bool in_block;          /* after BEGIN: portals outlive a Sync */
	uint32_t max_rows;
	uint32_t cancel_pid; /* its slot of core/share.h is one less */
	struct cancel_key cancel_key;
	/* the command that runs */
	struct admin_request *request; /* NULL: none */
	struct command command;
	/* PAUSE … ATTACHED and SUSPEND: ended when the console leaves */
	bool attached;
	char attached_to[LEX_TEXT_MAX + 1]; /* the database; "": all */
};

/* ---- session.c ---- */

/* Takes over the socket and what else the letter holds; NULL (socket closed) on lack of memory.
 * `counts` outlives it. */
struct session *session_new(struct proxy *proxy, struct mail_console *mail,
                            struct session_counts *counts) MUST_CHECK;
void session_free(struct session *session);

/* Goes on as far as it can: commands, messages, output.  May free the session. */
void session_pump(struct session *session);

/* The connection cannot go on: says why, and closes. */
void session_fatal(struct session *session, const char *sqlstate, const char *message);

/* A command that could not be parsed. */
void session_parse_failed(struct session *session, const char *text,
                          const struct command_error *from);

/* An ErrorResponse; ends the query, or all up to Sync. */
void session_error(struct session *session, const struct admin_error *error, uint32_t position);

/* The answer to session->request has come. */
void session_answered(struct session *session, struct admin_answer *answer);

/* What is paused by the command that follows ends with this session. */
void session_attach(struct session *session, const char *database);

/* The command is done: rows (taken over, or NULL) and a notice (or NULL). */
void session_finish(struct session *session, struct rowset *rows, const char *notice);

/* CommandComplete of a command. */
void session_add_complete(struct session *session, const struct command *command);

/* ---- console_view.c ---- */

/* The session's row of the view, if it has one there; that of SHOW STATS for all sessions. */
void session_rows(const struct session *session, struct rowset *rows);
void session_stats_row(const struct session_counts *counts, struct rowset *rows);

/* ---- extended.c ---- */

/* Parse, Bind, Describe, Execute or Close. */
void session_extended_message(struct session *session, uint8_t type, const uint8_t *body,
                              size_t len);

/* The command of session->running is done: its rows (taken over, or NULL) are sent. */
void session_portal_ran(struct session *session, struct rowset *rows);

/* Those with rows left stay when `unread` is set. */
void session_drop_portals(struct session *session, bool unread);

/* Forgets a prepared statement, or all ("").  One that does not exist is no error: drivers tidy up
 * after themselves. */
void session_deallocate(struct session *session, const char *name);

/* ---- execute.c ---- */

/* Runs session->command: ends in session_finish() or session_error(), at once or later. */
void session_execute(struct session *session);

/* ---- result.c ---- */

/* The columns of a command's result; 0: none.  `one` has room for a column that is not of a view.
 */
size_t result_columns(const struct command *command, struct view_column *one,
                      const struct view_column **columns);
void result_add_description(struct sbuf *out, const struct command *command, uint64_t binary);
/* At most `max` rows (0: all) from *offset on; how many; *more: there are others. */
size_t result_add_rows(struct sbuf *out, const struct command *command, const struct rowset *rows,
                       uint64_t binary, size_t *offset, size_t max, bool *more);

#endif
