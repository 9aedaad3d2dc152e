/* SPDX-License-Identifier: PostgreSQL */
#include "base/roff.h"

#include <ctype.h>
#include <stdbool.h>

void roff_text(FILE *out, const char *text)
{
	bool begins = true;

	for (; *text != '\0'; text++) {
		if (begins && (*text == '.' || *text == '\''))
			(void)fputs("\\&", out);
		begins = *text == '\n';
		if (*text == '\\')
			(void)fputs("\\e", out);
		else if (*text == '-')
			(void)fputs("\\-", out);
		else
			(void)fputc(*text, out);
	}
	(void)fputc('\n', out);
}

void roff_begin(FILE *out, const char *name, int section, const char *what)
{
	(void)fputs(".TH ", out);
	for (const char *p = name; *p != '\0'; p++)
		(void)fputc(toupper((unsigned char)*p), out);
	(void)fprintf(out, " %d \"\" \"pgshunt " PGSHUNT_VERSION "\"\n.SH NAME\n%s \\- ", section,
	              name);
	roff_text(out, what);
}

void roff_section(FILE *out, const char *title)
{
	(void)fprintf(out, ".SH %s\n", title);
}

void roff_item(FILE *out, const char *term, const char *text)
{
	(void)fputs(".TP\n.B ", out);
	roff_text(out, term);
	roff_text(out, text);
}
