/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sets of run-time parameters: what a client was promised and what a server connection has.
 *
 * A set is immutable, counted by references and interned in a pool: two equal sets of one pool are
 * the same pointer, so "client and server agree" is one comparison.  A change makes another set.
 * A pool and its sets belong to one worker thread; nothing here locks.  A set goes to another
 * thread (or to a file) as the bytes of param_set_encode().
 *
 *   client->params == server->params          nothing to do, the usual case
 *   else  n = param_set_sync_sql(client->params, server->params, &sql)
 *         n > 0: send sql as one simple Query, take its ParameterStatus messages into
 *                server->params by param_set_with(…, true), swallow the rest up to ReadyForQuery
 *         then  both := param_set_settle(pool, client->params, server->params)
 *               and tell the client param_set_write_status_diff(new, old)
 *   settle is needed because a server normalises values ("iso" is reported as "ISO, MDY") and
 *   because some differ for good (server_version): without it the pointers would never be equal.
 *
 * An entry is `reported` (the server sends ParameterStatus for it) or extra (a startup parameter of
 * the client that the server does not report, such as statement_timeout).  Nobody tells us what a
 * server does to an extra later (a SET by the client), so an extra is only as true as its pooling.
 * After a SET or RESET, which is of one or all and may be rolled back, the extras of a server are
 * in doubt: they equal nothing, so that the next sync brings each to what is wanted.  RESET returns
 * to the value of the server connection's own startup packet: open pooled server
 * connections without extras, and set them by sync.
 *
 * A reported entry in doubt is a guess: of a remembered set, what a client asked for in the place of
 * what servers have by themselves.
 *
 * Names compare without regard to case.  A name of guc_report.def is stored as PostgreSQL spells
 * it, another reported one as it came, an extra in lower case.  Values are bytes without a zero;
 * reported ones are in the client_encoding of the set, extras in the server's encoding, as
 * PostgreSQL does not convert a startup packet.  Two values are normalised as the server would:
 * client_encoding ("utf-8" becomes "UTF8") and application_name (63 bytes, in which what is
 * not printable ASCII becomes '?').
 */
#ifndef SESSION_PARAMS_H
#define SESSION_PARAMS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARAM_MAX_ENTRIES 128
#define PARAM_MAX_NAME 63
#define PARAM_MAX_VALUE 8192
/* More bytes than any set needs for param_set_sync_sql() or param_set_write_status(). */
#define PARAM_MAX_SQL ((size_t)PARAM_MAX_ENTRIES * (2 * PARAM_MAX_VALUE + 512))

/* Operators, and moves, set it for a while. */
#define PARAM_READ_ONLY "default_transaction_read_only"

struct param_pool; /* opaque: the interning table of one worker */
struct param_set;  /* opaque: sorted by name */

/* The first bytes of a SHA-256. */
struct param_digest {
	uint64_t half[2];
};

struct param_entry {
	const char *name;
	const char *value;
	uint16_t name_len;
	uint16_t value_len;
	bool reported;
	bool doubted; /* an extra that may have another value, or a guess */
};

/* ---- the pool ---- */

/* NULL on no memory. */
struct param_pool *param_pool_new(void) MUST_CHECK;

/* Every set must have been unreferenced.  NULL is allowed. */
void param_pool_free(struct param_pool *pool);

/* Sets that live now. */
size_t param_pool_count(const struct param_pool *pool);

/* ---- making sets: each returns a set with one reference more, to be given back by
 * param_set_unref(); NULL with errno ENOMEM, EINVAL (name empty, too long or not a parameter's
 * name; value too long) or E2BIG (too many entries).  A base of NULL is the empty set.  The sets
 * that are passed keep their own references. ---- */

struct param_set *param_set_empty(struct param_pool *pool) MUST_CHECK;

/* `base` with the entry set to `value`.  A name that the base has as reported stays reported. */
struct param_set *param_set_with(struct param_pool *pool, const struct param_set *base,
                                 const char *name, const char *value, bool reported) MUST_CHECK;

/* How many bytes PostgreSQL keeps of an identifier, without half a UTF-8 character. */
size_t param_identifier_len(const char *value);

/* The application_name that was sent, as servers from 16 on show bytes that are no printable ASCII:
 * \xNN, where older ones have '?', as param_set_with() has.  False: the server of `have` is one of
 * those.  (Longer than so it would be cut when it is SET.) */
#define PARAM_NAME_SHOWN 64
bool param_escape_name(const struct param_set *have, const char *sent,
                       char out[PARAM_NAME_SHOWN]) MUST_CHECK;

/* `base` without the entry; without it already: `base` itself. */
struct param_set *param_set_without(struct param_pool *pool, const struct param_set *base,
                                    const char *name) MUST_CHECK;

/* `base` with what `from` reports of these parameters (param_bit()). */
struct param_set *param_set_adopt(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *from, uint16_t bits) MUST_CHECK;

/* `base` with its extras in doubt. */
struct param_set *param_set_doubt(struct param_pool *pool, const struct param_set *base) MUST_CHECK;

/* `base` in which what it reports of the names in `names` are guesses. */
struct param_set *param_set_guess(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *names) MUST_CHECK;

/* All of `overlay`, and what `base` has besides.  The startup parameters of a client over the
 * remembered set of its database give what the client is told at login.  Entries that are reported
 * in either are reported, and guesses are no longer marked. */
struct param_set *param_set_merge(struct param_pool *pool, const struct param_set *base,
                                  const struct param_set *overlay) MUST_CHECK;

/* What client and server agree on after the SQL of param_set_sync_sql() has run and its
 * ParameterStatus messages are in `have`: the reported entries of `have`, and of `want` what it
 * has besides and can be set, as extras.  Extras that only `have` has are gone (RESET). */
struct param_set *param_set_settle(struct param_pool *pool, const struct param_set *want,
                                   const struct param_set *have) MUST_CHECK;

/* ---- references; NULL is allowed in both ---- */

struct param_set *param_set_ref(struct param_set *set);
void param_set_unref(struct param_set *set);

/* *slot = set, taking over the caller's reference of `set` and giving back that of the old one. */
void param_set_replace(struct param_set **slot, struct param_set *set);

/* ---- reading; NULL is the empty set ---- */

size_t param_set_count(const struct param_set *set);

/* The i-th entry in order of name, i < param_set_count(). */
const struct param_entry *param_set_at(const struct param_set *set, size_t i);

/* NULL if there is none. */
const struct param_entry *param_set_find(const struct param_set *set, const char *name);

/* The value, or NULL.  Valid as long as the set. */
const char *param_set_get(const struct param_set *set, const char *name);

/* Whether `names` has the name of every guess of the set, or what it follows from (NULL: whether there
 * is none). */
bool param_set_guesses_only(const struct param_set *set, const struct param_set *names);

/* ---- what a text means under it ---- */

/* Stands for what the set has of guc_parsed.def: equal in every thread and process if that is equal.
 * Computed once in the life of the set, which must not be NULL. */
const struct param_digest *param_set_parse_digest(struct param_set *set);

/* Whether a command may set what a text means and what servers do not report: it has such a name. */
bool param_names_unreported(const char *sql);

/* ---- the wire ---- */

/*
 * Appends one SQL string (for one simple Query, no terminating zero) that makes a server that has
 * `have` behave as `want`: RESET of the extras that only `have` has, set_config() of what differs.
 * Returns the number of entries that this changes; 0 = nothing was appended.  Entries that cannot
 * be set (guc_fixed.def) never count, nor do reported ones that the server's version does not know.
 * The string is plain ASCII in a form that means the same with standard_conforming_strings on and
 * off, in every client_encoding and under every search_path.  It is one implicit transaction: it
 * fails as a whole, by an ErrorResponse, if the server refuses a value.  Check sbuf_ok() (a buffer
 * of PARAM_MAX_SQL suffices).
 */
size_t param_set_sync_sql(const struct param_set *want, const struct param_set *have,
                          struct sbuf *sql);

/* The same, but these parameters (param_bit()) are set even if they are equal: the server may be
 * about to change what it has by itself. */
size_t param_set_sync_again_sql(const struct param_set *want, const struct param_set *have,
                                uint16_t bits, struct sbuf *sql);

/* Appends RESET of those of these parameters that the server of `have` reports. */
void param_reset_sql(uint16_t bits, const struct param_set *have, struct sbuf *sql);

/* Appends a ParameterStatus message for each reported entry; returns their number. */
size_t param_set_write_status(const struct param_set *set, struct sbuf *out);

/* The same for those reported entries of `now` which `before` lacks or has otherwise. */
size_t param_set_write_status_diff(const struct param_set *now, const struct param_set *before,
                                   struct sbuf *out);

/* ---- handing over ---- */

/*
 * The set as bytes for another pool or a file, free()d by the caller; NULL on no memory.
 * Form: "PSET" 0x01, Int16 count, then each entry as Int8 flags (bit 0: reported, bit 1: in doubt),
 * Int8 name_len, Int16 value_len, name, value.  Integers are big endian; bytes are as they came (not text-safe).
 */
void *param_set_encode(const struct param_set *set, size_t *len) MUST_CHECK;

/* The set of those bytes, with a reference; they need not be trusted.  NULL with errno as above,
 * EINVAL for bytes that are not a set. */
struct param_set *param_set_decode(struct param_pool *pool, const void *bytes,
                                   size_t len) MUST_CHECK;

/* ---- what is known of names ---- */

/* PostgreSQL's spelling of a parameter that servers of some version from 15 on report, or NULL. */
const char *param_reported_name(const char *name);

enum param_kind {
	PARAM_SETTABLE,
	PARAM_INTERNAL,       /* nobody can set it */
	PARAM_AT_START,       /* of a session only: in the startup packet of a server's connection */
	PARAM_WITHOUT_EFFECT, /* in a startup packet: of its first transaction, or for the protocol */
	PARAM_UNKNOWN,        /* not the name of a parameter */
};

enum param_kind param_kind(const char *name);

/* False for what no SQL can change in a running session (sync ignores it). */
bool param_settable(const char *name);

/* ---- who asked for what: of the parameters of guc_report.def that SQL can set, a bit for each
 * ---- */

#define PARAM_BITS_ALL UINT16_MAX

/* 0 for any other name. */
uint16_t param_bit(const char *name);

/* Those of which the set has an entry. */
uint16_t param_bits(const struct param_set *set);

/* Those which both report, with different values. */
uint16_t param_bits_differing(const struct param_set *a, const struct param_set *b);

/* True if it can be the name of a parameter: letters, digits, '_', '$', and dots between parts. */
bool param_name_valid(const char *name);

#endif
