/* SPDX-License-Identifier: PostgreSQL */
/*
 * Passwords that an LDAP server checks, by PostgreSQL's options (documentation 21.10): a bind as the
 * name between ldapprefix and ldapsuffix, or as what a search under ldapbasedn finds.  Options are
 * immutable once they are complete, and counted.  Without OpenLDAP's library at the build nothing is
 * right.
 */
#ifndef AUTH_LDAP_H
#define AUTH_LDAP_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>

struct auth_ldap;

bool auth_ldap_is_available(void);

struct auth_ldap *auth_ldap_new(void);
struct auth_ldap *auth_ldap_ref(struct auth_ldap *ldap);
void auth_ldap_unref(struct auth_ldap *ldap); /* NULL is allowed */

/* Takes an option "name=value".  False: `why` says what is wrong. */
bool auth_ldap_set(struct auth_ldap *ldap, const char *option, struct sbuf *why) MUST_CHECK;

/* Whether the options that were taken make sense together.  False: `why`. */
bool auth_ldap_complete(const struct auth_ldap *ldap, struct sbuf *why) MUST_CHECK;

/* Options as they stand in an HBA file, quotes and all; NULL: `errors` has a line for each problem. */
struct auth_ldap *auth_ldap_parse(const char *text, struct sbuf *errors) MUST_CHECK;

/* Appends "name=value,…", without the password of ldapbinddn. */
void auth_ldap_format(const struct auth_ldap *ldap, struct sbuf *out);

/* Whether it is the user's password.  Takes as long as the servers do, within a few seconds for each
 * step: for a thread that nobody waits for.  False: `why`, for the log, names no secret. */
bool auth_ldap_check(const struct auth_ldap *ldap, const char *user, const char *password,
                     char *why, size_t why_size) MUST_CHECK;

#endif
