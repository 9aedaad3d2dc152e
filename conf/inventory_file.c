/* SPDX-License-Identifier: PostgreSQL */
#include "conf/inventory_file.h"

#include "base/mem.h"
#include "conf/arena.h"
#include "conf/ini.h"
#include "conf/inventory.h"
#include "conf/tree.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COLUMNS_MAX 256
#define CELL_MAX ((size_t)64 * 1024)
#define INVENTORY_MAX ((size_t)16 * 1024 * 1024)
#define DEPTH_MAX 20

/* A name that the INI form can hold. */
static bool is_name(const char *name)
{
	return *name != '\0' && strpbrk(name, " \t\r\n[]#;'\"=") == NULL;
}

static bool bad_name(const char *file, const char *name, struct sbuf *errors)
{
	sbuf_printf(errors, "%s: \"%s\" is no name of a host or group\n", file, name);
	return false;
}

/* ---- CSV: blocks of lines with a header each ---- */

struct row {
	char *cells[COLUMNS_MAX];
	size_t count;
};

static void free_row(struct row *row)
{
	for (size_t i = 0; i < row->count; i++)
		free(row->cells[i]);
	row->count = 0;
}

/* One cell; *at is behind its comma, or NULL at the end of the line. */
static char *take_cell(const char **at)
{
	const char *p = *at;
	struct sbuf cell;
	char *out;

	sbuf_init(&cell, CELL_MAX);
	if (*p == '"') {
		for (p++; *p != '\0' && (*p != '"' || p[1] == '"'); p++) {
			p += *p == '"' ? 1 : 0;
			sbuf_add_char(&cell, *p);
		}
		p += *p == '"' ? 1 : 0;
	}
	for (; *p != '\0' && *p != ','; p++)
		sbuf_add_char(&cell, *p);
	out = mem_must_strdup(sbuf_text(&cell));
	sbuf_free(&cell);
	*at = *p == ',' ? p + 1 : NULL;
	return out;
}

static void trim(char *text)
{
	size_t blank = strspn(text, " \t");
	size_t len = strlen(text);

	while (len > blank && strchr(" \t\r", text[len - 1]) != NULL)
		text[--len] = '\0';
	memmove(text, text + blank, len - blank + 1);
}

static void take_row(const char *line, struct row *row)
{
	row->count = 0;
	while (line != NULL && row->count < COLUMNS_MAX) {
		row->cells[row->count] = take_cell(&line);
		trim(row->cells[row->count++]);
	}
}

static const char *cell_of(const struct row *head, const struct row *row, const char *name)
{
	for (size_t i = 0; i < head->count && i < row->count; i++) {
		if (strcmp(head->cells[i], name) == 0)
			return row->cells[i];
	}
	return NULL;
}

/* A host is known by its address; its hostname is a group of that one host, and in its groups. */
static bool csv_host(const char *file, const struct row *head, const struct row *row,
                     struct sbuf *ini, struct sbuf *errors)
{
	const char *name = cell_of(head, row, "hostname");
	const char *address = cell_of(head, row, "host_address");

	if (name == NULL || address == NULL || !is_name(name) || !is_name(address))
		return bad_name(file, name == NULL || !is_name(name) ? "" : address, errors);
	sbuf_printf(ini, "[%s]\n%s hostname=%s", name, address, name);
	for (size_t i = 0; i < head->count && i < row->count; i++) {
		const char *var = strstr(head->cells[i], "var: ");

		if (var != NULL && *row->cells[i] != '\0' &&
		    row->cells[i][strspn(row->cells[i], "0123456789")] == '\0' &&
		    (strcmp(var + 5, "pgbouncer_processes") == 0 ||
		     strcmp(var + 5, "postgresql_port") == 0))
			sbuf_printf(ini, " %s=%s", var + 5, row->cells[i]);
	}
	sbuf_add_char(ini, '\n');
	for (size_t i = 0; i < head->count && i < row->count; i++) {
		if (strncmp(head->cells[i], "group", 5) != 0 || *row->cells[i] == '\0')
			continue;
		if (!is_name(row->cells[i]))
			return bad_name(file, row->cells[i], errors);
		sbuf_printf(ini, "[%s:children]\n%s\n", row->cells[i], name);
	}
	return true;
}

static bool append_csv(const char *file, const char *text, struct sbuf *ini, struct sbuf *errors)
{
	struct row head = {.count = 0};
	bool ok = true;

	for (; ok && *text != '\0'; text += strcspn(text, "\n"), text += *text == '\n' ? 1 : 0) {
		char *line = mem_must_strndup(text, strcspn(text, "\n"));
		struct row row;

		line[strcspn(line, "\r")] = '\0';
		if (*line == '#') {
			free(line);
			continue;
		}
		if (*line == ',' || line[strspn(line, " \t")] == '\0') {
			free_row(&head); /* an empty line ends a block */
		} else if (head.count == 0) {
			take_row(line, &head);
		} else if (strcmp(head.cells[0], "group") != 0) {
			/* Variables of groups say nothing about places. */
			take_row(line, &row);
			ok = csv_host(file, &head, &row, ini, errors);
			free_row(&row);
		}
		free(line);
	}
	free_row(&head);
	return ok;
}

/* ---- YAML: groups with hosts, children and vars ---- */

static const struct node *child(const struct node *map, const char *name)
{
	const struct node *key =
	    map == NULL || map->kind != NODE_MAP ? NULL : node_find_key(map, name);

	return key == NULL || node_is_null(key->value) ? NULL : key->value;
}

static bool yaml_host(const char *file, const struct node *host, struct sbuf *ini,
                      struct sbuf *errors)
{
	static const char *const vars[] = {"ansible_host", "pgbouncer_processes",
	                                   "postgresql_port"};

	if (!is_name(host->text))
		return bad_name(file, host->text, errors);
	sbuf_add_str(ini, host->text);
	for (size_t i = 0; i < ARRAY_LEN(vars); i++) {
		const struct node *value = child(host->value, vars[i]);

		if (value != NULL && value->kind == NODE_SCALAR && is_name(value->text))
			sbuf_printf(ini, " %s=%s", vars[i], value->text);
	}
	sbuf_add_char(ini, '\n');
	return true;
}

static bool yaml_group(const char *file, const struct node *key, int depth, struct sbuf *ini,
                       struct sbuf *errors)
{
	const struct node *hosts = child(key->value, "hosts");
	const struct node *children = child(key->value, "children");
	bool ok = depth < DEPTH_MAX && is_name(key->text);

	if (!ok)
		return bad_name(file, key->text, errors);
	sbuf_printf(ini, "[%s]\n", key->text);
	for (const struct node *at = hosts == NULL ? NULL : hosts->first; ok && at != NULL;
	     at = at->next)
		ok = yaml_host(file, at, ini, errors);
	sbuf_printf(ini, "[%s:children]\n", key->text);
	for (const struct node *at = children == NULL ? NULL : children->first; at != NULL;
	     at = at->next)
		sbuf_printf(ini, "%s\n", at->text);
	for (const struct node *at = children == NULL ? NULL : children->first; ok && at != NULL;
	     at = at->next)
		ok = yaml_group(file, at, depth + 1, ini, errors);
	return ok;
}

static bool append_yaml(const char *file, const char *text, struct sbuf *ini, struct sbuf *errors)
{
	struct problems problems = {.file = file};
	struct config_block *blocks = NULL;
	struct node *root = NULL;
	bool ok = tree_parse(text, strlen(text), &blocks, &root, &problems);

	problems_report(&problems, errors);
	if (ok && (root == NULL || root->kind != NODE_MAP)) {
		sbuf_printf(errors, "%s: expected groups with hosts and children\n", file);
		ok = false;
	}
	for (const struct node *at = ok ? root->first : NULL; ok && at != NULL; at = at->next)
		ok = yaml_group(file, at, 0, ini, errors);
	arena_free(&blocks);
	return ok;
}

/* ---- files ---- */

static bool ends_in(const char *name, const char *end)
{
	size_t len = strlen(name);

	return len >= strlen(end) && strcmp(name + len - strlen(end), end) == 0;
}

bool inventory_append(const char *name, const char *text, struct sbuf *ini, struct sbuf *errors)
{
	struct inventory inventory;

	if (ends_in(name, ".csv"))
		return append_csv(name, text, ini, errors);
	if (ends_in(name, ".yml") || ends_in(name, ".yaml"))
		return append_yaml(name, text, ini, errors);
	/* Read once alone, so that a mistake is named with its file and line. */
	if (!inventory_parse(name, text, &inventory, errors))
		return false;
	inventory_free(&inventory);
	sbuf_printf(ini, "[ungrouped]\n%s\n", text);
	return true;
}

static bool append_file(const char *path, struct sbuf *ini, struct sbuf *errors)
{
	char *text = NULL;
	size_t len;
	bool ok = ini_read_local(NULL, path, &text, &len, errors) &&
	          inventory_append(path, text, ini, errors);

	free(text);
	return ok;
}

static int is_inventory(const struct dirent *entry)
{
	const char *name = entry->d_name;

	return name[0] != '.' &&
	       (strchr(name, '.') == NULL || ends_in(name, ".ini") || ends_in(name, ".csv") ||
	        ends_in(name, ".yml") || ends_in(name, ".yaml"));
}

static bool append_directory(const char *path, struct sbuf *ini, struct sbuf *errors)
{
	struct dirent **entries = NULL;
	int count = scandir(path, &entries, is_inventory, alphasort);
	bool ok = count > 0;

	if (!ok)
		sbuf_printf(errors, "%s has no inventory (.ini, .csv, .yml)\n", path);
	for (int i = 0; i < count; i++) {
		char *file = mem_must_printf("%s/%s", path, entries[i]->d_name);

		ok = ok && append_file(file, ini, errors);
		free(file);
		free(entries[i]);
	}
	free(entries);
	return ok;
}

bool inventory_read(const char *directory, char **path, char **ini, struct sbuf *errors)
{
	static const char *const names[] = {"inventory.ini", "inventory.csv", "inventory.yml",
	                                    "inventory"};
	struct stat info;
	struct sbuf text;
	bool ok = false;

	*path = *ini = NULL;
	for (size_t i = 0; i < ARRAY_LEN(names) && *path == NULL; i++) {
		*path = mem_must_printf("%s/%s", directory, names[i]);
		if (stat(*path, &info) == 0)
			break;
		free(*path);
		*path = NULL;
	}
	if (*path == NULL) {
		sbuf_printf(errors,
		            "%s has no inventory.ini, inventory.csv, inventory.yml or directory "
		            "inventory\n",
		            directory);
		return false;
	}
	sbuf_init(&text, INVENTORY_MAX);
	ok = S_ISDIR(info.st_mode) ? append_directory(*path, &text, errors)
	                           : append_file(*path, &text, errors);
	if (ok)
		*ini = mem_must_strdup(sbuf_text(&text));
	sbuf_free(&text);
	if (!ok) {
		free(*path);
		*path = NULL;
	}
	return ok;
}
