/* SPDX-License-Identifier: PostgreSQL */
#include "core/accept.h"

#include "base/log.h"
#include "core/client.h"
#include "core/mail.h"
#include "core/proxy.h"
#include "core/route.h"
#include "core/worker.h"
#include "net/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_BATCH 64
#define ACCEPT_PAUSE_USEC 100000

struct acceptor {
	struct acceptor *next;
	struct worker *worker;
	struct event *event;
	bool deferred;       /* a connection comes with its first bytes */
	unsigned batch;      /* accepted at a time: as many as are there, as a rule */
	struct event *pause; /* brings it back when descriptors had run out */
	int reserve; /* a descriptor to take one connection with, and tell it that there are no more
	              */
	usec_t told; /* when the log had it last */
	int fd;
};

/* The first worker that has time left, so that few are busy and each wakes up for much at once; if
 * none has, the one with the fewest clients. */
static struct worker *accept_choose(struct worker *self)
{
	struct proxy *proxy = self->proxy;
	const unsigned fill = (unsigned)self->routes->config->proxy.worker_fill * 10;
	struct worker *least = &proxy->workers[0];

	for (unsigned i = 0; i < proxy->worker_count; i++) {
		struct worker *worker = &proxy->workers[i];

		if (atomic_load_explicit(&worker->busy, memory_order_relaxed) < fill)
			return worker;
		if (atomic_load_explicit(&worker->client_count, memory_order_relaxed) <
		    atomic_load_explicit(&least->client_count, memory_order_relaxed))
			least = worker;
	}
	return least;
}

static void accept_give(struct worker *self, int fd, bool readable)
{
	struct worker *worker = accept_choose(self);
	struct mail_fd *mail = NULL;

	if (worker != self) {
		mail = mail_new(sizeof(*mail), MAIL_ACCEPT);
		if (mail == NULL) {
			(void)close(fd);
			return;
		}
	}
	atomic_fetch_add(&self->proxy->client_count, 1);
	atomic_fetch_add(&worker->client_count, 1);
	if (worker == self) {
		client_accept(self, fd, readable);
		return;
	}
	mail->fd = fd;
	mail->readable = readable;
	mailbox_post(&worker->mailbox, &mail->letter);
}

static void accept_again(evutil_socket_t fd, short what, void *arg)
{
	struct acceptor *acceptor = arg;

	(void)fd;
	(void)what;
	(void)event_add(acceptor->event, NULL);
}

/* Out of descriptors: the reserve takes one connection, which is told.  False: there was none to
 * take, or another thread got the descriptor. */
static bool accept_refuse(struct acceptor *acceptor)
{
	static const char told[] = "E\0\0\0\x44SFATAL\0VFATAL\0C53300\0"
	                           "Mtoo many connections: out of descriptors\0";
	char unread[1024];
	int fd;

	if (acceptor->reserve < 0)
		return false;
	(void)close(acceptor->reserve);
	fd = accept4(acceptor->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		(void)send(fd, told, sizeof(told), MSG_NOSIGNAL);
		/* With bytes unread the end would be a reset, which throws the message away. */
		(void)shutdown(fd, SHUT_WR);
		(void)!recv(fd, unread, sizeof(unread), 0);
		(void)close(fd);
	}
	acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return fd >= 0 && acceptor->reserve >= 0;
}

/* Out of descriptors or memory: the queue in the kernel keeps them for a moment. */
static void accept_rest(struct acceptor *acceptor)
{
	const struct timeval pause = {0, ACCEPT_PAUSE_USEC};
	const int error = errno;
	unsigned refused = 0;

	if (acceptor->worker->now - acceptor->told >= USEC_PER_SEC || acceptor->told == 0) {
		log_error("cannot accept connections: %s", strerror(error));
		acceptor->told = acceptor->worker->now;
	}
	while (error == EMFILE && refused < ACCEPT_BATCH && accept_refuse(acceptor))
		refused++;
	if (acceptor->reserve < 0)
		acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	(void)event_del(acceptor->event);
	(void)event_add(acceptor->pause, &pause);
}

static void accept_ready(evutil_socket_t listener, short what, void *arg)
{
	struct acceptor *acceptor = arg;
	struct worker *worker = acceptor->worker;
	unsigned i;

	(void)what;
	worker->now = clock_now();
	/* To find out that there is no more costs a system call: one alone is as a rule the only one,
	 * and a burst doubles the batch as long as it fills it. */
	for (i = 0; i < acceptor->batch; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			accept_give(worker, fd, acceptor->deferred);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			accept_rest(acceptor);
		break;
	}
	acceptor->batch = i < acceptor->batch ? 1 : 2 * i < ACCEPT_BATCH ? 2 * i : ACCEPT_BATCH;
	worker_end_turn(worker);
}

struct sock_keepalive accept_keepalive(const struct config_proxy *conf)
{
	return (struct sock_keepalive){
	    .on = conf->tcp_keepalive,
	    .idle = (int)(conf->tcp_keepalive_idle / USEC_PER_SEC),
	    .interval = (int)(conf->tcp_keepalive_interval / USEC_PER_SEC),
	    .count = conf->tcp_keepalive_count,
	    .unacknowledged = (int)(conf->tcp_user_timeout / USEC_PER_MSEC)};
}

void accept_tune(struct worker *worker)
{
	const struct sock_keepalive keepalive = accept_keepalive(&worker->routes->config->proxy);

	for (const struct acceptor *acceptor = worker->acceptors; acceptor != NULL;
	     acceptor = acceptor->next)
		sock_tune_again(acceptor->fd, &keepalive);
}

void accept_listen(struct worker *worker, int fd)
{
	const struct config_proxy *conf = &worker->routes->config->proxy;
	const struct sock_keepalive keepalive = accept_keepalive(conf);
	struct acceptor *acceptor = calloc(1, sizeof(*acceptor));

	if (acceptor == NULL) {
		log_error("cannot listen: out of memory");
		(void)close(fd);
		return;
	}
	sock_tune_again(fd, &keepalive);
	acceptor->worker = worker;
	acceptor->fd = fd;
	acceptor->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	acceptor->batch = 1;
	acceptor->deferred = conf->tcp_defer_accept > 0 &&
			     sock_defer_accept(fd, (int)((conf->tcp_defer_accept + USEC_PER_SEC - 1) /
							 USEC_PER_SEC));
	acceptor->event = event_new(worker->base, fd, EV_READ | EV_PERSIST, accept_ready, acceptor);
	acceptor->pause = event_new(worker->base, -1, 0, accept_again, acceptor);
	acceptor->next = worker->acceptors;
	worker->acceptors = acceptor;
	if (acceptor->event == NULL || acceptor->pause == NULL ||
	    event_add(acceptor->event, NULL) != 0)
		log_error("cannot listen: out of memory");
}

void accept_each(const struct worker *worker, void (*each)(void *arg, int fd), void *arg)
{
	for (const struct acceptor *acceptor = worker->acceptors; acceptor != NULL;
	     acceptor = acceptor->next)
		each(arg, acceptor->fd);
}

void accept_stop(struct worker *worker, bool keep_unix)
{
	struct acceptor **at = &worker->acceptors;

	while (*at != NULL) {
		struct acceptor *acceptor = *at;

		if (keep_unix && sock_is_unix(acceptor->fd)) {
			at = &acceptor->next;
			continue;
		}
		*at = acceptor->next;
		if (acceptor->event != NULL)
			event_free(acceptor->event);
		if (acceptor->pause != NULL)
			event_free(acceptor->pause);
		(void)close(acceptor->fd);
		if (acceptor->reserve >= 0)
			(void)close(acceptor->reserve);
		free(acceptor);
	}
}
