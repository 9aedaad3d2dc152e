/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/page.h"

#include "base/mem.h"
#include "migrate/journal.h"
#include "migrate/phase.h"
#include "migrate/sampler.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer evidence of a record is cut in the page; the journal has it. */
#define DATA_SHOWN 600

static const char style[] =
    "*{box-sizing:border-box}body{margin:0;background:#f6f5f2;color:#25292e;font:15px/1.5 "
    "system-ui,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}main{max-width:940px;margin:0 "
    "auto;padding:28px 32px 60px}h1{font-size:26px;line-height:1.25;margin:6px 0 2px;"
    "letter-spacing:-.01em}h2{font-size:17px;margin:34px 0 10px;padding-top:14px;border-top:1px "
    "solid #dcd9d2}p{margin:4px 0}.sub{color:#6b6f76}.badge{display:inline-block;padding:2px "
    "12px;border-radius:99px;font-weight:600;font-size:13px;background:#dff0e3;color:#1d6b34}"
    ".badge.bad{background:#fbe0dc;color:#9c2b1b}.badge.part{background:#fcefd0;color:#7d5610}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;"
    "margin:20px 0}.tile{background:#fff;border:1px solid #e4e1da;border-radius:8px;padding:12px "
    "14px}.tile b{display:block;font-size:23px;font-weight:650;line-height:1.2;"
    "font-variant-numeric:tabular-nums}.tile span{color:#6b6f76;font-size:13px}figure{margin:12px "
    "0;background:#fff;border:1px solid #e4e1da;border-radius:8px;padding:12px 14px 6px}"
    "figcaption{font-size:13px;color:#6b6f76;margin-bottom:4px}figcaption b{color:#25292e}svg{"
    "width:100%;height:auto;display:block}svg text{font:11.5px system-ui,sans-serif;"
    "fill:#6b6f76}.grid{stroke:#eceae4}.hold{fill:#d9730d;opacity:.28}.bar{fill:#0b6e99}"
    ".bar.promote{fill:#d9730d}.key{margin-left:14px;color:#25292e}.key::before{content:'';"
    "display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);margin:0 "
    "6px 3px 0}table{border-collapse:collapse;width:100%;background:#fff;border:1px solid "
    "#e4e1da;font-size:13.5px;margin:8px 0}th,td{text-align:left;padding:5px 10px;"
    "border-bottom:1px solid #eeece6;vertical-align:top}th{background:#faf9f6;font-weight:600;"
    "color:#53575e}td.n{text-align:right;font-variant-numeric:tabular-nums}code,.mono{"
    "font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}"
    ".good{color:#1d6b34}.wrong{color:#9c2b1b;font-weight:600}summary{cursor:pointer;"
    "color:#0b6e99}ul{margin:6px 0;padding-left:20px}@media print{body{background:#fff}main{"
    "padding:0}figure,.tile,tr{break-inside:avoid}}";

void page_text(struct sbuf *out, const char *text)
{
	for (const char *p = text == NULL ? "" : text; *p != '\0'; p++) {
		if (*p == '<')
			sbuf_add_str(out, "&lt;");
		else if (*p == '>')
			sbuf_add_str(out, "&gt;");
		else if (*p == '&')
			sbuf_add_str(out, "&amp;");
		else if (*p == '"')
			sbuf_add_str(out, "&quot;");
		else
			sbuf_add_char(out, *p);
	}
}

static bool is_true(const struct json *json, const char *key)
{
	return json_text(json, key) != NULL && strcmp(json_text(json, key), "true") == 0;
}

/* ---- reading ---- */

struct page {
	const char *directory;
	struct json *report;
	struct json *comparison; /* NULL = there is none */
	struct json *samples;    /* linked by next */
	struct journal_records records;
};

static struct json *read_json(const char *directory, const char *name)
{
	char *text = journal_load(directory, name);
	struct json *json = text == NULL ? NULL : json_parse(text);

	free(text);
	return json;
}

/* A line each; one that is cut off is left out. */
static struct json *read_lines(const char *directory, const char *name)
{
	char *text = journal_load(directory, name);
	struct json *first = NULL;
	struct json **tail = &first;
	char *save = NULL;

	for (char *line = text == NULL ? NULL : strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		*tail = json_parse(line);
		if (*tail != NULL)
			tail = &(*tail)->next;
	}
	free(text);
	return first;
}

/* ---- parts ---- */

static void tile(struct sbuf *out, const char *value, const char *what)
{
	sbuf_add_str(out, "<div class=\"tile\"><b>");
	page_text(out, value);
	sbuf_add_str(out, "</b><span>");
	page_text(out, what);
	sbuf_add_str(out, "</span></div>");
}

static void tile_msec(struct sbuf *out, const struct json *report, const char *key,
                      const char *what)
{
	const char *text = json_text(report, key);
	char value[48];

	if (text == NULL)
		return;
	(void)snprintf(value, sizeof(value), "%.1f ms", strtod(text, NULL));
	tile(out, value, what);
}

static size_t count_lines(const char *text)
{
	size_t lines = 0;

	for (const char *p = text == NULL ? "" : text; *p != '\0'; p++)
		lines += *p == '\n' ? 1 : 0;
	return lines;
}

static void head(const struct page *page, struct sbuf *out)
{
	const struct json *report = page->report;
	const char *result = json_text(report, "result");
	bool done = result != NULL && strcmp(result, "done") == 0;
	const struct json *shards = json_get(report, "shards");

	sbuf_add_str(out, "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta "
	                  "name=\"viewport\" content=\"width=device-width\"><title>Move ");
	page_text(out, json_text(report, "move"));
	sbuf_printf(out, "</title><style>%s</style></head><body><main><span class=\"badge%s\">",
	            style, done ? "" : " bad");
	page_text(out, result);
	sbuf_add_str(out, "</span><h1>Move of");
	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		sbuf_add_str(out, at == shards->first ? " " : ", ");
		page_text(out, json_text(at, "dbname"));
	}
	sbuf_add_str(out, " from ");
	page_text(out, json_text(report, "source"));
	sbuf_add_str(out, " to ");
	page_text(out, json_text(report, "target"));
	sbuf_add_str(out, "</h1><p class=\"sub\">");
	page_text(out, json_text(report, "move"));
	sbuf_add_str(out, " · finished ");
	page_text(out, json_text(report, "finished"));
	sbuf_add_str(out, " · ");
	page_text(out, json_text(report, "operator"));
	sbuf_add_char(out, '@');
	page_text(out, json_text(report, "host"));
	sbuf_add_str(out, "</p>");
	if (json_text(report, "failure") != NULL) {
		sbuf_add_str(out, "<p class=\"wrong\">");
		page_text(out, json_text(report, "failed_phase"));
		sbuf_add_str(out, ": ");
		page_text(out, json_text(report, "failure"));
		sbuf_add_str(out, "</p>");
	}
}

static void tiles(const struct page *page, struct sbuf *out)
{
	const struct json *report = page->report;
	char value[48];

	sbuf_add_str(out, "<div class=\"tiles\">");
	tile_msec(out, report, "hold_ms", "clients held");
	tile_msec(out, report, "longest_stall_ms", "longest stall of a client");
	tile_msec(out, report, "promote_ms", "promotion");
	if (json_get(report, "clients_held") != NULL) {
		(void)snprintf(value, sizeof(value), "%" PRId64,
		               json_number(report, "clients_held", 0));
		tile(out, value, "requests held");
	}
	if (json_get(report, "errors_total") != NULL) {
		(void)snprintf(value, sizeof(value), "%" PRId64,
		               json_number(report, "errors_total", 0));
		tile(out, value, "errors sent to clients of the shards");
	}
	(void)snprintf(value, sizeof(value), "%" PRId64, json_number(report, "terminated", 0));
	tile(out, value, "sessions ended on the source");
	(void)snprintf(value, sizeof(value), "%zu", count_lines(json_text(report, "problems")));
	tile(out, value, "problems");
	tile(out, page->comparison == NULL ? "not made" : json_text(page->comparison, "state"),
	     "comparison of the copies");
	sbuf_add_str(out, "</div>");
}

static void problems(const struct page *page, struct sbuf *out)
{
	const char *text = json_text(page->report, "problems");
	char *copy = mem_must_strdup(text == NULL ? "" : text);
	char *save = NULL;

	if (*copy != '\0')
		sbuf_add_str(out, "<h2>Problems</h2><ul>");
	for (char *line = strtok_r(copy, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		sbuf_add_str(out, "<li class=\"wrong\">");
		page_text(out, line);
		sbuf_add_str(out, "</li>");
	}
	if (text != NULL && *text != '\0')
		sbuf_add_str(out, "</ul>");
	free(copy);
}

static void waits(const struct page *page, struct sbuf *out)
{
	const struct json *list = json_get(page->report, "waits");

	if (list == NULL || list->first == NULL)
		return;
	sbuf_add_str(out, "<h2>How long requests waited</h2><table><tr><th>up to<th>requests</tr>");
	for (const struct json *at = list->first; at != NULL; at = at->next) {
		if (json_get(at, "up_to_ms") == NULL)
			sbuf_add_str(out, "<tr><td>longer");
		else
			sbuf_printf(out, "<tr><td>%" PRId64 " ms", json_number(at, "up_to_ms", 0));
		sbuf_printf(out, "<td>%" PRId64 "</tr>", json_number(at, "requests", 0));
	}
	sbuf_add_str(out, "</table>");
}

static void errors(const struct page *page, struct sbuf *out)
{
	const struct json *list = json_get(page->report, "errors");

	if (list == NULL)
		return;
	sbuf_add_str(out, "<h2>Errors that clients were sent</h2>");
	if (list->first == NULL) {
		sbuf_add_str(out, "<p>None, by any database of these proxies, from before the hold "
		                  "to the validation.</p>");
		return;
	}
	sbuf_add_str(out, "<table><tr><th>database<th>SQLSTATE<th>errors<th>of these made by the "
	                  "proxy<th>proxy<th></tr>");
	for (const struct json *at = list->first; at != NULL; at = at->next) {
		sbuf_add_str(out, "<tr><td>");
		page_text(out, json_text(at, "database"));
		sbuf_add_str(out, "<td class=\"mono\">");
		page_text(out, json_text(at, "sqlstate"));
		sbuf_printf(out, "<td>%" PRId64 "<td>%" PRId64 "<td>", json_number(at, "count", 0),
		            json_number(at, "from_proxy", 0));
		page_text(out, json_text(at, "proxy"));
		sbuf_printf(out, "<td>%s</tr>", is_true(at, "moved") ? "moved" : "");
	}
	sbuf_add_str(out, "</table>");
}

static void charts(const struct page *page, struct sbuf *out)
{
	static const struct plot plots[] = {
	    {.value = PLOT_THROUGHPUT, .title = "Throughput", .unit = "transactions a second"},
	    {.value = PLOT_LATENCY,
	     .title = "Latency",
	     .unit = "ms of a transaction, waiting included, on average"},
	    {.value = PLOT_COMMITS, .title = "Commits by server", .unit = "a second"},
	};
	bool any = false;

	sbuf_add_str(out, "<h2>Timeline</h2>");
	plot_phases(page->report, out);
	for (size_t i = 0; i < ARRAY_LEN(plots); i++) {
		struct plot plot = plots[i];

		plot.samples = page->samples;
		plot.report = page->report;
		any = plot_draw(&plot, out) || any;
	}
	if (any)
		sbuf_add_str(out, "<p class=\"sub\">Seconds since the hold began; the band is the "
		                  "hold, during which nobody is asked for figures.</p>");
}

static void phases(const struct page *page, struct sbuf *out)
{
	const struct json *list = json_get(page->report, "phases");

	sbuf_add_str(out, "<h2>Phases</h2><table><tr><th>phase<th>what happened<th>ms</tr>");
	for (const struct json *at = list == NULL ? NULL : list->first; at != NULL; at = at->next) {
		const char *name = json_text(at, "name");
		const struct phase_row *row = NULL;

		for (enum phase phase = 0; phase < PHASE_COUNT && name != NULL; phase++) {
			if (strcmp(phase_row(phase)->name, name) == 0)
				row = phase_row(phase);
		}
		sbuf_add_str(out, "<tr><td>");
		page_text(out, row == NULL ? name : row->title);
		sbuf_printf(out, "%s<td>",
		            is_true(at, "ok") ? "" : " <span class=\"wrong\">failed</span>");
		page_text(out, row == NULL ? "" : row->what);
		sbuf_add_str(out, "<td class=\"n\">");
		page_text(out, json_text(at, "ms"));
		sbuf_add_str(out, "</tr>");
	}
	sbuf_add_str(out, "</table>");
}

static void row(struct sbuf *out, const char *what, const char *value)
{
	if (value == NULL)
		return;
	sbuf_add_str(out, "<tr><td>");
	page_text(out, what);
	sbuf_add_str(out, "<td class=\"mono\">");
	page_text(out, value);
	sbuf_add_str(out, "</tr>");
}

/* By their names, in one row. */
static void prepared(const struct json *list, struct sbuf *out)
{
	struct sbuf names;

	if (list == NULL || list->first == NULL)
		return;
	sbuf_init(&names, PAGE_MAX);
	for (const struct json *at = list->first; at != NULL; at = at->next)
		sbuf_printf(&names, "%s%s of %s", at == list->first ? "" : ", ",
		            json_text(at, "gid"), json_text(at, "owner"));
	row(out, "prepared transactions that the shards had", sbuf_text(&names));
	sbuf_free(&names);
}

static void proof(const struct page *page, struct sbuf *out)
{
	const struct json *report = page->report;
	const struct json *data;

	if (json_text(report, "barrier") == NULL)
		return;
	sbuf_add_str(out, "<h2>Proof that nothing was left behind</h2><table><tr><th>what<th>"
	                  "evidence</tr>");
	row(out, "system identifier of both servers", json_text(report, "system_identifier"));
	data = journal_find(&page->records, "outcome", "fence");
	row(out, "fence on the source (ALLOW_CONNECTIONS false), at", json_text(data, "time"));
	data = journal_find(&page->records, "outcome", "terminate");
	row(out, "sessions in the shards ended, none seen twice, at", json_text(data, "time"));
	prepared(json_get(report, "prepared"), out);
	row(out, "barrier B: last flushed record of the source", json_text(report, "barrier"));
	data = json_get(journal_find(&page->records, "outcome", "catch_up"), "data");
	row(out, "replayed by the target, with the fence, before the promotion",
	    json_text(data, "replayed"));
	row(out, "switch point of the new timeline (at or after B)",
	    json_text(report, "switch_point"));
	row(out, "timeline before", json_text(report, "old_timeline"));
	row(out, "timeline after", json_text(report, "new_timeline"));
	data = json_get(journal_find(&page->records, "outcome", "open"), "data");
	row(out, "copies of other databases closed on the target",
	    json_text(data, "others_fenced"));
	data = json_get(journal_find(&page->records, "outcome", "validate"), "data");
	row(out, "sessions in the shards afterwards: source",
	    json_text(data, "sessions_on_source"));
	row(out, "sessions in the shards afterwards: target",
	    json_text(data, "sessions_on_target"));
	row(out, "calls through PL/Proxy that landed on the target",
	    json_text(data, "plproxy_calls"));
	sbuf_add_str(out, "</table>");
}

/* ---- the comparison ---- */

static void compared_table(const struct json *at, struct sbuf *out)
{
	const char *state = json_text(at, "state");
	bool good = state != NULL && strncmp(state, "equal", 5) == 0;

	sbuf_add_str(out, "<tr><td>");
	page_text(out, json_text(at, "shard"));
	sbuf_add_str(out, "<td class=\"mono\">");
	page_text(out, json_text(at, "table"));
	sbuf_printf(out, "<td class=\"n\">%" PRId64 "<td class=\"n\">%" PRId64 "<td class=\"%s\">",
	            json_number(at, "rows", 0), json_number(at, "rows_target", 0),
	            good ? "good" : "wrong");
	page_text(out, state);
	if (json_text(at, "note") != NULL) {
		sbuf_add_str(out, "; ");
		page_text(out, json_text(at, "note"));
	}
	if (json_number(at, "outside", 0) > 0)
		sbuf_printf(out,
		            "; <span class=\"wrong\">%" PRId64
		            " rows of partitions of other shards</span>",
		            json_number(at, "outside", 0));
	sbuf_add_str(out, "<td class=\"mono\">");
	if (json_text(at, "hash") != NULL)
		sbuf_printf(out, "%.16s…", json_text(at, "hash") + 16);
	sbuf_add_str(out, "</tr>");
}

static void comparison(const struct page *page, struct sbuf *out)
{
	const struct json *list = json_get(page->comparison, "tables");
	const struct json *shards = json_get(page->comparison, "shards");

	sbuf_add_str(out, "<h2>Comparison of the copies</h2>");
	if (page->comparison == NULL) {
		sbuf_add_str(out, "<p class=\"sub\">Not made: <code>move --verify</code>, or later "
		                  "<code>pgshunt verify</code>.</p>");
		return;
	}
	sbuf_add_str(out,
	             is_true(page->comparison, "exact")
	                 ? "<p>Every row of the source, frozen at the barrier, with the "
	                   "target's snapshot of before the first client.</p>"
	                 : "<p>Made later, without the snapshots of the move: every row of the "
	                   "target that was not written since must be in the source's "
	                   "copy.</p>");
	if (json_text(page->comparison, "failure") != NULL) {
		sbuf_add_str(out, "<p class=\"wrong\">");
		page_text(out, json_text(page->comparison, "failure"));
		sbuf_add_str(out, "</p>");
	}
	for (const struct json *at = shards == NULL ? NULL : shards->first; at != NULL;
	     at = at->next) {
		sbuf_add_str(out, "<p><b>");
		page_text(out, json_text(at, "name"));
		sbuf_add_str(out, "</b>: ");
		page_text(out, json_text(at, "state"));
		sbuf_printf(out,
		            ", %" PRId64 " tables, %" PRId64 " rows, %" PRId64
		            " sequences (%" PRId64 " wrong)</p>",
		            json_number(at, "tables", 0), json_number(at, "rows", 0),
		            json_number(at, "sequences", 0), json_number(at, "sequences_wrong", 0));
	}
	sbuf_add_str(out, "<details open><summary>tables</summary><table><tr><th>shard<th>table<th>"
	                  "rows, source<th>rows, target<th>result<th>hash</tr>");
	for (const struct json *at = list == NULL ? NULL : list->first; at != NULL; at = at->next)
		compared_table(at, out);
	sbuf_add_str(out, "</table></details>");
}

/* ---- prediction, people, journal ---- */

static double msec_of(const struct json *json, const char *key)
{
	return json_text(json, key) == NULL ? 0.0 : strtod(json_text(json, key), NULL);
}

/* What the phases took that are a part of the prediction. */
static double part_took(const struct json *report, const char *part)
{
	static const struct {
		const char *part;
		const char *phases;
	} of[] = {{"drain", "hold"},          {"fence", "fence"},
	          {"terminate", "terminate"}, {"replay", "barrier catch_up"},
	          {"promote", "promote"},     {"open", "proof open"},
	          {"swap", "swap plproxy"}};
	const struct json *phases = json_get(report, "phases");
	double msec = 0.0;

	for (const struct json *at = phases == NULL ? NULL : phases->first; at != NULL;
	     at = at->next) {
		const char *name = json_text(at, "name");

		for (size_t i = 0; i < ARRAY_LEN(of) && name != NULL; i++) {
			const char *found =
			    strcmp(of[i].part, part) == 0 ? strstr(of[i].phases, name) : NULL;

			if (found != NULL &&
			    (found[strlen(name)] == ' ' || found[strlen(name)] == '\0'))
				msec += msec_of(at, "ms");
		}
	}
	return msec;
}

static void predicted_row(struct sbuf *out, const char *what, const struct json *from,
                          const char *low, const char *high, double took)
{
	sbuf_add_str(out, "<tr><td>");
	page_text(out, what);
	sbuf_printf(out, "<td class=\"n\">%.1f to %.1f ms<td class=\"n %s\">%.1f ms</tr>",
	            msec_of(from, low), msec_of(from, high),
	            took <= msec_of(from, high) ? "good" : "wrong", took);
}

static void prediction(const struct page *page, struct sbuf *out)
{
	const struct json *predicted = json_get(page->report, "prediction");
	const struct json *parts = json_get(predicted, "parts");

	if (predicted == NULL)
		return;
	sbuf_add_str(out, "<h2>Prediction of the rehearsal</h2><p class=\"sub\">Rehearsed at ");
	page_text(out, json_text(predicted, "time"));
	sbuf_add_str(out, ".</p><table><tr><th>what<th>predicted<th>happened</tr>");
	predicted_row(out, "hold", predicted, "hold_low_ms", "hold_high_ms",
	              msec_of(page->report, "hold_ms"));
	for (const struct json *at = parts == NULL ? NULL : parts->first; at != NULL; at = at->next)
		predicted_row(out, at->key, at, "low_ms", "high_ms",
		              part_took(page->report, at->key));
	sbuf_add_str(out, "</table>");
}

static void people(const struct page *page, struct sbuf *out)
{
	const struct json *versions = json_get(page->report, "versions");

	sbuf_add_str(out, "<h2>Who ran what</h2><table><tr><th>time<th>who<th>command<th>version"
	                  "</tr>");
	for (const struct json *at = page->records.first; at != NULL; at = at->next) {
		const struct json *data = json_get(at, "data");

		if (strcmp(json_text(at, "phase"), "command") != 0)
			continue;
		sbuf_add_str(out, "<tr><td class=\"mono\">");
		page_text(out, json_text(at, "time"));
		sbuf_add_str(out, "<td>");
		page_text(out, json_text(data, "operator"));
		sbuf_add_char(out, '@');
		page_text(out, json_text(data, "host"));
		if (json_text(data, "sudo_user") != NULL) {
			sbuf_add_str(out, " (sudo of ");
			page_text(out, json_text(data, "sudo_user"));
			sbuf_add_char(out, ')');
		}
		sbuf_add_str(out, "<td class=\"mono\">");
		page_text(out, json_text(data, "command"));
		sbuf_add_str(out, "<td>");
		page_text(out, json_text(data, "version"));
		sbuf_add_str(out, "</tr>");
	}
	sbuf_add_str(out, "</table><p class=\"sub\">");
	for (const struct json *at = versions == NULL ? NULL : versions->first; at != NULL;
	     at = at->next) {
		sbuf_add_str(out, at == versions->first ? "" : " · ");
		page_text(out, json_text(at, "name"));
		sbuf_add_str(out, ": ");
		page_text(out, json_text(at, "version"));
	}
	sbuf_add_str(out, "</p>");
}

static void add_value(struct sbuf *out, const struct json *json)
{
	if (json->key != NULL)
		sbuf_printf(out, "%s ", json->key);
	if (json->type != JSON_ARRAY && json->type != JSON_OBJECT) {
		sbuf_add_str(out, json->text == NULL ? "null" : json->text);
		return;
	}
	sbuf_add_char(out, json->type == JSON_ARRAY ? '[' : '{');
	for (const struct json *at = json->first; at != NULL; at = at->next) {
		if (at != json->first)
			sbuf_add_str(out, ", ");
		add_value(out, at);
	}
	sbuf_add_char(out, json->type == JSON_ARRAY ? ']' : '}');
}

static void journal(const struct page *page, struct sbuf *out)
{
	sbuf_add_str(out, "<h2>Journal</h2><details><summary>every record</summary><table><tr><th>"
	                  "time<th>record<th>evidence</tr>");
	for (const struct json *at = page->records.first; at != NULL; at = at->next) {
		const struct json *data = json_get(at, "data");
		struct sbuf text;
		char *shown;

		sbuf_init(&text, PAGE_MAX);
		if (data != NULL && data->first != NULL)
			add_value(&text, data);
		/* Without the name and the bracket of the object. */
		shown =
		    mem_must_printf("%.*s", DATA_SHOWN, text.len > 6 ? sbuf_text(&text) + 6 : "");
		if (text.len > 6 && strlen(shown) == text.len - 6)
			shown[strlen(shown) - 1] = '\0';
		sbuf_add_str(out, "<tr><td class=\"mono\">");
		page_text(out, json_text(at, "time"));
		sbuf_add_str(out, "<td>");
		page_text(out, json_text(at, "phase"));
		sbuf_add_str(out, ", ");
		page_text(out, json_text(at, "kind"));
		sbuf_add_str(out, "<td class=\"mono\">");
		page_text(out, shown);
		sbuf_add_str(out, "</tr>");
		free(shown);
		sbuf_free(&text);
	}
	sbuf_add_str(out, "</table></details>");
}

/* ---- the page ---- */

static void read_records(struct page *page)
{
	const char *slash = strrchr(page->directory, '/');
	char *parent = mem_must_strndup(page->directory,
	                                slash == NULL ? 0 : (size_t)(slash - page->directory));
	struct sbuf error;

	sbuf_init(&error, 4096);
	if (slash == NULL || !journal_read(parent, slash + 1, &page->records, &error))
		page->records = (struct journal_records){0};
	sbuf_free(&error);
	free(parent);
}

static bool save(const char *directory, const struct sbuf *page)
{
	struct journal journal;
	bool ok;

	journal_init(&journal);
	journal.directory = mem_must_strdup(directory);
	ok = sbuf_ok(page) && journal_save(&journal, PAGE_FILE, sbuf_text(page));
	journal_close(&journal);
	return ok;
}

bool page_save(const char *directory)
{
	struct page page = {.directory = directory,
	                    .report = read_json(directory, "report.json"),
	                    .comparison = read_json(directory, "comparison.json"),
	                    .samples = read_lines(directory, SAMPLES_FILE)};
	struct sbuf out;
	bool ok = page.report != NULL;

	read_records(&page);
	sbuf_init(&out, PAGE_MAX);
	if (ok) {
		head(&page, &out);
		tiles(&page, &out);
		problems(&page, &out);
		charts(&page, &out);
		waits(&page, &out);
		errors(&page, &out);
		prediction(&page, &out);
		proof(&page, &out);
		comparison(&page, &out);
		phases(&page, &out);
		people(&page, &out);
		journal(&page, &out);
		sbuf_add_str(&out, "</main></body></html>\n");
		ok = save(directory, &out);
	}
	sbuf_free(&out);
	json_free(page.report);
	json_free(page.comparison);
	json_free(page.samples);
	journal_records_free(&page.records);
	return ok;
}
