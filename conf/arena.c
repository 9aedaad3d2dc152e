/* SPDX-License-Identifier: PostgreSQL */
#include "conf/arena.h"

#include "base/mem.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* One allocation each: the file is bounded, and the tools that watch memory see every overrun. */
struct config_block {
	struct config_block *next;
	max_align_t bytes[];
};

void *arena_alloc(struct config_block **blocks, size_t size)
{
	struct config_block *block = mem_must_alloc(sizeof(*block) + size);

	block->next = *blocks;
	*blocks = block;
	return block->bytes;
}

char *arena_strndup(struct config_block **blocks, const char *text, size_t len)
{
	char *copy = arena_alloc(blocks, len + 1);

	if (len > 0)
		memcpy(copy, text, len);
	return copy;
}

char *arena_strdup(struct config_block **blocks, const char *text)
{
	return arena_strndup(blocks, text, strlen(text));
}

void arena_free(struct config_block **blocks)
{
	while (*blocks != NULL) {
		struct config_block *next = (*blocks)->next;

		free(*blocks);
		*blocks = next;
	}
}
