/* SPDX-License-Identifier: PostgreSQL */
#include "control/metrics.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "control/health.h"
#include "control/metrics_db.h"
#include "core/admin.h"
#include "core/proxy.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const enum view asked_views[] = {VIEW_GAUGES, VIEW_HISTOGRAMS, VIEW_STATS,
                                        VIEW_ERRORS, VIEW_HOLDS,      VIEW_LIVES};

struct metrics {
	struct proxy *proxy;
	struct rowset rows[ARRAY_LEN(asked_views)];
	bool has[ARRAY_LEN(asked_views)];
	bool complete;
	size_t left;
	metrics_done_fn *done;
	void *arg;
};

/* A request for one of the views. */
struct asked {
	struct metrics *metrics;
	size_t index;
	struct admin_request *request;
};

static struct metrics *under_way;
static struct asked asked[ARRAY_LEN(asked_views)];

static void metrics_take(void *arg, struct admin_answer *answer)
{
	struct asked *one = arg;
	struct metrics *metrics = one->metrics;

	one->request = NULL;
	if (answer->error == NULL && answer->rows != NULL) {
		metrics->rows[one->index] = *answer->rows;
		metrics->has[one->index] = true;
		rowset_init(answer->rows, asked_views[one->index]);
	}
	if (answer->error != NULL || answer->notice != NULL)
		metrics->complete = false;
	if (--metrics->left > 0)
		return;
	under_way = NULL;
	metrics->done(metrics, metrics->arg);
}

void metrics_collect(struct proxy *proxy, metrics_done_fn *done, void *arg)
{
	struct metrics *metrics = mem_must_alloc(sizeof(*metrics));

	metrics->proxy = proxy;
	metrics->complete = true;
	metrics->left = ARRAY_LEN(asked_views);
	metrics->done = done;
	metrics->arg = arg;
	under_way = metrics;
	for (size_t i = 0; i < ARRAY_LEN(asked_views); i++) {
		asked[i] = (struct asked){metrics, i, NULL};
		asked[i].request =
		    admin_view(proxy->admin, asked_views[i], NULL, false, metrics_take, &asked[i]);
	}
}

void metrics_free(struct metrics *metrics)
{
	for (size_t i = 0; i < ARRAY_LEN(asked_views); i++) {
		if (metrics->has[i])
			rowset_free(&metrics->rows[i]);
	}
	free(metrics);
}

void metrics_stop(void)
{
	for (size_t i = 0; under_way != NULL && i < ARRAY_LEN(asked_views); i++) {
		if (asked[i].request != NULL)
			admin_request_abandon(asked[i].request);
	}
	if (under_way != NULL)
		metrics_free(under_way);
	under_way = NULL;
	metrics_db_forget();
}

static const struct rowset *metrics_rows(const struct metrics *metrics, enum view view)
{
	for (size_t i = 0; i < ARRAY_LEN(asked_views); i++) {
		if (asked_views[i] == view)
			return metrics->has[i] ? &metrics->rows[i] : NULL;
	}
	return NULL;
}

/* ---- the proxy and its workers ---- */

static void put(struct expo *expo, enum metric metric, int64_t value)
{
	expo_family(expo, metric);
	expo_sample(expo, "");
	expo_value(expo, value);
}

static void render_head(const struct metrics *metrics, struct expo *expo)
{
	const struct proxy *proxy = metrics->proxy;

	expo_family(expo, METRIC_BUILD);
	expo_sample(expo, "");
	expo_label(expo, "version", PGSHUNT_VERSION);
	expo_value(expo, 1);
	put(expo, METRIC_READY, health_ready(proxy, NULL));
	put(expo, METRIC_SCRAPE_COMPLETE, metrics->complete);
	put(expo, METRIC_LEFT_OUT, (int64_t)metrics_db_left_out());
	put(expo, METRIC_RELOAD_GOOD, !proxy->reload_failed);
	expo_family(expo, METRIC_RELOAD_TIME);
	expo_sample(expo, "");
	expo_value_usec(expo, proxy->loaded);
	put(expo, METRIC_CLIENTS_ALL, (int64_t)atomic_load(&proxy->client_count));
	put(expo, METRIC_CLIENTS_MAX, proxy->config->proxy.max_client_connections);
}

/* Sums of LIVES over all workers. */
static int64_t lives_total(const struct rowset *lives, const char *column)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	const size_t at = metrics_column(VIEW_LIVES, column);
	int64_t sum = 0;
	size_t offset = 0;

	while (lives != NULL && rowset_next(lives, &offset, cells))
		sum += rowset_cell_int(&cells[at]);
	return sum;
}

static void render_totals(struct expo *expo, const struct rowset *lives)
{
	static const struct {
		enum metric metric;
		const char *column;
	} rows[] = {
	    {METRIC_CLIENTS_JOINING, "joining"},       {METRIC_ACCEPTED, "accepted"},
	    {METRIC_SERVERS_OPENED, "servers_opened"}, {METRIC_SERVERS_FAILED, "servers_failed"},
	    {METRIC_CANCELS, "cancels_taken"},         {METRIC_CANCELS_WRONG, "cancels_wrong"},
	    {METRIC_CANCELS_SENT, "cancels_sent"},     {METRIC_CANCELS_FAILED, "cancels_failed"},
	    {METRIC_TLS_FAILED, "tls_failed"}};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		put(expo, rows[i].metric, lives_total(lives, rows[i].column));
}

static void tls_sample(struct expo *expo, const struct rowset *lives, const char *side,
                       const char *version, const char *column)
{
	expo_sample(expo, "");
	expo_label(expo, "side", side);
	expo_label(expo, "version", version);
	expo_value(expo, lives_total(lives, column));
}

static void render_tls(struct expo *expo, const struct rowset *lives)
{
	const int64_t resumed = lives_total(lives, "tls_resumed");

	expo_family(expo, METRIC_TLS);
	tls_sample(expo, lives, "client", "1.2", "client_tls_1_2");
	tls_sample(expo, lives, "client", "1.3", "client_tls_1_3");
	tls_sample(expo, lives, "server", "1.2", "server_tls_1_2");
	tls_sample(expo, lives, "server", "1.3", "server_tls_1_3");
	expo_family(expo, METRIC_TLS_DONE);
	expo_sample(expo, "");
	expo_label(expo, "resumed", "false");
	expo_value(expo, lives_total(lives, "tls_done") - resumed);
	expo_sample(expo, "");
	expo_label(expo, "resumed", "true");
	expo_value(expo, resumed);
}

static void render_worker(struct expo *expo, const struct rowset *lives, enum metric metric,
                          const char *column)
{
	struct rowset_cell cells[VIEW_COLUMNS_MAX];
	const size_t at = metrics_column(VIEW_LIVES, column);
	size_t offset = 0;

	expo_family(expo, metric);
	while (lives != NULL && rowset_next(lives, &offset, cells)) {
		const int64_t value = rowset_cell_int(&cells[at]);
		char worker[24];

		(void)snprintf(worker, sizeof(worker), "%.*s", (int)cells[0].len, cells[0].bytes);
		expo_sample(expo, "");
		expo_label(expo, "worker", worker);
		if (metric == METRIC_WORKER_BUSY)
			expo_value_usec(expo, value * USEC_PER_MSEC);
		else if (metric == METRIC_WORKER_CPU)
			expo_value_usec(expo, value);
		else
			expo_value(expo, value);
	}
}

static void render_workers(struct expo *expo, const struct rowset *lives)
{
	render_worker(expo, lives, METRIC_WORKER_BUSY, "busy");
	render_worker(expo, lives, METRIC_WORKER_CPU, "cpu_usec");
	render_worker(expo, lives, METRIC_WORKER_CLIENTS, "clients");
	render_worker(expo, lives, METRIC_WORKER_SERVERS, "servers");
	render_worker(expo, lives, METRIC_WORKER_BYTES, "bytes");
}

/* ---- the process, under the names that all programs use ---- */

static int64_t process_memory(void)
{
	long long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (file == NULL)
		return 0;
	if (fscanf(file, "%*d %lld", &pages) != 1)
		pages = 0;
	(void)fclose(file);
	return pages * sysconf(_SC_PAGESIZE);
}

static int64_t process_descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int64_t count = -3; /* ".", ".." and the folder itself */

	if (folder == NULL)
		return 0;
	while (readdir(folder) != NULL)
		count++;
	(void)closedir(folder);
	return count;
}

static void render_log(struct expo *expo)
{
	expo_family(expo, METRIC_LOG);
	for (int level = 0; level < LOG_LEVELS; level++) {
		expo_sample(expo, "");
		expo_label(expo, "level", log_level_name((enum log_level)level));
		expo_value(expo, (int64_t)log_count((enum log_level)level));
	}
	put(expo, METRIC_LOG_LEFT_OUT, (int64_t)log_count_left_out());
}

static void render_process(const struct proxy *proxy, struct expo *expo)
{
	static usec_t start;
	struct rusage usage = {0};

	if (start == 0)
		start = clock_wall() - (clock_now() - proxy->started);
	(void)getrusage(RUSAGE_SELF, &usage);
	expo_family(expo, METRIC_PROCESS_START);
	expo_sample(expo, "");
	expo_value_usec(expo, start);
	expo_family(expo, METRIC_PROCESS_CPU);
	expo_sample(expo, "");
	expo_value_usec(expo,
	                (usec_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * USEC_PER_SEC +
	                    usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
	put(expo, METRIC_PROCESS_MEMORY, process_memory());
	put(expo, METRIC_PROCESS_FDS, process_descriptors());
	put(expo, METRIC_PROCESS_FDS_MAX, proxy->descriptors);
}

void metrics_render(const struct metrics *metrics, bool openmetrics, struct sbuf *out)
{
	const struct config *config = metrics->proxy->config;
	const struct rowset *lives = metrics_rows(metrics, VIEW_LIVES);
	const struct metrics_views views = {
	    .gauges = metrics_rows(metrics, VIEW_GAUGES),
	    .histograms = metrics_rows(metrics, VIEW_HISTOGRAMS),
	    .stats = metrics_rows(metrics, VIEW_STATS),
	    .errors = metrics_rows(metrics, VIEW_ERRORS),
	    .holds = metrics_rows(metrics, VIEW_HOLDS),
	};
	struct expo expo = {.out = out, .openmetrics = openmetrics};

	metrics_db_learn(&views, (size_t)config->proxy.metrics_max_databases);
	render_head(metrics, &expo);
	render_totals(&expo, lives);
	metrics_db_render(&views, &expo);
	render_tls(&expo, lives);
	render_workers(&expo, lives);
	render_log(&expo);
	render_process(metrics->proxy, &expo);
	expo_end(&expo);
}
