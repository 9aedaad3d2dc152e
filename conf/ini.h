/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgbouncer.ini: read by pgbouncer's rules, every value with its place in the bytes of its file, so
 * that one value can be exchanged and all other bytes stay.
 *
 * The rules: `[section]`, `key = value` to the end of the line, comment lines that begin with ; or
 * #, and `%include file`.  A key of other characters than letters, digits and _.-* stands in double
 * quotes (as pgbouncer's documentation has it), or in single ones (as its parser has it).  Of several
 * equal keys the last one counts.  The values of [databases], [users] and
 * [peers] are lists of key=value, in which a value with blanks stands in single quotes and a quote
 * in it is written twice.
 *
 * Nothing here knows what a setting means, and nothing writes a file.
 */
#ifndef CONF_INI_H
#define CONF_INI_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/arena.h"

#include <stdbool.h>
#include <stddef.h>

/* Most bytes of one file, and most files that one includes, directly or not. */
#define INI_FILE_MAX ((size_t)4 * 1024 * 1024)
#define INI_FILES_MAX 64

struct ini_file {
	const char *path;
	const char *bytes;
	size_t len;
};

struct ini_item {
	const char *section;
	const char *key;   /* without quotes */
	const char *value; /* as it is written, without the blanks around it */
	size_t heading;    /* how many [section] lines stand before it, in the order of reading */
	size_t file;       /* an index of files */
	size_t line;       /* from 1 */
	size_t start;      /* of the value in the bytes of the file */
	size_t end;
};

struct ini {
	struct ini_file *files; /* the first is the main one */
	size_t file_count;
	struct ini_item *items; /* in the order in which pgbouncer reads them */
	size_t item_count;
	const char **headings; /* the names of the [section] lines, in that order */
	size_t heading_count;
	struct config_block *blocks;
};

/* Gives the bytes of a file in new memory; false: `error` says why not. */
typedef bool (*ini_reader)(void *arg, const char *path, char **bytes, size_t *len,
                           struct sbuf *error);

/* Reads files of this machine; `arg` is not used. */
bool ini_read_local(void *arg, const char *path, char **bytes, size_t *len,
                    struct sbuf *error) MUST_CHECK;

/*
 * Reads the file and what it includes; relative names of included files are relative to the
 * directory of the main file.  False: `errors` has what is wrong, "file:line: text", and `ini` is
 * empty.
 */
bool ini_load(const char *path, ini_reader read, void *arg, struct ini *ini,
              struct sbuf *errors) MUST_CHECK;

/* The same for a file of this machine with which this process is started: a relative name of an
 * included file is looked for in the working directory first, as pgbouncer does. */
bool ini_load_here(const char *path, struct ini *ini, struct sbuf *errors) MUST_CHECK;
void ini_free(struct ini *ini);

/* The item that counts, NULL if there is none. */
const struct ini_item *ini_find(const struct ini *ini, const char *section, const char *key);

/* How many [section] lines stand before what follows the last one of that name; 0 if there is none. */
size_t ini_last_heading(const struct ini *ini, const char *section);

/* The bytes of the item's file with another value; new memory. */
char *ini_with_value(const struct ini *ini, const struct ini_item *item, const char *value,
                     size_t *len) MUST_CHECK;

/* ---- the lists of key=value ---- */

/* The value of `key` in the list, in new memory; *value is NULL if it is not there.  False if the
 * text is no such list. */
bool ini_pair_get(const char *list, const char *key, char **value) MUST_CHECK;

/* Calls `each` for every pair; false if the text is no such list. */
bool ini_pairs(const char *list, void (*each)(void *arg, const char *key, const char *value),
               void *arg) MUST_CHECK;

/* The list with another value of host and port, everything else as it was, in new memory.  What is
 * not there is added, but not a port that is the default.  NULL if the text is no such list. */
char *ini_readdress(const char *list, const char *host, int port) MUST_CHECK;

#endif
