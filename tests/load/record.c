/* SPDX-License-Identifier: PostgreSQL */
/* Writing the log file of a run; see record.h. */
#include "record.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BUFFER ((size_t)1024 * 1024)

struct record {
	FILE *file;
	usec_t start;
};

struct record *record_create(const char *path, int64_t run)
{
	struct record *record = mem_must_alloc(sizeof(*record));

	record->file = fopen(path, "we");
	if (record->file == NULL) {
		fprintf(stderr, "pgshunt_load: %s: %s\n", path, strerror(errno));
		free(record);
		return NULL;
	}
	setvbuf(record->file, NULL, _IOFBF, RECORD_BUFFER);
	record->start = clock_now();
	fprintf(record->file, "V 1 %" PRId64 " %" PRId64 " %" PRId64 "\n", run, clock_wall(),
	        record->start);
	return record;
}

bool record_close(struct record *record)
{
	bool good = !ferror(record->file);

	good = fclose(record->file) == 0 && good;
	free(record);
	return good;
}

void record_flush(struct record *record)
{
	fflush(record->file);
}

void record_target(struct record *record, int target, const char *name, const char *group,
                   int first_client, int clients)
{
	fprintf(record->file, "T %d %s %s %d %d\n", target, name, group, first_client, clients);
}

void record_ack(struct record *record, usec_t now, int client, int64_t first, int count,
                usec_t latency)
{
	fprintf(record->file, "A %" PRId64 " %d %" PRId64 " %d %" PRId64 "\n", now - record->start,
	        client, first, count, latency);
}

void record_read(struct record *record, usec_t now, int client, usec_t latency)
{
	fprintf(record->file, "R %" PRId64 " %d %" PRId64 "\n", now - record->start, client,
	        latency);
}

void record_error(struct record *record, usec_t now, int client, const char *sqlstate,
                  const char *text)
{
	int len = (int)strcspn(text, "\n");

	fprintf(record->file, "E %" PRId64 " %d %s %.*s\n", now - record->start, client, sqlstate,
	        len, text);
}

void record_gap(struct record *record, usec_t now, int target, usec_t length)
{
	fprintf(record->file, "G %" PRId64 " %d %" PRId64 "\n", now - record->start, target,
	        length);
}

void record_last(struct record *record, int client, int64_t last)
{
	fprintf(record->file, "N %d %" PRId64 "\n", client, last);
}

void record_stop(struct record *record, usec_t now)
{
	fprintf(record->file, "Z %" PRId64 "\n", now - record->start);
}
