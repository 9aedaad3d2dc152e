/* SPDX-License-Identifier: PostgreSQL */
#include "control/health.h"

#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/notify.h"
#include "core/admin.h"
#include "core/proxy.h"

#include <stdlib.h>

/* How often the status line is told when there is no watchdog. */
#define STATUS_USEC (10 * USEC_PER_SEC)

struct question {
	struct list_node node; /* questions */
	struct admin_request *request;
	health_done_fn *done;
	void *arg;
};

static struct list questions;
static struct event *timer;
static bool asking; /* the watchdog's question is under way */

static void add_reason(struct sbuf *why, const char *reason)
{
	if (why != NULL)
		sbuf_printf(why, "%s\"%s\"", why->len > 1 ? ", " : "", reason);
}

bool health_ready(const struct proxy *proxy, struct sbuf *why)
{
	const bool suspended = admin_is_suspended(proxy->admin);

	if (why != NULL)
		sbuf_add_char(why, '[');
	if (!proxy->listening)
		add_reason(why, "it does not listen yet");
	if (proxy->shutting_down)
		add_reason(why, "it is shutting down");
	if (suspended)
		add_reason(why, "it is suspended");
	if (why != NULL)
		sbuf_add_char(why, ']');
	return proxy->listening && !proxy->shutting_down && !suspended;
}

static void health_answered(void *arg, struct admin_answer *answer)
{
	struct question *question = arg;
	const unsigned answered =
	    answer->error == NULL && answer->rows != NULL ? (unsigned)answer->rows->rows : 0;

	list_remove(&questions, &question->node);
	question->done(answered, question->arg);
	free(question);
}

void health_ask(struct proxy *proxy, health_done_fn *done, void *arg)
{
	struct question *question = mem_must_alloc(sizeof(*question));

	if (questions.head.next == NULL)
		list_init(&questions);
	question->done = done;
	question->arg = arg;
	list_append(&questions, &question->node);
	question->request = admin_view(proxy->admin, VIEW_ALIVE, NULL, false, health_answered, question);
}

/* ---- systemd ---- */

static void health_tell(unsigned answered, void *arg)
{
	const struct proxy *proxy = arg;

	asking = false;
	if (answered < proxy->worker_count) {
		log_error("%u of %u workers do not answer", proxy->worker_count - answered,
		          proxy->worker_count);
		notify_send("STATUS=%u of %u workers do not answer.\n",
		            proxy->worker_count - answered, proxy->worker_count);
		return;
	}
	if (notify_watchdog() > 0)
		notify_send("WATCHDOG=1\n");
	if (!proxy->shutting_down)
		notify_send("STATUS=%u workers, %u client and %u server connections.\n",
		            proxy->worker_count, atomic_load(&proxy->client_count),
		            atomic_load(&proxy->server_count));
}

static void health_tick(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	if (asking)
		return;
	asking = true;
	health_ask(arg, health_tell, arg);
}

void health_start(struct proxy *proxy)
{
	/* Twice in its time would be enough; an answer may take a while. */
	const usec_t interval = notify_watchdog() > 0 ? notify_watchdog() / 3 : STATUS_USEC;
	const struct timeval tv = {(time_t)(interval / USEC_PER_SEC),
	                           (suseconds_t)(interval % USEC_PER_SEC)};

	if (!notify_wanted())
		return;
	timer = event_new(proxy->base, -1, EV_PERSIST, health_tick, proxy);
	if (timer == NULL || event_add(timer, &tv) != 0)
		log_error("the watchdog is not kept: out of memory");
}

void health_stop(void)
{
	if (timer != NULL)
		event_free(timer);
	timer = NULL;
	while (questions.head.next != NULL && questions.count > 0) {
		struct question *question =
		    CONTAINER_OF(list_first(&questions), struct question, node);

		admin_request_abandon(question->request);
		list_remove(&questions, &question->node);
		free(question);
	}
}
