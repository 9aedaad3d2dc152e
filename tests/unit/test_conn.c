/* SPDX-License-Identifier: PostgreSQL */
/*
 * One socket of a worker, on a socket pair: what is received and kept, sent at once, kept unsent
 * and sent later, in whatever pieces.
 */
#include "core/conn.h"

#include "core/worker.h"
#include "net/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* cmocka needs the headers above first. */
#include <cmocka.h>

struct scene {
	struct worker *worker;
	struct conn conn;
	int far; /* the other end */
	short seen;
};

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct scene *scene = arg;

	(void)fd;
	scene->seen |= what;
}

static int setup(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));
	int fds[2];

	scene->worker = calloc(1, sizeof(*scene->worker));
	scene->worker->base = event_base_new();
	scene->worker->inbuf = malloc(WORKER_INBUF);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) != 0)
		return -1;
	scene->far = fds[1];
	*state = scene;
	return conn_open(&scene->conn, scene->worker, fds[0], on_event, scene) ? 0 : -1;
}

static int teardown(void **state)
{
	struct scene *scene = *state;

	conn_close(&scene->conn, scene->worker);
	assert_int_equal(scene->conn.fd, -1);
	if (scene->far >= 0)
		(void)close(scene->far);
	event_base_free(scene->worker->base);
	free(scene->worker->inbuf);
	free(scene->worker);
	free(scene);
	return 0;
}

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 31 + i / 251);
}

static uint8_t *make_pattern(size_t len)
{
	uint8_t *data = malloc(len);

	assert_non_null(data);
	for (size_t i = 0; i < len; i++)
		data[i] = pattern(i);
	return data;
}

static void put(struct scene *scene, const void *data, size_t len)
{
	assert_int_equal(send(scene->far, data, len, 0), (ssize_t)len);
}

/* ---- receiving ---- */

static void test_receive_and_keep(void **state)
{
	struct scene *scene = *state;
	struct input input;

	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_AGAIN);
	put(scene, "hello world", 11);
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_OK);
	assert_int_equal(input.len, 11);
	assert_ptr_equal(input.data, scene->worker->inbuf);
	assert_true(conn_keep(&scene->conn, &input, 6));
	assert_int_equal(conn_kept(&scene->conn), 5);
	/* Another connection uses the buffer meanwhile. */
	memset(scene->worker->inbuf, 'x', WORKER_INBUF);
	put(scene, "!", 1);
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_OK);
	assert_int_equal(input.len, 6);
	assert_memory_equal(input.data, "world!", 6);
	assert_true(conn_keep(&scene->conn, &input, 6));
	assert_int_equal(conn_kept(&scene->conn), 0);
	assert_null(scene->conn.in);
}

static void test_pending_is_used_bit_by_bit(void **state)
{
	struct scene *scene = *state;
	struct input input;

	put(scene, "abcdef", 6);
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 4, &input), CONN_IO_OK);
	assert_int_equal(input.len, 4);
	assert_true(conn_keep(&scene->conn, &input, 0));
	input = conn_pending(&scene->conn, scene->worker);
	assert_memory_equal(input.data, "abcd", 4);
	assert_true(conn_keep(&scene->conn, &input, 3));
	input = conn_pending(&scene->conn, scene->worker);
	assert_int_equal(input.len, 1);
	assert_memory_equal(input.data, "d", 1);
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_OK);
	assert_memory_equal(input.data, "def", 3);
	assert_true(conn_keep(&scene->conn, &input, 3));
	input = conn_pending(&scene->conn, scene->worker);
	assert_int_equal(input.len, 0);
}

/* A message longer than the worker's buffer grows in memory of its own. */
static void test_long_message_is_kept_whole(void **state)
{
	struct scene *scene = *state;
	const size_t len = 5 * WORKER_INBUF + 77;
	uint8_t *data = make_pattern(len);
	size_t sent = 0;
	struct input input = {NULL, 0};

	while (input.len < len) {
		ssize_t n = sent < len ? send(scene->far, data + sent, len - sent, 0) : 0;

		if (n > 0)
			sent += (size_t)n;
		if (conn_receive(&scene->conn, scene->worker, 0, &input) == CONN_IO_OK &&
		    input.len < len)
			assert_true(conn_keep(&scene->conn, &input, 0));
	}
	assert_memory_equal(input.data, data, len);
	assert_true(conn_keep(&scene->conn, &input, len - 3));
	input = conn_pending(&scene->conn, scene->worker);
	assert_memory_equal(input.data, data + len - 3, 3);
	assert_true(conn_keep(&scene->conn, &input, 3));
	assert_null(scene->conn.in);
	free(data);
}

static void test_end_of_the_peer(void **state)
{
	struct scene *scene = *state;
	struct input input;

	put(scene, "last", 4);
	(void)close(scene->far);
	scene->far = -1;
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_OK);
	assert_false(scene->conn.eof);
	assert_int_equal(conn_receive(&scene->conn, scene->worker, 0, &input), CONN_IO_EOF);
	assert_true(scene->conn.eof);
}

/* ---- sending ---- */

static void expect(struct scene *scene, const void *data, size_t len)
{
	uint8_t *got = malloc(len + 1);

	assert_int_equal(recv(scene->far, got, len + 1, 0), (ssize_t)len);
	assert_memory_equal(got, data, len);
	free(got);
}

static void test_parts_go_out_together(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;
	const char text[] = "abcdef";
	char gone[4] = "123";

	assert_int_equal(conn_send(out, &scene->conn, scene->worker, text, 3), CONN_IO_OK);
	assert_int_equal(conn_send(out, &scene->conn, scene->worker, text + 3, 3), CONN_IO_OK);
	assert_int_equal(out->count, 1); /* neighbours are one part */
	assert_int_equal(conn_send_copy(out, &scene->conn, scene->worker, gone, 3), CONN_IO_OK);
	memset(gone, 'x', sizeof(gone)); /* a copy was taken */
	assert_int_equal(conn_send(out, &scene->conn, scene->worker, text, 1), CONN_IO_OK);
	assert_int_equal(recv(scene->far, gone, 1, 0), -1); /* nothing before the flush */
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	expect(scene, "abcdef123a", 10);
	assert_null(out->conn);
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	assert_int_equal(conn_unsent(&scene->conn), 0);
}

static void test_more_parts_than_the_vector_has(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;
	uint8_t *data = make_pattern(10 * OUT_VEC_MAX);
	uint8_t expected[10 * OUT_VEC_MAX];

	for (size_t i = 0; i < 5 * OUT_VEC_MAX; i++) {
		/* Backwards, so that no two are neighbours. */
		const uint8_t *part = data + 2 * (5 * OUT_VEC_MAX - 1 - i);

		memcpy(expected + 2 * i, part, 2);
		assert_int_equal(i % 3 == 0
		                     ? conn_send_copy(out, &scene->conn, scene->worker, part, 2)
		                     : conn_send(out, &scene->conn, scene->worker, part, 2),
		                 CONN_IO_OK);
	}
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	expect(scene, expected, sizeof(expected));
	free(data);
}

/* What the kernel does not take is kept, in order with what comes behind it, and goes out later. */
static void test_partial_writes(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;
	const size_t len = 3000000;
	uint8_t *data = make_pattern(len);
	uint8_t *got = malloc(len);
	size_t have = 0;
	bool all_sent = false;

	for (size_t at = 0; at < len; at += 60000) {
		assert_int_equal(conn_send(out, &scene->conn, scene->worker, data + at, 40000),
		                 CONN_IO_OK);
		assert_int_equal(
		    conn_send_copy(out, &scene->conn, scene->worker, data + at + 40000, 20000),
		    CONN_IO_OK);
		assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	}
	assert_true(conn_unsent(&scene->conn) > 0);
	assert_int_equal(scene->conn.events, EV_READ | EV_WRITE);
	while (have < len) {
		ssize_t n = recv(scene->far, got + have, len - have, 0);

		if (n > 0)
			have += (size_t)n;
		if (!all_sent)
			all_sent = conn_write_more(&scene->conn, scene->worker) == CONN_IO_OK;
	}
	assert_true(all_sent);
	assert_memory_equal(got, data, len);
	assert_int_equal(conn_unsent(&scene->conn), 0);
	assert_null(scene->conn.out);
	assert_int_equal(scene->conn.events, EV_READ);
	free(data);
	free(got);
}

static void test_long_copy(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;
	const size_t len = 2 * OUT_SCRATCH + 1000;
	uint8_t *data = make_pattern(len);

	assert_int_equal(conn_send_copy(out, &scene->conn, scene->worker, data, 700), CONN_IO_OK);
	assert_int_equal(conn_send_copy(out, &scene->conn, scene->worker, data + 700, len - 700),
	                 CONN_IO_OK);
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	expect(scene, data, len);
	free(data);
}

static void test_peer_is_gone(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;

	(void)close(scene->far);
	scene->far = -1;
	assert_int_equal(conn_send(out, &scene->conn, scene->worker, "x", 1), CONN_IO_OK);
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_ERROR);
	assert_null(out->conn);
}

/* That one cannot be sent to is not the next one's fault. */
static void test_turning_to_another(void **state)
{
	struct scene *scene = *state;
	struct out_vec *out = &scene->worker->to_client;
	struct conn other = {.fd = -1};
	struct input input;
	int fds[2];
	char got[8];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	assert_true(conn_open(&other, scene->worker, fds[0], on_event, scene));
	(void)shutdown(fds[0], SHUT_WR);
	assert_int_equal(conn_send(out, &other, scene->worker, "lost", 4), CONN_IO_OK);
	assert_int_equal(conn_send(out, &scene->conn, scene->worker, "good", 4), CONN_IO_OK);
	assert_int_equal(conn_flush(out, scene->worker), CONN_IO_OK);
	expect(scene, "good", 4);
	assert_int_equal(conn_receive(&other, scene->worker, 0, &input), CONN_IO_EOF);
	assert_int_equal(recv(fds[1], got, sizeof(got), 0), 0);
	conn_close(&other, scene->worker);
	(void)close(fds[1]);
}

static void test_wanted_events(void **state)
{
	struct scene *scene = *state;
	struct event_base *base = scene->worker->base;

	put(scene, "x", 1);
	conn_want_read(&scene->conn, false);
	(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_int_equal(scene->seen, 0);
	conn_want_read(&scene->conn, true);
	(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_int_equal(scene->seen, EV_READ);
	conn_want(&scene->conn, EV_WRITE);
	scene->seen = 0;
	(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_int_equal(scene->seen, EV_WRITE);
}

/* ---- put off to the end of the batch ---- */

struct pair {
	struct worker *worker;
	struct conn conn[2];
	int far[2];
	const char *text;
	unsigned calls;
	unsigned errors;
	void (*act)(struct pair *pair, struct conn *conn);
};

static void on_batch_end(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	conn_send_put_off(arg);
}

static void on_pair(evutil_socket_t fd, short what, void *arg)
{
	struct pair *pair = arg;
	struct conn *conn = &pair->conn[fd == pair->conn[0].fd ? 0 : 1];
	struct input input;
	enum conn_io io = conn_receive(conn, pair->worker, 0, &input);

	(void)what;
	if (io != CONN_IO_OK) {
		pair->errors += io == CONN_IO_ERROR;
		conn_want_read(conn, false);
		return;
	}
	pair->calls++;
	assert_int_equal(
	    conn_send(&pair->worker->to_client, conn, pair->worker, pair->text, strlen(pair->text)),
	    CONN_IO_OK);
	assert_int_equal(conn_flush(&pair->worker->to_client, pair->worker), CONN_IO_OK);
	if (pair->calls == 1)
		assert_true(conn->put_off);
	if (pair->act != NULL)
		pair->act(pair, conn);
}

/* Two that have said something: the first answer is put off.  False: the kernel has no ring for us.
 */
static bool pair_open(struct pair *pair, struct scene *scene)
{
	struct worker *worker = scene->worker;
	int fds[2];

	*pair = (struct pair){.worker = worker, .text = "answer"};
	worker->ring = ring_new();
	if (worker->ring == NULL)
		return false;
	worker->batch_end = event_new(worker->base, -1, 0, on_batch_end, worker);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
		pair->far[i] = fds[1];
		assert_true(conn_open(&pair->conn[i], worker, fds[0], on_pair, pair));
		assert_int_equal(send(fds[1], "x", 1, 0), 1);
	}
	return true;
}

static void pair_turn(const struct pair *pair)
{
	(void)event_base_loop(pair->worker->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

static void pair_close(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		conn_close(&pair->conn[i], pair->worker);
		if (pair->far[i] >= 0)
			(void)close(pair->far[i]);
	}
	event_free(pair->worker->batch_end);
	ring_free(pair->worker->ring);
	pair->worker->ring = NULL;
}

static void expect_at(int fd, const char *text)
{
	char got[64] = "";

	assert_int_equal(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT), (ssize_t)strlen(text));
	assert_string_equal(got, text);
}

static void test_put_off_is_sent_at_the_end(void **state)
{
	struct pair pair;

	if (!pair_open(&pair, *state))
		return;
	pair_turn(&pair);
	assert_int_equal(pair.calls, 2);
	for (int i = 0; i < 2; i++) {
		assert_false(pair.conn[i].put_off);
		expect_at(pair.far[i], "answer");
	}
	pair_close(&pair);
}

static void act_again(struct pair *pair, struct conn *conn)
{
	assert_int_equal(conn_send(&pair->worker->to_client, conn, pair->worker, "!", 1),
	                 CONN_IO_OK);
	assert_int_equal(conn_flush(&pair->worker->to_client, pair->worker), CONN_IO_OK);
}

static void act_close(struct pair *pair, struct conn *conn)
{
	conn_close(conn, pair->worker);
}

static void act_last(struct pair *pair, struct conn *conn)
{
	conn_send_last(conn, pair->worker, "!", 1);
}

/* Whatever is done with the connection comes behind what was put off. */
static void test_put_off_keeps_the_order(void **state)
{
	static void (*const acts[])(struct pair *, struct conn *) = {act_again, act_last,
	                                                             act_close};
	struct pair pair;

	for (size_t n = 0; n < ARRAY_LEN(acts); n++) {
		if (!pair_open(&pair, *state))
			return;
		pair.act = acts[n];
		pair_turn(&pair);
		assert_int_equal(pair.calls, 2);
		for (int i = 0; i < 2; i++)
			expect_at(pair.far[i], acts[n] == act_close ? "answer" : "answer!");
		pair_close(&pair);
	}
}

static void act_leave(struct pair *pair, struct conn *conn)
{
	int i = conn == &pair->conn[0] ? 0 : 1;

	(void)close(pair->far[i]);
	pair->far[i] = -1;
}

/* The peer has gone before it could be sent: the connection's user learns of it, once. */
static void test_put_off_to_nobody(void **state)
{
	struct pair pair;

	if (!pair_open(&pair, *state))
		return;
	pair.act = act_leave;
	for (int i = 0; i < 3; i++)
		pair_turn(&pair);
	assert_int_equal(pair.errors, 2);
	assert_true(pair.conn[0].broken && pair.conn[1].broken);
	pair_close(&pair);
}

/* What the kernel does not take is sent when it does. */
static void test_put_off_is_kept(void **state)
{
	struct pair pair;
	char filler[4096] = "";
	char got[4096];
	size_t filled = 0;
	ssize_t n;

	if (!pair_open(&pair, *state))
		return;
	while ((n = send(pair.conn[0].fd, filler, sizeof(filler), MSG_DONTWAIT)) > 0)
		filled += (size_t)n;
	pair_turn(&pair);
	expect_at(pair.far[1], "answer");
	assert_int_equal(conn_unsent(&pair.conn[0]), 6);
	assert_true((pair.conn[0].events & EV_WRITE) != 0);
	while (filled > 0) {
		n = recv(pair.far[0], got, filled < sizeof(got) ? filled : sizeof(got), 0);
		assert_true(n > 0);
		filled -= (size_t)n;
	}
	assert_int_equal(conn_write_more(&pair.conn[0], pair.worker), CONN_IO_OK);
	expect_at(pair.far[0], "answer");
	pair_close(&pair);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_receive_and_keep),
	    TEST(test_pending_is_used_bit_by_bit),
	    TEST(test_long_message_is_kept_whole),
	    TEST(test_end_of_the_peer),
	    TEST(test_parts_go_out_together),
	    TEST(test_more_parts_than_the_vector_has),
	    TEST(test_partial_writes),
	    TEST(test_long_copy),
	    TEST(test_peer_is_gone),
	    TEST(test_turning_to_another),
	    TEST(test_wanted_events),
	    TEST(test_put_off_is_sent_at_the_end),
	    TEST(test_put_off_keeps_the_order),
	    TEST(test_put_off_to_nobody),
	    TEST(test_put_off_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
