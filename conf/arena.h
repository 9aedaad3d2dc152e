/* SPDX-License-Identifier: PostgreSQL */
/*
 * Memory that is freed all at once: of a configuration, and of the tree it is made from.
 */
#ifndef CONF_ARENA_H
#define CONF_ARENA_H

#include "base/compiler.h"

#include <stddef.h>

struct config_block;

/* Zeroed memory that lives until arena_free(); never NULL. */
void *arena_alloc(struct config_block **blocks, size_t size) MUST_CHECK;
char *arena_strndup(struct config_block **blocks, const char *text, size_t len) MUST_CHECK;
char *arena_strdup(struct config_block **blocks, const char *text) MUST_CHECK;

void arena_free(struct config_block **blocks);

#endif
