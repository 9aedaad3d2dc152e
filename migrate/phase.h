/* SPDX-License-Identifier: PostgreSQL */
/*
 * The phases of a move as an enum and a table (migrate/phases.def), and the exit codes.
 */
#ifndef MIGRATE_PHASE_H
#define MIGRATE_PHASE_H

#include <stdbool.h>

enum phase {
#define PHASE(constant, name, title, what, undo, after) constant,
#include "migrate/phases.def"
	PHASE_COUNT
};

struct phase_row {
	const char *name;  /* in the journal and in JSON */
	const char *title; /* for people */
	const char *what;
	const char *undo;
	bool after_promotion;
};

const struct phase_row *phase_row(enum phase phase);

/* How the program ends; the codes are part of its interface (migrate/exits.def). */
enum exit_code {
#define EXIT_ROW(constant, code, word, help) constant = (code),
#include "migrate/exits.def"
};

struct exit_row {
	enum exit_code code;
	const char *word; /* in JSON and in the journal */
	const char *help;
};

/* The row of a code. */
const struct exit_row *exit_row(enum exit_code code);

/* The rows in order, NULL after the last. */
const struct exit_row *exit_row_at(int index);

#endif
