/* engine.c - orders in, the loop */
#include "engine/engine.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "engine/room.h"
#include "engine/turn.h"

#define BATCH_DEFAULT 32u
#define THREADS_MAX   1024u
#define PROGRESS_MS   200 /* between looks at what is behind the steps */

void engine_send(struct engine *e, const void *event, size_t len)
{
    if (!e->gone && channel_send(&e->channel, event, len) != 0)
        e->gone = 1;
}

static void send_fault(struct engine *e, uint64_t seq, const char *text)
{
    struct event_seq_fault event = {.kind = EVENT_SEQ_FAULT, .seq = seq};

    snprintf(event.text, sizeof(event.text), "%.*s", (int)sizeof(event.text) - 1, text);
    engine_send(e, &event, sizeof(event));
}

void engine_close(struct engine *e, struct sequence *s)
{
    flight_forget(&e->flight, s);
    sequence_close(&e->sequences, s);
}

void engine_fault(struct engine *e, struct sequence *s, const char *text)
{
    send_fault(e, s->id, text);
    engine_close(e, s);
}

static void send_residency(void *context, const struct event_residency *ev)
{
    engine_send(context, ev, sizeof(*ev));
}

static void send_master(void *context, const struct event_master *ev)
{
    engine_send(context, ev, sizeof(*ev));
}

/* It is there already, or cannot be. */
static void answer_load(struct engine *e, const struct model *m, int resident)
{
    const struct event_residency ev = {
        .kind = EVENT_RESIDENCY, .model = m->id, .resident = (uint32_t)resident};

    send_residency(e, &ev);
}

/* Room that grew for this model has moved for all of them. */
static int record_graphs(struct engine *e, struct model *m, struct error *err)
{
    for (uint32_t i = 0; i < e->residency.count; i++)
        if (step_record(&e->flight, e->residency.models[i], &e->workspace, err) != 0)
            return -1;
    return step_record(&e->flight, m, &e->workspace, err);
}

/* Everything that a model needs besides its weights, so that no switch allocates. */
static int fit_model(struct engine *e, const struct model *m, struct error *err)
{
    uint64_t handles = m->handle_count + model_kv_handles(m, 1, 1);

    if (handles > arena_handles(e->arena))
        return error_set(err, STATUS_EXHAUSTED,
                         "model %s needs %" PRIu64 " MiB for its weights and a first page; Memory= "
                         "of instance %s is %" PRIu64 " MiB: raise it",
                         m->name, arena_bytes(e->arena, handles) >> 20, e->instance,
                         arena_bytes(e->arena, arena_handles(e->arena)) >> 20);
    if (engine_check_model(e, m, err) != 0)
        return -1;
    if (workspace_fit(&e->workspace, m, err) != 0 || flight_fit(&e->flight, m, err) != 0 ||
        (e->group != NULL && group_fit(e->group, m, e->flight.plan_bytes, err) != 0) ||
        sampler_fit(e->sampler, m->arch.vocabulary, err) != 0 || model_tune(m, err) != 0)
        return -1;
    return 0;
}

static struct model *add_model(struct engine *e, const struct order_model *o,
                               const struct channel_files *files, struct error *err)
{
    struct residency *r = &e->residency;
    struct model *m;

    if (residency_find(r, o->model) != NULL) {
        error_set(err, STATUS_EXISTS, "model %s: number %" PRIu32 " is taken", o->name, o->model);
        return NULL;
    }
    if (r->count == RESIDENCY_MODELS_MAX) {
        error_set(err, STATUS_EXHAUSTED, "model %s: there are %u models already", o->name,
                  RESIDENCY_MODELS_MAX);
        return NULL;
    }
    if (files->count == 0) {
        error_set(err, STATUS_INVALID, "model %s came without its files", o->name);
        return NULL;
    }
    if (files->count != o->files) {
        error_set(err, STATUS_INVALID, "model %s came with %" PRIu32 " files instead of %" PRIu32,
                  o->name, files->count, o->files);
        return NULL;
    }
    m = model_open(files, o, e->arena, ARENA_WEIGHTS + r->count, err);
    if (m == NULL)
        return NULL;
    m->by_lane = r->by_lane;
    turn_drain(e);
    if (residency_arrive_all(r, err) != 0 || /* what is recorded waits for no load */
        fit_model(e, m, err) != 0 || record_graphs(e, m, err) != 0) {
        model_close(m);
        return NULL;
    }
    r->models[r->count++] = m;
    return m;
}

/* The longest sequence that fits beside the weights when it is alone: what may be asked for. */
static uint32_t longest_context(const struct engine *e, const struct model *m)
{
    uint64_t pages = ((uint64_t)m->max_context + m->kv.page_tokens - 1) / m->kv.page_tokens;

    while (pages > 1 &&
           m->handle_count + model_kv_handles(m, pages * m->kv.page_tokens, e->rows_max) >
               arena_handles(e->arena))
        pages--;
    pages *= m->kv.page_tokens;
    return pages < m->max_context ? (uint32_t)pages : m->max_context;
}

static void order_model(struct engine *e, const struct order_model *o,
                        const struct channel_files *files)
{
    struct event_model event = {.kind = EVENT_MODEL, .model = o->model};
    struct error err = {0};
    const struct model *m = add_model(e, o, files, &err);

    if (m == NULL) {
        snprintf(event.text, sizeof(event.text), "%.*s", (int)sizeof(event.text) - 1, err.text);
    } else {
        event.ok = 1;
        event.max_context = longest_context(e, m);
        event.weight_bytes = arena_bytes(e->arena, m->handle_count);
        event.kv_token_bytes = model_kv_token_bytes(m) * m->part_count;
        event.page_tokens = m->kv.page_tokens;
        event.vocabulary = m->arch.vocabulary;
        event.master_bytes = m->part_count > 1 ? 0 : m->range_bytes;
        event.layout = m->layout;
    }
    engine_send(e, &event, sizeof(event));
}

/* A load that cannot be done is answered as a departure of nothing. */
static void order_load(struct engine *e, const struct order_ref *o)
{
    struct model *m = residency_find(&e->residency, o->model);
    const struct model *running = NULL;
    struct error err = {0};
    uint64_t bytes, us;

    if (m == NULL) {
        log_warn("load of unknown model %" PRIu32, o->model);
        return;
    }
    if (e->turn_count > 0)
        running = residency_find(&e->residency, e->turns[0].order.model);
    if (m->resident) {
        answer_load(e, m, 1);
        return;
    }
    if (residency_load(&e->residency, m, running, &bytes, &us, &err) != 0) {
        log_warn("instance %s: %s", e->instance, err.text);
        answer_load(e, m, 0);
    }
}

static void order_unload(struct engine *e, const struct order_ref *o)
{
    struct model *m = residency_find(&e->residency, o->model);

    if (m == NULL)
        log_warn("unload of unknown model %" PRIu32, o->model);
    else if (m->resident || (e->residency.behind.m == m && e->residency.behind.to_memory))
        residency_unload(&e->residency, m);
    else
        answer_load(e, m, 0);
}

/* Take what the daemon lends; a master copy that is no good is told and done without. */
static void order_master(struct engine *e, const struct order_master *o,
                         const struct channel_files *files)
{
    struct event_master event = {.kind = EVENT_MASTER, .model = o->model};
    struct model *m = residency_find(&e->residency, o->model);
    struct error err = {0};

    if (m == NULL) {
        log_warn("master copy of the unknown model %" PRIu32, o->model);
        return;
    }
    if (residency_lend(&e->residency, m, o, files->count > 0 ? files->fds[0] : -1, &err) == 0)
        return;
    event.state = o->use == MASTER_READ ? MASTER_CORRUPT : MASTER_FAILED;
    snprintf(event.text, sizeof(event.text), "%.*s", (int)sizeof(event.text) - 1, err.text);
    engine_send(e, &event, sizeof(event));
}

static void order_prefetch(struct engine *e, const struct order_prefetch *o)
{
    struct model *m = residency_find(&e->residency, o->model);
    const struct model *running = NULL;
    const struct step_choice any = {.phases = ORDER_PHASES};
    struct error err = {0};

    if (m == NULL) {
        log_warn("prefetch of unknown model %" PRIu32, o->model);
        return;
    }
    if (e->turn_count > 0)
        running = residency_find(&e->residency, e->turns[0].order.model);
    if (running != NULL && e->flight.count == 0 && !step_any(&e->sequences, running, &any))
        running = NULL; /* its turn is about to end */
    if (m->resident) {
        answer_load(e, m, 1);
    } else if (residency_prefetch(&e->residency, m, o, running, &err) != 0) {
        log_debug("instance %s: %s", e->instance, err.text);
        answer_load(e, m, 0);
    }
}

/* A number that is taken ends both sequences: whose tokens would come next? */
static void order_open(struct engine *e, const struct order_seq *o)
{
    struct sequence *taken = sequence_find(&e->sequences, o->seq);
    struct model *m = residency_find(&e->residency, o->model);
    struct error err = {0};
    char text[ORDER_TEXT_MAX];

    if (taken != NULL) {
        engine_fault(e, taken, "its number is open already");
        return;
    }
    if (m == NULL)
        error_set(&err, STATUS_NOT_FOUND, "the engine has no model %" PRIu32, o->model);
    else if (!turn_ever_fits(e, m, o->tokens, text, sizeof(text)))
        error_set(&err, STATUS_EXHAUSTED, "%s", text);
    else if (sequence_open(&e->sequences, m, o, &err) != NULL)
        return;
    send_fault(e, o->seq, err.text);
}

static void order_tokens(struct engine *e, const struct order_tokens *o)
{
    struct sequence *s = sequence_find(&e->sequences, o->seq);
    struct error err = {0};

    if (s != NULL && sequence_append(s, o, &err) != 0)
        engine_fault(e, s, err.text);
}

static void order_bias(struct engine *e, const struct order_bias *o)
{
    struct sequence *s = sequence_find(&e->sequences, o->seq);
    struct error err = {0};

    if (s != NULL && sequence_bias(s, o, &err) != 0)
        engine_fault(e, s, err.text);
}

/* What is in flight of it is collected first, and may end it.  NULL: there is none (any more). */
static struct sequence *settled_sequence(struct engine *e, uint64_t id)
{
    struct sequence *s = sequence_find(&e->sequences, id);

    if (s == NULL || !flight_has(&e->flight, s))
        return s;
    turn_drain(e);
    return sequence_find(&e->sequences, id);
}

static void order_spill(struct engine *e, const struct order_ref *o)
{
    struct sequence *s = settled_sequence(e, o->seq);

    if (s != NULL)
        swap_spill(&e->swap, s);
}

static void order_fetch(struct engine *e, const struct order_ref *o)
{
    struct sequence *s = settled_sequence(e, o->seq);
    const struct model *running = NULL;

    if (e->turn_count > 0)
        running = residency_find(&e->residency, e->turns[0].order.model);
    if (s != NULL)
        swap_fetch(&e->swap, s, running);
}

int engine_order(struct engine *e, const void *order, const struct channel_files *files)
{
    uint32_t kind;
    struct sequence *s;

    memcpy(&kind, order, sizeof(kind));
    switch (kind) {
    case ORDER_HELLO:
        log_warn("a second hello was ignored");
        break;
    case ORDER_MODEL:
        order_model(e, order, files);
        break;
    case ORDER_LOAD:
        order_load(e, order);
        break;
    case ORDER_UNLOAD:
        order_unload(e, order);
        break;
    case ORDER_SEQ_OPEN:
        order_open(e, order);
        break;
    case ORDER_SEQ_TOKENS:
        order_tokens(e, order);
        break;
    case ORDER_SEQ_BIAS:
        order_bias(e, order);
        break;
    case ORDER_SEQ_CLOSE:
        s = sequence_find(&e->sequences, ((const struct order_ref *)order)->seq);
        if (s != NULL)
            engine_close(e, s);
        break;
    case ORDER_SEQ_SPILL:
        order_spill(e, order);
        break;
    case ORDER_SEQ_FETCH:
        order_fetch(e, order);
        break;
    case ORDER_TURN:
        turn_queue(e, order);
        break;
    case ORDER_MASTER:
        order_master(e, order, files);
        break;
    case ORDER_PREFETCH:
        order_prefetch(e, order);
        break;
    case ORDER_QUIT:
        return 1;
    default:
        break; /* channel_check() lets no other kind pass */
    }
    return 0;
}

static void send_moved(void *context, const struct sequence *s, int out, int ok, uint64_t bytes,
                       uint64_t us)
{
    struct event_seq_moved event = {.kind = EVENT_SEQ_MOVED,
                                    .out = (uint32_t)out,
                                    .seq = s->id,
                                    .bytes = bytes,
                                    .us = us,
                                    .ok = (uint32_t)ok};

    engine_send(context, &event, sizeof(event));
}

static uint32_t kv_spare(void *context)
{
    const struct engine *e = context;

    return pages_spare(e->pages);
}

static void kv_reclaim(void *context, uint32_t handles)
{
    struct engine *e = context;

    room_for_handles(&e->sequences, handles);
}

static int create_parts(struct engine *e, const struct order_hello *hello, struct error *err)
{
    e->device = engine_device(hello, 0, err);
    if (e->device == NULL)
        return -1;
    if (hello->flags & HELLO_DETERMINISTIC)
        device_deterministic(e->device);
    e->deterministic = (hello->flags & HELLO_DETERMINISTIC) != 0;
    e->rows_max = device_kind(e->device) == DEVICE_CPU ? STEP_ROWS_CPU : STEP_ROWS_CUDA;
    workspace_init(&e->workspace, e->device, e->rows_max, step_heads(e->max_batch));
    if (flight_open(&e->flight, e->device, e->rows_max, e->max_batch, err) != 0)
        return -1;
    if (engine_open_ranks(e, hello, err) != 0)
        return -1;
    e->pages = pages_create(e->arena, err);
    if (e->pages == NULL)
        return -1;
    e->prefixes = prefix_create(e->pages, err);
    if (e->prefixes == NULL)
        return -1;
    sequence_list_init(&e->sequences, e->pages, e->prefixes, &e->swap);
    /* Pages of several ranks are not spilled yet. */
    swap_open(&e->swap, &e->sequences, &e->residency, e->device,
              e->group == NULL ? hello->swap_bytes : 0);
    e->swap.notify = send_moved;
    e->swap.context = e;
    if (residency_open(&e->residency, e->arena, err) != 0)
        return -1;
    e->residency.notify = send_residency;
    e->residency.master = send_master;
    e->residency.spare = kv_spare;
    e->residency.reclaim = kv_reclaim;
    e->residency.channel = e->channel.fd;
    e->residency.context = e;
    e->sampler = sampler_create(err);
    return e->sampler == NULL ? -1 : 0;
}

struct engine *engine_create(int fd, const struct order_hello *hello, struct error *err)
{
    struct event_ready event = {.kind = EVENT_READY, .version = ORDER_VERSION};
    struct engine *e;

    if (hello->version != ORDER_VERSION) {
        error_set(err, STATUS_UNSUPPORTED,
                  "the daemon speaks version %" PRIu32 " of the engine protocol, this engine %u: "
                  "install both from one release",
                  hello->version, ORDER_VERSION);
        return NULL;
    }
    if (hello->max_batch > ENGINE_BATCH_MAX || hello->threads > THREADS_MAX) {
        error_set(err, STATUS_INVALID,
                  "MaxBatch=%" PRIu32 " Threads=%" PRIu32 ": at most %u and %u are supported",
                  hello->max_batch, hello->threads, ENGINE_BATCH_MAX, THREADS_MAX);
        return NULL;
    }
    if (hello->device > ORDER_DEVICE_CUDA || hello->precision > ORDER_FAST) {
        error_set(err, STATUS_INVALID, "device %" PRIu32 " of precision %" PRIu32 ": none is known",
                  hello->device, hello->precision);
        return NULL;
    }
    if (engine_check_ranks(hello, err) != 0)
        return NULL;
    e = calloc(1, sizeof(*e));
    if (e == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for an engine");
        return NULL;
    }
    e->channel.fd = fd;
    e->max_batch = hello->max_batch == 0 ? BATCH_DEFAULT : hello->max_batch;
    memcpy(e->instance, hello->instance, sizeof(e->instance));
    if (create_parts(e, hello, err) != 0) {
        engine_destroy(e);
        return NULL;
    }
    event.memory_bytes = arena_bytes(e->arena, arena_handles(e->arena));
    event.handle_bytes = arena_bytes(e->arena, 1);
    event.loads_behind = e->group == NULL || device_kind(e->device) == DEVICE_CPU;
    if (e->group == NULL)
        snprintf(event.device, sizeof(event.device), "%s", device_name(e->device));
    else
        snprintf(event.device, sizeof(event.device), "%" PRIu32 " x %.50s", hello->ranks,
                 device_name(e->device));
    engine_send(e, &event, sizeof(event));
    return e;
}

void engine_destroy(struct engine *e)
{
    if (e == NULL)
        return;
    if (e->group != NULL && group_stop(e->group) != 0) {
        log_error("instance %s: its ranks are stuck, and keep their memory", e->instance);
        return;
    }
    if (e->pages != NULL && e->sequences.pool != NULL)
        sequence_list_clear(&e->sequences);
    if (e->residency.arena != NULL)
        residency_close(&e->residency);
    prefix_destroy(e->prefixes);
    pages_destroy(e->pages);
    arena_destroy(e->arena);
    swap_close(&e->swap);
    flight_close(&e->flight);
    workspace_clear(&e->workspace);
    group_destroy(e->group);
    device_destroy(e->device);
    sampler_destroy(e->sampler);
    free(e);
}

/* Sleep until an order comes, or something behind the steps is done or may tell how far it is. */
static void sleep_behind(struct engine *e)
{
    const struct residency *r = &e->residency;
    struct pollfd p[3] = {{.fd = e->channel.fd, .events = POLLIN},
                          {.fd = r->behind.m != NULL ? r->behind.done_fd : -1, .events = POLLIN},
                          {.fd = r->now.m != NULL ? r->now.done_fd : -1, .events = POLLIN}};

    (void)poll(p, 3, PROGRESS_MS);
}

/* Take what has come; sleep first if there is nothing to do.  1: the end. */
static int take_orders(struct engine *e)
{
    struct channel_files files;
    struct error err = {0};

    for (;;) {
        int idle = e->turn_count == 0 && e->swap.moving == 0, quit = 0;
        int behind;

        residency_poll(&e->residency);
        behind = residency_busy(&e->residency) >= 0;
        switch (channel_receive(&e->channel, idle && !behind, &files, &err)) {
        case CHANNEL_NONE:
            if (!idle)
                return 0;
            sleep_behind(e);
            break;
        case CHANNEL_CLOSED:
            return 1;
        case CHANNEL_REFUSED:
            log_error("instance %s: refused from the daemon: %s", e->instance, err.text);
            break;
        case CHANNEL_MESSAGE:
            quit = engine_order(e, e->channel.buffer, &files);
            channel_files_close(&files);
            break;
        }
        if (quit || e->gone)
            return 1;
    }
}

int engine_serve(int fd, struct error *err)
{
    struct channel *ch = calloc(1, sizeof(*ch));
    struct channel_files with;
    struct order_hello hello;
    struct engine *e;

    if (ch == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for the channel");
    ch->fd = fd;
    enum channel_result got = channel_receive(ch, 1, &with, err);
    memcpy(&hello, ch->buffer, sizeof(hello));
    free(ch);
    channel_files_close(&with);
    if (got == CHANNEL_CLOSED)
        return 0;
    if (got != CHANNEL_MESSAGE)
        return -1;
    if (hello.kind != ORDER_HELLO)
        return error_set(err, STATUS_INVALID, "the first order must be hello, not kind %" PRIu32,
                         hello.kind);
    e = engine_create(fd, &hello, err);
    if (e == NULL)
        return -1;
    log_info("instance %s: %s, %" PRIu64 " MiB", e->instance, device_name(e->device),
             arena_bytes(e->arena, arena_handles(e->arena)) >> 20);
    while (!e->gone && !take_orders(e)) {
        swap_advance(&e->swap, e->swap.stride);
        if (e->turn_count > 0)
            turn_advance(e);
        else
            swap_wait(&e->swap);
    }
    engine_destroy(e);
    return 0;
}
