/* SPDX-License-Identifier: PostgreSQL */
/*
 * Dialling: the callback comes exactly once, later and with a reason, whatever the host is; a dial
 * that was given up says nothing.
 */
#include "net/dial.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

struct call {
	struct event_base *base;
	int count;
	int fd;
	char error[256];
};

static void done(void *arg, int fd, const char *error)
{
	struct call *call = arg;

	call->count++;
	call->fd = fd;
	strncpy(call->error, error == NULL ? "" : error, sizeof(call->error) - 1);
	(void)event_base_loopbreak(call->base);
}

/* Runs until the callback came, at most two seconds. */
static void wait_for_call(struct call *call)
{
	const struct timeval limit = {2, 0};

	(void)event_base_loopexit(call->base, &limit);
	(void)event_base_dispatch(call->base);
}

static struct call begin(void)
{
	struct call call = {.base = event_base_new(), .fd = 1000};

	assert_non_null(call.base);
	return call;
}

static void dial_and_expect(const char *host, int port, usec_t timeout, const char *error)
{
	struct dial *dial;
	struct call call = begin();

	dial = dial_start(call.base, NULL, host, port, timeout, done, &call);
	assert_non_null(dial);
	assert_int_equal(call.count, 0); /* never from inside */
	wait_for_call(&call);
	assert_int_equal(call.count, 1);
	assert_int_equal(call.fd, strstr(error, "resolve") == NULL ? DIAL_FAILED : DIAL_UNRESOLVED);
	assert_non_null(strstr(call.error, error));
	event_base_free(call.base);
}

static int listen_somewhere(int *port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	*port = ntohs(sin.sin_port);
	return fd;
}

static void test_failures_have_reasons(void **state)
{
	int port;
	int fd = listen_somewhere(&port);

	(void)state;
	/* Bound, but nobody listens. */
	dial_and_expect("127.0.0.1", port, USEC_PER_SEC, "Connection refused");
	dial_and_expect("/no/such/directory", 5432, USEC_PER_SEC, "No such file");
	dial_and_expect("a.name", 5432, USEC_PER_SEC, "no resolver");
	(void)close(fd);
}

static void test_connects(void **state)
{
	int port;
	int listener = listen_somewhere(&port);
	struct dial *dial;
	struct call call = begin();
	int accepted;

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	dial = dial_start(call.base, NULL, "127.0.0.1", port, USEC_PER_SEC, done, &call);
	assert_non_null(dial);
	wait_for_call(&call);
	assert_int_equal(call.count, 1);
	assert_true(call.fd >= 0);
	accepted = accept(listener, NULL, NULL);
	assert_true(accepted >= 0);
	(void)close(accepted);
	(void)close(call.fd);
	(void)close(listener);
	event_base_free(call.base);
}

static void test_given_up(void **state)
{
	int port;
	int listener = listen_somewhere(&port);
	struct dial *dial;
	struct call call = begin();

	(void)state;
	assert_int_equal(listen(listener, 5), 0);
	dial = dial_start(call.base, NULL, "127.0.0.1", port, USEC_PER_SEC, done, &call);
	assert_non_null(dial);
	dial_cancel(dial);
	dial = dial_start(call.base, NULL, "/no/such/directory", port, USEC_PER_SEC, done, &call);
	assert_non_null(dial);
	dial_cancel(dial);
	(void)event_base_loop(call.base, EVLOOP_NONBLOCK);
	assert_int_equal(call.count, 0);
	(void)close(listener);
	event_base_free(call.base);
}

/* A listener whose queue is full lets nobody in: the time-out ends it. */
static void test_time_out(void **state)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fillers[8];
	int port;
	int listener = listen_somewhere(&port);

	(void)state;
	sin.sin_port = htons((uint16_t)port);
	assert_int_equal(listen(listener, 0), 0);
	for (size_t i = 0; i < 8; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(fillers[i], (struct sockaddr *)&sin, sizeof(sin));
	}
	dial_and_expect("127.0.0.1", port, 100000, "timed out");
	for (size_t i = 0; i < 8; i++)
		(void)close(fillers[i]);
	(void)close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_failures_have_reasons),
	    cmocka_unit_test(test_connects),
	    cmocka_unit_test(test_given_up),
	    cmocka_unit_test(test_time_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
