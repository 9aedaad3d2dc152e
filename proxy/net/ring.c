/* SPDX-License-Identifier: PostgreSQL */
#include "net/ring.h"

#include <assert.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct ring {
	int fd;
	unsigned count;
	void *queues; /* shared with the kernel: both, and what lies in them */
	size_t queues_size;
	struct io_uring_sqe *requests;
	size_t requests_size;
	_Atomic(unsigned) *request_tail;
	_Atomic(unsigned) *answer_head;
	_Atomic(unsigned) *answer_tail;
	unsigned request_mask;
	unsigned answer_mask;
	const struct io_uring_cqe *answers;
	struct {
		void *owner;
		int fd;
		int result;
		size_t len;
	} send[RING_SENDS];
	uint8_t bytes[RING_SENDS][RING_BYTES];
};

static void *ring_at(const struct ring *ring, uint32_t offset)
{
	return (uint8_t *)ring->queues + offset;
}

static void *ring_map(const struct ring *ring, size_t size, off_t what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, what);

	return at == MAP_FAILED ? NULL : at;
}

static bool ring_open(struct ring *ring)
{
	struct io_uring_params params = {0};
	unsigned *slots;
	size_t answers_end;

	ring->fd = (int)syscall(SYS_io_uring_setup, RING_SENDS, &params);
	if (ring->fd < 0 || (params.features & IORING_FEAT_SINGLE_MMAP) == 0)
		return false;
	ring->queues_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	answers_end = params.cq_off.cqes + params.cq_entries * sizeof(*ring->answers);
	if (answers_end > ring->queues_size)
		ring->queues_size = answers_end;
	ring->requests_size = params.sq_entries * sizeof(*ring->requests);
	ring->queues = ring_map(ring, ring->queues_size, IORING_OFF_SQ_RING);
	ring->requests = ring_map(ring, ring->requests_size, IORING_OFF_SQES);
	if (ring->queues == NULL || ring->requests == NULL)
		return false;
	ring->request_tail = ring_at(ring, params.sq_off.tail);
	ring->request_mask = *(const unsigned *)ring_at(ring, params.sq_off.ring_mask);
	ring->answer_head = ring_at(ring, params.cq_off.head);
	ring->answer_tail = ring_at(ring, params.cq_off.tail);
	ring->answer_mask = *(const unsigned *)ring_at(ring, params.cq_off.ring_mask);
	ring->answers = ring_at(ring, params.cq_off.cqes);
	slots = ring_at(ring, params.sq_off.array);
	for (unsigned i = 0; i < params.sq_entries; i++)
		slots[i] = i;
	return true;
}

struct ring *ring_new(void)
{
	struct ring *ring = malloc(sizeof(*ring));

	if (ring == NULL)
		return NULL;
	ring->fd = -1;
	ring->count = 0;
	ring->queues = NULL;
	ring->requests = NULL;
	if (ring_open(ring))
		return ring;
	ring_free(ring);
	return NULL;
}

void ring_free(struct ring *ring)
{
	if (ring == NULL)
		return;
	if (ring->requests != NULL)
		(void)munmap(ring->requests, ring->requests_size);
	if (ring->queues != NULL)
		(void)munmap(ring->queues, ring->queues_size);
	if (ring->fd >= 0)
		(void)close(ring->fd);
	free(ring);
}

unsigned ring_count(const struct ring *ring)
{
	return ring->count;
}

uint8_t *ring_add(struct ring *ring, int fd, size_t len, void *owner)
{
	const unsigned at = ring->count;

	assert(at < RING_SENDS && len <= RING_BYTES);
	ring->send[at].owner = owner;
	ring->send[at].fd = fd;
	ring->send[at].len = len;
	ring->count++;
	return ring->bytes[at];
}

static int ring_send_alone(const struct ring *ring, unsigned i)
{
	ssize_t n;

	do {
		n = send(ring->send[i].fd, ring->bytes[i], ring->send[i].len,
		         MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

static void ring_take_answers(struct ring *ring, unsigned *missing)
{
	unsigned head = atomic_load_explicit(ring->answer_head, memory_order_relaxed);
	const unsigned tail = atomic_load_explicit(ring->answer_tail, memory_order_acquire);

	for (; head != tail; head++) {
		const struct io_uring_cqe *answer = &ring->answers[head & ring->answer_mask];

		ring->send[answer->user_data].result = answer->res;
		(*missing)--;
	}
	atomic_store_explicit(ring->answer_head, head, memory_order_release);
}

/* As many as the kernel takes at once, which is all but when it has no memory. */
static unsigned ring_hand_over(struct ring *ring)
{
	const unsigned tail = atomic_load_explicit(ring->request_tail, memory_order_relaxed);
	unsigned missing;
	long taken;

	for (unsigned i = 0; i < ring->count; i++) {
		struct io_uring_sqe *request = &ring->requests[(tail + i) & ring->request_mask];

		memset(request, 0, sizeof(*request));
		request->opcode = IORING_OP_SEND;
		request->fd = ring->send[i].fd;
		request->addr = (uintptr_t)ring->bytes[i];
		request->len = (uint32_t)ring->send[i].len;
		request->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
		request->user_data = i;
	}
	atomic_store_explicit(ring->request_tail, tail + ring->count, memory_order_release);
	taken = syscall(SYS_io_uring_enter, ring->fd, ring->count, 0, 0, NULL, 0);
	if (taken < 0)
		taken = 0;
	/* What it has not looked at is ours again. */
	atomic_store_explicit(ring->request_tail, tail + (unsigned)taken, memory_order_release);
	missing = (unsigned)taken;
	ring_take_answers(ring, &missing);
	while (missing > 0) {
		(void)!syscall(SYS_io_uring_enter, ring->fd, 0, missing, IORING_ENTER_GETEVENTS,
		               NULL, 0);
		ring_take_answers(ring, &missing);
	}
	return (unsigned)taken;
}

void ring_send(struct ring *ring, ring_sent sent)
{
	const unsigned count = ring->count;
	unsigned handed = count > 1 ? ring_hand_over(ring) : 0;

	for (unsigned i = handed; i < count; i++)
		ring->send[i].result = ring_send_alone(ring, i);
	ring->count = 0;
	for (unsigned i = 0; i < count; i++)
		sent(ring->send[i].owner, ring->bytes[i], ring->send[i].len, ring->send[i].result);
}
