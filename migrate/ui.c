/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/ui.h"

#include "migrate/json.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A pipe that polls writable takes this much without waiting (POSIX: PIPE_BUF is at least 512). */
#define UI_ATOMIC 512
#define UI_QUEUE_MAX ((size_t)16 * 1024 * 1024)

void ui_init(struct ui *ui, bool json)
{
	*ui = (struct ui){.json = json, .started_at = clock_now()};
	ui->terminal = !json && isatty(STDERR_FILENO) == 1;
	sbuf_init(&ui->queue, UI_QUEUE_MAX);
	sbuf_init(&ui->errors, UI_QUEUE_MAX);
}

void ui_free(struct ui *ui)
{
	ui_hurry(ui, false);
	ui_status_clear(ui);
	sbuf_free(&ui->queue);
	sbuf_free(&ui->errors);
}

static bool is_ready(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};

	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLOUT) != 0;
}

static void write_all(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

static void write_queue(struct ui *ui, int fd, struct sbuf *queue)
{
	ui_status_clear(ui);
	if (queue->len > 0)
		write_all(fd, queue->data, queue->len);
	sbuf_reset(queue);
}

static void put_line(struct ui *ui, const char *text)
{
	sbuf_add_str(&ui->queue, text);
	sbuf_add_char(&ui->queue, '\n');
	if (!ui->hurry || (ui->queue.len <= UI_ATOMIC && is_ready(STDOUT_FILENO)))
		write_queue(ui, STDOUT_FILENO, &ui->queue);
}

static PRINTF_LIKE(1, 0) char *format(const char *fmt, va_list args)
{
	char *text = NULL;

	if (vasprintf(&text, fmt, args) < 0)
		return NULL;
	return text;
}

void ui_line(struct ui *ui, const char *fmt, ...)
{
	va_list args;
	char *text;

	if (ui->json)
		return;
	va_start(args, fmt);
	text = format(fmt, args);
	va_end(args);
	if (text != NULL)
		put_line(ui, text);
	free(text);
}

void ui_event(struct ui *ui, const char *name, const char *members)
{
	char time_text[CLOCK_TEXT_MAX];
	struct sbuf line;

	if (!ui->json)
		return;
	sbuf_init(&line, UI_QUEUE_MAX);
	json_open(&line, NULL, '{');
	json_str(&line, "event", name);
	json_str(&line, "time", clock_format(clock_wall(), time_text));
	if (*members != '\0') {
		sbuf_add_char(&line, ',');
		sbuf_add_str(&line, members);
	}
	json_close(&line, '}');
	put_line(ui, sbuf_text(&line));
	sbuf_free(&line);
}

void ui_error(struct ui *ui, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = format(fmt, args);
	va_end(args);
	if (text == NULL)
		return;
	sbuf_printf(&ui->errors, "pgshunt: %s\n", text);
	free(text);
	if (!ui->hurry || (ui->errors.len <= UI_ATOMIC && is_ready(STDERR_FILENO)))
		write_queue(ui, STDERR_FILENO, &ui->errors);
}

void ui_lines(struct ui *ui, const struct sbuf *text)
{
	for (const char *at = sbuf_text(text); *at != '\0'; at += strspn(at, "\n")) {
		size_t len = strcspn(at, "\n");

		ui_error(ui, "%.*s", (int)len, at);
		at += len;
	}
}

void ui_status(struct ui *ui, const char *fmt, ...)
{
	char line[200];
	va_list args;
	int len;

	if (!ui->terminal || (ui->hurry && !is_ready(STDERR_FILENO)))
		return;
	va_start(args, fmt);
	len = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (len < 0)
		return;
	if ((size_t)len >= sizeof(line))
		len = (int)sizeof(line) - 1;
	write_all(STDERR_FILENO, "\r", 1);
	write_all(STDERR_FILENO, line, (size_t)len);
	write_all(STDERR_FILENO, "\033[K", 3);
	ui->status_shown = true;
}

void ui_status_clear(struct ui *ui)
{
	if (!ui->status_shown)
		return;
	ui->status_shown = false;
	write_all(STDERR_FILENO, "\r\033[K", 4);
}

/* A key on the terminal, or writing to it from the background, stops us only when nobody waits. */
static void keep_going(bool keep)
{
	sigset_t stops;

	(void)sigemptyset(&stops);
	(void)sigaddset(&stops, SIGTSTP);
	(void)sigaddset(&stops, SIGTTOU);
	(void)sigprocmask(keep ? SIG_BLOCK : SIG_UNBLOCK, &stops, NULL);
}

void ui_hurry(struct ui *ui, bool hurry)
{
	ui->hurry = hurry;
	keep_going(hurry);
	if (ui->held != NULL)
		atomic_store(ui->held, hurry ? 1 : 0);
	if (hurry)
		return;
	if (ui->queue.len > 0)
		write_queue(ui, STDOUT_FILENO, &ui->queue);
	if (ui->errors.len > 0)
		write_queue(ui, STDERR_FILENO, &ui->errors);
}

bool ui_confirm(struct ui *ui, const char *question)
{
	char answer[16];

	if (ui->json || isatty(STDIN_FILENO) != 1)
		return true;
	ui_status_clear(ui);
	(void)fprintf(stderr, "%s [y/N] ", question);
	(void)fflush(stderr);
	if (fgets(answer, sizeof(answer), stdin) == NULL)
		return false;
	return answer[0] == 'y' || answer[0] == 'Y';
}
