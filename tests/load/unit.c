/* SPDX-License-Identifier: PostgreSQL */
/* Units: composing, sending and judging what a client does; see load.h. */
#include "base/sbuf.h"
#include "load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum step { STEP_BEGIN, STEP_WRITE, STEP_READ, STEP_COMMIT, STEP_BATCH, STEP_END };

#define SHOWN_ERRORS_MAX 20
#define BATCH_MAX ((size_t)1024 * 1024)

#define LOAD_MODE_ROW(id, name, extended, prepared, pipelined)                                     \
	{name, extended, prepared, pipelined},
const struct load_mode_traits load_modes[MODE_COUNT] = {LOAD_MODES(LOAD_MODE_ROW)};

static const struct load_mode_traits *mode_of(const struct load_client *client)
{
	return &load_modes[client->target->mode];
}

/* What step number `index` of the unit is: [BEGIN] write… [read] [COMMIT]. */
static enum step step_at(const struct load_client *client, const struct load_unit *unit, int index)
{
	if (client->target->batch)
		return index == 0 ? STEP_BATCH : STEP_END;
	if (client->target->block && index-- == 0)
		return STEP_BEGIN;
	if (index < unit->rows)
		return STEP_WRITE;
	index -= unit->rows;
	if (unit->reads && index-- == 0)
		return STEP_READ;
	return client->target->block && index == 0 ? STEP_COMMIT : STEP_END;
}

static struct script_values values_of(const struct load_client *client, int64_t number)
{
	struct script_values values = {.number = {[VALUE_RUN] = client->run->run,
	                                          [VALUE_CLIENT] = client->number,
	                                          [VALUE_NUMBER] = number}};

	return values;
}

static bool send_plain(struct load_client *client, const char *sql)
{
	if (!mode_of(client)->extended)
		return PQsendQuery(client->conn, sql) == 1;
	return PQsendQueryParams(client->conn, sql, 0, NULL, NULL, NULL, NULL, 0) == 1;
}

static bool send_script(struct load_client *client, const struct script *script, const char *name,
                        int64_t number)
{
	struct script_values values = values_of(client, number);
	char text[SCRIPT_PARAMS_MAX][SCRIPT_NUMBER_MAX];
	const char *params[SCRIPT_PARAMS_MAX];

	if (!mode_of(client)->extended) {
		char *sql = script_expand(script, &values);
		bool sent = PQsendQuery(client->conn, sql) == 1;

		free(sql);
		return sent;
	}
	script_bind(script, &values, text, params);
	if (mode_of(client)->prepared)
		return PQsendQueryPrepared(client->conn, name, script->count, params, NULL, NULL,
		                           0) == 1;
	return PQsendQueryParams(client->conn, script->params, script->count, script->types, params,
	                         NULL, NULL, 0) == 1;
}

static bool send_batch(struct load_client *client, const struct load_unit *unit)
{
	struct sbuf sql;
	bool sent;

	sbuf_init(&sql, BATCH_MAX);
	sbuf_add_str(&sql, "BEGIN; ");
	for (int i = 0; i < unit->rows; i++) {
		struct script_values values = values_of(client, unit->first + i);
		char *text = script_expand(&client->target->write, &values);

		sbuf_add_str(&sql, text);
		sbuf_add_str(&sql, "; ");
		free(text);
	}
	sbuf_add_str(&sql, "COMMIT");
	sent = sbuf_ok(&sql) && PQsendQuery(client->conn, sbuf_text(&sql)) == 1;
	sbuf_free(&sql);
	return sent;
}

bool unit_prepare_next(struct load_client *client, bool *all)
{
	struct load_target *target = client->target;
	const struct script *script = client->preparing == 0 ? &target->write : &target->read;

	*all = !mode_of(client)->prepared || client->preparing == 2;
	if (*all)
		return !mode_of(client)->pipelined || PQenterPipelineMode(client->conn) == 1;
	client->preparing++;
	return PQsendPrepare(client->conn, client->preparing == 1 ? "load_write" : "load_read",
	                     script->params, script->count, script->types) == 1;
}

bool unit_send_step(struct load_client *client, struct load_unit *unit)
{
	int index = unit->step++;

	switch (step_at(client, unit, index)) {
	case STEP_BEGIN:
		return send_plain(client, "BEGIN");
	case STEP_COMMIT:
		return send_plain(client, "COMMIT");
	case STEP_BATCH:
		return send_batch(client, unit);
	case STEP_WRITE:
		return send_script(client, &client->target->write, "load_write",
		                   unit->first + index - (client->target->block ? 1 : 0));
	case STEP_READ:
		return send_script(client, &client->target->read, "load_read", unit->read_number);
	case STEP_END:
		break;
	}
	return true;
}

bool unit_has_next(const struct load_client *client, const struct load_unit *unit)
{
	return !unit->failed && step_at(client, unit, unit->step) != STEP_END;
}

/* xorshift64: which units read is to be mixed, not unpredictable. */
static int percent(struct load_run *run)
{
	run->random ^= run->random << 13;
	run->random ^= run->random >> 7;
	run->random ^= run->random << 17;
	return (int)(run->random % 100);
}

/* Fills the next place of the ring. */
static struct load_unit *unit_compose(struct load_client *client, usec_t now)
{
	struct load_target *target = client->target;
	struct load_unit *unit =
	    &client->units[(client->head + client->in_flight) % LOAD_DEPTH_MAX];

	memset(unit, 0, sizeof(*unit));
	unit->reads = !target->batch && percent(client->run) < target->reads;
	/* A single statement is either the one or the other; there is nothing to read at first. */
	if (unit->reads && !target->block && client->last_acked == 0)
		unit->reads = false;
	unit->rows = unit->reads && !target->block ? 0 : target->statements;
	unit->first = client->last_number + 1;
	client->last_number += unit->rows;
	unit->read_number = target->block ? unit->first : client->last_acked;
	unit->start = now;
	/* In the open loop a unit that had to wait for its predecessor counts from when it was due.
	 */
	if (target->rate > 0 && client->idle_since > client->due)
		unit->start = client->due;
	if (target->reconnect)
		unit->start = client->connected_at;
	client->in_flight++;
	return unit;
}

usec_t unit_interval(const struct load_target *target)
{
	usec_t interval = (usec_t)(USEC_PER_SEC * target->clients / target->rate);

	return interval > 0 ? interval : 1;
}

bool unit_start(struct load_client *client, usec_t now)
{
	struct load_unit *unit = unit_compose(client, now);

	if (client->target->rate > 0)
		client->due += unit_interval(client->target);
	if (!mode_of(client)->pipelined)
		return unit_send_step(client, unit);
	while (step_at(client, unit, unit->step) != STEP_END) {
		if (!unit_send_step(client, unit))
			return false;
	}
	return PQpipelineSync(client->conn) == 1;
}

bool unit_undo(struct load_client *client)
{
	if (!send_plain(client, "ROLLBACK"))
		return false;
	return !mode_of(client)->pipelined || PQpipelineSync(client->conn) == 1;
}

void unit_fail(struct load_unit *unit, const char *sqlstate, const char *text)
{
	/* The first error is the cause; those after it are consequences. */
	if (unit->failed)
		return;
	unit->failed = true;
	snprintf(unit->sqlstate, sizeof(unit->sqlstate), "%s", sqlstate);
	snprintf(unit->text, sizeof(unit->text), "%s", text);
}

void unit_result(struct load_client *client, struct load_unit *unit, const PGresult *result)
{
	const char *sqlstate;

	switch (PQresultStatus(result)) {
	case PGRES_COMMAND_OK:
	case PGRES_PIPELINE_SYNC:
		break;
	case PGRES_TUPLES_OK:
		/* The read must see the row that was acknowledged, or written before in its own
		 * transaction. */
		if (unit->reads && unit->read_number > 0 &&
		    step_at(client, unit, unit->answered) == STEP_READ &&
		    strcmp(PQntuples(result) == 1 ? PQgetvalue(result, 0, 0) : "", "1") != 0)
			unit->stale = true;
		break;
	case PGRES_PIPELINE_ABORTED:
		unit_fail(unit, "ABORT", "not executed after an error in the pipeline");
		break;
	default:
		sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
		unit_fail(unit, sqlstate != NULL ? sqlstate : "08006",
		          PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) != NULL
		              ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY)
		              : PQresultErrorMessage(result));
		break;
	}
}

void load_error(struct load_client *client, usec_t now, const char *sqlstate, const char *text)
{
	struct load_run *run = client->run;

	/* What libpq itself found has neither. */
	if (sqlstate == NULL)
		sqlstate = "08006";
	if (text == NULL)
		text = PQerrorMessage(client->conn);
	client->target->errors++;
	record_error(run->record, now, client->number, sqlstate, text);
	if (!run->quiet && run->shown++ < SHOWN_ERRORS_MAX)
		fprintf(stderr, "%.3f s, %s, client %d: %s %.*s\n",
		        (double)(now - run->start) / USEC_PER_SEC, client->target->name,
		        client->number, sqlstate, (int)strcspn(text, "\n"), text);
}

struct load_unit *unit_oldest(struct load_client *client)
{
	return client->in_flight > 0 ? &client->units[client->head] : NULL;
}

static void acknowledge(struct load_client *client, const struct load_unit *unit, usec_t now)
{
	struct load_target *target = client->target;
	struct load_run *run = client->run;

	record_ack(run->record, now, client->number, unit->first, unit->rows, now - unit->start);
	if (target->last_ack != 0 && now - target->last_ack >= run->gap)
		record_gap(run->record, now, target->index, now - target->last_ack);
	target->last_ack = now;
	target->acked += unit->rows;
	client->last_acked = unit->first + unit->rows - 1;
}

void unit_finish(struct load_client *client, usec_t now)
{
	struct load_unit *unit = &client->units[client->head];

	if (unit->failed)
		load_error(client, now, unit->sqlstate, unit->text);
	else if (unit->rows > 0)
		acknowledge(client, unit, now);
	else
		record_read(client->run->record, now, client->number, now - unit->start);
	if (!unit->failed && unit->stale)
		load_error(client, now, "STALE", "a row that was acknowledged is not seen");
	client->head = (client->head + 1) % LOAD_DEPTH_MAX;
	client->in_flight--;
	client->idle_since = now;
}
