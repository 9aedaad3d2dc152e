/* SPDX-License-Identifier: PostgreSQL */
#include "control/http.h"

#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "control/health.h"
#include "control/metrics.h"
#include "core/listen.h"
#include "core/proxy.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define HTTP_TIMEOUT_SEC 10
#define HTTP_HEADERS_MAX 16384
#define HTTP_PAGE_MAX ((size_t)64 << 20)
#define HTTP_WAITING_MAX 32
/* Connections; when there are more, the older half of them has to leave. */
#define HTTP_CONNECTIONS_MAX 64
#define HTTP_PAUSE_USEC 100000

#define TYPE_TEXT "text/plain; version=0.0.4; charset=utf-8"
#define TYPE_OPENMETRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"
#define TYPE_JSON "application/json"

/* A request whose answer is being made. */
struct waiter {
	struct list_node node; /* scrapes, or checks */
	struct proxy *proxy;
	struct evhttp_request *request; /* NULL: its client has gone */
	struct list *in;
};

/* A connection, which libevent makes and ends; it is seen by its callbacks that it has ended. */
struct connection {
	struct list_node node; /* connections */
	struct bufferevent *bev; /* a reference of ours */
};

struct listener {
	struct evhttp_bound_socket *bound;
	struct event *pause; /* brings it back when descriptors had run out */
};

static struct evhttp *server;
static struct listener listeners[LISTEN_WEB_MAX];
static int listener_count;
static struct list scrapes; /* struct waiter: for the page that is being made */
static struct list checks;
static struct list connections; /* the oldest first */

/* ---- answers ---- */

static void http_reply(struct evhttp_request *request, int code, const char *reason,
                       const char *type, const struct sbuf *body)
{
	struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
	struct evbuffer *buffer = evbuffer_new();

	if (buffer == NULL || !sbuf_ok(body) ||
	    evbuffer_add(buffer, sbuf_text(body), body->len) != 0 ||
	    evhttp_add_header(headers, "Content-Type", type) != 0 ||
	    evhttp_add_header(headers, "Cache-Control", "no-store") != 0)
		evhttp_send_error(request, HTTP_INTERNAL, "Out of memory");
	else
		evhttp_send_reply(request, code, reason, buffer);
	if (buffer != NULL)
		evbuffer_free(buffer);
}

static void http_reply_text(struct evhttp_request *request, int code, const char *reason,
                            const char *type, const char *text)
{
	struct sbuf body;

	sbuf_init(&body, 4096);
	sbuf_add_str(&body, text);
	http_reply(request, code, reason, type, &body);
	sbuf_free(&body);
}

/* The client's connection ends before its answer is there: the request goes with it. */
static void waiter_gone(struct evhttp_connection *connection, void *arg)
{
	struct waiter *waiter = arg;

	(void)connection;
	waiter->request = NULL;
}

static struct waiter *waiter_new(struct proxy *proxy, struct evhttp_request *request,
                                 struct list *in)
{
	struct waiter *waiter;

	if (scrapes.count + checks.count >= HTTP_WAITING_MAX) {
		http_reply_text(request, HTTP_SERVUNAVAIL, "Busy", "text/plain",
		                "too many requests at a time\n");
		return NULL;
	}
	waiter = mem_must_alloc(sizeof(*waiter));
	waiter->proxy = proxy;
	waiter->request = request;
	waiter->in = in;
	list_append(in, &waiter->node);
	evhttp_connection_set_closecb(evhttp_request_get_connection(request), waiter_gone, waiter);
	return waiter;
}

/* The request that is to be answered now; NULL: nobody waits for it any more.  Frees the waiter. */
static struct evhttp_request *waiter_end(struct waiter *waiter)
{
	struct evhttp_request *request = waiter->request;

	if (request != NULL)
		evhttp_connection_set_closecb(evhttp_request_get_connection(request), NULL, NULL);
	list_remove(waiter->in, &waiter->node);
	free(waiter);
	return request;
}

/* ---- /metrics ---- */

static bool wants_openmetrics(struct evhttp_request *request)
{
	const char *accept =
	    evhttp_find_header(evhttp_request_get_input_headers(request), "Accept");

	return accept != NULL && strstr(accept, "application/openmetrics-text") != NULL;
}

static void metrics_made(struct metrics *metrics, void *arg)
{
	(void)arg;
	while (scrapes.count > 0) {
		struct evhttp_request *request =
		    waiter_end(CONTAINER_OF(list_first(&scrapes), struct waiter, node));
		bool openmetrics;
		struct sbuf page;

		if (request == NULL)
			continue;
		openmetrics = wants_openmetrics(request);
		sbuf_init(&page, HTTP_PAGE_MAX);
		metrics_render(metrics, openmetrics, &page);
		http_reply(request, HTTP_OK, "OK", openmetrics ? TYPE_OPENMETRICS : TYPE_TEXT,
		           &page);
		sbuf_free(&page);
	}
	metrics_free(metrics);
}

static void http_metrics(struct evhttp_request *request, struct proxy *proxy)
{
	/* Who asks while a page is being made, gets the same one. */
	const bool begin = scrapes.count == 0;

	if (waiter_new(proxy, request, &scrapes) != NULL && begin)
		metrics_collect(proxy, metrics_made, NULL);
}

/* ---- /healthz and /readyz ---- */

static void health_known(unsigned answered, void *arg)
{
	struct waiter *waiter = arg;
	const unsigned workers = waiter->proxy->worker_count;
	struct evhttp_request *request = waiter_end(waiter);
	const bool good = answered == workers;
	struct sbuf body;

	if (request == NULL)
		return;
	sbuf_init(&body, 256);
	sbuf_printf(&body, "{\"healthy\": %s, \"workers\": %u, \"workers_answered\": %u}\n",
	            good ? "true" : "false", workers, answered);
	http_reply(request, good ? HTTP_OK : HTTP_SERVUNAVAIL, good ? "OK" : "Unhealthy", TYPE_JSON,
	           &body);
	sbuf_free(&body);
}

static void http_health(struct evhttp_request *request, struct proxy *proxy)
{
	struct waiter *waiter = waiter_new(proxy, request, &checks);

	if (waiter != NULL)
		health_ask(proxy, health_known, waiter);
}

static void http_ready(struct evhttp_request *request, struct proxy *proxy)
{
	struct sbuf why;
	struct sbuf body;
	bool ready;

	sbuf_init(&why, 1024);
	sbuf_init(&body, 2048);
	ready = health_ready(proxy, &why);
	sbuf_printf(&body, "{\"ready\": %s, \"reasons\": %s}\n", ready ? "true" : "false",
	            sbuf_text(&why));
	http_reply(request, ready ? HTTP_OK : HTTP_SERVUNAVAIL, ready ? "OK" : "Not ready",
	           TYPE_JSON, &body);
	sbuf_free(&why);
	sbuf_free(&body);
}

static void http_request(struct evhttp_request *request, void *arg)
{
	static const struct {
		const char *path;
		void (*answer)(struct evhttp_request *request, struct proxy *proxy);
	} pages[] = {
	    {"/metrics", http_metrics}, {"/healthz", http_health}, {"/readyz", http_ready}};
	const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
	const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);

	for (size_t i = 0; path != NULL && i < ARRAY_LEN(pages); i++) {
		if (strcmp(path, pages[i].path) == 0) {
			pages[i].answer(request, arg);
			return;
		}
	}
	http_reply_text(request, HTTP_NOTFOUND, "Not Found", "text/plain",
	                "/metrics, /healthz or /readyz\n");
}

/* ---- listening ---- */

static void http_again(evutil_socket_t fd, short what, void *arg)
{
	struct listener *listener = arg;

	(void)fd;
	(void)what;
	(void)evconnlistener_enable(evhttp_bound_socket_get_listener(listener->bound));
}

static void http_pause(const struct listener *listener)
{
	const struct timeval pause = {0, HTTP_PAUSE_USEC};

	if (event_add(listener->pause, &pause) == 0)
		(void)evconnlistener_disable(evhttp_bound_socket_get_listener(listener->bound));
}

/* Out of descriptors or memory: without a pause it would be called again at once, and for ever. */
static void http_accept_failed(struct evconnlistener *evlistener, void *arg)
{
	(void)arg;
	for (int i = 0; i < listener_count; i++) {
		if (evhttp_bound_socket_get_listener(listeners[i].bound) == evlistener)
			http_pause(&listeners[i]);
	}
}

/* ---- connections ---- */

static bool connection_has_ended(const struct connection *connection)
{
	bufferevent_data_cb on_read;
	bufferevent_data_cb on_write;
	bufferevent_event_cb on_event;
	void *arg;

	bufferevent_getcb(connection->bev, &on_read, &on_write, &on_event, &arg);
	return on_read == NULL && on_write == NULL && on_event == NULL;
}

static void connection_free(struct connection *connection)
{
	list_remove(&connections, &connection->node);
	(void)bufferevent_decref(connection->bev);
	free(connection);
}

/* The descriptors are there again in a moment, when libevent has seen the end of these. */
static void connections_make_room(void)
{
	struct list_node *node;
	struct list_node *tmp;
	size_t leave;

	LIST_FOREACH(&connections, node, tmp)
	{
		struct connection *connection = CONTAINER_OF(node, struct connection, node);

		if (connection_has_ended(connection))
			connection_free(connection);
	}
	if (connections.count < HTTP_CONNECTIONS_MAX)
		return;
	log_warning("metrics: %u connections: the older half of them is closed",
	            HTTP_CONNECTIONS_MAX);
	leave = HTTP_CONNECTIONS_MAX / 2;
	LIST_FOREACH(&connections, node, tmp)
	{
		struct connection *connection = CONTAINER_OF(node, struct connection, node);

		if (leave-- == 0)
			break;
		(void)shutdown(bufferevent_getfd(connection->bev), SHUT_RDWR);
	}
	for (int i = 0; i < listener_count; i++)
		http_pause(&listeners[i]);
}

/* Called by libevent when it has accepted one.  NULL, for want of memory: it makes its own. */
static struct bufferevent *http_connection(struct event_base *base, void *arg)
{
	/* Without BEV_OPT_CLOSE_ON_FREE evhttp closes the socket itself, whatever we keep. */
	struct bufferevent *bev = bufferevent_socket_new(base, -1, 0);
	struct connection *connection;

	(void)arg;
	if (bev == NULL)
		return NULL;
	connections_make_room();
	connection = mem_must_alloc(sizeof(*connection));
	connection->bev = bev;
	bufferevent_incref(bev);
	list_append(&connections, &connection->node);
	return bev;
}

/* ---- start and end ---- */

static bool http_listen(struct proxy *proxy, int fd)
{
	struct listener *listener = &listeners[listener_count];

	if (listener_count == LISTEN_WEB_MAX)
		return false;
	listener->bound = evhttp_accept_socket_with_handle(server, fd);
	if (listener->bound == NULL)
		return false;
	listener->pause = event_new(proxy->base, -1, 0, http_again, listener);
	if (listener->pause == NULL)
		return false;
	evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(listener->bound),
	                            http_accept_failed);
	listener_count++;
	return true;
}

bool http_start(struct proxy *proxy)
{
	const struct listeners *web = &proxy->web;
	bool good = true;

	list_init(&scrapes);
	list_init(&checks);
	list_init(&connections);
	if (web->count == 0)
		return true;
	server = evhttp_new(proxy->base);
	if (server == NULL) {
		log_error("metrics: out of memory");
		return false;
	}
	evhttp_set_timeout(server, HTTP_TIMEOUT_SEC);
	evhttp_set_max_headers_size(server, HTTP_HEADERS_MAX);
	evhttp_set_max_body_size(server, 0);
	evhttp_set_allowed_methods(server, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_gencb(server, http_request, proxy);
	evhttp_set_bevcb(server, http_connection, NULL);
	for (int i = 0; good && i < web->count; i++)
		good = http_listen(proxy, web->fds[i]);
	if (!good)
		log_error("metrics: out of memory");
	return good;
}

void http_leave(void)
{
	while (listener_count > 0) {
		struct listener *listener = &listeners[--listener_count];

		event_free(listener->pause);
		evhttp_del_accept_socket(server, listener->bound);
	}
}

void http_stop(void)
{
	metrics_stop();
	while (scrapes.count + checks.count > 0) {
		struct list *list = scrapes.count > 0 ? &scrapes : &checks;

		(void)waiter_end(CONTAINER_OF(list_first(list), struct waiter, node));
	}
	http_leave();
	if (server != NULL)
		evhttp_free(server);
	server = NULL;
	while (connections.count > 0)
		connection_free(CONTAINER_OF(list_first(&connections), struct connection, node));
}
