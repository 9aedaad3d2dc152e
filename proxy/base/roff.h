/* SPDX-License-Identifier: PostgreSQL */
/*
 * Pieces of manual pages (roff, man macros), for the programs that print their own from their
 * tables.
 */
#ifndef BASE_ROFF_H
#define BASE_ROFF_H

#include <stdio.h>

/* The head of a page. */
void roff_begin(FILE *out, const char *name, int section, const char *what);

void roff_section(FILE *out, const char *title);

/* Text as it stands: nothing in it is a request or an escape.  Line breaks stay. */
void roff_text(FILE *out, const char *text);

/* A term and what it means. */
void roff_item(FILE *out, const char *term, const char *text);

#endif
