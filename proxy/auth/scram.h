/* SPDX-License-Identifier: PostgreSQL */
/*
 * SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, as PostgreSQL speaks it.  Bytes in, bytes out;
 * one thread at a time for each exchange.  The structures hold keys: scram_*_end() wipes them.
 *
 *   client                                             server
 *     scram_client_first  -- n,,n=,r=<nonce> ----------> scram_server_first
 *     scram_client_final  <- r=<nonce+>,s=<salt>,i=<n> -
 *                         -- c=biws,r=<nonce+>,p=<proof> > scram_server_final
 *     scram_client_finish <- v=<signature> -------------
 *
 * Passwords: PostgreSQL normalises with SASLprep (RFC 4013) and falls back to the raw bytes where
 * that fails.  Here the raw bytes are always used, which is the same for ASCII and for text already
 * in normal form KC; another password works if the users file holds its SCRAM secret.
 *
 * Bounds against a hostile peer: message and nonce lengths, salt length, and iterations, since the
 * client's side has to compute as many as the server demands.
 */
#ifndef AUTH_SCRAM_H
#define AUTH_SCRAM_H

#include "auth/crypto.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCRAM_NAME "SCRAM-SHA-256"
#define SCRAM_PLUS_NAME "SCRAM-SHA-256-PLUS"

#define SCRAM_KEY_LEN SHA256_LEN
#define SCRAM_ITERATIONS                                                                           \
	4096u /* of secrets that we make, and of mock ones: PostgreSQL's default                   \
	       */
/* More are refused from a server: a worker must not compute for longer than about 0.3 s. */
#define SCRAM_ITERATIONS_MAX 1000000u
#define SCRAM_SALT_LEN 16u /* of secrets that we make */
#define SCRAM_SALT_MAX 128u
#define SCRAM_NONCE_LEN 24u     /* base64 of 18 random bytes, as PostgreSQL's */
#define SCRAM_NONCE_MAX 512u    /* of the peer */
#define SCRAM_MESSAGE_MAX 2048u /* of any one message */
#define SCRAM_BINDING_MAX 64u   /* tls-server-end-point: a digest of the certificate */

/* What a server stores: verifies a client, cannot log in as it. */
struct scram_secret {
	uint32_t iterations;
	size_t salt_len;
	uint8_t salt[SCRAM_SALT_MAX];
	uint8_t stored_key[SCRAM_KEY_LEN];
	uint8_t server_key[SCRAM_KEY_LEN];
};

/* What a client needs to log in, for one salt and iteration count. */
struct scram_keys {
	uint8_t client_key[SCRAM_KEY_LEN];
	uint8_t server_key[SCRAM_KEY_LEN];
};

enum scram_status {
	SCRAM_OK,
	SCRAM_BAD_PROOF, /* wrong password or unknown user: nothing tells which */
	SCRAM_MALFORMED, /* the peer breaks the protocol; `error` says how */
	SCRAM_INTERNAL,  /* out of memory, or OpenSSL failed */
};

/* True if `text` begins as a SCRAM secret does: scram_secret_parse() decides whether it is one. */
bool scram_is_secret(const char *text);

/* "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>", as in pg_authid.rolpassword. */
bool scram_secret_parse(const char *text, struct scram_secret *out) MUST_CHECK;

/* The same text of a secret, for tools and tests; `out` is appended to. */
void scram_secret_format(const struct scram_secret *secret, struct sbuf *out);

/* Keys from the password: the costly step (PBKDF2).  `stored_key` may be NULL. */
bool scram_derive(const char *password, const void *salt, size_t salt_len, uint32_t iterations,
                  struct scram_keys *keys, uint8_t stored_key[SCRAM_KEY_LEN]) MUST_CHECK;

/*
 * The seed of the salts shown for unknown users.  Random for each process unless set before threads
 * start; proxies which share a users file of SCRAM secrets should share a seed, so that the salt of
 * an unknown user looks as lasting as a real one.
 */
void scram_set_mock_seed(const void *seed, size_t len);

/* ---- server's side ---- */

struct scram_server {
	struct scram_secret secret;
	bool doomed; /* mock exchange: fails at the end whatever the proof */
	bool plus;   /* the client chose SCRAM-SHA-256-PLUS */
	const uint8_t *binding;
	size_t binding_len;
	struct sbuf auth_message; /* client-first-bare , server-first */
	char gs2_header[40];      /* as received, to be compared with c= */
	char nonce[SCRAM_NONCE_MAX + SCRAM_NONCE_LEN + 1];
	char error[120];                   /* for SCRAM_MALFORMED */
	uint8_t client_key[SCRAM_KEY_LEN]; /* after success: logs in as the client elsewhere */
};

/*
 * `secret` is copied; NULL starts a mock exchange for `user`.  `binding` (kept by reference; NULL:
 * none) is the tls-server-end-point digest of our certificate: given, SCRAM-SHA-256-PLUS is offered
 * and gs2 flag 'y' is refused as a downgrade.
 */
bool scram_server_init(struct scram_server *server, const char *user,
                       const struct scram_secret *secret, const uint8_t *binding,
                       size_t binding_len) MUST_CHECK;

/* Takes the mechanism and client-first-message of SASLInitialResponse; appends the
 * server-first-message to `out`. */
enum scram_status scram_server_first(struct scram_server *server, const char *mechanism,
                                     const void *data, size_t len, struct sbuf *out) MUST_CHECK;

/* Takes the client-final-message; if the proof is right, appends the server-final-message and
 * leaves the client's key in client_key. */
enum scram_status scram_server_final(struct scram_server *server, const void *data, size_t len,
                                     struct sbuf *out) MUST_CHECK;

void scram_server_end(struct scram_server *server);

/* ---- client's side ---- */

/* What the client says of channel binding. */
enum scram_gs2 {
	SCRAM_GS2_NONE,      /* n: it cannot, or will not */
	SCRAM_GS2_UNOFFERED, /* y: it could, but the server does not offer it */
	SCRAM_GS2_BOUND,     /* p: tls-server-end-point; the mechanism is SCRAM-SHA-256-PLUS */
};


struct scram_client {
	char nonce[SCRAM_NONCE_LEN + 1];
	enum scram_gs2 gs2;
	size_t binding_len;
	uint8_t binding[SCRAM_BINDING_MAX];
	struct sbuf auth_message;
	/* what the server demands, after scram_client_read() */
	uint32_t iterations;
	size_t salt_len;
	uint8_t salt[SCRAM_SALT_MAX];
	char server_nonce[SCRAM_NONCE_MAX + 1];
	uint8_t server_signature[SCRAM_KEY_LEN];
	char error[120]; /* for SCRAM_MALFORMED */
};

void scram_client_init(struct scram_client *client);

/* Before scram_client_first(); NONE unless it is called.  `binding`: the digest of the server's
 * certificate, for BOUND. */
void scram_client_bind(struct scram_client *client, enum scram_gs2 gs2, const uint8_t *binding,
                       size_t binding_len);

/* Appends the client-first-message. */
enum scram_status scram_client_first(struct scram_client *client, struct sbuf *out) MUST_CHECK;

/* Takes the server-first-message: fills in salt and iterations, for which the caller finds keys. */
enum scram_status scram_client_read(struct scram_client *client, const void *data,
                                    size_t len) MUST_CHECK;

/* Appends the client-final-message made with `keys`. */
enum scram_status scram_client_final(struct scram_client *client, const struct scram_keys *keys,
                                     struct sbuf *out) MUST_CHECK;

/* Takes the server-final-message: SCRAM_OK only if the server proved that it knows the secret. */
enum scram_status scram_client_finish(struct scram_client *client, const void *data,
                                      size_t len) MUST_CHECK;

void scram_client_end(struct scram_client *client);

#endif
