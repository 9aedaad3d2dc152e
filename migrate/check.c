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

static const char *const result_words[] = {"pass", "warning", "refused"};

static PRINTF_LIKE(4, 0) void add_finding(struct checks *checks, enum check check,
                                          enum check_result result, const char *fmt, va_list args)
{
	struct finding *finding;
	char *text = NULL;

	if (vasprintf(&text, fmt, args) < 0)
		text = mem_must_strdup("?");
	checks->findings =
	    mem_must_grow(checks->findings, checks->finding_count + 1, sizeof(*checks->findings));
	finding = &checks->findings[checks->finding_count++];
	*finding = (struct finding){.check = check, .result = result, .text = text};
	checks->made[check] = true;
	if (result > checks->results[check])
		checks->results[check] = result;
	if (result == CHECK_REFUSE)
		checks->refused++;
	else if (result == CHECK_WARN)
		checks->warned++;
}

void check_find(struct checks *checks, enum check check, enum check_result result, const char *fmt,
                ...)
{
	va_list args;

	va_start(args, fmt);
	add_finding(checks, check, result, fmt, args);
	va_end(args);
}

void check_pass(struct checks *checks, enum check check, const char *fmt, ...)
{
	va_list args;

	if (checks->made[check])
		return;
	va_start(args, fmt);
	add_finding(checks, check, CHECK_PASS, fmt, args);
	va_end(args);
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

/* A check that said nothing was not made: because another one refused, or by a mistake of ours. */
static void refuse_unmade(struct checks *checks)
{
	bool explained = checks->refused > 0;

	for (enum check check = 0; check < CHECK_COUNT; check++) {
		if (checks->made[check])
			continue;
		check_find(checks, check, CHECK_REFUSE, "not checked%s",
		           explained ? ", because of what else is refused" : "");
		if (!explained)
			continue;
		checks->unmade[check] = true;
		checks->unmade_count++;
		checks->refused--;
	}
}

static void show_finding(struct ui *ui, const struct finding *finding)
{
	struct sbuf event;

	sbuf_init(&event, 65536);
	json_str(&event, "check", check_rows[finding->check].name);
	json_str(&event, "result", result_words[finding->result]);
	json_str(&event, "title", check_rows[finding->check].title);
	json_str(&event, "detail", finding->text);
	json_str(&event, "remedy",
	         finding->result == CHECK_PASS ? NULL : check_rows[finding->check].remedy);
	ui_event(ui, "check", sbuf_text(&event));
	sbuf_free(&event);
}

/* In the order of the table; the remedy once, behind the last finding of its check. */
static void show_check(const struct checks *checks, enum check check, bool all)
{
	struct ui *ui = checks->move->ui;

	for (size_t i = 0; i < checks->finding_count; i++) {
		const struct finding *finding = &checks->findings[i];

		if (finding->check != check)
			continue;
		show_finding(ui, finding);
		if (checks->unmade[check] && !all)
			continue;
		if (all || finding->result != CHECK_PASS)
			ui_line(ui, "  %-8s %s: %s", result_words[finding->result],
			        check_rows[check].title, finding->text);
	}
	/* What is refused must not be lost among what nobody has looked at. */
	if (checks->results[check] != CHECK_PASS && !checks->unmade[check])
		ui_line(ui, "           remedy: %s", check_rows[check].remedy);
}

bool check_run(struct move *move, bool all)
{
	struct checks checks = {.move = move};
	struct sbuf *out = &move->evidence;

	ui_line(move->ui, "checks:");
	check_servers(&checks);
	if (!checks.broken)
		check_shards(&checks);
	check_proxies(&checks);
	if (!checks.broken) {
		check_access(&checks);
		check_bypass(&checks);
	}
	refuse_unmade(&checks);
	for (enum check check = 0; check < CHECK_COUNT; check++)
		show_check(&checks, check, all);
	if (checks.unmade_count > 0 && !all)
		ui_line(move->ui, "  %zu checks could not be made because of what is refused",
		        checks.unmade_count);
	for (size_t i = 0; i < checks.finding_count; i++)
		free(checks.findings[i].text);
	free(checks.findings);
	json_int(out, "refused", (int64_t)checks.refused);
	json_int(out, "warnings", (int64_t)checks.warned);
	ui_status_clear(move->ui);
	if (checks.refused == 0) {
		if (checks.warned == 0)
			ui_line(move->ui, "  all %d checks passed", (int)CHECK_COUNT);
		else
			ui_line(move->ui, "  %d checks, none refuses; warnings: %zu",
			        (int)CHECK_COUNT, checks.warned);
		return true;
	}
	return move_fail(move, "%zu finding%s against the move", checks.refused,
	                 checks.refused == 1 ? "" : "s");
}
