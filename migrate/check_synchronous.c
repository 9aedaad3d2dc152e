/* SPDX-License-Identifier: PostgreSQL */
/*
 * Check of who waits for whom: whose commits would wait for standbys that are not there after the
 * promotion, for ever.
 *
 * Both methods of synchronous_standby_names, FIRST and ANY, wait while fewer than the number of
 * listed standbys are connected, so the number is all that has to be known of the source, which
 * says itself which of its standbys the list means (sync_priority).  A standby gives its own none:
 * of the target the names are compared, as PostgreSQL does.
 */
#include "base/mem.h"
#include "migrate/check.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* From 17 on logical replication can be told to wait for physical slots, too.  Only who says what
 * he has on disk counts for commits. */
static const char senders_sql[] =
    "SELECT r.application_name AS name, s.slot_name, r.sync_priority > 0 AS listed,"
    " r.flush_lsn IS NOT NULL AS counts, current_setting('synchronous_standby_names') AS names,"
    " s.slot_name = ANY (regexp_split_to_array("
    "coalesce(current_setting('synchronized_standby_slots', true), ''), '[\\s\",]+'))"
    " AS decoding_waits FROM (SELECT) one LEFT JOIN pg_stat_replication r ON"
    " r.state = 'streaming' LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid";

/* A value of synchronous_standby_names. */
struct standby_names {
	int number; /* how many of them a commit waits for; 0 = the setting is empty */
	char **names;
	size_t count;
};

static bool ends_name(char c)
{
	return c == '\0' || c == ',' || c == '(' || c == ')' || isspace((unsigned char)c);
}

/* The next name, number or word, without quotes; NULL at the end. */
static char *next_word(const char **at, bool *quoted)
{
	const char *p = *at;
	char *word;
	size_t len = 0;

	while (*p == ',' || *p == '(' || *p == ')' || isspace((unsigned char)*p))
		p++;
	*quoted = *p == '"';
	if (*p == '\0')
		return NULL;
	word = mem_must_alloc(strlen(p) + 1);
	if (*quoted) {
		for (p++; *p != '\0'; p++) {
			if (*p == '"' && *++p != '"')
				break;
			word[len++] = *p;
		}
	} else {
		while (!ends_name(*p))
			word[len++] = *p++;
	}
	*at = p;
	return word;
}

/*
 * [FIRST | ANY] number (name, ...) or name, ...: the server accepted it, so it is one of the two,
 * and a parenthesis tells which.  A name may be a number.
 */
static void parse_names(const char *text, struct standby_names *out)
{
	const char *at = text;
	bool list = true; /* of names only, which means FIRST 1 */
	bool quoted = false;
	char *word;

	*out = (struct standby_names){0};
	for (const char *p = text; *p != '\0'; p++) {
		if (*p == '"')
			quoted = !quoted;
		else if (*p == '(' && !quoted)
			list = false;
	}
	while ((word = next_word(&at, &quoted)) != NULL) {
		if (!list && out->number == 0) {
			if (isdigit((unsigned char)*word))
				out->number = atoi(word);
			free(word);
			continue;
		}
		if (list)
			out->number = 1;
		out->names = mem_must_grow(out->names, out->count + 1, sizeof(*out->names));
		out->names[out->count++] = word;
	}
}

static void free_names(struct standby_names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->names[i]);
	free(names->names);
}

static bool is_listed(const struct standby_names *names, const char *standby)
{
	for (size_t i = 0; i < names->count; i++) {
		if (strcmp(names->names[i], "*") == 0 || strcasecmp(names->names[i], standby) == 0)
			return true;
	}
	return false;
}

/* The source: it must have enough without the target, whose slot is `slot` ("" = none). */
static void check_source(struct checks *checks, const char *slot)
{
	const struct link *source = &checks->move->source.link;
	const struct link *target = &checks->move->target.link;
	const char *setting = link_value(source, 0, "names");
	struct standby_names names;
	bool is_one = false;
	int others = 0;

	for (int row = 0; row < link_rows(source); row++) {
		const char *of = link_value(source, row, "slot_name");
		bool counts = link_true(source, row, "listed") && link_true(source, row, "counts");

		if (*slot != '\0' && of != NULL && strcmp(of, slot) == 0 &&
		    link_true(source, row, "decoding_waits"))
			check_find(checks, CHECK_SYNCHRONOUS, CHECK_REFUSE,
			           "synchronized_standby_slots of %s has slot %s", source->name,
			           slot);
		/* Without a slot any of those that have none may be the target. */
		if (counts && !is_one &&
		    (*slot == '\0' ? of == NULL : of != NULL && strcmp(of, slot) == 0))
			is_one = true;
		else if (counts)
			others++;
	}
	parse_names(setting == NULL ? "" : setting, &names);
	if (is_one && others < names.number)
		check_find(checks, CHECK_SYNCHRONOUS, CHECK_REFUSE,
		           "commits on %s wait for %d of %s, and without %s %d %s connected",
		           source->name, names.number, setting, target->name, others,
		           others == 1 ? "is" : "are");
	else if (is_one)
		check_find(checks, CHECK_SYNCHRONOUS, CHECK_WARN,
		           "%s is a synchronous standby of %s (%s); there are others: %d",
		           target->name, source->name, setting, others);
	else if (others < names.number)
		check_find(checks, CHECK_SYNCHRONOUS, CHECK_WARN,
		           "commits on %s wait for %d of %s, and %d %s connected", source->name,
		           names.number, setting, others, others == 1 ? "is" : "are");
	free_names(&names);
}

/* The target, whose setting often came with the copy: it counts from the promotion on, and then
 * for its own standbys. */
static void check_target(struct checks *checks)
{
	const struct link *target = &checks->move->target.link;
	const char *setting = link_value(target, 0, "names");
	struct standby_names names;
	int connected = 0;

	parse_names(setting == NULL ? "" : setting, &names);
	for (int row = 0; row < link_rows(target); row++) {
		const char *name = link_value(target, row, "name");

		if (name != NULL && link_true(target, row, "counts") && is_listed(&names, name))
			connected++;
	}
	if (connected < names.number)
		check_find(checks, CHECK_SYNCHRONOUS, CHECK_REFUSE,
		           "on %s synchronous_standby_names is %s: after its promotion every "
		           "commit would wait for %d of them, and %d %s connected to it",
		           target->name, setting, names.number, connected,
		           connected == 1 ? "is" : "are");
	free_names(&names);
}

void check_synchronous(struct checks *checks, const char *slot)
{
	struct move *move = checks->move;

	if (!check_query(checks, CHECK_SYNCHRONOUS, &move->source.link, senders_sql) ||
	    !check_query(checks, CHECK_SYNCHRONOUS, &move->target.link, senders_sql))
		return;
	check_source(checks, slot);
	check_target(checks);
	check_pass(checks, CHECK_SYNCHRONOUS, "%s does not wait for it, and it waits for nobody",
	           move->source.link.name);
}
