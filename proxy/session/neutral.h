/* SPDX-License-Identifier: PostgreSQL */
/*
 * How the proxy reads and writes rows of a session: under settings of its own, for one implicit
 * transaction, so that nothing depends on those of the session.  For the files of this folder.
 */
#ifndef SESSION_NEUTRAL_H
#define SESSION_NEUTRAL_H

#include "base/sbuf.h"
#include "session/inspect.h"

/* Begins a transaction of ours.  Names and rows are in the encoding of the server, which `state`
 * tells.  Its one command has no row. */
void neutral_add(const struct session_state *state, struct sbuf *out);

/* One command, which is freed; no Sync. */
void neutral_run(struct sbuf *out, struct sbuf *sql);

void neutral_add_quoted(struct sbuf *sql, char quote, const char *text);

/* A literal whatever standard_conforming_strings is. */
void neutral_add_literal(struct sbuf *sql, const char *text);

#endif
