/* SPDX-License-Identifier: PostgreSQL */
#include "wire/message.h"

#include <stdio.h>

const struct wire_rule wire_rules[2][256] = {
#define FE(byte, name, min, max, help)                                                             \
	[WIRE_FRONTEND][byte] = {#name, help, min, (max) - (min) + 1},
#define BE(byte, name, min, max, help) [WIRE_BACKEND][byte] = {#name, help, min, (max) - (min) + 1},
#include "wire/messages.def"
};

char *wire_header_error(enum wire_direction from, const void *header, char *out, size_t out_size)
{
	const uint8_t *b = header;
	const struct wire_rule *rule = wire_rule(from, b[0]);

	if (rule->name == NULL)
		(void)snprintf(out, out_size, "invalid %s message type %u",
		               from == WIRE_FRONTEND ? "frontend" : "backend", b[0]);
	else
		(void)snprintf(out, out_size, "invalid length %u of %s message",
		               wire_get_be32(b + 1), rule->name);
	return out;
}
