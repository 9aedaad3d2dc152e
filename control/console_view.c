/* SPDX-License-Identifier: PostgreSQL */
/*
 * The clients of the console in the views of SHOW: rows behind those of the workers.  Reads only;
 * main thread.  Whichever name a client came by, the console is one database, CONFIG_CONSOLE.
 */
#include "base/clock.h"
#include "conf/config.h"
#include "control/session.h"
#include "core/proxy.h"
#include "net/sock.h"
#include "net/tls.h"

#include <inttypes.h>
#include <stdio.h>

/* Columns that a console has nothing for. */
static void add_zeros(struct rowset *rows, size_t from)
{
	for (size_t i = from; i < view_info(rows->view)->column_count; i++)
		rowset_int(rows, 0);
}

static void connection_row(const struct session *session, struct rowset *rows)
{
	char tls[TLS_TEXT_MAX] = "";
	struct sock_name local;

	if (session->tls != NULL)
		tls_describe(session->tls, tls);
	sock_local(session->fd, &local);
	rowset_text(rows, "C");
	rowset_text(rows, session->user);
	rowset_text(rows, CONFIG_CONSOLE);
	rowset_text(rows, "none");
	rowset_text(rows, rows->view == VIEW_CLIENTS ? "idle" : "cl_active"); /* linked to none */
	rowset_socket(rows, &session->peer, session->proxy->config->proxy.port);
	rowset_socket(rows, &local, session->proxy->config->proxy.port);
	rowset_time(rows, session->connected);
	rowset_time(rows, session->asked);
	rowset_int(rows, 0);
	rowset_int(rows, 0);
	rowset_int(rows, session->closing);
	rowset_printf(rows, "c%" PRIu64, session->id);
	rowset_text(rows, "");
	rowset_int(rows, sock_peer_pid(session->fd));
	rowset_text(rows, tls);
	rowset_text(rows, session->application_name);
	rowset_int(rows, (int64_t)session->statements.count);
	rowset_int(rows, (int64_t)session->id);
	if (rows->view == VIEW_CLIENTS) {
		rowset_null(rows); /* no worker has it */
		rowset_int(rows, 0);
	} else {
		for (int i = 0; i < 5; i++)
			rowset_int(rows, 0);
		rowset_int(rows, (int64_t)(session->in.len - session->in_used));
		rowset_int(rows, (int64_t)(session->out.len - session->out_sent));
	}
	rowset_end_row(rows);
}

/* One of cl_active: the pools of all sessions are one, which the merge makes of them. */
static void pool_row(struct rowset *rows)
{
	rowset_text(rows, CONFIG_CONSOLE);
	rowset_text(rows, CONFIG_CONSOLE);
	rowset_int(rows, 1);
	for (int i = 0; i < 12; i++)
		rowset_int(rows, 0);
	rowset_text(rows, "statement");
	rowset_null(rows);
	add_zeros(rows, 17);
	rowset_end_row(rows);
}

void session_rows(const struct session *session, struct rowset *rows)
{
	switch (rows->view) {
	case VIEW_CLIENTS:
	case VIEW_SOCKETS:
	case VIEW_ACTIVE_SOCKETS:
		connection_row(session, rows);
		break;
	case VIEW_POOLS:
		pool_row(rows);
		break;
	default:
		break;
	}
}

void session_stats_row(const struct session_counts *counts, struct rowset *rows)
{
	rowset_text(rows, CONFIG_CONSOLE);
	rowset_int(rows, 0);
	rowset_int(rows, (int64_t)counts->xacts);
	rowset_int(rows, (int64_t)counts->queries);
	rowset_int(rows, (int64_t)counts->received);
	rowset_int(rows, (int64_t)counts->sent);
	for (int i = 0; i < 6; i++)
		rowset_int(rows, 0);
	rowset_int(rows, (int64_t)counts->logins);
	add_zeros(rows, 13);
	rowset_end_row(rows);
}
