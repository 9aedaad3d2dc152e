/* SPDX-License-Identifier: PostgreSQL */
/*
 * Running the scripts of pgshunt standby: their output goes to a log of its own in the journal
 * directory, and is read for answers and progress.
 */
#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/shell.h"
#include "migrate/standby.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Lines of progress where nothing can be redrawn. */
#define PROGRESS_EVERY (10 * USEC_PER_SEC)

struct reading {
	struct standby *standby;
	void (*line)(struct standby *standby, const char *line);
	char last[200]; /* what it said last, for the error */
};

static void log_line(struct standby *standby, const char *text)
{
	char now[CLOCK_TEXT_MAX];
	struct sbuf line;

	if (standby->log_fd < 0)
		return;
	sbuf_init(&line, 128 * 1024);
	sbuf_printf(&line, "%s %s\n", clock_format(clock_wall(), now), text);
	if (write(standby->log_fd, line.data, line.len) < 0)
		ui_error(standby->move->ui, "%s: %s", standby->log_path, strerror(errno));
	sbuf_free(&line);
}

static void on_line(void *arg, const char *line)
{
	struct reading *reading = arg;

	log_line(reading->standby, line);
	(void)snprintf(reading->last, sizeof(reading->last), "%s", line);
	if (reading->line != NULL)
		reading->line(reading->standby, line);
}

bool standby_script(struct standby *standby, const char *what, const char *script,
                    void (*line)(struct standby *standby, const char *line))
{
	struct move *move = standby->move;
	struct reading reading = {.standby = standby, .line = line};
	struct shell_job job = {.command = move->target.conf->shell,
	                        .script = script,
	                        .line = on_line,
	                        .arg = &reading,
	                        .stop = move->loop.stop};
	struct sbuf error;
	bool ok;

	log_line(standby, what);
	sbuf_init(&error, 1024);
	ok = shell_run(&job, &error);
	ui_status_clear(move->ui);
	if (!ok) {
		log_line(standby, sbuf_text(&error));
		(void)move_fail(move, "%s on the machine of %s %s%s%s", what,
		                move->target.conf->name, sbuf_text(&error),
		                reading.last[0] == '\0' ? "" : ": ", reading.last);
	}
	sbuf_free(&error);
	return ok;
}

bool standby_open_log(struct standby *standby)
{
	struct move *move = standby->move;
	time_t now = (time_t)(clock_wall() / USEC_PER_SEC);
	struct tm tm;
	char stamp[32];
	char *folder;

	(void)gmtime_r(&now, &tm);
	(void)strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	folder = mem_must_printf("%s/standby-%s-%.100s", move->config->mover.journal_directory,
	                         stamp, move->target.conf->name);
	for (char *p = folder + strlen(move->config->mover.journal_directory) + 1; *p != '\0';
	     p++) {
		if (*p == '/')
			*p = '_';
	}
	standby->log_path = mem_must_printf("%s/output.log", folder);
	if (mkdir(folder, 0700) == 0 || errno == EEXIST)
		standby->log_fd =
		    open(standby->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (standby->log_fd < 0)
		(void)move_fail(move, "%s: %s", standby->log_path, strerror(errno));
	free(folder);
	return standby->log_fd >= 0;
}

/* ---- answers of the probe ---- */

static bool take(const char *line, const char *name, const char **value)
{
	size_t len = strlen(name);

	if (strncmp(line, "pgshunt:", 8) != 0 || strncmp(line + 8, name, len) != 0 ||
	    line[8 + len] != '=')
		return false;
	*value = line + 8 + len + 1;
	return true;
}

static enum place_state place_of(const char *word)
{
	static const struct {
		const char *word;
		enum place_state state;
	} words[] = {{"absent", PLACE_ABSENT},
	             {"empty", PLACE_EMPTY},
	             {"cluster", PLACE_CLUSTER},
	             {"unreadable", PLACE_UNREADABLE},
	             {"other", PLACE_OTHER}};

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(word, words[i].word) == 0)
			return words[i].state;
	}
	return PLACE_UNKNOWN;
}

/* "postgres (PostgreSQL) 15.4 (Debian ...)" */
static int64_t major_of(const char *text)
{
	const char *found = strstr(text, "(PostgreSQL) ");

	return found == NULL ? 0 : strtoll(found + 13, NULL, 10);
}

void standby_read_probe(struct standby *standby, const char *line)
{
	const char *value;

	if (take(line, "state", &value)) {
		standby->place = place_of(value);
	} else if (take(line, "running", &value)) {
		standby->running = true;
	} else if (take(line, "signal", &value)) {
		standby->signal = true;
	} else if (take(line, "system", &value)) {
		free(standby->found_system);
		standby->found_system = mem_must_strdup(value);
	} else if (take(line, "cluster", &value)) {
		free(standby->found_state);
		standby->found_state = mem_must_strdup(value);
	} else if (take(line, "timeline", &value)) {
		standby->found_timeline = strtoll(value, NULL, 10);
	} else if (take(line, "version", &value)) {
		standby->found_version = major_of(value);
	} else if (take(line, "free", &value)) {
		standby->free_bytes = strtoll(value, NULL, 10) * 1024;
	}
}

/* ---- progress of pg_basebackup: "  12345/67890 kB (18%), 0/1 tablespace" ---- */

void standby_read_progress(struct standby *standby, const char *line)
{
	struct move *move = standby->move;
	int64_t done;
	int64_t all;
	usec_t now = clock_now();
	usec_t began = standby->copy_began;
	double rate;
	int64_t left;
	struct sbuf event;

	if (sscanf(line, " %" SCNd64 "/%" SCNd64 " kB", &done, &all) != 2)
		return;
	rate = now > began ? (double)done * 1024.0 * 1e6 / (double)(now - began) : 0.0;
	left = rate > 0 && all > done ? (int64_t)((double)(all - done) * 1024.0 / rate) : 0;
	ui_status(move->ui, "copied %" PRId64 " of %" PRId64 " MB, %.1f MB/s, %" PRId64 " s left",
	          done / 1024, all / 1024, rate / 1024.0 / 1024.0, left);
	if (now - standby->shown_at < PROGRESS_EVERY && done < all)
		return;
	standby->shown_at = now;
	if (!move->ui->terminal)
		ui_line(move->ui,
		        "  copied %" PRId64 " of %" PRId64 " MB, %.1f MB/s, %" PRId64 " s left",
		        done / 1024, all / 1024, rate / 1024.0 / 1024.0, left);
	sbuf_init(&event, 4096);
	json_int(&event, "bytes", done * 1024);
	json_int(&event, "total_bytes", all * 1024);
	json_int(&event, "bytes_per_second", (int64_t)rate);
	json_int(&event, "seconds_left", left);
	ui_event(move->ui, "progress", sbuf_text(&event));
	sbuf_free(&event);
}
