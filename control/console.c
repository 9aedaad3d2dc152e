/* SPDX-License-Identifier: PostgreSQL */
#include "control/console.h"

#include "base/log.h"
#include "control/session.h"
#include "wire/build.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* More would hardly be operators. */
#define SESSIONS_MAX 200

/* All sessions; main thread only. */
static struct list sessions;

static void free_letter(struct mail_console *mail)
{
	free(mail->database);
	free(mail->user);
	free(mail->application_name);
	free(mail->bytes);
	free(mail);
}

static void refuse(int fd)
{
	struct sbuf out;

	sbuf_init(&out, 1024);
	wire_add_error_text(&out, "FATAL", "53300", "too many connections to the console");
	if (send(fd, sbuf_text(&out), out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("console: a refusal could not be sent");
	sbuf_free(&out);
	(void)close(fd);
}

void console_adopt(struct proxy *proxy, struct mail_console *mail)
{
	struct session *session = NULL;

	if (sessions.head.next == NULL)
		list_init(&sessions);
	if (sessions.count >= SESSIONS_MAX) {
		log_warning("console: more than %d sessions, one was refused", SESSIONS_MAX);
		refuse(mail->fd);
	} else {
		session = session_new(proxy, mail);
	}
	free_letter(mail);
	if (session == NULL)
		return;
	list_append(&sessions, &session->node);
	session->list = &sessions;
	session_pump(session);
}

void console_close_all(void)
{
	struct list_node *node;

	while (sessions.head.next != NULL && (node = list_first(&sessions)) != NULL)
		session_free(CONTAINER_OF(node, struct session, node));
}
