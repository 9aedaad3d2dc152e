/* SPDX-License-Identifier: PostgreSQL */
/*
 * Fault points: named places where a test makes the program die, wait or fail.  The environment
 * variable PGSHUNT_FAULT holds "name=action[,name=action…]" with the actions kill (SIGKILL to
 * itself), fail (fault_point() returns true), sleep:MILLISECONDS and wait:/FILE (the point makes
 * the file and stays there until somebody removes it).  Without the variable a point costs one load
 * of a flag.  Not for the message path.
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>

/* Reads PGSHUNT_FAULT; call once at start, before threads.  Ends the program (exit code 2) with a
 * message if the variable cannot be parsed. */
void fault_init(void);

/* Carries out what was asked for `name`; true if the caller is to behave as if it had failed. */
bool fault_point(const char *name);

#endif
