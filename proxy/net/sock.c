/* SPDX-License-Identifier: PostgreSQL */
#include "net/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool sock_same_address(const struct sockaddr *a, const struct sockaddr *b)
{
	if (a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET) {
		const struct sockaddr_in *x = (const struct sockaddr_in *)a;
		const struct sockaddr_in *y = (const struct sockaddr_in *)b;

		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	if (a->sa_family == AF_INET6) {
		const struct sockaddr_in6 *x = (const struct sockaddr_in6 *)a;
		const struct sockaddr_in6 *y = (const struct sockaddr_in6 *)b;

		return x->sin6_port == y->sin6_port &&
		       memcmp(&x->sin6_addr, &y->sin6_addr, sizeof(x->sin6_addr)) == 0;
	}
	if (a->sa_family == AF_UNIX) {
		const struct sockaddr_un *x = (const struct sockaddr_un *)a;
		const struct sockaddr_un *y = (const struct sockaddr_un *)b;

		/* A name of the abstract namespace begins with a zero, and all of it counts. */
		return x->sun_path[0] != '\0'
		           ? strcmp(x->sun_path, y->sun_path) == 0
		           : memcmp(x->sun_path, y->sun_path, sizeof(x->sun_path)) == 0;
	}
	return false;
}

int sock_take_given(struct sock_given *given, const struct sockaddr *addr)
{
		for (int i = 0; given != NULL && i < given->count; i++) {
		struct sockaddr_storage name = {0};
		socklen_t size = sizeof(name) - 1; /* a path ends in a zero byte then */
		int fd = given->fds[i];

		if (fd < 0 || getsockname(fd, (struct sockaddr *)&name, &size) != 0 ||
		    !sock_same_address((const struct sockaddr *)&name, addr))
			continue;
		given->fds[i] = -1;
		return fd;
	}
	return -1;
}

void sock_close_given(struct sock_given *given)
{
	for (int i = 0; i < given->count; i++) {
		if (given->fds[i] >= 0)
			(void)close(given->fds[i]);
		given->fds[i] = -1;
	}
	given->count = 0;
}

static int sock_listen_addr(const struct addrinfo *ai, bool share, int backlog,
                            struct sock_given *given)
{
	const int one = 1;
	int fd = sock_take_given(given, ai->ai_addr);

	if (fd >= 0) {
		(void)listen(fd, backlog); /* it does so already: with this backlog from now on */
		return fd;
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (share)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, backlog) != 0) {
		int saved = errno;

		(void)close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

int sock_listen_tcp(const char *host, int port, bool share, int backlog, struct sock_given *given,
                    int *fds, int max, struct sbuf *error)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	const bool all = strcmp(host, "*") == 0;
	char service[16];
	int count = 0;
	int rc;

	(void)snprintf(service, sizeof(service), "%d", port);
	rc = getaddrinfo(all ? NULL : host, service, &hints, &list);
	if (rc != 0) {
		sbuf_printf(error, "cannot resolve listen address \"%s\": %s", host,
		            gai_strerror(rc));
		return SOCK_UNKNOWN_HOST;
	}
	for (const struct addrinfo *ai = list; ai != NULL && count < max; ai = ai->ai_next) {
		int fd = sock_listen_addr(ai, share, backlog, given);

		if (fd >= 0) {
			fds[count++] = fd;
			continue;
		}
		/* A machine without IPv6 is no reason to refuse "*", or "localhost". */
		if ((errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL) &&
		    (all || count > 0 || ai->ai_next != NULL))
			continue;
		sbuf_printf(error, "cannot listen on %s port %d: %s", host, port, strerror(errno));
		while (count > 0)
			(void)close(fds[--count]);
		freeaddrinfo(list);
		return -1;
	}
	freeaddrinfo(list);
	return count;
}

bool sock_unix_address(const char *path, struct sockaddr_un *sun, unsigned *len)
{
	const size_t length = strlen(path);

	*sun = (struct sockaddr_un){.sun_family = AF_UNIX};
	*len = sizeof(*sun);
	if (length >= sizeof(sun->sun_path))
		return false;
	memcpy(sun->sun_path, path, length);
	if (path[0] == '@') { /* its name is a zero and so many bytes, not ended by another zero */
		sun->sun_path[0] = '\0';
		*len = (unsigned)(offsetof(struct sockaddr_un, sun_path) + length);
	}
	return true;
}

/* Whether somebody accepts connections at `sun`. */
static bool sock_unix_alive(const struct sockaddr_un *sun)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool alive;

	if (fd < 0)
		return true;
	alive = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 ||
	        (errno != ECONNREFUSED && errno != ENOENT);
	(void)close(fd);
	return alive;
}

int sock_listen_unix(const char *directory, int port, int backlog, unsigned mode,
                     struct sock_given *given, char path[108], struct sbuf *error)
{
	int n = snprintf(path, sizeof(((struct sockaddr_un *)NULL)->sun_path), "%s/.s.PGSQL.%d",
	                 directory, port);
	int fd = -1;

	if (n < 0 || (size_t)n >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		sbuf_printf(error, "Unix socket path in \"%s\" is longer than %zu bytes", directory,
		            sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
	else
		fd = sock_listen_path(path, backlog, mode, given, error);
	if (fd < 0 || directory[0] == '@')
		path[0] = '\0';
	return fd;
}

/* False: another process listens there. */
static bool sock_clear_path(const struct sockaddr_un *sun)
{
	if (sun->sun_path[0] == '\0' || access(sun->sun_path, F_OK) != 0)
		return true;
	if (sock_unix_alive(sun))
		return false;
	(void)unlink(sun->sun_path);
	return true;
}

int sock_listen_path(const char *path, int backlog, unsigned mode, struct sock_given *given,
                     struct sbuf *error)
{
	struct sockaddr_un sun;
	unsigned len;
	int fd;

	if (!sock_unix_address(path, &sun, &len)) {
		sbuf_printf(error, "Unix socket path \"%s\" is longer than %zu bytes", path,
		            sizeof(sun.sun_path) - 1);
		return -1;
	}
	fd = sock_take_given(given, (const struct sockaddr *)&sun);
	if (fd >= 0) {
		(void)listen(fd, backlog);
		(void)chmod(sun.sun_path, mode);
		return fd;
	}
	if (!sock_clear_path(&sun)) {
		sbuf_printf(error, "another process listens on \"%s\"", path);
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sun, len) != 0 ||
	    (sun.sun_path[0] != '\0' && chmod(sun.sun_path, mode) != 0) ||
	    listen(fd, backlog) != 0) {
		sbuf_printf(error, "cannot listen on \"%s\": %s", path, strerror(errno));
		if (fd >= 0)
			(void)close(fd);
		return -1;
	}
	return fd;
}

/* 0: the system's default, which `fresh`, a socket without options, has. */
static void sock_tune_tcp(int fd, int fresh, int option, int value)
{
	socklen_t len = sizeof(value);

	if (value == 0 && (fresh < 0 || getsockopt(fresh, IPPROTO_TCP, option, &value, &len) != 0))
		return;
	(void)setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value));
}

static void sock_tune_from(int fd, int fresh, const struct sock_keepalive *keepalive)
{
	const int one = 1;
	const int on = keepalive->on ? 1 : 0;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	sock_tune_tcp(fd, fresh, TCP_USER_TIMEOUT, keepalive->unacknowledged);
	sock_tune_tcp(fd, fresh, TCP_KEEPIDLE, keepalive->idle);
	sock_tune_tcp(fd, fresh, TCP_KEEPINTVL, keepalive->interval);
	sock_tune_tcp(fd, fresh, TCP_KEEPCNT, keepalive->count);
}

void sock_tune(int fd, const struct sock_keepalive *keepalive)
{
	sock_tune_from(fd, -1, keepalive);
}

void sock_tune_again(int fd, const struct sock_keepalive *keepalive)
{
	int fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sock_tune_from(fd, fresh, keepalive);
	if (fresh >= 0)
		(void)close(fresh);
}

bool sock_defer_accept(int fd, int seconds)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)) == 0;
}

void sock_address_of(const struct sockaddr *addr, struct sock_address *address)
{
	memset(address, 0, sizeof(*address));
	address->family = AF_UNIX;
	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *sin = (const struct sockaddr_in *)(const void *)addr;

		memcpy(address->ip, &sin->sin_addr, sizeof(sin->sin_addr));
		address->port = sin->sin_port;
		address->family = AF_INET;
	} else if (addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *sin6 = (const struct sockaddr_in6 *)(const void *)addr;

		memcpy(address->ip, &sin6->sin6_addr, sizeof(sin6->sin6_addr));
		address->port = sin6->sin6_port;
		address->family = AF_INET6;
	}
}

void sock_address_name(const struct sock_address *address, struct sock_name *name)
{
	memset(name, 0, sizeof(*name));
	if (address->family == AF_UNIX) {
		(void)snprintf(name->addr, sizeof(name->addr), "unix");
		return;
	}
	(void)inet_ntop(address->family, address->ip, name->addr, sizeof(name->addr));
	name->port = ntohs(address->port);
}

bool sock_is_unix(int fd)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

bool sock_peer_uid(int fd, uid_t *uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return false;
	*uid = cred.uid;
	return true;
}

pid_t sock_peer_pid(int fd)
{
	struct ucred cred = {.pid = 0};
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 ? cred.pid : 0;
}

void sock_peer_address(int fd, struct sock_address *address)
{
	struct sockaddr_storage ss = {.ss_family = AF_UNIX};
	socklen_t len = sizeof(ss);

	(void)getpeername(fd, (struct sockaddr *)&ss, &len);
	sock_address_of((const struct sockaddr *)&ss, address);
}

void sock_peer(int fd, struct sock_name *name)
{
	struct sock_address address;

	sock_peer_address(fd, &address);
	sock_address_name(&address, name);
}

void sock_local(int fd, struct sock_name *name)
{
	struct sock_address address;
	struct sockaddr_storage ss = {.ss_family = AF_UNIX};
	socklen_t len = sizeof(ss);

	(void)getsockname(fd, (struct sockaddr *)&ss, &len);
	sock_address_of((const struct sockaddr *)&ss, &address);
	sock_address_name(&address, name);
}
