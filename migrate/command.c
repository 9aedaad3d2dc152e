/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/command.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG "/etc/pgshunt/pgshunt.yml"
#define PLAN_MAX (JOURNAL_RECORD_MAX / 2)

static const struct {
	const char *name;
	const char *arguments;
	const char *help;
} commands[] = {
#define COMMAND(name, arguments, help) {#name, arguments, help},
#include "migrate/commands.def"
};

static void print_exits(void)
{
	(void)printf("\nExit codes:\n");
	for (int i = 0; exit_row_at(i) != NULL; i++)
		(void)printf("  %d  %s\n", (int)exit_row_at(i)->code, exit_row_at(i)->help);
}

static void print_options(void)
{
	(void)printf("\nOptions:\n"
	             "  --config FILE     configuration (" DEFAULT_CONFIG ")\n"
	             "  --to SERVER       where the shards go: a name of the section servers\n"
	             "  --all-of SERVER   all shards that are on that server\n"
	             "  --json            one JSON object a line, at the end the report\n"
	             "  --yes             do not ask\n"
	             "  --help            this text, or that of a command\n"
	             "  --version         version\n");
}

static void print_help(const char *command)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (command == NULL || strcmp(command, commands[i].name) != 0)
			continue;
		(void)printf("Usage: pgshunt [--config FILE] %s %s [--json]%s\n\n%s\n",
		             commands[i].name, commands[i].arguments,
		             strcmp(command, "move") == 0 ? " [--yes]" : "", commands[i].help);
		if (strcmp(command, "move") == 0) {
			(void)printf("\nPhases:\n");
			for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
				(void)printf("  %-20s %s\n", phase_row(phase)->title,
				             phase_row(phase)->what);
		}
		print_options();
		print_exits();
		return;
	}
	(void)printf(
	    "pgshunt moves shard databases from one PostgreSQL server to another while "
	    "their clients run.\n\nUsage: pgshunt [--config FILE] COMMAND ...\n\nCommands:\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		(void)printf("  %-8s %s\n           %.*s\n", commands[i].name,
		             commands[i].arguments, (int)strcspn(commands[i].help, "\n"),
		             commands[i].help);
	print_options();
	print_exits();
}

static bool is_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return true;
	}
	return false;
}

static bool usage(enum exit_code *code, const char *what, const char *word)
{
	(void)fprintf(stderr, "pgshunt: %s%s; see \"pgshunt --help\"\n", what, word);
	*code = EXIT_USAGE;
	return false;
}

static bool check_line(const struct command_line *line, enum exit_code *code)
{
	bool moves;

	if (line->command == NULL)
		return usage(code, "no command is given", "");
	if (!is_command(line->command))
		return usage(code, "there is no command ", line->command);
	moves = strcmp(line->command, "plan") == 0 || strcmp(line->command, "move") == 0;
	if (!moves && (line->to != NULL || line->all_of != NULL))
		return usage(code, "--to and --all-of belong to plan and move", "");
	if (moves && line->to == NULL)
		return usage(code, "--to SERVER is missing", "");
	if (moves && (line->name_count == 0) == (line->all_of == NULL))
		return usage(code, "name shards, or give --all-of SERVER", "");
	if (!moves && line->name_count > (strcmp(line->command, "status") == 0 ? 0 : 1))
		return usage(code, "too many arguments: ", line->names[line->name_count - 1]);
	return true;
}

bool command_parse(int argc, char **argv, struct command_line *line, enum exit_code *code)
{
	static const struct option options[] = {
	    {"config", required_argument, NULL, 'c'}, {"to", required_argument, NULL, 't'},
	    {"all-of", required_argument, NULL, 'a'}, {"json", no_argument, NULL, 'j'},
	    {"yes", no_argument, NULL, 'y'},          {"help", no_argument, NULL, 'h'},
	    {"version", no_argument, NULL, 'V'},      {NULL, 0, NULL, 0},
	};
	bool help = false;
	int option;

	*line = (struct command_line){.config_path = DEFAULT_CONFIG};
	while ((option = getopt_long(argc, argv, "c:", options, NULL)) != -1) {
		if (option == 'c')
			line->config_path = optarg;
		else if (option == 't')
			line->to = optarg;
		else if (option == 'a')
			line->all_of = optarg;
		else if (option == 'j')
			line->json = true;
		else if (option == 'y')
			line->yes = true;
		else if (option == 'h')
			help = true;
		else if (option == 'V') {
			(void)printf("pgshunt " PGSHUNT_VERSION "\n");
			*code = EXIT_DONE;
			return false;
		} else {
			*code = EXIT_USAGE;
			return false;
		}
	}
	/* getopt has put what is no option last. */
	line->command = optind < argc ? argv[optind] : NULL;
	line->names = argv + optind + (optind < argc ? 1 : 0);
	line->name_count = (size_t)(argv + argc - line->names);
	if (help) {
		print_help(line->command);
		*code = EXIT_DONE;
		return false;
	}
	return check_line(line, code);
}

/* ---- plan and move ---- */

static void show_plan(struct move *move, bool steps)
{
	struct sbuf members;

	sbuf_init(&members, PLAN_MAX);
	plan_json(move, &members);
	ui_event(move->ui, "plan", sbuf_text(&members));
	sbuf_free(&members);
	plan_print(move, steps);
}

/* Plan and checks; EXIT_DONE if the move may begin. */
static enum exit_code examine(struct move *move, const struct command_line *line)
{
	enum exit_code code =
	    plan_make(move, line->names, line->name_count, line->all_of, line->to);
	bool ok;

	if (code != EXIT_DONE)
		return code;
	move->phase = PHASE_CHECK;
	move->times[PHASE_CHECK].began = clock_now();
	ok = check_run(move);
	move->times[PHASE_CHECK].ended = clock_now();
	move->times[PHASE_CHECK].ok = ok;
	show_plan(move, strcmp(line->command, "plan") == 0);
	return ok ? EXIT_DONE : EXIT_REFUSED;
}

/* The names of the shards as part of a file name. */
static char *label_of(const struct move *move)
{
	struct sbuf label;
	char *text;

	sbuf_init(&label, 4096);
	for (size_t i = 0; i < move->shard_count && label.len < 60; i++) {
		if (i > 0)
			sbuf_add_char(&label, '+');
		sbuf_add_str(&label, move->shards[i].name);
	}
	text = mem_must_strdup(sbuf_text(&label));
	sbuf_free(&label);
	for (char *p = text; *p != '\0'; p++) {
		if (!isalnum((unsigned char)*p) && strchr("+-_", *p) == NULL)
			*p = '_';
	}
	return text;
}

/* The journal with the plan in it, on disk. */
static bool begin_journal(struct move *move)
{
	char *label = label_of(move);
	struct sbuf text;
	bool ok;

	sbuf_init(&text, PLAN_MAX);
	ok = journal_create(&move->journal, move->config->mover.journal_directory, label, &text);
	free(label);
	if (!ok) {
		ui_error(move->ui, "%s", sbuf_text(&text));
	} else {
		sbuf_reset(&text);
		plan_json(move, &text);
		ok = journal_write(&move->journal, "outcome", "plan", sbuf_text(&text), true) &&
		     journal_write(&move->journal, "outcome", "check", sbuf_text(&move->evidence),
		                   false);
		if (!ok)
			ui_error(move->ui, "the journal could not be written");
	}
	sbuf_free(&text);
	return ok;
}

static enum exit_code do_move(struct move *move, const struct command_line *line)
{
	enum exit_code code = examine(move, line);

	if (code != EXIT_DONE)
		return code;
	if (!line->yes && !ui_confirm(move->ui, "Move?")) {
		(void)move_fail(move, "not wanted");
		return EXIT_REFUSED;
	}
	if (!move_lock_source(move))
		return EXIT_INTERNAL;
	if (!begin_journal(move))
		return EXIT_INTERNAL;
	return run_move(move);
}

static enum exit_code run_plan(const struct command_line *line, const struct config *config,
                               struct ui *ui)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	code = examine(&move, line);
	move_free(&move);
	return code;
}

/* ---- unfinished moves ---- */

static void free_ids(char **ids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(ids[i]);
	free(ids);
}

static enum exit_code resume_one(const struct config *config, struct ui *ui, const char *id,
                                 bool abort_wanted, bool *went_forward)
{
	struct move move;
	enum exit_code code;

	move_init(&move, config, ui);
	code = resume_move(&move, id, abort_wanted, went_forward);
	/* What abort was asked for is done when everything is restored. */
	report_finish(&move, code, code == EXIT_UNDONE && abort_wanted ? EXIT_DONE : (int)code);
	move_free(&move);
	return code;
}

static enum exit_code run_resume(const struct command_line *line, const struct config *config,
                                 struct ui *ui)
{
	bool abort_wanted = strcmp(line->command, "abort") == 0;
	enum exit_code code = EXIT_USAGE;
	bool went_forward;
	char **ids;
	size_t count = journal_list(config->mover.journal_directory, false, &ids);

	if (line->name_count == 1)
		code = resume_one(config, ui, line->names[0], abort_wanted, &went_forward);
	else if (count == 1)
		code = resume_one(config, ui, ids[0], abort_wanted, &went_forward);
	else if (count == 0)
		ui_line(ui, "no move is unfinished in %s", config->mover.journal_directory);
	if (count == 0 && line->name_count == 0)
		code = EXIT_DONE;
	if (count > 1 && line->name_count == 0) {
		ui_error(ui, "several moves are unfinished; name one of them:");
		for (size_t i = 0; i < count; i++)
			ui_error(ui, "  %s", ids[i]);
	}
	free_ids(ids, count);
	return code == EXIT_UNDONE && abort_wanted ? EXIT_DONE : code;
}

/* Whether the unfinished move is one of the same shards. */
static bool same_shards(const struct config *config, const char *id, const struct move *move)
{
	struct journal_records records;
	struct sbuf error;
	const struct json *shards;
	size_t count = 0;
	bool same = true;

	sbuf_init(&error, 4096);
	same = journal_read(config->mover.journal_directory, id, &records, &error);
	sbuf_free(&error);
	if (!same)
		return false;
	shards = json_get(json_get(journal_find(&records, "outcome", "plan"), "data"), "shards");
	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		const char *dbname = json_text(at, "dbname");
		bool found = false;

		for (size_t i = 0; i < move->shard_count; i++)
			found = found ||
			        (dbname != NULL && strcmp(move->shards[i].dbname, dbname) == 0);
		same = same && found;
		count++;
	}
	journal_records_free(&records);
	return same && count == move->shard_count;
}

/* Names to shards by the configuration alone, to compare with a journal. */
static void name_shards(const struct command_line *line, const struct config *config,
                        struct move *move)
{
	for (size_t i = 0; i < line->name_count; i++) {
		const struct config_database *database = config_find_shard(config, line->names[i]);

		if (database == NULL)
			database = config_find_database(config, line->names[i]);
		if (database != NULL)
			(void)plan_add_shard(move, database->shard, database->dbname);
	}
}

/* Deals with an unfinished move before a new one: it is undone or completed.  EXIT_DONE and
 * !*finished: there was none. */
static enum exit_code clear_way(const struct command_line *line, const struct config *config,
                                struct ui *ui, bool *finished)
{
	char **ids;
	size_t count = journal_list(config->mover.journal_directory, false, &ids);
	enum exit_code code = EXIT_DONE;
	struct move named;

	*finished = false;
	move_init(&named, config, ui);
	name_shards(line, config, &named);
	if (count > 1 || (count == 1 && !same_shards(config, ids[0], &named))) {
		ui_error(ui,
		         "move %s is unfinished: run \"pgshunt resume\" or \"pgshunt abort\" first",
		         ids[0]);
		code = EXIT_REFUSED;
	} else if (count == 1) {
		ui_line(ui, "an earlier move of these shards is unfinished");
		code = resume_one(config, ui, ids[0], false, finished);
		/* What is not what the operator expected to start from is not built upon. */
		if (code == EXIT_UNDONE) {
			ui_error(ui, "the earlier move was undone; run the command again to move");
			code = EXIT_REFUSED;
		}
	}
	move_free(&named);
	free_ids(ids, count);
	return code;
}

static enum exit_code run_new(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	struct move move;
	bool finished;
	enum exit_code code = clear_way(line, config, ui, &finished);

	if (code != EXIT_DONE || finished)
		return code;
	move_init(&move, config, ui);
	code = do_move(&move, line);
	report_finish(&move, code, (int)code);
	move_free(&move);
	return code;
}

enum exit_code command_run(const struct command_line *line, const struct config *config,
                           struct ui *ui)
{
	struct sbuf error;
	enum exit_code code;
	int lock_fd;

	if (strcmp(line->command, "plan") == 0)
		return run_plan(line, config, ui);
	if (strcmp(line->command, "status") == 0)
		return status_show(config, ui);
	sbuf_init(&error, 4096);
	lock_fd = journal_lock(config->mover.journal_directory, &error);
	if (lock_fd < 0)
		ui_error(ui, "%s", sbuf_text(&error));
	sbuf_free(&error);
	if (lock_fd < 0)
		return EXIT_INTERNAL;
	code = strcmp(line->command, "move") == 0 ? run_new(line, config, ui)
	                                          : run_resume(line, config, ui);
	(void)close(lock_fd);
	return code;
}
