/* SPDX-License-Identifier: PostgreSQL */
/*
 * A list is an array sorted by name: it is made once and then only searched.
 */
#include "auth/userlist.h"

#include "auth/file.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct userlist {
	atomic_uint refs;
	struct auth_user **users;
	size_t count;
	size_t cap;
	bool scram_usual;
	uint32_t scram_iterations;
};

struct userlist *userlist_empty(void)
{
	struct userlist *list = calloc(1, sizeof(*list));

	if (list != NULL) {
		atomic_init(&list->refs, 1);
		list->scram_usual = true;
		list->scram_iterations = SCRAM_ITERATIONS;
	}
	return list;
}

struct userlist *userlist_ref(struct userlist *list)
{
	if (list != NULL)
		atomic_fetch_add_explicit(&list->refs, 1, memory_order_relaxed);
	return list;
}

void userlist_unref(struct userlist *list)
{
	if (list == NULL)
		return;
	if (atomic_fetch_sub_explicit(&list->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < list->count; i++)
		auth_user_unref(list->users[i]);
	free(list->users);
	free(list);
}

struct auth_user *userlist_find(const struct userlist *list, const char *name)
{
	size_t low = 0;
	size_t high = list->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(name, auth_user_name(list->users[middle]));

		if (order == 0)
			return list->users[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

const char *userlist_name(const struct userlist *list, size_t index)
{
	return auth_user_name(list->users[index]);
}

bool userlist_scram_usual(const struct userlist *list)
{
	return list->scram_usual;
}

uint32_t userlist_scram_iterations(const struct userlist *list)
{
	return list->scram_iterations;
}

static int compare_counts(const void *a, const void *b)
{
	const uint32_t left = *(const uint32_t *)a;
	const uint32_t right = *(const uint32_t *)b;

	return left < right ? -1 : left > right;
}

/* Without memory for it the default stays. */
static void list_find_iterations(struct userlist *list)
{
	uint32_t *counts = calloc(list->count + 1, sizeof(*counts));
	struct scram_secret secret;
	size_t used = 0;
	size_t most = 0;
	size_t run = 0;

	if (counts == NULL)
		return;
	for (size_t i = 0; i < list->count; i++) {
		switch (auth_user_kind(list->users[i])) {
		case AUTH_SECRET_PLAIN:
			counts[used++] = SCRAM_ITERATIONS;
			break;
		case AUTH_SECRET_SCRAM: /* which has it at hand */
			if (auth_user_scram_secret(list->users[i], &secret))
				counts[used++] = secret.iterations;
			break;
		default:
			break;
		}
	}
	explicit_bzero(&secret, sizeof(secret));
	qsort(counts, used, sizeof(*counts), compare_counts);
	for (size_t i = 0; i < used; i++) {
		run = i > 0 && counts[i] == counts[i - 1] ? run + 1 : 1;
		if (run > most) {
			most = run;
			list->scram_iterations = counts[i];
		}
	}
	free(counts);
}

static void list_find_usual(struct userlist *list)
{
	size_t scram = 0;
	size_t other = 0;

	for (size_t i = 0; i < list->count; i++) {
		enum auth_secret_kind kind = auth_user_kind(list->users[i]);

		scram += kind == AUTH_SECRET_SCRAM;
		other += kind == AUTH_SECRET_PLAIN || kind == AUTH_SECRET_MD5;
	}
	list->scram_usual = scram >= other;
	list_find_iterations(list);
}

size_t userlist_count(const struct userlist *list)
{
	return list->count;
}

void userlist_warm(struct userlist *list, const atomic_bool *stop)
{
	struct scram_secret secret;

	for (size_t i = 0; i < list->count; i++) {
		if (stop != NULL && atomic_load(stop))
			break;
		if (auth_user_kind(list->users[i]) == AUTH_SECRET_PLAIN &&
		    !auth_user_scram_secret(list->users[i], &secret))
			break;
	}
	explicit_bzero(&secret, sizeof(secret));
}

/* ---- making a list ---- */

struct list_reader {
	const char *path;
	const char *at;
	const char *end;
	unsigned line;
	const struct userlist *previous;
	struct userlist *list;
	struct sbuf *error;
	bool theirs;
};

static bool reader_fail(struct list_reader *reader, const char *what)
{
	sbuf_printf(reader->error, "%s:%u: %s", reader->path, reader->line, what);
	return false;
}

static bool reader_is_blank(const struct list_reader *reader)
{
	return *reader->at == ' ' || *reader->at == '\t' || *reader->at == '\r' ||
	       *reader->at == '\f' || *reader->at == '\v';
}

static void reader_skip_blank(struct list_reader *reader)
{
	while (reader->at < reader->end && reader_is_blank(reader))
		reader->at++;
}

/* Reads a quoted text into `out` (`max` bytes and the zero byte); `what` names it in errors. */
static bool reader_quoted(struct list_reader *reader, const char *what, char *out, size_t max)
{
	size_t len = 0;

	if (reader->at == reader->end || *reader->at != '"') {
		sbuf_printf(reader->error, "%s:%u: expected a %s in double quotes", reader->path,
		            reader->line, what);
		return false;
	}
	for (reader->at++; reader->at < reader->end; reader->at++) {
		if (*reader->at == '\n' || *reader->at == '\0')
			break;
		if (*reader->at == '"') {
			if (reader->at + 1 == reader->end || reader->at[1] != '"') {
				reader->at++;
				out[len] = '\0';
				return true;
			}
			reader->at++;
		}
		if (len == max) {
			sbuf_printf(reader->error, "%s:%u: the %s is longer than %zu bytes",
			            reader->path, reader->line, what, max);
			return false;
		}
		out[len++] = *reader->at;
	}
	sbuf_printf(reader->error, "%s:%u: the %s has no closing double quote", reader->path,
	            reader->line, what);
	return false;
}

/* The user of `previous` if it has the same secret, otherwise a new one. */
static struct auth_user *reader_user(const struct list_reader *reader, const char *name,
                                     const char *secret)
{
	struct auth_user *user =
	    reader->previous == NULL ? NULL : userlist_find(reader->previous, name);

	if (user != NULL && strcmp(auth_user_secret(user), secret) == 0)
		return auth_user_ref(user);
	return auth_user_new(name, secret);
}

static bool reader_add(struct list_reader *reader, const char *name, const char *secret)
{
	struct userlist *list = reader->list;
	struct scram_secret scram;

	/* Nobody could log in as such a user anyway: others need not mind. */
	if (*name == '\0')
		return reader->theirs || reader_fail(reader, "the user name is empty");
	if (scram_is_secret(secret) && !scram_secret_parse(secret, &scram))
		return reader->theirs ||
		       reader_fail(reader, "malformed SCRAM secret; expected "
		                           "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:"
		                           "<ServerKey>");
	if (list->count == list->cap) {
		size_t cap = list->cap == 0 ? 64 : 2 * list->cap;
		struct auth_user **users = realloc(list->users, cap * sizeof(struct auth_user *));

		if (users == NULL)
			return reader_fail(reader, "out of memory");
		list->users = users;
		list->cap = cap;
	}
	list->users[list->count] = reader_user(reader, name, secret);
	if (list->users[list->count] == NULL)
		return reader_fail(reader, "out of memory");
	list->count++;
	return true;
}

static bool reader_line(struct list_reader *reader)
{
	char name[USERLIST_NAME_MAX + 1];
	char secret[USERLIST_SECRET_MAX + 1];
	bool ok;

	reader_skip_blank(reader);
	if (reader->at == reader->end || *reader->at == '\n' || *reader->at == ';')
		return true;
	if (!reader_quoted(reader, "user name", name, USERLIST_NAME_MAX))
		return false;
	reader_skip_blank(reader);
	ok = reader_quoted(reader, "password", secret, USERLIST_SECRET_MAX) &&
	     reader_add(reader, name, secret);
	explicit_bzero(secret, sizeof(secret));
	return ok;
}

struct sort_entry {
	struct auth_user *user;
	size_t index; /* keeps users of one name in the order of the file: qsort() need not */
};

static int compare_entries(const void *a, const void *b)
{
	const struct sort_entry *left = a;
	const struct sort_entry *right = b;
	int order = strcmp(auth_user_name(left->user), auth_user_name(right->user));

	if (order != 0)
		return order;
	return left->index < right->index ? -1 : 1;
}

/* Sorts by name; of users of one name the last of the file stays, as in pgbouncer. */
static bool list_sort(struct userlist *list)
{
	struct sort_entry *entries = malloc((list->count + 1) * sizeof(*entries));
	size_t kept = 0;

	if (entries == NULL)
		return false;
	for (size_t i = 0; i < list->count; i++)
		entries[i] = (struct sort_entry){list->users[i], i};
	qsort(entries, list->count, sizeof(*entries), compare_entries);
	for (size_t i = 0; i < list->count; i++) {
		if (i + 1 < list->count && strcmp(auth_user_name(entries[i].user),
		                                  auth_user_name(entries[i + 1].user)) == 0)
			auth_user_unref(entries[i].user);
		else
			list->users[kept++] = entries[i].user;
	}
	list->count = kept;
	free(entries);
	return true;
}

struct userlist *userlist_parse(const char *path, const char *text, size_t len,
                                const struct userlist *previous, bool theirs, struct sbuf *error)
{
	struct list_reader reader = {path,     text,             text + len, 1,
	                             previous, userlist_empty(), error,      theirs};

	if (reader.list == NULL) {
		sbuf_printf(error, "%s: out of memory", path);
		return NULL;
	}
	while (reader.at < reader.end) {
		if (!reader_line(&reader)) {
			if (theirs)
				break;
			userlist_unref(reader.list);
			return NULL;
		}
		while (reader.at < reader.end && *reader.at != '\n')
			reader.at++;
		if (reader.at < reader.end)
			reader.at++;
		reader.line++;
	}
	if (!list_sort(reader.list)) {
		sbuf_printf(error, "%s: out of memory", path);
		userlist_unref(reader.list);
		return NULL;
	}
	list_find_usual(reader.list);
	return reader.list;
}

struct userlist *userlist_load(const char *path, const struct userlist *previous, bool theirs,
                               struct sbuf *error)
{
	struct userlist *list;
	size_t len;
	char *text = auth_read_file(path, USERLIST_FILE_MAX, &len);

	if (text == NULL) {
		sbuf_printf(error, "%s: %s", path, strerror(errno));
		return NULL;
	}
	list = userlist_parse(path, text, len, previous, theirs, error);
	explicit_bzero(text, len);
	free(text);
	return list;
}
