/* SPDX-License-Identifier: PostgreSQL */
#include "core/starttls.h"

#include "core/conn_tls.h"
#include "core/worker.h"
#include "wire/build.h"
#include "wire/message.h"

#include <string.h>

static enum starttls_result starttls_fail(struct starttls *start, const char **why,
                                          const char *text)
{
	start->stage = STARTTLS_OVER;
	*why = text;
	return STARTTLS_FAILED;
}

static enum starttls_result starttls_fail_tls(struct starttls *start, const struct conn *conn,
                                              const char **why)
{
	const char *text = conn->tls == NULL ? "" : tls_error(conn->tls);

	start->lost = text[0] == '\0';
	return starttls_fail(
	    start, why, text[0] == '\0' ? "the server closed the connection during TLS" : text);
}

static enum starttls_result starttls_shake(struct starttls *start, struct conn *conn,
                                           struct worker *worker, bool direct, const char **why)
{
	struct tls *tls = tls_connect(start->context, start->host, direct);

	if (tls == NULL)
		return starttls_fail(start, why, "out of memory");
	start->stage = STARTTLS_HANDSHAKE;
	if (conn_start_tls(conn, worker, tls, NULL, 0) != CONN_IO_OK)
		return starttls_fail_tls(start, conn, why);
	return STARTTLS_MORE;
}

enum starttls_result starttls_begin(struct starttls *start, struct conn *conn,
                                    struct worker *worker, struct tls_context *context,
                                    const char *host, bool direct, const char **why)
{
	struct sbuf out;
	enum conn_io io = CONN_IO_ERROR;

	start->context = context;
	start->host = host;
	if (direct)
		return starttls_shake(start, conn, worker, true, why);
	start->stage = STARTTLS_ASKED;
	sbuf_init(&out, 16);
	wire_add_ssl_request(&out);
	if (sbuf_ok(&out))
		io = conn_send_copy(&worker->to_server, conn, worker, out.data, out.len);
	if (io == CONN_IO_OK)
		io = conn_flush(&worker->to_server, worker);
	sbuf_free(&out);
	start->lost = io != CONN_IO_OK;
	if (start->lost)
		return starttls_fail(start, why, "the server closed the connection");
	return STARTTLS_MORE;
}

/* The server's one byte. */
static enum starttls_result starttls_answer(struct starttls *start, struct conn *conn,
                                            struct worker *worker, const char **why)
{
	struct input input;
	enum conn_io io = conn_receive(conn, worker, 0, &input);

	if (io == CONN_IO_AGAIN)
		return STARTTLS_MORE;
	start->lost = io != CONN_IO_OK;
	if (start->lost)
		return starttls_fail(start, why, "the server closed the connection at SSLRequest");
	/* What an error says here is nobody's word (CVE-2024-10977). */
	if (input.data[0] == BE_ERROR_RESPONSE)
		return starttls_fail(start, why, "the server answered SSLRequest with an error");
	if (input.data[0] != 'S' && input.data[0] != 'N')
		return starttls_fail(start, why, "the server does not speak PostgreSQL's protocol");
	if (input.len > 1)
		return starttls_fail(start, why, "received unencrypted data after SSL response");
	if (!conn_keep(conn, &input, 1))
		return starttls_fail(start, why, "out of memory");
	if (input.data[0] == 'S')
		return starttls_shake(start, conn, worker, false, why);
	start->stage = STARTTLS_NONE;
	return STARTTLS_REFUSED;
}

enum starttls_result starttls_readable(struct starttls *start, struct conn *conn,
                                       struct worker *worker, const char **why)
{
	struct input input;
	enum conn_io io;

	if (start->stage == STARTTLS_ASKED)
		return starttls_answer(start, conn, worker, why);
	io = conn_receive(conn, worker, 0, &input);
	if (io == CONN_IO_OK)
		return starttls_fail(start, why, "the server spoke before it was asked");
	if (io != CONN_IO_AGAIN)
		return starttls_fail_tls(start, conn, why);
	if (!tls_ready(conn->tls))
		return STARTTLS_MORE;
	start->stage = STARTTLS_OVER;
	return STARTTLS_OPEN;
}
