/* SPDX-License-Identifier: PostgreSQL */
#include "base/sbuf.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sbuf_init(struct sbuf *buf, size_t max)
{
	memset(buf, 0, sizeof(*buf));
	buf->max = max;
}

void sbuf_init_must(struct sbuf *buf, size_t max)
{
	sbuf_init(buf, max);
	buf->patient = true;
}

void sbuf_free(struct sbuf *buf)
{
	const bool patient = buf->patient;

	free(buf->data);
	sbuf_init(buf, buf->max);
	buf->patient = patient;
}

void sbuf_reset(struct sbuf *buf)
{
	buf->len = 0;
	buf->failed = false;
	if (buf->data != NULL)
		buf->data[0] = '\0';
}

const char *sbuf_text(const struct sbuf *buf)
{
	return buf->data == NULL ? "" : buf->data;
}

/* Room for `len` more bytes and the zero; false marks the buffer failed. */
static bool sbuf_reserve(struct sbuf *buf, size_t len)
{
	size_t cap;
	char *grown;

	if (buf->failed || len > buf->max - buf->len) {
		buf->failed = true;
		return false;
	}
	if (buf->data != NULL && buf->len + len + 1 <= buf->cap)
		return true;
	cap = buf->cap == 0 ? 64 : buf->cap;
	while (cap < buf->len + len + 1)
		cap *= 2;
	grown = buf->patient ? mem_must_grow(buf->data, cap, 1) : realloc(buf->data, cap);
	if (grown == NULL) {
		buf->failed = true;
		return false;
	}
	buf->data = grown;
	buf->cap = cap;
	return true;
}

void sbuf_add(struct sbuf *buf, const void *bytes, size_t len)
{
	if (!sbuf_reserve(buf, len))
		return;
	if (len > 0)
		memcpy(buf->data + buf->len, bytes, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

void sbuf_add_str(struct sbuf *buf, const char *text)
{
	sbuf_add(buf, text, strlen(text));
}

void sbuf_add_char(struct sbuf *buf, char c)
{
	sbuf_add(buf, &c, 1);
}

void sbuf_add_be16(struct sbuf *buf, uint16_t value)
{
	unsigned char bytes[2] = {(unsigned char)(value >> 8), (unsigned char)value};

	sbuf_add(buf, bytes, sizeof(bytes));
}

void sbuf_add_be32(struct sbuf *buf, uint32_t value)
{
	unsigned char bytes[4] = {(unsigned char)(value >> 24), (unsigned char)(value >> 16),
				  (unsigned char)(value >> 8), (unsigned char)value};

	sbuf_add(buf, bytes, sizeof(bytes));
}

void sbuf_printf(struct sbuf *buf, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !sbuf_reserve(buf, (size_t)n)) {
		buf->failed = true;
		return;
	}
	va_start(ap, fmt);
	(void)vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	buf->len += (size_t)n;
}

char *sbuf_take(struct sbuf *buf)
{
	char *text;

	if (buf->failed) {
		sbuf_free(buf);
		return NULL;
	}
	sbuf_add(buf, "", 0);
	text = buf->data;
	buf->data = NULL;
	sbuf_free(buf);
	return text;
}
