/* SPDX-License-Identifier: PostgreSQL */
/*
 * pgbouncer.ini from any bytes.  The first byte chooses: the file as a configuration, the file as
 * YAML for people, one value edited, or a connection string of [databases].  Other files are kept
 * out.
 */
#include "base/log.h"
#include "conf/ini.h"
#include "conf/pgbouncer.h"
#include "conf/show.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void visit(void *arg, const struct config_show_row *row)
{
	*(size_t *)arg += strlen(row->section) + strlen(row->name);
}

static void use(struct config *config)
{
	struct sbuf text;
	size_t bytes = 0;

	config_show(config, visit, &bytes);
	require(bytes > 0);
	sbuf_init(&text, 1 << 20);
	for (size_t i = 0; i < pgbouncer_setting_count(); i++)
		(void)pgbouncer_show(config, pgbouncer_setting_at(i), &text);
	sbuf_free(&text);
}

static void try_load(const char *path)
{
	struct config *config = NULL;
	struct sbuf errors;
	bool good;

	sbuf_init(&errors, 1 << 20);
	good = pgbouncer_load(path, &config, &errors);
	require(good == (config != NULL));
	require(good || errors.len > 0);
	if (good)
		use(config);
	config_unref(config);
	sbuf_free(&errors);
}

static void try_import(const char *path)
{
	struct sbuf yaml;
	struct sbuf errors;

	sbuf_init(&yaml, 1 << 22);
	sbuf_init(&errors, 1 << 20);
	require(pgbouncer_import(path, &yaml, &errors) || errors.len > 0);
	sbuf_free(&yaml);
	sbuf_free(&errors);
}

/* What was written is what is read afterwards, and nothing else has changed. */
static void try_edit(const char *path)
{
	struct sbuf errors;
	struct ini ini;

	sbuf_init(&errors, 1 << 20);
	if (ini_load(path, ini_read_local, NULL, &ini, &errors)) {
		for (size_t i = 0; i < ini.item_count && i < 4; i++) {
			size_t len;
			char *text = ini_with_value(&ini, &ini.items[i], "host=h port=1", &len);

			require(text != NULL && len >= strlen("host=h port=1"));
			require(memmem(text, len, "host=h port=1", 13) != NULL);
			free(text);
		}
		ini_free(&ini);
	}
	sbuf_free(&errors);
}

static void each_pair(void *arg, const char *key, const char *value)
{
	*(size_t *)arg += strlen(key) + strlen(value);
}

static void try_pairs(const char *text)
{
	size_t bytes = 0;
	bool good = ini_pairs(text, each_pair, &bytes);
	char *value = NULL;
	char *moved;

	require(bytes <= strlen(text));
	if (ini_pair_get(text, "host", &value))
		free(value);
	moved = ini_readdress(text, "new.example.org", 7);
	if (moved == NULL || !good) {
		free(moved);
		return;
	}
	require(ini_pair_get(moved, "host", &value) && value != NULL &&
	        strcmp(value, "new.example.org") == 0);
	free(value);
	free(moved);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_level(LOG_LEVEL_ERROR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];
	char *text;
	int fd;

	if (size < 1 || size > 4000 || memmem(data, size, "%include", 8) != NULL)
		return 0;
	if (data[0] % 4 == 3) {
		text = strndup((const char *)data + 1, size - 1);
		require(text != NULL);
		try_pairs(text);
		free(text);
		return 0;
	}
	fd = memfd_create("ini", MFD_CLOEXEC);
	require(fd >= 0 && write(fd, data + 1, size - 1) == (ssize_t)(size - 1));
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (data[0] % 4 == 0)
		try_load(path);
	else if (data[0] % 4 == 1)
		try_import(path);
	else
		try_edit(path);
	(void)close(fd);
	return 0;
}
