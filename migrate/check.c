/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/check.h"

#include "base/mem.h"
#include "migrate/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
	const char *name;
	const char *title;
	const char *remedy;
} check_rows[] = {
#define CHECK(constant, name, title, remedy) [constant] = {name, title, remedy},
#include "migrate/checks.def"
};

static void show_finding(struct checks *checks, enum check check, enum check_result result,
                         const char *text)
{
	static const char *const words[] = {"pass", "warning", "refused"};
	struct ui *ui = checks->move->ui;
	struct sbuf event;

	ui_line(ui, "  %s: %s: %s", words[result], check_rows[check].title, text);
	if (result != CHECK_PASS)
		ui_line(ui, "    remedy: %s", check_rows[check].remedy);
	sbuf_init(&event, 65536);
	json_str(&event, "check", check_rows[check].name);
	json_str(&event, "result", words[result]);
	json_str(&event, "detail", text);
	json_str(&event, "remedy", result == CHECK_PASS ? NULL : check_rows[check].remedy);
	ui_event(ui, "check", sbuf_text(&event));
	sbuf_free(&event);
}

void check_find(struct checks *checks, enum check check, enum check_result result, const char *fmt,
                ...)
{
	va_list args;
	char *text = NULL;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	if (result > checks->results[check])
		checks->results[check] = result;
	if (result == CHECK_REFUSE)
		checks->refused++;
	else if (result == CHECK_WARN)
		checks->warned++;
	show_finding(checks, check, result, text == NULL ? "?" : text);
	free(text);
}

bool check_query(struct checks *checks, enum check check, struct link *link, const char *sql)
{
	usec_t timeout = checks->move->config->mover.connect_timeout;

	if (link_run(&checks->move->loop, link, timeout, sql))
		return true;
	check_find(checks, check, CHECK_REFUSE, "%s cannot be asked: %s", link->name,
	           link_error(link));
	if (link->state != LINK_IDLE)
		checks->broken = true;
	return false;
}

bool check_run(struct move *move)
{
	struct checks checks = {.move = move};
	struct sbuf *out = &move->evidence;

	ui_line(move->ui, "checks:");
	check_servers(&checks);
	if (!checks.broken)
		check_shards(&checks);
	check_proxies(&checks);
	json_int(out, "refused", (int64_t)checks.refused);
	json_int(out, "warnings", (int64_t)checks.warned);
	if (checks.refused == 0) {
		ui_line(move->ui, "  all %d checks passed%s", (int)CHECK_COUNT,
		        checks.warned > 0 ? ", with warnings" : "");
		return true;
	}
	ui_status_clear(move->ui);
	return move_fail(move, "%zu finding%s against the move", checks.refused,
	                 checks.refused == 1 ? "" : "s");
}
