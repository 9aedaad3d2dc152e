/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/unlogged.h"

#include "base/mem.h"
#include "migrate/move.h"

#include <stdlib.h>

#define ASK_TIMEOUT (2 * USEC_PER_SEC)
#define ERROR_MAX 4096

const char unlogged_sql[] =
    "SELECT count(*) AS found, left(string_agg(oid::regclass::text, ', '), 200) AS names"
    " FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r','m','S')";

static struct link **all_links(struct move *move)
{
	struct link **links = mem_must_alloc((move->shard_count + 1) * sizeof(struct link *));

	for (size_t i = 0; i < move->shard_count; i++)
		links[i] = &move->shards[i].inside;
	return links;
}

bool unlogged_prepare(struct move *move)
{
	struct link **links = all_links(move);
	struct sbuf error;

	for (size_t i = 0; i < move->shard_count; i++) {
		struct link_target target;

		server_target(move->target.conf, &target);
		target.dbname = move->shards[i].dbname;
		link_init(links[i], move->target.conf->name, &target);
	}
	sbuf_init(&error, ERROR_MAX * (1 + move->shard_count));
	/* Of a hundred shards the target may not take so many sessions. */
	if (!links_connect(&move->loop, links, move->shard_count,
	                   move->config->mover.connect_timeout, &error)) {
		ui_lines(move->ui, &error);
		ui_error(move->ui, "prepare: unlogged tables that were made there since the checks "
		                   "would not be noticed");
	}
	sbuf_free(&error);
	for (size_t i = 0; i < move->shard_count; i++) {
		if (links[i]->state != LINK_IDLE)
			link_close(links[i]);
	}
	free(links);
	unlogged_send(move);
	return unlogged_none(move);
}

void unlogged_send(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (move->shards[i].inside.state != LINK_CLOSED)
			link_send(&move->shards[i].inside, unlogged_sql);
	}
}

bool unlogged_none(struct move *move)
{
	struct link **links = all_links(move);
	bool ok = loop_wait(&move->loop, links, move->shard_count, clock_now() + ASK_TIMEOUT,
	                    true) != WAIT_STOPPED ||
	          move_fail(move, "interrupted");

	for (size_t i = 0; ok && i < move->shard_count; i++) {
		if (links[i]->state == LINK_CLOSED)
			continue;
		if (!link_ok(links[i]))
			ok = move_fail(move, "%s, database %s: %s", links[i]->name,
			               move->shards[i].dbname, link_error(links[i]));
		else if (link_number(links[i], 0, "found", 1) > 0)
			ok = move_fail(
			    move,
			    "database %s has unlogged tables since the checks, which would "
			    "be empty on %s: %s",
			    move->shards[i].dbname, links[i]->name,
			    link_value(links[i], 0, "names"));
	}
	free(links);
	return ok;
}

void unlogged_end(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++)
		link_close(&move->shards[i].inside);
}
