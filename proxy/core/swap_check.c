/* SPDX-License-Identifier: PostgreSQL */
#include "core/swap_check.h"

#include "base/mem.h"
#include "conf/secret.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint running;

/* pg_control_checkpoint() lags behind a promotion until the next checkpoint; the name of the WAL
 * file that is being written does not, but can only be asked for outside recovery. */
static const char identity_query[] =
    "SELECT s.system_identifier::pg_catalog.text, r.r,"
    " CASE WHEN r.r THEN (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c)"
    " ELSE (('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.pg_walfile_name("
    "pg_catalog.pg_current_wal_lsn()), 1, 8))::pg_catalog.bit(32))::pg_catalog.int4 END,"
    " (pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())"
    " OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"
    " FROM pg_catalog.pg_control_system() s,"
    " (SELECT pg_catalog.pg_is_in_recovery() AS r) r";

bool check_possible(const struct config_server *server)
{
	return server->check_user[0] != '\0';
}

unsigned check_running(void)
{
	return atomic_load(&running);
}

void check_free(struct check *check)
{
	if (check == NULL)
		return;
	PQfinish(check->conn);
	free(check->server);
	free(check->host);
	free(check->user);
	for (size_t i = 0; i < CONFIG_LIBPQ_TLS_MAX; i++)
		free(check->tls_values[i]);
	mem_free_secret(check->password);
	free(check->dbname);
	free(check);
}

/* The first line of libpq's message: what follows are questions to the user. */
static void check_set_error(struct check *check, const char *text)
{
	(void)snprintf(check->error, sizeof(check->error), "%.*s", (int)strcspn(text, "\n"), text);
	if (check->error[0] == '\0')
		(void)snprintf(check->error, sizeof(check->error), "no answer");
}

/* Waits for the socket; false when `deadline` has passed. */
static bool check_wait(PGconn *conn, short events, usec_t deadline)
{
	struct pollfd fd = {PQsocket(conn), events, 0};

	for (;;) {
		usec_t left = deadline - clock_now();
		int n;

		if (left <= 0 || fd.fd < 0)
			return false;
		n = poll(&fd, 1, (int)(left / USEC_PER_MSEC) + 1);
		if (n > 0)
			return true;
		if (n < 0 && errno != EINTR)
			return false;
	}
}

/* Options of the connection besides those of TLS. */
#define OPTIONS 8

static bool check_connect(struct check *check, usec_t deadline)
{
	char port[16];
	const char *names[OPTIONS + CONFIG_LIBPQ_TLS_MAX] = {
	    "host",           "port", "user", "password", "dbname", "options", "application_name",
	    "client_encoding"};
	const char *values[OPTIONS + CONFIG_LIBPQ_TLS_MAX] = {
	    check->host,      port,          check->user,
	    check->password,  check->dbname, "-c default_transaction_isolation=read\\ committed",
	    "pgshuntd check", "UTF8"};
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	for (size_t i = 0; i < CONFIG_LIBPQ_TLS_MAX; i++) {
		names[OPTIONS + i] = check->tls_names[i];
		values[OPTIONS + i] = check->tls_values[i];
	}
	(void)snprintf(port, sizeof(port), "%d", check->port);
	check->conn = PQconnectStartParams(names, values, 0);
	while (check->conn != NULL && PQstatus(check->conn) != CONNECTION_BAD) {
		if (!check_wait(check->conn, status == PGRES_POLLING_READING ? POLLIN : POLLOUT,
		                deadline)) {
			check_set_error(check, "timed out while connecting");
			return false;
		}
		status = PQconnectPoll(check->conn);
		if (status == PGRES_POLLING_OK)
			return true;
		if (status == PGRES_POLLING_FAILED)
			break;
	}
	check_set_error(check, check->conn == NULL ? "out of memory" : PQerrorMessage(check->conn));
	return false;
}

/* The result of the query just sent; NULL after an error was set. */
static PGresult *check_result(struct check *check, usec_t deadline)
{
	PGresult *first = NULL;
	PGresult *next;

	for (;;) {
		while (PQisBusy(check->conn)) {
			if (!check_wait(check->conn, POLLIN, deadline)) {
				check_set_error(check, "timed out");
				PQclear(first);
				return NULL;
			}
			if (!PQconsumeInput(check->conn)) {
				check_set_error(check, PQerrorMessage(check->conn));
				PQclear(first);
				return NULL;
			}
		}
		next = PQgetResult(check->conn);
		if (next == NULL)
			break;
		if (first == NULL)
			first = next;
		else
			PQclear(next);
	}
	if (first == NULL || PQresultStatus(first) != PGRES_TUPLES_OK || PQntuples(first) != 1) {
		check_set_error(check, PQerrorMessage(check->conn));
		PQclear(first);
		return NULL;
	}
	return first;
}

static bool check_ask(struct check *check, usec_t deadline)
{
	struct server_identity *identity = &check->identity;
	PGresult *result = NULL;

	if (PQsendQuery(check->conn, identity_query))
		result = check_result(check, deadline);
	else
		check_set_error(check, PQerrorMessage(check->conn));
	if (result == NULL)
		return false;
	identity->known = true;
	(void)snprintf(identity->system_identifier, sizeof(identity->system_identifier), "%s",
	               PQgetvalue(result, 0, 0));
	identity->in_recovery = PQgetvalue(result, 0, 1)[0] == 't';
	identity->timeline = (uint32_t)strtoul(PQgetvalue(result, 0, 2), NULL, 10);
	identity->started = strtoll(PQgetvalue(result, 0, 3), NULL, 10);
	check->error[0] = '\0';
	PQclear(result);
	return true;
}

static void *check_thread(void *arg)
{
	struct check *check = arg;
	usec_t deadline = clock_now() + check->timeout;
	bool ok = check->conn != NULL && check_ask(check, deadline);

	/* A connection from before may have died meanwhile: that says nothing of the server. */
	if (!ok) {
		PQfinish(check->conn);
		check->conn = NULL;
		ok = check_connect(check, deadline) && check_ask(check, deadline);
	}
	if (!ok) {
		PQfinish(check->conn);
		check->conn = NULL;
	}
	mailbox_post(check->answer_to, &check->letter);
	atomic_fetch_sub(&running, 1);
	return NULL;
}

bool check_start(const struct config_server *server, PGconn *conn, usec_t timeout,
                 struct mailbox *answer_to, int type, uint64_t token, struct sbuf *error)
{
	struct check *check = mem_must_alloc(sizeof(*check));
	const char *values[CONFIG_LIBPQ_TLS_MAX];
	size_t count;
	pthread_attr_t attributes;
	pthread_t thread;
	int rc;

	check->conn = conn;
	if (!config_secret(server->check_password_file, server->check_password_env,
	                   &check->password, error)) {
		check_free(check);
		return false;
	}
	check->letter.type = type;
	check->token = token;
	check->server = mem_must_strdup(server->name);
	check->host = mem_must_strdup(server->host);
	check->user = mem_must_strdup(server->check_user);
	check->dbname = mem_must_strdup(server->check_dbname);
	count = config_libpq_tls(&server->tls, check->tls_names, values);
	for (size_t i = 0; i < count; i++)
		check->tls_values[i] = mem_must_strdup(values[i]);
	check->port = server->port;
	check->timeout = timeout;
	check->answer_to = answer_to;
	atomic_fetch_add(&running, 1);
	(void)pthread_attr_init(&attributes);
	(void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attributes, check_thread, check);
	(void)pthread_attr_destroy(&attributes);
	if (rc != 0) {
		atomic_fetch_sub(&running, 1);
		sbuf_printf(error, "could not start a thread: %s", strerror(rc));
		check_free(check);
		return false;
	}
	return true;
}

bool check_verdict(const struct server_identity *source, const struct server_identity *target,
                   struct sbuf *reason)
{
	if (target->in_recovery) {
		sbuf_add_str(reason, "It is in recovery: a standby that was not promoted.");
		return false;
	}
	if (!source->known)
		return true;
	if (strcmp(source->system_identifier, target->system_identifier) != 0) {
		sbuf_printf(reason,
		            "Its system identifier is %s, that of the present server is %s: it is "
		            "not a copy of it.",
		            target->system_identifier, source->system_identifier);
		return false;
	}
	if (target->timeline <= source->timeline) {
		sbuf_printf(reason,
		            "Its timeline is %" PRIu32 ", that of the present server was %" PRIu32
		            ": it was not promoted from it.",
		            target->timeline, source->timeline);
		return false;
	}
	return true;
}
