/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgbouncer's commands over pools: PAUSE, RESUME, KILL, RECONNECT, WAIT_CLOSE, ENABLE, DISABLE,
 * SUSPEND.  Main thread.
 *
 * A pause is a hold without a lease and a drain deadline of its own, which is not written to the
 * state directory, and at whose end server connections are closed: the gate is that of HOLD, so
 * cancel requests, logins and held requests are as there.  A hold of somebody else's is never
 * paused, nor ended by RESUME.
 */
#include "base/log.h"
#include "base/mem.h"
#include "core/admin_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How often WAIT_CLOSE asks the workers. */
#define CLOSE_PERIOD_USEC 100000

static bool in_scope(const struct admin_request *request, const struct admin_db *db)
{
	return request->db == NULL || request->db == db;
}

static const char *scope_name(const struct admin_db *db)
{
	return db == NULL ? "" : db->name;
}

static void post_named(struct admin *admin, enum mail_type type, const char *name)
{
	for (unsigned i = 0; i < admin->proxy->worker_count; i++) {
		struct mail_database *mail = mail_must_new_database(type, name);

		mail->epoch = admin->suspend_epoch; /* only SUSPEND asks for it */
		mailbox_post(&admin->proxy->workers[i].mailbox, &mail->letter);
	}
}

/* Fails the request when somebody holds a database of its scope. */
static bool refuse_held(struct admin_request *request, const char *what)
{
	struct admin_db *db = request->db;

	if (db == NULL || db->state == HOLD_OPEN || db->paused)
		return false;
	request_hint(request, "See SHOW HOLDS; RELEASE ends a hold.");
	request_fail(request, "55000",
	             "database \"%s\" is held by HOLD, not by PAUSE: it cannot be %s", db->name,
	             what);
	return true;
}

/* ---- PAUSE ---- */

static void pause_tell_sessions(struct admin *admin, struct rowset *rows, void *arg)
{
	enum { DATABASE = 0, SV_ACTIVE = 6 };
	struct admin_request *request = arg;
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	struct list_node *node;
	struct list_node *tmp;
	long long sessions = 0;
	size_t offset = 0;

	while (rowset_next(rows, &offset, cells)) {
		LIST_FOREACH(&admin->databases, node, tmp)
		{
			const struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

			if (in_scope(request, db) && db->paused &&
			    rowset_cell_is(&cells[DATABASE], db->name))
				sessions += rowset_cell_int(&cells[SV_ACTIVE]);
		}
	}
	if (sessions == 1)
		sbuf_add_str(&request->notice,
		             "1 session keeps its server connection; RECONNECT moves it after RESUME");
	else if (sessions > 1)
		sbuf_printf(&request->notice,
		            "%lld sessions keep their server connection; RECONNECT moves them after RESUME",
		            sessions);
	request_succeed(request);
}

/* All is paused.  Who still has a server connection now is a session that does nothing. */
static void pause_answer(struct admin_request *request)
{
	struct admin *admin = request->admin;

	if (request->timer != NULL)
		(void)event_del(request->timer);
	request_move(request, &admin->working);
	view_ask(admin, VIEW_POOLS, NULL, pause_tell_sessions, request);
}

/* Answers the PAUSEs whose databases are all paused, or of which none is any more. */
void pause_check(struct admin *admin)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->pauses, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);
		struct list_node *at;
		struct list_node *next;
		bool paused = request->db == NULL && admin->paused_all;
		bool waits = false;

		LIST_FOREACH(&admin->databases, at, next)
		{
			const struct admin_db *db = CONTAINER_OF(at, struct admin_db, node);

			paused |= in_scope(request, db) && db->paused;
			waits |= in_scope(request, db) && db->paused && db->state != HOLD_HELD;
		}
		if (!paused)
			request_fail(request, "57014", "the pause was ended by RESUME");
		else if (!waits)
			pause_answer(request);
	}
}

static void resume_scope(struct admin *admin, struct admin_db *only, const char *reason)
{
	struct list_node *node;
	struct list_node *tmp;

	/* First: while one database after the other is opened, those left could look like all. */
	LIST_FOREACH(&admin->pauses, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (only == NULL || request->db == only)
			request_fail(request, "57014", "%s", reason);
	}
	if (only == NULL && admin->paused_all) {
		admin->paused_all = false;
		atomic_store(&admin->proxy->pause_new, false);
		/* Those of the fallback that came meanwhile. */
		post_named(admin, MAIL_RELEASE, "");
	}
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if ((only == NULL || only == db) && db->paused)
			hold_end(db, reason);
	}
	pause_check(admin);
}

static void pause_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct admin_request *request = arg;

	(void)fd;
	(void)what;
	request_hint(request,
	             "SHOW BLOCKERS database, before the time is over, names who is waited "
	             "for.");
	request_fail(request, "55P03",
	             "not paused within the time: transactions are still running; nothing is "
	             "paused");
	resume_scope(request->admin, request->db, "the pause ended at its time-out");
}

static void pause_begin(struct admin_request *request)
{
	struct admin *admin = request->admin;
	struct list_node *node;
	struct list_node *tmp;

	request_move(request, &admin->pauses);
	if (request->db == NULL) {
		admin->paused_all = true;
		atomic_store(&admin->proxy->pause_new, true);
	}
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (in_scope(request, db) && db->state == HOLD_OPEN &&
		    strcmp(db->name, ROUTE_FALLBACK) != 0)
			hold_pause(db);
	}
	if (request->limit > 0)
		request_set_timer(request, pause_timeout, request->limit);
	pause_check(admin);
}

/* The databases of the fallback that are in use are paused, too. */
static void pause_all_known(struct admin *admin, struct rowset *rows, void *arg)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	size_t offset = 0;

	while (rowset_next(rows, &offset, cells)) {
		char *name = strndup(cells[0].bytes, cells[0].len);

		if (name != NULL)
			(void)admin_know(admin, name);
		free(name);
	}
	pause_begin(arg);
}

struct admin_request *admin_pause(struct admin *admin, const char *database, usec_t limit,
                                  admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	if (!request_may_change(request))
		return request;
	request->limit = limit == ADMIN_TIME_DEFAULT ? 0 : limit;
	if (database != NULL &&
	    (!request_find_db(request, database) || refuse_held(request, "paused")))
		return request;
	if (database == NULL)
		view_ask(admin, VIEW_LOADS, NULL, pause_all_known, request);
	else
		pause_begin(request);
	return request;
}

void pause_cancel(struct admin_request *request)
{
	struct admin *admin = request->admin;
	struct admin_db *db = request->db;

	request_detail(request, "The pause was ended, and the clients go on.");
	request_fail(request, "57014", "canceling statement due to user request");
	resume_scope(admin, db, "the pause was cancelled");
}

/* ---- SUSPEND ---- */

bool admin_is_suspended(const struct admin *admin)
{
	return admin->suspended;
}

void pause_on_suspended(struct admin *admin, uint64_t epoch)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->working, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->suspends > 0 && epoch == admin->suspend_epoch &&
		    --request->suspends == 0)
			request_succeed(request);
	}
}

/* RESUME: a SUSPEND that still waits for a worker will get no answer from it. */
static void suspend_end(struct admin *admin)
{
	struct list_node *node;
	struct list_node *tmp;

	admin->suspended = false;
	post_named(admin, MAIL_RESUME, "");
	LIST_FOREACH(&admin->working, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->suspends > 0) {
			request->suspends = 0;
			request_fail(request, "57014", "RESUME ended the SUSPEND");
		}
	}
}

struct admin_request *admin_suspend(struct admin *admin, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	if (!request_may_change(request))
		return request;
	if (admin->suspended) {
		request_fail(request, "55000", "already suspended");
		return request;
	}
	if (admin->proxy->shutting_down) {
		request_fail(request, "08P01", "pooler is shutting down");
		return request;
	}
	admin->suspended = true;
	admin->suspend_epoch++;
	request->suspends = admin->proxy->worker_count;
	post_named(admin, MAIL_SUSPEND, "");
	return request;
}

/* ---- RESUME, KILL ---- */

struct admin_request *admin_resume(struct admin *admin, const char *database, admin_done_fn *done,
                                   void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct list_node *node;
	struct list_node *tmp;
	bool any = admin->suspended || admin->paused_all;

	if (admin->proxy->shutting_down && !admin->proxy->waits_clients) {
		request_fail(request, "08P01", "pooler is shutting down");
		return request;
	}
	if (database != NULL &&
	    (!request_find_db(request, database) || refuse_held(request, "resumed")))
		return request;
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		const struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		any |= in_scope(request, db) && db->paused;
	}
	if (!any)
		sbuf_add_str(&request->notice, "nothing was paused");
	if (database == NULL && admin->suspended)
		suspend_end(admin);
	resume_scope(admin, request->db, "the pause was ended by RESUME");
	request_succeed(request);
	return request;
}

struct admin_request *admin_kill(struct admin *admin, const char *database, admin_done_fn *done,
                                 void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct list_node *node;
	struct list_node *tmp;

	if (!request_may_change(request))
		return request;
	if (database != NULL && !request_find_db(request, database))
		return request;
	if (database == NULL) {
		admin->paused_all = true;
		atomic_store(&admin->proxy->pause_new, true);
	}
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (in_scope(request, db) && db->state == HOLD_OPEN &&
		    strcmp(db->name, ROUTE_FALLBACK) != 0)
			hold_pause(db);
	}
	post_named(admin, MAIL_KILL, scope_name(request->db));
	sbuf_printf(&request->notice, "new requests wait until %s",
	            request->db != NULL && !request->db->paused ? "RELEASE" : "RESUME");
	request_succeed(request);
	return request;
}

static void kill_client_done(struct admin *admin, struct rowset *rows, void *arg)
{
	struct admin_request *request = arg;

	if (rows->rows == 0 && (admin->proxy->console_kill == NULL ||
	                        !admin->proxy->console_kill(request->number)))
		request_fail(request, "08P01", "client not found");
	else
		request_succeed(request);
}

struct admin_request *admin_kill_client(struct admin *admin, int64_t id, admin_done_fn *done,
                                        void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	char text[24];

	if (id < 0) {
		request_hint(request, "SHOW CLIENTS has the id of every client.");
		request_fail(request, "08P01", "invalid client pointer supplied");
		return request;
	}
	request->number = (uint64_t)id;
	(void)snprintf(text, sizeof(text), "%lld", (long long)id);
	view_ask(admin, VIEW_KILLED, text, kill_client_done, request);
	return request;
}

/* ---- RECONNECT, WAIT_CLOSE ---- */

struct admin_request *admin_reconnect(struct admin *admin, const char *database,
                                      admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	if (database != NULL && !request_find_db(request, database))
		return request;
	post_named(admin, MAIL_RECONNECT, scope_name(request->db));
	request_succeed(request);
	return request;
}

static void close_ask(evutil_socket_t fd, short what, void *arg);

static void close_answer(struct admin *admin, struct rowset *rows, void *arg)
{
	struct admin_request *request = arg;
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	const size_t closing = view_info(VIEW_LOADS)->column_count - 1;
	int64_t left = 0;
	size_t offset = 0;

	while (rowset_next(rows, &offset, cells))
		left += rowset_cell_int(&cells[closing]);
	(void)admin;
	request->asking = false;
	if (request->cancelled)
		request_fail(request, "57014", "canceling statement due to user request");
	else if (left == 0 || request->done == NULL)
		request_succeed(request);
	else
		request_set_timer(request, close_ask, CLOSE_PERIOD_USEC);
}

static void close_ask(evutil_socket_t fd, short what, void *arg)
{
	struct admin_request *request = arg;

	(void)fd;
	(void)what;
	request->asking = true;
	view_ask(request->admin, VIEW_LOADS, request->db == NULL ? NULL : request->db->name,
	         close_answer, request);
}

struct admin_request *admin_wait_close(struct admin *admin, const char *database,
                                       admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	if (database != NULL && !request_find_db(request, database))
		return request;
	request->waits_close = true;
	close_ask(-1, 0, request);
	return request;
}

void wait_close_cancel(struct admin_request *request)
{
	request->cancelled = true;
	if (request->asking)
		return; /* close_answer() says so */
	if (request->timer != NULL)
		(void)event_del(request->timer);
	request_fail(request, "57014", "canceling statement due to user request");
}

/* ---- ENABLE, DISABLE ---- */

struct admin_request *admin_enable(struct admin *admin, const char *database, bool enable,
                                   admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct database_share *share;

	if (!request_find_db(request, database))
		return request;
	share = share_database(admin->proxy->shares, database);
	if (share == NULL) {
		request_fail(request, "53200", "out of memory");
		return request;
	}
	atomic_store(&share->disabled, !enable);
	share_database_unref(admin->proxy->shares, share);
	request_succeed(request);
	return request;
}
