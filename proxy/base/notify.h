/* SPDX-License-Identifier: PostgreSQL */
/*
 * What the service manager is told: the protocol of sd_notify(3), a datagram to the socket that
 * NOTIFY_SOCKET names.  Without it every call does nothing.  Main thread.
 */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include "base/clock.h"
#include "base/compiler.h"

#include <stdbool.h>

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them from the environment: they
 * are not for whoever is started from here. */
void notify_open(void);

bool notify_wanted(void);

/* How often WATCHDOG=1 is expected at least; 0: not at all. */
usec_t notify_watchdog(void);

/* Another process speaks for the service from now on. */
void notify_close(void);

/* Lines "NAME=value".  Never blocks; what cannot be delivered is lost. */
void notify_send(const char *fmt, ...) PRINTF_LIKE(1, 2);

#endif
