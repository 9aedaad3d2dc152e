/* SPDX-License-Identifier: PostgreSQL */
/*
 * Texts of a hostile client and answers of a hostile server about a session.  The first byte
 * chooses.
 */
#include "session/classify.h"
#include "session/copies.h"
#include "session/cursors.h"
#include "session/locks.h"
#include "session/replay.h"
#include "session/shapes.h"
#include "session/sql_lex.h"
#include "session/sql_set.h"
#include "session/temp_table.h"
#include "wire/message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_text(const uint8_t *data, size_t size, bool whole)
{
	struct session_facts *facts = NULL;
	struct sql_settings settings;
	char *text = malloc(size + 1);

	if (text == NULL)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	session_facts_see_text(&facts, (const char *)data, size, whole);
	session_facts_see_set(facts);
	(void)sql_judge_prepare(text, "p");
	(void)sql_has_backslash(text);
	(void)sql_constants(text);
	(void)sql_read_settings(text, &settings);
	(void)sql_read_set_config(text);
	session_facts_free(facts);
	free(text);
}

/* Rows one behind the other, each after a byte of its length. */
static void fuzz_state(const uint8_t *data, size_t size)
{
	const struct session_abilities abilities = {.locks = true, .temporary = true};
	const struct copies_bound bound = {.most = 65536};
	struct copies *copies = copies_new(2, &bound);
	struct session_state *state = session_state_new();
	struct session_verdict verdict;
	struct replay replay;
	struct sbuf out;
	char digest[65];

	if (state == NULL || copies == NULL)
		abort();
	copies_take(copies, 0, BE_COPY_DATA, data, size);
	copies_take(copies, 1, BE_COMMAND_COMPLETE, data, size);
	(void)!session_state_row(state,
	                         "\0\4\0\0\0\4info\0\0\0\36"
	                         "7365727665725f656e636f64696e67\0\0\0\10"
	                         "55544638\377\377\377\377",
	                         60);
	while (size > 0 && data[0] < size) {
		size_t len = data[0];

		(void)!session_state_row(state, data + 1, len);
		data += len + 1;
		size -= len + 1;
	}
	if (session_state_finish(state)) {
		(void)!locks_count_row(state, data, size);
		session_verdict_init(&verdict);
		session_classify(state, NULL, NULL, NULL, &abilities, &verdict);
		session_verdict_free(&verdict);
		session_state_digest(state, digest);
		if (!session_state_same(state, state, REPLAY_AFTER_PROMOTION, NULL))
			abort();
		sbuf_init(&out, (size_t)1 << 20);
		shapes_ask(state, &out);
		while (shapes_wanted(state) &&
		       shapes_take(state, size % 2 == 0 ? BE_ROW_DESCRIPTION : BE_ERROR_RESPONSE,
		                   data, size, size % 3 == 0 ? "0A000" : ""))
			;
		shapes_check_add(state, &out);
		locks_count_add(state, &out);
		(void)temp_probe_add(state, &out);
		(void)temp_read_add(state, &out);
		sbuf_free(&out);
		(void)!temp_probe_done(state, (const char *)data, size);
		(void)!temp_read_done(state, state, copies);
		session_state_set_copies(state, copies);
		copies = NULL;
		(void)!replay_build(state, NULL, REPLAY_ON_STANDBY, false, &replay);
		replay_free(&replay);
		(void)!replay_build(state, NULL, REPLAY_CLAIMS, false, &replay);
		replay_free(&replay);
		(void)!replay_build(state, NULL, REPLAY_AFTER_CLAIMS, false, &replay);
		replay_free(&replay);
		(void)!replay_build(state, NULL, REPLAY_AFTER_PROMOTION, false, &replay);
		replay_free(&replay);
	}
	copies_free(copies);
	session_state_free(state);
}

/* Messages, each a byte of its type and one of its length. */
static void fuzz_cursors(const uint8_t *data, size_t size)
{
	const struct copies_bound bound = {.most = 65536};
	struct session_state *state = session_state_new();
	struct cursors *cursors;
	struct replay replay;
	struct sbuf out;
	bool more;

	if (state == NULL)
		abort();
	(void)!session_state_row(state,
	                         "\0\4\0\0\0\4info\0\0\0\36"
	                         "7365727665725f656e636f64696e67\0\0\0\10"
	                         "55544638\377\377\377\377",
	                         60);
	(void)!session_state_row(state,
	                         "\0\4\0\0\0\6cursor\0\0\0\2"
	                         "63\0\0\0\2"
	                         "78\0\0\0\6"
	                         "746674",
	                         34);
	if (!session_state_finish(state) || !cursors_exist(state))
		abort();
	cursors = cursors_new(state, &bound, true);
	if (cursors == NULL)
		abort();
	for (more = true; more && size > 1;) {
		sbuf_init(&out, (size_t)1 << 22);
		(void)cursors_ask(cursors, state, &out);
		sbuf_free(&out);
		while (size > 1 && data[1] <= size - 2) {
			const size_t len = data[1];
			const uint8_t type = data[0];

			cursors_take(cursors, 0, type, data + 2, len);
			data += 2 + len;
			size -= 2 + len;
			if (type == BE_READY_FOR_QUERY)
				break;
		}
		more = cursors_more(cursors) && size > 1 && data[1] <= size - 2;
	}
	if (!cursors_more(cursors) && cursors_read_done(cursors, state)) {
		(void)!replay_build(state, NULL, REPLAY_AFTER_PROMOTION, false, &replay);
		replay_free(&replay);
	}
	cursors_free(cursors);
	session_state_free(state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 2 == 0)
		fuzz_text(data + 1, size - 1, data[0] % 4 == 0);
	else if (data[0] % 8 == 7)
		fuzz_cursors(data + 1, size - 1);
	else
		fuzz_state(data + 1, size - 1);
	return 0;
}
