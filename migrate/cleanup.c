/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt cleanup: what a move has left behind, long after it.
 *
 * A copy out of use is renamed first; should somebody need it after all, he notices, and it gets
 * its name back (--undo).  Only what was renamed long enough is dropped, and only under the name
 * that it got here: a database that is in use never has it.  Every step is in the journal of the
 * move.
 */
#include "migrate/cleanup.h"

#include "base/mem.h"
#include "migrate/after.h"
#include "migrate/json.h"
#include "migrate/lsn.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
/* A checkpoint may be part of it. */
#define DROP_TIMEOUT (3600 * USEC_PER_SEC)
#define CLEANUP_SQL_MAX ((size_t)64 * 1024)
#define NAME_MAX_BYTES 63
#define LINES_SHOWN 200

/* ---- what there is ---- */

/* FNV-1a, 32 bits: tells names apart that begin alike. */
static uint32_t hash_of(const char *text)
{
	uint32_t hash = 2166136261U;

	for (const char *p = text; *p != '\0'; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619U;
	return hash;
}

/* Its name and the suffix; a name that is too long for both is cut, not within a character, and
 * gets a number that others do not get which begin like it.  Free it. */
static char *stale_name(const char *dbname, const char *suffix)
{
	size_t room = NAME_MAX_BYTES - strlen(suffix);
	char number[16];

	if (strlen(dbname) <= room)
		return mem_must_printf("%s%s", dbname, suffix);
	(void)snprintf(number, sizeof(number), "_%08" PRIx32, hash_of(dbname));
	room -= strlen(number);
	while (room > 0 && ((unsigned char)dbname[room] & 0xC0) == 0x80)
		room--;
	return mem_must_printf("%.*s%s%s", (int)room, dbname, number, suffix);
}

/* What the journal says that it was renamed to, NULL if it was not. */
static const char *renamed_to(const struct cleanup *cleanup, const struct copy *copy)
{
	const char *found = NULL;

	for (const struct json *at = cleanup->records->first; at != NULL; at = at->next) {
		const struct json *data = json_get(at, "data");
		const char *from = json_text(data, "database");
		const char *to = json_text(data, "to");
		const char *server = json_text(data, "server");

		if (strcmp(json_text(at, "phase"), "rename") == 0 &&
		    strcmp(json_text(at, "kind"), "outcome") == 0 && from != NULL && to != NULL &&
		    server != NULL && strcmp(from, copy->dbname) == 0 &&
		    strcmp(server, copy->here->conf->name) == 0)
			found = to;
	}
	return found;
}

static void add_copy(struct cleanup *cleanup, const char *dbname, bool of_shard)
{
	struct move *move = cleanup->move;
	const char *id = cleanup->records->id;
	const char *renamed;
	char suffix[32];
	struct copy *copy;

	cleanup->copies =
	    mem_must_grow(cleanup->copies, cleanup->copy_count + 1, sizeof(*cleanup->copies));
	copy = &cleanup->copies[cleanup->copy_count++];
	(void)snprintf(suffix, sizeof(suffix), "__%s_%.8s", of_shard ? "moved" : "copy", id);
	*copy = (struct copy){.dbname = mem_must_strdup(dbname),
	                      .here = of_shard ? &move->source : &move->target,
	                      .there = of_shard ? &move->target : &move->source,
	                      .of_shard = of_shard};
	renamed = renamed_to(cleanup, copy);
	copy->stale = renamed != NULL ? mem_must_strdup(renamed) : stale_name(dbname, suffix);
}

/* When the journal says that it was renamed, as microseconds since 1970. */
static usec_t renamed_at(const struct cleanup *cleanup, const struct copy *copy)
{
	usec_t when = 0;

	for (const struct json *at = cleanup->records->first; at != NULL; at = at->next) {
		const struct json *data = json_get(at, "data");
		const char *to = json_text(data, "to");
		const char *server = json_text(data, "server");

		if (strcmp(json_text(at, "phase"), "rename") == 0 && to != NULL && server != NULL &&
		    strcmp(json_text(at, "kind"), "outcome") == 0 && strcmp(to, copy->stale) == 0 &&
		    strcmp(server, copy->here->conf->name) == 0)
			when = json_number(data, "wall", 0);
	}
	return when;
}

/* Under which name a copy is there; false if it cannot be asked. */
static bool look_for(struct cleanup *cleanup, struct copy *copy)
{
	struct link *link = &copy->here->link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, CLEANUP_SQL_MAX);
	sbuf_add_str(&sql, "SELECT bool_or(datname = ");
	sql_literal(&sql, copy->dbname);
	sbuf_add_str(&sql, ") AS named, bool_or(datname = ");
	sql_literal(&sql, copy->stale);
	sbuf_add_str(&sql, ") AS renamed FROM pg_database");
	ok = link_run(&cleanup->move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok) {
		cleanup_refuse(cleanup, "%s cannot be asked: %s", link->name, link_error(link));
		return false;
	}
	copy->state = link_true(link, 0, "renamed") ? COPY_RENAMED
	              : link_true(link, 0, "named") ? COPY_NAMED
	                                            : COPY_GONE;
	copy->renamed_at = renamed_at(cleanup, copy);
	return true;
}

/* ---- steps ---- */

static bool write_step(struct cleanup *cleanup, const char *kind, const char *step,
                       const struct copy *copy, const char *from, const char *to)
{
	struct sbuf data;
	bool ok;

	sbuf_init(&data, CLEANUP_SQL_MAX);
	json_str(&data, "server", copy->here->conf->name);
	json_str(&data, "database", from);
	json_str(&data, "to", to);
	json_int(&data, "wall", clock_wall());
	ok = journal_write(&cleanup->move->journal, kind, step, sbuf_text(&data), true);
	sbuf_free(&data);
	if (!ok)
		cleanup_refuse(cleanup, "the journal could not be written");
	return ok;
}

/*
 * Proof, intent, statement: at most a second lies between question and deed.  The intent is on disk
 * before, so the proof is asked for once more if that took long.
 */
static void run_step(struct cleanup *cleanup, struct copy *copy, const char *step, const char *from,
                     const char *to)
{
	struct move *move = cleanup->move;
	struct link *link = &copy->here->link;
	struct sbuf sql;
	usec_t asked_at;

	if (!cleanup_prove(cleanup, copy, &asked_at))
		return;
	ui_line(move->ui, "  %s: %s database %s%s%s%s", link->name, step, from,
	        to == NULL ? "" : " to ", to == NULL ? "" : to,
	        cleanup->dry_run ? " (not done: --dry-run)" : "");
	if (cleanup->dry_run || !write_step(cleanup, "intent", step, copy, from, to) ||
	    !cleanup_prove(cleanup, copy, &asked_at))
		return;
	sbuf_init(&sql, CLEANUP_SQL_MAX);
	sbuf_add_str(&sql, to == NULL ? "DROP DATABASE " : "ALTER DATABASE ");
	sql_identifier(&sql, from);
	if (to != NULL) {
		sbuf_add_str(&sql, " RENAME TO ");
		sql_identifier(&sql, to);
	}
	if (clock_now() - asked_at > USEC_PER_SEC)
		cleanup_refuse(cleanup, "the servers took too long to answer; run it again");
	else if (!link_run(&move->loop, link, DROP_TIMEOUT, sbuf_text(&sql)))
		cleanup_refuse(cleanup, "%s: %s: %s", link->name, sbuf_text(&sql),
		               link_error(link));
	else
		(void)!write_step(cleanup, "outcome", step, copy, from, to);
	sbuf_free(&sql);
}

/* Whether the copies were compared, and were the same. */
static bool is_compared(struct cleanup *cleanup)
{
	char *text = journal_load(cleanup->move->journal.directory, "comparison.json");
	struct json *json = text == NULL ? NULL : json_parse(text);
	const char *state = json_text(json, "state");
	bool ok = false;

	if (state != NULL && strcmp(state, "differs") == 0)
		cleanup_refuse(cleanup, "the comparison found differences: nothing is dropped");
	else if (state != NULL && strncmp(state, "equal", 5) == 0)
		ok = true;
	else if (!(ok = cleanup->line->option[OPTION_UNVERIFIED] != NULL))
		cleanup_refuse(cleanup, "the copies were never compared: run \"pgshunt verify\", "
		                        "or give --unverified");
	json_free(json);
	free(text);
	return ok;
}

static void drop_copy(struct cleanup *cleanup, struct copy *copy)
{
	usec_t wait = cleanup->move->config->mover.cleanup_wait;
	usec_t due = copy->renamed_at + wait;

	if (copy->renamed_at == 0) {
		cleanup_refuse(cleanup,
		               "database %s on %s: the journal does not say when it was renamed",
		               copy->stale, copy->here->conf->name);
	} else if (clock_wall() < due) {
		cleanup->waiting++;
		ui_line(cleanup->move->ui,
		        "  %s: database %s can be dropped in %.1f h (mover.cleanup_wait)%s",
		        copy->here->conf->name, copy->stale,
		        (double)(due - clock_wall()) / (double)USEC_PER_SEC / 3600.0,
		        clock_wall() < copy->renamed_at
		            ? "; by the clock of this machine it will be renamed in the future: "
		              "one of the two times is wrong"
		            : "");
	} else if (!copy->of_shard || is_compared(cleanup)) {
		run_step(cleanup, copy, "drop", copy->stale, NULL);
	}
}

/* ---- slot and settings ---- */

static bool run_on(struct cleanup *cleanup, struct link *link, const char *sql)
{
	if (link_run(&cleanup->move->loop, link, ASK_TIMEOUT, sql))
		return true;
	cleanup_refuse(cleanup, "%s: %s", link->name, link_error(link));
	return false;
}

static void drop_slot(struct cleanup *cleanup, const char *name)
{
	struct link *link = &cleanup->move->source.link;
	bool again = cleanup->line->option[OPTION_RECREATE_SLOT] != NULL;
	struct sbuf sql;

	sbuf_init(&sql, CLEANUP_SQL_MAX);
	sbuf_add_str(&sql, "SELECT active, pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(),"
	                   " restart_lsn)) AS kept FROM pg_replication_slots WHERE slot_type ="
	                   " 'physical' AND slot_name = ");
	sql_literal(&sql, name);
	if (!run_on(cleanup, link, sbuf_text(&sql)) || link_rows(link) == 0) {
		sbuf_free(&sql);
		return;
	}
	if (link_true(link, 0, "active")) {
		cleanup_refuse(cleanup, "%s: slot %s is in use by somebody else", link->name, name);
	} else {
		ui_line(cleanup->move->ui, "  %s: %s slot %s, which keeps %s of WAL%s", link->name,
		        again ? "make anew" : "drop", name,
		        link_value(link, 0, "kept") == NULL ? "nothing"
		                                            : link_value(link, 0, "kept"),
		        cleanup->dry_run ? " (not done: --dry-run)" : "");
		sbuf_reset(&sql);
		sbuf_add_str(&sql, "SELECT pg_drop_replication_slot(");
		sql_literal(&sql, name);
		sbuf_add_char(&sql, ')');
		if (!cleanup->dry_run && run_on(cleanup, link, sbuf_text(&sql)) && again) {
			sbuf_reset(&sql);
			sbuf_add_str(&sql, "SELECT pg_create_physical_replication_slot(");
			sql_literal(&sql, name);
			sbuf_add_char(&sql, ')');
			(void)!run_on(cleanup, link, sbuf_text(&sql));
		}
	}
	sbuf_free(&sql);
}

/* What made the target a standby, in its postgresql.auto.conf; primary_conninfo may hold a
 * password. */
static void reset_settings(struct cleanup *cleanup)
{
	struct link *link = &cleanup->move->target.link;
	char *slot = NULL;
	struct sbuf sql;

	if (!run_on(cleanup, link,
	            "SELECT name, current_setting('primary_slot_name') AS slot FROM"
	            " pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' AND name IN"
	            " ('primary_conninfo','primary_slot_name','recovery_target_timeline')"
	            " GROUP BY 1"))
		return;
	sbuf_init(&sql, CLEANUP_SQL_MAX);
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "name");

		ui_line(cleanup->move->ui, "  %s: ALTER SYSTEM RESET %s%s", link->name, name,
		        cleanup->dry_run ? " (not done: --dry-run)" : "");
		if (slot == NULL && *link_value(link, row, "slot") != '\0')
			slot = mem_must_strdup(link_value(link, row, "slot"));
		sbuf_printf(&sql, "%s;", name);
	}
	if (slot != NULL)
		drop_slot(cleanup, slot);
	if (!cleanup->dry_run && sbuf_text(&sql)[0] != '\0') {
		char *names = mem_must_strdup(sbuf_text(&sql));
		char *save = NULL;

		/* Each alone: ALTER SYSTEM does not run in a block of several statements. */
		for (char *at = strtok_r(names, ";", &save); at != NULL;
		     at = strtok_r(NULL, ";", &save)) {
			sbuf_reset(&sql);
			sbuf_printf(&sql, "ALTER SYSTEM RESET %s", at);
			(void)!run_on(cleanup, link, sbuf_text(&sql));
		}
		(void)!run_on(cleanup, link, "SELECT pg_reload_conf()");
		free(names);
	}
	sbuf_free(&sql);
	free(slot);
}

/* ---- what else names the old place ---- */

static bool names_old_place(const struct cleanup *cleanup, const char *line)
{
	for (size_t i = 0; i < cleanup->copy_count; i++) {
		if (cleanup->copies[i].of_shard && strstr(line, cleanup->copies[i].dbname) != NULL)
			return true;
	}
	return strstr(line, "hot_standby_master") != NULL ||
	       strstr(line, "hot_standby_server") != NULL ||
	       strstr(line, "replication_slot") != NULL || strstr(line, "pg_standby") != NULL;
}

static void list_references(struct cleanup *cleanup)
{
	const struct config_list *files = &cleanup->move->config->mover.reference_files;
	size_t shown = 0;

	for (size_t i = 0; i < files->count; i++) {
		FILE *file = fopen(files->items[i], "re");
		char *line = NULL;
		size_t size = 0;

		if (file == NULL)
			ui_error(cleanup->move->ui, "cleanup: %s cannot be read", files->items[i]);
		for (int number = 1; file != NULL && getline(&line, &size, file) > 0; number++) {
			line[strcspn(line, "\r\n")] = '\0';
			if (!names_old_place(cleanup, line) || shown++ >= LINES_SHOWN)
				continue;
			ui_line(cleanup->move->ui, "  to look at: %s:%d: %s", files->items[i],
			        number, line);
		}
		free(line);
		if (file != NULL)
			(void)fclose(file);
	}
}

/* ---- the command ---- */

static void undo(struct cleanup *cleanup)
{
	for (size_t i = 0; i < cleanup->copy_count; i++) {
		struct copy *copy = &cleanup->copies[i];

		if (copy->state == COPY_RENAMED)
			run_step(cleanup, copy, "name back", copy->stale, copy->dbname);
	}
}

static void clean(struct cleanup *cleanup)
{
	struct move *move = cleanup->move;

	for (size_t i = 0; i < cleanup->copy_count; i++) {
		struct copy *copy = &cleanup->copies[i];

		if (copy->state == COPY_NAMED)
			run_step(cleanup, copy, "rename", copy->dbname, copy->stale);
		else if (copy->state == COPY_RENAMED)
			drop_copy(cleanup, copy);
		else
			ui_line(move->ui, "  %s: database %s is gone already",
			        copy->here->conf->name, copy->dbname);
	}
	if (cleanup->refused == 0)
		reset_settings(cleanup);
	list_references(cleanup);
}

static bool prepare(struct cleanup *cleanup)
{
	struct move *move = cleanup->move;
	const struct json *proof =
	    json_get(journal_find(cleanup->records, "outcome", "proof"), "data");

	move->new_timeline = json_number(proof, "timeline", 0);
	if (!lsn_parse(json_text(proof, "switch_point"), &cleanup->switch_point) ||
	    move->new_timeline == 0) {
		cleanup_refuse(cleanup, "the journal has no proof of the promotion");
		return false;
	}
	for (size_t i = 0; i < move->shard_count; i++)
		add_copy(cleanup, move->shards[i].dbname, true);
	for (size_t i = 0; i < move->other_count; i++)
		add_copy(cleanup, move->others[i], false);
	if (!after_connect(move) || !move_lock_source(move)) {
		cleanup->refused++;
		return false;
	}
	for (size_t i = 0; i < cleanup->copy_count; i++) {
		if (!look_for(cleanup, &cleanup->copies[i]))
			return false;
	}
	return cleanup_routers(cleanup);
}

static void run(struct cleanup *cleanup)
{
	struct ui *ui = cleanup->move->ui;
	bool back = cleanup->line->option[OPTION_UNDO] != NULL;

	if (!prepare(cleanup))
		return;
	ui_line(ui, "%s after move %s from %s to %s:", back ? "names given back" : "cleanup",
	        cleanup->records->id, cleanup->move->source.conf->name,
	        cleanup->move->target.conf->name);
	if (!cleanup->dry_run && cleanup->line->option[OPTION_YES] == NULL &&
	    !ui_confirm(ui, back ? "Give the copies their names back?"
	                         : "Rename, and drop what was renamed long enough?")) {
		cleanup_refuse(cleanup, "not wanted");
		return;
	}
	if (!cleanup->dry_run && !report_who(cleanup->move))
		cleanup_refuse(cleanup, "the journal could not be written");
	else if (back)
		undo(cleanup);
	else
		clean(cleanup);
}

enum exit_code command_cleanup(const struct command_line *line, const struct config *config,
                               struct ui *ui)
{
	struct journal_records records;
	struct move move;
	struct cleanup cleanup = {.move = &move,
	                          .line = line,
	                          .records = &records,
	                          .dry_run = line->option[OPTION_DRY_RUN] != NULL};
	enum exit_code code;

	move_init(&move, config, ui);
	move.phase = PHASE_VALIDATE;
	code = after_open(&move, line, &records);
	if (code == EXIT_DONE) {
		struct sbuf event;

		run(&cleanup);
		code = cleanup.refused > 0 ? EXIT_REFUSED : EXIT_DONE;
		sbuf_init(&event, CLEANUP_SQL_MAX);
		json_str(&event, "move", records.id);
		json_int(&event, "refused", (int64_t)cleanup.refused);
		json_int(&event, "waiting", (int64_t)cleanup.waiting);
		ui_event(ui, "cleanup", sbuf_text(&event));
		sbuf_free(&event);
	}
	for (size_t i = 0; i < cleanup.copy_count; i++) {
		free(cleanup.copies[i].dbname);
		free(cleanup.copies[i].stale);
	}
	free(cleanup.copies);
	journal_records_free(&records);
	move_free(&move);
	return code;
}
