/* SPDX-License-Identifier: PostgreSQL */
/*
 * A configuration of ours from an environment of commcare-cloud: what its postgresql.yml and its
 * inventory say of servers, databases, pgbouncers and the PL/Proxy cluster.
 */
#ifndef CONF_COMMCARE_CONFIG_H
#define CONF_COMMCARE_CONFIG_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/commcare.h"
#include "conf/problem.h"

#include <stdbool.h>

/* Reads postgresql.yml and the inventory in the directory; false: `errors` says why not. */
bool commcare_read(const char *directory, struct commcare *out, struct sbuf *errors) MUST_CHECK;

/* Appends the YAML of pgshunt.yml for it.  Passwords are not in the environment: libpq finds them
 * (~/.pgpass, PGPASSWORD), or *_password_file is added by hand. */
bool commcare_import(const char *directory, struct sbuf *yaml, struct sbuf *errors) MUST_CHECK;

/* The rule that who reads a database names one that is there. */
void commcare_check_readers(const struct commcare *commcare, struct problems *problems);

/* What names the database of that alias besides its own entry, a line each: standbys, reporting,
 * balanced reads.  They go on reading where they read. */
void commcare_readers(const struct commcare *commcare, const char *alias, struct sbuf *notes);

#endif
