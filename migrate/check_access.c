/* SPDX-License-Identifier: PostgreSQL */
/*
 * Checks of who will be let in on the target: by the rules of its pg_hba.conf for whoever is
 * connected to the source now, by real logins of the proxies, and by what the roles may do.
 */
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/identity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ACCESS_SQL_MAX ((size_t)8 * 1024 * 1024)
#define CLIENTS_MAX 1000
/* The proxies try for as long as their own connect_timeout and login_timeout. */
#define LOGIN_PATIENCE (60 * USEC_PER_SEC)
#define INSUFFICIENT_PRIVILEGE "42501"

/*
 * The first line of pg_hba.conf that fits a client, as PostgreSQL finds it: type, database, user,
 * address.  What SQL cannot know (host names, "samenet") counts as fitting, and is said to be
 * unsure.  A superuser is a member only of the roles he was made one of, hence not pg_has_role().
 */
static const char rules_sql[] =
    ", up(role, member) AS (SELECT oid, oid FROM pg_roles UNION SELECT m.roleid, u.member FROM"
    " pg_auth_members m JOIN up u ON u.role = m.member),"
    " rule AS (SELECT *, coalesce(address ~ '^[0-9A-Fa-f:.]+$' AND netmask IS NOT NULL, false)"
    " AS numeric, coalesce((to_jsonb(f) ->> 'rule_number')::int, line_number) AS place"
    " FROM pg_hba_file_rules f WHERE error IS NULL),"
    /* From 16 on a name that begins with / is a regular expression. */
    " expression(known) AS (SELECT current_setting('server_version_num')::int >= 160000)"
    " SELECT c.id, r.line_number, r.auth_method, r.unsure FROM client c LEFT JOIN LATERAL"
    " (SELECT r.line_number, r.auth_method, c.addr <> '' AND address <> 'all' AND address <>"
    " 'samehost' AND NOT numeric AS unsure FROM rule r, expression e WHERE CASE WHEN c.addr = ''"
    " THEN r.type = 'local' ELSE r.type IN ('host', 'hostnogssenc', CASE WHEN c.ssl THEN 'hostssl'"
    " ELSE 'hostnossl' END) END"
    " AND (r.database && ARRAY['all', c.db] OR ('sameuser' = ANY (r.database) AND c.db = c.usr)"
    " OR (e.known AND EXISTS (SELECT FROM unnest(r.database) x WHERE x LIKE '/%' AND"
    " c.db ~ substr(x, 2)))"
    " OR (r.database && ARRAY['samerole', 'samegroup'] AND EXISTS (SELECT FROM up JOIN pg_roles g"
    " ON g.oid = up.role JOIN pg_roles m ON m.oid = up.member WHERE g.rolname = c.db AND"
    " m.rolname = c.usr)))"
    " AND (r.user_name && ARRAY['all', c.usr] OR EXISTS (SELECT FROM up JOIN pg_roles g ON"
    " g.oid = up.role JOIN pg_roles m ON m.oid = up.member WHERE '+' || g.rolname ="
    " ANY (r.user_name) AND m.rolname = c.usr)"
    " OR (e.known AND EXISTS (SELECT FROM unnest(r.user_name) x WHERE x LIKE '/%' AND"
    " c.usr ~ substr(x, 2))))"
    " AND CASE WHEN c.addr = '' OR r.address = 'all' THEN true WHEN r.numeric THEN CASE WHEN"
    " family(c.addr::inet) = family(r.address::inet) THEN (c.addr::inet & r.netmask::inet) ="
    " (r.address::inet & r.netmask::inet) ELSE false END WHEN r.address = 'samehost' THEN"
    " c.addr = host(inet_server_addr()) ELSE true END"
    " ORDER BY r.place LIMIT 1) r ON true ORDER BY c.id";

/* Somebody who is connected to the source. */
struct hba_client {
	char *address; /* "" = Unix socket */
	char *user;
	char *dbname;
	bool ssl;
	char *method; /* by which the source lets him in, NULL = unknown */
};

struct hba_clients {
	struct hba_client *list;
	size_t count;
};

static bool find_clients(struct checks *checks, struct hba_clients *clients)
{
	struct move *move = checks->move;
	struct link *source = &move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, ACCESS_SQL_MAX);
	sbuf_add_str(&sql,
	             "SELECT DISTINCT coalesce(host(a.client_addr), '') AS address, a.usename,"
	             " a.datname, coalesce(s.ssl, false) AS ssl FROM pg_stat_activity a LEFT"
	             " JOIN pg_stat_ssl s ON s.pid = a.pid WHERE a.backend_type ="
	             " 'client backend' AND a.application_name NOT LIKE 'pgshunt%' AND"
	             " a.datname IN ");
	shards_literals(move, &sql);
	sbuf_printf(&sql, " ORDER BY 1, 2, 3 LIMIT %d", CLIENTS_MAX);
	ok = check_query(checks, CHECK_HBA, source, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return false;
	clients->count = (size_t)link_rows(source);
	clients->list = mem_must_alloc((clients->count + 1) * sizeof(*clients->list));
	for (size_t i = 0; i < clients->count; i++)
		clients->list[i] = (struct hba_client){
		    .address = mem_must_strdup(link_value(source, (int)i, "address")),
		    .user = mem_must_strdup(link_value(source, (int)i, "usename")),
		    .dbname = mem_must_strdup(link_value(source, (int)i, "datname")),
		    .ssl = link_true(source, (int)i, "ssl")};
	return true;
}

/* The address with which he will come to the target: who is on the source's own machine now will
 * come from it, unless the target is on that machine too. */
static const char *address_there(const struct move *move, const struct hba_client *client)
{
	const char *source = PQhostaddr(move->source.link.conn);
	const char *target = PQhostaddr(move->target.link.conn);
	bool from_itself = *client->address == '\0' || strcmp(client->address, "::1") == 0 ||
	                   strncmp(client->address, "127.", 4) == 0;

	if (!from_itself || source == NULL || target == NULL || *source == '\0' ||
	    strcmp(source, target) == 0 || strncmp(source, "127.", 4) == 0)
		return client->address;
	return source;
}

static void clients_sql(const struct move *move, const struct hba_clients *clients, bool there,
                        struct sbuf *sql)
{
	sbuf_add_str(sql, "WITH RECURSIVE client(id, addr, usr, db, ssl) AS (VALUES ");
	for (size_t i = 0; i < clients->count; i++) {
		const struct hba_client *client = &clients->list[i];

		sbuf_printf(sql, "%s(%zu, ", i == 0 ? "" : ",", i);
		sql_literal(sql, there ? address_there(move, client) : client->address);
		sbuf_add_char(sql, ',');
		sql_literal(sql, client->user);
		sbuf_add_char(sql, ',');
		sql_literal(sql, client->dbname);
		sbuf_printf(sql, ",%s)", client->ssl ? "true" : "false");
	}
	sbuf_printf(sql, ")%s", rules_sql);
}

static void judge_client(struct checks *checks, const struct hba_client *client, int row)
{
	const struct link *target = &checks->move->target.link;
	const char *address = address_there(checks->move, client);
	const char *from = *address == '\0' ? "its own machine" : address;
	const char *method = link_value(target, row, "auth_method");
	const char *line = link_value(target, row, "line_number");

	if (method == NULL || strcmp(method, "reject") == 0)
		check_find(checks, CHECK_HBA, CHECK_REFUSE,
		           "pg_hba.conf of %s does not admit user %s from %s to %s (%s%s)",
		           target->name, client->user, from, client->dbname,
		           method == NULL ? "no line fits" : "reject in line ",
		           method == NULL ? "" : line);
	else if (link_true(target, row, "unsure"))
		check_find(checks, CHECK_HBA, CHECK_WARN,
		           "pg_hba.conf of %s: whether line %s fits user %s from %s cannot be "
		           "foreseen",
		           target->name, line, client->user, from);
	else if (client->method != NULL && strcmp(method, client->method) != 0)
		check_find(checks, CHECK_HBA, CHECK_WARN,
		           "pg_hba.conf of %s wants %s of user %s from %s (line %s), %s wants %s",
		           target->name, method, client->user, from, line,
		           checks->move->source.link.name, client->method);
}

/* Lines that are wrong, or not in force yet. */
static void check_hba_file(struct checks *checks)
{
	struct link *target = &checks->move->target.link;

	if (!check_query(checks, CHECK_HBA, target,
	                 "SELECT (SELECT min(line_number || ': ' || error) FROM pg_hba_file_rules"
	                 " WHERE error IS NOT NULL) AS error,"
	                 " (pg_stat_file(current_setting('hba_file'))).modification >"
	                 " pg_conf_load_time() AS newer"))
		return;
	if (link_value(target, 0, "error") != NULL)
		check_find(checks, CHECK_HBA, CHECK_WARN, "pg_hba.conf of %s, line %s",
		           target->name, link_value(target, 0, "error"));
	else if (link_true(target, 0, "newer"))
		check_find(checks, CHECK_HBA, CHECK_WARN,
		           "pg_hba.conf of %s was changed after it was loaded", target->name);
}

static void check_hba(struct checks *checks)
{
	struct move *move = checks->move;
	struct hba_clients clients = {0};
	struct sbuf sql;

	check_hba_file(checks);
	if (!find_clients(checks, &clients))
		return;
	sbuf_init(&sql, ACCESS_SQL_MAX);
	clients_sql(move, &clients, false, &sql);
	if (clients.count > 0 &&
	    check_query(checks, CHECK_HBA, &move->source.link, sbuf_text(&sql))) {
		for (size_t i = 0; i < clients.count; i++)
			clients.list[i].method =
			    mem_must_strdup(link_value(&move->source.link, (int)i, "auth_method"));
		sbuf_reset(&sql);
		clients_sql(move, &clients, true, &sql);
		if (check_query(checks, CHECK_HBA, &move->target.link, sbuf_text(&sql))) {
			for (size_t i = 0; i < clients.count; i++)
				judge_client(checks, &clients.list[i], (int)i);
		}
	}
	check_pass(checks, CHECK_HBA, "%zu different users and addresses%s", clients.count,
	           clients.count == 0 ? ": nobody is connected now" : "");
	sbuf_free(&sql);
	for (size_t i = 0; i < clients.count; i++) {
		free(clients.list[i].address);
		free(clients.list[i].user);
		free(clients.list[i].dbname);
		free(clients.list[i].method);
	}
	free(clients.list);
}

/* ---- logins of the proxies ---- */

static void trial_sql(const struct move *move, const struct route *route, struct sbuf *sql)
{
	sbuf_add_str(sql, "PREPARE SWAP ");
	sql_identifier(sql, route->database);
	sbuf_add_str(sql, " TO ");
	sql_identifier(sql, move->target.conf->name);
	sbuf_add_str(sql, " TRIAL");
}

/* Whether the proxy went to the server that is meant; its answer is there. */
static void judge_server(struct checks *checks, const struct route *route,
                         const struct server_start *target)
{
	struct sbuf why;

	sbuf_init(&why, 4096);
	if (!identity_same(checks->move, route, target, &why))
		check_find(checks, CHECK_SAME_TARGET, CHECK_REFUSE, "%s", sbuf_text(&why));
	sbuf_free(&why);
}

static void judge_logins(struct checks *checks, struct route *route,
                         const struct server_start *target, int64_t *opened)
{
	struct link *link = &route->link;
	int64_t failed = link_number(link, 0, "failed", 0);

	if (link_ok(link))
		judge_server(checks, route, target);

	*opened += link_number(link, 0, "connections", 0);
	if (!link_ok(link))
		check_find(checks, CHECK_LOGINS, CHECK_REFUSE, "%s, database %s: %s",
		           route->proxy->label, route->database, link_error(link));
	else if (failed > 0 || link->notice != NULL)
		check_find(checks, CHECK_LOGINS, CHECK_REFUSE,
		           "%s, database %s: %" PRId64 " of %" PRId64 " logins failed: %s",
		           route->proxy->label, route->database, failed,
		           failed + link_number(link, 0, "connections", 0),
		           link->notice == NULL ? "see its log" : link->notice);
	else if (link_number(link, 0, "connections", 0) == 0)
		check_find(checks, CHECK_LOGINS, CHECK_WARN,
		           "%s, database %s: no client has been there, so no login could be tried",
		           route->proxy->label, route->database);
	if (strcmp(link->sqlstate, INSUFFICIENT_PRIVILEGE) == 0)
		check_find(checks, CHECK_CONSOLE, CHECK_REFUSE, "%s: %s", route->proxy->label,
		           link_error(link));
	/* One that has not answered ends its trial when the console leaves. */
	if (link->state == LINK_BUSY)
		link_close(link);
	if (!link_revive(checks->move, link))
		check_find(checks, CHECK_CONSOLE, CHECK_REFUSE, "%s: %s", route->proxy->label,
		           link_error(link));
}

/* Every pool of every proxy logs in to the target once. */
static void check_logins(struct checks *checks)
{
	struct move *move = checks->move;
	struct link **links;
	struct server_start target;
	int64_t opened = 0;

	/* A swap that somebody else prepared is in the way. */
	if (checks->results[CHECK_HOLDS] == CHECK_REFUSE ||
	    checks->results[CHECK_ROUTES] == CHECK_REFUSE)
		return;
	links = mem_must_alloc((move->route_count + 1) * sizeof(struct link *));
	for (size_t i = 0; i < move->route_count; i++) {
		struct sbuf sql;

		links[i] = &move->routes[i].link;
		sbuf_init(&sql, 4096);
		trial_sql(move, &move->routes[i], &sql);
		link_send(links[i], sbuf_text(&sql));
		sbuf_free(&sql);
		loop_apart(&move->loop, links[i]);
	}
	(void)!loop_wait(&move->loop, links, move->route_count, clock_now() + LOGIN_PATIENCE, true);
	free(links);
	if (!identity_read(move, &target)) {
		check_find(checks, CHECK_SAME_TARGET, CHECK_REFUSE, "%s cannot be asked: %s",
		           move->target.link.name, link_error(&move->target.link));
		return;
	}
	for (size_t i = 0; i < move->route_count; i++)
		judge_logins(checks, &move->routes[i], &target, &opened);
	check_pass(checks, CHECK_SAME_TARGET, "%zu routes", move->route_count);
	if (move->route_count == 0)
		check_pass(checks, CHECK_LOGINS, "no proxy has the shards");
	check_pass(checks, CHECK_LOGINS, "%" PRId64 " logins succeeded", opened);
	check_pass(checks, CHECK_CONSOLE, "commands are taken");
}

/* ---- roles ---- */

/* The users whose pools the proxies have; what is on the source is on the target. */
static void check_roles(struct checks *checks)
{
	struct move *move = checks->move;
	struct link *target = &move->target.link;
	struct sbuf sql;
	int64_t users = 0;

	sbuf_init(&sql, ACCESS_SQL_MAX);
	sbuf_add_str(&sql, "WITH u(name, db) AS (VALUES ('', ''::text)");
	for (size_t i = 0; i < move->proxy_count; i++) {
		struct link *link = &move->proxies[i].status;

		if (!check_query(checks, CHECK_ROLES, link, "SHOW POOLS"))
			continue;
		for (int row = 0; row < link_rows(link); row++) {
			for (size_t j = 0; j < move->route_count; j++) {
				const struct route *route = &move->routes[j];

				if (route->proxy != &move->proxies[i] ||
				    strcmp(route->database, link_value(link, row, "database")) != 0)
					continue;
				sbuf_add_str(&sql, ",(");
				sql_literal(&sql, link_value(link, row, "user"));
				sbuf_add_char(&sql, ',');
				sql_literal(&sql, route->shard->dbname);
				sbuf_add_char(&sql, ')');
				users++;
			}
		}
	}
	sbuf_add_str(&sql,
	             ") SELECT DISTINCT u.name, u.db, r.oid IS NULL AS missing, r.rolcanlogin,"
	             " r.rolvaliduntil < now() AS expired, CASE WHEN r.oid IS NOT NULL AND"
	             " d.oid IS NOT NULL THEN has_database_privilege(r.oid, d.oid, 'CONNECT')"
	             " END AS may FROM u LEFT JOIN pg_roles r ON r.rolname = u.name LEFT JOIN"
	             " pg_database d ON d.datname = u.db WHERE u.db <> '' ORDER BY 1, 2");
	if (check_query(checks, CHECK_ROLES, target, sbuf_text(&sql))) {
		for (int row = 0; row < link_rows(target); row++) {
			const char *what =
			    link_true(target, row, "missing")        ? "does not exist"
			    : !link_true(target, row, "rolcanlogin") ? "may not log in"
			    : link_true(target, row, "expired")      ? "has a password that is no "
			                                               "longer valid"
			    : !link_true(target, row, "may") ? "may not connect to the database"
			                                     : NULL;

			if (what != NULL)
				check_find(checks, CHECK_ROLES, CHECK_WARN, "%s: user %s of %s %s",
				           target->name, link_value(target, row, "name"),
				           link_value(target, row, "db"), what);
		}
		check_pass(checks, CHECK_ROLES, "%" PRId64 " users of pools", users);
	}
	sbuf_free(&sql);
}

void check_access(struct checks *checks)
{
	check_logins(checks);
	check_roles(checks);
	check_hba(checks);
}
