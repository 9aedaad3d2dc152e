/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: the moves in the journal directory, and whether the fences of those that are done
 * still stand.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/status.h"

#include <stdlib.h>
#include <string.h>

#define EVENT_MAX ((size_t)64 * 1024)
/* Moves that are finished: that many are shown to people. */
#define SHOWN_MAX 5

/* The last finished move of a database. */
struct last_move {
	char *dbname;
	char *source;
	char *system;
	char *id;
};

struct last_moves {
	struct last_move *list;
	size_t count;
};

static void keep_text(char **slot, const char *text)
{
	free(*slot);
	*slot = mem_must_strdup(text);
}

static void remember(struct last_moves *last, const struct journal_records *records)
{
	const struct json *plan = json_get(journal_find(records, "outcome", "plan"), "data");
	const struct json *shards = json_get(plan, "shards");

	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		const char *dbname = json_text(at, "dbname");
		struct last_move *entry = NULL;

		for (size_t i = 0; dbname != NULL && i < last->count; i++) {
			if (strcmp(last->list[i].dbname, dbname) == 0)
				entry = &last->list[i];
		}
		if (dbname == NULL)
			continue;
		if (entry == NULL) {
			last->list =
			    mem_must_grow(last->list, last->count + 1, sizeof(*last->list));
			entry = &last->list[last->count++];
			*entry = (struct last_move){.dbname = mem_must_strdup(dbname)};
		}
		keep_text(&entry->source, json_text(json_get(plan, "source"), "name"));
		keep_text(&entry->system, json_text(plan, "system_identifier"));
		keep_text(&entry->id, records->id);
	}
}

static void show_move(struct status *status, const struct journal_records *records, bool shown)
{
	const struct json *last = records->first;
	const char *result =
	    json_text(json_get(journal_find(records, "outcome", "end"), "data"), "result");
	struct sbuf event;

	while (last != NULL && last->next != NULL)
		last = last->next;
	status->unfinished = status->unfinished || result == NULL;
	if (result == NULL)
		status_line(status, "move %s: UNFINISHED, last record: %s of %s at %s", records->id,
		            json_text(last, "kind"), json_text(last, "phase"),
		            json_text(last, "time"));
	else if (shown)
		status_line(status, "move %s: %s", records->id, result);
	sbuf_init(&event, EVENT_MAX);
	json_str(&event, "move", records->id);
	json_str(&event, "result", result);
	json_str(&event, "last_phase", json_text(last, "phase"));
	json_str(&event, "last_kind", json_text(last, "kind"));
	ui_event(status->move->ui, "move", sbuf_text(&event));
	sbuf_free(&event);
}

/* The source of a finished move that takes connections again, as the same system and no standby. */
static void check_fence(struct status *status, const struct last_move *last)
{
	for (size_t i = 0; i < status->server_count; i++) {
		const struct status_server *server = &status->servers[i];
		const struct status_database *database = status_database(server, last->dbname);

		if (last->source == NULL || strcmp(server->conf->name, last->source) != 0 ||
		    !server->reached || server->recovery || database == NULL || !database->open ||
		    last->system == NULL || server->system == NULL ||
		    strcmp(last->system, server->system) != 0 ||
		    !status_wants(status, last->dbname))
			continue;
		status_alarm(
		    status,
		    "the fence of database %s on %s was lifted: move %s had moved it away, "
		    "what is written there is lost; ALTER DATABASE %s ALLOW_CONNECTIONS "
		    "false",
		    last->dbname, last->source, last->id, last->dbname);
	}
}

void status_show_moves(struct status *status)
{
	const char *directory = status->move->config->mover.journal_directory;
	struct last_moves last = {0};
	char **ids;
	size_t count = journal_list(directory, true, &ids);

	status->unfinished = false;
	if (count == 0)
		status_line(status, "moves: none in %s", directory);
	for (size_t i = 0; i < count; i++) {
		struct journal_records records;
		struct sbuf error;
		const char *result;

		sbuf_init(&error, EVENT_MAX);
		if (journal_read(directory, ids[i], &records, &error)) {
			result = json_text(
			    json_get(journal_find(&records, "outcome", "end"), "data"), "result");
			show_move(status, &records, count - i <= SHOWN_MAX);
			if (result != NULL && strcmp(result, "done") == 0)
				remember(&last, &records);
			journal_records_free(&records);
		} else {
			status_line(status, "move %s: %s", ids[i], sbuf_text(&error));
		}
		sbuf_free(&error);
		free(ids[i]);
	}
	free(ids);
	for (size_t i = 0; i < last.count; i++) {
		check_fence(status, &last.list[i]);
		free(last.list[i].dbname);
		free(last.list[i].source);
		free(last.list[i].system);
		free(last.list[i].id);
	}
	free(last.list);
}
