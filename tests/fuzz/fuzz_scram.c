/* SPDX-License-Identifier: PostgreSQL */
/*
 * Authentication against a hostile peer: SCRAM messages of a client and of a server, the state
 * machines around them, SCRAM secrets and users files.  The first byte chooses; messages that must
 * carry the other side's nonce have it put in place of the byte '@'.
 */
#include "auth/client_auth.h"
#include "auth/server_auth.h"
#include "auth/userlist.h"
#include "wire/build.h"

#include <stdlib.h>
#include <string.h>

#define FUZZ_MAX 4000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char secret_text[] = "SCRAM-SHA-256$4096:WNksj8MQwLfcIVIPhgB62w==$"
                                  "c8qA8pA3msxP4b+NG/NxWm7sLtkBR/W0XzQux1V3un0=:"
                                  "IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI=";

/* `data` with `nonce` in place of each '@'. */
static void with_nonce(const uint8_t *data, size_t size, const char *nonce, struct sbuf *out)
{
	sbuf_init(out, (size_t)1 << 20);
	for (size_t i = 0; i < size && i < FUZZ_MAX; i++) {
		if (data[i] == '@')
			sbuf_add_str(out, nonce);
		else
			sbuf_add(out, &data[i], 1);
	}
	sbuf_add(out, "", 0);
}

static void fuzz_server(const uint8_t *data, size_t size, bool first)
{
	static const uint8_t binding[32] = {7};
	static const char good_first[] = "n,,n=,r=abc";
	struct scram_server server;
	struct scram_secret secret;
	struct sbuf out;
	struct sbuf message;
	bool plus = first && size > 0 && data[0] == 'p';

	if (!scram_secret_parse(secret_text, &secret) ||
	    !scram_server_init(&server, "u", &secret, plus ? binding : NULL,
	                       plus ? sizeof(binding) : 0))
		abort();
	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	if (first) {
		enum scram_status status = scram_server_first(
		    &server, plus ? SCRAM_PLUS_NAME : SCRAM_NAME, data, size, &out);

		if ((status == SCRAM_OK) != (out.len > 0))
			abort();
	} else {
		if (scram_server_first(&server, SCRAM_NAME, good_first, strlen(good_first), &out) !=
		    SCRAM_OK)
			abort();
		sbuf_reset(&out);
		with_nonce(data, size, server.nonce, &message);
		/* Nobody guesses a proof. */
		if (scram_server_final(&server, message.data, message.len, &out) == SCRAM_OK ||
		    out.len > 0)
			abort();
		sbuf_free(&message);
	}
	sbuf_free(&out);
	scram_server_end(&server);
}

static void fuzz_client(const uint8_t *data, size_t size, bool finish)
{
	struct scram_client client;
	struct scram_keys keys;
	struct sbuf out;
	struct sbuf message;

	memset(&keys, 1, sizeof(keys));
	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	scram_client_init(&client);
	if (scram_client_first(&client, &out) != SCRAM_OK)
		abort();
	if (finish) {
		memset(client.server_signature, 0x5a, sizeof(client.server_signature));
		if (scram_client_finish(&client, data, size) == SCRAM_OK)
			abort();
	} else {
		with_nonce(data, size, client.nonce, &message);
		if (scram_client_read(&client, message.data, message.len) == SCRAM_OK) {
			if (client.iterations == 0 || client.iterations > SCRAM_ITERATIONS_MAX ||
			    client.salt_len == 0 || client.salt_len > SCRAM_SALT_MAX)
				abort();
			(void)!scram_client_final(&client, &keys, &out);
		}
		sbuf_free(&message);
	}
	sbuf_free(&out);
	scram_client_end(&client);
}

/* The bytes are bodies of messages, each after one byte of length. */
static void fuzz_states(const uint8_t *data, size_t size, bool client_side)
{
	static struct auth_user *user;
	struct client_auth_request request = {.type = AUTH_TYPE_SCRAM, .name = "u"};
	struct client_auth *client = NULL;
	struct server_auth *server = NULL;
	enum auth_status status = AUTH_CONTINUE;
	struct sbuf out;

	if (user == NULL)
		user = auth_user_new("u", secret_text);
	sbuf_init(&out, 100000);
	request.user = user;
	if (size > 0 && data[0] & 1)
		request.type = AUTH_TYPE_MD5;
	if (size > 0 && data[0] & 2)
		request.user = NULL;
	if (client_side)
		status = client_auth_start(&request, &out, &client);
	else
		server = server_auth_new(user);
	for (size_t at = 1; at < size && status == AUTH_CONTINUE;) {
		size_t len = data[at++];

		len = len > size - at ? size - at : len;
		status = client_side ? client_auth_feed(client, data + at, len, &out)
		                     : server_auth_feed(server, data + at, len, &out);
		at += len;
	}
	if (client_side && status == AUTH_OK)
		abort();
	if (status == AUTH_FAILED && (client_side ? client_auth_error(client)->message
	                                          : server_auth_error(server))[0] == '\0')
		abort();
	client_auth_free(client);
	server_auth_free(server);
	sbuf_free(&out);
}

static void fuzz_secret(const uint8_t *data, size_t size)
{
	struct scram_secret secret;
	struct scram_secret again;
	struct sbuf text;

	sbuf_init(&text, 10000);
	sbuf_add(&text, data, size);
	if (sbuf_ok(&text) && scram_secret_parse(sbuf_text(&text), &secret)) {
		sbuf_reset(&text);
		scram_secret_format(&secret, &text);
		if (!scram_secret_parse(sbuf_text(&text), &again) ||
		    memcmp(&secret, &again, sizeof(secret)) != 0)
			abort();
	}
	sbuf_free(&text);
}

static void fuzz_userlist(const uint8_t *data, size_t size)
{
	struct sbuf error;
	struct userlist *list;

	sbuf_init(&error, 1000);
	list = userlist_parse("f", (const char *)data, size, NULL, false, &error);
	if ((list == NULL) == (error.len == 0))
		abort();
	if (list != NULL)
		(void)userlist_find(list, "u");
	userlist_unref(list);
	sbuf_free(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 8) {
	case 0:
		fuzz_server(data + 1, size - 1, true);
		break;
	case 1:
		fuzz_server(data + 1, size - 1, false);
		break;
	case 2:
		fuzz_client(data + 1, size - 1, false);
		break;
	case 3:
		fuzz_client(data + 1, size - 1, true);
		break;
	case 4:
		fuzz_states(data + 1, size - 1, true);
		break;
	case 5:
		fuzz_states(data + 1, size - 1, false);
		break;
	case 6:
		fuzz_secret(data + 1, size - 1);
		break;
	default:
		fuzz_userlist(data + 1, size - 1);
		break;
	}
	return 0;
}
