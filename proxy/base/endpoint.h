/* SPDX-License-Identifier: PostgreSQL */
/* How an address with its port is written: "10.0.0.7:5432", "[fe80::1]:5432", "unix:0". */
#ifndef BASE_ENDPOINT_H
#define BASE_ENDPOINT_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct endpoint_text {
	char text[272]; /* the name of a host has 255 bytes at most */
};

static inline struct endpoint_text endpoint_text(const char *addr, int port)
{
	const char *const brackets = strchr(addr, ':') == NULL ? "" : "[]";
	struct endpoint_text out;

	(void)snprintf(out.text, sizeof(out.text), "%.1s%.255s%s:%d", brackets, addr,
	               *brackets == '\0' ? "" : brackets + 1, port);
	return out;
}

/* Whether `text` means that host and port; brackets may be there or not. */
static inline bool endpoint_is(const char *text, const char *host, int port)
{
	const bool brackets = *text == '[';
	const size_t len = strlen(host);
	char rest[16];

	(void)snprintf(rest, sizeof(rest), "%s:%d", brackets ? "]" : "", port);
	text += brackets;
	return strncmp(text, host, len) == 0 && strcmp(text + len, rest) == 0;
}

/* Whether the host is the directory of a Unix socket: of the file system, or of Linux's abstract
 * namespace, as PostgreSQL and pgbouncer spell them. */
static inline bool endpoint_is_unix(const char *host)
{
	return *host == '/' || *host == '@';
}

#endif
