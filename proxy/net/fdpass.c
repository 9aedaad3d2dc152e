/* SPDX-License-Identifier: PostgreSQL */
#include "net/fdpass.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool fdpass_address(const char *path, struct sockaddr_un *sun)
{
	int n = snprintf(sun->sun_path, sizeof(sun->sun_path), "%s", path);

	sun->sun_family = AF_UNIX;
	if (n > 0 && (size_t)n < sizeof(sun->sun_path))
		return true;
	errno = ENAMETOOLONG;
	return false;
}

int fdpass_connect(const char *path)
{
	struct sockaddr_un sun;
	int fd;

	if (!fdpass_address(path, &sun))
		return -1;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) != 0) {
		int saved = errno;

		(void)close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

int fdpass_listen(const char *path, struct sbuf *error)
{
	struct sockaddr_un sun;
	int fd = -1;
	int other;

	if (!fdpass_address(path, &sun)) {
		sbuf_printf(error, "the path \"%s\" is too long for a socket: at most %zu bytes",
		            path, sizeof(sun.sun_path) - 1);
		return -1;
	}
	other = fdpass_connect(path);
	if (other >= 0) {
		(void)close(other);
		sbuf_printf(error, "another process listens on \"%s\"", path);
		return -1;
	}
	if (errno == ECONNREFUSED)
		(void)unlink(path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* Nobody can connect before listen(), and then the mode is right. */
	if (fd < 0 || bind(fd, (const struct sockaddr *)&sun, sizeof(sun)) != 0 ||
	    chmod(path, S_IRUSR | S_IWUSR) != 0 || listen(fd, FDPASS_BACKLOG) != 0) {
		sbuf_printf(error, "cannot listen on \"%s\": %s", path, strerror(errno));
		if (fd >= 0)
			(void)close(fd);
		return -1;
	}
	return fd;
}

bool fdpass_peer(int fd, pid_t *pid, uid_t *uid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0)
		return false;
	*pid = cred.pid;
	*uid = cred.uid;
	return true;
}

bool fdpass_send(int fd, const char *text, const int *fds, int count)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int) * FDPASS_FDS_MAX)];
	} control;
	struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
	struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t n;

	if (count > FDPASS_FDS_MAX || part.iov_len == 0 || part.iov_len >= FDPASS_TEXT_MAX)
		return false;
	if (count > 0) {
		struct cmsghdr *head;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.room;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
		head = CMSG_FIRSTHDR(&msg);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
		memcpy(CMSG_DATA(head), fds, sizeof(int) * (size_t)count);
	}
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)part.iov_len;
}

static void fdpass_take(const struct msghdr *msg, struct fdpass_message *message)
{
	for (struct cmsghdr *head = CMSG_FIRSTHDR(msg); head != NULL;
	     head = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, head)) {
		size_t n;

		if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
			continue;
		n = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n && message->fd_count < FDPASS_FDS_MAX; i++)
			memcpy(&message->fds[message->fd_count++],
			       CMSG_DATA(head) + i * sizeof(int), sizeof(int));
	}
}

enum fdpass_result fdpass_receive(int fd, struct fdpass_message *message)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int) * FDPASS_FDS_MAX)];
	} control;
	struct iovec part = {message->text, sizeof(message->text) - 1};
	struct msghdr msg = {.msg_iov = &part,
	                     .msg_iovlen = 1,
	                     .msg_control = control.room,
	                     .msg_controllen = sizeof(control.room)};
	bool reset = false;
	ssize_t n;

	message->fd_count = 0;
	errno = 0;
	do {
		/* Who closes without having read all resets: its last message is there yet. */
		reset = reset || errno == ECONNRESET;
		errno = 0;
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset)));
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? FDPASS_AGAIN : FDPASS_END;
	fdpass_take(&msg, message);
	message->text[n] = '\0';
	if (n > 0 && (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0)
		return FDPASS_OK;
	fdpass_drop(message);
	return FDPASS_END;
}

void fdpass_drop(struct fdpass_message *message)
{
	while (message->fd_count > 0)
		(void)close(message->fds[--message->fd_count]);
}
