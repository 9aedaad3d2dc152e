/* SPDX-License-Identifier: PostgreSQL */
/*
 * The primitives that authentication needs, over OpenSSL.  The digest methods are fetched once for
 * the process: a fetch for every login costs more than the login's own digests.  Any thread.
 *
 * Functions that return bool fail only if OpenSSL does (no memory, no such digest): refuse the
 * login then.
 */
#ifndef AUTH_CRYPTO_H
#define AUTH_CRYPTO_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32
#define MD5_HEX_LEN 32

struct crypto_part {
	const void *data;
	size_t len;
};

/* Digests of the concatenation of `count` parts. */
bool crypto_sha256(const struct crypto_part *parts, size_t count,
                   uint8_t out[SHA256_LEN]) MUST_CHECK;
bool crypto_hmac_sha256(const void *key, size_t key_len, const struct crypto_part *parts,
                        size_t count, uint8_t out[SHA256_LEN]) MUST_CHECK;
/* Lower-case hexadecimal digits and a zero byte. */
bool crypto_md5_hex(const struct crypto_part *parts, size_t count,
                    char out[MD5_HEX_LEN + 1]) MUST_CHECK;

/* PBKDF2 with HMAC-SHA-256, 32 bytes: some 0.3 ms for 1000 iterations. */
bool crypto_pbkdf2(const char *password, const void *salt, size_t salt_len, uint32_t iterations,
                   uint8_t out[SHA256_LEN]) MUST_CHECK;

/* Bytes fit for keys and nonces. */
bool crypto_random(void *out, size_t len) MUST_CHECK;

/* In time that depends on `len` only. */
bool crypto_equal(const void *a, const void *b, size_t len);
/* In time that depends on the length of `given` only: `given` is what the peer sent. */
bool crypto_equal_str(const char *given, const char *secret);

/* Base64 with padding, without line breaks.  `out` must have room for base64_encoded_len() + 1. */
static inline size_t base64_encoded_len(size_t len)
{
	return (len + 2) / 3 * 4;
}
void base64_encode(const void *bytes, size_t len, char *out);
/* Strict: false for other characters, wrong padding, or more than `max` bytes. */
bool base64_decode(const char *text, size_t len, void *out, size_t max, size_t *out_len) MUST_CHECK;

#endif
