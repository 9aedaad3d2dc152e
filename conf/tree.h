/* SPDX-License-Identifier: PostgreSQL */
/*
 * A YAML file as a tree of nodes that know their places.  Bounded in depth and number of nodes;
 * aliases, anchors, tags, merge keys and duplicate keys are refused.
 */
#ifndef CONF_TREE_H
#define CONF_TREE_H

#include "base/compiler.h"
#include "conf/arena.h"
#include "conf/problem.h"

#include <stdbool.h>
#include <stddef.h>

#define TREE_DEPTH_MAX 8
#define TREE_NODES_MAX 200000

enum node_kind {
	NODE_SCALAR,
	NODE_LIST,
	NODE_MAP,
	NODE_REFUSED /* was already complained about: say nothing more */
};

struct node {
	enum node_kind kind;
	bool plain;   /* a scalar without quotes */
	bool flow;    /* a list in [] or a map in {} */
	size_t start; /* in the bytes of the file, with its quotes */
	size_t end;   /* behind it; of scalars only */
	size_t line;  /* from 1 */
	size_t column;
	const char *text;   /* of a scalar: no zero byte inside */
	struct node *first; /* of a list: the items; of a map: the keys */
	struct node *last;
	struct node *next;
	struct node *value; /* of a key */
	size_t count;
};

/*
 * The tree of the file, NULL if it is empty.  False if the tree is not complete and its content
 * should not be judged.  Memory comes from `blocks`; all errors go to `problems`.
 */
bool tree_parse(const void *bytes, size_t len, struct config_block **blocks, struct node **root,
                struct problems *problems) MUST_CHECK;

/* Whether the node is YAML's null: nothing, ~ or null without quotes. */
bool node_is_null(const struct node *node);

/* The key of that name in a map, NULL if there is none or `map` is not a map or NULL. */
const struct node *node_find_key(const struct node *map, const char *name);

/* "a list", "a mapping" … for messages. */
const char *node_kind_name(const struct node *node);

#endif
