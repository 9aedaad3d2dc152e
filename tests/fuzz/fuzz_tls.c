/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a client may send before and in its login, to the server's side of TLS: the first packets,
 * as core/client_login.c looks at them, then a handshake of any bytes.  The first byte of the input
 * says how it is cut into pieces, and whether a true client shakes hands first and only then sends
 * the rest as its records.
 */
#include "base/sbuf.h"
#include "net/tls.h"
#include "wire/startup.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct tls_context *accepting;
static struct tls_context *connecting;

static void require(bool holds)
{
	if (!holds)
		abort();
}

/* A certificate of its own, in a file that is gone as soon as it was read. */
static void make_certificate(char path[64])
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	FILE *file;

	(void)snprintf(path, 64, "/tmp/pgshunt-fuzz-tls.%ld", (long)getpid());
	file = fopen(path, "we");
	require(key != NULL && cert != NULL && file != NULL);
	(void)ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	(void)X509_gmtime_adj(X509_getm_notBefore(cert), 0);
	(void)X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
	require(X509_set_pubkey(cert, key) == 1 && X509_sign(cert, key, EVP_sha256()) > 0);
	require(PEM_write_X509(file, cert) == 1);
	require(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1);
	(void)fclose(file);
	X509_free(cert);
	EVP_PKEY_free(key);
}

static struct tls_context *make_context(bool accepts, const char *path)
{
	const struct tls_settings settings = {
	    .accepts = accepts,
	    .verify = accepts ? TLS_VERIFY_OPTIONAL : TLS_VERIFY_NONE,
	    .cert_file = accepts ? path : "",
	    .key_file = accepts ? path : "",
	    .ca_file = accepts ? path : "",
	    .crl_file = "",
	    .protocols = "all",
	    .ciphers = "",
	    .ciphersuites = "",
	    .groups = "",
	};
	struct tls_context *context;
	struct sbuf error;

	sbuf_init(&error, 1024);
	context = tls_context_new(&settings, NULL, &error);
	require(context != NULL);
	sbuf_free(&error);
	return context;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[64];

	(void)argc;
	(void)argv;
	make_certificate(path);
	accepting = make_context(true, path);
	connecting = make_context(false, path);
	(void)unlink(path);
	return 0;
}

/* Gives the bytes in pieces; false when TLS has failed, which it may. */
static bool give(struct tls *tls, const uint8_t *data, size_t size, size_t piece, struct sbuf *out)
{
	static uint8_t plain[64 * 1024 + TLS_ROOM_EXTRA];

	while (size > 0) {
		size_t n = size < piece ? size : piece;
		size_t got = 0;
		enum tls_status status =
		    tls_decrypt(tls, data, n, plain, n + TLS_ROOM_EXTRA, &got, out);

		require(got <= n + TLS_ROOM_EXTRA && (got == 0 || tls_ready(tls)));
		require((status == TLS_FAILED) == (tls_error(tls)[0] != '\0'));
		if (status == TLS_FAILED)
			return false;
		data += n;
		size -= n;
	}
	return true;
}

/* A client that does everything right, up to the end of the handshake. */
static void shake(struct tls *server, struct sbuf *to_client)
{
	struct tls *client = tls_connect(connecting, "localhost", false);
	struct sbuf to_server;

	sbuf_init(&to_server, 64 * 1024);
	require(client != NULL && tls_begin(client, &to_server) == TLS_OK);
	while (to_server.len > 0) {
		require(give(server, (uint8_t *)to_server.data, to_server.len, 4096, to_client));
		sbuf_reset(&to_server);
		if (to_client->len > 0)
			require(give(client, (uint8_t *)to_client->data, to_client->len, 4096,
			             &to_server));
		sbuf_reset(to_client);
	}
	require(tls_ready(server) && tls_ready(client));
	sbuf_free(&to_server);
	tls_free(client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_startup startup;
	struct tls *tls;
	struct sbuf out;
	size_t piece;
	bool direct = false;
	char name[256];

	if (size < 1 || size > 32 * 1024)
		return 0;
	piece = (size_t)(data[0] & 0x3f) * 64 + 1;
	sbuf_init(&out, 256 * 1024);
	if ((data[0] & 0x40) != 0) {
		tls = tls_accept(accepting, false);
		require(tls != NULL);
		shake(tls, &out);
		data++;
		size--;
	} else {
		data++;
		size--;
		if (wire_startup_parse(data, size, &startup) == WIRE_STARTUP_SSL) {
			data += startup.size;
			size -= startup.size;
		}
		direct = startup.kind == WIRE_STARTUP_DIRECT_TLS;
		tls = tls_accept(accepting, direct);
		require(tls != NULL);
	}
	(void)give(tls, data, size, piece, &out);
	/* Nobody without a certificate has a name. */
	require(!tls_peer_verified(tls) && !tls_peer_common_name(tls, name, sizeof(name)));
	tls_goodbye(tls, &out);
	tls_free(tls);
	sbuf_free(&out);
	return 0;
}
