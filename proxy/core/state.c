/* SPDX-License-Identifier: PostgreSQL */
/*
 * The format: lines of words, numbers and "strings" (with \" \\ \xHH), in this order:
 *
 *   pgshunt-state 1
 *   database "p2" epoch 7 [server "pg2"] [target "pg3"] [held lease USEC policy WORD]
 *   welcome "p2" "app" "…"
 *   end COUNT
 *
 * The last line says how many there are between first and last, so that a file that was cut (by a
 * full disk of a copy, an editor) is noticed.
 */
#include "core/state.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "conf/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_VERSION 1
#define STATE_STRING_MAX ((size_t)1 << 20)

static void free_welcomes(struct state *state)
{
	for (size_t i = 0; i < state->welcome_count; i++) {
		free(state->welcomes[i].database);
		free(state->welcomes[i].user);
		free(state->welcomes[i].params);
	}
	free(state->welcomes);
	state->welcomes = NULL;
	state->welcome_count = 0;
}

void state_free(struct state *state)
{
	for (size_t i = 0; i < state->database_count; i++) {
		free(state->databases[i].name);
		free(state->databases[i].server);
		free(state->databases[i].target);
	}
	free(state->databases);
	free_welcomes(state);
	memset(state, 0, sizeof(*state));
}

/* ---- writing ---- */

static void add_string(struct sbuf *out, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;

	sbuf_add_str(out, " \"");
	for (size_t i = 0; i < len; i++) {
		if (p[i] == '"' || p[i] == '\\')
			sbuf_printf(out, "\\%c", p[i]);
		else if (p[i] < 0x20 || p[i] >= 0x7f)
			sbuf_printf(out, "\\x%02x", p[i]);
		else
			sbuf_add_char(out, (char)p[i]);
	}
	sbuf_add_char(out, '"');
}

static void add_text(struct sbuf *out, const char *text)
{
	add_string(out, text, strlen(text));
}

static void add_head(struct sbuf *out)
{
	sbuf_printf(out,
	            "# Written by pgshuntd, which reads it at start.  Not to be edited while it "
	            "runs.\npgshunt-state %d\n",
	            STATE_VERSION);
}

void state_format(const struct state *state, struct sbuf *out)
{
	add_head(out);
	for (size_t i = 0; i < state->database_count; i++) {
		const struct state_database *db = &state->databases[i];

		sbuf_add_str(out, "database");
		add_text(out, db->name);
		sbuf_printf(out, " epoch %" PRIu64, db->epoch);
		if (db->server != NULL) {
			sbuf_add_str(out, " server");
			add_text(out, db->server);
		}
		if (db->target != NULL) {
			sbuf_add_str(out, " target");
			add_text(out, db->target);
		}
		if (db->held)
			sbuf_printf(out, " held lease %" PRId64 " policy %s", db->lease,
			            config_drain_policy_name((enum config_drain_policy)db->policy));
		sbuf_add_char(out, '\n');
	}
	sbuf_printf(out, "end %zu\n", state->database_count);
}

void state_format_welcome(const struct state *state, struct sbuf *out)
{
	add_head(out);
	for (size_t i = 0; i < state->welcome_count; i++) {
		sbuf_add_str(out, "welcome");
		add_text(out, state->welcomes[i].database);
		add_text(out, state->welcomes[i].user);
		add_string(out, state->welcomes[i].params, state->welcomes[i].params_len);
		sbuf_add_char(out, '\n');
	}
	sbuf_printf(out, "end %zu\n", state->welcome_count);
}

static bool write_all(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

static bool sync_directory(const char *directory)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		(void)close(fd);
	return ok;
}

bool state_write(const char *directory, const char *file, const char *text, size_t len,
                 bool durable, struct sbuf *error)
{
	char path[PATH_MAX];
	char temporary[PATH_MAX];
	const char *step = "create";
	bool ok = false;
	int fd;

	if (directory[0] == '\0')
		return true;

	(void)snprintf(path, sizeof(path), "%s/%s", directory, file);
	(void)snprintf(temporary, sizeof(temporary), "%s/%s.new", directory, file);
	if (fault_point("state_write")) {
		sbuf_printf(error, "could not write \"%s\": made to fail", path);
		return false;
	}
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0) {
		step = "write";
		ok = write_all(fd, text, len);
		if (ok && durable) {
			step = "fsync";
			ok = fsync(fd) == 0;
		}
		/* The error to report is that of the first step that failed. */
		if (close(fd) != 0 && ok) {
			step = "close";
			ok = false;
		}
	}
	if (ok) {
		step = "rename";
		ok = rename(temporary, path) == 0;
	}
	if (ok && durable) {
		step = "fsync the directory of";
		ok = sync_directory(directory);
	}
	if (!ok)
		sbuf_printf(error, "could not %s \"%s\": %s", step, path, strerror(errno));
	return ok;
}

/* ---- reading ---- */

struct reader {
	const char *path;
	const char *at;
	const char *end; /* of the line */
	size_t line;
	struct sbuf *error;
	bool bad;
};

static void complain(struct reader *reader, const char *what)
{
	if (reader->bad)
		return;
	reader->bad = true;
	sbuf_printf(reader->error,
	            "%s:%zu: %s; if the file is beyond repair, move it away: routes then come from "
	            "the configuration",
	            reader->path, reader->line, what);
}

static void skip_blanks(struct reader *reader)
{
	while (reader->at < reader->end && *reader->at == ' ')
		reader->at++;
}

static bool at_line_end(struct reader *reader)
{
	skip_blanks(reader);
	return reader->at == reader->end;
}

/* Moves behind `word` if it comes next. */
static bool take_word(struct reader *reader, const char *word)
{
	size_t len = strlen(word);

	skip_blanks(reader);
	if ((size_t)(reader->end - reader->at) < len || memcmp(reader->at, word, len) != 0)
		return false;
	if (reader->at + len < reader->end && reader->at[len] != ' ')
		return false;
	reader->at += len;
	return true;
}

static uint64_t take_number(struct reader *reader, uint64_t max)
{
	uint64_t value = 0;
	const char *start;

	skip_blanks(reader);
	start = reader->at;
	while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9') {
		unsigned digit = (unsigned)(*reader->at++ - '0');

		if (value > (max - digit) / 10) {
			complain(reader, "number out of range");
			return 0;
		}
		value = value * 10 + digit;
	}
	if (reader->at == start || (reader->at < reader->end && *reader->at != ' '))
		complain(reader, "expected a number");
	return value;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One character of a "string", behind the backslash if there was one. */
static bool take_escape(struct reader *reader, char *out)
{
	if (reader->at == reader->end)
		return false;
	*out = *reader->at++;
	if (*out != 'x')
		return *out == '"' || *out == '\\';
	if (reader->end - reader->at < 2 || hex_digit(reader->at[0]) < 0 ||
	    hex_digit(reader->at[1]) < 0)
		return false;
	*out = (char)(hex_digit(reader->at[0]) << 4 | hex_digit(reader->at[1]));
	reader->at += 2;
	return true;
}

/* The next "string", free()d by the caller, with a zero behind it; NULL after a complaint. */
static char *take_string(struct reader *reader, size_t *len)
{
	struct sbuf text;

	sbuf_init(&text, STATE_STRING_MAX);
	skip_blanks(reader);
	if (reader->at == reader->end || *reader->at != '"') {
		complain(reader, "expected a string in double quotes");
		return NULL;
	}
	reader->at++;
	while (reader->at < reader->end && *reader->at != '"') {
		char c = *reader->at++;

		if (c == '\\' && !take_escape(reader, &c)) {
			complain(reader, "bad escape in a string");
			break;
		}
		sbuf_add_char(&text, c);
	}
	if (!reader->bad && reader->at == reader->end)
		complain(reader, "unterminated string");
	if (!reader->bad && !sbuf_ok(&text))
		complain(reader, "string is too long");
	if (reader->bad) {
		sbuf_free(&text);
		return NULL;
	}
	reader->at++;
	*len = text.len;
	return sbuf_take(&text);
}

static char *take_name(struct reader *reader)
{
	size_t len = 0;
	char *name = take_string(reader, &len);

	if (name != NULL && (len == 0 || strlen(name) != len))
		complain(reader, "a name is empty or holds a zero byte");
	return name;
}

static void take_policy(struct reader *reader, struct state_database *db)
{
	char word[32];
	size_t len = 0;
	enum config_drain_policy policy;

	skip_blanks(reader);
	while (reader->at < reader->end && *reader->at != ' ' && len < sizeof(word) - 1)
		word[len++] = *reader->at++;
	word[len] = '\0';
	if (!config_drain_policy_parse(word, &policy))
		complain(reader, "unknown policy");
	else
		db->policy = (int)policy;
}

static void take_database(struct reader *reader, struct state *state)
{
	struct state_database *db;

	state->databases = mem_must_grow(state->databases, state->database_count + 1, sizeof(*db));
	db = &state->databases[state->database_count++];
	memset(db, 0, sizeof(*db));
	db->name = take_name(reader);
	for (size_t i = 0; !reader->bad && i + 1 < state->database_count; i++) {
		if (strcmp(state->databases[i].name, db->name) == 0)
			complain(reader, "the database is there twice");
	}
	if (!reader->bad && !take_word(reader, "epoch"))
		complain(reader, "expected epoch");
	if (!reader->bad)
		db->epoch = take_number(reader, INT64_MAX);
	if (!reader->bad && take_word(reader, "server"))
		db->server = take_name(reader);
	if (!reader->bad && take_word(reader, "target"))
		db->target = take_name(reader);
	if (!reader->bad && take_word(reader, "held")) {
		db->held = true;
		if (!take_word(reader, "lease"))
			complain(reader, "expected lease");
		else
			db->lease = (usec_t)take_number(reader, INT64_MAX);
		if (!reader->bad && !take_word(reader, "policy"))
			complain(reader, "expected policy");
		if (!reader->bad)
			take_policy(reader, db);
	}
}

static void take_welcome(struct reader *reader, struct state *state)
{
	struct state_welcome *welcome;

	state->welcomes =
	    mem_must_grow(state->welcomes, state->welcome_count + 1, sizeof(*welcome));
	welcome = &state->welcomes[state->welcome_count++];
	memset(welcome, 0, sizeof(*welcome));
	welcome->database = take_name(reader);
	if (!reader->bad)
		welcome->user = take_name(reader);
	if (!reader->bad)
		welcome->params = take_string(reader, &welcome->params_len);
}

static bool take_head(struct reader *reader)
{
	uint64_t version;

	if (!take_word(reader, "pgshunt-state"))
		return false;
	version = take_number(reader, INT_MAX);
	if (version > STATE_VERSION && !reader->bad) {
		reader->bad = true;
		sbuf_printf(reader->error,
		            "%s:%zu: the file was written by a later pgshuntd (version %" PRIu64
		            " of the file; this one knows %d): start that one",
		            reader->path, reader->line, version, STATE_VERSION);
	}
	return version == STATE_VERSION;
}

bool state_parse(const char *path, const char *text, size_t len, struct state *state,
                 struct sbuf *error)
{
	struct reader reader = {.path = path, .error = error};
	const char *end = text + len;
	size_t entries = 0;
	bool headed = false;
	bool ended = false;

	while (text < end && !reader.bad) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));

		reader.line++;
		reader.at = text;
		reader.end = newline == NULL ? end : newline;
		text = newline == NULL ? end : newline + 1;
		if (at_line_end(&reader) || *reader.at == '#')
			continue;
		entries++;
		if (ended)
			complain(&reader, "text behind the line end");
		else if (!headed)
			headed = take_head(&reader);
		else if (take_word(&reader, "database"))
			take_database(&reader, state);
		else if (take_word(&reader, "welcome"))
			take_welcome(&reader, state);
		else if (take_word(&reader, "end"))
			ended = take_number(&reader, SIZE_MAX) == entries - 2;
		else
			complain(&reader, "expected database, welcome or end");
		if (!headed)
			complain(&reader, "not a state file of version 1 of pgshuntd");
		else if (!reader.bad && !at_line_end(&reader))
			complain(&reader, "unexpected text at the end of the line");
	}
	if (!ended)
		complain(&reader, "the file is not complete: no line end with the right count");
	return !reader.bad;
}

/* The whole file; NULL when it is missing (*missing) or after a message. */
static char *read_file(const char *path, size_t *len, bool *missing, struct sbuf *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct sbuf text;
	char chunk[8192];
	ssize_t n = 0;

	*missing = fd < 0 && errno == ENOENT;
	if (*missing)
		return NULL;
	sbuf_init(&text, STATE_FILE_MAX);
	while (fd >= 0 && ((n = read(fd, chunk, sizeof(chunk))) > 0 || (n < 0 && errno == EINTR))) {
		if (n > 0)
			sbuf_add(&text, chunk, (size_t)n);
	}
	if (fd < 0 || n < 0 || !sbuf_ok(&text)) {
		sbuf_printf(error, "could not read \"%s\": %s", path,
		            fd >= 0 && n == 0 ? "it is too large" : strerror(errno));
		if (fd >= 0)
			(void)close(fd);
		sbuf_free(&text);
		return NULL;
	}
	(void)close(fd);
	*len = text.len;
	return sbuf_take(&text);
}

bool state_read(const char *directory, struct state *state, struct sbuf *error)
{
	static const char *const files[] = {STATE_FILE, STATE_WELCOME_FILE};

	memset(state, 0, sizeof(*state));
	for (size_t i = 0; i < ARRAY_LEN(files) && directory[0] != '\0'; i++) {
		char path[PATH_MAX];
		bool missing;
		bool ok;
		size_t len = 0;
		char *text;

		(void)snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
		text = read_file(path, &len, &missing, error);
		ok = missing || (text != NULL && state_parse(path, text, len, state, error));
		free(text);
		if (ok)
			continue;
		if (i == 0) {
			state_free(state);
			return false;
		}
		/* Nothing but the first logins to a held database depends on it. */
		log_warning("%s: ignored", sbuf_text(error));
		sbuf_reset(error);
		free_welcomes(state);
	}
	return true;
}

int state_lock(const char *directory, struct sbuf *error)
{
	char path[PATH_MAX];
	int fd;

	if (directory[0] == '\0')
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	(void)snprintf(path, sizeof(path), "%s/%s", directory, STATE_LOCK_FILE);
	if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
		sbuf_printf(error, "could not create the state directory \"%s\": %s", directory,
		            strerror(errno));
		return -1;
	}
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		sbuf_printf(error, "could not open \"%s\": %s", path, strerror(errno));
		return -1;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		sbuf_printf(error, "could not lock \"%s\": %s", path,
		            errno == EWOULDBLOCK ? "another pgshuntd uses this state directory"
		                                 : strerror(errno));
		(void)close(fd);
		return -1;
	}
	return fd;
}
