/* SPDX-License-Identifier: PostgreSQL */
#include "control/session.h"

#include "base/endpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/proxy.h"
#include "net/sock.h"
#include "net/tls.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE 16384
/* Bytes that are encrypted at a time. */
#define ENCRYPT_SIZE ((size_t)64 * 1024)
/* More unsent bytes than this: no further command before the client has read. */
#define OUT_PAUSE ((size_t)1 << 20)
/* Bytes of a wrong command that an error repeats. */
#define ERROR_QUOTE 100

/* ---- small parts of the protocol ---- */

static void send_ready(struct session *session)
{
	session_drop_portals(session, session->in_block);
	wire_add_ready(&session->out, WIRE_TX_IDLE);
}

static void send_error(struct session *session, const char *severity,
                       const struct admin_error *error, uint32_t position)
{
	const struct wire_error wire = {
	    .severity = severity,
	    .sqlstate = error->sqlstate,
	    .message = error->message,
	    .detail = error->detail[0] == '\0' ? NULL : error->detail,
	    .hint = error->hint[0] == '\0' ? NULL : error->hint,
	    .position = position,
	};

	wire_add_error(&session->out, &wire);
}

/* The connection cannot go on: says why and closes. */
void session_fatal(struct session *session, const char *sqlstate, const char *message)
{
	wire_add_error_text(&session->out, "FATAL", sqlstate, message);
	session->closing = true;
}

/* ---- the end of a command ---- */

static void end_query(struct session *session)
{
	free(session->query);
	session->query = NULL;
	send_ready(session);
}

/* pgbouncer has one SQLSTATE for every error of its console, but for that of RELOAD. */
static bool as_pgbouncer(const struct session *session, bool their_command)
{
	return session->proxy->config->proxy.as_pgbouncer && their_command;
}

void session_error(struct session *session, const struct admin_error *error, uint32_t position)
{
	struct admin_error told = *error;

	if (as_pgbouncer(session, command_of_pgbouncer(session->command.id)) &&
	    strcmp(told.sqlstate, "F0000") != 0)
		(void)snprintf(told.sqlstate, sizeof(told.sqlstate), "08P01");
	send_error(session, "ERROR", &told, position);
	session->in_block = false;
	if (session->query != NULL) {
		end_query(session);
	} else {
		session->running = NULL;
		session->skip_to_sync = true;
	}
}

/* pgbouncer's SET of a setting of its own repeats it. */
void session_add_complete(struct session *session, const struct command *command)
{
	char text[sizeof(command->server) + sizeof(command->value_text) + 8];

	if (command->id == COMMAND_SET && command->value_text[0] != '\0' &&
	    as_pgbouncer(session, true) && config_has_setting(command->server)) {
		(void)snprintf(text, sizeof(text), "SET %s=%s", command->server,
		               command->value_text);
		wire_add_command_complete(&session->out, text);
		return;
	}
	wire_add_command_complete(&session->out, command_info(command->id)->tag);
}

void session_finish(struct session *session, struct rowset *rows, const char *notice)
{
	const struct command *command = &session->command;
	size_t offset = 0;
	bool more;

	if (notice != NULL) {
		const struct wire_error text = {
		    .severity = "NOTICE", .sqlstate = "00000", .message = notice};

		wire_add_notice(&session->out, &text);
	}
	if (session->running != NULL) {
		session_portal_ran(session, rows);
		return;
	}
	if (rows != NULL) {
		result_add_description(&session->out, command, 0);
		(void)result_add_rows(&session->out, command, rows, 0, &offset, 0, &more);
		rowset_free(rows);
	}
	session_add_complete(session, command);
}

/* ---- simple protocol ---- */

void session_parse_failed(struct session *session, const char *text,
                          const struct command_error *from)
{
	const bool theirs = as_pgbouncer(session, !from->ours);
	struct admin_error error = {.sqlstate = "42601"};

	(void)snprintf(error.message, sizeof(error.message), "%s", from->message);
	(void)snprintf(error.detail, sizeof(error.detail), "%s", from->detail);
	if (theirs) {
		(void)snprintf(error.sqlstate, sizeof(error.sqlstate), "08P01");
		(void)snprintf(error.message, sizeof(error.message),
		               "invalid command '%.*s', use SHOW HELP;", ERROR_QUOTE, text);
		(void)snprintf(error.detail, sizeof(error.detail), "%s. %s", from->message,
		               from->detail);
	}
	(void)snprintf(error.hint, sizeof(error.hint), "%s", from->hint);
	session_error(session, &error, from->position);
}

/* As PostgreSQL does: a syntax error anywhere, and nothing of the string is carried out. */
static void query_begin(struct session *session, const char *text)
{
	struct command_error error;
	size_t offset = 0;
	enum command_result result;

	session->query = mem_must_strdup(text);
	session->query_offset = 0;
	session->query_ran = false;
	do
		result = command_parse(text, strlen(text), &offset, &session->command, &error);
	while (result == COMMAND_PARSED);
	if (result == COMMAND_BAD)
		session_parse_failed(session, text, &error);
}

static void query_next(struct session *session)
{
	struct command_error error;

	switch (command_parse(session->query, strlen(session->query), &session->query_offset,
	                      &session->command, &error)) {
	case COMMAND_PARSED:
		session->query_ran = true;
		session_execute(session);
		break;
	case COMMAND_NO_MORE:
		if (!session->query_ran)
			wire_add_empty_query(&session->out);
		end_query(session);
		break;
	case COMMAND_BAD:
		session_parse_failed(session, session->query, &error);
		break;
	}
}

static void on_query(struct session *session, const uint8_t *body, size_t len)
{
	const char *text;

	session->counts->queries++;
	session->counts->xacts++;
	if (wire_parse_query(body, len, &text))
		query_begin(session, text);
	else
		session_fatal(session, "08P01", "invalid Query message");
}

static void on_message(struct session *session, uint8_t type, const uint8_t *body, size_t len)
{
	if (session->skip_to_sync && type != FE_SYNC && type != FE_TERMINATE)
		return;
	session->asked = clock_wall();
	switch ((enum wire_fe_type)type) {
	case FE_QUERY:
		on_query(session, body, len);
		break;
	case FE_EXECUTE:
		session->counts->queries++;
		session_extended_message(session, type, body, len);
		break;
	case FE_PARSE:
	case FE_BIND:
	case FE_DESCRIBE:
	case FE_CLOSE:
		session_extended_message(session, type, body, len);
		break;
	case FE_SYNC:
		session->skip_to_sync = false;
		session->counts->xacts++;
		send_ready(session);
		break;
	case FE_TERMINATE:
		session->dead = true;
		break;
	case FE_FUNCTION_CALL:
		wire_add_error_text(&session->out, "ERROR", "0A000",
		                    "the console has no functions to call");
		send_ready(session);
		break;
	case FE_FLUSH:     /* everything is sent as soon as it is there */
	case FE_COPY_DATA: /* PostgreSQL ignores these outside COPY, too */
	case FE_COPY_DONE:
	case FE_COPY_FAIL:
		break;
	case FE_PASSWORD:
		session_fatal(session, "08P01", "unexpected password message");
		break;
	}
}

/* Handles one message if a whole one is there. */
static bool next_message(struct session *session)
{
	const uint8_t *at = (const uint8_t *)session->in.data + session->in_used;
	size_t left = session->in.len - session->in_used;
	size_t total;
	char text[160];

	if (left < WIRE_HEADER_LEN)
		return false;
	if (wire_header_check(WIRE_FRONTEND, at, &total) != WIRE_HEADER_OK) {
		session_fatal(session, "08P01",
		              wire_header_error(WIRE_FRONTEND, at, text, sizeof(text)));
		return false;
	}
	if (total > SESSION_MESSAGE_MAX) {
		session_fatal(session, "54000", "message is too long for the console");
		return false;
	}
	if (left < total)
		return false;
	session->in_used += total;
	on_message(session, at[0], at + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN);
	return true;
}

/* ---- the socket ---- */

/* Sends buf[*sent …]; false when the kernel takes no more. */
static bool session_send_some(struct session *session, const struct sbuf *buf, size_t *sent)
{
	ssize_t n = send(session->fd, buf->data + *sent, buf->len - *sent, MSG_NOSIGNAL);

	if (n > 0) {
		*sent += (size_t)n;
		session->counts->sent += (uint64_t)n;
	} else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		return false;
	} else if (n == 0 || errno != EINTR) {
		session->dead = true;
	}
	return !session->dead;
}

/* The next piece of `out` as records; false when there is none. */
static bool session_encrypt(struct session *session)
{
	size_t left = session->out.len - session->out_sent;
	size_t n = left < ENCRYPT_SIZE ? left : ENCRYPT_SIZE;

	sbuf_reset(&session->records);
	session->records_sent = 0;
	if (n == 0)
		return false;
	if (tls_encrypt(session->tls, session->out.data + session->out_sent, n,
	                &session->records) != TLS_OK ||
	    !sbuf_ok(&session->records))
		session->dead = true;
	session->out_sent += n;
	return !session->dead;
}

static void session_send(struct session *session)
{
	bool more = true;

	if (session->tls == NULL) {
		while (more && !session->dead && session->out_sent < session->out.len)
			more = session_send_some(session, &session->out, &session->out_sent);
	} else {
		while (more && !session->dead) {
			if (session->records_sent < session->records.len)
				more = session_send_some(session, &session->records,
				                         &session->records_sent);
			else
				more = session_encrypt(session);
		}
	}
	if (session->out_sent == session->out.len &&
	    session->records_sent == session->records.len) {
		session->out_sent = 0;
		session->records_sent = 0;
		sbuf_free(&session->records);
		/* A big view must not stay as memory of an idle session. */
		if (session->out.cap > OUT_PAUSE)
			sbuf_free(&session->out);
		else
			sbuf_reset(&session->out);
		if (session->closing)
			session->dead = true;
		(void)event_del(session->write_event);
	} else {
		(void)event_add(session->write_event, NULL);
	}
}

/* Drops what has been handled from the front of `in`. */
static void session_compact(struct session *session)
{
	if (session->in_used == 0)
		return;
	if (session->in_used < session->in.len)
		memmove(session->in.data, session->in.data + session->in_used,
		        session->in.len - session->in_used);
	session->in.len -= session->in_used;
	session->in_used = 0;
}

/* Goes on as far as it can: commands, messages, output.  May free the session. */
void session_pump(struct session *session)
{
	while (!session->dead && !session->closing && session->request == NULL &&
	       session->out.len - session->out_sent < OUT_PAUSE) {
		if (session->query != NULL)
			query_next(session);
		else if (!next_message(session))
			break;
	}
	session_compact(session);
	if (!sbuf_ok(&session->out)) {
		log_error("console: an answer for user \"%s\" is too large, connection closed",
		          session->user);
		session->dead = true;
	}
	session_send(session);
	if (session->dead) {
		log_info("console: user \"%s\" from %s left", session->user,
		         endpoint_text(session->peer.addr, session->peer.port).text);
		session_free(session);
		return;
	}
	/* While an answer is awaited only so much more is read as fits. */
	if (session->in.len < SESSION_MESSAGE_MAX)
		(void)event_add(session->read_event, NULL);
	else
		(void)event_del(session->read_event);
}

void session_answered(struct session *session, struct admin_answer *answer)
{
	struct rowset rows;

	session->request = NULL;
	if (answer->error != NULL) {
		session_error(session, answer->error, 0);
	} else if (answer->rows != NULL) {
		rows = *answer->rows;
		rowset_init(answer->rows, rows.view);
		session_finish(session, &rows, answer->notice);
	} else {
		session_finish(session, NULL, answer->notice);
	}
	session_pump(session);
}

static void session_decrypt(struct session *session, const void *bytes, size_t len)
{
	char plain[READ_SIZE + TLS_ROOM_EXTRA];
	size_t got = 0;

	if (tls_decrypt(session->tls, bytes, len, plain, sizeof(plain), &got, &session->records) !=
	    TLS_OK)
		session->dead = true;
	sbuf_add(&session->in, plain, got);
	if (tls_ended(session->tls) && got == 0)
		session->dead = true;
}

static void session_readable(evutil_socket_t fd, short what, void *arg)
{
	struct session *session = arg;
	char chunk[READ_SIZE];
	ssize_t n = recv(fd, chunk, sizeof(chunk), 0);

	(void)what;
	if (n > 0)
		session->counts->received += (uint64_t)n;
	if (n > 0 && session->tls != NULL)
		session_decrypt(session, chunk, (size_t)n);
	else if (n > 0)
		sbuf_add(&session->in, chunk, (size_t)n);
	else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
		session->dead = true;
	session_pump(session);
}

static void session_writable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	session_pump(arg);
}

/* What PostgreSQL sends between AuthenticationOk, which the worker sent, and the first command. */
static void session_greet(struct session *session, const struct mail_console *mail)
{
	const char *name;
	const char *value;

	for (size_t i = 0; (name = command_parameter(i, &value)) != NULL; i++)
		wire_add_parameter_status(&session->out, name, value);
	wire_add_parameter_status(&session->out, "session_authorization", session->user);
	if (mail->application_name != NULL)
		wire_add_parameter_status(&session->out, "application_name",
		                          mail->application_name);
	wire_add_backend_key(&session->out, cancel_pid(session->proxy, mail->cancel_pid - 1),
	                     mail->cancel_key.bytes, mail->cancel_key.len);
	send_ready(session);
}

struct session *session_new(struct proxy *proxy, struct mail_console *mail,
                            struct session_counts *counts)
{
	struct session *session = mem_must_alloc(sizeof(*session));

	session->proxy = proxy;
	session->fd = mail->fd;
	session->cancel_pid = mail->cancel_pid;
	session->cancel_key = mail->cancel_key;
	session->tls = mail->tls;
	mail->tls = NULL;
	sbuf_init_must(&session->records, SESSION_OUT_MAX);
	session->user = mem_must_strdup(mail->user);
	session->owner = mail->owner;
	session->database = mem_must_strdup(mail->database);
	session->application_name =
	    mem_must_strdup(mail->application_name == NULL ? "" : mail->application_name);
	session->id = mail->id;
	session->connected = clock_wall() - (clock_now() - mail->connected);
	session->user_share = mail->user_share;
	session->database_share = mail->database_share;
	session->counts = counts;
	sock_peer(mail->fd, &session->peer);
	/* One message at most waits while another chunk comes in. */
	sbuf_init_must(&session->in,
	               SESSION_MESSAGE_MAX + READ_SIZE + TLS_ROOM_EXTRA + mail->bytes_len);
	sbuf_init_must(&session->out, SESSION_OUT_MAX);
	list_init(&session->statements);
	list_init(&session->portals);
	sbuf_add(&session->in, mail->bytes, mail->bytes_len);
	session->read_event =
	    event_new(proxy->base, session->fd, EV_READ | EV_PERSIST, session_readable, session);
	session->write_event =
	    event_new(proxy->base, session->fd, EV_WRITE | EV_PERSIST, session_writable, session);
	if (session->read_event == NULL || session->write_event == NULL ||
	    evutil_make_socket_nonblocking(session->fd) != 0) {
		session_free(session);
		return NULL;
	}
	counts->logins++;
	log_info("console: user \"%s\" from %s logged in to \"%s\"", session->user,
	         endpoint_text(session->peer.addr, session->peer.port).text, session->database);
	session_greet(session, mail);
	return session;
}

/* The peer is told, if that costs no waiting. */
static void session_close_tls(struct session *session)
{
	if (session->tls == NULL)
		return;
	if (session->records_sent == session->records.len) {
		sbuf_reset(&session->records);
		tls_goodbye(session->tls, &session->records);
		if (session->records.len > 0)
			(void)send(session->fd, session->records.data, session->records.len,
			           MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	tls_free(session->tls);
}

void session_attach(struct session *session, const char *database)
{
	session->attached = true;
	(void)snprintf(session->attached_to, sizeof(session->attached_to), "%s", database);
}

void session_free(struct session *session)
{
	if (session->list != NULL)
		list_remove(session->list, &session->node);
	if (session->request != NULL)
		admin_request_abandon(session->request);
	if (session->attached && !session->proxy->shutting_down)
		admin_request_abandon(admin_resume(
		    session->proxy->admin,
		    session->attached_to[0] == '\0' ? NULL : session->attached_to, NULL, NULL));
	share_slot_give_back(session->proxy->shares, session->cancel_pid - 1);
	if (session->read_event != NULL)
		event_free(session->read_event);
	if (session->write_event != NULL)
		event_free(session->write_event);
	session_drop_portals(session, false);
	session_deallocate(session, "");
	session_close_tls(session);
	(void)close(session->fd);
	sbuf_free(&session->records);
	sbuf_free(&session->in);
	sbuf_free(&session->out);
	free(session->query);
	share_uncount_client(session->user_share, session->database_share);
	free(session->user);
	free(session->database);
	free(session->application_name);
	free(session);
}
