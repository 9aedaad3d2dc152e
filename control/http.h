/* SPDX-License-Identifier: PostgreSQL */
/*
 * HTTP for monitoring: /metrics, /healthz, /readyz.  Main thread.  Read only, without
 * authentication: who reaches the address may ask.
 */
#ifndef CONTROL_HTTP_H
#define CONTROL_HTTP_H

#include "base/compiler.h"

#include <stdbool.h>

struct proxy;

/* Serves on the sockets of proxy->web; false with a log line. */
bool http_start(struct proxy *proxy) MUST_CHECK;

/* Another process serves on them from now on. */
void http_leave(void);

/* At the end, while the event base still lives. */
void http_stop(void);

#endif
