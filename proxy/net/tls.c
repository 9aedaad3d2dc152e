/* SPDX-License-Identifier: PostgreSQL */
#include "net/tls_internal.h"

#include <limits.h>
#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const unsigned char tls_alpn[11] = {10, 'p', 'o', 's', 't', 'g', 'r', 'e', 's', 'q', 'l'};

/* ---- the BIO: memory of the caller's ---- */

static int tls_bio_read(BIO *bio, char *to, size_t len, size_t *got)
{
	struct tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (tls->in_left == 0) {
		BIO_set_retry_read(bio);
		return 0;
	}
	if (len > tls->in_left)
		len = tls->in_left;
	memcpy(to, tls->in, len);
	tls->in += len;
	tls->in_left -= len;
	*got = len;
	return 1;
}

static int tls_bio_write(BIO *bio, const char *from, size_t len, size_t *done)
{
	struct tls *tls = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (tls->out == NULL)
		return 0;
	sbuf_add(tls->out, from, len);
	if (!sbuf_ok(tls->out))
		return 0;
	*done = len;
	return 1;
}

static long tls_bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int tls_bio_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void tls_bio_make(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "pgshunt");

	if (method == NULL)
		return;
	(void)BIO_meth_set_read_ex(method, tls_bio_read);
	(void)BIO_meth_set_write_ex(method, tls_bio_write);
	(void)BIO_meth_set_ctrl(method, tls_bio_ctrl);
	(void)BIO_meth_set_create(method, tls_bio_create);
	bio_method = method;
}

const BIO_METHOD *tls_bio_method(void)
{
	(void)pthread_once(&bio_once, tls_bio_make);
	return bio_method;
}

/* ---- errors ---- */

void tls_set_error(struct tls *tls, const char *fmt, ...)
{
	va_list ap;

	tls->failed = true;
	if (tls->error != NULL)
		return;
	va_start(ap, fmt);
	if (vasprintf(&tls->error, fmt, ap) < 0)
		tls->error = NULL;
	va_end(ap);
}

const char *tls_error(const struct tls *tls)
{
	if (!tls->failed)
		return "";
	return tls->error == NULL ? "out of memory" : tls->error;
}

void tls_openssl_reason(char *out, size_t size)
{
	unsigned long code = ERR_get_error();
	const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);

	if (reason != NULL)
		(void)snprintf(out, size, "%s", reason);
	else if (code != 0)
		(void)snprintf(out, size, "OpenSSL error %lx", code);
	else
		(void)snprintf(out, size, "out of memory");
	ERR_clear_error();
}

/* An error that somebody left in the queue would be taken for ours. */
static void tls_enter(struct tls *tls, const void *bytes, size_t len, struct sbuf *out)
{
	tls->in = bytes;
	tls->in_left = len;
	tls->out = out;
	if (UNLIKELY(ERR_peek_error() != 0))
		ERR_clear_error();
}

static enum tls_status tls_leave(struct tls *tls, enum tls_status status)
{
	tls->in = NULL;
	tls->in_left = 0;
	tls->out = NULL;
	return status;
}

static enum tls_status tls_fail(struct tls *tls, const char *what)
{
	const long verdict = SSL_get_verify_result(tls->ssl);
	char reason[160];

	tls_openssl_reason(reason, sizeof(reason));
	if (!tls->ready && verdict != X509_V_OK)
		tls_set_error(tls, "%s: %s: %s", what, reason,
		              X509_verify_cert_error_string(verdict));
	else
		tls_set_error(tls, "%s: %s", what, reason);
	return TLS_FAILED;
}

/* ---- life ---- */

static struct tls *tls_new(struct tls_context *context, bool direct)
{
	struct tls *tls = calloc(1, sizeof(*tls));
	const BIO_METHOD *method = tls_bio_method();
	BIO *bio;

	if (tls == NULL)
		return NULL;
	tls->direct = direct;
	tls->context = tls_context_ref(context);
	tls->ssl = SSL_new(context->ssl);
	bio = method == NULL ? NULL : BIO_new(method);
	if (tls->ssl == NULL || bio == NULL) {
		BIO_free(bio);
		tls_free(tls);
		ERR_clear_error();
		return NULL;
	}
	BIO_set_data(bio, tls);
	SSL_set_bio(tls->ssl, bio, bio);
	(void)SSL_set_app_data(tls->ssl, tls);
	return tls;
}

struct tls *tls_accept(struct tls_context *context, bool direct)
{
	struct tls *tls = tls_new(context, direct);

	if (tls != NULL)
		SSL_set_accept_state(tls->ssl);
	return tls;
}

static bool tls_is_address(const char *host)
{
	return strchr(host, ':') != NULL || strspn(host, "0123456789.") == strlen(host);
}

struct tls *tls_connect(struct tls_context *context, const char *host, bool direct)
{
	struct tls *tls = tls_new(context, direct);
	bool good;

	if (tls == NULL)
		return NULL;
	SSL_set_connect_state(tls->ssl);
	tls->host = strdup(host);
	good = tls->host != NULL && SSL_set_alpn_protos(tls->ssl, tls_alpn, sizeof(tls_alpn)) == 0;
	/* RFC 6066 forbids addresses here. */
	if (good && !tls_is_address(host))
		good = SSL_set_tlsext_host_name(tls->ssl, host) == 1;
	(void)pthread_mutex_lock(&context->lock);
	if (good && context->session != NULL)
		(void)SSL_set_session(tls->ssl, context->session);
	(void)pthread_mutex_unlock(&context->lock);
	ERR_clear_error();
	if (!good) {
		tls_free(tls);
		return NULL;
	}
	return tls;
}

void tls_free(struct tls *tls)
{
	if (tls == NULL)
		return;
	SSL_free(tls->ssl);
	tls_context_unref(tls->context);
	free(tls->host);
	free(tls->error);
	free(tls);
}

/* ---- handshake ---- */

/* What the handshake itself does not check. */
static enum tls_status tls_handshaken(struct tls *tls)
{
	const unsigned char *protocol;
	unsigned len;

	if (tls->direct) {
		SSL_get0_alpn_selected(tls->ssl, &protocol, &len);
		if (len == 0) {
			tls_set_error(tls,
			              tls->context->accepts
			                  ? "received direct SSL connection request without ALPN "
			                    "protocol negotiation extension"
			                  : "direct SSL connection was established without ALPN "
			                    "protocol negotiation extension");
			return TLS_FAILED;
		}
	}
	if (tls->context->verify == TLS_VERIFY_HOST && !tls_check_host(tls))
		return TLS_FAILED;
	free(tls->host);
	tls->host = NULL;
	tls->ready = true;
	return TLS_OK;
}

static enum tls_status tls_shake(struct tls *tls)
{
	int rc = SSL_do_handshake(tls->ssl);

	if (rc == 1)
		return tls_handshaken(tls);
	if (SSL_get_error(tls->ssl, rc) == SSL_ERROR_WANT_READ)
		return TLS_OK;
	return tls_fail(tls, "TLS handshake failed");
}

enum tls_status tls_begin(struct tls *tls, struct sbuf *out)
{
	tls_enter(tls, NULL, 0, out);
	return tls_leave(tls, tls_shake(tls));
}

/* ---- bytes ---- */

static enum tls_status tls_read(struct tls *tls, uint8_t *to, size_t room, size_t *got)
{
	for (;;) {
		size_t n = 0;

		if (UNLIKELY(*got == room)) {
			tls_set_error(tls, "more plain text than there is room for");
			return TLS_FAILED;
		}
		if (LIKELY(SSL_read_ex(tls->ssl, to + *got, room - *got, &n) == 1)) {
			*got += n;
			if (tls->in_left == 0 && SSL_pending(tls->ssl) == 0)
				return TLS_OK;
			continue;
		}
		switch (SSL_get_error(tls->ssl, 0)) {
		case SSL_ERROR_WANT_READ:
			return TLS_OK;
		case SSL_ERROR_ZERO_RETURN:
			tls->ended = true;
			return TLS_OK;
		default:
			return tls_fail(tls, "TLS failed");
		}
	}
}

enum tls_status tls_decrypt(struct tls *tls, const void *bytes, size_t len, void *to, size_t room,
                            size_t *got, struct sbuf *out)
{
	enum tls_status status = TLS_OK;

	*got = 0;
	if (UNLIKELY(tls->failed))
		return TLS_FAILED;
	if (UNLIKELY(tls->ended))
		return TLS_OK; /* what comes behind the end is nobody's */
	tls_enter(tls, bytes, len, out);
	if (UNLIKELY(!tls->ready))
		status = tls_shake(tls);
	if (status == TLS_OK && tls->ready)
		status = tls_read(tls, to, room, got);
	return tls_leave(tls, status);
}

enum tls_status tls_encrypt(struct tls *tls, const void *data, size_t len, struct sbuf *out)
{
	const uint8_t *from = data;
	enum tls_status status = TLS_OK;

	if (UNLIKELY(tls->failed || !tls->ready))
		return TLS_FAILED;
	tls_enter(tls, NULL, 0, out);
	while (len > 0 && status == TLS_OK) {
		size_t n = 0;

		if (LIKELY(SSL_write_ex(tls->ssl, from, len, &n) == 1)) {
			from += n;
			len -= n;
		} else {
			status = tls_fail(tls, "TLS failed");
		}
	}
	return tls_leave(tls, status);
}

void tls_goodbye(struct tls *tls, struct sbuf *out)
{
	if (!tls->ready || tls->failed)
		return;
	tls_enter(tls, NULL, 0, out);
	(void)SSL_shutdown(tls->ssl);
	ERR_clear_error();
	(void)tls_leave(tls, TLS_OK);
}

/* ---- what is known of it ---- */

bool tls_ready(const struct tls *tls)
{
	return tls->ready;
}

bool tls_ended(const struct tls *tls)
{
	return tls->ended;
}

void tls_describe(const struct tls *tls, char out[TLS_TEXT_MAX])
{
	(void)snprintf(out, TLS_TEXT_MAX, "%s/%s", SSL_get_version(tls->ssl),
	               SSL_get_cipher_name(tls->ssl));
}

bool tls_is_1_3(const struct tls *tls)
{
	return SSL_version(tls->ssl) == TLS1_3_VERSION;
}

bool tls_resumed(const struct tls *tls)
{
	return SSL_session_reused(tls->ssl) == 1;
}
