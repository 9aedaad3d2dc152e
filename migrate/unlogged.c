/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/unlogged.h"

#include "base/mem.h"
#include "migrate/leftover.h"
#include "migrate/move.h"

#include <stdlib.h>

#define ASK_TIMEOUT (2 * USEC_PER_SEC)
#define ERROR_MAX 4096

const char unlogged_sql[] =
    "SELECT count(*) FILTER (WHERE relpersistence = 'u') AS found,"
    " left(string_agg(oid::regclass::text, ', ') FILTER (WHERE relpersistence = 'u'), 200) AS "
    "names,"
    " string_agg(oid::text, ',') FILTER (WHERE relpersistence = 't') AS temporary"
    " FROM pg_class WHERE relpersistence IN ('u','t') AND relkind IN ('r','m','S')";

static struct link **all_links(struct move *move)
{
	struct link **links = mem_must_alloc((move->shard_count + 1) * sizeof(struct link *));

	for (size_t i = 0; i < move->shard_count; i++)
		links[i] = &move->shards[i].inside;
	return links;
}

/* In how many shards there is room on the target for a session of ours: at most half of what is
 * free, which those who come after the release will want. */
static size_t room(struct move *move)
{
	struct link *link = &move->target.link;
	int64_t room;

	if (!link_run(&move->loop, link, ASK_TIMEOUT,
	              "SELECT (current_setting('max_connections')::int -"
	              " current_setting('superuser_reserved_connections')::int - count(*)) / 2 AS"
	              " room FROM pg_stat_activity WHERE backend_type = 'client backend'"))
		return 0;
	room = link_number(link, 0, "room", 0);
	return room <= 0 ? 0 : (size_t)room < move->shard_count ? (size_t)room : move->shard_count;
}

bool unlogged_prepare(struct move *move)
{
	const size_t count = room(move);
	struct link **links = all_links(move);
	struct sbuf error;

	if (count < move->shard_count)
		ui_error(
		    move->ui,
		    "prepare: only %zu of %zu shards are looked at once more in the hold, for %s "
		    "has room for no more sessions (max_connections): in the others, unlogged "
		    "tables that are made from now on would not be noticed",
		    count, move->shard_count, move->target.conf->name);
	for (size_t i = 0; i < move->shard_count; i++) {
		struct link_target target;

		server_target(move->target.conf, &target);
		target.dbname = move->shards[i].dbname;
		link_init(links[i], move->target.conf->name, &target);
	}
	sbuf_init(&error, ERROR_MAX * (1 + move->shard_count));
	if (!links_connect(&move->loop, links, count, move->config->mover.connect_timeout,
	                   &error)) {
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
		else
			leftover_note(&move->shards[i], link_value(links[i], 0, "temporary"));
	}
	free(links);
	return ok;
}

void unlogged_end(struct move *move)
{
	for (size_t i = 0; i < move->shard_count; i++)
		link_close(&move->shards[i].inside);
}
