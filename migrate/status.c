/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: one screen about shards, servers, routers and moves.  Changes nothing, and shows
 * what can be asked even when not all can.
 */
#include "migrate/status.h"

#include "base/mem.h"
#include "migrate/command.h"
#include "migrate/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCREEN_MAX ((size_t)4 * 1024 * 1024)
#define WATCH_EVERY (2 * USEC_PER_SEC)

static PRINTF_LIKE(2, 0) void add_line(struct sbuf *out, const char *fmt, va_list args)
{
	char *text = NULL;

	if (vasprintf(&text, fmt, args) < 0)
		return;
	sbuf_add_str(out, text);
	sbuf_add_char(out, '\n');
	free(text);
}

void status_line(struct status *status, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add_line(&status->screen, fmt, args);
	va_end(args);
}

void status_alarm(struct status *status, const char *fmt, ...)
{
	struct sbuf event;
	char *text = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	if (text == NULL)
		return;
	sbuf_printf(&status->alarms, "!!! %s\n", text);
	sbuf_init(&event, 65536);
	json_str(&event, "text", text);
	ui_event(status->move->ui, "alarm", sbuf_text(&event));
	sbuf_free(&event);
	free(text);
}

/* Whether this is one of the names that were given for the database. */
static bool is_named(const struct status *status, const struct config_database *database)
{
	for (size_t i = 0; i < status->name_count; i++) {
		if (strcmp(status->names[i], database->shard) == 0 ||
		    strcmp(status->names[i], database->name) == 0)
			return true;
	}
	return false;
}

bool status_wants(const struct status *status, const char *dbname)
{
	const struct config *config = status->move->config;

	for (size_t i = 0; i < config->database_count; i++) {
		if (strcmp(config->databases[i].dbname, dbname) == 0 &&
		    (status->name_count == 0 || is_named(status, &config->databases[i])))
			return true;
	}
	return false;
}

static bool check_names(const struct status *status)
{
	const struct config *config = status->move->config;

	for (size_t i = 0; i < status->name_count; i++) {
		if (config_find_shard(config, status->names[i]) == NULL &&
		    config_find_database(config, status->names[i]) == NULL) {
			ui_error(status->move->ui, "no shard is called %s", status->names[i]);
			return false;
		}
	}
	return true;
}

static void make_links(struct status *status)
{
	const struct config *config = status->move->config;

	status->server_count = config->server_count;
	status->servers = mem_must_alloc((config->server_count + 1) * sizeof(*status->servers));
	for (size_t i = 0; i < config->server_count; i++) {
		struct link_target target;

		status->servers[i].conf = &config->servers[i];
		server_target(&config->servers[i], &target);
		link_init(&status->servers[i].link, config->servers[i].name, &target);
	}
	status->clusters =
	    mem_must_alloc((config->mover.plproxy_count + 1) * sizeof(*status->clusters));
	for (size_t i = 0; i < config->mover.plproxy_count; i++) {
		const struct config_plproxy *from = &config->mover.plproxy[i];
		struct link_target target = {.host = from->host,
		                             .port = from->port,
		                             .user = from->user,
		                             .dbname = from->dbname,
		                             .password_file = from->password_file,
		                             .password_env = from->password_env,
		                             .tls = config_plproxy_tls(from)};

		link_init(&status->clusters[i], from->name, &target);
	}
}

static void free_links(struct status *status)
{
	status_forget_servers(status);
	for (size_t i = 0; i < status->server_count; i++)
		link_close(&status->servers[i].link);
	for (size_t i = 0; i < status->move->config->mover.plproxy_count; i++)
		link_close(&status->clusters[i]);
	free(status->servers);
	free(status->clusters);
}

/* The whole screen in one write. */
static void show(struct status *status, bool watch)
{
	struct ui *ui = status->move->ui;
	char now[CLOCK_TEXT_MAX];
	struct sbuf text;

	sbuf_init(&text, 2 * SCREEN_MAX);
	if (watch)
		sbuf_printf(&text, "%spgshunt status, %s, every %d s\n",
		            isatty(STDOUT_FILENO) == 1 ? "\033[H\033[2J" : "",
		            clock_format(clock_wall(), now), (int)(WATCH_EVERY / USEC_PER_SEC));
	sbuf_add_str(&text, sbuf_text(&status->alarms));
	sbuf_add_str(&text, sbuf_text(&status->screen));
	/* Without its last line end: ui_line adds one. */
	if (text.len > 0)
		ui_line(ui, "%.*s", (int)text.len - 1, sbuf_text(&text));
	sbuf_free(&text);
}

static bool one_round(struct status *status, bool watch)
{
	bool quiet;

	sbuf_init(&status->screen, SCREEN_MAX);
	sbuf_init(&status->alarms, SCREEN_MAX);
	status_ask_servers(status);
	status_show_moves(status);
	status_show_servers(status);
	status_show_routers(status);
	quiet = status->alarms.len == 0;
	show(status, watch);
	sbuf_free(&status->screen);
	sbuf_free(&status->alarms);
	status_forget_servers(status);
	return quiet;
}

enum exit_code command_status(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	struct move move;
	struct status status = {
	    .move = &move, .names = line->names, .name_count = line->name_count};
	bool watch = line->option[OPTION_WATCH] != NULL;
	bool quiet = true;

	move_init(&move, config, ui);
	move.loop.tick = NULL; /* there are no holds of ours to renew */
	if (!check_names(&status)) {
		move_free(&move);
		return EXIT_USAGE;
	}
	make_links(&status);
	do {
		quiet = one_round(&status, watch);
		if (watch && *move.loop.stop == 0) {
			usec_t until = clock_now() + WATCH_EVERY;

			while (clock_now() < until && *move.loop.stop == 0)
				loop_sleep(&move.loop, 50 * USEC_PER_MSEC);
		}
	} while (watch && *move.loop.stop == 0);
	free_links(&status);
	move_free(&move);
	return quiet ? EXIT_DONE : EXIT_REFUSED;
}
