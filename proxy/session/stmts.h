/* SPDX-License-Identifier: PostgreSQL */
/*
 * Protocol-level prepared statements, so that the names a client gave work on whatever server it
 * gets.
 *
 *   stmt_store     one per worker: every definition once, counted by references
 *   client_stmts   one per client that prepares: its names -> definitions
 *   server_stmts   one per server connection: which definitions that server has, by digest
 *
 * The name on the server is "pgshunt_" and the digest of the definition, of fixed length; so two
 * clients with the same text, and settings under which it means the same, share one statement of a
 * server, and any worker or process knows the name.  A client's Parse is interned and named in its client_stmts; a client's Bind or Describe
 * looks its name up, asks server_stmts_touch(), sends the Parse first if the server lacks it, and
 * goes on with stmt_name().  "DISCARD ALL" and "DEALLOCATE ALL" (their tags) clear both.
 *
 * A server only has a statement when ParseComplete came: one whose Parse failed, or was skipped
 * after an error, must be taken out again by server_stmts_remove().
 *
 * Nothing here locks.  Store and client_stmts belong to one worker thread; server_stmts refer to
 * nothing outside themselves and may move to another thread with their server.
 */
#ifndef SESSION_STMTS_H
#define SESSION_STMTS_H

#include "base/compiler.h"
#include "session/params.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STMT_DIGEST_LEN 16
#define STMT_NAME_PREFIX "pgshunt_"
#define STMT_NAME_LEN (8 + 2 * STMT_DIGEST_LEN) /* without the terminating zero */
/* PostgreSQL tells statement names apart by this many bytes only (NAMEDATALEN - 1). */
#define STMT_CLIENT_NAME_MAX 63

struct stmt_store;   /* opaque */
struct client_stmts; /* opaque; no statements = NULL */

/*
 * One definition: the bytes of a Parse message after the statement's name, which are the query with
 * its terminating zero, Int16 n and n times Int32 type OID.  Read only; `text` and `len` may be
 * used directly, the digest and name only through their functions (they are made when first asked).
 */
struct stmt {
	uint32_t refs;
	uint32_t len;
	uint64_t hash;
	struct stmt_store *store;
	struct stmt *next;   /* of the same bucket */
	/* Those of which one of these differs are different statements. */
	uint32_t generation;
	struct param_digest settings; /* what the text means depends on; zero: not known */
	bool own; /* of one client only, whatever is the same about others */
	bool digested;
	uint8_t digest[STMT_DIGEST_LEN];
	char name[STMT_NAME_LEN + 1];
	char text[];
};

/* ---- the Parse message ---- */

/* The parts of the body of a Parse message (after its length).  `name` is terminated by a zero. */
struct stmt_parse {
	const char *name;
	size_t name_len;
	const char *def; /* for stmt_store_intern() */
	size_t def_len;
};

/* False if the body is not well-formed: let the server complain about it, remember nothing. */
bool stmt_split_parse(const void *body, size_t len, struct stmt_parse *parse) MUST_CHECK;

/* ---- definitions ---- */

/* NULL on no memory. */
struct stmt_store *stmt_store_new(void) MUST_CHECK;

/* Every statement must have been unreferenced, every client_stmts freed.  NULL is allowed. */
void stmt_store_free(struct stmt_store *store);

size_t stmt_store_count(const struct stmt_store *store);
size_t stmt_store_bytes(const struct stmt_store *store); /* memory of all definitions */

/* The definition with these bytes, with a reference for the caller; NULL on no memory.  Without a
 * generation: 0, and without settings. */
struct stmt *stmt_store_intern(struct stmt_store *store, const void *def, size_t len) MUST_CHECK;
struct stmt *stmt_store_intern_at(struct stmt_store *store, const void *def, size_t len,
                                  uint32_t generation,
                                  const struct param_digest *settings) MUST_CHECK;

/* The same, but one that no other client shares. */
struct stmt *stmt_store_make_own(struct stmt_store *store, const void *def, size_t len,
                                 uint32_t generation) MUST_CHECK;

/* Whether the text means under these settings what it meant when it was interned. */
static inline bool stmt_means(const struct stmt *stmt, const struct param_digest *settings)
{
	return stmt->settings.half[0] == settings->half[0] &&
	       stmt->settings.half[1] == settings->half[1];
}

/* NULL is allowed in both. */
static inline struct stmt *stmt_ref(struct stmt *stmt)
{
	if (stmt != NULL) {
		assert(stmt->refs < UINT32_MAX);
		stmt->refs++;
	}
	return stmt;
}

/* The last reference has gone. */
void stmt_free(struct stmt *stmt);

static inline void stmt_unref(struct stmt *stmt)
{
	if (stmt == NULL)
		return;
	assert(stmt->refs > 0);
	if (--stmt->refs == 0)
		stmt_free(stmt);
}

/* Computes what stmt_digest() and stmt_name() return. */
void stmt_make_digest(struct stmt *stmt);

/* STMT_DIGEST_LEN bytes: the first of SHA-256 of the definition, and of what else it depends on. */
static inline const uint8_t *stmt_digest(struct stmt *stmt)
{
	if (UNLIKELY(!stmt->digested))
		stmt_make_digest(stmt);
	return stmt->digest;
}

/* The name on every server, STMT_NAME_LEN bytes and a zero. */
static inline const char *stmt_name(struct stmt *stmt)
{
	if (UNLIKELY(!stmt->digested))
		stmt_make_digest(stmt);
	return stmt->name;
}

/* The name that belongs to a digest (to Close an evicted one). */
void stmt_server_name(const uint8_t digest[STMT_DIGEST_LEN], char out[STMT_NAME_LEN + 1]);

/* ---- a client's names ---- */

enum client_stmts_status {
	CLIENT_STMTS_OK,
	CLIENT_STMTS_EXISTS, /* error 42P05 on a real server; nothing was changed */
	CLIENT_STMTS_FULL,   /* has `max` already; nothing was changed */
	CLIENT_STMTS_NOMEM,
};

/* *slot is made if it is NULL; false on no memory. */
bool client_stmts_ensure(struct client_stmts **slot, struct stmt_store *store) MUST_CHECK;

/* Gives all references back.  NULL is allowed. */
void client_stmts_free(struct client_stmts *cs);

/* The definition under this name (not the caller's reference), or NULL.  cs may be NULL.  The empty
 * name is the unnamed statement, here and in the next two. */
struct stmt *client_stmts_get(const struct client_stmts *cs, const char *name, size_t name_len);

/* Names `stmt` and takes a reference of its own.  At most `max` named ones.  The unnamed statement
 * is replaced and never EXISTS or FULL: for its bound see client_stmts_set_unnamed(). */
enum client_stmts_status client_stmts_set(struct client_stmts *cs, const char *name,
                                          size_t name_len, struct stmt *stmt,
                                          size_t max) MUST_CHECK;

/* False if there was none (no error for Close).  cs may be NULL. */
bool client_stmts_remove(struct client_stmts *cs, const char *name, size_t name_len);

/* The unnamed statement: remembered if its definition has at most `max_bytes`, else forgotten and
 * false.  A stmt of NULL forgets it (a simple Query does). */
bool client_stmts_set_unnamed(struct client_stmts *cs, struct stmt *stmt, size_t max_bytes);
struct stmt *client_stmts_get_unnamed(const struct client_stmts *cs);

/* Forgets all, the unnamed too (DISCARD ALL), and gives its memory back but for the struct. */
void client_stmts_clear(struct client_stmts *cs);

/* Named ones; the bytes of their definitions and names (definitions shared with other clients count
 * in full), the unnamed included.  NULL counts as empty. */
size_t client_stmts_count(const struct client_stmts *cs);
size_t client_stmts_bytes(const struct client_stmts *cs);

/* All named ones, in no order: start with *cursor = 0; false at the end.  Not while changing. */
struct client_stmt_ref {
	const char *name; /* with a zero */
	size_t name_len;
	struct stmt *stmt;
};
bool client_stmts_next(const struct client_stmts *cs, size_t *cursor, struct client_stmt_ref *ref);

/* ---- what a server connection has ---- */

struct server_stmt; /* an entry of the table */

/* All zero is empty; allocates with the first add.  Fields are private. */
struct server_stmts {
	struct server_stmt *entries;
	uint32_t *index; /* open addressing: entry + 1, 0 = free */
	uint32_t count;
	uint32_t cap;        /* of entries */
	uint32_t index_mask; /* size of index - 1 */
	uint32_t newest;     /* entry + 1, 0 = none; ends of the list in order of use */
	uint32_t oldest;
	uint32_t free; /* unused entries, chained; entry + 1 */
};

void server_stmts_free(struct server_stmts *ss); /* all zero afterwards */

static inline size_t server_stmts_count(const struct server_stmts *ss)
{
	return ss->count;
}

/* True if the server has it; no change of order. */
bool server_stmts_contains(const struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN]);

/* The same, and makes it the most recently used. */
bool server_stmts_touch(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN]);

/* Adds it as most recently used (touches it if it is there).  False on no memory. */
bool server_stmts_add(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN]) MUST_CHECK;

bool server_stmts_remove(struct server_stmts *ss, const uint8_t digest[STMT_DIGEST_LEN]);
void server_stmts_clear(struct server_stmts *ss); /* keeps its memory */

/* If there are more than `max`: takes the least recently used out and returns true, with its digest
 * to be Closed on the server.  Call until false, after an add. */
bool server_stmts_evict(struct server_stmts *ss, size_t max, uint8_t digest[STMT_DIGEST_LEN]);

/* All digests from the most recently used on: start with *cursor = 0; false at the end. */
bool server_stmts_next(const struct server_stmts *ss, uint32_t *cursor, const uint8_t **digest);

#endif
