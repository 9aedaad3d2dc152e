/* SPDX-License-Identifier: PostgreSQL */
#include "session/facts.h"

#include "session/sql_lex.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct session_facts {
	char **names;
	size_t count;
	bool unreadable;
	bool cut; /* of the last text only the beginning was seen */
	bool strings_changed;
	bool encoding_changed;
	bool unnamed_lost;
	bool times_changed;
	bool unnamed_times_changed;
	unsigned last;    /* what the last text sets: SETS_… and unreported_bit() */
	unsigned now;     /* what was set since the last Sync */
	unsigned by_name; /* what statements of a name set, whenever they are executed */
	unsigned once;    /* what was set at any time */
};

#define SETS_TIMES 1u
#define SETS_STRINGS 2u
#define SETS_ENCODING 4u

/* Settings that matter to what a literal means, by the word behind SET. */
static const struct {
	const char *word;
	unsigned sets;
} reported[] = {{"datestyle", SETS_TIMES},
                {"intervalstyle", SETS_TIMES},
                {"timezone", SETS_TIMES},
                {"time", SETS_TIMES},
                {"standard_conforming_strings", SETS_STRINGS},
                {"client_encoding", SETS_ENCODING},
                {"names", SETS_ENCODING},
                {"all", SETS_TIMES | SETS_STRINGS | SETS_ENCODING}};
static const char *const unreported[] = {"array_nulls", "lc_monetary", "timezone_abbreviations",
                                         "transform_null_equals", "xmloption"};
/* Which a superuser may SET, and nobody else may see (GUC_SUPERUSER_ONLY). */
static const char *const concealed[] = {"dynamic_library_path", "session_preload_libraries"};

static unsigned unreported_bit(size_t i)
{
	return 8u << i;
}

static unsigned concealed_bit(size_t i)
{
	return unreported_bit(ARRAY_LEN(unreported) + i);
}

/* What a session has for which there was no memory: nothing is known of it for sure.  Never
 * changed. */
static struct session_facts facts_lost = {.unreadable = true,
                                          .strings_changed = true,
                                          .encoding_changed = true,
                                          .unnamed_lost = true,
                                          .times_changed = true,
                                          .unnamed_times_changed = true,
                                          .now = ~0u,
                                          .by_name = ~0u,
                                          .once = ~0u};

/* NULL: nothing can be noted. */
static struct session_facts *facts_make(struct session_facts **slot)
{
	if (*slot == NULL) {
		*slot = calloc(1, sizeof(**slot));
		if (*slot == NULL)
			*slot = &facts_lost;
	}
	return *slot == &facts_lost ? NULL : *slot;
}

void session_facts_free(struct session_facts *facts)
{
	size_t i;

	if (facts == NULL || facts == &facts_lost)
		return;
	for (i = 0; i < facts->count; i++)
		free(facts->names[i]);
	free(facts->names);
	free(facts);
}

void session_facts_set_unreadable(struct session_facts **slot)
{
	struct session_facts *facts = facts_make(slot);

	if (facts != NULL)
		facts->unreadable = true;
}

void session_facts_add_name(struct session_facts **slot, const char *name)
{
	struct session_facts *facts = facts_make(slot);
	char **names;
	size_t i;

	if (facts == NULL)
		return;
	for (i = 0; i < facts->count; i++) {
		if (strcasecmp(facts->names[i], name) == 0)
			return;
	}
	names = facts->count < SESSION_FACTS_NAMES_MAX
	            ? realloc(facts->names, (facts->count + 1) * sizeof(*names))
	            : NULL;
	if (names == NULL) {
		facts->unreadable = true;
		return;
	}
	facts->names = names;
	names[facts->count] = strdup(name);
	if (names[facts->count] == NULL)
		facts->unreadable = true;
	else
		facts->count++;
}

static unsigned what_sets(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(reported); i++) {
		if (strcmp(name, reported[i].word) == 0)
			return reported[i].sets;
	}
	for (i = 0; i < ARRAY_LEN(unreported); i++) {
		if (strcmp(name, unreported[i]) == 0)
			return unreported_bit(i);
	}
	for (i = 0; i < ARRAY_LEN(concealed); i++) {
		if (strcmp(name, concealed[i]) == 0)
			return concealed_bit(i);
	}
	return strcmp(name, "xml") == 0 ? what_sets("xmloption") : 0;
}

static void found_name(void *arg, const char *name)
{
	struct session_facts **slot = arg;
	unsigned sets;

	if (strchr(name, '.') != NULL) {
		session_facts_add_name(slot, name);
		return;
	}
	sets = what_sets(name);
	if (sets != 0 && facts_make(slot) != NULL)
		(*slot)->last |= sets;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
}

/* In lower case here, in any there. */
static bool has_word(const char *text, size_t len, const char *word)
{
	const size_t n = strlen(word);

	for (size_t i = 0; i + n <= len; i++) {
		if (strncasecmp(text + i, word, n) == 0)
			return true;
	}
	return false;
}

/* "set_config" in any case. */
static bool has_call(const char *text, size_t len)
{
	const char *p = text;
	const char *end = text + len;

	while ((p = memchr(p, '_', (size_t)(end - p))) != NULL) {
		if (p - text >= 3 && end - p >= 7 && (p[1] | 0x20) == 'c' &&
		    (p[-1] | 0x20) == 't' && strncasecmp(p - 3, "set_config", 10) == 0)
			return true;
		p++;
	}
	return false;
}

/* With these three lower-case letters, however they are written. */
static inline bool begins_with(const char *text, const char letters[3])
{
	return (text[0] | 0x20) == letters[0] && (text[1] | 0x20) == letters[1] &&
	       (text[2] | 0x20) == letters[2];
}

/* Whether it may be worth reading. */
static bool may_set(const char *text, size_t len)
{
	const char *end = text + len;
	const char *p = text;

	while (p < end && is_space(*p))
		p++;
	while (end > p && (is_space(end[-1]) || end[-1] == ';'))
		end--;
	if (end - p < 3)
		return false;
	if (begins_with(p, "set") || begins_with(p, "res") || (p[0] == '/' && p[1] == '*') ||
	    (p[0] == '-' && p[1] == '-'))
		return true;
	return memchr(p, ';', (size_t)(end - p)) != NULL || has_call(p, (size_t)(end - p));
}

void session_facts_see_text(struct session_facts **slot, const char *text, size_t len, bool whole)
{
	if (UNLIKELY(!whole || *slot != NULL) && facts_make(slot) != NULL) {
		(*slot)->cut = !whole;
		(*slot)->last = 0;
	}
	if (UNLIKELY(may_set(text, len)) && !sql_find_custom(text, len, found_name, slot))
		session_facts_set_unreadable(slot);
	if (LIKELY(*slot == NULL) || facts_make(slot) == NULL)
		return;
	(*slot)->now |= (*slot)->last;
	(*slot)->once |= (*slot)->last;
	if (((*slot)->now & SETS_TIMES) != 0 && has_word(text, len, "prepare"))
		(*slot)->times_changed = true;
}

void session_facts_see_sync(struct session_facts *facts)
{
	if (facts != NULL && facts != &facts_lost)
		facts->now = 0;
}

bool session_facts_see_parse(struct session_facts *facts, unsigned under, bool named)
{
	const bool times = (under & SETS_TIMES) != 0;

	if (LIKELY(facts == NULL || facts == &facts_lost))
		return facts != NULL;
	facts->strings_changed |= (under & SETS_STRINGS) != 0;
	facts->encoding_changed |= (under & SETS_ENCODING) != 0;
	if (named) {
		facts->times_changed |= times;
		facts->by_name |= facts->last;
	}
	return times;
}

unsigned session_facts_set_before(struct session_facts *facts, bool piped)
{
	if (LIKELY(facts == NULL))
		return 0;
	if (!piped)
		session_facts_see_sync(facts);
	return piped ? facts->now | facts->by_name : 0;
}

void session_facts_see_set(struct session_facts *facts)
{
	if (facts != NULL && facts->cut && !facts->unreadable)
		facts->unreadable = true;
}

bool session_facts_is_of_times(const char *name)
{
	return strcmp(name, "DateStyle") == 0 || strcmp(name, "IntervalStyle") == 0 ||
	       strcmp(name, "TimeZone") == 0;
}

void session_facts_see_parameter(struct session_facts **slot, const char *name, bool prepared)
{
	bool strings = strcmp(name, "standard_conforming_strings") == 0;
	bool encoding = strcmp(name, "client_encoding") == 0;
	bool times = prepared && session_facts_is_of_times(name);
	struct session_facts *facts = strings || encoding || times ? facts_make(slot) : NULL;

	if (facts == NULL)
		return;
	facts->strings_changed |= strings;
	facts->encoding_changed |= encoding;
	facts->times_changed |= times;
}

void session_facts_see_no_statements(struct session_facts *facts)
{
	if (facts != NULL && facts != &facts_lost)
		facts->times_changed = false;
}

void session_facts_see_unnamed(struct session_facts **slot, bool lost, bool times_changed)
{
	if ((!lost && !times_changed && *slot == NULL) || facts_make(slot) == NULL)
		return;
	(*slot)->unnamed_lost = lost;
	(*slot)->unnamed_times_changed = times_changed;
}

bool session_facts_has_set(const struct session_facts *facts, const char *name)
{
	return facts != NULL && (facts->once & what_sets(name)) != 0;
}

const char *session_facts_concealed(const struct session_facts *facts)
{
	for (size_t i = 0; i < ARRAY_LEN(concealed); i++) {
		if (session_facts_has_set(facts, concealed[i]))
			return concealed[i];
	}
	return NULL;
}

size_t session_facts_names(const struct session_facts *facts)
{
	return facts == NULL ? 0 : facts->count;
}

const char *session_facts_name(const struct session_facts *facts, size_t i)
{
	return facts->names[i];
}

bool session_facts_unreadable(const struct session_facts *facts)
{
	return facts != NULL && facts->unreadable;
}

bool session_facts_strings_changed(const struct session_facts *facts)
{
	return facts != NULL && facts->strings_changed;
}

bool session_facts_encoding_changed(const struct session_facts *facts)
{
	return facts != NULL && facts->encoding_changed;
}

bool session_facts_unnamed_lost(const struct session_facts *facts)
{
	return facts != NULL && facts->unnamed_lost;
}

bool session_facts_times_changed(const struct session_facts *facts)
{
	return facts != NULL && facts->times_changed;
}

bool session_facts_unnamed_times_changed(const struct session_facts *facts)
{
	return facts != NULL && facts->unnamed_times_changed;
}
