/* SPDX-License-Identifier: PostgreSQL */
/*
 * The first packet of a connection, from any bytes; then its parameters, its options, and the
 * answer to a newer protocol.
 */
#include "base/sbuf.h"
#include "wire/build.h"
#include "wire/options.h"
#include "wire/parse.h"
#include "wire/startup.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void use_options(const char *text)
{
	struct wire_options options;
	size_t used = 0;

	if (wire_options_parse(text, &options)) {
		for (size_t i = 0; i < options.count; i++) {
			require(options.items[i].name[0] != '\0');
			used += strlen(options.items[i].name) + strlen(options.items[i].value);
		}
		require(used <= strlen(text));
	} else {
		require(options.sqlstate != NULL && options.error[0] != '\0');
	}
	wire_options_free(&options);
}

static void use_message(const struct wire_startup *startup, const uint8_t *data)
{
	const char *end = (const char *)data + startup->size;
	const char *cursor = NULL;
	const char *name;
	const char *value;
	struct sbuf answer;
	uint32_t version;
	uint32_t count;

	require(startup->user != NULL && startup->user[0] != '\0' && startup->database != NULL);
	while (wire_startup_next(startup, &cursor, &name, &value))
		require(value + strlen(value) < end - 1);
	(void)wire_startup_replication(startup->replication);
	if (startup->options != NULL)
		use_options(startup->options);
	sbuf_init(&answer, 2 * WIRE_STARTUP_MAX);
	wire_add_negotiate(&answer, startup);
	require(sbuf_ok(&answer));
	require(wire_parse_negotiate(answer.data + WIRE_HEADER_LEN, answer.len - WIRE_HEADER_LEN,
	                             &version, &count));
	require(count == startup->unknown_count);
	sbuf_free(&answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_startup startup;

	switch (wire_startup_parse(data, size, &startup)) {
	case WIRE_STARTUP_MORE:
		require(startup.size > size && startup.size <= WIRE_STARTUP_MAX);
		break;
	case WIRE_STARTUP_SSL:
	case WIRE_STARTUP_GSSENC:
		require(startup.size == 8 && size >= 8);
		break;
	case WIRE_STARTUP_CANCEL:
		require(startup.key + startup.key_len == data + startup.size);
		require(startup.size <= size);
		break;
	case WIRE_STARTUP_MESSAGE:
		require(startup.size <= size);
		use_message(&startup, data);
		break;
	case WIRE_STARTUP_DIRECT_TLS:
		require(data[0] == 0x16);
		break;
	case WIRE_STARTUP_BAD:
		require(startup.sqlstate != NULL && startup.error[0] != '\0');
		break;
	}
	return 0;
}
