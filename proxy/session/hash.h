/* SPDX-License-Identifier: PostgreSQL */
/*
 * A keyed hash of bytes for the tables of this folder: fast (16 bytes a multiplication), and with a
 * random key, so that no client can choose texts that collide.  Not cryptographic; never leaves the
 * process.
 */
#ifndef SESSION_HASH_H
#define SESSION_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>

struct hash_key {
	uint64_t a;
	uint64_t b;
};

static inline void hash_key_init(struct hash_key *key)
{
	/* Sixteen bytes are never cut short; without getrandom() an address is better than nothing.
	 */
	if (getrandom(key, sizeof(*key), 0) != (ssize_t)sizeof(*key)) {
		key->a = (uint64_t)(uintptr_t)key * UINT64_C(0x9e3779b97f4a7c15);
		key->b = ~key->a;
	}
}

static inline uint64_t hash_mix(uint64_t x, uint64_t y)
{
	unsigned __int128 product = (unsigned __int128)x * y;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t hash_bytes(const struct hash_key *key, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	uint64_t h = key->b ^ (uint64_t)len;
	uint64_t word[2];

	while (len > sizeof(word)) {
		memcpy(word, p, sizeof(word));
		h = hash_mix(word[0] ^ key->a, word[1] ^ h);
		p += sizeof(word);
		len -= sizeof(word);
	}
	word[0] = 0;
	word[1] = 0;
	if (len > 0)
		memcpy(word, p, len);
	h = hash_mix(word[0] ^ key->a, word[1] ^ h);
	return hash_mix(h ^ key->a, UINT64_C(0x9e3779b97f4a7c15) ^ key->b);
}

#endif
