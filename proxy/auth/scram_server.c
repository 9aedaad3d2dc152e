/* SPDX-License-Identifier: PostgreSQL */
/*
 * The server's side of SCRAM.  Order of checks and texts follow PostgreSQL's auth-scram.c.
 */
#include "auth/scram.h"
#include "auth/scram_text.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define BINDING_TYPE "tls-server-end-point"
#define BINDING_HEADER "p=" BINDING_TYPE ",,"

static uint8_t mock_seed[SHA256_LEN];
static bool mock_seed_ok;
static pthread_once_t mock_seed_once = PTHREAD_ONCE_INIT;

static void mock_seed_make(void)
{
	/* Set already by scram_set_mock_seed()? */
	if (!mock_seed_ok)
		mock_seed_ok = crypto_random(mock_seed, sizeof(mock_seed));
}

void scram_set_mock_seed(const void *seed, size_t len)
{
	struct crypto_part part = {seed, len};

	mock_seed_ok = crypto_sha256(&part, 1, mock_seed);
}

/* The salt of an unknown user is always the same, as that of a known one is. */
static bool mock_secret(const char *user, struct scram_secret *out)
{
	struct crypto_part part = {user, strlen(user)};
	uint8_t hash[SHA256_LEN];

	(void)pthread_once(&mock_seed_once, mock_seed_make);
	if (!mock_seed_ok || !crypto_hmac_sha256(mock_seed, sizeof(mock_seed), &part, 1, hash))
		return false;
	out->iterations = SCRAM_ITERATIONS;
	out->salt_len = SCRAM_SALT_LEN;
	memcpy(out->salt, hash, SCRAM_SALT_LEN);
	return true;
}

bool scram_server_init(struct scram_server *server, const char *user,
                       const struct scram_secret *secret, const uint8_t *binding,
                       size_t binding_len)
{
	memset(server, 0, sizeof(*server));
	sbuf_init(&server->auth_message, (size_t)3 * SCRAM_MESSAGE_MAX);
	if (binding_len <= SCRAM_BINDING_MAX) {
		server->binding = binding;
		server->binding_len = binding_len;
	}
	server->doomed = secret == NULL;
	if (secret == NULL)
		return mock_secret(user, &server->secret);
	server->secret = *secret;
	return true;
}

void scram_server_end(struct scram_server *server)
{
	sbuf_free(&server->auth_message);
	explicit_bzero(server, sizeof(*server));
}

static enum scram_status malformed(struct scram_server *server, const char *why)
{
	(void)snprintf(server->error, sizeof(server->error), "%s", why);
	return SCRAM_MALFORMED;
}

static bool slice_begins(struct scram_slice slice, const char *text)
{
	return slice.len >= strlen(text) && memcmp(slice.at, text, strlen(text)) == 0;
}

/* The GS2 header: channel binding flag and authorisation identity, "n,," as a rule. */
static enum scram_status read_gs2_header(struct scram_server *server, struct scram_slice *rest)
{
	const char *header;

	switch (rest->at[0]) {
	case 'n':
	case 'y':
		if (server->plus)
			return malformed(server, "The client selected SCRAM-SHA-256-PLUS, but the "
			                         "SCRAM message does not include channel binding "
			                         "data.");
		if (rest->at[0] == 'y' && server->binding != NULL)
			return malformed(server, "The client supports SCRAM channel binding but "
			                         "thinks the server does not.");
		header = rest->at[0] == 'n' ? "n,," : "y,,";
		break;
	case 'p':
		if (!server->plus)
			return malformed(server,
			                 "The client selected SCRAM-SHA-256 without channel "
			                 "binding, but the SCRAM message includes channel "
			                 "binding data.");
		header = BINDING_HEADER;
		break;
	default:
		return malformed(server, "Unexpected channel-binding flag.");
	}
	if (rest->at[0] != 'p' && rest->len >= 4 && memcmp(rest->at + 1, ",a=", 3) == 0)
		return malformed(server,
		                 "Client uses authorization identity, but it is not supported.");
	if (!slice_begins(*rest, header))
		return malformed(server, "Unexpected attribute in client-first-message.");
	(void)snprintf(server->gs2_header, sizeof(server->gs2_header), "%s", header);
	rest->at += strlen(header);
	rest->len -= strlen(header);
	return SCRAM_OK;
}

static enum scram_status read_client_first(struct scram_server *server, const void *data,
                                           size_t len)
{
	struct scram_slice rest = {data, len};
	struct scram_slice bare;
	struct scram_slice name;
	struct scram_slice nonce;
	enum scram_status status;

	if (!scram_message_ok(data, len))
		return malformed(server, "The message is empty, too long or not a text.");
	status = read_gs2_header(server, &rest);
	if (status != SCRAM_OK)
		return status;
	bare = rest;
	if (slice_begins(rest, "m="))
		return malformed(server, "Client requires an unsupported SCRAM extension.");
	/* The user is the one of the startup packet; libpq sends an empty name here. */
	if (!scram_take(&rest, 'n', &name) || !scram_take(&rest, 'r', &nonce))
		return malformed(server, "Attribute expected, but not found.");
	if (!scram_is_nonce(nonce) || nonce.len > SCRAM_NONCE_MAX)
		return malformed(server, "Non-printable characters in SCRAM nonce, or too long.");
	memcpy(server->nonce, nonce.at, nonce.len);
	server->nonce[nonce.len] = '\0';
	sbuf_add(&server->auth_message, bare.at, bare.len);
	return SCRAM_OK;
}

enum scram_status scram_server_first(struct scram_server *server, const char *mechanism,
                                     const void *data, size_t len, struct sbuf *out)
{
	char own_nonce[SCRAM_NONCE_LEN + 1];
	char salt[SCRAM_SALT_MAX * 2];
	enum scram_status status;
	size_t nonce_len;
	size_t start;

	server->plus = server->binding != NULL && strcmp(mechanism, SCRAM_PLUS_NAME) == 0;
	if (!server->plus && strcmp(mechanism, SCRAM_NAME) != 0)
		return malformed(server,
		                 "Client selected an invalid SASL authentication mechanism.");
	status = read_client_first(server, data, len);
	if (status != SCRAM_OK)
		return status;
	if (!scram_make_nonce(own_nonce))
		return SCRAM_INTERNAL;
	nonce_len = strlen(server->nonce);
	memcpy(server->nonce + nonce_len, own_nonce, sizeof(own_nonce));
	base64_encode(server->secret.salt, server->secret.salt_len, salt);
	sbuf_add_char(&server->auth_message, ',');
	start = server->auth_message.len;
	sbuf_printf(&server->auth_message, "r=%s,s=%s,i=%u", server->nonce, salt,
	            server->secret.iterations);
	if (!sbuf_ok(&server->auth_message))
		return SCRAM_INTERNAL;
	sbuf_add(out, server->auth_message.data + start, server->auth_message.len - start);
	return SCRAM_OK;
}

/* "c=" must repeat the GS2 header, followed by the binding data if there is a binding. */
static bool binding_matches(const struct scram_server *server, struct scram_slice given)
{
	uint8_t expected[sizeof(server->gs2_header) + SCRAM_BINDING_MAX];
	char encoded[2 * sizeof(expected)];
	size_t len = strlen(server->gs2_header);

	memcpy(expected, server->gs2_header, len);
	if (server->plus) {
		memcpy(expected + len, server->binding, server->binding_len);
		len += server->binding_len;
	}
	base64_encode(expected, len, encoded);
	return given.len == strlen(encoded) && memcmp(given.at, encoded, given.len) == 0;
}

static enum scram_status read_client_final(struct scram_server *server, const void *data,
                                           size_t len, uint8_t proof[SCRAM_KEY_LEN])
{
	struct scram_slice rest = {data, len};
	struct scram_slice binding;
	struct scram_slice nonce;
	struct scram_slice text;
	const char *proof_at;
	size_t proof_len;

	if (!scram_message_ok(data, len))
		return malformed(server, "The message is empty, too long or not a text.");
	if (!scram_take(&rest, 'c', &binding) || !scram_take(&rest, 'r', &nonce))
		return malformed(server, "Attribute expected, but not found.");
	if (!binding_matches(server, binding))
		return malformed(server, "SCRAM channel binding check failed.");
	if (nonce.len != strlen(server->nonce) || memcmp(nonce.at, server->nonce, nonce.len) != 0)
		return malformed(server, "Nonce does not match.");
	/* Extensions may stand before the proof, which is last. */
	while (rest.len > 0 && rest.at[0] != 'p') {
		if (!scram_take(&rest, rest.at[0], &text))
			return malformed(server, "Malformed extension in client-final-message.");
	}
	proof_at = rest.at;
	if (!scram_take(&rest, 'p', &text) || rest.len > 0 ||
	    text.at + text.len != (const char *)data + len ||
	    !base64_decode(text.at, text.len, proof, SCRAM_KEY_LEN, &proof_len) ||
	    proof_len != SCRAM_KEY_LEN)
		return malformed(server, "Malformed proof in client-final-message.");
	sbuf_add_char(&server->auth_message, ',');
	sbuf_add(&server->auth_message, data, (size_t)(proof_at - 1 - (const char *)data));
	return sbuf_ok(&server->auth_message) ? SCRAM_OK : SCRAM_INTERNAL;
}

/* Everything is computed in a mock exchange too, so that it takes as long. */
static bool verify_proof(struct scram_server *server, const uint8_t proof[SCRAM_KEY_LEN],
                         bool *good)
{
	struct crypto_part key = {server->client_key, SCRAM_KEY_LEN};
	uint8_t signature[SCRAM_KEY_LEN];
	uint8_t hash[SCRAM_KEY_LEN];

	if (!scram_sign(server->secret.stored_key, &server->auth_message, signature))
		return false;
	scram_xor(proof, signature, server->client_key);
	if (!crypto_sha256(&key, 1, hash))
		return false;
	*good = crypto_equal(hash, server->secret.stored_key, SCRAM_KEY_LEN);
	return true;
}

enum scram_status scram_server_final(struct scram_server *server, const void *data, size_t len,
                                     struct sbuf *out)
{
	uint8_t proof[SCRAM_KEY_LEN];
	uint8_t signature[SCRAM_KEY_LEN];
	char encoded[SCRAM_KEY_LEN * 2];
	enum scram_status status = read_client_final(server, data, len, proof);
	bool good = false;

	if (status != SCRAM_OK)
		return status;
	if (!verify_proof(server, proof, &good) ||
	    !scram_sign(server->secret.server_key, &server->auth_message, signature))
		return SCRAM_INTERNAL;
	if (!good || server->doomed) {
		explicit_bzero(server->client_key, sizeof(server->client_key));
		return SCRAM_BAD_PROOF;
	}
	base64_encode(signature, sizeof(signature), encoded);
	sbuf_printf(out, "v=%s", encoded);
	return SCRAM_OK;
}
