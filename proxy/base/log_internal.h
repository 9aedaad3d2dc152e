/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the files of the log share.  Any thread.
 */
#ifndef BASE_LOG_INTERNAL_H
#define BASE_LOG_INTERNAL_H

#include "base/log.h"

#include <stddef.h>

/* Longest message, and longest line with everything around it. */
#define LOG_MESSAGE_MAX 2048
#define LOG_LINE_MAX 8192

/* log_limit.c: whether one more of this kind may be written now. */
bool log_admits(enum log_level level, const char *fmt);
/* The next kind of which lines were left out, and how many; NULL: no more.  *at begins with 0. */
const char *log_next_left_out(size_t *at, unsigned *count, enum log_level *level);

/* log_json.c: an object and a line feed in `line`; its length. `left_out` > 0: a field of it. */
size_t log_format_json(char line[LOG_LINE_MAX], enum log_level level, const char *when, int worker,
                       const struct log_about *about, unsigned left_out, const char *message);

#endif
