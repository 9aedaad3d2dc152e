/* SPDX-License-Identifier: PostgreSQL */
/*
 * JSON: appended to a string buffer, and read back from the journal into a tree.
 *
 * Writing puts the commas by itself: before a key or value whenever the last byte is not one that
 * opens something.
 */
#ifndef MIGRATE_JSON_H
#define MIGRATE_JSON_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void json_open(struct sbuf *out, const char *key,
               char bracket); /* key NULL in arrays; '{' or '[' */
void json_close(struct sbuf *out, char bracket);
void json_str(struct sbuf *out, const char *key, const char *value); /* value NULL = null */
void json_int(struct sbuf *out, const char *key, int64_t value);
void json_bool(struct sbuf *out, const char *key, bool value);
void json_msec(struct sbuf *out, const char *key, int64_t usec); /* as milliseconds, 3 decimals */
/* Already JSON: the inside of an object ("a":1,"b":2) or a whole value. */
void json_raw(struct sbuf *out, const char *key, const char *json);

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
	enum json_type type;
	char *key;  /* in an object */
	char *text; /* string without escapes; number or true/false as written */
	struct json *first;
	struct json *next;
};

/* One JSON value and nothing else; NULL if the text is not that (also when it is cut off). */
struct json *json_parse(const char *text) MUST_CHECK;
void json_free(struct json *json);

/* The member, NULL if `json` is NULL, no object or has none. */
const struct json *json_get(const struct json *json, const char *key);
/* Its text, NULL if it is not there or null. */
const char *json_text(const struct json *json, const char *key);
int64_t json_number(const struct json *json, const char *key, int64_t otherwise);

#endif
