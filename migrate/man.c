/* SPDX-License-Identifier: PostgreSQL */
/*
 * What pgshunt prints about itself from its tables: the manual page and the completion of bash.
 */
#include "base/compiler.h"
#include "base/roff.h"
#include "migrate/command.h"
#include "migrate/journal.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BIT(option) (1u << (option))
#define COMMON_OPTIONS                                                                             \
	(BIT(OPTION_CONFIG) | BIT(OPTION_JSON) | BIT(OPTION_HELP) | BIT(OPTION_VERSION))

static const struct {
	const char *name;
	const char *arguments;
	unsigned options;
	const char *words; /* what its arguments are */
	const char *help;
} commands[] = {
#define NAMES_NONE ""
#define NAMES_TO "shards"
#define NAMES_SHARDS "shards"
#define NAMES_MOVE "moves"
#define COMMAND(name, arguments, names, options, lock, help)                                       \
	{#name, arguments, options, names, help},
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

/* ---- the manual page ---- */

static void print_option(FILE *out, size_t option)
{
	char term[64];

	(void)snprintf(term, sizeof(term), "--%s%s%s", option_rows[option].name,
	               option_rows[option].argument == NULL ? "" : " ",
	               option_rows[option].argument == NULL ? "" : option_rows[option].argument);
	roff_item(out, term, option_rows[option].help);
}

static void print_commands(FILE *out)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		bool first = true;

		(void)fputs(".TP\n.B ", out);
		roff_text(out, commands[i].name);
		(void)fputs(".I ", out);
		roff_text(out, commands[i].arguments);
		(void)fputs(".br\n", out);
		roff_text(out, commands[i].help);
		for (size_t j = 0; j < ARRAY_LEN(option_rows); j++) {
			if ((commands[i].options & BIT(j)) == 0)
				continue;
			(void)fputs(first ? ".br\nOptions:" : ",", out);
			(void)fprintf(out, " \\-\\-%s", option_rows[j].name);
			first = false;
		}
		(void)fputs(first ? "" : ".\n", out);
	}
}

void command_print_manual(FILE *out)
{
	roff_begin(out, "pgshunt", 1, "move a live PostgreSQL database from one server to another");
	roff_section(out, "SYNOPSIS");
	(void)fputs(".B pgshunt\n[\\-\\-config FILE] COMMAND [ARGUMENT...] [OPTION...]\n", out);
	roff_section(out, "DESCRIPTION");
	roff_text(
	    out,
	    "pgshunt moves shard databases from one PostgreSQL server to its streaming standby\n"
	    "while their clients run: it holds the clients in pgshuntd and in pgbouncer, closes\n"
	    "the database on the old server, promotes the new one, proves that nothing was left\n"
	    "behind, and lets the clients go on.  It keeps a journal, can be killed at any\n"
	    "point, and then completes or undoes what it began.");
	roff_section(out, "COMMANDS");
	print_commands(out);
	roff_section(out, "OPTIONS");
	for (size_t i = 0; i < ARRAY_LEN(option_rows); i++)
		print_option(out, i);
	roff_section(out, "PHASES OF A MOVE");
	for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
		roff_item(out, phase_row(phase)->title, phase_row(phase)->what);
	roff_section(out, "EXIT STATUS");
	for (int i = 0; exit_row_at(i) != NULL; i++) {
		char term[8];

		(void)snprintf(term, sizeof(term), "%d", (int)exit_row_at(i)->code);
		roff_item(out, term, exit_row_at(i)->help);
	}
	roff_section(out, "FILES");
	roff_item(out, "/etc/pgshunt/pgshunt.yml", "the configuration, one for both programs");
	roff_item(out, "/var/lib/pgshunt/moves",
	          "mover.journal_directory: a directory for each move, in it journal.jsonl,\n"
	          "report.json, report.html, comparison.json");
	roff_section(out, "ENVIRONMENT");
	roff_text(out,
	          "Where neither a password file nor a variable is configured, what libpq reads\n"
	          "applies: PGPASSFILE, PGPASSWORD, PGSSLMODE and the like.");
	roff_section(out, "SEE ALSO");
	(void)fputs(".BR pgshuntd (8),\n.BR psql (1)\n", out);
}

/* ---- completion ---- */

static void print_case(FILE *out, size_t command)
{
	(void)fprintf(out, "\t%s)\n\t\toptions=\"", commands[command].name);
	for (size_t j = 0; j < ARRAY_LEN(option_rows); j++) {
		if (((commands[command].options | COMMON_OPTIONS) & BIT(j)) != 0)
			(void)fprintf(out, "--%s ", option_rows[j].name);
	}
	(void)fprintf(out, "\"\n\t\tnames=\"%s\"\n\t\t;;\n", commands[command].words);
}

void command_print_completion(FILE *out)
{
	(void)fputs("# bash completion of pgshunt; printed by pgshunt --completion\n"
	            "_pgshunt() {\n"
	            "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
	            "\tlocal i quoted command= config= options= names=\n"
	            "\tlocal -a offers=()\n"
	            "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	            "\t\tcase ${COMP_WORDS[i]} in\n"
	            "\t\t--config | -c) config=${COMP_WORDS[++i]} ;;\n"
	            "\t\t--to | --from | --all-of | --slot | --environment) i=$((i + 1)) ;;\n"
	            "\t\t-*) ;;\n"
	            "\t\t*) [[ -n $command ]] || command=${COMP_WORDS[i]} ;;\n"
	            "\t\tesac\n"
	            "\tdone\n"
	            "\tcase $prev in\n"
	            "\t--config | -c | import-pgbouncer)\n"
	            "\t\tcompopt -o filenames 2>/dev/null\n"
	            "\t\tmapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
	            "\t\treturn\n"
	            "\t\t;;\n"
	            "\t--environment | import-commcare)\n"
	            "\t\tcompopt -o filenames 2>/dev/null\n"
	            "\t\tmapfile -t COMPREPLY < <(compgen -d -- \"$cur\")\n"
	            "\t\treturn\n"
	            "\t\t;;\n"
	            "\tesac\n"
	            "\tcase $command in\n"
	            "\t\"\")\n\t\toptions=\"",
	            out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		(void)fprintf(out, "%s ", commands[i].name);
	(void)fputs("import-pgbouncer import-commcare --config --help --version\"\n\t\t;;\n", out);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		print_case(out, i);
	(void)fputs("\tesac\n"
	            "\tcase $prev in\n"
	            "\t--to | --from | --all-of)\n"
	            "\t\toptions= names=servers\n"
	            "\t\t;;\n"
	            "\t--slot)\n"
	            "\t\toptions= names=\n"
	            "\t\t;;\n"
	            "\tesac\n"
	            "\tfor i in $options; do\n"
	            "\t\toffers+=(\"$i\")\n"
	            "\tdone\n"
	            /* A name may have any character in it: it is never expanded. */
	            "\tif [[ -n $names && $cur != -* ]]; then\n"
	            "\t\twhile IFS= read -r i; do\n"
	            "\t\t\toffers+=(\"$i\")\n"
	            "\t\tdone < <(pgshunt ${config:+--config \"$config\"} "
	            "--complete $names 2>/dev/null)\n"
	            "\tfi\n"
	            "\tCOMPREPLY=()\n"
	            "\tfor i in \"${offers[@]}\"; do\n"
	            "\t\tprintf -v quoted %q \"$i\"\n"
	            "\t\tif [[ $i == \"$cur\"* || $quoted == \"$cur\"* ]]; then\n"
	            "\t\t\tCOMPREPLY+=(\"$quoted\")\n"
	            "\t\tfi\n"
	            "\tdone\n"
	            "}\n"
	            "complete -F _pgshunt pgshunt\n",
	            out);
}

enum exit_code command_complete(const char *what, const struct config *config)
{
	char **ids;
	size_t count;

	if (strcmp(what, "servers") == 0) {
		for (size_t i = 0; i < config->server_count; i++)
			(void)printf("%s\n", config->servers[i].name);
	} else if (strcmp(what, "shards") == 0) {
		for (size_t i = 0; i < config->database_count; i++)
			(void)printf("%s\n", config->databases[i].shard);
	} else if (strcmp(what, "moves") == 0) {
		count = journal_list(config->mover.journal_directory, true, &ids);
		for (size_t i = 0; i < count; i++) {
			(void)printf("%s\n", ids[i]);
			free(ids[i]);
		}
		free(ids);
	} else {
		return EXIT_USAGE;
	}
	return EXIT_DONE;
}
