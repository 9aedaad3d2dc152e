/* SPDX-License-Identifier: PostgreSQL */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>

/* Length of the UTF-8 character at `p` of at most `left` bytes; 0 when it is none, overlong, a
 * surrogate or beyond U+10FFFF. */
static inline size_t utf8_length(const unsigned char *p, size_t left)
{
	const size_t len = *p < 0x80                  ? 1
	                   : *p >= 0xc2 && *p <= 0xdf ? 2
	                   : *p >= 0xe0 && *p <= 0xef ? 3
	                   : *p >= 0xf0 && *p <= 0xf4 ? 4
	                                              : 0;

	if (len == 0 || len > left)
		return 0;
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
	    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

#endif
