/* SPDX-License-Identifier: PostgreSQL */
#include "base/fault.h"

#include "base/compiler.h"
#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FAULTS_MAX 16

/* How often a point that waits looks whether its file is gone. */
#define FAULT_LOOK_NSEC 1000000

enum fault_action { FAULT_KILL, FAULT_FAIL, FAULT_SLEEP, FAULT_WAIT };

static struct {
	char name[64];
	enum fault_action action;
	long msec;
	char *path;
} faults[FAULTS_MAX];
static size_t fault_count;

static bool fault_parse(char *word)
{
	char *action = strchr(word, '=');
	char *end;

	if (action == NULL || fault_count == FAULTS_MAX ||
	    (size_t)(action - word) >= sizeof(faults[0].name))
		return false;
	*action++ = '\0';
	(void)snprintf(faults[fault_count].name, sizeof(faults[0].name), "%s", word);
	if (strcmp(action, "kill") == 0) {
		faults[fault_count].action = FAULT_KILL;
	} else if (strcmp(action, "fail") == 0) {
		faults[fault_count].action = FAULT_FAIL;
	} else if (strncmp(action, "wait:/", 6) == 0) {
		faults[fault_count].action = FAULT_WAIT;
		faults[fault_count].path = strdup(action + 5);
		if (faults[fault_count].path == NULL)
			return false;
	} else if (strncmp(action, "sleep:", 6) == 0) {
		faults[fault_count].action = FAULT_SLEEP;
		faults[fault_count].msec = strtol(action + 6, &end, 10);
		if (*end != '\0' || end == action + 6 || faults[fault_count].msec < 0)
			return false;
	} else {
		return false;
	}
	fault_count++;
	return true;
}

void fault_init(void)
{
	const char *env = getenv("PGSHUNT_FAULT");
	char *copy;
	char *save = NULL;

	if (env == NULL || *env == '\0')
		return;
	copy = strdup(env);
	for (char *word = copy == NULL ? NULL : strtok_r(copy, ",", &save); word != NULL;
	     word = strtok_r(NULL, ",", &save)) {
		if (!fault_parse(word)) {
			(void)fprintf(stderr,
			              "PGSHUNT_FAULT: cannot parse \"%s\"; expected "
			              "name=kill, name=fail, name=sleep:MILLISECONDS or "
			              "name=wait:/FILE\n",
			              word);
			exit(2);
		}
	}
	free(copy);
}

/* Makes the file, so that a test sees that the point is reached, and stays here while it exists. */
static void fault_wait(const char *path)
{
	const struct timespec ts = {0, FAULT_LOOK_NSEC};
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return;
	(void)close(fd);
	while (access(path, F_OK) == 0)
		(void)nanosleep(&ts, NULL);
}

bool fault_point(const char *name)
{
	if (LIKELY(fault_count == 0))
		return false;
	for (size_t i = 0; i < fault_count; i++) {
		struct timespec ts = {faults[i].msec / 1000, faults[i].msec % 1000 * 1000000};

		if (strcmp(faults[i].name, name) != 0)
			continue;
		switch (faults[i].action) {
		case FAULT_KILL:
			(void)kill(getpid(), SIGKILL);
			break;
		case FAULT_FAIL:
			log_warning("fault point %s: made to fail", name);
			return true;
		case FAULT_SLEEP:
			(void)nanosleep(&ts, NULL);
			break;
		case FAULT_WAIT:
			fault_wait(faults[i].path);
			break;
		}
	}
	return false;
}
