/* SPDX-License-Identifier: PostgreSQL */
/*
 * The pgbouncers in the hold: PAUSE with our own deadline, the watch over it, the chain from RELOAD
 * to RESUME, repair and undo.
 *
 * The control connection of a process does one thing at a time (bouncer->step); its answer decides
 * what it does next, so that a slow process does not keep the others waiting.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* How often SHOW is asked while it drains and while it is paused. */
#define DRAIN_EVERY (20 * USEC_PER_MSEC)
/* For logins that are under way before connections are replaced. */
#define LOGIN_PATIENCE (2 * USEC_PER_SEC)
#define WATCH_EVERY (50 * USEC_PER_MSEC)
#define SLICE (1 * USEC_PER_MSEC)
/* What the cancelled or terminated get to end. */
#define POLICY_GRACE (2 * USEC_PER_SEC)
/*
 * Seconds.  A login that began between RELOAD and RESUME is ended by the pause and counts as a
 * failed one: for server_login_retry (default 15) nobody of that pool would get a connection.
 */
#define LOGIN_RETRY "0.1"

static bool is_mine(const struct bouncer_entry *entry, const struct bouncer *bouncer)
{
	return entry->bouncer == bouncer && entry->change;
}

static bool is_involved(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		if (is_mine(&move->entries[i], bouncer))
			return true;
	}
	return false;
}

static void send_step(struct bouncer *bouncer, enum bouncer_step step, const char *sql)
{
	bouncer->step = step;
	bouncer->asked_at = clock_now();
	link_send(&bouncer->control, sql);
}

static void send_named(struct bouncer *bouncer, enum bouncer_step step, const char *verb,
                       const char *name)
{
	struct sbuf sql;

	sbuf_init(&sql, 4096);
	sbuf_printf(&sql, "%s ", verb);
	sql_identifier(&sql, name);
	send_step(bouncer, step, sbuf_text(&sql));
	sbuf_free(&sql);
}

static void lost(struct move *move, const struct bouncer *bouncer, const char *what,
                 const char *detail)
{
	if (move->hold_lost || move->promote_sent || move->undoing)
		return;
	move->hold_lost = true;
	(void)move_fail(move, "%s: %s: %s", bouncer->label, what, detail);
}

/* The row of SHOW DATABASES, -1 if there is none. */
static int row_of(const struct link *link, const char *name)
{
	for (int row = 0; row < link_rows(link); row++) {
		const char *found = link_value(link, row, "name");

		if (found != NULL && strcmp(found, name) == 0)
			return row;
	}
	return -1;
}

static bool is_paused(const struct link *link, const char *name)
{
	int row = row_of(link, name);

	return row >= 0 && link_number(link, row, "paused", 0) != 0;
}

static bool leads_to_target(const struct link *link, const struct bouncer_entry *entry)
{
	int row = row_of(link, entry->name);
	const char *host = row < 0 ? NULL : link_value(link, row, "host");

	return host != NULL && strcmp(host, entry->new_host) == 0 &&
	       link_number(link, row, "port", 0) == entry->new_port;
}

/* ---- answers of the control connection ---- */

/* Are those that were drained still paused?  True if all that were sent PAUSE are. */
static bool take_paused(struct move *move, struct bouncer *bouncer)
{
	bool all = true;

	if (!link_ok(&bouncer->control)) {
		lost(move, bouncer, "it cannot be asked any more", link_error(&bouncer->control));
		return false;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || !entry->held)
			continue;
		if (is_paused(&bouncer->control, entry->name))
			continue;
		all = false;
		if (entry->drained)
			lost(move, bouncer,
			     "a database is not paused any more (was it restarted, or resumed by "
			     "somebody?)",
			     entry->name);
	}
	return all;
}

static void take_servers(struct move *move, struct bouncer *bouncer)
{
	const struct link *link = &bouncer->control;

	if (!link_ok(link)) {
		lost(move, bouncer, "it cannot be asked any more", link_error(link));
		return;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || !entry->held || entry->drained)
			continue;
		entry->servers = 0;
		for (int row = 0; row < link_rows(link); row++) {
			const char *name = link_value(link, row, "database");

			entry->servers += name != NULL && strcmp(name, entry->name) == 0 ? 1 : 0;
		}
		if (entry->servers > 0)
			continue;
		entry->drained = true;
		entry->shard->drained_at = link->done_at;
	}
}

static void stop_release(struct bouncer *bouncer, const char *what, const char *why)
{
	free(bouncer->error);
	bouncer->error = mem_must_printf("%s: %s", what, why);
}

/* The clients of a shard that is not there wait. */
static bool is_done(const struct bouncer_entry *entry)
{
	return entry->released || entry->shard->gone;
}

static void resume_next(struct move *move, struct bouncer *bouncer)
{
	for (; bouncer->resume_next < move->entry_count; bouncer->resume_next++) {
		const struct bouncer_entry *entry = &move->entries[bouncer->resume_next];

		if (!is_mine(entry, bouncer) || is_done(entry))
			continue;
		send_named(bouncer, BOUNCER_RESUME, "RESUME", entry->name);
		return;
	}
}

static bool is_not_paused(const struct link *link)
{
	return link->state == LINK_IDLE && link->error != NULL &&
	       strstr(link->error, "is not paused") != NULL;
}

static void mark_released(struct bouncer_entry *entry, usec_t when)
{
	entry->released = true;
	entry->held = false;
	if (entry->shard->released_at < when)
		entry->shard->released_at = when;
}

static void take_resume(struct move *move, struct bouncer *bouncer)
{
	struct bouncer_entry *entry = &move->entries[bouncer->resume_next];

	if (!link_ok(&bouncer->control) && !is_not_paused(&bouncer->control)) {
		stop_release(bouncer, "RESUME", link_error(&bouncer->control));
		return;
	}
	mark_released(entry, bouncer->control.done_at);
	bouncer->resume_next++;
	resume_next(move, bouncer);
}

/* After RELOAD: it answers RELOAD whether it could read its file or not. */
static void take_look(struct move *move, struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || leads_to_target(&bouncer->control, entry))
			continue;
		stop_release(bouncer, "RELOAD did not take the new file over; see its log",
		             entry->name);
		return;
	}
	bouncer->retry_changed = true;
	send_step(bouncer, BOUNCER_RETRY, "SET server_login_retry = '" LOGIN_RETRY "'");
}

static void on_control(struct link *link, void *arg)
{
	struct move *move = arg;
	struct bouncer *bouncer = NULL;
	enum bouncer_step step;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (&move->bouncers[i].control == link)
			bouncer = &move->bouncers[i];
	}
	if (bouncer == NULL)
		return;
	step = bouncer->step;
	bouncer->step = BOUNCER_NOTHING;
	if (step >= BOUNCER_RELOAD && step <= BOUNCER_LOOK && !link_ok(link)) {
		stop_release(bouncer, "RELOAD", link_error(link));
		return;
	}
	switch (step) {
	case BOUNCER_WATCH:
		if (take_paused(move, bouncer) && move->phase == PHASE_HOLD && !move->undoing)
			send_step(bouncer, BOUNCER_SERVERS, "SHOW SERVERS");
		break;
	case BOUNCER_CONFIRM:
		bouncer->confirmed = take_paused(move, bouncer);
		break;
	case BOUNCER_SERVERS:
		take_servers(move, bouncer);
		break;
	case BOUNCER_RELOAD:
		send_step(bouncer, BOUNCER_LOOK, "SHOW DATABASES");
		break;
	case BOUNCER_LOOK:
		take_look(move, bouncer);
		break;
	case BOUNCER_RETRY:
		/* Without it some clients may wait longer; that is no reason not to go on. */
		bouncer->resume_next = 0;
		if (link->state == LINK_IDLE)
			resume_next(move, bouncer);
		break;
	case BOUNCER_RESUME:
		take_resume(move, bouncer);
		break;
	case BOUNCER_RESTORE:
	case BOUNCER_NOTHING:
		break;
	}
}

/* ---- hold ---- */

void bouncers_send_pauses(struct move *move, bool behind)
{
	for (size_t i = 0; i < move->bouncer_count; i++) {
		move->bouncers[i].control.done = on_control;
		move->bouncers[i].control.arg = move;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];
		struct sbuf sql;

		if (!entry->change || entry->behind != behind)
			continue;
		entry->held = true;
		if (entry->shard->held_at == 0)
			entry->shard->held_at = clock_now();
		sbuf_init(&sql, 4096);
		sbuf_add_str(&sql, "PAUSE ");
		sql_identifier(&sql, entry->name);
		link_send(&entry->link, sbuf_text(&sql));
		sbuf_free(&sql);
	}
}

static bool is_draining(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (is_mine(entry, bouncer) && entry->held && !entry->drained)
			return true;
	}
	return false;
}

/* PAUSE was answered for somebody who is not known to be drained: worth a look at once. */
static bool is_answered(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (is_mine(entry, bouncer) && entry->held && !entry->drained &&
		    entry->link.state == LINK_IDLE && entry->link.done_at > bouncer->asked_at)
			return true;
	}
	return false;
}

/* One turn: asks who is due, waits a moment.  1 = all are drained, 0 = not yet, -1 = failed. */
static int drain_turn(struct move *move)
{
	struct link **links =
	    mem_must_alloc((move->entry_count + move->bouncer_count + 1) * sizeof(struct link *));
	size_t count = 0;
	int state = 1;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];

		if (!is_draining(move, bouncer))
			continue;
		state = 0;
		if (bouncer->control.state == LINK_IDLE &&
		    (is_answered(move, bouncer) || clock_now() - bouncer->asked_at >= DRAIN_EVERY))
			send_step(bouncer, BOUNCER_WATCH, "SHOW DATABASES");
		links[count++] = &bouncer->control;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!entry->held || entry->drained)
			continue;
		if (entry->link.error != NULL || entry->link.state == LINK_BROKEN) {
			(void)move_fail(move, "%s: PAUSE %s: %s", entry->bouncer->label,
			                entry->name, link_error(&entry->link));
			state = -1;
		}
		if (entry->link.state == LINK_BUSY)
			links[count++] = &entry->link;
	}
	/* Any answer may be the one that counts, hence the slices. */
	if (state == 0 &&
	    loop_wait(&move->loop, links, count, clock_now() + SLICE, true) == WAIT_STOPPED) {
		(void)move_fail(move, "interrupted");
		state = -1;
	}
	if (state == 0 && count > 0 && links[0]->state == LINK_IDLE)
		loop_sleep(&move->loop, USEC_PER_MSEC / 2);
	free(links);
	return move->hold_lost ? -1 : state;
}

/* Waits for what the control connection was asked, and nobody heeds the answer; if there is none, the
 * process is dialled anew.  False: it cannot be reached. */
static bool free_control(struct move *move, struct bouncer *bouncer)
{
	struct link *link = &bouncer->control;

	link->done = NULL;
	bouncer->step = BOUNCER_NOTHING;
	if (link->state == LINK_BUSY)
		(void)!loop_wait(&move->loop, &link, 1, clock_now() + 500 * USEC_PER_MSEC, false);
	if (link->state == LINK_BUSY)
		link_close(link);
	return bouncer_link(move, bouncer, link);
}

/* The processes on the source that the pgbouncers still use, "(1,2,…)". */
static bool collect_pids(struct move *move, struct sbuf *pids)
{
	bool any = false;

	sbuf_add_char(pids, '(');
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		struct link *link = &bouncer->control;
		bool told;

		if (!is_draining(move, bouncer))
			continue;
		told = free_control(move, bouncer) &&
		       link_run(&move->loop, link, USEC_PER_SEC, "SHOW SERVERS");
		link->done = on_control;
		if (!told)
			continue;
		for (int row = 0; row < link_rows(link); row++) {
			const char *name = link_value(link, row, "database");
			int64_t pid = link_number(link, row, "remote_pid", 0);

			for (size_t j = 0; name != NULL && pid > 0 && j < move->entry_count; j++) {
				if (!is_mine(&move->entries[j], bouncer) ||
				    strcmp(move->entries[j].name, name) != 0)
					continue;
				sbuf_printf(pids, "%s%" PRId64, any ? "," : "", pid);
				any = true;
			}
		}
	}
	sbuf_add_char(pids, ')');
	return any;
}

/* Shows, cancels or ends what keeps the entries from being drained.  A client of pgbouncer whose
 * server session ends is disconnected: to keep it, only its statement can be cancelled. */
static void treat_blockers(struct move *move, enum config_drain_policy policy)
{
	struct link *source = &move->source.link;
	struct sbuf pids;
	struct sbuf sql;

	sbuf_init(&pids, (size_t)1024 * 1024);
	sbuf_init(&sql, (size_t)1024 * 1024 + 4096);
	if (collect_pids(move, &pids)) {
		sbuf_printf(&sql,
		            "SELECT pid, usename, application_name, client_addr, state,"
		            " (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint"
		            " AS age_ms, left(query, 100) AS query%s FROM pg_stat_activity"
		            " WHERE xact_start IS NOT NULL AND pid IN %s AND datname IN ",
		            policy == CONFIG_DRAIN_ABORT       ? ""
		            : policy == CONFIG_DRAIN_TERMINATE ? ", pg_terminate_backend(pid)"
		                                               : ", pg_cancel_backend(pid)",
		            sbuf_text(&pids));
		shards_literals(move, &sql);
		if (link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql)))
			for (int row = 0; row < link_rows(source) && row < 10; row++)
				ui_error(move->ui,
				         "  user %s, application %s, address %s: %s, %s ms: %s",
				         link_value(source, row, "usename"),
				         link_value(source, row, "application_name"),
				         link_value(source, row, "client_addr"),
				         link_value(source, row, "state"),
				         link_value(source, row, "age_ms"),
				         link_value(source, row, "query"));
	}
	sbuf_free(&pids);
	sbuf_free(&sql);
}

static bool wait_drained(struct move *move, usec_t deadline, int *state)
{
	while ((*state = drain_turn(move)) == 0 && clock_now() < deadline)
		continue;
	return *state == 1;
}

bool bouncers_await_pauses(struct move *move, usec_t deadline)
{
	enum config_drain_policy policy = move->config->mover.drain_policy;
	int state;

	if (!bouncers_involved(move))
		return true;
	bouncers_send_pauses(move, true);
	if (wait_drained(move, deadline, &state))
		return true;
	if (state < 0)
		return false;
	if (policy != CONFIG_DRAIN_ABORT) {
		ui_error(move->ui,
		         "hold clients: %s what still runs:", config_drain_policy_name(policy));
		treat_blockers(move, policy);
		if (wait_drained(move, clock_now() + POLICY_GRACE, &state))
			return true;
		if (state < 0)
			return false;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (entry->held && !entry->drained)
			(void)move_fail(move,
			                "%s: database %s still has %" PRId64
			                " connections in use at the drain deadline",
			                entry->bouncer->label, entry->name, entry->servers);
	}
	treat_blockers(move, CONFIG_DRAIN_ABORT);
	return false;
}

void bouncers_tick(struct move *move)
{
	usec_t now = clock_now();

	if (move->phase < PHASE_HOLD || move->promote_sent || move->undoing || move->hold_lost)
		return;
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		bool drained = false;

		for (size_t j = 0; j < move->entry_count; j++)
			drained = drained || (is_mine(&move->entries[j], bouncer) &&
			                      move->entries[j].held && move->entries[j].drained);
		if (!drained || now - bouncer->asked_at < WATCH_EVERY)
			continue;
		if (bouncer->control.state == LINK_IDLE)
			send_step(bouncer, BOUNCER_WATCH, "SHOW DATABASES");
		else if (bouncer->control.state == LINK_BROKEN ||
		         bouncer->control.state == LINK_CLOSED)
			lost(move, bouncer, "the connection to it was lost",
			     link_error(&bouncer->control));
	}
}

/* ---- the last look ---- */

static void send_confirm(struct move *move)
{
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];

		if (is_involved(move, bouncer) && !bouncer->confirmed &&
		    bouncer->control.state == LINK_IDLE)
			send_step(bouncer, BOUNCER_CONFIRM, "SHOW DATABASES");
	}
}

bool bouncers_await_confirm(struct move *move, usec_t deadline)
{
	struct bouncer *bouncer;
	bool waiting = true;

	while (waiting && !move->hold_lost) {
		waiting = false;
		for (size_t i = 0; i < move->bouncer_count; i++) {
			struct link *link;

			bouncer = &move->bouncers[i];
			link = &bouncer->control;
			if (!is_involved(move, bouncer) || bouncer->confirmed)
				continue;
			waiting = true;
			if (clock_now() >= deadline || link->state == LINK_BROKEN ||
			    link->state == LINK_CLOSED)
				return move_fail(move, "%s: %s", bouncer->label, link_error(link));
			send_confirm(move);
			if (loop_wait(&move->loop, &link, 1, deadline, true) == WAIT_STOPPED)
				return move_fail(move, "interrupted");
		}
	}
	return !move->hold_lost;
}

/* ---- release ---- */

/* Why the files of this process are not in place, NULL if they are. */
static const char *file_error(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->file_count; i++) {
		if (move->files[i].conf == bouncer->conf && !move->files[i].committed)
			return move->files[i].error == NULL ? "its file was not written"
			                                    : move->files[i].error;
	}
	return NULL;
}

void bouncers_send_release(struct move *move)
{
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		struct link *link = &bouncer->control;

		if (!is_involved(move, bouncer))
			continue;
		link->done = on_control;
		link->arg = move;
		if (file_error(move, bouncer) != NULL) {
			stop_release(bouncer, "file", file_error(move, bouncer));
			continue;
		}
		if (link->state == LINK_BUSY)
			(void)!loop_wait(&move->loop, &link, 1, clock_now() + DRAIN_EVERY, false);
		if (link->state == LINK_IDLE)
			send_step(bouncer, BOUNCER_RELOAD, "RELOAD");
		else
			stop_release(bouncer, "RELOAD", link_error(link));
	}
}

void bouncers_await_release(struct move *move, usec_t deadline)
{
	struct link **links = mem_must_alloc((move->bouncer_count + 1) * sizeof(struct link *));
	size_t count = 0;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (move->bouncers[i].step != BOUNCER_NOTHING)
			links[count++] = &move->bouncers[i].control;
	}
	(void)!loop_wait(&move->loop, links, count, deadline, false);
	free(links);
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];

		if (bouncer->error != NULL)
			ui_error(move->ui,
			         "release clients: %s: %s; it is repaired after the others are "
			         "released",
			         bouncer->label, bouncer->error);
	}
}

/* ---- repair and undo ---- */

/* A command of a repair; false and bouncer->error. */
static bool command(struct move *move, struct bouncer *bouncer, const char *verb, const char *name)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, verb);
	if (name != NULL) {
		sbuf_add_char(&sql, ' ');
		sql_identifier(&sql, name);
	}
	ok = link_run(&move->loop, &bouncer->control, ASK_TIMEOUT, sbuf_text(&sql)) ||
	     is_not_paused(&bouncer->control);
	sbuf_free(&sql);
	if (!ok)
		stop_release(bouncer, verb, link_error(&bouncer->control));
	return ok;
}

/* The control connection free for a command. */
static bool settle(struct move *move, struct bouncer *bouncer)
{
	if (free_control(move, bouncer))
		return true;
	stop_release(bouncer, "it cannot be reached", link_error(&bouncer->control));
	return false;
}

static void note_place(struct bouncer_entry *entry, const struct link *link)
{
	int row = row_of(link, entry->name);
	const char *host = row < 0 ? NULL : link_value(link, row, "host");

	free(entry->host);
	entry->host = mem_must_strdup(host == NULL ? "" : host);
	entry->port = row < 0 ? 0 : (int)link_number(link, row, "port", 5432);
}

/* Brings the file to where it shall be, from whatever it is. */
static bool repair_file(struct move *move, struct bouncer *bouncer)
{
	struct sbuf error;
	bool ok = true;

	sbuf_init(&error, INI_FILE_MAX);
	bouncer_files_forget(move, bouncer->conf);
	for (size_t i = 0; ok && i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || leads_to_target(&bouncer->control, entry))
			continue;
		note_place(entry, &bouncer->control);
		ok = bouncer_file_add(move, entry, &error);
	}
	if (ok) {
		bouncer_files_commit(move);
		if (file_error(move, bouncer) != NULL) {
			sbuf_add_str(&error, file_error(move, bouncer));
			ok = false;
		}
	}
	if (!ok)
		stop_release(bouncer, "file", sbuf_text(&error));
	sbuf_free(&error);
	return ok;
}

static bool all_on_target(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		if (is_mine(&move->entries[i], bouncer) &&
		    !leads_to_target(&bouncer->control, &move->entries[i]))
			return false;
	}
	return true;
}

/* Of a database that was not paused RELOAD itself gives up what is connected to the source.  A
 * RECONNECT behind it would end the first logins at the target, upon which pgbouncer refuses its
 * clients (last_login_failed, check_fast_fail()). */
static bool repair_bouncer(struct move *move, struct bouncer *bouncer)
{
	if (!settle(move, bouncer) || !command(move, bouncer, "SHOW DATABASES", NULL))
		return false;
	if (!all_on_target(move, bouncer)) {
		if (!repair_file(move, bouncer) || !command(move, bouncer, "RELOAD", NULL) ||
		    !command(move, bouncer, "SHOW DATABASES", NULL))
			return false;
		if (!all_on_target(move, bouncer)) {
			stop_release(bouncer, "RELOAD",
			             "it did not take the new file over; see its log");
			return false;
		}
	}
	bouncer->retry_changed = true;
	if (!command(move, bouncer, "SET server_login_retry = '" LOGIN_RETRY "'", NULL))
		return false;
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || is_done(entry))
			continue;
		if (!command(move, bouncer, "RESUME", entry->name))
			return false;
		mark_released(entry, clock_now());
	}
	return true;
}

static bool is_released(const struct move *move, const struct bouncer *bouncer)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		if (is_mine(&move->entries[i], bouncer) && !is_done(&move->entries[i]))
			return false;
	}
	return true;
}

bool bouncers_repair(struct move *move)
{
	bool all = true;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		if (!is_released(move, &move->bouncers[i]) &&
		    !repair_bouncer(move, &move->bouncers[i]))
			all = false;
	}
	return all;
}

void bouncers_give_up(struct move *move)
{
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];
		struct bouncer *bouncer = entry->bouncer;

		if (!entry->change || is_done(entry))
			continue;
		move_problem(
		    move,
		    "%s: database %s is not led to %s (%s:%d) yet: %s; its clients get errors, "
		    "not wrong answers, until \"pgshunt resume\" repairs it",
		    bouncer->label, entry->name, move->target.conf->name, entry->new_host,
		    entry->new_port, bouncer->error == NULL ? "?" : bouncer->error);
		/* An error tells its clients more than a wait without end. */
		if (bouncer->control.state == LINK_IDLE || settle(move, bouncer))
			(void)!command(move, bouncer, "RESUME", entry->name);
	}
}

bool bouncer_is_gone(const struct link *link)
{
	return link->error != NULL && (strstr(link->error, "Connection refused") != NULL ||
	                               strstr(link->error, "No such file") != NULL);
}

static bool undo_bouncer(struct move *move, struct bouncer *bouncer)
{
	bool ok = true;

	if (!settle(move, bouncer)) {
		ui_error(move->ui, "%s: %s", bouncer->label, link_error(&bouncer->control));
		return bouncer_is_gone(&bouncer->control);
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || !entry->held)
			continue;
		entry->held = !command(move, bouncer, "RESUME", entry->name);
		if (entry->held) {
			ui_error(move->ui, "%s: database %s could not be resumed: %s",
			         bouncer->label, entry->name, link_error(&bouncer->control));
			ok = false;
		}
	}
	return ok;
}

bool bouncers_undo(struct move *move)
{
	bool all = true;

	for (size_t i = 0; i < move->entry_count; i++) {
		/* Without its client an unfinished PAUSE is only a mark, which RESUME takes away.
		 */
		if (move->entries[i].held)
			link_close(&move->entries[i].link);
	}
	for (size_t i = 0; i < move->bouncer_count; i++) {
		bool held = false;

		for (size_t j = 0; j < move->entry_count; j++)
			held = held || (is_mine(&move->entries[j], &move->bouncers[i]) &&
			                move->entries[j].held);
		if (held)
			all = undo_bouncer(move, &move->bouncers[i]) && all;
	}
	bouncer_files_discard(move);
	return all;
}

/* The entries of the process that lead there; the caller frees the names. */
static size_t entries_at(const struct link *link, const char *host, int port, const char *dbname,
                         char **names, size_t max)
{
	size_t found = 0;

	for (int row = 0; row < link_rows(link) && found < max; row++) {
		const char *at = link_value(link, row, "host");
		const char *of = link_value(link, row, "database");

		if (at != NULL && of != NULL && strcmp(at, host) == 0 && strcmp(of, dbname) == 0 &&
		    link_number(link, row, "port", 0) == port)
			names[found++] = mem_must_strdup(link_value(link, row, "name"));
	}
	return found;
}

/* Whether a server connection of the database is just being logged in; also if that is not known. */
static bool logs_in(struct move *move, struct bouncer *bouncer, const char *name)
{
	struct link *link = &bouncer->control;

	if (!command(move, bouncer, "SHOW POOLS", NULL))
		return true;
	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");

		if (database != NULL && strcmp(database, name) == 0 &&
		    link_number(link, row, "sv_login", 0) > 0)
			return true;
	}
	return false;
}

/* RECONNECT ends logins that are under way, and they count as failed ones: the clients of a pool that
 * has no other connection then wait for server_login_retry, 15 seconds by default.  A login that
 * begins after the change needs no RECONNECT, so there is time to wait for it. */
static bool reconnect_entry(struct move *move, struct bouncer *bouncer, const char *name)
{
	usec_t deadline = clock_now() + LOGIN_PATIENCE;

	while (logs_in(move, bouncer, name)) {
		if (clock_now() >= deadline || bouncer->control.state != LINK_IDLE) {
			ui_line(move->ui, "  %s: connections of database %s are not replaced: %s",
			        bouncer->label, name,
			        bouncer->control.state != LINK_IDLE
			            ? link_error(&bouncer->control)
			            : "logins are under way all the time");
			return false;
		}
		loop_sleep(&move->loop, DRAIN_EVERY);
	}
	return command(move, bouncer, "RECONNECT", name);
}

int bouncers_reconnect(struct move *move, const char *host, int port, const char *dbname)
{
	int count = 0;

	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		char *names[64];
		size_t found;

		if (!settle(move, bouncer) || !command(move, bouncer, "SHOW DATABASES", NULL))
			continue;
		found = entries_at(&bouncer->control, host, port, dbname, names, ARRAY_LEN(names));
		for (size_t j = 0; j < found; j++) {
			count += reconnect_entry(move, bouncer, names[j]) ? 1 : 0;
			free(names[j]);
		}
	}
	return count;
}

/* ---- validate ---- */

void bouncers_settle(struct move *move)
{
	for (size_t i = 0; i < move->bouncer_count; i++)
		(void)!settle(move, &move->bouncers[i]);
}

static bool validate_bouncer(struct move *move, struct bouncer *bouncer, int64_t *waiting)
{
	struct link *link = &bouncer->control;
	bool ok = true;

	if (!settle(move, bouncer) || !command(move, bouncer, "SHOW DATABASES", NULL)) {
		move_problem(move, "%s: %s", bouncer->label, bouncer->error);
		return false;
	}
	for (size_t i = 0; i < move->entry_count; i++) {
		const struct bouncer_entry *entry = &move->entries[i];

		if (!is_mine(entry, bouncer) || !entry->released)
			continue;
		if (!leads_to_target(link, entry)) {
			move_problem(move, "%s: database %s does not lead to %s", bouncer->label,
			             entry->name, move->target.conf->name);
			ok = false;
		}
		if (is_paused(link, entry->name)) {
			move_problem(move, "%s: database %s is paused", bouncer->label,
			             entry->name);
			ok = false;
		}
	}
	if (!command(move, bouncer, "SHOW POOLS", NULL))
		return ok;
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "database");

		for (size_t i = 0; name != NULL && i < move->entry_count; i++) {
			if (is_mine(&move->entries[i], bouncer) &&
			    strcmp(move->entries[i].name, name) == 0)
				*waiting += link_number(link, row, "cl_waiting", 0);
		}
	}
	return ok;
}

static void restore_retry(struct move *move, struct bouncer *bouncer)
{
	struct sbuf sql;

	if (!bouncer->retry_changed || bouncer->retry == NULL || *bouncer->retry == '\0')
		return;
	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SET server_login_retry = ");
	sql_literal(&sql, bouncer->retry);
	if (command(move, bouncer, sbuf_text(&sql), NULL))
		bouncer->retry_changed = false;
	else
		ui_error(move->ui,
		         "%s: server_login_retry stays at " LOGIN_RETRY " until it is reloaded",
		         bouncer->label);
	sbuf_free(&sql);
}

bool bouncers_validate(struct move *move)
{
	usec_t deadline = clock_now() + 2 * USEC_PER_SEC;
	int64_t waiting = 0;
	bool ok = true;

	if (!bouncers_involved(move))
		return true;
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		int64_t mine;
		bool right;

		if (!is_involved(move, bouncer))
			continue;
		/* Those who waited have been served within moments. */
		for (;;) {
			mine = 0;
			right = validate_bouncer(move, bouncer, &mine);
			if (!right || mine == 0 || clock_now() >= deadline)
				break;
			loop_sleep(&move->loop, 100 * USEC_PER_MSEC);
		}
		ok = right && ok;
		waiting += mine;
		restore_retry(move, bouncer);
	}
	bouncer_files_sync(move);
	json_int(&move->evidence, "pgbouncer_waiting", waiting);
	return ok;
}
