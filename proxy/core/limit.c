/* SPDX-License-Identifier: PostgreSQL */
#include "core/limit.h"

#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/worker.h"

#include <stdlib.h>

/* The limits of a pool but its own. */
static const enum share_full scopes[] = {FULL_DATABASE, FULL_USER};

bool limit_queue_init(struct limit_queue *queue)
{
	list_init(&queue->waits);
	return pthread_mutex_init(&queue->lock, NULL) == 0;
}

void limit_queue_free(struct limit_queue *queue)
{
	(void)pthread_mutex_destroy(&queue->lock);
}

static struct limit_queue *queue_of(const struct pool_share *share, enum share_full full)
{
	return full == FULL_DATABASE ? &share->database->queue : &share->user_share->queue;
}

static inline bool is_empty(struct limit_queue *queue)
{
	return LIKELY(atomic_load_explicit(&queue->count, memory_order_relaxed) == 0);
}

static bool is_reached(const struct pool_share *share, enum share_full full)
{
	const atomic_int *servers =
	    full == FULL_DATABASE ? &share->database->servers : &share->user_share->servers;
	const atomic_int *limit = full == FULL_DATABASE ? &share->database->server_limit
	                                                : &share->user_share->server_limit;
	const int most = atomic_load_explicit(limit, memory_order_relaxed);

	return most > 0 && atomic_load_explicit(servers, memory_order_relaxed) >= most;
}

/* Who waits longest, but those of `share` (NULL: all) and those whom a server was promised if
 * `unpromised`.  With the lock. */
static struct limit_wait *oldest_of(struct limit_queue *queue, const struct pool_share *share,
                                    bool unpromised)
{
	struct limit_wait *oldest = NULL;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&queue->waits, node, tmp)
	{
		struct limit_wait *wait = CONTAINER_OF(node, struct limit_wait, node);

		if (wait->share != share && !(unpromised && wait->promised) &&
		    (oldest == NULL || wait->since < oldest->since))
			oldest = wait;
	}
	return oldest;
}

static void tell_first(struct worker *worker, struct limit_queue *queue)
{
	struct limit_wait *first;
	struct mail_pool *mail;
	unsigned to = 0;

	if (is_empty(queue))
		return;
	mail = mail_new(sizeof(*mail), MAIL_ROOM);
	if (mail == NULL)
		return; /* the tick looks, too */
	(void)pthread_mutex_lock(&queue->lock);
	first = oldest_of(queue, NULL, false);
	if (first != NULL) {
		mail->share = pool_share_ref(first->share);
		to = first->worker;
	}
	(void)pthread_mutex_unlock(&queue->lock);
	if (first == NULL)
		free(mail);
	else
		mailbox_post(&worker->proxy->workers[to].mailbox, &mail->letter);
}

void limit_leave(struct pool *pool)
{
	struct limit_queue *queue = pool->limit_wait.in;

	if (LIKELY(queue == NULL))
		return;
	(void)pthread_mutex_lock(&queue->lock);
	list_remove(&queue->waits, &pool->limit_wait.node);
	pool->limit_wait.in = NULL;
	atomic_fetch_sub_explicit(&queue->count, 1, memory_order_relaxed);
	(void)pthread_mutex_unlock(&queue->lock);
	tell_first(pool->worker, queue);
}

void limit_wait(struct pool *pool, enum share_full full, usec_t since)
{
	struct limit_wait *wait = &pool->limit_wait;
	struct limit_queue *queue = queue_of(pool->share, full);

	if (wait->in != queue)
		limit_leave(pool);
	(void)pthread_mutex_lock(&queue->lock);
	wait->since = since;
	wait->promised = false;
	if (wait->in == NULL) {
		wait->share = pool->share;
		wait->worker = pool->worker->index;
		wait->in = queue;
		list_append(&queue->waits, &wait->node);
		atomic_fetch_add_explicit(&queue->count, 1, memory_order_relaxed);
	}
	(void)pthread_mutex_unlock(&queue->lock);
}

bool limit_is_behind(const struct pool *pool, usec_t since, enum share_full *full)
{
	for (size_t i = 0; i < ARRAY_LEN(scopes); i++) {
		struct limit_queue *queue = queue_of(pool->share, scopes[i]);
		const struct limit_wait *oldest;
		bool behind;

		if (is_empty(queue))
			continue;
		(void)pthread_mutex_lock(&queue->lock);
		oldest = oldest_of(queue, pool->share, false);
		behind = oldest != NULL && oldest->since < since;
		(void)pthread_mutex_unlock(&queue->lock);
		if (behind) {
			*full = scopes[i];
			return true;
		}
	}
	return false;
}

/* Since when the first waits for a server of this (database, user), in any worker; 0: nobody. */
static usec_t waiting_since(const struct pool *pool)
{
	const struct list_node *node = list_first(&pool->clients[CLIENT_WAITING]);
	usec_t oldest = node == NULL ? 0 : CONTAINER_OF(node, const struct client, node)->asked;

	for (unsigned i = 0; i < pool->worker->proxy->worker_count; i++) {
		const usec_t since = atomic_load_explicit(&pool->share->worker[i].waiting_since,
		                                          memory_order_relaxed);

		if (since != 0 && i != pool->worker->index && (oldest == 0 || since < oldest))
			oldest = since;
	}
	return oldest;
}

bool limit_yields(struct pool *pool)
{
	for (size_t i = 0; i < ARRAY_LEN(scopes); i++) {
		struct limit_queue *queue = queue_of(pool->share, scopes[i]);
		struct limit_wait *oldest;
		usec_t own;

		if (is_empty(queue) || !is_reached(pool->share, scopes[i]))
			continue;
		own = waiting_since(pool);
		(void)pthread_mutex_lock(&queue->lock);
		oldest = oldest_of(queue, pool->share, true);
		if (oldest != NULL && own != 0 && oldest->since + LIMIT_MARGIN >= own)
			oldest = NULL;
		if (oldest != NULL)
			oldest->promised = true;
		(void)pthread_mutex_unlock(&queue->lock);
		if (oldest != NULL)
			return true;
	}
	return false;
}

void limit_tell(struct worker *worker, struct pool_share *share)
{
	for (size_t i = 0; i < ARRAY_LEN(scopes); i++)
		tell_first(worker, queue_of(share, scopes[i]));
}
