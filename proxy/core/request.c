/* SPDX-License-Identifier: PostgreSQL */
/*
 * From client to server.  A request without a server waits in the client's own buffer; with one its
 * bytes go on from where they were received, each message noted in the server's ledger.
 *
 *   client socket -> inbuf (or client->conn.in) -> [discard] -> [server? gate?] -> to_server
 *
 * Worker thread.
 */
#include "base/log.h"
#include "core/cancel.h"
#include "core/client.h"
#include "core/keep.h"
#include "core/leave.h"
#include "core/ledger.h"
#include "core/pool.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_move.h"
#include "core/session_lost.h"
#include "core/session_see.h"
#include "core/statement.h"
#include "core/tally.h"
#include "core/worker.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Longer than every Query that is only DEALLOCATE and a name. */
#define DEALLOCATE_MAX ((size_t)256)

struct request {
	struct client *client;
	struct worker *worker;
	uint8_t *data;
	size_t len;
	size_t used;
	struct server *fresh; /* which gets its first request since it was linked … */
	size_t fresh_from;    /* … from here on */
	bool blocked; /* what is left is not for the lack of bytes: reading more would not help */
};

/* A request of at most so many bytes gets a server when it is here as a whole: a client that sends
 * half a message and no more then neither occupies a server nor keeps a drain from ending. */
#define REQUEST_WHOLE ((size_t)4096)

enum step {
	STEP_NEXT, /* a message, or what is here of it, was dealt with */
	STEP_STOP, /* the rest stays: more bytes, a server, answers or room are needed */
};


/* Bytes of the proxy's own to the client. */
static void client_tell(struct client *client, const void *data, size_t len)
{
	struct worker *worker = client->worker;

	if (client->doomed)
		return;
	if (conn_send_copy(&worker->to_client, &client->conn, worker, data, len) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
}

static void client_tell_ready(struct client *client)
{
	const char status = client->server != NULL ? client->server->tx_status
	                    : client->failed       ? 'E'
	                                           : 'I';
	const uint8_t ready[] = {BE_READY_FOR_QUERY, 0, 0, 0, 5, (uint8_t)status};

	client_tell(client, ready, sizeof(ready));
}

/* ---- refused requests ---- */

/* Takes the refused request out of what is here, as far as it goes. */
static void request_discard(struct request *request)
{
	struct client *client = request->client;
	size_t have = request->len - request->used;

	while (have > 0 && (client->discard > 0 || client->discard_to_sync)) {
		const uint8_t *at = request->data + request->used;
		size_t total;
		size_t n;

		if (client->discard == 0) {
			if (have < WIRE_HEADER_LEN)
				return;
			total = (size_t)wire_get_be32(at + 1) + 1;
			if (total < WIRE_HEADER_LEN || total > WIRE_LARGE ||
			    at[0] == FE_TERMINATE ||
			    (at[0] == FE_SYNC && total > WIRE_HEADER_LEN)) {
				client->discard_to_sync = false;
				return; /* the normal way finds what is wrong, or the end */
			}
			client->discard = (uint32_t)total;
			if (at[0] == FE_SYNC) {
				client->discard_to_sync = false;
				client->discard_ready = true;
			}
		}
		n = client->discard < have ? client->discard : have;
		client->discard -= (uint32_t)n;
		request->used += n;
		have -= n;
		if (client->discard == 0 && client->discard_ready) {
			client->discard_ready = false;
			client_tell_ready(client);
		}
	}
}

void client_refuse_request(struct client *client, const char *sqlstate, const char *message,
                           const char *hint)
{
	struct worker *worker = client->worker;
	const struct wire_error error = {
	    .severity = "ERROR", .sqlstate = sqlstate, .message = message, .hint = hint};
	struct input input = conn_pending(&client->conn, worker);
	struct sbuf out;

	assert(client->state == CLIENT_WAITING && input.len >= WIRE_HEADER_LEN);
	client_set_state(client, CLIENT_IDLE);
	tally_client(client, sqlstate, TALLY_PROXY);
	sbuf_init(&out, 4096);
	wire_add_error(&out, &error);
	if (sbuf_ok(&out))
		client_tell(client, sbuf_text(&out), out.len);
	sbuf_free(&out);
	client_log(client, LOG_LEVEL_INFO, "request refused: %s", message);
	/* The first message of what waits is that of the request. */
	if (input.data[0] == FE_QUERY || input.data[0] == FE_FUNCTION_CALL) {
		client->discard = wire_get_be32(input.data + 1) + 1;
		client->discard_ready = true;
	} else {
		client->discard_to_sync = true;
	}
	client_go_on(client);
}

/* ---- without a server ---- */

/* Throws the message away, what is here of it and what comes. */
static void request_skip(struct request *request, size_t total)
{
	size_t have = request->len - request->used;
	size_t n = total < have ? total : have;

	request->used += n;
	request->client->discard = (uint32_t)(total - n);
}

/* Messages that need none; true if it was such a one. */
static bool request_without_server(struct request *request, uint8_t type, size_t total)
{
	struct client *client = request->client;

	switch (type) {
	case FE_TERMINATE:
		client_doom(client, CLIENT_CLOSE_TERMINATE);
		return true;
	case FE_SYNC:
	case FE_FLUSH:
		if (UNLIKELY(total > WIRE_HEADER_LEN))
			return false; /* an error: the server's */
		if (type == FE_SYNC)
			client_tell_ready(client);
		break;
	case FE_COPY_DATA:
	case FE_COPY_DONE:
	case FE_COPY_FAIL:
		/* After an error in COPY the client may not know of it yet (documentation 55.2.6).
		 */
		break;
	default:
		return false;
	}
	request_skip(request, total);
	return true;
}

/* ---- in a transaction that the drain deadline has ended ---- */

static void request_refuse_failed(struct request *request, const uint8_t *msg, size_t total)
{
	struct client *client = request->client;
	struct sbuf out;

	tally_client(client, "25P02", TALLY_PROXY);
	sbuf_init(&out, 1024);
	wire_add_error_text(&out, "ERROR", "25P02", keep_refusal);
	if (sbuf_ok(&out))
		client_tell(client, sbuf_text(&out), out.len);
	sbuf_free(&out);
	if (client->stmts != NULL &&
	    (msg[0] == FE_QUERY || (msg[0] == FE_PARSE && msg[WIRE_HEADER_LEN] == '\0')))
		(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
	if (msg[0] == FE_QUERY || msg[0] == FE_FUNCTION_CALL) {
		client->discard = (uint32_t)total;
		client->discard_ready = true;
	} else {
		client->discard_to_sync = true;
	}
}

/* The database is held: true if the message needs no server, or more of it has to come (STEP_STOP). */
static bool request_failed(struct request *request, const uint8_t *msg, size_t total, enum step *step)
{
	static const uint8_t ended[] = {BE_COMMAND_COMPLETE, 0,   0,   0,   13,  'R', 'O', 'L',
					'L',                 'B', 'A', 'C', 'K', 0};
	struct client *client = request->client;

	*step = STEP_NEXT;
	switch (keep_judge(client, msg, total, request->len - request->used)) {
	case KEEP_REFUSE:
		request_refuse_failed(request, msg, total);
		return true;
	case KEEP_END:
		client->failed = false;
		if (client->stmts != NULL)
			(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
		client_tell(client, ended, sizeof(ended));
		client_tell_ready(client);
		request->used += total;
		return true;
	case KEEP_MORE:
		*step = STEP_STOP;
		return true;
	default:
		return false;
	}
}

/* ---- with a server ---- */

static void server_note_query(struct server *server, const uint8_t *text, size_t len)
{
	size_t n = len < SERVER_QUERY_MAX - 1 ? len : SERVER_QUERY_MAX - 1;

	memcpy(server->query, text, n);
	server->query[n] = '\0';
	server->query_whole = n == len && n > 0 && text[n - 1] == '\0';
	server->query_noted = server->request_start;
}

/* Of those commands only for which it is noted (leave.h). */
static void server_note_parse(struct server *server, const uint8_t *body, size_t len)
{
	size_t name = strnlen((const char *)body, len) + 1;

	if (name < len && UNLIKELY(leave_begins(body + name, len - name)))
		server_note_query(server, body + name, len - name);
}

static void request_note_start(struct request *request, struct server *server)
{
	if (server->resend.fresh && request->fresh == NULL) {
		request->fresh = server;
		request->fresh_from = request->used;
	}
	if (server->request_start == 0)
		server->request_start = server->worker->now;
	if (server->xact_start == 0)
		server->xact_start = server->worker->now;
}

/* Notes in the ledger what the message will be answered with.  False: doomed. */
static bool request_note(struct request *request, struct server *server, uint8_t type)
{
	struct ledger *ledger = &server->ledger;
	enum ledger_op op;

	switch (type) {
	case FE_QUERY:
		op = OWES_QUERY;
		if (ledger->skipping)
			break;
		ledger->unnamed = false;
		ledger->open = false; /* its ReadyForQuery ends what was begun before */
		if (server->unnamed_id != 0 || request->client->unnamed_id != 0 ||
		    request->client->stmts != NULL)
			return statement_set_unnamed(request->client, server,
			                             (struct ledger_entry){.op = OWES_QUERY}, NULL);
		break;
	case FE_FUNCTION_CALL:
		op = OWES_FUNCTION;
		if (!ledger->skipping)
			ledger->open = false;
		break;
	case FE_SYNC:
		if (UNLIKELY(ledger->copy_in)) {
			ledger->syncs++;
			return true;
		}
		ledger->unnamed = false;
		ledger->open = false;
		ledger->skipping = false;
		op = OWES_SYNC;
		break;
	case FE_PARSE:
		op = OWES_PARSE;
		break;
	case FE_BIND:
		op = OWES_BIND;
		break;
	case FE_DESCRIBE:
		op = OWES_DESCRIBE;
		break;
	case FE_EXECUTE:
		op = OWES_EXECUTE;
		break;
	case FE_CLOSE:
		op = OWES_CLOSE;
		break;
	case FE_FLUSH:
		if (LIKELY(wire_get_be32(request->data + request->used + 1) == 4) ||
		    ledger->copy_in)
			return true;
		/* Answered by an error in any case, after which all is skipped. */
		ledger->open = true;
		op = OWES_CLOSE;
		break;
	case FE_COPY_DONE:
	case FE_COPY_FAIL:
		ledger->copy_in = false;
		return true;
	default:
		return true;
	}
	/* What the server skips after an error it does not answer, a Query neither. */
	if (ledger->skipping)
		return true;
	if (ledger_owe(ledger, op)) {
		if (op == OWES_EXECUTE || op == OWES_SYNC)
			ledger_at(ledger, ledger->count - 1)->plain = ledger->ran_plain;
		if (op == OWES_SYNC)
			ledger->ran_plain = false;
		return true;
	}
	client_doom(request->client, CLIENT_CLOSE_MEMORY);
	return false;
}

static bool is_extended(uint8_t type)
{
	return type == FE_PARSE || type == FE_BIND || type == FE_DESCRIBE || type == FE_EXECUTE ||
	       type == FE_CLOSE;
}

static bool is_copy(uint8_t type)
{
	return type == FE_COPY_DATA || type == FE_COPY_DONE || type == FE_COPY_FAIL;
}

/* Whether the next message must not go to the server yet. */
static bool request_must_stop(const struct client *client, const struct server *server,
                              uint8_t type)
{
	if (server_busy_inside(server))
		return true;
	if (ledger_full(&server->ledger) || conn_unsent(&server->conn) > 0)
		return true;
	/* It would hit this one, and not what it was for. */
	if (UNLIKELY(server->cancelling) && server->ledger.readies == 0 && !server->ledger.open &&
	    !server->ledger.copy_in && !server->ledger.skipping && !is_copy(type))
		return true;
	/* An error may yet undo what the batch before was to change in the server's statements. */
	if (UNLIKELY(server->ledger.changes > 0) && !server->ledger.open &&
	    !server->ledger.copy_in && is_extended(type))
		return true;
	if (LIKELY(!client->pool->database->held))
		return false;
	/* A session at its safe point begins nothing.  In a hold a replication connection is a blocker until it
	 * is ended; a pause does not wait for one that does nothing, so its commands wait, which may be SQL. */
	if (client->in_session && (client->replication == 0 || client->pool->database->paused) &&
	    server_quiet(server) && !session_passes(client))
		return true;
	/* Draining: a request at a time, so that there is a boundary at which to stop. */
	return !(client->in_session && (client->pool->database->paused || client->replication != 0)) && !server->ledger.open &&
	       server->ledger.readies > 0 && !is_copy(type) && !server->ledger.skipping &&
	       !server->ledger.copy_in;
}

/* COPY data that came before the server asked for it: whether it reads or ignores it, and what it
 * does with a Sync behind it, is known when it has answered, to which a Flush makes it.  So is,
 * when a COPY has ended, whether Syncs among its data were ignored. */
static bool request_must_ask(const struct server *server, uint8_t type)
{
	const struct ledger *ledger = &server->ledger;

	if (ledger->copy_in)
		return false;
	return UNLIKELY(ledger->syncs > 0) ||
	       (UNLIKELY(is_copy(type)) && ledger->count > 0 && !ledger_gives_only(ledger));
}

static void request_ask(struct server *server)
{
	static const uint8_t flush[] = {FE_FLUSH, 0, 0, 0, 4};
	struct worker *worker = server->worker;

	if (!server->ledger.open || server->ledger.flushed)
		return;
	server->ledger.flushed = true;
	if (conn_send_copy(&worker->to_server, &server->conn, worker, flush, sizeof(flush)) !=
	    CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
}

/* A Query that forgets one of the client's protocol-level statements.  False: it is not such a one,
 * or the server is to answer it. */
static bool request_deallocates(struct request *request, size_t total, enum step *step)
{
	struct client *client = request->client;
	struct server *server = client->server;
	const uint8_t *msg = request->data + request->used;
	struct stmt *stmt;
	char *name;
	size_t len;
	const void *given;
	const uint8_t *text = msg + WIRE_HEADER_LEN;
	const size_t text_len = total - WIRE_HEADER_LEN;
	struct deallocate where;

	if (client->in_session || total > DEALLOCATE_MAX || total > request->len - request->used ||
	    !statement_find_deallocate(text, text_len, &where))
		return false;
	if (server == NULL && !statement_is_deallocate(text, text_len))
		return false; /* what stands around it is a server's */
	*step = STEP_STOP;
	if (server != NULL && server->ledger.readies > 0) {
		request->blocked = true; /* whether it is skipped, or there, is not known yet */
		return true;
	}
	if (server != NULL && server->ledger.executes > 0) {
		request->blocked = statement_flush_first(server) == STATEMENT_WAIT;
		return true;
	}
	if (server != NULL && (server->tx_status == 'E' || server->ledger.skipping))
		return false; /* refused, or skipped, as every Query */
	if (!statement_deallocate(client, where.id, &stmt, &name))
		return false; /* not by the protocol */
	*step = STEP_NEXT;
	if (server != NULL)
		request_note_start(request, server);
	request->used += total;
	if (server != NULL) {
		server->ledger.unnamed = false;
		server->ledger.open = false;
		if (!statement_deallocate_there(client, server, stmt, name, text, text_len, &where))
			*step = STEP_STOP;
		return true;
	}
	(void)client_stmts_set_unnamed(client->stmts, NULL, 0); /* as every Query does */
	stmt_unref(stmt);
	free(name);
	given = statement_deallocated(&len);
	client_tell(client, given, len);
	return true;
}

/* Whether the client has statements that its server would not take. */
static bool request_has_lost(const struct client *client, const struct server *server)
{
	return UNLIKELY(client->seen != NULL && client->seen->lost != NULL) && client->in_session &&
	       !server->ledger.skipping;
}

/* A Query in whose place something else was sent. */
static enum step request_refused(struct request *request, struct server *server, size_t total)
{
	const uint8_t *msg = request->data + request->used;

	request_note_start(request, server);
	server_note_query(server, msg + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN);
	if (!session_see_message(request->client, msg, total, total))
		return STEP_STOP;
	server->ledger.open = false;
	request->used += total;
	return STEP_NEXT;
}

static enum step request_forward(struct request *request, struct server *server, uint8_t type,
                                 size_t total)
{
	struct client *client = request->client;
	struct worker *worker = request->worker;
	size_t have = request->len - request->used;
	size_t n = total < have ? total : have;
	uint8_t *msg = request->data + request->used;
	bool noted = false;

	if (request_has_lost(client, server)) {
		switch (session_lost_message(client, server, msg, total, have)) {
		case LOST_GO_ON:
			break;
		case LOST_DONE:
			return request_refused(request, server, total);
		case LOST_WAIT:
			request->blocked = true;
			return STEP_STOP;
		case LOST_MORE:
		case LOST_FAILED:
			return STEP_STOP;
		}
	}
	request_note_start(request, server);
	server->ledger.flushed = false;
	if (is_extended(type)) {
		if (!client->in_session)
			ledger_note_portal(&server->ledger, msg, n);
		if (type == FE_PARSE) {
			server_note_parse(server, msg + WIRE_HEADER_LEN, n - WIRE_HEADER_LEN);
			if (client->seen != NULL)
				client->seen->piped = server->ledger.open;
		}
		if (type != FE_EXECUTE && !client->in_session && !server->ledger.skipping &&
		    worker->routes->config->proxy.max_prepared_statements > 0 &&
		    !statement_passes(client, server, msg, n)) {
			size_t used = 0;

			switch (statement_message(client, server, msg, total, have, &used)) {
			case STATEMENT_FORWARD:
				break;
			case STATEMENT_NOTED:
				noted = true;
				break;
			case STATEMENT_DONE:
				server->ledger.open = true;
				request->used += used;
				return STEP_NEXT;
			case STATEMENT_WAIT:
				request->blocked = true;
				return STEP_STOP;
			case STATEMENT_MORE:
			case STATEMENT_FAILED:
				return STEP_STOP;
			}
		}
		server->ledger.open = true;
	}
	if (type == FE_QUERY)
		server_note_query(server, msg + WIRE_HEADER_LEN, n - WIRE_HEADER_LEN);
	if (client->in_session && session_sees(type) && !server->ledger.skipping &&
	    !session_see_message(client, msg, total, have))
		return STEP_STOP;
	if (!noted && !request_note(request, server, type))
		return STEP_STOP;
	if (conn_send(&worker->to_server, &server->conn, worker, msg, n) != CONN_IO_OK) {
		server_doom(server, SERVER_CLOSE_IO);
		return STEP_STOP;
	}
	server->left_to = (uint32_t)(total - n);
	request->used += n;
	return STEP_NEXT;
}

static enum step request_stream(struct request *request, struct server *server)
{
	size_t have = request->len - request->used;
	size_t n = server->left_to < have ? server->left_to : have;

	if (conn_unsent(&server->conn) > 0) {
		request->blocked = true;
		return STEP_STOP;
	}
	if (conn_send(&request->worker->to_server, &server->conn, request->worker,
	              request->data + request->used, n) != CONN_IO_OK) {
		server_doom(server, SERVER_CLOSE_IO);
		return STEP_STOP;
	}
	server->left_to -= (uint32_t)n;
	request->used += n;
	if (UNLIKELY(server->ledger.mark_due))
		server_send_mark(server);
	return STEP_NEXT;
}

static void request_bad_header(struct request *request, const uint8_t *header)
{
	char text[128];

	(void)wire_header_error(WIRE_FRONTEND, header, text, sizeof(text));
	client_doom_fatal(request->client, CLIENT_CLOSE_PROTOCOL, "08P01", text, NULL, NULL);
}

/* The client says nothing more.  True: it is owed answers, and gets them first, as from a server of its
 * own. */
static bool request_is_owed(struct client *client)
{
	static const uint8_t terminate[] = {FE_TERMINATE, 0, 0, 0, 4};
	struct server *server = client->server;

	/* Who would wait for the rest of a message, or for data, is owed nothing. */
	if (server == NULL || server->left_to > 0 || server->ledger.copy_in)
		return false;
	if (server->ledger.readies > 0)
		return true;
	if (server->ledger.count == 0)
		return false;
	/* Behind the last Sync: what was asked for by Flush the server sends before it ends. */
	if (!client->parting) {
		client->parting = true;
		if (conn_send(&client->worker->to_server, &server->conn, client->worker, terminate,
		              sizeof(terminate)) != CONN_IO_OK)
			server_doom(server, SERVER_CLOSE_IO);
	}
	return true;
}

/* The size of the message; false: doomed.  A body that is too short for its type is the server's
 * to complain about, in an error that leaves the connection alive. */
static bool request_header(struct request *request, const uint8_t *at, size_t *total)
{
	enum wire_header_status status = wire_header_check(WIRE_FRONTEND, at, total);

	if (LIKELY(status == WIRE_HEADER_OK) && at[0] != FE_PASSWORD)
		return true;
	if (status == WIRE_HEADER_TOO_SHORT && wire_get_be32(at + 1) >= 4 && at[0] != FE_PASSWORD) {
		*total = (size_t)wire_get_be32(at + 1) + 1;
		return true;
	}
	request_bad_header(request, at);
	return false;
}

static enum step request_message(struct request *request)
{
	struct client *client = request->client;
	const uint8_t *at = request->data + request->used;
	size_t total = 0;
	enum step step;

	if (request->len - request->used < WIRE_HEADER_LEN || !request_header(request, at, &total))
		return STEP_STOP;
	if (UNLIKELY(conn_unsent(&client->conn) > 0)) {
		/* It does not read its answers: a server would not go on either. */
		request->blocked = true;
		return STEP_STOP;
	}
	if (client->server == NULL) {
		if (request_without_server(request, at[0], total))
			return STEP_NEXT;
		if (request->worker->shutting_down) {
			client_leave_at_shutdown(client);
			return STEP_STOP;
		}
		if (UNLIKELY(total > request->len - request->used && total <= REQUEST_WHOLE))
			return STEP_STOP;
		if (UNLIKELY(client->failed)) {
			if (client->pool->database->held &&
			    request_failed(request, at, total, &step))
				return step;
		} else if (at[0] == FE_QUERY && UNLIKELY(client->stmts != NULL) &&
		           request_deallocates(request, total, &step)) {
			return step;
		}
		if (!pool_serve(client->pool, client))
			return STEP_STOP;
	}
	if (at[0] == FE_TERMINATE) {
		request->blocked = request_is_owed(client);
		if (!request->blocked)
			client_doom(client, CLIENT_CLOSE_TERMINATE);
		return STEP_STOP;
	}
	if (request_must_stop(client, client->server, at[0])) {
		request->blocked = true;
		return STEP_STOP;
	}
	if (UNLIKELY(request_must_ask(client->server, at[0]))) {
		request_ask(client->server);
		request->blocked = true;
		return STEP_STOP;
	}
	if (at[0] == FE_QUERY) {
		if (UNLIKELY(client->pool->pqexec_off && client->replication == 0)) {
			client_doom_fatal(client, CLIENT_CLOSE_PQEXEC, "08P01", "PQexec disallowed",
					  NULL, "The proxy takes extended queries only.");
			return STEP_STOP;
		}
		if (UNLIKELY(client->stmts != NULL) && request_deallocates(request, total, &step))
			return step;
	}
	return request_forward(request, client->server, at[0], total);
}

static void request_run(struct request *request)
{
	struct client *client = request->client;
	enum step step = STEP_NEXT;

	while (step == STEP_NEXT && request->used < request->len && !client->doomed) {
		if (UNLIKELY(client->discard > 0 || client->discard_to_sync)) {
			size_t before = request->used;

			request_discard(request);
			if (request->used == before &&
			    (client->discard > 0 || client->discard_to_sync))
				break;
			continue;
		}
		if (client->server != NULL && client->server->left_to > 0)
			step = request_stream(request, client->server);
		else
			step = request_message(request);
	}
}

/* Answers of the proxy's own, if nothing is owed by the server: otherwise they go out together with
 * what comes from it (reply.c), in one send. */
static void request_give_now(struct client *client)
{
	struct ledger *ledger = client->server == NULL ? NULL : &client->server->ledger;

	if (ledger == NULL || ledger->count == 0 || client->server->left > 0 ||
	    !ledger_gives_only(ledger))
		return;
	while (ledger->count > 0) {
		size_t len;
		const void *msg = statement_given(ledger_head(ledger)->op, &len);

		if (len > 0)
			client_tell(client, msg, len);
		ledger_pop(ledger);
	}
}

/* The server does not take what is sent to it: if that was the first of a request, another gets it.
 */
static void request_unsent(struct request *request, struct server *server)
{
	if (request->fresh == server) {
		resend_judge_unsent(server);
		if (server->resend.unexecuted)
			request->used = request->fresh_from;
	}
	server_doom(server, SERVER_CLOSE_IO);
}

/* Sends what was gathered, keeps what was not used, decides whether to read on. */
static void request_finish(struct request *request, const struct input *input)
{
	struct client *client = request->client;
	struct worker *worker = request->worker;
	struct server *server = client->server;
	const struct config_proxy *conf = &worker->routes->config->proxy;
	size_t kept;

	/* The order matters: an error to the client ends the use of its server. */
	request_give_now(client);
	if (request->fresh != NULL && request->fresh == server && server->resend.fresh &&
	    request->used > request->fresh_from)
		resend_keep(server, request->data + request->fresh_from,
		            request->used - request->fresh_from);
	if (conn_flush(&worker->to_server, worker) != CONN_IO_OK && server != NULL &&
	    !server->doomed)
		request_unsent(request, server);
	if (conn_flush(&worker->to_client, worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
	if (client->doomed)
		return;
	if (!conn_keep(&client->conn, input, request->used)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	kept = conn_kept(&client->conn);
	server = client->server;
	if (server == NULL) {
		/* While it waits, a bounded part of what it sends is read; its end is noticed. */
		bool more = !client->conn.eof && (client->state != CLIENT_WAITING ||
		                                  kept < (size_t)conf->hold_client_bytes);

		conn_want_read(&client->conn, more && conn_unsent(&client->conn) == 0);
		if (UNLIKELY(client->pool->database->held))
			gate_count_held(client);
		return;
	}
	if (UNLIKELY(!request->blocked && !client->in_session && server_quiet(server))) {
		/* The last of a COPY that had failed: no answer will come at which to let go. */
		server_release(server);
		client_set_state(client, CLIENT_IDLE);
		conn_want_read(&client->conn, conn_unsent(&client->conn) == 0);
		return;
	}
	/* (While a session is asked, a cancel request has to know whether it is for anything.) */
	conn_want_read(&client->conn,
	               !request->blocked && conn_unsent(&server->conn) == 0 &&
	                   conn_unsent(&client->conn) == 0 && !ledger_full(&server->ledger) &&
	                   (!server_busy_inside(server) || (kept == 0 && session_awaits(server))));
}

/* The client has sent its last byte: it ends when it has got what it is owed. */
static void request_at_eof(struct request *request)
{
	struct client *client = request->client;

	if (client->state == CLIENT_WAITING || request->blocked ||
	    conn_unsent(&client->conn) > 0)
		return;
	request->blocked = request_is_owed(client);
	if (!request->blocked)
		client_doom(client, CLIENT_CLOSE_PEER);
}

/* Uses what is here, and again if somebody wanted that meanwhile (a refused request gives way to
 * the next): not by recursion, because a client may have sent thousands. */
static void client_turn(struct client *client, struct input input)
{
	struct worker *worker = client->worker;

	client->turning = true;
	for (;;) {
		struct request request = {
		    .client = client, .worker = worker, .data = input.data, .len = input.len};

		client->again = false;
		/* In the queue: its turn comes, until then what it sends is only kept. */
		if (client->state != CLIENT_WAITING)
			request_run(&request);
		if (UNLIKELY(client->conn.eof) && !client->doomed)
			request_at_eof(&request);
		request_finish(&request, &input);
		if (LIKELY(!client->again) || client->doomed)
			break;
		input = conn_pending(&client->conn, worker);
	}
	client->turning = false;
	if (UNLIKELY(client->cancelled))
		cancel_in_turn(client);
}

void client_go_on(struct client *client)
{
	if (client->doomed || client->pool == NULL || client->login != NULL)
		return;
	if (client->turning)
		client->again = true;
	else
		client_turn(client, conn_pending(&client->conn, client->worker));
}

/* Once more what it has been told: to this the machine of a client that has closed its connection
 * answers that nobody is there. */
static bool client_tries(struct client *client)
{
	struct worker *worker = client->worker;
	const struct param_entry *told = param_set_find(client->params, "server_version");
	struct sbuf out;
	bool sent = true;

	if (told == NULL || conn_unsent(&client->conn) > 0)
		return true;
	sbuf_init(&out, WIRE_STARTUP_MAX);
	wire_add_parameter_status(&out, told->name, told->value);
	sent = sbuf_ok(&out) &&
	       conn_send_copy(&worker->to_client, &client->conn, worker, sbuf_text(&out),
	                      out.len) == CONN_IO_OK &&
	       conn_flush(&worker->to_client, worker) == CONN_IO_OK;
	sbuf_free(&out);
	return sent;
}

/* The first message of what it has waiting is not all there, and never will be. */
static bool client_stopped_short(struct client *client)
{
	const struct input input = conn_pending(&client->conn, client->worker);

	return input.len < WIRE_HEADER_LEN || input.len - 1 < wire_get_be32(input.data + 1);
}

/* A client that waits, for a server that others have or under a hold, has become tired of it, or has
 * said all and reads on: the request of the former is dropped. */
static void client_at_eof(struct client *client)
{
	struct pool *pool = client->pool;
	const bool owed = client->server != NULL && client->server->ledger.readies > 0;
	const bool coming = pool->asked || pool->servers[SERVER_DIALING].count > 0 ||
			    pool->servers[SERVER_LOGIN].count > 0 ||
			    pool->servers[SERVER_RESETTING].count > 0;
	const bool waits = (pool->database->held && !owed) ||
	                   (client->state == CLIENT_WAITING && !coming);

	conn_want_read(&client->conn, false);
	if (waits && (client_stopped_short(client) || !client_tries(client) ||
	              conn_peer_left(&client->conn))) {
		client_doom(client, CLIENT_CLOSE_PEER);
		return;
	}
	pool->some_at_eof = true;
	client_turn(client, conn_pending(&client->conn, client->worker));
}

void client_readable(struct client *client)
{
	struct worker *worker = client->worker;
	const struct config_proxy *conf = &worker->routes->config->proxy;
	const size_t kept = conn_kept(&client->conn);
	size_t limit = 0;
	struct input input;
	enum conn_io io;

	if (client->state == CLIENT_WAITING) {
		limit = kept < (size_t)conf->hold_client_bytes
		            ? (size_t)conf->hold_client_bytes - kept
		            : 1;
	} else if (UNLIKELY(client->pool->database->held) && kept == 0) {
		/* Of what is to wait as well. */
		limit = (size_t)conf->hold_client_bytes;
	}
	io = conn_receive(&client->conn, worker, limit, &input);
	if (io == CONN_IO_AGAIN)
		return;
	if (io == CONN_IO_EOF) {
		client_at_eof(client);
		return;
	}
	if (io != CONN_IO_OK) {
		client_doom(client, CLIENT_CLOSE_IO);
		return;
	}
	client->pool->stats.received += input.len - kept;
	client_turn(client, input);
}
