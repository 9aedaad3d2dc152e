/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/lsn.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* One to eight hexadecimal digits; returns the text after them or NULL. */
static const char *parse_hex(const char *text, uint32_t *value)
{
	uint32_t sum = 0;
	int digits = 0;

	for (; isxdigit((unsigned char)*text); text++) {
		int c = tolower((unsigned char)*text);

		if (++digits > 8)
			return NULL;
		sum = sum * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*value = sum;
	return digits == 0 ? NULL : text;
}

/* Returns the text after the position, or NULL. */
static const char *parse_position(const char *text, uint64_t *lsn)
{
	uint32_t high;
	uint32_t low;

	text = parse_hex(text, &high);
	if (text == NULL || *text != '/')
		return NULL;
	text = parse_hex(text + 1, &low);
	if (text != NULL)
		*lsn = (uint64_t)high << 32 | low;
	return text;
}

bool lsn_parse(const char *text, uint64_t *lsn)
{
	const char *end = text == NULL ? NULL : parse_position(text, lsn);

	return end != NULL && *end == '\0';
}

char *lsn_format(uint64_t lsn, char out[LSN_TEXT_MAX])
{
	(void)snprintf(out, LSN_TEXT_MAX, "%X/%X", (unsigned)(lsn >> 32), (unsigned)lsn);
	return out;
}

/* One line: timeline, blanks, position, blanks, reason.  Blank lines and comments are skipped by
 * the caller. */
static bool parse_history_line(const char *line, uint32_t *parent, uint64_t *lsn)
{
	uint64_t sum = 0;
	const char *at = line;

	for (; isdigit((unsigned char)*at); at++) {
		sum = sum * 10 + (uint64_t)(*at - '0');
		if (sum > UINT32_MAX)
			return false;
	}
	if (at == line || sum == 0 || (*at != ' ' && *at != '\t'))
		return false;
	at += strspn(at, " \t");
	at = parse_position(at, lsn);
	if (at == NULL || (*at != '\0' && *at != '\n' && *at != ' ' && *at != '\t'))
		return false;
	*parent = (uint32_t)sum;
	return true;
}

bool timeline_switch_point(const char *history, uint32_t *parent, uint64_t *lsn)
{
	bool found = false;
	const char *next;

	for (const char *line = history; line != NULL; line = next) {
		next = strchr(line, '\n');
		if (next != NULL)
			next++;
		line += strspn(line, " \t");
		if (*line == '\0' || *line == '\n' || *line == '#')
			continue;
		if (!parse_history_line(line, parent, lsn))
			return false;
		found = true;
	}
	return found;
}
