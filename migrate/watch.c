/* SPDX-License-Identifier: PostgreSQL */
/* The child (child.h) runs "pgshunt abort" when the mover has died before the promotion, or
 * has ended with less than all undone; or when the target answers again, where only that is left.
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
#include <sys/wait.h>
#include <unistd.h>

/* A mover that says nothing for so many leases, and not less than that, hangs. */
#define HANGS_LEASES 3
#define HANGS_MIN (6 * USEC_PER_SEC)
/* Abort is tried again, where it could not be known what is right. */
#define TRY_EVERY (5 * USEC_PER_SEC)
#define PATIENCE (600 * USEC_PER_SEC)
/* With a configuration that cannot be read: somebody may just be writing it. */
#define USAGE_PATIENCE (60 * USEC_PER_SEC)

#define LOG_FILE "watch.log"

/* Until the mover has died, or hangs: CHILD_FENCED, whether it is or not; or until it has said
 * CHILD_END or CHILD_LEFT. */
static enum child_letter watch(const struct move *move, int fd, pid_t mover)
{
	const usec_t lease = move->config->mover.lease;
	usec_t hangs = lease * HANGS_LEASES;
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
			(void)kill(mover, SIGKILL);
			heard = clock_now();
			continue;
		}
		n = read(fd, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (memchr(bytes, CHILD_END, (size_t)n) != NULL)
			return CHILD_END;
		if (memchr(bytes, CHILD_LEFT, (size_t)n) != NULL)
			return CHILD_LEFT;
		fenced = fenced || memchr(bytes, CHILD_FENCED, (size_t)n) != NULL;
		heard = clock_now();
	}
	/* Whoever resumes or aborts at once, does so; but before the leases are over. */
	while (clock_now() - heard < lease / 4 * 3)
		(void)poll(NULL, 0, 20);
	return CHILD_FENCED;
}

/* No lock is taken while it does not: other moves are in nobody's way. */
static bool await_target(struct move *move)
{
	const usec_t deadline = clock_now() + PATIENCE;
	struct link_target target;
	struct link link;
	bool ok = false;

	server_target(move->target.conf, &target);
	while (!ok && clock_now() < deadline) {
		link_init(&link, move->target.conf->name, &target);
		ok = link_revive(move, &link) &&
		     link_run(&move->loop, &link, move->config->mover.connect_timeout, "SELECT");
		link_close(&link);
		if (!ok)
			loop_sleep(&move->loop, TRY_EVERY);
	}
	return ok;
}

static int run_abort(const struct move *move)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		(void)execl("/proc/self/exe", "pgshunt", "--config", move->config->path, "abort",
		            move->journal.id, (char *)NULL);
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

static void abort_for_it(const struct move *move)
{
	const usec_t began = clock_now();
	usec_t deadline = began + PATIENCE;
	int code;

	for (;;) {
		code = run_abort(move);
		if (code == EXIT_DONE || code == EXIT_REFUSED)
			break;
		if (code == EXIT_USAGE && clock_now() - began >= USAGE_PATIENCE)
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

static void live(struct move *move, int fd, pid_t mover)
{
	const enum child_letter heard = watch(move, fd, mover);
	char *path;
	int log;

	if (heard == CHILD_END)
		return;
	(void)setenv(WATCH_ENV, "1", 1);
	(void)unsetenv("PGSHUNT_FAULT");
	path = mem_must_printf("%s/" LOG_FILE, move->journal.directory);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	free(path);
	if (log >= 0) {
		(void)dup2(log, 1);
		(void)dup2(log, 2);
	}
	/* As the command that is run expects it. */
	(void)signal(SIGTERM, SIG_DFL);
	say_when(heard == CHILD_LEFT
	             ? "the move is undone, but the target did not answer: when it does, \"pgshunt "
	               "abort\" takes back what the move has set there"
	             : "the mover has died, or could not undo everything: \"pgshunt abort\" is run "
	               "for it");
	if (heard == CHILD_LEFT && !await_target(move))
		say_when("given up: the target does not answer");
	else
		abort_for_it(move);
}

bool watch_start(struct move *move)
{
	return child_start(move, &move->watch, "the watch over the move", live);
}

void watch_renew(struct move *move)
{
	child_renew(&move->watch, move->config->mover.lease);
}

void watch_fenced(struct move *move)
{
	child_say(&move->watch, CHILD_FENCED);
}

void watch_end(struct move *move)
{
	child_say(&move->watch, CHILD_END);
	child_close(&move->watch);
}

void watch_left(struct move *move)
{
	child_say(&move->watch, CHILD_LEFT);
	child_close(&move->watch);
}

bool watch_is_there(const struct move *move)
{
	return move->watch.fd > 0;
}
