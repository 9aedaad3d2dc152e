/* SPDX-License-Identifier: PostgreSQL */
/*
 * Small sends to many sockets in one system call (io_uring), where the kernel lets us: what is sent
 * is copied, and handed over by ring_send().  Nothing is ever under way in between: a socket that
 * takes less, or nothing, says so at once, as send() with MSG_DONTWAIT does.
 *
 * One thread.
 */
#ifndef NET_RING_H
#define NET_RING_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enough of them that the system call hardly counts, and few, so that nobody waits long for his. */
#define RING_SENDS 16u
#define RING_BYTES ((size_t)2048)

struct ring;

/* NULL: the kernel has none for us, or no memory. */
struct ring *ring_new(void) MUST_CHECK;
void ring_free(struct ring *ring);

unsigned ring_count(const struct ring *ring);

/* Where the `len` bytes, at most RING_BYTES, are to be written.  Fewer than RING_SENDS are waiting.
 */
uint8_t *ring_add(struct ring *ring, int fd, size_t len, void *owner) MUST_CHECK;

/* Sends what waits, then tells for each what the kernel has taken of it, or -errno. */
typedef void (*ring_sent)(void *owner, const uint8_t *data, size_t len, int result);
void ring_send(struct ring *ring, ring_sent sent);

#endif
