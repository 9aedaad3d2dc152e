/* SPDX-License-Identifier: PostgreSQL */
#include "migrate/outcome.h"

#include "base/mem.h"
#include "migrate/json.h"
#include "migrate/move.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT (2 * USEC_PER_SEC)

/* ---- errors ---- */

static struct outcome_error *error_of(struct outcome *outcome, const char *proxy,
                                      const char *database, const char *sqlstate)
{
	struct outcome_error *error;

	for (size_t i = 0; i < outcome->error_count; i++) {
		error = &outcome->errors[i];
		if (strcmp(error->proxy, proxy) == 0 && strcmp(error->database, database) == 0 &&
		    strcmp(error->sqlstate, sqlstate) == 0)
			return error;
	}
	outcome->errors =
	    mem_must_grow(outcome->errors, outcome->error_count + 1, sizeof(*outcome->errors));
	error = &outcome->errors[outcome->error_count++];
	*error = (struct outcome_error){.proxy = mem_must_strdup(proxy),
	                                .database = mem_must_strdup(database),
	                                .sqlstate = mem_must_strdup(sqlstate)};
	return error;
}

static bool ask(struct move *move, struct proxy *proxy, bool after)
{
	struct link *link = &proxy->status;

	/* What the tick asked last. */
	(void)!loop_wait(&move->loop, &link, 1, clock_now() + ASK_TIMEOUT, false);
	if (!link_revive(move, link) || !link_run(&move->loop, link, ASK_TIMEOUT, "SHOW ERRORS"))
		return false;
	for (int row = 0; row < link_rows(link); row++) {
		const char *database = link_value(link, row, "database");
		const char *sqlstate = link_value(link, row, "sqlstate");
		int64_t total = link_number(link, row, "total", 0);
		int64_t own = link_number(link, row, "from_proxy", 0);
		struct outcome_error *error =
		    error_of(&move->outcome, proxy->conf->name, database == NULL ? "" : database,
		             sqlstate == NULL ? "" : sqlstate);

		if (!after) {
			error->before = total;
			error->own_before = own;
			continue;
		}
		/* A proxy that was restarted counts from zero. */
		error->count = total >= error->before ? total - error->before : total;
		error->own = own >= error->own_before ? own - error->own_before : own;
	}
	return true;
}

void outcome_before(struct move *move)
{
	for (size_t i = 0; i < move->proxy_count; i++)
		move->proxies[i].errors_known = ask(move, &move->proxies[i], false);
}

void outcome_after(struct move *move)
{
	move->outcome.asked = 0;
	move->outcome.unknown = 0;
	for (size_t i = 0; i < move->proxy_count; i++) {
		if (move->proxies[i].errors_known && ask(move, &move->proxies[i], true))
			move->outcome.asked++;
		else
			move->outcome.unknown++;
	}
}

static bool is_moved(const struct move *move, const struct outcome_error *error)
{
	for (size_t i = 0; i < move->route_count; i++) {
		if (strcmp(move->routes[i].proxy->conf->name, error->proxy) == 0 &&
		    strcmp(move->routes[i].database, error->database) == 0)
			return true;
	}
	return false;
}

static int64_t error_sum(const struct move *move)
{
	int64_t sum = 0;

	for (size_t i = 0; i < move->outcome.error_count; i++) {
		if (is_moved(move, &move->outcome.errors[i]))
			sum += move->outcome.errors[i].count;
	}
	return sum;
}

/* ---- waits ---- */

static void add_wait(struct outcome *outcome, int64_t limit, int64_t requests)
{
	size_t at = 0;

	/* In their order; "more" is the last. */
	while (at < outcome->wait_count && outcome->waits[at].limit != limit &&
	       outcome->waits[at].limit != -1 && (limit == -1 || outcome->waits[at].limit < limit))
		at++;
	if (at < outcome->wait_count && outcome->waits[at].limit == limit) {
		outcome->waits[at].requests += requests;
		return;
	}
	if (outcome->wait_count == OUTCOME_WAITS_MAX)
		return;
	memmove(&outcome->waits[at + 1], &outcome->waits[at],
	        (outcome->wait_count - at) * sizeof(outcome->waits[0]));
	outcome->waits[at] = (struct outcome_wait){.limit = limit, .requests = requests};
	outcome->wait_count++;
}

void outcome_waits(struct move *move, const struct route *route)
{
	const char *text = link_value(&route->link, 0, "waits");

	while (text != NULL && *text != '\0') {
		const char *colon = strchr(text, ':');
		const char *blank = strchr(text, ' ');

		if (colon == NULL)
			break;
		add_wait(&move->outcome,
		         strncmp(text, "more", 4) == 0 ? -1 : strtoll(text, NULL, 10),
		         strtoll(colon + 1, NULL, 10));
		text = blank == NULL ? NULL : blank + 1;
	}
}

/* What the last of them waited from the swap to the release. */
static usec_t rest_of(const struct move *move)
{
	usec_t rest = 0;

	for (size_t i = 0; i < move->route_count; i++) {
		const struct route *route = &move->routes[i];

		if (route->swapped_at != 0 && route->release_sent_at - route->swapped_at > rest)
			rest = route->release_sent_at - route->swapped_at;
	}
	return rest;
}

/* ---- showing ---- */

void outcome_json(const struct move *move, struct sbuf *out)
{
	const struct outcome *outcome = &move->outcome;
	int64_t rest = (rest_of(move) + USEC_PER_MSEC - 1) / USEC_PER_MSEC;

	json_open(out, "waits", '[');
	for (size_t i = 0; i < outcome->wait_count; i++) {
		json_open(out, NULL, '{');
		if (outcome->waits[i].limit >= 0)
			json_int(out, "up_to_ms", outcome->waits[i].limit + rest);
		json_int(out, "requests", outcome->waits[i].requests);
		json_close(out, '}');
	}
	json_close(out, ']');
	if (outcome->asked == 0)
		return;
	json_int(out, "errors_total", error_sum(move));
	json_int(out, "errors_unknown_proxies", (int64_t)outcome->unknown);
	json_open(out, "errors", '[');
	for (size_t i = 0; i < outcome->error_count; i++) {
		const struct outcome_error *error = &outcome->errors[i];

		if (error->count == 0)
			continue;
		json_open(out, NULL, '{');
		json_str(out, "proxy", error->proxy);
		json_str(out, "database", error->database);
		json_bool(out, "moved", is_moved(move, error));
		json_str(out, "sqlstate", error->sqlstate);
		json_int(out, "count", error->count);
		json_int(out, "from_proxy", error->own);
		json_close(out, '}');
	}
	json_close(out, ']');
}

void outcome_print(struct move *move)
{
	const struct outcome *outcome = &move->outcome;
	int64_t rest = (rest_of(move) + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
	struct sbuf text;

	sbuf_init(&text, 16384);
	for (size_t i = 0; i < outcome->wait_count; i++) {
		if (outcome->waits[i].limit < 0)
			sbuf_printf(&text, ", %" PRId64 " longer", outcome->waits[i].requests);
		else
			sbuf_printf(&text, ", %" PRId64 " up to %" PRId64 " ms",
			            outcome->waits[i].requests, outcome->waits[i].limit + rest);
	}
	if (text.len > 0)
		ui_line(move->ui, "  requests waited: %s", sbuf_text(&text) + 2);
	sbuf_reset(&text);
	for (size_t i = 0; i < outcome->error_count; i++) {
		const struct outcome_error *error = &outcome->errors[i];

		if (error->count > 0 && is_moved(move, error))
			sbuf_printf(&text, ", %" PRId64 " of %s (%s, proxy %s)", error->count,
			            error->sqlstate, error->database, error->proxy);
	}
	if (outcome->asked > 0)
		ui_line(move->ui, "  errors that clients of the shards were sent: %s",
		        text.len > 0 ? sbuf_text(&text) + 2 : "none");
	sbuf_free(&text);
}

void outcome_free(struct move *move)
{
	for (size_t i = 0; i < move->outcome.error_count; i++) {
		free(move->outcome.errors[i].proxy);
		free(move->outcome.errors[i].database);
		free(move->outcome.errors[i].sqlstate);
	}
	free(move->outcome.errors);
}
