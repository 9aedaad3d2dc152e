/* SPDX-License-Identifier: PostgreSQL */
#include "core/statement.h"

#include "core/client.h"
#include "core/pool.h"
#include "core/route.h"
#include "core/server.h"
#include "core/worker.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* How much of a Bind may be waited for to find its two names. */
#define BIND_HEAD_MAX ((size_t)64 * 1024)

static enum statement_result statement_no_memory(struct client *client)
{
	client_doom_fatal(client, CLIENT_CLOSE_MEMORY, "53200", "out of memory", NULL, NULL);
	return STATEMENT_FAILED;
}

static bool send_bytes(struct server *server, const void *data, size_t len)
{
	struct worker *worker = server->worker;

	if (conn_send(&worker->to_server, &server->conn, worker, data, len) == CONN_IO_OK)
		return true;
	server_doom(server, SERVER_CLOSE_IO);
	return false;
}

static bool send_copy(struct server *server, const void *data, size_t len)
{
	struct worker *worker = server->worker;

	if (conn_send_copy(&worker->to_server, &server->conn, worker, data, len) == CONN_IO_OK)
		return true;
	server_doom(server, SERVER_CLOSE_IO);
	return false;
}

/* Parse <name> <definition>.  Definitions are copied unless they are long; a long one is a named
 * one, to which the ledger refers until the answer comes, and so beyond the flush. */
static bool send_parse(struct server *server, const char *name, size_t name_len,
		       const struct stmt *stmt)
{
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};

	wire_put_be32(head + 1, (uint32_t)(4 + name_len + 1 + stmt->len));
	return send_copy(server, head, sizeof(head)) && send_copy(server, name, name_len + 1) &&
	       (stmt->len <= STATEMENT_UNNAMED_MAX ? send_copy(server, stmt->text, stmt->len)
						   : send_bytes(server, stmt->text, stmt->len));
}

/* Sends the Close of a statement that was taken out of what the server has. */
static bool statement_take(struct client *client, struct server *server,
			   const uint8_t digest[STMT_DIGEST_LEN])
{
	uint8_t msg[WIRE_HEADER_LEN + 1 + STMT_NAME_LEN + 1] = {FE_CLOSE};
	char *kept = malloc(STMT_DIGEST_LEN);

	wire_put_be32(msg + 1, sizeof(msg) - 1);
	msg[WIRE_HEADER_LEN] = 'S';
	stmt_server_name(digest, (char *)msg + WIRE_HEADER_LEN + 1);
	if (kept != NULL)
		memcpy(kept, digest, STMT_DIGEST_LEN);
	if (kept == NULL || !ledger_push(&server->ledger, OWES_HIDDEN_CLOSE, NULL, kept)) {
		(void)statement_no_memory(client);
		return false;
	}
	return send_copy(server, msg, sizeof(msg));
}

/* Closes what the server has too much of. */
static bool statement_evict(struct client *client, struct server *server)
{
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	uint8_t digest[STMT_DIGEST_LEN];

	while (server_stmts_evict(&server->stmts, (size_t)conf->max_prepared_statements, digest)) {
		if (!statement_take(client, server, digest))
			return false;
	}
	return true;
}

/* Sends the Parse of a statement that the server lacks.  `op` tells whose answer it is; `name` is
 * the client's name for it, to be undone on error, or NULL. */
static bool statement_give(struct client *client, struct server *server, struct stmt *stmt,
			   enum ledger_op op, char *name)
{
	if (!server_stmts_add(&server->stmts, stmt_digest(stmt))) {
		free(name);
		(void)statement_no_memory(client);
		return false;
	}
	if (!statement_evict(client, server)) {
		free(name);
		return false;
	}
	if (!ledger_push(&server->ledger, op, stmt_ref(stmt), name)) {
		(void)statement_no_memory(client);
		return false;
	}
	return send_parse(server, stmt_name(stmt), STMT_NAME_LEN, stmt);
}

/* ---- refusals ---- */

/* Expects an error with the SQLSTATE `expected`, which is to be replaced (reply.c).  Another one,
 * as in a failed transaction, goes on as it is. */
static bool statement_expect(struct client *client, struct server *server, const char *expected,
			     const char *sqlstate, const char *message)
{
	char *text = NULL;

	if (asprintf(&text, "%s%s%s", expected, sqlstate, message) >= 0 &&
	    ledger_push(&server->ledger, OWES_REFUSAL, NULL, text))
		return true;
	(void)statement_no_memory(client);
	return false;
}

/*
 * The client's message is answered with this error.  It has to fail on the server too, so that the
 * transaction does and all is skipped up to Sync: in its place goes a Describe of a statement that
 * cannot exist.
 */
static enum statement_result statement_refuse(struct client *client, struct server *server,
					      const char *sqlstate, const char *message)
{
	static const uint8_t describe[] = {FE_DESCRIBE, 0,   0,   0,   14,  'S', 1,
					   'r',         'e', 'f', 'u', 's', 'e', 'd', 0};
	if (!statement_expect(client, server, "26000", sqlstate, message))
		return STATEMENT_FAILED;
	return send_copy(server, describe, sizeof(describe)) ? STATEMENT_DONE : STATEMENT_FAILED;
}

/* ---- DEALLOCATE of a protocol-level statement ---- */

/* The identifier at *at, as PostgreSQL reads it, into out; false if there is none. */
static bool read_identifier(const char **at, const char *end, char out[STMT_CLIENT_NAME_MAX + 1])
{
	const char *p = *at;
	const bool quoted = p < end && *p == '"';
	size_t n = 0;

	for (p += quoted ? 1 : 0; p < end; p++) {
		if (quoted && *p == '"' && (p + 1 == end || p[1] != '"'))
			break;
		if (quoted && *p == '"')
			p++;
		else if (!quoted && !isalnum((unsigned char)*p) && *p != '_' && *p != '$' &&
			 ((unsigned char)*p & 0x80) == 0)
			break;
		if (n == STMT_CLIENT_NAME_MAX)
			return false;
		out[n++] = quoted ? *p : (char)tolower((unsigned char)*p);
	}
	if (quoted && p == end)
		return false;
	out[n] = '\0';
	*at = p + (quoted ? 1 : 0);
	return n > 0;
}

static void skip_spaces(const char **at, const char *end)
{
	while (*at < end && isspace((unsigned char)**at))
		(*at)++;
}

/* The name in DEALLOCATE [PREPARE] name [;], which must be all of the text. */
static bool read_deallocate(const char *at, const char *end, char id[STMT_CLIENT_NAME_MAX + 1])
{
	static const char word[] = "deallocate";
	bool quoted;

	skip_spaces(&at, end);
	if ((size_t)(end - at) < sizeof(word) || strncasecmp(at, word, sizeof(word) - 1) != 0)
		return false;
	at += sizeof(word) - 1;
	if (!isspace((unsigned char)*at) && *at != '"')
		return false;
	skip_spaces(&at, end);
	quoted = at < end && *at == '"';
	if (!read_identifier(&at, end, id))
		return false;
	if (!quoted && strcmp(id, "prepare") == 0) {
		skip_spaces(&at, end);
		quoted = at < end && *at == '"';
		if (!read_identifier(&at, end, id))
			return false;
	}
	skip_spaces(&at, end);
	if (at < end && *at == ';')
		at++;
	skip_spaces(&at, end);
	return at == end && (quoted || strcmp(id, "all") != 0);
}

/* The size of the message at `at` if it is of this type and all here; 0 if not. */
static size_t whole_message(const uint8_t *at, size_t have, uint8_t type)
{
	size_t total;

	if (have < WIRE_HEADER_LEN || at[0] != type ||
	    wire_header_check(WIRE_FRONTEND, at, &total) != WIRE_HEADER_OK || total > have)
		return 0;
	return total;
}

/*
 * Parse, Bind, Describe and Execute of such a DEALLOCATE, all with empty names, as libpq sends a
 * query of the extended protocol.  True: it was answered here; *used are their bytes.
 */
static bool statement_deallocate_extended(struct client *client, struct server *server,
					  const struct stmt_parse *parse, const uint8_t *msg,
					  size_t total, size_t have, size_t *used)
{
	static const uint8_t describe[] = {FE_DESCRIBE, 0, 0, 0, 6, 'P', 0};
	size_t bind = whole_message(msg + total, have - total, FE_BIND);
	size_t at = total + bind;
	size_t execute;
	struct stmt *stmt;
	char *name;

	if ((parse->def[0] != 'D' && parse->def[0] != 'd') || server->tx_status == 'E' ||
	    bind == 0 || msg[total + WIRE_HEADER_LEN] != 0 ||
	    msg[total + WIRE_HEADER_LEN + 1] != 0 || have - at < sizeof(describe) ||
	    memcmp(msg + at, describe, sizeof(describe)) != 0)
		return false;
	at += sizeof(describe);
	execute = whole_message(msg + at, have - at, FE_EXECUTE);
	if (execute == 0 || msg[at + WIRE_HEADER_LEN] != 0 ||
	    !statement_deallocate(client, (const uint8_t *)parse->def, strlen(parse->def) + 1,
				  &stmt, &name))
		return false;
	(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
	server->unnamed_of = NULL;
	*used = at + execute;
	if (!ledger_push(&server->ledger, GIVES_DEALLOCATE_X, stmt, name))
		(void)statement_no_memory(client);
	return true;
}

/*
 * Whether a name may come to mean something else by answers that are still to come to requests before
 * this one: a Parse that may fail, a Query that may be DEALLOCATE ALL.  Those of the same request do
 * not matter: after an error in it this message is skipped as well.
 */
static bool names_unsettled(const struct server *server)
{
	return server->ledger.readies > 0 && server->ledger.namings > 0;
}

/* ---- Parse ---- */

static enum statement_result statement_parse_unnamed(struct client *client, struct server *server,
						     const struct stmt_parse *parse)
{
	struct stmt *stmt = NULL;

	if (!client_stmts_ensure(&client->stmts, client->worker->stmts))
		return statement_no_memory(client);
	stmt = stmt_store_intern(client->worker->stmts, parse->def, parse->def_len);
	if (stmt == NULL)
		return statement_no_memory(client);
	(void)client_stmts_set_unnamed(client->stmts, stmt, STATEMENT_UNNAMED_MAX);
	stmt_unref(stmt);
	server->unnamed_of = client;
	server->unnamed_id = client->id;
	server->ledger.unnamed = true;
	return STATEMENT_FORWARD;
}

/*
 * The client has a statement of this name.  The server is asked to prepare the new text under the
 * name that the old one has there: it looks for errors in the text first, and then says 42P05.
 */
static enum statement_result statement_parse_again(struct client *client, struct server *server,
						   const struct stmt_parse *parse,
						   struct stmt *old)
{
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};
	char text[128];

	if (!server_stmts_contains(&server->stmts, stmt_digest(old)) &&
	    !statement_give(client, server, old, OWES_HIDDEN_PARSE, NULL))
		return STATEMENT_FAILED;
	(void)snprintf(text, sizeof(text), "prepared statement \"%.*s\" already exists",
		       STMT_CLIENT_NAME_MAX, parse->name);
	if (!statement_expect(client, server, "42P05", "42P05", text))
		return STATEMENT_FAILED;
	wire_put_be32(head + 1, (uint32_t)(4 + STMT_NAME_LEN + 1 + parse->def_len));
	return send_copy(server, head, sizeof(head)) &&
		       send_copy(server, stmt_name(old), STMT_NAME_LEN + 1) &&
		       send_bytes(server, parse->def, parse->def_len)
		   ? STATEMENT_DONE
		   : STATEMENT_FAILED;
}

static enum statement_result statement_parse_named(struct client *client, struct server *server,
						   const struct stmt_parse *parse)
{
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	struct stmt *stmt;
	char *name;
	enum client_stmts_status status;
	bool sent;

	if (!client_stmts_ensure(&client->stmts, client->worker->stmts))
		return statement_no_memory(client);
	stmt = client_stmts_get(client->stmts, parse->name, parse->name_len);
	if (stmt != NULL)
		return statement_parse_again(client, server, parse, stmt);
	stmt = stmt_store_intern(client->worker->stmts, parse->def, parse->def_len);
	name = strndup(parse->name, parse->name_len);
	if (stmt == NULL || name == NULL) {
		stmt_unref(stmt);
		free(name);
		return statement_no_memory(client);
	}
	status = client_stmts_set(client->stmts, parse->name, parse->name_len, stmt,
				  (size_t)conf->max_client_prepared_statements);
	if (status != CLIENT_STMTS_OK) {
		stmt_unref(stmt);
		free(name);
		if (status != CLIENT_STMTS_FULL)
			return statement_no_memory(client);
		return statement_refuse(client, server, "53400",
					"too many prepared statements in this connection "
					"(max_client_prepared_statements)");
	}
	if (server->tx_status != 'E' && server->ledger.readies == 0 &&
	    server_stmts_touch(&server->stmts, stmt_digest(stmt))) {
		sent = ledger_push(&server->ledger, GIVES_PARSE, stmt_ref(stmt), name);
	} else if (server_stmts_remove(&server->stmts, stmt_digest(stmt)) &&
		   !statement_take(client, server, stmt_digest(stmt))) {
		free(name);
		sent = false;
	} else {
		/* In a transaction that has failed, or may have by then, the server must say so
		 * itself, and so parses it anew if it had it. */
		sent = statement_give(client, server, stmt, OWES_PARSE, name);
	}
	stmt_unref(stmt);
	if (sent)
		return STATEMENT_DONE;
	return client->doomed || server->doomed ? STATEMENT_FAILED : statement_no_memory(client);
}

static enum statement_result statement_parse(struct client *client, struct server *server,
					     const uint8_t *msg, size_t total, size_t have,
					     size_t *used)
{
	struct stmt_parse parse;
	const bool unnamed = have > WIRE_HEADER_LEN && msg[WIRE_HEADER_LEN] == '\0';
	enum statement_result result;

	if (have == WIRE_HEADER_LEN && total > WIRE_HEADER_LEN)
		return STATEMENT_MORE;
	if (unnamed && total > STATEMENT_UNNAMED_MAX) {
		/* Too long to be remembered: good for this transaction only. */
		if (client->stmts != NULL)
			(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
		server->unnamed_of = client;
		server->unnamed_id = client->id;
		server->ledger.unnamed = true;
		return STATEMENT_FORWARD;
	}
	if (total > STATEMENT_MAX) {
		client_doom_fatal(client, CLIENT_CLOSE_LIMIT, "54000",
				  "prepared statement is too long",
				  "A named prepared statement may have 16 MB in transaction pooling.",
				  "Use the unnamed statement, or session pooling.");
		return STATEMENT_FAILED;
	}
	if (have < total)
		return STATEMENT_MORE;
	if (!stmt_split_parse(msg + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN, &parse))
		return STATEMENT_FORWARD;
	if (parse.name_len == 0 && server->ledger.readies > 0 &&
	    statement_is_deallocate(client, (const uint8_t *)parse.def, strlen(parse.def) + 1))
		return STATEMENT_WAIT;
	if (parse.name_len == 0 &&
	    statement_deallocate_extended(client, server, &parse, msg, total, have, used))
		return STATEMENT_DONE;
	if (parse.name_len == 0)
		return statement_parse_unnamed(client, server, &parse);
	if (names_unsettled(server))
		return STATEMENT_WAIT;
	result = statement_parse_named(client, server, &parse);
	*used = result == STATEMENT_DONE ? total : 0;
	return result;
}

/* ---- what uses a statement ---- */

/* Whether a Parse of the unnamed statement, in a batch before this one, may yet turn out to have been
 * skipped: then the server has what somebody else left there. */
static bool statement_unnamed_unsure(const struct server *server)
{
	return server->ledger.readies > 0 && !server->ledger.unnamed;
}

/* Sees to it that the server has the client's unnamed statement, or none. */
static bool statement_ensure_unnamed(struct client *client, struct server *server)
{
	static const uint8_t close_unnamed[] = {FE_CLOSE, 0, 0, 0, 6, 'S', 0};
	struct stmt *stmt;

	if (server->unnamed_of == client && server->unnamed_id == client->id)
		return true;
	stmt = client_stmts_get_unnamed(client->stmts);
	server->unnamed_of = client;
	server->unnamed_id = client->id;
	if (stmt != NULL) {
		if (!ledger_push(&server->ledger, OWES_HIDDEN_PARSE, NULL, NULL)) {
			(void)statement_no_memory(client);
			return false;
		}
		return send_parse(server, "", 0, stmt);
	}
	/* It may have somebody else's, which this client must not run. */
	if (!ledger_push(&server->ledger, OWES_HIDDEN_CLOSE, NULL, NULL)) {
		(void)statement_no_memory(client);
		return false;
	}
	return send_copy(server, close_unnamed, sizeof(close_unnamed));
}

static bool statement_ensure(struct client *client, struct server *server, struct stmt *stmt)
{
	if (LIKELY(server_stmts_touch(&server->stmts, stmt_digest(stmt))))
		return true;
	return statement_give(client, server, stmt, OWES_HIDDEN_PARSE, NULL);
}

static enum statement_result statement_bind(struct client *client, struct server *server,
					    const uint8_t *msg, size_t total, size_t have,
					    size_t *used)
{
	struct wire_bind_message bind;
	struct stmt *stmt;
	uint8_t head[WIRE_HEADER_LEN] = {FE_BIND};
	size_t portal_len;
	size_t name_len;

	if (!wire_parse_bind(msg + WIRE_HEADER_LEN, have - WIRE_HEADER_LEN, &bind))
		return have < total && have < BIND_HEAD_MAX ? STATEMENT_MORE : STATEMENT_FORWARD;
	name_len = strlen(bind.statement);
	if (name_len == 0 && statement_unnamed_unsure(server))
		return STATEMENT_WAIT;
	if (name_len == 0)
		return statement_ensure_unnamed(client, server) ? STATEMENT_FORWARD
								: STATEMENT_FAILED;
	if (names_unsettled(server))
		return STATEMENT_WAIT;
	stmt = client_stmts_get(client->stmts, bind.statement, name_len);
	if (stmt == NULL)
		return STATEMENT_FORWARD; /* 26000, in the server's words */
	if (!statement_ensure(client, server, stmt))
		return STATEMENT_FAILED;
	if (!ledger_push(&server->ledger, OWES_BIND, NULL, NULL))
		return statement_no_memory(client);
	portal_len = strlen(bind.portal) + 1;
	wire_put_be32(head + 1, (uint32_t)(total - 1 - name_len + STMT_NAME_LEN));
	if (!send_copy(server, head, sizeof(head)) ||
	    !send_copy(server, bind.portal, portal_len) ||
	    !send_copy(server, stmt_name(stmt), STMT_NAME_LEN + 1))
		return STATEMENT_FAILED;
	*used = WIRE_HEADER_LEN + bind.rest_offset;
	server->left_to = (uint32_t)(total - *used);
	return STATEMENT_DONE;
}

static enum statement_result statement_describe(struct client *client, struct server *server,
						const char *name, size_t total, size_t *used)
{
	uint8_t msg[WIRE_HEADER_LEN + 1 + STMT_NAME_LEN + 1] = {FE_DESCRIBE};
	struct stmt *stmt;

	if (name[0] == '\0' && statement_unnamed_unsure(server))
		return STATEMENT_WAIT;
	if (name[0] == '\0')
		return statement_ensure_unnamed(client, server) ? STATEMENT_FORWARD
								: STATEMENT_FAILED;
	stmt = client_stmts_get(client->stmts, name, strlen(name));
	if (stmt == NULL)
		return STATEMENT_FORWARD;
	if (!statement_ensure(client, server, stmt))
		return STATEMENT_FAILED;
	wire_put_be32(msg + 1, sizeof(msg) - 1);
	msg[WIRE_HEADER_LEN] = 'S';
	memcpy(msg + WIRE_HEADER_LEN + 1, stmt_name(stmt), STMT_NAME_LEN + 1);
	if (!ledger_push(&server->ledger, OWES_DESCRIBE, NULL, NULL))
		return statement_no_memory(client);
	*used = total;
	return send_copy(server, msg, sizeof(msg)) ? STATEMENT_DONE : STATEMENT_FAILED;
}

static enum statement_result statement_close(struct client *client, struct server *server,
					     const char *name, size_t total, size_t *used)
{
	struct stmt *stmt;
	char *kept;

	if (name[0] == '\0') {
		if (client->stmts != NULL)
			(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
		return STATEMENT_FORWARD;
	}
	stmt = stmt_ref(client_stmts_get(client->stmts, name, strlen(name)));
	if (stmt == NULL)
		return STATEMENT_FORWARD; /* no error: the server answers as it does */
	kept = strdup(name);
	if (kept == NULL) {
		stmt_unref(stmt);
		return statement_no_memory(client);
	}
	(void)client_stmts_remove(client->stmts, name, strlen(name));
	*used = total;
	if (!ledger_push(&server->ledger, GIVES_CLOSE, stmt, kept))
		return statement_no_memory(client);
	return STATEMENT_DONE;
}

enum statement_result statement_message(struct client *client, struct server *server, uint8_t *msg,
					size_t total, size_t have, size_t *used)
{
	char kind;
	const char *name;

	switch (msg[0]) {
	case FE_PARSE:
		return statement_parse(client, server, msg, total, have, used);
	case FE_BIND:
		return statement_bind(client, server, msg, total, have, used);
	default:
		if (have < total)
			return STATEMENT_MORE;
		if (!wire_parse_target(msg + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN, &kind,
				       &name) ||
		    kind != 'S')
			return STATEMENT_FORWARD;
		if (name[0] != '\0' && names_unsettled(server))
			return STATEMENT_WAIT;
		if (msg[0] == FE_DESCRIBE)
			return statement_describe(client, server, name, total, used);
		return statement_close(client, server, name, total, used);
	}
}

void statement_all_gone(struct client *client, struct server *server)
{
	server_stmts_clear(&server->stmts);
	if (client != NULL)
		client_stmts_clear(client->stmts);
	for (uint32_t i = 0; i < server->ledger.count; i++) {
		struct ledger_entry *entry = ledger_at(&server->ledger, i);
		bool parse = entry->op == OWES_PARSE || entry->op == OWES_HIDDEN_PARSE;

		if (!parse || entry->stmt == NULL)
			continue;
		if (!server_stmts_add(&server->stmts, stmt_digest(entry->stmt)))
			server->stale = true;
		if (client != NULL && entry->op == OWES_PARSE && entry->name != NULL &&
		    client_stmts_set(client->stmts, entry->name, strlen(entry->name), entry->stmt,
				     SIZE_MAX) != CLIENT_STMTS_OK)
			server->stale = true;
	}
}

/* The server has dropped the old one before it looked at the new one. */
static void statement_undo_unnamed(struct client *client, struct server *server,
				   const struct ledger_entry *entry)
{
	server->unnamed_of = NULL;
	if (entry->op == OWES_PARSE && client != NULL && client->stmts != NULL)
		(void)client_stmts_set_unnamed(client->stmts, NULL, 0);
}

void statement_undo(struct client *client, struct server *server, struct ledger_entry *entry,
		    bool unnamed_later)
{
	switch (entry->op) {
	case OWES_PARSE:
	case OWES_HIDDEN_PARSE:
		if (entry->name != NULL && entry->name[0] == '\0')
			break;
		if (entry->stmt != NULL)
			(void)server_stmts_remove(&server->stmts, stmt_digest(entry->stmt));
		else if (entry->name == NULL && !unnamed_later)
			statement_undo_unnamed(client, server, entry);
		if (entry->name != NULL && client != NULL)
			(void)client_stmts_remove(client->stmts, entry->name,
						  strlen(entry->name));
		break;
	case GIVES_PARSE:
		if (entry->name != NULL && client != NULL)
			(void)client_stmts_remove(client->stmts, entry->name,
						  strlen(entry->name));
		break;
	case GIVES_CLOSE:
	case GIVES_DEALLOCATE:
	case GIVES_DEALLOCATE_X:
		/* What was closed behind an error is still there. */
		if (client != NULL && client->stmts != NULL &&
		    client_stmts_set(client->stmts, entry->name, strlen(entry->name), entry->stmt,
				     SIZE_MAX) != CLIENT_STMTS_OK)
			break;
		break;
	case OWES_HIDDEN_CLOSE:
		/* It still has what was to be closed; without memory it is not to be used again. */
		if (entry->name == NULL && !unnamed_later)
			server->unnamed_of = NULL;
		else if (entry->name != NULL && !server_stmts_add(&server->stmts, (const uint8_t *)entry->name))
			server->stale = true;
		break;
	default:
		break;
	}
}

/* ---- what the proxy answers itself ---- */

bool statement_is_deallocate(const struct client *client, const uint8_t *text, size_t len)
{
	const char *at = (const char *)text;
	char id[STMT_CLIENT_NAME_MAX + 1];

	return len > 0 && text[len - 1] == '\0' && read_deallocate(at, at + len - 1, id) &&
	       client_stmts_get(client->stmts, id, strlen(id)) != NULL;
}

bool statement_deallocate(struct client *client, const uint8_t *text, size_t len,
			  struct stmt **stmt, char **name)
{
	const char *at = (const char *)text;
	char id[STMT_CLIENT_NAME_MAX + 1];

	if (len == 0 || text[len - 1] != '\0' || !read_deallocate(at, at + len - 1, id))
		return false;
	*stmt = stmt_ref(client_stmts_get(client->stmts, id, strlen(id)));
	if (*stmt == NULL)
		return false;
	*name = strdup(id);
	if (*name == NULL) {
		stmt_unref(*stmt);
		return false;
	}
	(void)client_stmts_remove(client->stmts, id, strlen(id));
	return true;
}

#define DEALLOCATE_TAG                                                                             \
	BE_COMMAND_COMPLETE, 0, 0, 0, 15, 'D', 'E', 'A', 'L', 'L', 'O', 'C', 'A', 'T', 'E', 0
#define EMPTY_MESSAGE(type) (type), 0, 0, 0, 4
#define READY(status) BE_READY_FOR_QUERY, 0, 0, 0, 5, (status)

const void *statement_given(const struct server *server, uint8_t op, size_t *len)
{
	static const uint8_t parse_complete[] = {EMPTY_MESSAGE(BE_PARSE_COMPLETE)};
	static const uint8_t close_complete[] = {EMPTY_MESSAGE(BE_CLOSE_COMPLETE)};
	static const uint8_t idle[] = {DEALLOCATE_TAG, READY('I')};
	static const uint8_t block[] = {DEALLOCATE_TAG, READY('T')};
	static const uint8_t extended[] = {EMPTY_MESSAGE(BE_PARSE_COMPLETE),
					   EMPTY_MESSAGE(BE_BIND_COMPLETE),
					   EMPTY_MESSAGE(BE_NO_DATA), DEALLOCATE_TAG};

	switch (op) {
	case GIVES_PARSE:
		*len = sizeof(parse_complete);
		return parse_complete;
	case GIVES_CLOSE:
		*len = sizeof(close_complete);
		return close_complete;
	case GIVES_DEALLOCATE:
		*len = sizeof(idle);
		return server == NULL || server->tx_status == 'I' ? idle : block;
	case GIVES_DEALLOCATE_X:
		*len = sizeof(extended);
		return extended;
	default:
		*len = 0;
		return NULL;
	}
}
