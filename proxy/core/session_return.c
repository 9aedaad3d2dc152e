/* SPDX-License-Identifier: PostgreSQL */
/*
 * A session that is set up anew on the server that it had: it had left that for a swap that was
 * given up, or its client asked for something before, or its old server process has ended.  What
 * would be no error to its old process must be none to the client now: a statement of which the
 * table has gone is kept as a text (session_lost.c), a setting that is refused is left out with a
 * WARNING.  But never does it go on under another role than it had.  Worker thread.
 */
#include "core/session_internal.h"

#include "base/log.h"
#include "core/route.h"
#include "core/server.h"
#include "core/session_carry.h"
#include "core/session_lost.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/replay.h"
#include "session/shapes.h"
#include "session/stmts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORGONE_MAX ((size_t)4000)
#define PARSE_MAX ((size_t)32 * 1024 * 1024)

/* Its old server process, which has been told to end, has its locks until then. */
#define LOCKS_PATIENCE (5 * USEC_PER_SEC)
/* One that had been opened for another session has them, which has gone or given them back. */
#define LOCKS_PATIENCE_MOVED USEC_PER_SEC
#define LOCKS_AGAIN (2 * USEC_PER_MSEC)

bool session_comes_back(const struct session_move *move)
{
	return move->parked && move->old == NULL && move->fresh != NULL &&
	       gate_server_current(move->fresh) &&
	       strcmp(move->fresh->target->name, move->from) == 0;
}

void session_forgo(struct session_move *move, const char *what, const char *why)
{
	struct sbuf text;
	char name[128];

	log_warning("%s: set up anew on server %s without %s: %s", session_name(move, name),
	            move->from, what, why);
	sbuf_init(&text, FORGONE_MAX);
	if (move->forgone != NULL)
		sbuf_printf(&text, "%s; ", move->forgone);
	sbuf_printf(&text, "%s: %s", what, why);
	if (sbuf_ok(&text)) { /* else the first ones say enough */
		free(move->forgone);
		move->forgone = strdup(sbuf_text(&text));
	}
	sbuf_free(&text);
}

/* What the step of the replay that has failed was to do; "" if it was none of it. */
static void return_failed_step(const struct session_move *move, struct sbuf *label)
{
	struct stmt *unnamed;
	struct replay replay;

	if (!session_seen_unnamed(move->client, &unnamed))
		return;
	if (replay_build(move->state, unnamed, move->replayed, move->apart, &replay) &&
	    move->failed_step < replay.steps)
		sbuf_add_str(label, replay_step(&replay, move->failed_step));
	replay_free(&replay);
	stmt_unref(unnamed);
}

/* The name in quotes behind `what` in the label, or NULL: it is of something else. */
static char *return_name(const char *label, const char *what)
{
	const size_t len = strlen(what);
	const size_t all = strlen(label);

	if (strncmp(label, what, len) != 0 || all < len + 3 || label[len] != ' ' ||
	    label[len + 1] != '"')
		return NULL;
	return strndup(label + len + 2, all - len - 3);
}

/* The body of a Parse behind its name. */
static bool return_add_def(const char *text, const char *types, struct sbuf *def)
{
	struct sbuf list;
	bool good;

	sbuf_init(&list, PARSE_MAX);
	good = replay_types(types, &list);
	sbuf_add(def, text, strlen(text) + 1);
	sbuf_add(def, list.data, list.len);
	sbuf_free(&list);
	return good && sbuf_ok(def);
}

static bool return_keep_statement(struct session_move *move, const char *name, const char *why)
{
	const struct session_row *row =
	    session_state_find(move->state, SESSION_PROTOCOL_STATEMENT, name);
	struct sbuf def;
	bool good;

	if (row == NULL) {
		row = session_state_find(move->state, SESSION_SQL_STATEMENT, name);
		if (row == NULL)
			return false;
		/* EXECUTE is a text, too, in which nobody looks for it. */
		session_forgo(move, "a statement made by PREPARE", why);
		session_state_remove(move->state, row);
		return true;
	}
	sbuf_init(&def, PARSE_MAX);
	good = row->value != NULL && return_add_def(row->value, row->extra, &def) &&
	       session_lost_add(move->client, name, sbuf_text(&def), def.len, true,
	                        shapes_is_bare(row));
	sbuf_free(&def);
	if (good) {
		log_info("server %s does not take a prepared statement of client id %llu any more: %s",
		         move->from, (unsigned long long)move->client->id, why);
		session_state_remove(move->state, row);
	}
	return good;
}

bool session_keep_unnamed(struct session_move *move)
{
	struct stmt *unnamed;
	struct sbuf def;
	bool good;

	if (!session_seen_unnamed(move->client, &unnamed) || unnamed == NULL)
		return false;
	sbuf_init(&def, PARSE_MAX);
	if (move->unnamed_types == NULL)
		good =
		    session_lost_add(move->client, "", unnamed->text, unnamed->len, false, false);
	else
		good = return_add_def(unnamed->text, move->unnamed_types, &def) &&
		       session_lost_add(move->client, "", sbuf_text(&def), def.len, true,
		                        move->unnamed_bare);
	sbuf_free(&def);
	stmt_unref(unnamed);
	if (good)
		session_see_no_unnamed(move->client);
	return good;
}

static bool return_drop_setting(struct session_move *move, const char *name, const char *why)
{
	const struct session_row *row = session_state_find(move->state, SESSION_SETTING, name);
	char what[160];

	if (row == NULL)
		row = session_state_find(move->state, SESSION_CUSTOM, name);
	if (row == NULL)
		return false;
	(void)snprintf(what, sizeof(what), "the setting \"%.100s\"", name);
	session_forgo(move, what, why);
	session_state_remove(move->state, row);
	return true;
}

static bool return_leave_out(struct session_move *move, const char *label)
{
	char *name;
	bool good = false;

	if (strcmp(label, REPLAY_UNNAMED) == 0)
		return session_keep_unnamed(move);
	if (strcmp(label, REPLAY_SETTINGS) == 0 && !move->apart) {
		move->apart = true; /* once more: which of them is it? */
		return true;
	}
	if ((name = return_name(label, REPLAY_STATEMENT)) != NULL)
		good = return_keep_statement(move, name, move->failure);
	else if ((name = return_name(label, REPLAY_SETTING)) != NULL)
		good = return_drop_setting(move, name, move->failure);
	free(name);
	return good;
}

/* From the beginning, with what is left. */
static void return_anew(struct session_move *move)
{
	move->digest_fresh[0] = '\0';
	move->stage = SESSION_STAGE_STANDBY; /* has something of another state */
	session_count_rest(move);
}

bool session_return_later(struct session_move *move)
{
	const usec_t now = move->client->worker->now;
	struct sbuf label;
	const usec_t patience = session_comes_back(move) ? LOCKS_PATIENCE : LOCKS_PATIENCE_MOVED;
	bool lock;

	if (!move->parked || move->fresh == NULL || move->failure == NULL ||
	    move->failure_in_state || locks_refused(move->failure_sqlstate))
		return false;
	sbuf_init(&label, 1000);
	return_failed_step(move, &label);
	lock = strncmp(sbuf_text(&label), REPLAY_LOCK, strlen(REPLAY_LOCK)) == 0;
	sbuf_free(&label);
	if (lock && move->claims_since == 0)
		move->claims_since = now;
	if (!lock || now - move->claims_since > patience)
		return false;
	move->claims_at = now + LOCKS_AGAIN;
	if (move->replayed != REPLAY_CLAIMS)
		return_anew(move);
	return true;
}

bool session_return_without(struct session_move *move)
{
	struct sbuf label;
	bool good;

	if (!move->parked || move->fresh == NULL || move->failure == NULL ||
	    move->failure_in_state || replay_try_again(move->failure_sqlstate))
		return false;
	sbuf_init(&label, 1000);
	return_failed_step(move, &label);
	good = (session_comes_back(move) || strcmp(sbuf_text(&label), REPLAY_UNNAMED) == 0) &&
	       return_leave_out(move, sbuf_text(&label));
	sbuf_free(&label);
	if (!good)
		return false;
	session_state_digest(move->state, move->digest);
	return_anew(move);
	return true;
}

/* Statements that return other columns now are refused when they are used, as by the old process. */
static bool return_keep_changed(struct session_move *move)
{
	for (size_t i = 0; i < session_state_count(move->state); i++) {
		const struct session_row *old = session_state_at(move->state, i);
		const struct session_row *now =
		    session_state_find(move->answer, old->kind, old->name);

		if (now == NULL || !shapes_differ(old, now))
			continue;
		/* EXECUTE is a text, which nobody looks into; its client is told the columns. */
		if ((old->kind == SESSION_PROTOCOL_STATEMENT &&
		     !session_lost_add_changed(move->client, old->name, old->extra)) ||
		    !shapes_adopt(move->state, i, now))
			return false;
	}
	session_state_digest(move->state, move->digest);
	session_state_digest(move->answer, move->digest_told);
	return true;
}

bool session_return_differs(struct session_move *move, const char *what)
{
	if (!session_comes_back(move) || !return_keep_changed(move))
		return false;
	if (strcmp(move->digest, move->digest_told) == 0)
		return true;
	/* As by ALTER ROLE … SET meanwhile, which its old process would not have noticed. */
	if (!session_state_same_but_settings(move->state, move->answer))
		return false;
	session_forgo(move, "a setting as it was", what);
	return true;
}
