/* SPDX-License-Identifier: PostgreSQL */
/*
 * Session pooling: a server connection is opened with the startup parameters of the client that it
 * is opened for, so that RESET, SET … TO DEFAULT and DISCARD ALL lead back to them, as without a
 * proxy.  A client gets a server that was opened with the same; where the pool is full of others,
 * the one unused longest makes room.
 *
 * `boot` of a client or server is the interned set of these parameters, NULL for none, and in
 * transaction pooling always NULL: what a client asks for there is set by SQL.  So is everywhere
 * application_name, which often is each client's own and would leave nothing to share; and what a
 * server refused in its startup packet after its client had been welcomed, so that the error is that
 * client's alone.
 *
 * Worker thread.
 */
#ifndef CORE_BOOT_H
#define CORE_BOOT_H

#include "base/sbuf.h"
#include "core/pool.h"

#include <stdbool.h>

struct wire_error;

/* Whether the server was opened with what the client asks for. */
bool boot_suits(const struct server *server, const struct client *client);

/* Whether somebody waits for whom no server is there or being opened. */
bool boot_wants_server(struct pool *pool);

/* What a server is to be opened with that is being dialled. */
struct param_set *boot_for_server(struct pool *pool, bool for_swap);

/* How many sessions have no connection for a swap yet and none of those that were opened is for
 * them; *first: what the first of them wants, if there is one. */
size_t boot_swap_missing(struct pool *pool, struct param_set **first);

/* Whether the client may have the server, if their boots are not the same pointer.  The server is
 * doomed if nobody may. */
bool boot_accepts(struct pool *pool, struct server *server, const struct client *client);

/* They are linked: the next server of nobody in particular is opened for clients such as this. */
void boot_used(struct pool *pool, const struct client *client);

/* The pool is full, and none of its idle servers is for those who wait: one is closed, and its
 * place under the limits is the caller's; one that was promised to a client last, and only if
 * `promised_too`.  False: there is none. */
bool boot_make_room(struct pool *pool, bool promised_too) MUST_CHECK;

/* The parameters of the startup packet; false: they do not fit, and the server has none now. */
bool boot_write(struct server *server, struct sbuf *out) MUST_CHECK;

/* The login failed with that error.  True: because of these parameters.  Those who are logging in with
 * them have been told; for others the server logs in once more, without. */
bool boot_refused(struct server *server, const struct wire_error *error) MUST_CHECK;

/* After the login: the parameters of a server that was opened with none, as far as known; the rest
 * are guesses.  NULL: no memory. */
struct param_set *boot_welcome(struct pool *pool, const struct server *server) MUST_CHECK;

/* server->params as it is after the login or DISCARD ALL. */
void boot_reset_params(struct server *server);

#endif
