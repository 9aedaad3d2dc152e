/* SPDX-License-Identifier: PostgreSQL */
/*
 * The users file, in the format of pgbouncer's userlist.txt:
 *
 *     ; a comment
 *     "name" "secret"            "" in a text stands for one quote; more texts on the line are
 * ignored
 *
 * The secret is a password, "md5…" or "SCRAM-SHA-256$…".  A list never changes once it is made; it
 * is counted (atomically) and may be read by all threads.
 */
#ifndef AUTH_USERLIST_H
#define AUTH_USERLIST_H

#include "auth/user.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USERLIST_NAME_MAX 127u     /* both as in pgbouncer; the latter is also what fits into */
#define USERLIST_SECRET_MAX 65530u /* the longest password message that PostgreSQL takes */
#define USERLIST_FILE_MAX (64u * 1024 * 1024)

struct userlist;

/*
 * The list of the file at `path`, with one reference.  NULL: `error` holds one line, "file:line:
 * what is wrong" (never a secret).  Users whose name and secret stand the same in `previous` (NULL:
 * none) are shared with it, so that what logins computed and learned outlives a reload.  With
 * `theirs` a wrong line ends the file, as for pgbouncer: `error` is then only to be told.
 */
struct userlist *userlist_load(const char *path, const struct userlist *previous, bool theirs,
                               struct sbuf *error) MUST_CHECK;

/* The same from bytes; `path` only serves error texts. */
struct userlist *userlist_parse(const char *path, const char *text, size_t len,
                                const struct userlist *previous, bool theirs,
                                struct sbuf *error) MUST_CHECK;

/* A list without users, for trust. */
struct userlist *userlist_empty(void) MUST_CHECK;

struct userlist *userlist_ref(struct userlist *list);
void userlist_unref(struct userlist *list);

/* The user, which lives at least as long as the list: auth_user_ref() it to keep it longer.  NULL:
 * unknown. */
struct auth_user *userlist_find(const struct userlist *list, const char *name);

/* Most users have a SCRAM secret; so it is in an empty list. */
bool userlist_scram_usual(const struct userlist *list);

/* The iteration count that most of its SCRAM secrets have (passwords get the default one): who is
 * unknown is shown that one, too. */
uint32_t userlist_scram_iterations(const struct userlist *list);

size_t userlist_count(const struct userlist *list);
const char *userlist_name(const struct userlist *list, size_t index);

/*
 * Derives the SCRAM secrets of all plain passwords, 1 to 2 ms each, so that no login has to.  Not
 * necessary; for a thread that serves no clients.  Stops early when *stop becomes true (NULL:
 * never).
 */
void userlist_warm(struct userlist *list, const atomic_bool *stop);

#endif
