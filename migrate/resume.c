/* SPDX-License-Identifier: PostgreSQL */
/*
 * A move that did not end: what really is, is asked of both servers and every router; the journal
 * only says what was to be moved and whether the promotion may have been requested.
 */
#include "base/mem.h"
#include "migrate/commcare.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/proof.h"
#include "migrate/read_only.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define ERRORS_MAX ((size_t)64 * 1024)

bool resume_take_plan(struct move *move, const struct journal_records *records)
{
	const struct json *plan = json_get(journal_find(records, "outcome", "plan"), "data");
	const struct json *shards = json_get(plan, "shards");
	const struct json *others = json_get(plan, "others");
	const char *source = json_text(json_get(plan, "source"), "name");
	const char *target = json_text(json_get(plan, "target"), "name");
	const struct json *barrier = json_get(journal_find(records, "outcome", "barrier"), "data");

	if (shards == NULL || source == NULL || target == NULL) {
		ui_error(move->ui, "the journal of %s has no plan", records->id);
		return false;
	}
	move->source.conf = config_find_server(move->config, source);
	move->target.conf = config_find_server(move->config, target);
	if (move->source.conf == NULL || move->target.conf == NULL) {
		ui_error(move->ui, "the configuration lacks server %s, from or to which %s moves",
		         move->source.conf == NULL ? source : target, records->id);
		return false;
	}
	for (const struct json *at = shards->first; at != NULL; at = at->next) {
		if (json_text(at, "name") != NULL && json_text(at, "dbname") != NULL)
			(void)plan_add_shard(move, json_text(at, "name"), json_text(at, "dbname"));
	}
	for (const struct json *at = others == NULL ? NULL : others->first; at != NULL;
	     at = at->next) {
		move->others =
		    mem_must_grow(move->others, move->other_count + 1, sizeof(*move->others));
		move->others[move->other_count++] = mem_must_strdup(at->text);
	}
	move->epoch = json_number(plan, "epoch", 1);
	move->old_timeline = json_number(plan, "timeline", 0);
	move->system_identifier = mem_must_strdup(json_text(plan, "system_identifier"));
	(void)!lsn_parse(json_text(barrier, "lsn"), &move->barrier);
	read_only_take(move, records);
	move->anything_changed = journal_find(records, "intent", "hold") != NULL;
	move->fenced = journal_find(records, "intent", "fence") != NULL;
	move->promote_intended = journal_find(records, "intent", "promote") != NULL;
	return true;
}

/*
 * The sessions of the mover that died may still carry out what it sent last, such as the request to
 * promote; only when they are gone, what is asked stays true.
 */
static bool end_old_sessions(struct move *move, struct link *link)
{
	static const char sql[] =
	    "SELECT count(pg_terminate_backend(pid)) AS left FROM pg_stat_activity"
	    " WHERE application_name LIKE 'pgshunt%' AND application_name <> '" VERIFY_NAME "'"
	    " AND pid <> pg_backend_pid()";
	usec_t deadline = clock_now() + ASK_TIMEOUT;

	for (;;) {
		if (!link_run(&move->loop, link, ASK_TIMEOUT, sql))
			return false;
		if (link_number(link, 0, "left", 1) == 0)
			return true;
		if (clock_now() >= deadline)
			return false;
		loop_sleep(&move->loop, 20 * USEC_PER_MSEC);
	}
}

/* Connects to what can be reached.  Routers that cannot are dealt with when their turn comes. */
static bool connect_all(struct move *move, bool *source_reachable)
{
	int64_t epoch = move->epoch;
	struct sbuf error;
	bool ok;

	sbuf_init(&error, ERRORS_MAX);
	ok = servers_connect(move, &error);
	*source_reachable = move->source.link.state == LINK_IDLE;
	ok = proxies_connect(move, &error) && ok;
	ok = bouncers_connect(move, &error) && ok;
	ok = plan_read_seen(move, &error) && ok;
	ok = plan_pick_routes(move, &error) && ok;
	move->epoch = epoch; /* that of the move, not a new one */
	ok = bouncers_plan(move, &error) && ok;
	ok = commcare_plan(move, &error) && ok;
	ok = plproxy_plan(move, &error) && ok;
	if (!ok)
		ui_lines(move->ui, &error);
	sbuf_free(&error);
	return ok;
}

/* Routes of proxies that do not answer are only in the journal. */
static void add_missing_routes(struct move *move, const struct journal_records *records)
{
	const struct json *plan = json_get(journal_find(records, "outcome", "plan"), "data");
	const struct json *routes = json_get(plan, "routes");

	for (const struct json *at = routes == NULL ? NULL : routes->first; at != NULL;
	     at = at->next) {
		const char *name = json_text(at, "proxy");
		const char *database = json_text(at, "database");
		const char *shard_name = json_text(at, "shard");
		struct shard *shard = NULL;
		struct proxy *proxy = NULL;
		bool known = false;

		for (size_t i = 0; i < move->route_count; i++)
			known = known || (strcmp(move->routes[i].proxy->conf->name, name) == 0 &&
			                  strcmp(move->routes[i].database, database) == 0);
		for (size_t i = 0; i < move->proxy_count; i++) {
			if (strcmp(move->proxies[i].conf->name, name) == 0)
				proxy = &move->proxies[i];
		}
		for (size_t i = 0; i < move->shard_count; i++) {
			if (strcmp(move->shards[i].name, shard_name) == 0)
				shard = &move->shards[i];
		}
		if (known || proxy == NULL || shard == NULL)
			continue;
		move->routes =
		    mem_must_grow(move->routes, move->route_count + 1, sizeof(*move->routes));
		move->routes[move->route_count] =
		    (struct route){.proxy = proxy,
		                   .shard = shard,
		                   .database = mem_must_strdup(database),
		                   .server = mem_must_strdup(move->source.conf->name)};
		link_init(&move->routes[move->route_count++].link, proxy->label,
		          &proxy->status.target);
	}
}

/* The switch point against the barrier, when the target is promoted. */
static bool is_before_barrier(struct move *move)
{
	struct link *link = &move->target.link;
	const char *history;
	uint32_t parent;
	uint64_t point;

	if (move->barrier == 0)
		return true; /* promoted, and not by us: our request comes after the barrier */
	if (!link_run(&move->loop, link, ASK_TIMEOUT, PROOF_SQL))
		return true;
	history = link_value(link, 0, "history");
	return history == NULL || !timeline_switch_point(history, &parent, &point) ||
	       point < move->barrier;
}

/* Whether the move was to change that route: names for readers lead to the target anyway. */
static bool was_planned(const struct journal_records *records, const char *list, const char *who,
                        const char *name)
{
	const struct json *plan = json_get(journal_find(records, "outcome", "plan"), "data");
	const struct json *routes = json_get(plan, list);
	bool bouncer = strcmp(list, "pgbouncers") == 0;

	for (const struct json *at = routes == NULL ? NULL : routes->first; at != NULL;
	     at = at->next) {
		const char *whose = json_text(at, bouncer ? "process" : "proxy");
		const char *what = json_text(at, bouncer ? "entry" : "database");

		if (whose != NULL && what != NULL && strcmp(whose, who) == 0 &&
		    strcmp(what, name) == 0 && (!bouncer || json_text(at, "new") != NULL))
			return true;
	}
	return false;
}

/*
 * Whether clients may be at work on the target, which is a primary.  The routes and the entries of
 * the pgbouncers say it; without any, whether its copy can be connected to.
 */
static bool is_in_use_on_target(struct move *move, const struct journal_records *records)
{
	struct link *link = &move->target.link;
	size_t known = 0;
	struct sbuf sql;
	bool open;

	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		if (!was_planned(records, "routes", route->proxy->conf->name, route->database))
			continue;
		known++;
		if (strcmp(route->server, move->target.conf->name) == 0)
			return true;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (entry->host == NULL || *entry->host == '\0' ||
		    !was_planned(records, "pgbouncers", entry->bouncer->label, entry->name))
			continue;
		known++;
		if (entry->where != NULL && strcmp(entry->where, move->target.conf->name) == 0)
			return true;
	}
	if (known > 0)
		return false;
	sbuf_init(&sql, ERRORS_MAX);
	sbuf_add_str(&sql, "SELECT count(*) AS open FROM pg_database WHERE datallowconn AND"
	                   " datname IN ");
	shards_literals(move, &sql);
	open = !link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)) ||
	       link_number(link, 0, "open", 1) > 0;
	sbuf_free(&sql);
	return open;
}

static enum exit_code act(struct move *move, enum decision decision, bool *went_forward)
{
	switch (decision) {
	case DECIDE_UNDO:
		/* What was held, fenced or made to last is taken back whether it was or not. */
		for (size_t i = 0; i < move->route_count; i++)
			move->routes[i].held = move->anything_changed;
		for (size_t i = 0; i < move->entry_count; i++)
			move->entries[i].held = move->entries[i].change && move->anything_changed;
		move->lease_none = true;
		return run_undo(move);
	case DECIDE_WAIT:
		if (!promote_await(move))
			return EXIT_FORWARD;
		if (is_before_barrier(move)) {
			(void)move_fail(move, "the target was promoted before it had replayed the "
			                      "last writes of the shards");
			return EXIT_FORWARD;
		}
		/* fall through */
	case DECIDE_FORWARD:
		*went_forward = true;
		return run_forward(move);
	case DECIDE_HOLD:
		return move->promote_intended ? EXIT_FORWARD : EXIT_UNDO_INCOMPLETE;
	case DECIDE_REFUSE:
		break;
	}
	return EXIT_REFUSED;
}

/* A move that died before its plan was written has touched nothing. */
static enum exit_code close_unplanned(struct move *move, const struct journal_records *records)
{
	struct sbuf error;
	bool ok;

	ui_line(move->ui, "move %s had not got as far as its plan: nothing was changed%s",
	        records->id, move->dry_run ? " (its journal is not ended: --dry-run)" : "");
	if (move->dry_run)
		return EXIT_DONE;
	sbuf_init(&error, ERRORS_MAX);
	ok = journal_reopen(&move->journal, move->config->mover.journal_directory, records,
	                    &error) &&
	     journal_write(&move->journal, "outcome", "end", "\"result\":\"undone\"", true);
	if (!ok)
		ui_error(move->ui, "the journal could not be written%s%s",
		         error.len > 0 ? ": " : "", sbuf_text(&error));
	sbuf_free(&error);
	return ok ? EXIT_UNDONE : EXIT_INTERNAL;
}

/* What the servers are by now may be the work of a later move: nothing is touched. */
static enum exit_code say_finished(struct move *move, const struct journal_records *records,
                                   bool abort_wanted)
{
	const struct json *end = json_get(journal_find(records, "outcome", "end"), "data");
	bool undone = strcmp(json_text(end, "result"), "undone") == 0;

	ui_line(move->ui, "move %s has ended: it was %s", records->id,
	        undone ? "undone" : "completed");
	if (undone)
		return EXIT_UNDONE;
	if (!abort_wanted)
		return EXIT_DONE;
	ui_error(move->ui, "a move that was completed is not undone by abort: move back");
	return EXIT_REFUSED;
}

static enum exit_code resume_read(struct move *move, const struct journal_records *records,
                                  bool abort_wanted, bool *went_forward)
{
	struct decide_facts facts = {.abort_wanted = abort_wanted};
	struct sbuf error;
	enum decision decision;
	const char *why;
	bool opened;

	if (journal_finished(records))
		return say_finished(move, records, abort_wanted);
	if (journal_find(records, "outcome", "plan") == NULL)
		return close_unplanned(move, records);
	if (!resume_take_plan(move, records))
		return EXIT_USAGE;
	(void)!connect_all(move, &facts.source_reachable);
	add_missing_routes(move, records);
	bouncers_add_missing(move, records);
	if (facts.source_reachable && !move->dry_run &&
	    (!move_lock_source(move) || !end_old_sessions(move, &move->source.link)))
		return EXIT_INTERNAL;
	if (move->target.link.state == LINK_IDLE && !move->dry_run)
		(void)!end_old_sessions(move, &move->target.link);
	facts.changed_anything = move->anything_changed;
	facts.promote_intended = move->promote_intended;
	facts.target = promote_probe(move);
	facts.switch_before_barrier =
	    facts.target == TARGET_PRIMARY && move->promote_intended && is_before_barrier(move);
	facts.in_use_on_target = facts.target == TARGET_PRIMARY && !move->promote_intended &&
	                         is_in_use_on_target(move, records);
	decision = decide(&facts, &why);
	ui_line(move->ui, "move %s from %s to %s: target %s, source %s", records->id,
	        move->source.conf->name, move->target.conf->name, target_state_name(facts.target),
	        facts.source_reachable ? "reachable" : "unreachable");
	if (decision == DECIDE_REFUSE || decision == DECIDE_HOLD) {
		move->phase = PHASE_PROMOTE;
		(void)move_fail(move, "%s", why);
		return decision == DECIDE_REFUSE && facts.switch_before_barrier
		           ? EXIT_FORWARD
		           : act(move, decision, went_forward);
	}
	ui_line(move->ui, "  %s%s", why, move->dry_run ? " (not done: --dry-run)" : "");
	if (move->dry_run)
		return EXIT_DONE;
	sbuf_init(&error, ERRORS_MAX);
	opened =
	    journal_reopen(&move->journal, move->config->mover.journal_directory, records, &error);
	if (!opened)
		ui_error(move->ui, "%s", sbuf_text(&error));
	sbuf_free(&error);
	if (!opened ||
	    !journal_write(&move->journal, "intent", abort_wanted ? "abort" : "resume", "",
	                   false) ||
	    !report_who(move))
		return EXIT_INTERNAL;
	return act(move, decision, went_forward);
}

enum exit_code resume_move(struct move *move, const char *id, bool abort_wanted, bool *went_forward)
{
	struct journal_records records;
	struct sbuf error;
	enum exit_code code = EXIT_INTERNAL;

	*went_forward = false;
	sbuf_init(&error, ERRORS_MAX);
	if (journal_read(move->config->mover.journal_directory, id, &records, &error)) {
		code = resume_read(move, &records, abort_wanted, went_forward);
		journal_records_free(&records);
	} else {
		ui_error(move->ui, "%s", sbuf_text(&error));
	}
	sbuf_free(&error);
	return code;
}
