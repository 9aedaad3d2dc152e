/* SPDX-License-Identifier: PostgreSQL */
/*
 * What both sides of SCRAM share: the attributes of a message and the signature.  Only for
 * scram*.c.
 */
#ifndef AUTH_SCRAM_TEXT_H
#define AUTH_SCRAM_TEXT_H

#include "auth/scram.h"
#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of a message; not ended by a zero byte. */
struct scram_slice {
	const char *at;
	size_t len;
};

/*
 * Takes "<name>=<value>" from the front of `rest`, up to the next comma or the end; `rest` then
 * begins after that comma.  False if something else stands there.
 */
bool scram_take(struct scram_slice *rest, char name, struct scram_slice *value) MUST_CHECK;

/* A nonce: not empty, printable ASCII. */
bool scram_is_nonce(struct scram_slice text) MUST_CHECK;

/* A decimal number of 1 … INT32_MAX without sign. */
bool scram_parse_iterations(struct scram_slice text, uint32_t *iterations) MUST_CHECK;

/* Fresh nonce, base64 text. */
bool scram_make_nonce(char out[SCRAM_NONCE_LEN + 1]) MUST_CHECK;

/* A message must have no zero byte inside, and not be longer than the bound. */
bool scram_message_ok(const void *data, size_t len) MUST_CHECK;

/* HMAC(key, auth_message): ClientSignature or ServerSignature. */
bool scram_sign(const uint8_t key[SCRAM_KEY_LEN], const struct sbuf *auth_message,
                uint8_t out[SCRAM_KEY_LEN]) MUST_CHECK;

/* to = a XOR b: proof from key and signature, or key from proof and signature. */
void scram_xor(const uint8_t a[SCRAM_KEY_LEN], const uint8_t b[SCRAM_KEY_LEN],
               uint8_t to[SCRAM_KEY_LEN]);

#endif
