/* SPDX-License-Identifier: PostgreSQL */
#include "core/pool.h"

#include "auth/user.h"
#include "base/log.h"
#include "core/cancel.h"
#include "core/keep.h"
#include "core/mail.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Another worker's client must have waited so much longer before it gets a server that somebody
 * waits for here as well: moving one costs more than a small query. */
#define FAIR_USEC ((usec_t)5000)

/* A server that was idle for longer is looked at before it gets a request. */
#define PEEK_AFTER ((usec_t)200000)

/* Other workers are asked to close an idle server at most so often. */
#define EVICT_PAUSE ((usec_t)100000)

/* So long after a check a server needs none. */
#define CHECK_HOLDS USEC_PER_SEC

struct database *database_find(struct worker *worker, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		if (strcmp(database->name, name) == 0)
			return database;
	}
	return NULL;
}

struct database *database_get(struct worker *worker, const char *name)
{
	struct database *database = database_find(worker, name);

	if (database != NULL)
		return database;
	database = calloc(1, sizeof(*database));
	if (database == NULL)
		return NULL;
	database->worker = worker;
	database->name = strdup(name);
	database->share = share_database(worker->proxy->shares, name);
	if (database->name == NULL || database->share == NULL) {
		free(database->name);
		free(database);
		return NULL;
	}
	if (UNLIKELY(atomic_load(&worker->proxy->pause_new))) {
		database->held = true;
		database->paused = true;
	}
	list_init(&database->pools);
	list_append(&worker->databases, &database->node);
	return database;
}

static struct pool *pool_find_in(struct database *database, const char *user, bool internal)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);

		if (strcmp(pool->user, user) == 0 && pool->internal == internal)
			return pool;
	}
	return NULL;
}

struct pool *pool_find(struct worker *worker, const char *name, const char *user)
{
	struct database *database = database_find(worker, name);

	return database == NULL ? NULL : pool_find_in(database, user, false);
}

struct pool *pool_find_share(struct worker *worker, const struct pool_share *share)
{
	struct database *database = database_find(worker, share->database->name);

	return database == NULL ? NULL : pool_find_in(database, share->user, share->internal);
}

void pool_apply_settings(struct pool *pool)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	const struct config *config = pool->worker->routes->config;
	const struct config_user *user = config_find_user(config, pool->user);

	if (route == NULL)
		return;
	if (pool->internal) {
		atomic_store_explicit(&pool->share->limit, config->proxy.auth_query_connections,
				      memory_order_relaxed);
		return;
	}
	atomic_store_explicit(&pool->share->limit, config_pool_size(config, route->database, user),
	                      memory_order_relaxed);
	pool->session = config_pool_mode(config, route->database, user) == CONFIG_POOL_SESSION;
	pool->statement = config_pool_mode(config, route->database, user) == CONFIG_POOL_STATEMENT;
	pool->pqexec_off = config->proxy.disable_pqexec;
	pool->own_user = route->database->user[0] == '\0';
	pool->min_size = config_min_pool_size(config, route->database);
	pool->reserve = config_reserve_pool_size(config, route->database, user);
	pool->lifetime = config_server_lifetime(config, route->database);
	pool->query_wait = config_query_wait_timeout(config, route->database, user);
}

static struct pool *pool_enter(struct worker *worker, const char *name, const char *user,
			       bool internal)
{
	struct database *database = database_get(worker, name);
	struct pool *pool = database == NULL ? NULL : pool_find_in(database, user, internal);

	if (pool != NULL || database == NULL)
		return pool;
	pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return NULL;
	pool->worker = worker;
	pool->database = database;
	pool->internal = internal;
	pool->user = strdup(user);
	pool->share = share_pool(worker->proxy->shares, name, user, internal);
	if (pool->user == NULL || pool->share == NULL) {
		free(pool->user);
		free(pool);
		return NULL;
	}
	for (int i = 0; i < CLIENT_STATE_COUNT; i++)
		list_init(&pool->clients[i]);
	for (int i = 0; i < SERVER_STATE_COUNT; i++)
		list_init(&pool->servers[i]);
	list_append(&database->pools, &pool->node);
	pool_apply_settings(pool);
	return pool;
}

struct pool *pool_get(struct worker *worker, const char *name, const char *user)
{
	return pool_enter(worker, name, user, false);
}

struct pool *pool_get_internal(struct worker *worker, const char *name, const char *role)
{
	return pool_enter(worker, name, role, true);
}

void pool_set_user(struct pool *pool, struct auth_user *user)
{
	if (user == NULL || user == pool->auth_user)
		return;
	auth_user_unref(pool->auth_user);
	pool->auth_user = auth_user_ref(user);
}

void pool_for_each(struct worker *worker, void (*act)(struct pool *pool, void *arg), void *arg)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);
		struct list_node *at;
		struct list_node *next;

		LIST_FOREACH(&database->pools, at, next)
		{
			act(CONTAINER_OF(at, struct pool, node), arg);
		}
	}
}

/* ---- what the other workers see ---- */

void pool_publish_idle(struct pool *pool)
{
	if (pool->worker->proxy->worker_count > 1)
		atomic_store_explicit(&pool->share->worker[pool->worker->index].idle,
		                      (int)pool->servers[SERVER_IDLE].count, memory_order_seq_cst);
}

static usec_t pool_waiting_since(struct pool *pool)
{
	struct list_node *node = list_first(&pool->clients[CLIENT_WAITING]);

	return node == NULL ? 0 : CONTAINER_OF(node, struct client, node)->asked;
}

void pool_publish_waiting(struct pool *pool)
{
	if (pool->worker->proxy->worker_count > 1)
		atomic_store_explicit(&pool->share->worker[pool->worker->index].waiting_since,
		                      pool_waiting_since(pool), memory_order_seq_cst);
}

static void pool_post_parcel(struct pool *pool, unsigned to, struct server_parcel *parcel)
{
	struct mail_server *mail = mail_new(sizeof(*mail), MAIL_SERVER);

	if (mail == NULL)
		abort(); /* a few bytes, and a server connection would be lost track of */
	mail->share = pool->share;
	mail->parcel = *parcel;
	mailbox_post(&pool->worker->proxy->workers[to].mailbox, &mail->letter);
}

/* The worker whose first client has waited longest; false if nobody waits elsewhere, or not long
 * enough compared with those who wait here. */
static bool pool_find_starving(struct pool *pool, unsigned *found)
{
	usec_t local = pool_waiting_since(pool);
	usec_t oldest = 0;

	for (unsigned i = 0; i < pool->worker->proxy->worker_count; i++) {
		usec_t since;

		if (i == pool->worker->index)
			continue;
		since = atomic_load_explicit(&pool->share->worker[i].waiting_since,
		                             memory_order_seq_cst);
		if (since != 0 && (oldest == 0 || since < oldest)) {
			oldest = since;
			*found = i;
		}
	}
	return oldest != 0 && (local == 0 || oldest + FAIR_USEC < local);
}

/* Gives an idle server away if another worker needs it more.  True: it is gone. */
static bool pool_give_away(struct pool *pool, struct server *server)
{
	struct server_parcel parcel;
	unsigned to = 0;

	if (pool->worker->proxy->worker_count == 1 || !pool_find_starving(pool, &to) ||
	    !server_pack(server, &parcel))
		return false;
	/* Nobody else gives one for the same need; who still starves says so again. */
	atomic_store_explicit(&pool->share->worker[to].waiting_since, 0, memory_order_relaxed);
	pool_post_parcel(pool, to, &parcel);
	return true;
}

/* The same if that worker has no idle server of its own. */
static bool pool_give_older(struct pool *pool, struct server *server)
{
	unsigned to = 0;

	return pool->worker->proxy->worker_count > 1 && pool_find_starving(pool, &to) &&
	       atomic_load_explicit(&pool->share->worker[to].idle, memory_order_seq_cst) == 0 &&
	       pool_give_away(pool, server);
}

/* Asks a worker, from `first` on, that seems to have an idle server.  (Here a wait was published
 * before idle servers are looked for, there an idle server before waits are: one of both sees the
 * other.) */
static void pool_ask(struct pool *pool, unsigned first)
{
	const struct worker *me = pool->worker;

	if (pool->asked || me->proxy->worker_count == 1)
		return;
	for (unsigned i = first; i < me->proxy->worker_count; i++) {
		struct mail_pool *mail;

		if (i == me->index ||
		    atomic_load_explicit(&pool->share->worker[i].idle, memory_order_seq_cst) == 0)
			continue;
		mail = mail_new(sizeof(*mail), MAIL_SERVER_WANTED);
		if (mail == NULL)
			return;
		mail->share = pool->share;
		mail->from = me->index;
		pool->asked = true;
		pool->asked_last = i;
		mailbox_post(&me->proxy->workers[i].mailbox, &mail->letter);
		return;
	}
}

/* ---- giving servers to clients ---- */

/* Unused for so long that its connection may have been lost on the way. */
static bool pool_wants_check(const struct pool *pool, const struct server *server)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;

	const usec_t unused = pool->worker->now - server->since;

	return UNLIKELY(unused >= conf->server_check_delay) &&
	       conf->server_check_query[0] != '\0' && !(server->checked && unused < CHECK_HOLDS);
}

/* Has as many idle servers checked as clients wait for one. */
static size_t pool_check_idle(struct pool *pool, size_t demand)
{
	const char *query = pool->worker->routes->config->proxy.server_check_query;
	size_t checking = 0;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_RESETTING], node, tmp)
	{
		if (CONTAINER_OF(node, struct server, node)->task == SERVER_TASK_CHECK)
			checking++;
	}
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (checking >= demand)
			break;
		if (!pool_outdated(pool, server) && pool_wants_check(pool, server) &&
		    server_start_task(server, SERVER_TASK_CHECK, query))
			checking++;
	}
	return checking;
}

/* `suspicious`: a server has just ended in the hands of who is to have this one. */
static struct server *pool_take_idle(struct pool *pool, bool suspicious)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (pool_outdated(pool, server)) {
			server_doom(server, SERVER_CLOSE_STALE);
		} else if (pool_wants_check(pool, server)) {
			return NULL; /* pool_check_idle() does it; those behind it need it, too */
		} else if (UNLIKELY(suspicious || conn_has_news(&server->conn) ||
				    pool->worker->now - server->since > PEEK_AFTER) &&
			   conn_seems_dead(&server->conn, pool->worker)) {
			server_doom(server, SERVER_CLOSE_PEER);
		} else {
			return server;
		}
	}
	return NULL;
}

/* The client's transaction is to be a failed one there.  False: it has to wait for that. */
static bool pool_fail_block(struct server *server)
{
	if (!keep_fail_block(server))
		log_debug("server pid %d was lost", (int)server->backend_pid);
	return false;
}

/* The answer to that. */
static void pool_block_failed(struct server *server, struct client *client)
{
	server->failing = false;
	free(server->error);
	server->error = NULL;
	if (server->tx_status == 'E' && !server->pool->database->held) {
		client->failed = false;
		client_go_on(client);
		return;
	}
	if (server->tx_status != 'E')
		pool_server_failed(server->pool, server, "a transaction could not be begun", "");
	/* Once more, when the new hold is over, or on another server. */
	server_unlink(server);
	server_doom(server, SERVER_CLOSE_TERMINATED);
	pool_wait_first(client->pool, client);
}

/* Links them.  True: the client may send at once; false: parameters are being set first. */
static bool pool_link(struct pool *pool, struct server *server, struct client *client)
{
	struct param_set *settled;
	struct sbuf sql;
	size_t changes;
	bool sent = false;

	pool->stats.assigned++;
	if (client->state == CLIENT_WAITING)
		pool->stats.wait_usec += (uint64_t)(pool->worker->now - client->since);
	server_link(server, client);
	client->in_session = pool->session;
	if (LIKELY(client->params == server->params))
		return LIKELY(!client->failed) || pool_fail_block(server);
	sbuf_init(&sql, PARAM_MAX_SQL);
	changes = param_set_sync_sql(client->params, server->params, &sql);
	if (changes > 0) {
		if (!sbuf_ok(&sql))
			server_doom(server, SERVER_CLOSE_MEMORY);
		else
			sent = server_inject_query(server, sbuf_text(&sql), sql.len);
		sbuf_free(&sql);
		(void)sent;
		return false;
	}
	sbuf_free(&sql);
	settled = param_set_settle(pool->worker->params, client->params, server->params);
	if (settled == NULL) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return false;
	}
	param_set_replace(&server->params, param_set_ref(settled));
	param_set_replace(&client->params, settled);
	return LIKELY(!client->failed) || pool_fail_block(server);
}

void pool_sync_done(struct server *server)
{
	struct client *client = server->client;
	struct worker *worker = server->worker;
	struct param_set *settled;
	struct sbuf out;
	enum conn_io io = CONN_IO_OK;

	if (UNLIKELY(server->failing)) {
		pool_block_failed(server, client);
		return;
	}
	if (server->error != NULL) {
		char text[512];
		char sqlstate[sizeof(server->error_sqlstate)];

		(void)snprintf(text, sizeof(text), "%s", server->error);
		memcpy(sqlstate, server->error_sqlstate, sizeof(sqlstate));
		server_release(server); /* perhaps to another worker */
		client_doom_fatal(client, CLIENT_CLOSE_PARAMETERS, sqlstate, text,
		                  "A parameter that this connection asked for was refused by the "
		                  "server.",
		                  NULL);
		return;
	}
	settled = param_set_settle(worker->params, client->params, server->params);
	if (settled == NULL) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return;
	}
	sbuf_init(&out, PARAM_MAX_SQL);
	if (param_set_write_status_diff(settled, client->params, &out) > 0 && sbuf_ok(&out)) {
		io = conn_send_copy(&worker->to_client, &client->conn, worker, sbuf_text(&out),
		                    out.len);
		if (io == CONN_IO_OK)
			io = conn_flush(&worker->to_client, worker);
	}
	sbuf_free(&out);
	server->proven = true;
	param_set_replace(&server->params, param_set_ref(settled));
	param_set_replace(&client->params, settled);
	if (io != CONN_IO_OK) {
		client_doom(client, CLIENT_CLOSE_IO);
	} else if (UNLIKELY(server->pool->database->held || client->cancelled) &&
	           !client->doomed) {
		/* The hold began meanwhile, or the client thought better of it, and nothing of the
		 * client has been sent. */
		client->in_session = false;
		server_release(server);
		pool_wait_first(client->pool, client);
	} else if (UNLIKELY(client->failed) && !client->doomed) {
		(void)pool_fail_block(server);
	} else {
		client_go_on(client);
	}
}

bool pool_serve(struct pool *pool, struct client *client)
{
	client->asked = pool->worker->now;
	if (!pool->database->held && !pool->worker->stopping &&
	    list_first(&pool->clients[CLIENT_WAITING]) == NULL) {
		struct server *server = pool_take_idle(pool, client->resends > 0);

		if (server != NULL)
			return pool_link(pool, server, client);
	}
	client_set_state(client, CLIENT_WAITING);
	if (!pool->database->held)
		pool_kick(pool);
	/* The kick may have linked it; what it has sent is still with the caller. */
	return client->server != NULL && !server_busy_inside(client->server);
}

void pool_wait_first(struct pool *pool, struct client *client)
{
	client_set_state(client, CLIENT_WAITING);
	list_remove(&pool->clients[CLIENT_WAITING], &client->node);
	list_prepend(&pool->clients[CLIENT_WAITING], &client->node);
	client->since = client->asked; /* it has never had what it waits for */
	if (UNLIKELY(client->cancelled))
		cancel_waiting(client);
	else if (pool->database->held)
		gate_count_held(client);
}

/* ---- room under the limits ---- */

static struct server *pool_oldest_idle(struct pool *pool)
{
	struct server *oldest = NULL;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (oldest == NULL || server->since < oldest->since)
			oldest = server;
	}
	return oldest;
}

struct evict_search {
	const struct pool_share *share;
	enum share_full full;
	struct server *found;
};

static void pool_evict_look(struct pool *pool, void *arg)
{
	struct evict_search *search = arg;
	const struct pool_share *share = search->share;
	struct server *server;

	if (pool->share == share ||
	    (search->full == FULL_DATABASE && pool->share->database != share->database) ||
	    (search->full == FULL_USER && pool->share->user_share != share->user_share) ||
	    pool->database->held)
		return;
	server = pool_oldest_idle(pool);
	if (server != NULL && server->counted &&
	    (search->found == NULL || server->since < search->found->since))
		search->found = server;
}

bool pool_evict(struct worker *worker, const struct pool_share *share, enum share_full full)
{
	struct evict_search search = {share, full, NULL};

	pool_for_each(worker, pool_evict_look, &search);
	if (search.found == NULL)
		return false;
	server_doom(search.found, SERVER_CLOSE_EVICTED);
	return true;
}

/* The limit of the database or user is reached: an unused connection of another pool makes room,
 * here or in another worker.  When it is closed, or at the next tick, the pool tries again. */
static void pool_make_room(struct pool *pool, enum share_full full)
{
	const struct proxy *proxy = pool->worker->proxy;

	if (full == FULL_POOL || pool_evict(pool->worker, pool->share, full) ||
	    pool->worker->now < pool->evict_at)
		return;
	pool->evict_at = pool->worker->now + EVICT_PAUSE;
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct mail_pool *mail;

		if (i == pool->worker->index)
			continue;
		mail = mail_new(sizeof(*mail), MAIL_EVICT);
		if (mail == NULL)
			return;
		mail->share = pool->share;
		mail->from = pool->worker->index;
		mail->full = full;
		mailbox_post(&proxy->workers[i].mailbox, &mail->letter);
	}
}

/* Connections beyond the limit that the pool may have now. */
static int pool_reserve(const struct pool *pool)
{
	const usec_t delay = pool->worker->routes->config->proxy.reserve_pool_timeout;
	static const enum client_state states[] = {CLIENT_WAITING, CLIENT_WELCOME};

	for (size_t i = 0; pool->reserve > 0 && delay > 0 && i < ARRAY_LEN(states); i++) {
		const struct list_node *node = list_first(&pool->clients[states[i]]);

		if (node != NULL &&
		    pool->worker->now - CONTAINER_OF(node, const struct client, node)->since >=
		        delay)
			return pool->reserve;
	}
	return 0;
}

static void pool_dial(struct pool *pool, size_t demand, size_t coming)
{
	const struct route *route = route_find(pool->worker->routes, pool->database->name);
	enum share_full full;
	struct list_node *node;
	struct list_node *tmp;

	if (route == NULL || pool->worker->now < pool->retry_at)
		return;
	for (int state = SERVER_DIALING; state <= SERVER_LOGIN; state++) {
		LIST_FOREACH(&pool->servers[state], node, tmp)
		{
			struct server *server = CONTAINER_OF(node, struct server, node);

			if (!server->for_swap && !server->stale)
				coming++;
		}
	}
	while (coming < demand) {
		if (!pool_share_take(pool->share, pool_reserve(pool), &full)) {
			pool_make_room(pool, full);
			return;
		}
		if (server_dial(pool, pool->worker->routes, route->server, false) == NULL)
			return;
		coming++;
	}
}

void pool_kick(struct pool *pool)
{
	struct list *waiting = &pool->clients[CLIENT_WAITING];
	size_t demand;

	if (pool->database->held || pool->worker->stopping)
		return;
	while (waiting->count > 0) {
		struct client *client = CONTAINER_OF(list_first(waiting), struct client, node);
		struct server *server;

		if (UNLIKELY(pool->database->pace > 0 &&
		             pool->database->active >= pool->database->pace)) {
			pool_publish_waiting(pool);
			return;
		}
		server = pool_take_idle(pool, client->resends > 0);
		if (server == NULL)
			break;
		/* After a release the order is that of arrival, wherever the servers are. */
		if (UNLIKELY(pool->database->pace > 0) && pool_give_older(pool, server))
			continue;
		if (pool_link(pool, server, client))
			client_go_on(client);
	}
	pool_publish_waiting(pool);
	demand = waiting->count;
	if (pool->welcome == NULL && pool->clients[CLIENT_WELCOME].count > 0)
		demand++;
	if (demand == 0)
		return;
	pool_ask(pool, 0);
	pool_dial(pool, demand, pool_check_idle(pool, demand));
}

static bool pool_has_clients(const struct pool *pool)
{
	for (int i = 0; i < CLIENT_STATE_COUNT; i++)
		if (pool->clients[i].count > 0)
			return true;
	return false;
}

/* One more at each tick, so that a start is no storm of logins. */
static void pool_keep_min(struct pool *pool)
{
	const struct route *route;
	enum share_full full;
	const int servers = atomic_load_explicit(&pool->share->servers, memory_order_relaxed);

	if (servers >= pool->min_size ||
	    servers >= atomic_load_explicit(&pool->share->limit, memory_order_relaxed) ||
	    pool->database->held || pool->worker->stopping || pool->worker->shutting_down ||
	    pool->worker->now < pool->retry_at ||
	    (pool->own_user ? !pool_has_clients(pool) : pool->worker->index != 0))
		return;
	route = route_find(pool->worker->routes, pool->database->name);
	if (route != NULL && pool_share_take(pool->share, 0, &full))
		(void)!server_dial(pool, pool->worker->routes, route->server, false);
}

void pool_make_standing(struct worker *worker)
{
	const struct route_table *routes = worker->routes;

	for (size_t i = 0; i < routes->count && worker->index == 0; i++) {
		const struct config_database *database = routes->routes[i].database;

		if (database->user[0] != '\0' &&
		    config_min_pool_size(routes->config, database) > 0 &&
		    strcmp(database->name, "*") != 0 &&
		    pool_get(worker, database->name, database->user) == NULL)
			return; /* no memory: they come with their clients */
	}
}

void pool_server_free(struct pool *pool, struct server *server)
{
	/* One that is new serves once, however short its lifetime is. */
	const bool fresh = server->state == SERVER_LOGIN;

	if (server->doomed)
		return;
	if (pool_outdated(pool, server) || pool->worker->stopping) {
		server_doom(server, SERVER_CLOSE_STALE);
		return;
	}
	if (gate_leaves_server(pool->database)) {
		server_doom(server, SERVER_CLOSE_MOVED);
		return;
	}
	if (pool->lifetime > 0 && !fresh && pool->worker->now - server->born > pool->lifetime) {
		server_doom(server, SERVER_CLOSE_LIFETIME);
		return;
	}
	if (server->cancelling) {
		server_set_state(server, SERVER_CANCELLED);
		return;
	}
	if (server->counted &&
	    atomic_load_explicit(&pool->share->servers, memory_order_relaxed) >
	        atomic_load_explicit(&pool->share->limit, memory_order_relaxed) + pool->reserve) {
		server_doom(server, SERVER_CLOSE_SURPLUS);
		return;
	}
	server_set_state(server, SERVER_IDLE);
	if (pool->database->held)
		return;
	if (pool_give_away(pool, server))
		return;
	if (UNLIKELY(pool->database->pace > 0))
		pool->database->pace++;
	if (pool->clients[CLIENT_WAITING].count > 0)
		pool_kick(pool);
}

/* ---- letters of other workers ---- */

void pool_asked(struct worker *worker, struct pool_share *share, unsigned from)
{
	struct pool *pool = pool_find_share(worker, share);
	struct server_parcel parcel = {.fd = -1};
	struct list_node *node = pool == NULL ? NULL : list_last(&pool->servers[SERVER_IDLE]);
	struct mail_server *mail;

	if (node == NULL || pool->database->held || pool->clients[CLIENT_WAITING].count > 0 ||
	    !server_pack(CONTAINER_OF(node, struct server, node), &parcel))
		parcel.fd = -1;
	mail = mail_new(sizeof(*mail), MAIL_SERVER);
	if (mail == NULL)
		abort(); /* as in pool_post_parcel() */
	mail->share = share;
	mail->parcel = parcel;
	mailbox_post(&worker->proxy->workers[from].mailbox, &mail->letter);
}

void pool_given(struct worker *worker, struct pool_share *share, struct server_parcel *parcel)
{
	struct pool *pool = pool_enter(worker, share->database->name, share->user,
				       share->internal);
	struct server *server;

	if (pool == NULL)
		abort(); /* it asked, so it exists */
	pool->asked = false;
	if (parcel->fd < 0) {
		pool_publish_waiting(pool);
		/* The others in their order; once round, so that nobody is asked for ever. */
		if (!pool->database->held &&
		    pool->clients[CLIENT_WAITING].count + pool->clients[CLIENT_WELCOME].count > 0)
			pool_ask(pool, pool->asked_last + 1);
		return;
	}
	server = server_unpack(parcel, pool);
	if (server != NULL) {
		/* A SWAP may have happened while it was on its way. */
		server->stale = server->stale || !gate_server_current(server);
		pool_server_free(pool, server);
	}
	pool_kick(pool);
}

/* ---- logins of servers ---- */

void pool_set_welcome(struct pool *pool, struct param_set *welcome)
{
	struct list *list = &pool->clients[CLIENT_WELCOME];

	param_set_replace(&pool->welcome, welcome);
	while (list->count > 0) {
		struct client *client = CONTAINER_OF(list_first(list), struct client, node);

		client_login_step(client);
		if (client->doomed)
			continue;
		if (client->state == CLIENT_WELCOME)
			break;
		client_go_on(client); /* what it has sent behind its login */
	}
}

/* Under a hold no server can be asked: what another user of the database was told is near enough,
 * and its first request settles the differences. */
void pool_find_welcome(struct pool *pool)
{
	struct list_node *node;
	struct list_node *tmp;

	if (!pool->database->held)
		return;
	LIST_FOREACH(&pool->database->pools, node, tmp)
	{
		struct pool *other = CONTAINER_OF(node, struct pool, node);

		if (other->welcome != NULL) {
			param_set_replace(&pool->welcome, param_set_ref(other->welcome));
			return;
		}
	}
}

static void pool_mail_learned(struct pool *pool)
{
	struct mail_welcome *mail = mail_new(sizeof(*mail), MAIL_LEARNED);

	if (mail == NULL)
		return;
	mail->database = strdup(pool->database->name);
	mail->user = strdup(pool->user);
	mail->params = param_set_encode(pool->welcome, &mail->params_len);
	if (mail->database == NULL || mail->user == NULL || mail->params == NULL)
		mail_free_welcome(mail);
	else
		mailbox_post(&pool->worker->proxy->mailbox, &mail->letter);
}

void pool_login_succeeded(struct pool *pool, struct server *server)
{
	if (server->for_swap)
		return;
	free(pool->last_error);
	pool->last_error = NULL;
	pool->failing_since = 0;
	pool->retry_at = 0;
	if (pool->welcome == server->params)
		return;
	pool_set_welcome(pool, param_set_ref(server->params));
	if (!pool->internal)
		pool_mail_learned(pool);
}

/* Errors that waiting does not mend: authentication, unknown database, missing privilege. */
static bool sqlstate_permanent(const char *sqlstate)
{
	return strncmp(sqlstate, "28", 2) == 0 || strncmp(sqlstate, "3D", 2) == 0 ||
	       strcmp(sqlstate, "42501") == 0 || strncmp(sqlstate, "0A", 2) == 0;
}

/*
 * How long clients wait while no server can be had; 0 = for ever.  A database that the server has
 * closed after its hold lapsed is in the middle of a move whose mover died: it will be opened
 * again, or the route will lead elsewhere, when the move is resumed or undone.
 */
static usec_t pool_patience(const struct pool *pool)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;

	return pool->database->lapsed && strcmp(pool->last_sqlstate, "55000") == 0
	           ? conf->query_wait_timeout
	           : conf->connect_timeout;
}

/* Those who wait since before `before` are told why there is no server. */
static void pool_refuse_waiting(struct pool *pool, usec_t before)
{
	const char *sqlstate = pool->last_sqlstate[0] == '\0' ? "08006" : pool->last_sqlstate;
	struct list_node *node;
	struct list_node *tmp;
	char text[512];

	(void)snprintf(text, sizeof(text), "could not get a server connection: %s",
	               pool->last_error);
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (client->since <= before)
			client_doom_fatal(client, CLIENT_CLOSE_NO_SERVER, sqlstate, text, NULL,
			                  NULL);
	}
	/* In order of age; a refused client may come back with its next request at the end. */
	for (size_t n = pool->clients[CLIENT_WAITING].count; n > 0; n--) {
		struct client *client;

		node = list_first(&pool->clients[CLIENT_WAITING]);
		if (node == NULL)
			break;
		client = CONTAINER_OF(node, struct client, node);
		if (client->since > before)
			break;
		client_refuse_request(client, sqlstate, text, NULL);
	}
}

void pool_server_failed(struct pool *pool, struct server *server, const char *error,
                        const char *sqlstate)
{
	usec_t now = pool->worker->now;

	log_warning("server %s %s/%s: %s", server->target->name, pool->database->name, pool->user,
	            error);
	if (server->for_swap) {
		free(pool->database->swap_error);
		pool->database->swap_error = strdup(error);
		return;
	}
	free(pool->last_error);
	pool->last_error = strdup(error);
	(void)snprintf(pool->last_sqlstate, sizeof(pool->last_sqlstate), "%s", sqlstate);
	pool->last_permanent = sqlstate_permanent(sqlstate);
	pool->retry_at = now + pool->worker->routes->config->proxy.server_login_retry;
	if (pool->failing_since == 0)
		pool->failing_since = now;
	/* Somebody else's server may still come free; without any there is no hope. */
	if (pool->last_permanent && pool->last_error != NULL && !pool->database->held &&
	    atomic_load_explicit(&pool->share->servers, memory_order_relaxed) <= 1)
		pool_refuse_waiting(pool, now);
}

/* ---- time ---- */

void pool_refuse_late(struct pool *pool, struct client *client)
{
	char text[512];

	if (pool->last_error == NULL) {
		client_refuse_request(client, "53300",
		                      "no server connection became free within "
		                      "query_wait_timeout",
		                      "Try the request again, or raise pool_size.");
		return;
	}
	(void)snprintf(text, sizeof(text),
	               "could not get a server connection within query_wait_timeout: %s",
	               pool->last_error);
	client_refuse_request(client, "57P03", text, "Try the request again.");
}

static void pool_tick_servers(struct pool *pool, usec_t now)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_LOGIN], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (now - server->since > conf->login_timeout) {
			pool_server_failed(pool, server, "the server did not finish the login", "");
			server_doom(server, SERVER_CLOSE_LOGIN_TIMEOUT);
		}
	}
	LIST_FOREACH(&pool->servers[SERVER_RESETTING], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		/* Nobody waits for it, so nobody would ever give up. */
		if (now - server->since > conf->login_timeout)
			server_doom(server, SERVER_CLOSE_RESET);
	}
	LIST_FOREACH(&pool->servers[SERVER_WARMING], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (now - server->since > conf->login_timeout)
			server_doom(server, SERVER_CLOSE_WARMED);
	}
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (conf->server_idle_timeout > 0 &&
		    now - server->since > conf->server_idle_timeout &&
		    atomic_load_explicit(&pool->share->servers, memory_order_relaxed) >
		        pool->min_size)
			server_doom(server, SERVER_CLOSE_IDLE);
		else if (pool->lifetime > 0 && now - server->born > pool->lifetime)
			server_doom(server, SERVER_CLOSE_LIFETIME);
		else if (pool_outdated(pool, server) && !pool->database->held)
			server_doom(server, SERVER_CLOSE_STALE);
	}
}

/* A RELOAD has taken the database away: who wants something of it is told. */
static void pool_tick_removed(struct pool *pool)
{
	static const enum client_state states[] = {CLIENT_WELCOME, CLIENT_WAITING};
	char text[128];

	if (pool->clients[CLIENT_WELCOME].count + pool->clients[CLIENT_WAITING].count == 0 ||
	    route_find(pool->worker->routes, pool->database->name) != NULL)
		return;
	(void)snprintf(text, sizeof(text), "database \"%.63s\" does not exist",
	               pool->database->name);
	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		while (pool->clients[states[i]].count > 0)
			client_doom_fatal(CONTAINER_OF(list_first(&pool->clients[states[i]]),
			                               struct client, node),
			                  CLIENT_CLOSE_DATABASE, "3D000", text,
			                  "It is no longer in the proxy's configuration.", NULL);
	}
}

void pool_tick(struct pool *pool, usec_t now)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;
	struct list_node *node;
	struct list_node *tmp;

	pool_tick_servers(pool, now);
	gate_trim(pool, now);
	pool_tick_removed(pool);
	if (UNLIKELY(pool->database->held))
		gate_tick_held(pool, now);
	timeout_tick(pool, now);
	LIST_FOREACH(&pool->clients[CLIENT_WELCOME], node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (conf->client_login_timeout > 0 &&
		    now - client->connected > conf->client_login_timeout)
			client_doom_fatal(client, CLIENT_CLOSE_LOGIN_TIMEOUT, "57P03",
			                  "the login timed out: no server connection to be had",
			                  pool->last_error, NULL);
	}
	if (pool->last_error != NULL && !pool->database->held) {
		usec_t patience = pool_patience(pool);

		if (pool->last_permanent &&
		    atomic_load_explicit(&pool->share->servers, memory_order_relaxed) == 0)
			pool_refuse_waiting(pool, now);
		else if (patience > 0)
			pool_refuse_waiting(pool, now - patience);
	}
	pool_kick(pool);
	if (pool->min_size > 0)
		pool_keep_min(pool);
}

static void pool_free(struct pool *pool)
{
	list_remove(&pool->database->pools, &pool->node);
	param_set_unref(pool->welcome);
	auth_user_unref(pool->auth_user);
	free(pool->last_error);
	free(pool->user);
	free(pool);
}

void pool_free_all(struct worker *worker)
{
	while (worker->databases.count > 0) {
		struct database *database =
		    CONTAINER_OF(list_first(&worker->databases), struct database, node);

		while (database->pools.count > 0)
			pool_free(CONTAINER_OF(list_first(&database->pools), struct pool, node));
		list_remove(&worker->databases, &database->node);
		route_table_unref(database->swap_routes);
		if (database->pace_timer != NULL)
			event_free(database->pace_timer);
		free(database->swap_error);
		free(database->name);
		free(database);
	}
}
