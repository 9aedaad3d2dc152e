/* SPDX-License-Identifier: PostgreSQL */
/* How an address with its port is written: "10.0.0.7:5432", "[fe80::1]:5432", "unix:0". */
#ifndef BASE_ENDPOINT_H
#define BASE_ENDPOINT_H

#include <stdio.h>
#include <string.h>

struct endpoint_text {
	char text[80]; /* a numeric address has 63 bytes at most */
};

static inline struct endpoint_text endpoint_text(const char *addr, int port)
{
	const char *const brackets = strchr(addr, ':') == NULL ? "" : "[]";
	struct endpoint_text out;

	(void)snprintf(out.text, sizeof(out.text), "%.1s%.63s%s:%d", brackets, addr,
	               *brackets == '\0' ? "" : brackets + 1, port);
	return out;
}

#endif
