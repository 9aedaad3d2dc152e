/* SPDX-License-Identifier: PostgreSQL */
/*
 * A server that has its answers ready, for what a proxy can do when the server is not the limit.  It
 * lets everybody in and answers every simple query with one row that says "1".
 *
 *   pgshunt_answers PORT        on 127.0.0.1
 */
#include "base/mem.h"
#include "base/sbuf.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/startup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256

struct asking {
	int fd;
	bool logged_in;
	size_t have;
	uint8_t data[8192];
};

static struct sbuf no_tls;
static struct sbuf greeting;
static struct sbuf answer;
static int epoll;

static int failed(const char *what)
{
	fprintf(stderr, "pgshunt_answers: %s: %s\n", what, strerror(errno));
	return 1;
}

static void prepare(void)
{
	static const struct wire_column column = {"?column?", 23, 4};
	static const char *const cell = "1";
	static const char *const parameters[][2] = {
	    {"server_version", "15.0"},           {"server_encoding", "UTF8"},
	    {"client_encoding", "UTF8"},          {"DateStyle", "ISO, MDY"},
	    {"TimeZone", "UTC"},                  {"integer_datetimes", "on"},
	    {"standard_conforming_strings", "on"}};

	sbuf_init_must(&greeting, 4096);
	sbuf_init_must(&answer, 4096);
	sbuf_init_must(&no_tls, 1);
	sbuf_add_char(&no_tls, 'N');
	wire_add_auth_ok(&greeting);
	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++)
		wire_add_parameter_status(&greeting, parameters[i][0], parameters[i][1]);
	wire_add_backend_key(&greeting, 1, "key!", 4);
	wire_add_ready(&greeting, WIRE_TX_IDLE);
	wire_add_row_description(&answer, &column, 1);
	wire_add_data_row(&answer, &cell, 1);
	wire_add_command_complete(&answer, "SELECT 1");
	wire_add_ready(&answer, WIRE_TX_IDLE);
}

static void accept_one(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct asking *asking = mem_must_alloc(sizeof(*asking));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = asking};
	int on = 1;

	asking->fd = fd;
	asking->logged_in = false;
	asking->have = 0;
	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		exit(failed("accept"));
}

/* The size of the message that the bytes begin with; 0 if it is not all there. */
static size_t message_size(const struct asking *asking, const uint8_t *at, size_t left)
{
	size_t head = asking->logged_in ? 1 : 0;
	size_t size;

	if (left < head + 4)
		return 0;
	size = head + wire_get_be32(at + head);
	return size <= left ? size : 0;
}

/* False when it wants to leave. */
static bool answer_all(struct asking *asking)
{
	const uint8_t *at = asking->data;
	size_t left = asking->have;
	size_t size;

	while ((size = message_size(asking, at, left)) > 0) {
		const struct sbuf *out = asking->logged_in ? &answer : &greeting;

		if (asking->logged_in && *at != 'Q')
			return false;
		if (!asking->logged_in && size == 8)
			out = &no_tls; /* SSLRequest or GSSENCRequest */
		else
			asking->logged_in = true;
		at += size;
		left -= size;
		if (send(asking->fd, out->data, out->len, MSG_NOSIGNAL) != (ssize_t)out->len)
			return false;
	}
	memmove(asking->data, at, left);
	asking->have = left;
	return left < sizeof(asking->data);
}

static void hear(struct asking *asking)
{
	ssize_t got = recv(asking->fd, asking->data + asking->have,
	                   sizeof(asking->data) - asking->have, MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got > 0) {
		asking->have += (size_t)got;
		if (answer_all(asking))
			return;
	}
	close(asking->fd);
	free(asking);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct epoll_event events[EVENTS];
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	if (argc != 2) {
		fputs("usage: pgshunt_answers PORT\n", stderr);
		return 2;
	}
	address.sin_port = htons((uint16_t)atoi(argv[1]));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	events[0] = (struct epoll_event){.events = EPOLLIN, .data.ptr = NULL};
	prepare();
	if (listener < 0 || epoll < 0 ||
	    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1024) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events) < 0)
		return failed(argv[1]);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr == NULL)
				accept_one(listener);
			else
				hear(events[i].data.ptr);
		}
	}
}
