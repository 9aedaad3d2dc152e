/* SPDX-License-Identifier: PostgreSQL */
/*
 * The least that TLS costs in memory: makes connections by a handshake in memory, keeps their
 * server's sides and prints how many bytes each of them takes.
 *
 *   pgshunt_tls_floor CERTIFICATE KEY COUNT
 */
#include "base/compiler.h"
#include "base/mem.h"
#include "net/tls.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

static NORETURN void give_up(const char *what)
{
	fprintf(stderr, "pgshunt_tls_floor: %s\n", what);
	exit(1);
}

static struct tls_context *make_context(bool accepts, const char *cert, const char *key)
{
	const struct tls_settings settings = {.accepts = accepts,
	                                      .cert_file = cert,
	                                      .key_file = key,
	                                      .ca_file = "",
	                                      .crl_file = "",
	                                      .protocols = "",
	                                      .ciphers = "",
	                                      .ciphersuites = "",
	                                      .groups = ""};
	struct tls_context *context;
	struct sbuf error;

	sbuf_init(&error, 1024);
	context = tls_context_new(&settings, NULL, &error);
	if (context == NULL)
		give_up(sbuf_text(&error));
	sbuf_free(&error);
	return context;
}

/* One side takes what the other has sent. */
static void pass(struct tls *to, struct sbuf *bytes, struct sbuf *answer)
{
	static uint8_t plain[64 * 1024];
	size_t got;

	if (tls_decrypt(to, bytes->data, bytes->len, plain, sizeof(plain), &got, answer) != TLS_OK)
		give_up(tls_error(to));
	sbuf_reset(bytes);
}

static struct tls *shake(struct tls_context *accepting, struct tls_context *connecting)
{
	struct tls *server = tls_accept(accepting, false);
	struct tls *client = tls_connect(connecting, "localhost", false);
	struct sbuf to_server;
	struct sbuf to_client;

	sbuf_init(&to_server, 64 * 1024);
	sbuf_init(&to_client, 64 * 1024);
	if (server == NULL || client == NULL || tls_begin(client, &to_server) != TLS_OK)
		give_up("out of memory");
	while (to_server.len > 0) {
		pass(server, &to_server, &to_client);
		if (to_client.len > 0)
			pass(client, &to_client, &to_server);
	}
	if (!tls_ready(server) || !tls_ready(client))
		give_up("the handshake did not end");
	tls_free(client);
	sbuf_free(&to_server);
	sbuf_free(&to_client);
	return server;
}

int main(int argc, char **argv)
{
	int count = argc == 4 ? atoi(argv[3]) : 0;
	struct tls_context *accepting;
	struct tls_context *connecting;
	struct tls **all;
	size_t before;

	if (count < 1)
		give_up("usage: pgshunt_tls_floor CERTIFICATE KEY COUNT");
	accepting = make_context(true, argv[1], argv[2]);
	connecting = make_context(false, "", "");
	all = mem_must_alloc((size_t)count * sizeof(struct tls *));
	tls_free(shake(accepting, connecting));
	before = mallinfo2().uordblks;
	for (int i = 0; i < count; i++)
		all[i] = shake(accepting, connecting);
	printf("%.0f\n", (double)(mallinfo2().uordblks - before) / count);
	for (int i = 0; i < count; i++)
		tls_free(all[i]);
	tls_context_unref(accepting);
	tls_context_unref(connecting);
	free(all);
	return 0;
}
