/* SPDX-License-Identifier: PostgreSQL */
/*
 * The reader of the state directory.  What it accepts must be written and read again as the same.
 */
#include "core/state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const struct state *state)
{
	struct sbuf first;
	struct sbuf second;
	struct sbuf error;
	struct state again = {0};

	sbuf_init(&first, STATE_FILE_MAX);
	sbuf_init(&second, STATE_FILE_MAX);
	sbuf_init(&error, 1000);
	state_format(state, &first);
	if (!state_parse("f", sbuf_text(&first), first.len, &again, &error))
		abort();
	state_format(&again, &second);
	if (first.len != second.len ||
	    memcmp(sbuf_text(&first), sbuf_text(&second), first.len) != 0)
		abort();
	state_free(&again);
	sbuf_free(&first);
	sbuf_free(&second);
	sbuf_free(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state state = {0};
	struct sbuf error;

	sbuf_init(&error, 1000);
	if (state_parse("f", (const char *)data, size, &state, &error))
		check_again(&state);
	else if (error.len == 0)
		abort();
	state_free(&state);
	sbuf_free(&error);
	return 0;
}
