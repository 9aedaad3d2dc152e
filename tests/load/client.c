/* SPDX-License-Identifier: PostgreSQL */
/*
 * The connection of a client, on libpq's non-blocking interface.  client_lost() is the only place
 * where a connection ends by somebody else's will.
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

static void client_lost(struct load_client *client, usec_t now);
static void client_idle(struct load_client *client, usec_t now);

static const struct load_mode_traits *mode_of(const struct load_client *client)
{
	return &load_modes[client->target->mode];
}

/* libpq may change its socket while it connects; a closed one leaves the set by itself. */
static void client_watch(struct load_client *client, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = client};
	int fd = PQsocket(client->conn);

	if (fd < 0)
		return;
	if (epoll_ctl(client->run->epoll, EPOLL_CTL_MOD, fd, &event) < 0 && errno == ENOENT)
		(void)epoll_ctl(client->run->epoll, EPOLL_CTL_ADD, fd, &event);
	client->events = events;
}

static void client_close(struct load_client *client)
{
	PQfinish(client->conn);
	client->conn = NULL;
	client->preparing = 0;
	client->broken = false;
	client->sqlstate[0] = '\0';
}

static void client_end(struct load_client *client)
{
	client_close(client);
	client->state = CLIENT_DONE;
	client->run->done++;
	record_last(client->run->record, client->number, client->last_number);
}

/* What a server says on its own before it closes is the reason of the loss. */
static void client_notice(void *arg, const PGresult *result)
{
	struct load_client *client = arg;
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (severity == NULL || sqlstate == NULL || strcmp(severity, "FATAL") != 0)
		return;
	snprintf(client->sqlstate, sizeof(client->sqlstate), "%s", sqlstate);
	snprintf(client->text, sizeof(client->text), "%s", text != NULL ? text : "");
}

/* libpq keeps no SQLSTATE of a failed login but in the verbose text "FATAL:  57P03: …". */
static void client_reason_of_login(struct load_client *client)
{
	const char *text = PQerrorMessage(client->conn);
	const char *fatal = strstr(text, "FATAL:  ");

	if (fatal == NULL)
		fatal = strstr(text, "ERROR:  ");
	if (fatal != NULL && strlen(fatal) > 14 && fatal[13] == ':') {
		memcpy(client->sqlstate, fatal + 8, 5);
		client->sqlstate[5] = '\0';
		text = fatal + 15;
	} else {
		memcpy(client->sqlstate, "08001", 6);
	}
	snprintf(client->text, sizeof(client->text), "%s", text);
}

static void client_connect(struct load_client *client, usec_t now)
{
	client->state = CLIENT_CONNECTING;
	client->connected_at = now;
	client->conn = PQconnectStart(client->target->conninfo);
	if (client->conn == NULL) {
		fprintf(stderr, "pgshunt_load: out of memory\n");
		exit(2);
	}
	PQsetErrorVerbosity(client->conn, PQERRORS_VERBOSE);
	PQsetNoticeReceiver(client->conn, client_notice, client);
	if (PQstatus(client->conn) == CONNECTION_BAD) {
		client_lost(client, now);
		return;
	}
	client_watch(client, EPOLLOUT);
}

/* One error for every unit that was under way, or one for the connection itself. */
static void client_lost(struct load_client *client, usec_t now)
{
	PGresult *result;

	if (client->state == CLIENT_CONNECTING) {
		client_reason_of_login(client);
	} else {
		/* A dead connection does not block here, a living one that is busy would. */
		while ((PQstatus(client->conn) == CONNECTION_BAD || !PQisBusy(client->conn)) &&
		       (result = PQgetResult(client->conn)) != NULL) {
			const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
			const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

			if (sqlstate != NULL && client->sqlstate[0] == '\0') {
				snprintf(client->sqlstate, sizeof(client->sqlstate), "%s",
				         sqlstate);
				snprintf(client->text, sizeof(client->text), "%s", text);
			}
			/* In pipeline mode libpq goes on to report each aborted query. */
			PQclear(result);
			if (PQstatus(client->conn) == CONNECTION_BAD && mode_of(client)->pipelined)
				break;
		}
	}
	if (client->sqlstate[0] == '\0') {
		memcpy(client->sqlstate, "08006", 6);
		snprintf(client->text, sizeof(client->text), "%s", PQerrorMessage(client->conn));
	}
	if (client->in_flight == 0)
		load_error(client, now, client->sqlstate, client->text);
	while (client->in_flight > 0) {
		unit_fail(unit_oldest(client), client->sqlstate, client->text);
		unit_finish(client, now);
	}
	client_close(client);
	client->state = CLIENT_WAITING;
	client->retry_at = now + client->run->retry;
	if (client->run->stopping)
		client_end(client);
}

static void client_flush(struct load_client *client, usec_t now)
{
	int left = PQflush(client->conn);

	if (left < 0)
		client_lost(client, now);
	else if (((client->events & EPOLLOUT) != 0) != (left == 1))
		client_watch(client, EPOLLIN | (left == 1 ? EPOLLOUT : 0));
}

/* Starts as many units as may be in flight and are due. */
static void client_start(struct load_client *client, usec_t now)
{
	const struct load_target *target = client->target;
	int most = mode_of(client)->pipelined && !target->reconnect ? target->depth : 1;
	bool started = false;

	while (!client->broken && client->in_flight < most &&
	       (target->rate <= 0 || client->due <= now)) {
		client->state = CLIENT_BUSY;
		started = true;
		if (!unit_start(client, now)) {
			client_lost(client, now);
			return;
		}
	}
	if (started)
		client_flush(client, now);
}

/* Ready for the next unit, or for the end. */
static void client_idle(struct load_client *client, usec_t now)
{
	client->state = CLIENT_READY;
	client->broken = false;
	/* However long the login took: the clients of a target keep their places between each
	 * other instead of starting all at once. */
	if (!client->begun && client->due < now)
		client->due = client->target->rate > 0
		                  ? now + unit_interval(client->target) -
		                        (now - client->due) % unit_interval(client->target)
		                  : now;
	client->begun = true;
	if (client->run->stopping)
		client_end(client);
	else
		client_start(client, now);
}

static void client_prepare(struct load_client *client, usec_t now)
{
	bool all;

	client->state = CLIENT_PREPARING;
	if (!unit_prepare_next(client, &all))
		client_lost(client, now);
	else if (all)
		client_idle(client, now);
	else
		client_flush(client, now);
}

static void client_connecting(struct load_client *client, usec_t now)
{
	switch (PQconnectPoll(client->conn)) {
	case PGRES_POLLING_READING:
		client_watch(client, EPOLLIN);
		break;
	case PGRES_POLLING_WRITING:
		client_watch(client, EPOLLOUT);
		break;
	case PGRES_POLLING_OK:
		(void)PQsetnonblocking(client->conn, 1);
		client_watch(client, EPOLLIN);
		client_prepare(client, now);
		break;
	default:
		client_lost(client, now);
		break;
	}
}

/* The last unit in flight is over.  False if the connection was closed or is being undone. */
static bool client_settled(struct load_client *client, bool failed, usec_t now)
{
	if (client->target->reconnect) {
		client_close(client);
		client->state = CLIENT_WAITING;
		client->retry_at = failed ? now + client->run->retry : 0;
		if (client->run->stopping)
			client_end(client);
		return false;
	}
	if (failed && PQtransactionStatus(client->conn) != PQTRANS_IDLE) {
		client->state = CLIENT_UNDOING;
		if (!unit_undo(client))
			client_lost(client, now);
		else
			client_flush(client, now);
		return false;
	}
	client->state = CLIENT_READY;
	return true;
}

/* ReadyForQuery, outside of pipelines.  False if there is nothing more to read. */
static bool client_answered(struct load_client *client, usec_t now)
{
	struct load_unit *unit = unit_oldest(client);
	bool failed;

	switch (client->state) {
	case CLIENT_PREPARING:
		client_prepare(client, now);
		return false;
	case CLIENT_UNDOING:
		client_idle(client, now);
		return false;
	case CLIENT_BUSY:
		break;
	default:
		return false;
	}
	unit->answered++;
	if (unit_has_next(client, unit)) {
		if (!unit_send_step(client, unit))
			client_lost(client, now);
		else
			client_flush(client, now);
		return false;
	}
	failed = unit->failed;
	unit_finish(client, now);
	if (client_settled(client, failed, now))
		client_idle(client, now);
	return false;
}

/* A Sync of a pipeline was answered. */
static bool client_synced(struct load_client *client, usec_t now)
{
	bool failed;

	if (client->state == CLIENT_UNDOING) {
		client_idle(client, now);
		return false;
	}
	client->broken = client->broken || unit_oldest(client)->failed;
	failed = client->broken;
	unit_finish(client, now);
	if (client->in_flight > 0)
		return true;
	if (client_settled(client, failed, now))
		client_idle(client, now);
	return false;
}

static bool client_result(struct load_client *client, PGresult *result, usec_t now)
{
	struct load_unit *unit = unit_oldest(client);
	ExecStatusType status = PQresultStatus(result);

	if (unit != NULL)
		unit_result(client, unit, result);
	else if (status == PGRES_FATAL_ERROR && client->state != CLIENT_UNDOING)
		load_error(client, now, PQresultErrorField(result, PG_DIAG_SQLSTATE),
		           PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	PQclear(result);
	return status == PGRES_PIPELINE_SYNC ? client_synced(client, now) : true;
}

static void client_read(struct load_client *client, usec_t now)
{
	bool pipelined = mode_of(client)->pipelined && client->state != CLIENT_PREPARING;
	int ends = 0;

	if (PQconsumeInput(client->conn) == 0) {
		client_lost(client, now);
		return;
	}
	/* Two ends of a query in a row: the pipeline has nothing more. */
	while (ends < 2 && !PQisBusy(client->conn)) {
		PGresult *result = PQgetResult(client->conn);

		if (result != NULL) {
			ends = 0;
			if (!client_result(client, result, now))
				return;
			continue;
		}
		ends++;
		if (PQstatus(client->conn) == CONNECTION_BAD) {
			client_lost(client, now);
			return;
		}
		if (!pipelined) {
			(void)client_answered(client, now);
			return;
		}
		if (ends == 1 && client->in_flight > 0)
			unit_oldest(client)->answered++;
	}
	/* Units may have been finished without the last of them being so: refill. */
	if (client->state == CLIENT_BUSY && !client->run->stopping)
		client_start(client, now);
}

void load_client_init(struct load_client *client, struct load_run *run, struct load_target *target,
                      int number, int place)
{
	client->run = run;
	client->target = target;
	client->number = number;
	client->state = CLIENT_WAITING;
	client->due = run->start;
	if (target->rate > 0)
		client->due += (usec_t)(USEC_PER_SEC * place / target->rate);
}

usec_t load_client_tick(struct load_client *client, usec_t now)
{
	const struct load_target *target = client->target;
	usec_t at = INT64_MAX;

	switch (client->state) {
	case CLIENT_WAITING:
		at = target->reconnect && target->rate > 0 ? client->due : 0;
		if (at < client->retry_at)
			at = client->retry_at;
		if (client->run->stopping) {
			client_end(client);
			at = INT64_MAX;
		} else if (at <= now) {
			client_connect(client, now);
			at = client->state == CLIENT_WAITING ? client->retry_at : INT64_MAX;
		}
		break;
	case CLIENT_READY:
	case CLIENT_BUSY:
		if (client->run->stopping) {
			if (client->state == CLIENT_READY)
				client_end(client);
			break;
		}
		if (client->state == CLIENT_BUSY &&
		    (!mode_of(client)->pipelined || client->in_flight >= target->depth))
			break;
		if (client->due <= now)
			client_start(client, now);
		at = target->rate > 0 ? client->due : INT64_MAX;
		break;
	default:
		break;
	}
	return at;
}

void load_client_event(struct load_client *client, usec_t now)
{
	if (client->state == CLIENT_CONNECTING) {
		client_connecting(client, now);
		return;
	}
	if (client->conn == NULL)
		return;
	if (client->events & EPOLLOUT) {
		client_flush(client, now);
		if (client->conn == NULL)
			return;
	}
	client_read(client, now);
}

void load_client_give_up(struct load_client *client, usec_t now)
{
	if (client->state == CLIENT_DONE)
		return;
	if (client->state != CLIENT_WAITING && client->in_flight == 0)
		load_error(client, now, "NOANS", "no answer to login, preparation or rollback");
	while (client->in_flight > 0) {
		unit_fail(unit_oldest(client), "NOANS", "no answer until the end of the run");
		unit_finish(client, now);
	}
	client_end(client);
}
