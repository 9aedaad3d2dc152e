/* SPDX-License-Identifier: PostgreSQL */
/*
 * Messages with descriptors between two processes of this machine: datagrams over a Unix socket of
 * type SOCK_SEQPACKET, so each comes as a whole or not at all, and the end of the other is seen.
 * Stateless.
 */
#ifndef NET_FDPASS_H
#define NET_FDPASS_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define FDPASS_TEXT_MAX ((size_t)8192)
#define FDPASS_FDS_MAX 128
#define FDPASS_BACKLOG 4

struct fdpass_message {
	char text[FDPASS_TEXT_MAX]; /* ends in a zero byte */
	int fds[FDPASS_FDS_MAX];    /* close-on-exec; the receiver's */
	int fd_count;
};

/* Listens at `path`, which only the owner may connect to; a socket on which nobody listens is
 * replaced.  Non-blocking.  -1 with a text in `error`. */
int fdpass_listen(const char *path, struct sbuf *error) MUST_CHECK;

/* -1 with errno. */
int fdpass_connect(const char *path) MUST_CHECK;

/* Who is at the other end; false: cannot be said. */
bool fdpass_peer(int fd, pid_t *pid, uid_t *uid) MUST_CHECK;

bool fdpass_send(int fd, const char *text, const int *fds, int count) MUST_CHECK;

enum fdpass_result { FDPASS_OK, FDPASS_AGAIN, FDPASS_END };

/* END: the other has gone, or sent what is no message. */
enum fdpass_result fdpass_receive(int fd, struct fdpass_message *message) MUST_CHECK;

void fdpass_drop(struct fdpass_message *message);

#endif
