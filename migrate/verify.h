/* SPDX-License-Identifier: PostgreSQL */
/*
 * The exact comparison of the shards on both servers.
 *
 * The source's copy is frozen by its fence; the target's is the same until the first client is let
 * in.  A session of ours on each side (the keeper) keeps a snapshot of that moment: on the source
 * sessions are opened before the fence and are spared by it, for nobody gets in later; on the
 * target one session is opened on the standby and takes its snapshot while the promotion is waited
 * for. What is compared, is compared after the release, by sessions that import these snapshots.
 *
 * The same rows lie at the same place on both, because the target is a physical copy.  Hence the
 * comparison goes by ranges of blocks (units): number of rows and two sums of 64-bit hashes, which
 * do not depend on the order; per PL/Proxy partition where the key of the table is known.
 *
 * Later, when the snapshots are gone, the target has moved on.  Then its rows that were not written
 * since the move (by their xmin) must be in the source's copy at the same place; which of the
 * others were right at the moment of the move, nobody can say any more.
 *
 * One thread.  Nothing here writes to a database; only verify_later() touches a fence.
 */
#ifndef MIGRATE_VERIFY_H
#define MIGRATE_VERIFY_H

#include "migrate/move.h"

/* What its sessions on the servers call themselves. */
#define VERIFY_NAME "pgshunt comparison"

enum side { SOURCE, TARGET, SIDES };

enum verify_state {
	VERIFY_OPEN,    /* not (wholly) compared */
	VERIFY_EQUAL,   /* the same */
	VERIFY_PARTLY,  /* later: what was not written since the move is the same */
	VERIFY_DIFFERS, /* not the same */
	VERIFY_FAILED   /* cannot be compared: note says why */
};

/* A 128-bit sum of hashes, modulo 2^128. */
__extension__ typedef unsigned __int128 hash_sum;

struct verify_table {
	struct verify_shard *shard;
	char *name; /* quoted, with its schema */
	char *columns;
	char *filter; /* SQL of which rows count, "" = all */
	char *key; /* SQL of the number of its partition, NULL = not known */
	unsigned oid;
	int64_t node; /* relfilenode on the source */
	int64_t blocks;
	int64_t next; /* first block of the next unit, -1 = all are handed out */
	size_t running;
	int64_t rows[SIDES];
	hash_sum sums[SIDES][2];
	int64_t *spread;     /* rows of each partition on the source, NULL without key */
	int64_t outside;     /* rows whose partition is not the shard's */
	int64_t source_only; /* rows, of units that differ */
	int64_t target_only;
	int64_t changed; /* later: written since the move */
	int64_t fresh;   /* later: new since the move, or a new version */
	enum verify_state state;
	char *note;
};

struct verify_sequence {
	char *name;
	unsigned oid;
	int64_t target;
	bool target_called;
};

struct verify_shard {
	char *dbname;
	char *label;
	struct link keeper[SIDES];
	struct link_target to[SIDES];
	char *snapshot[SIDES];
	char *hash_schema;  /* of the function that PL/Proxy hashes keys with, NULL = not there */
	int parts;          /* partitions of the cluster, 0 = not known */
	bool *mine;         /* which of them are in this shard */
	size_t first_table; /* index of its tables */
	size_t table_count;
	struct verify_sequence *sequences;
	size_t sequence_count;
	int64_t sequences_wrong;
	bool sequences_read;
	bool sequences_done;
	char *old_limit; /* later: the source's connection limit before it was opened for us */
};

enum worker_stage { WORKER_IDLE, WORKER_SUMS, WORKER_ROWS, WORKER_DEAD };

struct verify_worker {
	struct verify_shard *shard;
	struct link links[SIDES];
	struct verify_table *table;
	int64_t from; /* blocks; to -1 = to the end */
	int64_t to;
	enum worker_stage stage;
	usec_t next_at; /* throttle */
	bool aborted[SIDES];
};

struct verify {
	struct move *move;
	struct verify_shard *shards;
	size_t shard_count;
	struct verify_worker *workers;
	size_t worker_count;
	struct verify_table *tables;
	size_t table_count;
	int64_t blocks; /* of all tables; progress */
	int64_t blocks_done;
	usec_t began;
	usec_t ended;
	bool later;
	uint64_t boundary; /* later: first xid of the target's own */
	uint64_t now_xid;
	char *failure; /* why no exact comparison is possible */
	bool stopped;
	struct journal_records known; /* tables that an earlier run has compared */
};

/* ---- verify.c: the hooks of a move ---- */

struct verify *verify_create(struct move *move);
void verify_free(struct verify *verify);

/* Opens the sessions on both sides, before the hold. */
bool verify_prepare(struct verify *verify) MUST_CHECK;

/* A session that may be broken; false if there is none any more. */
bool verify_revive(struct verify *verify, struct link *link) MUST_CHECK;

/* The processes of our sessions in the shards on one side, as an array of SQL; empty if none.  They
 * are not ended, and do not count as somebody who is left. */
void verify_spared(const struct move *move, enum side side, struct sbuf *out);
size_t verify_spared_count(const struct move *move);

/* Asks for the target's snapshots; takes them, without waiting longer than a few milliseconds. */
void verify_send_snapshots(struct move *move);
void verify_take_snapshots(struct move *move);

/* Compares.  The exit code: done, differs, or not everything could be compared. */
enum exit_code verify_run(struct verify *verify);

/* ---- verify_list.c: what there is to compare ---- */

bool verify_list(struct verify *verify, struct verify_shard *shard) MUST_CHECK;
void verify_partitions(struct verify *verify);
void verify_sequences(struct verify *verify, struct verify_shard *shard);
extern const char verify_sequences_sql[];
void verify_keep_sequences(struct verify_shard *shard, const PGresult *result);

/* ---- verify_unit.c: one range of blocks ---- */

void verify_start_unit(struct verify *verify, struct verify_worker *worker);
/* Its answers have come. */
void verify_finish_unit(struct verify *verify, struct verify_worker *worker);

/* ---- verify_result.c ---- */

const char *verify_state_name(enum verify_state state);
enum verify_state verify_shard_state(const struct verify *verify, const struct verify_shard *shard);
/* Appends a finished table to verify.jsonl. */
void verify_save_table(struct verify *verify, struct verify_table *table);
/* The whole as the inside of a JSON object. */
void verify_json(const struct verify *verify, struct sbuf *out);
enum exit_code verify_show(struct verify *verify);
/* Takes over what an earlier run has compared. */
void verify_load(struct verify *verify);

/* ---- verify_later.c ---- */

/* Lets our sessions, and for a moment no others but superusers, into the fenced shard. */
bool verify_let_in(struct verify *verify, const struct journal_records *records) MUST_CHECK;

#endif
