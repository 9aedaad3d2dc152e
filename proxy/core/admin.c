/* SPDX-License-Identifier: PostgreSQL */
#include "core/admin.h"

#include "base/log.h"
#include "base/mem.h"
#include "core/admin_internal.h"
#include "core/handover.h"
#include "core/takeover.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long new parameters wait before they are written: many logins, one write. */
#define WELCOME_DELAY_SEC 2
/* A write that has failed is tried once more. */
#define SAVE_AGAIN (1 * USEC_PER_SEC)
#define WELCOME_MAX 10000

/* ---- requests ---- */

struct admin_request *request_new(struct admin *admin, admin_done_fn *done, void *arg)
{
	struct admin_request *request = mem_must_alloc(sizeof(*request));

	request->admin = admin;
	request->done = done;
	request->arg = arg;
	sbuf_init(&request->notice, 2048);
	list_append(&admin->working, &request->node);
	request->in = &admin->working;
	return request;
}

void request_move(struct admin_request *request, struct list *list)
{
	list_remove(request->in, &request->node);
	list_append(list, &request->node);
	request->in = list;
}

static void request_free(struct admin_request *request)
{
	list_remove(request->in, &request->node);
	if (request->timer != NULL)
		event_free(request->timer);
	if (request->has_rows)
		rowset_free(&request->rows);
	sbuf_free(&request->notice);
	free(request->server);
	free(request);
}

void admin_request_abandon(struct admin_request *request)
{
	request->done = NULL;
	if (request->in == &request->admin->working && request->server != NULL &&
	    request->token != 0)
		swap_abandon(request);
}

void admin_request_cancel(struct admin_request *request)
{
	struct admin *admin = request->admin;

	if (request->db != NULL && request->in == &request->db->waiters)
		hold_cancel(request);
	else if (request->in == &admin->pauses)
		pause_cancel(request);
	else if (request->in == &admin->working && request->waits_close)
		wait_close_cancel(request);
	else if (request->in == &admin->working && request->token != 0)
		swap_cancel(request);
}

/* Callbacks come from here only, so that no caller finds its own state changed under its feet. */
static void admin_answer_all(evutil_socket_t fd, short what, void *arg)
{
	struct admin *admin = arg;
	struct list_node *node;

	(void)fd;
	(void)what;
	while ((node = list_first(&admin->answered)) != NULL) {
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);
		struct admin_answer answer = {
		    .error = request->error.sqlstate[0] == '\0' ? NULL : &request->error,
		    .rows = request->has_rows ? &request->rows : NULL,
		    .notice = request->notice.len == 0 ? NULL : sbuf_text(&request->notice),
		};

		if (request->done != NULL)
			request->done(request->arg, &answer);
		request_free(request);
	}
}

struct event *admin_timer_new(struct admin *admin, event_callback_fn callback, void *arg)
{
	unsigned tries = 0;
	struct event *timer;

	while ((timer = event_new(admin->proxy->base, -1, 0, callback, arg)) == NULL)
		mem_wait(&tries, sizeof(*timer));
	return timer;
}

void admin_timer_add(struct event *timer, usec_t wait)
{
	const struct timeval tv = {(time_t)(wait / USEC_PER_SEC),
	                           (suseconds_t)(wait % USEC_PER_SEC)};
	unsigned tries = 0;

	while (event_add(timer, &tv) != 0)
		mem_wait(&tries, sizeof(*timer));
}

void request_set_timer(struct admin_request *request, event_callback_fn callback, usec_t wait)
{
	if (request->timer == NULL)
		request->timer = admin_timer_new(request->admin, callback, request);
	admin_timer_add(request->timer, wait);
}

void request_succeed(struct admin_request *request)
{
	request_move(request, &request->admin->answered);
	event_active(request->admin->answer_event, EV_TIMEOUT, 0);
}

void request_fail(struct admin_request *request, const char *sqlstate, const char *fmt, ...)
{
	va_list ap;

	(void)snprintf(request->error.sqlstate, sizeof(request->error.sqlstate), "%s", sqlstate);
	va_start(ap, fmt);
	(void)vsnprintf(request->error.message, sizeof(request->error.message), fmt, ap);
	va_end(ap);
	request_succeed(request);
}

void request_detail(struct admin_request *request, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(request->error.detail, sizeof(request->error.detail), fmt, ap);
	va_end(ap);
}

void request_hint(struct admin_request *request, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(request->error.hint, sizeof(request->error.hint), fmt, ap);
	va_end(ap);
}

/* ---- databases ---- */

struct admin_db *admin_find(struct admin *admin, const char *database)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (strcmp(db->name, database) == 0)
			return db;
	}
	return NULL;
}

static struct admin_db *admin_find_or_add(struct admin *admin, const char *database)
{
	struct admin_db *db = admin_find(admin, database);

	if (db != NULL)
		return db;
	db = mem_must_alloc(sizeof(*db));
	db->admin = admin;
	db->name = mem_must_strdup(database);
	db->origin = ROUTE_FROM_CONFIG;
	hold_init(db);
	list_append(&admin->databases, &db->node);
	return db;
}

struct admin_db *admin_know(struct admin *admin, const char *database)
{
	return admin_find_or_add(admin, database);
}

bool admin_has_database(struct admin *admin, const char *database)
{
	const struct admin_db *db = admin_find(admin, database);

	/* A database that a RELOAD took away can still be held, and must be releasable. */
	if (db != NULL && db->state != HOLD_OPEN)
		return true;
	return (db != NULL ||
	        (strcmp(database, ROUTE_FALLBACK) != 0 && !config_is_console(database))) &&
	       config_database_of(admin->proxy->config, database) != NULL;
}

bool request_find_db(struct admin_request *request, const char *database)
{
	struct admin *admin = request->admin;

	if (!admin_has_database(admin, database)) {
		request_hint(request, "SHOW DATABASES lists the databases of this proxy.");
		if (admin->proxy->config->proxy.as_pgbouncer)
			request_fail(request, "3D000", "no such database: %s", database);
		else
			request_fail(request, "3D000", "database \"%s\" does not exist", database);
		return false;
	}
	request->db = admin_find_or_add(admin, database); /* made: one of the fallback */
	return true;
}

void admin_post_all(struct admin_db *db, enum mail_type type, uint64_t epoch)
{
	struct proxy *proxy = db->admin->proxy;

	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct mail_database *mail = mail_must_new_database(type, db->name);

		mail->epoch = epoch;
		mail->number = db->paused ? 1 : 0;
		mailbox_post(&proxy->workers[i].mailbox, &mail->letter);
	}
}

const struct config_server *admin_db_server(const struct admin_db *db)
{
	const struct route *route = route_find(db->admin->proxy->routes, db->name);

	return route == NULL ? NULL : route->server;
}

/* ---- the state directory ---- */

static void welcome_write(evutil_socket_t fd, short what, void *arg)
{
	struct admin *admin = arg;
	struct state state = {.welcomes = admin->welcomes, .welcome_count = admin->welcome_count};
	struct sbuf text;
	size_t len;

	(void)fd;
	(void)what;
	if (admin->frozen)
		return; /* admin_thaw() makes up for it */
	sbuf_init_must(&text, STATE_FILE_MAX);
	state_format_welcome(&state, &text);
	len = text.len;
	if (sbuf_ok(&text))
		state_writer_save_welcome(admin->writer, sbuf_take(&text), len);
	sbuf_free(&text);
}

uint64_t admin_save(struct admin *admin)
{
	struct state state = {0};
	struct sbuf text;
	struct list_node *node;
	struct list_node *tmp;
	size_t len;

	if (event_pending(admin->welcome_timer, EV_TIMEOUT, NULL)) {
		(void)event_del(admin->welcome_timer);
		welcome_write(-1, 0, admin);
	}
	admin->unsaved = false;
	state.databases = mem_must_alloc((admin->databases.count + 1) * sizeof(*state.databases));
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (db->epoch == 0 && db->server == NULL && db->target == NULL &&
		    db->swap_to == NULL)
			continue;
		state.databases[state.database_count++] = (struct state_database){
		    .name = db->name,
		    .epoch = db->epoch,
		    .server = db->swap_to != NULL ? db->swap_to : db->server,
		    .target = db->swap_to != NULL ? NULL : db->target,
		    .held = db->state != HOLD_OPEN && !db->paused,
		    .lease = db->lease,
		    .policy = db->policy,
		};
	}
	sbuf_init_must(&text, STATE_FILE_MAX);
	state_format(&state, &text);
	free(state.databases);
	len = text.len;
	return state_writer_save(admin->writer, sbuf_take(&text), len);
}

void request_save(struct admin_request *request,
                  void (*saved)(struct admin_request *request, bool ok, const char *error))
{
	request->saved = saved;
	request->number = admin_save(request->admin);
	request_move(request, &request->admin->saving);
}

void request_fail_save(struct admin_request *request, const char *error)
{
	request_detail(request, "%s", error);
	request_hint(request, "Make room in the state directory or repair its permissions, then "
	                      "repeat the command.");
	request_fail(request, "58030", "the state directory could not be written");
}

void request_saved_holds(struct admin_request *request, bool ok, const char *error)
{
	if (ok)
		request_answer_holds(request);
	else
		request_fail_save(request, error);
}

static void save_again(evutil_socket_t fd, short what, void *arg)
{
	struct admin *admin = arg;

	(void)fd;
	(void)what;
	if (admin->unsaved && !admin->frozen) /* admin_thaw() makes up for it */
		(void)admin_save(admin);
}

/* What is on disk may be a hold that has been released since, with which a restart would come back: it
 * is tried until it is replaced. */
static void note_written(struct admin *admin, const struct state_written *written)
{
	if (written->ok) {
		admin->saved = written->number;
		if (admin->unwritable)
			log_info("the state directory can be written again");
	} else {
		if (!admin->unwritable)
			log_error("%s", written->error);
		admin->unsaved = true;
		admin_timer_add(admin->save_timer, SAVE_AGAIN);
	}
	admin->unwritable = !written->ok;
}

static void admin_on_written(struct admin *admin, struct state_written *written)
{
	struct list_node *node;
	struct list_node *tmp;

	note_written(admin, written);
	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (written->ok)
			hold_on_saved(db);
		else
			hold_on_save_failed(db, written->number, written->error);
	}
	LIST_FOREACH(&admin->saving, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->number > written->number)
			continue;
		request_move(request, &admin->working);
		request->saved(request, written->ok, written->error);
	}
	if (!written->ok)
		handover_not_written(admin->proxy->handover, written->number, written->error);
	free(written);
}

static void admin_box_receive(void *owner, struct letter *letter)
{
	struct admin *admin = owner;

	/* At the end nobody is left who could be told. */
	if (admin->ending && letter->type == ADMIN_STATE_WRITTEN)
		free(CONTAINER_OF(letter, struct state_written, letter));
	else if (admin->ending)
		check_free(CONTAINER_OF(letter, struct check, letter));
	else if (letter->type == ADMIN_STATE_WRITTEN)
		admin_on_written(admin, CONTAINER_OF(letter, struct state_written, letter));
	else
		swap_ask_answered(admin, CONTAINER_OF(letter, struct check, letter));
}

/* ---- parameters that clients of a held database log in with ---- */

static struct state_welcome *welcome_find(struct admin *admin, const char *database,
                                          const char *user)
{
	for (size_t i = 0; i < admin->welcome_count; i++) {
		if (strcmp(admin->welcomes[i].database, database) == 0 &&
		    strcmp(admin->welcomes[i].user, user) == 0)
			return &admin->welcomes[i];
	}
	return NULL;
}

static void welcome_post_all(struct admin *admin, const struct state_welcome *welcome)
{
	for (unsigned i = 0; i < admin->proxy->worker_count; i++) {
		struct mail_welcome *mail = mail_must_new(sizeof(*mail), MAIL_WELCOME);

		mail->database = mem_must_strdup(welcome->database);
		mail->user = mem_must_strdup(welcome->user);
		mail->params = mem_must_alloc(welcome->params_len + 1);
		memcpy(mail->params, welcome->params, welcome->params_len);
		mail->params_len = welcome->params_len;
		mailbox_post(&admin->proxy->workers[i].mailbox, &mail->letter);
	}
}

/* Remembers what a worker learned, and tells the other workers when it is news. */
static void admin_on_learned(struct admin *admin, struct mail_welcome *mail)
{
	struct state_welcome *welcome = welcome_find(admin, mail->database, mail->user);

	if (welcome != NULL && welcome->params_len == mail->params_len &&
	    memcmp(welcome->params, mail->params, mail->params_len) == 0) {
		mail_free_welcome(mail);
		return;
	}
	if (welcome == NULL && admin->welcome_count < WELCOME_MAX) {
		admin->welcomes =
		    mem_must_grow(admin->welcomes, admin->welcome_count + 1, sizeof(*welcome));
		welcome = &admin->welcomes[admin->welcome_count++];
		welcome->database = mail->database;
		welcome->user = mail->user;
		welcome->params = NULL;
		mail->database = NULL;
		mail->user = NULL;
	}
	if (welcome != NULL) {
		free(welcome->params);
		welcome->params = mail->params;
		welcome->params_len = mail->params_len;
		mail->params = NULL;
		welcome_post_all(admin, welcome);
		if (!event_pending(admin->welcome_timer, EV_TIMEOUT, NULL))
			admin_timer_add(admin->welcome_timer, WELCOME_DELAY_SEC * USEC_PER_SEC);
	}
	mail_free_welcome(mail);
}

void admin_receive(struct admin *admin, struct letter *letter)
{
	struct mail_database *mail;
	struct admin_db *db;

	switch ((enum mail_type)letter->type) {
	case MAIL_DRAINED:
		mail = CONTAINER_OF(letter, struct mail_database, letter);
		db = admin_find(admin, mail->name);
		if (db != NULL)
			hold_on_drained(db, mail->epoch, mail->worker, mail->number);
		mail_free_database(mail);
		break;
	case MAIL_UNDRAINED:
		mail = CONTAINER_OF(letter, struct mail_database, letter);
		db = admin_find(admin, mail->name);
		if (db != NULL)
			hold_on_undrained(db, mail->epoch, mail->worker);
		mail_free_database(mail);
		break;
	case MAIL_PINNED:
		mail = CONTAINER_OF(letter, struct mail_database, letter);
		db = admin_find(admin, mail->name);
		if (db != NULL)
			hold_on_pinned(db, mail->epoch, mail->text);
		mail_free_database(mail);
		break;
	case MAIL_PREPARED:
		mail = CONTAINER_OF(letter, struct mail_database, letter);
		swap_on_prepared(admin, mail);
		mail_free_database(mail);
		break;
	case MAIL_SUSPENDED:
		mail = CONTAINER_OF(letter, struct mail_database, letter);
		pause_on_suspended(admin, mail->epoch);
		mail_free_database(mail);
		break;
	case MAIL_ROWS:
		view_on_rows(admin, CONTAINER_OF(letter, struct mail_view, letter));
		break;
	case MAIL_LEARNED:
		admin_on_learned(admin, CONTAINER_OF(letter, struct mail_welcome, letter));
		break;
	default:
		log_error("letter of type %d came to the coordinator", letter->type);
		free(letter);
		break;
	}
}

/* ---- commands without a database ---- */

struct admin_request *admin_reload(struct admin *admin, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct sbuf errors;
	struct sbuf notes;

	sbuf_init(&errors, sizeof(request->error.detail));
	sbuf_init(&notes, 2048);
	if (proxy_reload(admin->proxy, &errors, &notes)) {
		if (notes.len > 0)
			sbuf_printf(&request->notice, "These settings need a restart: %s.",
			            sbuf_text(&notes));
		request_succeed(request);
	} else {
		request_detail(request, "%s", sbuf_text(&errors));
		request_hint(request, "Nothing was changed. Repair the file and repeat RELOAD.");
		request_fail(request, "F0000", "RELOAD failed, see logs for additional details");
	}
	sbuf_free(&errors);
	sbuf_free(&notes);
	return request;
}

struct admin_request *admin_shutdown(struct admin *admin, bool immediate, admin_done_fn *done,
                                     void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	request_succeed(request);
	proxy_shutdown(admin->proxy, immediate);
	return request;
}

struct admin_request *admin_shutdown_later(struct admin *admin, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);

	request_succeed(request);
	proxy_shutdown_later(admin->proxy);
	return request;
}

struct admin_request *admin_set(struct admin *admin, const char *name, const char *value,
                                admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct sbuf errors;
	char sqlstate[6] = "22023";

	sbuf_init(&errors, sizeof(request->error.detail));
	if (proxy_set(admin->proxy, name, value, sqlstate, &errors, &request->notice))
		request_succeed(request);
	else
		request_fail(request, sqlstate, "%s", sbuf_text(&errors));
	sbuf_free(&errors);
	return request;
}

/* ---- routes ---- */

struct route_table *admin_routes(struct admin *admin, struct config *config, struct sbuf *error)
{
	struct route_table *table = route_table_new(config);

	if (admin->proxy->routes != NULL)
		table->version = admin->proxy->routes->version + 1;
	for (size_t i = 0; i < table->count; i++) {
		struct route *route = &table->routes[i];
		struct admin_db *db = admin_find_or_add(admin, route->database->name);
		const struct config_server *server;

		route->epoch = db->epoch;
		if (db->server == NULL)
			continue;
		server = config_find_server(config, db->server);
		if (server == NULL) {
			sbuf_printf(error,
			            "database \"%s\" was swapped to server \"%s\" at epoch %" PRIu64
			            ", but the configuration does not know that server; add it to "
			            "the section servers",
			            db->name, db->server, db->epoch);
			route_table_unref(table);
			return NULL;
		}
		if (server != route->server)
			log_warning("database \"%s\": the configuration says server \"%s\", the "
			            "route is \"%s\" since the swap at epoch %" PRIu64,
			            db->name, route->server->name, server->name, db->epoch);
		route->server = server;
		route->origin = db->origin;
	}
	return table;
}

/* ---- life ---- */

static void admin_take_state(struct admin *admin, struct state *state)
{
	for (size_t i = 0; i < state->database_count; i++) {
		struct state_database *from = &state->databases[i];
		struct admin_db *db = admin_find_or_add(admin, from->name);

		db->epoch = from->epoch;
		db->server = mem_must_strdup(from->server);
		if (db->server != NULL)
			db->origin = ROUTE_FROM_STATE;
		if (from->held) {
			/* Without a hold nothing is left of a preparation: its connections died with
			 * the process, and who prepared has to do it again. */
			db->target = mem_must_strdup(from->target);
			db->state = HOLD_DRAINING;
			db->lease = from->lease;
			db->policy = from->policy;
		}
		if (config_find_database(admin->proxy->config, from->name) == NULL)
			log_warning("the state directory knows database \"%s\", the configuration "
			            "does not; its entry is kept",
			            from->name);
	}
	admin->welcomes = state->welcomes;
	admin->welcome_count = state->welcome_count;
	state->welcomes = NULL;
	state->welcome_count = 0;
	state_free(state);
}

static bool admin_open_events(struct admin *admin)
{
	struct event_base *base = admin->proxy->base;

	admin->answer_event = event_new(base, -1, 0, admin_answer_all, admin);
	admin->welcome_timer = event_new(base, -1, 0, welcome_write, admin);
	admin->save_timer = event_new(base, -1, 0, save_again, admin);
	admin->stats_timer = event_new(base, -1, EV_PERSIST, stats_sample, admin);
	return admin->answer_event != NULL && admin->welcome_timer != NULL &&
	       admin->save_timer != NULL &&
	       admin->stats_timer != NULL &&
	       mailbox_open(&admin->box, base, admin_box_receive, admin);
}

struct admin *admin_create(struct proxy *proxy, struct sbuf *error)
{
	struct admin *admin = mem_must_alloc(sizeof(*admin));
	const char *directory = proxy->config->proxy.state_directory;
	struct state state;

	admin->proxy = proxy;
	list_init(&admin->databases);
	list_init(&admin->asked);
	list_init(&admin->working);
	list_init(&admin->saving);
	list_init(&admin->answered);
	list_init(&admin->views);
	list_init(&admin->pauses);
	rowset_init(&admin->stats_old, VIEW_STATS);
	rowset_init(&admin->stats_new, VIEW_STATS);
	admin->stats_old_at = clock_now();
	admin->stats_new_at = admin->stats_old_at;
	if (proxy->takeover != NULL) {
		admin->lock_fd = proxy->takeover->lock_fd;
		proxy->takeover->lock_fd = -1;
	} else {
		admin->lock_fd = state_lock(directory, error);
	}
	if (admin->lock_fd < 0 || !state_read(directory, &state, error)) {
		if (admin->lock_fd >= 0)
			(void)close(admin->lock_fd);
		free(admin);
		return NULL;
	}
	/* Without events or a thread at start there is nothing to be saved or undone yet. */
	if (admin_open_events(admin))
		admin->writer = state_writer_start(directory, &admin->box, ADMIN_STATE_WRITTEN);
	if (admin->writer == NULL) {
		sbuf_add_str(error, "out of memory or threads");
		state_free(&state);
		(void)close(admin->lock_fd);
		free(admin);
		return NULL;
	}
	admin_take_state(admin, &state);
	return admin;
}

void admin_configured(struct admin *admin)
{
	const usec_t period = admin->proxy->config->proxy.stats_period;
	const struct timeval tv = {(time_t)(period / USEC_PER_SEC),
	                           (suseconds_t)(period % USEC_PER_SEC)};

	if (period == admin->stats_period)
		return;
	admin->stats_period = period;
	if (period == 0)
		(void)event_del(admin->stats_timer);
	else
		(void)event_add(admin->stats_timer, &tv);
}

void admin_start(struct admin *admin)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&admin->databases, node, tmp)
	{
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		if (db->state != HOLD_OPEN)
			hold_restore(db);
	}
	for (size_t i = 0; i < admin->welcome_count; i++)
		welcome_post_all(admin, &admin->welcomes[i]);
	admin_configured(admin);
}

static void admin_free_requests(struct list *list)
{
	struct list_node *node;

	while ((node = list_first(list)) != NULL)
		request_free(CONTAINER_OF(node, struct admin_request, node));
}

void admin_free(struct admin *admin)
{
	struct list_node *node;

	if (admin == NULL)
		return;
	admin->ending = true;
	if (event_pending(admin->welcome_timer, EV_TIMEOUT, NULL))
		welcome_write(-1, 0, admin);
	if (admin->unsaved && !admin->frozen)
		(void)admin_save(admin);
	state_writer_stop(admin->writer);
	while (check_running() > 0)
		(void)usleep(1000);
	mailbox_close(&admin->box);
	admin_free_requests(&admin->working);
	admin_free_requests(&admin->pauses);
	admin_free_requests(&admin->saving);
	admin_free_requests(&admin->answered);
	while ((node = list_first(&admin->views)) != NULL)
		view_wait_free(CONTAINER_OF(node, struct view_wait, node));
	while ((node = list_first(&admin->databases)) != NULL) {
		struct admin_db *db = CONTAINER_OF(node, struct admin_db, node);

		admin_free_requests(&db->waiters);
		hold_free(db);
		swap_free(db);
		list_remove(&admin->databases, node);
		free(db->name);
		free(db);
	}
	swap_ask_free(admin);
	for (size_t i = 0; i < admin->welcome_count; i++) {
		free(admin->welcomes[i].database);
		free(admin->welcomes[i].user);
		free(admin->welcomes[i].params);
	}
	free(admin->welcomes);
	rowset_free(&admin->stats_old);
	rowset_free(&admin->stats_new);
	event_free(admin->answer_event);
	event_free(admin->welcome_timer);
	event_free(admin->save_timer);
	event_free(admin->stats_timer);
	(void)close(admin->lock_fd);
	free(admin);
}
