/* SPDX-License-Identifier: PostgreSQL */
#include "core/ledger.h"

#include "session/stmts.h"

#include <stdlib.h>
#include <string.h>

#define LEDGER_FIRST 16u

/* Entries after whose settlement names may mean something else: a Parse or Close of a named
 * statement, and a Query, which may be a DEALLOCATE ALL. */
static bool decides_names(const struct ledger_entry *entry)
{
	return entry->name != NULL && entry->name[0] != '\0' && entry->op != OWES_QUERY &&
	       entry->op != OWES_HIDDEN_CLOSE && entry->op != OWES_REFUSAL;
}

static void ledger_count(struct ledger *ledger, const struct ledger_entry *entry, uint32_t change)
{
	ledger_count_op(ledger, entry->op, change);
	if (entry->op == OWES_PARSE && entry->stmt != NULL)
		ledger->changes += change;
	if (entry->op == OWES_REFUSAL)
		ledger->refusals += change;
	if (decides_names(entry))
		ledger->namings += change;
}

static void ledger_release_entry(struct ledger_entry *entry)
{
	stmt_unref(entry->stmt);
	stmt_unref(entry->unnamed);
	free(entry->name);
	entry->stmt = NULL;
	entry->unnamed = NULL;
	entry->name = NULL;
}

void ledger_free(struct ledger *ledger)
{
	while (ledger->count > 0)
		ledger_pop(ledger);
	free(ledger->ring);
	memset(ledger, 0, sizeof(*ledger));
}

static bool ledger_grow(struct ledger *ledger)
{
	uint32_t cap = ledger->cap == 0 ? LEDGER_FIRST : ledger->cap * 2;
	struct ledger_entry *ring = malloc(cap * sizeof(*ring));

	if (ring == NULL)
		return false;
	for (uint32_t i = 0; i < ledger->count; i++)
		ring[i] = ledger->ring[(ledger->head + i) & (ledger->cap - 1)];
	free(ledger->ring);
	ledger->ring = ring;
	ledger->cap = cap;
	ledger->head = 0;
	return true;
}

bool ledger_add(struct ledger *ledger, struct ledger_entry entry)
{
	if (UNLIKELY(ledger->count == ledger->cap) && !ledger_grow(ledger)) {
		ledger_release_entry(&entry);
		return false;
	}
	ledger->ring[(ledger->head + ledger->count) & (ledger->cap - 1)] = entry;
	ledger->count++;
	ledger_count(ledger, &entry, 1);
	return true;
}

bool ledger_push(struct ledger *ledger, enum ledger_op op, struct stmt *stmt, char *name)
{
	return ledger_add(ledger,
	                  (struct ledger_entry){.stmt = stmt, .name = name, .op = (uint8_t)op});
}

bool ledger_push_use(struct ledger *ledger, enum ledger_op op, uint32_t generation)
{
	return ledger_add(ledger,
	                  (struct ledger_entry){.op = (uint8_t)op, .generation = generation});
}

void ledger_let_go(struct ledger *ledger, struct ledger_entry *entry)
{
	ledger_count(ledger, entry, (uint32_t)-1);
	ledger_release_entry(entry);
}

void ledger_deallocate_failed(struct ledger *ledger)
{
	struct ledger_entry *entry = ledger_head(ledger);

	ledger_let_go(ledger, entry);
	entry->op = OWES_QUERY;
	ledger_count(ledger, entry, 1);
}

void ledger_copy_in(struct ledger *ledger)
{
	uint32_t syncs = 0;

	ledger->copy_in = true;
	/* Read and ignored by CopyGetData(): the implicit transaction goes on, unless there is an
	 * error before it reads.  Any other message ends the COPY with an error. */
	while (syncs + 1 < ledger->count && ledger_at(ledger, syncs + 1)->op == OWES_SYNC)
		syncs++;
	if (syncs == 0)
		return;
	for (uint32_t i = syncs + 1; i < ledger->count; i++)
		*ledger_at(ledger, i - syncs) = *ledger_at(ledger, i);
	ledger->count -= syncs;
	ledger->readies -= syncs;
	ledger->syncs += syncs;
	if (ledger->count == 1 && ledger_head(ledger)->op == OWES_EXECUTE)
		ledger->open = true;
}

bool ledger_gives_only(const struct ledger *ledger)
{
	for (uint32_t i = 0; i < ledger->count; i++) {
		if (!ledger_is_given(ledger->ring[(ledger->head + i) & (ledger->cap - 1)].op))
			return false;
	}
	return true;
}
