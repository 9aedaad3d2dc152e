/* SPDX-License-Identifier: PostgreSQL */
/*
 * PREPARE SWAP, CANCEL SWAP, SWAP.
 *
 *   PREPARE   workers open connections to the target; meanwhile both servers are asked who they
 *             are, and the connection for that is kept to the target (swap_ask.c)
 *   SWAP      one question on the kept connection -> verdict -> state written -> new route table.
 *             Until the write has succeeded nothing has changed; from then on the swap is done.
 *             NOWAIT, if what is on disk is a hold without expiry: verdict -> new route table ->
 *             answer, and the write after it.  A crash in between comes back held on the old
 *             route, so that nobody goes on there, and RELEASE answers when all is written.
 */
#include "base/log.h"
#include "base/mem.h"
#include "core/admin_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest check of a server inside a hold, and of the old one, which may well be dead. */
#define CHECK_TARGET_MAX (5 * USEC_PER_SEC)
#define CHECK_SOURCE_MAX USEC_PER_SEC
#define PREPARE_NO_LIMIT (30 * USEC_PER_SEC)
/* There will be as many as there are now, and a host under load starts one after the other. */
#define PREPARE_EACH (100 * USEC_PER_MSEC)

static void replace_text(char **slot, const char *text)
{
	char *copy = mem_must_strdup(text);

	free(*slot);
	*slot = copy;
}

static void forget_check(struct admin_db *db)
{
	memset(&db->checked, 0, sizeof(db->checked));
	replace_text(&db->checked_name, NULL);
	swap_ask_trim(db->admin);
}

void swap_forget_target(struct admin_db *db)
{
	forget_check(db);
	if (db->target == NULL)
		return;
	replace_text(&db->target, NULL);
	admin_post_all(db, MAIL_PREPARE_END, db->epoch);
}

void swap_released(struct admin_db *db)
{
	if (db->target == NULL)
		forget_check(db);
}

void swap_free(struct admin_db *db)
{
	free(db->checked_name);
	free(db->server);
	free(db->target);
	free(db->swap_to);
	free(db->source_name);
}

/* What comes later finds nobody. */
static void no_answers(struct admin_request *request)
{
	request->token = 0;
	request->target_asked = 0;
	request->source_asked = 0;
}

static struct admin_request *find_working(struct admin *admin, uint64_t token)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->working, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->token == token && token != 0)
			return request;
	}
	return NULL;
}

static const struct config_server *find_server(struct admin_request *request, const char *name)
{
	const struct config_server *server =
	    config_find_server(request->admin->proxy->config, name);

	if (server == NULL) {
		request_hint(request, "The section servers of the configuration names them.");
		request_fail(request, "42704", "server \"%s\" does not exist", name);
	}
	return server;
}

/* ---- PREPARE SWAP ---- */

static void prepare_saved(struct admin_request *request, bool ok, const char *error)
{
	if (!ok) {
		request_fail_save(request, error);
		return;
	}
	request->has_rows = true;
	request_succeed(request);
}

/* With what the server says it is, so that whoever asked can see whether he means the same one. */
static void prepare_row(struct admin_request *request, const struct server_identity *identity)
{
	rowset_init(&request->rows, VIEW_PREPARED);
	rowset_text(&request->rows, request->db->name);
	rowset_text(&request->rows, request->server);
	rowset_int(&request->rows, request->opened);
	rowset_int(&request->rows, request->failed);
	rowset_text(&request->rows, identity->known ? identity->system_identifier : NULL);
	if (identity->known)
		rowset_int(&request->rows, identity->started);
	else
		rowset_null(&request->rows);
	rowset_end_row(&request->rows);
}

/* What SWAP would say today, as far as it can be known before the promotion. */
static void prepare_note_checks(struct admin_request *request)
{
	struct admin_db *db = request->db;

	if (request->check_error[0] != '\0')
		sbuf_printf(&request->notice, "The check of server \"%s\" failed: %s. ",
		            request->server, request->check_error);
	else if (db->checked.known && db->source.known &&
	         strcmp(db->checked.system_identifier, db->source.system_identifier) != 0)
		sbuf_printf(&request->notice,
		            "Server \"%s\" is not a copy of the present one: its system "
		            "identifier is %s, not %s. ",
		            request->server, db->checked.system_identifier,
		            db->source.system_identifier);
}

static void prepare_end(struct admin_request *request)
{
	const uint64_t token = request->token;

	if (request->timer != NULL)
		(void)event_del(request->timer);
	no_answers(request);
	prepare_note_checks(request);
	prepare_row(request, &request->db->checked);
	log_info("database \"%s\": %s a swap to \"%s\": %u connections, %u failed",
	         request->db->name, request->trial ? "tried the logins of" : "prepared for",
	         request->server, request->opened, request->failed);
	if (!request->trial) {
		request_save(request, prepare_saved);
		return;
	}
	if (request->db->target_token == token)
		swap_forget_target(request->db);
	prepare_saved(request, true, NULL);
}

static void prepare_answered(struct admin_request *request)
{
	if (--request->left == 0)
		prepare_end(request);
}

static void prepare_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct admin_request *request = arg;

	(void)fd;
	(void)what;
	sbuf_printf(&request->notice, "Not all connections were answered for in time. ");
	prepare_end(request);
}

void swap_on_prepared(struct admin *admin, struct mail_database *mail)
{
	struct admin_request *request = find_working(admin, mail->token);

	if (request == NULL)
		return;
	request->opened += mail->number;
	request->failed += mail->failed;
	if (mail->text != NULL && request->notice.len < 1000)
		sbuf_printf(&request->notice, "Worker %u: %s. ", mail->worker, mail->text);
	prepare_answered(request);
}

/* Asks one server for the request; counted in request->left. */
static void start_check(struct admin_request *request, const struct config_server *server,
                        uint64_t *asked, usec_t timeout)
{
	struct sbuf error;

	sbuf_init(&error, sizeof(request->check_error));
	*asked = swap_ask(request->admin, server, timeout, &error);
	if (*asked != 0)
		request->left++;
	else
		(void)snprintf(request->check_error, sizeof(request->check_error), "%s",
		               sbuf_text(&error));
	sbuf_free(&error);
}

static bool source_known(const struct admin_db *db, const struct config_server *source)
{
	return db->source.known && db->source_name != NULL && source != NULL &&
	       strcmp(db->source_name, source->name) == 0;
}

/* An answer is awaited for some time even where servers may take as long as they like. */
static usec_t limited(usec_t timeout)
{
	return timeout > 0 ? timeout : PREPARE_NO_LIMIT;
}

static void prepare_start(struct admin_request *request, const struct config_server *target)
{
	struct admin *admin = request->admin;
	struct admin_db *db = request->db;
	const struct config_proxy *config = &admin->proxy->config->proxy;
	const struct config_server *source = admin_db_server(db);
	const usec_t servers = (usec_t)atomic_load(&admin->proxy->server_count);
	usec_t wait = limited(config->connect_timeout) + limited(config->login_timeout) +
	              USEC_PER_SEC + servers * PREPARE_EACH;

	request->token = ++admin->last_token;
	db->target_token = request->token;
	memset(&db->checked, 0, sizeof(db->checked));
	request_set_timer(request, prepare_timeout, wait);
	for (unsigned i = 0; i < admin->proxy->worker_count; i++) {
		struct mail_database *mail = mail_must_new_database(MAIL_PREPARE, db->name);

		mail->server = mem_must_strdup(target->name);
		mail->token = request->token;
		mail->epoch = request->epoch;
		mail->trial = request->trial;
		mail->leave = request->leave;
		mail->seal = request->seal;
		request->left++;
		mailbox_post(&admin->proxy->workers[i].mailbox, &mail->letter);
	}
	if (check_possible(target))
		start_check(request, target, &request->target_asked, wait);
	else
		sbuf_printf(&request->notice,
		            "Server \"%s\" has no check_user: SWAP will need FORCE. ",
		            target->name);
	if (source != NULL && check_possible(source))
		start_check(request, source, &request->source_asked,
		            limited(config->connect_timeout));
	if (request->left == 0)
		prepare_end(request);
}

struct admin_request *admin_prepare_swap(struct admin *admin, const char *database,
                                         const char *server, const struct prepare_options *options,
                                         admin_done_fn *done, void *arg)
{
	const uint64_t epoch = options->epoch;
	static const struct server_identity unknown;
	struct admin_request *request = request_new(admin, done, arg);
	const struct config_server *target;
	struct admin_db *db;

	if (!request_may_change(request))
		return request;
	if (!request_find_db(request, database))
		return request;
	target = find_server(request, server);
	if (target == NULL)
		return request;
	db = request->db;
	/* Before its hold a move has a higher epoch than the database; an older one is stale. */
	if (epoch != ADMIN_EPOCH_NEXT &&
	    (db->state == HOLD_OPEN ? epoch <= db->epoch : epoch < db->epoch)) {
		request_detail(request, "The current epoch of database \"%s\" is %" PRIu64 ".",
		               db->name, db->epoch);
		request_fail(request, "55000", "epoch %" PRIu64 " is stale", epoch);
		return request;
	}
	if (db->swap_to != NULL) {
		request_fail(request, "55000", "a swap of database \"%s\" is under way", db->name);
		return request;
	}
	if (options->trial && db->target != NULL) {
		request_hint(request, "CANCEL SWAP closes what is prepared.");
		request_fail(request, "55000",
		             "a swap of database \"%s\" to server \"%s\" is prepared", db->name,
		             db->target);
		return request;
	}
	request->server = mem_must_strdup(server);
	request->epoch = epoch;
	request->trial = options->trial;
	request->leave = options->leave;
	request->seal = options->seal;
	if (target == admin_db_server(db)) {
		sbuf_printf(&request->notice, "Database \"%s\" is on server \"%s\" already.",
		            db->name, server);
		prepare_row(request, &unknown);
		prepare_saved(request, true, NULL);
		return request;
	}
	if (db->target != NULL && strcmp(db->target, server) != 0)
		swap_forget_target(db);
	replace_text(&db->target, server);
	prepare_start(request, target);
	return request;
}

struct admin_request *admin_cancel_swap(struct admin *admin, const char *database,
                                        admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	if (!request_find_db(request, database))
		return request;
	swap_forget_target(request->db);
	request_save(request, request_saved_holds);
	return request;
}

void swap_cancel(struct admin_request *request)
{
	/* A swap has changed nothing yet; answers that come later find nobody. */
	if (request->timer != NULL) {
		(void)event_del(request->timer);
		swap_forget_target(request->db);
		request_detail(request, "The connections that were opened are closed.");
	}
	no_answers(request);
	request_fail(request, "57014", "canceling statement due to user request");
}

/* A preparation for somebody who has gone, and never learned of it, would stay for good: it is
 * taken back, unless another has been made since.  A swap goes on. */
void swap_abandon(struct admin_request *request)
{
	if (request->timer != NULL && request->db->target_token == request->token)
		swap_cancel(request);
}

/* ---- SWAP ---- */

static void swap_look(evutil_socket_t fd, short what, void *arg);

/* With SESSIONS when these have what others, at another proxy too, could take from them. */
static void swap_answer(struct admin_request *request)
{
	request_move(request, &request->admin->working);
	if (request->sessions && request->epoch == request->db->epoch &&
	    hold_awaits_rest(request->db))
		request_set_timer(request, swap_look, HOLD_REST_LOOK);
	else
		request_answer_holds(request);
}

static void swap_look(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	swap_answer(arg);
}

/* The new route is the database's, and the workers learn of it.  False: the configuration has
 * another idea by now. */
static bool swap_apply(struct admin_request *request)
{
	struct admin_db *db = request->db;
	struct proxy *proxy = request->admin->proxy;
	struct route_table *table = route_table_copy(proxy->routes);
	struct route *route = route_find_mutable(table, db->name);
	const struct config_server *server = config_find_server(table->config, db->swap_to);

	if (route == NULL || server == NULL) {
		route_table_unref(table);
		replace_text(&db->swap_to, NULL);
		request_fail(request, "55000",
		             "the configuration changed while the swap was under way");
		return false;
	}
	log_warning("database \"%s\": swapped from server \"%s\" to \"%s\", epoch %" PRIu64
	            ", checked in %.1f ms, written in %.1f ms",
	            db->name, route->server->name, server->name, db->epoch,
	            (double)(request->checked - request->began) / USEC_PER_MSEC,
	            (double)(clock_now() - request->checked) / USEC_PER_MSEC);
	free(db->server);
	db->server = db->swap_to;
	db->swap_to = NULL;
	db->origin = ROUTE_FROM_SWAP;
	/* Back to where the hold began it is none. */
	db->swapped_epoch =
	    db->held_server != NULL && strcmp(db->held_server, db->server) == 0 ? 0 : db->epoch;
	db->swapped_at = clock_now();
	replace_text(&db->target, NULL);
	route->server = server;
	route->origin = ROUTE_FROM_SWAP;
	route->epoch = db->epoch;
	proxy_set_routes(proxy, table);
	/* What was learned of the target is what the next swap will compare with.  The connection
	 * is closed after the release: that costs the server time in which clients wait. */
	replace_text(&db->source_name, db->checked.known ? db->server : NULL);
	db->source = db->checked;
	swap_answer(request);
	return true;
}

/* The write is done: from here on the swap is. */
static void swap_saved(struct admin_request *request, bool ok, const char *error)
{
	struct admin_db *db = request->db;

	if (!ok) {
		replace_text(&db->swap_to, NULL);
		request_fail_save(request, error);
	}
	if (!ok || !swap_apply(request))
		(void)admin_save(request->admin);
	if (db->end_wanted) {
		hold_lapse(db);
		(void)admin_save(request->admin);
	}
}

static void swap_commit(struct admin_request *request)
{
	struct admin_db *db = request->db;

	request->checked = clock_now();
	replace_text(&db->swap_to, request->server);
	if (!request->nowait || !hold_is_forever(db))
		request_save(request, swap_saved);
	else if (swap_apply(request))
		(void)admin_save(request->admin);
}

/* True if the database is still held by the hold that the request began in. */
static bool swap_still_held(struct admin_request *request)
{
	struct admin_db *db = request->db;

	if (db->state == HOLD_HELD && db->epoch == request->epoch && db->swap_to == NULL)
		return true;
	request_fail(request, "55000", "the hold of database \"%s\" ended during the swap",
	             db->name);
	return false;
}

static void swap_judge(struct admin_request *request)
{
	static const struct server_identity unknown;
	struct admin_db *db = request->db;
	bool known = source_known(db, admin_db_server(db));
	struct sbuf reason;

	if (request->timer != NULL)
		(void)event_del(request->timer);
	no_answers(request);
	if (!swap_still_held(request))
		return;
	if (request->check_error[0] != '\0') {
		request_detail(request, "%s", request->check_error);
		request_hint(request, "Repeat SWAP when the server answers. FORCE swaps without "
		                      "any check.");
		request_fail(request, "55000", "server \"%s\" could not be checked",
		             request->server);
		return;
	}
	sbuf_init(&reason, sizeof(request->error.detail));
	if (check_verdict(known ? &db->source : &unknown, &db->checked, &reason)) {
		if (!known)
			sbuf_printf(&request->notice,
			            "The present server could not be asked: system identifier and "
			            "timeline of \"%s\" were not compared.",
			            request->server);
		swap_commit(request);
	} else {
		request_detail(request, "%s", sbuf_text(&reason));
		request_hint(request, "Promote the server, then repeat SWAP. FORCE swaps without "
		                      "any check.");
		request_fail(request, "55000", "server \"%s\" cannot take over database \"%s\"",
		             request->server, db->name);
	}
	sbuf_free(&reason);
}

void swap_on_checked(struct admin_request *request, const struct check *check, bool target)
{
	struct admin_db *db = request->db;
	/* A swap's target is not yet, or not at all, that of a PREPARE. */
	const bool preparing = request->timer != NULL;

	if (target) {
		db->checked = check->identity;
		replace_text(&db->checked_name, check->server);
		(void)snprintf(request->check_error, sizeof(request->check_error), "%s",
		               check->error);
	} else if (check->identity.known) {
		db->source = check->identity;
		replace_text(&db->source_name, check->server);
	} else {
		log_warning("server \"%s\" could not be asked who it is: %s", check->server,
		            check->error);
	}
	if (preparing)
		prepare_answered(request);
	else if (--request->left == 0)
		swap_judge(request);
}

/* The same swap once more, or one that cannot be: false after the request was ended. */
static bool swap_is_new(struct admin_request *request)
{
	struct admin_db *db = request->db;
	const struct config_server *now = admin_db_server(db);

	if (!hold_check_epoch(request, request->epoch))
		return false;
	if (db->swap_to != NULL) {
		request_hint(request, "Repeat SWAP when the other one has answered.");
		request_fail(request, "55000", "a swap of database \"%s\" is under way", db->name);
		return false;
	}
	/* Repeated: within its hold, or after its release by the epoch that it had. */
	if (now != NULL && strcmp(now->name, request->server) == 0 &&
	    (db->state == HOLD_HELD ||
	     (db->state == HOLD_OPEN && db->server != NULL && request->epoch == db->epoch))) {
		/* The first may have been NOWAIT. */
		if (request->nowait)
			swap_answer(request);
		else
			request_save(request, request_saved_holds);
		return false;
	}
	if (db->state != HOLD_HELD) {
		request_detail(request, "Its state is %s.", hold_state_name(db->state));
		request_hint(request, db->state == HOLD_OPEN
		                          ? "HOLD it first."
		                          : "Repeat HOLD, which answers when it is drained.");
		request_fail(request, "55000", "database \"%s\" is not held and drained", db->name);
		return false;
	}
	return true;
}

struct admin_request *admin_swap(struct admin *admin, const char *database, const char *server,
                                 const struct swap_options *options, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	const struct config_server *target;
	const struct config_server *source;
	struct admin_db *db;

	if (!request_may_change(request))
		return request;
	if (!request_find_db(request, database))
		return request;
	target = find_server(request, server);
	if (target == NULL)
		return request;
	db = request->db;
	if (admin->proxy->config->proxy.state_directory[0] == '\0') {
		request_hint(request, "Set state_directory, and start again.");
		request_fail(request, "55000",
		             "without a state directory the next start would undo the swap");
		return request;
	}
	if (config_find_database(admin->proxy->config, database) == NULL) {
		request_hint(request, "Give it an entry of its own, and RELOAD.");
		request_fail(request, "55000", "database \"%s\" has no entry in the configuration",
		             database);
		return request;
	}
	request->server = mem_must_strdup(server);
	request->epoch = options->epoch;
	request->nowait = options->nowait;
	request->sessions = options->sessions;
	request->began = clock_now();
	if (!swap_is_new(request))
		return request;
	request->epoch = db->epoch;
	if (options->force) {
		log_warning("database \"%s\": swap to \"%s\" is forced, without checks", db->name,
		            server);
		forget_check(db);
		swap_commit(request);
		return request;
	}
	if (!check_possible(target)) {
		request_hint(request,
		             "Set check_user of server \"%s\" in the configuration and RELOAD, or "
		             "swap without any check: SWAP … FORCE.",
		             server);
		request_fail(request, "55000",
		             "server \"%s\" cannot be checked: it has no "
		             "check_user",
		             server);
		return request;
	}
	request->token = ++admin->last_token;
	start_check(request, target, &request->target_asked, CHECK_TARGET_MAX);
	source = admin_db_server(db);
	if (source != NULL && !source_known(db, source) && check_possible(source))
		start_check(request, source, &request->source_asked, CHECK_SOURCE_MAX);
	if (request->left == 0)
		swap_judge(request);
	return request;
}
