/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a server says about the copies of the shards, before anything is done to them or when it
 * could not be done: are they open, who is in the way.
 */
#include "migrate/fence_look.h"

#include "base/mem.h"
#include "migrate/move.h"
#include "migrate/seal.h"

#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (5 * USEC_PER_SEC)
#define LOOK_SQL_MAX ((size_t)4 * 1024 * 1024)
#define WHO_MAX ((size_t)16 * 1024)
/* Processes that are named; more would not be read. */
#define SHOWN_MAX "5"

/* Of a row of pg_stat_activity, which need not be there: what people know a process by. */
#define PROCESS_COLUMNS                                                                            \
	"p.pid, a.datname, a.usename, a.application_name, a.backend_type, a.state,"                \
	" extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds,"                   \
	" regexp_replace(left(a.query, 200), '\\s+', ' ', 'g') AS query"

/* A link that can be asked, which it may have to be waited for. */
static bool is_there(struct move *move, struct link *link)
{
	if (link->state == LINK_BUSY)
		(void)!loop_wait(&move->loop, &link, 1, clock_now() + USEC_PER_SEC, false);
	if (link->state == LINK_BUSY)
		link_close(link);
	return link_revive(move, link);
}

enum fence_state fence_look(struct move *move, struct server *server)
{
	struct link *link = &server->link;
	int there = 0;
	int open = 0;
	struct sbuf sql;
	bool ok;

	if (!is_there(move, link))
		return FENCE_UNKNOWN;
	sbuf_init(&sql, LOOK_SQL_MAX);
	sbuf_add_str(&sql, "SELECT s.recovery, s.system, d.datname, d.datallowconn FROM (SELECT"
	                   " pg_is_in_recovery() AS recovery, (SELECT system_identifier FROM"
	                   " pg_control_system()) AS system) s LEFT JOIN pg_database d ON"
	                   " d.datname IN ");
	shards_literals(move, &sql);
	ok = link_run(&move->loop, link, ASK_TIMEOUT, sbuf_text(&sql));
	sbuf_free(&sql);
	if (!ok)
		return FENCE_UNKNOWN;
	for (size_t i = 0; i < move->shard_count; i++)
		move->shards[i].absent = true;
	for (int row = 0; row < link_rows(link); row++) {
		const char *name = link_value(link, row, "datname");

		for (size_t i = 0; name != NULL && i < move->shard_count; i++) {
			if (strcmp(move->shards[i].dbname, name) == 0)
				move->shards[i].absent = false;
		}
		there += name != NULL ? 1 : 0;
		open += link_true(link, row, "datallowconn") ? 1 : 0;
	}
	if (link_true(link, 0, "recovery"))
		return FENCE_STANDBY;
	if (move->system_identifier != NULL && link_value(link, 0, "system") != NULL &&
	    strcmp(move->system_identifier, link_value(link, 0, "system")) != 0)
		return FENCE_STRANGER;
	return open == 0 ? FENCE_CLOSED : open == there ? FENCE_OPEN : FENCE_MIXED;
}

/* "process 123 (user app, application psql, …): UPDATE …". */
static void add_process(struct sbuf *out, const struct link *link, int row)
{
	static const struct {
		const char *title;
		const char *column;
	} parts[] = {{"user", "usename"},     {"application", "application_name"},
	             {"database", "datname"}, {"", "backend_type"},
	             {"", "state"},           {"seconds in its transaction:", "seconds"}};
	const char *pid = link_value(link, row, "pid");
	const char *query = link_value(link, row, "query");
	bool first = true;

	if (row > 0)
		sbuf_add_str(out, "; ");
	if (pid == NULL) {
		sbuf_add_str(out, "a prepared transaction (see pg_prepared_xacts)");
		return;
	}
	sbuf_printf(out, "process %s", pid);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		const char *value = link_value(link, row, parts[i].column);

		if (value == NULL || *value == '\0')
			continue;
		sbuf_printf(out, "%s%s%s%s", first ? " (" : ", ", parts[i].title,
		            *parts[i].title == '\0' ? "" : " ", value);
		first = false;
	}
	if (!first)
		sbuf_add_char(out, ')');
	if (query != NULL && *query != '\0')
		sbuf_printf(out, ": %s", query);
}

/* What the query says, as text; free it. */
static char *say_processes(struct move *move, struct link *link, const char *sql)
{
	struct sbuf text;
	char *said;

	sbuf_init(&text, WHO_MAX);
	/* A failed transaction may be open in the session. */
	if (link_run(&move->loop, link, ASK_TIMEOUT, "ROLLBACK") &&
	    link_run(&move->loop, link, ASK_TIMEOUT, sql)) {
		for (int row = 0; row < link_rows(link); row++)
			add_process(&text, link, row);
		if (link_rows(link) == 0)
			sbuf_add_str(&text, "whoever it was is gone by now");
	} else {
		sbuf_printf(&text, "who it is cannot be asked: %s", link_error(link));
	}
	said = mem_must_strdup(sbuf_text(&text));
	sbuf_free(&text);
	return said;
}

char *fence_lock_holders(struct move *move, struct link *link)
{
	/* Whoever has changed, or has locked, a row of pg_database has such a lock until the end of
	 * his transaction. */
	return say_processes(
	    move, link,
	    "SELECT " PROCESS_COLUMNS " FROM (SELECT DISTINCT pid FROM pg_locks WHERE locktype ="
	    " 'relation' AND relation = 'pg_database'::regclass AND granted AND mode <>"
	    " 'AccessShareLock' AND pid IS DISTINCT FROM pg_backend_pid()) p LEFT JOIN"
	    " pg_stat_activity a USING (pid) ORDER BY a.xact_start LIMIT " SHOWN_MAX);
}

char *fence_who_is_left(struct move *move, struct link *link)
{
	struct sbuf sql;
	char *said;

	sbuf_init(&sql, LOOK_SQL_MAX);
	sbuf_add_str(&sql,
	             "SELECT " PROCESS_COLUMNS " FROM (SELECT pid FROM pg_stat_activity a WHERE"
	             " backend_type <> 'autovacuum worker' AND datname IN ");
	shards_literals(move, &sql);
	seal_exclude(move, &sql);
	sbuf_add_str(&sql, " UNION SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid ="
	                   " l.objid WHERE l.locktype = 'object' AND l.classid ="
	                   " 'pg_database'::regclass AND l.pid <> pg_backend_pid() AND d.datname"
	                   " IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, ") p LEFT JOIN pg_stat_activity a USING (pid) WHERE a.application_name"
	                   " IS NULL OR a.application_name NOT LIKE 'pgshunt%' ORDER BY 1"
	                   " LIMIT " SHOWN_MAX);
	said = say_processes(move, link, sbuf_text(&sql));
	sbuf_free(&sql);
	return said;
}

/* Databases that a primary takes connections to, by name and oid: a copy has both. */
static bool ask_open(struct move *move, struct link *link)
{
	return is_there(move, link) &&
	       link_run(&move->loop, link, ASK_TIMEOUT,
	                "SELECT datname, oid || ' of ' || (SELECT system_identifier FROM"
	                " pg_control_system()) AS copy FROM pg_database WHERE NOT"
	                " pg_is_in_recovery() AND datallowconn AND NOT datistemplate AND"
	                " datconnlimit <> -2 AND datname NOT IN ('postgres', current_database()) "
	                "ORDER BY 1");
}

size_t fence_open_on_both(struct move *move, char ***names)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	char **copies = NULL;
	size_t known = 0;
	size_t count = 0;
	bool asked;

	*names = NULL;
	if (!ask_open(move, source))
		return 0;
	known = (size_t)link_rows(source);
	copies = mem_must_alloc((known + 1) * sizeof(*copies));
	for (size_t i = 0; i < known; i++)
		copies[i] = mem_must_printf("%s %s", link_value(source, (int)i, "datname"),
		                            link_value(source, (int)i, "copy"));
	asked = known > 0 && ask_open(move, target);
	for (int row = 0; asked && row < link_rows(target); row++) {
		const char *name = link_value(target, row, "datname");
		char *copy = mem_must_printf("%s %s", name, link_value(target, row, "copy"));
		bool both = false;

		for (size_t i = 0; i < known; i++)
			both = both || strcmp(copies[i], copy) == 0;
		free(copy);
		if (!both)
			continue;
		*names = mem_must_grow(*names, count + 1, sizeof(**names));
		(*names)[count++] = mem_must_strdup(name);
	}
	for (size_t i = 0; i < known; i++)
		free(copies[i]);
	free(copies);
	return count;
}

void fence_free_names(char **names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(names);
}
