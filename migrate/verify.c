/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/verify.h"

#include "base/mem.h"
#include "migrate/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (10 * USEC_PER_SEC)
#define VERIFY_SQL_MAX ((size_t)4 * 1024 * 1024)
/* The snapshots were asked for when the promotion was; what has not come by then is given up. */
#define SNAPSHOT_PATIENCE (20 * USEC_PER_MSEC)
#define STATUS_EVERY (100 * USEC_PER_MSEC)

/*
 * Rows are compared as text: everything that changes it is set alike.  No parallel workers: they
 * would log in to a database that refuses logins.
 */
static const char session_sql[] =
    "SET application_name = '" VERIFY_NAME "'; SET default_transaction_read_only = on;"
    "SET TimeZone = 'UTC'; SET extra_float_digits = 3;"
    "SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET DateStyle = 'ISO, YMD';"
    "SET xmlbinary = 'base64'; SET max_parallel_workers_per_gather = 0;"
    "SET synchronize_seqscans = off; SET lc_monetary = 'C'; SET client_encoding = 'UTF8'";

static const char snapshot_sql[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                                   "SELECT pg_export_snapshot() AS snapshot";

static void make_shard(struct verify *verify, struct verify_shard *shard, const struct shard *from)
{
	const struct config_server *servers[SIDES] = {verify->move->source.conf,
	                                              verify->move->target.conf};

	*shard = (struct verify_shard){.dbname = mem_must_strdup(from->dbname),
	                               .label = mem_must_strdup(from->name)};
	for (enum side side = SOURCE; side < SIDES; side++) {
		server_target(servers[side], &shard->to[side]);
		shard->to[side].dbname = shard->dbname;
		link_init(&shard->keeper[side], servers[side]->name, &shard->to[side]);
	}
}

struct verify *verify_create(struct move *move)
{
	struct verify *verify = mem_must_alloc(sizeof(*verify));
	size_t jobs = (size_t)move->config->mover.verify_jobs;

	verify->move = move;
	verify->shard_count = move->shard_count;
	verify->shards = mem_must_alloc((move->shard_count + 1) * sizeof(*verify->shards));
	verify->worker_count = jobs < move->shard_count ? move->shard_count : jobs;
	verify->workers = mem_must_alloc((verify->worker_count + 1) * sizeof(*verify->workers));
	for (size_t i = 0; i < move->shard_count; i++)
		make_shard(verify, &verify->shards[i], &move->shards[i]);
	/* Every shard has a session on its source at least: none can be opened later. */
	for (size_t i = 0; i < verify->worker_count; i++) {
		struct verify_worker *worker = &verify->workers[i];

		worker->shard = &verify->shards[i % move->shard_count];
		for (enum side side = SOURCE; side < SIDES; side++)
			link_init(&worker->links[side], worker->shard->keeper[side].name,
			          &worker->shard->to[side]);
	}
	return verify;
}

static void free_shard(struct verify_shard *shard)
{
	for (enum side side = SOURCE; side < SIDES; side++) {
		link_close(&shard->keeper[side]);
		free(shard->snapshot[side]);
	}
	for (size_t i = 0; i < shard->sequence_count; i++)
		free(shard->sequences[i].name);
	free(shard->sequences);
	free(shard->hash_schema);
	free(shard->mine);
	free(shard->old_limit);
	free(shard->dbname);
	free(shard->label);
}

void verify_free(struct verify *verify)
{
	if (verify == NULL)
		return;
	for (size_t i = 0; i < verify->worker_count; i++) {
		for (enum side side = SOURCE; side < SIDES; side++)
			link_close(&verify->workers[i].links[side]);
	}
	for (size_t i = 0; i < verify->shard_count; i++)
		free_shard(&verify->shards[i]);
	for (size_t i = 0; i < verify->table_count; i++) {
		free(verify->tables[i].name);
		free(verify->tables[i].columns);
		free(verify->tables[i].filter);
		free(verify->tables[i].key);
		free(verify->tables[i].spread);
		free(verify->tables[i].note);
	}
	free(verify->tables);
	free(verify->shards);
	free(verify->workers);
	free(verify->failure);
	journal_records_free(&verify->known);
	free(verify);
}

/* ---- sessions ---- */

/* Connects and sets up all of them at once. */
static bool open_links(struct verify *verify, struct link **links, size_t count)
{
	struct move *move = verify->move;
	struct sbuf error;
	bool ok;

	sbuf_init(&error, 65536);
	ok = links_connect(&move->loop, links, count, move->config->mover.connect_timeout, &error);
	for (size_t i = 0; ok && i < count; i++)
		link_send(links[i], session_sql);
	if (ok)
		ok = loop_wait(&move->loop, links, count, clock_now() + ASK_TIMEOUT, true) ==
		     WAIT_DONE;
	for (size_t i = 0; ok && i < count; i++) {
		ok = link_ok(links[i]);
		if (!ok)
			sbuf_printf(&error, "%s: %s", links[i]->name, link_error(links[i]));
	}
	if (!ok && verify->failure == NULL)
		verify->failure =
		    mem_must_printf("the sessions of the comparison could not be opened: %s",
		                    error.len == 0 ? "interrupted" : sbuf_text(&error));
	sbuf_free(&error);
	return ok;
}

bool verify_revive(struct verify *verify, struct link *link)
{
	if (link->state == LINK_IDLE)
		return true;
	return link_revive(verify->move, link) &&
	       link_run(&verify->move->loop, link, ASK_TIMEOUT, session_sql);
}

static struct link **gather(struct verify *verify, bool keepers, enum side side, size_t *count)
{
	struct link **links = mem_must_alloc((verify->shard_count + verify->worker_count + 1) *
	                                     sizeof(struct link *));

	*count = 0;
	for (size_t i = 0; keepers && i < verify->shard_count; i++)
		links[(*count)++] = &verify->shards[i].keeper[side];
	for (size_t i = 0; (!keepers || side == SOURCE) && i < verify->worker_count; i++)
		links[(*count)++] = &verify->workers[i].links[side];
	return links;
}

/* The first time costs the session milliseconds, which would be those of the hold. */
static bool warm_keepers(struct verify *verify)
{
	bool ok = true;

	for (size_t i = 0; ok && i < verify->shard_count; i++) {
		struct link *link = &verify->shards[i].keeper[TARGET];

		ok = link_run(&verify->move->loop, link, ASK_TIMEOUT, verify_sequences_sql) &&
		     link_run(&verify->move->loop, link, ASK_TIMEOUT, snapshot_sql) &&
		     link_run(&verify->move->loop, link, ASK_TIMEOUT, "ROLLBACK");
		if (!ok)
			verify->failure = mem_must_printf("%s: %s", link->name, link_error(link));
	}
	return ok;
}

bool verify_prepare(struct verify *verify)
{
	bool ok = true;

	for (enum side side = SOURCE; ok && side < SIDES; side++) {
		size_t count;
		struct link **links = gather(verify, true, side, &count);

		ok = open_links(verify, links, count);
		free(links);
	}
	ok = ok && (verify->later || warm_keepers(verify));
	return ok || move_fail(verify->move, "%s", verify->failure);
}

static const struct link *spared_link(const struct verify *verify, enum side side, size_t index)
{
	return index < verify->shard_count
	           ? &verify->shards[index].keeper[side]
	           : &verify->workers[index - verify->shard_count].links[side];
}

size_t verify_spared_count(const struct move *move)
{
	const struct verify *verify = move->verify;
	size_t count = 0;

	for (size_t i = 0; verify != NULL && i < verify->shard_count + verify->worker_count; i++)
		count += spared_link(verify, SOURCE, i)->conn != NULL ? 1 : 0;
	return count;
}

void verify_spared(const struct move *move, enum side side, struct sbuf *out)
{
	const struct verify *verify = move->verify;
	bool first = true;

	sbuf_add_str(out, "'{");
	for (size_t i = 0; verify != NULL && i < verify->shard_count + verify->worker_count; i++) {
		const struct link *link = spared_link(verify, side, i);

		if (link->conn == NULL)
			continue;
		sbuf_printf(out, "%s%d", first ? "" : ",", PQbackendPID(link->conn));
		first = false;
	}
	sbuf_add_str(out, "}'::int[]");
}

/* ---- snapshots ---- */

void verify_send_snapshots(struct move *move)
{
	struct verify *verify = move->verify;

	for (size_t i = 0; verify != NULL && i < verify->shard_count; i++) {
		struct sbuf sql;

		/* The sequences outside of the transaction, which would go on locking them. */
		sbuf_init(&sql, VERIFY_SQL_MAX);
		sbuf_printf(&sql, "%s;COMMIT;%s", verify_sequences_sql, snapshot_sql);
		link_send(&verify->shards[i].keeper[TARGET], sbuf_text(&sql));
		sbuf_free(&sql);
	}
}

static bool take_snapshot(struct verify *verify, struct verify_shard *shard, enum side side)
{
	struct link *link = &shard->keeper[side];
	const char *snapshot = link_ok(link) ? link_value(link, 0, "snapshot") : NULL;

	if (snapshot != NULL) {
		shard->snapshot[side] = mem_must_strdup(snapshot);
		return true;
	}
	if (verify->failure == NULL)
		verify->failure = mem_must_printf("%s gave no snapshot in time: %s", link->name,
		                                  link_error(link));
	return false;
}

void verify_take_snapshots(struct move *move)
{
	struct verify *verify = move->verify;
	struct link **links;

	if (verify == NULL)
		return;
	links = mem_must_alloc((verify->shard_count + 1) * sizeof(struct link *));
	for (size_t i = 0; i < verify->shard_count; i++)
		links[i] = &verify->shards[i].keeper[TARGET];
	(void)!loop_wait(&move->loop, links, verify->shard_count, clock_now() + SNAPSHOT_PATIENCE,
	                 false);
	free(links);
	for (size_t i = 0; i < verify->shard_count; i++) {
		struct verify_shard *shard = &verify->shards[i];

		if (take_snapshot(verify, shard, TARGET))
			verify_keep_sequences(shard, shard->keeper[TARGET].results[0]);
	}
}

static bool snapshot_side(struct verify *verify, enum side side)
{
	bool ok = true;

	for (size_t i = 0; i < verify->shard_count; i++) {
		struct verify_shard *shard = &verify->shards[i];

		if (shard->snapshot[side] != NULL)
			continue;
		(void)!link_run(&verify->move->loop, &shard->keeper[side], ASK_TIMEOUT,
		                snapshot_sql);
		ok = take_snapshot(verify, shard, side) && ok;
	}
	return ok;
}

/* ---- the comparison ---- */

/* The next range of blocks of a table of the worker's shard. */
static struct verify_table *next_table(struct verify *verify, const struct verify_shard *shard)
{
	for (size_t i = 0; i < shard->table_count; i++) {
		struct verify_table *table = &verify->tables[shard->first_table + i];

		if (table->next >= 0 && table->state == VERIFY_OPEN)
			return table;
	}
	return NULL;
}

static bool give_work(struct verify *verify, usec_t now)
{
	bool busy = false;
	size_t running = 0;

	for (size_t i = 0; i < verify->worker_count; i++)
		running +=
		    verify->workers[i].stage > WORKER_IDLE && verify->workers[i].stage < WORKER_DEAD
		        ? 1
		        : 0;
	for (size_t i = 0; i < verify->worker_count; i++) {
		struct verify_worker *worker = &verify->workers[i];

		if (worker->stage == WORKER_IDLE && !verify->stopped &&
		    (worker->table = next_table(verify, worker->shard)) != NULL) {
			busy = true;
			if (worker->next_at <= now &&
			    running < (size_t)verify->move->config->mover.verify_jobs) {
				verify_start_unit(verify, worker);
				running++;
			}
		}
		busy = busy || worker->stage == WORKER_SUMS || worker->stage == WORKER_ROWS;
	}
	return busy;
}

static bool has_answered(const struct verify_worker *worker)
{
	for (enum side side = SOURCE; side < SIDES; side++) {
		if (worker->links[side].state == LINK_BUSY ||
		    worker->links[side].state == LINK_CONNECTING)
			return false;
	}
	return true;
}

static void draw(struct verify *verify, usec_t now)
{
	struct move *move = verify->move;
	double share =
	    verify->blocks == 0 ? 1.0 : (double)verify->blocks_done / (double)verify->blocks;
	double elapsed = (double)(now - verify->began) / (double)USEC_PER_SEC;

	if (now - move->drawn_at < STATUS_EVERY)
		return;
	move->drawn_at = now;
	ui_status(move->ui, "comparing %5.1f %%   %.1f of %.1f MB   %.1f s, about %.0f s left",
	          share * 100.0, (double)verify->blocks_done / 128.0,
	          (double)verify->blocks / 128.0, elapsed,
	          share <= 0.0 ? 0.0 : elapsed / share - elapsed);
}

static void compare(struct verify *verify)
{
	struct move *move = verify->move;
	struct link **links =
	    mem_must_alloc((verify->worker_count * SIDES + 1) * sizeof(struct link *));

	for (;;) {
		usec_t now = clock_now();
		size_t count = 0;

		verify->stopped = verify->stopped || *move->loop.stop != 0;
		if (!give_work(verify, now))
			break;
		for (size_t i = 0; i < verify->worker_count; i++) {
			for (enum side side = SOURCE; side < SIDES; side++)
				links[count++] = &verify->workers[i].links[side];
		}
		loop_step(&move->loop, links, count, now + STATUS_EVERY / 10);
		for (size_t i = 0; i < verify->worker_count; i++) {
			struct verify_worker *worker = &verify->workers[i];

			if ((worker->stage == WORKER_SUMS || worker->stage == WORKER_ROWS) &&
			    has_answered(worker))
				verify_finish_unit(verify, worker);
		}
		draw(verify, clock_now());
	}
	free(links);
	ui_status_clear(move->ui);
}

/* Later they are not read in the hold; before the snapshots, whose transactions would go on locking
 * them. */
static bool read_sequences(struct verify *verify)
{
	bool ok = true;

	for (size_t i = 0; ok && i < verify->shard_count; i++) {
		struct link *link = &verify->shards[i].keeper[TARGET];

		ok = link_run(&verify->move->loop, link, ASK_TIMEOUT, verify_sequences_sql);
		if (ok)
			verify_keep_sequences(&verify->shards[i], link->results[0]);
		else if (verify->failure == NULL)
			verify->failure = mem_must_printf("%s: %s", link->name, link_error(link));
	}
	return ok;
}

static bool begin(struct verify *verify)
{
	size_t count;
	struct link **links;
	bool ok = verify->failure == NULL;

	ok = ok && (!verify->later || read_sequences(verify));
	ok = ok && snapshot_side(verify, SOURCE) && snapshot_side(verify, TARGET);
	links = gather(verify, false, TARGET, &count);
	ok = ok && open_links(verify, links, count);
	free(links);
	verify_partitions(verify);
	for (size_t i = 0; ok && i < verify->shard_count; i++)
		ok = verify_list(verify, &verify->shards[i]);
	return ok;
}

enum exit_code verify_run(struct verify *verify)
{
	struct move *move = verify->move;

	/* Nothing is held any more; what was asked to stop before is over. */
	move->loop.tick = NULL;
	move->loop.background_count = 0;
	*move->loop.stop = 0;
	verify->began = clock_now();
	if (begin(verify)) {
		verify_load(verify);
		for (size_t i = 0; i < verify->shard_count; i++)
			verify_sequences(verify, &verify->shards[i]);
		compare(verify);
	}
	verify->ended = clock_now();
	return verify_show(verify);
}
