/* SPDX-License-Identifier: PostgreSQL */
/*
 * Clients that cost as little as clients can, so that they are not what limits a proxy.  They ask
 * SELECT 1 by the simple protocol, one question at a time each.
 *
 *   pgshunt_asker ask PORT DATABASE USER CLIENTS SECONDS      on 127.0.0.1
 *       in connections that stay
 *   pgshunt_asker login PORT DATABASE USER CLIENTS SECONDS
 *       each question in a connection of its own.  The password for SCRAM is in PGPASSWORD; the costly
 *       step from it to keys, which would cost more than all the rest, is done once.
 *
 * Prints how many questions were answered, and how many a second.
 */
#include "auth/scram.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/sbuf.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

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
#define OUT_MAX 4096

struct client {
	int fd;
	bool logged_in;
	bool scram_begun;
	struct scram_client scram;
	size_t have;
	uint8_t data[8192];
};

static struct {
	bool login;
	struct sockaddr_in address;
	const char *database;
	const char *user;
	int epoll;
	long answered;
	bool keys_known;
	struct scram_keys keys;
} asker;

static NORETURN void give_up(const char *what, const char *why)
{
	fprintf(stderr, "pgshunt_asker: %s: %s\n", what, why);
	exit(1);
}

static void tell(struct client *client, struct sbuf *out)
{
	if (!sbuf_ok(out) || send(client->fd, out->data, out->len, MSG_NOSIGNAL) != (ssize_t)out->len)
		give_up("send", strerror(errno));
	sbuf_free(out);
}

static void client_connect(struct client *client)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
	struct sbuf out;
	size_t start;
	int on = 1;

	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	client->logged_in = client->scram_begun = false;
	client->have = 0;
	if (client->fd < 0 ||
	    connect(client->fd, (struct sockaddr *)&asker.address, sizeof(asker.address)) < 0 ||
	    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    epoll_ctl(asker.epoll, EPOLL_CTL_ADD, client->fd, &event) < 0)
		give_up("connect", strerror(errno));
	sbuf_init_must(&out, OUT_MAX);
	start = wire_begin_startup(&out, WIRE_PROTOCOL_3_0);
	wire_add_startup_param(&out, "user", asker.user);
	wire_add_startup_param(&out, "database", asker.database);
	wire_end_startup(&out, start);
	tell(client, &out);
}

static void scram_expect(enum scram_status status, const struct client *client)
{
	if (status != SCRAM_OK)
		give_up("SCRAM", client->scram.error);
}

static void scram_answer(struct client *client, const uint8_t *data, size_t len, struct sbuf *text)
{
	struct scram_client *scram = &client->scram;
	const char *password = getenv("PGPASSWORD");

	scram_expect(scram_client_read(scram, data, len), client);
	if (!asker.keys_known &&
	    (password == NULL || !scram_derive(password, scram->salt, scram->salt_len,
	                                       scram->iterations, &asker.keys, NULL)))
		give_up("SCRAM", "no password in PGPASSWORD, or no keys from it");
	asker.keys_known = true;
	scram_expect(scram_client_final(scram, &asker.keys, text), client);
}

static void authenticate(struct client *client, const uint8_t *body, size_t len)
{
	uint32_t code;
	const uint8_t *data;
	size_t data_len;
	struct sbuf text;
	struct sbuf out;

	if (!wire_parse_auth(body, len, &code, &data, &data_len))
		give_up("authentication", "malformed");
	sbuf_init_must(&text, OUT_MAX);
	sbuf_init_must(&out, OUT_MAX);
	switch (code) {
	case WIRE_AUTH_OK:
		break;
	case WIRE_AUTH_SASL:
		scram_client_init(&client->scram);
		client->scram_begun = true;
		scram_expect(scram_client_first(&client->scram, &text), client);
		wire_add_sasl_initial(&out, SCRAM_NAME, text.data, text.len);
		tell(client, &out);
		break;
	case WIRE_AUTH_SASL_CONTINUE:
		scram_answer(client, data, data_len, &text);
		wire_add_sasl_response(&out, text.data, text.len);
		tell(client, &out);
		break;
	case WIRE_AUTH_SASL_FINAL:
		scram_expect(scram_client_finish(&client->scram, data, data_len), client);
		break;
	default:
		give_up("authentication", "neither trust nor SCRAM-SHA-256");
	}
	sbuf_free(&text);
	sbuf_free(&out);
}

/* Asks, or, where that was the answer and it was to be the only one, leaves and comes again. */
static void ready(struct client *client)
{
	struct sbuf out;
	bool leave = asker.login && client->logged_in;

	sbuf_init_must(&out, OUT_MAX);
	asker.answered += client->logged_in;
	client->logged_in = true;
	if (leave)
		wire_add_terminate(&out);
	else
		wire_add_query(&out, "SELECT 1");
	tell(client, &out);
	if (!leave)
		return;
	if (client->scram_begun)
		scram_client_end(&client->scram);
	close(client->fd);
	client_connect(client);
}

static void heed(struct client *client, uint8_t type, const uint8_t *body, size_t len)
{
	struct wire_error error;

	if (type == 'E')
		give_up("error", wire_parse_error(body, len, &error) && error.message != NULL
		                     ? error.message
		                     : "malformed");
	if (type == 'R')
		authenticate(client, body, len);
	else if (type == 'Z')
		ready(client);
}

static void hear(struct client *client)
{
	const uint8_t *at = client->data;
	ssize_t got = recv(client->fd, client->data + client->have,
	                   sizeof(client->data) - client->have, MSG_DONTWAIT);
	size_t left;
	size_t size;

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		give_up("receive", got == 0 ? "the connection was closed" : strerror(errno));
	left = client->have + (size_t)got;
	while (left >= 5 && wire_header_check(WIRE_BACKEND, at, &size) == WIRE_HEADER_OK && size <= left) {
		const uint8_t *message = at;

		at += size;
		left -= size;
		heed(client, message[0], message + 5, size - 5);
	}
	/* ReadyForQuery is the last that comes: with a new connection nothing is left of the old one. */
	memmove(client->data, at, left);
	client->have = left;
}

static void run(int clients, double seconds)
{
	struct client *all = mem_must_alloc((size_t)clients * sizeof(*all));
	struct epoll_event events[EVENTS];
	usec_t began = clock_now();
	usec_t now = began;

	for (int i = 0; i < clients; i++)
		client_connect(&all[i]);
	while ((double)(now - began) < seconds * USEC_PER_SEC) {
		int count = epoll_wait(asker.epoll, events, EVENTS, 100);

		for (int i = 0; i < count; i++)
			hear(events[i].data.ptr);
		now = clock_now();
	}
	printf("%ld %.1f\n", asker.answered, (double)asker.answered * USEC_PER_SEC / (double)(now - began));
	free(all);
}

int main(int argc, char **argv)
{
	if (argc != 7 || (strcmp(argv[1], "ask") != 0 && strcmp(argv[1], "login") != 0)) {
		fputs("usage: pgshunt_asker ask|login PORT DATABASE USER CLIENTS SECONDS\n", stderr);
		return 2;
	}
	asker.login = strcmp(argv[1], "login") == 0;
	asker.address.sin_family = AF_INET;
	asker.address.sin_port = htons((uint16_t)atoi(argv[2]));
	asker.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	asker.database = argv[3];
	asker.user = argv[4];
	asker.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (asker.epoll < 0)
		give_up("epoll_create1", strerror(errno));
	run(atoi(argv[5]), atof(argv[6]));
	return 0;
}
