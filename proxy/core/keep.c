/* SPDX-License-Identifier: PostgreSQL */
#include "core/keep.h"

#include "base/log.h"
#include "core/cancel.h"
#include "core/client.h"
#include "core/pool.h"
#include "core/server.h"
#include "core/tally.h"
#include "core/worker.h"
#include "session/stmts.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* How much of a message is waited for to find its first word. */
#define KEEP_LOOK ((size_t)4096)

const char keep_refusal[] =
    "current transaction is aborted, commands ignored until end of transaction block";

/* ---- at the deadline ---- */

/* The parameters are again what they were before the transaction. */
static void keep_restore_params(struct client *client, const struct server *server)
{
	struct worker *worker = client->worker;
	struct param_set *before = server->change.before;
	struct sbuf out;

	if (before == NULL || before == client->params)
		return;
	sbuf_init(&out, PARAM_MAX_SQL);
	if (param_set_write_status_diff(before, client->params, &out) > 0 && !sbuf_ok(&out))
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else if (out.len > 0 && conn_send_copy(&worker->to_client, &client->conn, worker,
	                                       sbuf_text(&out), out.len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
	param_set_replace(&client->params, param_set_ref(before));
}

/* In the middle of an extended request nothing but an error says that it has ended. */
static void keep_end_batch(struct client *client, const struct server *server)
{
	const struct wire_error error = {
	    .severity = "ERROR",
	    .sqlstate = "57014",
	    .message = "canceling statement because the database is being moved",
	    .detail = "The transaction was ended at the drain deadline."};
	struct worker *worker = client->worker;
	struct sbuf out;

	client->discard_to_sync = true;
	if (server->ledger.skipping)
		return; /* it has had an error */
	tally_client(client, error.sqlstate, TALLY_PROXY);
	sbuf_init(&out, 4096);
	wire_add_error(&out, &error);
	if (!sbuf_ok(&out) || conn_send_copy(&worker->to_client, &client->conn, worker,
	                                     sbuf_text(&out), out.len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
}

bool keep_client(struct client *client)
{
	struct server *server = client->server;
	bool batch;

	if (server == NULL || client->in_session || client->doomed || server->doomed ||
	    server->ledger.count > 0 || server->ledger.copy_in || server->left > 0 ||
	    server->left_to > 0 || server_quiet(server))
		return false;
	batch = server->ledger.open || server->ledger.skipping;
	client_log(client, LOG_LEVEL_INFO,
		   "its transaction on server pid %d was ended, the client is kept",
		   (int)server->backend_pid);
	client->failed = server->tx_status != 'I';
	keep_restore_params(client, server);
	if (batch)
		keep_end_batch(client, server);
	server_unlink(server);
	server_doom(server, SERVER_CLOSE_TERMINATED);
	if (client->doomed)
		return true;
	client_set_state(client, CLIENT_IDLE);
	if (conn_flush(&client->worker->to_client, client->worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	client_go_on(client);
	return true;
}

void keep_blockers(struct database *database)
{
	struct list_node *node;
	struct list_node *tmp;

	database->keeping = true;
	LIST_FOREACH(&database->pools, node, tmp)
	{
		struct pool *pool = CONTAINER_OF(node, struct pool, node);
		struct list_node *at;
		struct list_node *next;

		LIST_FOREACH(&pool->clients[CLIENT_ACTIVE], at, next)
		{
			struct client *client = CONTAINER_OF(at, struct client, node);

			if (!keep_client(client) && !ledger_quiet(&client->server->ledger) &&
			    !server_busy_inside(client->server))
				cancel_server(client->server);
		}
	}
}

/* ---- afterwards ---- */

static const char *skip_blanks(const char *at, const char *end)
{
	while (at < end && isspace((unsigned char)*at))
		at++;
	return at;
}

/* The word at *at, "" if there is none, and goes behind it. */
static void read_word(const char **at, const char *end, char word[16])
{
	size_t n = 0;

	*at = skip_blanks(*at, end);
	while (*at < end && isalpha((unsigned char)**at)) {
		if (n < 15)
			word[n++] = (char)tolower((unsigned char)**at);
		(*at)++;
	}
	word[n] = '\0';
}

/* A text of SQL, or its beginning (!whole).  Only what is certain is not KEEP_WAIT. */
static enum keep_answer keep_judge_text(const char *at, const char *end, bool whole)
{
	static const char *const ends[] = {"rollback", "commit", "abort", "end"};
	char word[16];
	bool is_end = false;

	read_word(&at, end, word);
	if (at == end && !whole)
		return KEEP_MORE;
	if (word[0] == '\0' || strcmp(word, "prepare") == 0)
		return KEEP_WAIT; /* empty, a comment; PREPARE TRANSACTION ends the block */
	for (size_t i = 0; i < ARRAY_LEN(ends); i++)
		is_end = is_end || strcmp(word, ends[i]) == 0;
	if (!is_end)
		return KEEP_REFUSE;
	read_word(&at, end, word);
	if (strcmp(word, "work") == 0 || strcmp(word, "transaction") == 0)
		read_word(&at, end, word);
	at = skip_blanks(at, end);
	if (at < end && *at == ';')
		at = skip_blanks(at + 1, end);
	/* With AND CHAIN, TO a savepoint or another statement behind it: a server's business. */
	return whole && at == end && word[0] == '\0' ? KEEP_END : KEEP_WAIT;
}

/* One that is prepared, or is to be, ends the block when it is executed, not now. */
static enum keep_answer keep_judge_statement(const char *text, size_t len, bool whole)
{
	enum keep_answer answer = keep_judge_text(text, text + len, whole);

	return answer == KEEP_END ? KEEP_WAIT : answer;
}

static enum keep_answer keep_judge_parse(const char *body, size_t have, bool whole)
{
	const char *end = body + have;
	const char *text = memchr(body, '\0', have);

	if (text == NULL)
		return whole ? KEEP_WAIT : KEEP_MORE;
	text++;
	return keep_judge_statement(text, strnlen(text, (size_t)(end - text)),
	                            memchr(text, '\0', (size_t)(end - text)) != NULL);
}

static enum keep_answer keep_judge_bind(const struct client *client, const uint8_t *body,
                                        size_t have, bool whole)
{
	struct wire_bind_message bind;
	const struct stmt *stmt;

	if (!wire_parse_bind(body, have, &bind))
		return whole ? KEEP_WAIT : KEEP_MORE;
	stmt = client_stmts_get(client->stmts, bind.statement, strlen(bind.statement));
	return stmt == NULL
	           ? KEEP_WAIT
	           : keep_judge_statement(stmt->text, strnlen(stmt->text, stmt->len), true);
}

static enum keep_answer keep_judge_message(const struct client *client, const uint8_t *msg,
                                           size_t total, size_t have)
{
	const uint8_t *body = msg + WIRE_HEADER_LEN;
	bool whole = have >= total;
	size_t len = (whole ? total : have) - WIRE_HEADER_LEN;

	switch (msg[0]) {
	case FE_QUERY:
		if (len == 0)
			return whole ? KEEP_WAIT : KEEP_MORE;
		if (whole && body[len - 1] != '\0')
			return KEEP_WAIT;
		return keep_judge_text((const char *)body,
		                       (const char *)body + strnlen((const char *)body, len),
		                       whole);
	case FE_PARSE:
		return keep_judge_parse((const char *)body, len, whole);
	case FE_BIND:
		return keep_judge_bind(client, body, len, whole);
	case FE_FUNCTION_CALL:
		return KEEP_REFUSE;
	default:
		return KEEP_WAIT;
	}
}

enum keep_answer keep_judge(const struct client *client, const uint8_t *msg, size_t total,
                            size_t have)
{
	enum keep_answer answer = keep_judge_message(client, msg, total, have);

	return answer == KEEP_MORE && have > KEEP_LOOK ? KEEP_WAIT : answer;
}

bool keep_fail_block(struct server *server)
{
	/* The least that fails, and its name explains the line in the server's log. */
	static const char sql[] =
	    "BEGIN; ROLLBACK TO \"the proxy ended this transaction at its drain deadline\"";

	server->failing = true;
	return server_inject_query(server, sql, sizeof(sql) - 1);
}
