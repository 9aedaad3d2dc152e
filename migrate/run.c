/* SPDX-License-Identifier: PostgreSQL */
/*
 * The order of the phases, the journal around each, and the one place that decides what follows a
 * failure: before the request to promote everything is undone, after it the move is completed.
 */
#include "base/mem.h"
#include "migrate/fence_look.h"
#include "migrate/hook.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/read_only.h"
#include "migrate/readers.h"
#include "migrate/unlogged.h"
#include "migrate/watch.h"

#include <inttypes.h>
#include <string.h>

/* How long routers that failed after the promotion are tried again. */
#define REPAIR_PATIENCE (20 * USEC_PER_SEC)

static bool is_critical(enum phase phase)
{
	return phase == PHASE_FENCE || phase == PHASE_PROMOTE || phase == PHASE_OPEN;
}

bool run_intend(struct move *move, enum phase phase)
{
	struct sbuf data;
	bool ok;

	if (move->intended[phase])
		return true;
	move->intended[phase] = true;
	if (phase == PHASE_PROMOTE)
		move->promote_intended = true;
	sbuf_init(&data, 256);
	json_int(&data, "epoch", move->epoch);
	ok = journal_write(&move->journal, "intent", phase_row(phase)->name, sbuf_text(&data),
	                   is_critical(phase));
	sbuf_free(&data);
	return ok;
}

/* The evidence for people: without the quotes of JSON. */
static void plain_evidence(const struct sbuf *evidence, struct sbuf *out)
{
	for (const char *p = sbuf_text(evidence); *p != '\0'; p++) {
		if (*p == ',')
			sbuf_add_str(out, ", ");
		else if (*p == ':')
			sbuf_add_char(out, ' ');
		else if (*p != '"')
			sbuf_add_char(out, *p);
	}
}

static void show_phase(struct move *move, bool ok)
{
	const struct phase_time *time = &move->times[move->phase];
	double msec = (double)(time->ended - time->began) / 1000.0;
	struct sbuf event;

	sbuf_init(&event, JOURNAL_RECORD_MAX);
	plain_evidence(&move->evidence, &event);
	ui_line(move->ui, "  %-20s %10.1f ms  %s%s", phase_row(move->phase)->title, msec,
	        ok ? "" : "FAILED  ", sbuf_text(&event));
	sbuf_reset(&event);
	json_str(&event, "phase", phase_row(move->phase)->name);
	json_bool(&event, "ok", ok);
	json_msec(&event, "ms", time->ended - time->began);
	json_open(&event, "data", '{');
	sbuf_add_str(&event, sbuf_text(&move->evidence));
	json_close(&event, '}');
	ui_event(move->ui, "phase", sbuf_text(&event));
	sbuf_free(&event);
}

/* The journal could not be written: before the promotion a reason to stop, after it none. */
static bool journal_failed(struct move *move)
{
	if (move->promote_sent) {
		move_problem(move, "the journal could not be written");
		return true;
	}
	return move_fail(move, "the journal could not be written");
}

bool run_phase(struct move *move, enum phase phase, bool (*step)(struct move *))
{
	struct phase_time *time = &move->times[phase];
	struct sbuf data;
	bool ok = true;

	move->phase = phase;
	time->began = clock_now();
	sbuf_reset(&move->evidence);
	if (!run_intend(move, phase))
		ok = journal_failed(move);
	ok = ok && hooks_run(move, phase_row(phase)->name, false) && step(move) &&
	     hooks_run(move, phase_row(phase)->name, true);
	time->ended = clock_now();
	time->ok = ok;
	sbuf_init(&data, JOURNAL_RECORD_MAX);
	json_bool(&data, "ok", ok);
	json_msec(&data, "ms", time->ended - time->began);
	if (move->evidence.len > 0)
		json_raw(&data, NULL, sbuf_text(&move->evidence));
	if (!ok && move->failure != NULL)
		json_str(&data, "error", move->failure);
	if (!journal_write(&move->journal, "outcome", phase_row(phase)->name, sbuf_text(&data),
	                   false))
		ok = journal_failed(move) && ok;
	sbuf_free(&data);
	show_phase(move, ok);
	return ok;
}

static bool end_record(struct move *move, const char *result)
{
	struct sbuf data;
	bool ok;

	sbuf_init(&data, 4096);
	json_str(&data, "result", result);
	if (move->failure != NULL)
		json_str(&data, "failure", move->failure);
	ok = journal_write(&move->journal, "outcome", "end", sbuf_text(&data), true);
	sbuf_free(&data);
	return ok;
}

/* Somebody has made the target a primary of its own meanwhile: then there are two of everything
 * that the fence had not reached.  False if that is not so, or cannot be asked. */
static bool say_promoted_by_others(struct move *move)
{
	struct link *target = &move->target.link;
	struct sbuf text;
	char **names;
	size_t count;

	if (fence_look(move, &move->target) == FENCE_UNKNOWN || link_true(target, 0, "recovery"))
		return false;
	count = fence_open_on_both(move, &names);
	sbuf_init(&text, JOURNAL_RECORD_MAX);
	for (size_t i = 0; i < count; i++)
		sbuf_printf(&text, "%s %s", i == 0 ? ": open for writing on both are" : ",",
		            names[i]);
	fence_free_names(names, count);
	move_problem(
	    move,
	    "%s is a primary by now, because somebody else has promoted it%s. The routers "
	    "lead to %s, where the clients go on; whoever writes to %s past them writes in "
	    "the wrong place: stop it, or close its copies (ALTER DATABASE ... "
	    "ALLOW_CONNECTIONS false), and make it a standby anew",
	    target->name, sbuf_text(&text), move->source.conf->name, target->name);
	sbuf_free(&text);
	ui_line(move->ui, "undone: the clients are on %s as before, but %s is no standby any more",
	        move->source.conf->name, target->name);
	return true;
}

/* What is to be done by whom, where not everything is as it was. */
static void undo_incomplete(struct move *move, bool fence_ok)
{
	if (!fence_ok)
		ui_error(move->ui,
		         "the fence of %s still stands: the clients were not released, they wait "
		         "before it",
		         move->source.conf->name);
	if (watch_is_there(move))
		ui_error(
		    move->ui,
		    "not everything could be restored; the watch over the move (watch.log next "
		    "to the journal) runs \"pgshunt abort\" until it succeeds, for ten minutes; "
		    "then run it yourself");
	else
		ui_error(move->ui, "not everything could be restored; run \"pgshunt abort\"");
}

enum exit_code run_undo(struct move *move)
{
	bool fence_ok = true;
	bool hold_ok = true;
	bool settings_ok;
	struct sbuf data;

	ui_line(move->ui, "undo: the clients go on on %s", move->source.conf->name);
	if (!hooks_run(move, HOOK_UNDO, false))
		ui_error(move->ui, "undo: it goes on without the hook");
	/* First the fence, then the clients: they shall find an open door, or wait before it. */
	if (move->fenced)
		fence_ok = fence_undo(move);
	if (fence_ok)
		hold_ok = hold_undo(move);
	else
		hold_leave(move);
	settings_ok = fence_ok && read_only_end(move);
	if (!hooks_run(move, HOOK_UNDO, true))
		ui_error(move->ui, "undo: it goes on without the hook");
	sbuf_init(&data, 256);
	json_bool(&data, "fence", fence_ok);
	json_bool(&data, "holds", fence_ok && hold_ok);
	if (!journal_write(&move->journal, "outcome", "undo", sbuf_text(&data), false))
		ui_error(move->ui, "the journal could not be written");
	sbuf_free(&data);
	if (!fence_ok || !hold_ok || !settings_ok) {
		undo_incomplete(move, fence_ok);
		return EXIT_UNDO_INCOMPLETE;
	}
	if (!end_record(move, "undone"))
		ui_error(move->ui, "the journal could not be written");
	if (!say_promoted_by_others(move))
		ui_line(
		    move->ui,
		    move->read_only_left
		        ? "undone: the clients are on %s as before; %s has to be reached once more"
		        : "undone: everything is as it was",
		    move->source.conf->name, move->target.conf->name);
	return EXIT_UNDONE;
}

/* Routers that did not follow at once, then the last look. */
static enum exit_code finish_forward(struct move *move)
{
	usec_t deadline = clock_now() + REPAIR_PATIENCE;
	bool ok;

	ok = promote_reopen(move, deadline) && !move->sealed_acted;
	ok = hold_repair(move, deadline) && ok;
	ok = plproxy_repair(move, deadline) && ok;
	ui_hurry(move->ui, false);
	unlogged_end(move);
	if (!journal_sync(&move->journal))
		move_problem(move, "the journal could not be written");
	ok = run_phase(move, PHASE_VALIDATE, phase_validate) && ok;
	ok = read_only_end(move) && ok;
	if (!ok)
		return EXIT_FORWARD;
	if (end_record(move, "done"))
		return EXIT_DONE;
	move_problem(move, "all is done, but the journal could not be written");
	return EXIT_FORWARD;
}

static enum exit_code failed_after_promotion(struct move *move)
{
	ui_hurry(move->ui, false);
	if (!journal_sync(&move->journal))
		ui_error(move->ui, "the journal could not be written");
	ui_error(move->ui,
	         "the promotion of %s was requested: nothing is undone; when the cause is "
	         "removed, run \"pgshunt resume\"",
	         move->target.conf->name);
	return EXIT_FORWARD;
}

enum exit_code run_forward(struct move *move)
{
	struct link *source = &move->source.link;

	ui_line(move->ui, "forward: completing the move to %s", move->target.conf->name);
	move->promote_sent = true;
	move->resumed = true;
	/* The fence is normally there, which is looked for first; if the source is gone, nobody
	 * writes there either. */
	if (link_revive(move, source)) {
		if (!run_phase(move, PHASE_FENCE, phase_fence) ||
		    !run_phase(move, PHASE_TERMINATE, phase_terminate))
			return failed_after_promotion(move);
	} else {
		ui_error(move->ui,
		         "%s cannot be reached: %s; its copy was fenced before the promotion",
		         source->name, link_error(source));
	}
	if (!run_phase(move, PHASE_PROOF, phase_proof) ||
	    !readers_end_late(move, clock_now() + move->config->mover.catch_up_timeout) ||
	    !run_phase(move, PHASE_OPEN, phase_open))
		return failed_after_promotion(move);
	plproxy_send(move);
	if (!run_phase(move, PHASE_PLPROXY, phase_plproxy))
		return failed_after_promotion(move);
	return finish_forward(move);
}

static enum exit_code run_phases(struct move *move)
{
	static const struct {
		enum phase phase;
		bool (*step)(struct move *);
	} before[] = {
	    {PHASE_PREPARE, phase_prepare}, {PHASE_HOLD, phase_hold},
	    {PHASE_FENCE, phase_fence},     {PHASE_TERMINATE, phase_terminate},
	    {PHASE_BARRIER, phase_barrier}, {PHASE_CATCH_UP, phase_catch_up},
	    {PHASE_PROMOTE, phase_promote},
	};

	ui_line(move->ui, "move %s:", move->journal.id);
	for (size_t i = 0; i < ARRAY_LEN(before); i++) {
		if (run_phase(move, before[i].phase, before[i].step))
			continue;
		if (move->promote_sent)
			return failed_after_promotion(move);
		return run_undo(move);
	}
	watch_end(move);
	if (!run_phase(move, PHASE_PROOF, phase_proof) || !run_phase(move, PHASE_OPEN, phase_open))
		return failed_after_promotion(move);
	if (!run_phase(move, PHASE_SWAP, phase_swap) ||
	    !run_phase(move, PHASE_PLPROXY, phase_plproxy) ||
	    !run_phase(move, PHASE_RELEASE, phase_release))
		return failed_after_promotion(move);
	return finish_forward(move);
}

enum exit_code run_move(struct move *move)
{
	enum exit_code code = run_phases(move);

	/* What could not be restored now, it restores when that is possible. */
	if (code == EXIT_UNDONE && move->read_only_left)
		watch_left(move);
	else if (code != EXIT_UNDO_INCOMPLETE)
		watch_end(move);
	return code;
}
