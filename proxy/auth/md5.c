/* SPDX-License-Identifier: PostgreSQL */
#include "auth/md5.h"

#include "auth/crypto.h"

#include <string.h>

#define MD5_PREFIX_LEN 3

bool md5_is_secret(const char *secret)
{
	return strncmp(secret, "md5", MD5_PREFIX_LEN) == 0 && strlen(secret) == MD5_SECRET_LEN &&
	       strspn(secret + MD5_PREFIX_LEN, "0123456789abcdef") == MD5_HEX_LEN;
}

static bool md5_hash(const struct crypto_part parts[2], char out[MD5_SECRET_LEN + 1])
{
	memcpy(out, "md5", MD5_PREFIX_LEN);
	return crypto_md5_hex(parts, 2, out + MD5_PREFIX_LEN);
}

bool md5_secret(const char *user, const char *password, char out[MD5_SECRET_LEN + 1])
{
	struct crypto_part parts[2] = {{password, strlen(password)}, {user, strlen(user)}};

	return md5_hash(parts, out);
}

bool md5_response(const char *secret, const uint8_t salt[4], char out[MD5_SECRET_LEN + 1])
{
	struct crypto_part parts[2] = {{secret + MD5_PREFIX_LEN, MD5_HEX_LEN}, {salt, 4}};

	return md5_is_secret(secret) && md5_hash(parts, out);
}

bool md5_verify(const char *secret, const uint8_t salt[4], const char *response)
{
	char expected[MD5_SECRET_LEN + 1];
	bool ok = md5_response(secret, salt, expected) && crypto_equal_str(response, expected);

	explicit_bzero(expected, sizeof(expected));
	return ok;
}
