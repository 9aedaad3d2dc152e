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

struct command_line {
	const char *config_path;
	const char *command;
	const char *to;
	const char *all_of;
	char **names; /* SHARD... or MOVE; point into argv */
	size_t name_count;
	bool json;
	bool yes;
};

/* Reads the command line.  False: *code is the exit code (help, version, or a usage error that was
 * shown). */
bool command_parse(int argc, char **argv, struct command_line *line,
                   enum exit_code *code) MUST_CHECK;

/* Carries it out. */
enum exit_code command_run(const struct command_line *line, const struct config *config,
                           struct ui *ui);

/* status.c */
enum exit_code status_show(const struct config *config, struct ui *ui);

#endif
