/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt counts: how many documents every shard has, as the CSV of HQ's
 * print_approximate_doc_distribution --csv.  Each database is asked on the server to which the
 * routers really lead, and not through them.
 */
#include "base/mem.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COUNTS_MAX ((size_t)4 * 1024 * 1024)
#define COUNT_TIMEOUT (24 * 3600 * USEC_PER_SEC)

struct count {
	const char *shard;
	const char *host;
	int64_t rows; /* -1 = it has no such table */
};

static const char *const default_tables[] = {
    "FORMS=form_processor_xforminstancesql",
    "CASES=form_processor_commcarecasesql WHERE NOT deleted",
};

/* The server on which a database is, by the proxies; the configuration's if there are none. */
static const struct config_server *place_of(struct move *move,
                                            const struct config_database *database)
{
	const struct config_server *server = NULL;

	for (size_t i = 0; i < move->seen_count; i++) {
		if (!move->seen[i].through && strcmp(move->seen[i].database, database->name) == 0)
			server = config_find_server(move->config, move->seen[i].server);
	}
	return server == NULL ? database->server : server;
}

/* The planner's estimate: the first " rows=" of the plan. */
static int64_t estimate_of(const struct link *link)
{
	const char *plan = link_value(link, 0, "\"QUERY PLAN\"");
	const char *rows = plan == NULL ? NULL : strstr(plan, " rows=");

	return rows == NULL ? 0 : strtoll(rows + 6, NULL, 10);
}

static bool count_one(struct move *move, const struct config_server *server, const char *dbname,
                      const char *from, bool exact, int64_t *rows)
{
	struct link link;
	struct link *only = &link;
	struct link_target target;
	struct sbuf text;
	bool ok;

	server_target(server, &target);
	target.dbname = dbname;
	link_init(&link, server->name, &target);
	sbuf_init(&text, COUNTS_MAX);
	ok = links_connect(&move->loop, &only, 1, move->config->mover.connect_timeout, &text);
	if (ok) {
		sbuf_printf(&text,
		            "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, public;"
		            "%s FROM %s;COMMIT",
		            exact ? "SELECT count(*) AS rows" : "EXPLAIN SELECT *", from);
		ok = link_run(&move->loop, only, COUNT_TIMEOUT, sbuf_text(&text));
		*rows = exact ? link_number(only, 0, "rows", 0) : estimate_of(only);
		if (!ok && strcmp(only->sqlstate, "42P01") == 0) {
			*rows = -1;
			ok = true;
		}
		sbuf_reset(&text);
		sbuf_printf(&text, "%s: database %s: %s", server->name, dbname, link_error(only));
	}
	if (!ok)
		ui_lines(move->ui, &text);
	sbuf_free(&text);
	link_close(only);
	return ok;
}

static int compare_shards(const void *a, const void *b)
{
	return strcmp(((const struct count *)a)->shard, ((const struct count *)b)->shard);
}

static int compare_hosts(const void *a, const void *b)
{
	return strcmp(((const struct count *)a)->host, ((const struct count *)b)->host);
}

/* A field of CSV (RFC 4180). */
static void add_field(struct sbuf *out, const char *text)
{
	if (strpbrk(text, ",\"\r\n") == NULL) {
		sbuf_add_str(out, text);
		return;
	}
	sbuf_add_char(out, '"');
	for (; *text != '\0'; text++) {
		if (*text == '"')
			sbuf_add_char(out, '"');
		sbuf_add_char(out, *text);
	}
	sbuf_add_char(out, '"');
}

static void add_row(struct ui *ui, struct sbuf *event, const char *name, int64_t rows,
                    int64_t total)
{
	struct sbuf field;

	sbuf_init(&field, COUNTS_MAX);
	add_field(&field, name);
	ui_line(ui, "%s,%" PRId64 ",%" PRId64, sbuf_text(&field), rows,
	        total == 0 ? 0 : 100 * rows / total);
	json_int(event, name, rows);
	sbuf_free(&field);
}

static void print_table(struct ui *ui, const char *title, struct count *counts, size_t count)
{
	struct sbuf event;
	int64_t total = 0;

	for (size_t i = 0; i < count; i++)
		total += counts[i].rows;
	sbuf_init(&event, COUNTS_MAX);
	json_str(&event, "title", title);
	json_int(&event, "total", total);
	ui_line(ui, "\n%s\nTotal,%" PRId64 ",\n\nBy DB\nDB,# Docs,%%", title, total);
	json_open(&event, "by_db", '{');
	qsort(counts, count, sizeof(*counts), compare_shards);
	for (size_t i = 0; i < count; i++)
		add_row(ui, &event, counts[i].shard, counts[i].rows, total);
	json_close(&event, '}');
	ui_line(ui, "\nBy Host\nHost,# Docs,%%");
	json_open(&event, "by_host", '{');
	qsort(counts, count, sizeof(*counts), compare_hosts);
	for (size_t i = 0; i < count; i++) {
		if (i + 1 < count && strcmp(counts[i].host, counts[i + 1].host) == 0)
			counts[i + 1].rows += counts[i].rows;
		else
			add_row(ui, &event, counts[i].host, counts[i].rows, total);
	}
	json_close(&event, '}');
	ui_event(ui, "counts", sbuf_text(&event));
	sbuf_free(&event);
}

static bool is_wanted(const struct command_line *line, const struct config_database *database)
{
	for (size_t i = 0; i < line->name_count; i++) {
		if (strcmp(line->names[i], database->shard) == 0 ||
		    strcmp(line->names[i], database->name) == 0)
			return true;
	}
	return line->name_count == 0;
}

/* "TITLE=table [WHERE condition]" */
static bool count_table(struct move *move, const struct command_line *line, const char *entry)
{
	const char *equals = strchr(entry, '=');
	char *title;
	struct count *counts = mem_must_alloc((move->config->database_count + 1) * sizeof(*counts));
	size_t count = 0;
	bool ok = equals != NULL;

	if (!ok)
		ui_error(move->ui, "mover.count_tables: \"%s\" is not TITLE=TABLE", entry);
	title = mem_must_strndup(entry, equals == NULL ? 0 : (size_t)(equals - entry));
	for (size_t i = 0; ok && i < move->config->database_count; i++) {
		const struct config_database *database = &move->config->databases[i];
		const struct config_server *server = place_of(move, database);

		if (!is_wanted(line, database))
			continue;
		counts[count] = (struct count){.shard = database->shard, .host = server->host};
		ok = count_one(move, server, database->dbname, equals + 1,
		               line->option[OPTION_EXACT] != NULL, &counts[count].rows);
		count += ok && counts[count].rows >= 0 ? 1 : 0;
	}
	if (ok && count == 0)
		ui_error(move->ui, "no shard has the table of %s", entry);
	else if (ok)
		print_table(move->ui, title, counts, count);
	free(counts);
	free(title);
	return ok;
}

enum exit_code command_counts(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	const struct config_list *list = &config->mover.count_tables;
	struct move move;
	struct sbuf error;
	bool ok;

	for (size_t i = 0; i < line->name_count; i++) {
		if (config_find_shard(config, line->names[i]) == NULL &&
		    config_find_database(config, line->names[i]) == NULL) {
			ui_error(ui, "no shard is called %s", line->names[i]);
			return EXIT_USAGE;
		}
	}
	move_init(&move, config, ui);
	sbuf_init(&error, COUNTS_MAX);
	ok = proxies_connect(&move, &error) && bouncers_connect(&move, &error) &&
	     plan_read_seen(&move, &error);
	ui_lines(ui, &error);
	sbuf_free(&error);
	for (size_t i = 0; ok && i < list->count; i++)
		ok = count_table(&move, line, list->items[i]);
	for (size_t i = 0; ok && list->count == 0 && i < ARRAY_LEN(default_tables); i++)
		ok = count_table(&move, line, default_tables[i]);
	move_free(&move);
	return ok ? EXIT_DONE : EXIT_INTERNAL;
}
