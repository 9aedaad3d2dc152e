/* SPDX-License-Identifier: PostgreSQL */
#include "core/cancel.h"

#include "base/log.h"
#include "core/client.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/server.h"
#include "core/worker.h"
#include "wire/build.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


struct cancel {
	struct list_node node; /* worker->cancels */
	struct worker *worker;
	struct server *server; /* NULL: has gone meanwhile */
	struct dial *dial;
	struct event *event;
	int fd;
	uint32_t pid;
	size_t key_len;
	uint8_t key[SERVER_KEY_MAX];
};

/* The server may go on: with what its client has sent meanwhile, or with another client. */
static void cancel_over(struct server *server)
{
	bool again = server->cancel_again;

	server->cancelling = false;
	server->cancel_again = false;
	if (server->doomed)
		return;
	if (server->state == SERVER_CANCELLED)
		pool_server_free(server->pool, server);
	else if (again && !ledger_quiet(&server->ledger))
		cancel_server(server);
	else if (server->client != NULL)
		client_go_on(server->client);
}

static void cancel_finish(struct cancel *cancel)
{
	struct server *server = cancel->server;

	list_remove(&cancel->worker->cancels, &cancel->node);
	if (cancel->dial != NULL)
		dial_cancel(cancel->dial);
	if (cancel->event != NULL)
		event_free(cancel->event);
	if (cancel->fd >= 0)
		(void)close(cancel->fd);
	explicit_bzero(cancel->key, sizeof(cancel->key));
	free(cancel);
	if (server != NULL)
		cancel_over(server);
}

static void cancel_answered(evutil_socket_t fd, short what, void *arg)
{
	struct cancel *cancel = arg;
	struct worker *worker = cancel->worker;
	char byte;

	worker->now = clock_now();
	/* Nothing is answered; the end of the connection says that the request was processed. */
	if ((what & EV_TIMEOUT) != 0 || recv(fd, &byte, 1, 0) <= 0)
		cancel_finish(cancel);
	worker_end_turn(worker);
}

static bool cancel_send(struct cancel *cancel)
{
	/* The server closes the connection at once; a network that lost it must not block a pool. */
	const usec_t limit = cancel->worker->routes->config->proxy.cancel_wait_timeout;
	const struct timeval timeout = {(time_t)(limit / USEC_PER_SEC),
					(suseconds_t)(limit % USEC_PER_SEC)};
	struct sbuf out;
	bool good;

	sbuf_init(&out, 512);
	wire_add_cancel_request(&out, cancel->pid, cancel->key, cancel->key_len);
	good = sbuf_ok(&out) &&
	       send(cancel->fd, sbuf_text(&out), out.len, MSG_NOSIGNAL) == (ssize_t)out.len;
	sbuf_free(&out);
	if (!good)
		return false;
	cancel->event = event_new(cancel->worker->base, cancel->fd, EV_READ | EV_PERSIST,
				  cancel_answered, cancel);
	return cancel->event != NULL && event_add(cancel->event, &timeout) == 0;
}

static void cancel_dialled(void *arg, int fd, const char *error)
{
	struct cancel *cancel = arg;
	struct worker *worker = cancel->worker;

	worker->now = clock_now();
	cancel->dial = NULL;
	cancel->fd = fd;
	if (fd < 0)
		log_warning("cancel request could not be sent: %s", error);
	if (fd < 0 || !cancel_send(cancel))
		cancel_finish(cancel);
	worker_end_turn(worker);
}

static bool cancel_is_sent(const struct server *server)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&server->worker->cancels, node, tmp)
	{
		const struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		if (cancel->server == server)
			return cancel->event != NULL;
	}
	return false;
}

void cancel_server(struct server *server)
{
	struct worker *worker = server->worker;
	struct cancel *cancel = calloc(1, sizeof(*cancel));

	if (server->cancelling) {
		/* One that has not been sent yet does for both. */
		server->cancel_again = server->cancel_again || cancel_is_sent(server);
		free(cancel);
		return;
	}
	if (cancel == NULL || server->key_len == 0) {
		free(cancel);
		return;
	}
	cancel->worker = worker;
	cancel->fd = -1;
	cancel->pid = (uint32_t)server->backend_pid;
	cancel->key_len = server->key_len;
	memcpy(cancel->key, server->key, server->key_len);
	cancel->dial = dial_start(worker->base, worker->dns, server->host, server->target->port,
				  worker->routes->config->proxy.cancel_wait_timeout, cancel_dialled,
				  cancel);
	if (cancel->dial == NULL) {
		free(cancel);
		return;
	}
	cancel->server = server;
	server->cancelling = true;
	list_append(&worker->cancels, &cancel->node);
}

void cancel_forget_server(struct worker *worker, struct server *server)
{
	struct list_node *node;
	struct list_node *tmp;

	if (!server->cancelling)
		return;
	LIST_FOREACH(&worker->cancels, node, tmp)
	{
		struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		if (cancel->server == server)
			cancel->server = NULL;
	}
}

static struct client *cancel_find_in(struct list *list, uint32_t slot)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(list, node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (client->slot == slot)
			return client;
	}
	return NULL;
}

struct cancel_search {
	uint32_t slot;
	struct client *found;
};

static void cancel_find_in_pool(struct pool *pool, void *arg)
{
	struct cancel_search *search = arg;

	for (int i = 0; i < CLIENT_STATE_COUNT && search->found == NULL; i++)
		search->found = cancel_find_in(&pool->clients[i], search->slot);
}

/* Looks through all clients: cancel requests are rare. */
static struct client *cancel_find(struct worker *worker, uint32_t slot)
{
	struct cancel_search search = {slot, NULL};

	pool_for_each(worker, cancel_find_in_pool, &search);
	return search.found;
}

static void cancel_do(struct client *client)
{
	if (client->state == CLIENT_WAITING) {
		client_refuse_request(client, "57014", "canceling statement due to user request",
				      NULL);
		return;
	}
	/* At its safe point there is nothing to cancel: it must not hit what comes next. */
	if (client->server != NULL && !server_busy_inside(client->server) &&
	    !ledger_quiet(&client->server->ledger))
		cancel_server(client->server);
}

void cancel_client(struct worker *worker, uint32_t slot, uint32_t key)
{
	struct client *client = cancel_find(worker, slot);

	if (client == NULL)
		cancel_request(worker, slot + 1, key); /* it may have gone to another worker */
	else if (client->cancel_key == key)
		cancel_do(client);
	else
		log_debug("cancel request with a wrong key");
}

void cancel_request(struct worker *worker, uint32_t pid, uint32_t key)
{
	struct client *client;
	unsigned owner;
	struct mail_cancel *mail;

	if (pid == 0 || !share_slot_find(worker->proxy->shares, pid - 1, &owner))
		return;
	if (owner == worker->index) {
		client = cancel_find(worker, pid - 1);
		if (client != NULL && client->cancel_key == key)
			cancel_do(client);
		return;
	}
	mail = mail_new(sizeof(*mail), MAIL_CANCEL);
	if (mail == NULL)
		return;
	mail->slot = pid - 1;
	mail->key = key;
	mailbox_post(owner == SHARE_SLOT_CONSOLE ? &worker->proxy->mailbox
						 : &worker->proxy->workers[owner].mailbox,
		     &mail->letter);
}

void cancel_drop_all(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->cancels, node, tmp)
	{
		struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		cancel->server = NULL;
		cancel_finish(cancel);
	}
}
