/* SPDX-License-Identifier: PostgreSQL */
/*
 * Accepting connections: in the first worker, which keeps them while it has time (worker_fill) and
 * else mails them to another.  Worker thread.
 */
#ifndef CORE_ACCEPT_H
#define CORE_ACCEPT_H

#include <stdbool.h>

struct worker;

/* Accepts on a listening socket, which belongs to the worker from now on. */
void accept_listen(struct worker *worker, int fd);

/* Closes all listening sockets of the worker, or all but Unix sockets. */
void accept_stop(struct worker *worker, bool keep_unix);

#endif
