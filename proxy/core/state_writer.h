/* SPDX-License-Identifier: PostgreSQL */
/*
 * The thread that writes the state directory, so that a slow disk's fsync never stops the main
 * thread from accepting connections.  The newest text of a file replaces one that still waits, and
 * a request is numbered: "number n has been written" holds for all up to n.
 */
#ifndef CORE_STATE_WRITER_H
#define CORE_STATE_WRITER_H

#include "base/compiler.h"
#include "net/mailbox.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_writer; /* opaque */

/* The letter that reports a write of the state file; free()d by the receiver. */
struct state_written {
	struct letter letter;
	uint64_t number; /* the highest that this write answers */
	bool ok;
	char error[512];
};

/* Starts the thread; letters of type `type` go to `answer_to`.  NULL when it cannot be started. */
struct state_writer *state_writer_start(const char *directory, struct mailbox *answer_to,
                                        int type) MUST_CHECK;

/* Has the state file replaced by `text` (taken over); returns the number of the request. */
uint64_t state_writer_save(struct state_writer *writer, char *text, size_t len);

/* The same for the file of remembered parameters, which nobody waits for. */
void state_writer_save_welcome(struct state_writer *writer, char *text, size_t len);

/* Writes what still waits, then ends the thread. */
void state_writer_stop(struct state_writer *writer);

#endif
