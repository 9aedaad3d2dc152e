/* SPDX-License-Identifier: PostgreSQL */
/* `pgshunt_load account`: options, the table, the JSON and the verdict; see account.h. */
#include "account.h"

#include "run.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

bool account_broken(const struct account *account, const struct account_group *group)
{
	return group->lost > 0 || group->duplicated > 0 || group->phantom > 0 ||
	       group->old_only > 0 || (group->errors > 0 && !account->allow_errors) ||
	       group->acked == 0;
}

static double msec(usec_t usec)
{
	return (double)usec / USEC_PER_MSEC;
}

static void print_errors(const struct account_group *group)
{
	for (int i = 0; i < group->state_count; i++)
		printf("%-10s error %s x %" PRId64 ", first: %s\n", group->name,
		       group->states[i].sqlstate, group->states[i].count, group->states[i].text);
}

void account_print(struct account *account)
{
	printf("%-10s %9s %7s %7s %6s %6s %7s %7s %12s %9s %8s %8s\n", "database", "acked",
	       "unacked", "errors", "lost", "dupl.", "foreign", "old only", "longest gap",
	       "slowest", "p50", "p99");
	for (int i = 0; i < account->group_count; i++) {
		struct account_group *group = &account->groups[i];

		printf("%-10s %9" PRId64 " %7" PRId64 " %7" PRId64 " %6" PRId64 " %6" PRId64
		       " %7" PRId64 " %8" PRId64 " %9.1f ms %6.1f ms %5.2f ms %5.2f ms\n",
		       group->name, group->acked, group->unacked, group->errors, group->lost,
		       group->duplicated, group->phantom, group->old_only,
		       msec(group->pace.longest_gap), msec(group->pace.slowest),
		       msec(pace_quantile(&group->pace, 0.5)),
		       msec(pace_quantile(&group->pace, 0.99)));
	}
	printf("\n%-22s %9s %7s %12s %9s %8s %8s\n", "target", "acked", "errors", "longest gap",
	       "slowest", "p50", "p99");
	for (int i = 0; i < account->target_count; i++) {
		struct account_target *target = &account->targets[i];

		printf("%-22s %9" PRId64 " %7" PRId64 " %9.1f ms %6.1f ms %5.2f ms %5.2f ms\n",
		       target->name, target->acked, target->errors, msec(target->pace.longest_gap),
		       msec(target->pace.slowest), msec(pace_quantile(&target->pace, 0.5)),
		       msec(pace_quantile(&target->pace, 0.99)));
	}
	for (int i = 0; i < account->group_count; i++)
		print_errors(&account->groups[i]);
}

/* Names and states are ours or five letters; only what a server said needs care. */
static void json_text(FILE *file, const char *text)
{
	fputc('"', file);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(file, "\\%c", c);
		else if (c < 0x20)
			fprintf(file, "\\u%04x", c);
		else
			fputc(c, file);
	}
	fputc('"', file);
}

static void json_pace(FILE *file, struct pace *pace)
{
	fprintf(file,
	        "\"longest_gap_ms\": %.3f, \"gap_end_us\": %" PRId64
	        ", \"slowest_ms\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f",
	        msec(pace->longest_gap), pace->gap_end, msec(pace->slowest),
	        msec(pace_quantile(pace, 0.5)), msec(pace_quantile(pace, 0.99)));
}

static void json_group(FILE *file, const struct account *account, struct account_group *group)
{
	fprintf(file, "    ");
	json_text(file, group->name);
	fprintf(file,
	        ": {\"broken\": %s, \"acked\": %" PRId64 ", \"unacked\": %" PRId64
	        ", \"errors\": %" PRId64 ", \"lost\": %" PRId64 ", \"duplicated\": %" PRId64
	        ", \"foreign\": %" PRId64 ", \"old_only\": %" PRId64
	        ", \"rows_per_second\": %.1f, ",
	        account_broken(account, group) ? "true" : "false", group->acked, group->unacked,
	        group->errors, group->lost, group->duplicated, group->phantom, group->old_only,
	        account->stopped > 0 ? (double)group->acked * USEC_PER_SEC / account->stopped : 0);
	json_pace(file, &group->pace);
	fprintf(file, ", \"by_sqlstate\": {");
	for (int i = 0; i < group->state_count; i++) {
		fprintf(file, "%s\"%s\": {\"count\": %" PRId64 ", \"first\": ", i > 0 ? ", " : "",
		        group->states[i].sqlstate, group->states[i].count);
		json_text(file, group->states[i].text);
		fputc('}', file);
	}
	fprintf(file, "}}");
}

bool account_print_json(struct account *account, const char *path)
{
	FILE *file = fopen(path, "we");
	bool good;

	if (file == NULL) {
		fprintf(stderr, "pgshunt_load: %s: %s\n", path, strerror(errno));
		return false;
	}
	fprintf(file,
	        "{\n  \"run\": %" PRId64 ", \"started_us\": %" PRId64 ", \"stopped_us\": %" PRId64
	        ",\n  \"groups\": {\n",
	        account->run, account->wall, account->stopped);
	for (int i = 0; i < account->group_count; i++) {
		json_group(file, account, &account->groups[i]);
		fprintf(file, "%s\n", i + 1 < account->group_count ? "," : "");
	}
	fprintf(file, "  },\n  \"targets\": {\n");
	for (int i = 0; i < account->target_count; i++) {
		struct account_target *target = &account->targets[i];

		fprintf(file, "    ");
		json_text(file, target->name);
		fprintf(file, ": {\"acked\": %" PRId64 ", \"errors\": %" PRId64 ", ", target->acked,
		        target->errors);
		json_pace(file, &target->pace);
		fprintf(file, "}%s\n", i + 1 < account->target_count ? "," : "");
	}
	fprintf(file, "  }\n}\n");
	good = !ferror(file);
	return fclose(file) == 0 && good;
}

enum {
	OPT_LOG = 256,
	OPT_NEW,
	OPT_OLD,
	OPT_ROWS,
	OPT_ALLOW_ERRORS,
	OPT_FROM,
	OPT_TO,
	OPT_JSON,
};

static const struct option account_long[] = {
    {"log", required_argument, NULL, OPT_LOG},
    {"new", required_argument, NULL, OPT_NEW},
    {"old", required_argument, NULL, OPT_OLD},
    {"rows", required_argument, NULL, OPT_ROWS},
    {"allow-errors", no_argument, NULL, OPT_ALLOW_ERRORS},
    {"from", required_argument, NULL, OPT_FROM},
    {"to", required_argument, NULL, OPT_TO},
    {"json", required_argument, NULL, OPT_JSON},
    {NULL, 0, NULL, 0},
};

static NORETURN void usage_error(const char *text)
{
	fprintf(stderr, "pgshunt_load: account: %s\nTry: pgshunt_load --help\n", text);
	exit(2);
}

/* GROUP=VALUE: the group (made if it is new) and the value. */
static struct account_group *group_named(struct account *account, char *spec, const char **value)
{
	char *equals = strchr(spec, '=');
	int i = 0;

	if (equals == NULL)
		usage_error("GROUP=VALUE is expected");
	*equals = '\0';
	*value = equals + 1;
	while (i < account->group_count && strcmp(account->groups[i].name, spec) != 0)
		i++;
	if (i == ACCOUNT_GROUPS_MAX)
		usage_error("too many groups");
	if (i == account->group_count)
		account->groups[account->group_count++] =
		    (struct account_group){.name = spec, .pace = {.last = -1}};
	return &account->groups[i];
}

static void account_option(struct account *account, int option, char *text)
{
	struct account_group *group;
	const char *value;

	switch (option) {
	case OPT_NEW:
		group = group_named(account, text, &value);
		group->new_conninfo = value;
		break;
	case OPT_OLD:
		group = group_named(account, text, &value);
		group->old_conninfo = value;
		break;
	case OPT_ROWS:
		group = group_named(account, text, &value);
		if (group->rows_count == ACCOUNT_ROWS_MAX)
			usage_error("too many --rows");
		group->rows[group->rows_count++] = value;
		break;
	case OPT_ALLOW_ERRORS:
		account->allow_errors = true;
		break;
	case OPT_FROM:
		account->from = strtoll(text, NULL, 10);
		break;
	case OPT_TO:
		account->to = strtoll(text, NULL, 10);
		break;
	default:
		usage_error("see the message above");
	}
}

static void account_free(struct account *account)
{
	for (int i = 1; i <= account->client_count; i++) {
		free(account->clients[i].acked);
		free(account->clients[i].seen);
	}
	free(account->clients);
	for (int i = 0; i < account->group_count; i++)
		free(account->groups[i].pace.latencies);
	for (int i = 0; i < account->target_count; i++)
		free(account->targets[i].pace.latencies);
}

int account_main(int argc, char **argv)
{
	static struct account account = {.to = INT64_MAX, .stopped = -1};
	const char *log = NULL;
	const char *json = NULL;
	int code = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", account_long, NULL)) != -1) {
		if (option == OPT_LOG)
			log = optarg;
		else if (option == OPT_JSON)
			json = optarg;
		else
			account_option(&account, option, optarg);
	}
	if (log == NULL || account.group_count == 0 || optind < argc)
		usage_error("--log FILE and at least one --new GROUP=CONNINFO are needed");
	for (int i = 0; i < account.group_count; i++) {
		if (account.groups[i].new_conninfo == NULL)
			usage_error("a group without --new");
	}
	if (!account_read(&account, log) || !account_check(&account)) {
		account_free(&account);
		return 2;
	}
	account_print(&account);
	if (json != NULL && !account_print_json(&account, json))
		code = 2;
	for (int i = 0; i < account.group_count; i++) {
		if (account_broken(&account, &account.groups[i])) {
			printf("\nA promise to the clients of %s is broken.\n",
			       account.groups[i].name);
			code = code == 0 ? 1 : code;
		}
	}
	account_free(&account);
	return code;
}
