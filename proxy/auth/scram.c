/* SPDX-License-Identifier: PostgreSQL */
#include "auth/scram.h"

#include "auth/scram_text.h"

#include <string.h>

#define SCRAM_PREFIX "SCRAM-SHA-256$"

bool scram_take(struct scram_slice *rest, char name, struct scram_slice *value)
{
	const char *comma;

	if (rest->len < 2 || rest->at[0] != name || rest->at[1] != '=')
		return false;
	value->at = rest->at + 2;
	value->len = rest->len - 2;
	comma = memchr(value->at, ',', value->len);
	if (comma == NULL) {
		rest->at += rest->len;
		rest->len = 0;
		return true;
	}
	value->len = (size_t)(comma - value->at);
	rest->len -= value->len + 3;
	rest->at = comma + 1;
	return true;
}

bool scram_is_nonce(struct scram_slice text)
{
	for (size_t i = 0; i < text.len; i++) {
		if (text.at[i] < 0x21 || text.at[i] > 0x7e || text.at[i] == ',')
			return false;
	}
	return text.len > 0;
}

bool scram_parse_iterations(struct scram_slice text, uint32_t *iterations)
{
	uint64_t n = 0;

	if (text.len == 0 || text.len > 10)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.at[i] < '0' || text.at[i] > '9')
			return false;
		n = n * 10 + (uint64_t)(text.at[i] - '0');
	}
	*iterations = (uint32_t)n;
	return n >= 1 && n <= INT32_MAX;
}

bool scram_make_nonce(char out[SCRAM_NONCE_LEN + 1])
{
	uint8_t bytes[SCRAM_NONCE_LEN / 4 * 3];

	if (!crypto_random(bytes, sizeof(bytes)))
		return false;
	base64_encode(bytes, sizeof(bytes), out);
	return true;
}

bool scram_message_ok(const void *data, size_t len)
{
	return len > 0 && len <= SCRAM_MESSAGE_MAX && memchr(data, '\0', len) == NULL;
}

bool scram_sign(const uint8_t key[SCRAM_KEY_LEN], const struct sbuf *auth_message,
                uint8_t out[SCRAM_KEY_LEN])
{
	struct crypto_part part = {auth_message->data, auth_message->len};

	return crypto_hmac_sha256(key, SCRAM_KEY_LEN, &part, 1, out);
}

void scram_xor(const uint8_t a[SCRAM_KEY_LEN], const uint8_t b[SCRAM_KEY_LEN],
               uint8_t to[SCRAM_KEY_LEN])
{
	for (size_t i = 0; i < SCRAM_KEY_LEN; i++)
		to[i] = a[i] ^ b[i];
}

/* ---- secrets ---- */

bool scram_is_secret(const char *text)
{
	return strncmp(text, SCRAM_PREFIX, strlen(SCRAM_PREFIX)) == 0;
}

/* What stands before `end`; `text` then begins after it. */
static bool take_until(const char **text, char end, struct scram_slice *out)
{
	const char *at = strchr(*text, end);

	if (at == NULL)
		return false;
	*out = (struct scram_slice){*text, (size_t)(at - *text)};
	*text = end == '\0' ? at : at + 1;
	return true;
}

static bool decode_key(struct scram_slice text, uint8_t key[SCRAM_KEY_LEN])
{
	size_t len;

	return base64_decode(text.at, text.len, key, SCRAM_KEY_LEN, &len) && len == SCRAM_KEY_LEN;
}

bool scram_secret_parse(const char *text, struct scram_secret *out)
{
	struct scram_slice iterations;
	struct scram_slice salt;
	struct scram_slice stored;
	struct scram_slice server;

	memset(out, 0, sizeof(*out));
	if (!scram_is_secret(text))
		return false;
	text += strlen(SCRAM_PREFIX);
	return take_until(&text, ':', &iterations) && take_until(&text, '$', &salt) &&
	       take_until(&text, ':', &stored) && take_until(&text, '\0', &server) &&
	       scram_parse_iterations(iterations, &out->iterations) &&
	       base64_decode(salt.at, salt.len, out->salt, sizeof(out->salt), &out->salt_len) &&
	       out->salt_len > 0 && decode_key(stored, out->stored_key) &&
	       decode_key(server, out->server_key);
}

void scram_secret_format(const struct scram_secret *secret, struct sbuf *out)
{
	char salt[SCRAM_SALT_MAX * 2];
	char stored[SCRAM_KEY_LEN * 2];
	char server[SCRAM_KEY_LEN * 2];

	base64_encode(secret->salt, secret->salt_len, salt);
	base64_encode(secret->stored_key, SCRAM_KEY_LEN, stored);
	base64_encode(secret->server_key, SCRAM_KEY_LEN, server);
	sbuf_printf(out, SCRAM_PREFIX "%u:%s$%s:%s", secret->iterations, salt, stored, server);
}

bool scram_derive(const char *password, const void *salt, size_t salt_len, uint32_t iterations,
                  struct scram_keys *keys, uint8_t stored_key[SCRAM_KEY_LEN])
{
	static const struct crypto_part client_label = {"Client Key", 10};
	static const struct crypto_part server_label = {"Server Key", 10};
	struct crypto_part key = {keys->client_key, SCRAM_KEY_LEN};
	uint8_t salted[SCRAM_KEY_LEN];
	bool ok = crypto_pbkdf2(password, salt, salt_len, iterations, salted) &&
	          crypto_hmac_sha256(salted, sizeof(salted), &client_label, 1, keys->client_key) &&
	          crypto_hmac_sha256(salted, sizeof(salted), &server_label, 1, keys->server_key) &&
	          (stored_key == NULL || crypto_sha256(&key, 1, stored_key));

	explicit_bzero(salted, sizeof(salted));
	return ok;
}
