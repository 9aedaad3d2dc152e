/* SPDX-License-Identifier: PostgreSQL */
/*
 * The console: clients of the virtual databases pgshunt and pgbouncer, served on the main thread.
 * A worker has logged them in and hands over the socket.
 */
#ifndef CONTROL_CONSOLE_H
#define CONTROL_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

struct cancel_key;
struct mail_console;
struct proxy;
struct rowset;

/* A proxy_console_fn: serves the client; takes the letter over. */
void console_adopt(struct proxy *proxy, struct mail_console *mail);

/* A proxy_console_cancel_fn: what the client with this key waits for is ended. */
void console_cancel(uint32_t pid, const struct cancel_key *key);

/* A proxy_console_rows_fn and a proxy_console_kill_fn. */
void console_rows(struct rowset *rows);
bool console_kill(uint64_t id);

/* Closes all; before the proxy is freed. */
void console_close_all(void);

#endif
