/* SPDX-License-Identifier: PostgreSQL */
/* SQL templates; see script.h. */
#include "script.h"

#include "base/mem.h"
#include "base/sbuf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_TEXT_MAX ((size_t)64 * 1024)
#define OID_INT8 20
#define OID_INT4 23

static const struct {
	const char *name;
	unsigned type;
} placeholders[VALUE_COUNT] = {
    [VALUE_RUN] = {":run", OID_INT8},
    [VALUE_CLIENT] = {":client", OID_INT4},
    [VALUE_NUMBER] = {":number", OID_INT8},
};

/* The placeholder that starts at `at`, or VALUE_COUNT. */
static enum script_value placeholder_at(const char *at)
{
	for (int i = 0; i < VALUE_COUNT; i++) {
		if (strncmp(at, placeholders[i].name, strlen(placeholders[i].name)) == 0)
			return (enum script_value)i;
	}
	return VALUE_COUNT;
}

/* Copies `text` and calls for each placeholder; "::" is a cast and never one. */
static char *transform(const char *text, struct script *declare, const struct script_values *values)
{
	struct sbuf out;

	sbuf_init(&out, SCRIPT_TEXT_MAX);
	for (const char *at = text; *at != '\0';) {
		enum script_value value = placeholder_at(at);

		if (at[0] == ':' && at[1] == ':') {
			sbuf_add(&out, at, 2);
			at += 2;
		} else if (value == VALUE_COUNT) {
			sbuf_add_char(&out, *at++);
		} else {
			at += strlen(placeholders[value].name);
			if (values != NULL) {
				sbuf_printf(&out, "%" PRId64, values->number[value]);
				continue;
			}
			if (declare->count == SCRIPT_PARAMS_MAX) {
				sbuf_free(&out);
				return NULL;
			}
			declare->values[declare->count] = value;
			declare->types[declare->count] = placeholders[value].type;
			sbuf_printf(&out, "$%d", ++declare->count);
		}
	}
	return sbuf_take(&out);
}

bool script_parse(struct script *script, const char *text)
{
	script_free(script);
	script->text = mem_must_strdup(text);
	script->params = transform(text, script, NULL);
	if (script->params == NULL)
		fprintf(stderr, "pgshunt_load: too long, or too many placeholders: %.60s…\n", text);
	return script->params != NULL;
}

void script_free(struct script *script)
{
	free(script->text);
	free(script->params);
	memset(script, 0, sizeof(*script));
}

char *script_expand(const struct script *script, const struct script_values *values)
{
	char *text = transform(script->text, NULL, values);

	if (text == NULL) {
		fprintf(stderr, "pgshunt_load: a statement is too long\n");
		exit(2);
	}
	return text;
}

void script_bind(const struct script *script, const struct script_values *values,
                 char text[SCRIPT_PARAMS_MAX][SCRIPT_NUMBER_MAX],
                 const char *params[SCRIPT_PARAMS_MAX])
{
	for (int i = 0; i < script->count; i++) {
		snprintf(text[i], SCRIPT_NUMBER_MAX, "%" PRId64, values->number[script->values[i]]);
		params[i] = text[i];
	}
}
