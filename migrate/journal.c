/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/journal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "migrate/lock.h"
#include "migrate/watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define JOURNAL_FILE "journal.jsonl"
/* How the name of a move begins. */
#define STAMP "%Y%m%dT%H%M%SZ"
/* Looks, ten a second, whether a watch has let go of the lock. */
#define WATCH_LOOKS 200

static bool make_directories(const char *path)
{
	char *copy = mem_must_strdup(path);
	bool ok = true;

	for (char *p = copy + 1; ok && *p != '\0'; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		ok = mkdir(copy, 0755) == 0 || errno == EEXIST;
		*p = '/';
	}
	ok = ok && (mkdir(copy, 0700) == 0 || errno == EEXIST);
	free(copy);
	return ok;
}

/* A new file is only safe when its directory is on disk too. */
static bool sync_directory(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		(void)close(fd);
	return ok;
}

/* What the holder wrote about itself, for who finds the file locked. */
static void read_holder(int fd, struct sbuf *error)
{
	char who[256];
	ssize_t n = pread(fd, who, sizeof(who) - 1, 0);

	if (n <= 0)
		return;
	who[n] = '\0';
	who[strcspn(who, "\n")] = '\0';
	sbuf_printf(error, " by %s", who);
}

static void write_holder(int fd)
{
	char name[64];
	char time_text[CLOCK_TEXT_MAX];
	char who[256];

	lock_name(name, sizeof(name));
	(void)snprintf(who, sizeof(who), "%s since %s\n", name,
	               clock_format(clock_wall(), time_text));
	/* Only for people: the lock itself is what counts. */
	if (ftruncate(fd, 0) == 0)
		(void)!pwrite(fd, who, strlen(who), 0);
}

/* What undoes the move of a mover that died is done in a moment, and then all is said. */
static bool take_lock(int fd)
{
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
		char who[256] = "";

		if (i == WATCH_LOOKS || getenv(WATCH_ENV) != NULL ||
		    pread(fd, who, sizeof(who) - 1, 0) <= 0 ||
		    strstr(who, " " LOCK_WATCH "@") == NULL)
			return false;
		(void)poll(NULL, 0, 100);
	}
	return true;
}

int journal_lock(const char *directory, struct sbuf *error)
{
	char *path;
	int fd;

	if (!make_directories(directory)) {
		sbuf_printf(error, "cannot make the directory %s: %s", directory, strerror(errno));
		return -1;
	}
	path = mem_must_printf("%s/lock", directory);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		sbuf_printf(error, "cannot open %s: %s", path, strerror(errno));
	} else if (!take_lock(fd)) {
		sbuf_printf(error, "another pgshunt is at work: %s is locked", path);
		read_holder(fd, error);
		(void)close(fd);
		fd = -1;
	} else {
		write_holder(fd);
	}
	free(path);
	return fd;
}

void journal_init(struct journal *journal)
{
	*journal = (struct journal){.fd = -1};
}

static bool open_file(struct journal *journal, int flags, struct sbuf *error)
{
	char *path = mem_must_printf("%s/%s", journal->directory, JOURNAL_FILE);

	journal->fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | flags, 0600);
	if (journal->fd < 0)
		sbuf_printf(error, "cannot open %s: %s", path, strerror(errno));
	free(path);
	return journal->fd >= 0;
}

/* The time in the names of the moves that are there, the latest; 0 if there are none. */
static time_t newest(const char *parent)
{
	DIR *dir = opendir(parent);
	struct dirent *entry;
	time_t latest = 0;

	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		struct tm tm = {0};
		const char *end = strptime(entry->d_name, STAMP "-", &tm);
		time_t when = end == NULL ? 0 : timegm(&tm);

		if (latest < when)
			latest = when;
	}
	if (dir != NULL)
		(void)closedir(dir);
	return latest;
}

bool journal_create(struct journal *journal, const char *parent, const char *label,
                    struct sbuf *error)
{
	time_t now = (time_t)(clock_wall() / USEC_PER_SEC);
	time_t before = newest(parent);
	struct tm tm;
	char stamp[32];

	/* Which move is the last one, is told by their names: also if the clock was set back. */
	if (now <= before)
		now = before + 1;
	(void)gmtime_r(&now, &tm);
	(void)strftime(stamp, sizeof(stamp), STAMP, &tm);
	for (int attempt = 0; attempt < 100; attempt++) {
		char suffix[8] = "";

		if (attempt > 0)
			(void)snprintf(suffix, sizeof(suffix), "-%d", attempt);
		free(journal->id);
		free(journal->directory);
		journal->id = mem_must_printf("%s-%.100s%s", stamp, label, suffix);
		journal->directory = mem_must_printf("%s/%s", parent, journal->id);
		if (mkdir(journal->directory, 0700) == 0)
			return open_file(journal, O_CREAT | O_EXCL, error) &&
			       sync_directory(journal->directory) && sync_directory(parent);
		if (errno != EEXIST)
			break;
	}
	sbuf_printf(error, "cannot make the directory %s: %s", journal->directory, strerror(errno));
	return false;
}

bool journal_reopen(struct journal *journal, const char *parent,
                    const struct journal_records *records, struct sbuf *error)
{
	const struct json *last = records->first;

	journal->id = mem_must_strdup(records->id);
	journal->directory = mem_must_printf("%s/%s", parent, records->id);
	while (last != NULL && last->next != NULL)
		last = last->next;
	journal->sequence = json_number(last, "seq", 0);
	journal->torn = records->truncated;
	return open_file(journal, 0, error);
}

static bool write_all(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

bool journal_write(struct journal *journal, const char *kind, const char *phase, const char *data,
                   bool sync)
{
	char time_text[CLOCK_TEXT_MAX];
	char point[96];
	struct sbuf line;
	bool ok;

	if (journal->fd < 0)
		return true;
	sbuf_init(&line, JOURNAL_RECORD_MAX);
	json_open(&line, NULL, '{');
	json_int(&line, "seq", ++journal->sequence);
	json_str(&line, "time", clock_format(clock_wall(), time_text));
	json_str(&line, "kind", kind);
	json_str(&line, "phase", phase);
	json_open(&line, "data", '{');
	sbuf_add_str(&line, data);
	sbuf_add_str(&line, "}}\n");
	/* The reader skips a line that was cut off, with all that stands on it. */
	ok = sbuf_ok(&line) && (!journal->torn || write_all(journal->fd, "\n", 1)) &&
	     write_all(journal->fd, line.data, line.len);
	sbuf_free(&line);
	journal->torn = !ok;
	journal->unsynced = true;
	if (ok && sync)
		ok = journal_sync(journal);
	(void)snprintf(point, sizeof(point), "journal.%s.%s", phase, kind);
	return !fault_point(point) && ok;
}

bool journal_sync(struct journal *journal)
{
	if (journal->fd < 0 || !journal->unsynced)
		return true;
	journal->unsynced = false;
	return fdatasync(journal->fd) == 0;
}

bool journal_claim(const struct journal *journal)
{
	return flock(journal->fd, LOCK_EX | LOCK_NB) == 0;
}

void journal_close(struct journal *journal)
{
	if (journal->fd >= 0)
		(void)close(journal->fd);
	free(journal->id);
	free(journal->directory);
	journal_init(journal);
}

bool journal_save(const struct journal *journal, const char *name, const char *text)
{
	char *path = mem_must_printf("%s/%s", journal->directory, name);
	char *temporary = mem_must_printf("%s.new", path);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && write_all(fd, text, strlen(text)) && fsync(fd) == 0;

	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	ok = ok && rename(temporary, path) == 0 && sync_directory(journal->directory);
	free(temporary);
	free(path);
	return ok;
}
