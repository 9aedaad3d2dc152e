/* SPDX-License-Identifier: PostgreSQL */
#include "core/listen.h"

#include "base/log.h"
#include "conf/config.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
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

static bool listeners_set_group(const char *path, const struct config_proxy *conf,
                                struct sbuf *error)
{
	const char *name = conf->unix_socket_group;
	const struct group *group = name[0] == '\0' ? NULL : getgrnam(name);

	if (name[0] == '\0' || path[0] == '\0') /* nobody asks for it, or there is no file */
		return true;
	if (group != NULL && chown(path, (uid_t)-1, group->gr_gid) == 0)
		return true;
	sbuf_printf(error, "unix_socket_group \"%s\": %s", name,
	            group == NULL ? "there is no such group" : strerror(errno));
	return false;
}

/* One of the addresses.  A pgbouncer.ini may have some that are not of this machine, or not yet. */
static bool listeners_add_tcp(struct listeners *listeners, const struct config_proxy *conf,
                              size_t index, struct sock_given *given, struct sbuf *error)
{
	int n;

	sbuf_reset(error);
	n = sock_listen_tcp(conf->listen_addresses.items[index], conf->port, conf->so_reuseport,
	                    conf->listen_backlog, given, listeners->fds + listeners->count,
	                    SOCK_GIVEN_MAX - listeners->count, error);
	if (n >= 0) {
		listeners->count += n;
		return true;
	}
	if (!conf->as_pgbouncer || n == SOCK_UNKNOWN_HOST)
		return false;
	log_warning("%s", sbuf_text(error));
	return true;
}

bool listeners_open(struct listeners *listeners, const struct config_proxy *conf,
                    struct inheritance *inherited, struct sock_given *given, struct sbuf *error)
{
	bool good = true;

	*listeners = (struct listeners){0};
	if (listeners_take_inherited(listeners, inherited))
		return true;
	for (size_t i = 0; good && i < conf->listen_addresses.count; i++)
		good = listeners_add_tcp(listeners, conf, i, given, error);
	/* As pgbouncer: one address is enough. */
	if (good && listeners->count == 0 && error->len > 0)
		good = false;
	else if (good)
		sbuf_reset(error);
	if (good && conf->unix_socket_directory[0] != '\0' && listeners->count < SOCK_GIVEN_MAX) {
		int fd = sock_listen_unix(conf->unix_socket_directory, conf->port,
		                          conf->listen_backlog, (unsigned)conf->unix_socket_mode,
		                          given, listeners->unix_path, error);

		if (fd >= 0)
			listeners->fds[listeners->count++] = fd;
		good = fd >= 0 && listeners_set_group(listeners->unix_path, conf, error);
	}
	if (!good)
		listeners_close(listeners);
	return good;
}

bool listeners_open_web(struct listeners *listeners, const struct config_proxy *conf,
                        struct inheritance *inherited, struct sock_given *given, struct sbuf *error)
{
	bool good = true;

	*listeners = (struct listeners){0};
	listeners->count = inherit_take(inherited, LISTEN_WEB_NAME, listeners->fds, LISTEN_WEB_MAX);
	listeners->inherited = listeners->count > 0;
	for (int i = 0; i < listeners->count; i++)
		(void)snprintf(listeners->name[i], INHERIT_NAME_MAX, "%s", LISTEN_WEB_NAME);
	if (listeners->inherited)
		return true;
	for (size_t i = 0; good && i < conf->metrics_addresses.count; i++) {
		int n = sock_listen_tcp(
		    conf->metrics_addresses.items[i], conf->metrics_port, false, conf->listen_backlog,
		    given,
		    listeners->fds + listeners->count, LISTEN_WEB_MAX - listeners->count, error);

		good = n >= 0;
		listeners->count += good ? n : 0;
	}
	if (good && conf->metrics_socket[0] != '\0' && listeners->count < LISTEN_WEB_MAX) {
		int fd = sock_listen_path(conf->metrics_socket, conf->listen_backlog,
		                          (unsigned)conf->unix_socket_mode, given, error);

		good = fd >= 0;
		if (good) {
			listeners->fds[listeners->count++] = fd;
			(void)snprintf(listeners->unix_path, sizeof(listeners->unix_path), "%s",
			               conf->metrics_socket);
		}
	}
	if (!good)
		listeners_close(listeners);
	return good;
}
