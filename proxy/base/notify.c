/* SPDX-License-Identifier: PostgreSQL */
#include "base/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NOTIFY_TEXT_MAX 1024

static int notify_fd = -1;
static struct sockaddr_un notify_address;
static socklen_t notify_address_len;
static usec_t watchdog;

static void notify_read_watchdog(void)
{
	const char *usec = getenv("WATCHDOG_USEC");
	const char *pid = getenv("WATCHDOG_PID");
	long long value = usec == NULL ? 0 : atoll(usec);

	/* Meant for another process, if it says so. */
	if (value > 0 && (pid == NULL || atoll(pid) == (long long)getpid()))
		watchdog = (usec_t)value;
}

void notify_open(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path == NULL ? 0 : strlen(path);

	notify_read_watchdog();
	if (len > 1 && len < sizeof(notify_address.sun_path) && (*path == '/' || *path == '@')) {
		notify_address.sun_family = AF_UNIX;
		memcpy(notify_address.sun_path, path, len);
		/* An abstract name begins with a zero and has no other at its end. */
		if (*path == '@')
			notify_address.sun_path[0] = '\0';
		notify_address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
		notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	}
	(void)unsetenv("NOTIFY_SOCKET");
	(void)unsetenv("WATCHDOG_USEC");
	(void)unsetenv("WATCHDOG_PID");
}

bool notify_wanted(void)
{
	return notify_fd >= 0;
}

usec_t notify_watchdog(void)
{
	return notify_fd >= 0 ? watchdog : 0;
}

void notify_close(void)
{
	if (notify_fd >= 0)
		(void)close(notify_fd);
	notify_fd = -1;
}

void notify_send(const char *fmt, ...)
{
	char text[NOTIFY_TEXT_MAX];
	va_list ap;
	int len;

	if (notify_fd < 0)
		return;
	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len <= 0)
		return;
	if ((size_t)len >= sizeof(text))
		len = (int)sizeof(text) - 1;
	(void)sendto(notify_fd, text, (size_t)len, MSG_NOSIGNAL,
	             (const struct sockaddr *)&notify_address, notify_address_len);
}
