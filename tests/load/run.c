/* SPDX-License-Identifier: PostgreSQL */
/* `pgshunt_load run`: options, the loop, signals, and the summary; see load.h. */
#include "run.h"

#include "base/mem.h"
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#define EVENTS_MAX 256
#define FLUSH_EVERY (200 * USEC_PER_MSEC)
#define TARGETS_MAX 64

struct run_options {
	const char *log;
	int64_t run;
	usec_t duration;
	usec_t grace;
	usec_t gap;
	usec_t retry;
	bool quiet;
	struct load_target targets[TARGETS_MAX];
	int target_count;
};

static volatile sig_atomic_t stop_asked;

static void on_signal(int signal)
{
	(void)signal;
	stop_asked = 1;
}

static NORETURN void usage_error(const char *what, const char *problem)
{
	fprintf(stderr, "pgshunt_load: run: %s: %s\nTry: pgshunt_load --help\n", what, problem);
	exit(2);
}

static double number_of(const char *text, const char *option, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value >= min && value <= max)) {
		fprintf(stderr, "pgshunt_load: %s: \"%s\" is not a number from %g to %g\n", option,
		        text, min, max);
		exit(2);
	}
	return value;
}

static enum load_mode mode_named(const char *name)
{
	for (int i = 0; i < MODE_COUNT; i++) {
		if (strcmp(load_modes[i].name, name) == 0)
			return (enum load_mode)i;
	}
	usage_error(name, "no such mode");
}

/* NAME:CONNINFO:CLIENTS; the connection string may hold colons. */
static void target_add(struct run_options *options, const struct load_target *defaults, char *spec)
{
	struct load_target *target = &options->targets[options->target_count];
	char *conninfo = strchr(spec, ':');
	char *clients = strrchr(spec, ':');

	if (conninfo == NULL || clients == conninfo)
		usage_error(spec, "--target NAME:CONNINFO:CLIENTS is expected");
	*conninfo++ = '\0';
	*clients++ = '\0';
	if (strcspn(spec, " \t\n") != strlen(spec) || strlen(spec) > 60)
		usage_error(spec, "a target's name has at most 60 letters and no space");
	if (options->target_count == TARGETS_MAX)
		usage_error(spec, "more than 64 targets");
	*target = *defaults;
	memset(&target->write, 0, sizeof(target->write));
	memset(&target->read, 0, sizeof(target->read));
	if (!script_parse(&target->write, defaults->write.text) ||
	    !script_parse(&target->read, defaults->read.text))
		exit(2);
	target->index = options->target_count++;
	target->name = spec;
	target->group = target->group != NULL ? target->group : spec;
	target->conninfo = conninfo;
	target->clients = (int)number_of(clients, "clients of --target", 1, 100000);
}

enum {
	OPT_TARGET = 256,
	OPT_MODE,
	OPT_GROUP,
	OPT_RATE,
	OPT_SQL,
	OPT_READ_SQL,
	OPT_READS,
	OPT_STATEMENTS,
	OPT_BLOCK,
	OPT_BATCH,
	OPT_RECONNECT,
	OPT_DEPTH,
	OPT_LOG,
	OPT_RUN,
	OPT_DURATION,
	OPT_GRACE,
	OPT_GAP,
	OPT_RETRY,
	OPT_QUIET,
};

static const struct option run_long[] = {
    {"target", required_argument, NULL, OPT_TARGET},
    {"mode", required_argument, NULL, OPT_MODE},
    {"group", required_argument, NULL, OPT_GROUP},
    {"rate", required_argument, NULL, OPT_RATE},
    {"sql", required_argument, NULL, OPT_SQL},
    {"read-sql", required_argument, NULL, OPT_READ_SQL},
    {"reads", required_argument, NULL, OPT_READS},
    {"statements", required_argument, NULL, OPT_STATEMENTS},
    {"block", no_argument, NULL, OPT_BLOCK},
    {"batch", no_argument, NULL, OPT_BATCH},
    {"reconnect", no_argument, NULL, OPT_RECONNECT},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"log", required_argument, NULL, OPT_LOG},
    {"run", required_argument, NULL, OPT_RUN},
    {"duration", required_argument, NULL, OPT_DURATION},
    {"grace", required_argument, NULL, OPT_GRACE},
    {"gap", required_argument, NULL, OPT_GAP},
    {"retry", required_argument, NULL, OPT_RETRY},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {NULL, 0, NULL, 0},
};

/* An option of a target: of the last one named, or before the first one, of all. */
static void target_option(struct load_target *target, int option, const char *value)
{
	switch (option) {
	case OPT_MODE:
		target->mode = mode_named(value);
		break;
	case OPT_GROUP:
		target->group = value;
		break;
	case OPT_RATE:
		target->rate = number_of(value, "--rate", 0, 1e6);
		break;
	case OPT_SQL:
		if (!script_parse(&target->write, value))
			exit(2);
		break;
	case OPT_READ_SQL:
		if (!script_parse(&target->read, value))
			exit(2);
		break;
	case OPT_READS:
		target->reads = (int)number_of(value, "--reads", 0, 100);
		break;
	case OPT_STATEMENTS:
		target->statements = (int)number_of(value, "--statements", 1, LOAD_STATEMENTS_MAX);
		break;
	case OPT_BLOCK:
		target->block = true;
		break;
	case OPT_BATCH:
		target->batch = true;
		break;
	case OPT_RECONNECT:
		target->reconnect = true;
		break;
	case OPT_DEPTH:
		target->depth = (int)number_of(value, "--depth", 1, LOAD_DEPTH_MAX);
		break;
	default:
		usage_error("options", "unknown option");
	}
}

static bool run_option(struct run_options *options, int option, const char *value)
{
	switch (option) {
	case OPT_LOG:
		options->log = value;
		break;
	case OPT_RUN:
		options->run = (int64_t)number_of(value, "--run", 1, 9e15);
		break;
	case OPT_DURATION:
		options->duration = (usec_t)(number_of(value, "--duration", 0, 1e6) * USEC_PER_SEC);
		break;
	case OPT_GRACE:
		options->grace = (usec_t)(number_of(value, "--grace", 0, 1e6) * USEC_PER_SEC);
		break;
	case OPT_GAP:
		options->gap = (usec_t)(number_of(value, "--gap", 0, 1e9) * USEC_PER_MSEC);
		break;
	case OPT_RETRY:
		options->retry = (usec_t)(number_of(value, "--retry", 1, 1e6) * USEC_PER_MSEC);
		break;
	case OPT_QUIET:
		options->quiet = true;
		break;
	default:
		return false;
	}
	return true;
}

static void options_parse(struct run_options *options, int argc, char **argv)
{
	struct load_target defaults = {.statements = 1, .depth = 5};
	int option;

	if (!script_parse(&defaults.write, SCRIPT_WRITE) ||
	    !script_parse(&defaults.read, SCRIPT_READ))
		exit(2);
	while ((option = getopt_long(argc, argv, "", run_long, NULL)) != -1) {
		if (option == '?')
			usage_error("options", "see the message above");
		if (option == OPT_TARGET)
			target_add(options, &defaults, optarg);
		else if (!run_option(options, option, optarg))
			target_option(options->target_count == 0
			                  ? &defaults
			                  : &options->targets[options->target_count - 1],
			              option, optarg);
	}
	if (optind < argc)
		usage_error(argv[optind], "unexpected argument");
	if (options->target_count == 0 || options->log == NULL)
		usage_error("options", "--log FILE and at least one --target are needed");
	for (int i = 0; i < options->target_count; i++) {
		const struct load_target *target = &options->targets[i];

		if (target->batch && target->mode != MODE_SIMPLE)
			usage_error(target->name, "--batch is for --mode simple");
	}
	script_free(&defaults.write);
	script_free(&defaults.read);
}

static void run_create(struct load_run *run, struct run_options *options)
{
	struct rlimit files;
	int number = 0;

	memset(run, 0, sizeof(*run));
	run->run = options->run != 0 ? options->run : clock_wall();
	run->gap = options->gap;
	run->retry = options->retry;
	run->quiet = options->quiet;
	run->random = (uint64_t)run->run | 1;
	run->targets = options->targets;
	run->target_count = options->target_count;
	run->epoll = epoll_create1(EPOLL_CLOEXEC);
	run->record = record_create(options->log, run->run);
	if (run->record == NULL || run->epoll < 0)
		exit(2);
	run->start = clock_now();
	for (int i = 0; i < run->target_count; i++)
		run->client_count += run->targets[i].clients;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	run->clients = mem_must_alloc((size_t)run->client_count * sizeof(*run->clients));
	for (int i = 0; i < run->target_count; i++) {
		struct load_target *target = &run->targets[i];

		target->first_client = number + 1;
		record_target(run->record, i, target->name, target->group, number + 1,
		              target->clients);
		for (int k = 0; k < target->clients; k++, number++)
			load_client_init(&run->clients[number], run, target, number + 1, k);
	}
}

/* One pass over what is due; the milliseconds until the next. */
static int run_tick(struct load_run *run, usec_t now, usec_t latest)
{
	for (int i = 0; i < run->client_count; i++) {
		usec_t at = load_client_tick(&run->clients[i], now);

		if (at < latest)
			latest = at;
	}
	return latest <= now ? 0 : (int)((latest - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
}

static void run_loop(struct load_run *run, const struct run_options *options)
{
	struct epoll_event events[EVENTS_MAX];
	usec_t stop_at = options->duration > 0 ? run->start + options->duration : INT64_MAX;
	usec_t flush_at = run->start;
	usec_t give_up_at = INT64_MAX;

	while (run->done < run->client_count) {
		usec_t now = clock_now();
		int timeout;
		int count;

		if (!run->stopping && (stop_asked || now >= stop_at)) {
			run->stopping = true;
			give_up_at = now + options->grace;
			record_stop(run->record, now);
		}
		if (now >= give_up_at) {
			for (int i = 0; i < run->client_count; i++)
				load_client_give_up(&run->clients[i], now);
			break;
		}
		if (now >= flush_at) {
			record_flush(run->record);
			flush_at = now + FLUSH_EVERY;
		}
		timeout = run_tick(run, now, flush_at < stop_at ? flush_at : stop_at);
		count = epoll_wait(run->epoll, events, EVENTS_MAX, timeout);
		now = clock_now();
		for (int i = 0; i < count; i++)
			load_client_event(events[i].data.ptr, now);
	}
}

int run_main(int argc, char **argv)
{
	static struct run_options options = {
	    .grace = 10 * USEC_PER_SEC, .gap = 50 * USEC_PER_MSEC, .retry = 50 * USEC_PER_MSEC};
	struct sigaction action = {.sa_handler = on_signal};
	struct load_run run;
	int64_t errors = 0;
	int64_t acked = 0;

	options_parse(&options, argc, argv);
	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	run_create(&run, &options);
	run_loop(&run, &options);
	for (int i = 0; i < run.target_count; i++) {
		acked += run.targets[i].acked;
		errors += run.targets[i].errors;
		script_free(&run.targets[i].write);
		script_free(&run.targets[i].read);
	}
	if (!options.quiet)
		fprintf(stderr,
		        "run %" PRId64 ": %" PRId64 " rows acknowledged, %" PRId64
		        " errors, %.1f s\n",
		        run.run, acked, errors, (double)(clock_now() - run.start) / USEC_PER_SEC);
	free(run.clients);
	(void)close(run.epoll);
	if (!record_close(run.record)) {
		fprintf(stderr, "pgshunt_load: %s could not be written\n", options.log);
		return 2;
	}
	return 0;
}
