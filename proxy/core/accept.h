/* SPDX-License-Identifier: PostgreSQL */
/*
 * Accepting connections: in the first worker, which keeps them while it has time (worker_fill) and
 * else mails them to another.  Worker thread.
 */
#ifndef CORE_ACCEPT_H
#define CORE_ACCEPT_H

#include "net/sock.h"

#include <stdbool.h>

struct config_proxy;
struct worker;

/* Options of connections of clients and servers. */
struct sock_keepalive accept_keepalive(const struct config_proxy *conf);

/* Accepts on a listening socket, which belongs to the worker from now on. */
void accept_listen(struct worker *worker, int fd);

/* Calls for each listening socket of the worker. */
void accept_each(const struct worker *worker, void (*each)(void *arg, int fd), void *arg);

/* The configuration has changed. */
void accept_tune(struct worker *worker);

/* Closes all listening sockets of the worker, or all but Unix sockets. */
void accept_stop(struct worker *worker, bool keep_unix);

#endif
