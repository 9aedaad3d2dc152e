/* SPDX-License-Identifier: PostgreSQL */
#include "core/handover.h"

#include "base/log.h"
#include "base/mem.h"
#include "core/admin.h"
#include "core/proxy.h"
#include "core/takeover.h"
#include "net/fdpass.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The new process has to be ready within. */
#define READY_WAIT (30 * USEC_PER_SEC)

/* How often the state is looked at: of the file being written, of the clients that are left. */
#define LOOK_USEC 20000

enum handover_stage { HANDOVER_SERVING, HANDOVER_FREEZING, HANDOVER_OFFERED, HANDOVER_GONE };

struct handover {
	struct proxy *proxy;
	enum handover_stage stage;
	usec_t since;       /* of the stage */
	uint64_t frozen_at; /* the number of the write that has the state */
	int control_fd;
	char path[108];
	struct event *control;
	struct event *look;
	/* who takes over, or has */
	int successor_fd;
	pid_t successor_pid;
	int protocol; /* that both speak */
	struct event *successor;
	unsigned told; /* clients that it was told of */
	/* from whom this process has taken over */
	int former_fd;
	pid_t former_pid;
	unsigned former_clients;
	struct event *former;
	struct fdpass_message message;
};

bool handover_gone(const struct handover *handover)
{
	return handover != NULL && handover->stage == HANDOVER_GONE;
}

pid_t handover_former(const struct handover *handover, unsigned *clients)
{
	if (handover == NULL || handover->former_fd < 0)
		return 0;
	*clients = handover->former_clients;
	return handover->former_pid;
}

static void handover_set_stage(struct handover *handover, enum handover_stage stage)
{
	static const char *const names[] = {"serving", "freezing", "offered", "gone"};

	log_debug("handover: %s -> %s", names[handover->stage], names[stage]);
	handover->stage = stage;
	handover->since = clock_now();
}

/* ---- cancel requests ---- */

void handover_cancel(struct handover *handover, const struct cancel_ask *ask)
{
	const struct cancel_key *key = &ask->key;
	char text[32 + 2 * CANCEL_KEY_LONG];
	int n;

	if (handover == NULL || handover->former_fd < 0 || key->len == 0)
		return;
	n = snprintf(text, sizeof(text), "CANCEL %" PRIu32 " ", ask->pid);
	for (size_t i = 0; i < key->len; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%02x", key->bytes[i]);
	/* If its queue is full of them already, one more would not help. */
	(void)!fdpass_send(handover->former_fd, text, NULL, 0);
}

void handover_cancel_from_worker(struct proxy *proxy, const struct cancel_ask *ask)
{
	struct mail_cancel *mail;

	if (!atomic_load(&proxy->has_former))
		return;
	mail = mail_new(sizeof(*mail), MAIL_CANCEL_FORMER);
	if (mail == NULL)
		return;
	mail->ask = *ask;
	mailbox_post(&proxy->mailbox, &mail->letter);
}

/* One that the successor could not use: for a client here, or of the process before. */
static void handover_take_cancel(struct handover *handover, const char *text)
{
	struct proxy *proxy = handover->proxy;
	struct cancel_ask ask = {0};
	struct cancel_key *key = &ask.key;
	char *at;
	const unsigned long pid = strtoul(text, &at, 10);

	while (*at == ' ')
		at++;
	while (key->len < sizeof(key->bytes) && at[0] != '\0' && at[1] != '\0') {
		const char digits[3] = {at[0], at[1], '\0'};

		key->bytes[key->len++] = (uint8_t)strtoul(digits, NULL, 16);
		at += 2;
	}
	if (pid == 0 || pid > UINT32_MAX)
		return;
	ask.pid = (uint32_t)pid;
	if (!cancel_request_from_main(proxy, &ask))
		handover_cancel(handover, &ask);
}

/* ---- the process before ---- */

static void handover_former_event(evutil_socket_t fd, short what, void *arg)
{
	struct handover *handover = arg;
	struct fdpass_message *message = &handover->message;

	(void)what;
	switch (fdpass_receive(fd, message)) {
	case FDPASS_AGAIN:
		return;
	case FDPASS_OK:
		fdpass_drop(message);
		if (strncmp(message->text, "CLIENTS ", 8) == 0)
			handover->former_clients = (unsigned)strtoul(message->text + 8, NULL, 10);
		return;
	case FDPASS_END:
		log_info("the former pgshuntd (pid %d) has ended", (int)handover->former_pid);
		atomic_store(&handover->proxy->has_former, false);
		event_free(handover->former);
		handover->former = NULL;
		(void)close(fd);
		handover->former_fd = -1;
		return;
	}
}

void handover_end_former(struct handover *handover, bool immediate)
{
	if (handover != NULL && handover->former_fd >= 0)
		(void)!fdpass_send(handover->former_fd, immediate ? "END now" : "END", NULL, 0);
}

static bool handover_watch_former(struct handover *handover, struct takeover *from)
{
	if (from == NULL || from->link < 0)
		return true;
	handover->former_fd = from->link;
	handover->former_pid = from->pid;
	from->link = -1;
	(void)fcntl(handover->former_fd, F_SETFL, O_NONBLOCK);
	handover->former = event_new(handover->proxy->base, handover->former_fd,
	                             EV_READ | EV_PERSIST, handover_former_event, handover);
	atomic_store(&handover->proxy->has_former, true);
	return handover->former != NULL && event_add(handover->former, NULL) == 0;
}

/* ---- the process that takes over ---- */

static void handover_drop_successor(struct handover *handover)
{
	if (handover->successor != NULL)
		event_free(handover->successor);
	handover->successor = NULL;
	if (handover->successor_fd >= 0)
		(void)close(handover->successor_fd);
	handover->successor_fd = -1;
}

/* Nothing comes of it: this process goes on as before. */
static void handover_fail(struct handover *handover, const char *why)
{
	char text[1024];

	log_warning("handover to pid %d: %s; this process goes on", (int)handover->successor_pid,
	            why);
	(void)snprintf(text, sizeof(text), "REFUSE\n%s", why);
	(void)!fdpass_send(handover->successor_fd, text, NULL, 0);
	handover_drop_successor(handover);
	if (handover->stage == HANDOVER_FREEZING || handover->stage == HANDOVER_OFFERED)
		admin_thaw(handover->proxy->admin);
	handover_set_stage(handover, HANDOVER_SERVING);
	(void)event_del(handover->look);
}

void handover_withdraw(struct handover *handover)
{
	if (handover != NULL && handover->successor_fd >= 0)
		handover_fail(handover, "it is shutting down");
}

void handover_not_written(struct handover *handover, uint64_t number, const char *error)
{
	char why[700];

	if (handover == NULL || handover->stage != HANDOVER_FREEZING ||
	    number < handover->frozen_at)
		return;
	(void)snprintf(why, sizeof(why), "its state is not written: %s", error);
	handover_fail(handover, why);
}

static void handover_look_often(struct handover *handover)
{
	const struct timeval interval = {0, LOOK_USEC};

	(void)event_add(handover->look, &interval);
}

/* "protocol MIN MAX" of the other; 0: no version is known to both. */
static int handover_common_protocol(const char *text)
{
	const char *at = strstr(text, "\nprotocol ");
	char *end;
	long least;
	long most;

	if (at == NULL)
		return 0;
	least = strtol(at + 10, &end, 10);
	most = strtol(end, NULL, 10);
	if (most > TAKEOVER_PROTOCOL_MAX)
		most = TAKEOVER_PROTOCOL_MAX;
	return most >= least && most >= TAKEOVER_PROTOCOL_MIN ? (int)most : 0;
}

static void handover_hello(struct handover *handover, const char *text)
{
	struct proxy *proxy = handover->proxy;
	const char *version = strstr(text, "\nversion ");
	struct sbuf why;

	sbuf_init(&why, 1000);
	handover->protocol = handover_common_protocol(text);
	if (handover->protocol == 0)
		sbuf_printf(&why, "it speaks another version of the handover than pgshuntd %s",
		            PGSHUNT_VERSION);
	else if (proxy->shutting_down)
		sbuf_add_str(&why, "it is shutting down");
	else if (admin_freeze(proxy->admin, &handover->frozen_at, &why)) {
		log_info("pid %d (pgshuntd %.*s) asks to take over", (int)handover->successor_pid,
		         version == NULL ? 0 : (int)strcspn(version + 9, "\n"),
		         version == NULL ? "" : version + 9);
		handover_set_stage(handover, HANDOVER_FREEZING);
		handover_look_often(handover);
	}
	if (why.len > 0)
		handover_fail(handover, sbuf_text(&why));
	sbuf_free(&why);
}

static void handover_offer(struct handover *handover)
{
	const struct listeners *sets[] = {&handover->proxy->web, &handover->proxy->listeners};
	int fds[SOCK_GIVEN_MAX + 2];
	struct sbuf text;
	int count = 2;
	bool sent;

	sbuf_init(&text, FDPASS_TEXT_MAX - 1);
	sbuf_printf(&text, "OFFER\nprotocol %d\nversion %s\n", handover->protocol,
	            PGSHUNT_VERSION);
	fds[0] = admin_lock_fd(handover->proxy->admin);
	fds[1] = handover->control_fd;
	for (size_t s = 0; s < ARRAY_LEN(sets); s++) {
		for (int i = 0; i < sets[s]->count && count < (int)ARRAY_LEN(fds); i++) {
			fds[count++] = sets[s]->fds[i];
			if (sets[s]->inherited)
				sbuf_printf(&text, "socket inherited %s\n", sets[s]->name[i]);
			else
				sbuf_add_str(&text, "socket configured\n");
		}
	}
	sent = sbuf_ok(&text) &&
	       fdpass_send(handover->successor_fd, sbuf_text(&text), fds, count);
	sbuf_free(&text);
	if (sent)
		handover_set_stage(handover, HANDOVER_OFFERED);
	else
		handover_fail(handover, "the sockets could not be sent");
}

/* The point of no return: the other one serves from here on. */
static void handover_ready(struct handover *handover)
{
	struct proxy *proxy = handover->proxy;
	const usec_t limit = proxy->config->proxy.takeover_timeout;

	/* Before it accepts, so that no socket is accepted on twice; what comes meanwhile waits in
	 * the kernel. */
	proxy_leave(proxy);
	handover_set_stage(handover, HANDOVER_GONE);
	event_free(handover->control);
	handover->control = NULL;
	(void)close(handover->control_fd);
	handover->control_fd = -1;
	handover->path[0] = '\0';
	if (!fdpass_send(handover->successor_fd, "DONE\n", NULL, 0))
		log_error("pid %d has ended before it could serve", (int)handover->successor_pid);
	log_info("pid %d has taken over; %u clients are left here, for at most %lld s",
	         (int)handover->successor_pid, atomic_load(&proxy->client_count),
	         (long long)(limit / USEC_PER_SEC));
	handover->told = UINT32_MAX;
	handover_look_often(handover);
}

static void handover_successor_event(evutil_socket_t fd, short what, void *arg)
{
	struct handover *handover = arg;
	struct fdpass_message *message = &handover->message;
	const bool gone = handover->stage == HANDOVER_GONE;

	(void)what;
	switch (fdpass_receive(fd, message)) {
	case FDPASS_AGAIN:
		return;
	case FDPASS_END:
		if (!gone)
			handover_fail(handover, "it has ended");
		else
			handover_drop_successor(handover);
		return;
	case FDPASS_OK:
		break;
	}
	fdpass_drop(message);
	if (gone && strncmp(message->text, "CANCEL ", 7) == 0)
		handover_take_cancel(handover, message->text + 7);
	else if (gone && strncmp(message->text, "END", 3) == 0)
		proxy_shutdown(handover->proxy, strcmp(message->text, "END now") == 0);
	else if (handover->stage == HANDOVER_SERVING && strncmp(message->text, "HELLO\n", 6) == 0)
		handover_hello(handover, message->text);
	else if (handover->stage == HANDOVER_OFFERED && strncmp(message->text, "READY\n", 6) == 0)
		handover_ready(handover);
	else if (!gone)
		handover_fail(handover, "it sent something unexpected");
}

/* Somebody has connected to the control socket. */
static void handover_accept(evutil_socket_t listener, short what, void *arg)
{
	struct handover *handover = arg;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	pid_t pid;
	uid_t uid;

	(void)what;
	if (fd < 0)
		return;
	if (!fdpass_peer(fd, &pid, &uid) || (uid != geteuid() && uid != 0)) {
		log_warning("handover: refused to another user");
		(void)!fdpass_send(fd, "REFUSE\nyou are another user", NULL, 0);
		(void)close(fd);
		return;
	}
	if (handover->successor_fd >= 0) {
		(void)!fdpass_send(fd, "REFUSE\nanother process is taking over", NULL, 0);
		(void)close(fd);
		return;
	}
	handover->successor_fd = fd;
	handover->successor_pid = pid;
	handover->successor = event_new(handover->proxy->base, fd, EV_READ | EV_PERSIST,
	                                handover_successor_event, handover);
	handover->since = clock_now();
	if (handover->successor == NULL || event_add(handover->successor, NULL) != 0)
		handover_drop_successor(handover);
	else
		handover_look_often(handover); /* it may say nothing, and others would wait */
}

/* ---- after that ---- */

static void handover_look_gone(struct handover *handover)
{
	struct proxy *proxy = handover->proxy;
	const usec_t limit = proxy->config->proxy.takeover_timeout;
	const unsigned clients = atomic_load(&proxy->client_count) + handover->former_clients;
	char text[32];

	if (handover->successor_fd >= 0 && clients != handover->told) {
		(void)snprintf(text, sizeof(text), "CLIENTS %u", clients);
		if (fdpass_send(handover->successor_fd, text, NULL, 0))
			handover->told = clients;
	}
	if (proxy->shutting_down)
		return;
	/* Its cancel requests come through here. */
	if (atomic_load(&proxy->client_count) == 0 && handover->former_fd < 0)
		proxy_shutdown(proxy, false);
	else if (limit > 0 && clock_now() - handover->since > limit)
		proxy_shutdown(proxy, false);
}

static void handover_look(evutil_socket_t fd, short what, void *arg)
{
	struct handover *handover = arg;

	(void)fd;
	(void)what;
	if (handover->stage == HANDOVER_GONE)
		handover_look_gone(handover);
	else if (clock_now() - handover->since > READY_WAIT)
		handover_fail(handover, "it did not become ready in time");
	else if (handover->stage == HANDOVER_FREEZING &&
	         admin_written(handover->proxy->admin, handover->frozen_at))
		handover_offer(handover);
}

/* ---- life ---- */

static bool handover_listen(struct handover *handover, struct takeover *from)
{
	const struct config_proxy *conf = &handover->proxy->config->proxy;
	struct sbuf error;

	takeover_path(conf, handover->path);
	if (from != NULL && from->control_fd >= 0) {
		handover->control_fd = from->control_fd;
		from->control_fd = -1;
		/* So that those who connect are told of this process, not the one before. */
		(void)listen(handover->control_fd, FDPASS_BACKLOG);
	} else if (handover->path[0] != '\0') {
		sbuf_init(&error, 512);
		handover->control_fd = fdpass_listen(handover->path, &error);
		if (handover->control_fd < 0) {
			log_warning("nobody will be able to take over: %s", sbuf_text(&error));
			handover->path[0] = '\0';
		}
		sbuf_free(&error);
	}
	if (handover->control_fd < 0)
		return true;
	handover->control = event_new(handover->proxy->base, handover->control_fd,
	                              EV_READ | EV_PERSIST, handover_accept, handover);
	return handover->control != NULL && event_add(handover->control, NULL) == 0;
}

struct handover *handover_start(struct proxy *proxy, struct takeover *from)
{
	struct handover *handover = mem_must_alloc(sizeof(*handover));

	handover->proxy = proxy;
	handover->control_fd = -1;
	handover->successor_fd = -1;
	handover->former_fd = -1;
	handover->look = event_new(proxy->base, -1, EV_PERSIST, handover_look, handover);
	if (handover->look != NULL && handover_watch_former(handover, from) &&
	    handover_listen(handover, from))
		return handover;
	log_error("nobody will be able to take over: out of memory");
	handover_free(handover);
	return NULL;
}

void handover_free(struct handover *handover)
{
	struct event *events[4];
	int fds[3];

	if (handover == NULL)
		return;
	if (handover->stage == HANDOVER_OFFERED || handover->stage == HANDOVER_FREEZING)
		(void)!fdpass_send(handover->successor_fd, "REFUSE\nit has ended", NULL, 0);
	if (handover->path[0] != '\0')
		(void)unlink(handover->path);
	memcpy(events,
	       (struct event *[]){handover->control, handover->look, handover->successor,
	                          handover->former},
	       sizeof(events));
	memcpy(fds, (int[]){handover->control_fd, handover->successor_fd, handover->former_fd},
	       sizeof(fds));
	for (size_t i = 0; i < ARRAY_LEN(events); i++) {
		if (events[i] != NULL)
			event_free(events[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		if (fds[i] >= 0)
			(void)close(fds[i]);
	}
	free(handover);
}
