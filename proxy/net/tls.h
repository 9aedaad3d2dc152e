/* SPDX-License-Identifier: PostgreSQL */
/*
 * TLS as a transformer of bytes: what was received goes in and plain text comes out, plain text
 * goes in and what is to be sent comes out.  No descriptors, no events, no waiting: a handshake
 * goes on with every tls_decrypt().  Sockets stay with their owners, so one system call brings or
 * takes any number of records, and what the kernel does not take is kept as bytes like any others.
 *
 *   socket -> tls_decrypt() -> plain text            plain text -> tls_encrypt() -> socket
 *                  \-> `out`: handshake, alerts -> socket
 *
 * A context is what connections have in common: certificate, key, authorities, ciphers.  It never
 * changes; a reload makes another.  Any thread may hold and use a context; a connection belongs to
 * one thread at a time and may be handed over.  After tls_decrypt() nothing decrypted stays inside,
 * so readiness of the socket is all there is to wait for.
 *
 * A private key is used on the calling thread: about 1 ms for RSA 2048, 0.1 ms for ECDSA P-256.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Plain text of one record, and what a record adds to it at most. */
#define TLS_RECORD_MAX ((size_t)16 * 1024)
#define TLS_RECORD_EXTRA ((size_t)512)
/* tls_decrypt() may yield so much more than it is given: the record that was begun before. */
#define TLS_ROOM_EXTRA (TLS_RECORD_MAX + TLS_RECORD_EXTRA)
#define TLS_DIGEST_MAX 64

/* Room for tls_describe(). */
#define TLS_TEXT_MAX 96

/* What is asked of the peer's certificate. */
enum tls_verify {
	TLS_VERIFY_NONE,
	TLS_VERIFY_OPTIONAL, /* server's side: one that is shown must be right */
	TLS_VERIFY_CHAIN,    /* there must be one, of one of our authorities */
	TLS_VERIFY_HOST,     /* client's side: … and for the host that was dialled */
};

/* Every string may be "" for none.  Files are PEM. */
struct tls_settings {
	bool accepts; /* the server's side of TLS */
	enum tls_verify verify;
	const char *cert_file; /* may hold the chain */
	const char *key_file;
	const char *ca_file;
	const char *crl_file;
	const char *protocols;    /* "secure", "all" or names: "tlsv1.2, tlsv1.3" */
	const char *ciphers;      /* up to TLS 1.2; "default" and OpenSSL's syntax */
	const char *ciphersuites; /* TLS 1.3 */
	const char *groups;       /* key exchange: "auto", or OpenSSL's names */
};

struct tls_context;

/*
 * Reads the files.  NULL: `error` says what is wrong.  `previous` (may be NULL) is what this one
 * replaces: sessions go on being resumed if nothing changed by which they were authenticated.
 */
struct tls_context *tls_context_new(const struct tls_settings *settings,
                                    struct tls_context *previous, struct sbuf *error) MUST_CHECK;
struct tls_context *tls_context_ref(struct tls_context *context);
void tls_context_unref(struct tls_context *context); /* NULL is allowed */

/* Whether both were made from the same settings and the same contents of files.  NULL is allowed.
 */
bool tls_context_same(const struct tls_context *a, const struct tls_context *b);

/* Whether the list of protocols can be read; for the check of a configuration. */
bool tls_protocols_valid(const char *text);

struct tls;

/* The server's side.  `direct`: there was no SSLRequest, so ALPN must name PostgreSQL.  NULL: no
 * memory. */
struct tls *tls_accept(struct tls_context *context, bool direct) MUST_CHECK;

/* The client's side; tls_begin() makes the first bytes.  `host` is a name or an address. */
struct tls *tls_connect(struct tls_context *context, const char *host, bool direct) MUST_CHECK;

/* NULL is allowed. */
void tls_free(struct tls *tls);

enum tls_status {
	TLS_OK,
	TLS_FAILED, /* tls_error() says why; `out` may hold an alert to be sent */
};

/* Begins the handshake (client's side). */
enum tls_status tls_begin(struct tls *tls, struct sbuf *out) MUST_CHECK;

/*
 * Takes all of the `len` bytes.  Plain text is stored at `to`, which must have room for len +
 * TLS_ROOM_EXTRA bytes; *got is its length, 0 as a rule while the handshake lasts.  What is to be
 * sent is appended to `out`.
 */
enum tls_status tls_decrypt(struct tls *tls, const void *bytes, size_t len, void *to, size_t room,
                            size_t *got, struct sbuf *out) MUST_CHECK;

/* Only after the handshake.  Appends to `out`. */
enum tls_status tls_encrypt(struct tls *tls, const void *data, size_t len,
                            struct sbuf *out) MUST_CHECK;

/* Says to the peer that nothing more will come. */
void tls_goodbye(struct tls *tls, struct sbuf *out);

/* The handshake is done, and the peer is whom it should be. */
bool tls_ready(const struct tls *tls);
/* The peer has said that nothing more will come. */
bool tls_ended(const struct tls *tls);
/* After TLS_FAILED; "" before.  For the log. */
const char *tls_error(const struct tls *tls);

/* "TLSv1.3/TLS_AES_256_GCM_SHA384". */
void tls_describe(const struct tls *tls, char out[TLS_TEXT_MAX]);
/* Of a finished handshake: TLS 1.3, not an older version. */
bool tls_is_1_3(const struct tls *tls);
/* Whether the handshake was a resumed one. */
bool tls_resumed(const struct tls *tls);

/*
 * The data of channel binding tls-server-end-point (RFC 5929): a digest of the server's
 * certificate, ours on the server's side, the peer's on the client's.  Its length, 0 if the
 * certificate's signature defines none (Ed25519).
 */
size_t tls_binding(const struct tls *tls, uint8_t out[TLS_DIGEST_MAX]);

/* The server's side: whether the client has shown a certificate, which then is a right one. */
bool tls_peer_verified(const struct tls *tls);
/* Its common name (the first), or its whole name as RFC 2253 writes it, in UTF-8.  False: there is
 * none, it does not fit, or it holds a zero byte. */
bool tls_peer_common_name(const struct tls *tls, char *out, size_t size) MUST_CHECK;
bool tls_peer_distinguished_name(const struct tls *tls, char *out, size_t size) MUST_CHECK;

#endif
