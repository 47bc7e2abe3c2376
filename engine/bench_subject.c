/* bench_subject.c - the daemon's part, played by a bench */
#include "engine/bench_subject.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/segment.h"
#include "engine/random_checkpoint.h"
#include "engine/turn.h"
#include "model/source.h"

#define KEPT_BYTES (2 << 20) /* of a model's file: no random one has more metadata */

static struct subject_steps *steps_of(struct subject *s, uint64_t turn)
{
    struct subject_steps *t = &s->turns[turn % SUBJECT_TURNS];

    if (t->turn != turn)
        *t = (struct subject_steps){.turn = turn};
    return t;
}

static void take_step(struct subject *s, const struct event_step *ev)
{
    struct subject_steps *t = steps_of(s, ev->turn);

    t->last_us = clock_monotonic_us();
    if (t->steps++ == 0)
        t->first_us = t->last_us;
    t->us += (double)ev->us;
    if (s->first_us <= 0)
        s->first_us = (double)ev->us;
    if (ev->prefill_tokens > 0) {
        s->prefill_us += (double)ev->us;
        s->prefill_tokens += ev->prefill_tokens;
    } else if (ev->batch == s->full_batch && s->steps < SUBJECT_STEPS + SUBJECT_FIRST) {
        if (s->steps >= SUBJECT_FIRST)
            s->step_us[s->steps - SUBJECT_FIRST] = (double)ev->us;
        s->steps++;
    }
    s->yielded += ev->count;
    for (uint32_t i = 0; i < ev->count; i++)
        s->finished += ev->rows[i].finish != FINISH_NONE;
}

static void take_moved(struct subject *s, const struct event_seq_moved *ev)
{
    s->moved++;
    s->moved_not += ev->ok == 0;
    s->moved_bytes += ev->bytes;
    s->moved_steps = s->steps;
    s->moved_us = clock_monotonic_us();
}

/* The master copy is all that is needed of the weights now; the metadata lies at the beginning. */
static void forget_files(struct subject_model *m)
{
    struct stat st;

    for (uint32_t i = 0; i < m->file_count; i++)
        if (fstat(m->files[i], &st) == 0 && st.st_size > KEPT_BYTES)
            (void)fallocate(m->files[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, KEPT_BYTES,
                            st.st_size - KEPT_BYTES);
}

static void take_master(struct subject *s, const struct event_master *ev)
{
    struct subject_model *m = &s->models[ev->model];

    if (ev->state == MASTER_COMPLETE) {
        segment_key(m->key, ev->hashes, ev->files, (uint32_t)device_kind(s->e->device),
                    residency_find(&s->e->residency, ev->model)->layout);
        m->complete = 1;
        forget_files(m);
    } else if (ev->state != MASTER_PROGRESS && s->fault[0] == '\0') {
        snprintf(s->fault, sizeof(s->fault), "a master copy: %.200s", ev->text);
    }
}

static void take_residency(struct subject *s, const struct event_residency *ev)
{
    if (!ev->resident)
        return;
    s->loads += ev->bytes > 0;
    s->loaded_bytes += ev->bytes;
}

void subject_events(struct subject *s)
{
    _Alignas(8) static unsigned char buffer[ORDER_BYTES_MAX];
    uint32_t kind;

    while (recv(s->daemon, buffer, sizeof(buffer), MSG_DONTWAIT) > 0) {
        const char *text = NULL;
        memcpy(&kind, buffer, sizeof(kind));
        if (kind == EVENT_STEP)
            take_step(s, (const void *)buffer);
        else if (kind == EVENT_SEQ_MOVED)
            take_moved(s, (const void *)buffer);
        else if (kind == EVENT_MODEL && !((const struct event_model *)(void *)buffer)->ok)
            text = ((const struct event_model *)(void *)buffer)->text;
        else if (kind == EVENT_SEQ_FAULT)
            text = ((const struct event_seq_fault *)(void *)buffer)->text;
        else if (kind == EVENT_MASTER)
            take_master(s, (const void *)buffer);
        else if (kind == EVENT_RESIDENCY)
            take_residency(s, (const void *)buffer);
        else if (kind == EVENT_TURN_END) {
            memcpy(&s->end, buffer, sizeof(s->end));
            steps_of(s, s->end.turn)->end = s->end;
        }
        if (kind == EVENT_TURN_END &&
            (s->end.reason == TURN_KV_FULL || s->end.reason == TURN_FAULT))
            text = s->end.text;
        if (text != NULL && s->fault[0] == '\0')
            snprintf(s->fault, sizeof(s->fault), "%.*s", (int)sizeof(s->fault) - 1,
                     text[0] != 0 ? text : "no KV page is left");
    }
}

uint64_t subject_queue(struct subject *s, uint32_t model, uint32_t quota_steps, uint64_t quota_us)
{
    struct order_turn turn = {.kind = ORDER_TURN,
                              .model = model,
                              .turn = ++s->turn,
                              .quota_steps = quota_steps,
                              .quota_us = quota_us};
    const struct channel_files none = {0};

    engine_order(s->e, &turn, &none);
    return turn.turn;
}

int subject_advance(struct subject *s)
{
    if (s->e->turn_count > 0 && !s->e->gone) {
        swap_advance(&s->e->swap, s->e->swap.stride);
        turn_advance(s->e);
        subject_events(s);
    }
    return s->e->turn_count > 0 && !s->e->gone && s->fault[0] == '\0';
}

const struct subject_steps *subject_steps(const struct subject *s, uint64_t turn)
{
    return &s->turns[turn % SUBJECT_TURNS];
}

int subject_check(struct subject *s)
{
    if (s->e->gone)
        return error_set(s->err, STATUS_INTERNAL, "the engine failed; the log says why");
    return s->fault[0] != '\0' ? error_set(s->err, STATUS_EXHAUSTED, "%s", s->fault) : 0;
}

int subject_turn(struct subject *s, uint32_t model, uint32_t quota_steps)
{
    s->steps = s->finished = s->yielded = 0;
    s->prefill_us = s->first_us = 0;
    s->prefill_tokens = 0;
    subject_queue(s, model, quota_steps, 0);
    while (subject_advance(s))
        ;
    return subject_check(s);
}

/* Random tokens; sequences differ. */
int subject_sequence(struct subject *s, uint32_t model, uint64_t id, uint32_t prompt,
                     uint32_t output)
{
    struct order_seq open = {
        .kind = ORDER_SEQ_OPEN,
        .model = model,
        .seq = id,
        .tokens = prompt,
        .max_tokens = output,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = SAMPLING_IGNORE_EOS}};
    const uint32_t room = (ORDER_BYTES_MAX - sizeof(struct order_tokens)) / sizeof(uint32_t);
    struct order_tokens *tokens = malloc(ORDER_BYTES_MAX);
    const struct channel_files none = {0};
    uint64_t random = id * 0x9e3779b97f4a7c15u + 1;

    if (tokens == NULL)
        return error_set(s->err, STATUS_NOMEM, "no memory for a prompt");
    engine_order(s->e, &open, &none);
    for (uint32_t at = 0, n; at < prompt; at += n) {
        n = prompt - at < room ? prompt - at : room;
        *tokens =
            (struct order_tokens){.kind = ORDER_SEQ_TOKENS, .count = n, .seq = id, .offset = at};
        for (uint32_t i = 0; i < n; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            tokens->tokens[i] = (uint32_t)(random >> 33) % s->models[model].shape->vocabulary;
        }
        engine_order(s->e, tokens, &none);
    }
    free(tokens);
    return 0;
}

int subject_batch(struct subject *s, uint32_t model, uint32_t batch, uint32_t prompt,
                  uint32_t output)
{
    s->full_batch = batch;
    for (uint32_t i = 0; i < batch; i++)
        if (subject_sequence(s, model, (s->turn * 1000 + i) * 64 + model, prompt, output) != 0)
            return -1;
    return 0;
}

void subject_cancel(struct subject *s, uint64_t id)
{
    struct order_ref close = {.kind = ORDER_SEQ_CLOSE, .seq = id};
    const struct channel_files none = {0};

    engine_order(s->e, &close, &none);
}

void subject_cancel_all(struct subject *s)
{
    while (!TAILQ_EMPTY(&s->e->sequences.queue))
        subject_cancel(s, TAILQ_FIRST(&s->e->sequences.queue)->id);
}

static int open_engine(struct subject *s)
{
    struct order_hello hello = {.kind = ORDER_HELLO,
                                .version = ORDER_VERSION,
                                .memory_bytes = s->how.memory_bytes,
                                .threads = s->how.threads,
                                .ranks = s->how.ranks,
                                .max_batch = STEP_BATCH_MAX,
                                .device = s->how.device,
                                .gpu = s->how.gpu,
                                .precision = s->how.precision,
                                .flags = s->how.deterministic ? HELLO_DETERMINISTIC : 0,
                                .swap_bytes = s->how.swap_bytes,
                                .instance = "bench"};
    int pair[2], room = 8 << 20;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return error_errno(s->err, "socketpair");
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    s->daemon = pair[1];
    s->e = engine_create(pair[0], &hello, s->err);
    if (s->e == NULL) {
        close(pair[0]);
        return -1;
    }
    return 0;
}

static int send_model(struct subject *s, uint32_t model)
{
    struct subject_model *m = &s->models[model];
    struct channel_files files = {.count = m->file_count};

    memcpy(files.fds, m->files, sizeof(files.fds));
    engine_order(s->e, &m->order, &files);
    subject_events(s);
    return s->fault[0] != '\0' ? error_set(s->err, STATUS_UNSUPPORTED, "%s", s->fault) : 0;
}

/* Memory for its master copy, if there is room; lent to be filled. */
static int lend_empty(struct subject *s, uint32_t model)
{
    struct order_master order = {.kind = ORDER_MASTER, .model = model, .use = MASTER_FILL};
    struct channel_files files = {.count = 1};
    struct subject_model *m = &s->models[model];
    uint64_t bytes = segment_file_bytes(residency_find(&s->e->residency, model)->range_bytes);

    if (bytes > s->how.host_bytes || s->host_used > s->how.host_bytes - bytes)
        return 0;
    m->master = memfd_create("modelpool-master", MFD_CLOEXEC);
    if (m->master < 0)
        return error_errno(s->err, "cannot make a file in shared memory");
    s->host_used += bytes;
    files.fds[0] = m->master;
    engine_order(s->e, &order, &files);
    return 0;
}

int subject_model_of(struct subject *s, uint32_t model, const char *shape)
{
    struct subject_model *m = &s->models[model];
    struct channel_files files = {.count = 1};
    enum dtype dtype;
    uint64_t bytes;
    int made;

    m->master = -1;
    m->shape = random_shape_find(shape);
    m->order = (struct order_model){
        .kind = ORDER_MODEL, .model = model, .files = 1, .kinds = {SOURCE_GGUF}};
    if (m->shape == NULL || random_dtype(s->how.dtype, &dtype) != 0)
        return error_set(s->err, STATUS_INVALID, "no shape %s, or no type of weights %s", shape,
                         s->how.dtype);
    snprintf(m->order.name, sizeof(m->order.name), "%s-%" PRIu32, shape, model);
    made = dtype == DTYPE_F8 ? random_checkpoint_create(m->shape, &m->order, &files, s->err)
                             : random_model_create(m->shape, dtype, &files.fds[0], &bytes, s->err);
    if (made != 0)
        return -1;
    m->file_count = files.count;
    memcpy(m->files, files.fds, sizeof(m->files));
    return send_model(s, model) != 0 ? -1 : lend_empty(s, model);
}

int subject_model(struct subject *s, uint32_t model)
{
    return subject_model_of(s, model, s->how.shape);
}

int subject_same(struct subject *s, uint32_t model, uint32_t as)
{
    struct subject_model *m = &s->models[model];
    const struct subject_model *other = &s->models[as];
    int rv;

    *m = *other;
    m->order.model = model;
    snprintf(m->order.name, sizeof(m->order.name), "%.40s-as-%" PRIu32, m->shape->name, model);
    m->master = fcntl(other->master, F_DUPFD_CLOEXEC, 3);
    rv = send_model(s, model);
    m->file_count = 0; /* they are the other's */
    if (rv != 0)
        return -1;
    subject_lend(s, model, 0);
    return subject_prepare(s, model);
}

void subject_lend(struct subject *s, uint32_t model, int back)
{
    struct order_master order = {
        .kind = ORDER_MASTER, .model = model, .use = back ? MASTER_NONE : MASTER_READ};
    const struct subject_model *m = &s->models[model];
    struct channel_files files = {.count = !back};

    files.fds[0] = m->master;
    memcpy(order.key, m->key, sizeof(order.key));
    engine_order(s->e, &order, &files);
    subject_events(s);
}

int subject_prepare(struct subject *s, uint32_t model)
{
    struct model *m = residency_find(&s->e->residency, model);

    if (m->copy.use == MASTER_FILL)
        m->copy.use = MASTER_PREPARE;
    while (s->fault[0] == '\0' &&
           (m->copy.use == MASTER_PREPARE ||
            (m->copy.use == MASTER_READ && m->by_lane && !master_is_ready(&m->copy)))) {
        residency_poll(&s->e->residency);
        usleep(200);
        subject_events(s);
    }
    while (residency_busy(&s->e->residency) >= 0 && s->e->residency.behind.m == m)
        residency_poll(&s->e->residency);
    subject_events(s);
    return subject_check(s);
}

int subject_load(struct subject *s, uint32_t model)
{
    struct order_ref load = {.kind = ORDER_LOAD, .model = model};
    const struct channel_files none = {0};

    engine_order(s->e, &load, &none);
    subject_events(s);
    return residency_find(&s->e->residency, model)->resident
               ? 0
               : error_set(s->err, STATUS_EXHAUSTED, "model %" PRIu32 " does not fit", model);
}

struct subject *subject_open(const struct bench_engine *how, limit_f *found, void *arg,
                             struct error *err)
{
    struct subject *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for a bench");
        return NULL;
    }
    s->how = *how;
    s->daemon = -1;
    s->found = found;
    s->arg = arg;
    s->err = err;
    s->shape = random_shape_find(how->shape);
    if (s->shape == NULL)
        error_set(err, STATUS_INVALID, "no shape %s", how->shape);
    if (s->shape != NULL && open_engine(s) == 0)
        return s;
    subject_close(s);
    return NULL;
}

void subject_close(struct subject *s)
{
    int fd = -1;

    if (s == NULL)
        return;
    if (s->e != NULL) {
        fd = s->e->channel.fd;
        engine_destroy(s->e);
        close(fd);
    }
    if (s->daemon >= 0)
        close(s->daemon);
    for (uint32_t i = 0; i < SUBJECT_MODELS; i++) {
        struct subject_model *m = &s->models[i];
        for (uint32_t f = 0; f < m->file_count; f++)
            close(m->files[f]);
        if (m->shape != NULL && m->master >= 0)
            close(m->master);
    }
    free(s);
}
