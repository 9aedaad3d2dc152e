/* SPDX-License-Identifier: PostgreSQL */
/*
 * What connections have in common, read from files.
 *
 * Sessions are resumed by tickets, so the server's side keeps nothing for them.  The id of the
 * session context is a digest of all by which a session was authenticated: after a change of the
 * certificate, of the authorities or of the revocation lists no older ticket is good for anything,
 * although the ticket keys stay.
 */
#include "net/tls_internal.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TICKET_KEYS_MAX 256
/* What a PostgreSQL server sends at once (pqcomm.c, PQ_SEND_BUFFER_SIZE).  libpq makes room for so much and
 * reads once (fe-misc.c, pqReadData()): the rest of a longer record stays in its OpenSSL, and a program
 * that waits for the socket itself waits for ever. */
#define RECORD_MAX 8192
#define SESSION_SECONDS 7200
#define FILE_MAX_BYTES ((size_t)8 * 1024 * 1024)

/* ---- digest of settings and files ---- */

static bool digest_text(EVP_MD_CTX *md, const char *text)
{
	return EVP_DigestUpdate(md, text, strlen(text) + 1) == 1;
}

static bool digest_file(EVP_MD_CTX *md, const char *path, struct sbuf *error)
{
	FILE *file;
	char bytes[4096];
	size_t total = 0;
	size_t n;
	bool good = true;

	if (path[0] == '\0')
		return digest_text(md, path);
	file = fopen(path, "rbe");
	if (file == NULL) {
		sbuf_printf(error, "\"%s\" cannot be read: %s", path, strerror(errno));
		return false;
	}
	while (good && total < FILE_MAX_BYTES && (n = fread(bytes, 1, sizeof(bytes), file)) > 0) {
		good = EVP_DigestUpdate(md, bytes, n) == 1;
		total += n;
	}
	explicit_bzero(bytes, sizeof(bytes));
	if (ferror(file) != 0) {
		sbuf_printf(error, "\"%s\" cannot be read: %s", path, strerror(errno));
		good = false;
	}
	(void)fclose(file);
	return good && EVP_DigestUpdate(md, "", 1) == 1;
}

/* Which settings and file contents; `trust` only by what a session was authenticated. */
static bool make_digests(const struct tls_settings *s, uint8_t identity[TLS_IDENTITY_LEN],
                         uint8_t trust[TLS_IDENTITY_LEN], struct sbuf *error)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	EVP_MD_CTX *all = EVP_MD_CTX_new();
	const uint8_t flags[2] = {s->accepts, (uint8_t)s->verify};
	bool good = md != NULL && all != NULL && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
	            EVP_DigestUpdate(md, flags, sizeof(flags)) == 1 &&
	            digest_file(md, s->cert_file, error) && digest_file(md, s->ca_file, error) &&
	            digest_file(md, s->crl_file, error) && EVP_MD_CTX_copy_ex(all, md) == 1 &&
	            digest_file(all, s->key_file, error) && digest_text(all, s->protocols) &&
	            digest_text(all, s->ciphers) && digest_text(all, s->ciphersuites) &&
	            digest_text(all, s->groups) && EVP_DigestFinal_ex(md, trust, NULL) == 1 &&
	            EVP_DigestFinal_ex(all, identity, NULL) == 1;

	if (!good && error->len == 0)
		sbuf_add_str(error, "out of memory");
	EVP_MD_CTX_free(md);
	EVP_MD_CTX_free(all);
	ERR_clear_error();
	return good;
}

/* ---- protocols and ciphers ---- */

#define PROTOCOLS_ALL 15u
#define PROTOCOLS_SECURE 12u /* 1.2 and 1.3 */

static const struct {
	const char *name;
	unsigned bits;
} protocol_names[] = {
    {"tlsv1.0", 1},
    {"tlsv1.1", 2},
    {"tlsv1.2", 4},
    {"tlsv1.3", 8},
    {"tlsv1", PROTOCOLS_ALL},
    {"all", PROTOCOLS_ALL},
    {"legacy", PROTOCOLS_ALL},
    {"secure", PROTOCOLS_SECURE},
    {"default", PROTOCOLS_SECURE},
};

/* Names with commas or colons between; a "!" takes away. */
static bool parse_protocols(const char *text, unsigned *bits)
{
	*bits = 0;
	for (;;) {
		bool minus;
		size_t len;
		unsigned found = 0;

		text += strspn(text, " \t,:");
		if (*text == '\0')
			return *bits != 0;
		minus = *text == '!';
		text += minus ? 1 : 0;
		len = strcspn(text, " \t,:");
		for (size_t i = 0; i < ARRAY_LEN(protocol_names); i++) {
			if (strlen(protocol_names[i].name) == len &&
			    strncasecmp(protocol_names[i].name, text, len) == 0)
				found = protocol_names[i].bits;
		}
		if (found == 0)
			return false;
		*bits = minus ? *bits & ~found : *bits | found;
		text += len;
	}
}

bool tls_protocols_valid(const char *text)
{
	unsigned bits;

	return text[0] == '\0' || parse_protocols(text, &bits);
}

static bool set_protocols(SSL_CTX *ssl, const char *text, struct sbuf *error)
{
	unsigned bits = PROTOCOLS_SECURE;

	if (text[0] != '\0' && !parse_protocols(text, &bits)) {
		sbuf_printf(error,
		            "\"%s\" names no TLS protocols; expected secure, all or a list such as "
		            "\"tlsv1.2, tlsv1.3\"",
		            text);
		return false;
	}
	(void)SSL_CTX_set_options(ssl, SSL_OP_NO_SSLv3 | ((bits & 1) != 0 ? 0 : SSL_OP_NO_TLSv1) |
	                                   ((bits & 2) != 0 ? 0 : SSL_OP_NO_TLSv1_1) |
	                                   ((bits & 4) != 0 ? 0 : SSL_OP_NO_TLSv1_2) |
	                                   ((bits & 8) != 0 ? 0 : SSL_OP_NO_TLSv1_3));
	return true;
}

/* pgbouncer's words for what OpenSSL does by itself. */
static bool is_default(const char *text)
{
	static const char *const words[] = {"", "default", "secure", "fast", "normal", "auto"};

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(text, words[i]) == 0)
			return true;
	}
	return false;
}

static bool complain(struct sbuf *error, const char *what, const char *value)
{
	char reason[160];

	tls_openssl_reason(reason, sizeof(reason));
	sbuf_printf(error, "%s \"%s\": %s", what, value, reason);
	return false;
}

static bool set_ciphers(SSL_CTX *ssl, const struct tls_settings *s, struct sbuf *error)
{
	const char *ciphers = strcmp(s->ciphers, "all") == 0 ? "ALL:@SECLEVEL=0" : s->ciphers;

	if (!is_default(s->ciphers) && SSL_CTX_set_cipher_list(ssl, ciphers) != 1)
		return complain(error, "ciphers", s->ciphers);
	if (!is_default(s->ciphersuites) && SSL_CTX_set_ciphersuites(ssl, s->ciphersuites) != 1)
		return complain(error, "failed to set the TLSv1.3 cipher suites", s->ciphersuites);
	if (!is_default(s->groups) && SSL_CTX_set1_groups_list(ssl, s->groups) != 1)
		return complain(error, "key exchange groups", s->groups);
	(void)SSL_CTX_set_dh_auto(ssl, 1);
	return true;
}

/* ---- files ---- */

/* Nobody is there who could be asked for a passphrase. */
static int no_passphrase(char *buffer, int size, int writing, void *arg)
{
	(void)writing;
	(void)arg;
	if (size > 0)
		buffer[0] = '\0';
	return -1;
}

static bool load_certificate(SSL_CTX *ssl, const struct tls_settings *s, struct sbuf *error)
{
	SSL_CTX_set_default_passwd_cb(ssl, no_passphrase);
	if (s->cert_file[0] == '\0' && s->key_file[0] == '\0')
		return true;
	if (s->cert_file[0] == '\0' || s->key_file[0] == '\0') {
		sbuf_add_str(error, "a certificate and a key belong together; give both files");
		return false;
	}
	if (SSL_CTX_use_certificate_chain_file(ssl, s->cert_file) != 1)
		return complain(error, "certificate file", s->cert_file);
	if (SSL_CTX_use_PrivateKey_file(ssl, s->key_file, SSL_FILETYPE_PEM) != 1)
		return complain(error, "key file", s->key_file);
	if (SSL_CTX_check_private_key(ssl) != 1)
		return complain(error, "key file", s->key_file);
	return true;
}

static bool load_authorities(SSL_CTX *ssl, const struct tls_settings *s, struct sbuf *error)
{
	STACK_OF(X509_NAME) * names;

	if (s->ca_file[0] == '\0')
		return true;
	if (SSL_CTX_load_verify_locations(ssl, s->ca_file, NULL) != 1)
		return complain(error, "CA file", s->ca_file);
	if (!s->accepts)
		return true;
	names = SSL_load_client_CA_file(s->ca_file);
	if (names == NULL)
		return complain(error, "CA file", s->ca_file);
	SSL_CTX_set_client_CA_list(ssl, names);
	return true;
}

static bool load_revocations(SSL_CTX *ssl, const struct tls_settings *s, struct sbuf *error)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ssl);

	if (s->crl_file[0] == '\0')
		return true;
	if (X509_STORE_load_locations(store, s->crl_file, NULL) != 1)
		return complain(error, "CRL file", s->crl_file);
	(void)X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	return true;
}

/* ---- sessions ---- */

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls *tls = SSL_get_app_data(ssl);
	struct tls_context *context = tls->context;
	SSL_SESSION *before;

	(void)pthread_mutex_lock(&context->lock);
	before = context->session;
	context->session = session;
	(void)pthread_mutex_unlock(&context->lock);
	SSL_SESSION_free(before);
	return 1; /* the reference is ours now */
}

static bool set_sessions(SSL_CTX *ssl, const struct tls_settings *s,
                         const uint8_t trust[TLS_IDENTITY_LEN])
{
	(void)SSL_CTX_set_timeout(ssl, SESSION_SECONDS);
	if (!s->accepts) {
		(void)SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_CLIENT |
		                                              SSL_SESS_CACHE_NO_INTERNAL_STORE);
		SSL_CTX_sess_set_new_cb(ssl, keep_session);
		return true;
	}
	(void)SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	return SSL_CTX_set_num_tickets(ssl, 1) == 1 &&
	       SSL_CTX_set_session_id_context(ssl, trust, TLS_IDENTITY_LEN) == 1;
}

static void copy_ticket_keys(struct tls_context *to, struct tls_context *from)
{
	unsigned char keys[TICKET_KEYS_MAX];
	long len = SSL_CTX_get_tlsext_ticket_keys(from->ssl, NULL, 0);

	if (len > 0 && len <= (long)sizeof(keys) &&
	    SSL_CTX_get_tlsext_ticket_keys(from->ssl, keys, len) == 1)
		(void)SSL_CTX_set_tlsext_ticket_keys(to->ssl, keys, len);
	explicit_bzero(keys, sizeof(keys));
	ERR_clear_error();
}

/* ---- ALPN ---- */

/* As PostgreSQL 17: a client may offer none; if it offers some, ours must be among them. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *arg)
{
	unsigned char *chosen = NULL;

	(void)ssl;
	(void)arg;
	if (SSL_select_next_proto(&chosen, out_len, tls_alpn, sizeof(tls_alpn), in, in_len) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* ---- the context ---- */

static int verify_flags(const struct tls_settings *s)
{
	if (s->verify == TLS_VERIFY_NONE)
		return SSL_VERIFY_NONE;
	if (s->verify == TLS_VERIFY_OPTIONAL)
		return SSL_VERIFY_PEER | SSL_VERIFY_CLIENT_ONCE;
	return SSL_VERIFY_PEER | SSL_VERIFY_CLIENT_ONCE | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
}

static bool fill_context(struct tls_context *context, const struct tls_settings *s,
                         const uint8_t trust[TLS_IDENTITY_LEN], struct sbuf *error)
{
	SSL_CTX *ssl = context->ssl;

	/* The buffers of an idle connection are given back; one that was moved between writes is
	 * the normal case here. */
	(void)SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	(void)SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
	                                   SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_verify(ssl, verify_flags(s), NULL);
	if (s->accepts) {
		SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, NULL);
		(void)SSL_CTX_set_max_send_fragment(ssl, RECORD_MAX);
	}
	if (!set_protocols(ssl, s->protocols, error) || !set_ciphers(ssl, s, error) ||
	    !load_certificate(ssl, s, error) || !load_authorities(ssl, s, error) ||
	    !load_revocations(ssl, s, error))
		return false;
	if (!set_sessions(ssl, s, trust)) {
		sbuf_add_str(error, "out of memory");
		return false;
	}
	if (s->accepts)
		context->binding_len =
		    tls_certificate_digest(SSL_CTX_get0_certificate(ssl), context->binding);
	return true;
}

struct tls_context *tls_context_new(const struct tls_settings *settings,
                                    struct tls_context *previous, struct sbuf *error)
{
	struct tls_context *context = calloc(1, sizeof(*context));
	uint8_t trust[TLS_IDENTITY_LEN];

	if (context == NULL || pthread_mutex_init(&context->lock, NULL) != 0) {
		free(context);
		sbuf_add_str(error, "out of memory");
		return NULL;
	}
	atomic_init(&context->refs, 1);
	context->accepts = settings->accepts;
	context->verify = settings->verify;
	if (!make_digests(settings, context->identity, trust, error)) {
		tls_context_unref(context);
		return NULL;
	}
	/* Nothing has changed: the old one with its sessions is as good. */
	if (tls_context_same(previous, context)) {
		tls_context_unref(context);
		return tls_context_ref(previous);
	}
	context->ssl = SSL_CTX_new(settings->accepts ? TLS_server_method() : TLS_client_method());
	if (context->ssl == NULL || !fill_context(context, settings, trust, error)) {
		if (error->len == 0)
			sbuf_add_str(error, "out of memory");
		ERR_clear_error();
		tls_context_unref(context);
		return NULL;
	}
	if (settings->accepts && previous != NULL)
		copy_ticket_keys(context, previous);
	return context;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
	atomic_fetch_add_explicit(&context->refs, 1, memory_order_relaxed);
	return context;
}

void tls_context_unref(struct tls_context *context)
{
	if (context == NULL ||
	    atomic_fetch_sub_explicit(&context->refs, 1, memory_order_acq_rel) != 1)
		return;
	SSL_SESSION_free(context->session);
	SSL_CTX_free(context->ssl);
	(void)pthread_mutex_destroy(&context->lock);
	free(context);
}

bool tls_context_same(const struct tls_context *a, const struct tls_context *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return memcmp(a->identity, b->identity, sizeof(a->identity)) == 0;
}
