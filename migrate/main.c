/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt: the operator's command.
 */
#include "base/fault.h"
#include "base/standard.h"
#include "conf/commcare_config.h"
#include "conf/config.h"
#include "conf/pgbouncer.h"
#include "migrate/command.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES_WANTED 8192

/* pgshunt import-pgbouncer FILE, pgshunt import-commcare DIRECTORY: to stdout. */
static int import(const char *path,
                  bool (*reader)(const char *path, struct sbuf *yaml, struct sbuf *errors))
{
	struct sbuf yaml;
	struct sbuf errors;
	bool good;

	sbuf_init(&yaml, CONFIG_FILE_MAX);
	sbuf_init(&errors, CONFIG_FILE_MAX);
	good = reader(path, &yaml, &errors);
	(void)fputs(sbuf_text(good ? &yaml : &errors), good ? stdout : stderr);
	sbuf_free(&yaml);
	sbuf_free(&errors);
	return good ? 0 : EXIT_USAGE;
}

/* What needs no configuration; their help is in command.c. */
static const struct {
	const char *name;
	const char *argument;
	bool (*reader)(const char *path, struct sbuf *yaml, struct sbuf *errors);
} imports[] = {
    {"import-pgbouncer", "FILE", pgbouncer_import},
    {"import-commcare", "DIRECTORY", commcare_import},
};

/* The configuration made of an environment, in a file that nobody else sees. */
static bool load_environment(const char *directory, struct config **config, struct sbuf *errors)
{
	int fd = memfd_create("pgshunt.yml", MFD_CLOEXEC);
	char path[64];
	struct sbuf yaml;
	bool ok;

	sbuf_init(&yaml, CONFIG_FILE_MAX);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ok = commcare_import(directory, &yaml, errors);
	if (ok && (fd < 0 || write(fd, sbuf_text(&yaml), yaml.len) != (ssize_t)yaml.len)) {
		sbuf_add_str(errors, "the configuration cannot be kept in memory\n");
		ok = false;
	}
	ok = ok && config_load(path, config, errors);
	sbuf_free(&yaml);
	if (fd >= 0)
		(void)close(fd);
	return ok;
}

static bool load(const struct command_line *line, struct config **config, struct sbuf *errors)
{
	const char *environment = line->option[OPTION_ENVIRONMENT];

	return environment != NULL ? load_environment(environment, config, errors)
	                           : config_load(line->option[OPTION_CONFIG], config, errors);
}

/* A session for each shard of many, at each proxy: as many files as may be had. */
static void raise_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= FILES_WANTED)
		return;
	limit.rlim_cur = limit.rlim_max < FILES_WANTED ? limit.rlim_max : FILES_WANTED;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int argc, char **argv)
{
	struct command_line line;
	struct config *config = NULL;
	struct sbuf errors;
	struct ui ui;
	enum exit_code code;
	bool asked;

	standard_files_open();
	fault_init();
	config_clean_environment();
	raise_files();
	/* A file that may not grow, such as the journal, is an error like a full disk. */
	(void)signal(SIGXFSZ, SIG_IGN);
	for (size_t i = 0; argc >= 2 && i < ARRAY_LEN(imports); i++) {
		if (strcmp(argv[1], imports[i].name) != 0)
			continue;
		if (argc == 3 && argv[2][0] != '-')
			return import(argv[2], imports[i].reader);
		asked = argc == 3 && strcmp(argv[2], "--help") == 0;
		(void)fprintf(asked ? stdout : stderr, "Usage: pgshunt %s %s\n", imports[i].name,
		              imports[i].argument);
		return asked ? 0 : EXIT_USAGE;
	}
	if (!command_parse(argc, argv, &line, &code))
		return (int)code;
	sbuf_init(&errors, CONFIG_FILE_MAX);
	if (!load(&line, &config, &errors)) {
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
