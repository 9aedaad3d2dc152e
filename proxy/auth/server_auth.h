/* SPDX-License-Identifier: PostgreSQL */
/*
 * Logging in to a server: answers its Authentication messages.  No I/O; one thread at a time.
 * After the StartupMessage was sent, give each Authentication message to server_auth_feed() until
 * AUTH_OK.  Trust, cleartext password, md5 (from password or hash), SCRAM-SHA-256 and -PLUS (from
 * password or learned key; the server's signature is verified) are possible; others are refused.
 */
#ifndef AUTH_SERVER_AUTH_H
#define AUTH_SERVER_AUTH_H

#include "auth/client_auth.h"
#include "auth/user.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stddef.h>

struct server_auth;

/* `user`, never NULL, is the role to log in as (a reference is taken); one without a secret is made
 * with auth_user_new(name, NULL).  NULL: out of memory. */
struct server_auth *server_auth_new(struct auth_user *user) MUST_CHECK;

/* SCRAM-SHA-256-PLUS: never, if the server offers it, or nothing else will do. */
enum server_binding { SERVER_BINDING_DISABLE, SERVER_BINDING_PREFER, SERVER_BINDING_REQUIRE };

/* Before the first message; DISABLE without TLS unless it is called.  `digest`: tls-server-end-point
 * of the server's certificate, `len` 0 if it has none. */
void server_auth_bind(struct server_auth *auth, enum server_binding policy, bool encrypted,
                      const uint8_t *digest, size_t len);

/*
 * `body`: of a message of type BE_AUTHENTICATION.  CONTINUE: send what was appended to `out` (maybe
 * nothing) and go on; COMPUTE: as below; OK: AuthenticationOk came, and it came when it should;
 * FAILED: close.
 */
enum auth_status server_auth_feed(struct server_auth *auth, const void *body, size_t len,
                                  struct sbuf *out) MUST_CHECK;

/* The costly step after AUTH_COMPUTE, on any thread, and what follows it (cf. client_auth.h). */
void server_auth_compute(struct server_auth *auth);
enum auth_status server_auth_resume(struct server_auth *auth, struct sbuf *out) MUST_CHECK;

/* After AUTH_FAILED: what went wrong, for logs and for clients; names no secret. */
const char *server_auth_error(const struct server_auth *auth);

/* … which may say nothing about the server: memory was short here, or OpenSSL failed. */
bool server_auth_failed_here(const struct server_auth *auth);

void server_auth_free(struct server_auth *auth); /* NULL is allowed */

#endif
