/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the relay has seen of a session and no server can be asked for: the names of custom settings
 * ("app.user": pg_settings does not show them), and whether what a server shows can be taken at its
 * word.  One per client of a session pool, made when there is something to remember: a session of
 * plain statements has none (NULL).  Belongs to the client's worker; no I/O.
 */
#ifndef SESSION_FACTS_H
#define SESSION_FACTS_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

/* More names than this are not told apart any more: session_facts_unreadable(). */
#define SESSION_FACTS_NAMES_MAX 256

struct session_facts; /* opaque; NULL: nothing */

/* NULL is allowed. */
void session_facts_free(struct session_facts *facts);

/* ---- from the relay ---- */

/* The text of a Query or Parse on its way to the server, or its beginning: `whole` tells.  *slot is
 * made when there is something to remember.  Cheap for what sets nothing. */
void session_facts_see_text(struct session_facts **slot, const char *text, size_t len, bool whole);

/* The server tells what was set, as it does behind a Query, too. */
void session_facts_see_sync(struct session_facts *facts);

/* Asked before the text of a Parse is seen, and said behind it: what may have been set that no server
 * tells of if it is set back before the Sync.  `piped`: messages come before it since the last one. */
unsigned session_facts_set_before(struct session_facts *facts, bool piped);
/* True: its times may be others when it is prepared again (of a `named` one it is kept). */
bool session_facts_see_parse(struct session_facts *facts, unsigned under, bool named);

/* CommandComplete with the tag SET came. */
void session_facts_see_set(struct session_facts *facts);

/* The server reported another value of a parameter (a name of guc_report.def).  Some matter, and of
 * some only whether a statement of a name may have been `prepared` before. */
void session_facts_see_parameter(struct session_facts **slot, const char *name, bool prepared);

/* Of these: what a literal that is a date, a time or an interval means depends on it. */
bool session_facts_is_of_times(const char *name);

/* There are no prepared statements any more. */
void session_facts_see_no_statements(struct session_facts *facts);

/* The client has (or no more has) an unnamed statement that was too long to be kept, or
 * of which an error has left open whether it was prepared; or one that was prepared before its
 * times would have been others. */
void session_facts_see_unnamed(struct session_facts **slot, bool lost, bool times_changed);

/* ---- to inspection and classification; facts may be NULL ---- */

size_t session_facts_names(const struct session_facts *facts);
const char *session_facts_name(const struct session_facts *facts, size_t i);

/* A text has set this one, which servers do not report. */
bool session_facts_has_set(const struct session_facts *facts, const char *name);
/* One that a text has set and that only superusers, and members of pg_read_all_settings, may see;
 * or NULL. */
const char *session_facts_concealed(const struct session_facts *facts);

/* A custom setting may have been set whose name was not seen. */
bool session_facts_unreadable(const struct session_facts *facts);
bool session_facts_strings_changed(const struct session_facts *facts);
bool session_facts_encoding_changed(const struct session_facts *facts);
bool session_facts_unnamed_lost(const struct session_facts *facts);
bool session_facts_times_changed(const struct session_facts *facts);
bool session_facts_unnamed_times_changed(const struct session_facts *facts);

/* For facts that came another way (a session taken over from another process): adds a name, marks
 * custom settings as unreadable. */
void session_facts_add_name(struct session_facts **slot, const char *name);
void session_facts_set_unreadable(struct session_facts **slot);

#endif
