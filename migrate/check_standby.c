/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of the two servers: is the target really a standby of the source, and can it take over?
 */
#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/lsn.h"
#include "migrate/read_only.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

static const char facts_sql[] =
    "SELECT current_setting('server_version_num')::int AS version,"
    " current_setting('server_version') AS version_text,"
    " (SELECT system_identifier FROM pg_control_system()) AS system,"
    " pg_is_in_recovery() AS recovery,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,"
    " CASE WHEN pg_is_in_recovery() THEN NULL"
    " ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END"
    " AS timeline,"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
    " ELSE pg_current_wal_flush_lsn() END AS lsn,"
    " CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS paused,"
    " current_setting('recovery_min_apply_delay') AS delay,"
    " current_setting('port')::int AS port";

/* What the server is set to.  Where our own role or database has another idea, reset_val is that,
 * and the files say the rest. */
static const char read_only_sql[] =
    "SELECT CASE WHEN EXISTS (SELECT FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE c LIKE"
    " 'default_transaction_read_only=%' AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE"
    " rolname = session_user)) AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE"
    " datname = current_database())))"
    " THEN coalesce((SELECT f.setting::bool FROM pg_file_settings f WHERE"
    " f.name = 'default_transaction_read_only' AND f.error IS NULL ORDER BY f.seqno DESC LIMIT 1),"
    " false) ELSE (SELECT reset_val::bool FROM pg_settings WHERE"
    " name = 'default_transaction_read_only') END AS read_only";

static const char receiver_sql[] =
    "SELECT status, sender_host, sender_port, slot_name, received_tli"
    " FROM pg_stat_wal_receiver";

static const char senders_sql[] =
    "SELECT s.slot_name FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON"
    " s.active_pid = r.pid WHERE r.state = 'streaming'";

/* Whether one of the addresses of `host` is `address`. */
static bool resolves_to(const char *host, const char *address)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	bool found = false;
	char text[INET6_ADDRSTRLEN];

	if (strcmp(host, address) == 0)
		return true;
	if (endpoint_is_unix(host) || *address == '\0' || getaddrinfo(host, NULL, &hints, &list) != 0)
		return false;
	for (struct addrinfo *at = list; at != NULL && !found; at = at->ai_next) {
		if (getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof(text), NULL, 0,
		                NI_NUMERICHOST) == 0)
			found = strcmp(text, address) == 0;
	}
	freeaddrinfo(list);
	return found;
}

/* The address a link really went to; "" for a Unix socket. */
static const char *link_address(const struct link *link)
{
	const char *address = link->conn == NULL ? NULL : PQhostaddr(link->conn);

	return address == NULL ? "" : address;
}

static bool is_loopback(const char *host)
{
	return endpoint_is_unix(host) || *host == '\0' || strcmp(host, "localhost") == 0 ||
	       strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

/* Whether the address to which the target's receiver is connected is the source.  The receiver sees
 * the network from its own machine, so its "localhost" is the source only if both are on one. */
static bool sender_is_source(const struct move *move, const char *host, int port, int source_port)
{
	const struct config_server *source = move->source.conf;
	const char *source_address = link_address(&move->source.link);
	const char *target_address = link_address(&move->target.link);

	if (config_find_server_at(move->config, host, port) == source)
		return true;
	if (port != source->port && port != source_port)
		return false;
	if (is_loopback(host))
		return strcmp(source_address, target_address) == 0 ||
		       (is_loopback(source_address) && is_loopback(target_address));
	return strcmp(host, source->host) == 0 || resolves_to(host, source_address);
}

bool check_is_local(const struct server *server)
{
	return is_loopback(server->conf->host) || is_loopback(link_address(&server->link));
}

/* Where the target's receiver is connected. */
struct upstream {
	char *host;
	char *slot; /* NULL or "" = none */
	int port;
};

static bool has_slot(const struct upstream *upstream)
{
	return upstream->slot != NULL && *upstream->slot != '\0';
}

/* Whether the source itself sends to the target; the senders are the source's last result. */
static void check_sender(struct checks *checks, const struct upstream *upstream, int source_port)
{
	struct move *move = checks->move;
	const struct link *source = &move->source.link;
	bool by_slot = false;

	for (int row = 0; row < link_rows(source); row++) {
		const char *slot = link_value(source, row, "slot_name");

		by_slot = by_slot ||
		          (slot != NULL && has_slot(upstream) && strcmp(slot, upstream->slot) == 0);
	}
	if (link_rows(source) == 0)
		check_find(checks, CHECK_UPSTREAM, CHECK_REFUSE,
		           "%s sends WAL to nobody; %s receives it from %s:%d", source->name,
		           move->target.link.name, upstream->host, upstream->port);
	else if (has_slot(upstream) && !by_slot)
		check_find(checks, CHECK_UPSTREAM, CHECK_REFUSE,
		           "%s uses slot %s at %s:%d, which is not active on %s",
		           move->target.link.name, upstream->slot, upstream->host, upstream->port,
		           source->name);
	else if (!sender_is_source(move, upstream->host, upstream->port, source_port))
		check_find(checks, CHECK_UPSTREAM, CHECK_REFUSE,
		           "%s receives WAL from %s:%d, which is not known as %s (%s:%d)",
		           move->target.link.name, upstream->host, upstream->port, source->name,
		           move->source.conf->host, move->source.conf->port);
	check_pass(checks, CHECK_UPSTREAM, "it receives from %s:%d%s%s", upstream->host,
	           upstream->port, has_slot(upstream) ? " by slot " : "",
	           has_slot(upstream) ? upstream->slot : "");
}

static void check_upstream(struct checks *checks, int source_port)
{
	struct move *move = checks->move;
	struct link *target = &move->target.link;
	const char *status;
	const char *host;
	struct upstream upstream;
	int64_t timeline;

	if (!check_query(checks, CHECK_RECEIVER, target, receiver_sql))
		return;
	status = link_value(target, 0, "status");
	if (status == NULL || strcmp(status, "streaming") != 0) {
		check_find(checks, CHECK_RECEIVER, CHECK_REFUSE, "the WAL receiver of %s is %s",
		           target->name, status == NULL ? "not running" : status);
		return;
	}
	check_pass(checks, CHECK_RECEIVER, "its WAL receiver is streaming");
	timeline = link_number(target, 0, "received_tli", -1);
	if (timeline != move->old_timeline)
		check_find(checks, CHECK_TIMELINE, CHECK_REFUSE,
		           "%s is on timeline %" PRId64 ", %s receives timeline %" PRId64,
		           move->source.link.name, move->old_timeline, target->name, timeline);
	check_pass(checks, CHECK_TIMELINE, "timeline %" PRId64, timeline);
	host = link_value(target, 0, "sender_host");
	upstream = (struct upstream){
	    .host = mem_must_strdup(host == NULL ? "" : host),
	    .slot = mem_must_strdup(link_value(target, 0, "slot_name")),
	    .port = (int)link_number(target, 0, "sender_port", 0),
	};
	if (check_query(checks, CHECK_UPSTREAM, &move->source.link, senders_sql))
		check_sender(checks, &upstream, source_port);
	if (!checks->broken)
		check_synchronous(checks, has_slot(&upstream) ? upstream.slot : "");
	free(upstream.host);
	free(upstream.slot);
}

static void check_read_only(struct checks *checks)
{
	struct move *move = checks->move;
	struct link *target = &move->target.link;

	if (!check_query(checks, CHECK_READ_ONLY, target, read_only_sql))
		return;
	if (link_true(target, 0, "read_only")) {
		bool left_over = read_only_left_over(move);

		check_find(checks, CHECK_READ_ONLY, left_over ? CHECK_WARN : CHECK_REFUSE,
		           "default_transaction_read_only is on on %s%s", target->name,
		           left_over ? ", left over by a move that has not ended; the next one "
		                       "takes it back"
		                     : "");
	}
	check_pass(checks, CHECK_READ_ONLY, "default_transaction_read_only is off");
}

static void check_replay(struct checks *checks)
{
	struct move *move = checks->move;
	const struct link *target = &move->target.link;
	const char *delay = link_value(target, 0, "delay");
	uint64_t written = 0;
	uint64_t replayed = 0;

	if (link_true(target, 0, "paused"))
		check_find(checks, CHECK_REPLAY, CHECK_REFUSE, "replay is paused on %s",
		           target->name);
	if (delay != NULL && strcmp(delay, "0") != 0)
		check_find(checks, CHECK_REPLAY, CHECK_REFUSE,
		           "recovery_min_apply_delay is %s on %s", delay, target->name);
	check_pass(checks, CHECK_REPLAY, "neither");
	if (!lsn_parse(link_value(&move->source.link, 0, "lsn"), &written) ||
	    !lsn_parse(link_value(target, 0, "lsn"), &replayed)) {
		check_find(checks, CHECK_LAG, CHECK_REFUSE,
		           "the positions of %s and %s are unknown", move->source.link.name,
		           target->name);
		return;
	}
	move->lag = written > replayed ? (int64_t)(written - replayed) : 0;
	if (move->lag > move->config->mover.max_lag)
		check_find(checks, CHECK_LAG, CHECK_REFUSE,
		           "%s is %" PRId64 " bytes behind, mover.max_lag is %" PRId64,
		           target->name, move->lag, move->config->mover.max_lag);
	check_pass(checks, CHECK_LAG, "%" PRId64 " bytes", move->lag);
}

/* What both say of themselves; the facts of both links are there. */
static bool check_identity(struct checks *checks)
{
	struct move *move = checks->move;
	const struct link *source = &move->source.link;
	const struct link *target = &move->target.link;
	const char *system = link_value(source, 0, "system");
	const char *other = link_value(target, 0, "system");
	int64_t version = link_number(source, 0, "version", 0);
	int64_t target_version = link_number(target, 0, "version", 0);

	if (!link_true(source, 0, "super") || !link_true(target, 0, "super"))
		check_find(checks, CHECK_SUPERUSER, CHECK_REFUSE, "%s is no superuser on %s",
		           link_true(source, 0, "super") ? target->target.user
		                                         : source->target.user,
		           link_true(source, 0, "super") ? target->name : source->name);
	if (link_true(source, 0, "recovery"))
		check_find(checks, CHECK_SOURCE_PRIMARY, CHECK_REFUSE, "%s is in recovery",
		           source->name);
	if (!link_true(target, 0, "recovery"))
		check_find(checks, CHECK_TARGET_STANDBY, CHECK_REFUSE, "%s is not in recovery",
		           target->name);
	if (system == NULL || other == NULL || strcmp(system, other) != 0)
		check_find(checks, CHECK_SYSTEM, CHECK_REFUSE,
		           "the system identifier is %s on %s, %s on %s",
		           system == NULL ? "?" : system, source->name, other == NULL ? "?" : other,
		           target->name);
	if (version / 10000 != target_version / 10000)
		check_find(checks, CHECK_VERSION, CHECK_REFUSE, "%s runs %s, %s runs %s",
		           source->name, link_value(source, 0, "version_text"), target->name,
		           link_value(target, 0, "version_text"));
	else if (version != target_version)
		check_find(checks, CHECK_VERSION, CHECK_WARN, "%s runs %s, %s runs %s",
		           source->name, link_value(source, 0, "version_text"), target->name,
		           link_value(target, 0, "version_text"));
	check_pass(checks, CHECK_SUPERUSER, "%s on %s, %s on %s", source->target.user, source->name,
	           target->target.user, target->name);
	check_pass(checks, CHECK_SOURCE_PRIMARY, "%s is not in recovery", source->name);
	check_pass(checks, CHECK_TARGET_STANDBY, "%s is in recovery", target->name);
	check_pass(checks, CHECK_SYSTEM, "system identifier %s", system);
	check_pass(checks, CHECK_VERSION, "%s", link_value(source, 0, "version_text"));
	free(move->system_identifier);
	move->system_identifier = mem_must_strdup(system);
	move->old_timeline = link_number(source, 0, "timeline", 0);
	return !link_true(source, 0, "recovery") && link_true(target, 0, "recovery");
}

void check_servers(struct checks *checks)
{
	struct move *move = checks->move;
	int source_port;

	/* The target first: its position is then not ahead of the one it is compared with. */
	if (!check_query(checks, CHECK_TARGET_STANDBY, &move->target.link, facts_sql) ||
	    !check_query(checks, CHECK_SOURCE_PRIMARY, &move->source.link, facts_sql))
		return;
	source_port = (int)link_number(&move->source.link, 0, "port", 0);
	if (!check_identity(checks))
		return;
	check_replay(checks);
	check_read_only(checks);
	check_upstream(checks, source_port);
	if (!checks->broken)
		check_settings(checks);
	if (!checks->broken)
		check_wal(checks);
	if (!checks->broken)
		check_archive(checks);
	if (!checks->broken)
		check_disk(checks);
}
