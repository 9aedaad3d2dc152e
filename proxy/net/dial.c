/* SPDX-License-Identifier: PostgreSQL */
#include "net/dial.h"

#include "base/endpoint.h"
#include "net/sock.h"

#include <errno.h>
#include <event2/util.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct dial {
	struct event_base *base;
	struct evdns_getaddrinfo_request *lookup;
	struct evutil_addrinfo *list; /* what the resolver gave */
	struct evutil_addrinfo *next; /* the address to try next */
	struct event *timer;          /* the time-out, also the means to start later */
	struct event *ready;          /* the connecting socket is writable */
	usec_t deadline; /* 0: none */
	int fd;
	int port;
	bool in_lookup; /* inside evdns_getaddrinfo(): it may call back at once */
	bool cancelled;
	bool resolved;
	dial_found found; /* NULL: nobody asks */
	dial_done done;
	void *arg;
	char error[256];
	char host[];
};

static void dial_free(struct dial *dial)
{
	if (dial->timer != NULL)
		event_free(dial->timer);
	if (dial->ready != NULL)
		event_free(dial->ready);
	if (dial->list != NULL)
		evutil_freeaddrinfo(dial->list);
	if (dial->fd >= 0)
		(void)close(dial->fd);
	free(dial);
}

static void dial_finish(struct dial *dial)
{
	const dial_done done = dial->done;
	void *arg = dial->arg;
	char error[sizeof(dial->error)];
	int fd = dial->fd;

	memcpy(error, dial->error, sizeof(error));
	dial->fd = -1;
	dial_free(dial);
	done(arg, fd, fd < 0 ? error : NULL);
}

static void dial_try_next(struct dial *dial);

static void dial_fail_address(struct dial *dial, int err)
{
	(void)snprintf(dial->error, sizeof(dial->error), "could not connect to %s port %d: %s",
	               dial->host, dial->port, strerror(err));
	if (dial->ready != NULL) {
		event_free(dial->ready);
		dial->ready = NULL;
	}
	if (dial->fd >= 0)
		(void)close(dial->fd);
	dial->fd = -1;
	dial_try_next(dial);
}

static void dial_writable(evutil_socket_t fd, short what, void *arg)
{
	struct dial *dial = arg;
	socklen_t len = sizeof(int);
	int err = 0;

	(void)what;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0)
		err = errno;
	if (err != 0)
		dial_fail_address(dial, err);
	else
		dial_finish(dial);
}

/* Begins a connection; true if it is under way or open (then errno is 0 or EINPROGRESS). */
static int dial_connect(struct dial *dial, int family, const struct sockaddr *addr, socklen_t len)
{
	dial->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (dial->fd < 0)
		return errno;
	if (connect(dial->fd, addr, len) != 0 && errno != EINPROGRESS)
		return errno;
	dial->ready = event_new(dial->base, dial->fd, EV_WRITE, dial_writable, dial);
	if (dial->ready == NULL || event_add(dial->ready, NULL) != 0)
		return ENOMEM;
	return 0;
}

static void dial_try_next(struct dial *dial)
{
	struct evutil_addrinfo *ai = dial->next;
	int err;

	if (ai == NULL) {
		dial_finish(dial);
		return;
	}
	dial->next = ai->ai_next;
	err = dial_connect(dial, ai->ai_family, ai->ai_addr, (socklen_t)ai->ai_addrlen);
	if (err != 0)
		dial_fail_address(dial, err);
}

static void dial_resolved(int result, struct evutil_addrinfo *list, void *arg)
{
	struct dial *dial = arg;

	dial->lookup = NULL;
	dial->list = list;
	if (dial->cancelled) {
		dial_free(dial);
		return;
	}
	if (result != 0) {
		(void)snprintf(dial->error, sizeof(dial->error),
		               "could not resolve host name \"%s\": %s", dial->host,
		               evutil_gai_strerror(result));
		dial->fd = DIAL_UNRESOLVED;
		dial->next = NULL;
	} else {
		dial->next = list;
		dial->resolved = true;
		if (dial->found != NULL)
			dial->found(dial->arg, list);
	}
	/* Inside evdns_getaddrinfo() the caller is not ready for an answer: the timer brings it. */
	if (!dial->in_lookup)
		dial_try_next(dial);
}

static void dial_lookup(struct dial *dial, struct evdns_base *dns)
{
	struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct evdns_getaddrinfo_request *lookup;
	char service[16];

	(void)snprintf(service, sizeof(service), "%d", dial->port);
	dial->in_lookup = true;
	lookup = evdns_getaddrinfo(dns, dial->host, service, &hints, dial_resolved, dial);
	dial->in_lookup = false;
	dial->lookup = lookup;
	if (lookup == NULL)
		event_active(dial->timer, EV_READ, 0);
}

/* Sets the time-out to what is left until the deadline. */
static bool dial_arm(struct dial *dial)
{
	usec_t left = dial->deadline - clock_now();
	struct timeval tv = {0, 1};

	if (dial->deadline == 0)
		return true;
	if (left > 0)
		tv = (struct timeval){left / USEC_PER_SEC, left % USEC_PER_SEC};
	return event_add(dial->timer, &tv) == 0;
}

static void dial_timer(evutil_socket_t fd, short what, void *arg)
{
	struct dial *dial = arg;

	(void)fd;
	if ((what & EV_TIMEOUT) == 0) {
		/* The deferred start.  That it was made active took the time-out away. */
		(void)dial_arm(dial);
		dial_try_next(dial);
		return;
	}
	(void)snprintf(dial->error, sizeof(dial->error), "could not %s %s port %d: timed out",
	               dial->lookup != NULL ? "resolve" : "connect to", dial->host, dial->port);
	if (dial->fd >= 0) {
		event_free(dial->ready);
		dial->ready = NULL;
		(void)close(dial->fd);
		dial->fd = -1;
	}
	if (dial->lookup != NULL) {
		/* The resolver still calls back once, with EVUTIL_EAI_CANCEL, and frees then. */
		const dial_done done = dial->done;
		void *done_arg = dial->arg;
		char error[sizeof(dial->error)];

		memcpy(error, dial->error, sizeof(error));
		dial_cancel(dial);
		done(done_arg, DIAL_UNRESOLVED, error);
		return;
	}
	dial_finish(dial);
}

static bool dial_unix(struct dial *dial)
{
	struct sockaddr_un sun;
	char path[sizeof(sun.sun_path) + 1];
	unsigned len;
	int err;

	(void)snprintf(path, sizeof(path), "%s/.s.PGSQL.%d", dial->host, dial->port);
	err = sock_unix_address(path, &sun, &len)
	          ? dial_connect(dial, AF_UNIX, (struct sockaddr *)&sun, len)
	          : ENAMETOOLONG;

	if (err == 0)
		return true;
	(void)snprintf(dial->error, sizeof(dial->error), "could not connect to %s: %s",
	               path, strerror(err));
	if (dial->fd >= 0)
		(void)close(dial->fd);
	dial->fd = -1;
	return false;
}

/* The addresses of a numeric host, without asking anybody. */
static bool dial_numeric(struct dial *dial)
{
	struct evutil_addrinfo hints = {
	    .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = EVUTIL_AI_NUMERICHOST};
	char service[16];

	(void)snprintf(service, sizeof(service), "%d", dial->port);
	if (evutil_getaddrinfo(dial->host, service, &hints, &dial->list) != 0) {
		dial->list = NULL;
		return false;
	}
	dial->next = dial->list;
	return true;
}

struct dial *dial_start(struct event_base *base, struct evdns_base *dns, const char *host, int port,
                        usec_t timeout, dial_done done, void *arg)
{
	size_t len = strlen(host) + 1;
	struct dial *dial = calloc(1, sizeof(*dial) + len);

	if (dial == NULL)
		return NULL;
	memcpy(dial->host, host, len);
	dial->base = base;
	dial->port = port;
	dial->fd = -1;
	dial->done = done;
	dial->arg = arg;
	dial->timer = event_new(base, -1, 0, dial_timer, dial);
	dial->deadline = timeout > 0 ? clock_now() + timeout : 0;
	if (dial->timer == NULL || !dial_arm(dial)) {
		dial_free(dial);
		return NULL;
	}
	if (endpoint_is_unix(host)) {
		if (!dial_unix(dial))
			event_active(dial->timer, EV_READ, 0);
	} else if (dial_numeric(dial)) {
		/* Connecting at once saves a turn of the loop; only a failure has to wait. */
		struct evutil_addrinfo *ai = dial->next;
		int err;

		dial->next = ai->ai_next;
		err = dial_connect(dial, ai->ai_family, ai->ai_addr, (socklen_t)ai->ai_addrlen);
		if (err != 0) {
			(void)snprintf(dial->error, sizeof(dial->error),
			               "could not connect to %s port %d: %s", host, port,
			               strerror(err));
			if (dial->fd >= 0)
				(void)close(dial->fd);
			dial->fd = -1;
			event_active(dial->timer, EV_READ, 0);
		}
	} else if (dns == NULL) {
		(void)snprintf(dial->error, sizeof(dial->error),
		               "could not resolve host name \"%s\": no resolver", host);
		dial->fd = DIAL_UNRESOLVED;
		event_active(dial->timer, EV_READ, 0);
	} else {
		dial_lookup(dial, dns);
	}
	return dial;
}

void dial_on_found(struct dial *dial, dial_found found)
{
	dial->found = found;
	if (dial->resolved)
		found(dial->arg, dial->list);
}

void dial_cancel(struct dial *dial)
{
	if (dial->lookup == NULL) {
		dial_free(dial);
		return;
	}
	dial->cancelled = true;
	event_free(dial->timer);
	dial->timer = NULL;
	evdns_getaddrinfo_cancel(dial->lookup);
}
