/* SPDX-License-Identifier: PostgreSQL */
/*
 * From a tree of YAML nodes to a configuration.  Goes on after an error, so that one run shows all
 * of them; a configuration with errors is never given to anybody.
 */
#include "conf/load.h"

#include "base/mem.h"
#include "conf/pgbouncer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The sections of the top level, and the two that lie in mover. */
static const char *const top_sections[] = {"proxy", "servers", "databases",
                                           "users", "peers",   "mover", NULL};
static const char *const mover_sections[] = {"proxies", "pgbouncers", "hooks", "plproxy", NULL};

/* Most names that a message enumerates. */
#define KNOWN_MAX 12

/* One map that holds settings: a section, or an entry of a section. */
struct scope {
	enum setting_section section;
	const char *label;              /* "proxy", "servers.pg1" */
	const struct node *place;       /* of complaints about the scope itself */
	const struct node *map;         /* NULL = nothing was given */
	const char *const *subsections; /* keys that are not settings; NULL = none */
	void *base;
};

const struct node *loader_place(const struct node *map, const char *setting,
                                const struct node *otherwise)
{
	const struct node *key = node_find_key(map, setting);

	return key == NULL ? otherwise : key->value;
}

const char *loader_label(const struct entry_kind *kind, const char *name,
                         char out[LOADER_LABEL_MAX])
{
	char quoted[PROBLEM_QUOTE_MAX];

	problem_quote(name, quoted);
	quoted[strlen(quoted) - 1] = '\0'; /* shortened and cleaned, but without the quotes */
	(void)snprintf(out, LOADER_LABEL_MAX, "%s.%s", kind->section_name, quoted + 1);
	return out;
}

static bool in_words(const char *const *words, const char *word)
{
	for (; words != NULL && *words != NULL; words++)
		if (strcmp(*words, word) == 0)
			return true;
	return false;
}

/* ---- unknown names ---- */

static const char *next_word(const void *arg, size_t index)
{
	const char *const *words = arg;

	return words[index];
}

/* The candidates of a scope: its settings, then its subsections. */
static const char *next_setting(const void *arg, size_t index)
{
	const struct scope *scope = arg;

	for (size_t i = 0; i < setting_count(); i++)
		if (setting_table[i].section == scope->section && index-- == 0)
			return setting_table[i].text.name;
	return scope->subsections == NULL ? NULL : scope->subsections[index];
}

/* Whether it looks like a password written into the file: the most likely dangerous mistake. */
static bool is_password_key(const struct scope *scope, const char *key)
{
	char file_key[LOADER_LABEL_MAX];

	(void)snprintf(file_key, sizeof(file_key), "%s_file", key);
	return strstr(key, "password") != NULL && setting_find(scope->section, file_key) != NULL;
}

static void report_unknown(struct loader *loader, const struct scope *scope, const struct node *key)
{
	char quoted[PROBLEM_QUOTE_MAX];
	const char *nearest;
	struct sbuf known;
	const char *name;
	size_t count = 0;

	if (problems_full(loader->problems)) {
		loader->problems->count++;
		return;
	}
	nearest = problem_nearest(key->text, next_setting, scope);
	problem_quote(key->text, quoted);
	if (is_password_key(scope, key->text)) {
		problem_add(loader->problems, key->line, key->column,
		            "%s: a password must not stand in this file; give %s_file or %s_env",
		            scope->label, key->text, key->text);
		return;
	}
	if (nearest != NULL) {
		problem_add(loader->problems, key->line, key->column,
		            "%s: unknown setting %s; did you mean \"%s\"?", scope->label, quoted,
		            nearest);
		return;
	}
	sbuf_init(&known, 1024);
	for (; (name = next_setting(scope, count)) != NULL && count < KNOWN_MAX; count++)
		sbuf_printf(&known, "%s%s", count == 0 ? "" : ", ", name);
	problem_add(loader->problems, key->line, key->column,
	            "%s: unknown setting %s; known are %s%s", scope->label, quoted,
	            sbuf_text(&known), name == NULL ? "" : " and others");
	sbuf_free(&known);
}

/* ---- values ---- */

static void report_value(struct loader *loader, const struct scope *scope,
                         const struct setting *setting, const struct node *node, const char *why)
{
	problem_add(loader->problems, node->line, node->column, "%s.%s: %s", scope->label,
	            setting->text.name, why);
}

static const char *next_server(const void *arg, size_t index)
{
	const struct config *config = arg;

	return index < config->server_count ? config->servers[index].name : NULL;
}

static void load_reference(struct loader *loader, const struct scope *scope,
                           const struct setting *setting, const struct node *node)
{
	const struct config_server *server = config_find_server(loader->config, node->text);
	const struct config_server **field = (void *)((char *)scope->base + setting->offset);
	char quoted[PROBLEM_QUOTE_MAX];
	const char *nearest;
	char hint[LOADER_LABEL_MAX];

	*field = server;
	if (server != NULL)
		return;
	nearest = problems_full(loader->problems)
	              ? NULL
	              : problem_nearest(node->text, next_server, loader->config);
	if (nearest == NULL)
		(void)snprintf(hint, sizeof(hint), "expected a name of the section servers");
	else
		(void)snprintf(hint, sizeof(hint), "did you mean \"%s\"?", nearest);
	problem_add(loader->problems, node->line, node->column, "%s.%s: there is no server %s; %s",
	            scope->label, setting->text.name, problem_quote(node->text, quoted), hint);
}

static void load_list(struct loader *loader, const struct scope *scope,
                      const struct setting *setting, const struct node *node)
{
	struct config_list *list = (void *)((char *)scope->base + setting->offset);
	const char **items =
	    arena_alloc(loader->context.blocks, (node->count + 1) * sizeof(*items));
	struct sbuf why;
	size_t count = 0;

	sbuf_init(&why, 512);
	for (const struct node *item = node->first; item != NULL; item = item->next) {
		sbuf_reset(&why);
		if (item->kind == NODE_REFUSED)
			continue;
		if (item->kind != NODE_SCALAR || item->text[0] == '\0' || node_is_null(item))
			report_value(loader, scope, setting, item,
			             "expected a text as item of the list");
		else if (!value_check_string(setting, item->text, &why))
			report_value(loader, scope, setting, item, sbuf_text(&why));
		else
			items[count++] = item->text;
	}
	sbuf_free(&why);
	for (size_t i = 0; i < count; i++)
		items[i] = arena_strdup(loader->context.blocks, items[i]);
	list->items = items;
	list->count = count;
}

static void load_scalar(struct loader *loader, const struct scope *scope,
                        const struct setting *setting, const struct node *node)
{
	struct sbuf why;

	if (setting->type == VALUE_SERVER) {
		load_reference(loader, scope, setting, node);
		return;
	}
	sbuf_init(&why, 512);
	if (setting->type == VALUE_LIST && strchr(node->text, ',') != NULL)
		report_value(loader, scope, setting, node,
		             "expected a list such as [first, second]");
	else if (!value_parse(setting, node->text, scope->base, &loader->context, &why))
		report_value(loader, scope, setting, node, sbuf_text(&why));
	sbuf_free(&why);
}

static void load_value(struct loader *loader, const struct scope *scope,
                       const struct setting *setting, const struct node *node)
{
	char why[LOADER_LABEL_MAX];

	if (node->kind == NODE_REFUSED)
		return;
	if (node_is_null(node)) {
		report_value(loader, scope, setting, node,
		             "no value is given; give one, \"\" for an empty one, or leave the "
		             "line out for the default");
		return;
	}
	if (node->kind == NODE_SCALAR) {
		load_scalar(loader, scope, setting, node);
		return;
	}
	if (node->kind == NODE_LIST && setting->type == VALUE_LIST) {
		load_list(loader, scope, setting, node);
		return;
	}
	(void)snprintf(why, sizeof(why), "expected a %s, not %s", setting->text.type,
	               node_kind_name(node));
	report_value(loader, scope, setting, node, why);
}

/* ---- sections and entries ---- */

/* Whether the node can hold settings; an empty one is a map with none. */
static bool is_map(struct loader *loader, const char *label, const struct node *node)
{
	if (node->kind == NODE_MAP)
		return true;
	if (node->kind != NODE_REFUSED && !node_is_null(node))
		problem_add(loader->problems, node->line, node->column,
		            "%s: expected \"name: value\" lines, not %s", label,
		            node_kind_name(node));
	return false;
}

static void load_settings(struct loader *loader, const struct scope *scope)
{
	const struct node *key;

	for (size_t i = 0; i < setting_count(); i++)
		if (setting_table[i].section == scope->section)
			value_set_default(&setting_table[i], scope->base, &loader->context);
	for (key = scope->map == NULL ? NULL : scope->map->first; key != NULL; key = key->next) {
		const struct setting *setting = setting_find(scope->section, key->text);

		if (setting != NULL)
			load_value(loader, scope, setting, key->value);
		else if (!in_words(scope->subsections, key->text) && strcmp(key->text, "<<") != 0)
			report_unknown(loader, scope, key);
	}
	for (size_t i = 0; i < setting_count(); i++) {
		const struct setting *setting = &setting_table[i];

		if (setting->section == scope->section && setting->text.required &&
		    scope->place != NULL && node_find_key(scope->map, setting->text.name) == NULL)
			problem_add(loader->problems, scope->place->line, scope->place->column,
			            "%s: %s is missing (%s)", scope->label, setting->text.name,
			            setting->text.help);
	}
}

static void check_name(struct loader *loader, const struct entry_kind *kind, const struct node *key)
{
	char quoted[PROBLEM_QUOTE_MAX];
	size_t len = strlen(key->text);
	bool control = false;

	problem_quote(key->text, quoted);
	for (const char *at = key->text; *at != '\0'; at++)
		control |= (unsigned char)*at < 0x20 || *at == 0x7f;
	if (len == 0 || control)
		problem_add(loader->problems, key->line, key->column,
		            "%s: %s cannot be the name of a %s; expected a text without control "
		            "characters",
		            kind->section_name, quoted, kind->noun);
	else if (len > CONFIG_NAME_MAX)
		problem_add(loader->problems, key->line, key->column,
		            "%s: the name %s is too long; names have at most %d bytes",
		            kind->section_name, quoted, CONFIG_NAME_MAX);
	if (kind->kind == CONFIG_ENTRY_DATABASE && config_is_console(key->text))
		problem_add(loader->problems, key->line, key->column,
		            "databases: the name %s is that of the console; choose another one",
		            quoted);
}

static void load_entry(struct loader *loader, const struct entry_kind *kind, const struct node *key,
                       size_t index)
{
	char label[LOADER_LABEL_MAX];
	char *entry = entry_at(loader->config, kind, index);
	struct scope scope = {
	    .section = kind->section, .label = label, .place = key, .base = entry};

	check_name(loader, kind, key);
	loader_label(kind, key->text, label);
	*(const char **)(void *)entry = arena_strdup(loader->context.blocks, key->text);
	*(size_t *)(void *)(entry + kind->index_offset) = index;
	loader->keys[kind->kind][index] = key;
	if (is_map(loader, label, key->value))
		scope.map = key->value;
	else if (!node_is_null(key->value))
		scope.place = NULL; /* complained about already: not also about what is missing */
	load_settings(loader, &scope);
}

static int compare_entries(const void *a, const void *b)
{
	const void *left = *(const void *const *)a;
	const void *right = *(const void *const *)b;

	return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static void load_entries(struct loader *loader, enum config_entry_kind which,
                         const struct node *map)
{
	const struct entry_kind *kind = &entry_kinds[which];
	char *config = (char *)loader->config;
	size_t count = map == NULL ? 0 : map->count;
	const void **sorted;
	size_t index = 0;

	*(void **)(void *)(config + kind->array_offset) =
	    arena_alloc(loader->context.blocks, count * kind->entry_size);
	*(size_t *)(void *)(config + kind->count_offset) = count;
	loader->keys[which] =
	    arena_alloc(loader->context.blocks, count * sizeof(const struct node *));
	sorted = arena_alloc(loader->context.blocks, count * sizeof(*sorted));
	for (const struct node *key = map == NULL ? NULL : map->first; key != NULL; key = key->next)
		load_entry(loader, kind, key, index++);
	for (size_t i = 0; i < count; i++)
		sorted[i] = entry_at(loader->config, kind, i);
	if (count > 1)
		qsort(sorted, count, sizeof(*sorted), compare_entries);
	loader->config->sorted[which] = sorted;
}

/* The map of a section, NULL if it is not there or not a map. */
static const struct node *section_map(struct loader *loader, const struct node *parent,
                                      const char *name, const char *label)
{
	const struct node *key = node_find_key(parent, name);

	if (key == NULL || !is_map(loader, label, key->value))
		return NULL;
	return key->value;
}

static void load_single(struct loader *loader, enum setting_section section, const char *label,
                        const struct node *map, const char *const *subsections, void *base)
{
	struct scope scope = {.section = section,
	                      .label = label,
	                      .place = map,
	                      .map = map,
	                      .subsections = subsections,
	                      .base = base};

	load_settings(loader, &scope);
}

static void check_sections(struct loader *loader, const struct node *root)
{
	char quoted[PROBLEM_QUOTE_MAX];

	for (const struct node *key = root->first; key != NULL; key = key->next) {
		const char *nearest;

		if (in_words(top_sections, key->text) || strcmp(key->text, "<<") == 0)
			continue;
		problem_quote(key->text, quoted);
		nearest = problem_nearest(key->text, next_word, top_sections);
		if (setting_find(SECTION_PROXY, key->text) != NULL)
			problem_add(loader->problems, key->line, key->column,
			            "unknown section %s; it is a setting of the section proxy and "
			            "stands there, indented",
			            quoted);
		else if (nearest != NULL)
			problem_add(loader->problems, key->line, key->column,
			            "unknown section %s; did you mean \"%s\"?", quoted, nearest);
		else
			problem_add(loader->problems, key->line, key->column,
			            "unknown section %s; the sections are proxy, servers, "
			            "databases, users, peers and mover",
			            quoted);
	}
	for (const char *const *name = top_sections + 1; name < top_sections + 3; name++)
		if (node_find_key(root, *name) == NULL)
			problem_add(loader->problems, root->line, root->column,
			            "the section %s is missing", *name);
}

static void load_root(struct loader *loader, const struct node *root)
{
	struct config *config = loader->config;
	const struct node *mover;

	check_sections(loader, root);
	loader->proxy = section_map(loader, root, "proxy", "proxy");
	load_single(loader, SECTION_PROXY, "proxy", loader->proxy, NULL, &config->proxy);
	/* Before the databases, which refer to them, wherever they stand in the file. */
	load_entries(loader, CONFIG_ENTRY_SERVER, section_map(loader, root, "servers", "servers"));
	load_entries(loader, CONFIG_ENTRY_DATABASE,
	             section_map(loader, root, "databases", "databases"));
	load_entries(loader, CONFIG_ENTRY_USER, section_map(loader, root, "users", "users"));
	load_entries(loader, CONFIG_ENTRY_PEER, section_map(loader, root, "peers", "peers"));
	mover = section_map(loader, root, "mover", "mover");
	load_single(loader, SECTION_MOVER, "mover", mover, mover_sections, &config->mover);
	load_entries(loader, CONFIG_ENTRY_MOVER_PROXY,
	             section_map(loader, mover, "proxies", "mover.proxies"));
	load_entries(loader, CONFIG_ENTRY_PGBOUNCER,
	             section_map(loader, mover, "pgbouncers", "mover.pgbouncers"));
	load_entries(loader, CONFIG_ENTRY_HOOK, section_map(loader, mover, "hooks", "mover.hooks"));
	load_entries(loader, CONFIG_ENTRY_PLPROXY,
	             section_map(loader, mover, "plproxy", "mover.plproxy"));
	for (size_t i = 0; i < config->server_count; i++) {
		struct config_server *server = &config->servers[i];

		if (server->admin_host[0] == '\0')
			server->admin_host = server->host;
		if (server->admin_port == CONFIG_UNSET)
			server->admin_port = server->port;
	}
	for (size_t i = 0; i < config->database_count; i++) {
		struct config_database *database = &config->databases[i];

		if (database->dbname[0] == '\0')
			database->dbname = database->name;
		if (database->shard[0] == '\0')
			database->shard = database->name;
	}
}

/* ---- the file ---- */

static char *directory_of(struct config_block **blocks, const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL)
		return arena_strdup(blocks, "");
	return arena_strndup(blocks, path, slash == path ? 1 : (size_t)(slash - path));
}

static void load_tree(struct loader *loader, const void *bytes, size_t len)
{
	struct config_block *tree = NULL;
	struct node *root;

	if (!tree_parse(bytes, len, &tree, &root, loader->problems)) {
		arena_free(&tree);
		return;
	}
	if (root == NULL || node_is_null(root)) {
		problem_add(loader->problems, 1, 1,
		            "the file is empty; expected at least the sections servers and "
		            "databases");
	} else if (is_map(loader, "the file", root)) {
		load_root(loader, root);
		config_resolve_tls(loader->config);
		config_check(loader);
	}
	arena_free(&tree);
}

bool config_load_buffer(const char *name, const void *bytes, size_t len, struct config **out,
                        struct sbuf *errors)
{
	struct config *config = mem_must_alloc(sizeof(*config));
	struct problems problems = {.file = name};
	struct loader loader = {.config = config, .problems = &problems};
	bool right;

	atomic_init(&config->refs, 1);
	config->path = arena_strdup(&config->blocks, name);
	loader.context.blocks = &config->blocks;
	loader.context.directory = directory_of(&config->blocks, name);
	if (len > CONFIG_FILE_MAX)
		problem_add(&problems, 0, 0, "the file is too large; at most %zu bytes are read",
		            CONFIG_FILE_MAX);
	else
		load_tree(&loader, bytes, len);
	right = problems.count == 0;
	problems_report(&problems, errors);
	if (!right) {
		config_unref(config);
		config = NULL;
	}
	*out = config;
	return right;
}

/* The whole file, or one byte more than may be, so that its size is refused like that of any other
 * source; false with errno. */
static bool read_file(const char *path, char *bytes, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = 1;
	int saved;

	if (fd < 0)
		return false;
	*len = 0;
	while (*len < CONFIG_FILE_MAX + 1 && got != 0) {
		got = read(fd, bytes + *len, CONFIG_FILE_MAX + 1 - *len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		*len += (size_t)got;
	}
	saved = errno;
	(void)close(fd);
	errno = saved;
	return got >= 0;
}

bool config_load(const char *path, struct config **out, struct sbuf *errors)
{
	char *bytes = mem_must_alloc(CONFIG_FILE_MAX + 1);
	size_t len = 0;
	bool right = false;

	*out = NULL;
	if (pgbouncer_is_ini(path))
		right = pgbouncer_load(path, out, errors);
	else if (!read_file(path, bytes, &len))
		sbuf_printf(errors, "%s: cannot be read: %s\n", path, strerror(errno));
	else
		right = config_load_buffer(path, bytes, len, out, errors);
	free(bytes);
	return right;
}
