/* SPDX-License-Identifier: PostgreSQL */
/*
 * What is known of a session: its class, and what pins it.
 */
#include "core/session_internal.h"

#include "base/log.h"
#include "core/route.h"
#include "core/session_see.h"
#include "core/worker.h"
#include "session/params.h"
#include "session/stmts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A state that a standby has refused, maybe because it has not replayed a table yet, is tried again:
 * soon, and, if that does not help, more and more seldom. */
#define TRY_AGAIN_FIRST (100 * USEC_PER_MSEC)
#define TRY_AGAIN_LAST (10 * USEC_PER_SEC)
/* In a hold nothing is decided about it for so long. */
#define WAIT_FOR_REPLAY USEC_PER_SEC

const char *session_why(const struct session_move *move)
{
	return move->why == NULL ? "" : move->why;
}

/* `text` may be what is there already. */
static void session_set_text(char **slot, const char *text)
{
	char *copy = strdup(text);

	free(*slot);
	*slot = copy;
}

void session_set_class(struct session_move *move, enum session_class class, const char *what,
                              const char *why)
{
	char name[128];

	if (move->class_since == 0 || move->class != class)
		move->class_since = move->client->worker->now;
	/* Not each time that it is asked. */
	if (class == SESSION_PINNED && (move->class != class || strcmp(session_why(move), why) != 0))
		log_info("%s: pinned: %s", session_name(move, name), why);
	move->class = class;
	session_set_text(&move->what, what);
	session_set_text(&move->why, why);
}

void session_note_failure(struct session_move *move, const char *why, bool passes)
{
	const usec_t now = move->client->worker->now;
	char name[128];

	if (move->failed_at == 0 || strcmp(move->digest_failed, move->digest) != 0) {
		move->failed_at = now;
		move->failed_wait = TRY_AGAIN_FIRST;
	} else if (move->failed_wait < TRY_AGAIN_LAST) {
		move->failed_wait *= 2;
	}
	move->failed_until = now + move->failed_wait;
	move->failed_passes = passes;
	memcpy(move->digest_failed, move->digest, sizeof(move->digest));
	session_set_text(&move->failed_why, why);
	move->failed_tried = false;
	log_warning("%s: its state cannot be set up on another server: %s",
	            session_name(move, name), why);
	session_set_class(move, SESSION_PINNED, move->what == NULL ? "" : move->what, why);
}

static void session_forget_failure(struct session_move *move)
{
	free(move->failed_why);
	move->failed_why = NULL;
	move->failed_tried = false;
}

void session_try_again(struct session_move *move, bool anew)
{
	if (anew)
		move->failed_at = 0;
	if (move->failed_why == NULL)
		return;
	if (anew)
		session_forget_failure(move);
	else
		move->failed_tried = true;
	if (move->state != NULL)
		session_classify_state(move);
}

void session_tried(struct session_move *move)
{
	if (move->failed_tried)
		session_forget_failure(move);
}

bool session_is_tried(const struct session_move *move)
{
	return move->failed_tried && strcmp(move->digest, move->digest_failed) == 0;
}

bool session_failure_passes(const struct session_move *move)
{
	const struct database *database = session_database(move);

	return move->failed_why != NULL && move->failed_passes && !move->parked &&
	       move->class == SESSION_PINNED && database->swap_target != NULL &&
	       !database->swap_trial && !database->swapped;
}

bool session_failure_is_new(const struct session_move *move)
{
	return session_failure_passes(move) &&
	       move->client->worker->now - move->failed_at < WAIT_FOR_REPLAY;
}

/* What the configuration says. */
static void session_add_declared(const struct session_move *move, struct session_verdict *verdict)
{
	const struct client *client = move->client;
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	const char *application = param_set_get(client->params, "application_name");
	char reason[256] = "";

	if (client->pool->session_pin != NULL)
		(void)snprintf(reason, sizeof(reason), "session_pin of the %s \"%.64s\"",
		               client->pool->session_pin,
		               client->pool->session_pin[0] == 'u' ? client_user(client)
		                                                   : client_database(client));
	else if (application != NULL && application[0] != '\0' &&
	         config_list_has_name(&conf->session_pin_applications, application))
		(void)snprintf(reason, sizeof(reason),
		               "session_pin_applications names \"%.64s\"", application);
	if (reason[0] != '\0')
		session_verdict_pin(verdict, reason);
}

void session_classify_state(struct session_move *move)
{
	struct client *client = move->client;
	const struct config_proxy *conf = &client->worker->routes->config->proxy;
	const struct session_abilities abilities = {
	    .locks = true,
	    .cursors = client->pool->session_cursors > 0,
	    .temporary = client->pool->session_temp_tables > 0,
	    .custom_known = conf->session_custom_settings[0] != '\0',
	};
	const struct session_seen *seen = client->seen;
	struct session_verdict verdict;
	struct stmt *unnamed;

	if (!session_seen_unnamed(client, &unnamed)) {
		session_set_class(move, SESSION_PINNED, "", "out of memory");
		return;
	}
	session_verdict_init(&verdict);
	session_classify(move->state, seen == NULL ? NULL : seen->facts, unnamed,
	                 seen == NULL ? NULL : seen->startup, &abilities, &verdict);
	if (unnamed != NULL && move->unnamed_failure != NULL) {
		char reason[400];

		(void)snprintf(reason, sizeof(reason),
		               "an unnamed statement that cannot be prepared any more: %s",
		               move->unnamed_failure);
		session_verdict_pin(&verdict, reason);
	}
	stmt_unref(unnamed);
	session_add_declared(move, &verdict);
	/* One that has failed stays pinned while it is the same. */
	if (verdict.class != SESSION_PINNED && move->failed_why != NULL && !move->failed_tried &&
	    strcmp(move->digest, move->digest_failed) == 0)
		session_set_class(move, SESSION_PINNED, sbuf_text(&verdict.what), move->failed_why);
	else
		session_set_class(move, verdict.class, sbuf_text(&verdict.what),
		                  sbuf_text(&verdict.why));
	session_verdict_free(&verdict);
}
