/* SPDX-License-Identifier: PostgreSQL */
/*
 * An intrusive doubly linked list with a count.  A node that is in no list is zeroed by
 * list_init_node(); list_remove() leaves it so, and asserts that it was in that list.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

struct list_node {
	struct list_node *prev;
	struct list_node *next;
};

struct list {
	struct list_node head;
	size_t count;
};

static inline void list_init(struct list *list)
{
	list->head.prev = &list->head;
	list->head.next = &list->head;
	list->count = 0;
}

static inline void list_init_node(struct list_node *node)
{
	node->prev = NULL;
	node->next = NULL;
}

static inline bool list_linked(const struct list_node *node)
{
	return node->next != NULL;
}

static inline void list_insert_before(struct list *list, struct list_node *at,
				      struct list_node *node)
{
	assert(!list_linked(node));
	node->prev = at->prev;
	node->next = at;
	at->prev->next = node;
	at->prev = node;
	list->count++;
}

static inline void list_append(struct list *list, struct list_node *node)
{
	list_insert_before(list, &list->head, node);
}

static inline void list_prepend(struct list *list, struct list_node *node)
{
	list_insert_before(list, list->head.next, node);
}

static inline void list_remove(struct list *list, struct list_node *node)
{
	assert(list_linked(node) && list->count > 0);
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init_node(node);
	list->count--;
}

static inline struct list_node *list_first(const struct list *list)
{
	return list->count == 0 ? NULL : list->head.next;
}

static inline struct list_node *list_last(const struct list *list)
{
	return list->count == 0 ? NULL : list->head.prev;
}

/* The one behind `node`, NULL after the last. */
static inline struct list_node *list_next(const struct list *list, const struct list_node *node)
{
	return node->next == &list->head ? NULL : node->next;
}

/* Every node; the current one may be removed (and freed) inside the loop. */
#define LIST_FOREACH(list, node, tmp)                                                              \
	for ((node) = (list)->head.next;                                                           \
	     (node) != &(list)->head && ((tmp) = (node)->next, 1); (node) = (tmp))

#endif
