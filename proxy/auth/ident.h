/* SPDX-License-Identifier: PostgreSQL */
/*
 * User name maps, in the format of pg_ident.conf (PostgreSQL documentation 21.2):
 *
 *     map-name  system-user-name  database-user-name
 *
 * A system user "/…" is a regular expression, whose first group stands for \1 in the database user;
 * the database user may be "all" or a regular expression as well.  Made once, then read by all
 * threads; counted.
 */
#ifndef AUTH_IDENT_H
#define AUTH_IDENT_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>

struct ident;

/* NULL: `errors` has a line for each problem. */
struct ident *ident_load(const char *path, struct sbuf *errors) MUST_CHECK;
struct ident *ident_parse(const char *path, const char *text, size_t len,
                          struct sbuf *errors) MUST_CHECK;

struct ident *ident_ref(struct ident *ident);
void ident_unref(struct ident *ident); /* NULL is allowed */

/*
 * May `system_user` log in as `user`?  `map` NULL or "": only under its own name.  `ident` NULL has
 * no maps.
 */
bool ident_allows(const struct ident *ident, const char *map, const char *system_user,
                  const char *user);

#endif
