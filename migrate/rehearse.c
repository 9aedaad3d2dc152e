/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt rehearse: everything of a move but fence and promotion, measured several times, to say
 * beforehand how long the clients will be held.
 *
 * How long transactions take to end is measured by real holds that give up after
 * mover.rehearse_hold, or, if that is 0, by watching how long the transactions of a moment last.
 * A hold here has a short lease, and is released as soon as it is drained: a client waits at most
 * for rehearse_hold.  pgbouncers are paused for as long, watched over by the guard.  What is
 * written is a WAL message that no one reads.
 */
#include "migrate/rehearse.h"
#include "base/mem.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/predict.h"
#include "migrate/seal.h"
#include "migrate/sessions.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REHEARSE_SQL_MAX ((size_t)1024 * 1024)
#define REPLAY_SAMPLES 20
#define FSYNC_SAMPLES 10
/* Sessions that are opened to see how long it takes to end them. */
#define SESSIONS_MAX 16
#define POLL_EVERY (1 * USEC_PER_MSEC)
#define ASK_TIMEOUT (5 * USEC_PER_SEC)

/* ---- servers ---- */

/* Until the target has replayed what was just flushed on the source. */
static bool sample_replay(struct move *move, struct prediction *prediction)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	usec_t deadline = clock_now() + move->config->mover.catch_up_timeout;
	usec_t began = clock_now();
	struct sbuf sql;
	char lsn[LSN_TEXT_MAX];
	uint64_t position;
	bool ok;

	if (!link_run(&move->loop, source, ASK_TIMEOUT,
	              "SELECT pg_logical_emit_message(true, 'pgshunt', 'rehearsal') AS lsn") ||
	    !lsn_parse(link_value(source, 0, "lsn"), &position))
		return move_fail(move, "%s: %s", source->name, link_error(source));
	samples_add(&prediction->commit, clock_now() - began);
	sbuf_init(&sql, 1024);
	sbuf_printf(&sql, "SELECT pg_last_wal_replay_lsn() >= '%s' AS there",
	            lsn_format(position, lsn));
	for (;;) {
		ok = link_run(&move->loop, target, ASK_TIMEOUT, sbuf_text(&sql));
		if (!ok || link_true(target, 0, "there") || clock_now() >= deadline)
			break;
		loop_sleep(&move->loop, POLL_EVERY);
	}
	sbuf_free(&sql);
	if (!ok)
		return move_fail(move, "%s: %s", target->name, link_error(target));
	samples_add(&prediction->replay, clock_now() - began);
	return true;
}

/* How long it takes until sessions of our own that are told to end have gone. */
static bool measure_terminate(struct move *move, struct prediction *prediction)
{
	struct link *source = &move->source.link;
	struct link sessions[SESSIONS_MAX];
	struct link *links[SESSIONS_MAX];
	size_t count =
	    prediction->sessions < SESSIONS_MAX ? (size_t)prediction->sessions : SESSIONS_MAX;
	struct link_target target;
	struct sbuf sql;
	struct sbuf error;
	bool ok;

	server_target(move->source.conf, &target);
	target.dbname = move->shards[0].dbname;
	for (size_t i = 0; i < count; i++) {
		link_init(&sessions[i], move->source.conf->name, &target);
		links[i] = &sessions[i];
	}
	sbuf_init(&error, 4096);
	sbuf_init(&sql, REHEARSE_SQL_MAX);
	ok = links_connect(&move->loop, links, count, move->config->mover.connect_timeout, &error);
	if (ok && count > 0) {
		usec_t began;

		sbuf_add_str(&sql, "IN (");
		for (size_t i = 0; i < count; i++)
			sbuf_printf(&sql, "%s%d", i == 0 ? "" : ",",
			            PQbackendPID(sessions[i].conn));
		sbuf_add_char(&sql, ')');
		began = clock_now();
		{
			char *pids = mem_must_strdup(sbuf_text(&sql));

			sbuf_reset(&sql);
			sbuf_printf(&sql,
			            "SELECT count(pg_terminate_backend(pid)) AS left FROM"
			            " pg_stat_activity WHERE pid %s",
			            pids);
			free(pids);
		}
		while ((ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql))) &&
		       link_number(source, 0, "left", 0) > 0 && clock_now() - began < ASK_TIMEOUT)
			loop_sleep(&move->loop, POLL_EVERY);
		prediction->terminate = clock_now() - began;
		prediction->terminated = (int64_t)count;
	}
	for (size_t i = 0; i < count; i++)
		link_close(links[i]);
	if (!ok)
		(void)move_fail(move, "%s: %s", source->name,
		                error.len > 0 ? sbuf_text(&error) : link_error(source));
	sbuf_free(&sql);
	sbuf_free(&error);
	return ok;
}

static bool count_sessions(struct move *move, struct prediction *prediction)
{
	struct link *source = &move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, REHEARSE_SQL_MAX);
	sbuf_add_str(&sql, "SELECT count(*) AS sessions FROM pg_stat_activity WHERE backend_type ="
	                   " 'client backend' AND datname IN ");
	shards_literals(move, &sql);
	ok = link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return move_fail(move, "%s: %s", source->name, link_error(source));
	prediction->sessions = link_number(source, 0, "sessions", 0);
	return seal_count_possible(move, &prediction->sealed);
}

/* The disk of the journal: it is written before the fence and the promotion. */
static void measure_fsync(struct move *move, struct prediction *prediction)
{
	char *path = mem_must_printf("%s/rehearsal.fsync", move->config->mover.journal_directory);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

	for (int i = 0; fd >= 0 && i < FSYNC_SAMPLES; i++) {
		usec_t began = clock_now();

		if (write(fd, "{}\n", 3) == 3 && fdatasync(fd) == 0)
			samples_add(&prediction->fsync, clock_now() - began);
	}
	if (fd >= 0)
		(void)close(fd);
	(void)unlink(path);
	free(path);
}

/* ---- the verdict ---- */

static bool measure(struct move *move, struct prediction *prediction)
{
	ui_line(move->ui, "rehearsal:");
	measure_fsync(move, prediction);
	prediction->promote = predict_promotion(move->config->mover.journal_directory);
	if (!count_sessions(move, prediction) || !rehearse_connections(move, prediction))
		return false;
	sessions_rehearse(move);
	rehearse_console(move, prediction);
	for (int i = 0; i < REPLAY_SAMPLES; i++) {
		if (!sample_replay(move, prediction))
			return false;
	}
	return measure_terminate(move, prediction) && rehearse_drain(move, prediction);
}

static double msec(usec_t time)
{
	return (double)time / 1000.0;
}

static void show(struct move *move, const struct prediction *prediction)
{
	struct ui *ui = move->ui;
	usec_t low;
	usec_t high;

	ui_line(ui, "  %-20s %10s %10s", "in ms", "half of", "nearly all");
	for (enum part part = 0; part < PART_COUNT; part++) {
		predict_part(prediction, part, &low, &high);
		ui_line(ui, "  %-20s %10.1f %10.1f%s", part_title(part), msec(low), msec(high),
		        part != PART_PROMOTE       ? ""
		        : prediction->promote != 0 ? "  (as in earlier moves)"
		                                   : "  (assumed: there is no earlier move)");
	}
	predict_total(prediction, &low, &high);
	ui_line(ui, "  %-20s %10.1f %10.1f", "clients are held", msec(low), msec(high));
	ui_line(ui, "  %zu samples of the drain, by %s; %zu did not end within %.0f ms",
	        prediction->drain.count, prediction->held ? "holds" : "watching",
	        prediction->undrained, msec(prediction->drain_limit));
	ui_line(ui,
	        "  %" PRId64 " connections to %s opened in %.1f ms; %" PRId64
	        " sessions in the shards on %s; fsync of the journal %.1f ms",
	        prediction->connections, move->target.conf->name, msec(prediction->connect),
	        prediction->sessions, move->source.conf->name,
	        msec(samples_at(&prediction->fsync, 95)));
	if (bouncers_involved(move))
		ui_line(ui,
		        prediction->held
		            ? "  the pgbouncers were paused for it; RELOAD and RESUME count with "
		              "swap and release"
		            : "  the pgbouncers were not paused (mover.rehearse_hold is 0)");
}

/* What speaks against the move, a line each. */
static void find_reasons(const struct move *move, const struct prediction *prediction,
                         struct sbuf *reasons)
{
	const struct config_mover *conf = &move->config->mover;
	usec_t low;
	usec_t high;

	predict_total(prediction, &low, &high);
	if (high > conf->rehearse_limit)
		sbuf_printf(reasons,
		            "clients could be held for %.0f ms, mover.rehearse_limit is %.0f\n",
		            msec(high), msec(conf->rehearse_limit));
	if (samples_at(&prediction->replay, 100) >= conf->catch_up_timeout)
		sbuf_printf(reasons, "%s did not replay within mover.catch_up_timeout\n",
		            move->target.conf->name);
	/* One in twenty is what chance may bring. */
	if (prediction->undrained * 20 > prediction->drain.count)
		sbuf_printf(reasons,
		            "transactions did not end within %.0f ms in %zu of %zu samples; SHOW "
		            "BLOCKERS on the console names them\n",
		            msec(prediction->drain_limit), prediction->undrained,
		            prediction->drain.count);
}

static bool judge(struct move *move, const struct prediction *prediction)
{
	struct sbuf reasons;
	struct sbuf event;
	char *save = NULL;
	char *lines;
	bool go;

	sbuf_init(&reasons, 4096);
	find_reasons(move, prediction, &reasons);
	go = reasons.len == 0;
	sbuf_init(&event, JOURNAL_RECORD_MAX);
	json_bool(&event, "go", go);
	json_str(&event, "reasons", sbuf_text(&reasons));
	predict_json(prediction, &event);
	ui_event(move->ui, "rehearsal", sbuf_text(&event));
	sbuf_free(&event);
	ui_line(move->ui, go ? "go" : "NO-GO:");
	lines = mem_must_strdup(sbuf_text(&reasons));
	for (char *line = strtok_r(lines, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		ui_line(move->ui, "  %s", line);
	free(lines);
	sbuf_free(&reasons);
	return go;
}

static enum exit_code rehearse(struct move *move)
{
	struct prediction prediction = {0};
	struct sbuf error;
	bool go;
	bool ok;

	move->phase = PHASE_PREPARE;
	ok = measure(move, &prediction);
	if (!rehearse_command(move, "CANCEL SWAP", "", ASK_TIMEOUT))
		ui_error(move->ui, "not every proxy has closed its prepared connections (CANCEL "
		                   "SWAP on the console)");
	ui_status_clear(move->ui);
	if (!ok)
		return EXIT_UNDONE;
	show(move, &prediction);
	go = judge(move, &prediction);
	sbuf_init(&error, 4096);
	if (!predict_save(move, &prediction, go, &error))
		ui_error(move->ui, "the prediction could not be kept: %s", sbuf_text(&error));
	sbuf_free(&error);
	return go ? EXIT_DONE : EXIT_REFUSED;
}

/* --dry-run: the checks were made, nobody is held. */
static void say_rehearsal(struct move *move)
{
	const struct config_mover *conf = &move->config->mover;

	ui_line(move->ui, "  connections to %s are opened (not done: --dry-run)",
	        move->target.conf->name);
	if (conf->rehearse_hold > 0)
		ui_line(move->ui,
		        "  the clients are held %" PRId64 " times, for %" PRId64
		        " ms at most (not done: --dry-run)",
		        (int64_t)conf->rehearse_samples,
		        (int64_t)(conf->rehearse_hold / USEC_PER_MSEC));
}

enum exit_code command_rehearse(const struct command_line *line, const struct config *config,
                                struct ui *ui)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	move.loop.tick = NULL; /* these holds need no renewal */
	code = command_examine(&move, line, false, true);
	if (code == EXIT_DONE && line->option[OPTION_DRY_RUN] != NULL)
		say_rehearsal(&move);
	else if (code == EXIT_DONE)
		code = rehearse(&move);
	move_free(&move);
	return code;
}
