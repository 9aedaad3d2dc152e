/* SPDX-License-Identifier: PostgreSQL */
/*
 * The console: clients of the virtual databases pgshunt and pgbouncer, served on the main thread.
 * A worker has logged them in and hands over the socket.
 */
#ifndef CONTROL_CONSOLE_H
#define CONTROL_CONSOLE_H

#include <stdint.h>

struct cancel_key;
struct mail_console;
struct proxy;

/* A proxy_console_fn: serves the client; takes the letter over. */
void console_adopt(struct proxy *proxy, struct mail_console *mail);

/* A proxy_console_cancel_fn: what the client with this key waits for is ended. */
void console_cancel(uint32_t pid, const struct cancel_key *key);

/* Closes all; before the proxy is freed. */
void console_close_all(void);

#endif
