/* SPDX-License-Identifier: PostgreSQL */
/*
 * The proxy's listening sockets: opened as the configuration says, or passed on by somebody who has
 * opened them.  Main thread; the first worker accepts on them and closes them (core/accept.h).
 */
#ifndef CORE_LISTEN_H
#define CORE_LISTEN_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "net/inherit.h"
#include "net/sock.h"

#include <stdbool.h>

struct config_proxy;

struct listeners {
	int count;
	int fds[SOCK_GIVEN_MAX];
	bool inherited; /* all of them, with these names */
	char name[SOCK_GIVEN_MAX][INHERIT_NAME_MAX];
	char unix_path[108]; /* "": there is none, or it is not ours to remove */
};

/*
 * Those who connect wait in the kernel's queue until somebody accepts.  Sockets that were passed on
 * (`inherited`) stand for those of the configuration, which are not opened then: whoever passed
 * them on has decided where clients connect.  Otherwise what `given` (NULL: nothing) has for a
 * configured address is taken from there.  False with a text in `error`, and nothing is open then.
 */
bool listeners_open(struct listeners *listeners, const struct config_proxy *conf,
                    struct inheritance *inherited, struct sock_given *given,
                    struct sbuf *error) MUST_CHECK;

/* The same for HTTP (control/http.h); those that were passed on have the name LISTEN_WEB_NAME, and
 * are to be taken before the others. */
#define LISTEN_WEB_NAME "metrics"
#define LISTEN_WEB_MAX 8
bool listeners_open_web(struct listeners *listeners, const struct config_proxy *conf,
                        struct inheritance *inherited, struct sock_given *given,
                        struct sbuf *error) MUST_CHECK;

void listeners_close(struct listeners *listeners);

#endif
