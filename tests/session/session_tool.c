/* SPDX-License-Identifier: PostgreSQL */
/*
 * proxy/session/ for tests: a command a line on stdin, an answer a line on stdout.  States are
 * slots 0 … 9.  Bytes are hexadecimal; "-" is none.
 *
 *     text HEX WHOLE                 facts see a text (0: only its beginning)
 *     parameter NAME                 facts see another value
 *     unnamed HEX                    the client's unnamed statement: query, 0, types
 *     nothing                        there is no unnamed statement
 *     ask CUSTOM LIKE NEUTRAL        -> messages; LIKE: a slot
 *     rows SLOT HEX…                 the bodies of DataRows -> "ok", "again" or "bad"
 *     show SLOT                      -> kind:name=value for each row, hexadecimal, ~ for NULL
 *     digest SLOT                    -> digest
 *     same SLOT SLOT STAGE           -> "same" or the difference
 *     classify SLOT LOCKS CURSORS TEMPORARY KNOWN   -> class|what|why
 *     locks SLOT                     -> messages that count its advisory locks
 *     counts SLOT HEX…               the bodies of their DataRows -> "ok" or why not
 *     replay SLOT STAGE              -> steps messages
 *     label I                        -> what step I of the last replay does
 */
#include "session/classify.h"
#include "session/locks.h"
#include "session/replay.h"
#include "session/stmts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 10

static struct session_state *states[SLOTS];
static struct session_facts *facts;
static struct stmt_store *store;
static struct stmt *unnamed;
static struct replay last;

/* Decodes in place, with a zero behind it. */
static size_t unhex(char *text)
{
	size_t n = 0;
	unsigned int byte;

	while (text[2 * n] != '\0' && text[2 * n] != '-' &&
	       sscanf(text + 2 * n, "%2x", &byte) == 1) {
		text[n] = (char)byte;
		n++;
	}
	text[n] = '\0';
	return n;
}

static void put_hex(const void *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		(void)printf("%02x", ((const unsigned char *)bytes)[i]);
	(void)printf("%s", len == 0 ? "-" : "");
}

static char *word(char **rest)
{
	char *text = strsep(rest, " \n");

	return text == NULL ? (char *)"" : text;
}

static unsigned int slot(char **rest)
{
	return (unsigned int)atoi(word(rest)) % SLOTS;
}

static void do_ask(char **rest)
{
	char *custom = word(rest);
	char *like = word(rest);
	struct session_ask ask = {.facts = facts};
	struct sbuf out;

	ask.custom = strcmp(custom, "-") == 0 ? NULL : custom;
	ask.like = strcmp(like, "-") == 0 ? NULL : states[atoi(like) % SLOTS];
	ask.neutral = atoi(word(rest)) != 0;
	sbuf_init(&out, SESSION_INSPECT_MAX);
	session_inspect_add(&out, &ask);
	if (sbuf_ok(&out))
		put_hex(sbuf_text(&out), out.len);
	sbuf_free(&out);
}

static void do_rows(char **rest)
{
	unsigned int i = slot(rest);
	bool good = true;
	char *row;

	session_state_free(states[i]);
	states[i] = session_state_new();
	while ((row = word(rest))[0] != '\0')
		good = session_state_row(states[i], row, unhex(row)) && good;
	good = session_state_finish(states[i]) && good;
	(void)printf("%s", !good ? "bad" : session_state_again(states[i]) ? "again" : "ok");
}

static void do_show(char **rest)
{
	const struct session_state *state = states[slot(rest)];
	size_t i;

	for (i = 0; i < session_state_count(state); i++) {
		const struct session_row *row = session_state_at(state, i);

		(void)printf("%s%d:", i > 0 ? " " : "", (int)row->kind);
		put_hex(row->name, strlen(row->name));
		(void)printf("=");
		if (row->value == NULL)
			(void)printf("~");
		else
			put_hex(row->value, strlen(row->value));
	}
}

static void do_same(char **rest)
{
	unsigned int a = slot(rest);
	unsigned int b = slot(rest);
	struct sbuf why;

	sbuf_init(&why, 4096);
	if (session_state_same(states[a], states[b], (enum replay_stage)atoi(word(rest)), &why))
		sbuf_add_str(&why, "same");
	(void)printf("%s", sbuf_text(&why));
	sbuf_free(&why);
}

static void do_classify(char **rest)
{
	const struct session_state *state = states[slot(rest)];
	struct session_abilities abilities;
	struct session_verdict verdict;

	abilities.locks = atoi(word(rest)) != 0;
	abilities.cursors = atoi(word(rest)) != 0;
	abilities.temporary = atoi(word(rest)) != 0;
	abilities.custom_known = atoi(word(rest)) != 0;
	session_verdict_init(&verdict);
	session_classify(state, facts, unnamed, NULL, &abilities, &verdict);
	(void)printf("%s|%s|%s", session_class_name(verdict.class), sbuf_text(&verdict.what),
	             sbuf_text(&verdict.why));
	session_verdict_free(&verdict);
}

static void do_locks(char **rest)
{
	struct sbuf out;

	sbuf_init(&out, SESSION_INSPECT_MAX);
	locks_count_add(states[slot(rest)], &out);
	put_hex(sbuf_text(&out), out.len);
	sbuf_free(&out);
}

static void do_counts(char **rest)
{
	struct session_state *state = states[slot(rest)];
	struct sbuf why;
	char *row;

	sbuf_init(&why, 4096);
	while ((row = word(rest))[0] != '\0') {
		if (!locks_count_row(state, row, unhex(row)))
			sbuf_add_str(&why, "bad ");
	}
	if (locks_counted(state, &why))
		sbuf_add_str(&why, "ok");
	(void)printf("%s", sbuf_text(&why));
	sbuf_free(&why);
}

static void do_replay(char **rest)
{
	unsigned int i = slot(rest);

	replay_free(&last);
	if (!replay_build(states[i], unnamed, (enum replay_stage)atoi(word(rest)), false, &last))
		return;
	(void)printf("%u ", last.steps);
	put_hex(sbuf_text(&last.out), last.out.len);
}

static void run(char *line)
{
	char *rest = line;
	char *command = word(&rest);
	char digest[65];

	if (strcmp(command, "text") == 0) {
		char *text = word(&rest);
		size_t len = unhex(text);

		session_facts_see_text(&facts, text, len, atoi(word(&rest)) != 0);
	} else if (strcmp(command, "parameter") == 0) {
		session_facts_see_parameter(&facts, word(&rest), true);
	} else if (strcmp(command, "unnamed") == 0) {
		char *def = word(&rest);
		size_t len = unhex(def);

		stmt_unref(unnamed);
		unnamed = stmt_store_intern(store, def, len);
	} else if (strcmp(command, "nothing") == 0) {
		stmt_unref(unnamed);
		unnamed = NULL;
	} else if (strcmp(command, "ask") == 0) {
		do_ask(&rest);
	} else if (strcmp(command, "rows") == 0) {
		do_rows(&rest);
	} else if (strcmp(command, "show") == 0) {
		do_show(&rest);
	} else if (strcmp(command, "digest") == 0) {
		session_state_digest(states[slot(&rest)], digest);
		(void)printf("%s", digest);
	} else if (strcmp(command, "same") == 0) {
		do_same(&rest);
	} else if (strcmp(command, "classify") == 0) {
		do_classify(&rest);
	} else if (strcmp(command, "locks") == 0) {
		do_locks(&rest);
	} else if (strcmp(command, "counts") == 0) {
		do_counts(&rest);
	} else if (strcmp(command, "replay") == 0) {
		do_replay(&rest);
	} else if (strcmp(command, "label") == 0) {
		(void)printf("%s", replay_step(&last, (unsigned int)atoi(word(&rest))));
	} else {
		(void)printf("unknown");
	}
	(void)printf("\n");
	(void)fflush(stdout);
}

int main(void)
{
	char *line = NULL;
	size_t cap = 0;
	size_t i;

	store = stmt_store_new();
	if (store == NULL)
		return 1;
	while (getline(&line, &cap, stdin) > 0)
		run(line);
	free(line);
	session_facts_free(facts);
	stmt_unref(unnamed);
	replay_free(&last);
	for (i = 0; i < SLOTS; i++)
		session_state_free(states[i]);
	stmt_store_free(store);
	return 0;
}
