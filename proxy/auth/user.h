/* SPDX-License-Identifier: PostgreSQL */
/*
 * One user and its secret, from the users file or from the configuration.  Name and secret never
 * change; the object is counted (atomically) and shared by all threads, so that whoever logs in
 * during a reload keeps what it began with.
 *
 * What a login computes once and the next one needs again is kept in the object: the SCRAM secret
 * derived from a plain password, the client key learned from a client's own SCRAM login (it lets us
 * log in to the servers that have the same secret), the password of a client that was asked for it
 * in clear text, and the keys for servers' salts.  A mutex in the object guards those; it is taken
 * in logins only and never while computing.
 */
#ifndef AUTH_USER_H
#define AUTH_USER_H

#include "auth/scram.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

enum auth_secret_kind {
	AUTH_SECRET_NONE,  /* no password: only trust, on either side */
	AUTH_SECRET_PLAIN, /* the password itself */
	AUTH_SECRET_MD5,   /* "md5…" */
	AUTH_SECRET_SCRAM, /* "SCRAM-SHA-256$…" */
};

struct auth_user;

/*
 * A user with one reference.  `secret` NULL or "" is none; its form tells its kind as in
 * PostgreSQL. NULL if there is no memory, or a text that begins like a SCRAM secret is none.
 */
size_t auth_user_size(void); /* bytes of one, without its texts */
struct auth_user *auth_user_new(const char *name, const char *secret) MUST_CHECK;
struct auth_user *auth_user_ref(struct auth_user *user); /* returns it; NULL is allowed */
void auth_user_unref(struct auth_user *user); /* NULL is allowed; wipes secrets at the last */

const char *auth_user_name(const struct auth_user *user);
enum auth_secret_kind auth_user_kind(const struct auth_user *user);
/* The text of the secret, "" if none.  Never log it. */
const char *auth_user_secret(const struct auth_user *user);

/* The password itself: the secret, or the one with which a client has proved itself in clear text.
 * NULL: none is known yet.  Stays as it is, and as long as the user.  Never log it. */
const char *auth_user_password(struct auth_user *user);

/*
 * The SCRAM secret against which the client is verified; for a plain password it is derived at the
 * first call (1 to 2 ms) and then kept.  False: the kind has none (md5, none), or OpenSSL failed.
 */
bool auth_user_scram_secret(struct auth_user *user, struct scram_secret *out) MUST_CHECK;

/* Whether auth_user_scram_secret() has its answer at hand. */
bool auth_user_scram_ready(struct auth_user *user);

/*
 * Is this the user's password?  COSTLY: auth_user_verify() must find out, which takes as long as
 * the iteration count of the SCRAM secret demands; a password that was right is known the next
 * time.
 */
enum auth_check { AUTH_CHECK_RIGHT, AUTH_CHECK_WRONG, AUTH_CHECK_COSTLY };
enum auth_check auth_user_check(struct auth_user *user, const char *password) MUST_CHECK;
/* `user` NULL takes the time of so many iterations and says no.  A right password is kept, as after
 * auth_user_check(), and reveals the client key. */
bool auth_user_verify(struct auth_user *user, const char *password,
                      uint32_t mock_iterations) MUST_CHECK;

/* Keeps the client key that the user's own login revealed.  Ignored unless it fits the secret. */
void auth_user_learn(struct auth_user *user, const uint8_t client_key[SCRAM_KEY_LEN]);

/* The same of the key that is known of another user.  True: it fits, and none was known before. */
bool auth_user_teach(struct auth_user *user, struct auth_user *from);

/* True if logging in to a server by SCRAM is possible now: the password, or a learned key.
 * Otherwise *why is a text for the log. */
bool auth_user_can_scram(struct auth_user *user, const char **why);

/*
 * Keys for a server that demands this salt and iteration count: the learned ones if the demand is
 * that of the user's own secret, from the cache, or computed from the password.  False: not
 * possible; *why is a text for the log, or NULL: out of memory, or OpenSSL failed.
 */
/* False: auth_user_server_keys() would have to compute for long. */
bool auth_user_server_ready(struct auth_user *user, const void *salt, size_t salt_len,
                            uint32_t iterations);
bool auth_user_server_keys(struct auth_user *user, const void *salt, size_t salt_len,
                           uint32_t iterations, struct scram_keys *out,
                           const char **why) MUST_CHECK;

#endif
