/* SPDX-License-Identifier: PostgreSQL */
/*
 * Allocation.  mem_must_* are for start-up, the mover, and the proxy's main thread, never for code
 * that serves clients: that uses malloc and friends, and a failure closes that one connection.
 *
 * When mem_must_* gets no memory the program ends with a message, until mem_be_patient() is called:
 * then it says so in the log and waits until there is some.  The threads that serve clients go on
 * meanwhile, and what they free is what is waited for.
 *
 * A few blocks are kept for the letters between threads, which must not get lost.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdarg.h>
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
char *mem_must_vprintf(const char *fmt, va_list args) MUST_CHECK PRINTF_LIKE(1, 0);

/* From now on lack of memory is waited for. */
void mem_be_patient(void);

/* For what has a function of its own to allocate, and got nothing: waits for a moment, or ends the
 * program.  `tries` is 0 before the first time. */
void mem_wait(unsigned *tries, size_t size);

/* A line in the log, at most one a second, about something that ended for lack of memory. */
void mem_complain(const char *what);

/* Zeroed memory of at most MEM_SPARE_SIZE bytes for which blocks are kept; NULL when these are used
 * up, too.  free()d by the caller.  Any thread. */
#define MEM_SPARE_SIZE 512u
void *mem_spare_alloc(size_t size) MUST_CHECK;

/* Makes up for the blocks that were used, as far as there is memory.  Any thread, often. */
void mem_spare_fill(void);
void mem_spare_free(void);

/* Overwrites a secret string with zeros, then frees it.  NULL is allowed. */
void mem_free_secret(char *secret);

#endif
