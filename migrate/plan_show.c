/* SPDX-License-Identifier: PostgreSQL */
/*
 * The plan as text and as JSON.
 */
#include "base/endpoint.h"
#include "migrate/commcare.h"
#include "migrate/hook.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>

static void server_json(const struct config_server *server, const char *key, struct sbuf *out)
{
	json_open(out, key, '{');
	json_str(out, "name", server->name);
	json_str(out, "host", server->host);
	json_int(out, "port", server->port);
	json_close(out, '}');
}

static void statement_json(const struct move *move, const struct plproxy *cluster, bool inverse,
                           struct sbuf *out)
{
	struct sbuf sql;

	sbuf_init(&sql, (size_t)1024 * 1024);
	plproxy_statement(move, cluster, inverse, &sql);
	json_str(out, inverse ? "inverse" : "statement", sql.len == 0 ? NULL : sbuf_text(&sql));
	sbuf_free(&sql);
}

static void routers_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "routes", '[');
	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		json_open(out, NULL, '{');
		json_str(out, "proxy", route->proxy->conf->name);
		json_str(out, "database", route->database);
		json_str(out, "shard", route->shard->name);
		json_str(out, "server", route->server);
		json_int(out, "epoch", route->epoch);
		json_close(out, '}');
	}
	json_close(out, ']');
	bouncers_json(move, out);
	hooks_json(move, out);
	json_str(out, "postgresql_yml", sbuf_text(&move->commcare_notes));
	json_open(out, "plproxy", '[');
	for (size_t i = 0; i < move->cluster_count; i++) {
		const struct plproxy *cluster = &move->clusters[i];

		json_open(out, NULL, '{');
		json_str(out, "name", cluster->conf->name);
		json_str(out, "cluster", cluster->conf->cluster);
		json_str(out, "style", cluster->functions ? "functions" : "foreign server");
		statement_json(move, cluster, false, out);
		statement_json(move, cluster, true, out);
		json_close(out, '}');
	}
	json_close(out, ']');
	json_open(out, "partitions", '[');
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		json_open(out, NULL, '{');
		json_str(out, "plproxy", partition->cluster->conf->name);
		json_str(out, "shard", partition->shard->name);
		json_str(out, "option", partition->option);
		json_str(out, "old", partition->old);
		json_str(out, "new", partition->new);
		json_close(out, '}');
	}
	json_close(out, ']');
}

void plan_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "shards", '[');
	for (size_t i = 0; i < move->shard_count; i++) {
		json_open(out, NULL, '{');
		json_str(out, "name", move->shards[i].name);
		json_str(out, "dbname", move->shards[i].dbname);
		json_close(out, '}');
	}
	json_close(out, ']');
	server_json(move->source.conf, "source", out);
	server_json(move->target.conf, "target", out);
	json_int(out, "epoch", move->epoch);
	json_str(out, "system_identifier", move->system_identifier);
	json_int(out, "timeline", move->old_timeline);
	routers_json(move, out);
	json_open(out, "others", '[');
	for (size_t i = 0; i < move->other_count; i++)
		json_str(out, NULL, move->others[i]);
	json_close(out, ']');
}

static void print_routers(struct move *move)
{
	struct ui *ui = move->ui;

	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		ui_line(ui,
		        "  %s: database %s is held, swapped from %s to %s, released (epoch %" PRId64
		        ")",
		        route->proxy->label, route->database, route->server,
		        move->target.conf->name, move->epoch);
	}
	bouncers_print(move);
	commcare_print(move);
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		if (partition->new == NULL)
			ui_line(ui, "  %s: option %s of cluster %s leads to %s: nothing to change",
			        partition->cluster->label, partition->option,
			        partition->cluster->conf->cluster, partition->where);
		else
			ui_line(ui,
			        partition->cluster->functions
			            ? "  %s: change_sql makes cluster %s lead %s to '%s', was '%s'"
			            : "  %s: ALTER SERVER %s OPTIONS (SET %s '%s'), was '%s'",
			        partition->cluster->label, partition->cluster->conf->cluster,
			        partition->option, partition->new, partition->old);
	}
	for (size_t i = 0; i < move->cluster_count; i++) {
		bool found = false;

		for (size_t j = 0; j < move->partition_count; j++)
			found = found || move->partitions[j].cluster == &move->clusters[i];
		if (!found)
			ui_line(ui, "  %s: no partition of cluster %s is in these shards",
			        move->clusters[i].label, move->clusters[i].conf->cluster);
	}
}

void plan_print(struct move *move, bool steps)
{
	struct ui *ui = move->ui;
	const struct config_server *from = move->source.conf;
	const struct config_server *to = move->target.conf;

	ui_line(ui, "plan: move %zu shard%s from %s (%s) to %s (%s)", move->shard_count,
	        move->shard_count == 1 ? "" : "s", from->name,
	        endpoint_text(from->host, from->port).text, to->name,
	        endpoint_text(to->host, to->port).text);
	for (size_t i = 0; i < move->shard_count; i++)
		ui_line(ui, "  shard %s: database %s", move->shards[i].name,
		        move->shards[i].dbname);
	print_routers(move);
	if (move->sessions_seen[0] != '\0')
		ui_line(ui, "  sessions of session pools: %s", move->sessions_seen);
	if (move->prepared_seen > 0)
		ui_line(ui, "  prepared transactions: %" PRId64 ", which go along, to be ended on %s",
		        move->prepared_seen, to->name);
	for (size_t i = 0; i < move->other_count; i++)
		ui_line(ui,
		        "  %s: the copy of database %s is closed after the promotion; it stays in "
		        "use on %s",
		        to->name, move->others[i], from->name);
	if (move->other_count > 0)
		ui_line(ui,
		        "  %s: default_transaction_read_only is on while the move lasts, for all but the "
		        "shards, so that nobody writes to these copies before",
		        to->name);
	if (move->prepared_copies > 0)
		ui_line(ui, "  %s: prepared transactions in these copies: %" PRId64 ", rolled back there alone",
		        to->name, move->prepared_copies);
	hooks_print(move);
	if (!steps)
		return;
	ui_line(ui, "steps:");
	for (enum phase phase = PHASE_PREPARE; phase < PHASE_COUNT; phase++)
		ui_line(ui, "  %-20s %s\n  %-20s undo: %s", phase_row(phase)->title,
		        phase_row(phase)->what, "",
		        phase_row(phase)->after_promotion && phase != PHASE_PROMOTE
		            ? "none, it is completed"
		            : phase_row(phase)->undo);
}
