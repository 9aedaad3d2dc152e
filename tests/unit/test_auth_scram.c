/* SPDX-License-Identifier: PostgreSQL */
/* SCRAM-SHA-256: the exchange of RFC 7677, a secret made by PostgreSQL, both sides against each
 * other, and messages no honest peer sends. */
#include "auth/scram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* CREATE ROLE scramu PASSWORD 'pencil' on PostgreSQL 15. */
#define PG_SECRET                                                                                  \
	"SCRAM-SHA-256$4096:WNksj8MQwLfcIVIPhgB62w==$"                                             \
	"c8qA8pA3msxP4b+NG/NxWm7sLtkBR/W0XzQux1V3un0=:"                                            \
	"IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI="

/* RFC 7677, section 3: user "user", password "pencil". */
#define RFC_CLIENT_NONCE "rOprNGfwEbeRWgbNEkqO"
#define RFC_NONCE RFC_CLIENT_NONCE "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define RFC_FIRST_BARE "n=user,r=" RFC_CLIENT_NONCE
#define RFC_SERVER_FIRST "r=" RFC_NONCE ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
#define RFC_CLIENT_FINAL "c=biws,r=" RFC_NONCE ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
#define RFC_SERVER_FINAL "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

static struct scram_secret secret;
static struct scram_keys keys;

static int setup(void **state)
{
	(void)state;
	if (!scram_secret_parse(PG_SECRET, &secret))
		return -1;
	return scram_derive("pencil", secret.salt, secret.salt_len, secret.iterations, &keys, NULL)
	           ? 0
	           : -1;
}

static void test_rfc_client(void **state)
{
	struct scram_client client;
	struct scram_keys rfc_keys;
	struct sbuf out;

	(void)state;
	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	scram_client_init(&client);
	(void)strcpy(client.nonce, RFC_CLIENT_NONCE);
	sbuf_add_str(&client.auth_message, RFC_FIRST_BARE);
	assert_int_equal(scram_client_read(&client, RFC_SERVER_FIRST, strlen(RFC_SERVER_FIRST)),
	                 SCRAM_OK);
	assert_int_equal(client.iterations, 4096);
	assert_int_equal(client.salt_len, 16);
	assert_true(scram_derive("pencil", client.salt, client.salt_len, client.iterations,
	                         &rfc_keys, NULL));
	assert_int_equal(scram_client_final(&client, &rfc_keys, &out), SCRAM_OK);
	assert_string_equal(sbuf_text(&out), RFC_CLIENT_FINAL);
	assert_int_equal(scram_client_finish(&client, RFC_SERVER_FINAL, strlen(RFC_SERVER_FINAL)),
	                 SCRAM_OK);
	scram_client_end(&client);
	sbuf_free(&out);
}

static void test_rfc_server(void **state)
{
	struct scram_server server;
	struct scram_secret rfc_secret = {.iterations = 4096, .salt_len = 16};
	struct scram_keys rfc_keys;
	struct sbuf out;
	size_t len;

	(void)state;
	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	assert_true(base64_decode("W22ZaJ0SNY7soEsUEjb6gQ==", 24, rfc_secret.salt, 16, &len));
	assert_true(
	    scram_derive("pencil", rfc_secret.salt, 16, 4096, &rfc_keys, rfc_secret.stored_key));
	memcpy(rfc_secret.server_key, rfc_keys.server_key, SCRAM_KEY_LEN);
	assert_true(scram_server_init(&server, "user", &rfc_secret, NULL, 0));
	assert_int_equal(scram_server_first(&server, SCRAM_NAME, "n,," RFC_FIRST_BARE,
	                                    strlen("n,," RFC_FIRST_BARE), &out),
	                 SCRAM_OK);
	/* Our own nonce is replaced by the one of the RFC. */
	(void)strcpy(server.nonce, RFC_NONCE);
	sbuf_reset(&server.auth_message);
	sbuf_add_str(&server.auth_message, RFC_FIRST_BARE "," RFC_SERVER_FIRST);
	sbuf_reset(&out);
	assert_int_equal(
	    scram_server_final(&server, RFC_CLIENT_FINAL, strlen(RFC_CLIENT_FINAL), &out),
	    SCRAM_OK);
	assert_string_equal(sbuf_text(&out), RFC_SERVER_FINAL);
	assert_memory_equal(server.client_key, rfc_keys.client_key, SCRAM_KEY_LEN);
	scram_server_end(&server);
	sbuf_free(&out);
}

static void test_secret(void **state)
{
	struct scram_secret derived = secret;
	struct sbuf out;

	(void)state;
	sbuf_init(&out, 1000);
	assert_int_equal(secret.iterations, 4096);
	assert_int_equal(secret.salt_len, 16);
	assert_true(
	    scram_derive("pencil", secret.salt, secret.salt_len, 4096, &keys, derived.stored_key));
	memcpy(derived.server_key, keys.server_key, SCRAM_KEY_LEN);
	scram_secret_format(&derived, &out);
	assert_string_equal(sbuf_text(&out), PG_SECRET);
	sbuf_free(&out);
}

static void test_secret_bad(void **state)
{
	static const char *const bad[] = {
	    "",
	    "pencil",
	    "SCRAM-SHA-256",
	    "SCRAM-SHA-256$",
	    "SCRAM-SHA-256$4096",
	    "SCRAM-SHA-256$4096:AAAA",
	    "SCRAM-SHA-256$4096:AAAA$:",
	    "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
	    "SCRAM-SHA-256$0:WNksj8MQwLfcIVIPhgB62w==$c8qA8pA3msxP4b+NG/"
	    "NxWm7sLtkBR/W0XzQux1V3un0=:IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI=",
	    "SCRAM-SHA-256$-1:WNksj8MQwLfcIVIPhgB62w==$c8qA8pA3msxP4b+NG/"
	    "NxWm7sLtkBR/W0XzQux1V3un0=:IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI=",
	    "SCRAM-SHA-256$99999999999:WNksj8MQwLfcIVIPhgB62w==$c8qA8pA3msxP4b+NG/"
	    "NxWm7sLtkBR/W0XzQux1V3un0=:IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI=",
	    "SCRAM-SHA-256$4096:$c8qA8pA3msxP4b+NG/NxWm7sLtkBR/W0XzQux1V3un0=:"
	    "IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI=",
	    PG_SECRET "x",
	    PG_SECRET "AAAA",
	};
	struct scram_secret got;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(scram_secret_parse(bad[i], &got));
}

/* Client and server against each other; what each side says in the end. */
static void exchange(const struct scram_secret *of_server, const struct scram_keys *of_client,
                     enum scram_status server_end, enum scram_status client_end)
{
	struct scram_server server;
	struct scram_client client;
	struct sbuf up;
	struct sbuf down;

	sbuf_init(&up, SCRAM_MESSAGE_MAX);
	sbuf_init(&down, SCRAM_MESSAGE_MAX);
	scram_client_init(&client);
	assert_true(scram_server_init(&server, "scramu", of_server, NULL, 0));
	assert_int_equal(scram_client_first(&client, &up), SCRAM_OK);
	assert_int_equal(scram_server_first(&server, SCRAM_NAME, up.data, up.len, &down), SCRAM_OK);
	assert_int_equal(scram_client_read(&client, down.data, down.len), SCRAM_OK);
	sbuf_reset(&up);
	sbuf_reset(&down);
	assert_int_equal(scram_client_final(&client, of_client, &up), SCRAM_OK);
	assert_int_equal(scram_server_final(&server, up.data, up.len, &down), server_end);
	if (server_end == SCRAM_OK) {
		assert_memory_equal(server.client_key, of_client->client_key, SCRAM_KEY_LEN);
		assert_int_equal(scram_client_finish(&client, down.data, down.len), client_end);
	} else {
		assert_int_equal(down.len, 0);
	}
	scram_server_end(&server);
	scram_client_end(&client);
	sbuf_free(&up);
	sbuf_free(&down);
}

static void test_exchange(void **state)
{
	struct scram_keys wrong = keys;
	struct scram_secret false_server = secret;

	(void)state;
	exchange(&secret, &keys, SCRAM_OK, SCRAM_OK);
	wrong.client_key[31] ^= 1;
	exchange(&secret, &wrong, SCRAM_BAD_PROOF, SCRAM_OK);
	exchange(NULL, &keys, SCRAM_BAD_PROOF, SCRAM_OK);
	/* A server that knows StoredKey only cannot sign. */
	false_server.server_key[0] ^= 1;
	exchange(&false_server, &keys, SCRAM_OK, SCRAM_BAD_PROOF);
}

/* The proof that fits the zero keys of a mock exchange must not be let in either. */
static void test_mock_is_doomed(void **state)
{
	struct scram_keys zero;

	(void)state;
	memset(&zero, 0, sizeof(zero));
	exchange(NULL, &zero, SCRAM_BAD_PROOF, SCRAM_OK);
}

static void mock_first(const char *user, char *out, size_t out_size)
{
	struct scram_server server;
	struct sbuf buf;
	const char *salt;

	sbuf_init(&buf, SCRAM_MESSAGE_MAX);
	assert_true(scram_server_init(&server, user, NULL, NULL, 0));
	assert_int_equal(scram_server_first(&server, SCRAM_NAME, "n,,n=,r=abc", 11, &buf),
	                 SCRAM_OK);
	salt = strstr(sbuf_text(&buf), ",s=");
	assert_non_null(salt);
	(void)snprintf(out, out_size, "%s", salt);
	sbuf_free(&buf);
	scram_server_end(&server);
}

/* An unknown user's salt looks like any other and stays the same. */
static void test_mock_salt(void **state)
{
	char first[80];
	char second[80];

	(void)state;
	mock_first("nobody", first, sizeof(first));
	mock_first("nobody", second, sizeof(second));
	assert_string_equal(first, second);
	assert_int_equal(strlen(first), strlen(",s=WNksj8MQwLfcIVIPhgB62w==,i=4096"));
	mock_first("noone", second, sizeof(second));
	assert_string_not_equal(first, second);
	scram_set_mock_seed("seed", 4);
	mock_first("nobody", second, sizeof(second));
	assert_string_not_equal(first, second);
}

static enum scram_status first_with(const char *mechanism, const void *data, size_t len,
                                    const uint8_t *binding)
{
	struct scram_server server;
	struct sbuf out;
	enum scram_status status;

	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	assert_true(scram_server_init(&server, "u", &secret, binding, binding == NULL ? 0 : 32));
	status = scram_server_first(&server, mechanism, data, len, &out);
	if (status != SCRAM_OK) {
		assert_int_equal(out.len, 0);
		assert_string_not_equal(server.error, "");
	}
	scram_server_end(&server);
	sbuf_free(&out);
	return status;
}

#define FIRST(text) first_with(SCRAM_NAME, text, sizeof(text) - 1, NULL)

static void test_client_first(void **state)
{
	char text[SCRAM_MESSAGE_MAX + 20];
	const uint8_t binding[32] = {1};

	(void)state;
	assert_int_equal(FIRST("n,,n=,r=x"), SCRAM_OK);
	assert_int_equal(FIRST("y,,n=user,r=x,ext=1"), SCRAM_OK);
	assert_int_equal(FIRST(""), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,n="), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,n=,r="), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,n=,r=a b"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,n=,r=a\0b"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,n=,r=\xc3\xa4"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,r=x,n="), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,,m=ext,n=,r=x"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("n,a=admin,n=,r=x"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("z,,n=,r=x"), SCRAM_MALFORMED);
	assert_int_equal(FIRST("p=tls-server-end-point,,n=,r=x"), SCRAM_MALFORMED);
	assert_int_equal(first_with("SCRAM-SHA-1", "n,,n=,r=x", 9, NULL), SCRAM_MALFORMED);
	assert_int_equal(first_with(SCRAM_PLUS_NAME, "n,,n=,r=x", 9, NULL), SCRAM_MALFORMED);
	/* Bounds. */
	memset(text, 'x', sizeof(text));
	memcpy(text, "n,,n=,r=", 8);
	assert_int_equal(first_with(SCRAM_NAME, text, 8 + SCRAM_NONCE_MAX, NULL), SCRAM_OK);
	assert_int_equal(first_with(SCRAM_NAME, text, 9 + SCRAM_NONCE_MAX, NULL), SCRAM_MALFORMED);
	assert_int_equal(first_with(SCRAM_NAME, text, sizeof(text), NULL), SCRAM_MALFORMED);
	/* With a binding on offer, 'y' is a downgrade and PLUS needs 'p'. */
	assert_int_equal(first_with(SCRAM_NAME, "y,,n=,r=x", 9, binding), SCRAM_MALFORMED);
	assert_int_equal(first_with(SCRAM_NAME, "n,,n=,r=x", 9, binding), SCRAM_OK);
	assert_int_equal(first_with(SCRAM_PLUS_NAME, "n,,n=,r=x", 9, binding), SCRAM_MALFORMED);
	assert_int_equal(first_with(SCRAM_PLUS_NAME, "p=tls-server-end-point,,n=,r=x", 30, binding),
	                 SCRAM_OK);
	assert_int_equal(first_with(SCRAM_PLUS_NAME, "p=tls-unique,,n=,r=x", 20, binding),
	                 SCRAM_MALFORMED);
}

/* Final message made of a format in which %s is the nonce. */
static enum scram_status final_with(const char *fmt_before, const char *fmt_after)
{
	struct scram_server server;
	struct sbuf out;
	struct sbuf message;
	enum scram_status status;

	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	sbuf_init(&message, SCRAM_MESSAGE_MAX * 2);
	assert_true(scram_server_init(&server, "u", &secret, NULL, 0));
	assert_int_equal(scram_server_first(&server, SCRAM_NAME, "n,,n=,r=x", 9, &out), SCRAM_OK);
	sbuf_reset(&out);
	sbuf_printf(&message, "%s%s%s", fmt_before, server.nonce, fmt_after);
	status = scram_server_final(&server, message.data, message.len, &out);
	assert_int_equal(out.len, 0);
	scram_server_end(&server);
	sbuf_free(&out);
	sbuf_free(&message);
	return status;
}

static void test_client_final(void **state)
{
	static const char proof[] = ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
	char text[120];

	(void)state;
	assert_int_equal(final_with("c=biws,r=", proof), SCRAM_BAD_PROOF);
	(void)snprintf(text, sizeof(text), ",x=ext%s", proof);
	assert_int_equal(final_with("c=biws,r=", text), SCRAM_BAD_PROOF);
	assert_int_equal(final_with("c=eSws,r=", proof), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=,r=", proof), SCRAM_MALFORMED);
	assert_int_equal(final_with("r=", proof), SCRAM_MALFORMED);
	assert_int_equal(final_with("", ""), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=biws,r=y", proof), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=biws,r=", ""), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=biws,r=", ",p="), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=biws,r=", ",p=AAAA"), SCRAM_MALFORMED);
	assert_int_equal(final_with("c=biws,r=", ",,"), SCRAM_MALFORMED);
	(void)snprintf(text, sizeof(text), "%s,", proof);
	assert_int_equal(final_with("c=biws,r=", text), SCRAM_MALFORMED);
	(void)snprintf(text, sizeof(text), "%s,x=y", proof);
	assert_int_equal(final_with("c=biws,r=", text), SCRAM_MALFORMED);
}

/* What a hostile server might answer; the client's nonce comes first. */
static enum scram_status server_first_with(const char *before, const char *after)
{
	struct scram_client client;
	struct sbuf out;
	struct sbuf message;
	enum scram_status status;

	sbuf_init(&out, SCRAM_MESSAGE_MAX);
	sbuf_init(&message, (size_t)SCRAM_MESSAGE_MAX * 4);
	scram_client_init(&client);
	assert_int_equal(scram_client_first(&client, &out), SCRAM_OK);
	sbuf_printf(&message, "%s%s%s", before, client.nonce, after);
	status = scram_client_read(&client, message.data, message.len);
	scram_client_end(&client);
	sbuf_free(&out);
	sbuf_free(&message);
	return status;
}

static void test_hostile_server(void **state)
{
	char text[SCRAM_MESSAGE_MAX * 2];

	(void)state;
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=1"), SCRAM_OK);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=1000000"), SCRAM_OK);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=1000001"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=4294967297"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=0"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=-5"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=1x"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i="), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=,i=1"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=A,i=1"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=", "y,s=AAAA,i=1,x=y"), SCRAM_MALFORMED);
	/* Our nonce alone, another one, a letter before it. */
	assert_int_equal(server_first_with("r=", ",s=AAAA,i=1"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("r=z", "y,s=AAAA,i=1"), SCRAM_MALFORMED);
	assert_int_equal(server_first_with("m=x,r=", "y,s=AAAA,i=1"), SCRAM_MALFORMED);
	memset(text, 'A', sizeof(text) - 1);
	memcpy(text, "y,s=", 4);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(server_first_with("r=", text), SCRAM_MALFORMED);
	(void)snprintf(text + 1000, 10, ",i=1");
	assert_int_equal(server_first_with("r=", text), SCRAM_MALFORMED);
	memset(text, 'A', 600);
	(void)snprintf(text + 600, 20, ",s=AAAA,i=1");
	assert_int_equal(server_first_with("r=", text), SCRAM_MALFORMED);
}

static void test_server_final(void **state)
{
	struct scram_client client;

	(void)state;
	scram_client_init(&client);
#define FINISH(text) scram_client_finish(&client, text, sizeof(text) - 1)
	assert_int_equal(FINISH(""), SCRAM_MALFORMED);
	assert_int_equal(FINISH("v="), SCRAM_MALFORMED);
	assert_int_equal(FINISH("v=AAAA"), SCRAM_MALFORMED);
	assert_int_equal(FINISH(RFC_SERVER_FINAL), SCRAM_BAD_PROOF);
	assert_int_equal(FINISH(RFC_SERVER_FINAL ",x=y"), SCRAM_MALFORMED);
	assert_int_equal(FINISH("e=invalid-\x1b[31mproof"), SCRAM_MALFORMED);
	assert_string_equal(client.error, "it answers \"invalid-?[31mproof\"");
	scram_client_end(&client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rfc_client),   cmocka_unit_test(test_rfc_server),
	    cmocka_unit_test(test_secret),       cmocka_unit_test(test_secret_bad),
	    cmocka_unit_test(test_exchange),     cmocka_unit_test(test_mock_is_doomed),
	    cmocka_unit_test(test_mock_salt),    cmocka_unit_test(test_client_first),
	    cmocka_unit_test(test_client_final), cmocka_unit_test(test_hostile_server),
	    cmocka_unit_test(test_server_final),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
