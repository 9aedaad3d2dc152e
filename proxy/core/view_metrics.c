/* SPDX-License-Identifier: PostgreSQL */
/*
 * A worker's share of what /metrics shows and SHOW does not.  Worker thread; reads only.
 */
#include "base/histogram.h"
#include "core/conn_tls.h"
#include "core/pool.h"
#include "core/view_internal.h"
#include "core/worker.h"

static void add_histogram(struct rowset *rows, const struct database *database, const char *kind,
                          const struct histogram *sum, uint64_t count, uint64_t usec)
{
	rowset_text(rows, database->name);
	rowset_text(rows, kind);
	rowset_int(rows, (int64_t)count);
	rowset_int(rows, (int64_t)usec);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		rowset_int(rows, (int64_t)sum->buckets[i]);
	rowset_end_row(rows);
}

static uint64_t histogram_count(const struct histogram *histogram)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		count += histogram->buckets[i];
	return count;
}

static void database_histograms(struct rowset *rows, const struct database *database)
{
	struct pool_stats sums = {0};
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		const struct pool *pool = CONTAINER_OF(node, struct pool, node);

		if (!pool->internal)
			pool_stats_add(&sums, &pool->stats);
	}
	if (database->past != NULL)
		pool_stats_add(&sums, database->past);
	/* Who got a server at once was not counted when it happened, which is as a rule. */
	sums.wait_times.buckets[0] += sums.assigned - histogram_count(&sums.wait_times);
	add_histogram(rows, database, "query", &sums.query_times,
	              histogram_count(&sums.query_times), sums.query_usec);
	add_histogram(rows, database, "transaction", &sums.xact_times,
	              histogram_count(&sums.xact_times), sums.xact_usec);
	add_histogram(rows, database, "wait", &sums.wait_times, sums.assigned, sums.wait_usec);
}

void view_fill_histograms(struct worker *worker, struct rowset *rows)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		database_histograms(rows, CONTAINER_OF(node, struct database, node));
	}
}

/* ---- GAUGES ---- */

struct gauges {
	size_t clients[CLIENT_STATE_COUNT];
	size_t servers[SERVER_STATE_COUNT];
	size_t client_statements;
	size_t server_statements;
	usec_t longest;
};

static void gauges_of_pool(struct gauges *sums, const struct pool *pool)
{
	const struct list_node *first = list_first(&pool->clients[CLIENT_WAITING]);
	struct list_node *node;
	struct list_node *tmp;

	for (size_t i = 0; i < CLIENT_STATE_COUNT; i++) {
		sums->clients[i] += pool->clients[i].count;
		LIST_FOREACH(&pool->clients[i], node, tmp)
		{
			const struct client *client = CONTAINER_OF(node, struct client, node);

			sums->client_statements += client_stmts_count(client->stmts);
		}
	}
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		sums->servers[i] += pool->servers[i].count;
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			const struct server *server = CONTAINER_OF(node, struct server, node);

			sums->server_statements += server_stmts_count(&server->stmts);
		}
	}
	if (first != NULL) {
		usec_t wait = clock_now() - CONTAINER_OF(first, const struct client, node)->since;

		sums->longest = wait > sums->longest ? wait : sums->longest;
	}
}

static void database_gauges(struct rowset *rows, const struct database *database)
{
	struct gauges sums = {0};
	struct list_node *node;
	struct list_node *tmp;
	size_t waiting;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		const struct pool *pool = CONTAINER_OF(node, struct pool, node);

		if (!pool->internal)
			gauges_of_pool(&sums, pool);
	}
	waiting = sums.clients[CLIENT_WAITING];
	rowset_text(rows, database->name);
	rowset_int(rows, (int64_t)sums.clients[CLIENT_ACTIVE]);
	rowset_int(rows, (int64_t)sums.clients[CLIENT_IDLE]);
	rowset_int(rows, database->held ? 0 : (int64_t)waiting);
	rowset_int(rows, database->held ? (int64_t)waiting : 0);
	rowset_int(rows, (int64_t)sums.clients[CLIENT_WELCOME]);
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++)
		rowset_int(rows, (int64_t)sums.servers[i]);
	rowset_int(rows, (int64_t)sums.client_statements);
	rowset_int(rows, (int64_t)sums.server_statements);
	rowset_int(rows, sums.longest);
	rowset_end_row(rows);
}

void view_fill_gauges(struct worker *worker, struct rowset *rows)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		database_gauges(rows, CONTAINER_OF(node, struct database, node));
	}
}

/* ---- LIVES ---- */

enum tls_kind { TLS_OLD, TLS_NEW, TLS_KINDS };

struct lives {
	size_t clients;
	size_t servers;
	size_t bytes;
	size_t client_tls[TLS_KINDS];
	size_t server_tls[TLS_KINDS];
};

static void lives_of_conn(struct lives *sums, const struct conn *conn, size_t tls[TLS_KINDS])
{
	sums->bytes += conn_kept(conn) + conn_unsent(conn);
	if (conn->tls != NULL && tls_ready(conn->tls))
		tls[tls_is_1_3(conn->tls) ? TLS_NEW : TLS_OLD]++;
}

static void lives_of_pool(struct pool *pool, void *arg)
{
	struct lives *sums = arg;
	struct list_node *node;
	struct list_node *tmp;

	for (size_t i = 0; i < CLIENT_STATE_COUNT; i++) {
		sums->clients += pool->clients[i].count;
		LIST_FOREACH(&pool->clients[i], node, tmp)
		{
			lives_of_conn(sums, &CONTAINER_OF(node, struct client, node)->conn,
			              sums->client_tls);
		}
	}
	for (size_t i = 0; i < SERVER_STATE_COUNT; i++) {
		sums->servers += pool->servers[i].count;
		LIST_FOREACH(&pool->servers[i], node, tmp)
		{
			lives_of_conn(sums, &CONTAINER_OF(node, struct server, node)->conn,
			              sums->server_tls);
		}
	}
}

void view_fill_lives(struct worker *worker, struct rowset *rows)
{
	const struct worker_stats *stats = &worker->stats;
	struct lives sums = {.clients = worker->joining.count};

	pool_for_each(worker, lives_of_pool, &sums);
	rowset_int(rows, worker->index);
	rowset_int(rows, (int64_t)sums.clients);
	rowset_int(rows, (int64_t)sums.servers);
	rowset_int(rows, (int64_t)worker->joining.count);
	rowset_int(rows, (int64_t)atomic_load(&worker->busy));
	rowset_int(rows, worker->cpu_before);
	rowset_int(rows, (int64_t)sums.bytes);
	rowset_int(rows, (int64_t)stats->accepted);
	rowset_int(rows, (int64_t)stats->cancels_taken);
	rowset_int(rows, (int64_t)stats->cancels_wrong);
	rowset_int(rows, (int64_t)stats->cancels_sent);
	rowset_int(rows, (int64_t)stats->cancels_failed);
	rowset_int(rows, (int64_t)stats->tls_done);
	rowset_int(rows, (int64_t)stats->tls_resumed);
	rowset_int(rows, (int64_t)stats->tls_failed);
	rowset_int(rows, (int64_t)stats->servers_opened);
	rowset_int(rows, (int64_t)stats->servers_failed);
	rowset_int(rows, (int64_t)sums.client_tls[TLS_OLD]);
	rowset_int(rows, (int64_t)sums.client_tls[TLS_NEW]);
	rowset_int(rows, (int64_t)sums.server_tls[TLS_OLD]);
	rowset_int(rows, (int64_t)sums.server_tls[TLS_NEW]);
	rowset_end_row(rows);
}
