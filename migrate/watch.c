/* SPDX-License-Identifier: PostgreSQL */
/*
 * The child keeps no descriptor of the mover's but its end of a socket pair, so that neither the
 * locks nor a session outlive the mover, and that the end of the socket is the end of the mover.
 */
#include "migrate/watch.h"

#include "base/mem.h"
#include "migrate/move.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RENEWALS_PER_LEASE 8
/* A mover that says nothing for so many leases, and not less than that, hangs. */
#define HANGS_LEASES 3
#define HANGS_MIN (6 * USEC_PER_SEC)
/* Abort is tried again, where it could not be known what is right. */
#define TRY_EVERY (5 * USEC_PER_SEC)
#define PATIENCE (600 * USEC_PER_SEC)

#define LOG_FILE "watch.log"

struct watched {
	pid_t mover;
	usec_t lease;
	char *config;
	char *id;
	char *log;
};

/* Until the mover has died, or hangs; false if there is nothing to do. */
static bool watch(const struct watched *watched, int fd)
{
	usec_t hangs = watched->lease * HANGS_LEASES;
	usec_t heard = clock_now();
	bool fenced = false;

	if (hangs < HANGS_MIN)
		hangs = HANGS_MIN;
	for (;;) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		char bytes[64];
		ssize_t n;

		if (poll(&wait, 1, 100) <= 0) {
			if (!fenced || clock_now() - heard < hangs)
				continue;
			/* It must do nothing more, not even if it wakes up. */
			(void)kill(watched->mover, SIGKILL);
			heard = clock_now();
			continue;
		}
		n = read(fd, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (memchr(bytes, 'e', (size_t)n) != NULL)
			return false;
		fenced = fenced || memchr(bytes, 'f', (size_t)n) != NULL;
		heard = clock_now();
	}
	/* Whoever resumes or aborts at once, does so; but before the leases are over. */
	while (clock_now() - heard < watched->lease / 4 * 3)
		(void)poll(NULL, 0, 20);
	return true;
}

static int run_abort(const struct watched *watched)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		(void)execl("/proc/self/exe", "pgshunt", "--config", watched->config, "abort",
		            watched->id, (char *)NULL);
		_exit(127);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void say_when(const char *what)
{
	char text[CLOCK_TEXT_MAX];

	(void)printf("%s watch: %s\n", clock_format(clock_wall(), text), what);
	(void)fflush(stdout);
}

static void abort_for_it(const struct watched *watched)
{
	usec_t deadline = clock_now() + PATIENCE;
	int code;

	say_when("the mover has died: \"pgshunt abort\" is run for it");
	for (;;) {
		code = run_abort(watched);
		if (code == EXIT_DONE || code == EXIT_REFUSED || code == EXIT_USAGE)
			break;
		if (clock_now() >= deadline) {
			say_when("given up: run \"pgshunt resume\" when all can be reached");
			return;
		}
		(void)poll(NULL, 0, (int)(TRY_EVERY / USEC_PER_MSEC));
	}
	say_when(code == EXIT_DONE ? "the move is undone"
	                           : "the move is not undone: run \"pgshunt resume\"");
}

static void __attribute__((noreturn)) live(const struct watched *watched, int fd)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	int null;
	int log;

	(void)setsid();
	(void)sigaction(SIGINT, &ignore, NULL);
	(void)sigaction(SIGTERM, &ignore, NULL);
	(void)sigaction(SIGHUP, &ignore, NULL);
	(void)sigaction(SIGPIPE, &ignore, NULL);
	if (fd != 3)
		(void)dup2(fd, 3);
	(void)close_range(4, ~0U, 0);
	(void)fcntl(3, F_SETFD, FD_CLOEXEC);
	(void)setenv(WATCH_ENV, "1", 1);
	(void)unsetenv("PGSHUNT_FAULT");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	(void)dup2(null, 0);
	(void)dup2(null, 1);
	(void)dup2(null, 2);
	if (!watch(watched, 3))
		_exit(0);
	log = open(watched->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log >= 0) {
		(void)dup2(log, 1);
		(void)dup2(log, 2);
	}
	(void)signal(SIGTERM, SIG_DFL);
	abort_for_it(watched);
	_exit(0);
}

bool watch_start(struct move *move)
{
	struct watched watched = {.mover = getpid(), .lease = move->config->mover.lease};
	int status = 1;
	int fds[2];
	pid_t pid;

	if (move->watch_fd > 0)
		return true;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		return move_fail(move, "the watch over the move cannot be started: %s",
		                 strerror(errno));
	watched.config = mem_must_strdup(move->config->path);
	watched.id = mem_must_strdup(move->journal.id);
	watched.log = mem_must_printf("%s/" LOG_FILE, move->journal.directory);
	/* What is buffered is the mover's to write; twice, so that it has no child to wait for. */
	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid != 0)
			_exit(pid < 0 ? 1 : 0);
		(void)close(fds[1]);
		live(&watched, fds[0]);
	}
	(void)close(fds[0]);
	free(watched.config);
	free(watched.id);
	free(watched.log);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	if (pid > 0 && status == 0) {
		move->watch_fd = fds[1];
		return true;
	}
	(void)close(fds[1]);
	return move_fail(move, "the watch over the move cannot be started");
}

static void say(struct move *move, char what)
{
	if (move->watch_fd > 0)
		(void)!send(move->watch_fd, &what, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void watch_renew(struct move *move)
{
	usec_t now = clock_now();

	if (move->watch_fd <= 0 ||
	    now - move->watched_at < move->config->mover.lease / RENEWALS_PER_LEASE)
		return;
	move->watched_at = now;
	say(move, 'r');
}

void watch_fenced(struct move *move)
{
	say(move, 'f');
}

void watch_end(struct move *move)
{
	if (move->watch_fd <= 0)
		return;
	say(move, 'e');
	(void)close(move->watch_fd);
	move->watch_fd = 0;
}
