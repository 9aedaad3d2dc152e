/* SPDX-License-Identifier: PostgreSQL */
/*
 * What net/tls*.c share.
 */
#ifndef NET_TLS_INTERNAL_H
#define NET_TLS_INTERNAL_H

#include "net/tls.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#define TLS_IDENTITY_LEN 32

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ssl;
	bool accepts;
	enum tls_verify verify;
	size_t binding_len;
	uint8_t binding[TLS_DIGEST_MAX];    /* of our certificate */
	uint8_t identity[TLS_IDENTITY_LEN]; /* of settings and files */
	pthread_mutex_t lock;               /* of `session`: taken once a handshake */
	SSL_SESSION *session;               /* client's side: the last one, to be resumed */
};

struct tls {
	SSL *ssl;
	struct tls_context *context;
	/* Only inside a call: where the bytes come from and go to. */
	const uint8_t *in;
	size_t in_left;
	struct sbuf *out;
	char *host;  /* client's side, until the handshake is done */
	char *error; /* malloc'ed */
	bool direct;
	bool ready;
	bool ended;
	bool failed;
};

/* The method of the BIO of every connection, whose data is the struct tls. */
const BIO_METHOD *tls_bio_method(void);

/* "postgresql" as ALPN writes it. */
extern const unsigned char tls_alpn[11];

/* The digest of tls-server-end-point; 0: none. */
size_t tls_certificate_digest(const X509 *cert, uint8_t out[TLS_DIGEST_MAX]);

/* The peer's certificate is for that host; false: `tls->error` is set. */
bool tls_check_host(struct tls *tls);

/* Keeps the text for tls_error(). */
void tls_set_error(struct tls *tls, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The first text of OpenSSL's queue, which is emptied. */
void tls_openssl_reason(char *out, size_t size);

#endif
