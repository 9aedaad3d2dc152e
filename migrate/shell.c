/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/shell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_BYTES ((size_t)64 * 1024)
/* How often the deadline and the wish to stop are looked at. */
#define TURN_MSEC 100
#define END_PATIENCE (5 * USEC_PER_SEC)

struct running {
	const struct shell_job *job;
	pid_t pid;
	int in;  /* what is not sent of the script goes here, -1 = all sent */
	int out; /* its output */
	size_t sent;
	struct sbuf line;
	usec_t deadline;
	const char *ended; /* why we ended it, NULL = we did not */
	usec_t ended_at;
};

/* In the child; never returns. */
static void become(const char *prefix, int in, int out)
{
	char command[4096];
	static const int restored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ};

	for (size_t i = 0; i < ARRAY_LEN(restored); i++)
		(void)signal(restored[i], SIG_DFL);
	(void)snprintf(command, sizeof(command), "%s sh", prefix);
	/* A group of its own: Ctrl-C is for us to pass on, and what it started ends with it. */
	(void)setpgid(0, 0);
	if (dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
	    dup2(out, STDERR_FILENO) >= 0)
		(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static bool start(struct running *running, struct sbuf *error)
{
	int in[2];
	int out[2];

	if (pipe2(in, O_CLOEXEC) != 0) {
		sbuf_printf(error, "%s", strerror(errno));
		return false;
	}
	if (pipe2(out, O_CLOEXEC) != 0) {
		sbuf_printf(error, "%s", strerror(errno));
		(void)close(in[0]);
		(void)close(in[1]);
		return false;
	}
	running->pid = fork();
	if (running->pid == 0)
		become(running->job->command, in[0], out[1]);
	(void)close(in[0]);
	(void)close(out[1]);
	running->in = in[1];
	running->out = out[0];
	if (running->pid < 0) {
		sbuf_printf(error, "%s", strerror(errno));
		(void)close(in[1]);
		(void)close(out[0]);
		return false;
	}
	(void)fcntl(running->in, F_SETFL, O_NONBLOCK);
	(void)fcntl(running->out, F_SETFL, O_NONBLOCK);
	return true;
}

static void send_script(struct running *running)
{
	const char *rest = running->job->script + running->sent;
	ssize_t n = write(running->in, rest, strlen(rest));

	if (n > 0)
		running->sent += (size_t)n;
	if (running->job->script[running->sent] == '\0' ||
	    (n < 0 && errno != EAGAIN && errno != EINTR)) {
		(void)close(running->in);
		running->in = -1;
	}
}

static void end_line(struct running *running)
{
	if (running->line.len > 0 && running->job->line != NULL)
		running->job->line(running->job->arg, sbuf_text(&running->line));
	sbuf_reset(&running->line);
}

/* False at the end of the output. */
static bool read_output(struct running *running)
{
	char buffer[4096];
	ssize_t n = read(running->out, buffer, sizeof(buffer));

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	for (ssize_t i = 0; i < n; i++) {
		/* Progress is redrawn with a carriage return. */
		if (buffer[i] == '\n' || buffer[i] == '\r')
			end_line(running);
		else if (buffer[i] != '\0')
			sbuf_add_char(&running->line, buffer[i]);
	}
	return n > 0;
}

static bool must_end(struct running *running)
{
	const struct shell_job *job = running->job;

	if (running->ended != NULL)
		return false;
	if (job->stop != NULL && *job->stop != 0)
		running->ended = "interrupted";
	else if (running->deadline != 0 && clock_now() >= running->deadline)
		running->ended = "it took too long";
	return running->ended != NULL;
}

static void serve(struct running *running)
{
	bool more = true;

	while (more) {
		struct pollfd fds[2] = {{.fd = running->out, .events = POLLIN},
		                        {.fd = running->in, .events = POLLOUT}};

		if (must_end(running)) {
			(void)kill(-running->pid, SIGTERM);
			running->ended_at = clock_now();
		}
		/* It may clean up; what it left in the background may keep the output open. */
		if (running->ended != NULL && clock_now() > running->ended_at + END_PATIENCE)
			break;
		if (poll(fds, 2, TURN_MSEC) <= 0)
			continue;
		if (running->in >= 0 && fds[1].revents != 0)
			send_script(running);
		if (fds[0].revents != 0)
			more = read_output(running);
	}
	end_line(running);
}

bool shell_run(const struct shell_job *job, struct sbuf *error)
{
	struct running running = {.job = job, .in = -1, .out = -1};
	int status = 0;

	running.deadline = job->timeout == 0 ? 0 : clock_now() + job->timeout;
	if (!start(&running, error))
		return false;
	sbuf_init(&running.line, LINE_MAX_BYTES);
	serve(&running);
	sbuf_free(&running.line);
	if (running.in >= 0)
		(void)close(running.in);
	(void)close(running.out);
	if (running.ended != NULL)
		(void)kill(-running.pid, SIGKILL);
	while (waitpid(running.pid, &status, 0) < 0 && errno == EINTR)
		continue;
	if (running.ended != NULL)
		sbuf_printf(error, "%s", running.ended);
	else if (WIFSIGNALED(status))
		sbuf_printf(error, "ended by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status) != 0)
		sbuf_printf(error, "ended with exit code %d", WEXITSTATUS(status));
	return running.ended == NULL && status == 0;
}

void shell_quote(struct sbuf *out, const char *word)
{
	sbuf_add_char(out, '\'');
	for (; *word != '\0'; word++) {
		if (*word == '\'')
			sbuf_add_str(out, "'\\''");
		else
			sbuf_add_char(out, *word);
	}
	sbuf_add_char(out, '\'');
}
