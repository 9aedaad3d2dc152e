/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the two halves of the loader share: conf/load.c fills the structs, conf/check.c judges what
 * only several settings together can show.  Internal to conf.
 */
#ifndef CONF_LOAD_H
#define CONF_LOAD_H

#include "conf/config.h"
#include "conf/problem.h"
#include "conf/table.h"
#include "conf/tree.h"
#include "conf/value.h"

/* Longest name of anything in PostgreSQL (NAMEDATALEN - 1). */
#define CONFIG_NAME_MAX 63

struct loader {
	struct config *config;
	struct value_context context;
	struct problems *problems;
	const struct node *proxy; /* the map of the section, NULL if there is none */
	const struct node **keys[CONFIG_ENTRY_KINDS]; /* of each entry: the key with its name */
};

/* The node of a setting in a section or entry; `otherwise` if the file does not give it. */
const struct node *loader_place(const struct node *map, const char *setting,
                                const struct node *otherwise);

#define LOADER_LABEL_MAX 128

/* "servers.pg1": how messages name an entry; returns out. */
const char *loader_label(const struct entry_kind *kind, const char *name,
                         char out[LOADER_LABEL_MAX]);

/* Fills in the TLS of every server (conf/config.c). */
void config_resolve_tls(struct config *config);

/* Adds what is wrong with the configuration as a whole. */
void config_check(struct loader *loader);

#endif
