/* SPDX-License-Identifier: PostgreSQL */
/*
 * The startup parameter "options": command-line switches in one string, split as PostgreSQL's
 * pg_split_opts() does (white space separates, a backslash makes the next byte literal).  Only what
 * sets a parameter is understood: "-c name=value", "-cname=value" and "--name=value".  Any thread.
 */
#ifndef WIRE_OPTIONS_H
#define WIRE_OPTIONS_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

struct wire_option {
	const char *name; /* dashes are underscores already; case as given */
	const char *value;
};

struct wire_options {
	struct wire_option *items; /* in the order given: a later one wins */
	size_t count;
	/* set when wire_options_parse() fails */
	const char *sqlstate;
	char error[160];
	const char *hint; /* or NULL */
	char *store;      /* private: the texts */
};

/* Splits `text` (from a startup packet, so at most 10000 bytes).  False: sqlstate, error and hint
 * say why, and there are no items.  In both cases wire_options_free() is to be called. */
bool wire_options_parse(const char *text, struct wire_options *out) MUST_CHECK;
void wire_options_free(struct wire_options *options);

#endif
