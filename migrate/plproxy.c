/* SPDX-License-Identifier: PostgreSQL */
/*
 * PL/Proxy: which options of the clusters lead to the shards, changing exactly these by one
 * compare-and-set, and asking through a function where a call really lands.
 */
#include "base/mem.h"
#include "migrate/connstr.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PLPROXY_SQL_MAX ((size_t)16 * 1024 * 1024)
/* A PL/Proxy server that does not answer must not keep clients waiting. */
#define PLPROXY_PATIENCE (500 * USEC_PER_MSEC)
#define ASK_TIMEOUT (10 * USEC_PER_SEC)
#define TRY_EVERY (500 * USEC_PER_MSEC)
/* Our own sessions have an empty one. */
#define USUAL_PATH "SET search_path = \"$user\", public; "

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

/* SQL/MED goes before functions, as in PL/Proxy. */
static bool find_style(struct loop *loop, struct link *link, const char *cluster, bool *functions)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	sbuf_add_str(&sql, "SELECT to_regprocedure('plproxy.get_cluster_partitions(text)') IS NOT"
	                   " NULL AND NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = ");
	sql_literal(&sql, cluster);
	sbuf_add_str(&sql, ") AS functions");
	ok = link_run(loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	*functions = ok && link_true(link, 0, "functions");
	sbuf_free(&sql);
	return ok;
}

bool plproxy_ask(struct loop *loop, struct link *link, const char *cluster, bool *functions)
{
	struct sbuf sql;
	bool ok;

	if (!find_style(loop, link, cluster, functions))
		return false;
	sbuf_init(&sql, PLPROXY_SQL_MAX);
	if (*functions) {
		/* They are the operator's, and may count on it. */
		sbuf_add_str(&sql, USUAL_PATH
		             "SELECT 'p' || (n - 1) AS option_name, part AS option_value FROM"
		             " plproxy.get_cluster_partitions(");
		sql_literal(&sql, cluster);
		sbuf_add_str(&sql, ") WITH ORDINALITY AS parts (part, n)");
	} else {
		sbuf_add_str(&sql, "SELECT o.option_name, o.option_value FROM pg_foreign_server s,"
		                   " pg_options_to_table(s.srvoptions) o WHERE s.srvname = ");
		sql_literal(&sql, cluster);
	}
	ok = link_run(loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

static bool read_version(struct move *move, struct plproxy *cluster)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	sbuf_add_str(&sql, USUAL_PATH "SELECT plproxy.get_cluster_version(");
	sql_literal(&sql, cluster->conf->cluster);
	sbuf_add_str(&sql, ") AS version");
	ok = link_run(&move->loop, &cluster->link, ASK_TIMEOUT, sbuf_text(&sql));
	free(cluster->version);
	cluster->version = mem_must_strdup(ok ? link_value(&cluster->link, 0, "version") : NULL);
	sbuf_free(&sql);
	return ok;
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

static bool has_changes(const struct move *move, const struct plproxy *cluster)
{
	for (size_t i = 0; i < move->partition_count; i++) {
		if (move->partitions[i].cluster == cluster && move->partitions[i].new != NULL)
			return true;
	}
	return false;
}

/* For each pair of old and new text once. */
static bool is_first_change(const struct move *move, const struct partition *partition)
{
	for (const struct partition *at = move->partitions; at < partition; at++) {
		if (at->cluster == partition->cluster &&
		    at->new != NULL &&strcmp(at->old, partition->old) == 0)
			return false;
	}
	return partition->new != NULL;
}

/* The statements for tables that hold the text of a partition: what the functions most likely
 * read. */
static void suggest_updates(struct move *move, struct plproxy *cluster,
                            const struct partition *partition, struct sbuf *out)
{
	struct link *link = &cluster->link;
	struct sbuf sql;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	sbuf_add_str(&sql, "WITH v (old, new) AS (VALUES (");
	sql_literal(&sql, partition->old);
	sbuf_add_str(&sql, ", ");
	sql_literal(&sql, partition->new);
	sbuf_add_str(
	    &sql, ")) SELECT format('UPDATE %I.%I SET %I = %L WHERE %I = %L;', nspname, relname,"
	          " attname, new, attname, old) AS statement FROM v, pg_attribute a JOIN pg_class"
	          " c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE"
	          " relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped AND atttypid IN"
	          " ('text'::regtype, 'varchar'::regtype) AND nspname NOT IN ('pg_catalog',"
	          " 'information_schema') AND nspname NOT LIKE 'pg_toast%' AND reltuples < 100000"
	          " AND query_to_xml(format('SELECT FROM %I.%I WHERE %I = %L LIMIT 1', nspname,"
	          " relname, attname, old), false, true, '')::text LIKE '%<row%'");
	if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
		for (int row = 0; row < link_rows(link); row++)
			sbuf_printf(out, "  found in a table; if the functions read it: %s\n",
			            link_value(link, row, "statement"));
	sbuf_free(&sql);
}

/* Code is not ours to edit: what has to be true afterwards is said. */
static void explain_functions(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	sbuf_printf(error,
	            "%s: cluster %s is made of functions, which only you can change; give SQL that "
	            "does it in mover.plproxy.%s.change_sql.  After it "
	            "plproxy.get_cluster_partitions('%s') has to return the new texts below, and "
	            "plproxy.get_cluster_version('%s') another number than %s:\n",
	            cluster->label, cluster->conf->cluster, cluster->conf->name,
	            cluster->conf->cluster, cluster->conf->cluster,
	            cluster->version == NULL ? "?" : cluster->version);
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		if (partition->cluster == cluster && partition->new != NULL)
			sbuf_printf(error, "  partition %d: '%s' becomes '%s'\n", partition->number,
			            partition->old, partition->new);
	}
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		if (partition->cluster == cluster && is_first_change(move, partition))
			suggest_updates(move, cluster, partition, error);
	}
}

/* What a server says it is; the same text from the target itself and through PL/Proxy.  The start
 * time tells two servers with the same system identifier apart. */
#define IDENTITY                                                                                   \
	"concat_ws(' ', (SELECT system_identifier FROM pg_catalog.pg_control_system()),"           \
	" extract(epoch FROM pg_catalog.pg_postmaster_start_time()),"                              \
	" CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'standby' ELSE 'primary' END)"

/* A cluster in a database that is moved itself, which the mover reaches past the routers: after the
 * promotion it would have to be changed in the target's copy. */
static bool moves_itself(struct move *move, struct plproxy *cluster)
{
	static const char sql[] =
	    "SELECT " IDENTITY " AS identity, pg_catalog.current_database() AS dbname";
	struct link *source = &move->source.link;
	struct link *link = &cluster->link;
	bool moves = false;

	if (router_at(move, cluster->conf->host, cluster->conf->port) != NULL ||
	    !link_run(&move->loop, link, ASK_TIMEOUT, sql) ||
	    !link_run(&move->loop, source, ASK_TIMEOUT, sql) ||
	    strcmp(link_value(link, 0, "identity"), link_value(source, 0, "identity")) != 0)
		return false;
	for (size_t i = 0; i < move->shard_count; i++)
		moves =
		    moves || strcmp(move->shards[i].dbname, link_value(link, 0, "dbname")) == 0;
	return moves;
}

static void change_sql(const struct move *move, const struct plproxy *cluster, struct sbuf *sql);

/* Whether the change can be made: tried, and taken back.  The mover may not own the server, an
 * event trigger may forbid it, the operator's change_sql of functions may be wrong; after the
 * promotion it would be late to learn that. */
static bool try_change(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	struct link *link = &cluster->link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	sbuf_add_str(&sql, "BEGIN; SET LOCAL lock_timeout = '2s'; ");
	change_sql(move, cluster, &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		sbuf_printf(error, "%s: the options of cluster %s cannot be changed: %s\n",
		            cluster->label, cluster->conf->cluster, link_error(link));
	if (link->state != LINK_IDLE || !link_run(&move->loop, link, ASK_TIMEOUT, "ROLLBACK"))
		link_close(link);
	return ok;
}

/* Reads the options of one cluster; a second time, too. */
static bool plan_cluster(struct move *move, struct plproxy *cluster, struct sbuf *error)
{
	struct link *link = &cluster->link;
	bool ok = false;

	drop_options(move, cluster);
	if (!plproxy_ask(&move->loop, link, cluster->conf->cluster, &cluster->functions))
		sbuf_printf(error, "%s: %s\n", cluster->label, link_error(link));
	else if (link_rows(link) == 0)
		sbuf_printf(error, "%s: database %s has no cluster %s, or it has no options\n",
		            cluster->label, cluster->conf->dbname, cluster->conf->cluster);
	else
		ok = take_options(move, cluster, error);
	if (ok && cluster->functions && !read_version(move, cluster)) {
		sbuf_printf(error, "%s: %s\n", cluster->label, link_error(link));
		ok = false;
	}
	if (ok && cluster->functions && has_changes(move, cluster) &&
	    cluster->conf->change_sql[0] == '\0') {
		explain_functions(move, cluster, error);
		ok = false;
	}
	if (ok && has_changes(move, cluster) && moves_itself(move, cluster)) {
		sbuf_printf(error,
		            "%s: database %s is moved itself, but mover.plproxy.%s leads to the old "
		            "server: let its host and port be those of a proxy, which follows\n",
		            cluster->label, cluster->conf->dbname, cluster->conf->name);
		ok = false;
	}
	if (ok && has_changes(move, cluster))
		ok = try_change(move, cluster, error);
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

void plproxy_statement(const struct move *move, const struct plproxy *cluster, bool inverse,
                       struct sbuf *out)
{
	bool first = true;

	if (!has_changes(move, cluster))
		return;
	if (cluster->functions) {
		sbuf_add_str(out, inverse ? "-- what change_sql did has to be taken back by hand"
		                          : cluster->conf->change_sql);
		return;
	}
	sbuf_add_str(out, "ALTER SERVER ");
	sql_identifier(out, cluster->conf->cluster);
	sbuf_add_str(out, " OPTIONS (");
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];

		if (partition->cluster != cluster || partition->new == NULL)
			continue;
		sbuf_add_str(out, first ? "SET " : ", SET ");
		sql_identifier(out, partition->option);
		sbuf_add_char(out, ' ');
		sql_literal(out, inverse ? partition->old : partition->new);
		first = false;
	}
	sbuf_add_char(out, ')');
}

/* "AND (LEFT = old OR LEFT = new)" for every partition; what LEFT is depends on the style. */
static void expect_sql(const struct move *move, const struct plproxy *cluster, bool only_new,
                       struct sbuf *body)
{
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];
		const char *texts[] = {partition->new, partition->old};

		if (partition->cluster != cluster || partition->new == NULL)
			continue;
		sbuf_add_str(body, " AND (false");
		for (size_t j = 0; j < (only_new ? 1 : 2); j++) {
			char *option = mem_must_printf("%s=%s", partition->option, texts[j]);

			sbuf_add_str(body, " OR ");
			sql_literal(body, cluster->functions ? texts[j] : option);
			if (cluster->functions)
				sbuf_printf(body, " = opts[%d]", partition->number + 1);
			else
				sbuf_add_str(body, " = ANY (opts)");
			free(option);
		}
		sbuf_add_char(body, ')');
	}
}

static void add_do(struct sbuf *sql, struct sbuf *body)
{
	sbuf_add_str(sql, "DO ");
	sql_literal(sql, sbuf_text(body));
	sbuf_add_str(sql, "; ");
}

/*
 * One transaction: the row is locked, the options must still be what the plan saw (or already what
 * they shall be), then they are set.  Other options may have changed and are kept.
 */
static void change_options_sql(const struct move *move, const struct plproxy *cluster,
                               struct sbuf *sql)
{
	struct sbuf body;
	struct sbuf alter;

	sbuf_init(&body, PLPROXY_SQL_MAX);
	sbuf_init(&alter, PLPROXY_SQL_MAX);
	sbuf_add_str(&body, "DECLARE opts text[]; BEGIN SELECT srvoptions INTO opts FROM"
	                    " pg_foreign_server WHERE srvname = ");
	sql_literal(&body, cluster->conf->cluster);
	sbuf_add_str(&body, " FOR UPDATE; IF NOT (true");
	expect_sql(move, cluster, false, &body);
	sbuf_add_str(&body, ") THEN RAISE EXCEPTION 'the options of the shard were changed by"
	                    " somebody else: %', opts; END IF; EXECUTE ");
	plproxy_statement(move, cluster, false, &alter);
	sql_literal(&body, sbuf_text(&alter));
	sbuf_add_str(&body, "; END");
	add_do(sql, &body);
	sbuf_free(&alter);
	sbuf_free(&body);
}

/* The same for functions: what they return is compared before and after the operator's statements.
 * These are executed by a block, which refuses a COMMIT among them. */
static void change_functions_sql(const struct move *move, const struct plproxy *cluster,
                                 struct sbuf *sql)
{
	sbuf_add_str(sql, USUAL_PATH);
	for (int after = 0; after < 2; after++) {
		struct sbuf body;

		sbuf_init(&body, PLPROXY_SQL_MAX);
		sbuf_add_str(&body, "DECLARE opts text[]; BEGIN opts := ARRAY(SELECT part FROM"
		                    " plproxy.get_cluster_partitions(");
		sql_literal(&body, cluster->conf->cluster);
		sbuf_add_str(&body,
		             ") WITH ORDINALITY AS parts (part, n) ORDER BY n); IF NOT (true");
		expect_sql(move, cluster, after == 1, &body);
		sbuf_printf(&body, ") THEN RAISE EXCEPTION '%s: %%', opts; END IF; ",
		            after == 1 ? "change_sql did not make the partitions lead to the target"
		                       : "the partitions were changed by somebody else");
		if (after == 1 && cluster->version != NULL) {
			sbuf_add_str(&body, "IF plproxy.get_cluster_version(");
			sql_literal(&body, cluster->conf->cluster);
			sbuf_add_str(&body, ")::text = ");
			sql_literal(&body, cluster->version);
			sbuf_add_str(&body, " THEN RAISE EXCEPTION 'change_sql did not change"
			                    " plproxy.get_cluster_version(): nobody would notice';"
			                    " END IF; ");
		}
		sbuf_add_str(&body, "END");
		add_do(sql, &body);
		sbuf_free(&body);
		if (after == 0) {
			sbuf_init(&body, PLPROXY_SQL_MAX);
			sbuf_add_str(&body, "BEGIN EXECUTE ");
			sql_literal(&body, cluster->conf->change_sql);
			sbuf_add_str(&body, "; END");
			add_do(sql, &body);
			sbuf_free(&body);
		}
	}
}

static void change_sql(const struct move *move, const struct plproxy *cluster, struct sbuf *sql)
{
	if (cluster->functions)
		change_functions_sql(move, cluster, sql);
	else
		change_options_sql(move, cluster, sql);
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
		/* Not again after our own exception (the options are not what the plan saw), nor
		 * when the statement itself is wrong. */
		while (!repair_cluster(move, cluster, &error) && clock_now() < deadline &&
		       strcmp(cluster->link.sqlstate, "P0001") != 0 &&
		       strncmp(cluster->link.sqlstate, "42", 2) != 0) {
			loop_sleep(&move->loop, TRY_EVERY);
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

static void verify_sql(const struct partition *partition, const char *role, struct sbuf *sql)
{
	struct sbuf body;

	/* PL/Proxy logs in by the user mapping of the calling role, which the administrator often
	 * has not; the function is called as somebody who has.  What nobody else sees is nothing for
	 * event triggers, which may forbid DDL. */
	sbuf_init(&body, 8192);
	sbuf_add_str(&body, " CLUSTER ");
	sql_literal(&body, partition->cluster->conf->cluster);
	sbuf_printf(&body, "; RUN ON %d; SELECT " IDENTITY "; ", partition->number);
	sbuf_add_str(sql,
	             "BEGIN; SELECT set_config('session_replication_role', 'replica', true) FROM"
	             " pg_roles WHERE rolname = current_user AND rolsuper;"
	             " CREATE FUNCTION pg_temp.pgshunt_where() RETURNS text LANGUAGE plproxy"
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

/* Calls through one partition; nothing of it stays.  The identity of where it landed, NULL if it
 * failed. */
static char *call(struct move *move, const struct partition *partition, struct link *link)
{
	char *role = mapped_role(move, partition->cluster, link);
	char *identity = NULL;
	struct sbuf sql;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	verify_sql(partition, role, &sql);
	free(role);
	if (link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql)))
		identity = mem_must_strdup(link_value(link, 0, "identity"));
	sbuf_free(&sql);
	return identity;
}

/* The end of the transaction that call() leaves open. */
static bool end_call(struct move *move, struct link *link)
{
	return link->state == LINK_IDLE && link_run(&move->loop, link, ASK_TIMEOUT, "ROLLBACK");
}

/* Judges the identity that call() brought; frees it. */
static bool judge_call(struct move *move, const struct partition *partition,
                       const struct link *link, const char *session, char *identity,
                       const char *expected)
{
	bool ok = identity != NULL && strcmp(identity, expected) == 0;

	if (identity == NULL)
		move_problem(move, "%s: a call through partition %d in %s session failed: %s",
		             link->name, partition->number, session, link_error(link));
	else if (!ok)
		move_problem(move,
		             "%s: a call through partition %d in %s session lands on \"%s\", %s is "
		             "\"%s\"",
		             link->name, partition->number, session, identity,
		             move->target.conf->name, expected);
	free(identity);
	return ok;
}

/* A server that is not there may just be starting again: it is tried until the deadline. */
static bool verify_in_new_session(struct move *move, const struct partition *partition,
                                  const char *expected, usec_t deadline)
{
	struct link link;
	struct link *only = &link;
	struct sbuf error;
	char *identity = NULL;
	bool connected;
	bool ok = false;

	sbuf_init(&error, PLPROXY_SQL_MAX);
	link_init(&link, partition->cluster->label, &partition->cluster->link.target);
	for (;;) {
		connected = links_connect(&move->loop, &only, 1,
		                          move->config->mover.connect_timeout, &error);
		if (connected)
			identity = call(move, partition, only);
		if (link.state != LINK_BROKEN || clock_now() >= deadline || move_stopped(move))
			break;
		sbuf_reset(&error);
		loop_sleep(&move->loop, TRY_EVERY);
	}
	if (connected)
		ok = judge_call(move, partition, only, "a new", identity, expected);
	else
		move_problem(move, "%s", sbuf_text(&error));
	sbuf_free(&error);
	link_close(only);
	return ok;
}

/* In a session from before the move.  One that has ended meanwhile, as all do when the server is
 * started again, has nothing left that could lead to the old place. */
static bool verify_in_old_session(struct move *move, const struct partition *partition,
                                  const char *expected)
{
	struct plproxy *cluster = partition->cluster;
	struct link *probe = &cluster->probe;
	char *identity;
	bool ok;

	if (!cluster->probed)
		return true;
	identity = call(move, partition, probe);
	if (probe->state == LINK_BROKEN) {
		cluster->probed = false;
		ui_line(move->ui,
		        "  PL/Proxy: %s: the session from before the move has ended (%s); calls "
		        "are checked in new ones",
		        probe->name, link_error(probe));
		free(identity);
		return true;
	}
	ok = judge_call(move, partition, probe, "an old", identity, expected);
	(void)!end_call(move, probe);
	return ok;
}

/* Options with the same text share a connection: one call is enough. */
static bool is_first_of_text(const struct move *move, const struct partition *partition)
{
	for (const struct partition *at = move->partitions; at < partition; at++) {
		if (at->cluster == partition->cluster && strcmp(at->old, partition->old) == 0)
			return false;
	}
	return true;
}

static void keep_statement(struct move *move, const struct plproxy *cluster, bool inverse)
{
	char *name =
	    mem_must_printf("plproxy-%s%s.sql", cluster->conf->name, inverse ? ".undo" : "");
	struct sbuf sql;

	sbuf_init(&sql, PLPROXY_SQL_MAX);
	plproxy_statement(move, cluster, inverse, &sql);
	sbuf_add_str(&sql, ";\n");
	if (!journal_save(&move->journal, name, sbuf_text(&sql)))
		ui_error(move->ui, "%s could not be written to %s", name, move->journal.directory);
	sbuf_free(&sql);
	free(name);
}

void plproxy_prepare(struct move *move)
{
	for (size_t i = 0; i < move->cluster_count; i++) {
		struct plproxy *cluster = &move->clusters[i];

		if (move->journal.directory != NULL && has_changes(move, cluster)) {
			keep_statement(move, cluster, false);
			keep_statement(move, cluster, true);
		}
		link_init(&cluster->probe, cluster->label, &cluster->link.target);
	}
	for (size_t i = 0; i < move->partition_count; i++) {
		const struct partition *partition = &move->partitions[i];
		struct plproxy *cluster = partition->cluster;
		char *identity;

		if (!is_first_of_text(move, partition) || !link_revive(move, &cluster->probe))
			continue;
		identity = call(move, partition, &cluster->probe);
		cluster->probed = identity != NULL;
		if (identity == NULL)
			ui_error(move->ui,
			         "prepare: %s: a call through partition %d fails already: %s",
			         cluster->label, partition->number, link_error(&cluster->probe));
		free(identity);
		if (!end_call(move, &cluster->probe))
			cluster->probed = false;
	}
}

/* Sessions that began a transaction before the change still go to the old place once; the fence
 * makes that an error.  Those behind a pgbouncer of ours are recycled. */
static void recycle(struct move *move)
{
	int64_t recycled = 0;
	int64_t old = 0;

	for (size_t i = 0; i < move->cluster_count; i++) {
		struct plproxy *cluster = &move->clusters[i];
		struct link *link = &cluster->link;

		if (!has_changes(move, cluster) || !cluster->done)
			continue;
		recycled += bouncers_reconnect(move, cluster->conf->host, cluster->conf->port,
		                               cluster->conf->dbname);
		if (link_revive(move, link) &&
		    link_run(&move->loop, link, ASK_TIMEOUT,
		             "SELECT count(*) AS old FROM pg_stat_activity WHERE datname ="
		             " current_database() AND backend_type = 'client backend' AND"
		             " application_name NOT LIKE 'pgshunt%' AND xact_start <"
		             " clock_timestamp() - interval '5 seconds'"))
			old += link_number(link, 0, "old", 0);
	}
	json_int(&move->evidence, "plproxy_recycled", recycled);
	if (old > 0)
		ui_line(move->ui,
		        "  PL/Proxy: %" PRId64 " transactions may be older than the change: their "
		        "next call goes to the old place and fails there",
		        old);
}

bool plproxy_verify(struct move *move, usec_t deadline)
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

		if (!is_first_of_text(move, partition) || partition->shard->gone)
			continue;
		calls++;
		ok = verify_in_new_session(move, partition, expected, deadline) && ok;
		ok = verify_in_old_session(move, partition, expected) && ok;
	}
	recycle(move);
	json_int(&move->evidence, "plproxy_calls", calls);
	free(expected);
	return ok;
}
