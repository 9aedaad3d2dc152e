/* SPDX-License-Identifier: PostgreSQL */
#include "core/address.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ADDRESS_BUCKETS 1024 /* a power of two */

struct address {
	struct address *next;
	uint64_t high; /* IPv6: the net; IPv4: the address, behind a mark that no net has */
	int count;
};

struct address_table {
	pthread_mutex_t lock; /* guards everything */
	struct address *buckets[ADDRESS_BUCKETS];
};

struct address_table *address_table_new(void)
{
	struct address_table *table = calloc(1, sizeof(*table));

	if (table != NULL)
		(void)pthread_mutex_init(&table->lock, NULL);
	return table;
}

void address_table_free(struct address_table *table)
{
	if (table == NULL)
		return;
	for (size_t i = 0; i < ADDRESS_BUCKETS; i++) {
		while (table->buckets[i] != NULL) {
			struct address *address = table->buckets[i];

			table->buckets[i] = address->next;
			free(address);
		}
	}
	(void)pthread_mutex_destroy(&table->lock);
	free(table);
}

static bool address_of(int fd, uint64_t *high)
{
	struct sockaddr_storage name;
	socklen_t len = sizeof(name);

	if (getpeername(fd, (struct sockaddr *)&name, &len) != 0)
		return false;
	if (name.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&name;

		*high = UINT64_C(0xffffffff) << 32 | in->sin_addr.s_addr;
		return true;
	}
	if (name.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&name;
		uint32_t mapped;

		memcpy(high, in6->sin6_addr.s6_addr, sizeof(*high));
		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
			memcpy(&mapped, in6->sin6_addr.s6_addr + 12, sizeof(mapped));
			*high = UINT64_C(0xffffffff) << 32 | mapped;
		}
		return true;
	}
	return false;
}

static struct address **address_bucket(struct address_table *table, uint64_t high)
{
	return &table->buckets[(high * UINT64_C(0x9e3779b97f4a7c15)) >> 54];
}

bool address_enter(struct address_table *table, int fd, int limit, struct address **out)
{
	struct address **bucket;
	struct address *address;
	uint64_t high;
	bool room = true;

	*out = NULL;
	if (!address_of(fd, &high))
		return true;
	bucket = address_bucket(table, high);
	(void)pthread_mutex_lock(&table->lock);
	for (address = *bucket; address != NULL && address->high != high; address = address->next)
		continue;
	if (address == NULL) {
		address = calloc(1, sizeof(*address));
		if (address != NULL) {
			address->high = high;
			address->next = *bucket;
			*bucket = address;
		}
	}
	if (address != NULL) {
		room = address->count < limit;
		if (room) {
			address->count++;
			*out = address;
		}
	}
	(void)pthread_mutex_unlock(&table->lock);
	return room;
}

void address_leave(struct address_table *table, struct address *address)
{
	struct address **at;

	if (address == NULL)
		return;
	(void)pthread_mutex_lock(&table->lock);
	if (--address->count == 0) {
		for (at = address_bucket(table, address->high); *at != address; at = &(*at)->next)
			continue;
		*at = address->next;
		free(address);
	}
	(void)pthread_mutex_unlock(&table->lock);
}
