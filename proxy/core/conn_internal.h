/* SPDX-License-Identifier: PostgreSQL */
/*
 * What core/conn.c and core/conn_tls.c share.
 */
#ifndef CORE_CONN_INTERNAL_H
#define CORE_CONN_INTERNAL_H

#include "core/conn.h"

/* Room for `len` more bytes behind what conn->in holds. */
bool conn_reserve_in(struct conn *conn, size_t len) MUST_CHECK;

/* Keeps bytes in conn->out that the kernel did not take. */
enum conn_io conn_keep_bytes(struct conn *conn, const void *data, size_t len) MUST_CHECK;

#endif
