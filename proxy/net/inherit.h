/* SPDX-License-Identifier: PostgreSQL */
/*
 * Listening sockets that this process was given instead of opening them: by systemd (socket
 * activation, sd_listen_fds(3)) or by another process of its kind.  Main thread, at the start.
 *
 * Each has a name.  Whoever wants some takes them by it and owns them from then on; what nobody
 * takes is closed.
 */
#ifndef NET_INHERIT_H
#define NET_INHERIT_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

#define INHERIT_MAX 64
#define INHERIT_NAME_MAX 64

/* All zero: none. */
struct inheritance {
	int count;
	struct {
		int fd;
		char name[INHERIT_NAME_MAX];
	} items[INHERIT_MAX];
};

/* Those that the environment announces to this process (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES,
 * which are removed from it).  False with a text in `error` when one is not what is wanted. */
bool inherit_from_environment(struct inheritance *given, struct sbuf *error) MUST_CHECK;

/* One more.  It has to be a listening stream socket of TCP or Unix; becomes non-blocking and
 * close-on-exec.  False with a text in `error`: it still belongs to the caller. */
bool inherit_add(struct inheritance *given, int fd, const char *name,
                 struct sbuf *error) MUST_CHECK;

/* Takes those called `name` (NULL: all that are left), at most `max`; how many. */
int inherit_take(struct inheritance *given, const char *name, int *fds, int max) MUST_CHECK;

/* Closes the rest. */
void inherit_close(struct inheritance *given);

#endif
