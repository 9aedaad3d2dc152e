/* SPDX-License-Identifier: PostgreSQL */
/*
 * Check of the sessions in the shards: which of them no router of ours has opened?  Nobody holds
 * those; the move ends them.
 */
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/pgbouncer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BYPASS_SQL_MAX ((size_t)4 * 1024 * 1024)
#define SHOWN_MAX 10

struct known {
	int64_t *pids;
	size_t count;
};

static void know(struct known *known, int64_t pid)
{
	known->pids = mem_must_grow(known->pids, known->count + 1, sizeof(*known->pids));
	known->pids[known->count++] = pid;
}

static int by_value(const void *left, const void *right)
{
	int64_t a = *(const int64_t *)left;
	int64_t b = *(const int64_t *)right;

	return a < b ? -1 : a > b;
}

/* The server processes of every proxy's connections.  A process number of another server costs at
 * most a session that is not named. */
static bool ask_routers(struct checks *checks, struct known *known)
{
	struct move *move = checks->move;

	for (size_t i = 0; i < move->proxy_count; i++) {
		struct link *link = &move->proxies[i].status;

		if (!check_query(checks, CHECK_BYPASS, link, "SHOW SERVERS"))
			return false;
		for (int row = 0; row < link_rows(link); row++) {
			const char *server = link_value(link, row, "server");

			if (server != NULL && strcmp(server, move->source.conf->name) == 0)
				know(known, link_number(link, row, "remote_pid", 0));
		}
	}
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct link *link = &move->bouncers[i].control;

		if (!check_query(checks, CHECK_BYPASS, link, "SHOW SERVERS"))
			return false;
		for (int row = 0; row < link_rows(link); row++) {
			const char *database = link_value(link, row, "database");

			if (database != NULL && bouncer_holds(move, &move->bouncers[i], database))
				know(known, link_number(link, row, "remote_pid", 0));
		}
	}
	return true;
}

static bool is_known(const struct known *known, int64_t pid)
{
	return known->count > 0 &&
	       bsearch(&pid, known->pids, known->count, sizeof(pid), by_value) != NULL;
}

static void show_strangers(struct checks *checks, const struct known *known)
{
	const struct link *source = &checks->move->source.link;
	int64_t same = 0;
	int64_t all = 0;
	int shown = 0;

	/* The rows are sorted: those that look alike are counted together. */
	for (int row = 0; row < link_rows(source); row++) {
		const char *look = link_value(source, row, "look");
		const char *next =
		    row + 1 < link_rows(source) ? link_value(source, row + 1, "look") : NULL;

		if (!is_known(known, link_number(source, row, "pid", 0)))
			same++;
		if (next != NULL && strcmp(look, next) == 0)
			continue;
		all += same;
		if (same > 0 && shown++ < SHOWN_MAX)
			check_find(checks, CHECK_BYPASS, CHECK_WARN, "%" PRId64 " sessions: %s",
			           same, look);
		same = 0;
	}
	if (shown > SHOWN_MAX)
		check_find(checks, CHECK_BYPASS, CHECK_WARN,
		           "and others, %" PRId64 " sessions in all", all);
	check_pass(checks, CHECK_BYPASS, "%d sessions", link_rows(source));
}

void check_bypass(struct checks *checks)
{
	struct move *move = checks->move;
	struct known known = {0};
	struct sbuf sql;

	sbuf_init(&sql, BYPASS_SQL_MAX);
	sbuf_add_str(&sql, "SELECT pid, 'database ' || datname || ', user ' || usename ||"
	                   " ', application \"' || application_name || '\", from ' ||"
	                   " coalesce(host(client_addr), 'the same machine') AS look FROM"
	                   " pg_stat_activity WHERE backend_type = 'client backend' AND"
	                   " application_name NOT LIKE 'pgshunt%' AND datname IN ");
	shards_literals(move, &sql);
	sbuf_add_str(&sql, " ORDER BY look, pid");
	/* Asked before and after, because connections come and go. */
	if (ask_routers(checks, &known) &&
	    check_query(checks, CHECK_BYPASS, &move->source.link, sbuf_text(&sql)) &&
	    ask_routers(checks, &known)) {
		if (known.count > 0)
			qsort(known.pids, known.count, sizeof(*known.pids), by_value);
		show_strangers(checks, &known);
	}
	sbuf_free(&sql);
	free(known.pids);
}
