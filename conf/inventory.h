/* SPDX-License-Identifier: PostgreSQL */
/*
 * An inventory of Ansible in its INI form: hosts, their variables, groups and groups of groups.
 */
#ifndef CONF_INVENTORY_H
#define CONF_INVENTORY_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/arena.h"

#include <stdbool.h>
#include <stddef.h>

struct inventory_host {
	const char *name;
	const char *address; /* ansible_host, else the name */
	int processes;       /* pgbouncer_processes, 0 = not given */
	int port;            /* postgresql_port, 0 = not given */
};

struct inventory_group {
	const char *name;
	const char **hosts; /* as they are written in it */
	size_t host_count;
	const char **children;
	size_t child_count;
};

struct inventory {
	struct inventory_host *hosts;
	size_t host_count;
	struct inventory_group *groups;
	size_t group_count;
	struct config_block *blocks;
};

/* Reads the text of an inventory; false: `errors` has "name:line: text". */
bool inventory_parse(const char *name, const char *text, struct inventory *inventory,
                     struct sbuf *errors) MUST_CHECK;
void inventory_free(struct inventory *inventory);

const struct inventory_host *inventory_host(const struct inventory *inventory, const char *name);

/* The hosts of a group, with those of its children; free *hosts, not the names. */
size_t inventory_members(const struct inventory *inventory, const char *group, const char ***hosts);

/* The only host of a group, with those of its children; NULL if there is no such group or if it has
 * another number of hosts. */
const struct inventory_host *inventory_only(const struct inventory *inventory, const char *group);

#endif
