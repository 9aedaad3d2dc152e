/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/json.h"

#include "base/mem.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Deeper nesting is refused: the reader recurses. */
#define JSON_DEPTH_MAX 32

static void add_quoted(struct sbuf *out, const char *text)
{
	sbuf_add_char(out, '"');
	for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
		if (*p == '"' || *p == '\\')
			sbuf_printf(out, "\\%c", *p);
		else if (*p == '\n')
			sbuf_add_str(out, "\\n");
		else if (*p < 0x20)
			sbuf_printf(out, "\\u%04x", *p);
		else
			sbuf_add_char(out, (char)*p);
	}
	sbuf_add_char(out, '"');
}

static void add_key(struct sbuf *out, const char *key)
{
	if (out->len > 0 && strchr("{[:", out->data[out->len - 1]) == NULL)
		sbuf_add_char(out, ',');
	if (key != NULL) {
		add_quoted(out, key);
		sbuf_add_char(out, ':');
	}
}

void json_open(struct sbuf *out, const char *key, char bracket)
{
	add_key(out, key);
	sbuf_add_char(out, bracket);
}

void json_close(struct sbuf *out, char bracket)
{
	sbuf_add_char(out, bracket);
}

void json_str(struct sbuf *out, const char *key, const char *value)
{
	add_key(out, key);
	if (value == NULL)
		sbuf_add_str(out, "null");
	else
		add_quoted(out, value);
}

void json_int(struct sbuf *out, const char *key, int64_t value)
{
	add_key(out, key);
	sbuf_printf(out, "%" PRId64, value);
}

void json_bool(struct sbuf *out, const char *key, bool value)
{
	add_key(out, key);
	sbuf_add_str(out, value ? "true" : "false");
}

void json_msec(struct sbuf *out, const char *key, int64_t usec)
{
	add_key(out, key);
	sbuf_printf(out, "%.3f", (double)usec / 1000.0);
}

void json_raw(struct sbuf *out, const char *key, const char *json)
{
	if (key == NULL && *json == '\0')
		return;
	add_key(out, key);
	sbuf_add_str(out, *json == '\0' ? "null" : json);
}

/* ---- reading ---- */

struct reader {
	const char *at;
	int depth;
};

static struct json *read_value(struct reader *in);

static void skip_blanks(struct reader *in)
{
	in->at += strspn(in->at, " \t\r\n");
}

static int hex4(const char *at)
{
	int value = 0;

	for (int i = 0; i < 4; i++) {
		int c = tolower((unsigned char)at[i]);

		if (!isxdigit(c))
			return -1;
		value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
	}
	return value;
}

/* The escape after a backslash; only what add_quoted() and common writers make. */
static bool read_escape(struct reader *in, char **out)
{
	static const char from[] = "\"\\/bfnrt";
	static const char to[] = "\"\\/\b\f\n\r\t";
	const char *found = *in->at == '\0' ? NULL : strchr(from, *in->at);
	int code;

	if (found != NULL) {
		*(*out)++ = to[found - from];
		in->at++;
		return true;
	}
	if (*in->at != 'u')
		return false;
	code = hex4(in->at + 1);
	if (code <= 0 || code > 0x7f)
		return false;
	*(*out)++ = (char)code;
	in->at += 5;
	return true;
}

/* A string, the opening quote already at `at`; NULL if malformed. */
static char *read_string(struct reader *in)
{
	char *text = mem_must_alloc(strlen(in->at) + 1);
	char *out = text;

	for (in->at++; *in->at != '\0' && *in->at != '"';) {
		if (*in->at != '\\') {
			*out++ = *in->at++;
			continue;
		}
		in->at++;
		if (!read_escape(in, &out))
			break;
	}
	if (*in->at != '"') {
		free(text);
		return NULL;
	}
	in->at++;
	*out = '\0';
	return text;
}

/* The members of an object or elements of an array, after the opening bracket. */
static bool read_children(struct reader *in, struct json *parent)
{
	char end = parent->type == JSON_OBJECT ? '}' : ']';
	struct json **tail = &parent->first;

	skip_blanks(in);
	if (*in->at == end)
		return in->at++, true;
	for (;;) {
		char *key = NULL;

		skip_blanks(in);
		if (end == '}') {
			key = *in->at == '"' ? read_string(in) : NULL;
			skip_blanks(in);
			if (key == NULL || *in->at != ':') {
				free(key);
				return false;
			}
			in->at++;
		}
		*tail = read_value(in);
		if (*tail == NULL) {
			free(key);
			return false;
		}
		(*tail)->key = key;
		tail = &(*tail)->next;
		skip_blanks(in);
		if (*in->at == end)
			return in->at++, true;
		if (*in->at != ',')
			return false;
		in->at++;
	}
}

static bool read_word(struct reader *in, struct json *json)
{
	size_t len = strspn(in->at, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");

	if (len == 0)
		return false;
	json->text = mem_must_strndup(in->at, len);
	in->at += len;
	if (strcmp(json->text, "true") == 0 || strcmp(json->text, "false") == 0) {
		json->type = JSON_BOOL;
	} else if (strcmp(json->text, "null") == 0) {
		json->type = JSON_NULL;
		free(json->text);
		json->text = NULL;
	} else {
		char *end;

		json->type = JSON_NUMBER;
		(void)strtod(json->text, &end);
		return *end == '\0';
	}
	return true;
}

static struct json *read_value(struct reader *in)
{
	struct json *json = mem_must_alloc(sizeof(*json));
	bool ok;

	skip_blanks(in);
	if (++in->depth > JSON_DEPTH_MAX) {
		ok = false;
	} else if (*in->at == '{' || *in->at == '[') {
		json->type = *in->at == '{' ? JSON_OBJECT : JSON_ARRAY;
		in->at++;
		ok = read_children(in, json);
	} else if (*in->at == '"') {
		json->type = JSON_STRING;
		json->text = read_string(in);
		ok = json->text != NULL;
	} else {
		ok = read_word(in, json);
	}
	in->depth--;
	if (!ok) {
		json_free(json);
		return NULL;
	}
	return json;
}

struct json *json_parse(const char *text)
{
	struct reader in = {.at = text};
	struct json *json = read_value(&in);

	if (json == NULL)
		return NULL;
	skip_blanks(&in);
	if (*in.at != '\0') {
		json_free(json);
		return NULL;
	}
	return json;
}

void json_free(struct json *json)
{
	while (json != NULL) {
		struct json *next = json->next;

		json_free(json->first);
		free(json->key);
		free(json->text);
		free(json);
		json = next;
	}
}

const struct json *json_get(const struct json *json, const char *key)
{
	if (json == NULL || json->type != JSON_OBJECT)
		return NULL;
	for (const struct json *at = json->first; at != NULL; at = at->next) {
		if (strcmp(at->key, key) == 0)
			return at;
	}
	return NULL;
}

const char *json_text(const struct json *json, const char *key)
{
	const struct json *member = json_get(json, key);

	return member == NULL ? NULL : member->text;
}

int64_t json_number(const struct json *json, const char *key, int64_t otherwise)
{
	const struct json *member = json_get(json, key);

	if (member == NULL || member->type != JSON_NUMBER)
		return otherwise;
	return strtoll(member->text, NULL, 10);
}
