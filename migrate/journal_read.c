/* SPDX-License-Identifier: PostgreSQL */
#include "base/mem.h"
#include "migrate/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A journal of thousands of shards stays far below; a bigger file is not one of ours. */
#define JOURNAL_FILE_MAX ((size_t)64 * 1024 * 1024)

static bool is_record(const struct json *json)
{
	return json_text(json, "kind") != NULL && json_text(json, "phase") != NULL;
}

bool journal_parse(const char *text, struct journal_records *records)
{
	struct json **tail = &records->first;
	const char *end;
	bool bad = false;

	for (const char *line = text; *line != '\0'; line = end + 1) {
		char *copy;
		struct json *json;

		end = strchr(line, '\n');
		if (end == NULL) {
			records->truncated = true;
			break;
		}
		if (end == line)
			continue;
		copy = mem_must_strndup(line, (size_t)(end - line));
		json = json_parse(copy);
		free(copy);
		if (!is_record(json)) {
			/* A line that was cut off, and ended before the next record: only its
			 * beginning is there.  Anything else is no journal. */
			bad = bad || *line != '{' || json != NULL;
			json_free(json);
			continue;
		}
		*tail = json;
		tail = &json->next;
	}
	return !bad;
}

static char *read_file(const char *path, struct sbuf *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct sbuf text;
	char bytes[16384];
	ssize_t n = -1;
	char *out = NULL;

	sbuf_init(&text, JOURNAL_FILE_MAX);
	while (fd >= 0 && (n = read(fd, bytes, sizeof(bytes))) > 0)
		sbuf_add(&text, bytes, (size_t)n);
	if (fd < 0 || n < 0)
		sbuf_printf(error, "cannot read %s: %s", path, strerror(errno));
	else if (!sbuf_ok(&text))
		sbuf_printf(error, "%s is too large for a journal", path);
	else
		out = mem_must_strdup(sbuf_text(&text));
	if (fd >= 0)
		(void)close(fd);
	sbuf_free(&text);
	return out;
}

char *journal_load(const char *directory, const char *name)
{
	char *path = mem_must_printf("%s/%s", directory, name);
	struct sbuf error;
	char *text;

	sbuf_init(&error, 4096);
	text = read_file(path, &error);
	sbuf_free(&error);
	free(path);
	return text;
}

bool journal_read(const char *parent, const char *id, struct journal_records *records,
                  struct sbuf *error)
{
	char *path = mem_must_printf("%s/%s/journal.jsonl", parent, id);
	char *text = read_file(path, error);
	bool ok = text != NULL;

	*records = (struct journal_records){.id = mem_must_strdup(id)};
	if (ok && !journal_parse(text, records)) {
		sbuf_printf(error, "%s has lines that are not records of a journal", path);
		ok = false;
	}
	free(text);
	free(path);
	if (!ok)
		journal_records_free(records);
	return ok;
}

void journal_records_free(struct journal_records *records)
{
	json_free(records->first);
	free(records->id);
	*records = (struct journal_records){0};
}

const struct json *journal_find(const struct journal_records *records, const char *kind,
                                const char *phase)
{
	const struct json *found = NULL;

	for (const struct json *at = records->first; at != NULL; at = at->next) {
		if (strcmp(json_text(at, "kind"), kind) == 0 &&
		    strcmp(json_text(at, "phase"), phase) == 0)
			found = at;
	}
	return found;
}

bool journal_finished(const struct journal_records *records)
{
	const char *result =
	    json_text(json_get(journal_find(records, "outcome", "end"), "data"), "result");

	return result != NULL && (strcmp(result, "done") == 0 || strcmp(result, "undone") == 0);
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool wanted(const char *parent, const char *id, bool finished)
{
	struct journal_records records;
	struct sbuf error;
	bool ok;

	sbuf_init(&error, 1024);
	ok = journal_read(parent, id, &records, &error);
	sbuf_free(&error);
	/* One that cannot be read is listed too: whoever asks shall get to see the error.  An empty
	 * one belongs to a move that died before it did anything. */
	if (!ok)
		return true;
	ok = records.first != NULL && (finished || !journal_finished(&records));
	journal_records_free(&records);
	return ok;
}

size_t journal_list(const char *parent, bool finished, char ***ids)
{
	DIR *dir = opendir(parent);
	struct dirent *entry;
	size_t count = 0;

	*ids = NULL;
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		char *path = mem_must_printf("%s/%s/journal.jsonl", parent, entry->d_name);

		if (entry->d_name[0] != '.' && access(path, F_OK) == 0 &&
		    wanted(parent, entry->d_name, finished)) {
			*ids = mem_must_grow(*ids, count + 1, sizeof(**ids));
			(*ids)[count++] = mem_must_strdup(entry->d_name);
		}
		free(path);
	}
	if (dir != NULL)
		(void)closedir(dir);
	if (count > 0)
		qsort(*ids, count, sizeof(**ids), compare_ids);
	return count;
}
