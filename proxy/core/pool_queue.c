/* SPDX-License-Identifier: PostgreSQL */
/*
 * Of a pool: which client gets which server, and which worker.  Worker thread; from other workers it
 * reads the atomics of struct pool_share only.
 */
#include "base/log.h"
#include "core/boot.h"
#include "core/cancel.h"
#include "core/keep.h"
#include "core/mail.h"
#include "core/pace.h"
#include "core/pool_internal.h"
#include "core/promise.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/session_move.h"
#include "core/trial.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>

/* Another worker's client must have waited so much longer before it gets a server that somebody
 * waits for here as well: moving one costs more than a small query. */
#define FAIR_USEC ((usec_t)5000)

/* A server that was idle for longer is looked at before it gets a request. */
#define PEEK_AFTER ((usec_t)200000)

/* So long after a check a server needs none. */
#define CHECK_HOLDS USEC_PER_SEC

/* ---- what the other workers see ---- */

void pool_publish_idle(struct pool *pool)
{
	if (pool->worker->proxy->worker_count > 1)
		atomic_store_explicit(&pool->share->worker[pool->worker->index].idle,
		                      (int)pool->servers[SERVER_IDLE].count, memory_order_seq_cst);
	if (UNLIKELY(pool->session)) {
		/* (Of the promised ones a few may be in a check.) */
		const int idle = (int)pool->servers[SERVER_IDLE].count - (int)pool->promised;

		atomic_store_explicit(&pool->share->worker[pool->worker->index].unpromised,
				      idle > 0 ? idle : 0, memory_order_relaxed);
	}
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
	struct mail_server *mail;
	unsigned to = 0;

	if (pool->worker->proxy->worker_count == 1 || !pool_find_starving(pool, &to))
		return false;
	mail = mail_new(sizeof(*mail), MAIL_SERVER);
	if (mail == NULL || !server_pack(server, &mail->parcel)) {
		free(mail);
		return false;
	}
	/* Nobody else gives one for the same need; who still starves says so again. */
	atomic_store_explicit(&pool->share->worker[to].waiting_since, 0, memory_order_relaxed);
	mail->share = pool_share_ref(pool->share);
	mailbox_post(&pool->worker->proxy->workers[to].mailbox, &mail->letter);
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
bool pool_ask(struct pool *pool, unsigned first, bool login)
{
	const struct worker *me = pool->worker;

	if (pool->asked || me->proxy->worker_count == 1)
		return pool->asked;
	for (unsigned i = first; i < me->proxy->worker_count; i++) {
		struct pool_share_worker *other = &pool->share->worker[i];
		struct mail_server *mail;

		if (i == me->index || atomic_load_explicit(login ? &other->unpromised : &other->idle,
							   memory_order_seq_cst) == 0)
			continue;
		mail = mail_new(sizeof(*mail), MAIL_SERVER_WANTED);
		if (mail == NULL)
			return false;
		mail->share = pool_share_ref(pool->share);
		mail->from = me->index;
		mail->login = login;
		pool->asked = true;
		pool->asked_login = login;
		pool->asked_last = i;
		mailbox_post(&me->proxy->workers[i].mailbox, &mail->letter);
		return true;
	}
	return false;
}

/* ---- giving servers to clients ---- */

/* Fails if the role has been dropped (42704). */
static const char pool_role_query[] = "SELECT session_user";

/* Its role may be one that was dropped. */
static bool pool_doubts_role(const struct pool *pool, const struct server *server)
{
	return UNLIKELY(server->doubted) ||
	       UNLIKELY(server->role_losses !=
	                atomic_load_explicit(&pool->share->role_losses, memory_order_relaxed));
}

/* Unused for so long that its connection may have been lost on the way, or its role in doubt. */
static bool pool_wants_check(const struct pool *pool, const struct server *server)
{
	const struct config_proxy *conf = &pool->worker->routes->config->proxy;

	const usec_t unused = pool->worker->now - server->since;

	if (pool_doubts_role(pool, server))
		return true;
	return UNLIKELY(unused >= conf->server_check_delay) &&
	       conf->server_check_query[0] != '\0' && !(server->checked && unused < CHECK_HOLDS);
}

/* Not one for whose client it would be too early. */
static bool pool_may_check(const struct pool *pool, const struct server *server, bool promised)
{
	const bool early = server->promised != NULL && server->promised->state != CLIENT_WAITING &&
			   !promise_yields(pool, server, NULL, pool->worker->now);

	return !early && (server->promised != NULL) == promised && !pool_outdated(pool, server) &&
	       pool_wants_check(pool, server);
}

/* Has as many idle servers checked as clients wait for one; those that were promised first. */
static size_t pool_check_idle(struct pool *pool, size_t demand)
{
	const char *text = pool->worker->routes->config->proxy.server_check_query;
	const char *query = strcmp(text, CONFIG_EMPTY_QUERY) == 0 ? "" : text;
	size_t checking = 0;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_RESETTING], node, tmp)
	{
		enum server_task task = CONTAINER_OF(node, struct server, node)->task;

		if (task == SERVER_TASK_CHECK || task == SERVER_TASK_ROLE)
			checking++;
	}
	for (int promised = pool->session ? 1 : 0; promised >= 0; promised--) {
		LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
		{
			struct server *server = CONTAINER_OF(node, struct server, node);

			if (checking >= demand)
				break;
			if (!pool_may_check(pool, server, promised > 0))
				continue;
			if (pool_doubts_role(pool, server)
			        ? server_start_task(server, SERVER_TASK_ROLE, pool_role_query)
			        : server_start_task(server, SERVER_TASK_CHECK, query))
				checking++;
		}
	}
	return checking;
}

enum pool_fit {
	FITS,
	FITS_NOT,
	FITS_CHECKED, /* perhaps, after a check */
};

static enum pool_fit pool_look(struct pool *pool, struct server *server,
			       const struct client *client)
{
	/* A server has just ended in its hands. */
	const bool suspicious = client->resends > 0;

	if (pool_outdated(pool, server)) {
		server_doom(server, SERVER_CLOSE_STALE);
		return FITS_NOT;
	}
	if (UNLIKELY(server->boot != client->boot) && !boot_accepts(pool, server, client))
		return FITS_NOT;
	if (pool_wants_check(pool, server))
		return FITS_CHECKED;
	if (UNLIKELY(suspicious || conn_has_news(&server->conn) ||
		     pool->worker->now - server->since > PEEK_AFTER) &&
	    conn_seems_dead(&server->conn, pool->worker)) {
		server_doom(server, SERVER_CLOSE_PEER);
		return FITS_NOT;
	}
	return FITS;
}

/* The one that was promised to the client. */
static struct server *pool_take_promised(struct pool *pool, const struct client *client)
{
	struct server *server = promise_of(client);

	return LIKELY(server == NULL) || server->state != SERVER_IDLE ||
		       pool_look(pool, server, client) != FITS
		   ? NULL
		   : server;
}

/* It is being checked, or will be. */
static bool pool_checks_promised(const struct pool *pool, const struct client *client)
{
	const struct server *server = promise_of(client);

	return UNLIKELY(server != NULL) && pool->worker->now - client->asked < CHECK_HOLDS &&
	       (server->state != SERVER_IDLE || pool_wants_check(pool, server));
}

struct server *pool_take_idle(struct pool *pool, const struct client *client)
{
	struct server *server = pool_take_promised(pool, client);
	struct list_node *node;
	struct list_node *tmp;
	bool skipped = false;

	if (server != NULL || pool_checks_promised(pool, client))
		return server;
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		enum pool_fit fit;

		server = CONTAINER_OF(node, struct server, node);
		if (UNLIKELY(server->promised != NULL) && server->promised != client) {
			skipped = true;
			continue;
		}
		fit = pool_look(pool, server, client);
		if (LIKELY(fit == FITS))
			return server;
		if (fit == FITS_CHECKED)
			return NULL; /* pool_check_idle() does it; those behind it need it, too */
	}
	if (LIKELY(!skipped))
		return NULL;
	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		server = CONTAINER_OF(node, struct server, node);
		if (promise_yields(pool, server, client, client->asked) &&
		    pool_look(pool, server, client) == FITS)
			return server;
	}
	return NULL;
}

struct server *pool_find_unpromised(struct pool *pool, const struct client *client)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (server->promised == NULL && pool_look(pool, server, client) != FITS_NOT)
			return server;
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

/* The server has what the client asked for: from now on they have the same, and the client is told
 * what is otherwise than it was told before.  False: the client is doomed. */
static bool pool_settle(struct server *server, struct client *client)
{
	struct worker *worker = server->worker;
	struct param_set *settled =
	    param_set_settle(worker->params, client->params, server->params);
	struct sbuf out;
	enum conn_io io = CONN_IO_OK;

	if (settled == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return false;
	}
	/* What it has not asked for, the server has by itself. */
	server->may_set &= client->chosen;
	if (UNLIKELY(server->defaulted))
		pool_learn_defaults(server, (uint16_t)~client->chosen);
	sbuf_init(&out, PARAM_MAX_SQL);
	if (param_set_write_status_diff(settled, client->params, &out) > 0 && !sbuf_ok(&out)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
	} else if (out.len > 0) {
		io = conn_send_copy(&worker->to_client, &client->conn, worker, sbuf_text(&out),
		                    out.len);
		if (io == CONN_IO_OK)
			io = conn_flush(&worker->to_client, worker);
	}
	sbuf_free(&out);
	param_set_replace(&server->params, param_set_ref(settled));
	param_set_replace(&client->params, settled);
	if (io != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	return !client->doomed;
}

/* What the client is to have.  What it never asked for is what the server has by itself, and what
 * others have SET of that is RESET (to what connect_query has set, if there is one). */
static struct param_set *pool_wanted(struct server *server, const struct client *client,
                                     struct sbuf *sql)
{
	struct param_pool *params = server->worker->params;
	const struct route *route = route_find(server->routes, server->pool->database->name);
	const uint16_t doubted = LIKELY(client->doubt == NULL) ? 0 : client->doubt->bits;
	const uint16_t chosen = client->chosen & (uint16_t)~doubted;
	const uint16_t others =
	    (server->may_set | server->reloaded | doubted) & (uint16_t) ~(chosen | SERVER_RELOADED);
	const uint16_t differing = param_bits_differing(client->params, server->params);
	struct param_set *want;
	struct param_set *has;

	server->synced = (differing | server->reloaded) & chosen;
	server->may_set |= server->synced;
	server->defaulted = ((differing | others) & ~chosen) != 0;
	if (!server->defaulted)
		return param_set_ref(client->params);
	has = param_set_adopt(params, client->params, server->params, (uint16_t)~chosen);
	if (has == NULL || others == 0)
		return has;
	if (route == NULL || route->database->connect_query[0] == '\0') {
		param_reset_sql(others, server->params, sql);
		return has;
	}
	want = param_set_adopt(params, has, server->pool->welcome, others);
	param_set_unref(has);
	return want;
}

/* Sets what differs.  True: nothing does; false: it is being set, or the client is doomed. */
static bool pool_sync(struct server *server, struct client *client)
{
	struct param_set *want;
	struct sbuf sql;
	bool good;
	bool settled;

	sbuf_init(&sql, PARAM_MAX_SQL);
	want = pool_wanted(server, client, &sql);
	if (want != NULL)
		(void)param_set_sync_again_sql(want, server->params,
		                               server->reloaded & client->chosen, &sql);
	server->reloaded = 0;
	good = want != NULL && sbuf_ok(&sql); /* what was not written down at all has no length */
	settled = good && sql.len == 0;
	if (!good)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else if (!settled)
		(void)!server_inject_query(server, sbuf_text(&sql), sql.len);
	param_set_unref(want);
	sbuf_free(&sql);
	return settled;
}

/* True: nothing differs; false: it is being set, or the client is doomed. */
static bool pool_settle_doubt(struct server *server, struct client *client)
{
	if (LIKELY(client->doubt == NULL))
		return true;
	change_settle_doubt(server);
	return !client->doomed && pool_sync(server, client);
}

/* Links them.  True: the client may send at once; false: parameters are being set first. */
static bool pool_link(struct pool *pool, struct server *server, struct client *client)
{
	pool->stats.assigned++;
	if (client->state == CLIENT_WAITING) {
		pool->stats.wait_usec += (uint64_t)(pool->worker->now - client->since);
		histogram_add(&pool->stats.wait_times, pool->worker->now - client->since);
	}
	server_link(server, client);
	client->in_session = pool->session;
	if (UNLIKELY(pool->session))
		boot_used(pool, client);
	if (LIKELY(client->params == server->params && (server->may_set & ~client->chosen) == 0 &&
	           client->doubt == NULL))
		return LIKELY(!client->failed) || pool_fail_block(server);
	if (!pool_sync(server, client) || !pool_settle_doubt(server, client))
		return false;
	return pool_settle(server, client) && (LIKELY(!client->failed) || pool_fail_block(server));
}

/* The server did not take what the client asked for. */
static void pool_sync_failed(struct server *server, struct client *client)
{
	char text[512];
	char sqlstate[sizeof(server->error_sqlstate)];

	if (server_has_leftover(server, server->error_sqlstate)) {
		client->in_session = false;
		server_unlink(server);
		server_doom(server, SERVER_CLOSE_LEFTOVER);
		pool_wait_first(client->pool, client);
		return;
	}
	(void)snprintf(text, sizeof(text), "%s", server->error);
	memcpy(sqlstate, server->error_sqlstate, sizeof(sqlstate));
	server_release(server); /* perhaps to another worker */
	client_doom_fatal(client, CLIENT_CLOSE_PARAMETERS, sqlstate, text,
	                  "A parameter that this connection asked for was refused by the "
	                  "server.",
	                  NULL);
}

/* A reload has shown meanwhile: of what the client has asked for, what was equal differs now. */
static bool pool_was_reloaded(struct server *server, const struct client *client)
{
	const uint16_t bits = param_bits_differing(client->params, server->params) &
	                      client->chosen & (uint16_t)~server->synced;

	if (LIKELY(bits == 0) || client->in_session)
		return false;
	pool_reloaded(server, bits);
	return true;
}

void pool_sync_done(struct server *server)
{
	struct client *client = server->client;

	if (UNLIKELY(server->failing)) {
		pool_block_failed(server, client);
		return;
	}
	if (server->error != NULL) {
		pool_sync_failed(server, client);
		return;
	}
	server->proven = true;
	if (!pool_settle_doubt(server, client))
		return;
	if ((UNLIKELY(pool_was_reloaded(server, client)) && !pool_sync(server, client)) ||
	    !pool_settle(server, client))
		return;
	if (UNLIKELY(server->pool->database->held || client->cancelled) && !client->doomed) {
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

/* Who waits for a server, whichever; not those whose session waits for its own. */
static struct client *pool_first_waiting(const struct pool *pool)
{
	const struct list *waiting = &pool->clients[CLIENT_WAITING];
	struct list_node *node;
	struct list_node *tmp;

	if (LIKELY(waiting->count == 0))
		return NULL;
	LIST_FOREACH(waiting, node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (LIKELY(pool->parked == 0) || !session_is_parked(client))
			return client;
	}
	return NULL;
}

static size_t pool_count_waiting(const struct pool *pool)
{
	const struct list *waiting = &pool->clients[CLIENT_WAITING];
	size_t count = waiting->count;
	struct list_node *node;
	struct list_node *tmp;

	if (LIKELY(pool->parked == 0))
		return count;
	LIST_FOREACH(waiting, node, tmp)
	{
		if (session_is_parked(CONTAINER_OF(node, struct client, node)))
			count--;
	}
	return count;
}

bool pool_serve(struct pool *pool, struct client *client)
{
	client->asked = pool->worker->now;
	if (UNLIKELY(client->move != NULL) && session_is_parked(client)) {
		client_set_state(client, CLIENT_WAITING); /* for its session's server */
		session_called(client);
		return false;
	}
	if (!pool->database->held && !pool->worker->stopping && !pace_reached(pool->database) &&
	    !pace_yields(pool->database)) {
		struct server *server = LIKELY(pool_first_waiting(pool) == NULL)
					    ? pool_take_idle(pool, client)
					    : pool_take_promised(pool, client);

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

void pool_kick(struct pool *pool)
{
	struct client *client;
	size_t demand;
	bool login;

	if (pool->database->held || pool->worker->stopping)
		return;
	while ((client = pool_first_waiting(pool)) != NULL) {
		struct server *server;

		if (UNLIKELY(client->conn.eof) && conn_peer_left(&client->conn)) {
			client_doom(client, CLIENT_CLOSE_PEER);
			continue;
		}
		if (pace_reached(pool->database)) {
			pool_publish_waiting(pool);
			return;
		}
		if (pace_yields(pool->database))
			break;
		server = pool_take_idle(pool, client);
		if (server == NULL)
			break;
		/* After a release the order is that of arrival, wherever the servers are. */
		if (pace_is_release(pool->database) && pool_give_older(pool, server))
			continue;
		if (pool_link(pool, server, client))
			client_go_on(client);
	}
	pool_publish_waiting(pool);
	demand = pool_count_waiting(pool);
	/* Which takes nobody's promised server. */
	login = pool->session && demand == 0;
	if (UNLIKELY(pool->clients[CLIENT_WELCOME].count > 0) && trial_wants_server(pool))
		demand++;
	if (demand == 0) {
		limit_leave(pool);
		return;
	}
	if (UNLIKELY(pace_yields(pool->database))) {
		/* One is tried until the server lets it in; the others follow then. */
		pool_dial(pool, 1, pool->servers[SERVER_IDLE].count);
		return;
	}
	(void)pool_ask(pool, 0, login);
	pool_dial(pool, demand, pool_check_idle(pool, demand));
}

/* Whom a server that has just logged in serves although there was a RECONNECT meanwhile: who had
 * asked before it.  If they come faster than logins are done, nobody would ever be served.  NULL:
 * nobody. */
static struct client *pool_served_once(struct pool *pool, struct server *server)
{
	struct client *client = pool_first_waiting(pool);

	return client != NULL && client->since <= pool->database->reconnect_at && !server->stale &&
	               !server->spoilt && !server->unlisted && !pool->database->held &&
	               !pool->worker->stopping && !pace_reached(pool->database) &&
	               !pace_yields(pool->database) && boot_accepts(pool, server, client)
	           ? client
	           : NULL;
}

void pool_server_free(struct pool *pool, struct server *server)
{
	const bool fresh = server->state == SERVER_LOGIN;

	if (server->doomed)
		return;
	if (pool_outdated(pool, server) || pool->worker->stopping) {
		struct client *client = fresh ? pool_served_once(pool, server) : NULL;

		if (client == NULL)
			server_doom(server, SERVER_CLOSE_STALE);
		else if (pool_link(pool, server, client))
			client_go_on(client);
		return;
	}
	if (UNLIKELY(pool->database->held) && gate_leaves_server(pool->database)) {
		server_doom(server, SERVER_CLOSE_MOVED);
		return;
	}
	/* Everyone serves once, however short its lifetime is. */
	if (pool->lifetime > 0 && server->used &&
	    pool->worker->now - server->born > pool->lifetime) {
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
	if (UNLIKELY(share_is_queued(pool->share)) && server->counted && !fresh &&
	    limit_yields(pool)) {
		server_doom(server, SERVER_CLOSE_EVICTED);
		return;
	}
	if (!pool->database->held && pool_doubts_role(pool, server)) {
		(void)!server_start_task(server, SERVER_TASK_ROLE, pool_role_query);
		return;
	}
	server_set_state(server, SERVER_IDLE);
	if (pool->database->held)
		return;
	if (pool_give_away(pool, server))
		return;
	if (pace_is_release(pool->database))
		pool->database->pace++;
	if (pool->clients[CLIENT_WAITING].count + pool->clients[CLIENT_WELCOME].count > 0)
		pool_kick(pool);
	if (UNLIKELY(pool->clients[CLIENT_WELCOME].count > 0))
		pool_let_in(pool);
}

/* ---- letters of other workers ---- */

/* One for another worker, whose first client waits since `since`. */
static struct server *pool_spare(struct pool *pool, usec_t since, bool login)
{
	struct server *spare = NULL;
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&pool->servers[SERVER_IDLE], node, tmp)
	{
		struct server *server = CONTAINER_OF(node, struct server, node);

		if (server->promised == NULL ||
		    (!login && (spare == NULL || spare->promised != NULL) &&
		     promise_yields(pool, server, NULL, since)))
			spare = server;
	}
	return spare;
}

void pool_asked(struct worker *worker, struct mail_server *mail)
{
	struct pool *pool = pool_find_share(worker, mail->share);
	const usec_t since = atomic_load_explicit(&mail->share->worker[mail->from].waiting_since,
						  memory_order_relaxed);
	struct server *server =
	    pool == NULL ? NULL : pool_spare(pool, since == 0 ? worker->now : since, mail->login);

	if (server == NULL || pool->database->held || pool->clients[CLIENT_WAITING].count > 0 ||
	    !server_pack(server, &mail->parcel))
		mail->parcel.fd = -1;
	mail->letter.type = MAIL_SERVER;
	mailbox_post(&worker->proxy->workers[mail->from].mailbox, &mail->letter);
}

/* The next worker in their order; once round, so that nobody is asked for ever. */
static void pool_ask_others(struct pool *pool)
{
	if (!pool->database->held &&
	    pool->clients[CLIENT_WAITING].count + pool->clients[CLIENT_WELCOME].count > 0 &&
	    pool_ask(pool, pool->asked_last + 1, pool->asked_login))
		return;
	if (pool->asked_login && pool->clients[CLIENT_WAITING].count > 0)
		pool_kick(pool); /* these would take others, too */
	if (pool->clients[CLIENT_WELCOME].count > 0)
		pool_let_in(pool);
}

void pool_given(struct worker *worker, struct pool_share *share, struct server_parcel *parcel)
{
	struct pool *pool = pool_find_share(worker, share);
	struct server *server;

	if (pool == NULL) { /* given without a question, and since then given up */
		server_drop_parcel(parcel, share);
		return;
	}
	pool->asked = false;
	if (parcel->fd < 0) {
		pool_publish_waiting(pool);
		pool_ask_others(pool);
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
