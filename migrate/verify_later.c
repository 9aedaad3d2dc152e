/* SPDX-License-Identifier: PostgreSQL */
/*
 * The comparison after the mover's sessions are gone: its own way into the fenced copy.
 *
 * With CONNECTION LIMIT 0 the source lets superusers in and nobody else; the fence is open just for
 * the time that our sessions take to log in, and whoever else came in meanwhile is ended and named.
 * The intent is on disk before; should the program die in between, the next run closes the fence.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (10 * USEC_PER_SEC)
#define LATER_SQL_MAX ((size_t)1024 * 1024)

static bool fail(struct verify *verify, char *why)
{
	if (verify->failure == NULL)
		verify->failure = why;
	else
		free(why);
	return false;
}

static bool ask(struct verify *verify, const char *sql)
{
	struct link *link = &verify->move->source.link;

	return link_run(&verify->move->loop, link, ASK_TIMEOUT, sql) ||
	       fail(verify, mem_must_printf("%s: %s", link->name, link_error(link)));
}

/* Fences are closed, limits are remembered. */
static bool read_fences(struct verify *verify)
{
	struct link *link = &verify->move->source.link;
	struct sbuf sql;
	bool ok = true;

	for (size_t i = 0; ok && i < verify->shard_count; i++) {
		struct verify_shard *shard = &verify->shards[i];

		sbuf_init(&sql, LATER_SQL_MAX);
		sbuf_add_str(&sql,
		             "SELECT datallowconn, datconnlimit FROM pg_database WHERE datname = ");
		sql_literal(&sql, shard->dbname);
		ok = ask(verify, sbuf_text(&sql));
		sbuf_free(&sql);
		if (ok && link_rows(link) == 0)
			ok = fail(verify, mem_must_printf("%s has no database %s any more",
			                                  link->name, shard->dbname));
		else if (ok && link_true(link, 0, "datallowconn"))
			ok = fail(verify,
			          mem_must_printf("somebody lifted the fence of %s on %s: it may "
			                          "have been written to",
			                          shard->dbname, link->name));
		free(shard->old_limit);
		shard->old_limit = NULL;
		if (ok)
			shard->old_limit = mem_must_strdup(link_value(link, 0, "datconnlimit"));
	}
	return ok;
}

static bool set_fences(struct verify *verify, bool open)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, LATER_SQL_MAX);
	sbuf_add_str(&sql, "ROLLBACK;BEGIN;");
	for (size_t i = 0; i < verify->shard_count; i++) {
		const struct verify_shard *shard = &verify->shards[i];

		sbuf_add_str(&sql, "ALTER DATABASE ");
		sql_identifier(&sql, shard->dbname);
		sbuf_printf(&sql, " CONNECTION LIMIT %s;ALTER DATABASE ",
		            open || shard->old_limit == NULL ? "0" : shard->old_limit);
		sql_identifier(&sql, shard->dbname);
		sbuf_printf(&sql, " ALLOW_CONNECTIONS %s;", open ? "true" : "false");
	}
	sbuf_add_str(&sql, "COMMIT");
	ok = ask(verify, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

/* Whoever came in beside us. */
static bool end_strangers(struct verify *verify)
{
	struct link *link = &verify->move->source.link;
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, LATER_SQL_MAX);
	sbuf_add_str(&sql, "SELECT usename, application_name, client_addr,"
	                   " pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
	                   " backend_type = 'client backend' AND pid <> ALL (");
	verify_spared(verify->move, SOURCE, &sql);
	sbuf_add_str(&sql, ") AND datname IN ");
	shards_literals(verify->move, &sql);
	ok = ask(verify, sbuf_text(&sql));
	sbuf_free(&sql);
	if (ok && link_rows(link) > 0)
		ok = fail(verify,
		          mem_must_printf("%s, %s also entered the fenced copy on %s while it was "
		                          "open for superusers, and was ended: it may have been "
		                          "written to",
		                          link_value(link, 0, "usename"),
		                          link_value(link, 0, "application_name"), link->name));
	return ok;
}

/* An earlier run that died with the fence open. */
static bool close_left_open(struct verify *verify, const struct journal_records *records)
{
	const struct json *intent = journal_find(records, "intent", "verify");
	const struct json *outcome = journal_find(records, "outcome", "verify");

	if (json_number(intent, "seq", -1) <= json_number(outcome, "seq", -1))
		return true;
	for (size_t i = 0; i < verify->shard_count; i++) {
		free(verify->shards[i].old_limit);
		verify->shards[i].old_limit = mem_must_strdup("-1");
	}
	ui_error(verify->move->ui,
	         "verify: an earlier comparison left the fence open; it is closed");
	if (!set_fences(verify, false))
		return false;
	return end_strangers(verify);
}

bool verify_let_in(struct verify *verify, const struct journal_records *records)
{
	struct journal *journal = &verify->move->journal;
	bool ok;
	bool closed;

	if (!close_left_open(verify, records) || !read_fences(verify))
		return false;
	if (!report_who(verify->move) || !journal_write(journal, "intent", "verify", "", true))
		return fail(verify, mem_must_strdup("the journal could not be written"));
	ok = set_fences(verify, true) && verify_prepare(verify);
	closed = set_fences(verify, false);
	ok = end_strangers(verify) && ok;
	/* Without the outcome the next run closes it. */
	if (closed && !journal_write(journal, "outcome", "verify", "", true))
		ok = fail(verify, mem_must_strdup("the journal could not be written"));
	return ok && closed;
}
