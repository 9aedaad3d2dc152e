/* SPDX-License-Identifier: PostgreSQL */
/*
 * The files of the pgbouncers: one value of one line is exchanged.  Before the hold the new file
 * and a copy of the old one are written next to it, with its owner and mode; in the hold the new
 * one is only renamed, and only if the file is still what the plan saw.
 *
 * A file on another machine is read and written by the shell there.
 */
#include "base/mem.h"
#include "migrate/diff.h"
#include "migrate/move.h"
#include "migrate/pgbouncer.h"
#include "migrate/remote.h"
#include "migrate/shell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHELL_TIMEOUT (10 * USEC_PER_SEC)
/* In the hold: it must not keep the other routers waiting. */
#define SHELL_PATIENCE (2 * USEC_PER_SEC)
/* Looks, one a millisecond, whether another mover has let go of the file. */
#define LOCK_LOOKS 100

/* ---- reading ---- */

static bool read_by_shell(void *arg, const char *path, char **bytes, size_t *len,
                          struct sbuf *error)
{
	struct remote *shell = arg;
	struct sbuf script;
	struct sbuf out;
	bool ok;

	*bytes = NULL;
	*len = 0;
	sbuf_init(&script, 16384);
	sbuf_init(&out, INI_FILE_MAX + 4096);
	/* The mark at the end keeps the last line breaks. */
	sbuf_add_str(&script, "cat -- ");
	shell_quote(&script, path);
	ok = remote_run(shell, sbuf_text(&script), SHELL_TIMEOUT, &out);
	if (!ok) {
		sbuf_printf(error, "%s: %s\n", path, sbuf_text(&out));
	} else {
		*len = out.len;
		*bytes = mem_must_strndup(sbuf_text(&out), out.len);
	}
	sbuf_free(&script);
	sbuf_free(&out);
	return ok;
}

/* The shell for the machine of this pgbouncer; other files may use it already. */
static bool find_shell(struct move *move, const struct config_pgbouncer *conf,
                       struct remote **shell, struct sbuf *error)
{
	struct sbuf why;

	*shell = NULL;
	if (conf->command[0] == '\0')
		return true;
	for (size_t i = 0; i < move->file_count; i++) {
		if (move->files[i].shell != NULL &&
		    strcmp(move->files[i].conf->command, conf->command) == 0)
			*shell = move->files[i].shell;
	}
	sbuf_init(&why, INI_FILE_MAX);
	if (*shell == NULL)
		*shell = remote_start(conf->command, SHELL_TIMEOUT, &why);
	else if (!remote_revive(*shell, SHELL_TIMEOUT, &why))
		*shell = NULL;
	if (*shell == NULL)
		sbuf_printf(error, "pgbouncer %s: command \"%s\": %.500s\n", conf->name,
		            conf->command, sbuf_text(&why));
	sbuf_free(&why);
	return *shell != NULL;
}

static bool load_ini(struct remote *shell, const char *path, struct ini *ini, struct sbuf *error)
{
	return ini_load(path, shell == NULL ? ini_read_local : read_by_shell, shell, ini, error);
}

/* ---- the exchange ---- */

static int compare_edits(const void *a, const void *b)
{
	const struct bouncer_edit *left = a;
	const struct bouncer_edit *right = b;

	return left->start < right->start ? -1 : left->start > right->start;
}

/* Makes the new bytes from the old ones and all exchanges. */
static void apply_edits(struct bouncer_file *file)
{
	struct sbuf out;
	size_t copied = 0;

	qsort(file->edits, file->edit_count, sizeof(*file->edits), compare_edits);
	sbuf_init(&out, 2 * INI_FILE_MAX);
	for (size_t i = 0; i < file->edit_count; i++) {
		const struct bouncer_edit *edit = &file->edits[i];

		sbuf_add(&out, file->before + copied, edit->start - copied);
		sbuf_add_str(&out, edit->new);
		copied = edit->end;
	}
	sbuf_add(&out, file->before + copied, file->before_len - copied);
	free(file->after);
	file->after_len = out.len;
	file->after = mem_must_strndup(sbuf_text(&out), out.len);
	sbuf_free(&out);
}

/* Whether the file leads the entry there. */
static bool says(const struct ini_item *item, const char *expected, int expected_port)
{
	char *host = NULL;
	char *port = NULL;
	bool ok = ini_pair_get(item->value, "host", &host) &&
	          ini_pair_get(item->value, "port", &port) &&
	          strcmp(host == NULL ? "" : host, expected) == 0 &&
	          (port == NULL ? 5432 : atoi(port)) == expected_port;

	free(host);
	free(port);
	return ok;
}

static void free_edits(struct bouncer_file *file)
{
	for (size_t i = 0; i < file->edit_count; i++) {
		free(file->edits[i].name);
		free(file->edits[i].old);
		free(file->edits[i].new);
	}
	free(file->edits);
	file->edits = NULL;
	file->edit_count = 0;
}

static struct bouncer_file *find_file(struct move *move, const struct config_pgbouncer *conf,
                                      struct remote *shell, const struct ini_file *from)
{
	struct bouncer_file *file;

	for (size_t i = 0; i < move->file_count; i++) {
		file = &move->files[i];
		if (file->shell != shell || strcmp(file->path, from->path) != 0)
			continue;
		if (file->edit_count == 0) {
			free(file->before);
			file->before = mem_must_strndup(from->bytes, from->len);
			file->before_len = from->len;
		}
		return file;
	}
	move->files = mem_must_grow(move->files, move->file_count + 1, sizeof(*move->files));
	file = &move->files[move->file_count++];
	*file = (struct bouncer_file){.conf = conf,
	                              .path = mem_must_strdup(from->path),
	                              .shell = shell,
	                              .before = mem_must_strndup(from->bytes, from->len),
	                              .before_len = from->len};
	return file;
}

static void add_edit(struct bouncer_file *file, const struct ini_item *item, char *new)
{
	for (size_t i = 0; i < file->edit_count; i++) {
		if (file->edits[i].start == item->start) {
			free(new); /* another process with the same file */
			return;
		}
	}
	file->edits = mem_must_grow(file->edits, file->edit_count + 1, sizeof(*file->edits));
	file->edits[file->edit_count++] = (struct bouncer_edit){.name = mem_must_strdup(item->key),
	                                                        .line = item->line,
	                                                        .start = item->start,
	                                                        .end = item->end,
	                                                        .old = mem_must_strdup(item->value),
	                                                        .new = new};
	apply_edits(file);
}

static bool add_item(struct move *move, struct bouncer_entry *entry, const struct ini *ini,
                     struct remote *shell, struct sbuf *error)
{
	const char *label = entry->bouncer->label;
	const char *path = entry->bouncer->ini;
	const struct ini_item *item = ini_find(ini, "databases", entry->name);
	char *new;

	if (item == NULL) {
		sbuf_printf(error,
		            "%s: %s has no entry %s of its own%s; write one into [databases] that "
		            "leads where it leads now, and RELOAD: that changes nothing yet\n",
		            label, path, entry->name,
		            ini_find(ini, "databases", "*") == NULL
		                ? ""
		                : ", the entry * stands for it and for others");
		return false;
	}
	/* A mover that died may have exchanged it already. */
	if (move->anything_changed && says(item, entry->new_host, entry->new_port))
		return true;
	if (!says(item, entry->host, entry->port)) {
		sbuf_printf(error,
		            "%s leads %s to %s:%d, but %s line %zu says \"%s\": RELOAD it or "
		            "correct the file first\n",
		            label, entry->name, *entry->host == '\0' ? "a socket" : entry->host,
		            entry->port, ini->files[item->file].path, item->line, item->value);
		return false;
	}
	new = ini_readdress(item->value, entry->new_host, entry->new_port);
	if (new == NULL) {
		sbuf_printf(error, "%s: %s line %zu is no list of key=value\n", label,
		            ini->files[item->file].path, item->line);
		return false;
	}
	add_edit(find_file(move, entry->bouncer->conf, shell, &ini->files[item->file]), item, new);
	return true;
}

bool bouncer_file_add(struct move *move, struct bouncer_entry *entry, struct sbuf *error)
{
	const char *path = entry->bouncer->ini;
	struct remote *shell;
	struct ini ini;
	char *real = NULL;
	bool ok;

	if (path == NULL || path[0] != '/') {
		sbuf_printf(error,
		            "%s was started with the file %s, whose place is unknown; give "
		            "mover.pgbouncers.%s.ini\n",
		            entry->bouncer->label, path == NULL ? "?" : path,
		            entry->bouncer->conf->name);
		return false;
	}
	if (!find_shell(move, entry->bouncer->conf, &shell, error))
		return false;
	/* What a link stands for is exchanged, not the link. */
	if (shell == NULL)
		real = realpath(path, NULL);
	if (!load_ini(shell, real == NULL ? path : real, &ini, error)) {
		free(real);
		return false;
	}
	free(real);
	ok = add_item(move, entry, &ini, shell, error);
	ini_free(&ini);
	return ok;
}

void bouncer_file_add_text(struct move *move, const char *path, const char *before,
                           const char *after)
{
	struct bouncer_file *file;

	move->files = mem_must_grow(move->files, move->file_count + 1, sizeof(*move->files));
	file = &move->files[move->file_count++];
	*file = (struct bouncer_file){.path = mem_must_strdup(path),
	                              .before = mem_must_strdup(before),
	                              .before_len = strlen(before),
	                              .after = mem_must_strdup(after),
	                              .after_len = strlen(after)};
}

/* ---- names next to the file ---- */

/* A name of this move's own: another one, of other servers, may be about to change the same file. */
static char *new_name(const struct move *move, const struct bouncer_file *file)
{
	return mem_must_printf("%s.%s.pgshunt-new", file->path,
	                       move->journal.id == NULL ? "pgshunt" : move->journal.id);
}

static char *backup_name(const struct move *move, const struct bouncer_file *file)
{
	return mem_must_printf("%s.%s.bak", file->path,
	                       move->journal.id == NULL ? "pgshunt" : move->journal.id);
}

/* ---- on this machine ---- */

static bool write_file(const char *path, const char *bytes, size_t len, const struct stat *like)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool ok = fd >= 0;

	while (ok && len > 0) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EINTR)
			continue;
		ok = n > 0;
		bytes += ok ? n : 0;
		len -= ok ? (size_t)n : 0;
	}
	/* A mover that is not root can only keep the owner it has itself. */
	if (ok && (like->st_uid != geteuid() || like->st_gid != getegid()))
		ok = fchown(fd, like->st_uid, like->st_gid) == 0;
	ok = ok && fchmod(fd, like->st_mode & 07777) == 0 && fsync(fd) == 0;
	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	return ok;
}

static int open_directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = mem_must_strndup(path, (size_t)(slash - path) + 1);
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	free(directory);
	return fd;
}

static void sync_directory_of(const char *path)
{
	int fd = open_directory_of(path);

	if (fd >= 0) {
		(void)fsync(fd);
		(void)close(fd);
	}
}

/* Keeps another mover from exchanging the file between our look at it and our own exchange; to be
 * closed.  Whoever else has the lock, clients do not wait for him. */
static int lock_directory_of(const char *path)
{
	int fd = open_directory_of(path);

	for (int i = 0; fd >= 0 && i < LOCK_LOOKS && flock(fd, LOCK_EX | LOCK_NB) != 0; i++)
		(void)poll(NULL, 0, 1);
	return fd;
}

static bool prepare_local(const struct bouncer_file *file, const char *temporary,
                          const char *backup, struct sbuf *error)
{
	struct stat like;

	if (stat(file->path, &like) != 0 ||
	    !write_file(backup, file->before, file->before_len, &like) ||
	    !write_file(temporary, file->after, file->after_len, &like)) {
		sbuf_printf(error, "%s: the new file cannot be written next to it: %s", file->path,
		            strerror(errno));
		return false;
	}
	sync_directory_of(file->path);
	return true;
}

static bool exchange(const struct bouncer_file *file, const char *temporary, struct sbuf *error)
{
	char *bytes;
	size_t len;
	bool same;
	bool done;

	if (!ini_read_local(NULL, file->path, &bytes, &len, error))
		return false;
	same = len == file->before_len && memcmp(bytes, file->before, len) == 0;
	done = len == file->after_len && memcmp(bytes, file->after, len) == 0;
	free(bytes);
	if (done)
		return true;
	if (!same) {
		sbuf_printf(error, "%s was changed by somebody else meanwhile", file->path);
		return false;
	}
	if (rename(temporary, file->path) == 0)
		return true;
	sbuf_printf(error, "%s cannot be exchanged: %s", file->path, strerror(errno));
	return false;
}

static bool commit_local(const struct bouncer_file *file, const char *temporary, struct sbuf *error)
{
	int lock = lock_directory_of(file->path);
	bool ok = exchange(file, temporary, error);

	if (lock >= 0)
		(void)close(lock);
	return ok;
}

/* ---- on another machine ---- */

static void add_word(struct sbuf *script, const char *name, const char *value)
{
	sbuf_printf(script, "%s=", name);
	shell_quote(script, value);
	sbuf_add_char(script, '\n');
}

static bool prepare_remote(const struct bouncer_file *file, const char *temporary,
                           const char *backup, struct sbuf *error)
{
	struct sbuf script;
	bool ok;

	sbuf_init(&script, 3 * INI_FILE_MAX);
	sbuf_add_str(&script, "set -e\n");
	add_word(&script, "file", file->path);
	add_word(&script, "new", temporary);
	add_word(&script, "bak", backup);
	/* cp -p keeps owner and mode; what is written then is only the content. */
	sbuf_add_str(&script, "cp -p -- \"$file\" \"$bak\"\ncp -p -- \"$file\" \"$new\"\n"
	                      "printf %s ");
	shell_quote(&script, file->after);
	/* Where sync takes no names, everything; that machine may be busy with a lot of it. */
	sbuf_add_str(&script,
	             " > \"$new\"\nsync -- \"$bak\" \"$new\" \"${file%/*}/\" 2>/dev/null || sync");
	ok = sbuf_ok(&script) && remote_run(file->shell, sbuf_text(&script), SHELL_TIMEOUT, error);
	sbuf_free(&script);
	return ok;
}

static bool commit_remote(const struct bouncer_file *file, const char *temporary,
                          const char *backup, struct sbuf *error)
{
	struct sbuf script;
	bool ok;

	sbuf_init(&script, 2 * INI_FILE_MAX);
	add_word(&script, "file", file->path);
	add_word(&script, "new", temporary);
	add_word(&script, "bak", backup);
	/* The lock is that of a mover of that machine (lock_directory_of()), where it can be had.
	 */
	sbuf_add_str(&script, "if test -r \"${file%/*}/\" && command -v flock >/dev/null; then\n"
	                      "exec 9<\"${file%/*}/\"\nflock -w 0.1 9\nfi\n"
	                      "if cmp -s \"$file\" \"$bak\"; then mv -f -- \"$new\" \"$file\"; "
	                      /* An earlier attempt whose answer did not come. */
	                      "elif test ! -e \"$new\" && printf %s ");
	shell_quote(&script, file->after);
	sbuf_add_str(&script, " | cmp -s - \"$file\"; then :; else echo \"$file was changed by "
	                      "somebody else meanwhile\"; exit 1; fi");
	ok = sbuf_ok(&script) && remote_run(file->shell, sbuf_text(&script), SHELL_PATIENCE, error);
	sbuf_free(&script);
	return ok;
}

/* ---- the steps ---- */

static bool prepare_file(struct move *move, struct bouncer_file *file, struct sbuf *error)
{
	char *temporary = new_name(move, file);
	char *backup = backup_name(move, file);

	file->prepared = true; /* some of it may be there from now on */
	if (file->shell == NULL)
		file->prepared = prepare_local(file, temporary, backup, error);
	else
		file->prepared = prepare_remote(file, temporary, backup, error);
	free(temporary);
	free(backup);
	return file->prepared;
}

bool bouncer_files_prepare(struct move *move)
{
	struct sbuf error;
	bool ok = true;

	sbuf_init(&error, INI_FILE_MAX);
	for (size_t i = 0; ok && i < move->file_count; i++) {
		sbuf_reset(&error);
		ok = prepare_file(move, &move->files[i], &error);
		if (!ok)
			(void)move_fail(move, "%.500s", sbuf_text(&error));
	}
	sbuf_free(&error);
	return ok;
}

void bouncer_files_commit(struct move *move)
{
	for (size_t i = 0; i < move->file_count; i++) {
		struct bouncer_file *file = &move->files[i];
		char *temporary;
		char *backup;
		struct sbuf error;

		if (file->conf != NULL && file->edit_count == 0)
			file->committed = true;
		if (file->committed)
			continue;
		temporary = new_name(move, file);
		backup = backup_name(move, file);
		sbuf_init(&error, INI_FILE_MAX);
		free(file->error);
		file->error = NULL;
		if (!file->prepared && !prepare_file(move, file, &error))
			file->committed = false;
		else if (file->shell == NULL)
			file->committed = commit_local(file, temporary, &error);
		else
			file->committed = commit_remote(file, temporary, backup, &error);
		if (!file->committed)
			file->error = mem_must_strdup(sbuf_text(&error));
		sbuf_free(&error);
		free(temporary);
		free(backup);
	}
}

void bouncer_files_forget(struct move *move, const struct config_pgbouncer *conf)
{
	for (size_t i = 0; i < move->file_count; i++) {
		struct bouncer_file *file = &move->files[i];

		if (file->conf != conf || file->committed)
			continue;
		free_edits(file);
		file->prepared = false;
	}
}

void bouncer_files_sync(struct move *move)
{
	struct sbuf script;
	struct sbuf ignored;

	sbuf_init(&ignored, 65536);
	for (size_t i = 0; i < move->file_count; i++) {
		if (move->files[i].shell == NULL) {
			sync_directory_of(move->files[i].path);
			continue;
		}
		sbuf_init(&script, 65536);
		add_word(&script, "file", move->files[i].path);
		sbuf_add_str(&script, "sync -- \"${file%/*}/\" 2>/dev/null || sync");
		(void)!remote_run(move->files[i].shell, sbuf_text(&script), SHELL_TIMEOUT,
		                  &ignored);
		sbuf_free(&script);
	}
	sbuf_free(&ignored);
}

void bouncer_files_discard(struct move *move)
{
	for (size_t i = 0; i < move->file_count; i++) {
		struct bouncer_file *file = &move->files[i];
		char *temporary = new_name(move, file);
		char *backup = backup_name(move, file);
		struct sbuf script;
		struct sbuf answer;

		sbuf_init(&script, 65536);
		if (file->committed) {
			/* Then the copy is of use. */
		} else if (file->shell == NULL) {
			(void)unlink(temporary);
			(void)unlink(backup);
		} else {
			sbuf_add_str(&script, "rm -f -- ");
			shell_quote(&script, temporary);
			sbuf_add_char(&script, ' ');
			shell_quote(&script, backup);
			sbuf_init(&answer, 65536);
			(void)!remote_run(file->shell, sbuf_text(&script), SHELL_TIMEOUT, &answer);
			sbuf_free(&answer);
		}
		sbuf_free(&script);
		free(temporary);
		free(backup);
	}
}

void bouncer_files_diff(const struct bouncer_file *file, struct sbuf *out)
{
	text_diff(file->path, file->before, file->path, file->after, out);
}

void bouncer_files_free(struct move *move)
{
	for (size_t i = 0; i < move->file_count; i++) {
		struct bouncer_file *file = &move->files[i];
		bool used = false;

		for (size_t j = 0; j < i; j++)
			used = used || move->files[j].shell == file->shell;
		if (!used)
			remote_end(file->shell);
		free_edits(file);
		free(file->path);
		free(file->before);
		free(file->after);
		free(file->error);
	}
	free(move->files);
	move->files = NULL;
	move->file_count = 0;
}
