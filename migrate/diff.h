/* SPDX-License-Identifier: PostgreSQL */
/*
 * What changes in a file, as people read it: a unified diff with three lines of context.
 */
#ifndef MIGRATE_DIFF_H
#define MIGRATE_DIFF_H

#include "base/sbuf.h"

/* Appends the diff, nothing if the texts are equal. */
void text_diff(const char *old_name, const char *old_text, const char *new_name,
               const char *new_text, struct sbuf *out);

#endif
