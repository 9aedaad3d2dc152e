/* SPDX-License-Identifier: PostgreSQL */
#include "core/compute.h"

#include "base/log.h"
#include "core/mail.h"
#include "core/proxy.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Most jobs that may wait for clients; for servers pool_size bounds them. */
#define COMPUTE_CLIENT_JOBS 256

/* How much less of a CPU that is short the thread gets than a worker. */
#define COMPUTE_NICE 5

/* So long the end of the process waits for the step that is being done. */
#define COMPUTE_END_SECONDS 1

struct job_queue {
	struct compute_job *first;
	struct compute_job **last;
	unsigned count;
};

struct compute {
	struct proxy *proxy;
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	struct job_queue servers;
	struct job_queue clients;
	bool stop;
};

static void queue_init(struct job_queue *queue)
{
	queue->first = NULL;
	queue->last = &queue->first;
	queue->count = 0;
}

static void queue_append(struct job_queue *queue, struct compute_job *job)
{
	job->next = NULL;
	*queue->last = job;
	queue->last = &job->next;
	queue->count++;
}

static struct compute_job *queue_take(struct job_queue *queue)
{
	struct compute_job *job = queue->first;

	if (job == NULL)
		return NULL;
	queue->first = job->next;
	if (queue->first == NULL)
		queue->last = &queue->first;
	queue->count--;
	return job;
}

/* NULL: the thread is to end. */
static struct compute_job *compute_wait(struct compute *compute)
{
	struct compute_job *job = NULL;

	(void)pthread_mutex_lock(&compute->lock);
	while (!compute->stop && job == NULL) {
		job = queue_take(&compute->servers);
		if (job == NULL)
			job = queue_take(&compute->clients);
		if (job == NULL)
			(void)pthread_cond_wait(&compute->wake, &compute->lock);
	}
	(void)pthread_mutex_unlock(&compute->lock);
	return job;
}

static void job_drop(struct compute_job *job)
{
	job->owner = NULL;
	job->done(job);
}

/* With the lock, so that compute_stop() knows whether anything is still to be expected. */
static void compute_deliver(struct compute *compute, struct compute_job *job)
{
	(void)pthread_mutex_lock(&compute->lock);
	if (compute->stop) {
		job_drop(job);
	} else {
		job->letter.type = MAIL_COMPUTED;
		mailbox_post(&compute->proxy->workers[job->worker].mailbox, &job->letter);
	}
	(void)pthread_mutex_unlock(&compute->lock);
}

static void *compute_main(void *arg)
{
	struct compute *compute = arg;
	struct compute_job *job;

	/* Of this thread only, on Linux. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), COMPUTE_NICE);
	while ((job = compute_wait(compute)) != NULL) {
		job->run(job);
		compute_deliver(compute, job);
	}
	return NULL;
}

struct compute *compute_start(struct proxy *proxy)
{
	struct compute *compute = calloc(1, sizeof(*compute));
	sigset_t all;
	sigset_t before;
	int rc;

	if (compute == NULL) {
		log_error("cannot start: out of memory");
		return NULL;
	}
	compute->proxy = proxy;
	queue_init(&compute->servers);
	queue_init(&compute->clients);
	(void)pthread_mutex_init(&compute->lock, NULL);
	(void)pthread_cond_init(&compute->wake, NULL);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&compute->thread, NULL, compute_main, compute);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0)
		return compute;
	log_error("cannot start a thread: %s", strerror(rc));
	free(compute);
	return NULL;
}

static void compute_drop(struct job_queue *queue)
{
	struct compute_job *job;

	while ((job = queue_take(queue)) != NULL)
		job_drop(job);
}

void compute_stop(struct compute *compute)
{
	struct timespec until;

	if (compute == NULL)
		return;
	(void)pthread_mutex_lock(&compute->lock);
	compute->stop = true;
	(void)pthread_cond_signal(&compute->wake);
	(void)pthread_mutex_unlock(&compute->lock);
	compute_drop(&compute->servers);
	compute_drop(&compute->clients);
	/* A step that waits for others may never end; it touches nothing of ours any more. */
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += COMPUTE_END_SECONDS;
	if (pthread_timedjoin_np(compute->thread, NULL, &until) != 0)
		return;
	(void)pthread_mutex_destroy(&compute->lock);
	(void)pthread_cond_destroy(&compute->wake);
	free(compute);
}

bool compute_post(struct compute *compute, struct compute_job *job)
{
	bool room;

	(void)pthread_mutex_lock(&compute->lock);
	room = !compute->stop && (job->for_server || compute->clients.count < COMPUTE_CLIENT_JOBS);
	if (room) {
		queue_append(job->for_server ? &compute->servers : &compute->clients, job);
		(void)pthread_cond_signal(&compute->wake);
	}
	(void)pthread_mutex_unlock(&compute->lock);
	return room;
}
