/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_lost.h"

#include "core/client.h"
#include "core/server.h"
#include "core/session_see.h"
#include "core/statement.h"
#include "core/worker.h"
#include "session/inspect.h"
#include "session/replay.h"
#include "session/stmts.h"
#include "wire/build.h"
#include "wire/message.h"

#include <stdlib.h>
#include <string.h>

/* No statement has this name. */
#define LOST_NONE SESSION_OWN_PREFIX "none"
#define LOST_TYPES_MAX ((size_t)512 * 1024)

/* A Bind with longer names is not looked into. */
#define NAMES_MAX ((size_t)64 * 1024)

struct session_lost {
	struct session_lost *next;
	char *name;
	uint8_t *def;
	size_t len;
	bool changed; /* the server has it, and is not to be asked: `def` is "", and the parameters' types … */
	bool typed;   /* … which are known */
	bool parsed;  /* `changed`, and prepared again, if that has not failed */
};

static void lost_free(struct session_lost *lost)
{
	free(lost->name);
	free(lost->def);
	free(lost);
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

bool session_lost_add(struct client *client, const char *name, const void *def, size_t len)
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
	good = good && sbuf_ok(&def) && session_lost_add(client, name, def.data, def.len);
	sbuf_free(&list);
	sbuf_free(&def);
	if (good) {
		client->seen->lost->changed = true;
		client->seen->lost->typed = types != NULL;
	}
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

/* The Close is for the case that an earlier use in the same batch went well: it is made again. */
static enum lost_result lost_give(struct client *client, struct server *server,
                                  const struct session_lost *lost)
{
	struct worker *worker = client->worker;
	const size_t name_len = strlen(lost->name) + 1;
	uint8_t head[WIRE_HEADER_LEN] = {FE_PARSE};
	enum conn_io io = CONN_IO_ERROR;
	struct sbuf out;
	bool good;

	sbuf_init(&out, lost->len + 2 * name_len + 64);
	wire_add_close(&out, 'S', lost->name);
	wire_put_be32(head + 1, (uint32_t)(4 + name_len + lost->len));
	sbuf_add(&out, head, sizeof(head));
	sbuf_add(&out, lost->name, name_len);
	sbuf_add(&out, lost->def, lost->len);
	good = sbuf_ok(&out) && ledger_owe(&server->ledger, OWES_HIDDEN_CLOSE) &&
	       ledger_owe(&server->ledger, OWES_HIDDEN_PARSE);
	if (good)
		io = conn_send_copy(&worker->to_server, &server->conn, worker, sbuf_text(&out),
		                    out.len);
	sbuf_free(&out);
	if (!good)
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else if (io != CONN_IO_OK)
		server_doom(server, SERVER_CLOSE_IO);
	return good && io == CONN_IO_OK ? LOST_GO_ON : LOST_FAILED;
}

/* The server gets a statement of that name, which it is to find: it tells the client itself that there is
 * one already, or ends it.  One that cannot be executed: nobody is to take it for what it stands for. */
static enum lost_result lost_stand_in(struct client *client, struct server *server,
                                      const struct session_lost *lost)
{
	static const char def[] =
	    "SELECT pg_catalog.current_setting('a prepared statement that the server refused')\0\0";
	const struct session_lost stand_in = {
	    .name = lost->name, .def = (uint8_t *)(uintptr_t)def, .len = sizeof(def)};

	return lost_give(client, server, &stand_in);
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
	enum conn_io io;

	if (!lost_expect(server, lost, describes)) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return LOST_FAILED;
	}
	sbuf_init(&out, 64);
	wire_add_describe(&out, 'S', LOST_NONE);
	io = conn_send_copy(&client->worker->to_server, &server->conn, client->worker, out.data,
	                    out.len);
	sbuf_free(&out);
	if (io == CONN_IO_OK)
		return LOST_GO_ON;
	server_doom(server, SERVER_CLOSE_IO);
	return LOST_FAILED;
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
	struct deallocate where;
	enum lost_result result = LOST_GO_ON;
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
	if (lost != NULL && uses)
		return lost->changed ? lost_refuse(client, server, lost, msg[0] == FE_DESCRIBE)
		                     : lost_give(client, server, lost);
	if (lost != NULL && msg[0] == FE_PARSE && name[0] != '\0') {
		lost->parsed = lost->changed;
		return lost->changed ? LOST_GO_ON : lost_stand_in(client, server, lost);
	}
	if (lost != NULL)
		lost_remove(seen, name);
	if (msg[0] != FE_QUERY && msg[0] != FE_PARSE)
		return LOST_GO_ON;
	/* Behind an error in a pipeline a Query would be skipped with what stands before it. */
	if (seen->lost == NULL || server->tx_status == 'E' ||
	    (msg[0] == FE_QUERY && !ledger_quiet(&server->ledger)))
		return LOST_GO_ON;
	text = next_string(&at, end);
	if (text == NULL ||
	    !statement_find_deallocate((const uint8_t *)text, strlen(text) + 1, &where) ||
	    (lost = lost_find(seen, where.id)) == NULL)
		return LOST_GO_ON;
	if (!lost->changed)
		result = lost_stand_in(client, server, lost);
	lost_remove(seen, where.id);
	return result;
}

void session_lost_hide(const struct session_seen *seen, struct session_state *state)
{
	const struct session_lost *lost = seen == NULL ? NULL : seen->lost;

	for (; lost != NULL; lost = lost->next) {
		const struct session_row *row =
		    session_state_find(state, SESSION_PROTOCOL_STATEMENT, lost->name);

		if (row != NULL && !lost->changed)
			session_state_remove(state, row);
	}
}
