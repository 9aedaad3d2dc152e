/* SPDX-License-Identifier: PostgreSQL */
#include "auth/crypto.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SHA256_BLOCK 64

/* Fetched once, never freed: their life is the program's. */
static EVP_MD *sha256;
static EVP_MD *md5;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

static void crypto_fetch(void)
{
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	md5 = EVP_MD_fetch(NULL, "MD5", NULL);
}

/*
 * Of a thread: a digest context that is used again and again, and random bytes in stock.  Making
 * the one, and asking OpenSSL's generator for a few bytes at a time, costs more than the digests of
 * a login.
 */
struct crypto_stock {
	EVP_MD_CTX *ctx;
	size_t left;
	uint8_t random[512];
};

static pthread_key_t stock_key;
static bool stock_key_good;
static pthread_once_t stock_once = PTHREAD_ONCE_INIT;

static void stock_free(void *arg)
{
	struct crypto_stock *stock = arg;

	EVP_MD_CTX_free(stock->ctx);
	OPENSSL_cleanse(stock, sizeof(*stock));
	free(stock);
}

static void stock_make_key(void)
{
	stock_key_good = pthread_key_create(&stock_key, stock_free) == 0;
}

/* NULL: no memory. */
static struct crypto_stock *stock_get(void)
{
	struct crypto_stock *stock;

	(void)pthread_once(&stock_once, stock_make_key);
	if (!stock_key_good)
		return NULL;
	stock = pthread_getspecific(stock_key);
	if (stock != NULL)
		return stock;
	stock = calloc(1, sizeof(*stock));
	if (stock == NULL)
		return NULL;
	stock->ctx = EVP_MD_CTX_new();
	if (stock->ctx == NULL || pthread_setspecific(stock_key, stock) != 0) {
		stock_free(stock);
		return NULL;
	}
	return stock;
}

static const EVP_MD *crypto_get_sha256(void)
{
	(void)pthread_once(&fetched, crypto_fetch);
	return sha256;
}

static const EVP_MD *crypto_get_md5(void)
{
	(void)pthread_once(&fetched, crypto_fetch);
	return md5;
}

/* Digest of `head` (NULL: nothing) and the parts, with a context that may be used again. */
static bool digest_parts(EVP_MD_CTX *ctx, const EVP_MD *md, const struct crypto_part *head,
                         const struct crypto_part *parts, size_t count, uint8_t *out)
{
	if (md == NULL || EVP_DigestInit_ex(ctx, md, NULL) != 1)
		return false;
	if (head != NULL && EVP_DigestUpdate(ctx, head->data, head->len) != 1)
		return false;
	for (size_t i = 0; i < count; i++) {
		if (parts[i].len > 0 && EVP_DigestUpdate(ctx, parts[i].data, parts[i].len) != 1)
			return false;
	}
	return EVP_DigestFinal_ex(ctx, out, NULL) == 1;
}

static bool digest(const EVP_MD *md, const struct crypto_part *parts, size_t count, uint8_t *out)
{
	struct crypto_stock *stock = stock_get();

	return stock != NULL && digest_parts(stock->ctx, md, NULL, parts, count, out);
}

bool crypto_sha256(const struct crypto_part *parts, size_t count, uint8_t out[SHA256_LEN])
{
	return digest(crypto_get_sha256(), parts, count, out);
}

/* Written out (RFC 2104), because OpenSSL 3's HMAC() fetches its method at every call. */
bool crypto_hmac_sha256(const void *key, size_t key_len, const struct crypto_part *parts,
                        size_t count, uint8_t out[SHA256_LEN])
{
	const EVP_MD *md = crypto_get_sha256();
	struct crypto_stock *stock = stock_get();
	EVP_MD_CTX *ctx = stock == NULL ? NULL : stock->ctx;
	uint8_t pad[SHA256_BLOCK] = {0};
	uint8_t inner[SHA256_LEN];
	struct crypto_part head = {pad, sizeof(pad)};
	struct crypto_part part = {key, key_len};
	bool ok = ctx != NULL;

	if (ok && key_len > sizeof(pad))
		ok = digest_parts(ctx, md, NULL, &part, 1, pad);
	else if (key_len <= sizeof(pad))
		memcpy(pad, key, key_len);
	for (size_t i = 0; i < sizeof(pad); i++)
		pad[i] ^= 0x36;
	ok = ok && digest_parts(ctx, md, &head, parts, count, inner);
	for (size_t i = 0; i < sizeof(pad); i++)
		pad[i] ^= 0x36 ^ 0x5c;
	part = (struct crypto_part){inner, sizeof(inner)};
	ok = ok && digest_parts(ctx, md, &head, &part, 1, out);
	OPENSSL_cleanse(pad, sizeof(pad));
	OPENSSL_cleanse(inner, sizeof(inner));
	return ok;
}

bool crypto_md5_hex(const struct crypto_part *parts, size_t count, char out[MD5_HEX_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t hash[MD5_HEX_LEN / 2];

	if (!digest(crypto_get_md5(), parts, count, hash))
		return false;
	for (size_t i = 0; i < sizeof(hash); i++) {
		out[2 * i] = digits[hash[i] >> 4];
		out[2 * i + 1] = digits[hash[i] & 15];
	}
	out[MD5_HEX_LEN] = '\0';
	OPENSSL_cleanse(hash, sizeof(hash));
	return true;
}

bool crypto_pbkdf2(const char *password, const void *salt, size_t salt_len, uint32_t iterations,
                   uint8_t out[SHA256_LEN])
{
	const EVP_MD *md = crypto_get_sha256();
	size_t len = strlen(password);

	if (md == NULL || len > INT32_MAX || salt_len > INT32_MAX || iterations == 0 ||
	    iterations > INT32_MAX)
		return false;
	return PKCS5_PBKDF2_HMAC(password, (int)len, salt, (int)salt_len, (int)iterations, md,
	                         SHA256_LEN, out) == 1;
}

bool crypto_random(void *out, size_t len)
{
	struct crypto_stock *stock = stock_get();

	if (stock == NULL || len > sizeof(stock->random))
		return len <= INT32_MAX && RAND_bytes(out, (int)len) == 1;
	if (len > stock->left) {
		if (RAND_bytes(stock->random, (int)sizeof(stock->random)) != 1)
			return false;
		stock->left = sizeof(stock->random);
	}
	/* Taken from the end, and never given out again. */
	stock->left -= len;
	memcpy(out, stock->random + stock->left, len);
	OPENSSL_cleanse(stock->random + stock->left, len);
	return true;
}

bool crypto_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

bool crypto_equal_str(const char *given, const char *secret)
{
	size_t given_len = strlen(given);
	size_t secret_len = strlen(secret);
	unsigned differ = given_len != secret_len;

	/* The index stays inside the secret and its zero byte without asking where that ends. */
	for (size_t i = 0; i < given_len; i++)
		differ |= (unsigned)(uint8_t)given[i] ^ (uint8_t)secret[i % (secret_len + 1)];
	return differ == 0;
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *bytes, size_t len, char *out)
{
	const uint8_t *b = bytes;

	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t word = (uint32_t)b[i] << 16 | (left > 1 ? (uint32_t)b[i + 1] << 8 : 0) |
		                (left > 2 ? b[i + 2] : 0);

		*out++ = base64_digits[word >> 18];
		*out++ = base64_digits[word >> 12 & 63];
		*out++ = left > 1 ? base64_digits[word >> 6 & 63] : '=';
		*out++ = left > 2 ? base64_digits[word & 63] : '=';
	}
	*out = '\0';
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

bool base64_decode(const char *text, size_t len, void *out, size_t max, size_t *out_len)
{
	uint8_t *to = out;
	size_t padding = 0;

	if (len % 4 != 0)
		return false;
	while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
		padding++;
	*out_len = len / 4 * 3 - padding;
	if (*out_len > max)
		return false;
	for (size_t i = 0; i < len; i += 4) {
		uint32_t word = 0;
		size_t bytes = i + 4 == len ? 3 - padding : 3;

		for (size_t j = 0; j < 4; j++) {
			int value = j <= bytes ? base64_value(text[i + j]) : 0;

			if (value < 0)
				return false;
			word = word << 6 | (uint32_t)value;
		}
		for (size_t j = 0; j < bytes; j++)
			*to++ = (uint8_t)(word >> (16 - 8 * j));
		/* Bits that belong to no byte must be zero: one text for one value. */
		if (bytes < 3 && (word & (0xffffffu >> (8 * bytes))) != 0)
			return false;
	}
	return true;
}
