/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_see.h"

#include "core/client.h"
#include "core/proxy.h"
#include "core/session_lost.h"
#include "core/worker.h"
#include "session/facts.h"
#include "session/params.h"
#include "session/stmts.h"

#include <stdlib.h>
#include <string.h>

/* First memory of an unnamed statement: most fit. */
#define UNNAMED_FIRST ((size_t)480)

struct session_seen *session_see(struct client *client)
{
	if (UNLIKELY(client->seen == NULL)) {
		client->seen = calloc(1, sizeof(*client->seen));
		if (client->seen == NULL)
			client_doom(client, CLIENT_CLOSE_MEMORY);
	}
	return client->seen;
}

static void see_no_unnamed(struct session_seen *seen)
{
	if (seen->unnamed != NULL) {
		seen->unnamed->len = 0;
		seen->unnamed->lost = false;
	}
}

/* Room for so many bytes; the old ones are of no more use. */
static struct session_unnamed *see_room(struct session_seen *seen, size_t len)
{
	struct session_unnamed *unnamed = seen->unnamed;
	size_t cap = len < UNNAMED_FIRST ? UNNAMED_FIRST : len;

	if (LIKELY(unnamed != NULL && unnamed->cap >= len))
		return unnamed;
	free(unnamed);
	unnamed = malloc(sizeof(*unnamed) + cap);
	seen->unnamed = unnamed;
	if (unnamed == NULL)
		return NULL;
	unnamed->cap = (uint32_t)cap;
	unnamed->len = 0;
	unnamed->last = false;
	unnamed->lost = false;
	unnamed->times_changed = false;
	return unnamed;
}

static void see_lost(struct session_seen *seen)
{
	struct session_unnamed *unnamed = see_room(seen, 0);

	if (unnamed == NULL) {
		session_facts_see_unnamed(&seen->facts, true, false);
		return;
	}
	unnamed->len = 0;
	unnamed->last = true;
	unnamed->lost = true;
}

static void see_parse(struct session_seen *seen, const uint8_t *body, size_t len, bool whole)
{
	const uint8_t *def = memchr(body, '\0', len);
	struct session_unnamed *unnamed;
	unsigned under;
	size_t def_len;
	bool times;

	if (def == NULL)
		return; /* not a name; or one that is longer than what is here, which no text is */
	def++;
	def_len = len - (size_t)(def - body);
	under = session_facts_set_before(seen->facts, seen->piped);
	session_facts_see_text(&seen->facts, (const char *)def, strnlen((const char *)def, def_len),
	                       whole);
	times = session_facts_see_parse(seen->facts, under, body[0] != '\0');
	if (body[0] != '\0') {
		seen->prepared = true;
		seen->prepared_last = true;
		if (seen->unnamed != NULL)
			seen->unnamed->last = false;
		return;
	}
	unnamed = whole && def_len <= SESSION_UNNAMED_MAX ? see_room(seen, def_len) : NULL;
	if (unnamed == NULL) {
		see_lost(seen);
		return;
	}
	memcpy(unnamed->def, def, def_len);
	unnamed->len = (uint32_t)def_len;
	unnamed->last = true;
	unnamed->lost = false;
	unnamed->times_changed = times;
}

bool session_see_message(struct client *client, const uint8_t *msg, size_t total, size_t have)
{
	struct session_seen *seen = session_see(client);
	const uint8_t *body = msg + WIRE_HEADER_LEN;
	const bool whole = have >= total;
	const size_t len = (whole ? total : have) - WIRE_HEADER_LEN;

	if (UNLIKELY(seen == NULL))
		return false;
	switch (msg[0]) {
	case FE_QUERY:
		see_no_unnamed(seen);
		seen->prepared_last = false;
		session_facts_see_sync(seen->facts);
		session_facts_see_text(&seen->facts, (const char *)body,
		                       strnlen((const char *)body, len), whole);
		session_facts_see_sync(seen->facts);
		break;
	case FE_PARSE:
		see_parse(seen, body, len, whole);
		break;
	case FE_CLOSE:
		if (len >= 2 && body[0] == 'S' && body[1] == '\0')
			see_no_unnamed(seen);
		break;
	default:
		break;
	}
	return true;
}

void session_see_failed_parse(struct client *client)
{
	struct session_seen *seen = client->seen;

	if (seen != NULL)
		session_lost_parse_failed(seen);
	/* A Parse of the unnamed statement ends the one before, whatever becomes of it. */
	if (seen != NULL && seen->unnamed != NULL && seen->unnamed->last)
		see_no_unnamed(seen);
}

void session_see_skipped_parse(struct client *client)
{
	struct session_seen *seen = session_see(client);

	if (seen == NULL)
		return;
	session_lost_parse_failed(seen);
	see_lost(seen);
}

void session_see_no_unnamed(struct client *client)
{
	if (client->seen != NULL)
		see_no_unnamed(client->seen);
}

static bool is_tag(const uint8_t *tag, size_t len, const char *text)
{
	return len == strlen(text) + 1 && memcmp(tag, text, len) == 0;
}

void session_see_tag(struct client *client, const uint8_t *tag, size_t len)
{
	struct session_seen *seen = client->seen;

	if (seen == NULL || len < 4 || (tag[0] != 'S' && tag[0] != 'P' && tag[0] != 'D'))
		return;
	if (is_tag(tag, len, "SET")) {
		session_facts_see_set(seen->facts);
	} else if (is_tag(tag, len, "PREPARE")) {
		seen->prepared = true;
	} else if (is_tag(tag, len, "DISCARD ALL") || is_tag(tag, len, "DEALLOCATE ALL")) {
		/* But those that the client has sent since. */
		seen->prepared = seen->prepared_last;
		session_facts_see_no_statements(seen->facts);
	}
}

void session_see_parameter(struct client *client, const char *name)
{
	struct session_seen *seen = session_see(client);

	if (seen == NULL)
		return;
	session_facts_see_parameter(&seen->facts, name, seen->prepared);
	if (seen->unnamed != NULL && session_facts_is_of_times(name))
		seen->unnamed->times_changed = true;
}

bool session_seen_unnamed(struct client *client, struct stmt **stmt)
{
	struct session_seen *seen = client->seen;
	const struct session_unnamed *unnamed;

	*stmt = NULL;
	if (seen == NULL)
		return true;
	unnamed = seen->unnamed;
	session_facts_see_unnamed(&seen->facts, unnamed != NULL && unnamed->lost,
	                          unnamed != NULL && unnamed->times_changed);
	if (unnamed == NULL || unnamed->len == 0)
		return true;
	*stmt = stmt_store_intern(client->worker->stmts, unnamed->def, unnamed->len);
	return *stmt != NULL;
}

void session_see_end(struct client *client)
{
	struct session_seen *seen = client->seen;

	if (seen == NULL)
		return;
	told_remove(client->worker->proxy->told, &seen->told);
	client->seen = NULL;
	session_lost_clear(seen);
	param_set_unref(seen->startup);
	free(seen->unnamed);
	session_facts_free(seen->facts);
	free(seen);
}
