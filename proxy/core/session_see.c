/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_see.h"

#include "core/client.h"
#include "core/worker.h"
#include "session/facts.h"
#include "session/stmts.h"
#include "wire/message.h"

#include <stdlib.h>
#include <string.h>

/* First memory of an unnamed statement: most fit. */
#define UNNAMED_FIRST ((size_t)480)

static void see_no_unnamed(struct client *client)
{
	if (client->unnamed != NULL) {
		client->unnamed->len = 0;
		client->unnamed->lost = false;
	}
}

/* Room for so many bytes; the old ones are of no more use. */
static struct session_unnamed *see_room(struct client *client, size_t len)
{
	struct session_unnamed *unnamed = client->unnamed;
	size_t cap = len < UNNAMED_FIRST ? UNNAMED_FIRST : len;

	if (LIKELY(unnamed != NULL && unnamed->cap >= len))
		return unnamed;
	free(unnamed);
	unnamed = malloc(sizeof(*unnamed) + cap);
	client->unnamed = unnamed;
	if (unnamed == NULL)
		return NULL;
	unnamed->cap = (uint32_t)cap;
	unnamed->len = 0;
	unnamed->last = false;
	unnamed->lost = false;
	return unnamed;
}

static void see_lost(struct client *client)
{
	struct session_unnamed *unnamed = see_room(client, 0);

	if (unnamed == NULL) {
		session_facts_see_unnamed(&client->facts, true);
		return;
	}
	unnamed->len = 0;
	unnamed->last = true;
	unnamed->lost = true;
}

static void see_parse(struct client *client, const uint8_t *body, size_t len, bool whole)
{
	const uint8_t *def = memchr(body, '\0', len);
	struct session_unnamed *unnamed;
	size_t def_len;

	if (def == NULL)
		return; /* not a name; or one that is longer than what is here, which no text is */
	def++;
	def_len = len - (size_t)(def - body);
	session_facts_see_text(&client->facts, (const char *)def,
	                       strnlen((const char *)def, def_len), whole);
	if (body[0] != '\0') {
		if (client->unnamed != NULL)
			client->unnamed->last = false;
		return;
	}
	unnamed = whole && def_len <= SESSION_UNNAMED_MAX ? see_room(client, def_len) : NULL;
	if (unnamed == NULL) {
		see_lost(client);
		return;
	}
	memcpy(unnamed->def, def, def_len);
	unnamed->len = (uint32_t)def_len;
	unnamed->last = true;
	unnamed->lost = false;
}

void session_see_message(struct client *client, const uint8_t *msg, size_t total, size_t have)
{
	const uint8_t *body = msg + WIRE_HEADER_LEN;
	const bool whole = have >= total;
	const size_t len = (whole ? total : have) - WIRE_HEADER_LEN;

	switch (msg[0]) {
	case FE_QUERY:
		see_no_unnamed(client);
		session_facts_see_text(&client->facts, (const char *)body,
		                       strnlen((const char *)body, len), whole);
		break;
	case FE_PARSE:
		see_parse(client, body, len, whole);
		break;
	case FE_CLOSE:
		if (len >= 2 && body[0] == 'S' && body[1] == '\0')
			see_no_unnamed(client);
		break;
	default:
		break;
	}
}

void session_see_failed_parse(struct client *client)
{
	/* A Parse of the unnamed statement ends the one before, whatever becomes of it. */
	if (client->unnamed != NULL && client->unnamed->last)
		see_no_unnamed(client);
}

void session_see_skipped_parse(struct client *client)
{
	see_lost(client);
}

void session_see_tag(struct client *client, const uint8_t *tag, size_t len)
{
	if (len == 4 && memcmp(tag, "SET", 4) == 0)
		session_facts_see_set(client->facts);
}

bool session_seen_unnamed(struct client *client, struct stmt **stmt)
{
	const struct session_unnamed *unnamed = client->unnamed;

	*stmt = NULL;
	session_facts_see_unnamed(&client->facts, unnamed != NULL && unnamed->lost);
	if (unnamed == NULL || unnamed->len == 0)
		return true;
	*stmt = stmt_store_intern(client->worker->stmts, unnamed->def, unnamed->len);
	return *stmt != NULL;
}

void session_see_end(struct client *client)
{
	free(client->unnamed);
	client->unnamed = NULL;
	session_facts_free(client->facts);
	client->facts = NULL;
}
