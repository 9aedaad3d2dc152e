/* SPDX-License-Identifier: PostgreSQL */
/*
 * The files that say who may log in.  No state; any thread.
 */
#ifndef AUTH_FILE_H
#define AUTH_FILE_H

#include "base/compiler.h"

#include <stddef.h>

/* A regular file of at most `max` bytes, or an empty device (/dev/null), in new memory, with room for
 * one more byte.  NULL with errno.  It may hold secrets: see explicit_bzero(). */
char *auth_read_file(const char *path, size_t max, size_t *len) MUST_CHECK;

#endif
