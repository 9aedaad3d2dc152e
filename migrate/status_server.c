/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: what each server is, its replication and slots, and who is connected to which
 * database.
 */
#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_MAX ((size_t)1024 * 1024)

static const char facts_sql[] =
    "SELECT pg_is_in_recovery() AS recovery,"
    " (SELECT system_identifier FROM pg_control_system()) AS system,"
    " CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) ELSE"
    " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
    " ELSE pg_current_wal_flush_lsn() END AS lsn,"
    " CASE WHEN pg_is_in_recovery() THEN CASE WHEN pg_is_wal_replay_paused() THEN 'paused'"
    " ELSE 'not paused' END END AS pause,"
    /* What was replayed before a restart need not have been received since. */
    " CASE WHEN pg_is_in_recovery() THEN greatest(pg_wal_lsn_diff(pg_last_wal_receive_lsn(),"
    " pg_last_wal_replay_lsn()), 0)::bigint END AS unreplayed,"
    " current_setting('recovery_min_apply_delay') AS delay,"
    " r.status, r.sender_host, r.sender_port, r.slot_name"
    " FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver r ON true";

static const char senders_sql[] =
    "SELECT r.application_name, coalesce(host(r.client_addr), 'the same machine') AS address,"
    " r.state, r.sync_state, s.slot_name, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN"
    " pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, r.replay_lsn)::bigint AS"
    " behind, round(extract(epoch FROM r.replay_lag) * 1000)::bigint AS lag_ms"
    " FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid"
    " ORDER BY 1, 2";

static const char slots_sql[] =
    "SELECT slot_name, slot_type, active, to_jsonb(s) ->> 'wal_status' AS wal_status, CASE WHEN "
    "restart_lsn IS NULL"
    " THEN 0 ELSE pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE"
    " pg_current_wal_flush_lsn() END, restart_lsn)::bigint END AS kept"
    " FROM pg_replication_slots s ORDER BY 1";

static const char databases_sql[] =
    "SELECT d.datname, d.datallowconn, d.datistemplate, d.oid, string_agg(a.sessions || ' of ' || a.who, ', ' ORDER BY"
    " a.sessions DESC) AS sessions FROM pg_database d LEFT JOIN (SELECT datid, count(*) AS"
    " sessions, usename || ' from ' || coalesce(host(client_addr), 'the same machine') AS who"
    " FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE"
    " 'pgshunt%' GROUP BY 1, 3) a ON a.datid = d.oid GROUP BY 1, 2, 3, 4 ORDER BY 1";

const struct status_database *status_database(const struct status_server *server,
                                              const char *dbname)
{
	for (size_t i = 0; i < server->database_count; i++) {
		if (strcmp(server->databases[i].dbname, dbname) == 0)
			return &server->databases[i];
	}
	return NULL;
}

void status_forget_servers(struct status *status)
{
	for (size_t i = 0; i < status->server_count; i++) {
		struct status_server *server = &status->servers[i];

		for (size_t j = 0; j < server->database_count; j++) {
			free(server->databases[j].dbname);
			free(server->databases[j].sessions);
		}
		free(server->databases);
		free(server->system);
		server->databases = NULL;
		server->database_count = 0;
		server->system = NULL;
	}
}

static bool ask(struct status *status, struct status_server *server, const char *sql)
{
	return link_run(&status->move->loop, &server->link,
	                status->move->config->mover.connect_timeout, sql);
}

static void keep_databases(struct status_server *server)
{
	const struct link *link = &server->link;

	server->database_count = (size_t)link_rows(link);
	server->databases =
	    mem_must_alloc((server->database_count + 1) * sizeof(*server->databases));
	for (size_t i = 0; i < server->database_count; i++)
		server->databases[i] = (struct status_database){
		    .dbname = mem_must_strdup(link_value(link, (int)i, "datname")),
		    .sessions = mem_must_strdup(link_value(link, (int)i, "sessions")),
		    .oid = link_number(link, (int)i, "oid", 0),
		    .open = link_true(link, (int)i, "datallowconn"),
		    .template = link_true(link, (int)i, "datistemplate")};
}

/* A link that failed keeps its error: it is shown with its server. */
void status_ask_servers(struct status *status)
{
	struct link **links = mem_must_alloc((status->server_count + 1) * sizeof(struct link *));

	for (size_t i = 0; i < status->server_count; i++) {
		links[i] = &status->servers[i].link;
		if (links[i]->state != LINK_IDLE)
			link_connect(links[i]);
	}
	(void)!loop_wait(&status->move->loop, links, status->server_count,
	                 clock_now() + status->move->config->mover.connect_timeout, true);
	free(links);
	for (size_t i = 0; i < status->server_count; i++) {
		struct status_server *server = &status->servers[i];

		server->reached =
		    server->link.state == LINK_IDLE && ask(status, server, databases_sql);
		if (server->reached)
			keep_databases(server);
		server->reached = server->reached && ask(status, server, facts_sql);
		if (server->reached) {
			server->recovery = link_true(&server->link, 0, "recovery");
			server->system = mem_must_strdup(link_value(&server->link, 0, "system"));
		}
	}
}

static const char *or_none(const char *text)
{
	return text == NULL || *text == '\0' ? "none" : text;
}

/* The result of facts_sql is the link's last one. */
static void show_facts(struct status *status, const struct status_server *server)
{
	const struct link *link = &server->link;
	const struct config_server *conf = server->conf;
	const char *pause = link_value(link, 0, "pause");
	const char *delay = link_value(link, 0, "delay");
	struct sbuf event;

	status_line(status, "server %s (%s): %s, timeline %s, at %s", conf->name,
	            endpoint_text(conf->host, conf->port).text, server->recovery ? "standby" : "primary",
	            link_value(link, 0, "timeline"), or_none(link_value(link, 0, "lsn")));
	if (server->recovery)
		status_line(status,
		            "  receives from %s:%s by slot %s: %s; %s bytes not replayed%s%s%s%s",
		            or_none(link_value(link, 0, "sender_host")),
		            or_none(link_value(link, 0, "sender_port")),
		            or_none(link_value(link, 0, "slot_name")),
		            link_value(link, 0, "status") == NULL ? "not streaming"
		                                                  : link_value(link, 0, "status"),
		            or_none(link_value(link, 0, "unreplayed")),
		            pause == NULL || strcmp(pause, "not paused") == 0 ? "" : ", replay is ",
		            pause == NULL || strcmp(pause, "not paused") == 0 ? "" : pause,
		            delay == NULL || strcmp(delay, "0") == 0 ? "" : ", delayed by ",
		            delay == NULL || strcmp(delay, "0") == 0 ? "" : delay);
	sbuf_init(&event, EVENT_MAX);
	json_str(&event, "server", conf->name);
	json_str(&event, "state", server->recovery ? "standby" : "primary");
	json_str(&event, "lsn", link_value(link, 0, "lsn"));
	json_str(&event, "system_identifier", server->system);
	json_int(&event, "timeline", link_number(link, 0, "timeline", 0));
	json_str(&event, "receiver", link_value(link, 0, "status"));
	json_str(&event, "replay", pause);
	ui_event(status->move->ui, "server", sbuf_text(&event));
	sbuf_free(&event);
}

static void show_replication(struct status *status, struct status_server *server)
{
	const struct link *link = &server->link;

	if (ask(status, server, senders_sql)) {
		for (int row = 0; row < link_rows(link); row++) {
			const char *lag = link_value(link, row, "lag_ms");

			status_line(
			    status, "  sends to %s (%s), slot %s: %s, %s, %s bytes behind%s%s%s",
			    link_value(link, row, "application_name"),
			    link_value(link, row, "address"),
			    or_none(link_value(link, row, "slot_name")),
			    link_value(link, row, "state"), link_value(link, row, "sync_state"),
			    or_none(link_value(link, row, "behind")), lag == NULL ? "" : ", ",
			    lag == NULL ? "" : lag, lag == NULL ? "" : " ms");
		}
	}
	if (!ask(status, server, slots_sql))
		return;
	for (int row = 0; row < link_rows(link); row++) {
		struct sbuf event;

		status_line(status, "  slot %s (%s): %s, keeps %s bytes of WAL, %s",
		            link_value(link, row, "slot_name"), link_value(link, row, "slot_type"),
		            link_true(link, row, "active") ? "active" : "INACTIVE",
		            link_value(link, row, "kept"),
		            or_none(link_value(link, row, "wal_status")));
		sbuf_init(&event, EVENT_MAX);
		json_str(&event, "server", server->conf->name);
		json_str(&event, "slot", link_value(link, row, "slot_name"));
		json_bool(&event, "active", link_true(link, row, "active"));
		json_int(&event, "kept_bytes", link_number(link, row, "kept", 0));
		json_str(&event, "wal_status", link_value(link, row, "wal_status"));
		ui_event(status->move->ui, "slot", sbuf_text(&event));
		sbuf_free(&event);
	}
}

static void show_databases(struct status *status, const struct status_server *server)
{
	for (size_t i = 0; i < server->database_count; i++) {
		const struct status_database *database = &server->databases[i];
		struct sbuf event;

		if (!status_wants(status, database->dbname))
			continue;
		status_line(status, "  database %s: %s%s%s%s", database->dbname,
		            database->open ? "open" : "closed to connections (fence)",
		            database->template ? ", a template" : "",
		            database->sessions == NULL ? "" : "; sessions: ",
		            database->sessions == NULL ? "" : database->sessions);
		sbuf_init(&event, EVENT_MAX);
		json_str(&event, "server", server->conf->name);
		json_str(&event, "database", database->dbname);
		json_bool(&event, "open", database->open);
		json_str(&event, "sessions", database->sessions);
		ui_event(status->move->ui, "database", sbuf_text(&event));
		sbuf_free(&event);
	}
}

/* The database on two primaries that were one: both take writes, and nobody knows which is right.
 */
static void find_split(struct status *status, size_t index, const struct status_database *database)
{
	const struct status_server *first = &status->servers[index];

	for (size_t i = index + 1; i < status->server_count; i++) {
		const struct status_server *other = &status->servers[i];
		const struct status_database *copy = status_database(other, database->dbname);

		if (!other->reached || other->recovery || copy == NULL || !copy->open ||
		    copy->oid != database->oid || copy->template || other->system == NULL ||
		    first->system == NULL ||
		    strcmp(other->system, first->system) != 0 ||
		    (other->conf->port == first->conf->port &&
		     strcmp(other->conf->host, first->conf->host) == 0))
			continue; /* or it is one server with two names */
		status_alarm(status,
		             "database %s is open for writing on %s and on %s: a fence was lifted, or "
		             "it was made while a move ran; close the copy that is out of use (ALTER "
		             "DATABASE ... ALLOW_CONNECTIONS false)",
		             database->dbname, first->conf->name, other->conf->name);
	}
}

/* Every database of a server that was moved from or to has two copies, whether the configuration knows it
 * or not, but those that serve the servers themselves are open on both. */
static bool may_split(const struct status *status, const struct status_server *server,
                      const struct status_database *database)
{
	if (!database->open || database->template)
		return false;
	if (status_wants(status, database->dbname))
		return true;
	return status->name_count == 0 && strcmp(database->dbname, "postgres") != 0 &&
	       strcmp(database->dbname, server->conf->admin_dbname) != 0;
}

void status_show_servers(struct status *status)
{
	for (size_t i = 0; i < status->server_count; i++) {
		struct status_server *server = &status->servers[i];

		if (!server->reached) {
			struct sbuf event;

			status_line(status, "server %s (%s): UNREACHABLE: %s", server->conf->name,
			            endpoint_text(server->conf->host, server->conf->port).text,
			            link_error(&server->link));
			sbuf_init(&event, EVENT_MAX);
			json_str(&event, "server", server->conf->name);
			json_str(&event, "state", "unreachable");
			json_str(&event, "error", link_error(&server->link));
			ui_event(status->move->ui, "server", sbuf_text(&event));
			sbuf_free(&event);
			continue;
		}
		show_facts(status, server);
		show_replication(status, server);
		show_databases(status, server);
		for (size_t j = 0; j < server->database_count && !server->recovery; j++) {
			if (may_split(status, server, &server->databases[j]))
				find_split(status, i, &server->databases[j]);
		}
	}
}
