/* SPDX-License-Identifier: PostgreSQL */
#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static NORETURN void out_of_memory(void)
{
	static const char text[] = "pgshunt: out of memory\n";

	(void)fwrite(text, 1, sizeof(text) - 1, stderr);
	abort();
}

void *mem_must_alloc(size_t size)
{
	void *ptr = calloc(1, size == 0 ? 1 : size);

	if (ptr == NULL)
		out_of_memory();
	return ptr;
}

void *mem_must_grow(void *ptr, size_t count, size_t size)
{
	void *grown;

	if (size != 0 && count > SIZE_MAX / size)
		out_of_memory();
	grown = realloc(ptr, count * size == 0 ? 1 : count * size);
	if (grown == NULL)
		out_of_memory();
	return grown;
}

char *mem_must_strdup(const char *text)
{
	return text == NULL ? NULL : mem_must_strndup(text, strlen(text));
}

char *mem_must_strndup(const char *text, size_t len)
{
	char *copy = mem_must_alloc(len + 1);

	memcpy(copy, text, len);
	copy[len] = '\0';
	return copy;
}

char *mem_must_printf(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		out_of_memory();
	return text;
}

void mem_free_secret(char *secret)
{
	if (secret == NULL)
		return;
	explicit_bzero(secret, strlen(secret));
	free(secret);
}
