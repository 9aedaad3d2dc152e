/* SPDX-License-Identifier: PostgreSQL */
/*
 * TLS of one configuration: the contexts of clients and of every server, read from their files at
 * start and at RELOAD.  It goes with the route table and, but for what is atomic, never changes.
 * Any thread that holds a reference may use it.
 */
#ifndef CORE_SECURE_H
#define CORE_SECURE_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/config.h"
#include "net/tls.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Of config->servers, by its index. */
struct secure_server {
	struct tls_context *context; /* NULL: sslmode is disable */
	enum config_sslmode sslmode;
	enum config_channel_binding channel_binding;
	bool direct;
	enum config_protocol protocol; /* the newest to ask for */
	atomic_bool old_protocol;      /* it has refused anything newer than 3.0 */
};

struct secure {
	atomic_uint refs;
	struct tls_context *clients; /* NULL: no TLS for clients */
	enum config_sslmode client_sslmode;
	size_t server_count;
	struct secure_server servers[];
};

/* One reference.  NULL: `errors` has a line for everything that is wrong.  `previous`, of the
 * configuration before, may be NULL. */
struct secure *secure_load(const struct config *config, const struct secure *previous,
                           struct sbuf *errors) MUST_CHECK;
struct secure *secure_ref(struct secure *secure); /* NULL is allowed */
void secure_unref(struct secure *secure);         /* NULL is allowed */

/* Whether connections that were opened by one are good under the other. */
bool secure_same_server(const struct secure_server *a, const struct secure_server *b);

#endif
