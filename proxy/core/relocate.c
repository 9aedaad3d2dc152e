/* SPDX-License-Identifier: PostgreSQL */
#include "core/relocate.h"

#include "base/log.h"
#include "core/client.h"
#include "core/conn_tls.h"
#include "core/mail.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A worker sends clients away when it is busier than worker_fill by so many per mille of its time
 * (but not later than at SHED_LATEST), to one that is less busy by a third of that; ticks between
 * two decisions, so that the effect of one is seen before the next. */
#define SHED_MARGIN 150u
#define SHED_LATEST 950u
#define SHED_PAUSE 5u

struct relocated_stmt {
	char *name; /* "" is the unnamed statement */
	void *def;
	size_t len;
	uint32_t generation;
	struct param_digest settings;
};

struct mail_client {
	struct letter letter;
	struct client *client; /* its memory travels along */
	int fd;
	struct tls *tls;
	char *database;
	char *user;
	void *params;
	size_t params_len;
	struct relocated_stmt *stmts;
	size_t stmt_count;
};

/* ---- when ---- */

static unsigned relocate_measure(struct worker *worker)
{
	struct timespec ts;
	usec_t cpu;
	usec_t passed = worker->now - worker->tick_before;
	unsigned busy = atomic_load_explicit(&worker->busy, memory_order_relaxed);

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	cpu = (usec_t)ts.tv_sec * USEC_PER_SEC + ts.tv_nsec / 1000;
	if (worker->tick_before != 0 && passed > 0)
		busy = (busy + (unsigned)((cpu - worker->cpu_before) * 1000 / passed)) / 2;
	worker->cpu_before = cpu;
	worker->tick_before = worker->now;
	atomic_store_explicit(&worker->busy, busy, memory_order_relaxed);
	return busy;
}

static void relocate_count_working(struct pool *pool, void *arg)
{
	size_t *count = arg;

	*count += pool->clients[CLIENT_ACTIVE].count + pool->clients[CLIENT_WAITING].count;
}

void relocate_tick(struct worker *worker)
{
	const struct proxy *proxy = worker->proxy;
	const unsigned fill = (unsigned)worker->routes->config->proxy.worker_fill * 10;
	const unsigned above = fill + SHED_MARGIN < SHED_LATEST ? fill + SHED_MARGIN : SHED_LATEST;
	unsigned busy = relocate_measure(worker);
	unsigned least = busy;
	size_t working = 0;

	worker->shed = 0;
	if (worker->shed_pause > 0) {
		worker->shed_pause--;
		return;
	}
	if (busy < above || fill == 0)
		return;
	for (unsigned i = 0; i < proxy->worker_count; i++) {
		unsigned other =
		    atomic_load_explicit(&proxy->workers[i].busy, memory_order_relaxed);

		if (other < least) {
			least = other;
			worker->shed_to = i;
		}
	}
	if (least + above / 3 > busy)
		return;
	/* Half of the difference, and half of that: the rest in the next rounds. */
	pool_for_each(worker, relocate_count_working, &working);
	worker->shed = 1 + (unsigned)(working * (busy - least) / (4 * (size_t)busy));
	worker->shed_pause = SHED_PAUSE;
	log_debug("worker %u is busy for %u per mille: %u clients go to worker %u", worker->index,
	          busy, worker->shed, worker->shed_to);
}

/* ---- the way out ---- */

static void relocate_free(struct mail_client *mail)
{
	for (size_t i = 0; i < mail->stmt_count; i++) {
		free(mail->stmts[i].name);
		free(mail->stmts[i].def);
	}
	free(mail->stmts);
	free(mail->params);
	free(mail->database);
	free(mail->user);
	free(mail);
}

static bool relocate_add_stmt(struct mail_client *mail, const char *name, const struct stmt *stmt)
{
	struct relocated_stmt *to = &mail->stmts[mail->stmt_count];

	to->name = strdup(name);
	to->generation = stmt->generation;
	to->settings = stmt->settings;
	to->def = malloc(stmt->len);
	to->len = stmt->len;
	mail->stmt_count++;
	if (to->name == NULL || to->def == NULL)
		return false;
	memcpy(to->def, stmt->text, stmt->len);
	return true;
}

static bool relocate_add_stmts(struct mail_client *mail, const struct client_stmts *stmts)
{
	struct client_stmt_ref ref;
	struct stmt *unnamed = client_stmts_get_unnamed(stmts);
	size_t cursor = 0;

	mail->stmts = calloc(client_stmts_count(stmts) + 1, sizeof(*mail->stmts));
	if (mail->stmts == NULL)
		return false;
	while (client_stmts_next(stmts, &cursor, &ref)) {
		if (!relocate_add_stmt(mail, ref.name, ref.stmt))
			return false;
	}
	return unnamed == NULL || relocate_add_stmt(mail, "", unnamed);
}

/* Everything that belongs to this worker's pools, as bytes.  NULL: no memory, nothing changed. */
static struct mail_client *relocate_pack(struct client *client)
{
	struct mail_client *mail = mail_new(sizeof(*mail), MAIL_CLIENT);

	if (mail == NULL)
		return NULL;
	mail->database = strdup(client->pool->database->name);
	mail->user = strdup(client->pool->user);
	mail->params = param_set_encode(client->params, &mail->params_len);
	if (mail->database == NULL || mail->user == NULL || mail->params == NULL ||
	    (client->stmts != NULL && !relocate_add_stmts(mail, client->stmts))) {
		relocate_free(mail);
		return NULL;
	}
	return mail;
}

void relocate_client(struct client *client)
{
	struct worker *worker = client->worker;
	struct worker *target = &worker->proxy->workers[worker->shed_to];
	struct mail_client *mail;

	/* What the kernel does not take of it is then seen here. */
	conn_send_put_off(worker);
	if (client->doomed || client->state != CLIENT_IDLE || client->server != NULL ||
	    client->pool->session || client->seen != NULL || client->conn.eof ||
	    conn_kept(&client->conn) > 0 || conn_unsent(&client->conn) > 0 || client->conn.broken ||
	    client->boot != NULL || client->doubt != NULL || client->discard > 0 ||
	    client->discard_to_sync || worker->shutting_down || client->pool->database->held ||
	    client->pool->internal)
		return;
	mail = relocate_pack(client);
	if (mail == NULL)
		return;
	worker->shed--;
	list_remove(&client->pool->clients[client->state], &client->node);
	conn_forget_output(&worker->to_client, &client->conn);
	mail->tls = conn_take_tls(&client->conn);
	mail->fd = conn_detach(&client->conn, client->worker);
	mail->client = client;
	param_set_unref(client->params);
	client->params = NULL;
	client_stmts_free(client->stmts);
	client->stmts = NULL;
	client->pool = NULL;
	client->worker = NULL;
	atomic_fetch_sub(&worker->client_count, 1);
	atomic_fetch_add(&target->client_count, 1);
	share_slot_move(worker->proxy->shares, client->slot, target->index);
	mailbox_post(&target->mailbox, &mail->letter);
}

/* ---- the way in ---- */

static bool relocate_unpack(struct client *client, const struct mail_client *mail)
{
	struct worker *worker = client->worker;

	client->params = param_set_decode(worker->params, mail->params, mail->params_len);
	if (client->params == NULL)
		return false;
	for (size_t i = 0; i < mail->stmt_count; i++) {
		const struct relocated_stmt *from = &mail->stmts[i];
		struct stmt *stmt;
		bool good;

		if (!client_stmts_ensure(&client->stmts, worker->stmts))
			return false;
		stmt = stmt_store_intern_at(worker->stmts, from->def, from->len, from->generation,
		                            &from->settings);
		good = stmt != NULL &&
		       (from->name[0] == '\0'
		            ? client_stmts_set_unnamed(client->stmts, stmt, SIZE_MAX)
		            : client_stmts_set(client->stmts, from->name, strlen(from->name), stmt,
		                               SIZE_MAX) == CLIENT_STMTS_OK);
		stmt_unref(stmt);
		if (!good)
			return false;
	}
	return true;
}

void relocate_receive(struct worker *worker, struct mail_client *mail)
{
	struct client *client = mail->client;
	struct pool *pool = pool_get(worker, mail->database, mail->user);

	if (pool == NULL) {
		relocate_drop(worker, mail);
		return;
	}
	client->worker = worker;
	client->pool = pool;
	client->unnamed_id = 0; /* a number of the other worker's */
	client_set_state(client, CLIENT_IDLE);
	client->conn.tls = mail->tls;
	if (!conn_open(&client->conn, worker, mail->fd, client_event, client)) {
		client->conn.fd = mail->fd;
		client->conn.events = 0;
		client_doom(client, CLIENT_CLOSE_MEMORY);
	} else if (!relocate_unpack(client, mail)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
	} else if (worker->leaving) {
		client_leave_at_shutdown(client);
	}
	relocate_free(mail);
}

void relocate_drop(struct worker *worker, struct mail_client *mail)
{
	struct client *client = mail->client;

	tls_free(mail->tls);
	(void)close(mail->fd);
	share_slot_give_back(worker->proxy->shares, client->slot);
	if (client->counted) {
		struct database_share *share =
		    share_database(worker->proxy->shares, mail->database);

		if (share != NULL) /* always: it was counted in it */
			client_uncount(client, share);
		share_database_unref(worker->proxy->shares, share);
	}
	client_unadmit(mail->client, worker->proxy);
	atomic_fetch_sub(&worker->proxy->client_count, 1);
	atomic_fetch_sub(&worker->client_count, 1);
	free(client);
	relocate_free(mail);
}
