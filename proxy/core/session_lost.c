/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_lost.h"

#include "core/client.h"
#include "core/server.h"
#include "core/session_see.h"
#include "core/statement.h"
#include "core/worker.h"
#include "session/inspect.h"
#include "session/replay.h"
#include "session/sql_lex.h"
#include "session/stmts.h"
#include "wire/build.h"
#include "wire/message.h"

#include <stdlib.h>
#include <string.h>

/* No statement has this name. */
#define LOST_NONE SESSION_OWN_PREFIX "none"
#define LOST_TYPES_MAX ((size_t)512 * 1024)

/* A message with longer names or texts is not looked into. */
#define NAMES_MAX ((size_t)64 * 1024)

struct session_lost {
	struct session_lost *next;
	char *name;
	uint8_t *def;
	size_t len;
	bool typed;   /* `def` has the parameters' types as its server had */
	bool bare;    /* returns no rows */
	bool changed; /* the server has it, and is not to be asked: `def` is "", and the types */
	bool parsed;  /* `changed`, and prepared again, if that has not failed */
	bool ended;   /* `changed`, but the server has it no more */
};

static void lost_free(struct session_lost *lost)
{
	free(lost->name);
	free(lost->def);
	free(lost);
}

/* Its server has something of that name by itself. */
static bool lost_is_there(const struct session_lost *lost)
{
	return lost->changed && !lost->ended;
}

static void lost_remove(struct session_seen *seen, const char *name)
{
	struct session_lost **at = &seen->lost;

	while (*at != NULL) {
		struct session_lost *lost = *at;

		if (strcmp(lost->name, name) == 0) {
			*at = lost->next;
			lost_free(lost);
		} else {
			at = &lost->next;
		}
	}
}

static struct session_lost *lost_find(const struct session_seen *seen, const char *name)
{
	struct session_lost *lost = seen->lost;

	while (lost != NULL && strcmp(lost->name, name) != 0)
		lost = lost->next;
	return lost;
}

bool session_lost_add(struct client *client, const char *name, const void *def, size_t len,
                      bool typed, bool bare)
{
	struct session_seen *seen = session_see(client);
	struct session_lost *lost = seen == NULL ? NULL : calloc(1, sizeof(*lost));

	if (lost == NULL)
		return false;
	lost->name = strdup(name);
	lost->def = malloc(len);
	if (lost->name == NULL || lost->def == NULL) {
		lost_free(lost);
		return false;
	}
	memcpy(lost->def, def, len);
	lost->len = len;
	lost->typed = typed;
	lost->bare = bare;
	lost_remove(seen, name);
	lost->next = seen->lost;
	seen->lost = lost;
	return true;
}

bool session_lost_add_changed(struct client *client, const char *name, const char *types)
{
	struct sbuf list;
	struct sbuf def;
	bool good;

	sbuf_init(&list, LOST_TYPES_MAX);
	sbuf_init(&def, LOST_TYPES_MAX);
	good = replay_types(types == NULL ? "{}" : types, &list);
	sbuf_add(&def, "", 1);
	sbuf_add(&def, list.data, list.len);
	good = good && sbuf_ok(&def) &&
	       session_lost_add(client, name, def.data, def.len, types != NULL, false);
	sbuf_free(&list);
	sbuf_free(&def);
	if (good)
		client->seen->lost->changed = true;
	return good;
}

void session_lost_clear(struct session_seen *seen)
{
	while (seen->lost != NULL) {
		struct session_lost *lost = seen->lost;

		seen->lost = lost->next;
		lost_free(lost);
	}
}

static enum lost_result lost_send(struct client *client, struct server *server, struct sbuf *out)
{
	const bool good = sbuf_ok(out);
	enum conn_io io = CONN_IO_ERROR;

	if (good)
		io = conn_send_copy(&client->worker->to_server, &server->conn, client->worker,
		                    out->data, out->len);
	sbuf_free(out);
	if (!good)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else if (io != CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
	return good && io == CONN_IO_OK ? LOST_GO_ON : LOST_FAILED;
}

/* The Close is for the case that an earlier use in the same batch went well: it is made again.  An
 * error of it is told behind `types`, of which this takes a reference over; NULL: by itself. */
static enum lost_result lost_give(struct client *client, struct server *server,
                                  const struct session_lost *lost, struct stmt *types)
{
	const size_t name_len = strlen(lost->name) + 1;
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};
	struct sbuf out;

	sbuf_init(&out, lost->len + 2 * name_len + 64);
	wire_add_close(&out, 'S', lost->name);
	wire_put_be32(head + 1, (uint32_t)(4 + name_len + lost->len));
	sbuf_add(&out, head, sizeof(head));
	sbuf_add(&out, lost->name, name_len);
	sbuf_add(&out, lost->def, lost->len);
	if (!ledger_owe(&server->ledger, OWES_HIDDEN_CLOSE)) {
		stmt_unref(types);
		out.failed = true;
	} else if (!ledger_push(&server->ledger, OWES_HIDDEN_PARSE, types, NULL)) {
		out.failed = true;
	}
	return lost_send(client, server, &out);
}

/* The server gets a statement of that name, which it is to find: it tells the client itself that
 * there is one already, or ends it.  One that cannot be executed: nobody is to take it for what it
 * stands for. */
static enum lost_result lost_stand_in(struct client *client, struct server *server,
                                      const struct session_lost *lost)
{
	static const char def[] =
	    "SELECT pg_catalog.current_setting('a prepared statement that the server refused')\0\0";
	const struct session_lost stand_in = {
	    .name = lost->name, .def = (uint8_t *)(uintptr_t)def, .len = sizeof(def)};

	return lost_give(client, server, &stand_in, NULL);
}

/* Its old server would have told its parameters, and only then looked at what it is about; or not
 * at all if it returns nothing: then the server is given one that cannot be executed, with the same
 * parameters. */
static enum lost_result lost_describe(struct client *client, struct server *server,
                                      const struct session_lost *lost)
{
	static const char text[] = "CLOSE \"a prepared statement that the server refused\"";
	struct session_lost stand_in = {.name = lost->name};
	enum lost_result result = LOST_FAILED;
	struct stmt *types = NULL;
	const size_t skip = strnlen((const char *)lost->def, lost->len - 1) + 1;
	struct sbuf def;

	if (!lost->bare) {
		if (lost->typed)
			types = stmt_store_intern(server->worker->stmts, lost->def, lost->len);
		return lost_give(client, server, lost, types);
	}
	sbuf_init(&def, lost->len + sizeof(text));
	sbuf_add(&def, text, sizeof(text));
	sbuf_add(&def, lost->def + skip, lost->len - skip);
	stand_in.def = (uint8_t *)def.data;
	stand_in.len = def.len;
	if (sbuf_ok(&def))
		result = lost_give(client, server, &stand_in, NULL);
	else
		client_doom(client, CLIENT_CLOSE_MEMORY);
	sbuf_free(&def);
	return result;
}

/* The error of something that does not exist becomes what its old server would have told. */
static bool lost_expect(struct server *server, const struct session_lost *lost, bool describes)
{
	struct stmt *stmt = NULL;
	char *text = strdup("26000"
	                    "0A000"
	                    "cached plan must not change result type");

	describes = describes && lost->typed;
	if (text != NULL && describes) /* its parameters are told first */
		stmt = stmt_store_intern(server->worker->stmts, lost->def, lost->len);
	if (text == NULL || (describes && stmt == NULL)) {
		free(text);
		return false;
	}
	return ledger_push(&server->ledger, OWES_REFUSAL, stmt, text);
}

/* The message behind it is skipped by the server. */
static enum lost_result lost_refuse(struct client *client, struct server *server,
                                    const struct session_lost *lost, bool describes)
{
	struct sbuf out;

	sbuf_init(&out, 64);
	wire_add_describe(&out, 'S', LOST_NONE);
	out.failed = out.failed || !lost_expect(server, lost, describes);
	return lost_send(client, server, &out);
}

/* In the place of a Query, which ends the unnamed statement. */
static enum lost_result lost_refuse_query(struct client *client, struct server *server,
                                          const struct session_lost *lost)
{
	struct sbuf out;

	sbuf_init(&out, 64);
	wire_add_close(&out, 'S', "");
	wire_add_describe(&out, 'S', LOST_NONE);
	wire_add_sync(&out);
	out.failed = out.failed || !ledger_owe(&server->ledger, OWES_HIDDEN_CLOSE) ||
	             !lost_expect(server, lost, false) || !ledger_owe(&server->ledger, OWES_SYNC);
	return lost_send(client, server, &out) == LOST_GO_ON ? LOST_DONE : LOST_FAILED;
}

/* What is behind it in a text may be executed or not: the server is to find none of that name. */
static enum lost_result lost_end(struct client *client, struct server *server,
                                 struct session_lost *lost)
{
	struct sbuf out;

	lost->ended = true;
	sbuf_init(&out, strlen(lost->name) + 64);
	wire_add_close(&out, 'S', lost->name);
	out.failed = out.failed || !ledger_owe(&server->ledger, OWES_HIDDEN_CLOSE);
	return lost_send(client, server, &out);
}

/* Nothing comes behind the command that the lexer is in. */
static bool lost_is_last(struct sql_lexer *lexer)
{
	enum sql_token token;
	bool ended = false;

	while ((token = sql_lex_next(lexer)) != SQL_END) {
		const bool ends = token == SQL_OTHER && sql_lex_is(lexer, ";");

		if (token == SQL_BROKEN || (ended && !ends))
			return false;
		ended = ended || ends;
	}
	return true;
}

/* One that the server is not to be asked for, which the text executes by its name, or NULL. *alone:
 * the text does nothing else. */
static struct session_lost *lost_executed(const struct session_seen *seen, const char *text,
                                          bool *alone)
{
	char name[STMT_CLIENT_NAME_MAX + 1];
	struct sql_lexer lexer;
	enum sql_token token;
	bool first = true;

	sql_lex_begin(&lexer, text, strlen(text));
	token = sql_lex_next(&lexer);
	while (token != SQL_END && token != SQL_BROKEN) {
		const bool executes = token == SQL_WORD && sql_lex_is(&lexer, "execute");
		struct session_lost *lost = NULL;

		token = sql_lex_next(&lexer);
		if (executes && (token == SQL_WORD || token == SQL_NAME) &&
		    sql_lex_identifier(&lexer, name, sizeof(name)))
			lost = lost_find(seen, name);
		if (lost != NULL && lost->changed && !lost->parsed) {
			*alone = first && lost_is_last(&lexer);
			return lost;
		}
		first = false;
	}
	return NULL;
}

/* Whether the server skips a Query, or refuses it, is to be known first. */
static enum lost_result lost_wait(struct server *server)
{
	if (server->ledger.readies > 0 || statement_flush_first(server) == STATEMENT_WAIT)
		return LOST_WAIT;
	return LOST_FAILED;
}

/* The text of a Query or Parse that may be about one by its name. */
static enum lost_result lost_text(struct client *client, struct server *server, uint8_t type,
                                  const char *text)
{
	struct session_seen *seen = client->seen;
	struct session_lost *lost = NULL;
	enum lost_result result = LOST_GO_ON;
	struct deallocate where;
	bool deallocates = false;
	bool alone = false;

	if (statement_find_deallocate((const uint8_t *)text, strlen(text) + 1, &where))
		lost = lost_find(seen, where.id);
	deallocates = lost != NULL;
	if (!deallocates)
		lost = lost_executed(seen, text, &alone);
	if (lost == NULL)
		return LOST_GO_ON;
	if (type == FE_QUERY && server->ledger.count > 0 && !server->ledger.copy_in)
		return lost_wait(server);
	if (server->tx_status == 'E')
		return LOST_GO_ON;
	if (!deallocates)
		return alone && type == FE_QUERY ? lost_refuse_query(client, server, lost)
		                                 : lost_end(client, server, lost);
	if (!lost_is_there(lost))
		result = lost_stand_in(client, server, lost);
	lost_remove(seen, where.id);
	return result;
}

void session_lost_parse_failed(struct session_seen *seen)
{
	for (struct session_lost *lost = seen->lost; lost != NULL; lost = lost->next)
		lost->parsed = false;
}

/* All has been answered: what was prepared again is another statement now. */
static void lost_settle(struct session_seen *seen)
{
	struct session_lost **at = &seen->lost;

	while (*at != NULL) {
		struct session_lost *lost = *at;

		if (lost->parsed) {
			*at = lost->next;
			lost_free(lost);
		} else {
			at = &lost->next;
		}
	}
}

/* The string at *at, which is behind it then; NULL: its end is not here. */
static const char *next_string(const uint8_t **at, const uint8_t *end)
{
	const uint8_t *zero = *at < end ? memchr(*at, '\0', (size_t)(end - *at)) : NULL;
	const char *text = (const char *)*at;

	if (zero == NULL)
		return NULL;
	*at = zero + 1;
	return text;
}

enum lost_result session_lost_message(struct client *client, struct server *server,
                                      const uint8_t *msg, size_t total, size_t have)
{
	struct session_seen *seen = client->seen;
	const uint8_t *at = msg + WIRE_HEADER_LEN;
	const uint8_t *end = msg + (total < have ? total : have);
	const bool uses = msg[0] == FE_BIND || msg[0] == FE_DESCRIBE;
	struct session_lost *lost;
	const char *name = "";
	const char *text;

	if (ledger_quiet(&server->ledger))
		lost_settle(seen);
	if (msg[0] == FE_DESCRIBE || msg[0] == FE_CLOSE) {
		if (end > at && *at != 'S')
			return LOST_GO_ON;
		at++;
	} else if (msg[0] == FE_BIND) {
		name = next_string(&at, end); /* the portal */
	} else if (msg[0] != FE_PARSE && msg[0] != FE_QUERY) {
		return LOST_GO_ON;
	}
	if (msg[0] != FE_QUERY && name != NULL) /* which ends the unnamed one */
		name = next_string(&at, end);
	if (name == NULL)
		return have < total && have < NAMES_MAX ? LOST_MORE : LOST_GO_ON;
	lost = lost_find(seen, name);
	if (lost != NULL && lost->parsed)
		return LOST_GO_ON;
	if (lost != NULL && uses && lost->changed)
		return lost_refuse(client, server, lost, msg[0] == FE_DESCRIBE);
	if (lost != NULL && uses)
		return msg[0] == FE_DESCRIBE ? lost_describe(client, server, lost)
		                             : lost_give(client, server, lost, NULL);
	if (lost != NULL && msg[0] == FE_PARSE && name[0] != '\0') {
		lost->parsed = lost_is_there(lost);
		return lost->parsed ? LOST_GO_ON : lost_stand_in(client, server, lost);
	}
	if (lost != NULL)
		lost_remove(seen, name);
	if (msg[0] != FE_QUERY && msg[0] != FE_PARSE)
		return LOST_GO_ON;
	if (seen->lost == NULL)
		return LOST_GO_ON;
	text = next_string(&at, end);
	if (text == NULL)
		return have < total && have < NAMES_MAX ? LOST_MORE : LOST_GO_ON;
	return lost_text(client, server, msg[0], text);
}

void session_lost_hide(const struct session_seen *seen, struct session_state *state)
{
	const struct session_lost *lost = seen == NULL ? NULL : seen->lost;

	for (; lost != NULL; lost = lost->next) {
		const struct session_row *row =
		    session_state_find(state, SESSION_PROTOCOL_STATEMENT, lost->name);

		if (row != NULL && !lost_is_there(lost))
			session_state_remove(state, row);
	}
}
