/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the commands SET and RESET in a text do to the parameters that servers report.  Owns
 * nothing; any thread.
 */
#ifndef SESSION_SQL_SET_H
#define SESSION_SQL_SET_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

/* param_bit(): what is so behind the text, if nothing of it is rolled back. */
struct sql_settings {
	uint16_t set;   /* have the values that the text gives them, for the session */
	uint16_t reset; /* have their defaults again */
};

/* Reads PostgreSQL's statements SET (SESSION, LOCAL, TIME ZONE, NAMES, SCHEMA, SESSION
 * CHARACTERISTICS) and RESET at their beginnings only: SET in ALTER, UPDATE, CREATE FUNCTION, in
 * strings and comments is none.  False: the text does not tell, as one without such a statement,
 * with more than one and the end of a transaction, or that breaks off. */
bool sql_read_settings(const char *text, struct sql_settings *settings) MUST_CHECK;

/* param_bit() of what a text sets that is SELECT set_config(name, …, false) and nothing else, as
 * some drivers and frameworks send it instead of SET; 0: it is another one, or does not tell. */
uint16_t sql_read_set_config(const char *text);

#endif
