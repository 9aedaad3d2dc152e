/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/command.h"

#include "base/mem.h"
#include "migrate/journal.h"
#include "migrate/move.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define DEFAULT_CONFIG "/etc/pgshunt/pgshunt.yml"
#define BIT(option) (1u << (option))
#define COMMON_OPTIONS                                                                             \
	(BIT(OPTION_CONFIG) | BIT(OPTION_JSON) | BIT(OPTION_HELP) | BIT(OPTION_VERSION))

enum names { NAMES_NONE, NAMES_TO, NAMES_SHARDS, NAMES_MOVE };
enum lock { OPEN, LOCK };

static const struct command {
	const char *name;
	const char *arguments;
	enum names names;
	unsigned options;
	enum lock lock;
	const char *help;
	enum exit_code (*run)(const struct command_line *line, const struct config *config,
	                      struct ui *ui);
} commands[] = {
#define COMMAND(name, arguments, names, options, lock, help)                                       \
	{#name, arguments, names, options, lock, help, command_##name},
#include "migrate/commands.def"
};

static const struct {
	const char *name;
	const char *argument;
	const char *help;
} option_rows[] = {
#define OPTION(id, name, argument, help) {name, argument, help},
#include "migrate/options.def"
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

/* ---- help ---- */

static void print_options(unsigned options)
{
	char text[64];

	(void)printf("\nOptions:\n");
	for (size_t i = 0; i < ARRAY_LEN(option_rows); i++) {
		if ((options & BIT(i)) == 0)
			continue;
		(void)snprintf(text, sizeof(text), "--%s %s", option_rows[i].name,
		               option_rows[i].argument == NULL ? "" : option_rows[i].argument);
		(void)printf("  %-18s %s\n", text, option_rows[i].help);
	}
}

static void print_exits(void)
{
	(void)printf("\nExit codes:\n");
	for (int i = 0; exit_row_at(i) != NULL; i++)
		(void)printf("  %d  %s\n", (int)exit_row_at(i)->code, exit_row_at(i)->help);
}

static void print_command(const struct command *command)
{
	(void)printf("Usage: pgshunt [--config FILE] %s %s%s[OPTION...]\n\n%s\n", command->name,
	             command->arguments, *command->arguments == '\0' ? "" : " ", command->help);
	if (strcmp(command->name, "move") == 0) {
		(void)printf("\nPhases:\n");
		for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
			(void)printf("  %-20s %s\n", phase_row(phase)->title,
			             phase_row(phase)->what);
	}
	print_options(command->options | COMMON_OPTIONS);
	print_exits();
}

static void print_help(void)
{
	(void)printf(
	    "pgshunt moves shard databases from one PostgreSQL server to another while "
	    "their clients run.\n\nUsage: pgshunt [--config FILE] COMMAND ...\n\nCommands:\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		(void)printf("  %-10s %s\n             %.*s\n", commands[i].name,
		             commands[i].arguments, (int)strcspn(commands[i].help, "\n"),
		             commands[i].help);
	(void)fputs(
	    "  import-pgbouncer FILE\n             Print a pgbouncer.ini as YAML of pgshuntd, with "
	    "comments on what has no counterpart.\n"
	    "  import-commcare DIRECTORY\n             Print the configuration that a "
	    "commcare-cloud environment gives, as YAML.\n",
	    stdout);
	print_options(~0u);
	print_exits();
}

/* ---- the command line ---- */

static PRINTF_LIKE(2, 3) bool usage(enum exit_code *code, const char *fmt, ...)
{
	va_list args;

	(void)fputs("pgshunt: ", stderr);
	va_start(args, fmt);
	(void)vfprintf(stderr, fmt, args);
	va_end(args);
	(void)fputs("; see \"pgshunt --help\"\n", stderr);
	*code = EXIT_USAGE;
	return false;
}

static bool check_names(const struct command_line *line, const struct command *command,
                        enum exit_code *code)
{
	if (command->names == NAMES_TO && line->option[OPTION_TO] == NULL)
		return usage(code, "--to SERVER is missing");
	if (command->names == NAMES_TO &&
	    (line->name_count == 0) == (line->option[OPTION_ALL_OF] == NULL))
		return usage(code, "name shards, or give --all-of SERVER");
	if ((command->names == NAMES_NONE && line->name_count > 0) ||
	    (command->names == NAMES_MOVE && line->name_count > 1))
		return usage(code, "too many arguments: %s", line->names[line->name_count - 1]);
	return true;
}

static bool check_line(const struct command_line *line, enum exit_code *code)
{
	const struct command *command;

	if (line->command == NULL)
		return usage(code, "no command is given");
	command = find_command(line->command);
	if (command == NULL)
		return usage(code, "there is no command %s", line->command);
	for (size_t i = 0; i < OPTION_COUNT; i++) {
		if (line->option[i] != NULL && ((command->options | COMMON_OPTIONS) & BIT(i)) == 0)
			return usage(code, "%s takes no option --%s", command->name,
			             option_rows[i].name);
	}
	return check_names(line, command, code);
}

bool command_parse(int argc, char **argv, struct command_line *line, enum exit_code *code)
{
	struct option options[OPTION_COUNT + 1] = {{0}};
	const struct command *command;
	int option;

	*line = (struct command_line){.option = {[OPTION_CONFIG] = DEFAULT_CONFIG}, .lock_fd = -1};
	for (int i = 0; i < OPTION_COUNT; i++)
		options[i] = (struct option){
		    .name = option_rows[i].name,
		    .has_arg = option_rows[i].argument == NULL ? no_argument : required_argument,
		    .val = 256 + i};
	while ((option = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		if (option == '?') {
			*code = EXIT_USAGE;
			return false;
		}
		line->option[option == 'c' ? OPTION_CONFIG : option - 256] =
		    optarg == NULL ? "" : optarg;
	}
	/* getopt has put what is no option last. */
	line->command = optind < argc ? argv[optind] : NULL;
	line->names = argv + optind + (optind < argc ? 1 : 0);
	line->name_count = (size_t)(argv + argc - line->names);
	*code = EXIT_DONE;
	if (line->option[OPTION_VERSION] != NULL) {
		(void)printf("pgshunt " PGSHUNT_VERSION "\n");
		return false;
	}
	if (line->option[OPTION_HELP] != NULL) {
		command = line->command == NULL ? NULL : find_command(line->command);
		if (command == NULL)
			print_help();
		else
			print_command(command);
		return false;
	}
	if (line->option[OPTION_MAN] != NULL || line->option[OPTION_COMPLETION] != NULL) {
		(line->option[OPTION_MAN] != NULL ? command_print_manual
		                                  : command_print_completion)(stdout);
		return false;
	}
	return line->option[OPTION_COMPLETE] != NULL || check_line(line, code);
}

enum exit_code command_run(const struct command_line *line, const struct config *config,
                           struct ui *ui)
{
	struct command_line locked = *line;
	const struct command *command;
	struct sbuf error;
	enum exit_code code;

	if (line->option[OPTION_COMPLETE] != NULL)
		return command_complete(line->option[OPTION_COMPLETE], config);
	command = find_command(line->command);
	if (command->lock == OPEN)
		return command->run(line, config, ui);
	sbuf_init(&error, 4096);
	locked.lock_fd = journal_lock(config->mover.journal_directory, &error);
	if (locked.lock_fd < 0)
		ui_error(ui, "%s", sbuf_text(&error));
	sbuf_free(&error);
	if (locked.lock_fd < 0)
		return EXIT_INTERNAL;
	code = command->run(&locked, config, ui);
	(void)close(locked.lock_fd);
	return code;
}

void command_let_others(struct move *move, const struct command_line *line)
{
	move_unlock_source(move);
	(void)flock(line->lock_fd, LOCK_UN);
}
