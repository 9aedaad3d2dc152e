/* SPDX-License-Identifier: PostgreSQL */
/* See read_only.h. */
#include "migrate/read_only.h"

#include "migrate/journal.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/watch.h"

#include <inttypes.h>
#include <string.h>

#define SQL_MAX ((size_t)1024 * 1024)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define LOOK_EVERY (5 * USEC_PER_MSEC)
/* How long a reload may take to count; no client waits for it. */
#define RELOAD_PATIENCE (10 * USEC_PER_SEC)
#define REACH_PATIENCE (3 * USEC_PER_SEC)
#define REACH_EVERY (100 * USEC_PER_MSEC)
#define OLD_PATIENCE (500 * USEC_PER_MSEC)
/* So long is waited for sessions that were just starting when the target's was taken back: they have what
 * it was when their process was forked until they have looked for their database's.  Nobody else waits. */
#define STARTING (300 * USEC_PER_MSEC)
#define RECORD "read_only"

#define ANY_VALUE "%"

/* Which of the shards have a setting of their own, of that value. */
static void own_sql(const struct move *move, const char *value, struct sbuf *out)
{
	sbuf_printf(out,
	            "SELECT d.datname FROM pg_db_role_setting s JOIN pg_database d ON"
	            " d.oid = s.setdatabase WHERE s.setrole = 0 AND EXISTS (SELECT FROM"
	            " unnest(s.setconfig) c WHERE c LIKE 'default\\_transaction\\_read\\_only=%s')"
	            " AND d.datname IN ",
	            value);
	shards_literals(move, out);
}

/* What postgresql.auto.conf of the target says: "on", "off" …, or NULL. */
static bool in_file(struct move *move, const char **setting)
{
	struct link *link = &move->target.link;

	if (!link_run(&move->loop, link, ASK_TIMEOUT,
	              "SELECT setting FROM pg_file_settings WHERE"
	              " name = 'default_transaction_read_only' AND"
	              " sourcefile LIKE '%postgresql.auto.conf' ORDER BY seqno DESC LIMIT 1"))
		return false;
	*setting = link_value(link, 0, "setting");
	return true;
}

/* How many of the shards have a setting of their own; -1: cannot be asked. */
static int count_own(struct move *move, struct link *link, const char *value)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, SQL_MAX);
	own_sql(move, value, &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok ? link_rows(link) : -1;
}

/* Whether it is among those that were counted. */
static bool has_own(const struct link *link, const char *dbname)
{
	for (int row = 0; row < link_rows(link); row++) {
		if (strcmp(link_value(link, row, "datname"), dbname) == 0)
			return true;
	}
	return false;
}

bool read_only_left_over(struct move *move)
{
	const char *setting;

	return in_file(move, &setting) && setting != NULL && strcmp(setting, "on") == 0 &&
	       count_own(move, &move->source.link, ANY_VALUE) == (int)move->shard_count;
}

/* Which of the shards have none, and get one from us; or have it from a move that did not end. */
static bool choose(struct move *move, bool left_over)
{
	struct link *link = &move->source.link;

	if (count_own(move, link, ANY_VALUE) < 0)
		return move_fail(move, "%s: %s", link->name, link_error(link));
	for (size_t i = 0; i < move->shard_count; i++)
		move->shards[i].own_read_only = left_over || !has_own(link, move->shards[i].dbname);
	return true;
}

static bool write_down(struct move *move)
{
	struct sbuf data;
	bool ok;

	sbuf_init(&data, SQL_MAX);
	json_open(&data, "databases", '[');
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].own_read_only)
			json_str(&data, NULL, move->shards[i].dbname);
	}
	json_close(&data, ']');
	json_int(&data, "in_file", move->read_only_in_file);
	ok = journal_write(&move->journal, "intent", RECORD, sbuf_text(&data), true);
	sbuf_free(&data);
	return ok || move_fail(move, "the journal could not be written");
}

void read_only_take(struct move *move, const struct journal_records *records)
{
	const struct json *data = json_get(journal_find(records, "intent", RECORD), "data");
	const struct json *list = json_get(data, "databases");

	move->read_only = data != NULL;
	move->read_only_in_file = json_number(data, "in_file", 0) > 0;
	for (const struct json *at = list == NULL ? NULL : list->first; at != NULL; at = at->next) {
		for (size_t i = 0; i < move->shard_count; i++) {
			if (strcmp(move->shards[i].dbname, at->text) == 0)
				move->shards[i].own_read_only = true;
		}
	}
}

/* In one transaction. */
static void shards_sql(const struct move *move, const char *what, struct sbuf *out)
{
	sbuf_add_str(out, "BEGIN;");
	for (size_t i = 0; i < move->shard_count; i++) {
		if (!move->shards[i].own_read_only)
			continue;
		sbuf_add_str(out, "ALTER DATABASE ");
		sql_identifier(out, move->shards[i].dbname);
		sbuf_printf(out, " %s;", what);
	}
	sbuf_add_str(out, "COMMIT");
}

/* Until the target has replayed the shards' own settings. */
static bool await_replay(struct move *move)
{
	struct link *link = &move->target.link;
	const usec_t deadline = clock_now() + move->config->mover.catch_up_timeout;
	int count;

	while ((count = count_own(move, link, ANY_VALUE)) >= 0 && count < (int)move->shard_count) {
		if (move_stopped(move))
			return move_fail(move, "interrupted");
		if (clock_now() >= deadline)
			return move_fail(move,
			                 "%s has not replayed an ALTER DATABASE of %s within "
			                 "mover.catch_up_timeout",
			                 link->name, move->source.link.name);
		loop_sleep(&move->loop, LOOK_EVERY);
	}
	return count >= 0 || move_fail(move, "%s: %s", link->name, link_error(link));
}

/* How many are connected to the shards there since before their own setting, as readers or from a
 * pgbouncer; they would take the server's when it is reloaded.  One that is just starting may have read
 * its settings and not be in pg_stat_activity yet, but until it is has its database locked: which is
 * looked at first.  Those that are just ending, as our own look at the logins, are waited for.  -1:
 * cannot be asked. */
static int64_t count_old_sessions(struct move *move)
{
	struct link *link = &move->target.link;
	const usec_t deadline = clock_now() + OLD_PATIENCE;
	int64_t sessions;
	struct sbuf sql;

	sbuf_init(&sql, SQL_MAX);
	sbuf_add_str(&sql, "SELECT count(DISTINCT pid) AS sessions FROM (SELECT l.pid FROM pg_locks l JOIN"
	                   " pg_database d ON d.oid = l.objid WHERE l.locktype = 'object' AND l.classid ="
	                   " 'pg_database'::regclass AND d.datname IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " UNION ALL SELECT pid FROM pg_stat_activity WHERE backend_type ="
	                   " 'client backend' AND datname IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, ") s");
	for (;;) {
		sessions = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql))
		               ? link_number(link, 0, "sessions", -1)
		               : -1;
		if (sessions <= 0 || clock_now() >= deadline || move_stopped(move))
			break;
		loop_sleep(&move->loop, LOOK_EVERY);
	}
	sbuf_free(&sql);
	return sessions;
}

/* ALTER SYSTEM is refused in a transaction, even in one query text with something else. */
static bool alter_system(struct move *move, const char *sql)
{
	return link_run(&move->loop, &move->target.link, ASK_TIMEOUT, sql) &&
	       link_run(&move->loop, &move->target.link, ASK_TIMEOUT, "SELECT pg_reload_conf()");
}

static bool await_reload(struct move *move, bool on)
{
	struct link *link = &move->target.link;
	const usec_t deadline = clock_now() + RELOAD_PATIENCE;

	/* Our own session has set it: what RESET would make of it counts. */
	while (link_run(&move->loop, link, ASK_TIMEOUT,
	                "SELECT reset_val = 'on' AS on FROM pg_settings"
	                " WHERE name = 'default_transaction_read_only'")) {
		if (link_true(link, 0, "on") == on)
			return true;
		if (clock_now() >= deadline)
			return false;
		loop_sleep(&move->loop, LOOK_EVERY);
	}
	return false;
}

bool read_only_begin(struct move *move)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	const char *setting;
	struct sbuf sql;
	int64_t sessions;
	bool left_over;
	bool ok;

	if (move->other_count == 0)
		return true;
	left_over = read_only_left_over(move);
	if (!in_file(move, &setting))
		return move_fail(move, "%s: %s", target->name, link_error(target));
	move->read_only_in_file = setting != NULL && !left_over;
	if (!choose(move, left_over) || !write_down(move))
		return false;
	move->read_only = true;
	sbuf_init(&sql, SQL_MAX);
	shards_sql(move, "SET default_transaction_read_only = off", &sql);
	ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return move_fail(move, "%s: %s", source->name, link_error(source));
	if (!await_replay(move))
		return false;
	sessions = count_old_sessions(move);
	if (sessions < 0)
		return move_fail(move, "%s: %s", target->name, link_error(target));
	if (sessions > 0) {
		ui_error(move->ui,
		         "prepare: %" PRId64 " sessions are in the shards on %s since before the move, so "
		         "it is not made read-only by default; whoever writes to its copies of other "
		         "databases in the milliseconds between promotion and fence is not kept off",
		         sessions, target->name);
		return true;
	}
	if (!alter_system(move, "ALTER SYSTEM SET default_transaction_read_only = on"))
		ui_error(move->ui,
		         "prepare: %s: %s; whoever writes to its copies of other databases in the "
		         "milliseconds between promotion and fence is not kept off",
		         target->name, link_error(target));
	else if (!await_reload(move, true))
		ui_error(move->ui,
		         "prepare: %s does not take default_transaction_read_only from "
		         "postgresql.auto.conf; whoever writes to its copies of other databases in "
		         "the milliseconds between promotion and fence is not kept off",
		         target->name);
	return true;
}

/* Waits a moment for a server that is just starting again; one that hangs is away, too. */
static bool reach(struct move *move, struct link *link)
{
	const usec_t deadline = clock_now() + REACH_PATIENCE;

	while (!link_revive(move, link) || !link_run(&move->loop, link, ASK_TIMEOUT, "SELECT")) {
		if (clock_now() >= deadline)
			return false;
		loop_sleep(&move->loop, REACH_EVERY);
	}
	return true;
}

/* The server's default is again what it was, which cannot have been other than off (check). */
static bool end_on_target(struct move *move)
{
	return alter_system(move, move->read_only_in_file
	                              ? "ALTER SYSTEM SET default_transaction_read_only = off"
	                              : "ALTER SYSTEM RESET default_transaction_read_only") &&
	       await_reload(move, false);
}

/* Of those of the shards that have one from us. */
static bool end_on_shards(struct move *move, struct link *link)
{
	struct sbuf sql;
	bool ok;

	/* One that somebody has dropped or renamed meanwhile is no reason to call it unfinished; and what
	 * he has set to something else is his. */
	if (!reach(move, link) || count_own(move, link, "off") < 0)
		return false;
	for (size_t i = 0; i < move->shard_count; i++)
		move->shards[i].own_read_only = move->shards[i].own_read_only &&
		                                has_own(link, move->shards[i].dbname);
	sbuf_init(&sql, SQL_MAX);
	shards_sql(move, "RESET default_transaction_read_only", &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

static void say_left(struct move *move)
{
	ui_error(move->ui,
	         "%s: %s; its default_transaction_read_only is still on, by ALTER SYSTEM.  When it "
	         "answers, %s\"pgshunt abort %s\" takes that back%s, and so does the next move; by "
	         "hand: ALTER SYSTEM RESET default_transaction_read_only and SELECT "
	         "pg_reload_conf() there, then ALTER DATABASE ... RESET "
	         "default_transaction_read_only for the shards on %s",
	         move->target.link.name, link_error(&move->target.link),
	         watch_is_there(move) ? "the watch over the move does within ten minutes, then "
	                              : "",
	         move->journal.id, watch_is_there(move) ? "" : " (it does not by itself)",
	         move->source.link.name);
}

/* One that ends our session meanwhile, as by a crash, is reached once more. */
bool read_only_end(struct move *move)
{
	struct link *target = &move->target.link;
	struct link *shards = move->promote_sent ? target : &move->source.link;
	bool reached;
	bool ended;

	if (!move->read_only)
		return true;
	move->read_only = false;
	reached = reach(move, target);
	ended = reached && end_on_target(move);
	if (reached && !ended && target->state == LINK_BROKEN) {
		reached = reach(move, target);
		ended = reached && end_on_target(move);
	}
	if (!reached) {
		/* It may never come back: that is no reason to call a move unfinished.  The shards'
		 * own tells the next move whose it is (read_only_left_over()). */
		say_left(move);
		move->read_only_left = true;
		return true;
	}
	if (!ended) {
		ui_error(move->ui,
		         "%s: %s; its default_transaction_read_only may still be on: ALTER SYSTEM "
		         "RESET default_transaction_read_only there, and reload",
		         target->name, link_error(target));
		return false;
	}
	/* Last: until the server's is off again, they must not take that. */
	if (move->promote_sent)
		loop_sleep(&move->loop, STARTING);
	if (end_on_shards(move, shards) ||
	    (shards->state == LINK_BROKEN && end_on_shards(move, shards)))
		return true;
	ui_error(move->ui,
	         "%s: %s; the shards may still have a default_transaction_read_only = off of their "
	         "own: ALTER DATABASE ... RESET default_transaction_read_only",
	         shards->name, link_error(shards));
	return false;
}

bool read_only_end_late(struct move *move)
{
	struct link *target = &move->target.link;
	const char *setting;

	if (!move->read_only)
		return true;
	if (!reach(move, target) || !in_file(move, &setting)) {
		say_left(move);
		return false;
	}
	if (setting == NULL || strcmp(setting, "on") != 0)
		return true;
	ui_line(move->ui, "%s: what the move has set there is taken back", target->name);
	return read_only_end(move) && !move->read_only_left;
}
