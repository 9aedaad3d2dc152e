/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/connstr.h"

#include "base/mem.h"
#include "base/sbuf.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define CONNSTR_MAX 8192

/* One key = value: where the parts lie in the text. */
struct item {
	const char *key;
	size_t key_len;
	const char *value; /* with its quotes */
	size_t value_len;
};

static const char *skip_blanks(const char *at)
{
	while (isspace((unsigned char)*at))
		at++;
	return at;
}

/* Returns the end of the value that begins at `at`, or NULL. */
static const char *skip_value(const char *at)
{
	bool quoted = *at == '\'';

	if (quoted)
		at++;
	for (; *at != '\0'; at++) {
		if (quoted ? *at == '\'' : isspace((unsigned char)*at))
			return quoted ? at + 1 : at;
		if (*at == '\\' && *++at == '\0')
			return quoted ? NULL : at;
	}
	return quoted ? NULL : at;
}

/* Takes the next item; *at moves on.  1 = item, 0 = end, -1 = malformed. */
static int next_item(const char **at, struct item *item)
{
	const char *p = skip_blanks(*at);

	if (*p == '\0')
		return 0;
	item->key = p;
	while (*p != '\0' && *p != '=' && !isspace((unsigned char)*p))
		p++;
	item->key_len = (size_t)(p - item->key);
	p = skip_blanks(p);
	if (*p != '=' || item->key_len == 0)
		return -1;
	p = skip_blanks(p + 1);
	item->value = p;
	p = skip_value(p);
	if (p == NULL)
		return -1;
	item->value_len = (size_t)(p - item->value);
	*at = p;
	return 1;
}

static bool key_is(const struct item *item, const char *key)
{
	return strlen(key) == item->key_len && memcmp(item->key, key, item->key_len) == 0;
}

static char *unquote(const struct item *item)
{
	char *out = mem_must_alloc(item->value_len + 1);
	size_t len = 0;
	size_t i = 0;
	size_t end = item->value_len;

	if (end >= 2 && item->value[0] == '\'') {
		i++;
		end--;
	}
	for (; i < end; i++) {
		if (item->value[i] == '\\' && i + 1 < end)
			i++;
		out[len++] = item->value[i];
	}
	return out;
}

bool connstr_get(const char *connstr, const char *key, char **value)
{
	const char *at = connstr;
	struct item item;
	int got;

	*value = NULL;
	while ((got = next_item(&at, &item)) > 0) {
		if (!key_is(&item, key))
			continue;
		free(*value);
		*value = unquote(&item);
	}
	if (got < 0) {
		free(*value);
		*value = NULL;
	}
	return got == 0;
}

static void add_value(struct sbuf *out, const char *value)
{
	bool quote = *value == '\0';

	for (const char *p = value; *p != '\0'; p++)
		quote = quote || isspace((unsigned char)*p) || *p == '\'' || *p == '\\';
	if (!quote) {
		sbuf_add_str(out, value);
		return;
	}
	sbuf_add_char(out, '\'');
	for (const char *p = value; *p != '\0'; p++) {
		if (*p == '\'' || *p == '\\')
			sbuf_add_char(out, '\\');
		sbuf_add_char(out, *p);
	}
	sbuf_add_char(out, '\'');
}

/* Copies the string with the values of host and port exchanged. */
static bool copy_readdressed(const char *connstr, const char *host, int port, struct sbuf *out,
                             const char **error)
{
	const char *at = connstr;
	const char *copied = connstr;
	struct item item;
	bool has_host = false;
	bool has_port = false;
	int got;

	while ((got = next_item(&at, &item)) > 0) {
		bool is_host = key_is(&item, "host");
		bool is_port = key_is(&item, "port");

		if (key_is(&item, "hostaddr") || key_is(&item, "service")) {
			*error = "it has hostaddr or service";
			return false;
		}
		if (is_host && memchr(item.value, ',', item.value_len) != NULL) {
			*error = "it names several hosts";
			return false;
		}
		if (!is_host && !is_port)
			continue;
		sbuf_add(out, copied, (size_t)(item.value - copied));
		copied = item.value + item.value_len;
		if (is_host)
			add_value(out, host);
		else
			sbuf_printf(out, "%d", port);
		has_host = has_host || is_host;
		has_port = has_port || is_port;
	}
	if (got < 0 || !has_host) {
		*error = got < 0 ? "it is not a list of key=value" : "it has no host";
		return false;
	}
	sbuf_add_str(out, copied);
	if (!has_port && port != 5432)
		sbuf_printf(out, " port=%d", port);
	return true;
}

bool connstr_readdress(const char *connstr, const char *host, int port, char **out,
                       const char **error)
{
	struct sbuf text;

	*out = NULL;
	sbuf_init(&text, CONNSTR_MAX);
	if (copy_readdressed(connstr, host, port, &text, error)) {
		*out = sbuf_take(&text);
		if (*out == NULL)
			*error = "it is too long";
	}
	sbuf_free(&text);
	return *out != NULL;
}

bool partition_number(const char *option, int *number)
{
	const char *digits;
	long sum = 0;

	if (strncmp(option, "partition_", 10) == 0)
		digits = option + 10;
	else if (option[0] == 'p')
		digits = option + 1;
	else
		return false;
	if (*digits == '\0')
		return false;
	for (; isdigit((unsigned char)*digits); digits++) {
		sum = sum * 10 + (*digits - '0');
		if (sum > 1000000)
			return false;
	}
	*number = (int)sum;
	return *digits == '\0';
}
