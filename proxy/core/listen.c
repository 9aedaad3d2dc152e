/* SPDX-License-Identifier: PostgreSQL */
#include "core/listen.h"

#include "base/log.h"
#include "conf/config.h"

#include <stdio.h>
#include <unistd.h>

void listeners_close(struct listeners *listeners)
{
	while (listeners->count > 0)
		(void)close(listeners->fds[--listeners->count]);
	listeners->unix_path[0] = '\0';
}

static bool listeners_take_inherited(struct listeners *listeners, struct inheritance *inherited)
{
	for (int i = 0; i < inherited->count; i++)
		(void)snprintf(listeners->name[i], INHERIT_NAME_MAX, "%s",
		               inherited->items[i].name);
	listeners->count = inherit_take(inherited, NULL, listeners->fds, SOCK_GIVEN_MAX);
	listeners->inherited = listeners->count > 0;
	if (listeners->inherited)
		log_info("%d listening sockets were passed on: listen_addresses, port and "
		         "unix_socket_directory are not used",
		         listeners->count);
	return listeners->inherited;
}

bool listeners_open(struct listeners *listeners, const struct config_proxy *conf,
                    struct inheritance *inherited, struct sock_given *given, struct sbuf *error)
{
	bool good = true;

	*listeners = (struct listeners){0};
	if (listeners_take_inherited(listeners, inherited))
		return true;
	for (size_t i = 0; good && i < conf->listen_addresses.count; i++) {
		int n = sock_listen_tcp(
		    conf->listen_addresses.items[i], conf->port, conf->listen_backlog, given,
		    listeners->fds + listeners->count, SOCK_GIVEN_MAX - listeners->count, error);

		good = n >= 0;
		listeners->count += good ? n : 0;
	}
	if (good && conf->unix_socket_directory[0] != '\0' && listeners->count < SOCK_GIVEN_MAX) {
		int fd = sock_listen_unix(conf->unix_socket_directory, conf->port,
		                          conf->listen_backlog, (unsigned)conf->unix_socket_mode,
		                          given, listeners->unix_path, error);

		good = fd >= 0;
		if (good)
			listeners->fds[listeners->count++] = fd;
	}
	if (!good)
		listeners_close(listeners);
	return good;
}
