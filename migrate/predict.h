/* SPDX-License-Identifier: PostgreSQL */
/*
 * What a rehearsal has measured, the hold it predicts from that, and the comparison with what
 * happened: the prediction is kept in the journal directory, and the report of the next move of the
 * same shards to the same server takes it up.
 */
#ifndef MIGRATE_PREDICT_H
#define MIGRATE_PREDICT_H

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct move;

#define SAMPLES_MAX 200

struct samples {
	usec_t values[SAMPLES_MAX];
	size_t count;
};

void samples_add(struct samples *samples, usec_t value);

/* The value that `percent` of the samples do not exceed; 0 without samples. */
usec_t samples_at(const struct samples *samples, int percent);

/* The parts of the hold: PART(constant, name, title), in predict.c.  Times of one, in order. */
enum part {
	PART_DRAIN,
	PART_FENCE,
	PART_TERMINATE,
	PART_REPLAY,
	PART_PROMOTE,
	PART_OPEN,
	PART_SWAP,
	PART_COUNT
};

struct prediction {
	struct samples drain;
	struct samples replay;  /* a flushed record on the source until it is replayed */
	struct samples commit;  /* on the source */
	struct samples console; /* a command of a proxy that changes nothing */
	struct samples fsync;   /* of the journal */
	size_t undrained;       /* of those, the ones that did not drain in time */
	usec_t drain_limit;
	usec_t terminate; /* measured for `terminated` sessions of `sessions` */
	int64_t terminated;
	int64_t sessions;
	int64_t sealed; /* of them: the hold will not wait for their ends */
	usec_t promote; /* 0 = not known from earlier moves */
	usec_t connect; /* to open the proxies' connections */
	int64_t connections;
	bool held; /* the drain was measured with holds, not by watching */
};

const char *part_title(enum part part);

/* A half of the cases stays below `low`, nearly all below `high`. */
void predict_part(const struct prediction *prediction, enum part part, usec_t *low, usec_t *high);
void predict_total(const struct prediction *prediction, usec_t *low, usec_t *high);

/* promote_ms of earlier moves, the slowest of the last ones; 0 if there were none. */
usec_t predict_promotion(const char *journal_directory);

void predict_json(const struct prediction *prediction, struct sbuf *out);

/* Keeps it for the next move of these shards. */
bool predict_save(const struct move *move, const struct prediction *prediction, bool go,
                  struct sbuf *error) MUST_CHECK;

/* Shows and appends to the report what was predicted for the move, if anything was. */
void predict_compare(struct move *move, usec_t hold, struct sbuf *out);

#endif
