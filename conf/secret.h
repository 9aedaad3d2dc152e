/* SPDX-License-Identifier: PostgreSQL */
/*
 * Passwords: fetched when they are needed, from a file or an environment variable that the
 * configuration names, and kept nowhere here.
 */
#ifndef CONF_SECRET_H
#define CONF_SECRET_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>

/* Most bytes a password may have: what fits into the longest password message of PostgreSQL. */
#define CONFIG_SECRET_MAX 65530

/*
 * The first line of `file`, or the value of the environment variable `env`; the one that is not "".
 * True: *secret is it, for mem_free_secret(), or NULL when both are "".  False: *secret is NULL and
 * `error` says what is wrong with the file or variable, never what is in it.  Logs a warning when
 * everybody may read the file.
 */
bool config_secret(const char *file, const char *env, char **secret, struct sbuf *error) MUST_CHECK;

#endif
