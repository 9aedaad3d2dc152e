/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: the moves in the journal directory, what each server is, and where every proxy
 * sends the databases.  Changes nothing, and shows what can be asked even when not all can.
 */
#include "base/mem.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>

#define STATUS_MAX ((size_t)1024 * 1024)

static void show_moves(const struct config *config, struct ui *ui)
{
	char **ids;
	size_t count = journal_list(config->mover.journal_directory, true, &ids);

	if (count == 0)
		ui_line(ui, "moves: none in %s", config->mover.journal_directory);
	for (size_t i = 0; i < count; i++) {
		struct journal_records records;
		struct sbuf text;
		const struct json *last;
		const char *result;

		sbuf_init(&text, STATUS_MAX);
		if (!journal_read(config->mover.journal_directory, ids[i], &records, &text)) {
			ui_line(ui, "move %s: %s", ids[i], sbuf_text(&text));
			sbuf_free(&text);
			free(ids[i]);
			continue;
		}
		last = records.first;
		while (last != NULL && last->next != NULL)
			last = last->next;
		result =
		    json_text(json_get(journal_find(&records, "outcome", "end"), "data"), "result");
		if (result != NULL)
			ui_line(ui, "move %s: %s", ids[i], result);
		else
			ui_line(ui, "move %s: UNFINISHED, last record: %s of %s at %s", ids[i],
			        json_text(last, "kind"), json_text(last, "phase"),
			        json_text(last, "time"));
		sbuf_reset(&text);
		json_str(&text, "move", ids[i]);
		json_str(&text, "result", result);
		json_str(&text, "last_phase", json_text(last, "phase"));
		json_str(&text, "last_kind", json_text(last, "kind"));
		ui_event(ui, "move", sbuf_text(&text));
		sbuf_free(&text);
		journal_records_free(&records);
		free(ids[i]);
	}
	free(ids);
}

/* Databases that are closed: fences of this program, or of somebody else. */
static void show_fences(struct move *move, struct link *link)
{
	if (!link_run(&move->loop, link, move->config->mover.connect_timeout,
	              "SELECT string_agg(datname, ', ' ORDER BY datname) AS closed FROM pg_database"
	              " WHERE NOT datallowconn AND datname <> 'template0'"))
		return;
	if (link_value(link, 0, "closed") != NULL)
		ui_line(move->ui, "  closed databases: %s", link_value(link, 0, "closed"));
}

static void show_server(struct move *move, const struct config_server *server)
{
	struct link link;
	struct link *only = &link;
	struct link_target target;
	struct sbuf error;
	struct sbuf event;

	sbuf_init(&error, 4096);
	sbuf_init(&event, STATUS_MAX);
	server_target(server, &target);
	link_init(&link, server->name, &target);
	json_str(&event, "server", server->name);
	if (!links_connect(&move->loop, &only, 1, move->config->mover.connect_timeout, &error) ||
	    !link_run(&move->loop, only, move->config->mover.connect_timeout,
	              "SELECT pg_is_in_recovery() AS recovery,"
	              " (SELECT count(*) FROM pg_stat_replication) AS standbys,"
	              " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
	              " ELSE pg_current_wal_lsn() END AS lsn")) {
		ui_line(move->ui, "server %s (%s:%d): %s", server->name, server->host, server->port,
		        link_error(only));
		json_str(&event, "state", "unreachable");
	} else {
		const char *state = link_true(only, 0, "recovery") ? "standby" : "primary";

		ui_line(move->ui, "server %s (%s:%d): %s at %s, %s standbys", server->name,
		        server->host, server->port, state, link_value(only, 0, "lsn"),
		        link_value(only, 0, "standbys"));
		json_str(&event, "state", state);
		json_str(&event, "lsn", link_value(only, 0, "lsn"));
		show_fences(move, only);
	}
	ui_event(move->ui, "server", sbuf_text(&event));
	sbuf_free(&event);
	sbuf_free(&error);
	link_close(only);
}

static void show_holds(struct move *move, struct proxy *proxy)
{
	struct link *link = &proxy->status;

	if (!link_run(&move->loop, link, move->config->mover.connect_timeout, "SHOW HOLDS"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		const char *state = link_value(link, row, "state");

		if (state == NULL || state[0] == 'o')
			continue;
		ui_line(move->ui, "  database %s is %s, epoch %s, lease left %s ms",
		        link_value(link, row, "database"), state, link_value(link, row, "epoch"),
		        link_value(link, row, "lease_left_ms") == NULL
		            ? "unlimited"
		            : link_value(link, row, "lease_left_ms"));
	}
}

static void show_proxies(struct move *move)
{
	struct sbuf error;

	sbuf_init(&error, STATUS_MAX);
	(void)!proxies_connect(move, &error);
	(void)!plan_read_seen(move, &error);
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct proxy *proxy = &move->proxies[i];

		ui_line(move->ui, "%s (%s:%d):%s%s", proxy->label, proxy->conf->host,
		        proxy->conf->port, proxy->status.state == LINK_IDLE ? "" : " ",
		        proxy->status.state == LINK_IDLE ? "" : link_error(&proxy->status));
		for (size_t j = 0; j < move->seen_count; j++) {
			const struct seen_route *seen = &move->seen[j];
			struct sbuf event;

			if (seen->proxy != proxy)
				continue;
			ui_line(move->ui, "  database %s: %s on %s (epoch %" PRId64 ")",
			        seen->database, seen->dbname, seen->server, seen->epoch);
			sbuf_init(&event, 65536);
			json_str(&event, "proxy", proxy->conf->name);
			json_str(&event, "database", seen->database);
			json_str(&event, "server", seen->server);
			json_int(&event, "epoch", seen->epoch);
			ui_event(move->ui, "route", sbuf_text(&event));
			sbuf_free(&event);
		}
		show_holds(move, proxy);
	}
	sbuf_free(&error);
}

enum exit_code command_status(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	struct move move;

	(void)line;
	move_init(&move, config, ui);
	show_moves(config, ui);
	for (size_t i = 0; i < config->server_count; i++)
		show_server(&move, &config->servers[i]);
	show_proxies(&move);
	move_free(&move);
	return EXIT_DONE;
}
