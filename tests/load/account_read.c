/* SPDX-License-Identifier: PostgreSQL */
/* Reading the log of a run; see record.h for its lines and account.h for what is made of them. */
#include "account.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void pace_latency(struct pace *pace, usec_t latency)
{
	if (pace->count == pace->room) {
		pace->room = pace->room == 0 ? 4096 : 2 * pace->room;
		pace->latencies =
		    mem_must_grow(pace->latencies, (size_t)pace->room, sizeof(*pace->latencies));
	}
	pace->latencies[pace->count++] = latency;
	if (latency > pace->slowest)
		pace->slowest = latency;
}

static void pace_ack(struct pace *pace, usec_t now)
{
	if (pace->last >= 0 && now - pace->last > pace->longest_gap) {
		pace->longest_gap = now - pace->last;
		pace->gap_end = now;
	}
	pace->last = now;
}

static int compare_latency(const void *a, const void *b)
{
	usec_t left = *(const usec_t *)a;
	usec_t right = *(const usec_t *)b;

	return left < right ? -1 : left > right;
}

usec_t pace_quantile(struct pace *pace, double part)
{
	if (pace->count == 0)
		return 0;
	qsort(pace->latencies, (size_t)pace->count, sizeof(*pace->latencies), compare_latency);
	return pace->latencies[(int64_t)((double)(pace->count - 1) * part)];
}

static struct account_group *group_of(struct account *account, int client)
{
	int target =
	    client >= 1 && client <= account->client_count ? account->clients[client].target : -1;

	return target < 0 || account->targets[target].group < 0
	           ? NULL
	           : &account->groups[account->targets[target].group];
}

static void clients_grow(struct account *account, int count)
{
	if (count <= account->client_count)
		return;
	account->clients =
	    mem_must_grow(account->clients, (size_t)count + 1, sizeof(*account->clients));
	for (int i = account->client_count + (account->client_count > 0); i <= count; i++) {
		memset(&account->clients[i], 0, sizeof(account->clients[i]));
		account->clients[i].target = -1;
		account->clients[i].last = -1;
	}
	account->client_count = count;
}

static bool read_target(struct account *account, const char *line)
{
	struct account_target *target;
	char group[64];
	int index;
	int first;
	int count;

	if (account->target_count == ACCOUNT_TARGETS_MAX)
		return false;
	target = &account->targets[account->target_count];
	if (sscanf(line, "T %d %63s %63s %d %d", &index, target->name, group, &first, &count) !=
	        5 ||
	    index != account->target_count || first < 1 || count < 1 || count > 1000000)
		return false;
	target->group = -1;
	target->pace.last = -1;
	for (int i = 0; i < account->group_count; i++) {
		if (strcmp(account->groups[i].name, group) == 0)
			target->group = i;
	}
	clients_grow(account, first + count - 1);
	for (int i = first; i < first + count; i++)
		account->clients[i].target = account->target_count;
	account->target_count++;
	return true;
}

static void client_acked(struct account_client *client, int64_t number)
{
	if (number >= client->room) {
		int64_t room = client->room == 0 ? 1024 : client->room;

		while (room <= number)
			room *= 2;
		client->acked = mem_must_grow(client->acked, (size_t)room, 1);
		memset(client->acked + client->room, 0, (size_t)(room - client->room));
		client->room = room;
	}
	client->acked[number] = 1;
}

static bool read_ack(struct account *account, const char *line)
{
	struct account_group *group;
	struct account_target *target;
	int64_t now, first, latency;
	int client, count;

	if (sscanf(line, "A %" SCNd64 " %d %" SCNd64 " %d %" SCNd64, &now, &client, &first, &count,
	           &latency) != 5 ||
	    client < 1 || client > account->client_count || first < 1 || count < 1 ||
	    first > INT32_MAX)
		return false;
	target = &account->targets[account->clients[client].target];
	group = group_of(account, client);
	for (int i = 0; i < count; i++)
		client_acked(&account->clients[client], first + i);
	target->acked += count;
	if (group != NULL)
		group->acked += count;
	if (now < account->from || now > account->to)
		return true;
	pace_ack(&target->pace, now);
	pace_latency(&target->pace, latency);
	if (group != NULL) {
		pace_ack(&group->pace, now);
		pace_latency(&group->pace, latency);
	}
	return true;
}

static bool read_read(struct account *account, const char *line)
{
	struct account_group *group;
	int64_t now, latency;
	int client;

	if (sscanf(line, "R %" SCNd64 " %d %" SCNd64, &now, &client, &latency) != 3 || client < 1 ||
	    client > account->client_count)
		return false;
	if (now < account->from || now > account->to)
		return true;
	pace_latency(&account->targets[account->clients[client].target].pace, latency);
	group = group_of(account, client);
	if (group != NULL)
		pace_latency(&group->pace, latency);
	return true;
}

static bool read_error(struct account *account, const char *line)
{
	struct account_group *group;
	struct error_count *state;
	char sqlstate[6] = "";
	int64_t now;
	int client, text = 0, i = 0;

	if (sscanf(line, "E %" SCNd64 " %d %5s %n", &now, &client, sqlstate, &text) < 3 ||
	    client < 1 || client > account->client_count)
		return false;
	account->targets[account->clients[client].target].errors++;
	group = group_of(account, client);
	if (group == NULL)
		return true;
	group->errors++;
	while (i < group->state_count && strcmp(group->states[i].sqlstate, sqlstate) != 0)
		i++;
	if (i == ACCOUNT_STATES_MAX)
		return true;
	state = &group->states[i];
	if (i == group->state_count) {
		group->state_count++;
		snprintf(state->sqlstate, sizeof(state->sqlstate), "%s", sqlstate);
		snprintf(state->text, sizeof(state->text), "%.*s", (int)strcspn(line + text, "\n"),
		         line + text);
	}
	state->count++;
	return true;
}

static bool read_line(struct account *account, const char *line)
{
	int64_t number;
	int client;
	int version;

	switch (line[0]) {
	case 'V':
		return sscanf(line, "V %d %" SCNd64 " %" SCNd64, &version, &account->run,
		              &account->wall) == 3 &&
		       version == 1;
	case 'T':
		return read_target(account, line);
	case 'A':
		return read_ack(account, line);
	case 'R':
		return read_read(account, line);
	case 'E':
		return read_error(account, line);
	case 'G':
		return true;
	case 'N':
		if (sscanf(line, "N %d %" SCNd64, &client, &number) != 2 || client < 1 ||
		    client > account->client_count)
			return false;
		account->clients[client].last = number;
		return true;
	case 'Z':
		return sscanf(line, "Z %" SCNd64, &account->stopped) == 1;
	default:
		return false;
	}
}

/* A target that fell silent before the stop had a gap that no acknowledgement ended. */
static void close_gaps(struct account *account)
{
	usec_t end = account->stopped < account->to ? account->stopped : account->to;

	for (int i = 0; i < account->target_count; i++) {
		if (end > account->targets[i].pace.last)
			pace_ack(&account->targets[i].pace, end);
	}
	for (int i = 0; i < account->group_count; i++) {
		if (end > account->groups[i].pace.last)
			pace_ack(&account->groups[i].pace, end);
	}
}

static void count_unacked(struct account *account)
{
	for (int i = 1; i <= account->client_count; i++) {
		const struct account_client *client = &account->clients[i];
		struct account_group *group = group_of(account, i);
		int64_t acked = 0;

		for (int64_t k = 1; k < client->room; k++)
			acked += client->acked[k];
		if (group != NULL && client->last > acked)
			group->unacked += client->last - acked;
	}
}

bool account_read(struct account *account, const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	long number = 0;
	bool good = true;

	if (file == NULL) {
		fprintf(stderr, "pgshunt_load: %s: %s\n", path, strerror(errno));
		return false;
	}
	while (good && getline(&line, &room, file) > 0) {
		number++;
		good = read_line(account, line);
	}
	if (!good || account->run == 0)
		fprintf(stderr, "pgshunt_load: %s, line %ld: not a line of a run's log\n", path,
		        number);
	free(line);
	fclose(file);
	if (!good || account->run == 0)
		return false;
	if (account->stopped >= 0)
		close_gaps(account);
	count_unacked(account);
	return true;
}
