/* SPDX-License-Identifier: PostgreSQL */
#include "core/takeover.h"

#include "base/fault.h"
#include "base/log.h"
#include "conf/config.h"
#include "net/fdpass.h"
#include "net/inherit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

/* The other answers at once, but for writing its state. */
#define ANSWER_WAIT_MSEC 20000

/* After the end of its connection, the process itself is gone within: */
#define END_WAIT_MSEC 5000

void takeover_path(const struct config_proxy *conf, char path[108])
{
	int n = 0;

	if (conf->takeover_socket[0] != '\0')
		n = snprintf(path, 108, "%s", conf->takeover_socket);
	else if (conf->state_directory[0] != '\0')
		n = snprintf(path, 108, "%s/takeover", conf->state_directory);
	else if (conf->unix_socket_directory[0] == '/')
		n = snprintf(path, 108, "%s/.s.pgshuntd.%d", conf->unix_socket_directory,
		             conf->port);
	if (n <= 0 || n >= 108)
		path[0] = '\0';
}

static bool takeover_wait(int fd, short events, int msec)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	int n;

	do
		n = poll(&poll_fd, 1, msec);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

/* One answer; NULL-terminated text.  False with a text in `error`; *gone: the connection ended. */
static bool takeover_answer(struct takeover *takeover, struct fdpass_message *message, bool *gone,
                            struct sbuf *error)
{
	*gone = false;
	message->fd_count = 0;
	if (!takeover_wait(takeover->link, POLLIN, ANSWER_WAIT_MSEC)) {
		sbuf_printf(error, "the running pgshuntd (pid %d) does not answer",
		            (int)takeover->pid);
		return false;
	}
	if (fdpass_receive(takeover->link, message) != FDPASS_OK) {
		*gone = true;
		sbuf_printf(error, "the running pgshuntd (pid %d) closed the connection",
		            (int)takeover->pid);
		return false;
	}
	if (strncmp(message->text, "REFUSE\n", 7) != 0)
		return true;
	fdpass_drop(message);
	sbuf_printf(error, "the running pgshuntd (pid %d) refuses to hand over: %s",
	            (int)takeover->pid, message->text + 7);
	return false;
}

/* A line for each listening socket: "socket configured" or "socket inherited NAME". */
static bool takeover_read_sockets(struct takeover *takeover, struct inheritance *inherited,
                                  const struct fdpass_message *message)
{
	static const char prefix[] = "\nsocket ";
	const char *line = message->text;
	struct sbuf error;
	bool good = true;

	sbuf_init(&error, 512);
	/* Should it have been given sockets of its own: these are the ones that clients know. */
	inherit_close(inherited);
	for (int i = 2; good && i < message->fd_count; i++) {
		line = strstr(line, prefix);
		good = line != NULL;
		if (!good)
			break;
		line += strlen(prefix);
		if (strncmp(line, "inherited ", 10) == 0) {
			char name[INHERIT_NAME_MAX];

			(void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(line + 10, "\n"),
			               line + 10);
			good = inherit_add(inherited, message->fds[i], name, &error);
		} else {
			takeover->sockets.fds[takeover->sockets.count++] = message->fds[i];
		}
	}
	if (error.len > 0)
		log_warning("%s", sbuf_text(&error));
	sbuf_free(&error);
	return good;
}

/* "OFFER\nprotocol N\nversion TEXT\nsocket …\n"; what else there may be in a later version is not for
 * us.  The descriptors are the lock, the control socket, and the listening ones. */
static bool takeover_read_offer(struct takeover *takeover, struct inheritance *inherited,
                                struct fdpass_message *message)
{
	const char *protocol = strstr(message->text, "\nprotocol ");
	const char *version = strstr(message->text, "\nversion ");
	long spoken = protocol == NULL ? 0 : strtol(protocol + 10, NULL, 10);

	if (strncmp(message->text, "OFFER\n", 6) != 0 || version == NULL ||
	    spoken < TAKEOVER_PROTOCOL_MIN || spoken > TAKEOVER_PROTOCOL_MAX ||
	    message->fd_count < 2 || message->fd_count - 2 > SOCK_GIVEN_MAX)
		return false;
	(void)snprintf(takeover->version, sizeof(takeover->version), "%.*s",
	               (int)strcspn(version + 9, "\n"), version + 9);
	/* Should one be of no use, the process ends, and the other goes on. */
	if (!takeover_read_sockets(takeover, inherited, message))
		return false;
	takeover->lock_fd = message->fds[0];
	takeover->control_fd = message->fds[1];
	message->fd_count = 0;
	return true;
}

static bool takeover_hello(struct takeover *takeover, struct inheritance *inherited,
                           struct sbuf *error)
{
	struct fdpass_message *message = malloc(sizeof(*message));
	char text[128];
	bool good = false;
	bool gone;

	(void)snprintf(text, sizeof(text), "HELLO\nprotocol %d %d\nversion %s\n",
	               TAKEOVER_PROTOCOL_MIN, TAKEOVER_PROTOCOL_MAX, PGSHUNT_VERSION);
	/* If that fails it has closed the connection, and perhaps said why. */
	if (message != NULL)
		(void)!fdpass_send(takeover->link, text, NULL, 0);
	if (message == NULL) {
		sbuf_add_str(error, "out of memory");
	} else if (takeover_answer(takeover, message, &gone, error)) {
		good = takeover_read_offer(takeover, inherited, message);
		if (!good) {
			fdpass_drop(message);
			sbuf_printf(error,
			            "the running pgshuntd (pid %d) speaks another version "
			            "of the handover",
			            (int)takeover->pid);
		}
	}
	free(message);
	return good;
}

enum takeover_result takeover_ask(const struct config_proxy *conf, struct takeover *takeover,
                                  struct inheritance *inherited, struct sbuf *error)
{
	char path[108];
	uid_t uid;

	*takeover = (struct takeover){.link = -1, .lock_fd = -1, .control_fd = -1};
	takeover_path(conf, path);
	if (path[0] == '\0') {
		sbuf_add_str(error, "there is no socket over which to take over: set "
		                    "takeover_socket, here and for the process that runs");
		return TAKEOVER_FAILED;
	}
	takeover->link = fdpass_connect(path);
	if (takeover->link < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return TAKEOVER_NOBODY;
		sbuf_printf(error, "cannot connect to \"%s\": %s", path, strerror(errno));
		return TAKEOVER_FAILED;
	}
	if (!fdpass_peer(takeover->link, &takeover->pid, &uid) || (uid != geteuid() && uid != 0)) {
		sbuf_printf(error, "\"%s\" is another user's", path);
		takeover_close(takeover);
		return TAKEOVER_FAILED;
	}
	(void)fault_point("takeover.hello");
	if (!takeover_hello(takeover, inherited, error)) {
		takeover_close(takeover);
		return TAKEOVER_FAILED;
	}
	(void)fault_point("takeover.offered");
	return TAKEOVER_OFFERED;
}

/* Whether the other process itself has ended, not only its interest in us. */
static bool takeover_other_ended(const struct takeover *takeover)
{
	int fd = pidfd_open(takeover->pid, 0);
	bool ended;

	if (fd < 0)
		return errno == ESRCH;
	ended = takeover_wait(fd, POLLIN, END_WAIT_MSEC);
	(void)close(fd);
	return ended;
}

bool takeover_commit(struct takeover *takeover, struct sbuf *error)
{
	struct fdpass_message *message = malloc(sizeof(*message));
	bool good = false;
	bool gone = true;

	if (message == NULL) {
		sbuf_add_str(error, "out of memory");
		return false;
	}
	(void)fault_point("takeover.ready");
	if (!fdpass_send(takeover->link, "READY\n", NULL, 0)) {
		/* It has lost patience, and said so, or it has ended. */
		good = fdpass_receive(takeover->link, message) != FDPASS_OK &&
		       takeover_other_ended(takeover);
		if (!good)
			sbuf_printf(error, "the running pgshuntd (pid %d) goes on",
			            (int)takeover->pid);
	} else if (takeover_answer(takeover, message, &gone, error)) {
		good = strncmp(message->text, "DONE\n", 5) == 0;
		if (!good)
			sbuf_add_str(error, "the running pgshuntd answered something else");
	} else if (gone && takeover_other_ended(takeover)) {
		/* It died in the meantime: all the more reason to serve. */
		sbuf_reset(error);
		good = true;
	}
	fdpass_drop(message);
	free(message);
	return good;
}

void takeover_close(struct takeover *takeover)
{
	int *fds[] = {&takeover->link, &takeover->lock_fd, &takeover->control_fd};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			(void)close(*fds[i]);
		*fds[i] = -1;
	}
	sock_close_given(&takeover->sockets);
}
