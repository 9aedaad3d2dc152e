/* SPDX-License-Identifier: PostgreSQL */
/*
 * The journal of a move: a directory of its own below journal_directory, in it journal.jsonl, which
 * only grows by lines (JSON objects), and at the end report.json.
 *
 * A record is an intent ("from here on it may have happened") or an outcome ("it happened, and this
 * is the evidence").  Records that must precede an action are fsynced before it; the others are
 * written at once, so that they survive the death of the program, and synced later, because an
 * fsync while clients are held is a stall that they feel.
 *
 * What a reader may conclude: no intent = it was not done.  Everything else is asked of the
 * servers. The last line may be cut off; it then counts as not written.
 *
 * One lock (flock on journal_directory/lock) keeps a second operator on this machine out; the one
 * on other machines is kept out by an advisory lock on the source server (migrate/connect.c).
 */
#ifndef MIGRATE_JOURNAL_H
#define MIGRATE_JOURNAL_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "migrate/json.h"
#include "migrate/phase.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Most bytes that one record may have. */
#define JOURNAL_RECORD_MAX ((size_t)4 * 1024 * 1024)

struct journal {
	char *id;        /* "20260131T120000Z-p2"; NULL = no move yet, records are dropped */
	char *directory; /* of this move */
	int fd;          /* journal.jsonl, -1 = none */
	int64_t sequence;
	bool unsynced;
	bool torn; /* the last record is there in part */
};

/* A journal as it was read: one tree a record, linked by `next`. */
struct journal_records {
	char *id;
	struct json *first;
	bool truncated; /* the last line was cut off */
};

/* ---- the lock ---- */

/* Makes the directory if need be and takes the lock.  -1 and a message if somebody else has it. */
int journal_lock(const char *directory, struct sbuf *error) MUST_CHECK;

/* ---- writing ---- */

void journal_init(struct journal *journal);

/* Makes the directory and the empty journal of a new move of the shards in `label`.  Its name sorts
 * behind those that are there. */
bool journal_create(struct journal *journal, const char *parent, const char *label,
                    struct sbuf *error) MUST_CHECK;

/* Opens that of an unfinished move to append to it.  A line that was cut off is ended first. */
bool journal_reopen(struct journal *journal, const char *parent,
                    const struct journal_records *records, struct sbuf *error) MUST_CHECK;

/* Appends a record: kind "intent", "outcome" or "undo"; `data` is the inside of a JSON object, may
 * be "".  With `sync` it is on disk when this returns.  False if it could not be written, or if a
 * fault point says so. */
bool journal_write(struct journal *journal, const char *kind, const char *phase, const char *data,
                   bool sync) MUST_CHECK;

/* Keeps other processes out of this journal alone, until it is closed; false if one has it. */
bool journal_claim(const struct journal *journal) MUST_CHECK;

bool journal_sync(struct journal *journal) MUST_CHECK;
void journal_close(struct journal *journal);

/* Writes a file next to the journal, whole or not at all. */
bool journal_save(const struct journal *journal, const char *name, const char *text) MUST_CHECK;

/* ---- reading ---- */

/* The text of a file next to the journal, NULL if it cannot be read.  Free it. */
char *journal_load(const char *directory, const char *name) MUST_CHECK;

/* The records in the text of a journal; false if a line other than the last is not a record. */
bool journal_parse(const char *text, struct journal_records *records) MUST_CHECK;
bool journal_read(const char *parent, const char *id, struct journal_records *records,
                  struct sbuf *error) MUST_CHECK;
void journal_records_free(struct journal_records *records);

/* The last record of that kind and phase, NULL if none. */
const struct json *journal_find(const struct journal_records *records, const char *kind,
                                const char *phase);

/* Whether the move ended: done or undone. */
bool journal_finished(const struct journal_records *records);

/* The ids of the moves whose journal has no end, oldest first; free each and the array.  With
 * `finished` all moves. */
size_t journal_list(const char *parent, bool finished, char ***ids);

#endif
