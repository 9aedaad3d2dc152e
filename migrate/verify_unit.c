/* SPDX-License-Identifier: PostgreSQL */
/*
 * The comparison of one range of blocks of one table, on both servers at once: first the sums;
 * where they differ, the rows by their places.  Every unit is a short transaction that imports the
 * keeper's snapshot, so that no lock on a table of the live target lasts longer than its unit.
 */
#include "base/mem.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_SQL_MAX ((size_t)1024 * 1024)
/* 16 MB: long enough to be worth its transaction, short enough for a lock and for the throttle. */
#define UNIT_BLOCKS 2048
#define BLOCK_BYTES 8192
/* Scanning a range of places came with version 14; before it, every range reads the whole table. */
#define TID_RANGE_VERSION 140000
#define ROWS_NAMED 3
/* Transactions that may begin between asking for the number and the snapshot. */
#define XID_MARGIN 1000000

/* ---- SQL ---- */

static void add_range(const struct verify_worker *worker, struct sbuf *sql)
{
	sbuf_printf(sql, " WHERE t.ctid >= '(%" PRId64 ",0)'", worker->from);
	if (worker->to >= 0)
		sbuf_printf(sql, " AND t.ctid < '(%" PRId64 ",0)'", worker->to);
	if (*worker->table->filter != '\0')
		sbuf_printf(sql, " AND %s", worker->table->filter);
}

/* Whether a row was written after the target got transaction numbers of its own.  Numbers wrap
 * around: they are compared by their distance. */
static void add_fresh(const struct verify *verify, enum side side, struct sbuf *sql)
{
	if (!verify->later || side == SOURCE)
		sbuf_add_str(sql, "false");
	else
		sbuf_printf(sql,
		            "(t.xmin::text::bigint - %" PRIu64 " + 4294967296) %% 4294967296 < "
		            "%" PRIu64,
		            verify->boundary & UINT32_MAX,
		            verify->now_xid - verify->boundary + XID_MARGIN);
}

/* One row for each place, with two hashes of its text. */
static void add_rows(const struct verify *verify, const struct verify_worker *worker,
                     enum side side, struct sbuf *sql)
{
	const struct verify_table *table = worker->table;

	sbuf_printf(sql,
	            "(SELECT place, shard, fresh, hashtextextended(r, 0) AS h,"
	            " hashtextextended(r, 1) AS i FROM (SELECT t.ctid AS place,"
	            " ROW(%s)::text AS r, %s AS shard, ",
	            table->columns, table->key == NULL ? "NULL::int" : table->key);
	add_fresh(verify, side, sql);
	sbuf_printf(sql, " AS fresh FROM ONLY %s AS t", table->name);
	add_range(worker, sql);
	sbuf_add_str(sql, " OFFSET 0) AS q) AS q");
}

/*
 * The relfilenode tells whether the table was rewritten or emptied after the snapshot, which the
 * snapshot does not show.
 */
static void unit_sql(const struct verify *verify, const struct verify_worker *worker,
                     enum side side, struct sbuf *sql)
{
	if (worker->aborted[side])
		sbuf_add_str(sql, "ROLLBACK;");
	sbuf_add_str(sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
	                  "SET TRANSACTION SNAPSHOT ");
	sql_literal(sql, worker->shard->snapshot[side]);
	sbuf_add_str(sql, "; SET LOCAL search_path = pg_catalog");
	if (worker->table->key != NULL && worker->shard->hash_schema != NULL) {
		sbuf_add_char(sql, ',');
		sql_identifier(sql, worker->shard->hash_schema);
	}
	if (worker->stage == WORKER_SUMS) {
		sbuf_printf(sql,
		            ";SELECT n.node, q.* FROM (SELECT pg_relation_filenode(%u) AS node) n"
		            " LEFT JOIN (SELECT shard, count(*) FILTER (WHERE NOT fresh) AS rows,"
		            " sum(h) FILTER (WHERE NOT fresh) AS a,"
		            " sum(i) FILTER (WHERE NOT fresh) AS b,"
		            " count(*) FILTER (WHERE fresh) AS fresh FROM ",
		            worker->table->oid);
		add_rows(verify, worker, side, sql);
		sbuf_add_str(sql, " GROUP BY shard) AS q ON true ORDER BY shard;COMMIT");
	} else {
		sbuf_add_str(sql, ";SELECT place, h, i FROM ");
		add_rows(verify, worker, side, sql);
		sbuf_add_str(sql, " WHERE NOT fresh ORDER BY place;COMMIT");
	}
}

static void send_unit(struct verify *verify, struct verify_worker *worker, enum worker_stage stage)
{
	worker->stage = stage;
	for (enum side side = SOURCE; side < SIDES; side++) {
		struct sbuf sql;

		sbuf_init(&sql, UNIT_SQL_MAX);
		unit_sql(verify, worker, side, &sql);
		link_send(&worker->links[side], sbuf_text(&sql));
		sbuf_free(&sql);
	}
}

void verify_start_unit(struct verify *verify, struct verify_worker *worker)
{
	struct verify_table *table = worker->table;
	bool ranges = PQserverVersion(worker->links[SOURCE].conn) >= TID_RANGE_VERSION;

	worker->from = table->next;
	worker->to = table->next + UNIT_BLOCKS;
	/* The last one is open: what lies behind the source's end is not in the snapshot. */
	if (!ranges || worker->to >= table->blocks)
		worker->to = -1;
	table->next = worker->to;
	table->running++;
	send_unit(verify, worker, WORKER_SUMS);
}

/* ---- findings ---- */

static void set_note(struct verify_table *table, enum verify_state state, char *note)
{
	if (table->note == NULL)
		table->note = note;
	else
		free(note);
	if (table->state < state)
		table->state = state;
}

static hash_sum parse_sum(const char *text)
{
	bool negative = text != NULL && *text == '-';
	hash_sum sum = 0;

	for (const char *p = text == NULL ? "" : text + (negative ? 1 : 0); *p != '\0'; p++)
		sum = sum * 10 + (hash_sum)(*p - '0');
	return negative ? -sum : sum;
}

static void add_spread(struct verify_table *table, const struct link *link, int row, int64_t rows)
{
	int64_t part = link_number(link, row, "shard", -1);

	if (table->spread == NULL || rows == 0)
		return;
	if (part >= 0 && part < table->shard->parts)
		table->spread[part] += rows;
	if (part < 0 || part >= table->shard->parts || !table->shard->mine[part])
		table->outside += rows;
}

static void add_sums(struct verify_worker *worker, enum side side)
{
	const struct link *link = &worker->links[side];
	struct verify_table *table = worker->table;

	for (int row = 0; row < link_rows(link); row++) {
		int64_t rows = link_number(link, row, "rows", 0);

		table->rows[side] += rows;
		table->sums[side][0] += parse_sum(link_value(link, row, "a"));
		table->sums[side][1] += parse_sum(link_value(link, row, "b"));
		table->fresh += link_number(link, row, "fresh", 0);
		if (side == SOURCE)
			add_spread(table, link, row, rows);
	}
}

static bool same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Row by row: partition, number of rows, both sums.  Groups of new rows alone do not count. */
static bool same_sums(const struct verify_worker *worker)
{
	static const char *const columns[] = {"shard", "rows", "a", "b"};
	const struct link *source = &worker->links[SOURCE];
	const struct link *target = &worker->links[TARGET];
	int here = 0;
	int there = 0;

	for (;;) {
		while (here < link_rows(source) && link_number(source, here, "rows", 0) == 0)
			here++;
		while (there < link_rows(target) && link_number(target, there, "rows", 0) == 0)
			there++;
		if (here >= link_rows(source) || there >= link_rows(target))
			return here >= link_rows(source) && there >= link_rows(target);
		for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
			if (!same_text(link_value(source, here, columns[i]),
			               link_value(target, there, columns[i])))
				return false;
		}
		here++;
		there++;
	}
}

/* "(12,3)" as a number that sorts like the place. */
static int64_t place_of(const struct link *link, int row)
{
	const char *text = row < link_rows(link) ? link_value(link, row, "place") : NULL;
	char *end;
	int64_t block;

	if (text == NULL)
		return INT64_MAX;
	block = strtoll(text + 1, &end, 10);
	return block * 65536 + strtoll(end + 1, NULL, 10);
}

static void name_row(struct verify_worker *worker, struct sbuf *named, int64_t place,
                     const char *what)
{
	if (worker->table->source_only + worker->table->target_only <= ROWS_NAMED)
		sbuf_printf(named, "%s%s at (%" PRId64 ",%" PRId64 ")", named->len > 0 ? ", " : "",
		            what, place / 65536, place % 65536);
}

/*
 * Both in the order of their places.  Later, a row that is only on the source was changed or
 * deleted since the move; one that is only on the target, and older than the move, must not be.
 */
static void compare_rows(struct verify *verify, struct verify_worker *worker)
{
	const struct link *source = &worker->links[SOURCE];
	const struct link *target = &worker->links[TARGET];
	struct verify_table *table = worker->table;
	struct sbuf named;
	int here = 0;
	int there = 0;

	sbuf_init(&named, 4096);
	while (here < link_rows(source) || there < link_rows(target)) {
		int64_t a = place_of(source, here);
		int64_t b = place_of(target, there);
		bool same =
		    a == b &&
		    same_text(link_value(source, here, "h"), link_value(target, there, "h")) &&
		    same_text(link_value(source, here, "i"), link_value(target, there, "i"));

		if (!same && a <= b && (!verify->later || a == b)) {
			table->source_only++;
			name_row(worker, &named, a, source->name);
		} else if (!same && a < b) {
			table->changed++;
		}
		if (!same && b <= a) {
			table->target_only++;
			name_row(worker, &named, b, target->name);
		}
		here += a <= b ? 1 : 0;
		there += b <= a ? 1 : 0;
	}
	if (named.len == 0 && !verify->later)
		sbuf_add_str(&named, "only their partitions");
	if (named.len > 0)
		set_note(table, VERIFY_DIFFERS,
		         mem_must_printf("rows that differ: %s", sbuf_text(&named)));
	sbuf_free(&named);
}

/* ---- answers ---- */

static void end_table(struct verify *verify, struct verify_table *table)
{
	if (table->running > 0 || (table->next >= 0 && table->state == VERIFY_OPEN))
		return;
	if (table->state == VERIFY_OPEN)
		table->state = verify->later && table->changed > 0 ? VERIFY_PARTLY : VERIFY_EQUAL;
	verify_save_table(verify, table);
}

static void end_unit(struct verify *verify, struct verify_worker *worker)
{
	const struct config_mover *conf = &verify->move->config->mover;
	struct verify_table *table = worker->table;
	int64_t end = worker->to < 0 ? table->blocks : worker->to;
	int64_t blocks = end > worker->from ? end - worker->from : 0;

	table->running--;
	verify->blocks_done += blocks;
	worker->stage = WORKER_IDLE;
	if (conf->verify_rate > 0)
		worker->next_at =
		    worker->links[SOURCE].sent_at +
		    (usec_t)((double)blocks * BLOCK_BYTES * (double)conf->verify_jobs /
		             (double)conf->verify_rate * (double)USEC_PER_SEC);
	end_table(verify, table);
}

/* A side could not answer: it is said why, and the rest of the table left out. */
static bool answered(struct verify *verify, struct verify_worker *worker)
{
	struct verify_table *table = worker->table;
	bool ok = true;

	for (enum side side = SOURCE; side < SIDES; side++) {
		struct link *link = &worker->links[side];

		worker->aborted[side] = link->error != NULL;
		if (link_ok(link))
			continue;
		ok = false;
		set_note(table, VERIFY_FAILED,
		         mem_must_printf("%s: %s", link->name, link_error(link)));
	}
	if (!ok) {
		table->next = -1;
		end_unit(verify, worker);
		/* On the source nobody can connect again. */
		if (worker->links[SOURCE].state != LINK_IDLE ||
		    !verify_revive(verify, &worker->links[TARGET]))
			worker->stage = WORKER_DEAD;
	}
	return ok;
}

void verify_finish_unit(struct verify *verify, struct verify_worker *worker)
{
	struct verify_table *table = worker->table;

	if (!answered(verify, worker))
		return;
	if (worker->stage == WORKER_ROWS) {
		compare_rows(verify, worker);
		end_unit(verify, worker);
		return;
	}
	if (link_number(&worker->links[TARGET], 0, "node", -1) != table->node) {
		set_note(table, VERIFY_FAILED,
		         mem_must_strdup("it was rewritten or emptied on the target since"));
		table->next = -1;
		end_unit(verify, worker);
		return;
	}
	for (enum side side = SOURCE; side < SIDES; side++)
		add_sums(worker, side);
	if (same_sums(worker))
		end_unit(verify, worker);
	else
		send_unit(verify, worker, WORKER_ROWS);
}
