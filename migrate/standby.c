/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt standby: makes a server a streaming standby of another, by pg_basebackup on its machine.
 *
 * It must never destroy data: the place of the data directory must be empty, or hold what is proven
 * to be an old standby of the same system, stopped and never promoted; and that is moved aside, not
 * removed.  Everything else is refused.  pg_basebackup itself refuses a directory that has become
 * non-empty meanwhile.
 */
#include "migrate/standby.h"

#include "base/mem.h"
#include "conf/secret.h"
#include "migrate/command.h"
#include "migrate/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCRIPT_MAX ((size_t)64 * 1024)
#define ASK_TIMEOUT (30 * USEC_PER_SEC)
/* A standby that was started replays what was written during the copy before it streams. */
#define STREAM_PATIENCE (3600 * USEC_PER_SEC)
#define POLL_EVERY (200 * USEC_PER_MSEC)

/* ---- which servers ---- */

static const struct config_server *source_of(struct move *move, const struct command_line *line)
{
	const struct config *config = move->config;
	const struct config_server *found = NULL;

	if (line->option[OPTION_FROM] != NULL)
		return config_find_server(config, line->option[OPTION_FROM]);
	for (size_t i = 0; i < config->server_count && config->server_count == 2; i++) {
		if (&config->servers[i] != move->target.conf)
			found = &config->servers[i];
	}
	return found;
}

static enum exit_code take_servers(struct standby *standby, const struct command_line *line)
{
	struct move *move = standby->move;

	if (line->option[OPTION_TO] == NULL) {
		ui_error(move->ui, "--to SERVER is missing");
		return EXIT_USAGE;
	}
	move->target.conf = config_find_server(move->config, line->option[OPTION_TO]);
	move->source.conf = source_of(move, line);
	if (move->target.conf == NULL) {
		ui_error(move->ui, "--to %s: the configuration has no such server",
		         line->option[OPTION_TO]);
		return EXIT_USAGE;
	}
	if (move->source.conf == NULL || move->source.conf == move->target.conf) {
		ui_error(move->ui, "name the server that is copied: --from SERVER");
		return EXIT_USAGE;
	}
	if (*move->target.conf->data_directory == '\0') {
		ui_error(move->ui,
		         "servers.%s.data_directory is not set: where is the standby to be?",
		         move->target.conf->name);
		return EXIT_USAGE;
	}
	if (move->target.conf->data_directory[0] != '/') {
		ui_error(move->ui, "servers.%s.data_directory must be an absolute path",
		         move->target.conf->name);
		return EXIT_USAGE;
	}
	standby->data = move->target.conf->data_directory;
	standby->slot =
	    line->option[OPTION_SLOT] != NULL ? line->option[OPTION_SLOT] : move->target.conf->name;
	if (strspn(standby->slot, "abcdefghijklmnopqrstuvwxyz0123456789_") !=
	    strlen(standby->slot)) {
		ui_error(move->ui,
		         "a replication slot cannot be called %s: lower case letters, digits and _ "
		         "(--slot NAME)",
		         standby->slot);
		return EXIT_USAGE;
	}
	standby->user = *move->source.conf->replication_user == '\0'
	                    ? move->source.conf->admin_user
	                    : move->source.conf->replication_user;
	return EXIT_DONE;
}

static bool take_secret(struct standby *standby)
{
	const struct config_server *source = standby->move->source.conf;
	bool own = *source->replication_user != '\0';
	struct sbuf error;
	bool ok;

	sbuf_init(&error, 1024);
	ok = config_secret(own ? source->replication_password_file : source->admin_password_file,
	                   own ? source->replication_password_env : source->admin_password_env,
	                   &standby->secret, &error);
	if (!ok)
		(void)move_fail(standby->move, "%s", sbuf_text(&error));
	sbuf_free(&error);
	if (standby->secret != NULL)
		standby->passfile = mem_must_printf("%s.passfile", standby->data);
	return ok;
}

/* ---- doing it ---- */

static void print_script(struct standby *standby, const char *title,
                         void (*make)(const struct standby *standby, struct sbuf *out))
{
	struct sbuf script;
	struct sbuf event;
	char *save = NULL;
	char *text;

	sbuf_init(&script, SCRIPT_MAX);
	make(standby, &script);
	ui_line(standby->move->ui, "%s", title);
	text = mem_must_strdup(sbuf_text(&script));
	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		ui_line(standby->move->ui, "    %s", line);
	free(text);
	sbuf_init(&event, SCRIPT_MAX * 2);
	json_str(&event, "title", title);
	json_str(&event, "script", sbuf_text(&script));
	ui_event(standby->move->ui, "script", sbuf_text(&event));
	sbuf_free(&event);
	sbuf_free(&script);
}

static void shown_copy_script(const struct standby *standby, struct sbuf *out)
{
	standby_copy_script(standby, false, out);
}

static void print_scripts(struct standby *standby)
{
	const char *target = standby->move->target.conf->name;
	char *title =
	    mem_must_printf("copy, on the machine of %s, as the owner of PostgreSQL:", target);

	print_script(standby, title, shown_copy_script);
	print_script(standby, "start it there:", standby_start_script);
	free(title);
}

static bool copy(struct standby *standby)
{
	struct sbuf script;
	bool ok;

	ui_line(standby->move->ui, "  copying about %" PRId64 " MB from %s to %s",
	        standby->bytes / 1024 / 1024, standby->move->source.conf->name,
	        standby->move->target.conf->name);
	sbuf_init(&script, SCRIPT_MAX);
	standby_copy_script(standby, true, &script);
	standby->slot_made = !standby->slot_exists;
	standby->copy_began = clock_now();
	ok = standby_script(standby, "pg_basebackup", sbuf_text(&script), standby_read_progress);
	if (script.data != NULL)
		explicit_bzero(script.data, script.cap);
	sbuf_free(&script);
	return ok;
}

static bool start(struct standby *standby)
{
	struct sbuf script;
	bool ok;

	ui_line(standby->move->ui, "  starting %s", standby->move->target.conf->name);
	sbuf_init(&script, SCRIPT_MAX);
	standby_start_script(standby, &script);
	ok = standby_script(standby, "starting PostgreSQL", sbuf_text(&script), NULL);
	sbuf_free(&script);
	return ok;
}

/* The source says so, of the slot it streams to. */
static bool await_streaming(struct standby *standby)
{
	struct move *move = standby->move;
	struct link *link = &move->source.link;
	usec_t deadline = clock_now() + STREAM_PATIENCE;
	struct sbuf sql;
	bool streaming = false;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql,
	             "SELECT r.state, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), r.replay_lsn)"
	             "::bigint AS behind FROM pg_stat_replication r JOIN pg_replication_slots"
	             " s ON s.active_pid = r.pid WHERE s.slot_name = ");
	sql_literal(&sql, standby->slot);
	while (!streaming && clock_now() < deadline && !move_stopped(move)) {
		if (!link_revive(move, link) ||
		    !link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
			break;
		streaming = link_value(link, 0, "state") != NULL &&
		            strcmp(link_value(link, 0, "state"), "streaming") == 0;
		ui_status(move->ui, "waiting until it streams: %s, %s bytes behind",
		          link_rows(link) == 0 ? "not connected" : link_value(link, 0, "state"),
		          link_value(link, 0, "behind") == NULL ? "?"
		                                                : link_value(link, 0, "behind"));
		if (!streaming)
			loop_sleep(&move->loop, POLL_EVERY);
	}
	ui_status_clear(move->ui);
	sbuf_free(&sql);
	if (!streaming)
		return move_fail(move, "%s does not stream from %s (%s); look at its log",
		                 move->target.conf->name, move->source.conf->name,
		                 move_stopped(move) ? "interrupted" : link_error(link));
	ui_line(move->ui, "  streaming by slot %s, %s bytes behind", standby->slot,
	        link_value(link, 0, "behind") == NULL ? "?" : link_value(link, 0, "behind"));
	return true;
}

/* A slot that keeps WAL for nobody is the worst that can be left behind. */
static void drop_slot(struct standby *standby)
{
	struct move *move = standby->move;
	struct sbuf sql;

	if (!standby->slot_made || !link_revive(move, &move->source.link))
		return;
	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
	                   " WHERE NOT active AND slot_name = ");
	sql_literal(&sql, standby->slot);
	if (!link_run(&move->loop, &move->source.link, ASK_TIMEOUT, sbuf_text(&sql)))
		ui_error(move->ui, "slot %s on %s could not be dropped: %s", standby->slot,
		         move->source.conf->name, link_error(&move->source.link));
	sbuf_free(&sql);
}

static enum exit_code make(struct standby *standby, const struct command_line *line)
{
	struct move *move = standby->move;
	struct sbuf event;
	char *question;
	bool ok;

	if (line->option[OPTION_DRY_RUN] != NULL) {
		print_scripts(standby);
		return EXIT_DONE;
	}
	question = mem_must_printf("Make %s a standby of %s in %s?", move->target.conf->name,
	                           move->source.conf->name, standby->data);
	ok = line->option[OPTION_YES] != NULL || ui_confirm(move->ui, question);
	free(question);
	if (!ok)
		return EXIT_REFUSED;
	if (!copy(standby)) {
		drop_slot(standby);
		return EXIT_INTERNAL;
	}
	/* From here on the slot is what the copy needs. */
	if (!start(standby) || !await_streaming(standby)) {
		ui_error(
		    move->ui,
		    "the copy in %s is complete; start it by hand, or drop slot %s on %s, which "
		    "keeps WAL for it",
		    standby->data, standby->slot, move->source.conf->name);
		return EXIT_INTERNAL;
	}
	sbuf_init(&event, 4096);
	json_str(&event, "server", move->target.conf->name);
	json_str(&event, "slot", standby->slot);
	json_str(&event, "log", standby->log_path);
	ui_event(move->ui, "standby", sbuf_text(&event));
	sbuf_free(&event);
	ui_line(move->ui, "%s is a standby of %s; what its machine said is in %s",
	        move->target.conf->name, move->source.conf->name, standby->log_path);
	return EXIT_DONE;
}

static enum exit_code run(struct standby *standby, const struct command_line *line)
{
	struct move *move = standby->move;
	enum exit_code code = take_servers(standby, line);
	struct link *source = &move->source.link;
	struct link_target target;
	struct sbuf error;
	bool ok;

	if (code != EXIT_DONE)
		return code;
	if (!take_secret(standby))
		return EXIT_USAGE;
	server_target(move->source.conf, &target);
	link_init(source, move->source.conf->name, &target);
	server_target(move->target.conf, &target);
	link_init(&move->target.link, move->target.conf->name, &target);
	sbuf_init(&error, 4096);
	ok = links_connect(&move->loop, &source, 1, move->config->mover.connect_timeout, &error);
	if (!ok)
		(void)move_fail(move, "%s", sbuf_text(&error));
	sbuf_free(&error);
	if (!ok || !standby_ask_source(standby) || !standby_target_is_free(standby))
		return EXIT_REFUSED;
	if (*move->target.conf->shell == '\0') {
		if (!standby_ask_slot(standby))
			return EXIT_REFUSED;
		ui_line(
		    move->ui,
		    "servers.%s.shell is not set, so this is to be run by hand.  %s must be empty "
		    "or absent; nothing of it was looked at.",
		    move->target.conf->name, standby->data);
		print_scripts(standby);
		return EXIT_DONE;
	}
	if (!standby_open_log(standby))
		return EXIT_INTERNAL;
	if (!standby_probe(standby) || !standby_ask_slot(standby))
		return EXIT_REFUSED;
	return make(standby, line);
}

enum exit_code command_standby(const struct command_line *line, const struct config *config,
                               struct ui *ui)
{
	struct move move;
	struct standby standby = {.move = &move, .log_fd = -1, .free_bytes = -1};
	enum exit_code code;

	move_init(&move, config, ui);
	move.loop.tick = NULL;
	move.phase = PHASE_PREPARE;
	code = run(&standby, line);
	free(standby.bin);
	free(standby.passfile);
	free(standby.moved);
	free(standby.system);
	free(standby.found_system);
	free(standby.found_state);
	free(standby.log_path);
	mem_free_secret(standby.secret);
	if (standby.log_fd >= 0)
		(void)close(standby.log_fd);
	move_free(&move);
	return code;
}
