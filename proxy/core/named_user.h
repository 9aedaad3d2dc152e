/* SPDX-License-Identifier: PostgreSQL */
/*
 * The user that a database names for its server connections (`user` of databases), with a secret of the
 * database's own.  If that is a SCRAM secret, its key comes of logins of clients: of whoever has the
 * same secret, as in pgbouncer.  So it is one object for all databases that name the same.  Worker
 * threads.
 */
#ifndef CORE_NAMED_USER_H
#define CORE_NAMED_USER_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

struct auth_user;
struct config_database;
struct worker;

/* A reference; NULL: no memory, or, with a text in `why`, the secret cannot be read. */
struct auth_user *named_user(struct worker *worker, const struct config_database *database,
                             struct sbuf *why) MUST_CHECK;

/* `user` has logged in as a client of that database: true if a key is known now that was not. */
bool named_user_learns(struct worker *worker, const char *database, struct auth_user *user);

#endif
