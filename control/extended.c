/* SPDX-License-Identifier: PostgreSQL */
/*
 * The extended protocol of the console: prepared statements, portals, and the messages about them.
 * Commands have no parameters; a portal keeps the rows that an Execute with a limit left.
 */
#include "base/mem.h"
#include "control/session.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void portal_free(struct session *session, struct portal *portal)
{
	list_remove(&session->portals, &portal->node);
	if (portal->has_rows)
		rowset_free(&portal->rows);
	free(portal);
}

static struct portal *find_portal(struct session *session, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&session->portals, node, tmp)
	{
		struct portal *portal = CONTAINER_OF(node, struct portal, node);

		if (strcmp(portal->name, name) == 0)
			return portal;
	}
	return NULL;
}

void session_drop_portals(struct session *session, bool unread)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&session->portals, node, tmp)
	{
		struct portal *portal = CONTAINER_OF(node, struct portal, node);

		if (!unread || !portal->more || portal->name[0] == '\0')
			portal_free(session, portal);
	}
}

static struct statement *find_statement(struct session *session, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&session->statements, node, tmp)
	{
		struct statement *statement = CONTAINER_OF(node, struct statement, node);

		if (strcmp(statement->name, name) == 0)
			return statement;
	}
	return NULL;
}

static void statement_free(struct session *session, struct statement *statement)
{
	list_remove(&session->statements, &statement->node);
	free(statement);
}

void session_deallocate(struct session *session, const char *name)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&session->statements, node, tmp)
	{
		struct statement *statement = CONTAINER_OF(node, struct statement, node);

		if (name[0] == '\0' || strcmp(statement->name, name) == 0)
			statement_free(session, statement);
	}
}

static void extended_error(struct session *session, const char *sqlstate, const char *message)
{
	wire_add_error_text(&session->out, "ERROR", sqlstate, message);
	session->in_block = false;
	session->skip_to_sync = true;
}

/* Sends the next rows of a portal that ran. */
static void portal_send(struct session *session, struct portal *portal)
{
	portal->more = false;
	if (portal->has_rows)
		(void)result_add_rows(&session->out, &portal->prepared.command, &portal->rows,
		                      portal->binary, &portal->offset, session->max_rows,
		                      &portal->more);
	if (portal->more)
		wire_add_portal_suspended(&session->out);
	else
		session_add_complete(session, &portal->prepared.command);
}

static void on_parse(struct session *session, const uint8_t *body, size_t len)
{
	struct wire_parse_message message;
	struct command_error error;
	struct command next;
	struct statement *statement;
	struct prepared prepared = {.empty = false};
	size_t offset = 0;
	enum command_result result;

	if (!wire_parse_parse(body, len, &message)) {
		session_fatal(session, "08P01", "invalid Parse message");
		return;
	}
	statement = find_statement(session, message.name);
	if (statement != NULL && message.name[0] != '\0') {
		extended_error(session, "42P05", "prepared statement already exists");
		return;
	}
	if (strlen(message.name) > SESSION_NAME_MAX ||
	    session->statements.count >= SESSION_STATEMENTS_MAX) {
		extended_error(session, "54000", "too many prepared statements, or name too long");
		return;
	}
	result =
	    command_parse(message.query, strlen(message.query), &offset, &prepared.command, &error);
	prepared.empty = result == COMMAND_NO_MORE;
	if (result == COMMAND_PARSED) {
		result =
		    command_parse(message.query, strlen(message.query), &offset, &next, &error);
		if (result == COMMAND_PARSED) {
			extended_error(session, "42601",
			               "cannot insert multiple commands into a prepared "
			               "statement");
			return;
		}
	}
	if (result == COMMAND_BAD) {
		session_parse_failed(session, message.query, &error);
		return;
	}
	if (statement == NULL) {
		statement = mem_must_alloc(sizeof(*statement));
		(void)snprintf(statement->name, sizeof(statement->name), "%s", message.name);
		list_append(&session->statements, &statement->node);
	}
	statement->prepared = prepared;
	wire_add_parse_complete(&session->out);
}

/* The rest of a Bind: no parameters, and the formats of the result. */
static bool read_bind_rest(const uint8_t *body, size_t len, size_t at, uint64_t *binary,
                           unsigned *parameters)
{
	struct wire_reader reader = wire_reader(body + at, len - at);
	unsigned formats = wire_read_be16(&reader);

	for (unsigned i = 0; i < formats && !reader.bad; i++)
		(void)wire_read_be16(&reader);
	*parameters = wire_read_be16(&reader);
	*binary = 0;
	if (*parameters != 0)
		return !reader.bad;
	formats = wire_read_be16(&reader);
	for (unsigned i = 0; i < formats && !reader.bad; i++) {
		bool one = wire_read_be16(&reader) == 1;

		if (formats == 1)
			*binary = one ? UINT64_MAX : 0;
		else if (one && i < 64)
			*binary |= (uint64_t)1 << i;
	}
	return !reader.bad && wire_left(&reader) == 0;
}

static void on_bind(struct session *session, const uint8_t *body, size_t len)
{
	struct wire_bind_message message;
	struct statement *statement;
	struct portal *portal;
	uint64_t binary;
	unsigned parameters;

	if (!wire_parse_bind(body, len, &message) ||
	    !read_bind_rest(body, len, message.rest_offset, &binary, &parameters)) {
		session_fatal(session, "08P01", "invalid Bind message");
		return;
	}
	statement = find_statement(session, message.statement);
	portal = find_portal(session, message.portal);
	if (statement == NULL) {
		extended_error(session, "26000", "prepared statement does not exist");
		return;
	}
	if (parameters != 0) {
		extended_error(session, "08P01",
		               "bind message supplies parameters, but commands of the console "
		               "have none");
		return;
	}
	if (portal != NULL && message.portal[0] != '\0') {
		extended_error(session, "42P03", "portal already exists");
		return;
	}
	if (strlen(message.portal) > SESSION_NAME_MAX ||
	    session->portals.count >= SESSION_STATEMENTS_MAX) {
		extended_error(session, "54000", "too many portals, or name too long");
		return;
	}
	if (portal != NULL)
		portal_free(session, portal);
	portal = mem_must_alloc(sizeof(*portal));
	(void)snprintf(portal->name, sizeof(portal->name), "%s", message.portal);
	portal->prepared = statement->prepared;
	portal->binary = binary;
	list_append(&session->portals, &portal->node);
	wire_add_bind_complete(&session->out);
}

static void on_describe(struct session *session, const uint8_t *body, size_t len)
{
	const struct prepared *prepared = NULL;
	struct statement *statement;
	struct portal *portal;
	uint64_t binary = 0;
	const char *name;
	char kind;

	if (!wire_parse_target(body, len, &kind, &name)) {
		session_fatal(session, "08P01", "invalid Describe message");
		return;
	}
	if (kind == 'S') {
		statement = find_statement(session, name);
		if (statement == NULL) {
			extended_error(session, "26000", "prepared statement does not exist");
			return;
		}
		prepared = &statement->prepared;
		wire_add_parameter_description(&session->out, NULL, 0);
	} else {
		portal = find_portal(session, name);
		if (portal == NULL) {
			extended_error(session, "34000", "portal does not exist");
			return;
		}
		prepared = &portal->prepared;
		binary = portal->binary;
	}
	if (prepared->empty)
		wire_add_no_data(&session->out);
	else
		result_add_description(&session->out, &prepared->command, binary);
}

static void on_execute(struct session *session, const uint8_t *body, size_t len)
{
	struct portal *portal;
	const char *name;

	if (!wire_parse_execute(body, len, &name, &session->max_rows)) {
		session_fatal(session, "08P01", "invalid Execute message");
		return;
	}
	portal = find_portal(session, name);
	if (portal == NULL) {
		extended_error(session, "34000", "portal does not exist");
	} else if (portal->prepared.empty) {
		wire_add_empty_query(&session->out);
	} else if (portal->ran) {
		portal_send(session, portal);
	} else {
		session->running = portal;
		session->command = portal->prepared.command;
		session_execute(session);
	}
}

static void on_close(struct session *session, const uint8_t *body, size_t len)
{
	struct statement *statement;
	struct portal *portal;
	const char *name;
	char kind;

	if (!wire_parse_target(body, len, &kind, &name)) {
		session_fatal(session, "08P01", "invalid Close message");
		return;
	}
	statement = kind == 'S' ? find_statement(session, name) : NULL;
	portal = kind == 'P' ? find_portal(session, name) : NULL;
	if (statement != NULL)
		statement_free(session, statement);
	if (portal != NULL)
		portal_free(session, portal);
	wire_add_close_complete(&session->out);
}

void session_portal_ran(struct session *session, struct rowset *rows)
{
	struct portal *portal = session->running;

	session->running = NULL;
	portal->ran = true;
	if (rows != NULL) {
		portal->rows = *rows;
		portal->has_rows = true;
	}
	portal_send(session, portal);
}

void session_extended_message(struct session *session, uint8_t type, const uint8_t *body,
                              size_t len)
{
	switch (type) {
	case FE_PARSE:
		on_parse(session, body, len);
		break;
	case FE_BIND:
		on_bind(session, body, len);
		break;
	case FE_EXECUTE:
		on_execute(session, body, len);
		break;
	case FE_DESCRIBE:
		on_describe(session, body, len);
		break;
	default:
		on_close(session, body, len);
		break;
	}
}
