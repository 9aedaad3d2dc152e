/* SPDX-License-Identifier: PostgreSQL */
#include "auth/scram.h"
#include "auth/scram_text.h"

#include <stdio.h>
#include <string.h>

static const char *const gs2_headers[] = {
    [SCRAM_GS2_NONE] = "n,,",
    [SCRAM_GS2_UNOFFERED] = "y,,",
    [SCRAM_GS2_BOUND] = "p=tls-server-end-point,,",
};
#define GS2_HEADER_MAX 32

void scram_client_init(struct scram_client *client)
{
	memset(client, 0, sizeof(*client));
	sbuf_init(&client->auth_message, (size_t)3 * SCRAM_MESSAGE_MAX);
}

void scram_client_bind(struct scram_client *client, enum scram_gs2 gs2, const uint8_t *binding,
                       size_t binding_len)
{
	client->gs2 = gs2;
	client->binding_len = 0;
	if (gs2 != SCRAM_GS2_BOUND || binding_len > sizeof(client->binding))
		return;
	memcpy(client->binding, binding, binding_len);
	client->binding_len = binding_len;
}

/* GS2 header and binding data in base64. */
static void encode_binding(const struct scram_client *client, char *out)
{
	uint8_t bytes[GS2_HEADER_MAX + SCRAM_BINDING_MAX];
	size_t len = strlen(gs2_headers[client->gs2]);

	memcpy(bytes, gs2_headers[client->gs2], len);
	memcpy(bytes + len, client->binding, client->binding_len);
	base64_encode(bytes, len + client->binding_len, out);
}

void scram_client_end(struct scram_client *client)
{
	sbuf_free(&client->auth_message);
	explicit_bzero(client, sizeof(*client));
}

static enum scram_status malformed(struct scram_client *client, const char *why)
{
	(void)snprintf(client->error, sizeof(client->error), "%s", why);
	return SCRAM_MALFORMED;
}

enum scram_status scram_client_first(struct scram_client *client, struct sbuf *out)
{
	if (!scram_make_nonce(client->nonce))
		return SCRAM_INTERNAL;
	/* The user was named in the startup packet; PostgreSQL ignores a name here. */
	sbuf_printf(&client->auth_message, "n=,r=%s", client->nonce);
	if (!sbuf_ok(&client->auth_message))
		return SCRAM_INTERNAL;
	sbuf_add_str(out, gs2_headers[client->gs2]);
	sbuf_add(out, client->auth_message.data, client->auth_message.len);
	return SCRAM_OK;
}

enum scram_status scram_client_read(struct scram_client *client, const void *data, size_t len)
{
	struct scram_slice rest = {data, len};
	struct scram_slice nonce;
	struct scram_slice salt;
	struct scram_slice iterations;
	size_t own_len = strlen(client->nonce);

	if (!scram_message_ok(data, len))
		return malformed(client, "its first message is empty, too long or not a text");
	if (!scram_take(&rest, 'r', &nonce) || !scram_take(&rest, 's', &salt) ||
	    !scram_take(&rest, 'i', &iterations) || rest.len > 0)
		return malformed(client, "its first message lacks nonce, salt or iterations");
	if (!scram_is_nonce(nonce) || nonce.len > SCRAM_NONCE_MAX || nonce.len <= own_len ||
	    memcmp(nonce.at, client->nonce, own_len) != 0)
		return malformed(client, "its nonce does not continue ours");
	if (!base64_decode(salt.at, salt.len, client->salt, sizeof(client->salt),
	                   &client->salt_len) ||
	    client->salt_len == 0)
		return malformed(client, "its salt is malformed or too long");
	if (!scram_parse_iterations(iterations, &client->iterations) ||
	    client->iterations > SCRAM_ITERATIONS_MAX)
		return malformed(client, "its iteration count is malformed or too high");
	memcpy(client->server_nonce, nonce.at, nonce.len);
	client->server_nonce[nonce.len] = '\0';
	sbuf_add_char(&client->auth_message, ',');
	sbuf_add(&client->auth_message, data, len);
	return sbuf_ok(&client->auth_message) ? SCRAM_OK : SCRAM_INTERNAL;
}

enum scram_status scram_client_final(struct scram_client *client, const struct scram_keys *keys,
                                     struct sbuf *out)
{
	struct crypto_part part = {keys->client_key, SCRAM_KEY_LEN};
	uint8_t stored[SCRAM_KEY_LEN];
	uint8_t proof[SCRAM_KEY_LEN];
	char encoded[SCRAM_KEY_LEN * 2];
	char binding[2 * (GS2_HEADER_MAX + SCRAM_BINDING_MAX)];
	size_t start;
	bool ok;

	sbuf_add_char(&client->auth_message, ',');
	start = client->auth_message.len;
	encode_binding(client, binding);
	sbuf_printf(&client->auth_message, "c=%s,r=%s", binding, client->server_nonce);
	ok = sbuf_ok(&client->auth_message) && crypto_sha256(&part, 1, stored) &&
	     scram_sign(stored, &client->auth_message, proof) &&
	     scram_sign(keys->server_key, &client->auth_message, client->server_signature);
	if (ok) {
		scram_xor(keys->client_key, proof, proof);
		base64_encode(proof, sizeof(proof), encoded);
		sbuf_add(out, client->auth_message.data + start, client->auth_message.len - start);
		sbuf_printf(out, ",p=%s", encoded);
	}
	explicit_bzero(stored, sizeof(stored));
	return ok ? SCRAM_OK : SCRAM_INTERNAL;
}

/* "e=invalid-proof" or the like.  What goes into a text for logs and clients must be ASCII. */
static enum scram_status refused(struct scram_client *client, struct scram_slice why)
{
	int len = why.len > 80 ? 80 : (int)why.len;

	(void)snprintf(client->error, sizeof(client->error), "it answers \"%.*s\"", len, why.at);
	for (char *p = client->error; *p != '\0'; p++) {
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
	}
	return SCRAM_MALFORMED;
}

enum scram_status scram_client_finish(struct scram_client *client, const void *data, size_t len)
{
	struct scram_slice rest = {data, len};
	struct scram_slice value;
	uint8_t signature[SCRAM_KEY_LEN];
	size_t signature_len;

	if (!scram_message_ok(data, len))
		return malformed(client, "its last message is empty, too long or not a text");
	if (scram_take(&rest, 'e', &value))
		return refused(client, value);
	if (!scram_take(&rest, 'v', &value) || rest.len > 0 ||
	    !base64_decode(value.at, value.len, signature, sizeof(signature), &signature_len) ||
	    signature_len != sizeof(signature))
		return malformed(client, "its signature is malformed");
	return crypto_equal(signature, client->server_signature, sizeof(signature))
	           ? SCRAM_OK
	           : SCRAM_BAD_PROOF;
}
