/* SPDX-License-Identifier: PostgreSQL */
/*
 * Check of the room on both machines: on this one by looking, elsewhere by servers.*.shell.
 */
#include "base/mem.h"
#include "migrate/check.h"
#include "migrate/shell.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SCRIPT_MAX 8192
#define DF_TIMEOUT (15 * USEC_PER_SEC)

/* "Filesystem 1024-blocks Used Available Capacity Mounted on" and a line of it. */
static void read_df(void *arg, const char *line)
{
	int64_t *available = arg;
	char *copy = mem_must_strdup(line);
	char *save = NULL;
	char *word = strtok_r(copy, " \t", &save);

	for (int i = 0; i < 3 && word != NULL; i++)
		word = strtok_r(NULL, " \t", &save);
	if (word != NULL && *word >= '0' && *word <= '9') {
		int64_t bytes = strtoll(word, NULL, 10) * 1024;

		if (*available < 0 || bytes < *available)
			*available = bytes;
	}
	free(copy);
}

/* Bytes free where the data directory or its WAL is, whatever is less; -1 if that cannot be seen;
 * `error` says why. */
static int64_t free_bytes(const struct server *server, const char *directory, struct sbuf *error)
{
	struct statvfs fs;
	struct sbuf script;
	int64_t available = -1;

	if (*server->conf->shell != '\0') {
		struct shell_job job = {.command = server->conf->shell,
		                        .timeout = DF_TIMEOUT,
		                        .line = read_df,
		                        .arg = &available};

		sbuf_init(&script, SCRIPT_MAX);
		sbuf_add_str(&script, "LC_ALL=C df -Pk ");
		shell_quote(&script, directory);
		sbuf_add_char(&script, ' ');
		shell_quote(&script, directory);
		sbuf_add_str(&script, "/pg_wal/.\n");
		job.script = sbuf_text(&script);
		if (!shell_run(&job, error))
			available = -1;
		else if (available < 0)
			sbuf_add_str(error, "df said nothing");
		sbuf_free(&script);
		return available;
	}
	if (check_is_local(server) && statvfs(directory, &fs) == 0) {
		char *wal = mem_must_printf("%s/pg_wal/.", directory);

		available = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
		if (statvfs(wal, &fs) == 0 &&
		    (int64_t)fs.f_bavail * (int64_t)fs.f_frsize < available)
			available = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
		free(wal);
		return available;
	}
	sbuf_add_str(error, "there is no servers.*.shell");
	return -1;
}

static void check_room(struct checks *checks, struct server *server)
{
	int64_t least = checks->move->config->mover.min_free;
	struct link *link = &server->link;
	struct sbuf error;
	char *directory;
	int64_t bytes;

	if (!check_query(checks, CHECK_DISK, link,
	                 "SELECT current_setting('data_directory') AS directory"))
		return;
	directory = mem_must_strdup(link_value(link, 0, "directory"));
	sbuf_init(&error, 1024);
	bytes = free_bytes(server, directory, &error);
	if (bytes < 0)
		check_find(checks, CHECK_DISK, CHECK_WARN, "the room on %s cannot be seen: %s",
		           link->name, sbuf_text(&error));
	else
		check_find(checks, CHECK_DISK, bytes < least ? CHECK_REFUSE : CHECK_PASS,
		           "%" PRId64 " MB are free on %s in %s", bytes / 1024 / 1024, link->name,
		           directory);
	sbuf_free(&error);
	free(directory);
}

void check_disk(struct checks *checks)
{
	check_room(checks, &checks->move->source);
	check_room(checks, &checks->move->target);
}
