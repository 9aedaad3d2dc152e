/* SPDX-License-Identifier: PostgreSQL */
/*
 * Between the files of pgshunt rehearse.
 */
#ifndef MIGRATE_REHEARSE_H
#define MIGRATE_REHEARSE_H

#include "base/clock.h"
#include "base/compiler.h"
#include "migrate/move.h"
#include "migrate/predict.h"

/* "VERB db" on the link of each route at once, with `rest` behind it; true if all succeeded. */
bool rehearse_command(struct move *move, const char *verb, const char *rest,
                      usec_t timeout) MUST_CHECK;

/* Opens the connections of the proxies to the target; they stay until CANCEL SWAP. */
bool rehearse_connections(struct move *move, struct prediction *prediction) MUST_CHECK;
void rehearse_console(struct move *move, struct prediction *prediction);
bool rehearse_drain(struct move *move, struct prediction *prediction) MUST_CHECK;

#endif
