/* SPDX-License-Identifier: PostgreSQL */
#include "auth/ident.h"

#include "auth/tokens.h"
#include "base/mem.h"

#include <regex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct ident_rule {
	struct field map;
	struct field system_user;
	struct field user;
};

struct ident {
	atomic_uint refs;
	struct ident_rule *rules;
	size_t count;
};

struct ident *ident_ref(struct ident *ident)
{
	if (ident != NULL)
		atomic_fetch_add_explicit(&ident->refs, 1, memory_order_relaxed);
	return ident;
}

static void rule_free(struct ident_rule *rule)
{
	field_free(&rule->map);
	field_free(&rule->system_user);
	field_free(&rule->user);
}

void ident_unref(struct ident *ident)
{
	if (ident == NULL || atomic_fetch_sub_explicit(&ident->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < ident->count; i++)
		rule_free(&ident->rules[i]);
	free(ident->rules);
	free(ident);
}

/* ---- reading ---- */

static bool rule_check(struct ident_rule *rule, const struct line *line, struct sbuf *errors)
{
	struct token *system_user = &rule->system_user.tokens[0];
	struct token *user = &rule->user.tokens[0];

	if (!user->quoted && user->text[0] == '+')
		return tokens_fail(errors, line,
		                   "\"%s\": who is a member of a role only the server knows; name "
		                   "the users, or use a regular expression",
		                   user->text);
	if (!token_compile(system_user, line, errors) || !token_compile(user, line, errors))
		return false;
	if (system_user->regex != NULL && user->regex == NULL &&
	    strstr(user->text, "\\1") != NULL && system_user->regex->re_nsub < 1)
		return tokens_fail(
		    errors, line,
		    "regular expression \"%s\" has no subexpressions as requested by "
		    "backreference in \"%s\"",
		    system_user->text + 1, user->text);
	return true;
}

static bool ident_take(void *owner, struct line *line, struct sbuf *errors)
{
	struct ident *ident = owner;
	struct ident_rule rule;

	if (line->count < 3)
		return tokens_fail(errors, line,
		                   "missing entry at end of line; expected map name, system user "
		                   "and database user");
	if (line->count > 3)
		return tokens_fail(errors, line, "more than three fields");
	for (size_t i = 0; i < 3; i++) {
		if (line->fields[i].count != 1)
			return tokens_fail(errors, line, "multiple values in ident field");
	}
	rule = (struct ident_rule){line->fields[0], line->fields[1], line->fields[2]};
	if (!rule_check(&rule, line, errors))
		return false;
	line->count = 0; /* the fields are the rule's now */
	ident->rules = mem_must_grow(ident->rules, ident->count + 1, sizeof(rule));
	ident->rules[ident->count++] = rule;
	return true;
}

static struct ident *ident_new(void)
{
	struct ident *ident = mem_must_alloc(sizeof(*ident));

	atomic_init(&ident->refs, 1);
	return ident;
}

static struct ident *ident_if(struct ident *ident, bool good)
{
	if (good)
		return ident;
	ident_unref(ident);
	return NULL;
}

struct ident *ident_load(const char *path, struct sbuf *errors)
{
	struct ident *ident = ident_new();

	return ident_if(ident, tokens_load(path, ident_take, ident, errors));
}

struct ident *ident_parse(const char *path, const char *text, size_t len, struct sbuf *errors)
{
	struct ident *ident = ident_new();

	return ident_if(ident, tokens_parse(path, text, len, ident_take, ident, errors));
}

/* ---- matching ---- */

/* The database user of a rule with a regular expression: \1 is what its first group has matched. */
static bool user_equals(const struct token *expected, const char *system_user,
                        const regmatch_t *group, const char *user)
{
	const char *place = strstr(expected->text, "\\1");
	size_t before;
	size_t len;

	if (place == NULL || group->rm_so < 0)
		return place == NULL && strcmp(expected->text, user) == 0;
	before = (size_t)(place - expected->text);
	len = (size_t)(group->rm_eo - group->rm_so);
	return strncmp(user, expected->text, before) == 0 &&
	       strncmp(user + before, system_user + group->rm_so, len) == 0 &&
	       strcmp(user + before + len, place + 2) == 0;
}

static bool rule_allows(const struct ident_rule *rule, const char *system_user, const char *user)
{
	const struct token *from = &rule->system_user.tokens[0];
	const struct token *to = &rule->user.tokens[0];
	regmatch_t groups[2];

	if (from->regex != NULL) {
		if (strlen(system_user) > TOKENS_REGEX_INPUT_MAX ||
		    regexec(from->regex, system_user, 2, groups, 0) != 0)
			return false;
	} else if (strcmp(from->text, system_user) != 0) {
		return false;
	}
	if (token_is_keyword(to, "all"))
		return true;
	if (to->regex != NULL || from->regex == NULL)
		return token_matches(to, user);
	return user_equals(to, system_user, &groups[1], user);
}

bool ident_allows(const struct ident *ident, const char *map, const char *system_user,
                  const char *user)
{
	if (map == NULL || *map == '\0')
		return strcmp(system_user, user) == 0;
	for (size_t i = 0; ident != NULL && i < ident->count; i++) {
		if (strcmp(ident->rules[i].map.tokens[0].text, map) == 0 &&
		    rule_allows(&ident->rules[i], system_user, user))
			return true;
	}
	return false;
}
