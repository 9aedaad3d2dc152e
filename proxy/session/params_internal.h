/* SPDX-License-Identifier: PostgreSQL */
/*
 * Between params.c (sets), params_wire.c (SQL, messages, bytes) and params_names.c (what is known
 * of names and values).  For nobody else.
 */
#ifndef SESSION_PARAMS_INTERNAL_H
#define SESSION_PARAMS_INTERNAL_H

#include "session/params.h"

/* As strcasecmp() of ASCII, whatever the locale. */
int param_name_compare(const char *a, const char *b);

/* The first major version that has a parameter of guc_report.def; 0 = all that are supported, -1 =
 * not in the table. */
int param_reported_since(const char *name);

/* Writes the name as it is stored, PARAM_MAX_NAME + 1 bytes.  False if it is no parameter's name.
 */
bool param_normalise_name(const char *name, bool reported, char *out) MUST_CHECK;

/* Writes the value of `name` as it is stored, PARAM_MAX_VALUE + 1 bytes.  False if too long. */
bool param_normalise_value(const char *name, const char *value, char *out) MUST_CHECK;

/* The ParameterStatus messages of a set as they are sent to every client that logs in with it; made
 * when they are first wanted (`bytes` NULL: not yet), and freed with the set. */
struct param_status {
	char *bytes;
	size_t len;
	size_t count;
};

struct param_status *param_set_status(const struct param_set *set);

/* True if sync may set this entry of `want` on a server that has `have`. */
bool param_can_sync(const struct param_entry *entry, const struct param_set *have);

/* One more entry of a set that is being made: in order of name, names and values normalised. */
struct param_draft {
	size_t count;
	struct param_entry entries[PARAM_MAX_ENTRIES];
};

/* False (errno E2BIG) if it is full.  The strings must live until param_set_intern(). */
bool param_draft_add(struct param_draft *draft, const struct param_entry *entry) MUST_CHECK;

/* The set of these entries, with a reference; NULL (errno ENOMEM) on no memory. */
struct param_set *param_set_intern(struct param_pool *pool,
                                   const struct param_draft *draft) MUST_CHECK;

#endif
