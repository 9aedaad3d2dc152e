/* SPDX-License-Identifier: PostgreSQL */
/*
 * Positions in the WAL and timeline history files, as PostgreSQL writes them.  Pure functions.
 */
#ifndef MIGRATE_LSN_H
#define MIGRATE_LSN_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

#define LSN_TEXT_MAX 20

/* "16/B374D848"; false if `text` is NULL or anything else. */
bool lsn_parse(const char *text, uint64_t *lsn) MUST_CHECK;

/* The same the other way round; returns out. */
char *lsn_format(uint64_t lsn, char out[LSN_TEXT_MAX]);

/* The last entry of a timeline history file: the parent timeline and the position at which the
 * timeline that the file is named after left it.  False if there is none or a line is malformed. */
bool timeline_switch_point(const char *history, uint32_t *parent, uint64_t *lsn) MUST_CHECK;

#endif
