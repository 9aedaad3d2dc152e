/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgshunt status: where each pgbouncer sends the shards, and what is paused.
 */
#include "base/endpoint.h"
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/pgbouncer.h"
#include "migrate/status.h"

#include <stdlib.h>
#include <string.h>

#define EVENT_MAX ((size_t)64 * 1024)

static void show_entry(struct status *status, const struct bouncer *bouncer, int row)
{
	const struct link *link = &bouncer->control;
	const char *name = link_value(link, row, "name");
	const char *host = link_value(link, row, "host");
	int port = (int)link_number(link, row, "port", 0);
	const char *where = bouncer_leads_to(status->move, bouncer, host == NULL ? "" : host, port);
	bool paused = link_number(link, row, "paused", 0) != 0;
	struct sbuf event;

	status_line(status, "  database %s: to %s (%s:%d)%s", name,
	            where == NULL ? "an unknown place" : where, host == NULL ? "a socket" : host,
	            port, paused ? ", PAUSED" : "");
	if (paused)
		status_alarm(status,
		             "%s: database %s is paused: its clients wait; \"pgshunt resume\" or "
		             "\"pgshunt abort\" ends it if a move was broken off, RESUME otherwise",
		             bouncer->label, name);
	sbuf_init(&event, EVENT_MAX);
	json_str(&event, "pgbouncer", bouncer->label);
	json_str(&event, "database", name);
	json_str(&event, "to", where);
	json_bool(&event, "paused", paused);
	ui_event(status->move->ui, "entry", sbuf_text(&event));
	sbuf_free(&event);
}

void status_show_bouncers(struct status *status)
{
	struct move *move = status->move;
	struct sbuf error;

	sbuf_init(&error, EVENT_MAX);
	(void)!bouncers_connect(move, &error);
	for (size_t i = 0; i < move->bouncer_count; i++) {
		struct bouncer *bouncer = &move->bouncers[i];
		struct link *link = &bouncer->control;
		bool reached = link->state == LINK_IDLE &&
		               link_run(&move->loop, link, move->config->mover.connect_timeout,
		                        "SHOW DATABASES");

		status_line(status, "%s (%s)%s%s", bouncer->label,
		            endpoint_text(bouncer->target.host, bouncer->target.port).text,
		            reached ? ":" : ": UNREACHABLE: ", reached ? "" : link_error(link));
		for (int row = 0; reached && row < link_rows(link); row++) {
			const char *name = link_value(link, row, "name");
			const char *dbname = link_value(link, row, "database");

			if (name != NULL && dbname != NULL && strcmp(name, "pgbouncer") != 0 &&
			    status_wants(status, dbname))
				show_entry(status, bouncer, row);
		}
	}
	sbuf_free(&error);
}
