/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a client asks for in its startup packet is tried on a server before the client is welcomed: so
 * a wrong name or value is the error of its login, in the server's words, and it is told values as
 * the server shows them.  What a server has taken once is remembered for the pool, and costs later
 * logins nothing.
 *
 *   session pooling      a server connection is opened with it (boot.h)
 *   transaction pooling  it is set on an idle server (SERVER_TASK_TRY)
 *
 * What it does not ask for, it is told as servers have it by themselves.  In session pooling the
 * first of them may have been opened with what another client asked for: of that, one that is
 * opened for this client tells.
 *
 * A client that finds no server for this within a second, or under a hold, is let in untried: then
 * its first request shows what is wrong.  application_name is never wrong, and needs no trial.
 * Worker thread.
 */
#ifndef CORE_TRIAL_H
#define CORE_TRIAL_H

#include "base/compiler.h"

#include <stdbool.h>

struct client;
struct client_login;
struct param_set;
struct pool;
struct server;
struct wire_error;

/* login->trial and, in session pooling, client->boot; its pool is known.  False: no memory. */
bool trial_of_client(struct client *client) MUST_CHECK;

/* What servers have by themselves is known of all that the client does not ask for. */
bool trial_knows_defaults(const struct client *client);

/* Whether nothing is, or can be, tried for it any more, and its pool has a welcome. */
bool trial_is_over(struct client *client);

/* The first client of the pool for which a server is to be opened or asked; NULL: there is none. */
struct client *trial_first(struct pool *pool);

/* Begins a trial on an idle server, if one is to be had.  True: another server is needed for it. */
bool trial_wants_server(struct pool *pool);

/* A server of parameters `params` has taken what was asked: whoever waits for that is let in. */
void trial_passed(struct pool *pool, struct param_set *asked, const struct param_set *params);

/* It has refused: whoever asks for that has failed to log in. */
void trial_refused(struct pool *pool, const struct param_set *asked,
                   const struct wire_error *error);

/* SERVER_TASK_TRY is done. */
void trial_answered(struct server *server);

/* What the client wants, as the server shows it if that is known; a reference, NULL: nothing, or no
 * memory. */
struct param_set *trial_told(struct pool *pool, const struct client_login *login, bool *known);

/* Forgets all that is known. */
void trial_forget(struct pool *pool);

#endif
