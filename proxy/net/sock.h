/* SPDX-License-Identifier: PostgreSQL */
/*
 * Sockets: listening, options, names of peers.  Stateless.
 */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include "base/compiler.h"
#include "base/sbuf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Where a connection comes from or goes to. */
struct sock_name {
	char addr[64]; /* numeric address, or "unix" */
	int port;      /* 0 for a Unix socket */
};

struct sock_keepalive {
	bool on;
	int idle;     /* seconds; 0 is the system's default, as of the next two */
	int interval; /* seconds */
	int count;
	int unacknowledged; /* milliseconds: TCP_USER_TIMEOUT; 0: the system's limit */
};

/* Listening sockets that another process has opened, as its configuration said. */
#define SOCK_GIVEN_MAX 64

struct sock_given {
	int count;
	int fds[SOCK_GIVEN_MAX]; /* -1: taken */
};

/* Takes the one that listens at this address out of them; -1: there is none.  NULL is allowed. */
int sock_take_given(struct sock_given *given, const struct sockaddr *addr);

/* Closes those that nobody has taken. */
void sock_close_given(struct sock_given *given);

/* The name of a listening address is not known, or not now. */
#define SOCK_UNKNOWN_HOST (-2)

/* Listens, with SO_REUSEPORT if `share`, on every address that `host` ("*" for all, a name or a numeric address) stands for.
 * Non-blocking, close-on-exec.  Those among `given` are taken from there.  Stores at most `max`
 * sockets; returns their number, or -1 or SOCK_UNKNOWN_HOST with a text in `error`. */
int sock_listen_tcp(const char *host, int port, bool share, int backlog, struct sock_given *given,
                    int *fds, int max, struct sbuf *error) MUST_CHECK;

struct sockaddr_un;

/* The address of a Unix socket, for bind() and connect(), and its length in *len: a path, or after @ a
 * name of Linux's abstract namespace, as PostgreSQL spells it (libpq: host).  False: it is too long. */
bool sock_unix_address(const char *path, struct sockaddr_un *sun, unsigned *len) MUST_CHECK;

/* Listens on DIRECTORY/.s.PGSQL.PORT with `mode`; an old socket that nobody answers on is
 * replaced.  The path is stored in `path` (size of sun_path); "" for one of the abstract namespace,
 * where there is no file and no mode.  -1 with a text in `error`. */
int sock_listen_unix(const char *directory, int port, int backlog, unsigned mode,
                     struct sock_given *given, char path[108], struct sbuf *error) MUST_CHECK;

/* The same at any path. */
int sock_listen_path(const char *path, int backlog, unsigned mode, struct sock_given *given,
                     struct sbuf *error) MUST_CHECK;

/* Options of a new socket: no delay, keep-alive, limits.  Failures are of no consequence. */
void sock_tune(int fd, const struct sock_keepalive *keepalive);

/* The same of a listening socket, which may have had others before: what it accepts from now on
 * inherits them (tcp(7)). */
void sock_tune_again(int fd, const struct sock_keepalive *keepalive);

/* Whether it is a Unix socket. */
bool sock_is_unix(int fd);

/* The user id of the process at the other end of a Unix socket. */
bool sock_peer_uid(int fd, uid_t *uid) MUST_CHECK;

/* Its process; 0 if it came over TCP. */
pid_t sock_peer_pid(int fd);

/* Connections are accepted when their first bytes have come, or after so many seconds.  False for a
 * Unix socket. */
bool sock_defer_accept(int fd, int seconds);

/* The same of 20 bytes, to be kept. */
struct sock_address {
	uint8_t ip[16];  /* IPv4: the first four */
	uint16_t port;   /* of the network's byte order */
	uint8_t family;  /* AF_UNIX also if nothing is known */
};

/* AF_UNIX for what is neither IPv4 nor IPv6. */
void sock_address_of(const struct sockaddr *addr, struct sock_address *address);

/* The peer's address, which the kernel forgets when the connection was reset. */
void sock_peer_address(int fd, struct sock_address *address);
void sock_address_name(const struct sock_address *address, struct sock_name *name);

/* The peer's name, or (local) our own side's. */
void sock_peer(int fd, struct sock_name *name);
void sock_local(int fd, struct sock_name *name);

#endif
