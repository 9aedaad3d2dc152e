/* SPDX-License-Identifier: PostgreSQL */
#include "core/secure.h"

#include "base/endpoint.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void secure_add_error(struct sbuf *errors, const char *where, const char *text)
{
	sbuf_printf(errors, "%s%s: %s", errors->len > 0 ? "\n" : "", where, text);
}

/* ---- clients ---- */

static bool secure_load_clients(struct secure *secure, const struct config *config,
                                const struct secure *previous, struct sbuf *errors)
{
	const struct config_proxy *proxy = &config->proxy;
	struct tls_settings settings = {
	    .accepts = true,
	    .cert_file = proxy->client_tls_cert_file,
	    .key_file = proxy->client_tls_key_file,
	    .ca_file = proxy->client_tls_ca_file,
	    .crl_file = proxy->client_tls_crl_file,
	    .protocols = proxy->client_tls_protocols,
	    .ciphers = proxy->client_tls_ciphers,
	    .ciphersuites = proxy->client_tls13_ciphers,
	    .groups = proxy->client_tls_ecdhcurve,
	};
	struct sbuf why;

	secure->client_sslmode = proxy->client_tls_sslmode;
	if (secure->client_sslmode == CONFIG_SSL_DISABLE)
		return true;
	sbuf_init(&why, 1024);
	if (settings.cert_file[0] == '\0' || settings.key_file[0] == '\0')
		sbuf_printf(&why,
		            "%s needs a certificate: give client_tls_cert_file and "
		            "client_tls_key_file",
		            config_sslmode_name(secure->client_sslmode));
	else if (secure->client_sslmode >= CONFIG_SSL_VERIFY_CA && settings.ca_file[0] == '\0')
		sbuf_printf(&why, "%s needs client_tls_ca_file",
		            config_sslmode_name(secure->client_sslmode));
	if (settings.ca_file[0] == '\0')
		settings.verify = TLS_VERIFY_NONE;
	else if (secure->client_sslmode < CONFIG_SSL_VERIFY_CA)
		settings.verify = TLS_VERIFY_OPTIONAL;
	else
		settings.verify = TLS_VERIFY_CHAIN;
	if (why.len == 0)
		secure->clients =
		    tls_context_new(&settings, previous == NULL ? NULL : previous->clients, &why);
	if (secure->clients == NULL)
		secure_add_error(errors, "proxy.client_tls_sslmode", sbuf_text(&why));
	sbuf_free(&why);
	return secure->clients != NULL;
}

/* ---- servers ---- */

static struct tls_context *secure_make_server(const struct config_tls *tls,
                                              struct tls_context *previous, struct sbuf *why)
{
	const struct tls_settings settings = {
	    .accepts = false,
	    .verify = tls->sslmode == CONFIG_SSL_VERIFY_FULL ? TLS_VERIFY_HOST
	              : tls->sslmode == CONFIG_SSL_VERIFY_CA ? TLS_VERIFY_CHAIN
	                                                     : TLS_VERIFY_NONE,
	    .cert_file = tls->cert_file,
	    .key_file = tls->key_file,
	    /* Those who are not asked need not be there. */
	    .ca_file = tls->sslmode < CONFIG_SSL_VERIFY_CA ? "" : tls->ca_file,
	    .crl_file = tls->sslmode < CONFIG_SSL_VERIFY_CA ? "" : tls->crl_file,
	    .protocols = tls->protocols,
	    .ciphers = tls->ciphers,
	    .ciphersuites = tls->tls13_ciphers,
	    .groups = "auto",
	};

	if (tls->sslmode >= CONFIG_SSL_VERIFY_CA && tls->ca_file[0] == '\0') {
		sbuf_printf(why, "%s needs the authorities: give server_tls_ca_file or sslrootcert",
		            config_sslmode_name(tls->sslmode));
		return NULL;
	}
	if (tls->sslnegotiation == CONFIG_SSL_DIRECT && tls->sslmode < CONFIG_SSL_REQUIRE) {
		sbuf_printf(why, "direct TLS needs sslmode require or stricter, not %s",
		            config_sslmode_name(tls->sslmode));
		return NULL;
	}
	return tls_context_new(&settings, previous, why);
}

static const struct secure_server *secure_find(const struct config *config,
                                               const struct secure *previous, size_t index)
{
	/* The order of the file may have changed: then only sessions to be resumed are lost. */
	(void)config;
	return previous == NULL || index >= previous->server_count ? NULL
	                                                           : &previous->servers[index];
}

static bool secure_load_server(struct secure *secure, const struct config *config, size_t index,
                               const struct secure *previous, struct sbuf *errors)
{
	const struct config_server *server = &config->servers[index];
	const struct secure_server *before = secure_find(config, previous, index);
	struct secure_server *to = &secure->servers[index];
	const struct config_tls *tls = &server->tls;
	struct sbuf why;
	char where[96];

	to->sslmode = tls->sslmode;
	to->channel_binding = tls->channel_binding;
	to->direct = tls->sslnegotiation == CONFIG_SSL_DIRECT;
	to->protocol = server->max_protocol_version;
	/* On a Unix socket there is nobody between, and PostgreSQL has no TLS there. */
	if (tls->sslmode == CONFIG_SSL_DISABLE ||
	    (endpoint_is_unix(server->host) && strchr(server->host, ',') == NULL))
		return true;
	sbuf_init(&why, 1024);
	to->context = secure_make_server(tls, before == NULL ? NULL : before->context, &why);
	if (to->context == NULL) {
		(void)snprintf(where, sizeof(where), "servers.%.63s.sslmode", server->name);
		secure_add_error(errors, where, sbuf_text(&why));
	}
	sbuf_free(&why);
	return to->context != NULL;
}

struct secure *secure_load(const struct config *config, const struct secure *previous,
                           struct sbuf *errors)
{
	struct secure *secure =
	    calloc(1, sizeof(*secure) + config->server_count * sizeof(secure->servers[0]));
	bool good;

	if (secure == NULL) {
		sbuf_add_str(errors, "out of memory");
		return NULL;
	}
	atomic_init(&secure->refs, 1);
	secure->server_count = config->server_count;
	good = secure_load_clients(secure, config, previous, errors);
	for (size_t i = 0; i < config->server_count; i++)
		good = secure_load_server(secure, config, i, previous, errors) && good;
	if (good)
		return secure;
	secure_unref(secure);
	return NULL;
}

/* ---- life ---- */

struct secure *secure_ref(struct secure *secure)
{
	if (secure != NULL)
		atomic_fetch_add_explicit(&secure->refs, 1, memory_order_relaxed);
	return secure;
}

void secure_unref(struct secure *secure)
{
	if (secure == NULL ||
	    atomic_fetch_sub_explicit(&secure->refs, 1, memory_order_acq_rel) != 1)
		return;
	tls_context_unref(secure->clients);
	for (size_t i = 0; i < secure->server_count; i++)
		tls_context_unref(secure->servers[i].context);
	free(secure);
}

bool secure_same_server(const struct secure_server *a, const struct secure_server *b)
{
	return a->sslmode == b->sslmode && a->channel_binding == b->channel_binding &&
	       a->direct == b->direct && tls_context_same(a->context, b->context);
}
