/* SPDX-License-Identifier: PostgreSQL */
/*
 * A stream of messages from either side, followed by its headers alone as the relay does: the
 * position only moves forward, and what a rule admits lies within its bounds.
 */
#include "wire/message.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(enum wire_direction from, const uint8_t *header,
                          enum wire_header_status status)
{
	char text[80];

	(void)wire_header_error(from, header, text, sizeof(text));
	if (text[0] == '\0')
		abort();
	if ((status == WIRE_HEADER_UNKNOWN) != (wire_rule(from, header[0])->name == NULL))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum wire_direction from = size > 0 && (data[0] & 1) ? WIRE_BACKEND : WIRE_FRONTEND;
	size_t at = 1;

	while (at < size && size - at >= WIRE_HEADER_LEN) {
		size_t total = 0;
		enum wire_header_status status = wire_header_check(from, data + at, &total);

		if (status != WIRE_HEADER_OK) {
			check_refusal(from, data + at, status);
			break;
		}
		if (total < WIRE_HEADER_LEN || total > (size_t)WIRE_LARGE + 1 ||
		    total != (size_t)wire_get_be32(data + at + 1) + 1)
			abort();
		if (total > size - at)
			break;
		at += total;
	}
	return 0;
}
