/* SPDX-License-Identifier: PostgreSQL */
/*
 * Prepared statements that a client has, and its server would not take any more when its session was
 * set up there anew (session_return.c): what they are about has gone.  Its old server process would
 * have said so when they were used next.  So does this one: it is given the text before each use,
 * and its error is the client's.
 *
 * And those that it has taken, but that return other columns than the client was told when it prepared
 * them (session/shapes.h): their use is refused until they are prepared again.  EXECUTE of their names in
 * a text is looked for as well: where it stands among other things the server finds none of that name;
 * inside of functions nobody looks.  Worker thread.
 */
#ifndef CORE_SESSION_LOST_H
#define CORE_SESSION_LOST_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct server;
struct session_lost;
struct session_seen;
struct session_state;

enum lost_result {
	LOST_GO_ON, /* the message is to be sent */
	LOST_DONE,  /* it has been answered, and is not to be sent */
	LOST_MORE,  /* more of it has to be here first */
	LOST_WAIT,  /* … or the answers to what was sent before */
	LOST_FAILED /* client or server is doomed */
};

/* `def` is the body of a Parse behind its name, of which a copy is kept; `typed`: with the types of
 * all parameters; `bare`: it returns no rows.  False: no memory. */
bool session_lost_add(struct client *client, const char *name, const void *def, size_t len,
                      bool typed, bool bare) MUST_CHECK;

/* A Parse has failed, or was skipped. */
void session_lost_parse_failed(struct session_seen *seen);

/* One that its server refuses because it would return other columns than the client was told; `types`
 * are its parameters', as the server lists them; NULL: not known. */
bool session_lost_add_changed(struct client *client, const char *name,
                              const char *types) MUST_CHECK;

/* A message of such a client, of `total` bytes of which `have` are here, on its way to the server,
 * which does not skip it. */
enum lost_result session_lost_message(struct client *client, struct server *server,
                                      const uint8_t *msg, size_t total, size_t have) MUST_CHECK;

/* What the server may have under the names of such statements is no state of the session's. */
void session_lost_hide(const struct session_seen *seen, struct session_state *state);

/* DISCARD ALL, DEALLOCATE ALL, or the end of the client. */
void session_lost_clear(struct session_seen *seen);

#endif
