/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt plan, check, move, resume and abort.
 */
#include "base/mem.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/sampler.h"
#include "migrate/verify.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PLAN_MAX (JOURNAL_RECORD_MAX / 2)
/* After a later answer the checks are made again. */
#define ANSWER_SOON (2 * USEC_PER_SEC)

static void show_plan(struct move *move, bool steps)
{
	struct sbuf members;

	sbuf_init(&members, PLAN_MAX);
	plan_json(move, &members);
	ui_event(move->ui, "plan", sbuf_text(&members));
	sbuf_free(&members);
	plan_print(move, steps);
}

enum exit_code command_examine(struct move *move, const struct command_line *line, bool all,
                               bool lock)
{
	enum exit_code code = plan_make(move, line->names, line->name_count,
	                                line->option[OPTION_ALL_OF], line->option[OPTION_TO]);
	bool ok;

	if (code != EXIT_DONE)
		return code;
	move->phase = PHASE_CHECK;
	/* Before the checks: what they find stays true only while nobody else is at work. */
	if (lock && !move_lock_source(move))
		return EXIT_INTERNAL;
	move->times[PHASE_CHECK].began = clock_now();
	ok = check_run(move, all);
	move->times[PHASE_CHECK].ended = clock_now();
	move->times[PHASE_CHECK].ok = ok;
	return ok ? EXIT_DONE : EXIT_REFUSED;
}

/* The names of the shards as part of a file name. */
static char *label_of(const struct move *move)
{
	struct sbuf label;
	char *text;

	sbuf_init(&label, 4096);
	for (size_t i = 0; i < move->shard_count && label.len < 60; i++) {
		if (i > 0)
			sbuf_add_char(&label, '+');
		sbuf_add_str(&label, move->shards[i].name);
	}
	text = mem_must_strdup(sbuf_text(&label));
	sbuf_free(&label);
	for (char *p = text; *p != '\0'; p++) {
		if (!isalnum((unsigned char)*p) && strchr("+-_", *p) == NULL)
			*p = '_';
	}
	return text;
}

/* The journal with the plan in it, on disk. */
static bool begin_journal(struct move *move)
{
	char *label = label_of(move);
	struct sbuf text;
	bool ok;

	sbuf_init(&text, PLAN_MAX);
	ok = journal_create(&move->journal, move->config->mover.journal_directory, label, &text);
	free(label);
	if (!ok) {
		ui_error(move->ui, "%s", sbuf_text(&text));
	} else {
		sbuf_reset(&text);
		plan_json(move, &text);
		ok = report_who(move) &&
		     journal_write(&move->journal, "outcome", "plan", sbuf_text(&text), true) &&
		     journal_write(&move->journal, "outcome", "check", sbuf_text(&move->evidence),
		                   false);
		if (!ok)
			ui_error(move->ui, "the journal could not be written");
	}
	sbuf_free(&text);
	return ok;
}

static char *plan_text(const struct move *move)
{
	struct sbuf members;
	char *text;

	sbuf_init(&members, PLAN_MAX);
	plan_json(move, &members);
	text = mem_must_strdup(sbuf_text(&members));
	sbuf_free(&members);
	return text;
}

/* Plan and checks once more, in a move of its own; *same: it would do the same. */
static enum exit_code examine_again(struct move *move, const struct command_line *line, bool *same)
{
	const struct config *config = move->config;
	struct ui *ui = move->ui;
	char *before = plan_text(move);
	enum exit_code code;

	move_free(move);
	move_init(move, config, ui);
	code = command_examine(move, line, false, true);
	*same = false;
	if (code == EXIT_DONE) {
		char *after = plan_text(move);

		*same = strcmp(before, after) == 0;
		free(after);
	}
	free(before);
	return code;
}

/* What was found holds for a moment only, and an answer takes its time. */
static enum exit_code ask(struct move *move, const struct command_line *line)
{
	for (bool same = false; !same;) {
		usec_t asked_at = clock_now();
		enum exit_code code;

		if (!ui_confirm(move->ui, "Move?")) {
			(void)move_fail(move, "not wanted");
			return EXIT_REFUSED;
		}
		if (clock_now() - asked_at <= ANSWER_SOON)
			return EXIT_DONE;
		code = examine_again(move, line, &same);
		if (code != EXIT_DONE)
			return code;
		if (!same) {
			ui_line(move->ui, "what is to be done has changed meanwhile:");
			show_plan(move, false);
		}
	}
	return EXIT_DONE;
}

static enum exit_code do_move(struct move *move, const struct command_line *line)
{
	enum exit_code code = command_examine(move, line, false, true);

	if (move->times[PHASE_CHECK].ended != 0)
		show_plan(move, false);

	if (code != EXIT_DONE)
		return code;
	if (line->option[OPTION_YES] == NULL)
		code = ask(move, line);
	if (code != EXIT_DONE)
		return code;
	if (!begin_journal(move))
		return EXIT_INTERNAL;
	if (line->option[OPTION_VERIFY] != NULL) {
		/* Nobody can have it yet; "pgshunt verify" shall find it taken. */
		(void)!journal_claim(&move->journal);
		move->verify = verify_create(move);
	}
	return run_move(move);
}

enum exit_code command_plan(const struct command_line *line, const struct config *config,
                            struct ui *ui)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	code = command_examine(&move, line, false, false);
	if (move.times[PHASE_CHECK].ended != 0)
		show_plan(&move, true);
	move_free(&move);
	return code;
}

enum exit_code command_check(const struct command_line *line, const struct config *config,
                             struct ui *ui)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	code = command_examine(&move, line, true, false);
	move_free(&move);
	return code;
}

/* ---- unfinished moves ---- */

static void free_ids(char **ids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(ids[i]);
	free(ids);
}

static enum exit_code resume_one(const struct config *config, struct ui *ui, const char *id,
                                 bool abort_wanted, bool dry_run, bool *went_forward)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	move.dry_run = dry_run;
	code = resume_move(&move, id, abort_wanted, went_forward);
	/* What abort was asked for is done when everything is restored. */
	if (!dry_run)
		report_finish(&move, code,
		              code == EXIT_UNDONE && abort_wanted ? EXIT_DONE : (int)code);
	move_free(&move);
	return code;
}

static enum exit_code resume_or_abort(const struct command_line *line, const struct config *config,
                                      struct ui *ui, bool abort_wanted)
{
	bool dry_run = line->option[OPTION_DRY_RUN] != NULL;
	enum exit_code code = EXIT_USAGE;
	bool went_forward;
	char **ids;
	size_t count = journal_list(config->mover.journal_directory, false, &ids);

	if (line->name_count == 1)
		code = resume_one(config, ui, line->names[0], abort_wanted, dry_run, &went_forward);
	else if (count == 1)
		code = resume_one(config, ui, ids[0], abort_wanted, dry_run, &went_forward);
	else if (count == 0)
		ui_line(ui, "no move is unfinished in %s", config->mover.journal_directory);
	if (count == 0 && line->name_count == 0)
		code = EXIT_DONE;
	if (count > 1 && line->name_count == 0) {
		ui_error(ui, "several moves are unfinished; name one of them:");
		for (size_t i = 0; i < count; i++)
			ui_error(ui, "  %s", ids[i]);
	}
	free_ids(ids, count);
	return code == EXIT_UNDONE && abort_wanted ? EXIT_DONE : code;
}

enum exit_code command_resume(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	return resume_or_abort(line, config, ui, false);
}

enum exit_code command_abort(const struct command_line *line, const struct config *config,
                             struct ui *ui)
{
	return resume_or_abort(line, config, ui, true);
}

/* Whether the unfinished move is one of the same shards. */
static bool same_shards(const struct config *config, const char *id, const struct move *move)
{
	struct journal_records records;
	struct sbuf error;
	const struct json *shards;
	size_t count = 0;
	bool same = true;

	sbuf_init(&error, 4096);
	same = journal_read(config->mover.journal_directory, id, &records, &error);
	sbuf_free(&error);
	if (!same)
		return false;
	shards = json_get(json_get(journal_find(&records, "outcome", "plan"), "data"), "shards");
	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		const char *dbname = json_text(at, "dbname");
		bool found = false;

		for (size_t i = 0; i < move->shard_count; i++)
			found = found ||
			        (dbname != NULL && strcmp(move->shards[i].dbname, dbname) == 0);
		same = same && found;
		count++;
	}
	journal_records_free(&records);
	return same && count == move->shard_count;
}

/* Names to shards by the configuration alone, to compare with a journal. */
static void name_shards(const struct command_line *line, const struct config *config,
                        struct move *move)
{
	for (size_t i = 0; i < line->name_count; i++) {
		const struct config_database *database = config_find_shard(config, line->names[i]);

		if (database == NULL)
			database = config_find_database(config, line->names[i]);
		if (database != NULL)
			(void)plan_add_shard(move, database->shard, database->dbname);
	}
}

/* Deals with an unfinished move before a new one: it is undone or completed.  EXIT_DONE and
 * !*finished: there was none. */
static enum exit_code clear_way(const struct command_line *line, const struct config *config,
                                struct ui *ui, bool *finished)
{
	char **ids;
	size_t count = journal_list(config->mover.journal_directory, false, &ids);
	enum exit_code code = EXIT_DONE;
	struct move named;

	*finished = false;
	move_init(&named, config, ui);
	name_shards(line, config, &named);
	if (count > 1 || (count == 1 && !same_shards(config, ids[0], &named))) {
		ui_error(ui,
		         "move %s is unfinished: run \"pgshunt resume\" or \"pgshunt abort\" first",
		         ids[0]);
		code = EXIT_REFUSED;
	} else if (count == 1) {
		ui_line(ui, "an earlier move of these shards is unfinished");
		code = resume_one(config, ui, ids[0], false, false, finished);
		/* What is not what the operator expected to start from is not built upon. */
		if (code == EXIT_UNDONE) {
			ui_error(ui, "the earlier move was undone; run the command again to move");
			code = EXIT_REFUSED;
		}
	}
	move_free(&named);
	free_ids(ids, count);
	return code;
}

static enum exit_code move_once(struct move *move, const struct command_line *line,
                                const struct config *config, struct ui *ui)
{
	struct sampler sampler;
	enum exit_code code;

	sampler_start(&sampler, config, ui);
	move_init(move, config, ui);
	code = do_move(move, line);
	sampler_stop(&sampler, ui, move->journal.directory);
	report_finish(move, code, (int)code);
	return code;
}

enum exit_code command_move(const struct command_line *line, const struct config *config,
                            struct ui *ui)
{
	struct move move;
	bool finished;
	enum exit_code code;

	if (line->option[OPTION_DRY_RUN] != NULL)
		return command_plan(line, config, ui);
	code = clear_way(line, config, ui, &finished);
	if (code != EXIT_DONE || finished)
		return code;
	code = move_once(&move, line, config, ui);
	while (code == EXIT_UNDONE && move.was_stopped && !move.anything_changed &&
	       !move_stopped(&move)) {
		move_free(&move);
		ui_line(ui, "once more, from the checks on:");
		code = move_once(&move, line, config, ui);
	}
	/* The clients are at work again; the comparison takes its time. */
	if (code == EXIT_DONE && move.verify != NULL) {
		command_let_others(&move, line);
		code = verify_run(move.verify);
		report_comparison(&move);
	}
	move_free(&move);
	return code;
}
