/* SPDX-License-Identifier: PostgreSQL */
/*
 * What there is to compare in a shard, from the catalog of the frozen source: tables, materialized
 * views, large objects, the catalog itself, sequences; and which PL/Proxy partitions are its own.
 */
#include "base/mem.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (60 * USEC_PER_SEC)
#define LIST_SQL_MAX ((size_t)1024 * 1024)
#define SOURCE_SESSION (&shard->keeper[SOURCE])

/* The catalog without what autovacuum changes and without what is changed in place; and without
 * temporary objects, which sessions drop when they end, on each server in their own time. */
#define TEMP_SCHEMAS " FROM pg_namespace n WHERE n.nspname ~ '^pg_(toast_)?temp_')"
static const char tables_sql[] =
    "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,"
    " n.nspname AS nsp, c.relname AS rel, pg_relation_filenode(c.oid) AS node,"
    " pg_relation_size(c.oid) / current_setting('block_size')::int AS blocks,"
    " coalesce((SELECT string_agg('t.' || quote_ident(a.attname) || CASE a.atttypid"
    "  WHEN 'anyarray'::regtype THEN '::text' ELSE '' END, ',' ORDER BY a.attnum)"
    "  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    "  AND (c.relname <> 'pg_class' OR n.nspname <> 'pg_catalog' OR a.attname IN ('oid',"
    "  'relname','relnamespace','reltype','relowner','relam','relfilenode','reltoastrelid',"
    "  'relkind','relpersistence','relnatts','relchecks','relrowsecurity','reloptions'))), '')"
    "  AS columns,"
    " coalesce((SELECT format(CASE WHEN k.of_schema THEN $$t.%I NOT IN (SELECT n.oid" TEMP_SCHEMAS
    "$$ ELSE $$t.%I NOT IN (SELECT c.oid FROM pg_class c WHERE c.relnamespace IN (SELECT "
    "n.oid" TEMP_SCHEMAS ")$$ END, k.col)"
    "  FROM (VALUES ('pg_namespace', 'oid', true), ('pg_class', 'relnamespace', true),"
    "  ('pg_type', 'typnamespace', true), ('pg_proc', 'pronamespace', true),"
    "  ('pg_constraint', 'connamespace', true), ('pg_attribute', 'attrelid', false),"
    "  ('pg_attrdef', 'adrelid', false), ('pg_index', 'indrelid', false),"
    "  ('pg_trigger', 'tgrelid', false), ('pg_rewrite', 'ev_class', false),"
    "  ('pg_sequence', 'seqrelid', false), ('pg_inherits', 'inhrelid', false),"
    "  ('pg_policy', 'polrelid', false)) k (rel, col, of_schema)"
    "  WHERE n.nspname = 'pg_catalog' AND k.rel = c.relname), '') AS filter"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r','m') AND c.relpersistence = 'p' AND NOT c.relisshared"
    " AND ((n.nspname NOT IN ('pg_catalog','information_schema')"
    "  AND n.nspname !~ '^pg_(toast|temp)')"
    " OR (n.nspname = 'pg_catalog' AND c.relname IN ('pg_largeobject',"
    "  'pg_largeobject_metadata','pg_class','pg_namespace','pg_attribute','pg_attrdef',"
    "  'pg_constraint','pg_index','pg_proc','pg_trigger','pg_type','pg_enum','pg_rewrite',"
    "  'pg_extension','pg_sequence','pg_inherits','pg_policy','pg_foreign_server')))"
    " ORDER BY 6 DESC, 2";

const char verify_sequences_sql[] =
    "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,"
    " pg_sequence_last_value(c.oid) AS last FROM pg_class c JOIN pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence = 'p'";

/* ---- PL/Proxy partitions ---- */

static void take_number(struct verify *verify, const struct partition *partition, int parts)
{
	for (size_t i = 0; i < verify->shard_count; i++) {
		struct verify_shard *shard = &verify->shards[i];

		if (strcmp(shard->dbname, partition->shard->dbname) != 0)
			continue;
		if (shard->mine == NULL)
			shard->mine = mem_must_alloc((size_t)parts * sizeof(bool));
		shard->parts = parts;
		if (partition->number < parts)
			shard->mine[partition->number] = true;
	}
}

/* How many partitions the cluster has; 0 if it cannot be asked. */
static int count_partitions(struct verify *verify, struct plproxy *cluster)
{
	struct link *link = &cluster->link;
	struct sbuf sql;
	int64_t count = 0;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SELECT count(*) AS parts FROM pg_foreign_server,"
	                   " LATERAL pg_options_to_table(srvoptions) WHERE option_name ~"
	                   " '^(p|partition_)[0-9]+$' AND srvname = ");
	sql_literal(&sql, cluster->conf->cluster);
	if (link_revive(verify->move, link) &&
	    link_run(&verify->move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
		count = link_number(link, 0, "parts", 0);
	sbuf_free(&sql);
	/* The number of a key's partition is the low bits of its hash. */
	return count > 0 && count < 1 << 20 && (count & (count - 1)) == 0 ? (int)count : 0;
}

void verify_partitions(struct verify *verify)
{
	struct move *move = verify->move;

	for (size_t i = 0; i < move->cluster_count; i++) {
		int parts = count_partitions(verify, &move->clusters[i]);

		for (size_t j = 0; parts > 0 && j < move->partition_count; j++) {
			if (move->partitions[j].cluster == &move->clusters[i])
				take_number(verify, &move->partitions[j], parts);
		}
	}
}

/* The schema of the function in mover.shard_hash, and makes it visible. */
static void find_hash(struct verify *verify, struct verify_shard *shard)
{
	const char *expression = verify->move->config->mover.shard_hash;
	char *name = mem_must_strndup(expression, strcspn(expression, "( "));
	struct link *link = SOURCE_SESSION;
	struct sbuf sql;

	sbuf_init(&sql, LIST_SQL_MAX);
	sbuf_add_str(&sql, "SELECT nspname FROM pg_proc p JOIN pg_namespace n ON n.oid ="
	                   " p.pronamespace WHERE proname = ");
	sql_literal(&sql, name);
	sbuf_add_str(&sql, " ORDER BY nspname = 'pg_catalog' DESC, nspname LIMIT 1");
	if (link_run(&verify->move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)) &&
	    link_value(link, 0, "nspname") != NULL)
		shard->hash_schema = mem_must_strdup(link_value(link, 0, "nspname"));
	sbuf_free(&sql);
	free(name);
}

/* ---- keys ---- */

static const char *const known_keys[] = {
#define SHARD_KEY(table, column) table "." column,
#include "migrate/shard_keys.def"
};

static bool is_key(const char *key, const char *table, const char *column)
{
	const char *dot = strrchr(key, '.');

	return dot != NULL && strlen(table) == (size_t)(dot - key) &&
	       strncmp(key, table, strlen(table)) == 0 && strcmp(dot + 1, column) == 0;
}

/* The key column of a table: what the configuration says counts before what is known. */
static bool find_key(const struct verify *verify, const char *table, const char *column)
{
	const struct config_list *list = &verify->move->config->mover.shard_keys;
	bool listed = false;

	for (size_t i = 0; i < list->count; i++) {
		const char *dot = strrchr(list->items[i], '.');

		if (is_key(list->items[i], table, column))
			return true;
		listed =
		    listed || (dot != NULL && strlen(table) == (size_t)(dot - list->items[i]) &&
		               strncmp(list->items[i], table, strlen(table)) == 0);
	}
	for (size_t i = 0; !listed && i < ARRAY_LEN(known_keys); i++) {
		if (is_key(known_keys[i], table, column))
			return true;
	}
	return false;
}

/* The expression of mover.shard_hash for a column; a uuid counts by its 16 bytes. */
static char *key_expression(const struct verify *verify, const struct verify_shard *shard,
                            const char *column, bool uuid)
{
	const char *expression = verify->move->config->mover.shard_hash;
	const char *place = strstr(expression, "{key}");
	struct sbuf out;
	char *text;

	if (place == NULL)
		return NULL;
	sbuf_init(&out, 8192);
	sbuf_add_char(&out, '(');
	sbuf_add(&out, expression, (size_t)(place - expression));
	sbuf_add_str(&out, uuid ? "uuid_send(t." : "t.");
	sql_identifier(&out, column);
	sbuf_printf(&out, "%s%s) & %d", uuid ? ")" : "", place + 5, shard->parts - 1);
	text = mem_must_strdup(sbuf_text(&out));
	sbuf_free(&out);
	return text;
}

static void find_keys(struct verify *verify, struct verify_shard *shard)
{
	struct link *link = SOURCE_SESSION;

	if (shard->parts == 0)
		return;
	find_hash(verify, shard);
	if (shard->hash_schema == NULL ||
	    !link_run(
	        &verify->move->loop, link, ASK_TIMEOUT,
	        "SELECT attrelid AS oid, relname, attname, atttypid = 'uuid'::regtype AS uuid"
	        " FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE attnum > 0 AND"
	        " NOT attisdropped AND relkind = 'r' AND relnamespace <>"
	        " 'pg_catalog'::regnamespace"))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		const char *column = link_value(link, row, "attname");
		int64_t oid = link_number(link, row, "oid", 0);

		if (!find_key(verify, link_value(link, row, "relname"), column))
			continue;
		for (size_t i = 0; i < shard->table_count; i++) {
			struct verify_table *table = &verify->tables[shard->first_table + i];

			if (table->oid != oid || table->key != NULL)
				continue;
			table->key =
			    key_expression(verify, shard, column, link_true(link, row, "uuid"));
			table->spread =
			    mem_must_alloc((size_t)shard->parts * sizeof(*table->spread));
		}
	}
}

/* ---- tables ---- */

bool verify_list(struct verify *verify, struct verify_shard *shard)
{
	struct link *link = SOURCE_SESSION;

	if (!link_run(&verify->move->loop, link, ASK_TIMEOUT, tables_sql)) {
		if (verify->failure == NULL)
			verify->failure = mem_must_printf("%s: %s", link->name, link_error(link));
		return false;
	}
	shard->first_table = verify->table_count;
	for (int row = 0; row < link_rows(link); row++) {
		bool catalog = strcmp(link_value(link, row, "nsp"), "pg_catalog") == 0;
		struct verify_table *table;

		/* Later the catalog has a right to be another. */
		if (catalog && verify->later &&
		    strncmp(link_value(link, row, "rel"), "pg_largeobject", 14) != 0)
			continue;
		verify->tables =
		    mem_must_grow(verify->tables, verify->table_count + 1, sizeof(*verify->tables));
		table = &verify->tables[verify->table_count++];
		*table = (struct verify_table){
		    .shard = shard,
		    .name = mem_must_strdup(link_value(link, row, "name")),
		    .columns = mem_must_strdup(link_value(link, row, "columns")),
		    .filter = mem_must_strdup(link_value(link, row, "filter")),
		    .oid = (unsigned)link_number(link, row, "oid", 0),
		    .node = link_number(link, row, "node", 0),
		    .blocks = link_number(link, row, "blocks", 0)};
		verify->blocks += table->blocks;
		shard->table_count++;
	}
	find_keys(verify, shard);
	return true;
}

/* ---- sequences ---- */

void verify_keep_sequences(struct verify_shard *shard, const PGresult *result)
{
	int rows = PQresultStatus(result) == PGRES_TUPLES_OK ? PQntuples(result) : 0;

	shard->sequences = mem_must_alloc(((size_t)rows + 1) * sizeof(*shard->sequences));
	shard->sequences_read = PQresultStatus(result) == PGRES_TUPLES_OK;
	for (int row = 0; row < rows; row++) {
		struct verify_sequence *sequence = &shard->sequences[shard->sequence_count++];

		sequence->oid = (unsigned)strtoul(PQgetvalue(result, row, 0), NULL, 10);
		sequence->name = mem_must_strdup(PQgetvalue(result, row, 1));
		sequence->target_called = PQgetisnull(result, row, 2) == 0;
		sequence->target = strtoll(PQgetvalue(result, row, 2), NULL, 10);
	}
}

/*
 * A server writes ahead in the WAL what a sequence may give out next (log_cnt values), and a copy
 * goes on from there: the target is at the source's value or up to log_cnt steps further.  Later it
 * may be anywhere behind it.
 */
static bool sequence_is_right(const struct verify *verify, const struct verify_sequence *sequence,
                              const struct link *link)
{
	int64_t last = link_number(link, 0, "last_value", 0);
	int64_t step = link_number(link, 0, "seqincrement", 1);
	int64_t ahead = link_number(link, 0, "log_cnt", 0);
	int64_t least = last;
	int64_t most = last;

	if (!link_true(link, 0, "is_called"))
		return verify->later || !sequence->target_called;
	if (!sequence->target_called)
		return false;
	if (link_true(link, 0, "seqcycle"))
		return true; /* it may have begun anew */
	if (step > 0 && (verify->later || __builtin_add_overflow(last, ahead * step, &most)))
		most = INT64_MAX;
	if (step < 0 && (verify->later || __builtin_add_overflow(last, ahead * step, &least)))
		least = INT64_MIN;
	return sequence->target >= least && sequence->target <= most;
}

static void compare_sequence(struct verify *verify, struct verify_shard *shard,
                             const struct verify_sequence *sequence)
{
	struct link *link = SOURCE_SESSION;
	struct sbuf sql;

	sbuf_init(&sql, LIST_SQL_MAX);
	sbuf_printf(&sql,
	            "SELECT last_value, log_cnt, is_called, seqincrement, seqcycle FROM %s,"
	            " pg_sequence WHERE seqrelid = %u",
	            sequence->name, sequence->oid);
	if (!link_run(&verify->move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)) ||
	    link_rows(link) == 0) {
		/* Inside the keeper's transaction an error would end the snapshot: it is over. */
		shard->sequences_wrong++;
		ui_error(verify->move->ui, "verify: %s: sequence %s of %s: %s", shard->label,
		         sequence->name, link->name,
		         link_ok(link) ? "it is not there" : link_error(link));
	} else if (!sequence_is_right(verify, sequence, link)) {
		shard->sequences_wrong++;
		ui_error(verify->move->ui, "verify: %s: sequence %s: %s is at %s, %s at %" PRId64,
		         shard->label, sequence->name, link->name,
		         link_value(link, 0, "last_value"), shard->keeper[TARGET].name,
		         sequence->target);
	}
	sbuf_free(&sql);
}

void verify_sequences(struct verify *verify, struct verify_shard *shard)
{
	struct link *link = SOURCE_SESSION;

	if (!shard->sequences_read)
		return;
	/* One that the target lacks. */
	if (link_run(&verify->move->loop, link, ASK_TIMEOUT, verify_sequences_sql)) {
		for (int row = 0; row < link_rows(link); row++) {
			bool found = false;

			for (size_t i = 0; i < shard->sequence_count; i++)
				found = found ||
				        shard->sequences[i].oid == link_number(link, row, "oid", 0);
			if (found)
				continue;
			shard->sequences_wrong++;
			ui_error(verify->move->ui, "verify: %s: %s has no sequence %s",
			         shard->label, shard->keeper[TARGET].name,
			         link_value(link, row, "name"));
		}
	}
	for (size_t i = 0; i < shard->sequence_count; i++)
		compare_sequence(verify, shard, &shard->sequences[i]);
	shard->sequences_done = true;
}
