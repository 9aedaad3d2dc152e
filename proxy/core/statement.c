/* SPDX-License-Identifier: PostgreSQL */
#include "core/statement.h"

#include "base/log.h"
#include "core/change.h"
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
	client_doom(client, CLIENT_CLOSE_MEMORY);
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

	if (name_len > 0)
		server->pool->stats.server_parses++;
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
	server->given = true;
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

enum statement_result statement_flush_first(struct server *server)
{
	static const uint8_t flush[] = {FE_FLUSH, 0, 0, 0, 4};

	return send_bytes(server, flush, sizeof(flush)) ? STATEMENT_WAIT : STATEMENT_FAILED;
}

/* ---- refusals ---- */

#define EXISTS_MAX ((size_t)STMT_CLIENT_NAME_MAX + 64)
#define EXISTS_HEAD "prepared statement \""
#define EXISTS_TAIL "\" already exists"

static void exists_text(char text[EXISTS_MAX], const char *name)
{
	(void)snprintf(text, EXISTS_MAX, EXISTS_HEAD "%.*s" EXISTS_TAIL, STMT_CLIENT_NAME_MAX,
	               name);
}

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
	static const uint8_t describe[] = {FE_DESCRIBE, 0,   0,   0,   14,  'S', 1, 'r',
	                                   'e',         'f', 'u', 's', 'e', 'd', 0};
	if (!statement_expect(client, server, "26000", sqlstate, message))
		return STATEMENT_FAILED;
	return send_copy(server, describe, sizeof(describe)) ? STATEMENT_DONE : STATEMENT_FAILED;
}

/* ---- the unnamed statement ---- */

/* A Parse of it by this client is on its way to the server. */
static void statement_has_unnamed(struct client *client, struct server *server)
{
	client->unnamed_id = ++client->worker->unnamed_ids;
	server->unnamed_id = client->unnamed_id;
	server->ledger.unnamed = true;
}

bool statement_set_unnamed(struct client *client, struct server *server, struct ledger_entry entry,
                           struct stmt *stmt)
{
	/* Sent again, the request would use the new one where it has used the old. */
	if (UNLIKELY(server->resend.unnamed))
		resend_forget(server);
	entry.unnamed = stmt_ref(client_stmts_get_unnamed(client->stmts));
	entry.sets_unnamed = true;
	entry.had_unnamed = server_has_unnamed(server, client);
	if (!ledger_add(&server->ledger, entry)) {
		(void)statement_no_memory(client);
		return false;
	}
	if (client->stmts != NULL)
		(void)client_stmts_set_unnamed(client->stmts, stmt, STATEMENT_UNNAMED_MAX);
	client->unnamed_id = 0;
	server->unnamed_id = 0;
	return true;
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

/* The name in DEALLOCATE [PREPARE] name, behind which *from is afterwards. */
static bool read_deallocated(const char **from, const char *end, char id[STMT_CLIENT_NAME_MAX + 1])
{
	static const char word[] = "deallocate";
	const char *at = *from;
	bool quoted;

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
	*from = at;
	return quoted || strcmp(id, "all") != 0;
}

/* The same where it is all of the text, but for a semicolon. */
static bool read_deallocate(const char *at, const char *end, char id[STMT_CLIENT_NAME_MAX + 1])
{
	skip_spaces(&at, end);
	if (!read_deallocated(&at, end, id))
		return false;
	if (at < end && *at == ';')
		at++;
	skip_spaces(&at, end);
	return at == end;
}

/* Behind a command of words only, in which no semicolon can be hidden; NULL: it is another. */
static const char *skip_plain_command(const char *at, const char *end)
{
	while (at < end && (isalnum((unsigned char)*at) || *at == '_' || isspace((unsigned char)*at)))
		at++;
	return at == end || *at == ';' ? at : NULL;
}

/* The same among other commands: psqlODBC has it between SAVEPOINT and RELEASE. */
static bool find_deallocate(const char *text, const char *end, char id[STMT_CLIENT_NAME_MAX + 1],
                            struct deallocate *where)
{
	bool found = false;

	for (const char *at = text; at != NULL && at < end; at++) {
		const char *begin;

		skip_spaces(&at, end);
		begin = at;
		if (!read_deallocated(&at, end, id)) {
			at = skip_plain_command(begin, end);
		} else if (found || (at < end && *at != ';')) {
			return false;
		} else {
			found = true;
			where->begin = (size_t)(begin - text);
			where->end = (size_t)(at - text);
			memcpy(where->id, id, STMT_CLIENT_NAME_MAX + 1);
		}
		if (at == NULL)
			return false;
	}
	return found;
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

/* What the server is sent for a DEALLOCATE of this statement. */
#define DEALLOCATE_TEXT_MAX (sizeof("DEALLOCATE ") + STMT_NAME_LEN)

/* Sees to it that the server has the statement, if only to lose it at once. */
static bool statement_have_to_end(struct client *client, struct server *server, struct stmt *stmt)
{
	static const char nothing[] = "SELECT\0\0"; /* and a zero: no parameters */
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};

	if (server_stmts_contains(&server->stmts, stmt_digest(stmt)))
		return true;
	if (!ledger_push(&server->ledger, OWES_HIDDEN_PARSE, stmt_ref(stmt), NULL)) {
		(void)statement_no_memory(client);
		return false;
	}
	wire_put_be32(head + 1, (uint32_t)(4 + STMT_NAME_LEN + 1 + sizeof(nothing)));
	return send_copy(server, head, sizeof(head)) &&
	       send_copy(server, stmt_name(stmt), STMT_NAME_LEN + 1) &&
	       send_copy(server, nothing, sizeof(nothing));
}

bool statement_deallocate_there(struct client *client, struct server *server, struct stmt *stmt,
                                char *name, const uint8_t *query, size_t query_len,
                                const struct deallocate *where)
{
	uint8_t head[WIRE_HEADER_LEN] = {FE_QUERY};
	char text[DEALLOCATE_TEXT_MAX];
	struct ledger_entry entry = {.stmt = stmt, .name = name, .op = OWES_DEALLOCATE};
	size_t len = (size_t)snprintf(text, sizeof(text), "DEALLOCATE %s", stmt_name(stmt));
	size_t rest = query_len - where->end;

	if (!statement_have_to_end(client, server, stmt)) {
		stmt_unref(stmt);
		free(name);
		return false;
	}
	(void)server_stmts_remove(&server->stmts, stmt_digest(stmt));
	if (!statement_set_unnamed(client, server, entry, NULL))
		return false;
	wire_put_be32(head + 1, (uint32_t)(4 + where->begin + len + rest));
	return send_copy(server, head, sizeof(head)) && send_copy(server, query, where->begin) &&
	       send_copy(server, text, len) && send_copy(server, query + where->end, rest);
}

/* Parse of the DEALLOCATE of `stmt` and what follows it up to its Execute. */
static bool statement_deallocate_parsed(struct client *client, struct server *server,
                                        struct stmt *stmt, bool described, const uint8_t *rest,
                                        size_t rest_len)
{
	uint8_t head[WIRE_HEADER_LEN + 1] = {FE_PARSE};
	char text[DEALLOCATE_TEXT_MAX + 2] = {0};
	/* With the zeros behind it: no parameters. */
	size_t len = (size_t)snprintf(text, sizeof(text) - 2, "DEALLOCATE %s", stmt_name(stmt)) + 3;
	struct stmt *unnamed = stmt_store_intern(client->worker->stmts, text, len);
	bool noted = unnamed != NULL &&
	             statement_set_unnamed(client, server, (struct ledger_entry){.op = OWES_PARSE},
	                                   unnamed) &&
	             ledger_owe(&server->ledger, OWES_BIND) &&
	             (!described || ledger_owe(&server->ledger, OWES_DESCRIBE)) &&
	             ledger_owe(&server->ledger, OWES_EXECUTE);

	stmt_unref(unnamed);
	if (!noted) {
		(void)statement_no_memory(client);
		return false;
	}
	statement_has_unnamed(client, server);
	wire_put_be32(head + 1, (uint32_t)(4 + 1 + len));
	return send_copy(server, head, sizeof(head)) && send_copy(server, text, len) &&
	       send_bytes(server, rest, rest_len);
}

/*
 * Parse, Bind, Describe (or not) and Execute of such a DEALLOCATE, all with empty names, as drivers
 * send a query of the extended protocol.  STATEMENT_FORWARD: it is none.
 */
static enum statement_result statement_deallocate_extended(struct client *client,
                                                           struct server *server,
                                                           const struct stmt_parse *parse,
                                                           const uint8_t *msg, size_t total,
                                                           size_t have, size_t *used)
{
	static const uint8_t describe[] = {FE_DESCRIBE, 0, 0, 0, 6, 'P', 0};
	char id[STMT_CLIENT_NAME_MAX + 1];
	size_t bind;
	size_t at;
	size_t execute;
	bool described;
	struct stmt *stmt;
	char *name;

	if (LIKELY(parse->def[0] != 'D' && parse->def[0] != 'd'))
		return STATEMENT_FORWARD;
	bind = whole_message(msg + total, have - total, FE_BIND);
	at = total + bind;
	if (server->tx_status == 'E' || bind == 0 || msg[total + WIRE_HEADER_LEN] != 0 ||
	    msg[total + WIRE_HEADER_LEN + 1] != 0)
		return STATEMENT_FORWARD;
	described =
	    have - at >= sizeof(describe) && memcmp(msg + at, describe, sizeof(describe)) == 0;
	at += described ? sizeof(describe) : 0;
	execute = whole_message(msg + at, have - at, FE_EXECUTE);
	if (execute == 0 || !read_deallocate(parse->def, parse->def + strlen(parse->def), id))
		return STATEMENT_FORWARD;
	if (server->ledger.executes > 0)
		return statement_flush_first(server);
	if (msg[at + WIRE_HEADER_LEN] != 0 || !statement_deallocate(client, id, &stmt, &name))
		return STATEMENT_FORWARD;
	*used = at + execute;
	if (!statement_have_to_end(client, server, stmt) ||
	    !statement_deallocate_parsed(client, server, stmt, described, msg + total,
	                                 *used - total)) {
		stmt_unref(stmt);
		free(name);
		return STATEMENT_FAILED;
	}
	(void)server_stmts_remove(&server->stmts, stmt_digest(stmt));
	return ledger_push(&server->ledger, ENDS_STMT, stmt, name) ? STATEMENT_DONE
	                                                           : statement_no_memory(client);
}

/*
 * Whether a name may come to mean something else by answers that are still to come to requests
 * before this one: a Parse that may fail, a Query that may be DEALLOCATE ALL.  Those of the same
 * request do not matter: after an error in it this message is skipped as well.
 */
static bool names_unsettled(const struct server *server)
{
	return server->ledger.readies > 0 && server->ledger.namings > 0;
}

/* The same for a Parse of a name that the client has, in this request too: see
 * statement_prepared_anew().  STATEMENT_DONE: they are settled. */
static enum statement_result statement_settle_names(struct server *server)
{
	if (UNLIKELY(server->ledger.refusals > 0))
		return statement_flush_first(server);
	return names_unsettled(server) ? STATEMENT_WAIT : STATEMENT_DONE;
}

/* ---- Parse ---- */

static enum statement_result statement_parse_unnamed(struct client *client, struct server *server,
                                                     const struct stmt_parse *parse)
{
	struct stmt *stmt;
	bool noted;

	if (!client_stmts_ensure(&client->stmts, client->worker->stmts))
		return statement_no_memory(client);
	stmt = client_stmts_get_unnamed(client->stmts);
	if (stmt != NULL && stmt->len == parse->def_len && stmt->generation == 0 &&
	    memcmp(stmt->text, parse->def, parse->def_len) == 0)
		stmt = stmt_ref(stmt); /* the same once more */
	else
		stmt = stmt_store_intern(client->worker->stmts, parse->def, parse->def_len);
	if (stmt == NULL)
		return statement_no_memory(client);
	noted =
	    statement_set_unnamed(client, server, (struct ledger_entry){.op = OWES_PARSE}, stmt);
	stmt_unref(stmt);
	if (!noted)
		return STATEMENT_FAILED;
	statement_has_unnamed(client, server);
	return STATEMENT_NOTED;
}

static uint32_t statement_generation(const struct client *client)
{
	return atomic_load_explicit(&client->pool->database->share->generation,
	                            memory_order_relaxed);
}

/* The definition as the client means it now; it shares it with others who mean the same, unless
 * what it has set is not known. */
static struct stmt *statement_intern(struct client *client, const struct server *server,
                                     const void *def, size_t len, uint32_t generation)
{
	struct stmt_store *store = client->worker->stmts;

	return UNLIKELY(server->apart)
	           ? stmt_store_make_own(store, def, len, generation)
	           : stmt_store_intern_at(store, def, len, generation,
	                                  param_set_parse_digest(client->params));
}

/*
 * The client has a statement of this name.  The server is asked to prepare the new text under the
 * name that the old one has there: it looks for errors in the text first, and then says 42P05.
 */
static enum statement_result statement_parse_again(struct client *client, struct server *server,
                                                   const struct stmt_parse *parse, struct stmt *old)
{
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};
	struct ledger_entry *entry;
	char text[EXISTS_MAX];

	if (server->ledger.executes > 0)
		return statement_flush_first(server);
	if (!server_stmts_contains(&server->stmts, stmt_digest(old)) &&
	    !statement_give(client, server, old, OWES_HIDDEN_PARSE, NULL))
		return STATEMENT_FAILED;
	exists_text(text, parse->name);
	if (!statement_expect(client, server, "42P05", "42P05", text))
		return STATEMENT_FAILED;
	entry = ledger_at(&server->ledger, server->ledger.count - 1);
	entry->unnamed = stmt_ref(old);
	entry->stmt = statement_intern(client, server, parse->def, parse->def_len,
	                               statement_generation(client));
	if (entry->stmt == NULL)
		return statement_no_memory(client);
	client_log(client, LOG_LEVEL_INFO, "prepared statement '%.*s' was already prepared",
	           STMT_CLIENT_NAME_MAX, parse->name);
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
	stmt = statement_intern(client, server, parse->def, parse->def_len,
	                        statement_generation(client));
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
	    server->ledger.executes == 0 && server_stmts_touch(&server->stmts, stmt_digest(stmt))) {
		sent = ledger_push(&server->ledger, GIVES_PARSE, stmt_ref(stmt), name);
	} else if (server_stmts_remove(&server->stmts, stmt_digest(stmt)) &&
	           !statement_take(client, server, stmt_digest(stmt))) {
		free(name);
		sent = false;
	} else {
		/* In a transaction that has failed, or may have by then, the server must say so
		 * itself, and so parses it anew if it had it; it may also lose it before, by a
		 * DEALLOCATE ALL. */
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
		if (!statement_set_unnamed(client, server, (struct ledger_entry){.op = OWES_PARSE},
		                           NULL))
			return STATEMENT_FAILED;
		statement_has_unnamed(client, server);
		return STATEMENT_NOTED;
	}
	if (total > STATEMENT_MAX) {
		client_doom_fatal(
		    client, CLIENT_CLOSE_LIMIT, "54000", "prepared statement is too long",
		    "A named prepared statement may have 16 MB in transaction pooling.",
		    "Use the unnamed statement, or session pooling.");
		return STATEMENT_FAILED;
	}
	if (have < total)
		return STATEMENT_MORE;
	if (!stmt_split_parse(msg + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN, &parse))
		return STATEMENT_FORWARD;
	if (parse.name_len == 0 && server->ledger.readies > 0 &&
	    statement_is_deallocate((const uint8_t *)parse.def, strlen(parse.def) + 1))
		return STATEMENT_WAIT;
	if (parse.name_len == 0) {
		result =
		    statement_deallocate_extended(client, server, &parse, msg, total, have, used);
		return result == STATEMENT_FORWARD ? statement_parse_unnamed(client, server, &parse)
		                                   : result;
	}
	result = statement_settle_names(server);
	if (result != STATEMENT_DONE)
		return result;
	result = statement_parse_named(client, server, &parse);
	if (result == STATEMENT_DONE) {
		client->pool->stats.client_parses++;
		*used = total;
	}
	return result;
}

/* ---- what uses a statement ---- */

/* Sees to it that the server has the client's unnamed statement, or none. */
static bool statement_ensure_unnamed(struct client *client, struct server *server)
{
	static const uint8_t close_unnamed[] = {FE_CLOSE, 0, 0, 0, 6, 'S', 0};
	struct stmt *stmt;

	server->resend.unnamed = true;
	if (server_has_unnamed(server, client))
		return true;
	stmt = client_stmts_get_unnamed(client->stmts);
	if (client->unnamed_id == 0)
		client->unnamed_id = ++client->worker->unnamed_ids;
	server->unnamed_id = client->unnamed_id;
	if (stmt != NULL) {
		if (!ledger_owe(&server->ledger, OWES_HIDDEN_PARSE)) {
			(void)statement_no_memory(client);
			return false;
		}
		return send_parse(server, "", 0, stmt);
	}
	/* It may have somebody else's, which this client must not run. */
	if (!ledger_owe(&server->ledger, OWES_HIDDEN_CLOSE)) {
		(void)statement_no_memory(client);
		return false;
	}
	return send_copy(server, close_unnamed, sizeof(close_unnamed));
}

static enum statement_result statement_use_unnamed(struct client *client, struct server *server)
{
	if (statement_unnamed_unsure(server))
		return STATEMENT_WAIT;
	return statement_ensure_unnamed(client, server) ? STATEMENT_FORWARD : STATEMENT_FAILED;
}

static bool statement_ensure(struct client *client, struct server *server, struct stmt *stmt)
{
	if (LIKELY(server_stmts_touch(&server->stmts, stmt_digest(stmt))))
		return true;
	return statement_give(client, server, stmt, OWES_HIDDEN_PARSE, NULL);
}

/*
 * The client's statement of this name, as it is to be used: since it was prepared the client may
 * have changed settings on which the meaning of its text depends, and a server that has to prepare
 * it can do so under the present ones only.  False: the client is doomed; NULL: there is none.
 */
static bool statement_find(struct client *client, struct server *server, const char *name,
                           struct stmt **found)
{
	const size_t len = strlen(name);
	struct stmt *stmt = client_stmts_get(client->stmts, name, len);
	struct stmt *other;
	bool good;

	*found = stmt;
	if (UNLIKELY(stmt == NULL) || stmt->own)
		return true;
	if (LIKELY(stmt_means(stmt, param_set_parse_digest(client->params))) &&
	    (LIKELY(!server->apart) || server_stmts_contains(&server->stmts, stmt_digest(stmt))))
		return true;
	other = statement_intern(client, server, stmt->text, stmt->len, stmt->generation);
	good = other != NULL && client_stmts_remove(client->stmts, name, len) &&
	       client_stmts_set(client->stmts, name, len, other, SIZE_MAX) == CLIENT_STMTS_OK;
	stmt_unref(other);
	*found = other;
	if (!good)
		(void)statement_no_memory(client);
	return good;
}

static enum statement_result statement_bind(struct client *client, struct server *server,
                                            const uint8_t *msg, size_t total, size_t have,
                                            size_t *used)
{
	struct wire_bind_message bind;
	struct stmt *stmt;
	uint8_t head[WIRE_HEADER_LEN] = {FE_BIND};
	enum statement_result result;
	size_t portal_len;
	size_t name_len;

	/* Portal and statement without a name: as most are, and known without looking further. */
	if (have >= WIRE_HEADER_LEN + 2 && msg[WIRE_HEADER_LEN] == '\0' &&
	    msg[WIRE_HEADER_LEN + 1] == '\0')
		return statement_use_unnamed(client, server);
	if (!wire_parse_bind(msg + WIRE_HEADER_LEN, have - WIRE_HEADER_LEN, &bind))
		return have < total && have < BIND_HEAD_MAX ? STATEMENT_MORE : STATEMENT_FORWARD;
	name_len = strlen(bind.statement);
	if (name_len == 0)
		return statement_use_unnamed(client, server);
	result = statement_settle_names(server);
	if (result != STATEMENT_DONE)
		return result;
	if (!statement_find(client, server, bind.statement, &stmt))
		return STATEMENT_FAILED;
	if (stmt == NULL)
		return STATEMENT_FORWARD; /* 26000, in the server's words */
	if (!statement_ensure(client, server, stmt))
		return STATEMENT_FAILED;
	if (!ledger_push_use(&server->ledger, OWES_BIND, stmt->generation))
		return statement_no_memory(client);
	portal_len = strlen(bind.portal) + 1;
	wire_put_be32(head + 1, (uint32_t)(total - 1 - name_len + STMT_NAME_LEN));
	if (!send_copy(server, head, sizeof(head)) || !send_copy(server, bind.portal, portal_len) ||
	    !send_copy(server, stmt_name(stmt), STMT_NAME_LEN + 1))
		return STATEMENT_FAILED;
	client->pool->stats.binds++;
	*used = WIRE_HEADER_LEN + bind.rest_offset;
	server->left_to = (uint32_t)(total - *used);
	return STATEMENT_DONE;
}

static enum statement_result statement_describe(struct client *client, struct server *server,
                                                const char *name, size_t total, size_t *used)
{
	uint8_t msg[WIRE_HEADER_LEN + 1 + STMT_NAME_LEN + 1] = {FE_DESCRIBE};
	struct stmt *stmt;

	if (name[0] == '\0')
		return statement_use_unnamed(client, server);
	if (!statement_find(client, server, name, &stmt))
		return STATEMENT_FAILED;
	if (stmt == NULL)
		return STATEMENT_FORWARD;
	if (!statement_ensure(client, server, stmt))
		return STATEMENT_FAILED;
	wire_put_be32(msg + 1, sizeof(msg) - 1);
	msg[WIRE_HEADER_LEN] = 'S';
	memcpy(msg + WIRE_HEADER_LEN + 1, stmt_name(stmt), STMT_NAME_LEN + 1);
	if (!ledger_push_use(&server->ledger, OWES_DESCRIBE, stmt->generation))
		return statement_no_memory(client);
	*used = total;
	return send_copy(server, msg, sizeof(msg)) ? STATEMENT_DONE : STATEMENT_FAILED;
}

static enum statement_result statement_close(struct client *client, struct server *server,
                                             const char *name, size_t total, size_t *used)
{
	struct stmt *stmt;
	char *kept;

	if (name[0] == '\0')
		return statement_set_unnamed(client, server,
		                             (struct ledger_entry){.op = OWES_CLOSE}, NULL)
		           ? STATEMENT_NOTED
		           : STATEMENT_FAILED;
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
	enum statement_result result;
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
		result = name[0] == '\0' ? STATEMENT_DONE : statement_settle_names(server);
		if (result != STATEMENT_DONE)
			return result;
		if (msg[0] == FE_DESCRIBE)
			return statement_describe(client, server, name, total, used);
		return statement_close(client, server, name, total, used);
	}
}

bool statement_prepared_anew(struct client *client, struct server *server)
{
	const struct ledger_entry *entry = ledger_head(&server->ledger);
	struct stmt *old = entry->unnamed;
	const char *name;
	size_t len;

	if (client->in_session || entry->stmt == NULL || old == NULL)
		return false;
	if (entry->stmt == old)
		return true;
	/* The server has it by the name of the old one: for that another is needed there. */
	server->spoilt = true;
	server->apart = true;
	(void)server_stmts_remove(&server->stmts, stmt_digest(old));
	name = entry->name + 10 + strlen(EXISTS_HEAD);
	len = strlen(name) - strlen(EXISTS_TAIL);
	/* It may have been closed by what was sent behind it. */
	return client_stmts_get(client->stmts, name, len) != old ||
	       (client_stmts_remove(client->stmts, name, len) &&
	        client_stmts_set(client->stmts, name, len, entry->stmt, SIZE_MAX) ==
	            CLIENT_STMTS_OK);
}

/* What was sent behind it happens after it. */
static void statement_redo(struct client *client, struct server *server, struct ledger_entry *entry)
{
	switch (entry->op) {
	case OWES_PARSE:
	case OWES_HIDDEN_PARSE:
		if (entry->stmt == NULL)
			break;
		if (!server_stmts_add(&server->stmts, stmt_digest(entry->stmt)))
			server->spoilt = true;
		if (client != NULL && entry->name != NULL &&
		    client_stmts_set(client->stmts, entry->name, strlen(entry->name), entry->stmt,
		                     SIZE_MAX) != CLIENT_STMTS_OK)
			server->spoilt = true;
		break;
	case OWES_DEALLOCATE:
	case ENDS_STMT:
		(void)server_stmts_remove(&server->stmts, stmt_digest(entry->stmt));
		/* fall through */
	case GIVES_CLOSE:
		entry->gone = client != NULL &&
		              !client_stmts_remove(client->stmts, entry->name, strlen(entry->name));
		break;
	case OWES_HIDDEN_CLOSE:
		entry->gone = entry->name != NULL &&
		              !server_stmts_remove(&server->stmts, (const uint8_t *)entry->name);
		break;
	default:
		break;
	}
}

void statement_all_gone(struct client *client, struct server *server)
{
	server_stmts_clear(&server->stmts);
	if (client != NULL && client->stmts != NULL) {
		/* The unnamed statement stays, or was ended by the Query. */
		struct stmt *unnamed = stmt_ref(client_stmts_get_unnamed(client->stmts));

		client_stmts_clear(client->stmts);
		(void)client_stmts_set_unnamed(client->stmts, unnamed, SIZE_MAX);
		stmt_unref(unnamed);
	}
	for (uint32_t i = 0; i < server->ledger.count; i++)
		statement_redo(client, server, ledger_at(&server->ledger, i));
}

/* What happened to the unnamed statement among the `count` oldest entries did not happen. */
static void statement_undo_unnamed(struct client *client, struct server *server, uint32_t count,
                                   bool failed)
{
	struct ledger *ledger = &server->ledger;
	struct ledger_entry *from = NULL;
	struct stmt *before = NULL;
	bool touched = false;
	bool had = false;

	for (uint32_t i = count; i > 0; i--) {
		struct ledger_entry *entry = ledger_at(ledger, i - 1);

		if (ledger_sets_unnamed(entry)) {
			/* A Parse drops the old one before it looks at the new one. */
			bool dropped = failed && i == 1;

			from = entry;
			before = dropped ? NULL : entry->unnamed;
			had = !dropped && entry->had_unnamed;
			touched = true;
		} else if (ledger_brings_unnamed(entry)) {
			had = false;
			touched = true;
		}
	}
	if (!touched)
		return;
	/* What came behind the next Sync stands, and has this before it. */
	for (uint32_t i = count; i < ledger->count; i++) {
		struct ledger_entry *entry = ledger_at(ledger, i);

		if (!ledger_sets_unnamed(entry))
			continue;
		if (from != NULL) {
			stmt_unref(entry->unnamed);
			entry->unnamed = stmt_ref(before);
		}
		entry->had_unnamed = had;
		return;
	}
	if (from != NULL && client->stmts != NULL)
		(void)client_stmts_set_unnamed(client->stmts, before, SIZE_MAX);
	if (from != NULL)
		client->unnamed_id = had ? ++client->worker->unnamed_ids : 0;
	server->unnamed_id = had ? client->unnamed_id : 0;
}

/* The client has the named statement of the entry again. */
static void statement_undo_end(struct client *client, struct server *server,
                               const struct ledger_entry *entry)
{
	if (client->stmts != NULL &&
	    client_stmts_set(client->stmts, entry->name, strlen(entry->name), entry->stmt,
	                     SIZE_MAX) == CLIENT_STMTS_NOMEM)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	if (entry->op != GIVES_CLOSE && !server_stmts_add(&server->stmts, stmt_digest(entry->stmt)))
		server->spoilt = true;
}

void statement_undo_named(struct client *client, struct server *server, struct ledger_entry *entry)
{
	if (entry->gone)
		return;
	switch (entry->op) {
	case OWES_PARSE:
	case OWES_HIDDEN_PARSE:
	case GIVES_PARSE:
		if (entry->name != NULL && entry->name[0] == '\0')
			break;
		if (entry->stmt != NULL && entry->op != GIVES_PARSE)
			(void)server_stmts_remove(&server->stmts, stmt_digest(entry->stmt));
		if (entry->name != NULL)
			(void)client_stmts_remove(client->stmts, entry->name, strlen(entry->name));
		break;
	case GIVES_CLOSE:
	case ENDS_STMT:
	case OWES_DEALLOCATE:
		/* What was closed behind an error is still there. */
		statement_undo_end(client, server, entry);
		break;
	case OWES_HIDDEN_CLOSE:
		/* It still has what was to be closed; without memory it is not to be used again. */
		if (entry->name != NULL &&
		    !server_stmts_add(&server->stmts, (const uint8_t *)entry->name))
			server->spoilt = true;
		break;
	default:
		break;
	}
}

void statement_undo(struct client *client, struct server *server, uint32_t count, bool failed)
{
	statement_undo_unnamed(client, server, count, failed);
	/* The newest first: so a Close finds what was there before the Parse that it closed. */
	for (uint32_t i = count; i > 0; i--)
		statement_undo_named(client, server, ledger_at(&server->ledger, i - 1));
}

/* ---- what the proxy answers itself ---- */

bool statement_is_deallocate(const uint8_t *text, size_t len)
{
	const char *at = (const char *)text;
	char id[STMT_CLIENT_NAME_MAX + 1];

	return len > 0 && text[len - 1] == '\0' && read_deallocate(at, at + len - 1, id);
}

bool statement_find_deallocate(const uint8_t *text, size_t len, struct deallocate *where)
{
	const char *at = (const char *)text;
	char id[STMT_CLIENT_NAME_MAX + 1];

	return len > 0 && text[len - 1] == '\0' && find_deallocate(at, at + len - 1, id, where);
}

bool statement_deallocate(struct client *client, const char *id, struct stmt **stmt, char **name)
{
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

const void *statement_deallocated(size_t *len)
{
	static const uint8_t message[] = {DEALLOCATE_TAG, BE_READY_FOR_QUERY, 0, 0, 0, 5, 'I'};

	*len = sizeof(message);
	return message;
}

const void *statement_given(uint8_t op, size_t *len)
{
	static const uint8_t parse_complete[] = {EMPTY_MESSAGE(BE_PARSE_COMPLETE)};
	static const uint8_t close_complete[] = {EMPTY_MESSAGE(BE_CLOSE_COMPLETE)};

	switch (op) {
	case GIVES_PARSE:
		*len = sizeof(parse_complete);
		return parse_complete;
	case GIVES_CLOSE:
		*len = sizeof(close_complete);
		return close_complete;
	default:
		*len = 0;
		return NULL;
	}
}

static bool is_server_name(struct stmt *stmt, const char *name)
{
	return stmt != NULL && strncmp(stmt_name(stmt), name, STMT_NAME_LEN) == 0;
}

/* The client's name of the statement that the server calls so; maybe it has closed it behind what
 * the server answers now. */
static bool find_client_name(const struct client *client, const struct ledger *ledger,
                             const char *server_name, struct client_stmt_ref *found)
{
	size_t cursor = 0;

	while (client_stmts_next(client->stmts, &cursor, found)) {
		if (is_server_name(found->stmt, server_name))
			return true;
	}
	for (uint32_t i = 0; i < ledger->count; i++) {
		const struct ledger_entry *entry = ledger_at(ledger, i);

		if (entry->name == NULL || entry->op == OWES_REFUSAL ||
		    !is_server_name(entry->stmt, server_name))
			continue;
		*found = (struct client_stmt_ref){entry->name, strlen(entry->name), entry->stmt};
		return true;
	}
	return false;
}

bool statement_name_error(struct client *client, struct server *server,
                          const struct wire_error *error, const uint8_t *body, size_t len,
                          struct sbuf *out)
{
	const char *at = error->message == NULL ? NULL : strstr(error->message, STMT_NAME_PREFIX);
	struct client_stmt_ref named;
	size_t before;

	if (LIKELY(at == NULL) || !find_client_name(client, &server->ledger, at, &named))
		return false;
	if (error->sqlstate != NULL && strcmp(error->sqlstate, "26000") == 0)
		(void)server_stmts_remove(&server->stmts, stmt_digest(named.stmt));
	before = (size_t)((const uint8_t *)at - body);
	sbuf_add_char(out, BE_ERROR_RESPONSE);
	sbuf_add_be32(out, (uint32_t)(4 + len - STMT_NAME_LEN + named.name_len));
	sbuf_add(out, body, before);
	sbuf_add(out, named.name, named.name_len);
	sbuf_add(out, body + before + STMT_NAME_LEN, len - before - STMT_NAME_LEN);
	return true;
}

/* What was sent behind it was prepared under settings, or for tables, that were not known when it got
 * its name: nobody else is to use it. */
static void statement_forget_ahead(struct server *server)
{
	if (server->ledger.changes > 0)
		server->spoilt = true;
}

void statement_settings_changed(struct client *client, struct server *server, bool by_command)
{
	const char *text;
	bool certain;

	statement_forget_ahead(server);
	/* Servers report a setting at the end of the batch only. */
	if (!by_command && server->given)
		server->spoilt = true;
	if (!by_command)
		return;
	text = change_text(client, server, &certain);
	if (!certain || param_names_unreported(text))
		server->apart = true;
}

void statement_altered(struct server *server)
{
	statement_forget_ahead(server);
	server->altered = true;
	atomic_fetch_add(&server->pool->database->share->generation, 1);
}

void statement_at_ready(struct server *server)
{
	if (server->tx_status == 'I') {
		server->apart = server->spoilt;
		/* What others prepared before the commit was prepared for what was there before. */
		if (UNLIKELY(server->altered))
			atomic_fetch_add(&server->pool->database->share->generation, 1);
		server->altered = false;
	}
	server->given = server->ledger.changes > 0;
}

/* It would return other columns, or (in the words of an internal error) has a parameter of a type that
 * was dropped. */
static bool is_outdated(const struct wire_error *error)
{
	if (error->sqlstate == NULL || error->routine == NULL)
		return false;
	return (strcmp(error->sqlstate, "0A000") == 0 &&
		strcmp(error->routine, "RevalidateCachedQuery") == 0) ||
	       (strcmp(error->sqlstate, "XX000") == 0 && strncmp(error->routine, "getType", 7) == 0);
}

void statement_outdated(struct server *server, const struct wire_error *error)
{
	atomic_uint *generation = &server->pool->database->share->generation;
	const struct ledger_entry *entry = ledger_head(&server->ledger);
	unsigned now;

	if (entry == NULL || (entry->op != OWES_BIND && entry->op != OWES_DESCRIBE) ||
	    !is_outdated(error))
		return;
	/* Others who still have the old one get the same error: that is no news. */
	now = entry->generation;
	if (atomic_compare_exchange_strong(generation, &now, now + 1))
		log_info("server %s %s/%s: what a prepared statement returns has changed: clients "
		         "that prepare it again get a new one",
		         server->target->name, server->pool->database->name, server->pool->user);
}
