/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/child.h"

#include "migrate/move.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RENEWALS_PER_LEASE 8
/* Where the child keeps its end of the socket pair, behind the standard files. */
#define CHILD_FD 3

static void __attribute__((noreturn)) live_alone(struct move *move, int fd, pid_t mover,
                                                 child_live_fn *live)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	int null;

	(void)setsid();
	for (size_t i = 0; i < ARRAY_LEN(ignored); i++)
		(void)sigaction(ignored[i], &ignore, NULL);
	if (fd != CHILD_FD)
		(void)dup2(fd, CHILD_FD);
	(void)close_range(CHILD_FD + 1, ~0U, 0);
	(void)fcntl(CHILD_FD, F_SETFD, FD_CLOEXEC);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int standard = 0; standard < CHILD_FD; standard++)
		(void)dup2(null, standard);
	/* Nothing of the mover's is waited for or told. */
	move->loop.background_count = 0;
	move->loop.tick = NULL;
	live(move, CHILD_FD, mover);
	_exit(0);
}

bool child_start(struct move *move, struct child *child, const char *what, child_live_fn *live)
{
	const pid_t mover = getpid();
	int status = 1;
	int fds[2];
	pid_t pid;

	if (child->fd > 0)
		return true;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		return move_fail(move, "%s cannot be started: %s", what, strerror(errno));
	/* What is buffered is the mover's to write; twice, so that it has no child to wait for. */
	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid != 0)
			_exit(pid < 0 ? 1 : 0);
		(void)close(fds[1]);
		live_alone(move, fds[0], mover, live);
	}
	(void)close(fds[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	if (pid > 0 && status == 0) {
		child->fd = fds[1];
		return true;
	}
	(void)close(fds[1]);
	return move_fail(move, "%s cannot be started", what);
}

void child_say(struct child *child, enum child_letter letter)
{
	const char byte = (char)letter;

	if (child->fd > 0)
		(void)!send(child->fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void child_renew(struct child *child, usec_t lease)
{
	usec_t now = clock_now();

	if (now - child->said_at < lease / RENEWALS_PER_LEASE)
		return;
	child->said_at = now;
	child_say(child, CHILD_RENEW);
}

void child_close(struct child *child)
{
	if (child->fd > 0)
		(void)close(child->fd);
	child->fd = 0;
}
