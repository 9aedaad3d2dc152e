/* SPDX-License-Identifier: PostgreSQL */
/*
 * One value: from text to the field of a struct, and back.  Internal to conf.
 */
#ifndef CONF_VALUE_H
#define CONF_VALUE_H

#include "base/compiler.h"
#include "base/sbuf.h"
#include "conf/arena.h"
#include "conf/table.h"

#include <stdbool.h>
#include <stdint.h>

/* What strings need: where their copies live, and what paths are relative to. */
struct value_context {
	struct config_block **blocks;
	const char *directory; /* "" = the current one */
};

/*
 * Stores `text` in the field of `setting` in the struct at `base`.  False: `why` says what is wrong
 * and what would be right, without naming the setting, and the field is as it was.  Not for
 * VALUE_SERVER, which is a reference; a VALUE_LIST becomes a list of one.
 */
bool value_parse(const struct setting *setting, const char *text, void *base,
                 const struct value_context *context, struct sbuf *why) MUST_CHECK;

/* Whether the text may be a string of that setting; if not, `why` says the reason. */
bool value_check_string(const struct setting *setting, const char *text,
                        struct sbuf *why) MUST_CHECK;

/* The range of a number's type, in its unit (bytes, microseconds). */
void value_range(const struct setting *setting, int64_t *least, int64_t *most);

/* Stores the default: also that of a required setting, which is then NULL, "" or empty. */
void value_set_default(const struct setting *setting, void *base,
                       const struct value_context *context);

/* Whether the field says that another setting applies. */
bool value_is_unset(const struct setting *setting, const void *base);

/* Appends the value as the file would spell it. */
void value_format(const struct setting *setting, const void *base, struct sbuf *out);

/* Copies the field from one struct to another, whose memory comes from `blocks`. */
void value_copy(const struct setting *setting, const void *from, void *to,
                struct config_block **blocks);

#endif
