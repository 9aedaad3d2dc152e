/* SPDX-License-Identifier: PostgreSQL */
/*
 * The command line of pgshunt.
 */
#ifndef MIGRATE_COMMAND_H
#define MIGRATE_COMMAND_H

#include "conf/config.h"
#include "migrate/phase.h"
#include "migrate/ui.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct move;

enum command_option {
#define OPTION(id, name, argument, help) OPTION_##id,
#include "migrate/options.def"
	OPTION_COUNT
};

struct command_line {
	const char *command;
	const char *option[OPTION_COUNT]; /* its argument, "" for one without, NULL = not given */
	char **names;                     /* SHARD... or MOVE; point into argv */
	size_t name_count;
	int lock_fd; /* that of journal_lock(), -1 = not taken */
};

/* Reads the command line.  False: *code is the exit code (help, version, or a usage error that was
 * shown). */
bool command_parse(int argc, char **argv, struct command_line *line,
                   enum exit_code *code) MUST_CHECK;

/* man.c: what the program prints about itself. */
void command_print_manual(FILE *out);
void command_print_completion(FILE *out);
enum exit_code command_complete(const char *what, const struct config *config);

/* Carries it out. */
enum exit_code command_run(const struct command_line *line, const struct config *config,
                           struct ui *ui);

/* command_plan(), command_check(), ...: one for each row of commands.def, in a file of its own or
 * in command_move.c. */
#define COMMAND(name, arguments, names, options, lock, help)                                       \
	enum exit_code command_##name(const struct command_line *line,                             \
	                              const struct config *config, struct ui *ui);
#include "migrate/commands.def"

/* What the commands that are given shards and --to begin with: plan and checks.  EXIT_DONE if the
 * move may begin.  `all`: checks that passed are shown as well. */
enum exit_code command_examine(struct move *move, const struct command_line *line, bool all,
                               bool lock);

/* Gives both locks back: what is left to be done only reads, and others need not wait for it. */
void command_let_others(struct move *move, const struct command_line *line);

#endif
