/* SPDX-License-Identifier: PostgreSQL */
#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#define LOG_LINE_MAX 2048

static const struct {
	const char *name;
	const char *label;
	int priority;
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", "ERROR", LOG_ERR},
    [LOG_LEVEL_WARNING] = {"warning", "WARNING", LOG_WARNING},
    [LOG_LEVEL_INFO] = {"info", "INFO", LOG_INFO},
    [LOG_LEVEL_DEBUG] = {"debug", "DEBUG", LOG_DEBUG},
};

static atomic_int current_level = LOG_LEVEL_INFO;
static atomic_bool use_syslog;
static atomic_int output = STDERR_FILENO;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum log_level log_level(void)
{
	return (enum log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

bool log_level_parse(const char *word, enum log_level *level)
{
	for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
		if (strcmp(word, levels[i].name) == 0) {
			*level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

void log_to_stderr(void)
{
	atomic_store(&use_syslog, false);
	atomic_store(&output, STDERR_FILENO);
}

bool log_to_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	int old = atomic_load(&output);

	if (fd < 0)
		return false;
	if (old == STDERR_FILENO) {
		atomic_store(&output, fd);
	} else {
		/* The number stays: another thread may be about to write to it. */
		(void)dup3(fd, old, O_CLOEXEC);
		(void)close(fd);
	}
	atomic_store(&use_syslog, false);
	return true;
}

void log_to_syslog(const char *ident)
{
	static char kept[64];

	(void)snprintf(kept, sizeof(kept), "%s", ident);
	openlog(kept, LOG_PID | LOG_NDELAY, LOG_DAEMON);
	atomic_store(&use_syslog, true);
}

/* Control bytes would let a client write log lines of its own. */
static void log_make_printable(char *text)
{
	for (char *p = text; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	}
}

/* Lines that could not be written, as on a full disk: the first is told on stderr, if that is
 * somewhere else, and when there is room again their number is told in the log. */
static atomic_uint lost;
static atomic_bool cut_off; /* of the last one there is a part */

static bool log_put_whole(int fd, const char *line, size_t len)
{
	ssize_t n = write(fd, line, len);

	if (UNLIKELY(n >= 0 && n < (ssize_t)len))
		atomic_store(&cut_off, n > 0 || atomic_load(&cut_off));
	return n == (ssize_t)len;
}

static void log_tell_lost(int fd)
{
	char line[160] = "\n";
	char when[CLOCK_TEXT_MAX];
	unsigned count = atomic_exchange(&lost, 0);
	size_t begin = atomic_exchange(&cut_off, false) ? 1 : 0;

	if (count == 0)
		return;
	(void)snprintf(line + begin, sizeof(line) - begin,
	               "%s [%d] %s the log could not be written: %u lines are missing here\n",
	               clock_format(clock_wall(), when), (int)getpid(),
	               levels[LOG_LEVEL_ERROR].label, count);
	if (log_put_whole(fd, line, strlen(line)))
		return;
	atomic_fetch_add(&lost, count);
	if (begin > 0)
		atomic_store(&cut_off, true);
}

/* One write a line keeps the lines of several threads whole. */
static void log_put(const char *line, size_t len)
{
	int fd = atomic_load(&output);

	if (UNLIKELY(atomic_load_explicit(&lost, memory_order_relaxed) > 0))
		log_tell_lost(fd);
	if (UNLIKELY(!log_put_whole(fd, line, len)) && atomic_fetch_add(&lost, 1) == 0 &&
	    fd != STDERR_FILENO)
		(void)dprintf(STDERR_FILENO, "the log cannot be written: %s\n", strerror(errno));
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_MAX];
	char when[CLOCK_TEXT_MAX];
	int head;
	int body;
	size_t len;
	va_list ap;

	if (!log_wanted(level))
		return;
	head = snprintf(line, sizeof(line), "%s [%d] %s ", clock_format(clock_wall(), when),
	                (int)getpid(), levels[level].label);
	va_start(ap, fmt);
	body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	if (body < 0)
		return;
	log_make_printable(line + head);
	if (atomic_load(&use_syslog)) {
		syslog(levels[level].priority, "%s", line + head);
		return;
	}
	len = strlen(line);
	line[len] = '\n';
	log_put(line, len + 1);
}
