/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/phase.h"

#include "base/compiler.h"

#include <assert.h>
#include <stddef.h>

static const struct phase_row phase_rows[] = {
#define PHASE(constant, name, title, what, undo, after)                                            \
	[constant] = {name, title, what, undo, after},
#include "migrate/phases.def"
};

static const struct exit_row exit_rows[] = {
#define EXIT_ROW(constant, code, word, help) {constant, word, help},
#include "migrate/exits.def"
};

const struct phase_row *phase_row(enum phase phase)
{
	assert(phase < PHASE_COUNT);
	return &phase_rows[phase];
}

const struct exit_row *exit_row_at(int index)
{
	return (size_t)index < ARRAY_LEN(exit_rows) ? &exit_rows[index] : NULL;
}

const struct exit_row *exit_row(enum exit_code code)
{
	for (size_t i = 0; i < ARRAY_LEN(exit_rows); i++) {
		if (exit_rows[i].code == code)
			return &exit_rows[i];
	}
	return &exit_rows[1];
}
