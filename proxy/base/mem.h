/* SPDX-License-Identifier: PostgreSQL */
/*
 * Allocation.  mem_must_* are for start-up, the console and the mover, where running out of memory
 * ends the program with a message; code that serves clients uses malloc and friends, and a failure
 * closes that one connection.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/compiler.h"

#include <stddef.h>

/* Zeroed memory of `size` bytes, free()d by the caller; never NULL. */
void *mem_must_alloc(size_t size) MUST_CHECK;

/* As realloc(3) for `count` elements of `size` bytes; never NULL. */
void *mem_must_grow(void *ptr, size_t count, size_t size) MUST_CHECK;

/* A copy of `text`, free()d by the caller; NULL only for NULL. */
char *mem_must_strdup(const char *text) MUST_CHECK;

/* A copy of the first `len` bytes of `text` with a terminating zero. */
char *mem_must_strndup(const char *text, size_t len) MUST_CHECK;

/* printf into new memory, free()d by the caller; never NULL. */
char *mem_must_printf(const char *fmt, ...) MUST_CHECK PRINTF_LIKE(1, 2);

/* Overwrites a secret string with zeros, then frees it.  NULL is allowed. */
void mem_free_secret(char *secret);

#endif
