/* SPDX-License-Identifier: PostgreSQL */
#include "net/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* SD_LISTEN_FDS_START */
#define FIRST_FD 3

static bool inherit_check(int fd, const char *name, struct sbuf *error)
{
	const char *wrong = NULL;
	int value = 0;
	socklen_t len = sizeof(value);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &len) != 0)
		wrong = strerror(errno);
	else if (value != SOCK_STREAM)
		wrong = "it is not a stream socket";
	else if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len) != 0 || value == 0)
		wrong = "it does not listen (systemd: Accept=yes cannot be used)";
	else if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &len) != 0 ||
	         (value != AF_INET && value != AF_INET6 && value != AF_UNIX))
		wrong = "it is neither of TCP nor a Unix socket";
	if (wrong != NULL)
		sbuf_printf(
		    error,
		    "the socket \"%s\" (descriptor %d) that was passed on cannot be used: %s", name,
		    fd, wrong);
	return wrong == NULL;
}

bool inherit_add(struct inheritance *given, int fd, const char *name, struct sbuf *error)
{
	int flags;

	if (given->count == INHERIT_MAX) {
		sbuf_printf(error, "more than %d sockets were passed on", INHERIT_MAX);
		return false;
	}
	if (!inherit_check(fd, name, error))
		return false;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
		sbuf_printf(error, "socket \"%s\": %s", name, strerror(errno));
		return false;
	}
	given->items[given->count].fd = fd;
	(void)snprintf(given->items[given->count].name, INHERIT_NAME_MAX, "%s", name);
	given->count++;
	return true;
}

/* The `index`th name of a list with colons. */
static void inherit_name(const char *names, int index, char out[INHERIT_NAME_MAX])
{
	size_t len;

	for (; names != NULL && index > 0; index--) {
		names = strchr(names, ':');
		names = names == NULL ? NULL : names + 1;
	}
	len = names == NULL ? 0 : strcspn(names, ":");
	(void)snprintf(out, INHERIT_NAME_MAX, "%.*s", (int)len, names == NULL ? "" : names);
}

static bool inherit_number(const char *text, long most, long *value)
{
	char *end;

	if (text == NULL || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtol(text, &end, 10);
	return errno == 0 && *end == '\0' && *value <= most;
}

bool inherit_from_environment(struct inheritance *given, struct sbuf *error)
{
	const char *names = getenv("LISTEN_FDNAMES");
	long pid;
	long count;
	bool good = true;

	/* Of another process: they came to us by an environment that nobody cleared. */
	if (!inherit_number(getenv("LISTEN_PID"), INT_MAX, &pid) || pid != getpid())
		return true;
	if (!inherit_number(getenv("LISTEN_FDS"), INHERIT_MAX, &count)) {
		sbuf_printf(error, "LISTEN_FDS is not a number up to %d", INHERIT_MAX);
		return false;
	}
	for (int i = 0; good && i < count; i++) {
		char name[INHERIT_NAME_MAX];

		inherit_name(names, i, name);
		good = inherit_add(given, FIRST_FD + i, name, error);
	}
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
	return good;
}

int inherit_take(struct inheritance *given, const char *name, int *fds, int max)
{
	int taken = 0;
	int left = 0;

	for (int i = 0; i < given->count; i++) {
		if (taken < max && (name == NULL || strcmp(given->items[i].name, name) == 0))
			fds[taken++] = given->items[i].fd;
		else
			given->items[left++] = given->items[i];
	}
	given->count = left;
	return taken;
}

void inherit_close(struct inheritance *given)
{
	while (given->count > 0)
		(void)close(given->items[--given->count].fd);
}
