/* SPDX-License-Identifier: PostgreSQL */
/*
 * The configuration loader on arbitrary bytes: it gives a whole configuration or errors, never
 * both; and a configuration can be listed, compared and copied from.
 */
#include "conf/config.h"
#include "conf/show.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void visit(void *arg, const struct config_show_row *row)
{
	size_t *bytes = arg;

	*bytes += strlen(row->section) + strlen(row->name) + strlen(row->help);
	if (row->value != NULL)
		*bytes += strlen(row->value);
}

static void use(struct config *config)
{
	struct sbuf names;
	size_t bytes = 0;

	config_show(config, visit, &bytes);
	if (bytes == 0)
		abort();
	for (size_t i = 0; i < config->database_count; i++) {
		const struct config_database *database = &config->databases[i];

		if (config_find_database(config, database->name) != database ||
		    config_find_shard(config, database->shard) != database ||
		    config_find_server(config, database->server->name) != database->server ||
		    config_pool_size(config, database, NULL) < 1)
			abort();
	}
	sbuf_init(&names, 4096);
	config_keep_fixed(config, config);
	if (config_compare_reload(config, config, &names) != 0)
		abort();
	sbuf_free(&names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config;
	struct sbuf errors;

	sbuf_init(&errors, (size_t)1024 * 1024);
	if (config_load_buffer("dir/fuzz.yml", data, size, &config, &errors)) {
		if (errors.len != 0)
			abort();
		use(config);
	} else if (config != NULL || errors.len == 0) {
		abort();
	}
	config_unref(config);
	sbuf_free(&errors);
	return 0;
}
