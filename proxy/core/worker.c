/* SPDX-License-Identifier: PostgreSQL */
#include "core/worker.h"

#include "auth/hba.h"
#include "auth/ident.h"
#include "auth/ldap.h"
#include "auth/userlist.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/accept.h"
#include "core/auth_query.h"
#include "core/cancel.h"
#include "core/client.h"
#include "core/compute.h"
#include "core/conn_tls.h"
#include "core/leave.h"
#include "core/mail.h"
#include "core/names.h"
#include "core/pace.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/relocate.h"
#include "core/route.h"
#include "core/seal.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/view.h"
#include "net/ring.h"

#include <assert.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_USEC 100000

uint64_t worker_new_client_id(struct worker *worker)
{
	return atomic_fetch_add_explicit(&worker->proxy->last_id, 1, memory_order_relaxed) + 1;
}

void worker_end_turn(struct worker *worker)
{
	/* Destroying one may doom another: until both lists are empty. */
	while (worker->doomed_clients.count > 0 || worker->doomed_servers.count > 0) {
		struct list_node *node = list_first(&worker->doomed_clients);

		if (node != NULL)
			client_destroy(CONTAINER_OF(node, struct client, node));
		node = list_first(&worker->doomed_servers);
		if (node != NULL)
			server_destroy(CONTAINER_OF(node, struct server, node));
	}
	assert(worker->to_client.conn == NULL && worker->to_server.conn == NULL);
}

/* A shutdown waits for those who have a server. */
static void worker_count_linked(struct worker *worker)
{
	struct list_node *node;
	struct list_node *tmp;
	size_t linked = 0;

	LIST_FOREACH(&worker->databases, node, tmp)
	{
		linked += CONTAINER_OF(node, struct database, node)->active;
	}
	atomic_store(&worker->linked, (unsigned)linked);
}

static void worker_leave_pool(struct pool *pool, void *arg)
{
	const struct worker *worker = arg;

	for (int state = 0; state < CLIENT_STATE_COUNT; state++) {
		struct list_node *node;
		struct list_node *tmp;

		if (!worker->leaving && (state == CLIENT_IDLE || state == CLIENT_ACTIVE))
			continue;
		LIST_FOREACH(&pool->clients[state], node, tmp)
		{
			client_leave_at_shutdown(CONTAINER_OF(node, struct client, node));
		}
	}
}

static void worker_tick_pool(struct pool *pool, void *arg)
{
	(void)arg;
	pool_tick(pool, pool->worker->now);
}

static void worker_tick(evutil_socket_t fd, short what, void *arg)
{
	struct worker *worker = arg;
	const usec_t limit = worker->routes->config->proxy.client_login_timeout;
	struct list_node *node;
	struct list_node *tmp;

	(void)fd;
	(void)what;
	worker->now = clock_now();
	mem_spare_fill();
	relocate_tick(worker);
	LIST_FOREACH(&worker->joining, node, tmp)
	{
		struct client *client = CONTAINER_OF(node, struct client, node);

		if (limit > 0 && worker->now - client->connected > limit)
			client_doom(client, CLIENT_CLOSE_LOGIN_TIMEOUT);
	}
	if (UNLIKELY(worker->standing_version != worker->routes->version)) {
		worker->standing_version = worker->routes->version;
		pool_make_standing(worker);
	}
	auth_query_tick(worker);
	gate_tick(worker);
	names_tick(worker);
	pool_for_each(worker, worker_tick_pool, NULL);
	LIST_FOREACH(&worker->databases, node, tmp)
	{
		struct database *database = CONTAINER_OF(node, struct database, node);

		session_tick(database);
		seal_tick(database);
		pace_tick(database);
	}
	/* Those who were not at a safe point, and have got there without their server: one of the
	 * proxy's own questions was answered, or its server has gone. */
	if (UNLIKELY(worker->leaving))
		pool_for_each(worker, worker_leave_pool, worker);
	worker_end_turn(worker);
	LIST_FOREACH(&worker->databases, node, tmp)
	{
		database_tick_idle(CONTAINER_OF(node, struct database, node), worker->now);
	}
	if (UNLIKELY(worker->shutting_down))
		worker_count_linked(worker);
}

/* ---- shutdown ---- */

/* No new requests: who is at a safe point leaves now, the others when they come to theirs.  As
 * pgbouncer does it, they leave with their next request instead. */
static void worker_shut_down(struct worker *worker)
{
	worker->shutting_down = true;
	worker->leaving = !worker->routes->config->proxy.as_pgbouncer;
	worker->console_only = true;
	accept_stop(worker, true);
	while (worker->joining.count > 0)
		client_doom_fatal(CONTAINER_OF(list_first(&worker->joining), struct client, node),
		                  CLIENT_CLOSE_SHUTDOWN, "57P03", "the proxy is shutting down",
		                  NULL, NULL);
	pool_for_each(worker, worker_leave_pool, worker);
	worker_count_linked(worker);
}

static void worker_doom_pool(struct pool *pool, void *arg)
{
	(void)arg;
	for (int state = 0; state < CLIENT_STATE_COUNT; state++) {
		while (pool->clients[state].count > 0) {
			struct client *client =
			    CONTAINER_OF(list_first(&pool->clients[state]), struct client, node);

			client_doom_theirs(client, CLIENT_CLOSE_SHUTDOWN, "57P01", "server shutting down",
					   "terminating connection due to administrator command",
					  "The proxy shuts down.", NULL);
		}
	}
	for (int state = 0; state < SERVER_STATE_COUNT; state++) {
		while (pool->servers[state].count > 0)
			server_doom(
			    CONTAINER_OF(list_first(&pool->servers[state]), struct server, node),
				    SERVER_CLOSE_SHUTDOWN);
	}
}

static void worker_stop(struct worker *worker)
{
	accept_stop(worker, false);
	worker->shutting_down = true;
	worker->stopping = true;
	while (worker->joining.count > 0)
		client_doom(CONTAINER_OF(list_first(&worker->joining), struct client, node),
			    CLIENT_CLOSE_SHUTDOWN);
	pool_for_each(worker, worker_doom_pool, NULL);
	worker_end_turn(worker);
	cancel_drop_all(worker);
	/* What was cancelled, as a look-up of a name, may still want to be called back. */
	(void)event_base_loopbreak(worker->base);
}

/* ---- letters ---- */

static void worker_welcome(struct worker *worker, struct mail_welcome *mail)
{
	struct pool *pool = route_find(worker->routes, mail->database) == NULL
				? NULL
				: pool_get(worker, mail->database, mail->user);
	struct param_set *set;

	if (pool == NULL ||
	    (pool->welcome != NULL && param_set_guesses_only(pool->welcome, NULL)))
		return;
	set = param_set_decode(worker->params, mail->params, mail->params_len);
	if (set != NULL && (pool->welcome == NULL || param_set_guesses_only(set, NULL)))
		pool_set_welcome(pool, set);
	else
		param_set_unref(set);
}

static void worker_take_users(struct worker *worker)
{
	struct proxy *proxy = worker->proxy;

	userlist_unref(worker->users);
	hba_unref(worker->hba);
	ident_unref(worker->ident);
	auth_ldap_unref(worker->ldap);
	(void)pthread_mutex_lock(&proxy->users_lock);
	worker->users = userlist_ref(proxy->users);
	worker->auth_type = proxy->auth_type;
	worker->hba = hba_ref(proxy->hba);
	worker->ident = ident_ref(proxy->ident);
	worker->ldap = auth_ldap_ref(proxy->ldap);
	(void)pthread_mutex_unlock(&proxy->users_lock);
}

static void worker_receive_database(struct worker *worker, struct mail_database *mail)
{
	switch ((enum mail_type)mail->letter.type) {
	case MAIL_HOLD:
		gate_hold(worker, mail->name, mail->epoch, mail->number != 0);
		break;
	case MAIL_RELEASE:
		gate_release(worker, mail->name, false);
		break;
	case MAIL_RETURN:
	case MAIL_RETURN_LAPSED:
		session_come_back(worker, mail->name, mail->epoch,
		                  mail->letter.type == MAIL_RETURN_LAPSED);
		break;
	case MAIL_SETTLE:
		gate_settle(worker, mail->name, mail->epoch);
		break;
	case MAIL_LAPSE:
		gate_release(worker, mail->name, true);
		break;
	case MAIL_RECONNECT:
		gate_reconnect(worker, mail->name);
		break;
	case MAIL_SECRET:
		pool_try_again(worker, mail->name);
		break;
	case MAIL_LEAVE:
		leave_databases(worker, mail->name);
		break;
	case MAIL_KILL:
		gate_kill(worker, mail->name);
		break;
	case MAIL_SUSPEND:
		worker->suspended = true;
		worker->suspend_answered = false;
		worker->suspend_epoch = mail->epoch;
		event_active(worker->stand_still, EV_TIMEOUT, 0);
		break;
	case MAIL_RESUME:
		worker->suspended = false;
		break;
	case MAIL_CANCEL_BLOCKERS:
		gate_blockers_cancel(worker, mail->name);
		break;
	case MAIL_TERMINATE_BLOCKERS:
		gate_blockers_terminate(worker, mail->name);
		break;
	case MAIL_KEEP_BLOCKERS:
		gate_blockers_keep(worker, mail->name);
		break;
	case MAIL_EVICT_HELD:
		gate_evict_held(worker, mail->name);
		break;
	case MAIL_SEAL:
		seal_database(worker, mail->name, mail->epoch);
		break;
	case MAIL_PREPARE:
		gate_prepare(worker, mail->name, mail->server, mail->token, mail->trial,
		             mail->leave, mail->seal);
		break;
	default:
		gate_prepare_end(worker, mail->name);
		break;
	}
	mail_free_database(mail);
}

static void worker_receive_server(struct worker *worker, struct mail_server *mail)
{
	if (worker->stopping)
		server_drop_parcel(&mail->parcel, mail->share);
	else
		pool_given(worker, mail->share, &mail->parcel);
	share_pool_unref(worker->proxy->shares, mail->share);
	free(mail);
}

static void worker_free_pool_letter(struct worker *worker, struct mail_pool *mail)
{
	share_pool_unref(worker->proxy->shares, mail->share);
	free(mail);
}

static void worker_receive_job(struct compute_job *job)
{
	job->done(job);
}

/* Letters that come when the worker has ended, or is about to. */
static void worker_drop_letter(struct worker *worker, struct letter *letter)
{
	switch ((enum mail_type)letter->type) {
	case MAIL_LISTEN:
	case MAIL_ACCEPT:
		(void)close(((struct mail_fd *)letter)->fd);
		break;
	case MAIL_ROUTES:
		route_table_unref(((struct mail_routes *)letter)->routes);
		break;
	case MAIL_SERVER:
		worker_receive_server(worker, (struct mail_server *)letter);
		return;
	case MAIL_WELCOME:
		mail_free_welcome((struct mail_welcome *)letter);
		return;
	case MAIL_CLIENT:
		relocate_drop(worker, (struct mail_client *)letter);
		return;
	case MAIL_VIEW:
		free(((struct mail_view *)letter)->database);
		break;
	case MAIL_COMPUTED:
		worker_receive_job((struct compute_job *)letter);
		return;
	case MAIL_EVICT:
	case MAIL_ROOM:
		worker_free_pool_letter(worker, (struct mail_pool *)letter);
		return;
	case MAIL_RECONNECT:
	case MAIL_LEAVE:
	case MAIL_KILL:
	case MAIL_SUSPEND:
	case MAIL_RESUME:
	case MAIL_HOLD:
	case MAIL_RELEASE:
	case MAIL_RETURN:
	case MAIL_RETURN_LAPSED:
	case MAIL_SETTLE:
	case MAIL_SEAL:
	case MAIL_LAPSE:
	case MAIL_CANCEL_BLOCKERS:
	case MAIL_TERMINATE_BLOCKERS:
	case MAIL_KEEP_BLOCKERS:
	case MAIL_EVICT_HELD:
	case MAIL_SECRET:
	case MAIL_PREPARE:
	case MAIL_PREPARE_END:
		mail_free_database((struct mail_database *)letter);
		return;
	default:
		break;
	}
	free(letter);
}

static void worker_receive(void *owner, struct letter *letter)
{
	struct worker *worker = owner;

	if (worker->stopping) {
		worker_drop_letter(worker, letter);
		return;
	}
	worker->now = clock_now();
	switch ((enum mail_type)letter->type) {
	case MAIL_LISTEN:
		accept_listen(worker, ((struct mail_fd *)letter)->fd);
		free(letter);
		break;
	case MAIL_ACCEPT:
		client_accept(worker, ((struct mail_fd *)letter)->fd, ((struct mail_fd *)letter)->readable);
		free(letter);
		break;
	case MAIL_RECONNECT:
	case MAIL_LEAVE:
	case MAIL_KILL:
	case MAIL_SUSPEND:
	case MAIL_RESUME:
	case MAIL_HOLD:
	case MAIL_RELEASE:
	case MAIL_RETURN:
	case MAIL_RETURN_LAPSED:
	case MAIL_SETTLE:
	case MAIL_SEAL:
	case MAIL_LAPSE:
	case MAIL_CANCEL_BLOCKERS:
	case MAIL_TERMINATE_BLOCKERS:
	case MAIL_KEEP_BLOCKERS:
	case MAIL_EVICT_HELD:
	case MAIL_SECRET:
	case MAIL_PREPARE:
	case MAIL_PREPARE_END:
		worker_receive_database(worker, (struct mail_database *)letter);
		break;
	case MAIL_ROUTES:
		gate_new_routes(worker, ((struct mail_routes *)letter)->routes);
		accept_tune(worker);
		free(letter);
		break;
	case MAIL_VIEW:
		view_answer(worker, (struct mail_view *)letter);
		break;
	case MAIL_WELCOME:
		worker_welcome(worker, (struct mail_welcome *)letter);
		mail_free_welcome((struct mail_welcome *)letter);
		break;
	case MAIL_REFUSE:
		accept_stop(worker, false);
		worker->refusing = true;
		free(letter);
		break;
	case MAIL_CONSOLE_ONLY:
		accept_stop(worker, true);
		worker->console_only = true;
		free(letter);
		break;
	case MAIL_SHUTDOWN:
		worker_shut_down(worker);
		free(letter);
		break;
	case MAIL_STOP:
		worker_stop(worker);
		free(letter);
		break;
	case MAIL_USERS:
		worker_take_users(worker);
		free(letter);
		break;
	case MAIL_COMPUTED:
		worker_receive_job((struct compute_job *)letter);
		break;
	case MAIL_SERVER_WANTED:
		pool_asked(worker, (struct mail_server *)letter);
		break;
	case MAIL_SERVER:
		worker_receive_server(worker, (struct mail_server *)letter);
		break;
	case MAIL_EVICT:
		(void)pool_evict(worker, ((struct mail_pool *)letter)->share,
				 (enum share_full)((struct mail_pool *)letter)->full);
		worker_free_pool_letter(worker, (struct mail_pool *)letter);
		break;
	case MAIL_ROOM:
		pool_room(worker, ((struct mail_pool *)letter)->share);
		worker_free_pool_letter(worker, (struct mail_pool *)letter);
		break;
	case MAIL_CLIENT:
		relocate_receive(worker, (struct mail_client *)letter);
		break;
	case MAIL_CANCEL:
		cancel_request(worker, &((struct mail_cancel *)letter)->ask);
		free(letter);
		break;
	default:
		abort(); /* a letter for the main thread */
	}
	worker_end_turn(worker);
}

static void worker_answer_suspend(struct worker *worker)
{
	struct mail_database *told = mail_must_new_database(MAIL_SUSPENDED, "");

	worker->suspend_answered = true;
	told->epoch = worker->suspend_epoch;
	mailbox_post(&worker->proxy->mailbox, &told->letter);
}

/* SUSPEND: nothing but letters is looked at until RESUME, or the end.  Not inside the callback of a
 * letter, behind which others of the same batch may lie.  RESUME and the next SUSPEND may come in
 * one batch: that SUSPEND is answered too. */
static void worker_stand_still(evutil_socket_t fd, short what, void *arg)
{
	struct worker *worker = arg;

	(void)fd;
	(void)what;
	conn_send_put_off(worker);
	while (worker->suspended && !worker->stopping) {
		if (!worker->suspend_answered)
			worker_answer_suspend(worker);
		mailbox_wait(&worker->mailbox);
	}
	worker->suspended = false;
	worker->now = clock_now();
}

static void worker_batch_end(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	conn_send_put_off(arg);
}

/* ---- life ---- */

static void worker_free(struct worker *worker)
{
	worker->ended = true;
	auth_query_free(worker);
	pool_free_all(worker);
	tally_free(&worker->tally);
	if (worker->tick != NULL)
		event_free(worker->tick);
	if (worker->stand_still != NULL)
		event_free(worker->stand_still);
	if (worker->batch_end != NULL)
		event_free(worker->batch_end);
	ring_free(worker->ring);
	names_close(worker);
	stmt_store_free(worker->stmts);
	param_pool_free(worker->params);
	route_table_unref(worker->routes);
	userlist_unref(worker->users);
	hba_unref(worker->hba);
	ident_unref(worker->ident);
	auth_ldap_unref(worker->ldap);
	free(worker->inbuf);
	conn_tls_io_free(worker->tls_io);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct letter *last = worker->last;

	log_set_worker(worker->index);
	/* Nobody cancels it.  glibc spends two locked instructions on each recv() and send() of a
	 * thread that could be cancelled there, and none when that could be anywhere. */
	(void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	(void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	(void)event_base_dispatch(worker->base);
	names_stop(worker);
	(void)event_base_loop(worker->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	worker_free(worker);
	mailbox_post(&worker->proxy->mailbox, last);
	return NULL;
}

void worker_join(struct worker *worker)
{
	(void)pthread_join(worker->thread, NULL);
}

void worker_close(struct worker *worker)
{
	mailbox_close(&worker->mailbox);
	event_base_free(worker->base);
}

static bool worker_make_base(struct worker *worker)
{
	struct event_config *conf = event_config_new();
	const struct timeval interval = {0, TICK_USEC};

	if (conf == NULL)
		return false;
	/* One thread only uses it: no locks. */
	(void)event_config_set_flag(conf, EVENT_BASE_FLAG_NOLOCK);
	worker->base = event_base_new_with_config(conf);
	event_config_free(conf);
	if (worker->base == NULL ||
	    !mailbox_open(&worker->mailbox, worker->base, worker_receive, worker))
		return false;
	if (!names_open(worker))
		return false;
	/* Containers may forbid it, and old kernels lack it: then each is sent by itself. */
	if (worker->routes->config->proxy.use_io_uring)
		worker->ring = ring_new();
	worker->batch_end = event_new(worker->base, -1, 0, worker_batch_end, worker);
	if (worker->batch_end == NULL)
		return false;
	worker->stand_still = event_new(worker->base, -1, 0, worker_stand_still, worker);
	if (worker->stand_still == NULL)
		return false;
	worker->tick = event_new(worker->base, -1, EV_PERSIST, worker_tick, worker);
	return worker->tick != NULL && event_add(worker->tick, &interval) == 0;
}

bool worker_start(struct worker *worker, struct proxy *proxy, unsigned index,
		  struct route_table *routes)
{
	sigset_t all;
	sigset_t before;
	int rc;

	worker->proxy = proxy;
	worker->index = index;
	worker->now = clock_now();
	atomic_init(&worker->linked, UINT_MAX);
	list_init(&worker->databases);
	list_init(&worker->joining);
	list_init(&worker->doomed_clients);
	list_init(&worker->doomed_servers);
	list_init(&worker->cancels);
	list_init(&worker->askers);
	list_init(&worker->names);
	worker->inbuf = malloc(WORKER_INBUF);
	worker->last = mail_new(sizeof(*worker->last), MAIL_STOPPED);
	worker->params = param_pool_new();
	worker->stmts = stmt_store_new();
	worker->routes = route_table_ref(routes);
	worker_take_users(worker);
	if (worker->inbuf == NULL || worker->last == NULL || worker->params == NULL ||
	    worker->stmts == NULL || !worker_make_base(worker)) {
		log_error("worker %u could not be started: out of memory or descriptors", index);
		return false;
	}
	/* Signals are the main thread's. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&worker->thread, NULL, worker_main, worker);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0) {
		log_error("worker %u could not be started: %s", index, strerror(rc));
		return false;
	}
	return true;
}
