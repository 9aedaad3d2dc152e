/* SPDX-License-Identifier: PostgreSQL */
/*
 * The source: closing the shards to everybody, ending their sessions, and the WAL record after the
 * last of them.  What the barrier proves rests on the order: fence, nobody left, barrier.
 */
#include "base/mem.h"
#include "migrate/fence_look.h"
#include "migrate/guard.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/prepared.h"
#include "migrate/readers.h"
#include "migrate/seal.h"
#include "migrate/stream.h"
#include "migrate/unlogged.h"
#include "migrate/verify.h"
#include "migrate/watch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FENCE_SQL_MAX ((size_t)4 * 1024 * 1024)
#define FENCE_TIMEOUT (5 * USEC_PER_SEC)
/* Sessions of which one after the other ends, as on a machine under load, get that much more time.
 */
#define TERMINATE_MORE (10 * USEC_PER_SEC)
/* A target that needs no longer for what is written on the source is waited for in the hold. */
#define FOLLOWS_CLOSELY (50 * USEC_PER_MSEC)
/* How long a moment is looked for in which it is so; a target far away always needs longer. */
#define FOLLOWS_PATIENCE (3 * USEC_PER_SEC)
/* How much later than a deadline for something else the server's answer about it may come. */
#define ANSWER_GRACE (1 * USEC_PER_SEC)
#define POLL_EVERY (1 * USEC_PER_MSEC)
/* While many are left to end, which takes each of them longer than this, looking costs CPU that
 * they need: once more for so many. */
#define POLL_STRETCH 32
/* When none has ended for so long, they get another SIGTERM. */
#define TERMINATE_AGAIN (100 * USEC_PER_MSEC)

/* Between two looks of one query text, whose statements see the same of pg_stat_activity otherwise. */
#define LOOK_ANEW "; SELECT pg_stat_clear_snapshot();"
/* How long the undo tries to reach the source. */
#define UNDO_PATIENCE (15 * USEC_PER_SEC)
/* For a row of pg_database that somebody has changed: clients wait meanwhile. */
#define LOCK_TIMEOUT "1s"

void fence_sql(const struct move *move, bool allow, struct sbuf *out)
{
	sbuf_add_str(out, "BEGIN;");
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].gone)
			continue;
		sbuf_add_str(out, "ALTER DATABASE ");
		sql_identifier(out, move->shards[i].dbname);
		sbuf_printf(out, " ALLOW_CONNECTIONS %s;", allow ? "true" : "false");
	}
	sbuf_add_str(out, "COMMIT;");
}

/* The same for the source, of the shards that are there; the clients wait for it. */
static void source_sql(const struct move *move, bool allow, struct sbuf *out)
{
	sbuf_add_str(out, "BEGIN; SET LOCAL lock_timeout = '" LOCK_TIMEOUT "';");
	/* It counts at once; the barrier, which is flushed, takes it along. */
	if (!allow && !move->promote_sent)
		sbuf_add_str(out, "SET LOCAL synchronous_commit = off;");
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].absent)
			continue;
		sbuf_add_str(out, "ALTER DATABASE ");
		sql_identifier(out, move->shards[i].dbname);
		sbuf_printf(out, " ALLOW_CONNECTIONS %s;", allow ? "true" : "false");
	}
	sbuf_add_str(out, "COMMIT;");
}

/* Whether the last error is a lock that was waited for too long. */
static bool is_locked(const struct link *link)
{
	return link->state == LINK_IDLE && strcmp(link->sqlstate, "55P03") == 0;
}

static bool fail_answer(struct move *move, struct link *link)
{
	char *who;

	if (!is_locked(link))
		return move_fail(move, "%s: %s", link->name, link_error(link));
	who = fence_lock_holders(move, link);
	(void)move_fail(
	    move,
	    "%s: somebody has locked the rows of the shards in pg_database, as an ALTER "
	    "DATABASE does until its transaction ends: %s",
	    link->name, who);
	free(who);
	return false;
}

/* The answer to what was sent; before the promotion a signal or a lost hold stops the move. */
static bool answer(struct move *move, struct link *link, usec_t deadline)
{
	enum wait_end end;

	end = loop_wait(&move->loop, &link, 1, deadline, !move->promote_sent);
	if (end == WAIT_STOPPED)
		return move_fail(move, "interrupted");
	if (move->hold_lost && !move->promote_sent)
		return false;
	return link_ok(link) || fail_answer(move, link);
}

static bool ask(struct move *move, struct link *link, const char *sql, usec_t deadline)
{
	link_send(link, sql);
	return answer(move, link, deadline);
}

/* After the promotion it is closed as a rule; or nobody can write there any more, because the
 * source has become a standby, or the copy is gone or renamed.  Closing it once more would not go
 * then. */
static bool is_closed_already(struct move *move)
{
	struct link *link = &move->source.link;
	enum fence_state state = fence_look(move, &move->source);

	move->source_apart = state == FENCE_STANDBY || state == FENCE_STRANGER;
	if (state == FENCE_STANDBY)
		ui_line(move->ui, "  %s is a standby by now: nobody can write there", link->name);
	if (state == FENCE_STRANGER)
		ui_line(move->ui, "  %s is another database system by now: nothing is done there",
		        link->name);
	for (size_t i = 0; i < move->shard_count && !move->source_apart; i++) {
		if (state != FENCE_UNKNOWN && move->shards[i].absent)
			ui_line(move->ui, "  %s has no database %s any more", link->name,
			        move->shards[i].dbname);
	}
	if (state != FENCE_CLOSED && !move->source_apart)
		return false;
	json_int(&move->evidence, "databases", 0);
	return true;
}

/* Closes the shards on the source.  An ALTER DATABASE that waited for somebody else's fails when
 * that is committed ("tuple concurrently updated"): it is made once more. */
static bool close_source(struct move *move, usec_t deadline)
{
	struct link *link = &move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, FENCE_SQL_MAX);
	source_sql(move, false, &sql);
	do {
		link_send(link, sbuf_text(&sql));
		ok = loop_wait(&move->loop, &link, 1, deadline, !move->promote_sent) != WAIT_DONE ||
		     strcmp(link->sqlstate, "XX000") != 0;
	} while (!ok && clock_now() < deadline &&
	         link_run(&move->loop, link, FENCE_TIMEOUT, "ROLLBACK"));
	sbuf_free(&sql);
	return answer(move, link, deadline);
}

bool phase_fence(struct move *move)
{
	bool ok;

	if (move->resumed && is_closed_already(move))
		return true;
	move->fenced = true;
	watch_fenced(move);
	ok = close_source(move, clock_now() + FENCE_TIMEOUT);
	/* Behind it: what is sealed is given up, and must not be for a fence that fails. */
	if (ok && !move->resumed) {
		seal_send(move);
		ok = seal_take(move);
	}
	json_int(&move->evidence, "databases", (int64_t)move->shard_count);
	/* From here on a hold that ended by itself would let clients run into the fence; the
	 * proxies need a moment to write that down, in which the sessions are ended. */
	if (ok)
		hold_send_forever(move);
	return ok;
}

/* The sessions of the comparison, which only read, stay: nobody gets in once the fence stands. */
static void add_spared(const struct move *move, struct sbuf *sql, const char *pid)
{
	if (move->verify == NULL)
		return;
	sbuf_printf(sql, " AND %s <> ALL (", pid);
	verify_spared(move, SOURCE, sql);
	sbuf_add_char(sql, ')');
}

/* The cheap look while they are ending: polling must not take the CPU that they need for it. */
static void count_sql(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, "SELECT coalesce(sum(pg_stat_get_db_numbackends(oid)), 0) AS sessions"
	                  " FROM pg_database WHERE datname IN ");
	shards_literals(move, out);
}

/* Ends all sessions but those that are sealed; counts them per shard.  The last answer is that of
 * count_sql(), to save its way. */
static bool terminate_all(struct move *move, usec_t deadline)
{
	struct link *link = &move->source.link;
	const PGresult *result;
	struct sbuf sql;
	bool picks;
	bool ok;

	sbuf_init(&sql, FENCE_SQL_MAX);
	/* Both see the same of pg_stat_activity. */
	seal_pick_sql(move, &sql);
	picks = sql.len > 0;
	sbuf_add_str(&sql,
	             "SELECT datname, count(*) FILTER (WHERE pg_terminate_backend(pid)) AS ended"
	             " FROM pg_stat_activity a WHERE datname IN ");
	shards_literals(move, &sql);
	add_spared(move, &sql, "pid");
	seal_exclude(move, &sql);
	sbuf_add_str(&sql, " GROUP BY 1" LOOK_ANEW);
	count_sql(move, &sql);
	ok = ask(move, link, sbuf_text(&sql), deadline + ANSWER_GRACE);
	sbuf_free(&sql);
	if (ok && picks)
		seal_know(move, link, 0);
	result = ok ? link->results[picks ? 1 : 0] : NULL;
	for (int row = 0; ok && row < PQntuples(result); row++) {
		const char *name = PQgetvalue(result, row, 0);

		for (size_t i = 0; i < move->shard_count; i++) {
			const unsigned long ended = strtoul(PQgetvalue(result, row, 1), NULL, 10);

			/* Those that get another SIGTERM are the same. */
			if (strcmp(move->shards[i].dbname, name) == 0 &&
			    ended > move->shards[i].sessions)
				move->shards[i].sessions = ended;
		}
	}
	return ok;
}

/*
 * The query that sees whether anybody is left.  A session that is just starting passed the fence
 * before it, and is not in pg_stat_activity yet, holds a lock on its database; it is in one of the
 * two at every moment.  Autovacuum workers pass the fence and write nothing that counts; sealed
 * sessions that have done nothing since are as good as ended.
 */
static void left_sql(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, "SELECT (SELECT count(*) FROM pg_locks l JOIN pg_database d ON"
	                  " d.oid = l.objid WHERE l.locktype = 'object' AND"
	                  " l.classid = 'pg_database'::regclass AND l.pid <> pg_backend_pid() AND"
	                  " d.datname IN ");
	shards_literals(move, out);
	add_spared(move, out, "l.pid");
	sbuf_add_str(out, ") AS starting, (SELECT count(*) FROM pg_stat_activity a WHERE"
	                  " backend_type <> 'autovacuum worker' AND datname IN ");
	shards_literals(move, out);
	add_spared(move, out, "pid");
	seal_exclude(move, out);
	sbuf_add_str(out, ") AS sessions, ");
	prepared_sql(move, out);
	sbuf_add_str(out, " AS prepared");
}

static void target_sql(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out,
	             "SELECT pg_is_in_recovery() AS recovery,"
	             " CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS paused,"
	             " pg_last_wal_replay_lsn() AS lsn,"
	             " (SELECT count(*) FROM pg_database WHERE datallowconn AND datname IN ");
	shards_literals(move, out);
	sbuf_add_str(out, ") AS open, (SELECT count(*) FROM pg_database WHERE datname IN ");
	shards_literals(move, out);
	sbuf_add_str(out, ") AS there, " STREAM_COLUMN);
}

bool fence_warm(struct move *move)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	struct sbuf sql;
	bool ok;

	if (!seal_warm(move))
		return false;
	sbuf_init(&sql, FENCE_SQL_MAX);
	left_sql(move, &sql);
	ok = link_run(&move->loop, source, FENCE_TIMEOUT, sbuf_text(&sql));
	seal_forget(move);
	sbuf_reset(&sql);
	count_sql(move, &sql);
	ok = ok && link_run(&move->loop, source, FENCE_TIMEOUT, sbuf_text(&sql));
	sbuf_reset(&sql);
	target_sql(move, &sql);
	ok = link_run(&move->loop, target, FENCE_TIMEOUT, sbuf_text(&sql)) && ok;
	sbuf_free(&sql);
	ok = promote_prepare(move) && ok;
	if (!ok)
		return move_fail(move, "%s: %s", link_ok(source) ? target->name : source->name,
		                 link_error(link_ok(source) ? target : source));
	return true;
}

/* How long the target needs from now on for what the source has by now; -1 after move_fail(). */
static usec_t measure_delay(struct move *move, usec_t deadline)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	const usec_t began = clock_now();
	uint64_t written = 0;
	uint64_t replayed = 0;
	char *who;
	char *why;

	if (!link_run(&move->loop, source, FENCE_TIMEOUT,
	              "SELECT pg_current_wal_flush_lsn() AS lsn")) {
		(void)move_fail(move, "%s: %s", source->name, link_error(source));
		return -1;
	}
	(void)!lsn_parse(link_value(source, 0, "lsn"), &written);
	for (;;) {
		if (!link_run(&move->loop, target, FENCE_TIMEOUT,
		              "SELECT pg_last_wal_replay_lsn() AS lsn")) {
			(void)move_fail(move, "%s: %s", target->name, link_error(target));
			return -1;
		}
		if (lsn_parse(link_value(target, 0, "lsn"), &replayed) && replayed >= written)
			return clock_now() - began;
		if (move_stopped(move)) {
			(void)move_fail(move, "interrupted");
			return -1;
		}
		if (clock_now() >= deadline)
			break;
		loop_sleep(&move->loop, POLL_EVERY);
	}
	who = readers_delaying(move, false);
	why = stream_say(move);
	(void)move_fail(
	    move,
	    "%s does not follow %s: it has not replayed within mover.catch_up_timeout what "
	    "was written there before, %" PRIu64 " bytes are left%s%s%s",
	    target->name, source->name, written - replayed,
	    who == NULL ? "" : "; its replay waits for ", who == NULL ? "" : who, why);
	free(who);
	free(why);
	return -1;
}

bool fence_await_follower(struct move *move)
{
	const usec_t timeout = move->config->mover.catch_up_timeout;
	const usec_t until = clock_now() + FOLLOWS_PATIENCE;
	usec_t delay;

	do {
		delay = measure_delay(move, clock_now() + timeout);
	} while (delay > FOLLOWS_CLOSELY && clock_now() < until);
	if (delay > FOLLOWS_CLOSELY)
		ui_line(move->ui, "  %s replays %.1f s late: clients will be held for as long",
		        move->target.link.name, (double)delay / (double)USEC_PER_SEC);
	return delay >= 0;
}

/* Until few enough are left that the exact look is worth its time; behind terminate_all(). */
static bool await_few(struct move *move, usec_t *deadline, usec_t last)
{
	struct link *link = &move->source.link;
	usec_t until = clock_now() + TERMINATE_AGAIN;
	int64_t before = INT64_MAX;
	struct sbuf sql;
	bool ok = true;

	sbuf_init(&sql, FENCE_SQL_MAX);
	count_sql(move, &sql);
	while (ok) {
		int64_t left = link_number(link, 0, "sessions", 1) -
		               (int64_t)(verify_spared_count(move) + seal_count(move));

		if (left < before)
			until = clock_now() + TERMINATE_AGAIN;
		if (left < move->least_left)
			*deadline =
			    clock_now() + FENCE_TIMEOUT < last ? clock_now() + FENCE_TIMEOUT : last;
		move->least_left = left < move->least_left ? left : move->least_left;
		before = left;
		if (left <= 0 || clock_now() >= until || clock_now() >= *deadline)
			break;
		loop_sleep(&move->loop, POLL_EVERY * (1 + left / POLL_STRETCH));
		ok = ask(move, link, sbuf_text(&sql), *deadline + ANSWER_GRACE);
	}
	sbuf_free(&sql);
	return ok;
}

/* Until nobody was left twice in a row, which `sql` looks in one go. */
static bool await_nobody(struct move *move, const char *sql, usec_t deadline, usec_t last)
{
	struct link *link = &move->source.link;

	for (;;) {
		if (!ask(move, link, sql, deadline + ANSWER_GRACE))
			return false;
		if (link_sum(link, "sessions", 1) + link_sum(link, "starting", 1) == 0)
			return true;
		if (clock_now() >= deadline) {
			const int64_t left = link_number(link, 0, "sessions", 1) +
			                     link_number(link, 0, "starting", 1);
			char *who = fence_who_is_left(move, link);

			(void)move_fail(move, "%" PRId64 " sessions did not end: %s", left, who);
			free(who);
			return false;
		}
		/* Somebody ignored the signal, or slipped in before the fence. */
		if (!terminate_all(move, deadline) || !await_few(move, &deadline, last))
			return false;
	}
}

bool phase_terminate(struct move *move)
{
	usec_t deadline = clock_now() + FENCE_TIMEOUT;
	const usec_t last = deadline + TERMINATE_MORE;
	struct sbuf sql;
	bool ok;

	move->least_left = INT64_MAX;
	if (move->source_apart)
		return true; /* who is there does not write to what was moved */
	if (!terminate_all(move, deadline) || !await_few(move, &deadline, last))
		return false;
	sbuf_init(&sql, FENCE_SQL_MAX);
	left_sql(move, &sql);
	sbuf_add_str(&sql, LOOK_ANEW);
	left_sql(move, &sql);
	ok = await_nobody(move, sbuf_text(&sql), deadline, last);
	sbuf_free(&sql);
	move->terminated = 0;
	for (size_t i = 0; i < move->shard_count; i++)
		move->terminated += (int64_t)move->shards[i].sessions;
	json_int(&move->evidence, "terminated", move->terminated);
	json_int(&move->evidence, "sealed", (int64_t)seal_count(move));
	/* Nobody is there any more who could end one or make another. */
	return ok && prepared_keep(move, link_value(&move->source.link, 0, "prepared"));
}

bool phase_barrier(struct move *move)
{
	struct link *link = &move->source.link;
	struct sbuf sql;
	char text[LSN_TEXT_MAX];
	bool intended;

	/*
	 * Transactional, so that its commit flushes the WAL up to it: a record that waits for the
	 * WAL writer would take up to 200 ms more.  B is the end of this record and not of the WAL,
	 * because what other databases write after it need not be waited for.
	 */
	sbuf_init(&sql, 1024);
	sbuf_add_str(&sql, "SELECT pg_logical_emit_message(true, 'pgshunt', ");
	sql_literal(&sql, move->journal.id == NULL ? "barrier" : move->journal.id);
	sbuf_add_str(&sql, ") AS lsn");
	link_send(link, sbuf_text(&sql));
	sbuf_free(&sql);
	/* Our own flush runs while the server does its own. */
	intended = run_intend(move, PHASE_PROMOTE);
	if (loop_wait(&move->loop, &link, 1, clock_now() + FENCE_TIMEOUT, true) == WAIT_STOPPED)
		return move_fail(move, "interrupted");
	if (!intended)
		return false;
	if (!link_ok(link) || !lsn_parse(link_value(link, 0, "lsn"), &move->barrier))
		return move_fail(move, "%s: %s", link->name, link_error(link));
	json_str(&move->evidence, "lsn", lsn_format(move->barrier, text));
	return true;
}

/* One look at the target, which was asked; 1 = caught up, 0 = not yet, -1 = failed.  *lifted: it
 * has replayed the barrier and shows no fence. */
static int look_at_target(struct move *move, usec_t deadline, bool *lifted)
{
	struct link *link = &move->target.link;
	uint64_t replayed = 0;

	if (!answer(move, link, deadline + ANSWER_GRACE))
		return -1;
	if (!link_true(link, 0, "recovery")) {
		(void)move_fail(move, "%s was promoted by somebody else", link->name);
		return -1;
	}
	if (link_true(link, 0, "paused")) {
		(void)move_fail(move, "replay was paused on %s", link->name);
		return -1;
	}
	/* Nobody needs to be connected to a closed database to rename or drop it. */
	if (link_number(link, 0, "there", 0) < (int64_t)move->shard_count) {
		(void)move_fail(move, "somebody has renamed or dropped a database of the shards on %s",
		                move->source.link.name);
		return -1;
	}
	(void)!lsn_parse(link_value(link, 0, "lsn"), &replayed);
	move->lag = move->barrier > replayed ? (int64_t)(move->barrier - replayed) : 0;
	if (link_number(link, 0, "open", 1) > 0) {
		/* The position is read after the databases: once may be just that moment. */
		if (*lifted && move->lag == 0) {
			(void)move_fail(move, "somebody lifted the fence on %s",
			                move->source.link.name);
			return -1;
		}
		*lifted = move->lag == 0;
		return 0;
	}
	/* It shows the fence: it replays what happened milliseconds ago. */
	guard_send_end(move);
	return move->lag == 0 ? 1 : 0;
}

bool phase_catch_up(struct move *move)
{
	usec_t deadline = clock_now() + move->config->mover.catch_up_timeout;
	struct sbuf sql;
	usec_t unstreamed = 0;
	bool lifted = false;
	bool synced;
	int caught_up;

	sbuf_init(&sql, FENCE_SQL_MAX);
	target_sql(move, &sql);
	link_send(&move->target.link, sbuf_text(&sql));
	/* While it answers: whoever resumes after the request to promote needs the barrier, even if
	 * our machine loses power right after it. */
	synced = journal_sync(&move->journal);
	while ((caught_up = look_at_target(move, deadline, &lifted)) == 0) {
		if (stream_ended(move, &unstreamed))
			break;
		if (clock_now() >= deadline) {
			char *who = readers_delaying(move, false);
			char *why = stream_say(move);

			(void)move_fail(move,
			                "%s is still %" PRId64 " bytes before the barrier%s%s%s",
			                move->target.link.name, move->lag,
			                who == NULL ? "" : "; its replay waits for ",
			                who == NULL ? "" : who, why);
			free(who);
			free(why);
			break;
		}
		loop_sleep(&move->loop, POLL_EVERY);
		link_send(&move->target.link, sbuf_text(&sql));
	}
	sbuf_free(&sql);
	if (caught_up != 1)
		return false;
	if (!synced)
		return move_fail(move, "the journal could not be written");
	json_str(&move->evidence, "replayed", link_value(&move->target.link, 0, "lsn"));
	/* The fence is seen there: nobody comes any more.  Asked while the proxies write. */
	seal_look(move);
	readers_send(move);
	unlogged_send(move);
	return hold_await_forever(move) && readers_end(move, deadline) && unlogged_none(move) &&
	       seal_prove(move);
}

/* One attempt.  What is open already need not be opened: our own ALTER DATABASE cannot come later
 * any more, because it has ended, or its session has, with the lock that ours has by now. */
static bool undo_once(struct move *move)
{
	struct link *link = &move->source.link;
	enum fence_state state;
	struct sbuf sql;
	bool ok;

	if (link->state == LINK_BUSY)
		(void)!loop_wait(&move->loop, &link, 1, clock_now() + USEC_PER_SEC, false);
	if (link->state == LINK_BUSY)
		link_close(link);
	/* A failed transaction may be open in the session. */
	if (!link_revive(move, link) || !link_run(&move->loop, link, FENCE_TIMEOUT, "ROLLBACK"))
		return false;
	state = fence_look(move, &move->source);
	if (state == FENCE_UNKNOWN)
		return false;
	if (state == FENCE_OPEN || state == FENCE_CLOSED)
		seal_end(move);
	if (state == FENCE_OPEN)
		return true;
	if (state == FENCE_STRANGER) {
		ui_error(move->ui,
		         "%s is another database system by now: no fence of ours is there",
		         link->name);
		return true;
	}
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].absent)
			ui_error(move->ui,
			         "%s has no database %s any more; if somebody has renamed it, its fence "
			         "still stands: ALTER DATABASE ... ALLOW_CONNECTIONS true",
			         link->name, move->shards[i].dbname);
	}
	sbuf_init(&sql, FENCE_SQL_MAX);
	source_sql(move, true, &sql);
	ok = link_run(&move->loop, link, FENCE_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

bool fence_undo(struct move *move)
{
	struct link *link = &move->source.link;
	usec_t deadline = clock_now() + UNDO_PATIENCE;
	bool ok;

	while (!(ok = undo_once(move)) && !move->lock_lost && clock_now() < deadline)
		loop_sleep(&move->loop, 250 * USEC_PER_MSEC);
	if (!ok) {
		char *error = mem_must_strdup(link_error(link));
		char *who = is_locked(link) ? fence_lock_holders(move, link) : NULL;

		ui_error(move->ui, "%s: connections could not be allowed again: %s%s%s", link->name,
		         error, who == NULL ? "" : "; who has the lock: ", who == NULL ? "" : who);
		free(error);
		free(who);
	}
	return ok;
}
