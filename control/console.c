/* SPDX-License-Identifier: PostgreSQL */
#include "control/console.h"

#include "base/log.h"
#include "control/session.h"
#include "core/proxy.h"
#include "net/tls.h"
#include "wire/build.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* More would hardly be operators. */
#define SESSIONS_MAX 200

/* All sessions, and what they have done; main thread only. */
static struct list sessions;
static struct session_counts counts;

static void free_letter(struct mail_console *mail)
{
	free(mail->database);
	free(mail->user);
	free(mail->application_name);
	free(mail->bytes);
	tls_free(mail->tls);
	free(mail);
}

static void refuse(struct mail_console *mail)
{
	struct sbuf out;
	struct sbuf records;

	sbuf_init(&out, 1024);
	wire_add_error_text(&out, "FATAL", "53300", "too many connections to the console");
	sbuf_init(&records, 4096);
	if (mail->tls != NULL &&
	    tls_encrypt(mail->tls, sbuf_text(&out), out.len, &records) != TLS_OK)
		sbuf_reset(&records);
	if (send(mail->fd, sbuf_text(mail->tls == NULL ? &out : &records),
	         mail->tls == NULL ? out.len : records.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("console: a refusal could not be sent");
	sbuf_free(&out);
	sbuf_free(&records);
	(void)close(mail->fd);
}

void console_adopt(struct proxy *proxy, struct mail_console *mail)
{
	struct session *session = NULL;

	if (sessions.head.next == NULL)
		list_init(&sessions);
	if (sessions.count >= SESSIONS_MAX) {
		log_warning("console: more than %d sessions, one was refused", SESSIONS_MAX);
		refuse(mail);
		share_uncount_client(mail->user_share, mail->database_share);
		share_slot_give_back(proxy->shares, mail->cancel_pid - 1);
	} else {
		session = session_new(proxy, mail, &counts);
	}
	free_letter(mail);
	if (session == NULL)
		return;
	list_append(&sessions, &session->node);
	session->list = &sessions;
	session_pump(session);
}

void console_cancel(uint32_t pid, const struct cancel_key *key)
{
	struct list_node *node;
	struct list_node *tmp;

	if (sessions.head.next == NULL)
		return;
	LIST_FOREACH(&sessions, node, tmp)
	{
		struct session *session = CONTAINER_OF(node, struct session, node);

		if (session->cancel_pid == pid && cancel_key_equal(&session->cancel_key, key) &&
		    session->request != NULL)
			admin_request_cancel(session->request);
	}
}

void console_rows(struct rowset *rows)
{
	struct list_node *node;
	struct list_node *tmp;

	if (rows->view == VIEW_STATS)
		session_stats_row(&counts, rows);
	if (sessions.head.next == NULL)
		return;
	LIST_FOREACH(&sessions, node, tmp)
	{
		session_rows(CONTAINER_OF(node, struct session, node), rows);
	}
}

bool console_kill(uint64_t id)
{
	struct list_node *node;
	struct list_node *tmp;

	LIST_FOREACH(&sessions, node, tmp)
	{
		struct session *session = CONTAINER_OF(node, struct session, node);

		if (session->id != id)
			continue;
		session_fatal(session, "57P01", "admin forced disconnect");
		session_pump(session);
		return true;
	}
	return false;
}

void console_close_all(void)
{
	struct list_node *node;

	while (sessions.head.next != NULL && (node = list_first(&sessions)) != NULL)
		session_free(CONTAINER_OF(node, struct session, node));
}
