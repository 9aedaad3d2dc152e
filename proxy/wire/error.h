/* SPDX-License-Identifier: PostgreSQL */
/*
 * The parts of an ErrorResponse or NoticeResponse.  Owns no memory: the texts belong to whoever
 * filled it in (string constants, or the body of a message that was parsed).
 */
#ifndef WIRE_ERROR_H
#define WIRE_ERROR_H

#include <stdint.h>

struct wire_error {
	const char *severity; /* field V (S if there is no V): "ERROR", "FATAL", "NOTICE" … */
	const char *sqlstate; /* five characters */
	const char *message;
	const char *detail; /* the following may be NULL (0): not there */
	const char *hint;
	uint32_t position;   /* in characters, from 1 */
	const char *routine; /* of the server's source */
};

#endif
