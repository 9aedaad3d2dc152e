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
/* The WAL is read for it. */
#define SEARCH_TIMEOUT (60 * USEC_PER_SEC)
#define MEGABYTE ((uint64_t)1024 * 1024)

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

/* ---- the barrier ---- */

/*
 * The barrier in the WAL of the source, when the journal does not have it (it was cut short, or is
 * an older copy): the message in it has the move's name.  NULL or what stands in the way.  The
 * extension is only there inside the transaction, which is rolled back.
 */
static char *search_barrier(struct move *move, const char *id, uint64_t from, uint64_t to)
{
	struct link *link = &move->source.link;
	char *why = NULL;
	char begin[LSN_TEXT_MAX];
	char end[LSN_TEXT_MAX];
	struct sbuf sql;

	sbuf_init(&sql, ERRORS_MAX);
	sbuf_printf(&sql,
	            "BEGIN; CREATE EXTENSION IF NOT EXISTS pg_walinspect;"
	            " SELECT max(end_lsn) AS lsn FROM pg_get_wal_records_info('%s', least('%s',"
	            " pg_current_wal_flush_lsn())) WHERE resource_manager = 'LogicalMessage' AND"
	            " description LIKE '%%, prefix \"pgshunt\"; payload (%%): ' ||"
	            " regexp_replace(upper(encode(convert_to(",
	            lsn_format(from, begin), lsn_format(to, end));
	sql_literal(&sql, id);
	sbuf_add_str(&sql, ", 'UTF8'), 'hex')), '(..)(?=.)', '\\1 ', 'g')");
	if (!link_run(&move->loop, link, SEARCH_TIMEOUT, sbuf_text(&sql)))
		why = mem_must_strdup(link_error(link));
	else
		(void)!lsn_parse(link_value(link, 0, "lsn"), &move->barrier);
	sbuf_free(&sql);
	if (!link_run(&move->loop, link, ASK_TIMEOUT, "ROLLBACK"))
		link_close(link);
	return why;
}

/* Where the WAL that the source still has begins and ends, and the size of its segments: from the
 * beginning of one of them it can be read. */
static bool ask_wal(struct move *move, uint64_t *first, uint64_t *segment, uint64_t *end)
{
	struct link *link = &move->source.link;

	if (!link_run(&move->loop, link, ASK_TIMEOUT,
	              "SELECT s.size, pg_current_wal_flush_lsn() AS end,"
	              " min((('x' || substr(name, 9, 8))::bit(32)::bigint << 32) +"
	              " ('x' || substr(name, 17, 8))::bit(32)::bigint * s.size) AS first FROM"
	              " pg_ls_waldir(), (SELECT pg_size_bytes(current_setting("
	              "'wal_segment_size')) AS size) s WHERE name ~ '^[0-9A-F]{24}$' AND"
	              " substr(name, 1, 8) = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
	              " GROUP BY 1"))
		return false;
	*first = (uint64_t)link_number(link, 0, "first", 0);
	*segment = (uint64_t)link_number(link, 0, "size", (int64_t)(16 * MEGABYTE));
	return lsn_parse(link_value(link, 0, "end"), end);
}

static void find_barrier(struct move *move, const char *id, uint64_t point)
{
	/* It is milliseconds before the switch point. */
	const uint64_t back[] = {1, 16 * MEGABYTE, 256 * MEGABYTE};
	struct link *link = &move->source.link;
	char *why = NULL;
	char text[LSN_TEXT_MAX];
	uint64_t first = 0;
	uint64_t segment = 1;
	uint64_t end = 0;

	if (link->state != LINK_IDLE || !ask_wal(move, &first, &segment, &end)) {
		ui_error(move->ui, "the journal has no barrier, and %s cannot be asked for it: %s",
		         link->name, link_error(link));
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(back) && move->barrier == 0 && why == NULL; i++) {
		uint64_t from = point > back[i] ? point - back[i] : 0;

		from -= from % segment;
		why = search_barrier(move, id, from > first ? from : first, point);
	}
	if (move->barrier == 0 && why == NULL && end > point)
		why = search_barrier(move, id, point, point + 256 * MEGABYTE);
	move->barrier_found = move->barrier != 0;
	if (move->barrier_found)
		ui_line(move->ui, "the journal has no barrier; it is in the WAL of %s: %s",
		        link->name, lsn_format(move->barrier, text));
	else
		ui_error(move->ui,
		         "the journal has no barrier, and around the switch point %s the WAL of %s "
		         "%s%s",
		         lsn_format(point, text), link->name,
		         why == NULL ? "has none of this move" : "could not be searched for it: ",
		         why == NULL ? "" : why);
	free(why);
}

/* The switch point against the barrier, when the target is promoted. */
static enum barrier_state judge_barrier(struct move *move, const char *id)
{
	struct link *link = &move->target.link;
	const char *history;
	uint32_t parent;
	uint64_t point;

	if (!link_run(&move->loop, link, ASK_TIMEOUT, PROOF_SQL) ||
	    (history = link_value(link, 0, "history")) == NULL ||
	    !timeline_switch_point(history, &parent, &point)) {
		ui_error(move->ui, "%s: its timeline history cannot be read: %s", link->name,
		         link_ok(link) ? "it has none" : link_error(link));
		return BARRIER_UNKNOWN;
	}
	if (move->barrier == 0)
		find_barrier(move, id, point);
	if (move->barrier == 0)
		return BARRIER_UNKNOWN;
	return point < move->barrier ? BARRIER_MISSED : BARRIER_PASSED;
}

/* What was found shall be known to whoever reads the journal next. */
static void keep_barrier(struct move *move)
{
	char text[LSN_TEXT_MAX];
	struct sbuf data;

	if (!move->barrier_found)
		return;
	sbuf_init(&data, 1024);
	json_bool(&data, "ok", true);
	json_str(&data, "lsn", lsn_format(move->barrier, text));
	json_str(&data, "found_on", move->source.conf->name);
	if (!journal_write(&move->journal, "outcome", "barrier", sbuf_text(&data), true))
		move_problem(move, "the journal could not be written");
	sbuf_free(&data);
}

/* ---- what is to be done ---- */

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
	enum barrier_state barrier;

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
		barrier = judge_barrier(move, move->journal.id);
		if (barrier != BARRIER_PASSED) {
			(void)move_fail(move, "%s", decide_barrier(barrier));
			return EXIT_FORWARD;
		}
		/* fall through */
	case DECIDE_FORWARD:
		*went_forward = true;
		keep_barrier(move);
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

/* The one thing that an undone move may have left, when its target was away; behind the lock,
 * because a later move wants the same. */
static enum exit_code take_back_late(struct move *move, const struct journal_records *records)
{
	struct sbuf error;
	bool ok;

	if (!resume_take_plan(move, records) || !move->read_only)
		return EXIT_UNDONE;
	sbuf_init(&error, ERRORS_MAX);
	(void)!servers_connect(move, &error);
	sbuf_free(&error);
	ok =
	    move->source.link.state == LINK_IDLE
	        ? move_lock_source(move)
	        : move_fail(move, "%s: %s", move->source.link.name, link_error(&move->source.link));
	return ok && read_only_end_late(move) ? EXIT_UNDONE : EXIT_UNDO_INCOMPLETE;
}

/* What the servers are by now may be the work of a later move: nothing else is touched. */
static enum exit_code say_finished(struct move *move, const struct journal_records *records,
                                   bool abort_wanted)
{
	const struct json *end = json_get(journal_find(records, "outcome", "end"), "data");
	bool undone = strcmp(json_text(end, "result"), "undone") == 0;

	ui_line(move->ui, "move %s has ended: it was %s", records->id,
	        undone ? "undone" : "completed");
	if (undone)
		return abort_wanted && !move->dry_run ? take_back_late(move, records) : EXIT_UNDONE;
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
	if (facts.source_reachable && !move->dry_run) {
		if (!move_lock_source(move))
			return EXIT_INTERNAL;
		if (!end_old_sessions(move, &move->source.link)) {
			(void)move_fail(
			    move,
			    "%s: the sessions of the mover that died, which may still carry out "
			    "what it sent last, do not end (%s); try again, or end them "
			    "(application_name pgshunt…)",
			    move->source.link.name, link_error(&move->source.link));
			return EXIT_INTERNAL;
		}
	}
	if (move->target.link.state == LINK_IDLE && !move->dry_run)
		(void)!end_old_sessions(move, &move->target.link);
	facts.changed_anything = move->anything_changed;
	facts.promote_intended = move->promote_intended;
	facts.target = promote_probe(move);
	if (facts.target == TARGET_PRIMARY && move->promote_intended)
		facts.barrier = judge_barrier(move, records->id);
	facts.in_use_on_target = facts.target == TARGET_PRIMARY && !move->promote_intended &&
	                         is_in_use_on_target(move, records);
	decision = decide(&facts, &why);
	ui_line(move->ui, "move %s from %s to %s: target %s, source %s", records->id,
	        move->source.conf->name, move->target.conf->name, target_state_name(facts.target),
	        facts.source_reachable ? "reachable" : "unreachable");
	if (decision == DECIDE_REFUSE || decision == DECIDE_HOLD) {
		move->phase = PHASE_PROMOTE;
		(void)move_fail(move, "%s", why);
		return decision == DECIDE_REFUSE && facts.barrier != BARRIER_PASSED
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
	if (!opened)
		return EXIT_INTERNAL;
	/* All that may follow was intended before: a full disk does not keep clients waiting. */
	if (!journal_write(&move->journal, "intent", abort_wanted ? "abort" : "resume", "",
	                   false) ||
	    !report_who(move))
		ui_error(move->ui, "the journal could not be written");
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
