/* SPDX-License-Identifier: PostgreSQL */
/*
 * What auth_query has answered: users by scope (who was asked, and what) and name, absent ones as
 * well.  Any thread; one lock, taken in logins only.  At most `max` entries: the one that was not
 * used for longest goes first.
 *
 * An answer that says the same as the last one keeps the user object, and with it what logins have
 * computed and learned.
 */
#ifndef AUTH_CACHE_H
#define AUTH_CACHE_H

#include "auth/user.h"
#include "base/clock.h"
#include "base/compiler.h"

#include <stddef.h>

struct auth_cache;

enum auth_cache_state {
	AUTH_CACHE_MISS,  /* nothing is known */
	AUTH_CACHE_STALE, /* known, but older than asked for */
	AUTH_CACHE_FRESH,
};

/* The scope of passwords that PAM or LDAP found right. */
#define AUTH_CACHE_OTHERS "others"

struct auth_cache *auth_cache_new(size_t max) MUST_CHECK;
void auth_cache_free(struct auth_cache *cache); /* NULL is allowed */

/* *user: a reference; NULL if there is nothing, or if the answer was that there is no such user.
 * Answers are fresh for `age`, those about absent users for `absent_age`. */
enum auth_cache_state auth_cache_get(struct auth_cache *cache, const char *scope, const char *name,
                                     usec_t now, usec_t age, usec_t absent_age,
                                     struct auth_user **user) MUST_CHECK;

/* Keeps an answer; `secret` NULL: no such user.  *user: a reference, NULL if there is none (or no
 * memory: then false). */
bool auth_cache_put(struct auth_cache *cache, const char *scope, const char *name,
                    const char *secret, usec_t now, struct auth_user **user) MUST_CHECK;

/* The answer may be out of date.  True: ask again; this is said of a name once in `gap`. */
bool auth_cache_doubt(struct auth_cache *cache, const char *scope, const char *name, usec_t now,
                      usec_t gap) MUST_CHECK;

/* No answer is fresh any more. */
void auth_cache_expire_all(struct auth_cache *cache);

size_t auth_cache_count(struct auth_cache *cache);

#endif
