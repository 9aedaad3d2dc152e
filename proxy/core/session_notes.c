/* SPDX-License-Identifier: PostgreSQL */
#include "core/session_notes.h"

#include "auth/crypto.h"
#include "core/session_internal.h"
#include "core/worker.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one connection.  What is more goes on at once: twice rather than never. */
#define NOTES_MAX ((size_t)1024 * 1024)

enum notes_stage {
	NOTES_BEGUN,
	NOTES_OFF,       /* everything goes on as it comes */
	NOTES_LISTENING, /* the old connection listens to the mark */
	NOTES_MARKED,    /* the new one has notified it */
	NOTES_MET,       /* what the old one has told since is here */
};

struct session_notes {
	char channel[40];
	unsigned number; /* of the mark, its payload: `fresh` may not be the first */
	enum notes_stage stage;
	bool by_old; /* has seen it */
	bool by_fresh;
	size_t fresh_mark;  /* what came before of `fresh` */
	struct sbuf behind; /* told by the old connection behind the mark */
	struct sbuf fresh;  /* told by the new one */
};

/* Whether both may be of one server. */
static bool notes_one_address(const struct server *a, const struct server *b)
{
	return a->target == b->target || (a->target->port == b->target->port &&
	                                  strcmp(a->target->host, b->target->host) == 0);
}

static bool notes_wanted(const struct session_move *move)
{
	return move->old != NULL && !move->old->doomed && !session_is_sealed(move) &&
	       session_state_count_kind(move->state, SESSION_CHANNEL) > 0 &&
	       notes_one_address(move->old, move->fresh);
}

void session_notes_free(struct session_move *move)
{
	struct session_notes *notes = move->notes;

	move->notes = NULL;
	if (notes == NULL)
		return;
	sbuf_free(&notes->behind);
	sbuf_free(&notes->fresh);
	free(notes);
}

/* Without memory both are told, as they come. */
static bool notes_make(struct session_move *move)
{
	uint64_t bits;
	struct session_notes *notes = calloc(1, sizeof(*notes));

	if (notes == NULL || !crypto_random(&bits, sizeof(bits))) {
		free(notes);
		return false;
	}
	(void)snprintf(notes->channel, sizeof(notes->channel), "pgshunt_mark_%016llx",
	               (unsigned long long)bits);
	sbuf_init(&notes->behind, NOTES_MAX);
	sbuf_init(&notes->fresh, NOTES_MAX);
	move->notes = notes;
	return true;
}

bool session_notes_begin(struct session_move *move)
{
	if (move->notes == NULL && (!notes_wanted(move) || !notes_make(move)))
		return true;
	if (move->notes->stage != NOTES_BEGUN)
		return true;
	if (move->old == NULL || session_is_sealed(move)) {
		move->notes->stage = NOTES_OFF;
		return true;
	}
	(void)!session_ask(move, move->old, SESSION_ASKS_LISTEN);
	return false;
}

bool session_notes_meet(struct session_move *move)
{
	struct session_notes *notes = move->notes;

	if (notes == NULL || move->old == NULL || session_is_sealed(move))
		return true;
	switch (notes->stage) {
	case NOTES_LISTENING:
		notes->number++;
		(void)!session_ask(move, move->fresh, SESSION_ASKS_MARK);
		return false;
	case NOTES_MARKED:
		(void)!session_ask(move, move->old, SESSION_ASKS_NEWS);
		return false;
	default:
		return true;
	}
}

/* ---- what is asked ---- */

static unsigned notes_run(const struct session_notes *notes, const char *command, struct sbuf *out)
{
	char sql[80];

	(void)snprintf(sql, sizeof(sql), "%s %s", command, notes->channel);
	session_inspect_run(out, sql);
	return 1;
}

unsigned session_notes_ask_listen(const struct session_move *move, struct sbuf *out)
{
	return notes_run(move->notes, "LISTEN", out);
}

unsigned session_notes_ask_mark(const struct session_move *move, struct sbuf *out)
{
	const struct session_notes *notes = move->notes;
	char sql[80];

	(void)notes_run(notes, "LISTEN", out);
	(void)snprintf(sql, sizeof(sql), "NOTIFY %s, '%u'", notes->channel, notes->number);
	session_inspect_run(out, sql);
	(void)notes_run(notes, "UNLISTEN", out);
	return 3;
}

unsigned session_notes_ask_forget(const struct session_move *move, struct sbuf *out)
{
	return notes_run(move->notes, "UNLISTEN", out);
}

/* ---- what is told ---- */

static void notes_tell(struct session_move *move, const struct sbuf *text, size_t from)
{
	struct client *client = move->client;
	struct worker *worker = client->worker;

	if (client->doomed || text->len <= from)
		return;
	if (conn_send_copy(&worker->to_client, &client->conn, worker, text->data + from,
	                   text->len - from) != CONN_IO_OK ||
	    conn_flush(&worker->to_client, worker) != CONN_IO_OK)
		client_doom(client, CLIENT_CLOSE_IO);
}

/* From where on what the new connection has told is news. */
static size_t notes_from(const struct session_notes *notes)
{
	return notes->by_old && notes->by_fresh ? notes->fresh_mark : 0;
}

/* All that is kept is told, twice perhaps, and the rest as it comes. */
static void notes_give_up(struct session_move *move)
{
	struct session_notes *notes = move->notes;

	notes->stage = NOTES_OFF;
	notes_tell(move, &notes->fresh, notes_from(notes));
	sbuf_reset(&notes->fresh);
	sbuf_reset(&notes->behind);
}

void session_notes_listens(struct session_move *move, bool good)
{
	if (move->notes == NULL)
		return;
	if (!move->parked && !good)
		session_notes_free(move);
	else /* linked again: to be forgotten at the next step */
		move->notes->stage = good && move->parked ? NOTES_LISTENING : NOTES_OFF;
}

void session_notes_marked(struct session_move *move, bool good)
{
	if (move->notes == NULL || move->notes->stage != NOTES_LISTENING)
		return;
	if (good)
		move->notes->stage = NOTES_MARKED;
	else
		notes_give_up(move);
}

void session_notes_passed(struct session_move *move)
{
	if (move->notes != NULL && move->notes->stage == NOTES_MARKED)
		move->notes->stage = NOTES_MET;
}

/* The mark, of any number; *now: the last one. */
static bool notes_is_mark(const struct session_notes *notes, const uint8_t *msg, size_t total,
                          bool *now)
{
	const size_t len = strlen(notes->channel) + 1;
	const size_t head = WIRE_HEADER_LEN + 4;
	char number[16];
	int digits;

	if (total < head + len || memcmp(msg + head, notes->channel, len) != 0)
		return false;
	digits = snprintf(number, sizeof(number), "%u", notes->number);
	*now = total == head + len + (size_t)digits + 1 &&
	       memcmp(msg + head + len, number, (size_t)digits + 1) == 0;
	return true;
}

static bool notes_keep(struct session_move *move, struct sbuf *kept, const uint8_t *msg,
                       size_t total)
{
	if (kept->len + total > NOTES_MAX) {
		notes_give_up(move);
		return false;
	}
	sbuf_add(kept, msg, total);
	if (sbuf_ok(kept))
		return true;
	client_doom(move->client, CLIENT_CLOSE_MEMORY); /* nobody knows what it has been told */
	return true;
}

/* From before `fresh` had gone. */
static void notes_tell_behind(struct session_move *move)
{
	notes_tell(move, &move->notes->behind, 0);
	sbuf_reset(&move->notes->behind);
}

bool session_notes_take(struct server *server, const uint8_t *msg, size_t total)
{
	struct session_move *move = server->move;
	struct session_notes *notes = move == NULL ? NULL : move->notes;
	bool now;

	if (LIKELY(notes == NULL))
		return false;
	if (server == move->old && !notes->by_old)
		notes_tell_behind(move);
	if (notes_is_mark(notes, msg, total, &now)) {
		if (now && server == move->old)
			notes->by_old = true;
		if (now && server == move->fresh && !notes->by_fresh) {
			notes->by_fresh = true;
			notes->fresh_mark = notes->fresh.len;
		}
		return true;
	}
	if (notes->stage < NOTES_LISTENING)
		return false;
	if (server == move->fresh)
		return notes_keep(move, &notes->fresh, msg, total);
	return server == move->old && notes->by_old && notes_keep(move, &notes->behind, msg, total);
}

/* ---- the ends ---- */

void session_notes_arrive(struct session_move *move)
{
	const struct session_notes *notes = move->notes;

	if (notes == NULL)
		return;
	if (!notes->by_old)
		notes_tell_behind(move);
	notes_tell(move, &notes->fresh, notes_from(notes));
	session_notes_free(move);
}

void session_notes_stay(struct session_move *move)
{
	if (move->notes == NULL)
		return;
	notes_tell_behind(move);
	if (move->asked != NULL && move->question == SESSION_ASKS_LISTEN)
		return; /* until that is answered */
	if (move->notes->stage < NOTES_LISTENING || move->client->doomed) {
		session_notes_free(move);
		return;
	}
	/* Else at the next step. */
	move->notes->stage = NOTES_OFF;
	if (move->asked == NULL)
		(void)!session_ask(move, move->client->server, SESSION_ASKS_FORGET);
}

void session_notes_lost_fresh(struct session_move *move)
{
	struct session_notes *notes = move->notes;

	if (notes == NULL || notes->stage < NOTES_LISTENING)
		return;
	/* The old one goes on telling, what is kept first. */
	sbuf_reset(&notes->fresh);
	notes->stage = NOTES_LISTENING;
	notes->by_old = false;
	notes->by_fresh = false;
	notes->number++;
}
