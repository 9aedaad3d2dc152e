/* SPDX-License-Identifier: PostgreSQL */
#include "conf/commcare_config.h"

#include "base/mem.h"
#include "conf/ini.h"
#include "conf/inventory_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What the role installs, whatever port applications use. */
#define POSTGRESQL_PORT 5432
#define CLUSTER "commcarehq"

bool commcare_read(const char *directory, struct commcare *out, struct sbuf *errors)
{
	char *path = mem_must_printf("%s/postgresql.yml", directory);
	char *real = realpath(path, NULL);
	char *yaml = NULL;
	char *inventory_path = NULL;
	char *inventory = NULL;
	size_t len;
	bool ok = ini_read_local(NULL, real == NULL ? path : real, &yaml, &len, errors) &&
	          inventory_read(directory, &inventory_path, &inventory, errors) &&
	          commcare_parse(real == NULL ? path : real, yaml, len, inventory_path, inventory,
	                         out, errors);

	free(path);
	free(real);
	free(yaml);
	free(inventory_path);
	free(inventory);
	return ok;
}

/* ---- the configuration ---- */

struct hosts {
	const char **names;
	size_t count;
};

static void add_host(struct hosts *hosts, const char *name)
{
	for (size_t i = 0; i < hosts->count; i++) {
		if (strcmp(hosts->names[i], name) == 0)
			return;
	}
	hosts->names = mem_must_grow(hosts->names, hosts->count + 1, sizeof(*hosts->names));
	hosts->names[hosts->count++] = name;
}

/* As YAML: always in quotes, because a name may look like a number. */
static void add_text(struct sbuf *yaml, const char *text)
{
	sbuf_add_char(yaml, '"');
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			sbuf_add_char(yaml, '\\');
		sbuf_add_char(yaml, *text);
	}
	sbuf_add_char(yaml, '"');
}

static int port_of(const struct commcare *commcare, const char *host)
{
	const struct inventory_host *entry = inventory_host(&commcare->inventory, host);

	return entry == NULL || entry->port <= 0 ? POSTGRESQL_PORT : entry->port;
}

static const char *address_of(const struct commcare *commcare, const char *host)
{
	const struct inventory_host *entry = inventory_host(&commcare->inventory, host);

	return entry == NULL ? host : entry->address;
}

/* The name that people use: that of the group of this one host. */
static const char *name_of(const struct commcare *commcare, const char *host)
{
	const struct inventory *inventory = &commcare->inventory;

	for (size_t i = 0; i < inventory->group_count; i++) {
		const struct inventory_group *group = &inventory->groups[i];

		if (group->host_count == 1 && group->child_count == 0 &&
		    strcmp(group->hosts[0], host) == 0 && strcmp(group->name, "ungrouped") != 0)
			return group->name;
	}
	return host;
}

static void write_servers(const struct commcare *commcare, struct sbuf *yaml)
{
	static const char *const groups[] = {"postgresql", "pg_standby"};
	struct hosts hosts = {0};

	for (size_t i = 0; i < commcare->database_count; i++)
		add_host(&hosts, commcare->databases[i].host);
	/* Where a shard may go. */
	for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
		const char **members;
		size_t count = inventory_members(&commcare->inventory, groups[i], &members);

		for (size_t j = 0; j < count; j++)
			add_host(&hosts, members[j]);
		free(members);
	}
	sbuf_add_str(yaml, "servers:\n");
	for (size_t i = 0; i < hosts.count; i++) {
		sbuf_add_str(yaml, "  ");
		add_text(yaml, name_of(commcare, hosts.names[i]));
		sbuf_add_str(yaml, ": {host: ");
		add_text(yaml, address_of(commcare, hosts.names[i]));
		sbuf_printf(yaml, ", port: %d}\n", port_of(commcare, hosts.names[i]));
	}
	free(hosts.names);
}

static void write_databases(const struct commcare *commcare, struct sbuf *yaml)
{
	sbuf_add_str(yaml, "databases:\n");
	for (size_t i = 0; i < commcare->database_count; i++) {
		const struct commcare_database *database = &commcare->databases[i];

		sbuf_add_str(yaml, "  ");
		add_text(yaml, database->name);
		sbuf_add_str(yaml, ": {server: ");
		add_text(yaml, name_of(commcare, database->host));
		sbuf_add_str(yaml, ", shard: ");
		add_text(yaml, database->alias);
		sbuf_add_str(yaml, "}\n");
	}
}

static void write_bouncers(const struct commcare *commcare, struct sbuf *yaml)
{
	struct hosts hosts = {0};

	for (size_t i = 0; i < commcare->database_count; i++) {
		for (size_t j = 0; j < commcare->databases[i].bouncer_count; j++)
			add_host(&hosts, commcare->databases[i].bouncers[j]);
	}
	sbuf_add_str(yaml, "  pgbouncers:\n");
	for (size_t i = 0; i < hosts.count; i++) {
		const struct inventory_host *host =
		    inventory_host(&commcare->inventory, hosts.names[i]);

		sbuf_add_str(yaml, "    ");
		add_text(yaml, name_of(commcare, hosts.names[i]));
		sbuf_add_str(yaml, ": {host: ");
		add_text(yaml, address_of(commcare, hosts.names[i]));
		sbuf_printf(yaml, ", port: %d", commcare_port_at(commcare, hosts.names[i]));
		if (host != NULL && host->processes > 1)
			sbuf_printf(yaml, ", processes: %d", host->processes);
		/* Its files are on its machine; who runs this may use another way there. */
		sbuf_add_str(yaml, ", command: ");
		if (strcmp(address_of(commcare, hosts.names[i]), "127.0.0.1") == 0 ||
		    strcmp(address_of(commcare, hosts.names[i]), "localhost") == 0) {
			sbuf_add_str(yaml, "\"\"");
		} else {
			char *command =
			    mem_must_printf("ssh %s sudo", address_of(commcare, hosts.names[i]));

			add_text(yaml, command);
			free(command);
		}
		sbuf_add_str(yaml, "}\n");
	}
	free(hosts.names);
}

static void write_plproxy(const struct commcare *commcare, struct sbuf *yaml)
{
	bool first = true;

	for (size_t i = 0; i < commcare->database_count; i++) {
		const struct commcare_database *database = &commcare->databases[i];

		if (strcmp(database->alias, "proxy") != 0 &&
		    strcmp(database->alias, "proxy_standby") != 0)
			continue;
		sbuf_printf(yaml, "%s    %s: {host: ", first ? "  plproxy:\n" : "",
		            database->alias);
		first = false;
		add_text(yaml, address_of(commcare, database->host));
		sbuf_printf(yaml, ", port: %d, dbname: ", port_of(commcare, database->host));
		add_text(yaml, database->name);
		sbuf_add_str(yaml, ", cluster: " CLUSTER "}\n");
	}
}

bool commcare_import(const char *directory, struct sbuf *yaml, struct sbuf *errors)
{
	char *real = realpath(directory, NULL);
	struct commcare commcare;

	if (!commcare_read(directory, &commcare, errors)) {
		free(real);
		return false;
	}
	sbuf_printf(yaml, "# From the environment of commcare-cloud in %s\n", directory);
	write_servers(&commcare, yaml);
	write_databases(&commcare, yaml);
	sbuf_add_str(yaml, "mover:\n  commcare_environment: ");
	add_text(yaml, real == NULL ? directory : real);
	sbuf_add_char(yaml, '\n');
	write_bouncers(&commcare, yaml);
	write_plproxy(&commcare, yaml);
	commcare_free(&commcare);
	free(real);
	return true;
}

/* ---- who else names it ---- */

static const struct node *value_of(const struct node *map, const char *name)
{
	const struct node *key =
	    map == NULL || map->kind != NODE_MAP ? NULL : node_find_key(map, name);

	return key == NULL || node_is_null(key->value) ? NULL : key->value;
}

static bool is_text(const struct node *node, const char *text)
{
	return node != NULL && node->kind == NODE_SCALAR && strcmp(node->text, text) == 0;
}

/* Anywhere below: REPORTING_DATABASES and LOAD_BALANCED_APPS are nested in several ways. */
static bool mentions(const struct node *node, const char *alias)
{
	bool found = is_text(node, alias);

	if (node == NULL || node->kind == NODE_SCALAR)
		return found;
	for (const struct node *at = node->first; at != NULL && !found; at = at->next)
		found = mentions(node->kind == NODE_MAP ? at->value : at, alias);
	return found;
}

static void note_section(const struct node *root, const char *section, const char *alias,
                         const char *of, struct sbuf *notes)
{
	const struct node *map = value_of(root, section);

	for (const struct node *at = map == NULL || map->kind != NODE_MAP ? NULL : map->first;
	     at != NULL; at = at->next) {
		if (mentions(at->value, alias))
			sbuf_printf(notes, "postgresql.yml: line %zu: %s %s reads %s%s%s\n",
			            at->line, section, at->text, alias,
			            *of == '\0' ? "" : ", a standby of ", of);
	}
}

void commcare_readers(const struct commcare *commcare, const char *alias, struct sbuf *notes)
{
	const struct node *standbys = value_of(value_of(commcare->root, "dbs"), "standby");

	note_section(commcare->root, "REPORTING_DATABASES", alias, "", notes);
	note_section(commcare->root, "LOAD_BALANCED_APPS", alias, "", notes);
	for (const struct node *at = standbys == NULL ? NULL : standbys->first; at != NULL;
	     at = at->next) {
		const struct node *name = value_of(at, "django_alias");
		const struct node *host = value_of(at, "host");

		if (!is_text(value_of(at, "master"), alias))
			continue;
		sbuf_printf(notes,
		            "postgresql.yml: line %zu: the standby %s on %s reads %s: it stays a "
		            "standby of the old server, so that what is read there is old from the "
		            "move on; remove the entry, or build that standby anew\n",
		            at->line, name == NULL ? "?" : name->text,
		            host == NULL || host->kind != NODE_SCALAR ? "the default host"
		                                                      : host->text,
		            alias);
		if (name != NULL && name->kind == NODE_SCALAR) {
			note_section(commcare->root, "REPORTING_DATABASES", name->text, alias,
			             notes);
			note_section(commcare->root, "LOAD_BALANCED_APPS", name->text, alias,
			             notes);
		}
	}
}

/* ---- the rules for them ---- */

static bool is_alias(const struct commcare *commcare, const char *alias)
{
	const struct node *standbys = value_of(value_of(commcare->root, "dbs"), "standby");

	/* Django calls the main database so. */
	if (strcmp(alias, "default") == 0)
		return true;
	for (size_t i = 0; i < commcare->database_count; i++) {
		if (strcmp(commcare->databases[i].alias, alias) == 0)
			return true;
	}
	for (const struct node *at = standbys == NULL ? NULL : standbys->first; at != NULL;
	     at = at->next) {
		if (is_text(value_of(at, "django_alias"), alias))
			return true;
	}
	return false;
}

static void check_alias(const struct commcare *commcare, const struct node *node, const char *where,
                        struct problems *problems)
{
	if (node != NULL && node->kind == NODE_SCALAR && !is_alias(commcare, node->text))
		problem_add(problems, node->line, node->column, "%s: there is no database %s",
		            where, node->text);
}

void commcare_check_readers(const struct commcare *commcare, struct problems *problems)
{
	const struct node *reporting = value_of(commcare->root, "REPORTING_DATABASES");
	const struct node *standbys = value_of(value_of(commcare->root, "dbs"), "standby");

	for (const struct node *at =
	         reporting == NULL || reporting->kind != NODE_MAP ? NULL : reporting->first;
	     at != NULL; at = at->next) {
		const struct node *read = value_of(at->value, "READ");

		check_alias(commcare, at->value, "REPORTING_DATABASES", problems);
		check_alias(commcare, value_of(at->value, "WRITE"), "REPORTING_DATABASES",
		            problems);
		/* [[alias, weight], ...] */
		for (const struct node *item =
		         read == NULL || read->kind != NODE_LIST ? NULL : read->first;
		     item != NULL; item = item->next)
			check_alias(commcare, item->kind == NODE_LIST ? item->first : item,
			            "REPORTING_DATABASES", problems);
	}
	for (const struct node *at =
	         standbys == NULL || standbys->kind != NODE_LIST ? NULL : standbys->first;
	     at != NULL; at = at->next) {
		const struct node *master = value_of(at, "master");

		if (master == NULL)
			problem_add(problems, at->line, at->column, "standby: master is missing");
		check_alias(commcare, master, "standby", problems);
	}
}
