/* SPDX-License-Identifier: PostgreSQL */
#include "conf/commcare.h"

#include "base/mem.h"
#include "conf/commcare_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_BYTES 256

static const char *const top_keys[] = {"SEPARATE_SYNCLOGS_DB",
                                       "SEPARATE_FORM_PROCESSING_DBS",
                                       "DEFAULT_POSTGRESQL_HOST",
                                       "REPORTING_DATABASES",
                                       "LOAD_BALANCED_APPS",
                                       "host_settings",
                                       "dbs",
                                       "replications",
                                       "postgres_override",
                                       "pgbouncer_override",
                                       "pg_repack",
                                       NULL};
static const char *const dbs_keys[] = {"main",     "formplayer",      "ucr",       "project_db",
                                       "synclogs", "form_processing", "auditcare", "repeaters",
                                       "custom",   "standby",         NULL};
static const char *const database_keys[] = {"name",
                                            "host",
                                            "pgbouncer_host",
                                            "pgbouncer_hosts",
                                            "pgbouncer_endpoint",
                                            "pgbouncer_pool_size",
                                            "pgbouncer_reserve_pool_size",
                                            "port",
                                            "user",
                                            "password",
                                            "options",
                                            "django_alias",
                                            "django_migrate",
                                            "query_stats",
                                            "create",
                                            "pg_config",
                                            "shards",
                                            "master",
                                            "acceptable_replication_delay",
                                            NULL};
static const char *const default_names[][2] = {
    {"main", "commcarehq"},
    {"formplayer", "formplayer"},
    {"ucr", "commcarehq_ucr"},
    {"synclogs", "commcarehq_synclogs"},
    {"auditcare", "commcarehq_auditcare"},
    {"repeaters", "commcarehq_repeaters"},
    {"proxy", "commcarehq_proxy"},
    {"proxy_standby", "commcarehq_proxy_standby"},
};

struct reader {
	struct commcare *out;
	struct problems problems;
	const char *default_host; /* translated; NULL = none */
};

/* ---- small things ---- */

static const struct node *child(const struct node *map, const char *name)
{
	const struct node *key = node_find_key(map, name);

	return key == NULL || node_is_null(key->value) ? NULL : key->value;
}

static const char *text_of(const struct node *map, const char *name)
{
	const struct node *value = child(map, name);

	return value == NULL || value->kind != NODE_SCALAR ? NULL : value->text;
}

static void check_keys(struct reader *reader, const struct node *map, const char *const *known,
                       const char *where)
{
	if (map == NULL || map->kind != NODE_MAP)
		return;
	for (const struct node *key = map->first; key != NULL; key = key->next) {
		bool found = false;

		for (const char *const *name = known; *name != NULL; name++)
			found = found || strcmp(*name, key->text) == 0;
		if (!found)
			problem_add(&reader->problems, key->line, key->column, "%s: unknown key %s",
			            where, key->text);
	}
}

const char *commcare_translate(const struct commcare *commcare, const char *name)
{
	const struct inventory_host *host;

	if (strcmp(name, "127.0.0.1") == 0 || strcmp(name, "None") == 0)
		return name;
	host = inventory_host(&commcare->inventory, name);
	if (host == NULL)
		host = inventory_only(&commcare->inventory, name);
	return host == NULL ? NULL : host->name;
}

static const char *translate(struct reader *reader, const struct node *place, const char *name)
{
	const char *host = commcare_translate(reader->out, name);

	if (host == NULL)
		problem_add(&reader->problems, place->line, place->column,
		            "%s is neither a host of the inventory nor a group with one host",
		            name);
	return host == NULL ? name : host;
}

/* ---- one database ---- */

static void add_bouncer(struct commcare_database *database, const char *host)
{
	database->bouncers = mem_must_grow(database->bouncers, database->bouncer_count + 1,
	                                   sizeof(*database->bouncers));
	database->bouncers[database->bouncer_count++] = host;
}

static void take_endpoint(struct reader *reader, struct commcare_database *database)
{
	const struct node *map = database->map;
	const struct node *one = child(map, "pgbouncer_host");
	const struct node *list = child(map, "pgbouncer_hosts");
	const struct node *endpoint = child(map, "pgbouncer_endpoint");

	database->own_endpoint = one != NULL || list != NULL;
	if (one != NULL && (list != NULL || endpoint != NULL))
		problem_add(&reader->problems, one->line, one->column,
		            "%s: pgbouncer_host stands for pgbouncer_hosts and pgbouncer_endpoint; "
		            "give it or them",
		            database->alias);
	if (one != NULL && one->kind == NODE_SCALAR) {
		database->endpoint = translate(reader, one, one->text);
		add_bouncer(database, database->endpoint);
	} else if (list != NULL) {
		for (const struct node *item = list->first; item != NULL; item = item->next) {
			if (item->kind == NODE_SCALAR)
				add_bouncer(database, translate(reader, item, item->text));
		}
		if (endpoint == NULL || endpoint->kind != NODE_SCALAR)
			problem_add(&reader->problems, list->line, list->column,
			            "%s: pgbouncer_endpoint is missing", database->alias);
		else
			database->endpoint = translate(reader, endpoint, endpoint->text);
	}
	if (database->endpoint != NULL)
		return;
	database->endpoint = database->host;
	if (!database->own_endpoint && database->host != NULL)
		add_bouncer(database, database->host);
}

int commcare_port_at(const struct commcare *commcare, const char *host)
{
	const struct node *settings = child(commcare->root, "host_settings");
	int port = COMMCARE_PORT;

	/* The file may name the host otherwise than the inventory. */
	for (const struct node *key =
	         settings == NULL || settings->kind != NODE_MAP ? NULL : settings->first;
	     key != NULL; key = key->next) {
		const char *name = commcare_translate(commcare, key->text);
		const char *text = text_of(key->value, "port");

		if (text != NULL && name != NULL && strcmp(name, host) == 0)
			port = atoi(text);
	}
	return port;
}

static void take_port(struct reader *reader, struct commcare_database *database)
{
	const char *own = text_of(database->map, "port");

	if (own != NULL)
		database->port = atoi(own);
	else if (database->host != NULL)
		database->port = commcare_port_at(reader->out, database->host);
}

static const char *default_name(struct reader *reader, const char *alias, bool partition)
{
	char name[PATH_MAX_BYTES];

	for (size_t i = 0; !partition && i < ARRAY_LEN(default_names); i++) {
		if (strcmp(default_names[i][0], alias) == 0)
			return default_names[i][1];
	}
	(void)snprintf(name, sizeof(name), partition ? "commcarehq_%s" : "%s", alias);
	return arena_strdup(&reader->out->blocks, name);
}

static struct commcare_database *take_database(struct reader *reader, const char *alias,
                                               const struct node *place, const struct node *map,
                                               bool partition)
{
	struct commcare *out = reader->out;
	const struct node *host = child(map, "host");
	const char *name = text_of(map, "name");
	struct commcare_database *database;

	check_keys(reader, map, database_keys, alias);
	out->databases =
	    mem_must_grow(out->databases, out->database_count + 1, sizeof(*out->databases));
	database = &out->databases[out->database_count++];
	*database = (struct commcare_database){
	    .alias = alias, .first = -1, .last = -1, .map = map, .inherited = host == NULL};
	database->name = name != NULL ? name : default_name(reader, alias, partition);
	database->host = host != NULL && host->kind == NODE_SCALAR
	                     ? translate(reader, host, host->text)
	                     : reader->default_host;
	if (database->host == NULL)
		problem_add(&reader->problems, place->line, place->column,
		            "%s has no host, and there is no DEFAULT_POSTGRESQL_HOST", alias);
	take_endpoint(reader, database);
	take_port(reader, database);
	return database;
}

/* ---- partitions ---- */

static bool is_partition_alias(const char *alias)
{
	return alias[0] == 'p' && alias[1] != '\0' &&
	       strspn(alias + 1, "0123456789") == strlen(alias + 1);
}

static void take_shards(struct reader *reader, struct commcare_database *database,
                        const struct node *key)
{
	const struct node *shards = child(key->value, "shards");
	char expected[PATH_MAX_BYTES];

	(void)snprintf(expected, sizeof(expected), "commcarehq_%s", database->alias);
	if (!is_partition_alias(database->alias))
		problem_add(&reader->problems, key->line, key->column,
		            "the partition %s must be called p and a number", database->alias);
	if (strcmp(database->name, expected) != 0)
		problem_add(&reader->problems, key->line, key->column,
		            "the database of partition %s must be called %s, not %s",
		            database->alias, expected, database->name);
	if (shards == NULL || shards->kind != NODE_LIST || shards->count != 2 ||
	    shards->first->kind != NODE_SCALAR || shards->last->kind != NODE_SCALAR) {
		problem_add(&reader->problems, key->line, key->column,
		            "%s: expected shards: [first, last]", database->alias);
		return;
	}
	database->first = strtol(shards->first->text, NULL, 10);
	database->last = strtol(shards->last->text, NULL, 10);
}

static int by_first(const void *a, const void *b)
{
	const struct commcare_database *const *left = a;
	const struct commcare_database *const *right = b;

	return (*left)->first < (*right)->first ? -1 : (*left)->first > (*right)->first;
}

/* The ranges begin at 0, follow each other, and are a power of two together. */
static void check_ranges(struct reader *reader, const struct node *place, size_t from)
{
	struct commcare *out = reader->out;
	size_t count = out->database_count - from;
	const struct commcare_database **sorted = mem_must_alloc((count + 1) * sizeof(void *));
	long next = 0;

	for (size_t i = 0; i < count; i++)
		sorted[i] = &out->databases[from + i];
	qsort(sorted, count, sizeof(*sorted), by_first);
	for (size_t i = 0; i < count; i++) {
		if (sorted[i]->first != next || sorted[i]->last < sorted[i]->first)
			problem_add(&reader->problems, place->line, place->column,
			            "%s has the shards [%ld, %ld]; expected them to begin at %ld",
			            sorted[i]->alias, sorted[i]->first, sorted[i]->last, next);
		next = sorted[i]->last + 1;
	}
	if (next <= 0 || (next & (next - 1)) != 0)
		problem_add(&reader->problems, place->line, place->column,
		            "there are %ld shards; their number must be a power of two", next);
	free(sorted);
}

static void take_form_processing(struct reader *reader, const struct node *key)
{
	static const char *const known[] = {"proxy", "proxy_standby", "partitions", NULL};
	const struct node *map = key->value;
	const struct node *proxy = child(map, "proxy");
	const struct node *standby = child(map, "proxy_standby");
	const struct node *partitions = child(map, "partitions");
	size_t from;

	check_keys(reader, map, known, "form_processing");
	if (proxy == NULL || partitions == NULL || partitions->kind != NODE_MAP) {
		problem_add(&reader->problems, key->line, key->column,
		            "form_processing: expected proxy and partitions");
		return;
	}
	(void)take_database(reader, "proxy", proxy, proxy, false);
	if (standby != NULL && child(standby, "host") != NULL)
		(void)take_database(reader, "proxy_standby", standby, standby, false);
	from = reader->out->database_count;
	for (const struct node *at = partitions->first; at != NULL; at = at->next)
		take_shards(reader, take_database(reader, at->text, at, at->value, true), at);
	if (reader->problems.count == 0)
		check_ranges(reader, partitions, from);
}

/* ---- the file ---- */

static void take_default_host(struct reader *reader)
{
	const struct node *value = child(reader->out->root, "DEFAULT_POSTGRESQL_HOST");
	const struct inventory *inventory = &reader->out->inventory;

	if (value != NULL && value->kind == NODE_SCALAR) {
		reader->default_host = translate(reader, value, value->text);
		return;
	}
	for (size_t i = 0; i < inventory->group_count; i++) {
		const struct inventory_group *group = &inventory->groups[i];

		if (strcmp(group->name, "postgresql") != 0)
			continue;
		if (group->host_count > 0)
			reader->default_host = group->hosts[0];
		else if (group->child_count > 0)
			reader->default_host = commcare_translate(reader->out, group->children[0]);
	}
}

static void take_databases(struct reader *reader)
{
	const struct node *root = reader->out->root;
	const struct node *dbs = child(root, "dbs");

	check_keys(reader, root, top_keys, "the file");
	check_keys(reader, dbs, dbs_keys, "dbs");
	take_default_host(reader);
	if (dbs == NULL || dbs->kind != NODE_MAP) {
		problem_add(&reader->problems, root == NULL ? 1 : root->line, 1,
		            "the section dbs is missing");
		return;
	}
	for (const struct node *key = dbs->first; key != NULL; key = key->next) {
		bool list = strcmp(key->text, "custom") == 0 || strcmp(key->text, "standby") == 0;

		if (node_is_null(key->value))
			continue;
		if (strcmp(key->text, "form_processing") == 0)
			take_form_processing(reader, key);
		else if (!list && key->value->kind == NODE_MAP &&
		         (key->value->first != NULL || strcmp(key->text, "project_db") != 0))
			(void)take_database(reader, key->text, key, key->value, false);
		for (const struct node *item = list ? key->value->first : NULL; item != NULL;
		     item = item->next) {
			const char *alias = text_of(item, "django_alias");

			/* A standby of a database is no place of its own for it. */
			if (strcmp(key->text, "custom") == 0)
				(void)take_database(reader, alias == NULL ? "custom" : alias, item,
				                    item, false);
		}
	}
}

bool commcare_parse(const char *path, const char *yaml, size_t len, const char *inventory_name,
                    const char *inventory, struct commcare *out, struct sbuf *errors)
{
	struct reader reader = {.out = out, .problems = {.file = path}};
	struct node *root = NULL;
	bool ok;

	*out = (struct commcare){.path = mem_must_strdup(path),
	                         .bytes = mem_must_strndup(yaml, len),
	                         .len = len,
	                         .inventory_text = mem_must_strdup(inventory)};
	if (!inventory_parse(inventory_name, inventory, &out->inventory, errors)) {
		commcare_free(out);
		return false;
	}
	if (tree_parse(out->bytes, len, &out->blocks, &root, &reader.problems)) {
		out->root = root;
		take_databases(&reader);
		commcare_check_readers(out, &reader.problems);
	}
	ok = reader.problems.count == 0;
	problems_report(&reader.problems, errors);
	if (!ok)
		commcare_free(out);
	return ok;
}

void commcare_free(struct commcare *commcare)
{
	for (size_t i = 0; i < commcare->database_count; i++)
		free(commcare->databases[i].bouncers);
	free(commcare->databases);
	free(commcare->path);
	free(commcare->bytes);
	free(commcare->inventory_text);
	inventory_free(&commcare->inventory);
	arena_free(&commcare->blocks);
	*commcare = (struct commcare){0};
}

const struct commcare_database *commcare_find(const struct commcare *commcare, const char *name)
{
	for (size_t i = 0; i < commcare->database_count; i++) {
		if (strcmp(commcare->databases[i].name, name) == 0)
			return &commcare->databases[i];
	}
	return NULL;
}

const char *commcare_spelling(const struct commcare *commcare, const char *name,
                              const char *address)
{
	const struct inventory *inventory = &commcare->inventory;
	const struct inventory_host *host = NULL;

	if (commcare_translate(commcare, name) != NULL)
		return name;
	for (size_t i = 0; host == NULL && i < inventory->host_count; i++) {
		if (strcmp(inventory->hosts[i].address, address) == 0 ||
		    strcmp(inventory->hosts[i].name, address) == 0)
			host = &inventory->hosts[i];
	}
	/* The file speaks of groups. */
	for (size_t i = 0; host != NULL && i < inventory->group_count; i++) {
		const struct inventory_group *group = &inventory->groups[i];

		if (group->host_count == 1 && group->child_count == 0 &&
		    strcmp(group->hosts[0], host->name) == 0)
			return group->name;
	}
	return host == NULL ? NULL : host->name;
}
