/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/remote.h"

#include "base/mem.h"

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

#define ANSWER_MAX ((size_t)8 * 1024 * 1024)
#define IDLE_EVERY (20 * USEC_PER_MSEC)
#define BEGIN_MARK "pgshunt-answer-begins"
#define END_MARK "pgshunt-answer-ends"

struct remote {
	pid_t pid;
	int fd;           /* both ways; -1: it has ended */
	unsigned scripts; /* so many it was given: the answer to one may come when nobody waits any
	                     more */
	char *line;
};

/* In the child: its standard files, and nothing of the mover's signals. */
static void become(int in, int out, const char *command, char *const *env)
{
	sigset_t none;

	(void)setsid();
	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGXFSZ, SIG_DFL);
	(void)signal(SIGINT, SIG_DFL);
	(void)signal(SIGTERM, SIG_DFL);
	(void)signal(SIGHUP, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)dup2(in, 0);
	(void)dup2(out, 1);
	(void)dup2(out, 2);
	for (; env != NULL && *env != NULL; env++)
		(void)putenv(*env);
	(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static bool send_all(int fd, const char *bytes, size_t len, usec_t deadline)
{
	while (len > 0) {
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			bytes += n;
			len -= (size_t)n;
			continue;
		}
		if ((n < 0 && errno != EAGAIN && errno != EINTR) || clock_now() >= deadline)
			return false;
		(void)poll(&wait, 1, 20);
	}
	return true;
}

static void note_end(struct remote *shell)
{
	if (shell->fd >= 0)
		(void)close(shell->fd);
	shell->fd = -1;
}

/* Reads once; false at the end, or when the deadline has passed. */
static bool receive(struct remote *shell, struct sbuf *answer, usec_t deadline)
{
	struct pollfd wait = {.fd = shell->fd, .events = POLLIN};
	usec_t left = deadline - clock_now();
	char bytes[16384];
	ssize_t n;

	if (left <= 0 || poll(&wait, 1, (int)(left / USEC_PER_MSEC) + 1) <= 0)
		return errno == EINTR && left > 0;
	n = recv(shell->fd, bytes, sizeof(bytes), 0);
	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0) {
		note_end(shell);
		return false;
	}
	sbuf_add(answer, bytes, (size_t)n);
	return sbuf_ok(answer);
}

/* What stands between the marks of that script; false if the end is not there yet. */
static bool take_answer(const struct sbuf *answer, unsigned number, struct sbuf *out, int *code)
{
	const char *text = sbuf_text(answer);
	const char *begin;
	const char *end;
	char mark[64];

	(void)snprintf(mark, sizeof(mark), "\n" BEGIN_MARK " %u\n", number);
	begin = strstr(text, mark);
	end = begin == NULL ? NULL : strstr(begin, "\n" END_MARK " ");
	if (end == NULL || strchr(end + 1, '\n') == NULL)
		return false;
	begin += strlen(mark);
	*code = atoi(end + strlen("\n" END_MARK " "));
	if (end > begin)
		sbuf_add(out, begin, (size_t)(end - begin));
	return true;
}

bool remote_run(struct remote *shell, const char *script, usec_t timeout, struct sbuf *out)
{
	usec_t deadline = clock_now() + timeout;
	struct sbuf text;
	int code = -1;
	bool done = false;

	sbuf_init(&text, ANSWER_MAX);
	shell->scripts++;
	sbuf_printf(&text, "printf '\\n" BEGIN_MARK " %u\\n'\n(\n%s\n) </dev/null 2>&1\n",
	            shell->scripts, script);
	sbuf_add_str(&text, "printf '\\n" END_MARK " %d\\n' $?\n");
	if (sbuf_ok(&text) && shell->fd >= 0 &&
	    send_all(shell->fd, text.data, text.len, deadline)) {
		sbuf_reset(&text);
		while (!(done = take_answer(&text, shell->scripts, out, &code)) &&
		       receive(shell, &text, deadline))
			continue;
		if (!done)
			sbuf_printf(out, "%s%s", sbuf_text(&text),
			            shell->fd < 0 ? "it ended" : "no answer in time");
	} else {
		sbuf_add_str(out, "it does not take commands");
		/* Half a script may be there. */
		note_end(shell);
	}
	sbuf_free(&text);
	return done && code == 0;
}

static bool launch(struct remote *shell, usec_t timeout, struct sbuf *error)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
		sbuf_printf(error, "%s", strerror(errno));
		return false;
	}
	shell->pid = fork();
	if (shell->pid == 0)
		become(fds[1], fds[1], shell->line, NULL);
	(void)close(fds[1]);
	if (shell->pid < 0) {
		sbuf_printf(error, "%s", strerror(errno));
		(void)close(fds[0]);
		return false;
	}
	shell->fd = fds[0];
	return remote_run(shell, ":", timeout, error);
}

/* It ends by the end of its input; one that does not is not waited for. */
static void await_end(struct remote *shell)
{
	note_end(shell);
	for (int i = 0; shell->pid > 0 && i < 50 && waitpid(shell->pid, NULL, WNOHANG) == 0; i++) {
		if (i == 25)
			(void)kill(-shell->pid, SIGKILL);
		(void)poll(NULL, 0, 10);
	}
	shell->pid = 0;
}

struct remote *remote_start(const char *command, usec_t timeout, struct sbuf *error)
{
	struct remote *shell = mem_must_alloc(sizeof(*shell));

	*shell = (struct remote){.fd = -1, .line = mem_must_printf("%s sh", command)};
	if (launch(shell, timeout, error))
		return shell;
	remote_end(shell);
	return NULL;
}

bool remote_revive(struct remote *shell, usec_t timeout, struct sbuf *error)
{
	if (shell->fd >= 0)
		return true;
	await_end(shell);
	return launch(shell, timeout, error);
}

void remote_end(struct remote *shell)
{
	if (shell == NULL)
		return;
	await_end(shell);
	free(shell->line);
	free(shell);
}

/* Takes what there is to read; false when the pipe is closed. */
static bool drain_pipe(int fd, struct sbuf *out)
{
	char bytes[4096];
	ssize_t n;

	while ((n = read(fd, bytes, sizeof(bytes))) > 0)
		sbuf_add(out, bytes, (size_t)n);
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Until the process has ended; -1 if it did not in time. */
static int await_command(pid_t pid, int fd, usec_t deadline, struct sbuf *out,
                         void (*idle)(void *arg), void *arg)
{
	bool open = true;
	int status;

	for (;;) {
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		pid_t ended;

		(void)poll(&wait, open ? 1 : 0, IDLE_EVERY / USEC_PER_MSEC);
		if (open)
			open = drain_pipe(fd, out);
		ended = waitpid(pid, &status, WNOHANG);
		if (ended == pid)
			break;
		if (idle != NULL)
			idle(arg);
		if (clock_now() >= deadline) {
			(void)kill(-pid, SIGKILL);
			(void)waitpid(pid, &status, 0);
			(void)drain_pipe(fd, out);
			return -1;
		}
	}
	(void)drain_pipe(fd, out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int remote_command(const char *command, char *const *env, usec_t timeout, struct sbuf *out,
                   void (*idle)(void *arg), void *arg)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int fds[2];
	pid_t pid;
	int code;

	if (null < 0 || pipe2(fds, O_CLOEXEC) != 0) {
		sbuf_printf(out, "%s", strerror(errno));
		if (null >= 0)
			(void)close(null);
		return -2;
	}
	pid = fork();
	if (pid == 0)
		become(null, fds[1], command, env);
	(void)close(null);
	(void)close(fds[1]);
	(void)fcntl(fds[0], F_SETFL, O_NONBLOCK);
	if (pid < 0) {
		sbuf_printf(out, "%s", strerror(errno));
		code = -2;
	} else {
		code = await_command(pid, fds[0], clock_now() + timeout, out, idle, arg);
	}
	(void)close(fds[0]);
	return code;
}
