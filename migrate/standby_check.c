/* SPDX-License-Identifier: PostgreSQL */
/*
 * What must be so before a standby is made: the source can send, the slot is nobody's, and in the
 * place of the target there is nothing, or an old standby of the same system.
 */
#include "base/mem.h"
#include "migrate/standby.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SCRIPT_MAX ((size_t)64 * 1024)
#define ASK_TIMEOUT (30 * USEC_PER_SEC)

/* ---- the source ---- */

static const char source_sql[] =
    "SELECT pg_is_in_recovery() AS recovery, current_setting('server_version_num')::int AS version,"
    " (SELECT system_identifier FROM pg_control_system()) AS system,"
    " CASE WHEN pg_is_in_recovery() THEN 0 ELSE"
    " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,"
    " current_setting('wal_level') AS wal_level,"
    " (SELECT sum(pg_tablespace_size(oid))::bigint FROM pg_tablespace) AS bytes,"
    " current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)"
    " AS senders, current_setting('max_replication_slots')::int - (SELECT count(*) FROM"
    " pg_replication_slots) AS slots, (SELECT setting FROM pg_config WHERE name = 'BINDIR') AS"
    " bindir, (SELECT string_agg(pg_tablespace_location(oid), ', ') FROM pg_tablespace WHERE"
    " spcname NOT IN ('pg_default', 'pg_global')) AS tablespaces";

static bool judge_source(struct standby *standby)
{
	struct move *move = standby->move;
	const struct link *link = &move->source.link;
	const char *wal_level = link_value(link, 0, "wal_level");

	if (link_true(link, 0, "recovery"))
		return move_fail(move, "%s is a standby itself: a cascade cannot be moved",
		                 link->name);
	if (wal_level == NULL || strcmp(wal_level, "minimal") == 0)
		return move_fail(move, "wal_level is minimal on %s: set it to replica and restart",
		                 link->name);
	/* One for the copy, one for its WAL. */
	if (link_number(link, 0, "senders", 0) < 2)
		return move_fail(move, "max_wal_senders of %s leaves less than two free",
		                 link->name);
	standby->free_slots = link_number(link, 0, "slots", 0);
	return true;
}

bool standby_ask_source(struct standby *standby)
{
	struct move *move = standby->move;
	struct link *link = &move->source.link;

	if (!link_run(&move->loop, link, ASK_TIMEOUT, source_sql))
		return move_fail(move, "%s: %s", link->name, link_error(link));
	standby->system = mem_must_strdup(link_value(link, 0, "system"));
	standby->timeline = link_number(link, 0, "timeline", 0);
	standby->version = link_number(link, 0, "version", 0);
	standby->bytes = link_number(link, 0, "bytes", 0);
	standby->bin = mem_must_strdup(*move->target.conf->bin_directory != '\0'
	                                   ? move->target.conf->bin_directory
	                                   : link_value(link, 0, "bindir"));
	if (link_value(link, 0, "tablespaces") != NULL)
		ui_line(move->ui, "  tablespaces are copied to the same paths: %s",
		        link_value(link, 0, "tablespaces"));
	return judge_source(standby);
}

/* Nobody else may use the slot; one that is there and unused is taken. */
bool standby_ask_slot(struct standby *standby)
{
	struct move *move = standby->move;
	struct link *link = &move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SELECT slot_type, active FROM pg_replication_slots WHERE slot_name = ");
	sql_literal(&sql, standby->slot);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return move_fail(move, "%s: %s", link->name, link_error(link));
	standby->slot_exists = link_rows(link) > 0;
	if (standby->slot_exists && (link_true(link, 0, "active") ||
	                             strcmp(link_value(link, 0, "slot_type"), "physical") != 0))
		return move_fail(move, "slot %s on %s is %s: choose another (--slot NAME)",
		                 standby->slot, link->name,
		                 link_true(link, 0, "active") ? "in use by a standby" : "logical");
	if (!standby->slot_exists && standby->free_slots < 1)
		return move_fail(move, "max_replication_slots of %s leaves none free", link->name);
	return true;
}

/* ---- the target ---- */

/* A server that answers where the standby is to be is never touched, whatever it is. */
bool standby_target_is_free(struct standby *standby)
{
	struct move *move = standby->move;
	struct link *link = &move->target.link;
	struct sbuf error;
	bool answers;

	sbuf_init(&error, 4096);
	answers = links_connect(&move->loop, &link, 1, move->config->mover.connect_timeout, &error);
	sbuf_free(&error);
	if (!answers)
		return true;
	if (!link_run(&move->loop, link, ASK_TIMEOUT,
	              "SELECT pg_is_in_recovery() AS recovery, (SELECT system_identifier FROM"
	              " pg_control_system()) AS system"))
		return move_fail(move, "a server answers at %s:%d: stop it first",
		                 move->target.conf->host, move->target.conf->port);
	if (link_true(link, 0, "recovery") &&
	    strcmp(link_value(link, 0, "system"), standby->system) == 0)
		return move_fail(move,
		                 "%s is running and is a standby of this system already; \"pgshunt "
		                 "status\" says how it stands",
		                 link->name);
	return move_fail(move, "%s is running and is %s: nothing is done to it", link->name,
	                 link_true(link, 0, "recovery") ? "a standby of another system"
	                                                : "a primary");
}

/* Proven: the same system, in recovery when it was stopped, still a standby by its files, and on no
 * later timeline than the source. */
static bool is_old_standby(struct standby *standby)
{
	struct move *move = standby->move;
	const char *state = standby->found_state == NULL ? "unknown" : standby->found_state;

	if (standby->found_system == NULL || strcmp(standby->found_system, standby->system) != 0)
		return move_fail(move, "%s holds another database system (%s, %s has %s)",
		                 standby->data,
		                 standby->found_system == NULL ? "unknown" : standby->found_system,
		                 move->source.conf->name, standby->system);
	if (!standby->signal || (strcmp(state, "shut down in recovery") != 0 &&
	                         strcmp(state, "in archive recovery") != 0))
		return move_fail(move, "%s holds no standby but a primary's data (%s)",
		                 standby->data, state);
	if (standby->found_timeline > standby->timeline)
		return move_fail(
		    move, "%s is on timeline %" PRId64 ", %s on %" PRId64 ": it was promoted once",
		    standby->data, standby->found_timeline, move->source.conf->name,
		    standby->timeline);
	return true;
}

static bool judge_place(struct standby *standby)
{
	struct move *move = standby->move;
	int64_t need = standby->bytes + standby->bytes / 20;

	if (standby->running)
		return move_fail(move, "a server runs in %s: stop it first", standby->data);
	if (standby->found_version != standby->version / 10000)
		return move_fail(move,
		                 "%s/postgres on the machine of %s is of version %" PRId64
		                 ", %s runs %" PRId64 " (servers.%s.bin_directory)",
		                 standby->bin, move->target.conf->name, standby->found_version,
		                 move->source.conf->name, standby->version / 10000,
		                 move->target.conf->name);
	switch (standby->place) {
	case PLACE_ABSENT:
	case PLACE_EMPTY:
		break;
	case PLACE_CLUSTER:
		if (!is_old_standby(standby))
			return false;
		standby->moved =
		    mem_must_printf("%s.old-%" PRId64, standby->data, (int64_t)time(NULL));
		ui_line(move->ui,
		        "  %s holds an old standby of this system (%s); it is moved to %s",
		        standby->data, standby->found_state, standby->moved);
		break;
	case PLACE_OTHER:
		return move_fail(move, "%s is not empty and is no data directory", standby->data);
	case PLACE_UNREADABLE:
	case PLACE_UNKNOWN:
		return move_fail(move, "%s cannot be read", standby->data);
	}
	if (standby->free_bytes >= 0 && standby->free_bytes < need)
		return move_fail(move, "%" PRId64 " MB are free for %s, %" PRId64 " are needed",
		                 standby->free_bytes / 1024 / 1024, standby->data,
		                 need / 1024 / 1024);
	return true;
}

bool standby_probe(struct standby *standby)
{
	struct sbuf script;
	bool ok;

	sbuf_init(&script, SCRIPT_MAX);
	standby_probe_script(standby, &script);
	ok =
	    standby_script(standby, "looking at the place", sbuf_text(&script), standby_read_probe);
	sbuf_free(&script);
	return ok && judge_place(standby);
}
