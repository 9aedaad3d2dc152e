/* SPDX-License-Identifier: PostgreSQL */
#include "auth/client_auth.h"

#include "auth/ident.h"
#include "auth/ldap.h"
#include "auth/md5.h"
#include "auth/pam.h"
#include "auth/scram.h"
#include "base/mem.h"
#include "wire/build.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of what a client sends: passwords may be tokens of some kB, as long as a message may be. */
#define PASSWORD_MESSAGE_MAX ((size_t)WIRE_AUTH_TOKEN + 1)
#define ANSWER_MESSAGE_MAX ((size_t)8192) /* md5, SCRAM; memory is for those who are known */

enum client_auth_state {
	CLIENT_AUTH_DERIVE,      /* computes the SCRAM secret of a plain password */
	CLIENT_AUTH_PEER,        /* computes the name of a user id */
	CLIENT_AUTH_PLAIN,       /* clear text asked for */
	CLIENT_AUTH_VERIFY,      /* computes whether it fits */
	CLIENT_AUTH_OTHERS,      /* clear text asked for, for PAM or LDAP */
	CLIENT_AUTH_OTHERS_CHECK, /* they are asked */
	CLIENT_AUTH_MD5,         /* challenge sent */
	CLIENT_AUTH_SASL_CHOICE, /* mechanisms sent */
	CLIENT_AUTH_SASL_FIRST,  /* mechanism chosen without data: client-first is to come */
	CLIENT_AUTH_SASL_FINAL,  /* server-first sent */
	CLIENT_AUTH_DONE,
};

struct client_auth {
	enum client_auth_state state;
	struct auth_user *user;
	char *name;
	uint8_t md5_salt[4];
	char mechanism[32];
	uint8_t binding[SCRAM_BINDING_MAX];
	size_t binding_len;
	bool scram_usual;
	uint32_t scram_iterations;
	bool right;     /* VERIFY, OTHERS_CHECK: it fits */
	char *password; /* VERIFY, OTHERS_CHECK; kept if others found it right */
	struct auth_ldap *ldap; /* NULL: PAM is asked */
	char *pam_service;
	char *pam_directory;
	char *host;
	uid_t peer_uid;
	char *system_user; /* PEER; NULL: there is none */
	char *map;
	struct ident *ident;
	bool scram_used;
	bool learned; /* the user's key */
	bool wrong;   /* the proof */
	enum client_auth_state proof_state; /* PLAIN, MD5: which asked for … */
	char *proof;                        /* … what the client sent; NULL: SCRAM, or nothing yet */
	struct scram_server scram;
	struct wire_error error;
	const char *refusal; /* what pgbouncer calls it; NULL: as the error says */
	char error_text[200];
	char log_text[200];
};

static enum auth_status auth_fail(struct client_auth *auth, const char *sqlstate,
                                  const char *message, const char *detail)
{
	auth->state = CLIENT_AUTH_DONE;
	auth->error = (struct wire_error){
	    .severity = "FATAL", .sqlstate = sqlstate, .message = message, .detail = detail};
	return AUTH_FAILED;
}

/* The one answer to an unknown user, a missing secret and a wrong password. */
static enum auth_status auth_refuse(struct client_auth *auth, const char *log_text)
{
	(void)snprintf(auth->error_text, sizeof(auth->error_text),
	               "password authentication failed for user \"%.120s\"", auth->name);
	(void)snprintf(auth->log_text, sizeof(auth->log_text), "%s", log_text);
	auth->wrong = auth->user != NULL;
	return auth_fail(auth, "28P01", auth->error_text, NULL);
}

/* The client breaks the protocol. */
static enum auth_status auth_malformed(struct client_auth *auth, const char *message,
                                       const char *detail)
{
	(void)snprintf(auth->log_text, sizeof(auth->log_text), "%s%s%s", message,
	               detail == NULL ? "" : ": ", detail == NULL ? "" : detail);
	return auth_fail(auth, "08P01", message, detail);
}

static enum auth_status auth_internal(struct client_auth *auth)
{
	(void)snprintf(auth->log_text, sizeof(auth->log_text), "out of memory, or OpenSSL failed");
	return auth_fail(auth, "53200", "out of memory", NULL);
}

static const char *auth_why_refused(const struct client_auth *auth, const char *fitting)
{
	if (auth->user == NULL)
		return "there is no such user";
	return fitting != NULL ? fitting : "wrong password";
}

static enum auth_status auth_accept(struct client_auth *auth, struct sbuf *out)
{
	wire_add_auth_ok(out);
	if (!sbuf_ok(out))
		return auth_internal(auth);
	auth->state = CLIENT_AUTH_DONE;
	return AUTH_OK;
}

/* ---- start ---- */

static enum auth_status start_md5(struct client_auth *auth, struct sbuf *out)
{
	if (!crypto_random(auth->md5_salt, sizeof(auth->md5_salt)))
		return auth_internal(auth);
	wire_add_auth_md5(out, auth->md5_salt);
	auth->state = CLIENT_AUTH_MD5;
	return sbuf_ok(out) ? AUTH_CONTINUE : auth_internal(auth);
}

static enum auth_status start_scram(struct client_auth *auth, struct sbuf *out)
{
	const char *mechanisms[2];
	size_t count = 0;
	struct scram_secret secret;
	bool have;
	bool ok;

	if (auth->user != NULL && !auth_user_scram_ready(auth->user) &&
	    auth->state != CLIENT_AUTH_DERIVE) {
		auth->state = CLIENT_AUTH_DERIVE;
		return AUTH_COMPUTE;
	}
	have = auth->user != NULL && auth_user_scram_secret(auth->user, &secret);
	auth->scram_used = true;
	ok = scram_server_init(&auth->scram, auth->name, have ? &secret : NULL,
	                       auth->binding_len == 0 ? NULL : auth->binding, auth->binding_len);
	explicit_bzero(&secret, sizeof(secret));
	if (!ok)
		return auth_internal(auth);
	if (!have)
		auth->scram.secret.iterations = auth->scram_iterations;
	if (auth->scram.binding != NULL)
		mechanisms[count++] = SCRAM_PLUS_NAME;
	mechanisms[count++] = SCRAM_NAME;
	wire_add_auth_sasl(out, mechanisms, count);
	auth->state = CLIENT_AUTH_SASL_CHOICE;
	return sbuf_ok(out) ? AUTH_CONTINUE : auth_internal(auth);
}

static enum auth_status start_plain(struct client_auth *auth, enum client_auth_state state,
                                    struct sbuf *out)
{
	wire_add_auth_cleartext(out);
	auth->state = state;
	return sbuf_ok(out) ? AUTH_CONTINUE : auth_internal(auth);
}

static enum auth_status start_pam(struct client_auth *auth,
                                  const struct client_auth_request *request, struct sbuf *out)
{
	auth->pam_service = strdup(request->pam_service);
	auth->pam_directory = strdup(request->pam_directory);
	auth->host = strdup(request->host);
	if (auth->pam_service == NULL || auth->pam_directory == NULL || auth->host == NULL)
		return auth_internal(auth);
	return start_plain(auth, CLIENT_AUTH_OTHERS, out);
}

static enum auth_status start_cert(struct client_auth *auth, const char *cert_name,
                                   struct sbuf *out)
{
	if (cert_name != NULL && ident_allows(auth->ident, auth->map, cert_name, auth->name))
		return auth_accept(auth, out);
	(void)snprintf(auth->error_text, sizeof(auth->error_text),
	               "certificate authentication failed for user \"%.120s\"", auth->name);
	if (cert_name == NULL)
		(void)snprintf(auth->log_text, sizeof(auth->log_text),
		               "the client showed no certificate with a name");
	else
		(void)snprintf(auth->log_text, sizeof(auth->log_text),
		               "the certificate is of \"%.80s\"%s%.60s", cert_name,
		               auth->map == NULL ? "" : ", map ",
		               auth->map == NULL ? "" : auth->map);
	return auth_fail(auth, "28000", auth->error_text, NULL);
}

static enum auth_status start_method(struct client_auth *auth,
                                     const struct client_auth_request *request, struct sbuf *out)
{
	switch (request->type) {
	case AUTH_TYPE_TRUST:
	case AUTH_TYPE_ANY:
		return auth_accept(auth, out);
	case AUTH_TYPE_PLAIN:
		return start_plain(auth, CLIENT_AUTH_PLAIN, out);
	case AUTH_TYPE_MD5:
		if (auth->user == NULL ? auth->scram_usual
		                       : auth_user_kind(auth->user) == AUTH_SECRET_SCRAM)
			return start_scram(auth, out);
		return start_md5(auth, out);
	case AUTH_TYPE_SCRAM:
		return start_scram(auth, out);
	case AUTH_TYPE_CERT:
		return start_cert(auth, request->cert_name, out);
	case AUTH_TYPE_PEER:
		auth->state = CLIENT_AUTH_PEER;
		return AUTH_COMPUTE;
	case AUTH_TYPE_PAM:
		return start_pam(auth, request, out);
	case AUTH_TYPE_LDAP:
		auth->ldap = auth_ldap_ref(request->ldap);
		return start_plain(auth, CLIENT_AUTH_OTHERS, out);
	case AUTH_TYPE_REJECT:
		break;
	}
	return auth_internal(auth);
}

enum auth_status client_auth_start(const struct client_auth_request *request, struct sbuf *out,
                                   struct client_auth **out_auth)
{
	struct client_auth *auth = calloc(1, sizeof(*auth));

	*out_auth = auth;
	if (auth == NULL)
		return AUTH_FAILED;
	auth->name = strdup(request->name);
	auth->map = request->map == NULL ? NULL : strdup(request->map);
	if (auth->name == NULL || (auth->map == NULL && request->map != NULL)) {
		client_auth_free(auth);
		*out_auth = NULL;
		return AUTH_FAILED;
	}
	auth->state = CLIENT_AUTH_DONE;
	auth->user = auth_user_ref(request->user);
	auth->ident = ident_ref(request->ident);
	if (request->binding != NULL && request->binding_len <= sizeof(auth->binding)) {
		memcpy(auth->binding, request->binding, request->binding_len);
		auth->binding_len = request->binding_len;
	}
	auth->scram_usual = request->scram_usual;
	auth->scram_iterations =
	    request->scram_iterations == 0 ? SCRAM_ITERATIONS : request->scram_iterations;
	auth->peer_uid = request->peer_uid;
	return start_method(auth, request, out);
}

/* ---- the costly steps ---- */

static void compute_system_user(struct client_auth *auth)
{
	struct passwd entry;
	struct passwd *found = NULL;
	char text[4096];

	if (getpwuid_r(auth->peer_uid, &entry, text, sizeof(text), &found) == 0 && found != NULL)
		auth->system_user = strdup(found->pw_name);
}

/* The login has (or has not) revealed the user's key, which the servers may ask for. */
static bool has_key(const struct client_auth *auth)
{
	const char *why;

	return auth->user != NULL && auth_user_can_scram(auth->user, &why);
}

bool client_auth_asks_others(const struct client_auth *auth)
{
	return auth->state == CLIENT_AUTH_OTHERS_CHECK;
}

static bool ask_others(struct client_auth *auth)
{
	if (auth->ldap != NULL)
		return auth_ldap_check(auth->ldap, auth->name, auth->password, auth->log_text,
		                       sizeof(auth->log_text));
	return pam_check(&(struct pam_question){.service = auth->pam_service,
	                                        .directory = auth->pam_directory,
	                                        .user = auth->name,
	                                        .password = auth->password,
	                                        .host = auth->host},
	                 auth->log_text, sizeof(auth->log_text));
}

void client_auth_compute(struct client_auth *auth)
{
	struct scram_secret secret;

	switch (auth->state) {
	case CLIENT_AUTH_DERIVE:
		/* Kept in the user; start_scram() asks again. */
		if (auth_user_scram_secret(auth->user, &secret))
			explicit_bzero(&secret, sizeof(secret));
		break;
	case CLIENT_AUTH_PEER:
		compute_system_user(auth);
		break;
	case CLIENT_AUTH_VERIFY:
		auth->learned = !has_key(auth);
		auth->right = auth_user_verify(auth->user, auth->password, auth->scram_iterations);
		auth->learned = auth->learned && has_key(auth);
		break;
	case CLIENT_AUTH_OTHERS_CHECK:
		auth->right = ask_others(auth);
		break;
	default:
		break;
	}
}

static void forget_password(struct client_auth *auth)
{
	mem_free_secret(auth->password);
	auth->password = NULL;
}

static enum auth_status resume_verify(struct client_auth *auth, struct sbuf *out)
{
	const bool none =
	    auth->user != NULL && auth_user_kind(auth->user) == AUTH_SECRET_NONE;

	forget_password(auth);
	return auth->right ? auth_accept(auth, out)
	                   : auth_refuse(auth, auth_why_refused(
	                                           auth, none ? "the user has no password" : NULL));
}

static enum auth_status resume_peer(struct client_auth *auth, struct sbuf *out)
{
	const char *name = auth->system_user;

	if (name != NULL && ident_allows(auth->ident, auth->map, name, auth->name))
		return auth_accept(auth, out);
	(void)snprintf(auth->error_text, sizeof(auth->error_text),
	               "Peer authentication failed for user \"%.120s\"", auth->name);
	if (name == NULL)
		(void)snprintf(auth->log_text, sizeof(auth->log_text),
		               "there is no user with the id %ld", (long)auth->peer_uid);
	else if (auth->map != NULL)
		(void)snprintf(auth->log_text, sizeof(auth->log_text),
		               "no match in usermap \"%.40s\" for user \"%.60s\" authenticated as "
		               "\"%.60s\"",
		               auth->map, auth->name, name);
	else
		(void)snprintf(
		    auth->log_text, sizeof(auth->log_text),
		    "provided user name (%.60s) and authenticated user name (%.60s) do not "
		    "match",
		    auth->name, name);
	return auth_fail(auth, "28000", auth->error_text, NULL);
}

static enum auth_status resume_others(struct client_auth *auth, struct sbuf *out)
{
	if (auth->right)
		return auth_accept(auth, out);
	forget_password(auth);
	auth->refusal =
	    auth->ldap == NULL ? "PAM authentication failed" : "LDAP authentication failed";
	(void)snprintf(auth->error_text, sizeof(auth->error_text), "%s for user \"%.120s\"",
	               auth->refusal, auth->name);
	return auth_fail(auth, "28000", auth->error_text, NULL);
}

enum auth_status client_auth_resume(struct client_auth *auth, struct sbuf *out)
{
	switch (auth->state) {
	case CLIENT_AUTH_DERIVE:
		return start_scram(auth, out);
	case CLIENT_AUTH_PEER:
		return resume_peer(auth, out);
	case CLIENT_AUTH_VERIFY:
		return resume_verify(auth, out);
	case CLIENT_AUTH_OTHERS_CHECK:
		return resume_others(auth, out);
	default:
		return auth_internal(auth);
	}
}

/* ---- clear text ---- */

/* For client_auth_again(). */
static bool keep_proof(struct client_auth *auth, const char *proof)
{
	mem_free_secret(auth->proof);
	auth->proof_state = auth->state;
	auth->proof = strdup(proof);
	return auth->proof != NULL;
}

/* The password has to be compared on another thread. */
static enum auth_status compare_later(struct client_auth *auth, const char *password,
                                      enum client_auth_state state)
{
	auth->password = strdup(password);
	if (auth->password == NULL)
		return auth_internal(auth);
	auth->state = state;
	return AUTH_COMPUTE;
}

static enum auth_status check_plain(struct client_auth *auth, const char *password,
                                    struct sbuf *out)
{
	auth->learned = !has_key(auth);
	if (auth->user != NULL && auth_user_check(auth->user, password) == AUTH_CHECK_RIGHT) {
		auth->learned = auth->learned && has_key(auth);
		return auth_accept(auth, out);
	}
	/* As for a SCRAM secret, for every other kind and an unknown user as well: the time must not tell. */
	return compare_later(auth, password, CLIENT_AUTH_VERIFY);
}

static enum auth_status feed_plain(struct client_auth *auth, const void *body, size_t len,
                                   struct sbuf *out)
{
	const char *password;

	if (!wire_parse_password(body, len, &password))
		return auth_malformed(auth, "invalid password packet size", NULL);
	if (*password == '\0') {
		(void)snprintf(auth->log_text, sizeof(auth->log_text), "empty password");
		return auth_fail(auth, "28P01", "empty password returned by client", NULL);
	}
	if (auth->state == CLIENT_AUTH_OTHERS)
		return compare_later(auth, password, CLIENT_AUTH_OTHERS_CHECK);
	return keep_proof(auth, password) ? check_plain(auth, password, out) : auth_internal(auth);
}

/* ---- md5 ---- */

/* The secret in md5 form; of an unknown user one that no password fits. */
static bool md5_expected(const struct client_auth *auth, char out[MD5_SECRET_LEN + 1])
{
	enum auth_secret_kind kind =
	    auth->user == NULL ? AUTH_SECRET_NONE : auth_user_kind(auth->user);
	char random[33] = "";

	if (kind == AUTH_SECRET_PLAIN)
		return md5_secret(auth->name, auth_user_secret(auth->user), out);
	if (kind == AUTH_SECRET_MD5) {
		memcpy(out, auth_user_secret(auth->user), MD5_SECRET_LEN + 1);
		return true;
	}
	return crypto_random(random, sizeof(random) - 1) && md5_secret(auth->name, random, out);
}

static enum auth_status check_md5(struct client_auth *auth, const char *response, struct sbuf *out)
{
	char expected[MD5_SECRET_LEN + 1];
	bool no_secret = auth->user != NULL && auth_user_kind(auth->user) == AUTH_SECRET_NONE;
	bool good;

	if (!md5_expected(auth, expected))
		return auth_internal(auth);
	good = md5_verify(expected, auth->md5_salt, response);
	explicit_bzero(expected, sizeof(expected));
	if (!good || auth->user == NULL || no_secret)
		return auth_refuse(
		    auth, auth_why_refused(auth, no_secret ? "the user has no password" : NULL));
	return auth_accept(auth, out);
}

static enum auth_status feed_md5(struct client_auth *auth, const void *body, size_t len,
                                 struct sbuf *out)
{
	const char *response;

	if (!wire_parse_password(body, len, &response))
		return auth_malformed(auth, "invalid password packet size", NULL);
	if (*response == '\0') {
		(void)snprintf(auth->log_text, sizeof(auth->log_text), "empty password");
		return auth_fail(auth, "28P01", "empty password returned by client", NULL);
	}
	return keep_proof(auth, response) ? check_md5(auth, response, out) : auth_internal(auth);
}

/* ---- SCRAM ---- */

static enum auth_status scram_failed(struct client_auth *auth, enum scram_status status)
{
	switch (status) {
	case SCRAM_BAD_PROOF:
		auth->refusal = "SASL authentication failed";
		return auth_refuse(auth, auth_why_refused(auth, !auth->scram.doomed
		                                                    ? NULL
		                                                    : "no SCRAM secret of the user "
		                                                      "is known"));
	case SCRAM_MALFORMED:
		return auth_malformed(auth, "malformed SCRAM message", auth->scram.error);
	default:
		return auth_internal(auth);
	}
}

static enum auth_status feed_client_first(struct client_auth *auth, const void *data, size_t len,
                                          struct sbuf *out)
{
	struct sbuf message;
	enum scram_status status;

	sbuf_init(&message, SCRAM_MESSAGE_MAX);
	status = scram_server_first(&auth->scram, auth->mechanism, data, len, &message);
	if (status == SCRAM_OK && !sbuf_ok(&message))
		status = SCRAM_INTERNAL;
	if (status == SCRAM_OK)
		wire_add_auth_sasl_continue(out, message.data, message.len);
	sbuf_free(&message);
	if (status == SCRAM_OK && !sbuf_ok(out))
		status = SCRAM_INTERNAL;
	if (status != SCRAM_OK)
		return scram_failed(auth, status);
	auth->state = CLIENT_AUTH_SASL_FINAL;
	return AUTH_CONTINUE;
}

static enum auth_status feed_sasl_choice(struct client_auth *auth, const void *body, size_t len,
                                         struct sbuf *out)
{
	const char *mechanism;
	const uint8_t *data;
	size_t data_len;

	if (!wire_parse_sasl_initial(body, len, &mechanism, &data, &data_len))
		return auth_malformed(auth, "malformed SASLInitialResponse message", NULL);
	(void)snprintf(auth->mechanism, sizeof(auth->mechanism), "%s", mechanism);
	if (data != NULL)
		return feed_client_first(auth, data, data_len, out);
	/* Without an initial response the client wants an empty challenge first (RFC 4422). */
	wire_add_auth_sasl_continue(out, "", 0);
	auth->state = CLIENT_AUTH_SASL_FIRST;
	return sbuf_ok(out) ? AUTH_CONTINUE : auth_internal(auth);
}

static enum auth_status feed_client_final(struct client_auth *auth, const void *data, size_t len,
                                          struct sbuf *out)
{
	struct sbuf message;
	enum scram_status status;

	sbuf_init(&message, SCRAM_MESSAGE_MAX);
	status = scram_server_final(&auth->scram, data, len, &message);
	if (status == SCRAM_OK && !sbuf_ok(&message))
		status = SCRAM_INTERNAL;
	if (status == SCRAM_OK)
		wire_add_auth_sasl_final(out, message.data, message.len);
	sbuf_free(&message);
	if (status != SCRAM_OK)
		return scram_failed(auth, status);
	auth->learned = !has_key(auth);
	auth_user_learn(auth->user, auth->scram.client_key);
	auth->learned = auth->learned && has_key(auth);
	return auth_accept(auth, out);
}

size_t client_auth_longest(const struct client_auth *auth)
{
	return auth->state == CLIENT_AUTH_PLAIN || auth->state == CLIENT_AUTH_OTHERS
	           ? PASSWORD_MESSAGE_MAX
	           : ANSWER_MESSAGE_MAX;
}

enum auth_status client_auth_feed(struct client_auth *auth, const void *body, size_t len,
                                  struct sbuf *out)
{
	switch (auth->state) {
	case CLIENT_AUTH_PLAIN:
	case CLIENT_AUTH_OTHERS:
		return feed_plain(auth, body, len, out);
	case CLIENT_AUTH_MD5:
		return feed_md5(auth, body, len, out);
	case CLIENT_AUTH_SASL_CHOICE:
		return feed_sasl_choice(auth, body, len, out);
	case CLIENT_AUTH_SASL_FIRST:
		return feed_client_first(auth, body, len, out);
	case CLIENT_AUTH_SASL_FINAL:
		return feed_client_final(auth, body, len, out);
	default:
		break;
	}
	return auth_malformed(auth, "unexpected password message", NULL);
}

/* ---- another secret ---- */

bool client_auth_is_wrong(const struct client_auth *auth)
{
	return auth != NULL && auth->wrong;
}

enum auth_status client_auth_again(struct client_auth *auth, struct auth_user *user,
                                   struct sbuf *out)
{
	if (auth->proof == NULL)
		return AUTH_FAILED;
	auth_user_unref(auth->user);
	auth->user = auth_user_ref(user);
	auth->wrong = false;
	auth->error = (struct wire_error){0};
	auth->state = auth->proof_state;
	return auth->state == CLIENT_AUTH_MD5 ? check_md5(auth, auth->proof, out)
	                                      : check_plain(auth, auth->proof, out);
}

/* ---- end ---- */

const struct wire_error *client_auth_error(const struct client_auth *auth)
{
	static const struct wire_error no_memory = {
	    .severity = "FATAL", .sqlstate = "53200", .message = "out of memory"};

	return auth == NULL || auth->error.message == NULL ? &no_memory : &auth->error;
}

const char *client_auth_password(const struct client_auth *auth)
{
	return auth->password;
}

struct auth_user *client_auth_user(const struct client_auth *auth)
{
	return auth->user;
}

bool client_auth_learned(const struct client_auth *auth)
{
	return auth->learned;
}

const char *client_auth_refusal(const struct client_auth *auth)
{
	return auth == NULL ? NULL : auth->refusal;
}

const char *client_auth_log_text(const struct client_auth *auth)
{
	return auth == NULL ? "out of memory" : auth->log_text;
}

void client_auth_free(struct client_auth *auth)
{
	if (auth == NULL)
		return;
	if (auth->scram_used)
		scram_server_end(&auth->scram);
	auth_user_unref(auth->user);
	ident_unref(auth->ident);
	forget_password(auth);
	mem_free_secret(auth->proof);
	free(auth->system_user);
	free(auth->pam_service);
	free(auth->pam_directory);
	auth_ldap_unref(auth->ldap);
	free(auth->host);
	free(auth->map);
	free(auth->name);
	explicit_bzero(auth, sizeof(*auth));
	free(auth);
}
