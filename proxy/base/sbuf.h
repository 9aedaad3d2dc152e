/* SPDX-License-Identifier: PostgreSQL */
/*
 * A growing string of bytes with a bound given at birth.  An append that would pass the bound, or
 * for which there is no memory, is dropped and marks the buffer failed: check sbuf_ok() once at the
 * end.  The text is always terminated by a zero byte that does not count.
 */
#ifndef BASE_SBUF_H
#define BASE_SBUF_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sbuf {
	char *data; /* NULL until the first append */
	size_t len;
	size_t cap;
	size_t max; /* most bytes it may hold, without the terminating zero */
	bool failed;
	bool patient; /* lack of memory is waited for, as by mem_must_alloc() */
};

void sbuf_init(struct sbuf *buf, size_t max);

/* One that fails at its bound only. */
void sbuf_init_must(struct sbuf *buf, size_t max);
void sbuf_free(struct sbuf *buf);

/* Empties it and clears the failure; keeps the memory. */
void sbuf_reset(struct sbuf *buf);

static inline bool sbuf_ok(const struct sbuf *buf)
{
	return !buf->failed;
}

/* The text; "" when nothing was appended.  Valid until the next change. */
const char *sbuf_text(const struct sbuf *buf);

void sbuf_add(struct sbuf *buf, const void *bytes, size_t len);
void sbuf_add_str(struct sbuf *buf, const char *text); /* without its zero */
void sbuf_add_char(struct sbuf *buf, char c);
void sbuf_add_be16(struct sbuf *buf, uint16_t value);
void sbuf_add_be32(struct sbuf *buf, uint32_t value);
void sbuf_printf(struct sbuf *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The text to its caller, who free()s it; the buffer is empty then.  NULL if it failed. */
char *sbuf_take(struct sbuf *buf) MUST_CHECK;

#endif
