/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/sessions.h"

#include "migrate/check.h"
#include "migrate/json.h"
#include "migrate/move.h"
#include "migrate/ui.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A proxy waits a second for the answers of its servers. */
#define SESSIONS_PATIENCE (5 * USEC_PER_SEC)
/* After the release: how long the last of them may take. */
#define SESSIONS_ARRIVE (3 * USEC_PER_SEC)
#define SESSIONS_AGAIN (50 * USEC_PER_MSEC)
/* Lines about pinned ones; sessions in the report. */
#define LINES_MAX 20
#define REPORT_MAX 10000

static bool ask(struct move *move, struct route *route)
{
	struct sbuf sql;
	bool ok;

	sbuf_init(&sql, 4096);
	sbuf_add_str(&sql, "SHOW SESSIONS ");
	sql_identifier(&sql, route->database);
	ok = link_revive(move, &route->link) &&
	     link_run(&move->loop, &route->link, SESSIONS_PATIENCE, sbuf_text(&sql));
	sbuf_free(&sql);
	return ok;
}

static bool is(const struct link *link, int row, const char *column, const char *word)
{
	const char *value = link_value(link, row, column);

	return value != NULL && strcmp(value, word) == 0;
}

static void add_pinned(struct sessions *sessions, const struct route *route, int row)
{
	const struct link *link = &route->link;

	if (is(link, row, "policy", "wait") || is(link, row, "policy", "abort"))
		sessions->stopping++;
	if (sessions->pinned++ >= LINES_MAX)
		return;
	sbuf_printf(&sessions->lines,
	            "%s%s: user %s, application %s, address %s, client %s: %s (%s)",
	            sessions->lines.len == 0 ? "" : "\n", route->proxy->label,
	            link_value(link, row, "user"), link_value(link, row, "application_name"),
	            link_value(link, row, "client_addr"), link_value(link, row, "client_id"),
	            link_value(link, row, "why"), link_value(link, row, "policy"));
}

static void count_row(struct sessions *sessions, const struct route *route, int row)
{
	if (is(&route->link, row, "class", "clean"))
		sessions->clean++;
	else if (is(&route->link, row, "class", "movable"))
		sessions->movable++;
	else if (is(&route->link, row, "class", "pinned"))
		add_pinned(sessions, route, row);
	else
		sessions->unknown++;
}

bool sessions_count(struct move *move, struct sessions *sessions)
{
	memset(sessions, 0, sizeof(*sessions));
	sbuf_init(&sessions->lines, 65536);
	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!ask(move, route)) {
			sbuf_reset(&sessions->lines);
			sbuf_printf(&sessions->lines, "%s: SHOW SESSIONS %s: %s",
			            route->proxy->label, route->database, link_error(&route->link));
			return false;
		}
		for (int row = 0; row < link_rows(&route->link); row++)
			count_row(sessions, route, row);
	}
	return true;
}

void sessions_free(struct sessions *sessions)
{
	sbuf_free(&sessions->lines);
}

void sessions_text(const struct sessions *sessions, struct sbuf *out)
{
	if (sessions->clean + sessions->movable + sessions->pinned + sessions->unknown == 0)
		sbuf_add_str(out, "none");
	else
		sbuf_printf(out,
		            "%" PRId64 " clean, %" PRId64 " movable, %" PRId64 " pinned, %" PRId64
		            " unknown",
		            sessions->clean, sessions->movable, sessions->pinned,
		            sessions->unknown);
}

/* The lines one by one. */
static void each_line(const struct sessions *sessions, void (*show)(void *arg, const char *line),
                      void *arg)
{
	char *text = strdup(sbuf_text(&sessions->lines));
	char *save = NULL;

	for (char *line = text == NULL ? NULL : strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save))
		show(arg, line);
	free(text);
}

static void find_line(void *arg, const char *line)
{
	check_find(arg, CHECK_SESSIONS, CHECK_WARN, "%s", line);
}

void check_sessions(struct checks *checks)
{
	struct sessions sessions;
	struct sbuf text;

	sbuf_init(&text, 256);
	if (!sessions_count(checks->move, &sessions)) {
		check_find(checks, CHECK_SESSIONS, CHECK_WARN, "%s", sbuf_text(&sessions.lines));
	} else {
		sessions_text(&sessions, &text);
		if (sessions.pinned > 0)
			check_find(checks, CHECK_SESSIONS, CHECK_WARN, "%s%s", sbuf_text(&text),
			           sessions.stopping > 0 ? ": as they are, the move will be undone"
			                                 : "");
		each_line(&sessions, find_line, checks);
		if (strcmp(sbuf_text(&text), "none") != 0)
			(void)snprintf(checks->move->sessions_seen,
			               sizeof(checks->move->sessions_seen), "%s", sbuf_text(&text));
		check_pass(checks, CHECK_SESSIONS, "%s", sbuf_text(&text));
	}
	sbuf_free(&text);
	sessions_free(&sessions);
}

static void show_line(void *arg, const char *line)
{
	ui_line(arg, "  pinned session: %s", line);
}

void sessions_prepare(struct move *move)
{
	struct sessions sessions;

	if (sessions_count(move, &sessions)) {
		json_int(&move->evidence, "sessions_clean", sessions.clean);
		json_int(&move->evidence, "sessions_movable", sessions.movable);
		json_int(&move->evidence, "sessions_pinned", sessions.pinned);
		json_int(&move->evidence, "sessions_unknown", sessions.unknown);
	}
	each_line(&sessions, show_line, move->ui);
	sessions_free(&sessions);
}

void sessions_rehearse(struct move *move)
{
	struct sessions sessions;
	struct sbuf text;

	sbuf_init(&text, 256);
	if (sessions_count(move, &sessions)) {
		sessions_text(&sessions, &text);
		ui_line(move->ui, "  sessions of session pools: %s", sbuf_text(&text));
	}
	each_line(&sessions, show_line, move->ui);
	sbuf_free(&text);
	sessions_free(&sessions);
}

/* ---- afterwards ---- */

/* Without the name of a database nobody is asked anew: the servers have sessions to set up. */
static bool ask_known(struct move *move, struct route *route)
{
	return link_revive(move, &route->link) &&
	       link_run(&move->loop, &route->link, SESSIONS_PATIENCE, "SHOW SESSIONS");
}

static bool is_of(const struct route *route, int row)
{
	return is(&route->link, row, "database", route->database);
}

/* Since the swap of its route. */
static bool has_moved(const struct route *route, int row, usec_t now)
{
	const char *age = link_value(&route->link, row, "moved_ms");

	return age != NULL && route->swapped_at != 0 &&
	       (usec_t)atoll(age) * USEC_PER_MSEC <= now - route->swapped_at + USEC_PER_SEC;
}

static bool some_are_moving(const struct route *route)
{
	for (int row = 0; row < link_rows(&route->link); row++)
		if (is_of(route, row) && !is(&route->link, row, "state", "linked"))
			return true;
	return false;
}

static void report_row(struct move *move, const struct route *route, int row)
{
	static const char *const columns[] = {
	    "database",   "user",     "application_name", "class",        "what",
	    "moved_from", "moved_to", "digest_before",    "digest_after", "lost"};

	json_open(&move->sessions, NULL, '{');
	json_str(&move->sessions, "proxy", route->proxy->label);
	for (size_t i = 0; i < ARRAY_LEN(columns); i++)
		json_str(&move->sessions, columns[i], link_value(&route->link, row, columns[i]));
	json_close(&move->sessions, '}');
}

void sessions_after(struct move *move)
{
	const usec_t until = clock_now() + SESSIONS_ARRIVE;
	int64_t moved = 0;
	int64_t lossy = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		struct route *route = &move->routes[i];

		if (!route->swapped)
			continue;
		while (ask_known(move, route) && some_are_moving(route) && clock_now() < until)
			loop_sleep(&move->loop, SESSIONS_AGAIN);
		if (!link_ok(&route->link)) {
			move_problem(move, "%s: SHOW SESSIONS: %s", route->proxy->label,
			             link_error(&route->link));
			continue;
		}
		for (int row = 0; row < link_rows(&route->link); row++) {
			if (!is_of(route, row) || !has_moved(route, row, clock_now()))
				continue;
			moved++;
			lossy += link_value(&route->link, row, "lost") != NULL;
			if (moved <= REPORT_MAX)
				report_row(move, route, row);
		}
	}
	move->sessions_moved = moved;
	if (moved == 0)
		return;
	json_int(&move->evidence, "sessions_moved", moved);
	json_int(&move->evidence, "sessions_with_loss", lossy);
}
