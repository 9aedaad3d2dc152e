/* SPDX-License-Identifier: PostgreSQL */
/*
 * Between the files of pgshunt standby.
 */
#ifndef MIGRATE_STANDBY_H
#define MIGRATE_STANDBY_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "migrate/move.h"

#include <stdbool.h>
#include <stdint.h>

/* What was found in the place of the data directory. */
enum place_state {
	PLACE_UNKNOWN,
	PLACE_ABSENT,
	PLACE_EMPTY,
	PLACE_CLUSTER,    /* the data directory of a server */
	PLACE_UNREADABLE, /* or no directory at all */
	PLACE_OTHER,      /* something, but no cluster */
};

struct standby {
	struct move *move; /* source and target */
	const char *slot;
	const char *user; /* who replicates */
	const char *data; /* on the target's machine */
	char *bin;
	char *passfile;   /* on the target's machine; NULL = no password is configured */
	char *secret;     /* the password, for the script alone; NULL = none */
	char *moved;      /* where an old standby is moved to; NULL = nothing is */
	char *system;     /* of the source */
	int64_t timeline; /* of the source */
	int64_t version;  /* of the source: server_version_num */
	int64_t bytes;    /* all of the source, roughly */
	int64_t free_slots;
	bool slot_exists;
	bool slot_made; /* by us */
	int log_fd;     /* what the machine said; -1 = none yet */
	char *log_path;
	usec_t copy_began;
	usec_t shown_at; /* its progress */

	/* what the machine said of the place */
	enum place_state place;
	bool running;
	bool signal; /* standby.signal is there */
	char *found_system;
	char *found_state;
	int64_t found_timeline;
	int64_t found_version; /* major, 0 = PostgreSQL is not there */
	int64_t free_bytes;    /* -1 = unknown */
};

/* standby_check.c: false after move_fail().  What the source is; whether a server answers where the
 * standby is to be; what is in its place there; whether the slot is free. */
bool standby_ask_source(struct standby *standby) MUST_CHECK;
bool standby_target_is_free(struct standby *standby) MUST_CHECK;
bool standby_probe(struct standby *standby) MUST_CHECK;
bool standby_ask_slot(struct standby *standby) MUST_CHECK;

/* standby_script.c: scripts for the target's machine.  With `secret` the password stands in it,
 * otherwise a line that says what to put there. */
void standby_probe_script(const struct standby *standby, struct sbuf *out);
void standby_copy_script(const struct standby *standby, bool secret, struct sbuf *out);
void standby_start_script(const struct standby *standby, struct sbuf *out);

/* standby_run.c: runs a script there, with its output in the log and to `line`; false after
 * move_fail(). */
bool standby_script(struct standby *standby, const char *what, const char *script,
                    void (*line)(struct standby *standby, const char *line)) MUST_CHECK;
/* Makes the directory of the log in the journal directory. */
bool standby_open_log(struct standby *standby) MUST_CHECK;
/* Reads a line of the probe, a line of pg_basebackup's progress. */
void standby_read_probe(struct standby *standby, const char *line);
void standby_read_progress(struct standby *standby, const char *line);

#endif
