/* SPDX-License-Identifier: PostgreSQL */
/*
 * The state directory: what outlives the process.  Two small text files, each replaced as a whole
 * (write, fsync, rename, fsync of the directory), so that after a crash the old or the new one is
 * there, never a part:
 *
 *   state     per database: last epoch, the route where a swap has changed it, hold, swap target
 *   welcome   per (database, user): parameters of the last server, so that clients can log in while
 *             their database is held; of no consequence when it is lost
 *   lock      held by flock() for as long as a pgshuntd uses the directory
 *
 * Blocking file I/O, no threads, nothing global.
 */
#ifndef CORE_STATE_H
#define CORE_STATE_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_FILE "state"
#define STATE_WELCOME_FILE "welcome"
#define STATE_LOCK_FILE "lock"

/* Most bytes of a file. */
#define STATE_FILE_MAX ((size_t)64 << 20)

struct state_database {
	char *name;
	uint64_t epoch;
	char *server; /* route made by a swap; NULL: the configuration's */
	char *target; /* of PREPARE SWAP; NULL: none */
	bool held;
	usec_t lease; /* of the hold; 0: it never ends by itself */
	int policy;   /* enum config_drain_policy */
};

struct state_welcome {
	char *database;
	char *user;
	void *params; /* param_set_encode() */
	size_t params_len;
};

struct state {
	struct state_database *databases;
	size_t database_count;
	struct state_welcome *welcomes;
	size_t welcome_count;
};

void state_free(struct state *state);

/* Creates the directory if needed, and locks it: a descriptor to be kept open, or -1 with a text in
 * `error`. */
int state_lock(const char *directory, struct sbuf *error) MUST_CHECK;

/* Reads both files; those that are missing are empty.  False with "file:line: what is wrong": a
 * state that cannot be understood must not be replaced by a guess. */
bool state_read(const char *directory, struct state *state, struct sbuf *error) MUST_CHECK;

/* The two files as text. */
void state_format(const struct state *state, struct sbuf *out);
void state_format_welcome(const struct state *state, struct sbuf *out);

/* Replaces one file; a text in `error` on failure, the old file is there then.  Not durable: it
 * outlives the process, but perhaps not the machine. */
bool state_write(const char *directory, const char *file, const char *text, size_t len,
                 bool durable, struct sbuf *error) MUST_CHECK;

/* One line of the files after the other, for tests and fuzzing: parses `text` as the file `path`.
 */
bool state_parse(const char *path, const char *text, size_t len, struct state *state,
                 struct sbuf *error) MUST_CHECK;

#endif
