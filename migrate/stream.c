/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/stream.h"

#include "base/mem.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Clients wait for it. */
#define ASK_TIMEOUT (1 * USEC_PER_SEC)
/* A receiver that has ended is started again at once, but for an attempt that has just failed. */
#define STREAM_PATIENCE (2 * USEC_PER_SEC)

/* What is wrong with the slot of the target, for good; NULL: nothing that can be seen. */
static char *slot_trouble(struct move *move)
{
	struct link *source = &move->source.link;
	struct link *target = &move->target.link;
	const char *status;
	char *name;
	char *trouble = NULL;
	struct sbuf sql;

	if (!link_run(&move->loop, target, ASK_TIMEOUT,
	              "SELECT current_setting('primary_slot_name') AS slot") ||
	    link_value(target, 0, "slot") == NULL || *link_value(target, 0, "slot") == '\0')
		return NULL;
	name = mem_must_strdup(link_value(target, 0, "slot"));
	sbuf_init(&sql, 1024);
	sbuf_add_str(&sql, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = ");
	sql_literal(&sql, name);
	if (link_run(&move->loop, source, ASK_TIMEOUT, sbuf_text(&sql))) {
		status = link_value(source, 0, "wal_status");
		if (link_rows(source) == 0)
			trouble = mem_must_printf("its slot %s is not there any more on %s", name,
			                          source->name);
		else if (status != NULL && strcmp(status, "lost") == 0)
			trouble = mem_must_printf("its slot %s has lost its WAL on %s "
			                          "(max_slot_wal_keep_size)",
			                          name, source->name);
	}
	sbuf_free(&sql);
	free(name);
	return trouble;
}

bool stream_ended(struct move *move, usec_t *since)
{
	struct link *target = &move->target.link;
	const char *receiver = link_value(target, 0, "receiver");
	const bool first = *since == 0;
	char *trouble;
	bool ended;

	if (receiver != NULL && strcmp(receiver, "streaming") == 0) {
		*since = 0;
		return false;
	}
	if (first)
		*since = clock_now();
	if (!first && clock_now() - *since < STREAM_PATIENCE)
		return false;
	trouble = slot_trouble(move);
	if (trouble != NULL)
		(void)move_fail(move,
		                "%s streams no more, %" PRId64
		                " bytes before the barrier: %s; make it "
		                "a standby anew (pgshunt standby)",
		                target->name, move->lag, trouble);
	else if (!first)
		(void)move_fail(move,
		                "%s streams no more, %" PRId64
		                " bytes before the barrier, and has not "
		                "begun again: see its log",
		                target->name, move->lag);
	ended = trouble != NULL || !first;
	free(trouble);
	return ended;
}

char *stream_say(struct move *move)
{
	struct link *target = &move->target.link;
	char *trouble;
	char *said;

	if (!link_run(&move->loop, target, ASK_TIMEOUT,
	              "SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'") ||
	    link_rows(target) > 0)
		return mem_must_strdup("");
	trouble = slot_trouble(move);
	said =
	    mem_must_printf("; it is not streaming: %s",
	                    trouble == NULL ? "see its log, and wal_status of its slot" : trouble);
	free(trouble);
	return said;
}
