/* SPDX-License-Identifier: PostgreSQL */
/*
 * The smallest edit of postgresql.yml that puts databases on another host, and the proof that it
 * says that and nothing else.
 */
#include "base/mem.h"
#include "conf/commcare.h"

#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)8 * 1024 * 1024)

/* An exchange of bytes; start = end is an insertion. */
struct edit {
	size_t start;
	size_t end;
	char *text;
};

struct edits {
	struct edit *items;
	size_t count;
};

static void add_edit(struct edits *edits, size_t start, size_t end, char *text)
{
	edits->items = mem_must_grow(edits->items, edits->count + 1, sizeof(*edits->items));
	edits->items[edits->count++] = (struct edit){.start = start, .end = end, .text = text};
}

static int by_start(const void *a, const void *b)
{
	const struct edit *left = a;
	const struct edit *right = b;

	return left->start < right->start ? -1 : left->start > right->start;
}

/* Whether the scalar has to be in quotes to be a text. */
static char *quoted(const char *text)
{
	bool plain = *text != '\0' &&
	             strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") > 0 &&
	             strpbrk(text, ":#{}[],&*!|>'\"%@` ") == NULL;

	return mem_must_printf(plain ? "%s" : "'%s'", text);
}

/* Lines to be put before a key, in the style of its map. */
static char *styled(const struct node *map, const struct node *before, const char *lines,
                    const char *bytes)
{
	size_t line = before->start;
	struct sbuf text;
	char *out;
	int indent;

	while (line > 0 && bytes[line - 1] != '\n')
		line--;
	/* The columns before the key, "- " of a list too, are blanks on the lines below it. */
	indent = (int)(before->start - line);
	sbuf_init(&text, 65536);
	for (const char *p = lines; *p != '\0'; p++) {
		if (*p != '\n')
			sbuf_add_char(&text, *p);
		else if (map->flow)
			sbuf_add_str(&text, ", ");
		else
			sbuf_printf(&text, "\n%*s", indent, "");
	}
	out = mem_must_strdup(sbuf_text(&text));
	sbuf_free(&text);
	return out;
}

/* Exchanges the host, or puts one in where it was inherited; `more` are lines that go with it. */
static void set_host(struct edits *edits, const struct commcare_database *database, const char *to,
                     const char *more, const char *bytes)
{
	const struct node *map = database->map;
	const struct node *key = node_find_key(map, "host");
	char *name = quoted(to);
	char *lines;

	if (key == NULL || key->value->kind != NODE_SCALAR || node_is_null(key->value)) {
		lines = mem_must_printf("host: %s\n%s", name, more);
		add_edit(edits, map->first->start, map->first->start,
		         styled(map, map->first, lines, bytes));
		free(lines);
	} else {
		add_edit(edits, key->value->start, key->value->end, mem_must_strdup(name));
		if (*more != '\0')
			add_edit(edits, key->start, key->start, styled(map, key, more, bytes));
	}
	free(name);
}

/* How the file names the host that a database has now. */
static const char *old_spelling(const struct commcare *commcare,
                                const struct commcare_database *database)
{
	const struct node *key = node_find_key(database->map, "host");
	const struct node *root = node_find_key(commcare->root, "DEFAULT_POSTGRESQL_HOST");

	if (key != NULL && key->value->kind == NODE_SCALAR && !node_is_null(key->value))
		return key->value->text;
	if (root != NULL && root->value->kind == NODE_SCALAR && !node_is_null(root->value))
		return root->value->text;
	return database->host;
}

/* The lines that keep endpoint and port where they are, "" if nothing has to be said.  The port
 * would go along with the host otherwise. */
static char *endpoint_lines(const struct commcare *commcare,
                            const struct commcare_database *database, const char *to,
                            const char *host, bool keep_endpoint)
{
	char *new = quoted(to);
	char *old = quoted(old_spelling(commcare, database));
	struct sbuf text;
	char *out;

	sbuf_init(&text, 65536);
	if (keep_endpoint && !database->own_endpoint)
		sbuf_printf(&text, "pgbouncer_hosts: [%s, %s]\npgbouncer_endpoint: %s\n", new, old,
		            old);
	if ((keep_endpoint || database->own_endpoint) &&
	    node_find_key(database->map, "port") == NULL &&
	    database->port != commcare_port_at(commcare, host))
		sbuf_printf(&text, "port: %d\n", database->port);
	out = mem_must_strdup(sbuf_text(&text));
	sbuf_free(&text);
	free(new);
	free(old);
	return out;
}

static char *apply(const struct commcare *commcare, struct edits *edits)
{
	struct sbuf out;
	size_t copied = 0;
	char *text;

	if (edits->count > 0)
		qsort(edits->items, edits->count, sizeof(*edits->items), by_start);
	sbuf_init(&out, FILE_MAX);
	for (size_t i = 0; i < edits->count; i++) {
		sbuf_add(&out, commcare->bytes + copied, edits->items[i].start - copied);
		sbuf_add_str(&out, edits->items[i].text);
		copied = edits->items[i].end;
		free(edits->items[i].text);
	}
	sbuf_add(&out, commcare->bytes + copied, commcare->len - copied);
	free(edits->items);
	text = mem_must_strdup(sbuf_text(&out));
	sbuf_free(&out);
	return text;
}

static bool is_named(const char *const *names, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

/* Reads the result again; every database must be where it was, but those that were to move. */
static bool prove(const struct commcare *commcare, const char *text, const char *const *names,
                  size_t count, const char *host, bool keep_endpoint, struct sbuf *errors)
{
	struct commcare after;
	bool ok = commcare_parse(commcare->path, text, strlen(text), "inventory",
	                         commcare->inventory_text, &after, errors);
	bool parsed = ok;

	if (ok && after.database_count != commcare->database_count) {
		sbuf_printf(errors, "%s: the edit would lose a database\n", commcare->path);
		ok = false;
	}
	for (size_t i = 0; ok && i < after.database_count; i++) {
		const struct commcare_database *was = &commcare->databases[i];
		const struct commcare_database *is = &after.databases[i];
		bool moved = is_named(names, count, was->name);
		const char *endpoint =
		    moved && !was->own_endpoint && !keep_endpoint ? host : was->endpoint;

		ok = strcmp(was->name, is->name) == 0 && was->first == is->first &&
		     was->last == is->last && strcmp(is->host, moved ? host : was->host) == 0 &&
		     strcmp(is->endpoint, endpoint) == 0 &&
		     (is->port == was->port || endpoint != was->endpoint);
		if (!ok)
			sbuf_printf(errors,
			            "%s: the edit of %s would not say what it shall; edit it by "
			            "hand\n",
			            commcare->path, was->alias);
	}
	if (parsed)
		commcare_free(&after);
	return ok;
}

char *commcare_move(const struct commcare *commcare, const char *const *names, size_t count,
                    const char *to, bool keep_endpoint, struct sbuf *errors)
{
	const char *host = commcare_translate(commcare, to);
	struct edits edits = {0};
	char *text;

	if (host == NULL) {
		sbuf_printf(errors, "the inventory has no host or one-host group %s\n", to);
		return NULL;
	}
	for (size_t i = 0; i < commcare->database_count; i++) {
		const struct commcare_database *database = &commcare->databases[i];
		char *more;

		if (!is_named(names, count, database->name) || strcmp(database->host, host) == 0)
			continue;
		if (database->map->kind != NODE_MAP || database->map->first == NULL) {
			sbuf_printf(errors,
			            "%s: %s has no settings to stand beside; edit it by hand\n",
			            commcare->path, database->alias);
			for (size_t j = 0; j < edits.count; j++)
				free(edits.items[j].text);
			free(edits.items);
			return NULL;
		}
		more = endpoint_lines(commcare, database, to, host, keep_endpoint);
		set_host(&edits, database, to, more, commcare->bytes);
		free(more);
	}
	text = apply(commcare, &edits);
	if (prove(commcare, text, names, count, host, keep_endpoint, errors))
		return text;
	free(text);
	return NULL;
}
