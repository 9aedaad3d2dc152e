/* SPDX-License-Identifier: PostgreSQL */
/*
 * Authentication of a client: which messages to send, and what its answers prove.  No I/O; one
 * thread at a time.
 *
 *   client_auth_start() -> CONTINUE: send `out`, then give each 'p' message to client_auth_feed()
 *                       -> COMPUTE:  let client_auth_compute() run where it may take its time, then
 *                                    client_auth_resume()
 *                       -> OK:       send `out` (it ends with AuthenticationOk); the client is
 *                                    known
 *                       -> FAILED:   send client_auth_error() as ErrorResponse, close
 *
 * Unknown user, user without a fitting secret and wrong password cannot be told apart by the
 * client.  Nothing here takes longer than some digests but client_auth_compute().
 */
#ifndef AUTH_CLIENT_AUTH_H
#define AUTH_CLIENT_AUTH_H

#include "auth/user.h"
#include "base/compiler.h"
#include "base/sbuf.h"
#include "wire/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum auth_type {
	AUTH_TYPE_TRUST,
	AUTH_TYPE_ANY,    /* as trust: every client is the same user at the server */
	AUTH_TYPE_PLAIN,  /* the password in clear text, against a secret of any kind */
	AUTH_TYPE_MD5,    /* md5 exchange; SCRAM where the secret is a SCRAM one, as PostgreSQL */
	AUTH_TYPE_SCRAM,  /* plain and SCRAM secrets */
	AUTH_TYPE_CERT,   /* the name in the client's certificate */
	AUTH_TYPE_PEER,   /* the user of the process at the other end of the Unix socket */
	AUTH_TYPE_PAM,    /* the password in clear text, which PAM checks */
	AUTH_TYPE_LDAP,   /* the same, which an LDAP server checks */
	AUTH_TYPE_REJECT, /* not for client_auth_start(): whoever chose the method refuses */
};

enum auth_status { AUTH_CONTINUE, AUTH_COMPUTE, AUTH_OK, AUTH_FAILED };

struct auth_ldap;
struct client_auth;
struct ident;

struct client_auth_request {
	enum auth_type type;
	const char *name;       /* as the client gave it */
	struct auth_user *user; /* NULL: unknown.  A reference is taken */
	/* tls-server-end-point digest of our certificate; NULL: no channel binding is offered */
	const uint8_t *binding;
	size_t binding_len;
	/* An unknown user is asked as one with a SCRAM secret would be: what most users have. */
	bool scram_usual;
	uint32_t scram_iterations; /* that an unknown user seems to have; 0: the default */
	/* CERT: the verified name, NULL if there is none.  PEER: the user id of the process. */
	const char *cert_name;
	uid_t peer_uid;
	const char *map;     /* of both; kept by reference, with: */
	struct ident *ident; /* the maps; a reference is taken */
	/* PAM; `user` need not be known.  All three not NULL */
	const char *pam_service;
	const char *pam_directory; /* "": PAM's own */
	const char *host;          /* where the client is */
	/* LDAP; the same.  A reference is taken */
	struct auth_ldap *ldap;
};

/* *out_auth is made in any case but lack of memory (then NULL and AUTH_FAILED); end it with
 * client_auth_free(). */
enum auth_status client_auth_start(const struct client_auth_request *request, struct sbuf *out,
                                   struct client_auth **out_auth) MUST_CHECK;

/* Most bytes that the next message of type FE_PASSWORD may have, with its header. */
size_t client_auth_longest(const struct client_auth *auth) MUST_CHECK;

/* `body`: of a message of type FE_PASSWORD.  `out` is appended to. */
enum auth_status client_auth_feed(struct client_auth *auth, const void *body, size_t len,
                                  struct sbuf *out) MUST_CHECK;

/* The costly step after AUTH_COMPUTE.  Any thread; nothing else may use `auth` meanwhile. */
void client_auth_compute(struct client_auth *auth);

/* After AUTH_COMPUTE: the step is not one of CPU, but asks others and may take long. */
bool client_auth_asks_others(const struct client_auth *auth);

/* After AUTH_OK: the password that PAM or LDAP found right; NULL with every other method. */
const char *client_auth_password(const struct client_auth *auth);

/* After AUTH_OK: whose secret the proof fits; NULL: none was asked for, or it is not known. */
struct auth_user *client_auth_user(const struct client_auth *auth);

/* After AUTH_OK: this login revealed the user's client key, which was not known before. */
bool client_auth_learned(const struct client_auth *auth);

/* Goes on behind it. */
enum auth_status client_auth_resume(struct client_auth *auth, struct sbuf *out) MUST_CHECK;

/* After AUTH_FAILED: the FATAL error for the client; NULL `auth` gives "out of memory". */
const struct wire_error *client_auth_error(const struct client_auth *auth);

/* After AUTH_FAILED: the proof does not fit the user's secret, and there is nothing else wrong. */
bool client_auth_is_wrong(const struct client_auth *auth);

/* … Then: perhaps it fits another secret of the user (a reference is taken).  That can be found out of a
 * password and of md5; with SCRAM the client has been given the salt of the former secret, and it stays
 * AUTH_FAILED. */
enum auth_status client_auth_again(struct client_auth *auth, struct auth_user *user,
                                   struct sbuf *out) MUST_CHECK;

/* After AUTH_FAILED: what pgbouncer calls it, for the log and as detail; NULL: as the error says. */
const char *client_auth_refusal(const struct client_auth *auth);

/* After AUTH_FAILED: what really was wrong, for the log; names no secret. */
const char *client_auth_log_text(const struct client_auth *auth);

void client_auth_free(struct client_auth *auth); /* NULL is allowed */

#endif
