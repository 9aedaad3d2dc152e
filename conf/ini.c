/* SPDX-License-Identifier: PostgreSQL */
/*
 * The file level of pgbouncer.ini; the lists of key=value are in conf/ini_pair.c.
 */
#include "conf/ini.h"

#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the reading of one file is. */
struct cursor {
	struct ini *ini;
	ini_reader read;
	void *arg;
	struct sbuf *errors;
	const char *directory; /* of the main file */
	bool here;             /* included files are looked for in the working directory first */
	const char *section;   /* NULL = none yet; goes on in and after an included file */
	size_t depth;
};

bool ini_read_local(void *arg, const char *path, char **bytes, size_t *len, struct sbuf *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *out = mem_must_alloc(INI_FILE_MAX + 2);
	size_t used = 0;
	ssize_t n = -1;

	(void)arg;
	*bytes = NULL;
	*len = 0;
	while (
	    fd >= 0 && used <= INI_FILE_MAX &&
	    ((n = read(fd, out + used, INI_FILE_MAX + 1 - used)) > 0 || (n < 0 && errno == EINTR)))
		used += n > 0 ? (size_t)n : 0;
	if (fd < 0 || n < 0)
		sbuf_printf(error, "%s: cannot be read: %s\n", path, strerror(errno));
	if (fd >= 0)
		(void)close(fd);
	if (fd < 0 || n < 0) {
		free(out);
		return false;
	}
	*bytes = mem_must_grow(out, used + 1, 1);
	*len = used;
	return true;
}

static size_t line_of(const struct ini_file *file, const char *at)
{
	size_t line = 1;

	for (const char *p = file->bytes; p < at; p++)
		line += *p == '\n' ? 1 : 0;
	return line;
}

static bool complain(struct cursor *cursor, size_t file, const char *at, const char *what)
{
	const struct ini_file *of = &cursor->ini->files[file];

	sbuf_printf(cursor->errors, "%s:%zu: %s\n", of->path, line_of(of, at), what);
	return false;
}

static bool read_one(struct cursor *cursor, const char *path);

static const char *end_of_line(const char *at)
{
	return at + strcspn(at, "\n");
}

static const char *skip_blanks(const char *at)
{
	while (*at == ' ' || *at == '\t')
		at++;
	return at;
}

static const char *trim(const char *from, const char *to)
{
	while (to > from && isspace((unsigned char)to[-1]))
		to--;
	return to;
}

/* "%include file"; the cursor's section goes on behind it. */
static bool take_include(struct cursor *cursor, size_t file, const char *at, const char **next)
{
	static const char word[] = "%include";
	const bool known = strncmp(at, word, sizeof(word) - 1) == 0;
	const char *end = end_of_line(at);
	const char *behind = at + (known ? sizeof(word) - 1 : 0);
	const char *name = skip_blanks(behind);
	const char *tail = trim(name, end);
	char *path;
	bool ok;

	*next = end;
	if (!known || name == behind || tail <= name)
		return complain(cursor, file, at, "expected %include and the name of a file");
	if (cursor->ini->file_count >= INI_FILES_MAX)
		return complain(cursor, file, at, "too many files are included");
	path = mem_must_strndup(name, (size_t)(tail - name));
	if (name[0] != '/' && !(cursor->here && access(path, F_OK) == 0)) {
		free(path);
		path = mem_must_printf("%s%.*s", cursor->directory, (int)(tail - name), name);
	}
	ok = read_one(cursor, path);
	free(path);
	return ok;
}

/* The key at `at`: plain, in single quotes, or in double quotes in which a quote is written twice.
 * NULL: no key. */
static char *take_key(struct cursor *cursor, const char *at, const char **next)
{
	struct sbuf key;
	char *out = NULL;
	const char *p = at;

	if (*p == '\'') {
		p++;
		*next = p + strcspn(p, "'\n");
		if (**next != '\'' || *next == p)
			return NULL;
		out = arena_strndup(&cursor->ini->blocks, p, (size_t)(*next - p));
		(*next)++;
		return out;
	}
	if (*p != '"') {
		while (isalnum((unsigned char)*p) || (*p != '\0' && strchr("_.-*", *p) != NULL))
			p++;
		*next = p;
		return p == at ? NULL : arena_strndup(&cursor->ini->blocks, at, (size_t)(p - at));
	}
	sbuf_init(&key, INI_FILE_MAX);
	for (p++; *p != '\0' && *p != '\n'; p++) {
		if (*p == '"' && *++p != '"')
			break;
		sbuf_add_char(&key, *p);
	}
	if (p > at + 1 && p[-1] == '"' && key.len > 0)
		out = arena_strdup(&cursor->ini->blocks, sbuf_text(&key));
	sbuf_free(&key);
	*next = p;
	return out;
}

static bool take_item(struct cursor *cursor, size_t file, const char *at, const char **next)
{
	struct ini *ini = cursor->ini;
	const char *begin = ini->files[file].bytes;
	const char *end = end_of_line(at);
	const char *p;
	const char *tail;
	struct ini_item *item;
	char *key = take_key(cursor, at, &p);

	*next = end;
	p = skip_blanks(p);
	if (key == NULL || *p != '=')
		return complain(cursor, file, at, "expected \"key = value\"");
	if (cursor->section == NULL)
		return complain(cursor, file, at, "a value stands before the first [section]");
	p = skip_blanks(p + 1);
	tail = trim(p, end);
	ini->items = mem_must_grow(ini->items, ini->item_count + 1, sizeof(*ini->items));
	item = &ini->items[ini->item_count++];
	*item = (struct ini_item){.section = cursor->section,
	                          .key = key,
	                          .heading = ini->heading_count,
	                          .value = arena_strndup(&ini->blocks, p, (size_t)(tail - p)),
	                          .file = file,
	                          .line = line_of(&ini->files[file], at),
	                          .start = (size_t)(p - begin),
	                          .end = (size_t)(tail - begin)};
	return true;
}

static bool take_section(struct cursor *cursor, size_t file, const char *at, const char **next)
{
	struct ini *ini = cursor->ini;
	size_t len = strcspn(at + 1, "]\n");

	*next = at + 1 + len;
	if (**next != ']')
		return complain(cursor, file, at, "the ] of a [section] is missing");
	(*next)++;
	cursor->section = arena_strndup(&ini->blocks, at + 1, len);
	ini->headings = mem_must_grow(ini->headings, ini->heading_count + 1, sizeof(*ini->headings));
	ini->headings[ini->heading_count++] = cursor->section;
	return true;
}

static bool parse_file(struct cursor *cursor, size_t file)
{
	const char *at = cursor->ini->files[file].bytes;
	bool ok = true;

	while (ok) {
		while (isspace((unsigned char)*at))
			at++;
		if (*at == '\0')
			break;
		if (*at == '#' || *at == ';')
			at = end_of_line(at);
		else if (*at == '[')
			ok = take_section(cursor, file, at, &at);
		else if (*at == '%')
			ok = take_include(cursor, file, at, &at);
		else
			ok = take_item(cursor, file, at, &at);
	}
	return ok;
}

static bool read_one(struct cursor *cursor, const char *path)
{
	struct ini *ini = cursor->ini;
	size_t index = ini->file_count;
	char *bytes;
	size_t len;
	bool ok;

	if (cursor->depth > 10) {
		sbuf_printf(cursor->errors, "%s: included too deep; does it include itself?\n",
		            path);
		return false;
	}
	if (!cursor->read(cursor->arg, path, &bytes, &len, cursor->errors))
		return false;
	ini->files = mem_must_grow(ini->files, ini->file_count + 1, sizeof(*ini->files));
	ini->files[ini->file_count++] =
	    (struct ini_file){.path = arena_strdup(&ini->blocks, path),
	                      .bytes = arena_strndup(&ini->blocks, bytes, len),
	                      .len = len};
	ok = len <= INI_FILE_MAX && memchr(bytes, '\0', len) == NULL;
	free(bytes);
	if (!ok)
		sbuf_printf(cursor->errors, "%s: it is too large, or no text\n", path);
	cursor->depth++;
	ok = ok && parse_file(cursor, index);
	cursor->depth--;
	return ok;
}

static bool load_from(struct cursor *cursor, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash == NULL ? mem_must_strdup("")
	                                : mem_must_strndup(path, (size_t)(slash - path) + 1);
	bool ok;

	*cursor->ini = (struct ini){0};
	cursor->directory = directory;
	ok = read_one(cursor, path);
	free(directory);
	if (!ok)
		ini_free(cursor->ini);
	return ok;
}

bool ini_load(const char *path, ini_reader read, void *arg, struct ini *ini, struct sbuf *errors)
{
	struct cursor cursor = {.ini = ini, .read = read, .arg = arg, .errors = errors};

	return load_from(&cursor, path);
}

bool ini_load_here(const char *path, struct ini *ini, struct sbuf *errors)
{
	struct cursor cursor = {.ini = ini, .read = ini_read_local, .errors = errors, .here = true};

	return load_from(&cursor, path);
}

void ini_free(struct ini *ini)
{
	free(ini->files);
	free(ini->items);
	free(ini->headings);
	arena_free(&ini->blocks);
	*ini = (struct ini){0};
}

const struct ini_item *ini_find(const struct ini *ini, const char *section, const char *key)
{
	for (size_t i = ini->item_count; i-- > 0;) {
		if (strcmp(ini->items[i].section, section) == 0 &&
		    strcmp(ini->items[i].key, key) == 0)
			return &ini->items[i];
	}
	return NULL;
}

size_t ini_last_heading(const struct ini *ini, const char *section)
{
	size_t i = ini->heading_count;

	while (i > 0 && strcmp(ini->headings[i - 1], section) != 0)
		i--;
	return i;
}

char *ini_with_value(const struct ini *ini, const struct ini_item *item, const char *value,
                     size_t *len)
{
	const struct ini_file *file = &ini->files[item->file];
	size_t value_len = strlen(value);
	char *out = mem_must_alloc(file->len + value_len + 1);

	memcpy(out, file->bytes, item->start);
	memcpy(out + item->start, value, value_len);
	memcpy(out + item->start + value_len, file->bytes + item->end, file->len - item->end);
	*len = item->start + value_len + file->len - item->end;
	return out;
}
