/* SPDX-License-Identifier: PostgreSQL */
/*
 * The inventory of an environment of commcare-cloud, in whatever form it has: inventory.ini,
 * inventory.csv, inventory.yml, or a directory `inventory` of such files.  All become one text in
 * the INI form (conf/inventory.h).
 */
#ifndef CONF_INVENTORY_FILE_H
#define CONF_INVENTORY_FILE_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

/* Appends the file `name` as INI; its form is told by its name.  False: `errors` says why not. */
bool inventory_append(const char *name, const char *text, struct sbuf *ini,
                      struct sbuf *errors) MUST_CHECK;

/* Reads what the directory of the environment has.  *path names it, for messages; both are the
 * caller's to free.  False: `errors` says why not, and both are NULL. */
bool inventory_read(const char *directory, char **path, char **ini, struct sbuf *errors) MUST_CHECK;

#endif
