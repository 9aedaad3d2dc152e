/* SPDX-License-Identifier: PostgreSQL */
/*
 * The log of both programs: one line a call, to stderr or syslog, safe from any thread.  Never give
 * it a password or key.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/compiler.h"

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines of a lower importance than `level` are dropped.  Any thread, any time. */
void log_set_level(enum log_level level);
enum log_level log_level(void);

/* "error", "warning", "info" or "debug"; false for another word. */
bool log_level_parse(const char *word, enum log_level *level) MUST_CHECK;

/* Where lines go: to stderr (the default), to syslog under `ident` (kept by the callee), or to the
 * end of a file, which is opened anew at every call; false with errno if it cannot be opened, and
 * lines go on to where they went. */
void log_to_stderr(void);
bool log_to_file(const char *path) MUST_CHECK;
void log_to_syslog(const char *ident);

static inline bool log_wanted(enum log_level level)
{
	return level <= log_level();
}

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (UNLIKELY(log_wanted(LOG_LEVEL_DEBUG)))                                         \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__);                                   \
	} while (0)

#endif
