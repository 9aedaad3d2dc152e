/* SPDX-License-Identifier: PostgreSQL */
/*
 * Whether what a proxy calls by the target's name is the target: its file may give that name to
 * another standby, or to the source itself.  The proxy asks the server who it is, on the way that
 * its clients will take, and hands the answer on (PREPARE SWAP).  All copies of a primary have its
 * system identifier; the moment of their start they do not share.
 */
#include "migrate/identity.h"

#include "migrate/move.h"

#include <inttypes.h>
#include <string.h>

#define ROOM_ENOUGH 5

bool identity_read(struct move *move, struct server_start *out)
{
	struct link *target = &move->target.link;

	*out = (struct server_start){0};
	if (!link_run(&move->loop, target, move->config->mover.connect_timeout,
	              "SELECT (SELECT system_identifier FROM pg_control_system()) AS system,"
	              " (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint"
	              " AS started"))
		return false;
	out->system = link_number(target, 0, "system", 0);
	out->started = link_number(target, 0, "started", 0);
	return true;
}

bool identity_same(const struct move *move, const struct route *route,
                   const struct server_start *target, struct sbuf *why)
{
	const struct link *link = &route->link;
	const char *name = move->target.conf->name;
	const char *system = link_value(link, 0, "system_identifier");

	if (system == NULL || link_value(link, 0, "server_started") == NULL) {
		sbuf_printf(why,
		            "%s, database %s: it could not ask its server %s which one it is; see "
		            "its log, and check_user of %s in its file",
		            route->proxy->label, route->database, name, name);
		return false;
	}
	if (link_number(link, 0, "system_identifier", 0) == target->system &&
	    link_number(link, 0, "server_started", 0) == target->started)
		return true;
	sbuf_printf(why,
	            "%s, database %s: what it calls %s is another server than %s:%d here: correct "
	            "servers.%s in its file, and RELOAD it",
	            route->proxy->label, route->database, name, move->target.conf->host,
	            move->target.conf->port, name);
	return false;
}

/* A proxy that cannot ask the target may have found it full, as with many shards. */
static void say_room(struct move *move)
{
	struct link *target = &move->target.link;

	if (link_run(&move->loop, target, move->config->mover.connect_timeout,
	             "SELECT current_setting('max_connections')::int -"
	             " current_setting('superuser_reserved_connections')::int - count(*) AS room"
	             " FROM pg_stat_activity WHERE backend_type = 'client backend'") &&
	    link_number(target, 0, "room", ROOM_ENOUGH) < ROOM_ENOUGH)
		ui_error(
		    move->ui,
		    "prepare: %s has no room for more sessions: while a swap is prepared every "
		    "proxy has one there, besides as many as its pools have; raise "
		    "max_connections, or move fewer shards at once",
		    target->name);
}

bool identity_prove(struct move *move)
{
	struct server_start target;
	struct sbuf why;
	bool ok = true;

	if (!identity_read(move, &target))
		return move_fail(move, "%s: %s", move->target.link.name,
		                 link_error(&move->target.link));
	for (size_t i = 0; i < move->route_count; i++) {
		sbuf_init(&why, 4096);
		if (!identity_same(move, &move->routes[i], &target, &why))
			ok = move_fail(move, "%s", sbuf_text(&why));
		sbuf_free(&why);
	}
	if (!ok)
		say_room(move);
	return ok;
}
