/* SPDX-License-Identifier: PostgreSQL */
#include "base/log.h"

#include "base/clock.h"
#include "base/endpoint.h"
#include "base/log_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	const char *label;
	const char *theirs; /* LOG_FORMAT_PGBOUNCER */
	int priority;
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", "ERROR", "ERROR", LOG_ERR},
    [LOG_LEVEL_WARNING] = {"warning", "WARNING", "WARNING", LOG_WARNING},
    [LOG_LEVEL_INFO] = {"info", "INFO", "LOG", LOG_INFO},
    [LOG_LEVEL_DEBUG] = {"debug", "DEBUG", "DEBUG", LOG_DEBUG},
};

atomic_int log_current_level = LOG_LEVEL_INFO;
static atomic_bool use_syslog;
static atomic_int format_now = LOG_FORMAT_TEXT;
static _Atomic uint64_t written[LOG_LEVELS];
static _Thread_local int worker = -1;
static atomic_int output = STDERR_FILENO;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_current_level, (int)level, memory_order_relaxed);
}

const char *log_level_name(enum log_level level)
{
	return levels[level].name;
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

void log_to_syslog(const char *ident, int facility)
{
	static char kept[64];

	(void)snprintf(kept, sizeof(kept), "%s", ident);
	openlog(kept, LOG_PID | LOG_NDELAY, facility);
	atomic_store(&use_syslog, true);
}

void log_set_format(enum log_format format)
{
	atomic_store(&format_now, (int)format);
}

void log_set_worker(unsigned number)
{
	worker = (int)number;
}

uint64_t log_count(enum log_level level)
{
	return atomic_load_explicit(&written[level], memory_order_relaxed);
}

/* Control bytes would let a client write log lines of its own. */
static void log_make_printable(char *text)
{
	for (char *p = text; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	}
}

static const char *or_empty(const char *text)
{
	return text == NULL ? "" : text;
}

static struct endpoint_text server_address(const struct log_about *about)
{
	return about->server_address == NULL
	           ? (struct endpoint_text){.text = ""}
	           : endpoint_text(about->server_address, about->server_port);
}

/* "client app/shop@10.0.0.7:5432: " */
static void log_format_about(char *out, size_t size, const struct log_about *about)
{
	char pid[32] = "";

	out[0] = '\0';
	if (about == NULL)
		return;
	if (about->server != NULL) {
		if (about->server_pid > 0)
			(void)snprintf(pid, sizeof(pid), " pid %d", about->server_pid);
		(void)snprintf(out, size, "server %.128s %.128s/%.128s%s%s%s: ", about->server,
		               or_empty(about->database), or_empty(about->user),
		               about->server_address == NULL ? "" : "@", server_address(about).text,
		               pid);
	} else {
		const struct endpoint_text client =
		    endpoint_text(or_empty(about->client_address), about->client_port);

		(void)snprintf(out, size, "client %.128s/%.128s@%s: ", or_empty(about->database),
		               or_empty(about->user), client.text);
	}
}

static size_t log_format_text(char line[LOG_LINE_MAX], enum log_level level, const char *when,
                              const struct log_about *about, const char *message)
{
	char whom[512];
	int head = 0;

	log_format_about(whom, sizeof(whom), about);
	if (!atomic_load(&use_syslog))
		head = snprintf(line, LOG_LINE_MAX, "%s [%d] %s ", when, (int)getpid(),
		                levels[level].label);
	(void)snprintf(line + head, LOG_LINE_MAX - (size_t)head - 1, "%s%s", whom, message);
	log_make_printable(line + head);
	return strlen(line);
}

/* "2026-01-31 15:29:18.003 UTC [4711] LOG C-0x2a: shop/app@10.0.0.7:5432 message", local time. */
static size_t log_format_theirs(char line[LOG_LINE_MAX], enum log_level level, usec_t wall,
                                const struct log_about *about, const char *message)
{
	const time_t second = (time_t)(wall / USEC_PER_SEC);
	char whom[512] = "";
	char when[64];
	char zone[16];
	struct tm tm;
	int head = 0;

	if (!atomic_load(&use_syslog) && localtime_r(&second, &tm) != NULL &&
	    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm) > 0 &&
	    strftime(zone, sizeof(zone), "%Z", &tm) > 0)
		head = snprintf(line, LOG_LINE_MAX, "%s.%03d %s [%d] %s ", when,
		                (int)(wall % USEC_PER_SEC / 1000), zone, (int)getpid(),
		                levels[level].theirs);
	if (about != NULL && about->server != NULL)
		(void)snprintf(
		    whom, sizeof(whom), "S-0x%x: %.128s/%.128s@%.128s ",
		    (unsigned)about->server_pid, or_empty(about->database), or_empty(about->user),
		    about->server_address == NULL ? about->server : server_address(about).text);
	else if (about != NULL)
		(void)snprintf(
		    whom, sizeof(whom), "C-0x%llx: %.128s/%.128s@%s ",
		    (unsigned long long)about->client_id, or_empty(about->database),
		    or_empty(about->user),
		    endpoint_text(or_empty(about->client_address), about->client_port).text);
	(void)snprintf(line + head, LOG_LINE_MAX - (size_t)head - 1, "%s%s", whom, message);
	log_make_printable(line + head);
	return strlen(line);
}

/* The line with its line feed; its length. */
static size_t log_format(char line[LOG_LINE_MAX], enum log_level level,
                         const struct log_about *about, unsigned left_out, const char *message)
{
	const int format = atomic_load(&format_now);
	const usec_t wall = clock_wall();
	char when[CLOCK_TEXT_MAX];
	size_t len;

	(void)clock_format(wall, when);
	if (format == LOG_FORMAT_JSON)
		return log_format_json(line, level, when, worker, about, left_out, message);
	len = format == LOG_FORMAT_PGBOUNCER ? log_format_theirs(line, level, wall, about, message)
	                                     : log_format_text(line, level, when, about, message);
	line[len] = '\n';
	return len + 1;
}

/* Lines that could not be written, as on a full disk: the first is told on stderr, if that is
 * somewhere else, and when there is room again their number is told in the log. */
static atomic_uint lost;
static atomic_bool told;    /* on stderr; another thread may just be trying to write their number */
static atomic_bool cut_off; /* of the last one there is a part */

/* False: errno says why. */
static bool log_put_whole(int fd, const char *line, size_t len)
{
	ssize_t n = write(fd, line, len);

	if (LIKELY(n == (ssize_t)len))
		return true;
	/* The rest says what is the matter. */
	if (n > 0 && write(fd, line + n, len - (size_t)n) == (ssize_t)len - n)
		return true;
	if (n > 0)
		atomic_store(&cut_off, true);
	return false;
}

static void log_tell_lost(int fd)
{
	char line[1 + LOG_LINE_MAX] = "\n";
	char message[128];
	unsigned count = atomic_exchange(&lost, 0);
	size_t begin = atomic_exchange(&cut_off, false) ? 1 : 0;

	if (count == 0)
		return;
	(void)snprintf(message, sizeof(message),
	               "the log could not be written: %u lines are missing here", count);
	if (log_put_whole(fd, line,
	                  begin +
	                      log_format(line + begin, LOG_LEVEL_ERROR, NULL, count, message))) {
		atomic_store(&told, false);
		return;
	}
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
	if (LIKELY(log_put_whole(fd, line, len)))
		return;
	if (!atomic_exchange(&told, true) && fd != STDERR_FILENO)
		(void)dprintf(STDERR_FILENO, "the log cannot be written: %s\n", strerror(errno));
	atomic_fetch_add(&lost, 1);
}

static void log_emit(enum log_level level, const struct log_about *about, unsigned left_out,
                     const char *message)
{
	char line[LOG_LINE_MAX];
	size_t len;

	atomic_fetch_add_explicit(&written[level], 1, memory_order_relaxed);
	len = log_format(line, level, about, left_out, message);
	if (atomic_load(&use_syslog)) {
		syslog(levels[level].priority, "%.*s", (int)len - 1, line);
		return;
	}
	log_put(line, len);
}

void log_vwrite_about(const struct log_about *about, enum log_level level, const char *fmt,
                      va_list ap)
{
	char message[LOG_MESSAGE_MAX];

	if (!log_wanted(level) || !log_admits(level, fmt) ||
	    vsnprintf(message, sizeof(message), fmt, ap) < 0)
		return;
	log_emit(level, about, 0, message);
}

void log_write_about(const struct log_about *about, enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vwrite_about(about, level, fmt, ap);
	va_end(ap);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vwrite_about(NULL, level, fmt, ap);
	va_end(ap);
}

/* What a format looks like without its arguments: "cannot accept connections: …". */
static void log_describe(const char *fmt, char *out, size_t size)
{
	static const char dots[] = "…";
	size_t used = 0;

	while (*fmt != '\0' && used + sizeof(dots) < size) {
		if (*fmt != '%') {
			out[used++] = *fmt++;
			continue;
		}
		fmt += 1 + strspn(fmt + 1, "-+ #0123456789.*hlzjt");
		if (*fmt == '%')
			out[used++] = '%';
		else
			used += (size_t)snprintf(out + used, size - used, "%s", dots);
		fmt += *fmt != '\0';
	}
	out[used] = '\0';
}

void log_tell_left_out(void)
{
	enum log_level level;
	unsigned count;
	size_t at = 0;
	const char *fmt;

	while ((fmt = log_next_left_out(&at, &count, &level)) != NULL) {
		char message[LOG_MESSAGE_MAX];
		int head = snprintf(message, sizeof(message), "%u like this left out: ", count);

		log_describe(fmt, message + head, sizeof(message) - (size_t)head);
		log_emit(level, NULL, count, message);
	}
}
