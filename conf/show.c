/* SPDX-License-Identifier: PostgreSQL */
/*
 * The settings as text.  There is no secret in a configuration, so nothing has to be left out, but
 * for those that settings.def says.
 */
#include "conf/show.h"

#include "conf/table.h"
#include "conf/value.h"

#include <string.h>

/* Longest value that is shown; a longer one is a list of thousands. */
#define SHOWN_VALUE_MAX ((size_t)1024 * 1024)

size_t config_setting_count(void)
{
	return setting_count();
}

const struct config_setting *config_setting_at(size_t index)
{
	return &setting_table[index].text;
}

static bool is_secret(const struct setting *setting, const char *value)
{
	return setting->text.secret != NULL && strstr(value, setting->text.secret) != NULL;
}

/* Shows the settings of one section or entry, which lies at `base`. */
static void show_section(enum setting_section section, const char *label, const void *base,
                         config_show_fn *show, void *arg)
{
	struct sbuf value;

	sbuf_init(&value, SHOWN_VALUE_MAX);
	for (size_t i = 0; i < setting_count(); i++) {
		const struct setting *setting = &setting_table[i];
		struct config_show_row row = {.section = label,
		                              .name = setting->text.name,
		                              .fallback = setting->text.fallback,
		                              .reloadable = setting->text.reloadable,
		                              .for_admins = setting->text.for_admins,
		                              .help = setting->text.help};

		if (setting->section != section)
			continue;
		sbuf_reset(&value);
		if (!value_is_unset(setting, base)) {
			value_format(setting, base, &value);
			row.value = is_secret(setting, sbuf_text(&value)) ? "(with a password)"
			                                                  : sbuf_text(&value);
		}
		show(arg, &row);
	}
	sbuf_free(&value);
}

static void show_entries(const struct config *config, enum config_entry_kind which,
                         config_show_fn *show, void *arg)
{
	const struct entry_kind *kind = &entry_kinds[which];
	const size_t count = entry_count(config, kind);
	struct sbuf label;

	sbuf_init(&label, 256);
	for (size_t i = 0; i < count; i++) {
		sbuf_reset(&label);
		sbuf_printf(&label, "%s.%s", kind->section_name, entry_name(config, kind, i));
		show_section(kind->section, sbuf_text(&label), entry_at(config, kind, i), show,
		             arg);
	}
	sbuf_free(&label);
}

void config_show(const struct config *config, config_show_fn *show, void *arg)
{
	show_section(SECTION_PROXY, "proxy", &config->proxy, show, arg);
	show_entries(config, CONFIG_ENTRY_SERVER, show, arg);
	show_entries(config, CONFIG_ENTRY_DATABASE, show, arg);
	show_entries(config, CONFIG_ENTRY_USER, show, arg);
	show_entries(config, CONFIG_ENTRY_PEER, show, arg);
	show_section(SECTION_MOVER, "mover", &config->mover, show, arg);
	show_entries(config, CONFIG_ENTRY_MOVER_PROXY, show, arg);
	show_entries(config, CONFIG_ENTRY_PGBOUNCER, show, arg);
	show_entries(config, CONFIG_ENTRY_HOOK, show, arg);
	show_entries(config, CONFIG_ENTRY_PLPROXY, show, arg);
}

/* Whether RELOAD cannot change the setting.  Only the proxy lives long enough to reload. */
static bool is_fixed(const struct setting *setting)
{
	return setting->section == SECTION_PROXY && !setting->text.reloadable;
}

static bool values_differ(const struct setting *setting, const void *old, const void *fresh)
{
	struct sbuf before;
	struct sbuf after;
	bool differ;

	sbuf_init(&before, SHOWN_VALUE_MAX);
	sbuf_init(&after, SHOWN_VALUE_MAX);
	value_format(setting, old, &before);
	value_format(setting, fresh, &after);
	differ = strcmp(sbuf_text(&before), sbuf_text(&after)) != 0;
	sbuf_free(&before);
	sbuf_free(&after);
	return differ;
}

size_t config_compare_reload(const struct config *old, const struct config *fresh,
                             struct sbuf *names)
{
	size_t count = 0;

	for (size_t i = 0; i < setting_count(); i++) {
		const struct setting *setting = &setting_table[i];

		if (!is_fixed(setting) || !values_differ(setting, &old->proxy, &fresh->proxy))
			continue;
		sbuf_printf(names, "%s%s.%s", count++ == 0 ? "" : ", ", setting->text.section,
		            setting->text.name);
	}
	return count;
}

void config_keep_fixed(const struct config *old, struct config *fresh)
{
	for (size_t i = 0; i < setting_count(); i++)
		if (is_fixed(&setting_table[i]))
			value_copy(&setting_table[i], &old->proxy, &fresh->proxy, &fresh->blocks);
}

/* A cell of a Markdown table: '|' would end it. */
static void print_cell(FILE *out, const char *text)
{
	(void)fputs(" ", out);
	for (; *text != '\0'; text++) {
		if (*text == '|')
			(void)fputc('\\', out);
		(void)fputc(*text, out);
	}
	(void)fputs(" |", out);
}

static void print_setting(FILE *out, const struct config_setting *setting)
{
	struct sbuf text;

	sbuf_init(&text, 1024);
	sbuf_printf(&text, "`%s`", setting->name);
	(void)fputs("|", out);
	print_cell(out, sbuf_text(&text));
	print_cell(out, setting->type);
	sbuf_reset(&text);
	if (setting->required)
		sbuf_add_str(&text, "required");
	else if (setting->fallback != NULL)
		sbuf_printf(&text, "`%s`",
		            setting->fallback[0] == '\0' ? "\"\"" : setting->fallback);
	print_cell(out, sbuf_text(&text));
	sbuf_reset(&text);
	if (setting->least != NULL)
		sbuf_printf(&text, "%s to %s", setting->least, setting->most);
	print_cell(out, sbuf_text(&text));
	print_cell(out, setting->reloadable ? "yes" : "restart");
	print_cell(out, setting->help);
	(void)fputs("\n", out);
	sbuf_free(&text);
}

void config_print_reference(FILE *out)
{
	const char *section = "";

	for (size_t i = 0; i < setting_count(); i++) {
		const struct config_setting *setting = &setting_table[i].text;

		if (strcmp(section, setting->section) != 0) {
			(void)fprintf(out,
			              "%s#### `%s`\n\n| setting | type | default | range | RELOAD "
			              "| meaning |\n|---|---|---|---|---|---|\n",
			              section[0] == '\0' ? "" : "\n", setting->section);
			section = setting->section;
		}
		print_setting(out, setting);
	}
}
