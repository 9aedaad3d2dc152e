/* SPDX-License-Identifier: PostgreSQL */
/*
 * What is held of a database: counted over all workers, bounded in time, number, bytes and file
 * descriptors.  Each bound has an error of its own, after which the connection goes on.
 *
 * With hold_overflow = oldest it is not the request that came last which is refused, but the one
 * held longest, in whatever worker it is.  That one is told by a letter, also in this worker: the
 * refused client may go on with its next request, and so on, which must not become a recursion.
 */
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"

#define HINT "Try the request again."

static const struct config_proxy *held_conf(const struct worker *worker)
{
	return &worker->routes->config->proxy;
}

/* The client whose request is held longest in this worker; NULL: none. */
static struct client *held_oldest(struct database *database)
{
	struct client *oldest = NULL;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);
		struct list_node *first = list_first(&pool->clients[CLIENT_WAITING]);
		struct client *client;

		if (first == NULL)
			continue;
		client = CONTAINER_OF(first, struct client, node);
		if (client->counted_held && (oldest == NULL || client->asked < oldest->asked))
			oldest = client;
	}
	return oldest;
}

static void held_publish(struct database *database)
{
	const struct worker *worker = database->worker;
	const struct client *oldest;

	if (held_conf(worker)->hold_overflow != CONFIG_HOLD_OLDEST)
		return;
	oldest = held_oldest(database);
	atomic_store_explicit(&database->share->held_since[worker->index],
			      oldest == NULL ? 0 : oldest->asked, memory_order_relaxed);
}

/* Which bound is passed: the error, or NULL. */
static const char *held_over(const struct database *database, const char **sqlstate)
{
	const struct config_proxy *conf = held_conf(database->worker);

	if (atomic_load(&database->share->held_requests) > conf->hold_max_requests) {
		*sqlstate = "53300";
		return "the database is held for a move, and hold_max_requests requests are "
		       "waiting already";
	}
	if (atomic_load(&database->share->held_bytes) > (long long)conf->hold_max_bytes) {
		*sqlstate = "53400";
		return "the database is held for a move, and requests of hold_max_bytes are "
		       "waiting already";
	}
	return NULL;
}

static bool held_descriptors_short(const struct worker *worker)
{
	const struct proxy *proxy = worker->proxy;
	const unsigned share = (unsigned)held_conf(worker)->hold_max_descriptors;
	uint64_t used;

	if (share == 0 || proxy->descriptors == 0)
		return false;
	used = (uint64_t)atomic_load_explicit(&proxy->client_count, memory_order_relaxed) +
	       atomic_load_explicit(&proxy->server_count, memory_order_relaxed);
	return used * 100 > (uint64_t)proxy->descriptors * share;
}

/* Somebody held longer than this client is to go: tells his worker. */
static void held_tell_oldest(const struct client *client)
{
	const struct database *database = client->pool->database;
	const struct worker *me = client->worker;
	unsigned to = me->index;
	int64_t oldest = client->asked;
	struct mail_database *mail;

	for (unsigned i = 0; i < me->proxy->worker_count; i++) {
		int64_t since =
		    atomic_load_explicit(&database->share->held_since[i], memory_order_relaxed);

		if (since != 0 && since < oldest) {
			oldest = since;
			to = i;
		}
	}
	mail = mail_new_database(MAIL_EVICT_HELD, database->name);
	if (mail != NULL)
		mailbox_post(&me->proxy->workers[to].mailbox, &mail->letter);
}

void gate_evict_held(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);
	const char *sqlstate;
	const char *text;
	struct client *client;

	if (database == NULL || !database->held)
		return;
	text = held_over(database, &sqlstate);
	client = text == NULL ? NULL : held_oldest(database);
	if (client == NULL)
		return;
	client_refuse_request(client, sqlstate, text, HINT);
	/* One large request in the place of many small ones: more than one has to go. */
	client = held_oldest(database);
	if (client != NULL && held_over(database, &sqlstate) != NULL)
		held_tell_oldest(client);
}

void gate_count_held(struct client *client)
{
	struct database *database = client->pool->database;
	const uint32_t bytes = (uint32_t)conn_kept(&client->conn);
	const char *sqlstate;
	const char *text;

	if (!database->held || client->state != CLIENT_WAITING || client->doomed)
		return;
	if (!client->counted_held)
		atomic_fetch_add(&database->share->held_requests, 1);
	if (!client->counted_held && held_descriptors_short(client->worker)) {
		client->counted_held = true;
		client_refuse_request(client, "53000",
				      "the database is held for a move, and file descriptors are "
				      "too short to hold more requests",
				      "Try the request again, or raise the limit of open files.");
		return;
	}
	client->counted_held = true;
	atomic_fetch_add(&database->share->held_bytes,
			 (long long)bytes - (long long)client->held_bytes);
	client->held_bytes = bytes;
	held_publish(database);
	text = held_over(database, &sqlstate);
	if (LIKELY(text == NULL))
		return;
	if (held_conf(client->worker)->hold_overflow == CONFIG_HOLD_OLDEST)
		held_tell_oldest(client);
	else
		client_refuse_request(client, sqlstate, text, HINT);
}

void gate_uncount_held(struct client *client)
{
	struct database *database = client->pool->database;

	if (!client->counted_held)
		return;
	atomic_fetch_sub(&database->share->held_requests, 1);
	atomic_fetch_sub(&database->share->held_bytes, (long long)client->held_bytes);
	client->counted_held = false;
	client->held_bytes = 0;
	held_publish(database);
}

/* ---- time ---- */

void gate_tick_held(struct pool *pool, usec_t now)
{
	const struct config_proxy *conf = held_conf(pool->worker);
	struct list_node *node;
	struct list_node *tmp;

	for (size_t n = pool->clients[CLIENT_WAITING].count; conf->hold_wait_timeout > 0 && n > 0;
	     n--) {
		struct client *client;

		node = list_first(&pool->clients[CLIENT_WAITING]);
		if (node == NULL)
			break;
		client = CONTAINER_OF(node, struct client, node);
		if (now - client->since < conf->hold_wait_timeout)
			break;
		client_refuse_request(client, "57P03",
				      "the database is held for a move, and the request "
				      "has waited for hold_wait_timeout",
				      HINT);
	}
	if (conf->hold_notice_after == 0)
		return;
	LIST_FOREACH(&pool->clients[CLIENT_WAITING], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (now - client->since < conf->hold_notice_after)
			break;
		if (client->notified)
			continue;
		client->notified = true;
		client_notice(client, "the database is being moved to another server: the request "
				      "waits");
	}
}
