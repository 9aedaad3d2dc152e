/* SPDX-License-Identifier: PostgreSQL */
/* Between stmts.c and client_stmts.c.  For nobody else. */
#ifndef SESSION_STMTS_INTERNAL_H
#define SESSION_STMTS_INTERNAL_H

#include "session/hash.h"
#include "session/stmts.h"

/* The key of the store's tables, for those of its clients. */
const struct hash_key *stmt_store_hash_key(const struct stmt_store *store);

#endif
