/* SPDX-License-Identifier: PostgreSQL */
/*
 * See prepared.h.  Only a session in its database can roll a prepared transaction back, and these
 * databases are closed.  So they are opened for the moment in which our session logs in, and with a
 * setting that ends every other one at its login, superusers' too: a library to be loaded that is
 * not there.  The intent is on disk before; whoever resumes closes what was left so.
 */
#include "migrate/prepared.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define PREPARED_SQL_MAX ((size_t)4 * 1024 * 1024)
#define NAMES_SHOWN 10
#define BAR "local_preload_libraries"
#define BAR_VALUE "pgshunt_closed"

/* One of them in a copy out of use. */
struct prepared {
	char *dbname;
	char *gid; /* NULL: none, but the database was left open for us */
	bool open;
	bool ours; /* it has our setting: we, or a mover that died, have opened it */
};

void prepared_sql(const struct move *move, struct sbuf *out)
{
	sbuf_add_str(out, "(SELECT json_agg(json_build_object('gid', gid, 'owner', owner,"
	                  " 'database', database, 'xid', transaction::text::bigint,"
	                  " 'prepared', prepared::text) ORDER BY prepared) FROM"
	                  " pg_prepared_xacts WHERE database IN ");
	shards_literals(move, out);
	sbuf_add_char(out, ')');
}

bool prepared_keep(struct move *move, const char *list)
{
	struct sbuf data;
	bool ok;

	if (list == NULL)
		return true;
	free(move->prepared);
	move->prepared = mem_must_strdup(list);
	sbuf_init(&data, PREPARED_SQL_MAX);
	json_raw(&data, "list", list);
	ok = journal_write(&move->journal, "outcome", "prepared", sbuf_text(&data), false);
	sbuf_free(&data);
	return ok || move_fail(move, "the journal could not be written");
}

void prepared_print(struct move *move)
{
	struct json *list = move->prepared == NULL ? NULL : json_parse(move->prepared);
	int64_t count = 0;
	struct sbuf text;

	sbuf_init(&text, PREPARED_SQL_MAX);
	for (const struct json *at = list == NULL ? NULL : list->first; at != NULL; at = at->next) {
		if (count < NAMES_SHOWN)
			sbuf_printf(&text, "%s%s of %s", count == 0 ? "" : ", ",
			            json_text(at, "gid"), json_text(at, "owner"));
		count++;
	}
	if (count > 0)
		ui_line(move->ui, "  prepared transactions of the shards: %" PRId64 " (%s%s)", count,
		        sbuf_text(&text), count > NAMES_SHOWN ? ", …; the report has all" : "");
	sbuf_free(&text);
	json_free(list);
}

uint64_t prepared_first(const struct journal_records *records, uint64_t xid)
{
	uint32_t back = 0;

	for (const struct json *at = records->first; at != NULL; at = at->next) {
		const struct json *list = json_get(json_get(at, "data"), "list");

		if (list == NULL || strcmp(json_text(at, "phase"), "prepared") != 0)
			continue;
		for (const struct json *of = list->first; of != NULL; of = of->next) {
			/* Numbers wrap around: what counts is the distance. */
			uint32_t before = (uint32_t)xid - (uint32_t)json_number(of, "xid", 0);

			back = before > back ? before : back;
		}
	}
	return xid - back;
}

/* ---- ending them ---- */

static void free_list(struct prepared *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(list[i].dbname);
		free(list[i].gid);
	}
	free(list);
}

/* Those in these databases, a list in parentheses; those of one stand together. */
static bool read_list(struct move *move, struct link *link, const char *names,
                      struct prepared **list, size_t *count)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PREPARED_SQL_MAX);
	sbuf_printf(
	    &sql,
	    "SELECT * FROM (SELECT d.datname, p.gid, d.datallowconn AS open, EXISTS (SELECT"
	    " FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = 0 AND '" BAR
	    "=" BAR_VALUE "' = ANY (s.setconfig)) AS ours FROM pg_database d LEFT JOIN"
	    " pg_prepared_xacts p ON p.database = d.datname WHERE d.datname IN %s) l"
	    " WHERE gid IS NOT NULL OR ours ORDER BY 1, 2",
	    names);
	ok = link_revive(move, link) && link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	*list = NULL;
	*count = ok ? (size_t)link_rows(link) : 0;
	if (*count > 0)
		*list = mem_must_alloc(*count * sizeof(**list));
	for (size_t i = 0; i < *count; i++) {
		const char *gid = link_value(link, (int)i, "gid");

		(*list)[i] = (struct prepared){
		    .dbname = mem_must_strdup(link_value(link, (int)i, "datname")),
		    .gid = gid == NULL ? NULL : mem_must_strdup(gid),
		    .open = link_true(link, (int)i, "open"),
		    .ours = link_true(link, (int)i, "ours")};
	}
	return ok;
}

/* The database lets our session in, and nobody else; or nobody at all, and whoever is not `inside`
 * is ended. */
static bool set_open(struct move *move, struct link *link, const char *dbname, bool open,
                     const struct link *inside)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, PREPARED_SQL_MAX);
	sbuf_add_str(&sql, "ROLLBACK; BEGIN; SET LOCAL lock_timeout = '1s'; ALTER DATABASE ");
	sql_identifier(&sql, dbname);
	sbuf_add_str(&sql, open ? " SET " BAR " = '" BAR_VALUE "'" : " RESET " BAR);
	sbuf_add_str(&sql, "; ALTER DATABASE ");
	sql_identifier(&sql, dbname);
	sbuf_printf(&sql, " ALLOW_CONNECTIONS %s; COMMIT", open ? "true" : "false");
	if (!open) {
		sbuf_printf(
		    &sql,
		    "; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <>"
		    " %d AND datname = ",
		    inside == NULL || inside->state != LINK_IDLE ? 0 : PQbackendPID(inside->conn));
		sql_literal(&sql, dbname);
	}
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		move_problem(move, "%s: database %s could not be %s: %s", link->name, dbname,
		             open ? "opened for ROLLBACK PREPARED" : "closed again",
		             link_error(link));
	return ok;
}

/* Whether the session is on the server that it shall be on: the other one has transactions of the
 * same names, which clients will commit. */
static bool is_right_server(struct move *move, struct link *inside, bool source)
{
	const char *system;
	int64_t timeline;

	if (!link_run(&move->loop, inside, ASK_TIMEOUT,
	              "SELECT (SELECT system_identifier FROM pg_control_system()) AS system,"
	              " CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name("
	              "pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline"))
		return false;
	system = link_value(inside, 0, "system");
	timeline = link_number(inside, 0, "timeline", 0);
	return system != NULL && move->system_identifier != NULL &&
	       strcmp(system, move->system_identifier) == 0 &&
	       (source ? timeline == move->old_timeline : timeline >= move->new_timeline);
}

static bool roll_back(struct move *move, struct link *inside, const struct prepared *list,
                      size_t count)
{
	struct sbuf sql;
	bool ok = true;

	sbuf_init(&sql, PREPARED_SQL_MAX);
	for (size_t i = 0; i < count && inside->state == LINK_IDLE; i++) {
		sbuf_reset(&sql);
		sbuf_add_str(&sql, "ROLLBACK PREPARED ");
		sql_literal(&sql, list[i].gid);
		if (link_run(&move->loop, inside, ASK_TIMEOUT, sbuf_text(&sql)))
			continue;
		move_problem(move, "%s, database %s: %s: %s", inside->name, list[i].dbname,
		             sbuf_text(&sql), link_error(inside));
		ok = false;
	}
	sbuf_free(&sql);
	return ok;
}

/* Those of one database, all of the list. */
static bool end_in(struct move *move, struct server *server, const struct prepared *list,
                   size_t count)
{
	const char *dbname = list[0].dbname;
	struct link_target target;
	struct link inside;
	bool ok;

	if (list[0].ours && !set_open(move, &server->link, dbname, false, NULL))
		return false;
	if (list[0].gid == NULL)
		return true;
	if (list[0].open && !list[0].ours) {
		move_problem(move,
		             "%s: its copy of database %s is open: the %zu transactions that are "
		             "prepared there are not rolled back",
		             server->link.name, dbname, count);
		return false;
	}
	server_target(server->conf, &target);
	target.dbname = dbname;
	target.options = " -c " BAR "=";
	link_init(&inside, server->conf->name, &target);
	if (!set_open(move, &server->link, dbname, true, NULL))
		return false;
	ok = link_revive(move, &inside);
	if (!ok)
		move_problem(move, "%s, database %s: %s", inside.name, dbname, link_error(&inside));
	ok = set_open(move, &server->link, dbname, false, &inside) && ok;
	if (ok && !is_right_server(move, &inside, server == &move->source)) {
		move_problem(move, "%s, database %s: this is not the server of the move",
		             inside.name, dbname);
		ok = false;
	}
	ok = ok && roll_back(move, &inside, list, count);
	link_close(&inside);
	return ok;
}

static bool end_on(struct move *move, struct server *server, const char *names, int64_t *ended)
{
	struct prepared *list;
	size_t count;
	struct sbuf data;
	bool all = true;
	bool ok = true;

	if (!read_list(move, &server->link, names, &list, &count)) {
		/* A source that is gone is no reason to call the move unfinished; cleanup sees
		 * them. */
		if (server == &move->source)
			return true;
		move_problem(move, "%s: %s", server->link.name, link_error(&server->link));
		return false;
	}
	sbuf_init(&data, 1024);
	json_str(&data, "server", server->conf->name);
	json_int(&data, "count", (int64_t)count);
	if (count > 0)
		ok = journal_write(&move->journal, "intent", "roll_back", sbuf_text(&data), true);
	if (!ok)
		move_problem(move,
		             "%s: prepared transactions are not rolled back: the journal could "
		             "not be written",
		             server->link.name);
	for (size_t i = 0, next; ok && i < count; i = next) {
		for (next = i + 1; next < count; next++) {
			if (strcmp(list[i].dbname, list[next].dbname) != 0)
				break;
		}
		all = end_in(move, server, list + i, next - i) && all;
	}
	ok = ok && all;
	if (count > 0 && ok &&
	    !journal_write(&move->journal, "outcome", "roll_back", sbuf_text(&data), false))
		move_problem(move, "the journal could not be written");
	sbuf_free(&data);
	for (size_t i = 0; ok && i < count; i++)
		*ended += list[i].gid != NULL;
	free_list(list, count);
	return ok;
}

bool prepared_end(struct move *move)
{
	int64_t on_source = 0;
	int64_t on_target = 0;
	struct sbuf names;
	bool ok = true;

	sbuf_init(&names, PREPARED_SQL_MAX);
	shards_literals(move, &names);
	if (!move->source_apart)
		ok = end_on(move, &move->source, sbuf_text(&names), &on_source);
	sbuf_reset(&names);
	for (size_t i = 0; i < move->other_count; i++) {
		sbuf_add_char(&names, i == 0 ? '(' : ',');
		sql_literal(&names, move->others[i]);
	}
	sbuf_add_char(&names, ')');
	if (move->other_count > 0)
		ok = end_on(move, &move->target, sbuf_text(&names), &on_target) && ok;
	sbuf_free(&names);
	if (on_source + on_target > 0) {
		json_int(&move->evidence, "prepared_ended_on_source", on_source);
		json_int(&move->evidence, "prepared_ended_on_target", on_target);
	}
	return ok;
}
