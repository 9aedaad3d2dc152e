/* SPDX-License-Identifier: PostgreSQL */
/* The state machines that authenticate clients and log in to servers, against each other and
 * against peers that do not keep to the protocol. */
#include "auth/client_auth.h"
#include "auth/md5.h"
#include "auth/server_auth.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The first was made by PostgreSQL 15 from the password "pencil"; no password has the second. */
#define PG_SCRAM                                                                                   \
	"SCRAM-SHA-256$4096:WNksj8MQwLfcIVIPhgB62w==$"                                             \
	"c8qA8pA3msxP4b+NG/NxWm7sLtkBR/W0XzQux1V3un0=:"                                            \
	"IXGtyw+uPeqVbbHVFT1ETPotPMmEG8i0o8L9G8gLqAI="
#define PG_MD5_OF_U "md5b44ec9e9b5a3bd5c2a1d0a6e0b7d8f00"

static struct sbuf up;   /* to whom authenticates */
static struct sbuf down; /* to whom logs in */

static int setup(void **state)
{
	(void)state;
	sbuf_init(&up, 10000);
	sbuf_init(&down, 10000);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sbuf_free(&up);
	sbuf_free(&down);
	return 0;
}

/* Takes one message of `type` from the front of `buf` into `body`; its length, or -1. */
static int take(struct sbuf *buf, enum wire_direction from, char type, uint8_t body[2048])
{
	size_t total;

	if (buf->len == 0)
		return -1;
	assert_int_equal(buf->data[0], type);
	assert_int_equal(wire_header_check(from, buf->data, &total), WIRE_HEADER_OK);
	assert_true(total <= buf->len && total <= 2048);
	memcpy(body, buf->data + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN);
	memmove(buf->data, buf->data + total, buf->len - total);
	buf->len -= total;
	return (int)(total - WIRE_HEADER_LEN);
}

/* A whole login; true if both sides are content. */
static bool login(enum auth_type type, struct auth_user *at_proxy, const char *name,
                  struct auth_user *of_client, struct wire_error *refusal, char text[200])
{
	const struct client_auth_request request = {.type = type, .name = name, .user = at_proxy};
	struct client_auth *proxy;
	struct server_auth *client = server_auth_new(of_client);
	enum auth_status proxy_status;
	enum auth_status client_status = AUTH_CONTINUE;
	uint8_t body[2048];
	int len;

	proxy_status = client_auth_start(&request, &down, &proxy);
	for (;;) {
		if (proxy_status == AUTH_COMPUTE) {
			client_auth_compute(proxy);
			proxy_status = client_auth_resume(proxy, &down);
		}
		while (client_status == AUTH_CONTINUE &&
		       (len = take(&down, WIRE_BACKEND, BE_AUTHENTICATION, body)) >= 0) {
			client_status = server_auth_feed(client, body, (size_t)len, &up);
			if (client_status == AUTH_COMPUTE) {
				server_auth_compute(client);
				client_status = server_auth_resume(client, &up);
			}
		}
		len = take(&up, WIRE_FRONTEND, FE_PASSWORD, body);
		if (len < 0 || proxy_status != AUTH_CONTINUE)
			break;
		proxy_status = client_auth_feed(proxy, body, (size_t)len, &down);
	}
	if (proxy_status == AUTH_FAILED) {
		*refusal = *client_auth_error(proxy);
		(void)snprintf(text, 200, "%s", refusal->message);
		refusal->message = text;
		assert_string_equal(refusal->severity, "FATAL");
		assert_string_not_equal(client_auth_log_text(proxy), "");
	}
	if (client_status == AUTH_FAILED)
		assert_string_not_equal(server_auth_error(client), "");
	assert_int_equal(proxy_status == AUTH_OK, client_status == AUTH_OK);
	client_auth_free(proxy);
	server_auth_free(client);
	sbuf_reset(&up);
	sbuf_reset(&down);
	return proxy_status == AUTH_OK;
}

/* One login from texts; NULL secret of the proxy: unknown user. */
static bool login_as(enum auth_type type, const char *secret, const char *password,
                     struct wire_error *refusal)
{
	static char text[200];
	struct auth_user *at_proxy = secret == NULL ? NULL : auth_user_new("u", secret);
	struct auth_user *of_client = auth_user_new("u", password);
	bool ok = login(type, at_proxy, "u", of_client, refusal, text);

	auth_user_unref(at_proxy);
	auth_user_unref(of_client);
	return ok;
}

static void test_good(void **state)
{
	struct wire_error refusal;
	char md5[MD5_SECRET_LEN + 1];

	(void)state;
	assert_true(md5_secret("u", "pencil", md5));
	assert_true(login_as(AUTH_TYPE_TRUST, NULL, NULL, &refusal));
	assert_true(login_as(AUTH_TYPE_TRUST, "pencil", NULL, &refusal));
	assert_true(login_as(AUTH_TYPE_MD5, "pencil", "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_MD5, md5, "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_MD5, "pencil", md5, &refusal));
	assert_true(login_as(AUTH_TYPE_MD5, md5, md5, &refusal));
	assert_true(login_as(AUTH_TYPE_MD5, PG_SCRAM, "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_ANY, NULL, NULL, &refusal));
	assert_true(login_as(AUTH_TYPE_PLAIN, "pencil", "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_PLAIN, md5, "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_PLAIN, PG_SCRAM, "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_SCRAM, "pencil", "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_SCRAM, PG_SCRAM, "pencil", &refusal));
	assert_true(login_as(AUTH_TYPE_SCRAM, "p\xc3\xa4ss", "p\xc3\xa4ss", &refusal));
}

/* Whatever is wrong, the client reads the same. */
static void test_refused(void **state)
{
	static const struct {
		enum auth_type type;
		const char *secret;
	} cases[] = {
	    {AUTH_TYPE_SCRAM, "pencil"},  {AUTH_TYPE_SCRAM, PG_SCRAM},
	    {AUTH_TYPE_PLAIN, "pencil"},  {AUTH_TYPE_PLAIN, PG_SCRAM},
	    {AUTH_TYPE_PLAIN, NULL},      {AUTH_TYPE_PLAIN, PG_MD5_OF_U},
	    {AUTH_TYPE_PLAIN, ""},
	    {AUTH_TYPE_SCRAM, NULL},      {AUTH_TYPE_SCRAM, PG_MD5_OF_U},
	    {AUTH_TYPE_SCRAM, ""},        {AUTH_TYPE_MD5, "pencil"},
	    {AUTH_TYPE_MD5, PG_SCRAM},    {AUTH_TYPE_MD5, NULL},
	    {AUTH_TYPE_MD5, PG_MD5_OF_U}, {AUTH_TYPE_MD5, ""},
	};
	struct wire_error refusal;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_false(login_as(cases[i].type, cases[i].secret, "wrong", &refusal));
		assert_string_equal(refusal.sqlstate, "28P01");
		assert_string_equal(refusal.message,
		                    "password authentication failed for user \"u\"");
		assert_null(refusal.detail);
		assert_null(refusal.hint);
	}
}

/* … and waits as long: a wrong password in clear text costs the same whatever is known of the user. */
static void test_refused_as_late(void **state)
{
	static const char *const secrets[] = {"pencil", PG_SCRAM, PG_MD5_OF_U, "", NULL};
	static const uint8_t wrong[] = "wrong";

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(secrets); i++) {
		struct auth_user *user = secrets[i] == NULL ? NULL : auth_user_new("u", secrets[i]);
		const struct client_auth_request request = {
		    .type = AUTH_TYPE_PLAIN, .name = "u", .user = user};
		struct client_auth *auth;

		assert_int_equal(client_auth_start(&request, &down, &auth), AUTH_CONTINUE);
		assert_int_equal(client_auth_feed(auth, wrong, sizeof(wrong), &down), AUTH_COMPUTE);
		client_auth_compute(auth);
		assert_int_equal(client_auth_resume(auth, &down), AUTH_FAILED);
		assert_int_equal(client_auth_is_wrong(auth), user != NULL);
		client_auth_free(auth);
		auth_user_unref(user);
		sbuf_reset(&down);
	}
}

/* The key of a client's login opens the server that has the same secret: no password is stored. */
static void test_passthrough(void **state)
{
	struct wire_error refusal;
	char text[200];
	struct auth_user *at_proxy = auth_user_new("u", PG_SCRAM);
	struct auth_user *at_server = auth_user_new("u", PG_SCRAM);
	struct auth_user *other_server = auth_user_new("u", "pencil");
	struct auth_user *of_client = auth_user_new("u", "pencil");

	(void)state;
	/* Not yet. */
	assert_false(login(AUTH_TYPE_SCRAM, at_server, "u", at_proxy, &refusal, text));
	assert_true(login(AUTH_TYPE_SCRAM, at_proxy, "u", of_client, &refusal, text));
	assert_true(login(AUTH_TYPE_SCRAM, at_server, "u", at_proxy, &refusal, text));
	assert_false(login(AUTH_TYPE_SCRAM, other_server, "u", at_proxy, &refusal, text));
	auth_user_unref(at_proxy);
	auth_user_unref(at_server);
	auth_user_unref(other_server);
	auth_user_unref(of_client);
}

/* ---- hostile clients ---- */

static void feed_refused(enum auth_type type, const void *body, size_t len, const char *sqlstate)
{
	const struct client_auth_request request = {.type = type, .name = "u"};
	struct client_auth *auth;

	assert_int_equal(client_auth_start(&request, &down, &auth), AUTH_CONTINUE);
	sbuf_reset(&down);
	assert_int_equal(client_auth_feed(auth, body, len, &down), AUTH_FAILED);
	assert_string_equal(client_auth_error(auth)->sqlstate, sqlstate);
	assert_int_equal(down.len, 0);
	/* It stays failed. */
	assert_int_equal(client_auth_feed(auth, body, len, &down), AUTH_FAILED);
	assert_int_equal(down.len, 0);
	client_auth_free(auth);
}

static void test_hostile_client(void **state)
{
	(void)state;
	feed_refused(AUTH_TYPE_MD5, NULL, 0, "08P01");
	feed_refused(AUTH_TYPE_MD5, "md5", 3, "08P01");
	feed_refused(AUTH_TYPE_MD5, "a\0b", 4, "08P01");
	feed_refused(AUTH_TYPE_MD5, "", 1, "28P01");
	feed_refused(AUTH_TYPE_SCRAM, NULL, 0, "08P01");
	feed_refused(AUTH_TYPE_SCRAM, "pencil", 7, "08P01");
	feed_refused(AUTH_TYPE_SCRAM, "SCRAM-SHA-256\0\0\0\0\0", 18, "08P01");
	feed_refused(AUTH_TYPE_SCRAM, "SCRAM-SHA-256\0\0\0\0\11n,,n=,r=x", 28, "08P01");
	feed_refused(AUTH_TYPE_SCRAM, "SCRAM-SHA-1\0\0\0\0\11n,,n=,r=x", 25, "08P01");
	feed_refused(AUTH_TYPE_SCRAM, "SCRAM-SHA-256-PLUS\0\0\0\0\11n,,n=,r=x", 32, "08P01");
}

/* Without an initial response there is an empty challenge first. */
static void test_late_first(void **state)
{
	const struct client_auth_request request = {.type = AUTH_TYPE_SCRAM, .name = "u"};
	struct client_auth *auth;
	uint8_t body[2048];

	(void)state;
	assert_int_equal(client_auth_start(&request, &down, &auth), AUTH_CONTINUE);
	assert_int_equal(take(&down, WIRE_BACKEND, 'R', body), 4 + 14 + 1);
	assert_int_equal(client_auth_feed(auth, "SCRAM-SHA-256\0\xff\xff\xff\xff", 18, &down),
	                 AUTH_CONTINUE);
	assert_int_equal(take(&down, WIRE_BACKEND, 'R', body), 4);
	assert_memory_equal(body, "\0\0\0\13", 4);
	assert_int_equal(client_auth_feed(auth, "n,,n=,r=x", 9, &down), AUTH_CONTINUE);
	assert_true(take(&down, WIRE_BACKEND, 'R', body) > 4);
	assert_memory_equal(body, "\0\0\0\13r=x", 7);
	client_auth_free(auth);
	client_auth_free(NULL);
	assert_string_equal(client_auth_error(NULL)->sqlstate, "53200");
}

/* Channel binding is on offer where there is a certificate. */
static void test_binding_offered(void **state)
{
	const uint8_t digest[32] = {1};
	const struct client_auth_request request = {
	    .type = AUTH_TYPE_SCRAM, .name = "u", .binding = digest, .binding_len = sizeof(digest)};
	struct client_auth *auth;

	(void)state;
	assert_int_equal(client_auth_start(&request, &down, &auth), AUTH_CONTINUE);
	assert_int_equal(down.len, 5 + 4 + 19 + 14 + 1);
	assert_memory_equal(down.data + 9, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0", 34);
	client_auth_free(auth);
}

/* ---- hostile servers ---- */

/* Feeds one request, after a good SASL start if `after_sasl`; the error text is compared. */
static void server_refused(const char *secret, bool after_sasl, const void *body, size_t len,
                           const char *error)
{
	struct auth_user *user = auth_user_new("u", secret);
	struct server_auth *auth = server_auth_new(user);

	if (after_sasl)
		assert_int_equal(server_auth_feed(auth, "\0\0\0\12SCRAM-SHA-256\0", 19, &up),
		                 AUTH_CONTINUE);
	sbuf_reset(&up);
	assert_int_equal(server_auth_feed(auth, body, len, &up), AUTH_FAILED);
	assert_string_equal(server_auth_error(auth), error);
	assert_int_equal(up.len, 0);
	server_auth_free(auth);
	auth_user_unref(user);
}

static void test_hostile_server(void **state)
{
	static const char no_proof[] =
	    "the server ended SCRAM without proving that it knows the secret";
	static const char bad_list[] = "the server sent a malformed list of SASL mechanisms";

	(void)state;
	server_refused("x", false, "\0\0", 2, "the server sent a malformed authentication request");
	server_refused("x", false, "\0\0\0\0x", 5, "the server sent a malformed AuthenticationOk");
	server_refused("x", false, "\0\0\0\5abc", 7, "the server sent a malformed md5 request");
	server_refused("x", false, "\0\0\0\12SCRAM-SHA-256", 17, bad_list);
	server_refused("x", false, "\0\0\0\12SCRAM-SHA-256\0", 18, bad_list);
	server_refused("x", false, "\0\0\0\12\0x", 6, bad_list);
	server_refused("x", false, "\0\0\0\12OAUTHBEARER\0", 17,
	               "the server offers no SASL mechanism but ones that are not supported; "
	               "SCRAM-SHA-256 is");
	server_refused("x", false, "\0\0\0\7", 4,
	               "the server asks for authentication method 7 (GSSAPI), which is not "
	               "supported; trust, password, md5 and scram-sha-256 are");
	server_refused("x", true, "\0\0\0\0", 4, no_proof);
	server_refused("x", true, "\0\0\0\3", 4,
	               "the server sent authentication request 3 out of turn");
	server_refused("x", true, "\0\0\0\13r=x,s=AAAA,i=1", 18,
	               "the server breaks the SCRAM protocol: its nonce does not continue ours");
	server_refused(NULL, false, "\0\0\0\3", 4,
	               "the server asks for the password in clear text, which is not known");
	server_refused(NULL, false, "\0\0\0\5abcd", 8,
	               "the server asks for a password, but none is known");
	server_refused(NULL, false, "\0\0\0\12SCRAM-SHA-256\0", 19,
	               "wrong password type: the server asks for SCRAM, but no password of this user is known");
	server_refused(PG_SCRAM, false, "\0\0\0\5abcd", 8,
	               "the server asks for an md5 password, but only a SCRAM secret is known");
}

static void test_cleartext(void **state)
{
	struct auth_user *user = auth_user_new("u", "pencil");
	struct server_auth *auth = server_auth_new(user);
	uint8_t body[2048];

	(void)state;
	assert_int_equal(server_auth_feed(auth, "\0\0\0\3", 4, &up), AUTH_CONTINUE);
	assert_int_equal(take(&up, WIRE_FRONTEND, FE_PASSWORD, body), 7);
	assert_string_equal((char *)body, "pencil");
	assert_int_equal(server_auth_feed(auth, "\0\0\0\0", 4, &up), AUTH_OK);
	/* Once is enough. */
	assert_int_equal(server_auth_feed(auth, "\0\0\0\0", 4, &up), AUTH_FAILED);
	server_auth_free(auth);
	server_auth_free(NULL);
	auth_user_unref(user);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_good),           TEST(test_refused),    TEST(test_passthrough),
	    TEST(test_hostile_client), TEST(test_late_first), TEST(test_binding_offered),
	    TEST(test_hostile_server), TEST(test_cleartext),  TEST(test_refused_as_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
