/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt report: the account of a move once more, and its page brought up to date.  Asks no
 * server.
 */
#include "base/mem.h"
#include "migrate/after.h"
#include "migrate/command.h"
#include "migrate/json.h"
#include "migrate/page.h"

#include <stdlib.h>
#include <string.h>

/* A JSON object read from a file as the inside of one: without its braces. */
static void add_members(const char *text, struct sbuf *out)
{
	const char *from = strchr(text, '{');
	const char *to = strrchr(text, '}');

	if (from != NULL && to > from)
		sbuf_add(out, from + 1, (size_t)(to - from - 1));
}

static void print_report(struct ui *ui, const struct json *report, const char *directory)
{
	const char *problems = json_text(report, "problems");

	ui_line(ui, "move %s from %s to %s: %s", json_text(report, "move"),
	        json_text(report, "source"), json_text(report, "target"),
	        json_text(report, "result"));
	if (json_text(report, "failure") != NULL)
		ui_line(ui, "  reason: %s: %s", json_text(report, "failed_phase"),
		        json_text(report, "failure"));
	if (json_text(report, "hold_ms") != NULL)
		ui_line(ui, "  clients held %s ms, promotion %s ms", json_text(report, "hold_ms"),
		        json_text(report, "promote_ms"));
	if (json_text(report, "switch_point") != NULL)
		ui_line(ui, "  barrier %s, switch point %s, timeline %s -> %s",
		        json_text(report, "barrier"), json_text(report, "switch_point"),
		        json_text(report, "old_timeline"), json_text(report, "new_timeline"));
	if (problems != NULL && *problems != '\0')
		ui_line(ui, "  problems:\n%.*s", (int)strlen(problems) - 1, problems);
	ui_line(ui, "  page: %s/" PAGE_FILE, directory);
}

enum exit_code command_report(const struct command_line *line, const struct config *config,
                              struct ui *ui)
{
	char *id = after_pick(line, config, true);
	char *directory;
	char *text;
	char *comparison;
	struct json *report;
	struct sbuf event;

	if (id == NULL) {
		ui_error(ui, "no move is in %s", config->mover.journal_directory);
		return EXIT_USAGE;
	}
	directory = mem_must_printf("%s/%s", config->mover.journal_directory, id);
	text = journal_load(directory, "report.json");
	comparison = journal_load(directory, "comparison.json");
	report = text == NULL ? NULL : json_parse(text);
	if (report == NULL) {
		ui_error(ui, "move %s has no report; it is written when a move ends", id);
	} else {
		if (!page_save(directory))
			ui_error(ui, "%s/" PAGE_FILE " could not be written", directory);
		print_report(ui, report, directory);
		sbuf_init(&event, PAGE_MAX);
		add_members(text, &event);
		if (comparison != NULL) {
			comparison[strcspn(comparison, "\n")] = '\0';
			json_raw(&event, "comparison", comparison);
		}
		ui_event(ui, "report", sbuf_text(&event));
		sbuf_free(&event);
	}
	free(text);
	free(comparison);
	free(directory);
	free(id);
	if (report == NULL)
		return EXIT_USAGE;
	json_free(report);
	return EXIT_DONE;
}
