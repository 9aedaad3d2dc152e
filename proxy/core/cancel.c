/* SPDX-License-Identifier: PostgreSQL */
#include "core/cancel.h"

#include "auth/crypto.h"
#include "base/log.h"
#include "core/client.h"
#include "core/handover.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/secure.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/starttls.h"
#include "core/told.h"
#include "core/worker.h"
#include "net/sock.h"
#include "wire/build.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* In the process id of a key. */
#define PEER_SHIFT 18
#define SLOT_MASK ((1u << PEER_SHIFT) - 1)

/* How often a request is forwarded at most. */
#define FORWARDS_MAX 3

/* Requests for a peer that wait, for each of its connections. */
#define PEER_WAITING_MAX 16

/*
 * One request on its way:  (waiting, to a peer whose connections are all in use) -> dialling -> (TLS,
 * if the server's own connection has it) -> sent, its answer is the end of the connection.
 */
struct cancel {
	struct list_node node; /* worker->cancels */
	struct worker *worker;
	struct server *server;      /* NULL: has gone meanwhile, or it is for a peer */
	unsigned peer;              /* peer_id; 0: it is for a server */
	int port;
	bool waiting;               /* for a connection to the peer */
	struct route_table *routes; /* keeps the TLS context */
	struct dial *dial;
	struct event *timer;
	struct conn conn;
	struct tls_context *context; /* NULL: not encrypted */
	struct starttls starttls;
	bool direct;
	bool sent;
	uint32_t pid;
	size_t key_len;
	uint8_t key[SERVER_KEY_MAX];
	struct sock_name address; /* that of the server connection; empty: any of the host's */
	char host[];
};

/* A session that was waited for. */
static bool cancel_at_safe_point(struct server *server)
{
	return server->client->in_session && server->pool->database->sessions_watched &&
	       server_quiet(server) && session_at_safe_point(server->client);
}

/* What the client has sent meanwhile goes on, unless the server is asked something first; `next`:
 * it is to be cancelled. */
static void cancel_let_go_on(struct server *server, bool next)
{
	struct client *client = server->client;

	if (next)
		client->cancelled = true; /* cancel_in_turn() */
	if (!cancel_at_safe_point(server))
		client_go_on(client);
}

/* The server may go on: with what its client has sent meanwhile, or with another client. */
static void cancel_over(struct server *server)
{
	bool again = server->cancel_again;
	bool next = server->cancel_next;

	server->cancelling = false;
	server->cancel_again = false;
	server->cancel_next = false;
	if (server->doomed)
		return;
	if (server->state == SERVER_CANCELLED)
		pool_server_free(server->pool, server);
	else if (again && !ledger_quiet(&server->ledger))
		cancel_server(server);
	else if (server->client != NULL)
		cancel_let_go_on(server, next);
}

static void cancel_free(struct cancel *cancel)
{
	if (cancel->dial != NULL)
		dial_cancel(cancel->dial);
	if (cancel->timer != NULL)
		event_free(cancel->timer);
	conn_close(&cancel->conn, cancel->worker);
	route_table_unref(cancel->routes);
	explicit_bzero(cancel->key, sizeof(cancel->key));
	free(cancel);
}

static void cancel_serve_peer(struct worker *worker, unsigned peer_id);

static void cancel_finish(struct cancel *cancel)
{
	struct worker *worker = cancel->worker;
	struct server *server = cancel->server;
	const unsigned peer = cancel->waiting ? 0 : cancel->peer;

	list_remove(&worker->cancels, &cancel->node);
	cancel_free(cancel);
	if (server != NULL)
		cancel_over(server);
	if (peer != 0)
		cancel_serve_peer(worker, peer);
}

static bool cancel_send(struct cancel *cancel)
{
	struct worker *worker = cancel->worker;
	enum conn_io io = CONN_IO_ERROR;
	struct sbuf out;

	cancel->sent = true;
	sbuf_init(&out, 512);
	wire_add_cancel_request(&out, cancel->pid, cancel->key, cancel->key_len);
	if (sbuf_ok(&out))
		io = conn_send_copy(&worker->to_server, &cancel->conn, worker, out.data, out.len);
	if (io == CONN_IO_OK)
		io = conn_flush(&worker->to_server, worker);
	if (io == CONN_IO_OK)
		worker->stats.cancels_sent++;
	else
		worker->stats.cancels_failed++;
	if (out.data != NULL)
		explicit_bzero(out.data, out.len);
	sbuf_free(&out);
	return io == CONN_IO_OK;
}

/* False: nothing more is to come of it. */
static bool cancel_encrypted(struct cancel *cancel, enum starttls_result result, const char *why)
{
	switch (result) {
	case STARTTLS_MORE:
		return true;
	case STARTTLS_OPEN:
		return cancel_send(cancel);
	case STARTTLS_REFUSED:
		why = "the server does not support TLS any more";
		break;
	case STARTTLS_FAILED:
		break;
	}
	log_warning("cancel request could not be sent: %s", why);
	cancel->worker->stats.cancels_failed++;
	return false;
}

static void cancel_event(evutil_socket_t fd, short what, void *arg)
{
	struct cancel *cancel = arg;
	struct worker *worker = cancel->worker;
	struct input input;
	const char *why = "";
	bool good = true;

	(void)fd;
	worker->now = clock_now();
	if ((what & EV_WRITE) != 0)
		good = conn_write_more(&cancel->conn, worker) != CONN_IO_ERROR;
	if (good && (what & EV_READ) != 0) {
		if (starttls_pending(&cancel->starttls)) {
			enum starttls_result result =
			    starttls_readable(&cancel->starttls, &cancel->conn, worker, &why);

			good = cancel_encrypted(cancel, result, why);
		} else {
			/* Nothing is answered; the end says that the request was processed. */
			good = conn_receive(&cancel->conn, worker, 0, &input) == CONN_IO_AGAIN;
		}
	}
	if (!good)
		cancel_finish(cancel);
	worker_end_turn(worker);
}

static void cancel_late(evutil_socket_t fd, short what, void *arg)
{
	struct cancel *cancel = arg;
	struct worker *worker = cancel->worker;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	if (!cancel->sent)
		worker->stats.cancels_failed++;
	cancel_finish(cancel);
	worker_end_turn(worker);
}

/* The server closes the connection at once; a network that lost it must not block a pool. */
static bool cancel_set_timer(struct cancel *cancel)
{
	struct worker *worker = cancel->worker;
	const usec_t limit = worker->routes->config->proxy.cancel_wait_timeout;
	const struct timeval timeout = {(time_t)(limit / USEC_PER_SEC),
					(suseconds_t)(limit % USEC_PER_SEC)};

	if (limit == 0)
		return true;
	if (cancel->timer == NULL)
		cancel->timer = evtimer_new(worker->base, cancel_late, cancel);
	return cancel->timer != NULL && evtimer_add(cancel->timer, &timeout) == 0;
}

static bool cancel_open(struct cancel *cancel, int fd)
{
	struct worker *worker = cancel->worker;
	const char *why = "";
	enum starttls_result result;

	if (!cancel_set_timer(cancel) ||
	    !conn_open(&cancel->conn, worker, fd, cancel_event, cancel)) {
		(void)close(fd);
		cancel->conn.fd = -1;
		cancel->conn.events = 0;
		return false;
	}
	if (cancel->context == NULL)
		return cancel_send(cancel);
	result = starttls_begin(&cancel->starttls, &cancel->conn, worker, cancel->context,
				cancel->host, cancel->direct, &why);
	return cancel_encrypted(cancel, result, why);
}

static void cancel_dialled(void *arg, int fd, const char *error)
{
	struct cancel *cancel = arg;
	struct worker *worker = cancel->worker;

	worker->now = clock_now();
	cancel->dial = NULL;
	if (fd < 0) {
		log_warning("cancel request could not be sent: %s", error);
		worker->stats.cancels_failed++;
	}
	if (fd < 0 || !cancel_open(cancel, fd))
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
			return cancel->sent;
	}
	return false;
}

/* NULL: no memory. */
static struct cancel *cancel_new(struct worker *worker, const char *host, int port, uint32_t pid,
				 const void *key, size_t key_len)
{
	const size_t len = strlen(host) + 1;
	struct cancel *cancel = calloc(1, sizeof(*cancel) + len);

	if (cancel == NULL)
		return NULL;
	cancel->worker = worker;
	cancel->conn.fd = -1;
	memcpy(cancel->host, host, len);
	cancel->port = port;
	cancel->pid = pid;
	cancel->key_len = key_len;
	memcpy(cancel->key, key, key_len);
	return cancel;
}

static bool cancel_start(struct cancel *cancel)
{
	struct worker *worker = cancel->worker;

	cancel->dial = dial_start(
	    worker->base, worker->dns,
	    cancel->address.addr[0] == '\0' ? cancel->host : cancel->address.addr, cancel->port,
	    worker->routes->config->proxy.cancel_wait_timeout, cancel_dialled, cancel);
	return cancel->dial != NULL;
}

/* A name may have several addresses, or others by now: none but this one has the process. */
static void cancel_find_address(struct cancel *cancel, const struct server *server)
{
	struct sock_address address;

	sock_peer_address(server->conn.fd, &address);
	/* Of a Unix socket the host says all; that of a link alone needs its interface, too. */
	if (address.family == AF_UNIX ||
	    (address.family == AF_INET6 && address.ip[0] == 0xfe && (address.ip[1] & 0xc0) == 0x80))
		return;
	sock_address_name(&address, &cancel->address);
}

void cancel_server(struct server *server)
{
	struct worker *worker = server->worker;
	const struct secure_server *secure =
	    &server->routes->secure->servers[server->target->index];
	struct cancel *cancel;

	if (server->cancelling) {
		/* One that has not been sent yet does for both. */
		server->cancel_again = server->cancel_again || cancel_is_sent(server);
		return;
	}
	if (server->key_len == 0)
		return;
	cancel = cancel_new(worker, server->host, server->target->port,
			    (uint32_t)server->backend_pid, server->key, server->key_len);
	if (cancel == NULL)
		return;
	cancel_find_address(cancel, server);
	cancel->routes = route_table_ref(server->routes);
	cancel->context = server->conn.tls == NULL ? NULL : secure->context;
	cancel->direct = secure->direct;
	if (!cancel_start(cancel)) {
		cancel_free(cancel);
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

void cancel_waiting(struct client *client)
{
	client->cancelled = false;
	client_refuse_request(client, "57014", "canceling statement due to user request", NULL);
}

void cancel_in_turn(struct client *client)
{
	struct server *server = client->server;

	if (client->doomed || (server != NULL && server_busy_inside(server)))
		return;
	if (client->state == CLIENT_WAITING) {
		cancel_waiting(client);
	} else if (server != NULL && !ledger_quiet(&server->ledger)) {
		client->cancelled = false;
		cancel_server(server);
	} else {
		client->cancelled = conn_kept(&client->conn) > 0; /* a part of it */
	}
}

static void cancel_do(struct client *client)
{
	if (client->state == CLIENT_WAITING) {
		cancel_waiting(client);
		return;
	}
	if (client->server == NULL)
		return;
	if (ledger_quiet(&client->server->ledger)) {
		/* At its safe point there is nothing to cancel: it must not hit what comes next.  But
		 * what has come already waits for the end of the cancel request before. */
		if (client->server->cancelling &&
		    (conn_kept(&client->conn) > 0 || conn_has_news(&client->conn)))
			client->server->cancel_next = true;
		return;
	}
	if (session_awaits(client->server)) {
		/* What the client has sent waits for the answer.  (What has not been read may have
		 * been sent later than this.) */
		client->cancelled = conn_kept(&client->conn) > 0;
	} else if (!server_busy_inside(client->server)) {
		cancel_server(client->server);
	} else if (!client->server->change.asking) {
		client->cancelled = !client->failed; /* its request follows the proxy's own query */
	} else if (conn_kept(&client->conn) > 0) {
		/* Its last one is done, and there is another. */
		change_go_on_alone(client->server);
		client->cancelled = true;
		pool_wait_first(client->pool, client);
	}
}

/* ---- keys ---- */

bool cancel_make_key(const struct proxy *proxy, uint32_t slot, uint32_t number, bool is_long,
		     struct cancel_key *key)
{
	uint8_t bytes[8];
	const struct crypto_part part = {bytes, sizeof(bytes)};

	wire_put_be32(bytes, number);
	wire_put_be32(bytes + 4, slot);
	key->len = is_long ? CANCEL_KEY_LONG : 4;
	if (is_long)
		return crypto_hmac_sha256(proxy->cancel_secret, sizeof(proxy->cancel_secret), &part,
					  1, key->bytes);
	memcpy(key->bytes, bytes, 4);
	return true;
}

/* One of an impossible length fits nobody. */
static struct cancel_key cancel_given_key(const void *bytes, size_t len)
{
	struct cancel_key key = {0};

	if (len <= sizeof(key.bytes)) {
		key.len = (uint8_t)len;
		memcpy(key.bytes, bytes, len);
	}
	return key;
}

bool cancel_key_equal(const struct cancel_key *a, const struct cancel_key *b)
{
	return a->len == b->len && crypto_equal(a->bytes, b->bytes, a->len);
}

static bool cancel_key_fits(const struct client *client, const struct cancel_key *given)
{
	struct cancel_key key;

	return cancel_make_key(client->worker->proxy, client->slot, client->cancel_key,
			       client->long_key, &key) &&
	       cancel_key_equal(&key, given);
}

/* ---- whose it is ---- */

bool cancel_slot(const struct proxy *proxy, uint32_t pid, uint32_t *slot)
{
	/* Without a number of its own a process has all of the id for its clients. */
	const bool own = proxy->peer_id == 0 || pid >> PEER_SHIFT == proxy->peer_id;

	*slot = (proxy->peer_id == 0 ? pid : pid & SLOT_MASK) - 1;
	return own && *slot != UINT32_MAX;
}

struct cancel_fit {
	const struct proxy *proxy;
	const struct cancel_key *given;
};

static bool cancel_fits_told(const struct told *told, void *arg)
{
	const struct cancel_fit *fit = arg;
	struct cancel_key key;

	return cancel_make_key(fit->proxy, told->slot, told->number, told->long_key, &key) &&
	       cancel_key_equal(&key, fit->given);
}

/* Which worker has it; *client: NULL if that one has to look for the slot.  False: nobody has. */
static bool cancel_find_owner(const struct proxy *proxy, const struct cancel_ask *ask,
			      unsigned *owner, struct client **client)
{
	struct cancel_fit fit = {proxy, &ask->key};
	struct told told;
	uint32_t slot;

	if (told_find(proxy->told, ask->pid, cancel_fits_told, &fit, &told)) {
		*owner = told.worker;
		*client = told.client;
		return true;
	}
	*client = NULL;
	return cancel_slot(proxy, ask->pid, &slot) && share_slot_find(proxy->shares, slot, owner);
}

static void cancel_mail(struct proxy *proxy, unsigned owner, const struct cancel_ask *ask)
{
	struct mail_cancel *mail = mail_new(sizeof(*mail), MAIL_CANCEL);

	if (mail == NULL)
		return;
	mail->ask = *ask;
	mailbox_post(owner == SHARE_SLOT_CONSOLE ? &proxy->mailbox
						 : &proxy->workers[owner].mailbox,
		     &mail->letter);
}

static bool cancel_ask_peers(struct worker *worker, const struct cancel_ask *ask);

/* For nobody here. */
static void cancel_misfit(struct worker *worker, const struct cancel_ask *ask)
{
	log_debug("cancel request that fits no client");
	if (!cancel_ask_peers(worker, ask))
		worker->stats.cancels_wrong++;
	handover_cancel_from_worker(worker->proxy, ask);
}

void cancel_request(struct worker *worker, const struct cancel_ask *ask)
{
	struct client *client;
	unsigned owner;
	uint32_t slot;

	if (!cancel_find_owner(worker->proxy, ask, &owner, &client)) {
		cancel_misfit(worker, ask);
		return;
	}
	if (owner != worker->index) {
		cancel_mail(worker->proxy, owner, ask);
		return;
	}
	if (client == NULL && cancel_slot(worker->proxy, ask->pid, &slot))
		client = cancel_find(worker, slot);
	if (client != NULL && !client->doomed && cancel_key_fits(client, &ask->key))
		cancel_do(client);
	else
		cancel_misfit(worker, ask);
}

bool cancel_request_from_main(struct proxy *proxy, const struct cancel_ask *ask)
{
	struct client *client;
	unsigned owner;

	if (!cancel_find_owner(proxy, ask, &owner, &client))
		return false;
	cancel_mail(proxy, owner, ask);
	return true;
}

/* ---- peers ---- */

uint32_t cancel_pid(const struct proxy *proxy, uint32_t slot)
{
	return ((uint32_t)proxy->peer_id << PEER_SHIFT) | (slot + 1);
}

struct cancel_peer_load cancel_peer_load(const struct worker *worker, unsigned peer_id)
{
	struct cancel_peer_load load = {0};
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->cancels, node, tmp)
	{
		const struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		if (cancel->peer != peer_id)
			continue;
		load.waiting += cancel->waiting ? 1 : 0;
		load.active += cancel->waiting ? 0 : 1;
		load.dialling += cancel->dial != NULL ? 1 : 0;
	}
	return load;
}

/* Connections that this worker may have to the peer. */
static unsigned cancel_peer_most(const struct worker *worker, const struct config_peer *peer)
{
	const unsigned all = (unsigned)config_peer_pool_size(worker->routes->config, peer);

	if (all == 0)
		return UINT_MAX;
	return all > worker->proxy->worker_count ? all / worker->proxy->worker_count : 1;
}

/* A connection to the peer is free: for the one that has waited longest. */
static void cancel_serve_peer(struct worker *worker, unsigned peer_id)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->cancels, node, tmp)
	{
		struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		if (cancel->peer != peer_id || !cancel->waiting)
			continue;
		cancel->waiting = false;
		if (!cancel_start(cancel))
			cancel_finish(cancel);
		return;
	}
}

/* To the process that has the client: with the key as it came, and `forwards` more. */
static void cancel_forward(struct worker *worker, const struct config_peer *peer, unsigned peer_id,
			   const struct cancel_ask *ask, uint8_t forwards)
{
	const struct cancel_peer_load load = cancel_peer_load(worker, peer_id);
	const unsigned most = cancel_peer_most(worker, peer);
	uint8_t key[CANCEL_KEY_LONG + 1];
	struct cancel *cancel = NULL;

	memcpy(key, ask->key.bytes, ask->key.len);
	key[ask->key.len] = forwards;
	if (load.waiting < most * PEER_WAITING_MAX)
		cancel = cancel_new(worker, peer->host, peer->port, ask->pid, key,
				    ask->key.len + 1u);
	if (cancel == NULL) {
		worker->stats.cancels_failed++;
		return;
	}
	cancel->peer = peer_id;
	cancel->waiting = load.active >= most;
	if (cancel->waiting ? !cancel_set_timer(cancel) : !cancel_start(cancel)) {
		worker->stats.cancels_failed++;
		cancel_free(cancel);
		return;
	}
	list_append(&worker->cancels, &cancel->node);
}

/* It was not forwarded often enough yet, and its key is as processes of ours give them. */
static bool cancel_can_go_on(const struct cancel_ask *ask)
{
	return ask->forwards > 0 && (ask->key.len == 4 || ask->key.len == CANCEL_KEY_LONG);
}

/* Servers' process ids do not say which process told them to a client.  False: nobody is asked. */
static bool cancel_ask_peers(struct worker *worker, const struct cancel_ask *ask)
{
	const struct config *config = worker->routes->config;
	bool asked = false;

	if (worker->proxy->peer_id == 0 || !config->proxy.session_backend_pid ||
	    !cancel_can_go_on(ask))
		return false;
	for (size_t i = 0; i < config->peer_count; i++) {
		const unsigned peer_id = (unsigned)strtoul(config->peers[i].name, NULL, 10);

		if (peer_id == worker->proxy->peer_id)
			continue;
		cancel_forward(worker, &config->peers[i], peer_id, ask, 0);
		asked = true;
	}
	return asked;
}

void cancel_take(struct worker *worker, uint32_t pid, const void *bytes, size_t len)
{
	const unsigned own = worker->proxy->peer_id;
	const unsigned peer_id = own == 0 ? 0 : pid >> PEER_SHIFT;
	const uint8_t last = ((const uint8_t *)bytes)[len - 1];
	const bool forwarded =
	    own != 0 && (len == 4 + 1 || len == CANCEL_KEY_LONG + 1) && last < FORWARDS_MAX;
	const struct cancel_ask ask = {
	    .pid = pid,
	    .forwards = forwarded ? last : FORWARDS_MAX,
	    .key = cancel_given_key(bytes, forwarded ? len - 1 : len),
	};
	const struct config_peer *peer = NULL;
	struct client *client;
	unsigned owner;

	worker->stats.cancels_taken++;
	if (peer_id != own && peer_id != 0 &&
	    !cancel_find_owner(worker->proxy, &ask, &owner, &client))
		peer = config_find_peer(worker->routes->config, peer_id);
	if (peer == NULL)
		cancel_request(worker, &ask);
	else if (cancel_can_go_on(&ask))
		cancel_forward(worker, peer, peer_id, &ask, (uint8_t)(ask.forwards - 1));
}

void cancel_drop_all(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->cancels, node, tmp)
	{
		struct cancel *cancel = CONTAINER_OF(node, struct cancel, node);

		cancel->server = NULL;
		cancel->peer = 0; /* nobody follows */
		cancel_finish(cancel);
	}
}
