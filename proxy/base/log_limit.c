/* SPDX-License-Identifier: PostgreSQL */
/*
 * How many lines of each kind were written in this second.  A kind is a format string, known by its
 * address.  No locks: threads that meet at the turn of a second may let a line too many through.
 */
#include "base/clock.h"
#include "base/log_internal.h"

#include <stdatomic.h>

/* More than the programs have; a kind that finds no place has no limit. */
#define KINDS 1024

static struct kind {
	_Atomic(const char *) fmt; /* NULL: free */
	atomic_int level;
	atomic_llong second;
	atomic_uint written;
	atomic_uint left_out;
} kinds[KINDS];

static atomic_uint limit;
static _Atomic uint64_t left_out_all;

void log_set_limit(unsigned lines)
{
	atomic_store_explicit(&limit, lines, memory_order_relaxed);
}

uint64_t log_count_left_out(void)
{
	return atomic_load_explicit(&left_out_all, memory_order_relaxed);
}

static struct kind *kind_of(const char *fmt)
{
	size_t at = ((uintptr_t)fmt >> 3) * (size_t)0x9e3779b97f4a7c15 >> 54;

	for (size_t i = 0; i < KINDS; i++) {
		struct kind *kind = &kinds[(at + i) % KINDS];
		const char *expected = NULL;

		if (atomic_load_explicit(&kind->fmt, memory_order_relaxed) == fmt ||
		    atomic_compare_exchange_strong(&kind->fmt, &expected, fmt) || expected == fmt)
			return kind;
	}
	return NULL;
}

bool log_admits(enum log_level level, const char *fmt)
{
	const unsigned most = atomic_load_explicit(&limit, memory_order_relaxed);
	struct kind *kind;
	long long now;
	long long before;

	if (most == 0 || level == LOG_LEVEL_DEBUG)
		return true;
	kind = kind_of(fmt);
	if (kind == NULL)
		return true;
	now = clock_now() / USEC_PER_SEC;
	before = atomic_load(&kind->second);
	if (before != now && atomic_compare_exchange_strong(&kind->second, &before, now)) {
		atomic_store(&kind->level, (int)level);
		atomic_store(&kind->written, 0);
	}
	if (atomic_fetch_add(&kind->written, 1) < most)
		return true;
	atomic_fetch_add(&kind->left_out, 1);
	atomic_fetch_add(&left_out_all, 1);
	return false;
}

const char *log_next_left_out(size_t *at, unsigned *count, enum log_level *level)
{
	for (; *at < KINDS; (*at)++) {
		struct kind *kind = &kinds[*at];

		*count = atomic_exchange(&kind->left_out, 0);
		if (*count > 0) {
			*level = (enum log_level)atomic_load(&kind->level);
			return atomic_load(&kind->fmt);
		}
	}
	return NULL;
}
