/* SPDX-License-Identifier: PostgreSQL */
#include "auth/tokens.h"

#include "auth/file.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct reader {
	tokens_take take;
	void *owner;
	struct sbuf *errors;
	int depth;
};

/* A logical line: the text of lines joined at backslashes. */
struct source {
	const char *path;
	const char *at;
	const char *end;
	unsigned number; /* of the line at `at` */
};

bool tokens_fail(struct sbuf *errors, const struct line *line, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (line->number == 0)
		sbuf_printf(errors, "%s: %s\n", line->file, text);
	else
		sbuf_printf(errors, "%s:%u: %s\n", line->file, line->number, text);
	return false;
}

void field_free(struct field *field)
{
	for (size_t i = 0; i < field->count; i++) {
		free(field->tokens[i].text);
		if (field->tokens[i].regex != NULL) {
			regfree(field->tokens[i].regex);
			free(field->tokens[i].regex);
		}
	}
	free(field->tokens);
	*field = (struct field){0};
}

static void line_free(struct line *line)
{
	for (size_t i = 0; i < line->count; i++)
		field_free(&line->fields[i]);
	free(line->fields);
	line->fields = NULL;
	line->count = 0;
}

void field_format(const struct field *field, struct sbuf *out)
{
	for (size_t i = 0; i < field->count; i++) {
		const struct token *token = &field->tokens[i];

		if (i > 0)
			sbuf_add_char(out, ',');
		if (!token->quoted) {
			sbuf_add_str(out, token->text);
			continue;
		}
		sbuf_add_char(out, '"');
		for (const char *at = token->text; *at != '\0'; at++) {
			if (*at == '"')
				sbuf_add_char(out, '"');
			sbuf_add_char(out, *at);
		}
		sbuf_add_char(out, '"');
	}
}

bool token_is_keyword(const struct token *token, const char *word)
{
	return !token->quoted && strcmp(token->text, word) == 0;
}

bool token_matches(const struct token *token, const char *name)
{
	if (token->regex == NULL)
		return strcmp(token->text, name) == 0;
	return strlen(name) <= TOKENS_REGEX_INPUT_MAX &&
	       regexec(token->regex, name, 0, NULL, 0) == 0;
}

/* ---- regular expressions: PostgreSQL's as far as the C library has them ---- */

#define REGEX_DEPTH_MAX 8 /* groups within groups */

struct translation {
	const char *at;
	const char *error;
	int depth;
	bool repeated; /* the last thing was a repetition */
	struct sbuf out;
};

/* Behind a backslash outside of brackets. */
static void translate_escape(struct translation *t)
{
	static const struct {
		char from;
		const char *to;
	} classes[] = {
	    {'d', "[0-9]"}, {'D', "[^0-9]"}, {'y', "\\b"}, {'Y', "\\B"}, {'m', "\\<"}, {'M', "\\>"},
	    {'A', "^"},     {'Z', "$"},      {'w', "\\w"}, {'W', "\\W"}, {'s', "\\s"}, {'S', "\\S"},
	};
	char c = *t->at;

	if (c == '\0') {
		t->error = "it ends with a backslash";
		return;
	}
	t->at++;
	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		if (classes[i].from == c) {
			sbuf_add_str(&t->out, classes[i].to);
			return;
		}
	}
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
		t->error = c >= '1' && c <= '9'
		               ? "back references inside a regular expression are not supported"
		               : "this escape is not supported in a regular expression";
		return;
	}
	sbuf_add_char(&t->out, '\\');
	sbuf_add_char(&t->out, c);
}

/* Behind a backslash inside of brackets, where POSIX knows no escapes. */
static void translate_bracket_escape(struct translation *t)
{
	char c = *t->at;

	if (c != '\0')
		t->at++;
	if (c == 'd')
		sbuf_add_str(&t->out, "0-9");
	else if (c == 'w')
		sbuf_add_str(&t->out, "[:alnum:]_");
	else if (c == 's')
		sbuf_add_str(&t->out, "[:space:]");
	else if (c == '\\' || c == '.' || c == '@' || c == '/' || c == '$' || c == '+' || c == '*')
		sbuf_add_char(&t->out, c);
	else
		t->error = "this escape is not supported inside of brackets";
}

static void translate_bracket(struct translation *t)
{
	sbuf_add_char(&t->out, '[');
	if (*t->at == '^')
		sbuf_add_char(&t->out, *t->at++);
	if (*t->at == ']')
		sbuf_add_char(&t->out, *t->at++);
	while (t->error == NULL && *t->at != '\0' && *t->at != ']') {
		char c = *t->at++;

		if (c == '\\') {
			translate_bracket_escape(t);
			continue;
		}
		sbuf_add_char(&t->out, c);
		if (c == '[' && (*t->at == ':' || *t->at == '.' || *t->at == '=')) {
			char kind = *t->at;
			const char *end = t->at + 1;

			while (*end != '\0' && !(end[0] == kind && end[1] == ']'))
				end++;
			if (*end != '\0')
				end += 2;
			sbuf_add(&t->out, t->at, (size_t)(end - t->at));
			t->at = end;
		}
	}
	if (t->error == NULL && *t->at == ']')
		sbuf_add_char(&t->out, *t->at++);
}

/* What the C library's compiler would take any memory for. */
static void translate_check(struct translation *t, char c)
{
	const bool repeats = c == '*' || c == '+' || c == '?' || c == '{';

	if (c == '(' && *t->at == '?')
		t->error = "groups of the kind (?…) are not supported";
	else if (c == '(' && ++t->depth > REGEX_DEPTH_MAX)
		t->error = "its groups are nested too deeply";
	else if (c == '?' && t->repeated)
		t->error = "non-greedy repetitions are not supported";
	else if (repeats && t->repeated)
		t->error = "a repetition must not follow a repetition";
	else if (c == ')' && t->depth > 0)
		t->depth--;
	t->repeated = (repeats && c != '{') || c == '}';
}

static void translate(struct translation *t)
{
	while (t->error == NULL && *t->at != '\0') {
		char c = *t->at++;

		if (c == '\\') {
			translate_escape(t);
			t->repeated = false;
		} else if (c == '[') {
			translate_bracket(t);
			t->repeated = false;
		} else {
			translate_check(t, c);
			sbuf_add_char(&t->out, c);
		}
	}
}

bool token_compile(struct token *token, const struct line *line, struct sbuf *errors)
{
	struct translation t = {.at = token->text + 1};
	char why[128];
	int rc;

	if (token->text[0] != '/' || token->regex != NULL)
		return true;
	sbuf_init(&t.out, 16384);
	translate(&t);
	if (t.error == NULL && !sbuf_ok(&t.out))
		t.error = "it is too long";
	if (t.error != NULL) {
		sbuf_free(&t.out);
		return tokens_fail(errors, line, "invalid regular expression \"%s\": %s",
		                   token->text + 1, t.error);
	}
	token->regex = mem_must_alloc(sizeof(*token->regex));
	rc = regcomp(token->regex, sbuf_text(&t.out), REG_EXTENDED);
	sbuf_free(&t.out);
	if (rc == 0)
		return true;
	(void)regerror(rc, token->regex, why, sizeof(why));
	free(token->regex);
	token->regex = NULL;
	return tokens_fail(errors, line, "invalid regular expression \"%s\": %s", token->text + 1,
	                   why);
}

/* ---- tokens ---- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/*
 * One token from the front of *at, which is text without line breaks; false at the end of the line.
 * Comments end it, and a comma, which is reported.
 */
static bool next_token(const char **at, struct sbuf *text, bool *quoted, bool *comma)
{
	bool in_quote = false;
	bool was_quote = false;
	bool saw_quote = false;
	const char *p = *at;

	sbuf_reset(text);
	*quoted = false;
	*comma = false;
	while (is_blank(*p) || *p == ',')
		p++;
	while (*p != '\0' && (!is_blank(*p) || in_quote)) {
		char c = *p;

		if (c == '#' && !in_quote) {
			p += strlen(p);
			break;
		}
		if (c == ',' && !in_quote) {
			*comma = true;
			break;
		}
		if (c != '"' || was_quote)
			sbuf_add_char(text, c);
		/* A literal double quote is two double quotes. */
		was_quote = in_quote && c == '"' ? !was_quote : false;
		if (c == '"') {
			in_quote = !in_quote;
			saw_quote = true;
			if (text->len == 0)
				*quoted = true;
		}
		p++;
	}
	*at = p;
	return saw_quote || text->len > 0;
}

/* Relative names are relative to the file that names them. */
static char *path_beside(const char *file, const char *name)
{
	const char *slash = strrchr(file, '/');

	if (name[0] == '/' || slash == NULL)
		return mem_must_strdup(name);
	return mem_must_printf("%.*s/%s", (int)(slash - file), file, name);
}

/* The next logical line without its end, in `text`; false at the end of the file.  Zero bytes end
 * it, as they end PostgreSQL's strings. */
static bool source_next(struct source *source, struct sbuf *text, unsigned *number)
{
	*number = source->number;
	sbuf_reset(text);
	if (source->at >= source->end)
		return false;
	while (source->at < source->end) {
		const char *eol = memchr(source->at, '\n', (size_t)(source->end - source->at));
		const char *stop = eol == NULL ? source->end : eol;
		size_t len = (size_t)(stop - source->at);

		while (len > 0 && source->at[len - 1] == '\r')
			len--;
		source->number++;
		if (len > 0 && source->at[len - 1] == '\\') {
			sbuf_add(text, source->at, len - 1);
			source->at = eol == NULL ? source->end : eol + 1;
			continue;
		}
		sbuf_add(text, source->at, len);
		source->at = eol == NULL ? source->end : eol + 1;
		break;
	}
	return true;
}

static bool read_fields(struct reader *reader, struct line *line, const char *at);

/* Appends the tokens of another file to the field. */
static bool field_include(struct reader *reader, const struct line *line, struct field *field,
                          const char *name)
{
	char *path = path_beside(line->file, name);
	struct source source = {.path = path, .number = 1};
	struct sbuf text;
	unsigned number;
	size_t len;
	char *bytes;
	bool good = reader->depth < TOKENS_DEPTH_MAX;

	if (!good) {
		(void)tokens_fail(reader->errors, line,
		                  "could not open file \"%s\": maximum nesting depth exceeded",
		                  path);
		free(path);
		return false;
	}
	bytes = auth_read_file(path, TOKENS_FILE_MAX, &len);
	if (bytes == NULL) {
		(void)tokens_fail(reader->errors, line, "could not open file \"%s\": %s", path,
		                  strerror(errno));
		free(path);
		return false;
	}
	source.at = bytes;
	source.end = bytes + len;
	reader->depth++;
	sbuf_init(&text, TOKENS_FILE_MAX);
	while (good && source_next(&source, &text, &number)) {
		struct line inner = {.file = path, .number = number};

		good = read_fields(reader, &inner, sbuf_text(&text));
		for (size_t i = 0; i < inner.count; i++) {
			struct field *more = &inner.fields[i];

			field->tokens = mem_must_grow(field->tokens, field->count + more->count + 1,
			                              sizeof(struct token));
			memcpy(field->tokens + field->count, more->tokens,
			       more->count * sizeof(struct token));
			field->count += more->count;
			more->count = 0; /* its tokens have moved */
		}
		line_free(&inner);
	}
	reader->depth--;
	sbuf_free(&text);
	free(bytes);
	free(path);
	return good;
}

static void field_add(struct field *field, const struct sbuf *text, bool quoted)
{
	field->tokens = mem_must_grow(field->tokens, field->count + 1, sizeof(struct token));
	field->tokens[field->count++] =
	    (struct token){.text = mem_must_strdup(sbuf_text(text)), .quoted = quoted};
}

static bool read_fields(struct reader *reader, struct line *line, const char *at)
{
	struct sbuf text;
	bool quoted;
	bool comma;
	bool good = true;

	sbuf_init(&text, TOKENS_FILE_MAX);
	while (good && next_token(&at, &text, &quoted, &comma)) {
		struct field *field;

		line->fields = mem_must_grow(line->fields, line->count + 1, sizeof(struct field));
		field = &line->fields[line->count++];
		*field = (struct field){0};
		do {
			if (!quoted && text.len > 1 && text.data[0] == '@')
				good = field_include(reader, line, field, text.data + 1);
			else
				field_add(field, &text, quoted);
		} while (good && comma && next_token(&at, &text, &quoted, &comma));
	}
	sbuf_free(&text);
	return good;
}

/* ---- lines ---- */

static bool read_text(struct reader *reader, const char *path, const char *bytes, size_t len);

static bool include_file(struct reader *reader, const struct line *line, const char *path,
                         bool must_exist)
{
	size_t len;
	char *bytes;
	bool good;

	if (reader->depth >= TOKENS_DEPTH_MAX)
		return tokens_fail(reader->errors, line,
		                   "could not open file \"%s\": maximum nesting depth exceeded",
		                   path);
	bytes = auth_read_file(path, TOKENS_FILE_MAX, &len);
	if (bytes == NULL && errno == ENOENT && !must_exist)
		return true;
	if (bytes == NULL)
		return tokens_fail(reader->errors, line, "could not open file \"%s\": %s", path,
		                   strerror(errno));
	reader->depth++;
	good = read_text(reader, path, bytes, len);
	reader->depth--;
	free(bytes);
	return good;
}

static int dir_filter(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return entry->d_name[0] != '.' && len > 5 && strcmp(entry->d_name + len - 5, ".conf") == 0;
}

static bool include_dir(struct reader *reader, const struct line *line, const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, dir_filter, alphasort);
	bool good = true;

	if (count < 0)
		return tokens_fail(reader->errors, line, "could not open directory \"%s\": %s",
		                   path, strerror(errno));
	for (int i = 0; i < count; i++) {
		char *file = mem_must_printf("%s/%s", path, entries[i]->d_name);

		good = include_file(reader, line, file, true) && good;
		free(file);
		free(entries[i]);
	}
	free(entries);
	return good;
}

/* "include", "include_if_exists", "include_dir" with one name; *done says that it was one. */
static bool read_directive(struct reader *reader, const struct line *line, bool *done)
{
	static const char *const words[] = {"include", "include_if_exists", "include_dir"};
	size_t which = 0;
	char *path;
	bool good;

	*done = false;
	if (line->fields[0].count != 1)
		return true;
	while (which < 3 && !token_is_keyword(&line->fields[0].tokens[0], words[which]))
		which++;
	if (which == 3)
		return true;
	*done = true;
	if (line->count != 2 || line->fields[1].count != 1)
		return tokens_fail(reader->errors, line, "%s takes one name", words[which]);
	path = path_beside(line->file, line->fields[1].tokens[0].text);
	good = which == 2 ? include_dir(reader, line, path)
	                  : include_file(reader, line, path, which == 0);
	free(path);
	return good;
}

static bool read_text(struct reader *reader, const char *path, const char *bytes, size_t len)
{
	struct source source = {path, bytes, bytes + len, 1};
	struct sbuf text;
	unsigned number;
	bool good = true;

	sbuf_init(&text, TOKENS_FILE_MAX);
	while (source_next(&source, &text, &number)) {
		struct line line = {.file = path, .number = number};
		bool done = false;
		bool right = read_fields(reader, &line, sbuf_text(&text));

		if (right && line.count > 0) {
			right = read_directive(reader, &line, &done);
			if (right && !done)
				right = reader->take(reader->owner, &line, reader->errors);
		}
		good = right && good;
		line_free(&line);
	}
	sbuf_free(&text);
	return good;
}

bool tokens_parse(const char *path, const char *text, size_t len, tokens_take take, void *owner,
                  struct sbuf *errors)
{
	struct reader reader = {take, owner, errors, 0};

	return read_text(&reader, path, text, len);
}

bool tokens_load(const char *path, tokens_take take, void *owner, struct sbuf *errors)
{
	struct reader reader = {take, owner, errors, 0};
	size_t len;
	char *bytes = auth_read_file(path, TOKENS_FILE_MAX, &len);
	bool good;

	if (bytes == NULL) {
		sbuf_printf(errors, "%s: %s\n", path, strerror(errno));
		return false;
	}
	good = read_text(&reader, path, bytes, len);
	free(bytes);
	return good;
}
