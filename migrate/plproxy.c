/* SPDX-License-Identifier: PostgreSQL */
/*
 * PL/Proxy: which options of the clusters lead to the shards, changing exactly these by one
 * compare-and-set, and asking through a function where a call really lands.
 */
#include "base/mem.h"
#include "migrate/connstr.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <stdlib.h>
#include <string.h>

#define PLPROXY_SQL_MAX ((size_t)16 * 1024 * 1024)
/* A PL/Proxy server that does not answer must not keep clients waiting. */
#define PLPROXY_PATIENCE (500 * USEC_PER_MSEC)
#define ASK_TIMEOUT (10 * USEC_PER_SEC)

/* ---- plan ---- */

/* The shard to which a database name leads: at a server by the name there, at a proxy by the name
 * its clients say. */
static struct shard *shard_of(struct move *move, const char *dbname)
{
	for (size_t i = 0; i < move->shard_count; i++) {
		if (strcmp(move->shards[i].dbname, dbname) == 0)
			return &move->shards[i];
	}
	for (size_t i = 0; i < move->seen_count; i++) {
		const struct seen_route *seen = &move->seen[i];

		for (size_t j = 0; strcmp(seen->database, dbname) == 0 && j < move->shard_count;
		     j++) {
			if (strcmp(move->shards[j].dbname, seen->dbname) == 0)
				return &move->shards[j];
		}
	}
	return NULL;
}

/* What host and port are: a proxy, a pgbouncer, the name of a server, or NULL. */
static const char *place_of(const struct move *move, const char *host, int port, bool *proxy)
{
	const struct config_server *server = config_find_server_at(move->config, host, port);

	const char *router = router_at(move, host, port);

	*proxy = router != NULL;
	if (router != NULL)
		return router;
	return server == NULL ? NULL : server->name;
}

/* Decides about one option; false and an error if it leads somewhere unknown. */
static bool judge(struct move *move, struct partition *partition, struct sbuf *error)
{
	const char *option = partition->option;
	const char *why = NULL;
	char *host = NULL;
	char *port_text = NULL;
	bool proxy = false;
	bool ok = connstr_get(partition->old, "host", &host) &&
	          connstr_get(partition->old, "port", &port_text) && host != NULL;

	if (ok)
		partition->where =
		    place_of(move, host, port_text == NULL ? 5432 : atoi(port_text), &proxy);
	if (!ok || partition->where == NULL) {
		sbuf_printf(
		    error,
		    "%s: option %s of cluster %s leads to '%s', which is neither a proxy of "
		    "mover.proxies, nor one of mover.pgbouncers, nor %s; add the spelling to "
		    "servers.%s.aliases if it is "
		    "that server\n",
		    partition->cluster->label, option, partition->cluster->conf->cluster,
		    partition->old, move->source.conf->name, move->source.conf->name);
		ok = false;
	} else if (!proxy && strcmp(partition->where, move->source.conf->name) == 0) {
		ok = connstr_readdress(partition->old, move->target.conf->host,
		                       move->target.conf->port, &partition->new, &why);
		if (!ok)
			sbuf_printf(error,
			            "%s: option %s of cluster %s, '%s', cannot be changed: %s\n",
			            partition->cluster->label, option,
			            partition->cluster->conf->cluster, partition->old, why);
	} else if (!proxy && strcmp(partition->where, move->target.conf->name) != 0) {
		sbuf_printf(error, "%s: option %s of cluster %s leads to %s, not to %s\n",
		            partition->cluster->label, option, partition->cluster->conf->cluster,
		            partition->where, move->source.conf->name);
		ok = false;
	}
	free(host);
	free(port_text);
	return ok;
}

/* Takes the options of one cluster that lead to the shards. */
static bool take_options(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	const struct link *link = &cluster->link;
	bool ok = true;

	for (int row = 0; row < link_rows(link); row++) {
		const char *option = link_value(link, row, "option_name");
		const char *value = link_value(link, row, "option_value");
		struct partition *partition;
		struct shard *shard = NULL;
		char *dbname = NULL;
		int number;

		if (option == NULL || value == NULL || !partition_number(option, &number))
			continue;
		if (!connstr_get(value, "dbname", &dbname)) {
			sbuf_printf(error, "%s: option %s is no connection string: '%s'\n",
			            cluster->label, option, value);
			ok = false;
		} else if (dbname != NULL) {
			shard = shard_of(move, dbname);
		}
		free(dbname);
		if (shard == NULL)
			continue;
		move->partitions = mem_must_grow(move->partitions, move->partition_count + 1,
		                                 sizeof(*move->partitions));
		partition = &move->partitions[move->partition_count++];
		*partition = (struct partition){.cluster = cluster,
		                                .shard = shard,
		                                .option = mem_must_strdup(option),
		                                .number = number,
		                                .old = mem_must_strdup(value)};
		ok = judge(move, partition, error) && ok;
	}
	return ok;
}

static void options_sql(const struct plproxy *cluster, struct sbuf *sql)
{
	sbuf_add_str(sql, "SELECT o.option_name, o.option_value FROM pg_foreign_server s,"
	                  " pg_options_to_table(s.srvoptions) o WHERE s.srvname = ");
	sql_literal(sql, cluster->conf->cluster);
}

static void drop_options(struct move *move, const struct plproxy *cluster)
{
	size_t kept = 0;

	for (size_t i = 0; i < move->partition_count; i++) {
		struct partition *partition = &move->partitions[i];

		if (partition->cluster != cluster) {
			move->partitions[kept++] = *partition;
			continue;
		}
		free(partition->option);
		free(partition->old);
		free(partition->new);
	}
	move->partition_count = kept;
}

/* Reads the options of one cluster; a second time, too. */
static bool plan_cluster(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	struct sbuf sql;
	bool ok = false;

	drop_options(move, cluster);
	sbuf_init(&sql, PLPROXY_SQL_MAX);
	options_sql(cluster, &sql);
	if (!link_run(&move->loop, &cluster->link, ASK_TIMEOUT, sbuf_text(&sql)))
		sbuf_printf(error, "%s: %s\n", cluster->label, link_error(&cluster->link));
	else if (link_rows(&cluster->link) == 0)
		sbuf_printf(error, "%s: database %s has no cluster %s, or it has no options\n",
		            cluster->label, cluster->conf->dbname, cluster->conf->cluster);
	else
		ok = take_options(move, cluster, error);
	sbuf_free(&sql);
	cluster->planned = ok;
	return ok;
}

bool plproxy_plan(struct move *move, struct sbuf *error)
{
	bool ok = true;

	for (size_t i = 0; i < move->cluster_count; i++)
		ok = plan_cluster(move, &move->clusters[i], error) && ok;
	return ok;
}

/* ---- change ---- */

/*
 * One transaction: the row is locked, the options must still be what the plan saw (or already what
 * they shall be), then they are set.  Other options may have changed and are kept.
 */
static void change_sql(const struct move *move, const struct plproxy *cluster, struct sbuf *sql)
{
	struct sbuf body;
	bool first = true;

	sbuf_init(&body, PLPROXY_SQL_MAX);
	sbuf_add_str(&body, "DECLARE opts text[]; BEGIN SELECT srvoptions INTO opts FROM"
	                    " pg_foreign_server WHERE srvname = ");
	sql_literal(&body, cluster->conf->cluster);
	sbuf_add_str(&body, " FOR UPDATE; IF NOT (true");
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];
		char *old;
		char *new;

		if (partition->cluster != cluster || partition->new == NULL)
			continue;
		old = mem_must_printf("%s=%s", partition->option, partition->old);
		new = mem_must_printf("%s=%s", partition->option, partition->new);
		sbuf_add_str(&body, " AND (");
		sql_literal(&body, old);
		sbuf_add_str(&body, " = ANY (opts) OR ");
		sql_literal(&body, new);
		sbuf_add_str(&body, " = ANY (opts))");
		free(old);
		free(new);
	}
	sbuf_add_str(&body,
	             ") THEN RAISE EXCEPTION 'the options of the shard were changed by somebody"
	             " else: %', opts; END IF; EXECUTE ");
	{
		struct sbuf alter;

		sbuf_init(&alter, PLPROXY_SQL_MAX);
		sbuf_add_str(&alter, "ALTER SERVER ");
		sql_identifier(&alter, cluster->conf->cluster);
		sbuf_add_str(&alter, " OPTIONS (");
		for (size_t i = 0; i < move->partition_count; i++) {
			const struct partition *partition = &move->partitions[i];

			if (partition->cluster != cluster || partition->new == NULL)
				continue;
			sbuf_add_str(&alter, first ? "SET " : ", SET ");
			sql_identifier(&alter, partition->option);
			sbuf_add_char(&alter, ' ');
			sql_literal(&alter, partition->new);
			first = false;
		}
		sbuf_add_char(&alter, ')');
		sql_literal(&body, sbuf_text(&alter));
		sbuf_free(&alter);
	}
	sbuf_add_str(&body, "; END");
	sbuf_add_str(sql, "DO ");
	sql_literal(sql, sbuf_text(&body));
	sbuf_free(&body);
}

static bool has_changes(const struct move *move, const struct plproxy *cluster)
{
	for (size_t i = 0; i < move->partition_count; i++) {
		if (move->partitions[i].cluster == cluster && move->partitions[i].new != NULL)
			return true;
	}
	return false;
}

static void send_change(struct move *move, struct plproxy *cluster)
{
	struct sbuf sql;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	change_sql(move, cluster, &sql);
	link_send(&cluster->link, sbuf_text(&sql));
	cluster->pending = true;
	sbuf_free(&sql);
}

void plproxy_send(struct move *move)
{
	for (size_t i = 0; i < move->cluster_count; i++) {
		if (has_changes(move, &move->clusters[i]))
			send_change(move, &move->clusters[i]);
		else if (move->clusters[i].planned)
			move->clusters[i].done = true;
	}
}

static void await_changes(struct move *move, usec_t timeout)
{
	struct link **links = mem_must_alloc((move->cluster_count + 1) * sizeof(struct link *));
	size_t count = 0;

	for (size_t i = 0; i < move->cluster_count; i++) {
		if (move->clusters[i].pending)
			links[count++] = &move->clusters[i].link;
	}
	(void)!loop_wait(&move->loop, links, count, clock_now() + timeout, false);
	for (size_t i = 0; i < move->cluster_count; i++) {
		struct plproxy *cluster = &move->clusters[i];

		if (!cluster->pending || cluster->link.state == LINK_BUSY)
			continue;
		cluster->pending = false;
		cluster->done = link_ok(&cluster->link);
		if (!cluster->done)
			ui_error(move->ui, "%s: %s", cluster->label, link_error(&cluster->link));
	}
	free(links);
}

bool phase_plproxy(struct move *move)
{
	int64_t changed = 0;

	await_changes(move, PLPROXY_PATIENCE);
	for (size_t i = 0; i < move->partition_count; i++) {
		if (move->partitions[i].new != NULL && move->partitions[i].cluster->done)
			changed++;
	}
	json_int(&move->evidence, "options", (int64_t)move->partition_count);
	json_int(&move->evidence, "changed", changed);
	return true;
}

/* One more try for one cluster; false and `error` if it did not succeed. */
static bool repair_cluster(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	if (cluster->link.state == LINK_BUSY)
		await_changes(move, ASK_TIMEOUT);
	if (cluster->done)
		return true;
	if (!link_revive(move, &cluster->link)) {
		sbuf_add_str(error, link_error(&cluster->link));
		return false;
	}
	/* When a move is resumed, it may not have been possible to read the options before. */
	if (!cluster->planned && !plan_cluster(move, cluster, error))
		return false;
	if (!has_changes(move, cluster)) {
		cluster->done = true;
		return true;
	}
	send_change(move, cluster);
	await_changes(move, ASK_TIMEOUT);
	if (!cluster->done)
		sbuf_add_str(error, link_error(&cluster->link));
	return cluster->done;
}

bool plproxy_repair(struct move *move, usec_t deadline)
{
	bool all = true;

	move->phase = PHASE_PLPROXY;
	for (size_t i = 0; i < move->cluster_count; i++) {
		struct plproxy *cluster = &move->clusters[i];
		struct sbuf error;

		if (cluster->done)
			continue;
		sbuf_init(&error, PLPROXY_SQL_MAX);
		/* Not again after our own exception: the options are not what the plan saw. */
		while (!repair_cluster(move, cluster, &error) && clock_now() < deadline &&
		       strcmp(cluster->link.sqlstate, "P0001") != 0) {
			loop_sleep(&move->loop, 500 * USEC_PER_MSEC);
			sbuf_reset(&error);
		}
		if (!cluster->done)
			move_problem(move, "%s: the options of the shards were not changed: %s",
			             cluster->label, sbuf_text(&error));
		sbuf_free(&error);
		all = all && cluster->done;
	}
	return all;
}

/* ---- verify ---- */

/* What a server says it is; the same text from the target itself and through PL/Proxy.  The start
 * time tells two servers with the same system identifier apart. */
#define IDENTITY                                                                                   \
	"concat_ws(' ', (SELECT system_identifier FROM pg_catalog.pg_control_system()),"           \
	" extract(epoch FROM pg_catalog.pg_postmaster_start_time()),"                              \
	" CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'standby' ELSE 'primary' END)"

static void verify_sql(const struct partition *partition, const char *role, struct sbuf *sql)
{
	struct sbuf body;

	/* PL/Proxy logs in by the user mapping of the calling role, which the administrator often
	 * has not; the function is called as somebody who has. */
	sbuf_init(&body, 8192);
	sbuf_add_str(&body, " CLUSTER ");
	sql_literal(&body, partition->cluster->conf->cluster);
	sbuf_printf(&body, "; RUN ON %d; SELECT " IDENTITY "; ", partition->number);
	sbuf_add_str(sql,
	             "BEGIN; CREATE FUNCTION pg_temp.pgshunt_where() RETURNS text LANGUAGE plproxy"
	             " AS ");
	sql_literal(sql, sbuf_text(&body));
	sbuf_add_str(sql, "; ");
	if (role != NULL) {
		sbuf_add_str(sql, "GRANT TEMP ON DATABASE ");
		sql_identifier(sql, partition->cluster->conf->dbname);
		sbuf_add_str(sql, " TO ");
		sql_identifier(sql, role);
		sbuf_add_str(sql, "; SET LOCAL SESSION AUTHORIZATION ");
		sql_identifier(sql, role);
		sbuf_add_str(sql, "; ");
	}
	sbuf_add_str(sql, "SELECT pg_temp.pgshunt_where() AS identity");
	sbuf_free(&body);
}

/* A role with a user mapping for the cluster, NULL = the mapping is for all or for us. */
static char *mapped_role(struct move *move, struct plproxy *cluster, struct link *link)
{
	struct sbuf sql;
	char *role = NULL;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SELECT usename FROM pg_user_mappings WHERE srvname = ");
	sql_literal(&sql, cluster->conf->cluster);
	sbuf_add_str(&sql, " ORDER BY usename <> current_user AND umuser <> 0, usename LIMIT 1");
	if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql))) {
		const char *name = link_value(link, 0, "usename");

		if (name != NULL && strcmp(name, "public") != 0 &&
		    strcmp(name, link->target.user) != 0)
			role = mem_must_strdup(name);
	}
	sbuf_free(&sql);
	return role;
}

/* Calls through one partition in a session of its own; nothing of it stays. */
static bool verify_partition(struct move *move, const struct partition *partition,
                             const char *expected)
{
	struct link link;
	struct link *only = &link;
	struct sbuf sql;
	char *role;
	const char *identity;
	bool ok = false;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	link_init(&link, partition->cluster->label, &partition->cluster->link.target);
	if (!links_connect(&move->loop, &only, 1, move->config->mover.connect_timeout, &sql)) {
		move_problem(move, "%s", sbuf_text(&sql));
	} else {
		role = mapped_role(move, partition->cluster, only);
		sbuf_reset(&sql);
		verify_sql(partition, role, &sql);
		free(role);
		ok = link_run(&move->loop, only, ASK_TIMEOUT, sbuf_text(&sql));
		identity = link_value(only, 0, "identity");
		if (!ok) {
			move_problem(move, "%s: a call through partition %d failed: %s", link.name,
			             partition->number, link_error(only));
		} else if (identity == NULL || strcmp(identity, expected) != 0) {
			ok = false;
			move_problem(move,
			             "%s: a call through partition %d lands on \"%s\", %s is "
			             "\"%s\"",
			             link.name, partition->number, identity == NULL ? "" : identity,
			             move->target.conf->name, expected);
		}
	}
	link_close(only);
	sbuf_free(&sql);
	return ok;
}

bool plproxy_verify(struct move *move)
{
	struct link *target = &move->target.link;
	char *expected;
	bool ok = true;
	int64_t calls = 0;

	if (move->partition_count == 0)
		return true;
	if (!link_run(&move->loop, target, ASK_TIMEOUT, "SELECT " IDENTITY " AS identity")) {
		move_problem(move, "%s: %s", target->name, link_error(target));
		return false;
	}
	expected = mem_must_strdup(link_value(target, 0, "identity"));
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];
		bool asked = false;

		/* Options with the same text share a connection: one call is enough. */
		for (size_t j = 0; j < i; j++)
			asked = asked || (move->partitions[j].cluster == partition->cluster &&
			                  strcmp(move->partitions[j].old, partition->old) == 0);
		if (asked)
			continue;
		calls++;
		ok = verify_partition(move, partition, expected) && ok;
	}
	json_int(&move->evidence, "plproxy_calls", calls);
	free(expected);
	return ok;
}
