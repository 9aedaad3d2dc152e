/* SPDX-License-Identifier: PostgreSQL */
/*
 * What core/conn.c and core/conn_tls.c share.
 */
#ifndef CORE_CONN_INTERNAL_H
#define CORE_CONN_INTERNAL_H

#include "core/conn.h"
#include "core/worker.h"

#include <stdlib.h>
#include <string.h>

/* Room for `len` more bytes behind what conn->in holds. */
bool conn_reserve_in(struct conn *conn, size_t len) MUST_CHECK;

/* Keeps bytes in conn->out that the kernel did not take. */
enum conn_io conn_keep_bytes(struct conn *conn, const void *data, size_t len) MUST_CHECK;

/* `got` bytes have come behind the `kept` ones, where those lie. */
static inline enum conn_io conn_received_behind(struct conn *conn, size_t kept, size_t got,
                                                struct input *input)
{
	conn->in->end += (uint32_t)got;
	input->data = conn->in->data + conn->in->begin;
	input->len = kept + got;
	return CONN_IO_OK;
}

/* `got` bytes have come into the worker's buffer, before which there is room for the `kept` ones.
 */
static inline enum conn_io conn_received(struct conn *conn, struct worker *worker, size_t kept,
                                         size_t got, struct input *input)
{
	if (kept > 0) {
		memcpy(worker->inbuf, conn->in->data + conn->in->begin, kept);
		free(conn->in);
		conn->in = NULL;
	}
	input->data = worker->inbuf;
	input->len = kept + got;
	return CONN_IO_OK;
}

#endif
