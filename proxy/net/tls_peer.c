/* SPDX-License-Identifier: PostgreSQL */
/*
 * Who the peer is: names in its certificate, and the digest that binds a login to a certificate.
 */
#include "net/tls_internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

size_t tls_certificate_digest(const X509 *cert, uint8_t out[TLS_DIGEST_MAX])
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	const EVP_MD *md;
	int nid;

	if (cert == NULL ||
	    X509_get_signature_info((X509 *)(uintptr_t)cert, &nid, NULL, NULL, NULL) != 1) {
		ERR_clear_error();
		return 0;
	}
	/* RFC 5929, 4.1: that of the signature, but SHA-256 for those that are too weak. */
	md = nid == NID_md5 || nid == NID_sha1 ? EVP_sha256() : EVP_get_digestbynid(nid);
	if (md == NULL || X509_digest(cert, md, digest, &len) != 1 || len > TLS_DIGEST_MAX) {
		ERR_clear_error();
		return 0;
	}
	memcpy(out, digest, len);
	return len;
}

size_t tls_binding(const struct tls *tls, uint8_t out[TLS_DIGEST_MAX])
{
	if (tls->context->accepts) {
		memcpy(out, tls->context->binding, tls->context->binding_len);
		return tls->context->binding_len;
	}
	return tls_certificate_digest(SSL_get0_peer_certificate(tls->ssl), out);
}

/* ---- the server's name ---- */

static bool has_alternative_names(const X509 *cert)
{
	return X509_get_ext_by_NID(cert, NID_subject_alt_name, -1) >= 0;
}

static bool common_name(const X509 *cert, char *out, size_t size)
{
	const X509_NAME *name = X509_get_subject_name(cert);
	int at = name == NULL ? -1 : X509_NAME_get_index_by_NID(name, NID_commonName, -1);
	const X509_NAME_ENTRY *entry = at < 0 ? NULL : X509_NAME_get_entry(name, at);
	unsigned char *text = NULL;
	int len = entry == NULL ? -1 : ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(entry));
	bool good = len > 0 && (size_t)len < size && memchr(text, '\0', (size_t)len) == NULL;

	if (good) {
		memcpy(out, text, (size_t)len);
		out[len] = '\0';
	}
	OPENSSL_free(text);
	ERR_clear_error();
	return good;
}

static bool is_address(const char *host)
{
	unsigned char buffer[16];

	return inet_pton(AF_INET, host, buffer) == 1 || inet_pton(AF_INET6, host, buffer) == 1;
}

bool tls_check_host(struct tls *tls)
{
	X509 *cert = SSL_get0_peer_certificate(tls->ssl);
	char name[256];
	bool good;

	if (cert == NULL) {
		tls_set_error(tls, "the server showed no certificate");
		return false;
	}
	if (is_address(tls->host)) {
		/* As libpq: an address may stand in the common name of a certificate that has no
		 * other names. */
		good = X509_check_ip_asc(cert, tls->host, 0) == 1 ||
		       (!has_alternative_names(cert) && common_name(cert, name, sizeof(name)) &&
		        strcmp(name, tls->host) == 0);
	} else {
		good = X509_check_host(cert, tls->host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS,
		                       NULL) == 1;
	}
	ERR_clear_error();
	if (good)
		return true;
	if (!common_name(cert, name, sizeof(name)))
		name[0] = '\0';
	tls_set_error(tls, "server certificate for \"%s\" does not match host name \"%s\"", name,
	              tls->host);
	return false;
}

/* ---- the client's name ---- */

static X509 *verified_certificate(const struct tls *tls)
{
	if (tls == NULL || !tls->ready || tls->context->verify == TLS_VERIFY_NONE ||
	    SSL_get_verify_result(tls->ssl) != X509_V_OK)
		return NULL;
	return SSL_get0_peer_certificate(tls->ssl);
}

bool tls_peer_verified(const struct tls *tls)
{
	return verified_certificate(tls) != NULL;
}

bool tls_peer_common_name(const struct tls *tls, char *out, size_t size)
{
	const X509 *cert = verified_certificate(tls);

	return cert != NULL && common_name(cert, out, size);
}

bool tls_peer_distinguished_name(const struct tls *tls, char *out, size_t size)
{
	const X509 *cert = verified_certificate(tls);
	BIO *bio = cert == NULL ? NULL : BIO_new(BIO_s_mem());
	bool good = false;
	char *text;
	long len;

	if (bio != NULL &&
	    X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) >= 0) {
		len = BIO_get_mem_data(bio, &text);
		good = len > 0 && (size_t)len < size && memchr(text, '\0', (size_t)len) == NULL;
		if (good) {
			memcpy(out, text, (size_t)len);
			out[len] = '\0';
		}
	}
	BIO_free(bio);
	ERR_clear_error();
	return good;
}
