/* SPDX-License-Identifier: PostgreSQL */
/*
 * The lists of key=value in pgbouncer.ini: "host=pg1 port=5432 dbname='a b'".
 */
#include "base/mem.h"
#include "conf/ini.h"

#include <stdlib.h>
#include <string.h>

/* One pair: where its parts lie in the text. */
struct pair {
	const char *key;
	size_t key_len;
	const char *value; /* with its quotes */
	size_t value_len;
};

static const char *skip_spaces(const char *at)
{
	while (*at == ' ' || *at == '\t')
		at++;
	return at;
}

/* The end of the value at `at`, NULL if its quote is not closed. */
static const char *skip_value(const char *at)
{
	if (*at != '\'')
		return at + strcspn(at, " ");
	for (at++; *at != '\0'; at++) {
		if (*at == '\'' && *++at != '\'')
			return at;
	}
	return NULL;
}

/* 1 = a pair, 0 = the end, -1 = no list. */
static int next_pair(const char **at, struct pair *pair)
{
	const char *p = skip_spaces(*at);
	const char *end;

	if (*p == '\0')
		return 0;
	pair->key = p;
	pair->key_len = strcspn(p, "= ");
	p = skip_spaces(p + pair->key_len);
	if (*p != '=' || pair->key_len == 0)
		return -1;
	p = skip_spaces(p + 1);
	end = skip_value(p);
	if (end == NULL || end == p || (*p == '\'' && end == p + 2))
		return -1;
	pair->value = p;
	pair->value_len = (size_t)(end - p);
	*at = end;
	return 1;
}

static char *unquote(const struct pair *pair)
{
	char *out = mem_must_alloc(pair->value_len + 1);
	size_t len = 0;

	if (pair->value[0] != '\'') {
		memcpy(out, pair->value, pair->value_len);
		return out;
	}
	for (size_t i = 1; i + 1 < pair->value_len; i++) {
		if (pair->value[i] == '\'')
			i++;
		out[len++] = pair->value[i];
	}
	return out;
}

static bool is_key(const struct pair *pair, const char *key)
{
	return strlen(key) == pair->key_len && memcmp(key, pair->key, pair->key_len) == 0;
}

bool ini_pairs(const char *list, void (*each)(void *arg, const char *key, const char *value),
               void *arg)
{
	struct pair pair;
	int got;

	while ((got = next_pair(&list, &pair)) > 0) {
		char *key = mem_must_strndup(pair.key, pair.key_len);
		char *value = unquote(&pair);

		each(arg, key, value);
		free(key);
		free(value);
	}
	return got == 0;
}

bool ini_pair_get(const char *list, const char *key, char **value)
{
	struct pair pair;
	int got;

	*value = NULL;
	while ((got = next_pair(&list, &pair)) > 0) {
		if (!is_key(&pair, key))
			continue;
		free(*value);
		*value = unquote(&pair);
	}
	if (got < 0) {
		free(*value);
		*value = NULL;
	}
	return got == 0;
}

static void add_value(struct sbuf *out, const char *value)
{
	if (*value != '\0' && strpbrk(value, " \t'") == NULL) {
		sbuf_add_str(out, value);
		return;
	}
	sbuf_add_char(out, '\'');
	for (; *value != '\0'; value++) {
		if (*value == '\'')
			sbuf_add_char(out, '\'');
		sbuf_add_char(out, *value);
	}
	sbuf_add_char(out, '\'');
}

/* Copies the list with the values exchanged; says which of the two were there. */
static bool copy_readdressed(const char *list, const char *host, int port, struct sbuf *out,
                             bool *has_host, bool *has_port)
{
	const char *at = list;
	const char *copied = list;
	struct pair pair;
	int got;

	while ((got = next_pair(&at, &pair)) > 0) {
		bool is_host = is_key(&pair, "host");
		bool is_port = is_key(&pair, "port");

		if (!is_host && !is_port)
			continue;
		sbuf_add(out, copied, (size_t)(pair.value - copied));
		copied = pair.value + pair.value_len;
		if (is_host)
			add_value(out, host);
		else
			sbuf_printf(out, "%d", port);
		/* Behind the quote of the old value the next key may follow at once. */
		if (*copied != '\0' && *copied != ' ')
			sbuf_add_char(out, ' ');
		*has_host = *has_host || is_host;
		*has_port = *has_port || is_port;
	}
	sbuf_add_str(out, copied);
	return got == 0;
}

char *ini_readdress(const char *list, const char *host, int port)
{
	struct sbuf out;
	struct sbuf head;
	bool has_host = false;
	bool has_port = false;
	char *text = NULL;

	sbuf_init(&out, INI_FILE_MAX);
	if (copy_readdressed(list, host, port, &out, &has_host, &has_port)) {
		sbuf_init(&head, INI_FILE_MAX);
		if (!has_host) {
			sbuf_add_str(&head, "host=");
			add_value(&head, host);
			sbuf_add_char(&head, ' ');
		}
		sbuf_add_str(&head, sbuf_text(&out));
		if (!has_port && port != 5432)
			sbuf_printf(&head, "%sport=%d",
			            head.len > 0 && head.data[head.len - 1] != ' ' ? " " : "",
			            port);
		while (head.len > 0 && head.data[head.len - 1] == ' ')
			head.data[--head.len] = '\0';
		text = mem_must_strdup(sbuf_text(&head));
		sbuf_free(&head);
	}
	sbuf_free(&out);
	return text;
}
