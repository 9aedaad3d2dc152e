/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a client needs only until it is logged in.  For client_login.c and login_auth.c, and for
 * those who find it while it logs in.
 */
#ifndef CORE_CLIENT_LOGIN_H
#define CORE_CLIENT_LOGIN_H

#include "auth/client_auth.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "core/client.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address;
struct auth_user;
struct compute_job;
struct mail_console;
struct server;

struct client_login {
	char *user;
	char *database;
	char *application_name;
	char *name_sent;          /* the same as it came, if it is shown otherwise, or NULL */
	struct param_set *wanted; /* its startup parameters */
	struct param_set *trial;  /* … of which a server has to be asked (trial.h); NULL: none */
	usec_t trial_since;       /* 0: not yet */
	usec_t promise_since;     /* waits for a server that could be promised (promise.h); 0: not yet */
	char *at_start;           /* one of them that is only for the start of a session, or NULL */
	struct client_auth *auth;
	struct compute_job *job; /* a costly step is being done elsewhere: bytes wait */
	/* auth_query (core/auth_query.h) */
	struct list *waiting_in; /* waits for an answer: bytes wait; NULL: does not */
	struct list_node waiting;
	struct client *client;   /* for that list */
	bool asked;              /* the answer is: */
	struct auth_user *found; /* a reference; NULL: no such user, or nobody to ask */
	bool absent;             /* the former */
	bool cached;             /* it was not asked for this login */
	bool owner;              /* of this process: may do everything in the console */
	bool promise_asked;      /* other workers were asked for one */
	uint8_t answered;        /* SSLRequest and GSSENCRequest */
	struct address *address; /* whose logins it is counted in; NULL: none */
	struct mail_console *console; /* on its way to the console, and its slot with it */
	struct server *replication;   /* being opened for it (replication.h) */
};

/* ---- client_login.c ---- */

/* Sends at once; false: the client is doomed. */
bool login_send_buf(struct client *client, const struct sbuf *out) MUST_CHECK;

/* The client is who it says it is; AuthenticationOk is in worker->to_client, unsent. */
void login_after_auth(struct client *client);

/* Nothing is to be waited for any more. */
bool login_is_ready(struct client *client) MUST_CHECK;

/* client->params and what else ends a login, with the process id of the server (NULL: the proxy's
 * own); the client is IDLE then.  False: it is doomed. */
bool login_welcome(struct client *client, const struct server *server) MUST_CHECK;

/* Goes on with the bytes that came while a step was done elsewhere. */
void login_go_on(struct client *client);

/* ---- login_auth.c ---- */

/* Chooses the method and begins. */
void login_start_auth(struct client *client);

/* The answer of auth_query; `sqlstate` not "": there is none, for this reason, in `words` for the
 * log. */
void login_answered(struct client *client, struct auth_user *user, const char *sqlstate,
                    const char *message, const char *words);

/* The body of a message of type FE_PASSWORD. */
void login_feed_auth(struct client *client, const uint8_t *body, size_t len);

/* Bytes of the client have to wait for a step that is done elsewhere. */
bool login_busy(const struct client *client);

/* The client is going away: leaves what is being done elsewhere to itself. */
void login_end_auth(struct client *client);

#endif
