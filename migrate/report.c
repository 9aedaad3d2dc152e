/* SPDX-License-Identifier: PostgreSQL */
/*
 * The account of a move: shown at the end, and kept as report.json next to the journal.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/lsn.h"
#include "migrate/move.h"
#include "migrate/page.h"
#include "migrate/predict.h"
#include "migrate/prepared.h"
#include "migrate/verify.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORT_MAX ((size_t)16 * 1024 * 1024)

/* When the last router let its clients go on; 0 if none did. */
static usec_t last_release(const struct move *move)
{
	usec_t last = 0;

	for (size_t i = 0; i < move->shard_count; i++)
		if (move->shards[i].released_at > last)
			last = move->shards[i].released_at;
	return last;
}

/* First HOLD sent to last RELEASE answered, over all shards; without proxies from the fence to the
 * opening.  0 = it did not come to that. */
static usec_t total_hold(const struct move *move)
{
	usec_t from = 0;
	usec_t to = last_release(move);

	for (size_t i = 0; i < move->shard_count; i++) {
		const struct shard *shard = &move->shards[i];

		if (shard->held_at != 0 && (from == 0 || shard->held_at < from))
			from = shard->held_at;
	}
	/* A resumed move: when its clients began to wait, an earlier run knew. */
	if (move->resumed)
		return 0;
	if (from == 0) {
		from = move->times[PHASE_FENCE].began;
		to = move->times[PHASE_OPEN].ok ? move->times[PHASE_OPEN].ended : 0;
	}
	return from == 0 || to <= from ? 0 : to - from;
}

/* From the last drained router to the last release, without terminate and promotion: what the
 * program itself costs.  What a release has still to clear away afterwards makes nobody wait. */
static usec_t overhead(const struct move *move)
{
	usec_t drained = move->times[PHASE_HOLD].ended;
	usec_t released = last_release(move);

	if (!move->times[PHASE_RELEASE].ok || move->resumed)
		return 0;
	if (released == 0)
		released = move->times[PHASE_OPEN].ended;
	return released - drained -
	       (move->times[PHASE_TERMINATE].ended - move->times[PHASE_TERMINATE].began) -
	       (move->promoted_at - move->promote_sent_at);
}

/* The wall clock, in microseconds since 1970, of an instant of the program. */
static int64_t wall_of(usec_t instant)
{
	return instant == 0 ? 0 : clock_wall() - clock_now() + instant;
}

/* The arguments as they were given.  No secret is ever among them. */
static char *command_line_text(void)
{
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	char bytes[4096];
	ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof(bytes) - 1);

	if (fd >= 0)
		(void)close(fd);
	for (ssize_t i = 0; i + 1 < n; i++) {
		if (bytes[i] == '\0')
			bytes[i] = ' ';
	}
	bytes[n < 0 ? 0 : n] = '\0';
	return mem_must_strdup(bytes);
}

static void who_json(struct sbuf *out)
{
	const struct passwd *user = getpwuid(getuid());
	const char *behind = getenv("SUDO_USER");
	char host[256] = "?";
	char *text = command_line_text();

	(void)gethostname(host, sizeof(host) - 1);
	json_str(out, "operator", user == NULL ? "?" : user->pw_name);
	if (behind != NULL)
		json_str(out, "sudo_user", behind);
	json_str(out, "host", host);
	json_str(out, "command", text);
	json_str(out, "version", PGSHUNT_VERSION);
	free(text);
}

bool report_who(struct move *move)
{
	struct sbuf data;
	bool ok;

	sbuf_init(&data, 16384);
	who_json(&data);
	ok = journal_write(&move->journal, "outcome", "command", sbuf_text(&data), false);
	sbuf_free(&data);
	return ok;
}

static void version_json(struct sbuf *out, const struct link *link, bool console)
{
	int number = link->conn == NULL ? 0 : PQserverVersion(link->conn);
	const char *text =
	    link->conn == NULL ? NULL : PQparameterStatus(link->conn, "server_version");

	if (number == 0 || text == NULL)
		return;
	json_open(out, NULL, '{');
	json_str(out, "name", link->name);
	json_str(out, "kind", console ? "proxy" : "server");
	json_str(out, "version", text);
	json_close(out, '}');
}

static void versions_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "versions", '[');
	version_json(out, &move->source.link, false);
	version_json(out, &move->target.link, false);
	for (size_t i = 0; i < move->proxy_count; i++)
		version_json(out, &move->proxies[i].status, true);
	json_close(out, ']');
}

/* How many requests waited when the routes were swapped, and how long the first of them did. */
static void stall_json(const struct move *move, struct sbuf *out)
{
	int64_t held = 0;
	usec_t longest = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];
		usec_t rest = route->shard->released_at - route->swapped_at;

		held += route->clients_held;
		if (route->clients_held > 0 && rest >= 0 && route->longest_wait + rest > longest)
			longest = route->longest_wait + rest;
	}
	json_int(out, "clients_held", held);
	json_msec(out, "longest_stall_ms", longest);
	json_int(out, "held_from", wall_of(move->times[PHASE_HOLD].began));
	json_int(out, "held_to", wall_of(move->times[PHASE_HOLD].began + total_hold(move)));
}

static void phases_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "phases", '[');
	for (enum phase phase = 0; phase < PHASE_COUNT; phase++) {
		const struct phase_time *time = &move->times[phase];

		if (time->ended == 0)
			continue;
		json_open(out, NULL, '{');
		json_str(out, "name", phase_row(phase)->name);
		json_bool(out, "ok", time->ok);
		json_msec(out, "ms", time->ended - time->began);
		json_int(out, "began", wall_of(time->began));
		json_close(out, '}');
	}
	json_close(out, ']');
}

static void shards_json(const struct move *move, struct sbuf *out)
{
	json_open(out, "shards", '[');
	for (size_t i = 0; i < move->shard_count; i++) {
		const struct shard *shard = &move->shards[i];

		json_open(out, NULL, '{');
		json_str(out, "name", shard->name);
		json_str(out, "dbname", shard->dbname);
		json_int(out, "terminated", (int64_t)shard->sessions);
		if (shard->drained_at != 0)
			json_msec(out, "drain_ms", shard->drained_at - shard->held_at);
		if (shard->released_at != 0 && shard->held_at != 0 && !move->resumed)
			json_msec(out, "hold_ms", shard->released_at - shard->held_at);
		json_close(out, '}');
	}
	json_close(out, ']');
}

static void report_json(const struct move *move, enum exit_code code, int status, struct sbuf *out)
{
	char text[LSN_TEXT_MAX];
	char time_text[CLOCK_TEXT_MAX];

	json_str(out, "result", exit_row(code)->word);
	json_int(out, "exit_code", status);
	json_str(out, "move", move->journal.id);
	json_str(out, "finished", clock_format(clock_wall(), time_text));
	who_json(out);
	versions_json(move, out);
	json_bool(out, "resumed", move->resumed);
	if (move->source.conf != NULL)
		json_str(out, "source", move->source.conf->name);
	if (move->target.conf != NULL)
		json_str(out, "target", move->target.conf->name);
	shards_json(move, out);
	phases_json(move, out);
	if (!move->resumed && move->times[PHASE_SWAP].ok)
		stall_json(move, out);
	outcome_json(move, out);
	if (!move->resumed)
		json_msec(out, "hold_ms", total_hold(move));
	json_msec(out, "overhead_ms", overhead(move));
	json_msec(out, "promote_ms",
	          move->promoted_at == 0 ? 0 : move->promoted_at - move->promote_sent_at);
	json_int(out, "terminated", move->terminated);
	json_raw(out, "prepared", move->prepared == NULL ? "[]" : move->prepared);
	json_str(out, "system_identifier", move->system_identifier);
	json_str(out, "barrier", move->barrier == 0 ? NULL : lsn_format(move->barrier, text));
	json_str(out, "switch_point",
	         move->switch_point == 0 ? NULL : lsn_format(move->switch_point, text));
	json_int(out, "old_timeline", move->old_timeline);
	json_int(out, "new_timeline", move->new_timeline);
	json_open(out, "sessions", '[');
	json_raw(out, NULL, sbuf_text(&move->sessions));
	json_close(out, ']');
	json_str(out, "failure", move->failure);
	json_str(out, "failed_phase",
	         move->failure == NULL ? NULL : phase_row(move->failed_phase)->name);
	json_str(out, "problems", sbuf_text(&move->problems));
}

static void report_print(struct move *move, enum exit_code code, int status)
{
	struct ui *ui = move->ui;
	char barrier[LSN_TEXT_MAX];
	char point[LSN_TEXT_MAX];

	ui_line(ui, "result: %s (exit code %d)", exit_row(code)->word, status);
	if (move->failure != NULL)
		ui_line(ui, "  reason: %s: %s", phase_row(move->failed_phase)->title,
		        move->failure);
	if (total_hold(move) > 0)
		ui_line(ui,
		        "  clients held %.1f ms (terminating sessions %.1f ms, promotion %.1f ms, "
		        "all else after the drain %.1f ms)",
		        (double)total_hold(move) / 1000.0,
		        (double)(move->times[PHASE_TERMINATE].ended -
		                 move->times[PHASE_TERMINATE].began) /
		            1000.0,
		        (double)(move->promoted_at - move->promote_sent_at) / 1000.0,
		        (double)overhead(move) / 1000.0);
	outcome_print(move);
	if (move->switch_point != 0)
		ui_line(ui,
		        "  barrier %s, switch point %s, timeline %" PRId64 " -> %" PRId64
		        ", %" PRId64 " sessions ended on %s",
		        lsn_format(move->barrier, barrier), lsn_format(move->switch_point, point),
		        move->old_timeline, move->new_timeline, move->terminated,
		        move->source.conf->name);
	prepared_print(move);
	if (move->sessions_moved > 0)
		ui_line(ui,
		        "  %" PRId64 " sessions of session pools went along; the report has the "
		        "digests of their states on both servers",
		        move->sessions_moved);
	if (move->problems.len > 0)
		ui_line(ui, "  %s:\n%.*s", code == EXIT_DONE ? "problems met" : "to be repaired",
		        (int)move->problems.len - 1, sbuf_text(&move->problems));
	if (move->journal.directory != NULL)
		ui_line(ui, "  journal and report: %s", move->journal.directory);
}

void report_finish(struct move *move, enum exit_code code, int status)
{
	struct sbuf members;
	struct sbuf file;

	ui_hurry(move->ui, false);
	sbuf_init(&members, REPORT_MAX);
	report_json(move, code, status, &members);
	report_print(move, code, status);
	if (!move->resumed)
		predict_compare(move, code == EXIT_DONE ? total_hold(move) : 0, &members);
	ui_event(move->ui, "report", sbuf_text(&members));
	if (move->journal.directory != NULL) {
		sbuf_init(&file, REPORT_MAX + 16);
		sbuf_printf(&file, "{%s}\n", sbuf_text(&members));
		if (!journal_save(&move->journal, "report.json", sbuf_text(&file)))
			ui_error(move->ui, "report.json could not be written to %s",
			         move->journal.directory);
		if (!page_save(move->journal.directory))
			ui_error(move->ui, PAGE_FILE " could not be written to %s",
			         move->journal.directory);
		sbuf_free(&file);
	}
	sbuf_free(&members);
}

/* ---- the comparison ---- */

#define COMPARISON_FILE "comparison.json"

void report_comparison(struct move *move)
{
	struct sbuf file;

	if (move->journal.directory == NULL || move->verify == NULL)
		return;
	sbuf_init(&file, REPORT_MAX);
	json_open(&file, NULL, '{');
	verify_json(move->verify, &file);
	sbuf_add_str(&file, "}\n");
	if (!sbuf_ok(&file) || !journal_save(&move->journal, COMPARISON_FILE, sbuf_text(&file)))
		ui_error(move->ui, COMPARISON_FILE " could not be written to %s",
		         move->journal.directory);
	if (!page_save(move->journal.directory))
		ui_error(move->ui, PAGE_FILE " could not be written to %s",
		         move->journal.directory);
	sbuf_free(&file);
}

bool report_has_comparison(const struct move *move, enum exit_code *code)
{
	char *text = journal_load(move->journal.directory, COMPARISON_FILE);
	struct json *json = text == NULL ? NULL : json_parse(text);
	const char *exact = json_text(json, "exact");
	const char *state = json_text(json, "state");
	bool complete = false;

	if (exact != NULL && strcmp(exact, "true") == 0 && state != NULL) {
		bool equal = strcmp(state, verify_state_name(VERIFY_EQUAL)) == 0;

		complete = equal || strcmp(state, verify_state_name(VERIFY_DIFFERS)) == 0;
		if (complete)
			*code = equal ? EXIT_DONE : EXIT_DIFFERS;
	}
	json_free(json);
	free(text);
	return complete;
}
