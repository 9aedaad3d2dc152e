/* SPDX-License-Identifier: PostgreSQL */
/*
 * The yardstick: a forwarder of TCP connections that parses nothing.  One thread, one epoll set, a
 * connection to the server for every client; what it costs is what any proxy must cost.
 *
 *   pgshunt_forwarder LISTEN_PORT SERVER_PORT        both on 127.0.0.1
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct side {
	int fd;
	struct side *other;
	size_t unsent; /* from the other side, in `rest` */
	char *rest;
};

static char buffer[64 * 1024];
static int epoll;

static int failed(const char *what)
{
	fprintf(stderr, "pgshunt_forwarder: %s: %s\n", what, strerror(errno));
	return 1;
}

static void watch(struct side *side, int how, unsigned events)
{
	struct epoll_event event = {.events = events, .data.ptr = side};

	(void)epoll_ctl(epoll, how, side->fd, &event);
}

/* Both sides stay allocated until the batch of events is done: the other one may be in it too. */
static void close_both(struct side *side)
{
	if (side->fd < 0)
		return;
	close(side->fd);
	close(side->other->fd);
	side->fd = side->other->fd = -1;
}

static struct side *side_create(int fd)
{
	struct side *side = calloc(1, sizeof(*side));
	int on = 1;

	if (side == NULL)
		exit(failed("memory"));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	side->fd = fd;
	return side;
}

static void accept_client(int listener, const struct sockaddr_in *server)
{
	int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct side *left;
	struct side *right;

	/* The server is on this machine: connecting does not block for long. */
	if (client < 0 || fd < 0 || connect(fd, (const void *)server, sizeof(*server)) < 0) {
		close(client);
		close(fd);
		return;
	}
	left = side_create(client);
	right = side_create(fd);
	left->other = right;
	right->other = left;
	watch(left, EPOLL_CTL_ADD, EPOLLIN);
	watch(right, EPOLL_CTL_ADD, EPOLLIN);
}

/* What does not fit into the socket is kept, and nothing more is read until it is gone. */
static void send_on(struct side *to, const char *bytes, size_t len)
{
	ssize_t sent = send(to->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0 && errno != EAGAIN) {
		close_both(to);
		return;
	}
	sent = sent < 0 ? 0 : sent;
	if ((size_t)sent == len) {
		to->unsent = 0;
		return;
	}
	if (to->rest == NULL && (to->rest = malloc(sizeof(buffer))) == NULL)
		exit(failed("memory"));
	memmove(to->rest, bytes + sent, len - (size_t)sent);
	to->unsent = len - (size_t)sent;
}

static void side_event(struct side *side, unsigned events)
{
	ssize_t got;

	if (side->fd < 0)
		return;
	if (events & EPOLLOUT) {
		send_on(side, side->rest, side->unsent);
		if (side->fd >= 0 && side->unsent == 0) {
			watch(side, EPOLL_CTL_MOD, EPOLLIN);
			watch(side->other, EPOLL_CTL_MOD, EPOLLIN);
		}
		return;
	}
	got = recv(side->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	if (got <= 0) {
		if (got == 0 || errno != EAGAIN)
			close_both(side);
		return;
	}
	send_on(side->other, buffer, (size_t)got);
	if (side->fd >= 0 && side->other->unsent > 0) {
		watch(side, EPOLL_CTL_MOD, 0);
		watch(side->other, EPOLL_CTL_MOD, EPOLLOUT);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	struct sockaddr_in server = local;
	struct epoll_event events[256];
	struct rlimit files;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	if (argc != 3)
		return failed("usage: LISTEN_PORT SERVER_PORT");
	local.sin_port = htons((uint16_t)atoi(argv[1]));
	server.sin_port = htons((uint16_t)atoi(argv[2]));
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	(void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (bind(listener, (void *)&local, sizeof(local)) < 0 || listen(listener, 1024) < 0)
		return failed("listen");
	watch(&(struct side){.fd = listener}, EPOLL_CTL_ADD, EPOLLIN);
	for (;;) {
		int count = epoll_wait(epoll, events, 256, -1);
		struct side *gone[512];
		int gone_count = 0;

		for (int i = 0; i < count; i++) {
			struct side *side = events[i].data.ptr;

			if (side->other == NULL) {
				accept_client(listener, &server);
				continue;
			}
			if (side->fd < 0)
				continue;
			side_event(side, events[i].events);
			if (side->fd < 0) {
				gone[gone_count++] = side;
				gone[gone_count++] = side->other;
			}
		}
		while (gone_count > 0) {
			free(gone[--gone_count]->rest);
			free(gone[gone_count]);
		}
	}
}
