/* SPDX-License-Identifier: PostgreSQL */
#include "core/told.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

/* A power of two; doubled whenever there is more than one entry for each on average. */
#define BUCKETS_FIRST ((size_t)256)

struct told_table {
	pthread_mutex_t lock;
	struct told **buckets;
	size_t size;
	size_t count;
};

struct told_table *told_table_new(void)
{
	struct told_table *table = calloc(1, sizeof(*table));

	if (table == NULL)
		return NULL;
	table->size = BUCKETS_FIRST;
	table->buckets = calloc(table->size, sizeof(struct told *));
	if (table->buckets == NULL || pthread_mutex_init(&table->lock, NULL) != 0) {
		free(table->buckets);
		free(table);
		return NULL;
	}
	return table;
}

void told_table_free(struct told_table *table)
{
	if (table == NULL)
		return;
	(void)pthread_mutex_destroy(&table->lock);
	free(table->buckets);
	free(table);
}

/* A server's ids are consecutive numbers: they need no mixing. */
static struct told **bucket_of(const struct told_table *table, uint32_t pid)
{
	return &table->buckets[pid & (table->size - 1)];
}

static void link_first(struct told_table *table, struct told *told)
{
	struct told **bucket = bucket_of(table, told->pid);

	told->next = *bucket;
	*bucket = told;
}

/* Without memory for it chains get longer. */
static void grow(struct told_table *table)
{
	struct told **old = table->buckets;
	const size_t size = table->size;
	struct told **buckets = calloc(size * 2, sizeof(struct told *));

	if (buckets == NULL)
		return;
	table->buckets = buckets;
	table->size = size * 2;
	for (size_t i = 0; i < size; i++) {
		struct told *next;

		for (struct told *told = old[i]; told != NULL; told = next) {
			next = told->next;
			link_first(table, told);
		}
	}
	free(old);
}

bool told_add(struct told_table *table, struct told *told)
{
	const struct told *other;

	(void)pthread_mutex_lock(&table->lock);
	other = *bucket_of(table, told->pid);
	while (other != NULL && (other->pid != told->pid || other->number != told->number))
		other = other->next;
	if (other == NULL) {
		if (table->count == table->size)
			grow(table);
		link_first(table, told);
		table->count++;
	}
	(void)pthread_mutex_unlock(&table->lock);
	return other == NULL;
}

void told_remove(struct told_table *table, struct told *told)
{
	struct told **at;

	if (told->pid == 0)
		return;
	(void)pthread_mutex_lock(&table->lock);
	at = bucket_of(table, told->pid);
	while (*at != told)
		at = &(*at)->next;
	*at = told->next;
	table->count--;
	(void)pthread_mutex_unlock(&table->lock);
	told->pid = 0;
}

bool told_find(struct told_table *table, uint32_t pid,
	       bool (*fits)(const struct told *told, void *arg), void *arg, struct told *found)
{
	const struct told *told;

	(void)pthread_mutex_lock(&table->lock);
	told = *bucket_of(table, pid);
	while (told != NULL && (told->pid != pid || !fits(told, arg)))
		told = told->next;
	if (told != NULL)
		*found = *told;
	(void)pthread_mutex_unlock(&table->lock);
	return told != NULL;
}
