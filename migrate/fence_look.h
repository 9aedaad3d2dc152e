/* SPDX-License-Identifier: PostgreSQL */
#ifndef MIGRATE_FENCE_LOOK_H
#define MIGRATE_FENCE_LOOK_H

#include "base/compiler.h"

#include <stddef.h>

struct link;
struct move;
struct server;

/* The copies of the shards on a server of the move. */
enum fence_state {
	FENCE_UNKNOWN, /* it cannot be asked; the link has the error */
	FENCE_CLOSED,  /* all that are there, which may be none */
	FENCE_OPEN,    /* all that are there */
	FENCE_MIXED,
	FENCE_STANDBY, /* it is in recovery: nobody writes there */
	FENCE_STRANGER /* it is another database system by now: the copies are not those of the move
	                */
};

/* Asks; says of each shard, too, whether it is absent there. */
enum fence_state fence_look(struct move *move, struct server *server) MUST_CHECK;

/* Who has locked rows of pg_database, who is in the shards or about to be: process, user,
 * application, query.  Text to be freed; it says so if that cannot be asked.  Ends an open
 * transaction. */
char *fence_lock_holders(struct move *move, struct link *link);
char *fence_who_is_left(struct move *move, struct link *link);

/* The databases of which source and target both have a copy that can be written to; 0 if one of the
 * two cannot be asked.  Free them with fence_free_names(). */
size_t fence_open_on_both(struct move *move, char ***names);
void fence_free_names(char **names, size_t count);

#endif
