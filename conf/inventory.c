/* SPDX-License-Identifier: PostgreSQL */
#include "conf/inventory.h"

#include "base/mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_DEPTH_MAX 20

enum section_kind { SECTION_HOSTS, SECTION_CHILDREN, SECTION_VARS };

const struct inventory_host *inventory_host(const struct inventory *inventory, const char *name)
{
	for (size_t i = 0; i < inventory->host_count; i++) {
		if (strcmp(inventory->hosts[i].name, name) == 0)
			return &inventory->hosts[i];
	}
	return NULL;
}

static struct inventory_group *find_group(const struct inventory *inventory, const char *name)
{
	for (size_t i = 0; i < inventory->group_count; i++) {
		if (strcmp(inventory->groups[i].name, name) == 0)
			return &inventory->groups[i];
	}
	return NULL;
}

static size_t group_index(struct inventory *inventory, const char *name)
{
	struct inventory_group *group = find_group(inventory, name);

	if (group != NULL)
		return (size_t)(group - inventory->groups);
	inventory->groups = mem_must_grow(inventory->groups, inventory->group_count + 1,
	                                  sizeof(*inventory->groups));
	inventory->groups[inventory->group_count] =
	    (struct inventory_group){.name = arena_strdup(&inventory->blocks, name)};
	return inventory->group_count++;
}

static void add_name(const char ***names, size_t *count, const char *name)
{
	for (size_t i = 0; i < *count; i++) {
		if (strcmp((*names)[i], name) == 0)
			return;
	}
	*names = mem_must_grow(*names, *count + 1, sizeof(**names));
	(*names)[(*count)++] = name;
}

/* The next word of a line; quotes hold it together and go. */
static char *next_word(const char **at)
{
	struct sbuf word;
	char *out;
	char quote = '\0';
	const char *p = *at;

	while (*p == ' ' || *p == '\t')
		p++;
	if (*p == '\0' || *p == '#' || *p == ';')
		return NULL;
	sbuf_init(&word, 65536);
	for (; *p != '\0' && (quote != '\0' || (*p != ' ' && *p != '\t')); p++) {
		if (quote == '\0' && (*p == '"' || *p == '\''))
			quote = *p;
		else if (*p == quote)
			quote = '\0';
		else
			sbuf_add_char(&word, *p);
	}
	*at = p;
	out = mem_must_strdup(sbuf_text(&word));
	sbuf_free(&word);
	return out;
}

/* "name key=value …" */
static void take_host(struct inventory *inventory, size_t group, const char *line)
{
	const char *at = line;
	char *name = next_word(&at);
	const struct inventory_host *known = inventory_host(inventory, name);
	size_t index;
	char *word;

	if (known == NULL) {
		inventory->hosts = mem_must_grow(inventory->hosts, inventory->host_count + 1,
		                                 sizeof(*inventory->hosts));
		index = inventory->host_count++;
		inventory->hosts[index].name = arena_strdup(&inventory->blocks, name);
		inventory->hosts[index].address = inventory->hosts[index].name;
		inventory->hosts[index].processes = inventory->hosts[index].port = 0;
	} else {
		index = (size_t)(known - inventory->hosts);
	}
	add_name(&inventory->groups[group].hosts, &inventory->groups[group].host_count,
	         inventory->hosts[index].name);
	free(name);
	while ((word = next_word(&at)) != NULL) {
		if (strncmp(word, "ansible_host=", 13) == 0)
			inventory->hosts[index].address =
			    arena_strdup(&inventory->blocks, word + 13);
		if (strncmp(word, "pgbouncer_processes=", 20) == 0)
			inventory->hosts[index].processes = atoi(word + 20);
		if (strncmp(word, "postgresql_port=", 16) == 0)
			inventory->hosts[index].port = atoi(word + 16);
		free(word);
	}
}

/* "[name]", "[name:children]", "[name:vars]" */
static bool take_section(struct inventory *inventory, const char *line, size_t *group,
                         enum section_kind *kind)
{
	size_t len = strcspn(line + 1, "]");
	char *name = mem_must_strndup(line + 1, len);
	char *colon = strchr(name, ':');
	bool ok = line[1 + len] == ']' && len > 0;

	*kind = SECTION_HOSTS;
	if (colon != NULL) {
		*colon = '\0';
		if (strcmp(colon + 1, "children") == 0)
			*kind = SECTION_CHILDREN;
		else if (strcmp(colon + 1, "vars") == 0)
			*kind = SECTION_VARS;
		else
			ok = false;
	}
	if (ok)
		*group = group_index(inventory, name);
	free(name);
	return ok;
}

static bool take_line(struct inventory *inventory, const char *line, size_t *group,
                      enum section_kind *kind)
{
	const char *at = line;
	char *word;

	while (*line == ' ' || *line == '\t')
		line++;
	if (*line == '\0' || *line == '#' || *line == ';')
		return true;
	if (*line == '[')
		return take_section(inventory, line, group, kind);
	if (*kind == SECTION_HOSTS) {
		take_host(inventory, *group, line);
	} else if (*kind == SECTION_CHILDREN) {
		word = next_word(&at);
		/* The group may be defined later. */
		if (word != NULL) {
			size_t child = group_index(inventory, word);

			add_name(&inventory->groups[*group].children,
			         &inventory->groups[*group].child_count,
			         inventory->groups[child].name);
		}
		free(word);
	}
	return true;
}

bool inventory_parse(const char *name, const char *text, struct inventory *inventory,
                     struct sbuf *errors)
{
	enum section_kind kind = SECTION_HOSTS;
	size_t group;
	size_t number = 0;
	bool ok = true;

	*inventory = (struct inventory){0};
	group = group_index(inventory, "ungrouped");
	while (ok && *text != '\0') {
		size_t len = strcspn(text, "\n");
		char *line = mem_must_strndup(text, len);

		number++;
		while (len > 0 && isspace((unsigned char)line[len - 1]))
			line[--len] = '\0';
		ok = take_line(inventory, line, &group, &kind);
		free(line);
		if (!ok)
			sbuf_printf(errors,
			            "%s:%zu: expected [group], [group:children] or "
			            "[group:vars]\n",
			            name, number);
		text += strcspn(text, "\n");
		text += *text == '\n' ? 1 : 0;
	}
	if (!ok)
		inventory_free(inventory);
	return ok;
}

void inventory_free(struct inventory *inventory)
{
	for (size_t i = 0; i < inventory->group_count; i++) {
		free(inventory->groups[i].hosts);
		free(inventory->groups[i].children);
	}
	free(inventory->groups);
	free(inventory->hosts);
	arena_free(&inventory->blocks);
	*inventory = (struct inventory){0};
}

static void collect(const struct inventory *inventory, const char *name, const char ***hosts,
                    size_t *count, int depth)
{
	const struct inventory_group *group = find_group(inventory, name);

	if (group == NULL || depth > GROUP_DEPTH_MAX)
		return;
	for (size_t i = 0; i < group->host_count; i++)
		add_name(hosts, count, group->hosts[i]);
	for (size_t i = 0; i < group->child_count; i++)
		collect(inventory, group->children[i], hosts, count, depth + 1);
}

size_t inventory_members(const struct inventory *inventory, const char *group, const char ***hosts)
{
	size_t count = 0;

	*hosts = NULL;
	collect(inventory, group, hosts, &count, 0);
	return count;
}

const struct inventory_host *inventory_only(const struct inventory *inventory, const char *group)
{
	const struct inventory_host *only = NULL;
	const char **hosts = NULL;
	size_t count = 0;

	collect(inventory, group, &hosts, &count, 0);
	if (count == 1)
		only = inventory_host(inventory, hosts[0]);
	free(hosts);
	return only;
}
