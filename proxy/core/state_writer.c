/* SPDX-License-Identifier: PostgreSQL */
#include "core/state_writer.h"

#include "base/log.h"
#include "base/mem.h"
#include "core/state.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct pending {
	char *text; /* NULL: nothing to do */
	size_t len;
};

struct state_writer {
	char *directory;
	struct mailbox *answer_to;
	int type;
	pthread_t thread;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	struct pending state;
	struct pending welcome;
	uint64_t number; /* of the last request */
	bool stop;
};

static void write_state(struct state_writer *writer, struct pending *work, uint64_t number)
{
	struct state_written *written = mem_must_alloc(sizeof(*written));
	struct sbuf error;

	sbuf_init(&error, sizeof(written->error));
	written->letter.type = writer->type;
	written->number = number;
	written->ok =
	    state_write(writer->directory, STATE_FILE, work->text, work->len, true, &error);
	(void)snprintf(written->error, sizeof(written->error), "%s", sbuf_text(&error));
	sbuf_free(&error);
	free(work->text);
	mailbox_post(writer->answer_to, &written->letter);
}

static void write_welcome(struct state_writer *writer, struct pending *work)
{
	struct sbuf error;

	sbuf_init(&error, 512);
	if (!state_write(writer->directory, STATE_WELCOME_FILE, work->text, work->len, false,
	                 &error))
		log_warning("%s", sbuf_text(&error));
	sbuf_free(&error);
	free(work->text);
}

static void *writer_main(void *arg)
{
	struct state_writer *writer = arg;

	(void)pthread_mutex_lock(&writer->lock);
	for (;;) {
		struct pending state = writer->state;
		struct pending welcome = writer->welcome;
		uint64_t number = writer->number;

		if (state.text == NULL && welcome.text == NULL) {
			if (writer->stop)
				break;
			(void)pthread_cond_wait(&writer->wake, &writer->lock);
			continue;
		}
		writer->state.text = NULL;
		writer->welcome.text = NULL;
		(void)pthread_mutex_unlock(&writer->lock);
		/* First the parameters, which cost no fsync: a hold that was answered has those
		 * that were known before it. */
		if (welcome.text != NULL)
			write_welcome(writer, &welcome);
		if (state.text != NULL)
			write_state(writer, &state, number);
		(void)pthread_mutex_lock(&writer->lock);
	}
	(void)pthread_mutex_unlock(&writer->lock);
	return NULL;
}

struct state_writer *state_writer_start(const char *directory, struct mailbox *answer_to, int type)
{
	struct state_writer *writer = mem_must_alloc(sizeof(*writer));

	writer->directory = mem_must_strdup(directory);
	writer->answer_to = answer_to;
	writer->type = type;
	(void)pthread_mutex_init(&writer->lock, NULL);
	(void)pthread_cond_init(&writer->wake, NULL);
	if (pthread_create(&writer->thread, NULL, writer_main, writer) != 0) {
		(void)pthread_cond_destroy(&writer->wake);
		(void)pthread_mutex_destroy(&writer->lock);
		free(writer->directory);
		free(writer);
		return NULL;
	}
	return writer;
}

uint64_t state_writer_save(struct state_writer *writer, char *text, size_t len)
{
	uint64_t number;

	(void)pthread_mutex_lock(&writer->lock);
	free(writer->state.text);
	writer->state = (struct pending){text, len};
	number = ++writer->number;
	(void)pthread_cond_signal(&writer->wake);
	(void)pthread_mutex_unlock(&writer->lock);
	return number;
}

void state_writer_save_welcome(struct state_writer *writer, char *text, size_t len)
{
	(void)pthread_mutex_lock(&writer->lock);
	free(writer->welcome.text);
	writer->welcome = (struct pending){text, len};
	(void)pthread_cond_signal(&writer->wake);
	(void)pthread_mutex_unlock(&writer->lock);
}

void state_writer_stop(struct state_writer *writer)
{
	(void)pthread_mutex_lock(&writer->lock);
	writer->stop = true;
	(void)pthread_cond_signal(&writer->wake);
	(void)pthread_mutex_unlock(&writer->lock);
	(void)pthread_join(writer->thread, NULL);
	(void)pthread_cond_destroy(&writer->wake);
	(void)pthread_mutex_destroy(&writer->lock);
	free(writer->directory);
	free(writer);
}
