/*
 * http.c - OpenAI's API, /health and /metrics over HTTP
 *
 * One evhttp server on two sockets: loopback TCP and a Unix socket.  Who asks is found anew for
 * every request: the peer's uid from the kernel, the grant from key and uid.
 */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/front.h"
#include "daemon/generation.h"
#include "daemon/metrics.h"
#include "daemon/openai.h"
#include "daemon/peer.h"
#include "daemon/reply.h"
#include "daemon/stream.h"

#define HEADERS_MAX     65536
#define ACCEPT_PAUSE_US 100000 /* when descriptors have run out */

struct http {
    struct front *f;
    struct evhttp *server;
    struct evhttp_bound_socket *bound[2];
    struct event *resume; /* accepts again after a pause */
    struct metrics *metrics;
    struct generations all;
};

struct call { /* a request while it is being routed */
    struct http *h;
    struct evhttp_request *req;
    char id[REQUEST_ID_MAX];
    const char *rest; /* of the path, behind the route's */
};

/* --- pieces -------------------------------------------------------------------------------------
 */

static int make_id(char id[REQUEST_ID_MAX], const char *prefix, struct openai_error *e)
{
    uint64_t r[2];

    if (getrandom(r, sizeof r, 0) != sizeof r)
        return openai_fail(e, 500, "server_error", NULL, "no random request id");
    snprintf(id, REQUEST_ID_MAX, "%s-%016" PRIx64 "%016" PRIx64, prefix, r[0], r[1]);
    return 0;
}

static void answer_error(struct call *c, const struct openai_error *e)
{
    metrics_answer(c->h->metrics, e->http);
    reply_error(c->req, c->id, e);
}

static void answer(struct call *c, int http, json_t *body)
{
    metrics_answer(c->h->metrics, http);
    reply_json(c->req, c->id, http, body);
}

/* The key in "Authorization: Bearer KEY"; *key is NULL if there is no such header. */
static int read_key(struct evhttp_request *req, const char **key, struct error *err)
{
    const char *v = evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");

    *key = NULL;
    if (!v)
        return 0;
    if (strncasecmp(v, "Bearer ", 7) != 0)
        return error_set(err, STATUS_UNAUTHENTICATED,
                         "the Authorization header must be \"Bearer KEY\", with the step's "
                         "OPENAI_API_KEY as the key");
    v += 7;
    *key = v + strspn(v, " ");
    return 0;
}

static struct grant *authenticate(struct call *c, struct openai_error *e)
{
    struct evhttp_connection *connection = evhttp_request_get_connection(c->req);
    int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(connection));
    struct error err = {0};
    struct grant *g = NULL;
    const char *key;
    uid_t uid;

    if (peer_uid(fd, &uid, &err) == 0 && read_key(c->req, &key, &err) == 0)
        g = leases_authenticate(c->h->f->leases, key, uid, &err);
    if (!g)
        openai_refuse(e, &err);
    return g;
}

/* --- /v1/models ---------------------------------------------------------------------------------
 */

static json_t *model_json(const struct http *h, uint32_t model)
{
    return openai_model_json(h->f->config->models[model].name, h->f->started_us / 1000000,
                             front_context(h->f, model));
}

static void list_models(struct call *c)
{
    struct openai_error e;
    struct grant *g = authenticate(c, &e);

    if (!g) {
        answer_error(c, &e);
        return;
    }
    json_t *data = json_array();
    for (uint32_t i = 0; i < g->model_count; i++)
        json_array_append_new(data, model_json(c->h, g->models[i]));
    answer(c, 200, json_pack("{ss so}", "object", "list", "data", data));
}

static void show_model(struct call *c)
{
    struct openai_error e;
    struct error err = {0};
    uint32_t model;
    struct grant *g = authenticate(c, &e);

    if (!g) {
        answer_error(c, &e);
        return;
    }
    char *name = evhttp_uridecode(c->rest, 0, NULL);
    int found = name && name[0] && leases_model(c->h->f->leases, g, name, &model, &err) == 0;
    if (!name || !name[0])
        error_set(&err, STATUS_NOT_FOUND, "the path names no model");
    free(name);
    if (!found) {
        openai_refuse(&e, &err);
        answer_error(c, &e);
    } else if (!c->h->f->models[model].tokenizer) {
        openai_fail(&e, 503, "server_error", "model_unavailable", "%s cannot be used: %s",
                    c->h->f->config->models[model].name, c->h->f->models[model].text);
        answer_error(c, &e);
    } else {
        answer(c, 200, model_json(c->h, model));
    }
}

/* --- completions --------------------------------------------------------------------------------
 */

static int start_completion(struct call *c, enum openai_kind kind, struct openai_error *e)
{
    struct openai_request r;
    struct error err = {0};
    uint32_t model;
    struct http *h = c->h;
    struct evbuffer *body = evhttp_request_get_input_buffer(c->req);
    size_t len = evbuffer_get_length(body);

    if (make_id(c->id, kind == OPENAI_CHAT ? "chatcmpl" : "cmpl", e))
        return -1;
    struct grant *g = authenticate(c, e);
    if (!g)
        return -1;
    const char *text = len ? (const char *)evbuffer_pullup(body, -1) : "";
    if (!text)
        return openai_fail(e, 500, "server_error", NULL, "out of memory");
    if (openai_parse(kind, text, len, h->f->config->models[g->models[0]].name, &r, e))
        return -1;
    int rv = -1;
    if (leases_model(h->f->leases, g, r.model, &model, &err))
        openai_refuse(e, &err);
    else
        rv = generation_start(&h->all, c->req, c->id, g, model, &r, e);
    openai_request_fini(&r);
    return rv;
}

static void complete(struct call *c, enum openai_kind kind)
{
    struct openai_error e;

    if (start_completion(c, kind, &e) == 0)
        return;
    log_debug("%s: %d", c->id, e.http);
    answer_error(c, &e);
}

static void complete_chat(struct call *c)
{
    complete(c, OPENAI_CHAT);
}

static void complete_text(struct call *c)
{
    complete(c, OPENAI_COMPLETION);
}

/* --- /health and /metrics -----------------------------------------------------------------------
 */

static void show_health(struct call *c)
{
    struct policy_snapshot s;
    struct error err = {0};
    struct openai_error e;
    int up = 0;

    if (policy_snapshot(c->h->f->policy, &s, &err)) {
        openai_refuse(&e, &err);
        answer_error(c, &e);
        return;
    }
    json_t *instances = json_object();
    for (uint32_t i = 0; i < s.instances; i++) {
        const struct policy_instance_status *in = &s.instance[i];
        up |= metrics_instance_up(in);
        json_object_set_new(instances, c->h->f->config->instances[in->index].name,
                            json_string(in->state));
    }
    policy_snapshot_free(&s);
    answer(c, up ? 200 : 503,
           json_pack("{ss so}", "status", up ? "ok" : "unavailable", "instances", instances));
}

struct tenant_list {
    struct metrics_tenant *tenants;
    size_t count;
    int64_t today;
};

static void add_tenant(const struct tenant *t, uint32_t requests, void *arg)
{
    struct tenant_list *l = arg;
    struct metrics_tenant *more = reallocarray(l->tenants, l->count + 1, sizeof *more);

    if (!more)
        return;
    l->tenants = more;
    more[l->count++] = (struct metrics_tenant){
        .account = t->account,
        .number = t->number,
        .requests = requests,
        .tokens_today = t->day == l->today ? t->tokens : 0,
        .tokens_per_day = t->tokens_per_day,
    };
}

static int write_metrics(struct http *h, struct evbuffer *page, struct error *err)
{
    struct metrics_gauge *gauges = calloc(h->f->config->model_count + 1, sizeof *gauges);
    struct tenant_list list = {.today = leases_today(NULL)};
    struct policy_snapshot s = {0};
    int rv = gauges ? policy_snapshot(h->f->policy, &s, err)
                    : error_set(err, STATUS_NOMEM, "no memory for the page");

    if (rv == 0) {
        generations_count(&h->all, gauges);
        leases_each_tenant(h->f->leases, add_tenant, &list);
        struct metrics_now now = {gauges, list.tenants, list.count, &s, clock_monotonic_us()};
        rv = metrics_write(h->metrics, &now, page, err);
        policy_snapshot_free(&s);
    }
    free(list.tenants);
    free(gauges);
    return rv;
}

static void show_metrics(struct call *c)
{
    struct http *h = c->h;
    struct evbuffer *page = evbuffer_new();
    struct error err = {0};
    struct openai_error e;

    int rv = page ? write_metrics(h, page, &err)
                  : error_set(&err, STATUS_NOMEM, "no memory for the page");
    if (rv == 0) {
        reply_headers(c->req, c->id, "text/plain; version=0.0.4; charset=utf-8");
        metrics_answer(h->metrics, 200);
        evhttp_send_reply(c->req, 200, "OK", page);
    } else {
        openai_refuse(&e, &err);
        answer_error(c, &e);
    }
    if (page)
        evbuffer_free(page);
}

/* --- routing ------------------------------------------------------------------------------------
 */

static const struct route {
    const char *path;
    int prefix; /* something follows */
    int post;   /* else GET and HEAD */
    void (*serve)(struct call *);
} routes[] = {
    {"/health", 0, 0, show_health},
    {"/metrics", 0, 0, show_metrics},
    {"/v1/chat/completions", 0, 1, complete_chat},
    {"/v1/completions", 0, 1, complete_text},
    {"/v1/models", 0, 0, list_models},
    {"/v1/models/", 1, 0, show_model},
};

static const struct route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        size_t n = strlen(routes[i].path);
        if (strncmp(path, routes[i].path, n) == 0 && (path[n] ? routes[i].prefix : 1))
            return &routes[i];
    }
    return NULL;
}

/* What the API has and we do not. */
static const char *const unserved[] = {
    "/v1/audio",  "/v1/batches",     "/v1/embeddings", "/v1/files",     "/v1/fine_tuning",
    "/v1/images", "/v1/moderations", "/v1/rerank",     "/v1/responses", "/v1/score",
};

static const char *find_unserved(const char *path)
{
    for (size_t i = 0; path && i < sizeof unserved / sizeof *unserved; i++) {
        size_t n = strlen(unserved[i]);
        if (strncmp(path, unserved[i], n) == 0 && (path[n] == '\0' || path[n] == '/'))
            return unserved[i];
    }
    return NULL;
}

static void refuse_route(struct call *c, const struct route *route, const char *path)
{
    const char *unserved_path = find_unserved(path);
    struct openai_error e;

    if (route) {
        const char *allowed = route->post ? "POST" : "GET, HEAD";
        evhttp_add_header(evhttp_request_get_output_headers(c->req), "Allow", allowed);
        openai_fail(&e, 405, "invalid_request_error", "method_not_allowed", "%s takes %s alone",
                    route->path, allowed);
    } else if (unserved_path) {
        openai_fail(&e, 404, "invalid_request_error", "unknown_url",
                    "%s is not supported by this server; there are /v1/chat/completions, "
                    "/v1/completions and /v1/models",
                    unserved_path);
    } else {
        openai_fail(&e, 404, "invalid_request_error", "unknown_url",
                    "there is no such path; there are /v1/chat/completions, /v1/completions, "
                    "/v1/models, /health and /metrics");
    }
    answer_error(c, &e);
}

/* A loopback socket sends small events at once, instead of holding them for the last one's
 * acknowledgement. */
static void send_at_once(struct evhttp_request *req)
{
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(c)), on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* not for a Unix socket: no matter */
}

static void on_request(struct evhttp_request *req, void *arg)
{
    struct call c = {.h = arg, .req = req, .id = "req"};
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
    enum evhttp_cmd_type method = evhttp_request_get_command(req);
    struct openai_error e;

    send_at_once(req);
    if (make_id(c.id, "req", &e)) {
        answer_error(&c, &e);
        return;
    }
    if (c.h->all.stopping) {
        openai_fail(&e, 503, "server_error", "shutting_down", "the daemon is being stopped");
        e.retry_after = 5;
        answer_error(&c, &e);
        return;
    }
    const struct route *route = path ? find_route(path) : NULL;
    int fits = route && (route->post ? method == EVHTTP_REQ_POST
                                     : method == EVHTTP_REQ_GET || method == EVHTTP_REQ_HEAD);
    if (!fits) {
        refuse_route(&c, route, path);
        return;
    }
    c.rest = path + strlen(route->path);
    route->serve(&c);
}

/* --- listening ----------------------------------------------------------------------------------
 */

static void set_accepting(struct http *h, int on)
{
    for (int i = 0; i < 2; i++) {
        if (!h->bound[i])
            continue;
        struct evconnlistener *l = evhttp_bound_socket_get_listener(h->bound[i]);
        if (on)
            evconnlistener_enable(l);
        else
            evconnlistener_disable(l);
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    set_accepting(arg, 1);
}

/* Out of descriptors: the sockets stay readable, so accepting on would spin. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    struct http *h = arg;
    const struct timeval pause = {.tv_usec = ACCEPT_PAUSE_US};

    (void)l;
    log_warn("accepting HTTP connections: %s",
             evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    set_accepting(h, 0);
    event_add(h->resume, &pause);
}

static int listen_on(struct http *h, int tcp_fd, int unix_fd, struct error *err)
{
    const int fds[2] = {tcp_fd, unix_fd};

    h->server = evhttp_new(h->f->base);
    h->resume = event_new(h->f->base, -1, 0, on_resume, h);
    if (!h->server || !h->resume)
        return error_set(err, STATUS_NOMEM, "no memory for the HTTP server");
    evhttp_set_max_headers_size(h->server, HEADERS_MAX);
    /* Somewhat more than is taken, so that most bodies that are too long get our own 413. */
    evhttp_set_max_body_size(h->server, 2 * (ev_ssize_t)OPENAI_BODY_MAX);
    evhttp_set_timeout(h->server, STREAM_IDLE_S);
    evhttp_set_allowed_methods(h->server, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                              EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                              EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
    evhttp_set_gencb(h->server, on_request, h);
    for (int i = 0; i < 2; i++) {
        h->bound[i] = evhttp_accept_socket_with_handle(h->server, fds[i]);
        if (!h->bound[i])
            return error_set(err, STATUS_INTERNAL, "listening for HTTP failed");
        struct evconnlistener *l = evhttp_bound_socket_get_listener(h->bound[i]);
        evconnlistener_set_error_cb(l, on_accept_error);
    }
    return 0;
}

/* --- public -------------------------------------------------------------------------------------
 */

struct http *http_create(struct front *f, int tcp_fd, int unix_fd, struct error *err)
{
    struct http *h = calloc(1, sizeof *h);

    if (!h) {
        error_set(err, STATUS_NOMEM, "no memory for the HTTP server");
        return NULL;
    }
    h->f = f;
    h->metrics = metrics_create(f->config, err);
    if (!h->metrics || generations_init(&h->all, f, h->metrics, err) ||
        listen_on(h, tcp_fd, unix_fd, err)) {
        http_destroy(h);
        return NULL;
    }
    return h;
}

void http_destroy(struct http *h)
{
    if (!h)
        return;
    generations_fini(&h->all); /* before their connections */
    if (h->resume)
        event_free(h->resume);
    if (h->server)
        evhttp_free(h->server);
    metrics_destroy(h->metrics);
    free(h);
}

void http_policy_event(struct http *h, const struct policy_event *ev)
{
    generations_policy_event(&h->all, ev);
}

void http_counts(const struct http *h, uint32_t *running, uint32_t *held)
{
    *running = h->all.count - h->all.held - h->all.asking;
    *held = h->all.held + h->all.asking;
}

void http_lease_identified(struct http *h, const struct lease *lease)
{
    generations_identified(&h->all, lease);
}

void http_each_waiting(const struct http *h, void (*each)(const struct http_waiting *, void *),
                       void *arg)
{
    generations_each_waiting(&h->all, each, arg);
}

void http_grant_ended(struct http *h, const struct grant *g)
{
    generations_grant_ended(&h->all, g);
}

void http_stop(struct http *h, void (*idle)(void *arg), void *arg)
{
    for (int i = 0; i < 2; i++) {
        if (h->bound[i])
            evhttp_del_accept_socket(h->server, h->bound[i]);
        h->bound[i] = NULL;
    }
    event_del(h->resume);
    generations_stop(&h->all, idle, arg);
}
