/* SPDX-License-Identifier: PostgreSQL */
/*
 * How many connections of each address are logging in, for max_logins_per_address.  An IPv6 address
 * counts as its /64, which is what one machine is given.  Any thread; one lock, taken at accept and
 * at the end of a login, and only while the limit is set.
 */
#ifndef CORE_ADDRESS_H
#define CORE_ADDRESS_H

#include "base/compiler.h"

#include <stdbool.h>

struct address;
struct address_table;

struct address_table *address_table_new(void) MUST_CHECK;
void address_table_free(struct address_table *table); /* NULL is allowed */

/* Counts the peer of the socket.  False: `limit` are counted already.  *address is NULL for a Unix
 * socket (or without memory: nothing is counted). */
bool address_enter(struct address_table *table, int fd, int limit,
                   struct address **address) MUST_CHECK;

void address_leave(struct address_table *table, struct address *address); /* NULL is allowed */

#endif
