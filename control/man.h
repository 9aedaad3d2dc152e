/* SPDX-License-Identifier: PostgreSQL */
/*
 * The manual page of pgshuntd, from the tables of settings, console commands and views.
 */
#ifndef CONTROL_MAN_H
#define CONTROL_MAN_H

#include <stdio.h>

/* Prints pgshuntd.8.  `usage`: the text of --help. */
void man_print(FILE *out, const char *usage);

#endif
