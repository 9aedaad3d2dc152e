/* SPDX-License-Identifier: PostgreSQL */
#include "control/man.h"

#include "base/compiler.h"
#include "base/roff.h"
#include "conf/show.h"

#include <stddef.h>
#include <string.h>

static const struct {
	const char *words;
	const char *help;
} console_rows[] = {
#define COMMAND(id, words, access, operands, options, required, help) {words, help},
#include "control/commands.def"
};

static const struct {
	const char *name;
	const char *argument;
	const char *access;
	const char *help;
} view_rows[] = {
#define VIEW(id, name, argument, source, access, help) {name, argument, #access, help},
#define COLUMN(name, type, merge, help)
#define VIEW_END(id)
#include "core/views.def"
};

static void print_settings(FILE *out)
{
	const char *section = "";
	char term[256];

	roff_section(out, "SETTINGS");
	for (size_t i = 0; i < config_setting_count(); i++) {
		const struct config_setting *setting = config_setting_at(i);

		if (strcmp(section, setting->section) != 0) {
			section = setting->section;
			(void)fprintf(out, ".SS %s\n", section);
		}
		(void)snprintf(term, sizeof(term), "%s (%s%s%s)", setting->name, setting->type,
		               setting->required           ? ", required"
		               : setting->fallback == NULL ? ""
		                                           : ", default ",
		               setting->required || setting->fallback == NULL ? ""
		               : *setting->fallback == '\0'                   ? "none"
		                                                              : setting->fallback);
		roff_item(out, term, setting->help);
	}
}

static void print_console(FILE *out)
{
	char term[128];

	roff_section(out, "CONSOLE");
	roff_text(
	    out,
	    "The databases pgshunt and pgbouncer of the proxy are its console, for users of\n"
	    "admin_users (everything) and stats_users (SHOW only).  SHOW HELP has the grammar.");
	for (size_t i = 0; i < ARRAY_LEN(console_rows); i++)
		roff_item(out, console_rows[i].words, console_rows[i].help);
	for (size_t i = 0; i < ARRAY_LEN(view_rows); i++) {
		if (strcmp(view_rows[i].access, "HIDDEN") == 0)
			continue;
		(void)snprintf(term, sizeof(term), "SHOW %s%s%s", view_rows[i].name,
		               *view_rows[i].argument == '\0' ? "" : " ", view_rows[i].argument);
		roff_item(out, term, view_rows[i].help);
	}
}

void man_print(FILE *out, const char *usage)
{
	roff_begin(out, "pgshuntd", 8,
	           "PostgreSQL proxy that holds, moves and releases the clients of a database");
	roff_section(out, "SYNOPSIS");
	(void)fputs(".B pgshuntd\n[OPTION...]\n", out);
	roff_section(out, "DESCRIPTION");
	(void)fputs(".nf\n", out);
	roff_text(out, usage);
	(void)fputs(".fi\n", out);
	print_settings(out);
	print_console(out);
	roff_section(out, "FILES");
	roff_item(out, "/etc/pgshunt/pgshunt.yml", "the configuration, one for both programs");
	roff_item(out, "/var/lib/pgshunt/proxy", "proxy.state_directory: routes and holds");
	roff_section(out, "SEE ALSO");
	(void)fputs(".BR pgshunt (1),\n.BR pgbouncer (1)\n", out);
}
