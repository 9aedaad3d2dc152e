/* SPDX-License-Identifier: PostgreSQL */
#include "auth/server_auth.h"

#include "auth/md5.h"
#include "auth/scram.h"
#include "wire/build.h"
#include "wire/parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum server_auth_state {
	SERVER_AUTH_START,
	SERVER_AUTH_PASSWORD_SENT,
	SERVER_AUTH_FIRST_SENT, /* client-first-message */
	SERVER_AUTH_DERIVE,     /* computes the keys for the server's salt */
	SERVER_AUTH_FINAL_SENT, /* client-final-message */
	SERVER_AUTH_VERIFIED,   /* the server's signature was right */
	SERVER_AUTH_DONE,
};

struct server_auth {
	enum server_auth_state state;
	struct auth_user *user;
	struct scram_client scram;
	enum server_binding policy;
	bool encrypted;
	bool bound; /* SCRAM-SHA-256-PLUS was chosen */
	bool internal; /* it failed here */
	size_t binding_len;
	uint8_t binding[SCRAM_BINDING_MAX];
	char error[240];
};

struct server_auth *server_auth_new(struct auth_user *user)
{
	struct server_auth *auth = calloc(1, sizeof(*auth));

	if (auth == NULL)
		return NULL;
	auth->user = auth_user_ref(user);
	scram_client_init(&auth->scram);
	return auth;
}

void server_auth_bind(struct server_auth *auth, enum server_binding policy, bool encrypted,
                      const uint8_t *digest, size_t len)
{
	auth->policy = policy;
	auth->encrypted = encrypted;
	if (len > 0 && len <= sizeof(auth->binding)) {
		memcpy(auth->binding, digest, len);
		auth->binding_len = len;
	}
}

void server_auth_free(struct server_auth *auth)
{
	if (auth == NULL)
		return;
	scram_client_end(&auth->scram);
	auth_user_unref(auth->user);
	free(auth);
}

const char *server_auth_error(const struct server_auth *auth)
{
	return auth->error;
}

static PRINTF_LIKE(2, 3) enum auth_status fail(struct server_auth *auth, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(auth->error, sizeof(auth->error), fmt, ap);
	va_end(ap);
	auth->state = SERVER_AUTH_DONE;
	return AUTH_FAILED;
}

bool server_auth_failed_here(const struct server_auth *auth)
{
	return auth->internal;
}

static enum auth_status fail_internal(struct server_auth *auth)
{
	auth->internal = true;
	return fail(auth, "out of memory, or OpenSSL failed");
}

/* ---- passwords ---- */

static enum auth_status password_sent(struct server_auth *auth, const struct sbuf *out)
{
	auth->state = SERVER_AUTH_PASSWORD_SENT;
	return sbuf_ok(out) ? AUTH_CONTINUE : fail_internal(auth);
}

static enum auth_status answer_cleartext(struct server_auth *auth, struct sbuf *out)
{
	const char *password = auth_user_password(auth->user);

	if (password == NULL)
		return fail(auth, "the server asks for the password in clear text, which is not "
		                  "known");
	wire_add_password(out, password);
	return password_sent(auth, out);
}

static enum auth_status answer_md5(struct server_auth *auth, const uint8_t *salt, size_t len,
                                   struct sbuf *out)
{
	const char *password = auth_user_password(auth->user);
	char secret[MD5_SECRET_LEN + 1] = "";
	char response[MD5_SECRET_LEN + 1];
	bool ok = true;

	if (len != 4)
		return fail(auth, "the server sent a malformed md5 request");
	if (auth_user_kind(auth->user) == AUTH_SECRET_MD5)
		memcpy(secret, auth_user_secret(auth->user), sizeof(secret));
	else if (password != NULL)
		ok = md5_secret(auth_user_name(auth->user), password, secret);
	else if (auth_user_kind(auth->user) == AUTH_SECRET_SCRAM)
		return fail(auth, "the server asks for an md5 password, but only a SCRAM secret is "
		                  "known");
	else
		return fail(auth, "the server asks for a password, but none is known");
	ok = ok && md5_response(secret, salt, response);
	if (ok)
		wire_add_password(out, response);
	explicit_bzero(secret, sizeof(secret));
	explicit_bzero(response, sizeof(response));
	return ok ? password_sent(auth, out) : fail_internal(auth);
}

/* ---- SCRAM ---- */

static enum auth_status fail_scram(struct server_auth *auth, enum scram_status status)
{
	switch (status) {
	case SCRAM_MALFORMED:
		return fail(auth, "the server breaks the SCRAM protocol: %s", auth->scram.error);
	case SCRAM_BAD_PROOF:
		return fail(auth, "the server could not prove that it knows the SCRAM secret");
	default:
		return fail_internal(auth);
	}
}

/* Are SCRAM-SHA-256 and -PLUS among the names, which an empty one ends? */
static bool offers_scram(const uint8_t *data, size_t len, bool *offered, bool *plus)
{
	struct wire_reader reader = wire_reader(data, len);
	const char *name;

	*offered = false;
	*plus = false;
	while ((name = wire_read_str(&reader)) != NULL && *name != '\0') {
		if (strcmp(name, SCRAM_NAME) == 0)
			*offered = true;
		else if (strcmp(name, SCRAM_PLUS_NAME) == 0)
			*plus = true;
	}
	return name != NULL && wire_left(&reader) == 0;
}

/* Chooses what to say of channel binding, as libpq does. */
static enum auth_status choose_binding(struct server_auth *auth, bool offered, bool plus)
{
	const bool able = auth->encrypted && auth->policy != SERVER_BINDING_DISABLE &&
	                  auth->binding_len > 0;

	/* A server has nothing to bind to without TLS: somebody stands between. */
	if (plus && !auth->encrypted)
		return fail(auth, "the server offers SCRAM-SHA-256-PLUS without TLS");
	auth->bound = plus && able;
	if (!auth->bound && auth->policy == SERVER_BINDING_REQUIRE)
		return fail(auth, "channel binding is required, but the server offers none");
	if (!auth->bound && !offered)
		return fail(auth, "the server offers no SASL mechanism but ones that are not "
		                  "supported; SCRAM-SHA-256 is");
	scram_client_bind(&auth->scram,
	                  auth->bound     ? SCRAM_GS2_BOUND
	                  : able && !plus ? SCRAM_GS2_UNOFFERED
	                                  : SCRAM_GS2_NONE,
	                  auth->binding, auth->binding_len);
	return AUTH_CONTINUE;
}

static enum auth_status answer_sasl(struct server_auth *auth, const uint8_t *data, size_t len,
                                    struct sbuf *out)
{
	struct sbuf message;
	enum scram_status status;
	const char *why;
	bool offered;
	bool plus;

	if (!offers_scram(data, len, &offered, &plus))
		return fail(auth, "the server sent a malformed list of SASL mechanisms");
	if (choose_binding(auth, offered, plus) == AUTH_FAILED)
		return AUTH_FAILED;
	if (!auth_user_can_scram(auth->user, &why))
		return fail(auth, "wrong password type: the server asks for SCRAM, but %s", why);
	sbuf_init(&message, SCRAM_MESSAGE_MAX);
	status = scram_client_first(&auth->scram, &message);
	if (status == SCRAM_OK)
		wire_add_sasl_initial(out, auth->bound ? SCRAM_PLUS_NAME : SCRAM_NAME, message.data,
		                      message.len);
	sbuf_free(&message);
	if (status != SCRAM_OK || !sbuf_ok(out))
		return fail_internal(auth);
	auth->state = SERVER_AUTH_FIRST_SENT;
	return AUTH_CONTINUE;
}

/* The keys are at hand, or cannot be had. */
static enum auth_status send_proof(struct server_auth *auth, struct sbuf *out)
{
	enum scram_status status;
	struct scram_keys keys;
	struct sbuf message;
	const char *why;

	if (!auth_user_server_keys(auth->user, auth->scram.salt, auth->scram.salt_len,
	                           auth->scram.iterations, &keys, &why))
		return why == NULL ? fail_internal(auth)
		                   : fail(auth, "SCRAM is not possible: %s", why);
	sbuf_init(&message, SCRAM_MESSAGE_MAX);
	status = scram_client_final(&auth->scram, &keys, &message);
	explicit_bzero(&keys, sizeof(keys));
	if (status == SCRAM_OK && sbuf_ok(&message))
		wire_add_sasl_response(out, message.data, message.len);
	else
		status = SCRAM_INTERNAL;
	sbuf_free(&message);
	if (status != SCRAM_OK || !sbuf_ok(out))
		return fail_internal(auth);
	auth->state = SERVER_AUTH_FINAL_SENT;
	return AUTH_CONTINUE;
}

static enum auth_status answer_server_first(struct server_auth *auth, const uint8_t *data,
                                            size_t len, struct sbuf *out)
{
	enum scram_status status = scram_client_read(&auth->scram, data, len);

	if (status != SCRAM_OK)
		return fail_scram(auth, status);
	if (!auth_user_server_ready(auth->user, auth->scram.salt, auth->scram.salt_len,
	                            auth->scram.iterations)) {
		auth->state = SERVER_AUTH_DERIVE;
		return AUTH_COMPUTE;
	}
	return send_proof(auth, out);
}

void server_auth_compute(struct server_auth *auth)
{
	struct scram_keys keys;
	const char *why;

	/* Kept in the user; send_proof() asks again, and finds out if it failed. */
	if (auth->state == SERVER_AUTH_DERIVE &&
	    auth_user_server_keys(auth->user, auth->scram.salt, auth->scram.salt_len,
	                          auth->scram.iterations, &keys, &why))
		explicit_bzero(&keys, sizeof(keys));
}

enum auth_status server_auth_resume(struct server_auth *auth, struct sbuf *out)
{
	return auth->state == SERVER_AUTH_DERIVE ? send_proof(auth, out) : fail_internal(auth);
}

static enum auth_status read_server_final(struct server_auth *auth, const uint8_t *data, size_t len)
{
	enum scram_status status = scram_client_finish(&auth->scram, data, len);

	if (status != SCRAM_OK)
		return fail_scram(auth, status);
	auth->state = SERVER_AUTH_VERIFIED;
	return AUTH_CONTINUE;
}

/* ---- the messages ---- */

static enum auth_status read_ok(struct server_auth *auth, size_t len)
{
	if (len != 0)
		return fail(auth, "the server sent a malformed AuthenticationOk");
	if (auth->policy == SERVER_BINDING_REQUIRE &&
	    !(auth->bound && auth->state == SERVER_AUTH_VERIFIED))
		return fail(auth, "channel binding is required, but the server asked for none");
	switch (auth->state) {
	case SERVER_AUTH_START: /* trust, peer, certificate … */
	case SERVER_AUTH_PASSWORD_SENT:
	case SERVER_AUTH_VERIFIED:
		auth->state = SERVER_AUTH_DONE;
		return AUTH_OK;
	default:
		/* A false server would gladly let us in without knowing the secret. */
		return fail(auth, "the server ended SCRAM without proving that it knows the "
		                  "secret");
	}
}

static const char *auth_method_name(uint32_t code)
{
	switch (code) {
	case WIRE_AUTH_KERBEROS_V5:
		return "Kerberos V5";
	case WIRE_AUTH_GSS:
	case WIRE_AUTH_GSS_CONTINUE:
		return "GSSAPI";
	case WIRE_AUTH_SSPI:
		return "SSPI";
	default:
		return "unknown";
	}
}

enum auth_status server_auth_feed(struct server_auth *auth, const void *body, size_t len,
                                  struct sbuf *out)
{
	const uint8_t *data;
	size_t data_len;
	uint32_t code;

	if (!wire_parse_auth(body, len, &code, &data, &data_len))
		return fail(auth, "the server sent a malformed authentication request");
	if (code == WIRE_AUTH_OK)
		return read_ok(auth, data_len);
	switch (auth->state) {
	case SERVER_AUTH_START:
		if (auth->policy == SERVER_BINDING_REQUIRE && code != WIRE_AUTH_SASL)
			return fail(auth, "channel binding is required, but the server asks for "
			                  "another kind of authentication");
		if (code == WIRE_AUTH_CLEARTEXT && data_len == 0)
			return answer_cleartext(auth, out);
		if (code == WIRE_AUTH_MD5)
			return answer_md5(auth, data, data_len, out);
		if (code == WIRE_AUTH_SASL)
			return answer_sasl(auth, data, data_len, out);
		return fail(auth,
		            "the server asks for authentication method %u (%s), which is not "
		            "supported; trust, password, md5 and scram-sha-256 are",
		            code, auth_method_name(code));
	case SERVER_AUTH_FIRST_SENT:
		if (code == WIRE_AUTH_SASL_CONTINUE)
			return answer_server_first(auth, data, data_len, out);
		break;
	case SERVER_AUTH_FINAL_SENT:
		if (code == WIRE_AUTH_SASL_FINAL)
			return read_server_final(auth, data, data_len);
		break;
	default:
		break;
	}
	return fail(auth, "the server sent authentication request %u out of turn", code);
}
