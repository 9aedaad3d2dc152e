/* SPDX-License-Identifier: PostgreSQL */
/*
 * Commands of the operator's: a shell on another machine that stays open, so that a step in the
 * hold costs a round trip and not a login, and single commands with a deadline.
 *
 * Both run in sessions of their own: a ^C at the terminal is for the mover to deal with.  Passwords
 * never go this way.
 */
#ifndef MIGRATE_REMOTE_H
#define MIGRATE_REMOTE_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>

struct remote;

/* Starts "COMMAND sh" and tries it out; NULL and `error` if it cannot be used. */
struct remote *remote_start(const char *command, usec_t timeout, struct sbuf *error) MUST_CHECK;

/* Starts it again if it has ended, as with the connection to that machine; false and `error` if
 * that does not go. */
bool remote_revive(struct remote *shell, usec_t timeout, struct sbuf *error) MUST_CHECK;

/* Runs a script there; true if it ended with 0.  `out` gets what it wrote, or why it failed. */
bool remote_run(struct remote *shell, const char *script, usec_t timeout,
                struct sbuf *out) MUST_CHECK;
void remote_end(struct remote *shell);

/*
 * Runs "sh -c command" with the environment variables `env` (NAME=value, NULL at the end) added.
 * `out` gets stdout and stderr, as much as it may hold.  The exit code; 128 + signal if it was
 * killed, -1 if it did not end in time and was killed with all its children, -2 if it could not be
 * started.  `idle` is called meanwhile, about every 20 ms.
 */
int remote_command(const char *command, char *const *env, usec_t timeout, struct sbuf *out,
                   void (*idle)(void *arg), void *arg) MUST_CHECK;

#endif
