/* SPDX-License-Identifier: PostgreSQL */
/*
 * The log of both programs: one line a call, to stderr, syslog or a file, as text or as a JSON
 * object, safe from any thread.  Never give it a password or key.
 *
 * A message is known by its format.  When one comes more often in a second than log_set_limit()
 * allows, those beyond are left out, and log_tell_left_out() says how many.  Debug lines have no
 * limit.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/compiler.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
#define LOG_LEVELS (LOG_LEVEL_DEBUG + 1)

/* LOG_FORMAT_PGBOUNCER: text as pgbouncer's log has it, for whatever reads that. */
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON, LOG_FORMAT_PGBOUNCER };

/* Lines of a lower importance than `level` are dropped.  Any thread, any time. */
void log_set_level(enum log_level level);

extern atomic_int log_current_level;

static inline enum log_level log_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_current_level, memory_order_relaxed);
}

const char *log_level_name(enum log_level level);

void log_set_format(enum log_format format);

/* So many lines of one kind in a second; 0, as at the start: no limit. */
void log_set_limit(unsigned lines);

/* Says what was left out since the last call; every second, and at the end. */
void log_tell_left_out(void);

/* Lines written with that level, and lines left out, since the start. */
uint64_t log_count(enum log_level level);
uint64_t log_count_left_out(void);

/* This thread is a worker with that number: JSON lines have it. */
void log_set_worker(unsigned number);

/* "error", "warning", "info" or "debug"; false for another word. */
bool log_level_parse(const char *word, enum log_level *level) MUST_CHECK;

/* Where lines go: to stderr (the default), to syslog under `ident` (kept by the callee), or to the
 * end of a file, which is opened anew at every call; false with errno if it cannot be opened, and
 * lines go on to where they went. */
void log_to_stderr(void);
bool log_to_file(const char *path) MUST_CHECK;
void log_to_syslog(const char *ident, int facility);

static inline bool log_wanted(enum log_level level)
{
	return level <= log_level();
}

/* Whom a line is about: what stands before the message as text, and fields as JSON.  Texts may hold
 * whatever a client has sent; NULL or 0: not known. */
struct log_about {
	const char *database;
	const char *user;
	const char *client_address;
	int client_port;
	uint64_t client_id;
	const char *server;
	const char *server_address; /* in texts only */
	int server_port;
	int server_pid;
};

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
void log_write_about(const struct log_about *about, enum log_level level, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
void log_vwrite_about(const struct log_about *about, enum log_level level, const char *fmt,
                      va_list ap) PRINTF_LIKE(3, 0);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (UNLIKELY(log_wanted(LOG_LEVEL_DEBUG)))                                         \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                   \
	} while (0)

#endif
