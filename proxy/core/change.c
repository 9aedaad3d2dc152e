/* SPDX-License-Identifier: PostgreSQL */
#include "core/change.h"

#include "core/client.h"
#include "core/pool.h"
#include "core/server.h"
#include "core/worker.h"
#include "session/params.h"
#include "session/sql_set.h"
#include "session/stmts.h"
#include "wire/parse.h"

#include <stdlib.h>
#include <string.h>

/* Everybody may ask that, of all parameters that servers report; whatever search_path is. */
static const char change_query[] =
    "SELECT name FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'";

void change_begin(struct server *server)
{
	struct change *change = &server->change;

	if (change->before != NULL)
		return;
	change->before = param_set_ref(server->client->params);
	change->by_text = (struct sql_settings){0};
	change->committed = (struct sql_settings){0};
	change->unclear = false;
	change->rolled_back = false;
}

static void change_add(struct sql_settings *sum, const struct sql_settings *next)
{
	sum->set = (uint16_t)((sum->set & ~next->reset) | next->set);
	sum->reset = (uint16_t)((sum->reset & ~next->set) | next->reset);
}

const char *change_text(const struct client *client, struct server *server, bool *certain)
{
	const struct ledger_entry *entry = ledger_head(&server->ledger);
	const struct stmt *unnamed = client_stmts_get_unnamed(client->stmts);
	const bool simple = entry == NULL || entry->op == OWES_QUERY;
	bool another = false;

	/* What was sent behind it may have its text there, and knows what the unnamed statement
	 * was. */
	for (uint32_t i = 1; i < server->ledger.count && !another; i++) {
		another = ledger_sets_unnamed(ledger_at(&server->ledger, i));
		if (another)
			unnamed = ledger_at(&server->ledger, i)->unnamed;
	}
	/* What another portal was bound to is not kept. */
	*certain = simple ? server->query_whole && !another : unnamed != NULL && entry->plain;
	if (simple)
		return server->query;
	return unnamed == NULL ? "" : unnamed->text;
}

void change_by_command(struct server *server)
{
	struct sql_settings settings;
	bool certain;
	const char *text = change_text(server->client, server, &certain);

	change_begin(server);
	if (!certain || !sql_read_settings(text, &settings))
		server->change.unclear = true;
	else
		change_add(&server->change.by_text, &settings);
}

void change_by_discard(struct server *server)
{
	const struct sql_settings all = {.reset = PARAM_BITS_ALL};

	change_begin(server);
	change_add(&server->change.by_text, &all);
}

void change_committed(struct server *server)
{
	struct change *change = &server->change;

	if (change->before == NULL)
		return;
	/* To a savepoint: some of it may be gone. */
	if (change->rolled_back)
		change->unclear = true;
	else
		change_add(&change->committed, &change->by_text);
	change->rolled_back = false;
	change->by_text = (struct sql_settings){0};
}

void change_rolled_back(struct server *server)
{
	server->change.rolled_back = true;
}

/* Those which the server reports. */
static uint16_t change_reported(const struct server *server)
{
	unsigned bits = 0;

	for (size_t i = 0; i < param_set_count(server->params); i++) {
		const struct param_entry *entry = param_set_at(server->params, i);

		if (entry->reported)
			bits |= param_bit(entry->name);
	}
	return (uint16_t)bits;
}

/* What the texts tell.  What a client asked for at its start is not forgotten by a RESET that has
 * changed nothing. */
static void change_take_texts(struct server *server, uint16_t changed)
{
	struct client *client = server->client;
	struct change *change = &server->change;
	const uint16_t known = change_reported(server);
	const uint16_t set = change->committed.set & known;
	const uint16_t reset = change->committed.reset & known;

	client->chosen =
	    (uint16_t)((client->chosen | set) & ~(reset & (changed | ~client->started)));
	server->may_set = (uint16_t)((server->may_set | set) & ~reset);
	change->own &= (uint16_t) ~(set | reset);
	change->wonders &= (uint16_t) ~(set | reset);
}

/* What they do not tell of. */
static void change_take_reports(struct server *server, uint16_t changed)
{
	struct client *client = server->client;
	struct change *change = &server->change;
	const uint16_t defaults =
	    (uint16_t)~param_bits_differing(client->params, server->pool->welcome);
	/* SET before: a reload would not have changed it. */
	const uint16_t set = changed & server->may_set & (uint16_t)~defaults;
	/* The value that others were told already. */
	const uint16_t own = changed & (uint16_t)~server->may_set & defaults;
	uint16_t wonders = changed & (uint16_t) ~(set | own);

	client->chosen |= set;
	if (change->unclear)
		wonders = change_reported(server);
	change->own |= own;
	if (wonders == 0)
		return;
	change->had_set |= server->may_set & wonders & (uint16_t)~change->wonders;
	change->had_chosen |= client->chosen & wonders & (uint16_t)~change->wonders;
	change->wonders |= wonders;
	/* Until it is known. */
	client->chosen |= changed & wonders;
	server->may_set |= wonders;
}

/* SELECT set_config(…, false) is as good as a SET, but its command tag does not say so. */
static void change_by_set_config(struct server *server, uint16_t changed)
{
	struct sql_settings settings = {0};
	bool certain;
	const char *text = change_text(server->client, server, &certain);

	if (certain)
		settings.set = changed & sql_read_set_config(text);
	change_add(&server->change.by_text, &settings);
}

void change_at_ready(struct server *server)
{
	struct change *change = &server->change;
	struct client *client = server->client;
	const uint16_t changed = param_bits_differing(client->params, change->before);

	if (changed != 0)
		change_by_set_config(server, changed);
	if (!change->rolled_back)
		change_committed(server);
	change_take_texts(server, changed);
	change_take_reports(
	    server, changed & (uint16_t) ~(change->committed.set | change->committed.reset));
	if ((change->own != 0 || change->wonders != 0) && change->known == NULL)
		change->known = param_set_ref(change->before);
	change->rolled_back = false;
	param_set_replace(&change->before, NULL);
}

void change_forget(struct server *server)
{
	struct change *change = &server->change;

	param_set_replace(&change->before, NULL);
	param_set_replace(&change->known, NULL);
	change->own = 0;
	change->wonders = 0;
	change->had_set = 0;
	change->had_chosen = 0;
	change->rolled_back = false;
}

/* The server's own values of these have changed: the client has again what it had asked for. */
static void change_restore(struct client *client, const struct param_set *known, uint16_t bits)
{
	struct worker *worker = client->worker;
	struct param_set *restored = param_set_adopt(worker->params, client->params, known, bits);
	struct sbuf out;

	if (restored == NULL) {
		client_doom(client, CLIENT_CLOSE_MEMORY);
		return;
	}
	sbuf_init(&out, PARAM_MAX_SQL);
	if (param_set_write_status_diff(restored, client->params, &out) > 0 && !sbuf_ok(&out))
		client_doom(client, CLIENT_CLOSE_MEMORY);
	else if (out.len > 0 && (conn_send_copy(&worker->to_client, &client->conn, worker,
	                                        sbuf_text(&out), out.len) != CONN_IO_OK ||
	                         conn_flush(&worker->to_client, worker) != CONN_IO_OK))
		client_doom(client, CLIENT_CLOSE_IO);
	sbuf_free(&out);
	param_set_replace(&client->params, restored);
}

static void change_end(struct server *server)
{
	if (server->change.own != 0) {
		if (server->client != NULL)
			change_restore(server->client, server->change.known,
			               server->change.own & server->client->chosen);
		pool_reloaded(server, server->change.own);
	}
	change_forget(server);
}

bool change_ask(struct server *server)
{
	struct change *change = &server->change;

	if (LIKELY(change->known == NULL))
		return false;
	if (change->wonders == 0 || server->worker->leaving || server->spoilt) {
		change_end(server);
		return false;
	}
	change->asking = true;
	change->in_session = 0;
	return server_inject_query(server, change_query, sizeof(change_query) - 1) ||
	       server->doomed;
}

void change_end_doubt(struct client *client)
{
	struct change_doubt *doubt = client->doubt;

	client->doubt = NULL;
	if (doubt == NULL)
		return;
	param_set_unref(doubt->known);
	free(doubt);
}

void change_unanswered(struct server *server)
{
	const struct change *change = &server->change;
	struct client *client = server->client;
	const uint16_t changed =
	    (change->wonders | change->own) & param_bits_differing(client->params, change->known);
	/* Was SET there, and is as others have it. */
	const uint16_t reset =
	    changed & change->had_set &
	    (uint16_t)~param_bits_differing(client->params, server->pool->welcome);
	const uint16_t bits = changed & (uint16_t)~reset;

	/* (It is not told anything here: perhaps its server is being doomed.) */
	client->chosen &= (uint16_t)~reset;
	change_end_doubt(client);
	if (bits == 0)
		return;
	client->doubt = malloc(sizeof(*client->doubt));
	/* Without memory the values are its own, as is believed so far. */
	if (client->doubt != NULL)
		*client->doubt = (struct change_doubt){
		    .known = param_set_ref(change->known),
		    .bits = bits,
		    .had_set = change->had_set,
		    .had_chosen = change->had_chosen | (change->own & client->chosen)};
}

void change_settle_doubt(struct server *server)
{
	struct client *client = server->client;
	const struct change_doubt *doubt = client->doubt;
	/* As the server has it by itself: it was a reload, or a RESET of what was SET there. */
	const uint16_t own =
	    (uint16_t)(doubt->bits & ~param_bits_differing(client->params, server->params));
	const uint16_t back = own & doubt->had_chosen & (uint16_t)~doubt->had_set;

	client->chosen &= (uint16_t) ~(own & ~back);
	if (back != 0)
		change_restore(client, doubt->known, back);
	pool_reloaded(server, own);
	change_end_doubt(client);
}

void change_go_on_alone(struct server *server)
{
	if (!server->client->doomed)
		change_unanswered(server);
	server_unlink(server);
	server->task = SERVER_TASK_CHANGE;
	server_set_state(server, SERVER_RESETTING);
}

void change_take_row(struct server *server, const uint8_t *body, size_t len)
{
	struct wire_reader reader = wire_reader(body, len);
	char name[PARAM_MAX_NAME + 1];
	uint32_t name_len;
	const void *bytes;

	(void)wire_read_be16(&reader);
	name_len = wire_read_be32(&reader);
	bytes = wire_read_bytes(&reader, name_len);
	if (reader.bad || name_len > PARAM_MAX_NAME)
		return; /* a custom one: long names are of no interest */
	memcpy(name, bytes, name_len);
	name[name_len] = '\0';
	server->change.in_session |= param_bit(name);
}

void change_answered(struct server *server)
{
	struct change *change = &server->change;
	struct client *client = server->client;
	const uint16_t wonders = change->wonders;
	const uint16_t now = change->in_session & wonders;
	uint16_t changed;

	change->asking = false;
	if (server->error == NULL && server->tx_status == 'I') {
		changed = wonders & param_bits_differing(server->params, change->known);
		server->may_set = (uint16_t)((server->may_set & ~wonders) | now);
		/* Not SET before, and not now. */
		change->own |= changed & (uint16_t) ~(now | change->had_set);
		if (client != NULL)
			client->chosen =
			    (uint16_t)((client->chosen & ~wonders) |
			               /* SET anew, */
			               (now & (changed | (uint16_t)~change->had_set)) |
			               /* or asked for before, and not RESET. */
			               (change->had_chosen &
			                (uint16_t) ~(changed & change->had_set & ~now)));
	} else if (client != NULL) {
		change_unanswered(server);
	}
	change_end(server);
}
