/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt verify and validate: a look at a move that was made.
 */
#include "base/mem.h"
#include "migrate/after.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/pgbouncer.h"
#include "migrate/prepared.h"
#include "migrate/verify.h"

#include <stdlib.h>
#include <string.h>

#define ERRORS_MAX ((size_t)64 * 1024)

static bool is_done(const struct config *config, const char *id)
{
	struct journal_records records;
	struct sbuf error;
	const char *result;
	bool done = false;

	sbuf_init(&error, 4096);
	if (journal_read(config->mover.journal_directory, id, &records, &error)) {
		result =
		    json_text(json_get(journal_find(&records, "outcome", "end"), "data"), "result");
		done = result != NULL && strcmp(result, "done") == 0;
		journal_records_free(&records);
	}
	sbuf_free(&error);
	return done;
}

char *after_pick(const struct command_line *line, const struct config *config, bool any)
{
	char **ids;
	size_t count;
	char *id = NULL;

	if (line->name_count == 1)
		return mem_must_strdup(line->names[0]);
	count = journal_list(config->mover.journal_directory, true, &ids);
	for (size_t i = count; i-- > 0;) {
		if (id == NULL && (any || is_done(config, ids[i])))
			id = mem_must_strdup(ids[i]);
		free(ids[i]);
	}
	free(ids);
	return id;
}

enum exit_code after_open(struct move *move, const struct command_line *line,
                          struct journal_records *records)
{
	const char *directory = move->config->mover.journal_directory;
	char *id = after_pick(line, move->config, false);
	struct sbuf error;
	bool ok = id != NULL;

	*records = (struct journal_records){0};
	sbuf_init(&error, ERRORS_MAX);
	if (!ok)
		sbuf_printf(&error, "no finished move is in %s", directory);
	else
		ok = journal_read(directory, id, records, &error);
	if (ok && !is_done(move->config, id)) {
		sbuf_printf(&error, "move %s is not done; see \"pgshunt status\"", id);
		ok = false;
	}
	ok = ok && resume_take_plan(move, records) &&
	     journal_reopen(&move->journal, directory, records, &error);
	if (!ok && error.len > 0)
		ui_error(move->ui, "%s", sbuf_text(&error));
	sbuf_free(&error);
	free(id);
	return ok ? EXIT_DONE : EXIT_USAGE;
}

bool after_connect(struct move *move)
{
	struct sbuf error;
	int64_t epoch = move->epoch;
	bool ok;

	sbuf_init(&error, ERRORS_MAX);
	ok = servers_connect(move, &error);
	ok = proxies_connect(move, &error) && ok;
	ok = bouncers_connect(move, &error) && ok;
	ok = plan_read_seen(move, &error) && ok;
	ok = plan_pick_routes(move, &error) && ok;
	move->epoch = epoch;
	ok = bouncers_plan(move, &error) && ok;
	ok = plproxy_plan(move, &error) && ok;
	if (!ok)
		ui_lines(move->ui, &error);
	sbuf_free(&error);
	return ok;
}

/* ---- validate ---- */

enum exit_code command_validate(const struct command_line *line, const struct config *config,
                                struct ui *ui)
{
	struct journal_records records;
	struct move move;
	enum exit_code code;
	bool ok = false;

	move_init(&move, config, ui);
	move.phase = PHASE_VALIDATE;
	code = after_open(&move, line, &records);
	if (code == EXIT_DONE) {
		struct sbuf event;

		move.promote_sent = true; /* a problem is one to be repaired */
		ok = after_connect(&move);
		ok = validate_look(&move) && ok;
		code = ok ? EXIT_DONE : EXIT_REFUSED;
		ui_line(ui, "move %s: %s", records.id,
		        ok ? "everything is as it should be" : "NOT everything is as it should be");
		sbuf_init(&event, ERRORS_MAX);
		json_str(&event, "move", records.id);
		json_bool(&event, "ok", ok);
		json_str(&event, "problems", sbuf_text(&move.problems));
		ui_event(ui, "validate", sbuf_text(&event));
		sbuf_free(&event);
	}
	journal_records_free(&records);
	move_free(&move);
	return code;
}

/* ---- verify ---- */

/* The target's first transaction number of its own, from the proof. */
static bool read_boundary(struct verify *verify, const struct journal_records *records)
{
	const struct json *proof = json_get(journal_find(records, "outcome", "proof"), "data");
	const char *text = json_text(proof, "next_xid");
	struct link *link = &verify->move->target.link;

	if (text == NULL) {
		verify->failure = mem_must_strdup(
		    "the journal has no transaction number of the promotion: nothing can be "
		    "compared any more");
		return false;
	}
	verify->boundary = prepared_first(records, strtoull(text, NULL, 10));
	if (!link_run(&verify->move->loop, link, verify->move->config->mover.connect_timeout,
	              "SELECT txid_snapshot_xmax(txid_current_snapshot()) AS xid")) {
		verify->failure = mem_must_printf("%s: %s", link->name, link_error(link));
		return false;
	}
	verify->now_xid = strtoull(link_value(link, 0, "xid"), NULL, 10);
	return true;
}

static enum exit_code verify_again(struct move *move, const struct command_line *line,
                                   const struct journal_records *records)
{
	struct verify *verify = verify_create(move);
	enum exit_code code;

	move->verify = verify;
	verify->later = true;
	ui_line(move->ui,
	        "the snapshots of the move are gone: tables that were not compared then are "
	        "compared by what was not written on %s since",
	        move->target.conf->name);
	if (read_boundary(verify, records))
		(void)!verify_let_in(verify, records);
	command_let_others(move, line);
	code = verify_run(verify);
	report_comparison(move);
	return code;
}

/* --dry-run */
static void say_verification(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++)
		ui_line(move->ui,
		        "  database %s: opened on %s to superusers alone for a moment, and compared "
		        "with that on %s (not done: --dry-run)",
		        move->shards[i].dbname, move->source.conf->name, move->target.conf->name);
}

enum exit_code command_verify(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	struct journal_records records;
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	move.phase = PHASE_VALIDATE;
	code = after_open(&move, line, &records);
	if (code == EXIT_DONE && !journal_claim(&move.journal)) {
		ui_error(ui, "another pgshunt compares the copies of move %s", records.id);
		code = EXIT_INTERNAL;
	} else if (code == EXIT_DONE && report_has_comparison(&move, &code)) {
		ui_line(ui, "the comparison was complete; see \"pgshunt report\"");
	} else if (code == EXIT_DONE && line->option[OPTION_DRY_RUN] != NULL) {
		say_verification(&move);
	} else if (code == EXIT_DONE) {
		struct sbuf error;

		sbuf_init(&error, ERRORS_MAX);
		if (servers_connect(&move, &error) && plproxy_plan(&move, &error) &&
		    move_lock_source(&move))
			code = verify_again(&move, line, &records);
		else
			code = EXIT_INTERNAL;
		ui_lines(ui, &error);
		sbuf_free(&error);
	}
	journal_records_free(&records);
	move_free(&move);
	return code;
}
