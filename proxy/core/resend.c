/* SPDX-License-Identifier: PostgreSQL */
#include "core/resend.h"

#include "base/log.h"
#include "core/client.h"
#include "core/pool.h"
#include "core/server.h"
#include "core/statement.h"
#include "core/worker.h"
#include "wire/message.h"
#include "wire/parse.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Memory of a server that is kept for the next request. */
#define RESEND_SMALL 1024u

/* More messages than this may have been sent by more than one system call. */
#define RESEND_ONE_SEND 12u

void resend_begin(struct server *server)
{
	server->resend.fresh = true;
	server->resend.len = 0;
	server->resend.parting = false;
	server->resend.unexecuted = false;
	server->resend.unnamed = false;
}

void resend_forget(struct server *server)
{
	struct resend *resend = &server->resend;

	resend->fresh = false;
	resend->len = 0;
	if (UNLIKELY(resend->cap > RESEND_SMALL)) {
		free(resend->data);
		resend->data = NULL;
		resend->cap = 0;
	}
}

void resend_keep(struct server *server, const uint8_t *data, size_t len)
{
	struct resend *resend = &server->resend;

	if (resend->len > 0 || len > RESEND_MAX || server->left_to > 0) {
		resend_forget(server);
		return;
	}
	if (UNLIKELY(resend->cap < len)) {
		size_t cap = len > RESEND_SMALL ? len : RESEND_SMALL;

		free(resend->data);
		resend->data = malloc(cap);
		resend->cap = resend->data == NULL ? 0 : (uint32_t)cap;
		if (resend->data == NULL) {
			resend->fresh = false;
			return;
		}
	}
	memcpy(resend->data, data, len);
	resend->len = (uint32_t)len;
	resend->alone = (size_t)wire_get_be32(data + 1) + 1 == len;
}

/* Whether the first thing that is asked of the server is a Query or FunctionCall. */
static bool resend_simple(const struct server *server)
{
	for (uint32_t i = 0; i < server->ledger.count; i++) {
		uint8_t op = ledger_at(&server->ledger, i)->op;

		if (!ledger_is_given(op))
			return op == OWES_QUERY || op == OWES_FUNCTION || op == OWES_DEALLOCATE;
	}
	return false;
}

/* What backends say that end by themselves or by order, and nothing behind it: PostgreSQL's class
 * 57P, FATAL or (before an immediate end) WARNING. */
static bool resend_is_goodbye(const struct input *input)
{
	const uint8_t *at = input->data;
	struct wire_error error = {0};
	size_t total;

	if ((at[0] != BE_ERROR_RESPONSE && at[0] != BE_NOTICE_RESPONSE) ||
	    input->len < WIRE_HEADER_LEN ||
	    wire_header_check(WIRE_BACKEND, at, &total) != WIRE_HEADER_OK || total != input->len ||
	    !wire_parse_error(at + WIRE_HEADER_LEN, total - WIRE_HEADER_LEN, &error))
		return false;
	return error.severity != NULL && error.sqlstate != NULL &&
	       strncmp(error.sqlstate, "57P", 3) == 0 &&
	       strcmp(error.severity, at[0] == BE_ERROR_RESPONSE ? "FATAL" : "WARNING") == 0;
}

static void resend_conclude(struct server *server, bool certain)
{
	server->resend.unexecuted =
	    certain && server->client != NULL && server->client->resends < RESEND_TRIES;
}

bool resend_goodbye(struct server *server, const struct input *input)
{
	struct resend *resend = &server->resend;

	if (LIKELY(resend->len == 0 ||
	           (input->data[0] != BE_ERROR_RESPONSE && input->data[0] != BE_NOTICE_RESPONSE)) ||
	    !resend_is_goodbye(input)) {
		if (server->client != NULL)
			server->client->resends = 0;
		resend_forget(server);
		return false;
	}
	resend->parting = true;
	if (resend_simple(server) || input->data[0] == BE_NOTICE_RESPONSE)
		return true; /* its end is awaited */
	resend_conclude(server, true);
	if (resend->unexecuted)
		server_doom(server, SERVER_CLOSE_PEER);
	return resend->unexecuted;
}

/* Whether the kernel knows that the server has closed without having read all: its reset came, or
 * its end came without the acknowledgement of what was sent. */
static bool resend_was_unread(const struct server *server, enum conn_io io)
{
	int unread = 0;

	if (io != CONN_IO_EOF)
		return server->conn.reset;
	return ioctl(server->conn.fd, SIOCOUTQ, &unread) == 0 && unread > 0;
}

static bool resend_one_send(const struct server *server)
{
	return server->resend.alone || server->ledger.count <= RESEND_ONE_SEND;
}

void resend_judge_end(struct server *server, enum conn_io io)
{
	const struct resend *resend = &server->resend;

	if (resend->len == 0)
		return;
	if (UNLIKELY(server->conn.broken))
		resend_conclude(server, resend_one_send(server));
	else
		resend_conclude(server, resend->parting && !resend_simple(server)
		                            ? true
		                            : resend->alone && resend_was_unread(server, io));
}

void resend_judge_unsent(struct server *server)
{
	struct resend *resend = &server->resend;

	resend_conclude(server, resend->fresh && resend_one_send(server));
	resend->len = 0;
}

bool resend_take_back(struct server *server)
{
	struct resend *resend = &server->resend;
	struct client *client = server->client;

	if (!resend->unexecuted || !conn_unread(&client->conn, resend->data, resend->len))
		return false;
	client_log(client, LOG_LEVEL_INFO,
		   "server pid %d ended before it executed the request, another gets "
	         "it",
		   (int)server->backend_pid);
	statement_undo(client, server, server->ledger.count, false);
	client->resends++;
	client->in_session = false;
	/* Fresh, and yet in a failed block: one made for the client (keep.h). */
	client->failed = server->tx_status == 'E';
	server_unlink(server);
	pool_wait_first(server->pool, client);
	return true;
}
