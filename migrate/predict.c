/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/predict.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1024 * 1024)
/* What a promotion takes where no earlier one tells: measured 30 to 60 ms on idle machines. */
#define PROMOTE_LOW (50 * USEC_PER_MSEC)
#define PROMOTE_HIGH (200 * USEC_PER_MSEC)
/* Of earlier moves that many count. */
#define HISTORY_MAX 5

static const char *const part_titles[PART_COUNT] = {
    [PART_DRAIN] = "transactions end", [PART_FENCE] = "fence",
    [PART_TERMINATE] = "sessions end", [PART_REPLAY] = "barrier and replay",
    [PART_PROMOTE] = "promotion",      [PART_OPEN] = "proof and opening",
    [PART_SWAP] = "swap and release",
};

static const char *const part_names[PART_COUNT] = {
    [PART_DRAIN] = "drain",   [PART_FENCE] = "fence",     [PART_TERMINATE] = "terminate",
    [PART_REPLAY] = "replay", [PART_PROMOTE] = "promote", [PART_OPEN] = "open",
    [PART_SWAP] = "swap",
};

const char *part_title(enum part part)
{
	return part_titles[part];
}

void samples_add(struct samples *samples, usec_t value)
{
	if (samples->count < SAMPLES_MAX)
		samples->values[samples->count++] = value;
}

static int by_value(const void *left, const void *right)
{
	usec_t a = *(const usec_t *)left;
	usec_t b = *(const usec_t *)right;

	return a < b ? -1 : a > b;
}

usec_t samples_at(const struct samples *samples, int percent)
{
	struct samples sorted = *samples;
	size_t rank;

	if (sorted.count == 0)
		return 0;
	qsort(sorted.values, sorted.count, sizeof(sorted.values[0]), by_value);
	/* The nearest rank: the smallest value that at least so many do not exceed. */
	rank = (sorted.count * (size_t)percent + 99) / 100;
	return sorted.values[rank == 0 ? 0 : rank - 1];
}

static void spread(const struct samples *samples, usec_t *low, usec_t *high)
{
	*low = samples_at(samples, 50);
	*high = samples_at(samples, 95);
}

void predict_part(const struct prediction *prediction, enum part part, usec_t *low, usec_t *high)
{
	int64_t times;

	*low = 0;
	*high = 0;
	switch (part) {
	case PART_DRAIN:
		spread(&prediction->drain, low, high);
		break;
	case PART_FENCE:
		spread(&prediction->commit, low, high);
		break;
	case PART_TERMINATE:
		/* In proportion, rounded up; those that the proxies seal are not waited for. */
		times =
		    prediction->terminated == 0
		        ? 0
		        : (prediction->sessions - prediction->sealed + prediction->terminated - 1) /
		              prediction->terminated;
		*low = prediction->terminate * (times > 0 ? times : 0);
		*high = 2 * *low;
		break;
	case PART_REPLAY:
		spread(&prediction->replay, low, high);
		break;
	case PART_PROMOTE:
		*low = prediction->promote == 0 ? PROMOTE_LOW : prediction->promote;
		*high = prediction->promote == 0 ? PROMOTE_HIGH : 2 * prediction->promote;
		break;
	case PART_OPEN:
		spread(&prediction->commit, low, high);
		break;
	case PART_SWAP:
		spread(&prediction->console, low, high);
		*low *= 2;
		*high *= 2;
		break;
	case PART_COUNT:
		break;
	}
}

void predict_total(const struct prediction *prediction, usec_t *low, usec_t *high)
{
	*low = 0;
	*high = 0;
	for (enum part part = 0; part < PART_COUNT; part++) {
		usec_t at_least;
		usec_t at_most;

		predict_part(prediction, part, &at_least, &at_most);
		*low += at_least;
		*high += at_most;
	}
}

/* ---- files ---- */

static struct json *read_json(const char *path)
{
	char *text = mem_must_alloc(FILE_MAX + 1);
	struct json *json = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	while (fd >= 0 && len < FILE_MAX && (n = read(fd, text + len, FILE_MAX - len)) > 0)
		len += (size_t)n;
	if (fd >= 0) {
		(void)close(fd);
		while (len > 0 && text[len - 1] == '\n')
			len--;
		text[len] = '\0';
		json = json_parse(text);
	}
	free(text);
	return json;
}

static usec_t msec_of(const struct json *json, const char *key)
{
	const char *text = json_text(json, key);

	return text == NULL ? 0 : (usec_t)(strtod(text, NULL) * 1000.0);
}

usec_t predict_promotion(const char *journal_directory)
{
	char **ids;
	size_t count = journal_list(journal_directory, true, &ids);
	usec_t slowest = 0;
	size_t used = 0;

	for (size_t i = count; i-- > 0;) {
		char *path = mem_must_printf("%s/%s/report.json", journal_directory, ids[i]);
		struct json *report = used < HISTORY_MAX ? read_json(path) : NULL;
		usec_t promote = msec_of(report, "promote_ms");

		if (promote > 0)
			used++;
		if (promote > slowest)
			slowest = promote;
		json_free(report);
		free(path);
		free(ids[i]);
	}
	free(ids);
	return slowest;
}

/* One file for the shards and the target, whatever the order in which they were named. */
static char *file_of(const struct move *move)
{
	uint64_t sum = 0;
	char *path;

	for (size_t i = 0; i < move->shard_count; i++) {
		uint64_t hash = 14695981039346656037u; /* FNV-1a */

		for (const char *p = move->shards[i].dbname; *p != '\0'; p++)
			hash = (hash ^ (unsigned char)*p) * 1099511628211u;
		sum += hash;
	}
	path =
	    mem_must_printf("%s/rehearsal-%016llx-%s.json", move->config->mover.journal_directory,
	                    (unsigned long long)sum, move->target.conf->name);
	/* A server may have any name. */
	for (char *p = path + strlen(move->config->mover.journal_directory) + 1; *p != '\0'; p++) {
		if (*p == '/')
			*p = '_';
	}
	return path;
}

static void samples_json(const struct samples *samples, const char *name, struct sbuf *out)
{
	json_open(out, name, '{');
	json_int(out, "samples", (int64_t)samples->count);
	json_msec(out, "p50_ms", samples_at(samples, 50));
	json_msec(out, "p95_ms", samples_at(samples, 95));
	json_msec(out, "max_ms", samples_at(samples, 100));
	json_close(out, '}');
}

void predict_json(const struct prediction *prediction, struct sbuf *out)
{
	usec_t low;
	usec_t high;

	predict_total(prediction, &low, &high);
	json_msec(out, "hold_low_ms", low);
	json_msec(out, "hold_high_ms", high);
	json_open(out, "parts", '{');
	for (enum part part = 0; part < PART_COUNT; part++) {
		predict_part(prediction, part, &low, &high);
		json_open(out, part_names[part], '{');
		json_msec(out, "low_ms", low);
		json_msec(out, "high_ms", high);
		json_close(out, '}');
	}
	json_close(out, '}');
	samples_json(&prediction->drain, "drain", out);
	samples_json(&prediction->replay, "replay", out);
	samples_json(&prediction->commit, "commit", out);
	samples_json(&prediction->console, "console", out);
	samples_json(&prediction->fsync, "journal_fsync", out);
	json_int(out, "undrained", (int64_t)prediction->undrained);
	json_bool(out, "held", prediction->held);
	json_int(out, "sessions", prediction->sessions);
	json_int(out, "sealed", prediction->sealed);
	json_msec(out, "connect_ms", prediction->connect);
	json_int(out, "connections", prediction->connections);
	json_bool(out, "promotion_known", prediction->promote != 0);
}

bool predict_save(const struct move *move, const struct prediction *prediction, bool go,
                  struct sbuf *error)
{
	char now[CLOCK_TEXT_MAX];
	char *path = file_of(move);
	char *temporary = mem_must_printf("%s.new", path);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	struct sbuf text;
	bool ok;

	sbuf_init(&text, FILE_MAX);
	json_open(&text, NULL, '{');
	json_str(&text, "time", clock_format(clock_wall(), now));
	json_bool(&text, "go", go);
	predict_json(prediction, &text);
	json_close(&text, '}');
	sbuf_add_char(&text, '\n');
	ok = fd >= 0 && write(fd, text.data, text.len) == (ssize_t)text.len && fsync(fd) == 0;
	if (fd >= 0)
		(void)close(fd);
	ok = ok && rename(temporary, path) == 0;
	if (!ok)
		sbuf_printf(error, "%s: %s", path, strerror(errno));
	sbuf_free(&text);
	free(temporary);
	free(path);
	return ok;
}

/* The parts as they were predicted. */
static void parts_again(const struct json *json, struct sbuf *out)
{
	const struct json *parts = json_get(json, "parts");

	json_open(out, "parts", '{');
	for (const struct json *at = parts == NULL ? NULL : parts->first; at != NULL;
	     at = at->next) {
		json_open(out, at->key, '{');
		json_msec(out, "low_ms", msec_of(at, "low_ms"));
		json_msec(out, "high_ms", msec_of(at, "high_ms"));
		json_close(out, '}');
	}
	json_close(out, '}');
}

void predict_compare(struct move *move, usec_t hold, struct sbuf *out)
{
	struct json *json;
	usec_t low;
	usec_t high;
	char *path;

	if (move->target.conf == NULL || move->shard_count == 0)
		return;
	path = file_of(move);
	json = read_json(path);
	/* It was about this move and no later one. */
	if (hold > 0)
		(void)unlink(path);
	free(path);
	if (json == NULL)
		return;
	low = msec_of(json, "hold_low_ms");
	high = msec_of(json, "hold_high_ms");
	json_open(out, "prediction", '{');
	json_str(out, "time", json_text(json, "time"));
	json_msec(out, "hold_low_ms", low);
	json_msec(out, "hold_high_ms", high);
	json_bool(out, "met", hold > 0 && hold <= high);
	parts_again(json, out);
	json_close(out, '}');
	if (hold > 0)
		ui_line(move->ui,
		        "  predicted by the rehearsal of %s: %.1f to %.1f ms; it was %.1f ms%s",
		        json_text(json, "time") == NULL ? "?" : json_text(json, "time"),
		        (double)low / 1000.0, (double)high / 1000.0, (double)hold / 1000.0,
		        hold <= high ? "" : ": longer");
	json_free(json);
}
