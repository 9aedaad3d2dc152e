/* SPDX-License-Identifier: PostgreSQL */
/*
 * A log line as JSON: one object, valid UTF-8 whatever the texts are, cut rather than broken.
 */
#include "base/log_internal.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* "}\n", the quote before it and the longest escape have room after whatever was cut. */
#define TAIL 16
/* No value from outside takes more than this of the line, so that the message has its place. */
#define VALUE_MAX 700

struct line {
	char *text;
	size_t len;
};

static void put_raw(struct line *line, const char *text)
{
	size_t len = strlen(text);

	if (line->len + len + TAIL > LOG_LINE_MAX)
		return;
	memcpy(line->text + line->len, text, len);
	line->len += len;
}

static size_t escape(const unsigned char *p, size_t left, char out[8], size_t *out_len)
{
	size_t n = utf8_length(p, left);

	if (n == 0) {
		memcpy(out, "\xef\xbf\xbd", 3); /* U+FFFD */
		*out_len = 3;
		return 1;
	}
	if (*p == '"' || *p == '\\') {
		out[0] = '\\';
		out[1] = (char)*p;
		*out_len = 2;
	} else if (*p < 0x20 || *p == 0x7f) {
		(void)snprintf(out, 8, "\\u%04x", *p);
		*out_len = 6;
	} else {
		memcpy(out, p, n);
		*out_len = n;
	}
	return n;
}

static void put_string(struct line *line, const char *text, size_t max)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t left = strlen(text);
	size_t end = line->len + max;

	if (end > LOG_LINE_MAX - TAIL)
		end = LOG_LINE_MAX - TAIL;
	line->text[line->len++] = '"';
	while (left > 0) {
		char escaped[8];
		size_t len;
		size_t used = escape(p, left, escaped, &len);

		if (line->len + len > end)
			break;
		memcpy(line->text + line->len, escaped, len);
		line->len += len;
		p += used;
		left -= used;
	}
	line->text[line->len++] = '"';
}

static void put_text(struct line *line, const char *name, const char *value)
{
	if (value == NULL || *value == '\0')
		return;
	put_raw(line, ", \"");
	put_raw(line, name);
	put_raw(line, "\": ");
	put_string(line, value, VALUE_MAX);
}

static void put_number(struct line *line, const char *name, uint64_t value)
{
	char text[64];

	(void)snprintf(text, sizeof(text), ", \"%s\": %" PRIu64, name, value);
	put_raw(line, text);
}

static void put_about(struct line *line, const struct log_about *about)
{
	put_text(line, "database", about->database);
	put_text(line, "user", about->user);
	put_text(line, "client_address", about->client_address);
	if (about->client_port > 0)
		put_number(line, "client_port", (uint64_t)about->client_port);
	if (about->client_id > 0)
		put_number(line, "client_id", about->client_id);
	put_text(line, "server", about->server);
	if (about->server_pid > 0)
		put_number(line, "server_pid", (uint64_t)about->server_pid);
}

size_t log_format_json(char text[LOG_LINE_MAX], enum log_level level, const char *when, int worker,
                       const struct log_about *about, unsigned left_out, const char *message)
{
	struct line line = {text, 0};

	put_raw(&line, "{\"time\": ");
	put_string(&line, when, VALUE_MAX);
	put_text(&line, "level", log_level_name(level));
	put_number(&line, "pid", (uint64_t)getpid());
	if (worker >= 0)
		put_number(&line, "worker", (uint64_t)worker);
	if (about != NULL)
		put_about(&line, about);
	if (left_out > 0)
		put_number(&line, "left_out", left_out);
	put_raw(&line, ", \"message\": ");
	put_string(&line, message, LOG_LINE_MAX);
	text[line.len++] = '}';
	text[line.len++] = '\n';
	return line.len;
}
