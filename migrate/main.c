/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt: the operator's command.
 */
#include "base/fault.h"
#include "conf/config.h"
#include "conf/pgbouncer.h"
#include "migrate/command.h"

#include <stdio.h>
#include <string.h>

/* pgshunt import-pgbouncer FILE: to stdout. */
static int import_pgbouncer(const char *path)
{
	struct sbuf yaml;
	struct sbuf errors;
	bool good;

	sbuf_init(&yaml, CONFIG_FILE_MAX);
	sbuf_init(&errors, CONFIG_FILE_MAX);
	good = pgbouncer_import(path, &yaml, &errors);
	(void)fputs(sbuf_text(good ? &yaml : &errors), good ? stdout : stderr);
	sbuf_free(&yaml);
	sbuf_free(&errors);
	return good ? 0 : EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct command_line line;
	struct config *config = NULL;
	struct sbuf errors;
	struct ui ui;
	enum exit_code code;

	fault_init();
	if (argc == 3 && strcmp(argv[1], "import-pgbouncer") == 0)
		return import_pgbouncer(argv[2]);
	if (!command_parse(argc, argv, &line, &code))
		return (int)code;
	sbuf_init(&errors, CONFIG_FILE_MAX);
	if (!config_load(line.option[OPTION_CONFIG], &config, &errors)) {
		(void)fputs(sbuf_text(&errors), stderr);
		sbuf_free(&errors);
		return EXIT_USAGE;
	}
	sbuf_free(&errors);
	ui_init(&ui, line.option[OPTION_JSON] != NULL);
	code = command_run(&line, config, &ui);
	ui_free(&ui);
	config_unref(config);
	return (int)code;
}
