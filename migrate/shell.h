/* SPDX-License-Identifier: PostgreSQL */
/*
 * A shell script on a server's machine, by the command that servers.*.shell configures: the script
 * goes to its standard input, so that nothing needs to be quoted twice and no secret is in an argv.
 * What it prints, on both of its outputs, is read line by line.  Blocks; not for the time in which
 * clients are held.
 */
#ifndef MIGRATE_SHELL_H
#define MIGRATE_SHELL_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <signal.h>
#include <stdbool.h>

struct shell_job {
	const char *command; /* servers.*.shell: "COMMAND sh" is run */
	const char *script;
	usec_t timeout; /* 0 = none */
	/* Called for each line of output, without its end. */
	void (*line)(void *arg, const char *line);
	void *arg;
	const volatile sig_atomic_t *stop; /* when set, the command is terminated; may be NULL */
};

/* True if the command ended with 0.  False: *error says how it ended (one line). */
bool shell_run(const struct shell_job *job, struct sbuf *error) MUST_CHECK;

/* Appends the word so that a shell reads it as one. */
void shell_quote(struct sbuf *out, const char *word);

#endif
