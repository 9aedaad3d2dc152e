/* SPDX-License-Identifier: PostgreSQL */
/*
 * Restart without dropping, the side of the process that starts (pgshuntd --takeover); the other
 * side is core/handover.h.  Blocking: before the event loop runs.
 *
 *   new                                     running
 *    | -- HELLO: protocols, version ---------> |  (refuses while a database is held or paused)
 *    |                                         |  writes its state, begins nothing more
 *    | <- OFFER: lock, control, sockets ------ |  still accepts
 *    |    starts: state, workers, addresses    |
 *    | -- READY -----------------------------> |  accepts no more; from here on the new one serves
 *    | <- DONE ------------------------------- |
 *    |    accepts                              |  lets its clients finish, ends
 *    | -- CANCEL: of a client that is there -> |
 *    | <- CLIENTS: so many are left ---------- |
 *
 * Up to READY the running process goes on as if nothing had been, whatever happens to the new one.
 * The lock of the state directory goes over as a descriptor, so there is no moment without it.
 */
#ifndef CORE_TAKEOVER_H
#define CORE_TAKEOVER_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "net/sock.h"

#include <stdbool.h>
#include <sys/types.h>

struct config_proxy;
struct inheritance;

/* Versions of the handshake that this program speaks. */
#define TAKEOVER_PROTOCOL_MIN 1
#define TAKEOVER_PROTOCOL_MAX 1

struct takeover {
	int link;       /* to the running process; -1: none */
	int lock_fd;    /* of the state directory; -1: taken over */
	int control_fd; /* the listening control socket; -1: the same */
	struct sock_given sockets;
	pid_t pid;
	char version[32];
};

enum takeover_result { TAKEOVER_NOBODY, TAKEOVER_OFFERED, TAKEOVER_FAILED };

/* The path of the control socket; "": there is none. */
void takeover_path(const struct config_proxy *conf, char path[108]);

/* Asks the process that runs for what it has; sockets that were passed on to it go to `inherited`.
 *  FAILED: a text in `error`; it goes on as before. */
enum takeover_result takeover_ask(const struct config_proxy *conf, struct takeover *takeover,
                                  struct inheritance *inherited, struct sbuf *error) MUST_CHECK;

/* All is ready but accepting: from here on this process serves.  False with a text in `error`: it
 * does not, the other goes on. */
bool takeover_commit(struct takeover *takeover, struct sbuf *error) MUST_CHECK;

/* Closes what nobody has taken. */
void takeover_close(struct takeover *takeover);

#endif
