/* SPDX-License-Identifier: PostgreSQL */
/*
 * One setting of the proxy with another value: SET of the console.  The new configuration shares
 * the entries of the one that was read from the file, which lives as long.
 */
#include "base/mem.h"
#include "conf/config.h"
#include "conf/load.h"
#include "conf/pgbouncer.h"
#include "conf/problem.h"
#include "conf/table.h"
#include "conf/value.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "a, b" as a list. */
static void set_list(const struct setting *setting, const char *text, struct config *config)
{
	struct config_list *list = (void *)((char *)&config->proxy + setting->offset);
	const char **items = arena_alloc(&config->blocks, (strlen(text) + 1) * sizeof(*items));
	size_t count = 0;

	while (*text != '\0') {
		size_t len;
		size_t end;

		text += strspn(text, ", \t");
		len = strcspn(text, ",");
		for (end = len; end > 0 && isspace((unsigned char)text[end - 1]);)
			end--;
		if (end > 0)
			items[count++] = arena_strndup(&config->blocks, text, end);
		text += len;
	}
	list->items = items;
	list->count = count;
}

static struct config *config_copy(struct config *old)
{
	struct config *config = mem_must_alloc(sizeof(*config));

	*config = *old;
	atomic_init(&config->refs, 1);
	config->blocks = NULL;
	config->base = config_ref(old->base == NULL ? old : old->base);
	for (size_t i = 0; i < setting_count(); i++)
		if (setting_table[i].section == SECTION_PROXY)
			value_copy(&setting_table[i], &old->proxy, &config->proxy, &config->blocks);
	return config;
}

bool config_with(struct config *old, const char *name, const char *value, struct config **out,
                 struct sbuf *note, char *sqlstate, struct sbuf *why)
{
	const struct pgbouncer_setting *row = pgbouncer_setting_find(PGB_MAIN, name);
	const struct setting *setting = setting_find(SECTION_PROXY, row == NULL ? name : row->ours);
	struct value_context context = {.directory = ""};
	struct config *config;
	struct sbuf text;
	bool good = true;
	bool lacking;

	*out = NULL;
	if (row != NULL && setting == NULL && row->how == PGB_NONE) {
		sbuf_printf(note, "%s has no effect here: %s", name, row->note);
		*out = config_ref(old);
		return true;
	}
	if (setting == NULL || !setting->text.reloadable) {
		(void)snprintf(sqlstate, 6, "%s", setting == NULL ? "42704" : "55P02");
		sbuf_printf(why,
		            setting == NULL ? "unrecognized configuration parameter \"%s\""
		                            : "parameter \"%s\" cannot be changed without a "
		                              "restart",
		            name);
		return false;
	}
	config = config_copy(old);
	context.blocks = &config->blocks;
	sbuf_init(&text, (size_t)64 * 1024 + 2 * strlen(value));
	if (row != NULL)
		good = pgbouncer_value(row, value, &text, note, why);
	else
		sbuf_add_str(&text, value);
	lacking = !sbuf_ok(&text);
	if (lacking)
		sbuf_add_str(why, "out of memory");
	good = good && !lacking;
	if (good && setting->type == VALUE_LIST)
		set_list(setting, sbuf_text(&text), config);
	else
		good =
		    good && value_parse(setting, sbuf_text(&text), &config->proxy, &context, why);
	sbuf_free(&text);
	if (!good) {
		(void)snprintf(sqlstate, 6, "%s", lacking ? "53200" : "22023");
		config_unref(config);
		return false;
	}
	/* What a server does not say itself comes from there. */
	config_resolve_tls(config);
	*out = config;
	return true;
}

bool config_has_setting(const char *name)
{
	return pgbouncer_setting_find(PGB_MAIN, name) != NULL ||
	       setting_find(SECTION_PROXY, name) != NULL;
}
