/* SPDX-License-Identifier: PostgreSQL */
/*
 * HOLD, RENEW, RELEASE: the state of each database's gate as the operator sees it.
 *
 * Rules of epochs: an epoch names one hold, and only grows.  A command with an older one is
 * refused, so that an operator (or a mover) who was given up cannot act on his successor's hold.
 */
#include "base/log.h"
#include "base/mem.h"
#include "core/admin_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Blockers that an error names. */
#define BLOCKERS_NAMED 5

/* From the opening of the gate to the write that says so. */
#define RELEASE_WRITE_DELAY (100 * USEC_PER_MSEC)
/* From the swap, or the end of a hold without one: how long the opening of the gate waits for
 * sessions with locks or channels, when none of them gets any, and in all.  Those without are ended
 * then: others may have had them.  Behind a hold that ended with its lease both begin anew whenever
 * the server says that it is closed: a mover that has died may have left a fence, which others wait
 * for, too; and clients of other proxies wait for as long (pace_yields()). */
#define REST_PATIENCE (3 * USEC_PER_SEC)
#define REST_MOST (5 * USEC_PER_SEC)

/* How often is looked whether SUSPEND is over. */
#define SUSPENDED_LOOK (10 * USEC_PER_MSEC)

/* After cancel or terminate the blockers have at least so long to go away. */
#define DRAIN_AGAIN_MIN USEC_PER_SEC

const char *hold_state_name(enum hold_state state)
{
	static const char *const names[] = {
	    [HOLD_OPEN] = "open",
	    [HOLD_DRAINING] = "draining",
	    [HOLD_HELD] = "held",
	};

	return names[state];
}

static const char *policy_name(const struct admin_db *db)
{
	return config_drain_policy_name((enum config_drain_policy)db->policy);
}

static void timer_set(struct event *timer, usec_t wait)
{
	if (wait > 0)
		admin_timer_add(timer, wait);
	else
		(void)event_del(timer);
}

static void hold_set_state(struct admin_db *db, enum hold_state state)
{
	if (db->state == state)
		return;
	log_info("database \"%s\": %s -> %s, epoch %" PRIu64, db->name, hold_state_name(db->state),
	         hold_state_name(state), db->epoch);
	db->state = state;
}

/* The lease begins anew. */
static void hold_set_lease(struct admin_db *db, usec_t lease)
{
	db->lease = lease;
	db->lease_end = lease == ADMIN_LEASE_NONE ? 0 : clock_now() + lease;
	if (lease != ADMIN_LEASE_NONE)
		db->forever_number = 0;
	timer_set(db->lease_timer, lease);
}

bool hold_is_forever(const struct admin_db *db)
{
	return db->state == HOLD_HELD && db->lease == ADMIN_LEASE_NONE && db->forever_number > 0 &&
	       db->forever_number <= db->admin->saved;
}

/* What a swap in the hold leads away from, or back to. */
static void hold_note_route(struct admin_db *db)
{
	const struct config_server *server = admin_db_server(db);

	free(db->held_server);
	db->held_server = server == NULL ? NULL : mem_must_strdup(server->name);
}

/* The gate stays as it is until the hold has been written: clients need not wait for a disk. */
static void hold_begin(struct admin_db *db, uint64_t epoch)
{
	if (db->state == HOLD_OPEN)
		db->began = 0;
	else if (db->swapped_epoch == db->epoch)
		db->swapped_epoch = epoch; /* sessions are as the hold before has left them */
	if (db->state == HOLD_OPEN) {
		hold_note_route(db);
		db->sealed = false;
	}
	db->lapsing = false;
	db->epoch = epoch;
	db->gate_closed = false;
	db->drain_acted = false;
	db->end_wanted = false;
	db->forever_number = 0;
	memset(db->drained, 0, sizeof(db->drained));
	db->drained_count = 0;
	db->unsettled = 0;
	db->settled = false;
	(void)event_del(db->drain_timer);
	hold_set_state(db, HOLD_DRAINING);
}

static void hold_close_gate(struct admin_db *db)
{
	/* A hold that takes another over finds the gates closed: clients have waited since then. */
	if (db->began == 0)
		db->began = clock_now();
	db->gate_closed = true;
	(void)event_del(db->open_timer); /* it stays closed */
	db->gate_token = ++db->admin->last_token;
	timer_set(db->drain_timer, db->drain);
	admin_post_all(db, MAIL_HOLD, db->epoch);
}

int hold_rest(const struct admin_db *db)
{
	struct share_registry *shares = db->admin->proxy->shares;
	struct database_share *share = share_database(shares, db->name);
	int rest = share == NULL ? 0 : atomic_load(&share->rest);

	share_database_unref(shares, share);
	return rest;
}

static usec_t hold_closed_at(const struct admin_db *db)
{
	struct share_registry *shares = db->admin->proxy->shares;
	struct database_share *share = share_database(shares, db->name);
	usec_t at = share == NULL ? 0 : atomic_load(&share->closed_at);

	share_database_unref(shares, share);
	return at;
}

static void hold_forget_opened(const struct admin_db *db)
{
	struct share_registry *shares = db->admin->proxy->shares;
	struct database_share *share = share_database(shares, db->name);

	if (share != NULL)
		atomic_store(&share->opened_at, 0);
	share_database_unref(shares, share);
}

static bool hold_rest_awaited(struct admin_db *db)
{
	const bool swapped = db->swapped_epoch == db->epoch;
	const usec_t since = swapped ? db->swapped_at : db->returned_at;
	const usec_t now = clock_now();
	const int rest = hold_rest(db);
	const bool lapsed = !swapped && db->state == HOLD_OPEN && db->open_letter == MAIL_LAPSE;
	const usec_t closed_at = lapsed ? hold_closed_at(db) : 0;
	const usec_t from = closed_at > since ? closed_at : since;

	if (!swapped && db->returned_epoch != db->epoch)
		return false;
	if (now - from >= REST_MOST)
		return false;
	if (rest < db->rest_seen || db->rest_at < from)
		db->rest_at = now;
	db->rest_seen = rest;
	return rest > 0 && now - db->rest_at < REST_PATIENCE;
}

/* The workers stand still, and nobody gets anything: the time for it begins with RESUME. */
static void hold_rest_begins_anew(struct admin_db *db)
{
	if (db->swapped_epoch == db->epoch)
		db->swapped_at = clock_now();
	else
		db->returned_at = clock_now();
}

bool hold_awaits_rest(struct admin_db *db)
{
	return db->state != HOLD_OPEN && hold_rest_awaited(db);
}

/* Without a swap: sessions that have lost their servers, as by a fence or SEAL, get their locks and
 * channels again before others go on. */
static void hold_return(struct admin_db *db, enum mail_type letter)
{
	if (db->paused || db->swapped_epoch == db->epoch || db->returned_epoch == db->epoch ||
	    (hold_rest(db) == 0 && !db->lapsing))
		return;
	db->returned_epoch = db->epoch;
	db->returned_at = clock_now();
	if (letter == MAIL_RETURN_LAPSED)
		hold_forget_opened(db);
	admin_post_all(db, letter, db->epoch);
}

/* The hold is over; the workers learn of it when sessions have what others could take from them. */
static void hold_open_gate(struct admin_db *db)
{
	const bool suspended = admin_is_suspended(db->admin);

	if (suspended)
		hold_rest_begins_anew(db);
	if (suspended || hold_rest_awaited(db)) {
		admin_timer_add(db->open_timer, suspended ? SUSPENDED_LOOK : HOLD_REST_LOOK);
		return;
	}
	if (hold_rest(db) > 0 && !db->paused)
		log_warning("database \"%s\": clients go on; sessions that have yet to get their "
		            "advisory locks or channels are ended",
		            db->name);
	admin_post_all(db, db->open_letter, db->epoch);
}

static void open_again(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	hold_open_gate(arg);
}

static void hold_open(struct admin_db *db, const char *reason, enum mail_type letter)
{
	struct list_node *node;

	(void)event_del(db->lease_timer);
	(void)event_del(db->drain_timer);
	db->end_wanted = false;
	if (db->state != HOLD_OPEN) {
		log_info("database \"%s\": %s", db->name, reason);
		hold_return(db, letter == MAIL_LAPSE ? MAIL_RETURN_LAPSED : MAIL_RETURN);
		hold_set_state(db, HOLD_OPEN);
		db->open_letter = letter;
		hold_open_gate(db);
	}
	db->paused = false;
	pause_check(db->admin);
	while ((node = list_first(&db->waiters)) != NULL) {
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		request_hint(request, "Repeat HOLD for a new hold.");
		request_fail(request, "55000", "%s", reason);
	}
}

void hold_end(struct admin_db *db, const char *reason)
{
	hold_open(db, reason, MAIL_RELEASE);
}

void hold_lapse(struct admin_db *db)
{
	/* Nobody tells this proxy when the sessions of others have theirs. */
	db->lapsing = db->sealed && db->swapped_epoch != db->epoch;
	hold_open(db, "the hold ended with its lease", MAIL_LAPSE);
}

/* Answers the HOLDs whose wait is over. */
static void hold_settle(struct admin_db *db)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&db->waiters, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->number > db->admin->saved ||
		    (db->state != HOLD_HELD && !request->nowait))
			continue;
		request_move(request, &db->admin->working);
		request_answer_holds(request);
	}
}

void hold_on_saved(struct admin_db *db)
{
	if (db->state == HOLD_DRAINING && !db->gate_closed && db->hold_number <= db->admin->saved)
		hold_close_gate(db);
	hold_settle(db);
}

void hold_on_save_failed(struct admin_db *db, uint64_t number, const char *error)
{
	struct list_node *node;
	struct list_node *tmp;
	bool unsaved = db->state != HOLD_OPEN && db->hold_number > db->admin->saved &&
	               db->hold_number <= number;

	LIST_FOREACH(&db->waiters, node, tmp)
	{
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		if (request->number > number)
			continue;
		request_fail_save(request, error);
	}
	/* A hold that a restart would forget must not be relied on. */
	if (unsaved && db->swap_to == NULL)
		hold_end(db, "the hold ended: it could not be written to the state directory");
}

void hold_pause(struct admin_db *db)
{
	db->paused = true;
	db->policy = CONFIG_DRAIN_ABORT;
	db->drain = 0;
	db->hold_number = 0;
	hold_begin(db, db->epoch + 1);
	hold_set_lease(db, ADMIN_LEASE_NONE);
	hold_close_gate(db);
}

void hold_on_drained(struct admin_db *db, uint64_t epoch, unsigned worker, unsigned unsettled)
{
	if (db->state != HOLD_DRAINING || epoch != db->epoch ||
	    worker >= db->admin->proxy->worker_count || db->drained[worker])
		return;
	db->drained[worker] = true;
	db->unsettled += unsettled;
	if (++db->drained_count < db->admin->proxy->worker_count)
		return;
	if (db->unsettled > 0 && !db->settled) {
		db->settled = true;
		memset(db->drained, 0, sizeof(db->drained));
		db->drained_count = 0;
		admin_post_all(db, MAIL_SETTLE, db->epoch);
		return;
	}
	(void)event_del(db->drain_timer);
	hold_set_state(db, HOLD_HELD);
	log_info("database \"%s\": drained after %" PRId64 " ms", db->name,
	         (clock_now() - db->began) / USEC_PER_MSEC);
	hold_settle(db);
	pause_check(db->admin);
}

void hold_on_undrained(struct admin_db *db, uint64_t epoch, unsigned worker)
{
	if (db->state != HOLD_DRAINING || epoch != db->epoch ||
	    worker >= db->admin->proxy->worker_count || !db->drained[worker])
		return; /* too late: somebody counts on the hold; or it is asked again anyway */
	db->drained[worker] = false;
	db->drained_count--;
}

void hold_on_pinned(struct admin_db *db, uint64_t epoch, const char *text)
{
	struct list_node *node;

	/* After the swap it is too late, and as soon as a mover that is about to promote counts on the
	 * hold: then the session is dropped. */
	if (db->state == HOLD_OPEN || epoch != db->epoch || db->swap_to != NULL ||
	    hold_is_forever(db)) {
		log_warning("database \"%s\": too late to end the hold: %s", db->name,
		            text == NULL ? "" : text);
		return;
	}
	log_warning("database \"%s\": the hold is ended: %s", db->name, text == NULL ? "" : text);
	while ((node = list_first(&db->waiters)) != NULL) {
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		request_detail(request, "%s", text == NULL ? "" : text);
		request_hint(request, "SHOW SESSIONS names all of them. What is done about them is "
				      "the setting session_pinned, here abort.");
		request_fail(request, "55P03", "database \"%s\" has a session that cannot be moved; "
					       "the hold was ended", db->name);
	}
	hold_end(db, "the hold was ended: a session cannot be moved");
	(void)admin_save(db->admin);
}

/* ---- deadlines ---- */

/* HOLDs that fail at the drain deadline, until the blockers' names are here. */
struct drain_failure {
	struct admin_db *db;
	struct list requests;
	usec_t waited;
};

static void add_blocker(struct sbuf *text, const struct rowset_cell *cells)
{
	/* Columns of SHOW BLOCKERS in views.def: 1 user, 3 and 4 address, 5 id, 7 state, 8 age,
	 * 9 process. */
	sbuf_printf(text, "%suser \"%.*s\" from %.*s:%.*s (client %.*s, %.*s for %.*s ms",
	            text->len == 0 ? "Waited for " : "; ", (int)cells[1].len,
	            cells[1].bytes == NULL ? "" : cells[1].bytes, (int)cells[3].len,
	            cells[3].bytes == NULL ? "" : cells[3].bytes, (int)cells[4].len,
	            cells[4].bytes == NULL ? "" : cells[4].bytes, (int)cells[5].len,
	            cells[5].bytes == NULL ? "" : cells[5].bytes, (int)cells[7].len,
	            cells[7].bytes == NULL ? "" : cells[7].bytes, (int)cells[8].len,
	            cells[8].bytes == NULL ? "" : cells[8].bytes);
	if (cells[9].bytes != NULL)
		sbuf_printf(text, ", server process %.*s", (int)cells[9].len, cells[9].bytes);
	sbuf_add_char(text, ')');
}

static void drain_fail(struct admin *admin, struct rowset *rows, void *arg)
{
	struct drain_failure *failure = arg;
	struct rowset_cell cells[16];
	struct list_node *node;
	struct sbuf text;
	size_t offset = 0;
	size_t count = 0;

	(void)admin;
	sbuf_init(&text, 2000);
	while (rowset_next(rows, &offset, cells)) {
		if (count++ < BLOCKERS_NAMED)
			add_blocker(&text, cells);
	}
	if (count > BLOCKERS_NAMED)
		sbuf_printf(&text, "; and %zu more", count - BLOCKERS_NAMED);
	log_warning("database \"%s\": not drained after %" PRId64 " ms, the hold was ended. %s",
	            failure->db->name, failure->waited / USEC_PER_MSEC, sbuf_text(&text));
	while ((node = list_first(&failure->requests)) != NULL) {
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		request_detail(request, "%s%s", sbuf_text(&text), text.len == 0 ? "" : ".");
		request_hint(request,
		             "Repeat HOLD when these transactions have ended, with a longer DRAIN, "
		             "or with POLICY cancel, terminate or keep.");
		request_fail(request, "55P03",
		             "database \"%s\" was not drained after %" PRId64
		             " ms; the hold was ended",
		             failure->db->name, failure->waited / USEC_PER_MSEC);
	}
	sbuf_free(&text);
	free(failure);
}

static void drain_abort(struct admin_db *db)
{
	struct drain_failure *failure = mem_must_alloc(sizeof(*failure));
	struct list_node *node;

	failure->db = db;
	failure->waited = clock_now() - db->began;
	list_init(&failure->requests);
	while ((node = list_first(&db->waiters)) != NULL)
		request_move(CONTAINER_OF(node, struct admin_request, node), &failure->requests);
	/* The question goes to the workers before the release, so the blockers are still there. */
	view_ask(db->admin, VIEW_BLOCKERS, db->name, drain_fail, failure);
	hold_end(db, "the hold ended at its drain deadline");
	(void)admin_save(db->admin);
}

static void drain_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct admin_db *db = arg;
	enum config_drain_policy policy = (enum config_drain_policy)db->policy;

	(void)fd;
	(void)what;
	if (db->state != HOLD_DRAINING)
		return;
	if (db->drain_acted || policy == CONFIG_DRAIN_ABORT) {
		drain_abort(db);
		return;
	}
	log_warning("database \"%s\": not drained after %" PRId64 " ms, policy %s is carried out",
	            db->name, (clock_now() - db->began) / USEC_PER_MSEC, policy_name(db));
	db->drain_acted = true;
	admin_post_all(db,
	               policy == CONFIG_DRAIN_CANCEL ? MAIL_CANCEL_BLOCKERS
	               : policy == CONFIG_DRAIN_KEEP ? MAIL_KEEP_BLOCKERS
	                                             : MAIL_TERMINATE_BLOCKERS,
	               db->epoch);
	timer_set(db->drain_timer, db->drain > DRAIN_AGAIN_MIN ? db->drain : DRAIN_AGAIN_MIN);
}

static void lease_ended(evutil_socket_t fd, short what, void *arg)
{
	struct admin_db *db = arg;

	(void)fd;
	(void)what;
	if (db->state == HOLD_OPEN)
		return;
	if (db->swap_to != NULL) {
		/* The route is being written: which one clients go on with is known after it. */
		db->end_wanted = true;
		return;
	}
	log_warning("database \"%s\": the lease of hold %" PRIu64 " was not renewed", db->name,
	            db->epoch);
	hold_lapse(db);
	swap_forget_target(db);
	(void)admin_save(db->admin);
}

void hold_cancel(struct admin_request *request)
{
	struct admin_db *db = request->db;
	bool ends = request->owner && db->state == HOLD_DRAINING && db->waiters.count == 1;

	if (ends)
		request_detail(request, "The hold was ended, and the clients go on.");
	else
		request_detail(request, "The hold goes on: it is somebody else's, too.");
	request_fail(request, "57014", "canceling statement due to user request");
	if (!ends)
		return;
	hold_end(db, "the hold was cancelled");
	(void)admin_save(db->admin);
}

/* ---- life ---- */

void hold_init(struct admin_db *db)
{
	list_init(&db->waiters);
	db->state = HOLD_OPEN;
	db->lease_timer = admin_timer_new(db->admin, lease_ended, db);
	db->drain_timer = admin_timer_new(db->admin, drain_deadline, db);
	db->open_timer = admin_timer_new(db->admin, open_again, db);
}

void hold_free(struct admin_db *db)
{
	free(db->held_server);
	event_free(db->lease_timer);
	event_free(db->drain_timer);
	event_free(db->open_timer);
}

void hold_restore(struct admin_db *db)
{
	log_warning("database \"%s\" is held by hold %" PRIu64
	            " since before this start; its lease begins anew",
	            db->name, db->epoch);
	db->state = HOLD_OPEN;
	hold_begin(db, db->epoch);
	hold_set_lease(db, db->lease);
	hold_close_gate(db);
}

/* ---- commands ---- */

bool hold_check_epoch(struct admin_request *request, uint64_t epoch)
{
	struct admin_db *db = request->db;

	if (epoch == ADMIN_EPOCH_NEXT || epoch == db->epoch)
		return true;
	request_detail(request, "The current epoch of database \"%s\" is %" PRIu64 ".", db->name,
	               db->epoch);
	request_hint(request, "Somebody else may be at work on this database: see SHOW HOLDS.");
	request_fail(request, "55000", "epoch %" PRIu64 " is %s", epoch,
	             epoch < db->epoch ? "stale" : "not that of the running hold");
	return false;
}

/* The epoch of a HOLD: joins the running hold, replaces an older one, or begins one.  0 after the
 * request was failed. */
static uint64_t hold_choose_epoch(struct admin_request *request, uint64_t epoch)
{
	struct admin_db *db = request->db;

	if (epoch == ADMIN_EPOCH_NEXT)
		return db->state == HOLD_OPEN ? db->epoch + 1 : db->epoch;
	if (epoch > db->epoch || (epoch == db->epoch && db->state != HOLD_OPEN))
		return epoch;
	request_detail(request, "The current epoch of database \"%s\" is %" PRIu64 ".", db->name,
	               db->epoch);
	request_hint(request, "Use EPOCH %" PRIu64 " or leave EPOCH out.", db->epoch + 1);
	request_fail(request, "55000", "epoch %" PRIu64 " is stale", epoch);
	return 0;
}

/* Those who waited for an older hold learn that it is not theirs any more. */
static void hold_supersede(struct admin_db *db, uint64_t epoch)
{
	struct list_node *node;

	log_warning("database \"%s\": hold %" PRIu64 " is taken over by %" PRIu64, db->name,
	            db->epoch, epoch);
	while ((node = list_first(&db->waiters)) != NULL) {
		struct admin_request *request = CONTAINER_OF(node, struct admin_request, node);

		request_detail(request, "The current epoch is %" PRIu64 ".", epoch);
		request_fail(request, "55000", "the hold was taken over by another");
	}
}

struct admin_request *admin_hold(struct admin *admin, const char *database,
                                 const struct hold_options *options, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	const struct config_proxy *config = &admin->proxy->config->proxy;
	struct admin_db *db;
	uint64_t epoch;
	bool fresh;
	usec_t lease;

	if (!request_may_change(request))
		return request;
	if (!request_find_db(request, database))
		return request;
	db = request->db;
	epoch = hold_choose_epoch(request, options->epoch);
	if (epoch == 0)
		return request;
	if (db->swap_to != NULL && epoch != db->epoch) {
		request_fail(request, "55000", "a swap of database \"%s\" is under way", db->name);
		return request;
	}
	fresh = db->state == HOLD_OPEN || epoch != db->epoch;
	if (fresh && db->state != HOLD_OPEN)
		hold_supersede(db, epoch);
	if (fresh || options->policy != CONFIG_UNSET)
		db->policy = options->policy == CONFIG_UNSET ? (int)config->hold_drain_policy
		                                             : options->policy;
	if (fresh) {
		db->paused = false; /* a pause that is taken over is a hold from now on */
		hold_begin(db, epoch);
		pause_check(admin);
	}
	/* Who joins a hold without naming it must not shorten a lease (of a mover) by accident. */
	lease = options->lease != ADMIN_TIME_DEFAULT ? options->lease
	        : fresh                              ? config->hold_lease
	                                             : db->lease;
	if (fresh || options->epoch != ADMIN_EPOCH_NEXT || options->lease != ADMIN_TIME_DEFAULT)
		hold_set_lease(db, lease);
	if (fresh || options->drain != ADMIN_TIME_DEFAULT) {
		db->drain = options->drain == ADMIN_TIME_DEFAULT ? config->hold_drain_timeout
		                                                 : options->drain;
		if (db->state == HOLD_DRAINING && db->gate_closed)
			timer_set(db->drain_timer, db->drain);
	}
	request->nowait = options->nowait;
	request->owner = fresh || options->epoch != ADMIN_EPOCH_NEXT;
	request->number = admin_save(admin);
	if (fresh)
		db->hold_number = request->number;
	if (db->lease == ADMIN_LEASE_NONE)
		db->forever_number = request->number;
	request_move(request, &db->waiters);
	return request;
}

struct admin_request *admin_renew(struct admin *admin, const char *database, uint64_t epoch,
                                  usec_t lease, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct admin_db *db;
	usec_t before;

	if (!request_find_db(request, database))
		return request;
	db = request->db;
	if (db->state == HOLD_OPEN) {
		request_detail(request, "The current epoch of database \"%s\" is %" PRIu64 ".",
		               db->name, db->epoch);
		request_hint(request, "The hold has ended: HOLD begins a new one.");
		request_fail(request, "55000", "database \"%s\" is not held", db->name);
		return request;
	}
	if (!hold_check_epoch(request, epoch))
		return request;
	before = db->lease;
	hold_set_lease(db, lease == ADMIN_TIME_DEFAULT ? db->lease : lease);
	db->end_wanted = false;
	if (db->lease == before) {
		request_answer_holds(request);
		return request;
	}
	request_save(request, request_saved_holds);
	if (db->lease == ADMIN_LEASE_NONE)
		db->forever_number = request->number;
	return request;
}

struct admin_request *admin_seal(struct admin *admin, const char *database, uint64_t epoch,
                                 admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct admin_db *db;

	if (!request_find_db(request, database))
		return request;
	db = request->db;
	if (db->state != HOLD_HELD || db->paused) {
		request_hint(request, "SEAL is for a hold that is drained: see SHOW HOLDS.");
		request_fail(request, "55000", "database \"%s\" is not held", db->name);
		return request;
	}
	if (!hold_check_epoch(request, epoch))
		return request;
	db->sealed = true;
	admin_post_all(db, MAIL_SEAL, db->epoch);
	request_answer_sealed(request); /* asked behind it: letters keep their order */
	return request;
}

static void release_write(evutil_socket_t fd, short what, void *arg)
{
	struct admin_request *request = arg;

	(void)fd;
	(void)what;
	swap_released(request->db);
	request_save(request, request_saved_holds);
}

/* The gate opens before the file says so, and by a moment: the first commits of those who waited must
 * not queue at the disk behind it.  A crash in between comes back held, and RELEASE, which was not
 * answered, can be repeated. */
static void release_now(struct admin_request *request)
{
	hold_end(request->db, "the hold was released");
	request->admin->unsaved = true;
	request_set_timer(request, release_write, RELEASE_WRITE_DELAY);
}

/* True: the request was refused. */
static bool release_in_swap(struct admin_request *request)
{
	if (request->db->swap_to == NULL)
		return false;
	request_hint(request, "Repeat RELEASE when SWAP has answered.");
	request_fail(request, "55000", "a swap of database \"%s\" is under way",
	             request->db->name);
	return true;
}

static void release_again(evutil_socket_t fd, short what, void *arg);

/* It has ended with its lease, say: those who wait for sessions of other proxies need not do so any
 * more.  With SESSIONS the answer comes when those of this one have what they had, too. */
static void release_ended(struct admin_request *request)
{
	struct admin_db *db = request->db;

	if (db->state == HOLD_OPEN && db->open_letter == MAIL_LAPSE &&
	    db->epoch == request->epoch) {
		if (request->sessions && hold_rest_awaited(db)) {
			request_set_timer(request, release_again, HOLD_REST_LOOK);
			return;
		}
		if (!request->sessions && !hold_rest_awaited(db)) {
			db->open_letter = MAIL_RELEASE;
			hold_open_gate(db);
		}
	}
	/* An earlier RELEASE may not have been written. */
	request_save(request, request_saved_holds);
}

static void release_when_returned(struct admin_request *request)
{
	if (hold_awaits_rest(request->db))
		request_set_timer(request, release_again, HOLD_REST_LOOK);
	else if (request->sessions)
		request_answer_holds(request);
	else
		release_now(request);
}

static void release_again(evutil_socket_t fd, short what, void *arg)
{
	struct admin_request *request = arg;
	struct admin_db *db = request->db;

	(void)fd;
	(void)what;
	if (db->state == HOLD_OPEN || db->epoch != request->epoch)
		release_ended(request); /* that hold is over */
	else if (release_in_swap(request))
		return;
	else
		release_when_returned(request);
}

struct admin_request *admin_release(struct admin *admin, const char *database, uint64_t epoch,
                                    bool sessions, admin_done_fn *done, void *arg)
{
	struct admin_request *request = request_new(admin, done, arg);
	struct admin_db *db;

	if (!request_find_db(request, database))
		return request;
	db = request->db;
	if (db->state != HOLD_OPEN && !hold_check_epoch(request, epoch))
		return request;
	if (release_in_swap(request))
		return request;
	request_move(request, &admin->working);
	request->epoch = db->epoch;
	request->sessions = sessions;
	if (db->state == HOLD_OPEN) {
		release_ended(request);
		return request;
	}
	hold_return(db, MAIL_RETURN);
	release_when_returned(request);
	return request;
}
