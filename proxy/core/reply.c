/* SPDX-License-Identifier: PostgreSQL */
/*
 * From server to client: every message is led past the ledger, which tells whose it is, and goes on
 * from the bytes in which it arrived.  Bodies are read of the few types that change what the proxy
 * knows.  Worker thread.
 *
 *   server socket -> inbuf --(run of bytes that go on)--> to_client -> client socket
 *                      \-- hidden: answers to what the proxy itself has sent
 */
#include "base/log.h"
#include "core/boot.h"
#include "core/change.h"
#include "core/client.h"
#include "core/keep.h"
#include "core/ledger.h"
#include "core/pool.h"
#include "core/promise.h"
#include "core/relocate.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_lost.h"
#include "core/session_move.h"
#include "core/session_notes.h"
#include "core/session_see.h"
#include "core/statement.h"
#include "core/tally.h"
#include "core/trial.h"
#include "core/worker.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* An error whose body is longer goes on unread. */
#define READ_BODY_MAX ((size_t)64 * 1024)

/* A reply step: what has been looked at, and from where on it has yet to be forwarded. */
struct reply {
	struct server *server;
	struct worker *worker;
	uint8_t *data;
	size_t len;
	size_t used;
	size_t run;       /* data[run .. used) is for the client */
	bool inside_done; /* the answer to the proxy's own query is complete */
};

static bool reply_flush_run(struct reply *reply)
{
	struct client *client = reply->server->client;
	size_t len = reply->used - reply->run;

	if (len == 0)
		return true;
	if (client != NULL && !client->doomed &&
	    conn_send(&reply->worker->to_client, &client->conn, reply->worker,
	              reply->data + reply->run, len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	if (client != NULL)
		client->pool->stats.sent += len;
	reply->run = reply->used;
	return client == NULL || !client->doomed;
}

/* The message of `total` bytes at used, or the part of it that is here, goes to the client. */
static void reply_forward(struct reply *reply, size_t total)
{
	size_t have = reply->len - reply->used;

	if (total <= have) {
		reply->used += total;
		return;
	}
	reply->used = reply->len;
	reply->server->left = (uint32_t)(total - have);
	reply->server->left_hidden = false;
}

static void reply_hide(struct reply *reply, size_t total)
{
	size_t have = reply->len - reply->used;

	(void)reply_flush_run(reply);
	if (total <= have) {
		reply->used += total;
	} else {
		reply->used = reply->len;
		reply->server->left = (uint32_t)(total - have);
		reply->server->left_hidden = true;
	}
	reply->run = reply->used;
}

static void reply_protocol_error(struct reply *reply, uint8_t type)
{
	server_log(reply->server, LOG_LEVEL_WARNING, "unexpected message %s (0x%02x)",
	           wire_type_name(WIRE_BACKEND, type), type);
	(void)reply_flush_run(reply);
	server_doom(reply->server, SERVER_CLOSE_PROTOCOL);
}

/* Answers that the proxy gives itself, as soon as their turn comes. */
static void reply_give_all(struct reply *reply)
{
	struct server *server = reply->server;

	/* Not into the middle of a message that is still coming. */
	while (server->left == 0 && ledger_gives_next(&server->ledger)) {
		size_t len;
		const void *msg = statement_given(ledger_head(&server->ledger)->op, &len);

		(void)reply_flush_run(reply);
		ledger_pop(&server->ledger);
		if (len > 0 && server->client != NULL && !server->client->doomed &&
		    conn_send(&reply->worker->to_client, &server->client->conn, reply->worker, msg,
		              len) != CONN_IO_OK)
			client_doom(server->client, CLIENT_CLOSE_IO);
	}
}

static inline void reply_give(struct reply *reply)
{
	if (UNLIKELY(ledger_gives_next(&reply->server->ledger)))
		reply_give_all(reply);
}

static inline void reply_pop(struct reply *reply)
{
	ledger_pop(&reply->server->ledger);
	reply_give(reply);
}

static inline uint8_t reply_head_op(struct reply *reply)
{
	struct ledger_entry *head = ledger_head(&reply->server->ledger);

	return head == NULL ? 0 : head->op;
}

/* ---- messages that mean something ---- */

static void reply_parameter(struct reply *reply, const uint8_t *body, size_t len, bool hidden)
{
	struct server *server = reply->server;
	const char *name;
	const char *value;
	struct client *client = hidden ? NULL : server->client;
	bool equal = client != NULL && client->params == server->params;
	struct param_set *set;

	if (!wire_parse_parameter_status(body, len, &name, &value)) {
		reply_protocol_error(reply, BE_PARAMETER_STATUS);
		return;
	}
	set = param_set_with(reply->worker->params, server->params, name, value, true);
	if (set == NULL)
		return;
	param_set_replace(&server->params, set);
	if (client == NULL)
		return;
	if (client->in_session)
		session_see_parameter(client, name);
	/* They differ after DISCARD ALL, which took the client's extras off the server. */
	set = equal ? param_set_ref(set)
	            : param_set_with(reply->worker->params, client->params, name, value, true);
	if (set == NULL)
		return;
	if (!client->in_session) {
		change_begin(server);
		if (memcmp(param_set_parse_digest(set), param_set_parse_digest(client->params),
		           sizeof(struct param_digest)) != 0)
			statement_settings_changed(client, server, false);
	}
	param_set_replace(&client->params, set);
}

static void reply_doubt_params(struct server *server)
{
	struct param_set *set = param_set_doubt(server->worker->params, server->params);

	/* Without memory nobody else gets it. */
	if (set == NULL)
		server_doom(server, SERVER_CLOSE_MEMORY);
	else
		param_set_replace(&server->params, set);
}

static void reply_keep_error(struct server *server, const struct wire_error *error)
{
	free(server->error);
	server->error = strdup(error->message == NULL ? "unknown error" : error->message);
	(void)snprintf(server->error_sqlstate, sizeof(server->error_sqlstate), "%s",
	               error->sqlstate == NULL ? "XX000" : error->sqlstate);
}

/* The oldest of the `count` entries has failed, the others are skipped: what becomes of the unnamed
 * statement of a session. */
static void reply_undo_parses(const struct server *server, uint32_t count)
{
	const struct ledger *ledger = &server->ledger;
	bool failed = count > 0 && ledger_at(ledger, 0)->op == OWES_PARSE;
	uint32_t parses = 0;
	uint32_t behind = 0;

	for (uint32_t i = 0; i < ledger->count; i++) {
		if (ledger_at(ledger, i)->op != OWES_PARSE)
			continue;
		if (i < count)
			parses++;
		else
			behind++;
	}
	if (failed && parses == 1 && behind == 0)
		session_see_failed_parse(server->client);
	else if (parses > 0)
		session_see_skipped_parse(server->client);
}

/* An error ends what is owed up to the next Sync. */
static void reply_error_in_ledger(struct reply *reply)
{
	struct server *server = reply->server;
	struct ledger *ledger = &server->ledger;
	uint8_t op = reply_head_op(reply);
	uint32_t count = 0;

	ledger->copy_in = false;
	if (op == OWES_QUERY || op == OWES_FUNCTION || op == OWES_HIDDEN_QUERY || op == 0)
		return;
	if (op == OWES_DEALLOCATE) {
		statement_undo_named(server->client, server, ledger_head(ledger));
		ledger_deallocate_failed(ledger);
		return;
	}
	while (count < ledger->count && ledger_at(ledger, count)->op != OWES_SYNC)
		count++;
	if (server->client->in_session)
		reply_undo_parses(server, count);
	statement_undo(server->client, server, count, true);
	while (count-- > 0)
		ledger_pop(ledger);
	ledger->skipping = ledger->count == 0;
}

/* The client gets that message in the place of the server's; takes its memory. */
static void reply_instead(struct reply *reply, size_t total, struct sbuf *out)
{
	struct client *client = reply->server->client;

	reply_hide(reply, total);
	if (!client->doomed &&
	    (!sbuf_ok(out) || conn_send_copy(&reply->worker->to_client, &client->conn, reply->worker,
	                                     sbuf_text(out), out->len) != CONN_IO_OK))
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(out);
}

/* The error that the client gets for what statement.c has refused. */
static void reply_refusal(struct reply *reply, size_t total)
{
	struct server *server = reply->server;
	const struct ledger_entry *entry = ledger_head(&server->ledger);
	const struct stmt *lost = entry->unnamed == NULL ? entry->stmt : NULL;
	const char *text = entry->name + 5;
	char sqlstate[6];
	struct wire_error error = {.sqlstate = sqlstate};
	struct sbuf out;

	/* That comes first, whatever is asked for. */
	if (server->tx_status == 'E')
		text = "25P02current transaction is aborted, commands ignored until end of "
		       "transaction block";
	(void)snprintf(sqlstate, sizeof(sqlstate), "%.5s", text);
	error.message = text + 5;
	/* By which pgjdbc tells a statement that has to be prepared again. */
	if (strcmp(sqlstate, "0A000") == 0)
		error.routine = "RevalidateCachedQuery";
	tally_client(server->client, sqlstate, TALLY_PROXY);
	sbuf_init(&out, 1024 + (lost == NULL ? 0 : lost->len));
	if (lost != NULL && server->tx_status != 'E')
		wire_add_parameter_types(&out, lost->text, lost->len);
	wire_add_error(&out, &error);
	reply_instead(reply, total, &out);
}

/* The client knows its prepared statements by its own names.  True: it was sent the error so. */
static bool reply_with_name(struct reply *reply, size_t total, const struct wire_error *error)
{
	struct server *server = reply->server;
	struct sbuf out;

	if (server->client->in_session)
		return false;
	sbuf_init(&out, total + STMT_CLIENT_NAME_MAX);
	if (!statement_name_error(server->client, server, error,
	                          reply->data + reply->used + WIRE_HEADER_LEN,
	                          total - WIRE_HEADER_LEN, &out))
		return false;
	reply_instead(reply, total, &out);
	return true;
}

/* Of a statement that the server does not take any more (core/session_lost.h). */
static void reply_lost_types(struct reply *reply)
{
	struct server *server = reply->server;
	const struct ledger_entry *entry = ledger_head(&server->ledger);
	struct client *client = server->client;
	struct sbuf out;

	if (!client->in_session || reply_head_op(reply) != OWES_HIDDEN_PARSE ||
	    entry->stmt == NULL || server->tx_status == 'E' || !reply_flush_run(reply))
		return;
	sbuf_init(&out, 64 + entry->stmt->len);
	wire_add_parameter_types(&out, entry->stmt->text, entry->stmt->len);
	if (!sbuf_ok(&out) || conn_send_copy(&reply->worker->to_client, &client->conn, reply->worker,
	                                     sbuf_text(&out), out.len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
}

static void reply_tally(const struct reply *reply, bool whole, const struct wire_error *error)
{
	const size_t body = reply->used + WIRE_HEADER_LEN;
	char sqlstate[6] = "";

	if (!whole && !wire_peek_sqlstate(reply->data + body, reply->len - body, sqlstate))
		sqlstate[0] = '\0'; /* too long, and not here yet */
	tally_client(reply->server->client, whole ? error->sqlstate : sqlstate, TALLY_SERVER);
}

/* The server says that it is being shut down, to a session that can go on without it. */
static bool reply_is_end_of_server(const struct server *server, const struct wire_error *error)
{
	return error->sqlstate != NULL &&
	       (strcmp(error->sqlstate, "57P01") == 0 || strcmp(error->sqlstate, "57P02") == 0) &&
	       session_recovers(server);
}

/* Errors of a session whose role was dropped: what it may do, or its name, cannot be found any more.
 * A role of the same name that was made since is another one.  In permission errors it is the least
 * likely of reasons, so the server is asked before it is given to anybody else. */
static bool reply_doubts_role(const struct wire_error *error)
{
	return error->sqlstate != NULL &&
	       (strcmp(error->sqlstate, "42501") == 0 || strcmp(error->sqlstate, "42704") == 0);
}

static bool reply_is_fatal(const struct wire_error *error)
{
	return error->severity != NULL &&
	       (strcmp(error->severity, "FATAL") == 0 || strcmp(error->severity, "PANIC") == 0);
}

static void reply_count_xact(struct server *server, struct pool *pool)
{
	usec_t now = server->worker->now;

	if (server->request_start != 0) {
		pool->stats.queries++;
		pool->stats.query_usec += (uint64_t)(now - server->request_start);
		histogram_add(&pool->stats.query_times, now - server->request_start);
		server->request_start = 0;
	}
	if (server->tx_status == 'I' && server->xact_start != 0) {
		pool->stats.xacts++;
		pool->stats.xact_usec += (uint64_t)(now - server->xact_start);
		histogram_add(&pool->stats.xact_times, now - server->xact_start);
		server->xact_start = 0;
	}
}

/* What was sent is done, and the client is told so. */
static inline void reply_at_ready(struct reply *reply)
{
	struct server *server = reply->server;

	server->ready_at = reply->worker->now;
	reply_count_xact(server, server->pool);
	if (server->tx_status == 'I') {
		if (UNLIKELY(server->change.before != NULL))
			change_at_ready(server);
		server->change.rolled_back = false;
	}
	server->proven = true;
}

void server_send_mark(struct server *server)
{
	/* The failed transaction's unnamed portal is of no use to anybody. */
	static const uint8_t mark[] = {FE_SYNC, 0,   0, 0,        4, FE_CLOSE, 0, 0, 0,
	                               6,       'P', 0, FE_FLUSH, 0, 0,        0, 4};
	struct worker *worker = server->worker;

	if (server->left_to > 0)
		return; /* not into the middle of a message */
	server->ledger.mark_due = false;
	if (conn_send_copy(&worker->to_server, &server->conn, worker, mark, sizeof(mark)) !=
	    CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
}

/*
 * A COPY has failed among whose data there were Syncs.  Those that the server has read before the
 * error it has ignored, the others it answers, and which these are it alone knows.  So it is sent
 * one more Sync, and a Close of a portal: ReadyForQuery of that one is the last before
 * CloseComplete.
 */
static void reply_mark(struct reply *reply)
{
	struct server *server = reply->server;

	if (!ledger_owe(&server->ledger, OWES_MARK)) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return;
	}
	server->ledger.mark_due = true;
	server_send_mark(server);
	if (conn_flush(&reply->worker->to_server, reply->worker) != CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
}

static void reply_mark_ready(struct reply *reply, uint8_t status)
{
	reply->server->tx_status = (char)status;
	ledger_head(&reply->server->ledger)->generation++;
	reply_hide(reply, 6);
}

/* The client gets those that it would have got; if there is none, what it sends is skipped as by
 * the server, up to its next Sync. */
static void reply_mark_done(struct reply *reply, size_t total)
{
	struct server *server = reply->server;
	struct ledger *ledger = &server->ledger;
	struct client *client = server->client;
	const uint8_t ready[] = {BE_READY_FOR_QUERY, 0, 0, 0, 5, (uint8_t)server->tx_status};
	uint32_t count = ledger_head(ledger)->generation;

	if (count == 0) {
		reply_protocol_error(reply, BE_CLOSE_COMPLETE);
		return;
	}
	reply_hide(reply, total);
	client->discard_to_sync = ledger->skipping && count == 1;
	ledger->skipping = false;
	ledger->open = false;
	ledger->syncs = 0;
	ledger_pop(ledger);
	reply_at_ready(reply);
	if (UNLIKELY(server->apart || server->altered || server->given))
		statement_at_ready(server);
	while (--count > 0 && !client->doomed) {
		if (conn_send_copy(&reply->worker->to_client, &client->conn, reply->worker, ready,
		                   sizeof(ready)) != CONN_IO_OK)
			client_doom(client, CLIENT_CLOSE_IO);
	}
}

static void reply_error(struct reply *reply, size_t total)
{
	struct server *server = reply->server;
	struct wire_error error = {0};
	bool hidden = reply_head_op(reply) == OWES_HIDDEN_QUERY;
	bool whole = total <= reply->len - reply->used; /* else too long to be read */
	bool fatal;

	if (whole && !wire_parse_error(reply->data + reply->used + 5, total - 5, &error)) {
		reply_protocol_error(reply, BE_ERROR_RESPONSE);
		return;
	}
	if (UNLIKELY(reply_head_op(reply) == OWES_MARK) && !reply_is_fatal(&error)) {
		reply_protocol_error(reply, BE_ERROR_RESPONSE);
		return;
	}
	fatal = reply_is_fatal(&error);
	if (hidden || server->client == NULL) {
		if (UNLIKELY(server->tried != NULL) && hidden && !fatal &&
		    !server_has_leftover(server, error.sqlstate))
			trial_refused(server->pool, server->tried, &error);
		reply_keep_error(server, &error);
		reply_hide(reply, total);
		/* A server that says goodbye is not to be given to anybody. */
		if (fatal && server->client == NULL)
			server_doom(server, SERVER_CLOSE_PEER);
		return;
	}
	if (!fatal && UNLIKELY(server->ledger.syncs > 0) && server->ledger.count > 1) {
		/* More than COPY data was sent behind Syncs among it: which answers belong to what
		 * cannot be known.  (If the COPY was still going on, that has ended it, and the
		 * server's connection, too.) */
		(void)reply_flush_run(reply);
		server_doom(server, SERVER_CLOSE_PROTOCOL);
		return;
	}
	if (fatal && !server->client->in_session && server_quiet(server)) {
		/* Behind the last answer, in one go with it: it is idle already. */
		reply_keep_error(server, &error);
		reply_hide(reply, total);
		server->spoilt = true;
		return;
	}
	if (fatal && reply_is_end_of_server(server, &error)) {
		reply_hide(reply, total);
		server_doom(server, SERVER_CLOSE_PEER);
		return;
	}
	if (fatal) {
		server->fatal_sent = true;
		reply_keep_error(server, &error);
	} else if (reply_head_op(reply) == OWES_REFUSAL && error.sqlstate != NULL &&
	           strncmp(error.sqlstate, ledger_head(&server->ledger)->name, 5) == 0) {
		reply_refusal(reply, total);
		reply_error_in_ledger(reply);
		reply_give(reply);
		return;
	} else {
		change_rolled_back(server);
		statement_outdated(server, &error);
		reply_lost_types(reply);
		reply_error_in_ledger(reply);
		server->doubted = server->doubted || reply_doubts_role(&error);
	}
	reply_tally(reply, whole, &error);
	if (!reply_with_name(reply, total, &error))
		reply_forward(reply, total);
	if (!fatal && UNLIKELY(server->ledger.syncs > 0))
		reply_mark(reply);
	if (!fatal)
		reply_give(reply);
}

/* Commands after which a statement that was prepared before may return other columns, or have
 * parameters of a type that is not there any more. */
static bool reply_alters(const uint8_t *tag, size_t len)
{
	static const char *const tags[] = {
	    "ALTER TABLE", "ALTER VIEW", "ALTER MATERIALIZED VIEW", "ALTER FOREIGN TABLE",
	    "ALTER TYPE",  "CREATE VIEW", "DROP TABLE", "DROP VIEW", "DROP MATERIALIZED VIEW",
	    "DROP FOREIGN TABLE", "DROP FUNCTION", "DROP SCHEMA", "ALTER SCHEMA", "DROP TYPE",
	    "DROP DOMAIN", "DROP EXTENSION"};

	if (LIKELY(tag[0] != 'A' && tag[0] != 'D' && tag[0] != 'C'))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
		if (strlen(tags[i]) + 1 == len && memcmp(tag, tags[i], len) == 0)
			return true;
	}
	return false;
}

/* DISCARD ALL is done: of what the client has asked for nothing is left but extras. */
static void reply_discard(struct server *server, bool pooled)
{
	if (pooled)
		change_by_discard(server);
	boot_reset_params(server);
}

/* The end of a transaction, or of a part of it. */
static void reply_ends(struct server *server, const uint8_t *tag, size_t len)
{
	static const char commit[] = "COMMIT";
	static const char rollback[] = "ROLLBACK";

	if (len == sizeof(commit) && memcmp(tag, commit, len) == 0)
		change_committed(server);
	else if (len == sizeof(rollback) && memcmp(tag, rollback, len) == 0)
		change_rolled_back(server);
}

static void reply_complete(struct reply *reply, const uint8_t *body, size_t len)
{
	static const char discard_all[] = "DISCARD ALL";
	static const char deallocate_all[] = "DEALLOCATE ALL";
	static const char deallocate[] = "DEALLOCATE";
	static const char reset[] = "RESET";
	static const char set[] = "SET";
	struct server *server = reply->server;
	const bool pooled = server->client != NULL && !server->client->in_session &&
	                    reply_head_op(reply) != OWES_HIDDEN_QUERY;

	if (server->client != NULL && server->client->in_session)
		session_see_tag(server->client, body, len);
	/* DISCARD ALL takes what a client asked for at its start, and what the server does not
	 * report, back to what the server connection started with.  SET and RESET change some of it,
	 * or nothing, perhaps for the transaction, or until it is rolled back. */
	if (body[0] == 'D' && len == sizeof(discard_all) && memcmp(body, discard_all, len) == 0)
		reply_discard(server, pooled);
	else if ((body[0] == 'R' && len == sizeof(reset) && memcmp(body, reset, len) == 0) ||
	         (body[0] == 'S' && len == sizeof(set) && memcmp(body, set, len) == 0)) {
		reply_doubt_params(server); /* without memory it ends the server */
		if (pooled && server->client != NULL) {
			change_by_command(server);
			statement_settings_changed(server->client, server, true);
		}
	}
	if (UNLIKELY(server->change.before != NULL) && pooled)
		reply_ends(server, body, len);
	if (UNLIKELY(reply_alters(body, len)))
		statement_altered(server);

	/* What follows in the same Query may fail: it is gone all the same. */
	if (UNLIKELY(reply_head_op(reply) == OWES_DEALLOCATE) && len == sizeof(deallocate) &&
	    memcmp(body, deallocate, len) == 0)
		ledger_head(&server->ledger)->gone = true;

	/* Both end every prepared statement, those of the protocol too. */
	if (body[0] == 'D' &&
	    ((len == sizeof(discard_all) && memcmp(body, discard_all, len) == 0) ||
	     (len == sizeof(deallocate_all) && memcmp(body, deallocate_all, len) == 0))) {
		if (server->client != NULL && server->client->seen != NULL)
			session_lost_clear(server->client->seen);
		statement_all_gone(
		    reply_head_op(reply) == OWES_HIDDEN_QUERY ? NULL : server->client, server);
	}
}

/* Statement pooling: a transaction block would end with its first statement. */
static void reply_no_block(struct reply *reply)
{
	struct server *server = reply->server;

	(void)reply_flush_run(reply);
	if (!server->client->doomed)
		client_doom_fatal(server->client, CLIENT_CLOSE_BLOCK, "08P01",
				  "transaction blocks not allowed in statement pooling mode", NULL,
				  "Use transaction pooling for this database or user.");
	server_doom(server, SERVER_CLOSE_BLOCK);
}

static void reply_ready(struct reply *reply, uint8_t status)
{
	struct server *server = reply->server;
	uint8_t op = reply_head_op(reply);

	if ((status != 'I' && status != 'T' && status != 'E') ||
	    (op != OWES_SYNC && op != OWES_QUERY && op != OWES_FUNCTION && op != OWES_DEALLOCATE &&
	     op != OWES_HIDDEN_QUERY)) {
		reply_protocol_error(reply, BE_READY_FOR_QUERY);
		return;
	}
	server->tx_status = (char)status;
	server->ledger.copy_in = false;
	if (op == OWES_HIDDEN_QUERY) {
		reply_hide(reply, 6);
		reply->inside_done = true;
	} else {
		if (UNLIKELY(server->pool->statement && status != 'I' && server->replication == 0)) {
			reply_no_block(reply);
			return;
		}
		reply_forward(reply, 6);
		reply_at_ready(reply);
	}
	reply_pop(reply);
	if (UNLIKELY(server->apart || server->altered || server->given))
		statement_at_ready(server);
}

/* ---- one message ---- */

/* Answers that settle the entry at the `head` of the ledger, if it is of this kind. */
static void reply_settles(struct reply *reply, size_t total, uint8_t head, uint8_t op,
			  uint8_t hidden_op)
{
	if (UNLIKELY(hidden_op != 0 && head == hidden_op)) {
		reply_hide(reply, total);
		reply_pop(reply);
	} else {
		reply_forward(reply, total);
		if (head == op)
			reply_pop(reply);
	}
}

/* A client recognises its own notifications by the number of the server process that it was told
 * at its login (documentation of PQbackendPID), which may be the proxy's, or of the server before. */
static void reply_sign(const struct server *server, const struct client *client, uint8_t *msg)
{
	if ((int32_t)wire_get_be32(msg + WIRE_HEADER_LEN) == server->backend_pid)
		wire_put_be32(msg + WIRE_HEADER_LEN, promise_told(client));
}

/* A notification in the middle of what the proxy asks a session's server is the client's. */
static void reply_notify(struct reply *reply, uint8_t *msg, size_t total)
{
	struct server *server = reply->server;
	struct client *client = server->client != NULL ? server->client : session_client(server);

	if (client == NULL || !client->in_session || client->doomed)
		return;
	reply_sign(server, client, msg);
	if (session_notes_take(server, msg, total))
		return;
	if (conn_send_copy(&reply->worker->to_client, &client->conn, reply->worker, msg, total) !=
		CONN_IO_OK ||
	    (client != server->client &&
	     conn_flush(&reply->worker->to_client, reply->worker) != CONN_IO_OK))
		client_doom(client, CLIENT_CLOSE_IO);
}

static void reply_unlinked(struct reply *reply, uint8_t type, size_t total)
{
	uint8_t *msg = reply->data + reply->used;

	if (UNLIKELY(session_awaits(reply->server)))
		session_take(reply->server, type,
			     total <= reply->len - reply->used ? msg + WIRE_HEADER_LEN : NULL,
			     total - WIRE_HEADER_LEN);
	if (UNLIKELY(reply->server->change.asking) && type == BE_DATA_ROW)
		change_take_row(reply->server, msg + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN);
	switch (type) {
	case BE_PARAMETER_STATUS:
		reply_parameter(reply, msg + 5, total - 5, true);
		break;
	case BE_ERROR_RESPONSE:
		reply_error(reply, total);
		return;
	case BE_NOTIFICATION_RESPONSE:
		reply_notify(reply, msg, total);
		break;
	case BE_NOTICE_RESPONSE:
		break; /* for nobody */
	case BE_COMMAND_COMPLETE:
		if (reply_head_op(reply) == OWES_HIDDEN_QUERY) {
			reply_complete(reply, msg + 5, total - 5);
			break;
		}
		reply_protocol_error(reply, type);
		return;
	case BE_READY_FOR_QUERY:
		reply_ready(reply, msg[5]);
		return;
	default:
		if (reply_head_op(reply) == OWES_HIDDEN_QUERY)
			break;
		reply_protocol_error(reply, type);
		return;
	}
	if (!reply->server->doomed)
		reply_hide(reply, total);
}

/* `head` is what the oldest entry of the ledger is, 0 if there is none. */
static void reply_message(struct reply *reply, uint8_t type, size_t total, uint8_t head)
{
	uint8_t *msg = reply->data + reply->used;
	struct server *server = reply->server;

	if (server->client == NULL || head == OWES_HIDDEN_QUERY) {
		reply_unlinked(reply, type, total);
		return;
	}
	switch (type) {
	case BE_READY_FOR_QUERY:
		if (UNLIKELY(head == OWES_MARK))
			reply_mark_ready(reply, msg[5]);
		else
			reply_ready(reply, msg[5]);
		break;
	case BE_COMMAND_COMPLETE:
		server->ledger.syncs = 0;
		reply_complete(reply, msg + 5, total - 5);
		reply_settles(reply, total, head, OWES_EXECUTE, 0);
		break;
	case BE_EMPTY_QUERY_RESPONSE:
	case BE_PORTAL_SUSPENDED:
		reply_settles(reply, total, head, OWES_EXECUTE, 0);
		break;
	case BE_PARSE_COMPLETE:
		if (UNLIKELY(head == OWES_REFUSAL) && server->client != NULL &&
		    statement_prepared_anew(server->client, server))
			head = OWES_PARSE;
		reply_settles(reply, total, head, OWES_PARSE, OWES_HIDDEN_PARSE);
		break;
	case BE_BIND_COMPLETE:
		reply_settles(reply, total, head, OWES_BIND, 0);
		break;
	case BE_CLOSE_COMPLETE:
		if (UNLIKELY(head == OWES_MARK)) {
			reply_mark_done(reply, total);
			break;
		}
		reply_settles(reply, total, head, OWES_CLOSE, OWES_HIDDEN_CLOSE);
		break;
	case BE_NO_DATA:
	case BE_ROW_DESCRIPTION:
		reply_settles(reply, total, head, OWES_DESCRIBE, 0);
		break;
	case BE_ERROR_RESPONSE:
		reply_error(reply, total);
		break;
	case BE_PARAMETER_STATUS:
		reply_parameter(reply, msg + 5, total - 5, false);
		if (!server->doomed)
			reply_forward(reply, total);
		break;
	case BE_NOTIFICATION_RESPONSE:
		if (total <= reply->len - reply->used)
			reply_sign(server, server->client, msg);
		reply_forward(reply, total);
		break;
	case BE_COPY_BOTH_RESPONSE:
	case BE_COPY_IN_RESPONSE:
		ledger_copy_in(&server->ledger);
		reply_forward(reply, total);
		break;
	case BE_AUTHENTICATION:
	case BE_BACKEND_KEY_DATA:
	case BE_NEGOTIATE_PROTOCOL_VERSION:
		reply_protocol_error(reply, type);
		break;
	default:
		reply_forward(reply, total);
		break;
	}
}

/* Types of which only the header is needed when they go to a client: they may be of any size. */
static bool reply_streams(uint8_t type, size_t total)
{
	switch (type) {
	case BE_DATA_ROW:
	case BE_COPY_DATA:
	case BE_ROW_DESCRIPTION:
	case BE_PARAMETER_DESCRIPTION:
	case BE_NOTICE_RESPONSE:
	case BE_FUNCTION_CALL_RESPONSE:
		return true;
	case BE_ERROR_RESPONSE:
	case BE_NOTIFICATION_RESPONSE:
		return total > READ_BODY_MAX;
	default:
		return false;
	}
}

/* Rows and COPY data in a row: headers only, nothing else is touched. */
static void reply_skip_rows(struct reply *reply)
{
	size_t used = reply->used;
	size_t total;

	while (reply->len - used >= WIRE_HEADER_LEN) {
		const uint8_t *at = reply->data + used;

		if ((at[0] != BE_DATA_ROW && at[0] != BE_COPY_DATA) ||
		    wire_header_check(WIRE_BACKEND, at, &total) != WIRE_HEADER_OK ||
		    total > reply->len - used)
			break;
		used += total;
	}
	reply->used = used;
}

static void reply_left(struct reply *reply)
{
	struct server *server = reply->server;
	size_t have = reply->len - reply->used;
	size_t n = server->left < have ? server->left : have;

	if (server->left_hidden)
		(void)reply_flush_run(reply);
	reply->used += n;
	server->left -= (uint32_t)n;
	if (server->left_hidden)
		reply->run = reply->used;
	reply_give(reply); /* what had to wait for the end of this message */
}

/* What a server may send although nothing is owed. */
static bool reply_unasked(uint8_t type)
{
	return type == BE_NOTICE_RESPONSE || type == BE_NOTIFICATION_RESPONSE ||
	       type == BE_PARAMETER_STATUS || type == BE_ERROR_RESPONSE;
}

/* What the proxy has asked a server is read whole. */
static bool reply_wants_whole(struct reply *reply, uint8_t type, size_t total)
{
	if (reply->server->change.asking && type == BE_DATA_ROW)
		return total <= READ_BODY_MAX;
	return reply->server->move != NULL && session_takes_whole(reply->server, type, total) &&
	       (reply->server->client == NULL || reply_head_op(reply) == OWES_HIDDEN_QUERY);
}

static void reply_run(struct reply *reply)
{
	struct server *server = reply->server;

	while (reply->used < reply->len && !server->doomed) {
		const uint8_t *at = reply->data + reply->used;
		size_t have = reply->len - reply->used;
		size_t total;
		uint8_t head;

		if (server->left > 0) {
			reply_left(reply);
			continue;
		}
		if (have < WIRE_HEADER_LEN)
			break;
		if (wire_header_check(WIRE_BACKEND, at, &total) != WIRE_HEADER_OK) {
			reply_protocol_error(reply, at[0]);
			break;
		}
		if (total > have &&
		    (!reply_streams(at[0], total) || reply_wants_whole(reply, at[0], total)))
			break;
		head = reply_head_op(reply);
		if (UNLIKELY(head == 0 && !reply_unasked(at[0]))) {
			reply_protocol_error(reply, at[0]);
			break;
		}
		if ((at[0] == BE_DATA_ROW || at[0] == BE_COPY_DATA) && total <= have &&
		    server->client != NULL && head != OWES_HIDDEN_QUERY) {
			reply_skip_rows(reply);
			continue;
		}
		reply_message(reply, at[0], total, head);
	}
	(void)reply_flush_run(reply);
}

/* ---- what follows from what was read ---- */

/* The answer to pool_role_query. */
static void server_role_asked(struct server *server)
{
	atomic_uint *losses = &server->pool->share->role_losses;
	unsigned known = server->role_losses;

	if (server->error == NULL && server->tx_status == 'I') {
		server->doubted = false;
		server->role_losses = atomic_load(losses);
		pool_server_free(server->pool, server);
	} else if (server->error != NULL && strcmp(server->error_sqlstate, "42704") == 0) {
		/* The first one that finds it has the others asked, too. */
		(void)atomic_compare_exchange_strong(losses, &known, known + 1);
		server_doom(server, SERVER_CLOSE_ROLE);
	} else {
		server_doom(server, SERVER_CLOSE_CHECK);
	}
}

static void server_inside_done(struct server *server)
{
	if (server->state == SERVER_LOGIN) {
		if (server->error != NULL)
			server_log(server, LOG_LEVEL_WARNING, "connect_query failed: %s",
				   server->error);
		if (server->tx_status == 'I')
			server_login_done(server);
		else
			server_doom(server, SERVER_CLOSE_RESET);
	} else if (server->tried != NULL) {
		trial_answered(server);
	} else if (server->state == SERVER_RESETTING && server->task == SERVER_TASK_ROLE) {
		server_role_asked(server);
	} else if (server->state == SERVER_RESETTING && server->task == SERVER_TASK_CHANGE) {
		change_answered(server);
		server_release(server);
	} else if (server->state == SERVER_RESETTING) {
		bool check = server->task == SERVER_TASK_CHECK;

		server->checked = check;
		if (server->error != NULL || server->tx_status != 'I')
			server_doom(server, check ? SERVER_CLOSE_CHECK : SERVER_CLOSE_RESET);
		else
			pool_server_free(server->pool, server);
	} else if (server->state == SERVER_WARMING) {
		/* The query may fail: then the first client's query is slower, that is all. */
		if (server->tx_status != 'I')
			server_doom(server, SERVER_CLOSE_WARMED);
		else
			gate_prepared(server, true);
	} else if (server->client != NULL) {
		pool_sync_done(server);
	}
}

static void server_after_read(struct server *server, bool inside_done)
{
	struct client *client = server->client;
	struct worker *worker = server->worker;

	if (inside_done && server->change.asking && client != NULL) {
		change_answered(server);
	} else if (inside_done) {
		if (LIKELY(!session_awaits(server))) {
			server_inside_done(server);
			return;
		}
		session_on_answer(server);
		client = server->client;
	}
	if (client == NULL || client->doomed || server->doomed)
		return;
	if (server_quiet(server) && (!client->in_session || worker->leaving)) {
		if (client->in_session)
			client_leave_at_shutdown(client);
		if (client->doomed)
			return; /* its server is released with it */
		if (change_ask(server) || client->doomed)
			return;
		server_release(server);
		client_set_state(client, CLIENT_IDLE);
		if (conn_kept(&client->conn) > 0 || (client->conn.events & EV_READ) == 0)
			client_go_on(client);
		if (worker->leaving)
			client_leave_at_shutdown(client);
		else if (UNLIKELY(worker->shed > 0))
			relocate_client(client);
		return;
	}
	if (UNLIKELY(client->pool->database->keeping) && keep_client(client))
		return;
	if (UNLIKELY(client->pool->database->sessions_watched) && client->in_session &&
	    server_quiet(server) && session_at_safe_point(client))
		return;
	/* The client reads slowly: so do we. */
	if (conn_unsent(&client->conn) > 0)
		conn_want_read(&server->conn, false);
	/* It was stopped at a gate, or its pipeline was too long. */
	if ((client->conn.events & EV_READ) == 0 || conn_kept(&client->conn) > 0)
		client_go_on(client);
}

static void server_use(struct server *server, struct input input)
{
	struct worker *worker = server->worker;
	struct reply reply = {
	    .server = server, .worker = worker, .data = input.data, .len = input.len};

	reply_give(&reply);
	reply_run(&reply);
	if (conn_flush(&worker->to_client, worker) != CONN_IO_OK && server->client != NULL)
		client_doom(server->client, CLIENT_CLOSE_IO);
	if (server->doomed)
		return;
	if (!conn_keep(&server->conn, &input, reply.used)) {
		server_doom(server, SERVER_CLOSE_MEMORY);
		return;
	}
	server_after_read(server, reply.inside_done);
}

/* The connection has ended.  What was kept back until it was known how, is for the client. */
static void server_at_end(struct server *server, enum conn_io io)
{
	if (server->resend.fresh)
		resend_judge_end(server, io);
	if (server->resend.parting && !server->resend.unexecuted) {
		server->resend.parting = false;
		server_use(server, conn_pending(&server->conn, server->worker));
	}
	server_doom(server, io == CONN_IO_EOF ? SERVER_CLOSE_PEER : SERVER_CLOSE_IO);
}

void server_readable(struct server *server)
{
	struct worker *worker = server->worker;
	struct input input;
	enum conn_io io = conn_receive(&server->conn, worker, 0, &input);

	if (io == CONN_IO_AGAIN)
		return;
	if (io != CONN_IO_OK) {
		server_at_end(server, io);
		return;
	}
	if (server->resend.fresh && !server_busy_inside(server) && resend_goodbye(server, &input)) {
		if (!server->doomed && !conn_keep(&server->conn, &input, 0))
			server_doom(server, SERVER_CLOSE_MEMORY);
		return;
	}
	server_use(server, input);
}
