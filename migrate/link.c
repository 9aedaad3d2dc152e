/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/link.h"

#include "base/mem.h"
#include "conf/secret.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/*
 * Settings of every session on a server.  synchronous_commit = local: a commit of ours is on the
 * server's own disk when it is answered, and never waits for a synchronous standby, which may be
 * the very server that is being promoted.  The time limits a role may have must not end our own
 * sessions.  A server that hears nothing more of our machine ends the session, and with it the
 * lock, within some ten seconds instead of hours.
 */
static const char link_settings[] =
    "SET default_transaction_read_only = off;"
    "SET search_path = pg_catalog;"
    "SET synchronous_commit = local;"
    "SET client_min_messages = error;"
    "SET standard_conforming_strings = on;"
    "SET DateStyle = 'ISO';"
    "SET jit = off;"
    "SET tcp_keepalives_idle = 5;"
    "SET tcp_keepalives_interval = 2;"
    "SET tcp_keepalives_count = 3;"
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN "
    "('statement_timeout','lock_timeout','idle_in_transaction_session_timeout',"
    "'idle_session_timeout','transaction_timeout')";

/* With serializable as the default of the role, every query on a standby fails, so this one must
 * hold from the first statement on. */
static const char link_options[] = "-c default_transaction_isolation=read\\ committed";

void link_init(struct link *link, const char *name, const struct link_target *target)
{
	*link = (struct link){.name = name, .target = *target};
}

static void clear_results(struct link *link)
{
	for (size_t i = 0; i < link->result_count; i++)
		PQclear(link->results[i]);
	link->result_count = 0;
	free(link->error);
	link->error = NULL;
	free(link->notice);
	link->notice = NULL;
	link->sqlstate[0] = '\0';
}

void link_close(struct link *link)
{
	clear_results(link);
	if (link->conn != NULL)
		PQfinish(link->conn);
	link->conn = NULL;
	link->state = LINK_CLOSED;
}

/* Keeps a message as one line without the severity that libpq puts before it. */
static void set_error(struct link *link, const char *text)
{
	struct sbuf out;
	bool blank = false;

	if (link->error != NULL)
		return;
	if (strncmp(text, "ERROR:  ", 8) == 0 || strncmp(text, "FATAL:  ", 8) == 0)
		text += 8;
	sbuf_init(&out, 4096);
	for (; *text != '\0'; text++) {
		if (isspace((unsigned char)*text)) {
			blank = true;
			continue;
		}
		if (blank && out.len > 0)
			sbuf_add_char(&out, ' ');
		blank = false;
		sbuf_add_char(&out, *text);
	}
	link->error = mem_must_strdup(out.len == 0 ? "unknown error" : sbuf_text(&out));
	sbuf_free(&out);
}

/*
 * A command that is under way must not arrive after we have given it up and undone its effect by
 * another connection, or after we have died and somebody else has: a PAUSE would stay for ever.
 * With this set, closing discards what the network has not taken yet, whoever closes, the kernel
 * included.
 */
static void discard_on_close(const struct link *link, bool discard)
{
	const struct linger linger = {.l_onoff = discard ? 1 : 0, .l_linger = 0};
	int fd = link->conn == NULL ? -1 : PQsocket(link->conn);

	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void link_finish(struct link *link, enum link_state state)
{
	if (state == LINK_IDLE)
		discard_on_close(link, false);
	link->state = state;
	link->setting_up = false;
	link->done_at = clock_now();
	if (link->done != NULL)
		link->done(link, link->arg);
}

static void link_break(struct link *link)
{
	set_error(link, PQerrorMessage(link->conn));
	link_finish(link, LINK_BROKEN);
}

/* Kept, not shown: in the middle of the display it helps nobody. */
static void keep_notice(void *arg, const PGresult *result)
{
	struct link *link = arg;

	free(link->notice);
	link->notice = mem_must_strdup(PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
}

/* Options of a connection besides those of TLS. */
#define LINK_OPTIONS 11

#define APART_MAX (20 * USEC_PER_MSEC)

void link_give_up(struct link *link)
{
	char *error = mem_must_strdup(link_error(link));

	link_close(link);
	link->error = error;
	link->state = LINK_BROKEN;
}

void link_connect(struct link *link)
{
	char port[16];
	char options[256];
	char *password = NULL;
	struct sbuf error;
	bool ok;

	link_close(link);
	link->sessions++;
	sbuf_init(&error, 1024);
	ok =
	    config_secret(link->target.password_file, link->target.password_env, &password, &error);
	if (!ok)
		set_error(link, sbuf_text(&error));
	sbuf_free(&error);
	if (!ok) {
		link_finish(link, LINK_BROKEN);
		return;
	}
	(void)snprintf(options, sizeof(options), "%s%s", link_options,
	               link->target.options == NULL ? "" : link->target.options);
	(void)snprintf(port, sizeof(port), "%d", link->target.port);
	{
		/* An empty value counts as not given. */
		const char *keys[LINK_OPTIONS + CONFIG_LIBPQ_TLS_MAX] = {"host",
		                                                         "port",
		                                                         "user",
		                                                         "dbname",
		                                                         "application_name",
		                                                         "keepalives_idle",
		                                                         "keepalives_interval",
		                                                         "keepalives_count",
		                                                         "options",
		                                                         "password",
		                                                         "hostaddr"};
		const char *values[LINK_OPTIONS + CONFIG_LIBPQ_TLS_MAX] = {
		    link->target.host,
		    port,
		    link->target.user,
		    link->target.dbname,
		    "pgshunt",
		    "5",
		    "2",
		    "3",
		    link->target.console ? "" : options,
		    password == NULL ? "" : password,
		    link->same_address ? link->address : ""};

		if (link->target.tls.ca_file != NULL)
			(void)config_libpq_tls(&link->target.tls, keys + LINK_OPTIONS,
			                       values + LINK_OPTIONS);
		link->conn = PQconnectStartParams(keys, values, 0);
	}
	mem_free_secret(password);
	if (link->conn == NULL || PQstatus(link->conn) == CONNECTION_BAD) {
		set_error(link, link->conn == NULL ? "out of memory" : PQerrorMessage(link->conn));
		link_finish(link, LINK_BROKEN);
		return;
	}
	(void)PQsetNoticeReceiver(link->conn, keep_notice, link);
	link->polling = PGRES_POLLING_WRITING;
	link->state = LINK_CONNECTING;
	link->sent_at = clock_now();
}

static void start_query(struct link *link, const char *sql)
{
	link->sent_at = clock_now();
	link->state = LINK_BUSY;
	discard_on_close(link, true);
	if (PQsendQuery(link->conn, sql) == 0 || PQflush(link->conn) < 0)
		link_break(link);
}

void link_send(struct link *link, const char *sql)
{
	if (link->state != LINK_IDLE) {
		set_error(link, link->state == LINK_BUSY ? "still busy with the last command"
		                                         : "not connected");
		link->state = link->state == LINK_CLOSED ? LINK_CLOSED : LINK_BROKEN;
		return;
	}
	clear_results(link);
	start_query(link, sql);
}

static void keep_result(struct link *link, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && link->error == NULL) {
		const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

		set_error(link, PQresultErrorMessage(result));
		(void)snprintf(link->sqlstate, sizeof(link->sqlstate), "%s",
		               state == NULL ? "" : state);
	}
	if (link->result_count == LINK_RESULTS_MAX)
		PQclear(link->results[--link->result_count]);
	link->results[link->result_count++] = result;
}

/* Of one host that is not a socket's folder. */
static void keep_address(struct link *link)
{
	const char *host = PQhost(link->conn);
	const char *address = PQhostaddr(link->conn);

	link->address[0] = '\0';
	if (host != NULL && address != NULL && strcmp(host, link->target.host) == 0 &&
	    strlen(address) < sizeof(link->address))
		(void)snprintf(link->address, sizeof(link->address), "%s", address);
}

static void progress_connect(struct link *link)
{
	link->polling = PQconnectPoll(link->conn);
	if (link->polling == PGRES_POLLING_FAILED) {
		link_break(link);
	} else if (link->polling == PGRES_POLLING_OK) {
		keep_address(link);
		if (PQsetnonblocking(link->conn, 1) != 0) {
			link_break(link);
		} else if (link->target.console) {
			link_finish(link, LINK_IDLE);
		} else {
			link->setting_up = true;
			start_query(link, link_settings);
		}
	}
}

static void progress_query(struct link *link)
{
	PGresult *result;

	if (PQconsumeInput(link->conn) == 0 || PQflush(link->conn) < 0) {
		link_break(link);
		return;
	}
	while (!PQisBusy(link->conn)) {
		result = PQgetResult(link->conn);
		if (result == NULL) {
			/* A server that says goodbye sends an error and closes. */
			bool lost = PQstatus(link->conn) == CONNECTION_BAD;
			bool failed = link->setting_up && link->error != NULL;

			link_finish(link, lost || failed ? LINK_BROKEN : LINK_IDLE);
			return;
		}
		keep_result(link, result);
		if (PQresultStatus(result) == PGRES_COPY_IN ||
		    PQresultStatus(result) == PGRES_COPY_OUT ||
		    PQresultStatus(result) == PGRES_COPY_BOTH) {
			link_break(link);
			return;
		}
	}
}

static bool is_waiting(const struct link *link)
{
	return link->state == LINK_CONNECTING || link->state == LINK_BUSY;
}

static void add_poll(struct pollfd *fds, struct link **owners, nfds_t *count, struct link *link)
{
	bool write_too = link->state == LINK_CONNECTING ? link->polling == PGRES_POLLING_WRITING
	                                                : PQflush(link->conn) > 0;

	fds[*count].fd = PQsocket(link->conn);
	fds[*count].events = link->state == LINK_CONNECTING && write_too ? POLLOUT : POLLIN;
	if (write_too)
		fds[*count].events |= POLLOUT;
	fds[*count].revents = 0;
	owners[(*count)++] = link;
}

/* One poll() over the links and the background; at most until `until`. */
static void loop_turn(struct loop *loop, struct link *const *links, size_t count, usec_t until)
{
	struct pollfd *fds = mem_must_alloc((count + loop->background_count + 1) * sizeof(*fds));
	struct link **owners =
	    mem_must_alloc((count + loop->background_count + 1) * sizeof(struct link *));
	struct timespec timeout;
	nfds_t used = 0;
	usec_t left;

	for (size_t i = 0; i < count; i++) {
		if (is_waiting(links[i]))
			add_poll(fds, owners, &used, links[i]);
	}
	for (size_t i = 0; i < loop->background_count; i++) {
		if (is_waiting(loop->background[i]))
			add_poll(fds, owners, &used, loop->background[i]);
	}
	left = until - clock_now();
	if (left < 0)
		left = 0;
	timeout.tv_sec = left / USEC_PER_SEC;
	timeout.tv_nsec = left % USEC_PER_SEC * 1000;
	if (ppoll(fds, used, &timeout, NULL) > 0) {
		for (nfds_t i = 0; i < used; i++) {
			if (fds[i].revents == 0 || !is_waiting(owners[i]))
				continue;
			if (owners[i]->state == LINK_CONNECTING)
				progress_connect(owners[i]);
			else
				progress_query(owners[i]);
		}
	}
	free(fds);
	free(owners);
}

static void loop_tick(struct loop *loop)
{
	usec_t now = clock_now();

	if (loop->tick != NULL && now - loop->ticked_at >= loop->tick_every) {
		loop->ticked_at = now;
		loop->tick(loop->arg);
	}
}

enum wait_end loop_wait(struct loop *loop, struct link *const *links, size_t count, usec_t deadline,
                        bool stoppable)
{
	for (;;) {
		bool waiting = false;
		usec_t until = loop->ticked_at + loop->tick_every;

		for (size_t i = 0; i < count; i++)
			waiting = waiting || is_waiting(links[i]);
		if (!waiting)
			return WAIT_DONE;
		if (stoppable && *loop->stop != 0)
			return WAIT_STOPPED;
		if (clock_now() >= deadline)
			return WAIT_DEADLINE;
		if (until > deadline || loop->tick == NULL)
			until = deadline;
		loop_turn(loop, links, count, until);
		loop_tick(loop);
	}
}

void loop_apart(struct loop *loop, struct link *link)
{
	(void)!loop_wait(loop, &link, 1, clock_now() + APART_MAX, true);
}

void loop_step(struct loop *loop, struct link *const *links, size_t count, usec_t until)
{
	loop_turn(loop, links, count, until);
	loop_tick(loop);
}

void loop_sleep(struct loop *loop, usec_t duration)
{
	usec_t end = clock_now() + duration;

	while (clock_now() < end) {
		usec_t until = loop->ticked_at + loop->tick_every;

		loop_turn(loop, NULL, 0, loop->tick == NULL || until > end ? end : until);
		loop_tick(loop);
	}
}

bool link_run(struct loop *loop, struct link *link, usec_t timeout, const char *sql)
{
	link_send(link, sql);
	return loop_wait(loop, &link, 1, clock_now() + timeout, false) == WAIT_DONE &&
	       link_ok(link);
}

bool link_ok(const struct link *link)
{
	return link->state == LINK_IDLE && link->error == NULL;
}

static const PGresult *last_result(const struct link *link)
{
	for (size_t i = link->result_count; i-- > 0;) {
		if (PQresultStatus(link->results[i]) == PGRES_TUPLES_OK)
			return link->results[i];
	}
	return NULL;
}

const char *link_value(const struct link *link, int row, const char *column)
{
	const PGresult *result = last_result(link);
	int field = result == NULL ? -1 : PQfnumber(result, column);

	if (field < 0 || row >= PQntuples(result) || PQgetisnull(result, row, field))
		return NULL;
	return PQgetvalue(result, row, field);
}

int link_rows(const struct link *link)
{
	const PGresult *result = last_result(link);

	return result == NULL ? 0 : PQntuples(result);
}

int64_t link_number(const struct link *link, int row, const char *column, int64_t otherwise)
{
	const char *text = link_value(link, row, column);

	return text == NULL || *text == '\0' ? otherwise : strtoll(text, NULL, 10);
}

int64_t link_sum(const struct link *link, const char *column, int64_t otherwise)
{
	int64_t sum = 0;
	bool found = false;

	for (size_t i = 0; i < link->result_count; i++) {
		int field = PQfnumber(link->results[i], column);

		for (int row = 0; field >= 0 && row < PQntuples(link->results[i]); row++) {
			sum += strtoll(PQgetvalue(link->results[i], row, field), NULL, 10);
			found = true;
		}
	}
	return found ? sum : otherwise;
}

bool link_true(const struct link *link, int row, const char *column)
{
	const char *text = link_value(link, row, column);

	return text != NULL && text[0] == 't';
}

const char *link_error(const struct link *link)
{
	if (link->error != NULL)
		return link->error;
	return is_waiting(link) ? "no answer in time" : "not connected";
}

void sql_identifier(struct sbuf *out, const char *name)
{
	sbuf_add_char(out, '"');
	for (; *name != '\0'; name++) {
		if (*name == '"')
			sbuf_add_char(out, '"');
		sbuf_add_char(out, *name);
	}
	sbuf_add_char(out, '"');
}

void sql_literal(struct sbuf *out, const char *text)
{
	sbuf_add_char(out, '\'');
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			sbuf_add_char(out, '\'');
		sbuf_add_char(out, *text);
	}
	sbuf_add_char(out, '\'');
}
