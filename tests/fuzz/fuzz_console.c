/* SPDX-License-Identifier: PostgreSQL */
/*
 * The parser of console commands, as a simple Query uses it: statement after statement until the
 * end or an error, whose position must lie in the text.
 */
#include "control/command.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Exactly as large as the text, so that a read behind it is seen. */
	char *text = malloc(size == 0 ? 1 : size);
	struct command command;
	struct command_error error;
	enum command_result result;
	size_t offset = 0;

	if (text == NULL)
		return 0;
	if (size > 0)
		memcpy(text, data, size);
	do {
		size_t before = offset;

		result = command_parse(text, size, &offset, &command, &error);
		if (offset < before || offset > size)
			abort();
		if (result == COMMAND_BAD &&
		    (error.position == 0 || error.position > size + 1 || error.detail[0] == '\0'))
			abort();
		if (result == COMMAND_PARSED &&
		    (offset == before || command.id >= COMMAND_COUNT ||
		     memchr(command.database, '\0', sizeof(command.database)) == NULL))
			abort();
	} while (result == COMMAND_PARSED);
	free(text);
	return 0;
}
