/* SPDX-License-Identifier: PostgreSQL */
/*
 * Connection strings of PL/Proxy partitions ("dbname=p2 host=pg1 port=6432"): read by libpq's
 * rules, and re-addressed with every other byte kept, because PL/Proxy keys connections by the text
 * and other tools compare it.  Pure functions.
 */
#ifndef MIGRATE_CONNSTR_H
#define MIGRATE_CONNSTR_H

#include "base/compiler.h"

#include <stdbool.h>

/*
 * The value of `key`, without quotes and escapes, in new memory; *value is NULL when the key is not
 * there.  False if the string does not follow the rules (a URI does not either).  As in libpq, the
 * last of several equal keys counts.
 */
bool connstr_get(const char *connstr, const char *key, char **value) MUST_CHECK;

/*
 * The string with host and port of another server, in new memory; *error says why it cannot be
 * (a literal).  A port that was not written is added if it is not 5432.  A string with hostaddr,
 * service or several hosts is refused: which server it means is not in the text.
 */
bool connstr_readdress(const char *connstr, const char *host, int port, char **out,
                       const char **error) MUST_CHECK;

/* The number in the name of a partition option, "p0205", "p2" or "partition_2"; false for another
 * option ("connection_lifetime"). */
bool partition_number(const char *option, int *number) MUST_CHECK;

#endif
