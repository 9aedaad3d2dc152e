/* SPDX-License-Identifier: PostgreSQL */
/*
 * The target: promotion, the proof that nothing was lost by it, and opening the shards.
 *
 * From the moment at which the request to promote may have left, nothing may un-fence the source:
 * whether the request arrived is for the target to say.
 */
#include "base/mem.h"
#include "migrate/fence_look.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/proof.h"
#include "migrate/readers.h"
#include "migrate/seal.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PROMOTE_SQL_MAX ((size_t)4 * 1024 * 1024)
#define POLL_EVERY (1 * USEC_PER_MSEC)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define REPEAT_EVERY (250 * USEC_PER_MSEC)
/* A promotion that takes longer may be waiting for sessions that delay the replay. */
#define LONG_PROMOTION (200 * USEC_PER_MSEC)
#define PROBES 3

/* One look.  The file exists until the startup process has taken the request up; from then on
 * pausing the replay is refused.  Between the two lie microseconds, hence several looks. */
static enum target_state probe_once(struct move *move)
{
	struct link *link = &move->target.link;

	if (!link_revive(move, link) ||
	    !link_run(&move->loop, link, ASK_TIMEOUT,
	              "SELECT pg_is_in_recovery() AS recovery,"
	              " (pg_stat_file('promote', true)).size IS NOT NULL AS asked"))
		return TARGET_UNREACHABLE;
	if (!link_true(link, 0, "recovery"))
		return TARGET_PRIMARY;
	if (link_true(link, 0, "asked"))
		return TARGET_PROMOTING;
	if (link_run(&move->loop, link, ASK_TIMEOUT,
	             "SELECT pg_wal_replay_pause(); SELECT pg_wal_replay_resume()"))
		return TARGET_STANDBY;
	return link->state == LINK_IDLE && strcmp(link->sqlstate, "55000") == 0
	           ? TARGET_PROMOTING
	           : TARGET_UNREACHABLE;
}

enum target_state promote_probe(struct move *move)
{
	enum target_state state = TARGET_UNREACHABLE;

	for (int i = 0; i < PROBES; i++) {
		if (i > 0)
			loop_sleep(&move->loop, 100 * USEC_PER_MSEC);
		state = probe_once(move);
		if (state == TARGET_PRIMARY || state == TARGET_PROMOTING)
			return state;
	}
	return state;
}

void promote_others_sql(const struct move *move, struct sbuf *out)
{
	/* A limit of -2: invalid, what DROP DATABASE has left when it was interrupted. */
	sbuf_add_str(out,
	             "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
	             " AND datconnlimit <> -2 AND datname NOT IN ('postgres', current_database())"
	             " AND datname NOT IN ");
	shards_literals(move, out);
}

void promote_forget_closing(struct move *move)
{
	for (size_t i = 0; i < move->closing_count; i++)
		free(move->closing[i]);
	free(move->closing);
	move->closing = NULL;
	move->closing_count = 0;
}

static void add_name(char ***names, size_t *count, const char *name)
{
	*names = mem_must_grow(*names, *count + 1, sizeof(**names));
	(*names)[(*count)++] = mem_must_strdup(name);
}

bool promote_is_other(const struct move *move, const char *name)
{
	for (size_t i = 0; i < move->other_count; i++) {
		if (strcmp(move->others[i], name) == 0)
			return true;
	}
	return false;
}

static bool is_shard(const struct move *move, const char *name)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, name) == 0)
			return true;
	}
	return false;
}

size_t promote_open_copies(struct move *move, char ***names)
{
	const size_t count = fence_open_on_both(move, names);
	size_t left = 0;

	for (size_t i = 0; i < count; i++) {
		char *name = (*names)[i];

		if (is_shard(move, name))
			free(name);
		else
			(*names)[left++] = name;
	}
	return left;
}

static void add_closing(struct move *move, const char *name)
{
	add_name(&move->closing, &move->closing_count, name);
	if (!promote_is_other(move, name))
		add_name(&move->others, &move->other_count, name);
}

/* What is to be closed there: of what the checks have seen something may have been dropped, renamed
 * or made since. */
static bool read_closing(struct move *move)
{
	struct link *link = &move->target.link;
	char **names;
	size_t copies;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PROMOTE_SQL_MAX);
	promote_others_sql(move, &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return false;
	promote_forget_closing(move);
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "datname");

		/* What is new on the target when a move is resumed, maybe days later, is wanted
		 * there. */
		if (!move->resumed || promote_is_other(move, name))
			add_closing(move, name);
	}
	if (!move->resumed)
		return true;
	copies = promote_open_copies(move, &names);
	for (size_t i = 0; i < copies; i++) {
		if (!promote_is_other(move, names[i]))
			add_closing(move, names[i]);
	}
	fence_free_names(names, copies);
	return true;
}

bool promote_prepare(struct move *move)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	bool ok;

	if (move->prepared_in == link->sessions && move->prepared_in > 0)
		return true;
	if (!read_closing(move))
		return false;
	sbuf_init(&sql, PROMOTE_SQL_MAX);
	sbuf_add_str(&sql, "DEALLOCATE ALL; PREPARE pgshunt_proof AS " PROOF_SQL
	                   "; EXECUTE pgshunt_proof; PREPARE pgshunt_end_others AS"
	                   " SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
	                   " WHERE pid <> pg_backend_pid() AND datname IN (");
	if (move->other_count == 0)
		sbuf_add_str(&sql, "NULL");
	for (size_t i = 0; i < move->other_count; i++) {
		if (i > 0)
			sbuf_add_char(&sql, ',');
		sql_literal(&sql, move->others[i]);
	}
	/* It makes the plan and does nothing. */
	sbuf_add_str(&sql, "); EXPLAIN EXECUTE pgshunt_end_others");
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (ok)
		move->prepared_in = link->sessions;
	return ok;
}

/* 1 = promoted, and the link has the proof; 0 = not yet, -1 = cannot be asked. */
static int look(struct move *move)
{
	struct link *link = &move->target.link;

	if (!promote_prepare(move) ||
	    !link_run(&move->loop, link, ASK_TIMEOUT, "EXECUTE pgshunt_proof"))
		return -1;
	return link_true(link, 0, "recovery") ? 0 : 1;
}

/* The session was lost: wait for the target to answer again.  If it came back as a standby that
 * knows of no request, the request is gone with the old process and is made once more. */
static void regain(struct move *move)
{
	struct link *link = &move->target.link;

	link_close(link);
	loop_sleep(&move->loop, REPEAT_EVERY);
	if (promote_probe(move) != TARGET_STANDBY)
		return;
	ui_error(move->ui, "promote: %s is a standby again; the promotion is requested once more",
	         link->name);
	move->promote_sent_at = clock_now();
	(void)!link_run(&move->loop, link, ASK_TIMEOUT, "SELECT pg_promote(false) AS ok");
}

/* The target replays all WAL it has before it is a primary, for which a query there may make it wait
 * for up to max_standby_streaming_delay, and the clients with it.  Such sessions would be ended after
 * it anyway. */
static void end_delaying(struct move *move)
{
	char *who = readers_delaying(move, true);

	if (who != NULL)
		ui_error(move->ui, "promote: sessions on %s delayed the replay, and were ended: %s",
		         move->target.link.name, who);
	free(who);
}

bool promote_await(struct move *move)
{
	usec_t look_at = clock_now() + LONG_PROMOTION;
	usec_t deadline = clock_now() + move->config->mover.promote_timeout;

	for (;;) {
		int state = look(move);

		if (state == 1)
			break;
		if (clock_now() >= deadline)
			return move_fail(
			    move,
			    "%s did not become a primary within %" PRId64
			    " s (%s); the clients stay held and the source stays fenced",
			    move->target.link.name,
			    move->config->mover.promote_timeout / USEC_PER_SEC,
			    state == 0 ? "it is still in recovery"
			               : link_error(&move->target.link));
		if (state < 0)
			regain(move);
		else
			loop_sleep(&move->loop, POLL_EVERY);
		if (state == 0 && clock_now() >= look_at) {
			end_delaying(move);
			look_at = clock_now() + LONG_PROMOTION;
		}
	}
	move->promoted_at = clock_now();
	return true;
}

/* The answer to the request was an error.  Only if the target says that it knows of no request may
 * the move be undone. */
static bool request_failed(struct move *move)
{
	struct link *link = &move->target.link;
	char *error = mem_must_strdup(link_error(link));
	enum target_state state = promote_probe(move);

	if (state == TARGET_STANDBY) {
		move->promote_sent = false;
		(void)move_fail(move, "%s refused to promote: %s", link->name, error);
	} else {
		ui_error(move->ui, "promote: %s answered: %s; it is %s", link->name, error,
		         target_state_name(state));
	}
	free(error);
	return state != TARGET_STANDBY;
}

bool phase_promote(struct move *move)
{
	struct link *link = &move->target.link;

	if (move_stopped(move))
		return move_fail(move, "interrupted");
	if (move->hold_lost)
		return false;
	move->promote_sent = true;
	move->promote_sent_at = clock_now();
	/* Not pg_promote(true): that one looks every 100 ms whether it is done. */
	link_send(link, "SELECT pg_promote(false) AS ok");
	verify_send_snapshots(move);
	seal_look(move);
	if (!run_intend(move, PHASE_OPEN))
		move_problem(move, "the journal could not be written");
	if (loop_wait(&move->loop, &link, 1, clock_now() + ASK_TIMEOUT, false) != WAIT_DONE)
		link_close(link);
	if (link->state == LINK_IDLE && !link_true(link, 0, "ok") && !request_failed(move))
		return false;
	if (!promote_await(move))
		return false;
	json_msec(&move->evidence, "promote_ms", move->promoted_at - move->promote_sent_at);
	return true;
}

/* ---- proof ---- */

static void close_sql(const char *name, struct sbuf *out)
{
	sbuf_add_str(out, "ALTER DATABASE ");
	sql_identifier(out, name);
	sbuf_add_str(out, " ALLOW_CONNECTIONS false;");
}

/* The target's copies of other databases are closed to everybody; then whoever is in them is ended,
 * by end_others_sql. */
static void others_sql(const struct move *move, struct sbuf *out)
{
	/* Not flushed by itself: the next commit that is, flushes this one too. */
	sbuf_add_str(out, "SET synchronous_commit = off;");
	if (move->closing_count == 0)
		return;
	sbuf_add_str(out, "BEGIN;");
	for (size_t i = 0; i < move->closing_count; i++)
		close_sql(move->closing[i], out);
	sbuf_add_str(out, "COMMIT;");
}

static const char end_others_sql[] = "EXECUTE pgshunt_end_others;";

static bool check_proof(struct move *move)
{
	struct link *link = &move->target.link;
	const char *system = link_value(link, 0, "system");
	const char *history = link_value(link, 0, "history");
	char barrier[LSN_TEXT_MAX];
	char point[LSN_TEXT_MAX];
	uint32_t parent = 0;

	move->new_timeline = link_number(link, 0, "timeline", 0);
	if (history == NULL || !timeline_switch_point(history, &parent, &move->switch_point))
		return move_fail(move, "the history of timeline %" PRId64 " of %s cannot be read",
		                 move->new_timeline, link->name);
	json_int(&move->evidence, "timeline", move->new_timeline);
	json_int(&move->evidence, "parent_timeline", parent);
	/* What the target's clients will write has a number from here on. */
	json_int(&move->evidence, "next_xid", link_number(link, 0, "next_xid", 0));
	json_str(&move->evidence, "switch_point", lsn_format(move->switch_point, point));
	json_str(&move->evidence, "barrier", lsn_format(move->barrier, barrier));
	if (system == NULL || move->system_identifier == NULL ||
	    strcmp(system, move->system_identifier) != 0)
		return move_fail(move, "%s has another system identifier than before", link->name);
	if (move->new_timeline <= move->old_timeline || (int64_t)parent != move->old_timeline)
		return move_fail(
		    move, "%s is on timeline %" PRId64 " out of %u, not on one out of %" PRId64,
		    link->name, move->new_timeline, parent, move->old_timeline);
	if (move->barrier == 0 || move->switch_point < move->barrier)
		return move_fail(
		    move,
		    "the new timeline begins at %s, before the last writes (%s): the "
		    "shards are not opened on %s; the source's copy is complete and fenced",
		    point, barrier, link->name);
	return true;
}

/* One by one, so that what cannot be closed is no reason for anything else to fail. */
static bool close_each(struct move *move)
{
	struct link *link = &move->target.link;
	struct sbuf sql;
	bool ok = true;

	sbuf_init(&sql, PROMOTE_SQL_MAX);
	for (size_t i = 0; i < move->closing_count && link->state == LINK_IDLE; i++) {
		sbuf_reset(&sql);
		sbuf_add_str(&sql, "SET LOCAL lock_timeout = '1s';");
		close_sql(move->closing[i], &sql);
		if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
			continue;
		ok = false;
		move_problem(move,
		             "%s: its copy of database %s is not closed, whoever writes there writes "
		             "in the wrong place: %s",
		             link->name, move->closing[i], link_error(link));
	}
	sbuf_free(&sql);
	return ok;
}

/* A target that is not opened is not left open to those who use the other databases either. */
static void close_others(struct move *move)
{
	struct link *link = &move->target.link;

	if (close_each(move) && !link_run(&move->loop, link, ASK_TIMEOUT, end_others_sql))
		ui_error(move->ui, "%s: sessions in its copies of other databases are not ended: %s",
		         link->name, link_error(link));
}

bool phase_proof(struct move *move)
{
	struct link *link = &move->target.link;
	usec_t deadline = clock_now() + move->config->mover.promote_timeout;
	bool ok;

	/* The proxies ask the target meanwhile; their clients stay held, and the shards closed,
	 * until the proof is there. */
	if (!move->resumed)
		hold_send_swaps(move);
	/* The look that saw the promotion has brought it. */
	ok = !move->resumed && link_ok(link) && link_value(link, 0, "history") != NULL;
	while (!ok && !(ok = link_revive(move, link) && promote_prepare(move) &&
	                     link_run(&move->loop, link, ASK_TIMEOUT, "EXECUTE pgshunt_proof")) &&
	       clock_now() < deadline) {
		ui_error(move->ui, "%s: %s", link->name, link_error(link));
		link_close(link);
		loop_sleep(&move->loop, REPEAT_EVERY);
	}
	if (!ok)
		return move_fail(move, "%s: %s", link->name, link_error(link));
	ok = seal_prove(move) && check_proof(move);
	if (!ok)
		close_others(move);
	return ok;
}

static void open_sql(const struct move *move, struct sbuf *out)
{
	others_sql(move, out);
	fence_sql(move, true, out);
	sbuf_add_str(out, end_others_sql);
}

/* The same once more: the copies of other databases do not keep the shards closed. */
static bool open_each(struct move *move)
{
	struct sbuf sql;
	bool ok;

	(void)close_each(move);
	sbuf_init(&sql, PROMOTE_SQL_MAX);
	fence_sql(move, true, &sql);
	sbuf_add_str(&sql, end_others_sql);
	ok = link_run(&move->loop, &move->target.link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

/*
 * Somebody has renamed or dropped shards on the source behind the last look, and the target has
 * replayed it: they do not come by waiting, and the others need not wait for them.  False: none
 * but those that were known to be gone.
 */
static bool note_gone(struct move *move)
{
	struct link *link = &move->target.link;
	bool found = false;

	if (link->state != LINK_IDLE || strcmp(link->sqlstate, "3D000") != 0 ||
	    !link_run(&move->loop, link, ASK_TIMEOUT, "ROLLBACK") ||
	    fence_look(move, &move->target) == FENCE_UNKNOWN)
		return false;
	for (size_t i = 0; i < move->shard_count; i++) {
		if (!move->shards[i].absent || move->shards[i].gone)
			continue;
		move->shards[i].gone = found = true;
		move_problem(
		    move,
		    "%s has no database %s: somebody has renamed or dropped it on %s in the last "
		    "moment before the promotion; if it was renamed, give it its name back on %s "
		    "(end the sessions in it; SET default_transaction_read_only = off; ALTER "
		    "DATABASE ... RENAME TO ...), if it was dropped, make one of that name; then "
		    "run \"pgshunt resume\"; its clients wait meanwhile",
		    link->name, move->shards[i].dbname, move->source.link.name, link->name);
	}
	return found;
}

static size_t count_gone(const struct move *move)
{
	size_t count = 0;

	for (size_t i = 0; i < move->shard_count; i++)
		count += move->shards[i].gone;
	return count;
}

bool phase_open(struct move *move)
{
	struct link *link = &move->target.link;
	usec_t deadline = clock_now() + move->config->mover.promote_timeout;
	bool found = false;
	char *said = NULL;
	struct sbuf sql;

	/* From here on somebody may write. */
	verify_take_snapshots(move);
	/*
	 * The commits need not be flushed before the clients go on: their first commit flushes them
	 * with its own, and if the server crashed before that, the shards would only be closed
	 * again. PL/Proxy is changed meanwhile.
	 */
	sbuf_init(&sql, PROMOTE_SQL_MAX);
	open_sql(move, &sql);
	link_send(link, sbuf_text(&sql));
	if (!move->resumed)
		plproxy_send(move);
	(void)!loop_wait(&move->loop, &link, 1, clock_now() + ASK_TIMEOUT, false);
	sbuf_free(&sql);
	for (bool again = false; !link_ok(link) && clock_now() < deadline; again = true) {
		/* Not the same four times a second. */
		if (said == NULL || strcmp(said, link_error(link)) != 0)
			ui_error(move->ui, "%s: %s", link->name, link_error(link));
		free(said);
		said = mem_must_strdup(link_error(link));
		found = note_gone(move);
		if (count_gone(move) == move->shard_count)
			break;
		if (!found)
			link_close(link);
		if (!found && again)
			loop_sleep(&move->loop, REPEAT_EVERY);
		if (link_revive(move, link) && promote_prepare(move))
			(void)!open_each(move);
	}
	free(said);
	if (count_gone(move) == move->shard_count) {
		close_others(move);
		return move_fail(move, "%s has none of the shards", link->name);
	}
	if (!link_ok(link))
		return move_fail(move, "%s: %s", link->name, link_error(link));
	json_int(&move->evidence, "opened", (int64_t)(move->shard_count - count_gone(move)));
	json_int(&move->evidence, "others_fenced", (int64_t)move->other_count);
	return true;
}

bool promote_reopen(struct move *move, usec_t deadline)
{
	struct link *link = &move->target.link;
	bool ok;

	/* They were opened in the session that had what promote_prepare() prepares. */
	if (link->sessions == move->prepared_in &&
	    link_run(&move->loop, link, ASK_TIMEOUT, "SELECT"))
		return true;
	ui_error(move->ui, "%s: %s; when it answers, the shards are opened once more", link->name,
	         link_error(link));
	while (!(ok = link_revive(move, link) && promote_prepare(move) &&
	              link_run(&move->loop, link, ASK_TIMEOUT, "EXECUTE pgshunt_proof")) &&
	       clock_now() < deadline) {
		link_close(link);
		loop_sleep(&move->loop, REPEAT_EVERY);
	}
	return ok && check_proof(move) && open_each(move);
}
