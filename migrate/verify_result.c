/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the comparison found: shown, in the report, and table by table in verify.jsonl next to the
 * journal, from where a later run takes it over.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/verify.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESULT_MAX ((size_t)64 * 1024 * 1024)
#define RESULT_FILE "verify.jsonl"

static const char *const state_names[] = {[VERIFY_OPEN] = "not compared",
                                          [VERIFY_EQUAL] = "equal",
                                          [VERIFY_PARTLY] =
                                              "equal as far as it was not written since",
                                          [VERIFY_DIFFERS] = "differs",
                                          [VERIFY_FAILED] = "cannot be compared"};

const char *verify_state_name(enum verify_state state)
{
	return state_names[state];
}

/* The worst: a difference before what is not known, that before what is partly known. */
static enum verify_state worse(enum verify_state a, enum verify_state b)
{
	static const int rank[] = {[VERIFY_EQUAL] = 0,
	                           [VERIFY_PARTLY] = 1,
	                           [VERIFY_OPEN] = 2,
	                           [VERIFY_FAILED] = 3,
	                           [VERIFY_DIFFERS] = 4};

	return rank[a] >= rank[b] ? a : b;
}

enum verify_state verify_shard_state(const struct verify *verify, const struct verify_shard *shard)
{
	enum verify_state state =
	    shard->table_count == 0 || !shard->sequences_done ? VERIFY_OPEN : VERIFY_EQUAL;

	for (size_t i = 0; i < shard->table_count; i++)
		state = worse(state, verify->tables[shard->first_table + i].state);
	return shard->sequences_wrong > 0 ? VERIFY_DIFFERS : state;
}

static void hash_text(const hash_sum sums[2], char out[80])
{
	(void)snprintf(out, 80, "%016" PRIx64 "%016" PRIx64 "-%016" PRIx64 "%016" PRIx64,
	               (uint64_t)(sums[0] >> 64), (uint64_t)sums[0], (uint64_t)(sums[1] >> 64),
	               (uint64_t)sums[1]);
}

static void partitions_json(const struct verify_table *table, struct sbuf *out)
{
	json_open(out, "partitions", '{');
	for (int part = 0; part < table->shard->parts; part++) {
		char name[16];

		if (table->spread[part] == 0)
			continue;
		(void)snprintf(name, sizeof(name), "%d", part);
		json_int(out, name, table->spread[part]);
	}
	json_close(out, '}');
}

static void table_json(const struct verify *verify, const struct verify_table *table,
                       struct sbuf *out)
{
	char hash[80];

	json_str(out, "shard", table->shard->label);
	json_str(out, "table", table->name);
	json_str(out, "state", state_names[table->state]);
	json_bool(out, "exact", !verify->later);
	json_int(out, "rows", table->rows[SOURCE]);
	json_int(out, "rows_target", table->rows[TARGET]);
	hash_text(table->sums[SOURCE], hash);
	json_str(out, "hash", hash);
	hash_text(table->sums[TARGET], hash);
	json_str(out, "hash_target", hash);
	if (table->source_only + table->target_only > 0) {
		json_int(out, "source_only", table->source_only);
		json_int(out, "target_only", table->target_only);
	}
	if (verify->later) {
		json_int(out, "changed_since", table->changed);
		json_int(out, "new_since", table->fresh);
	}
	if (table->spread != NULL) {
		json_int(out, "outside", table->outside);
		partitions_json(table, out);
	}
	if (table->note != NULL)
		json_str(out, "note", table->note);
}

void verify_save_table(struct verify *verify, struct verify_table *table)
{
	struct sbuf line;
	char *path;
	int fd;

	if (verify->move->journal.directory == NULL || table->state == VERIFY_FAILED)
		return;
	sbuf_init(&line, RESULT_MAX);
	json_open(&line, NULL, '{');
	table_json(verify, table, &line);
	sbuf_add_str(&line, "}\n");
	path = mem_must_printf("%s/" RESULT_FILE, verify->move->journal.directory);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	/* One write: a line is there or not.  Without it the table is compared once more. */
	if (fd < 0 || write(fd, line.data, line.len) != (ssize_t)line.len)
		ui_error(verify->move->ui, "verify: %s could not be written", path);
	if (fd >= 0)
		(void)close(fd);
	free(path);
	sbuf_free(&line);
}

/* ---- an earlier run ---- */

static hash_sum parse_hash(const char *text)
{
	hash_sum sum = 0;

	for (int i = 0; i < 32 && text[i] != '\0' && text[i] != '-'; i++) {
		char digit[2] = {text[i], '\0'};

		sum = sum * 16 + (hash_sum)strtol(digit, NULL, 16);
	}
	return sum;
}

static void take_table(struct verify *verify, const struct json *json)
{
	const char *shard = json_text(json, "shard");
	const char *name = json_text(json, "table");
	const char *state = json_text(json, "state");
	const char *exact = json_text(json, "exact");

	if (shard == NULL || name == NULL || state == NULL || exact == NULL ||
	    strcmp(exact, "true") != 0)
		return;
	for (size_t i = 0; i < verify->table_count; i++) {
		struct verify_table *table = &verify->tables[i];
		const struct json *parts = json_get(json, "partitions");

		if (strcmp(table->name, name) != 0 || strcmp(table->shard->label, shard) != 0)
			continue;
		table->state =
		    strcmp(state, state_names[VERIFY_EQUAL]) == 0 ? VERIFY_EQUAL : VERIFY_DIFFERS;
		table->next = -1;
		table->rows[SOURCE] = json_number(json, "rows", 0);
		table->rows[TARGET] = json_number(json, "rows_target", 0);
		table->source_only = json_number(json, "source_only", 0);
		table->target_only = json_number(json, "target_only", 0);
		table->outside = json_number(json, "outside", 0);
		if (json_text(json, "hash") != NULL && strlen(json_text(json, "hash")) == 65) {
			table->sums[SOURCE][0] = parse_hash(json_text(json, "hash"));
			table->sums[SOURCE][1] = parse_hash(json_text(json, "hash") + 33);
		}
		free(table->note);
		table->note = mem_must_strdup(json_text(json, "note"));
		for (const struct json *at = parts == NULL ? NULL : parts->first;
		     at != NULL && table->spread != NULL; at = at->next) {
			int part = atoi(at->key);

			if (part >= 0 && part < table->shard->parts)
				table->spread[part] = strtoll(at->text, NULL, 10);
		}
		verify->blocks_done += table->blocks;
	}
}

void verify_load(struct verify *verify)
{
	char *path;
	char *line = NULL;
	size_t size = 0;
	FILE *file;

	if (verify->move->journal.directory == NULL)
		return;
	path = mem_must_printf("%s/" RESULT_FILE, verify->move->journal.directory);
	file = fopen(path, "re");
	while (file != NULL && getline(&line, &size, file) > 0) {
		struct json *json;

		line[strcspn(line, "\n")] = '\0';
		json = json_parse(line);
		take_table(verify, json);
		json_free(json);
	}
	free(line);
	if (file != NULL)
		(void)fclose(file);
	free(path);
}

/* ---- the whole ---- */

static void shard_json(const struct verify *verify, const struct verify_shard *shard,
                       struct sbuf *out)
{
	int64_t rows = 0;
	int64_t outside = 0;
	bool keys = false;

	for (size_t i = 0; i < shard->table_count; i++) {
		const struct verify_table *table = &verify->tables[shard->first_table + i];

		rows += table->rows[SOURCE];
		outside += table->outside;
		keys = keys || table->spread != NULL;
	}
	json_str(out, "name", shard->label);
	json_str(out, "state", state_names[verify_shard_state(verify, shard)]);
	json_int(out, "tables", (int64_t)shard->table_count);
	json_int(out, "rows", rows);
	json_int(out, "sequences", (int64_t)shard->sequence_count);
	json_int(out, "sequences_wrong", shard->sequences_wrong);
	if (keys) {
		json_int(out, "partitions", shard->parts);
		json_int(out, "outside", outside);
	}
}

static enum verify_state overall(const struct verify *verify)
{
	enum verify_state state = verify->shard_count == 0 ? VERIFY_OPEN : VERIFY_EQUAL;

	for (size_t i = 0; i < verify->shard_count; i++)
		state = worse(state, verify_shard_state(verify, &verify->shards[i]));
	return state;
}

void verify_json(const struct verify *verify, struct sbuf *out)
{
	json_str(out, "state", state_names[overall(verify)]);
	json_bool(out, "exact", !verify->later);
	json_msec(out, "ms", verify->ended - verify->began);
	if (verify->failure != NULL)
		json_str(out, "failure", verify->failure);
	json_open(out, "shards", '[');
	for (size_t i = 0; i < verify->shard_count; i++) {
		json_open(out, NULL, '{');
		shard_json(verify, &verify->shards[i], out);
		json_close(out, '}');
	}
	json_close(out, ']');
	json_open(out, "tables", '[');
	for (size_t i = 0; i < verify->table_count; i++) {
		json_open(out, NULL, '{');
		table_json(verify, &verify->tables[i], out);
		json_close(out, '}');
	}
	json_close(out, ']');
}

static void show_table(struct verify *verify, const struct verify_table *table)
{
	struct ui *ui = verify->move->ui;

	if (table->state == VERIFY_PARTLY)
		ui_line(ui,
		        "  %s: %" PRId64 " rows of the source; %" PRId64
		        " were changed or deleted on the target since, all others are the same; "
		        "%" PRId64 " rows there were written since",
		        table->name, table->rows[SOURCE], table->changed, table->fresh);
	else if (table->state != VERIFY_EQUAL && table->state != VERIFY_OPEN)
		ui_error(ui,
		         "verify: %s: table %s %s: rows %" PRId64 " on %s, %" PRId64 " on %s%s%s",
		         table->shard->label, table->name, state_names[table->state],
		         table->rows[SOURCE], table->shard->keeper[SOURCE].name,
		         table->rows[TARGET], table->shard->keeper[TARGET].name,
		         table->note == NULL ? "" : "; ", table->note == NULL ? "" : table->note);
	for (int part = 0; table->outside > 0 && part < table->shard->parts; part++) {
		if (table->spread[part] > 0 && !table->shard->mine[part])
			ui_error(ui,
			         "verify: %s: table %s has %" PRId64
			         " rows of partition %d, which is not in this shard",
			         table->shard->label, table->name, table->spread[part], part);
	}
}

static void show_shard(struct verify *verify, const struct verify_shard *shard)
{
	struct ui *ui = verify->move->ui;
	int64_t rows = 0;
	size_t keyed = 0;
	size_t left = 0;

	for (size_t i = 0; i < shard->table_count; i++) {
		const struct verify_table *table = &verify->tables[shard->first_table + i];

		rows += table->rows[SOURCE];
		left += table->state == VERIFY_OPEN ? 1 : 0;
		keyed += table->spread != NULL ? 1 : 0;
	}
	ui_line(
	    ui, "comparison of shard %s: %s: %zu tables, %" PRId64 " rows, %zu sequences, %.1f s",
	    shard->label, state_names[verify_shard_state(verify, shard)], shard->table_count, rows,
	    shard->sequence_count, (double)(verify->ended - verify->began) / (double)USEC_PER_SEC);
	if (left > 0)
		ui_error(ui, "verify: %s: %zu tables are not compared", shard->label, left);
	if (keyed > 0)
		ui_line(ui, "  the partition of every row was checked in %zu tables", keyed);
	else if (shard->parts > 0)
		ui_line(ui, "  partitions were not checked: %s",
		        shard->hash_schema == NULL
		            ? "the function of mover.shard_hash is not in the shard"
		            : "mover.shard_keys names no column of its tables");
	for (size_t i = 0; i < shard->table_count; i++)
		show_table(verify, &verify->tables[shard->first_table + i]);
}

enum exit_code verify_show(struct verify *verify)
{
	struct ui *ui = verify->move->ui;
	enum verify_state state = overall(verify);
	struct sbuf event;

	sbuf_init(&event, RESULT_MAX);
	verify_json(verify, &event);
	ui_event(ui, "comparison", sbuf_text(&event));
	sbuf_free(&event);
	for (size_t i = 0; i < verify->shard_count; i++)
		show_shard(verify, &verify->shards[i]);
	if (verify->failure != NULL)
		ui_error(ui, "verify: %s", verify->failure);
	if (verify->stopped)
		ui_error(ui, "verify: interrupted; \"pgshunt verify\" goes on with what can still "
		             "be compared");
	if (state == VERIFY_DIFFERS)
		return EXIT_DIFFERS;
	return state == VERIFY_EQUAL || state == VERIFY_PARTLY ? EXIT_DONE : EXIT_UNVERIFIED;
}
