/* SPDX-License-Identifier: PostgreSQL */
/*
 * Passwords that PAM checks (Linux-PAM; pam(3)).  Without that library at the build nothing is
 * right.
 */
#ifndef AUTH_PAM_H
#define AUTH_PAM_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

/* What the rules of a service are asked. */
struct pam_question {
	const char *service;   /* the name of a file … */
	const char *directory; /* … in there; "": PAM's own, /etc/pam.d */
	const char *user;
	const char *password;
	const char *host; /* where the client is, as PAM_RHOST; "" for a Unix socket */
};

bool pam_is_available(void);

/* Whether it is the user's password and the account may be used.  May take as long as the modules
 * of the service do: for a thread that nobody waits for.  False: `why`, for the log, names no
 * secret. */
bool pam_check(const struct pam_question *question, char *why, size_t why_size) MUST_CHECK;

#endif
