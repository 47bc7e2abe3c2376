/* bench_subject.c - the daemon's part, played by a bench */
#include "engine/bench_subject.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/random_checkpoint.h"
#include "engine/turn.h"
#include "model/source.h"

static void take_step(struct subject *s, const struct event_step *ev)
{
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
        else if (kind == EVENT_TURN_END)
            memcpy(&s->end, buffer, sizeof(s->end));
        if (kind == EVENT_TURN_END &&
            (s->end.reason == TURN_KV_FULL || s->end.reason == TURN_FAULT))
            text = s->end.text;
        if (text != NULL && s->fault[0] == '\0')
            snprintf(s->fault, sizeof(s->fault), "%.*s", (int)sizeof(s->fault) - 1,
                     text[0] != 0 ? text : "no KV page is left");
    }
}

int subject_turn(struct subject *s, uint32_t model, uint32_t quota_steps)
{
    struct order_turn turn = {
        .kind = ORDER_TURN, .model = model, .turn = ++s->turn, .quota_steps = quota_steps};
    const struct channel_files none = {0};

    s->steps = s->finished = s->yielded = 0;
    s->prefill_us = s->first_us = 0;
    s->prefill_tokens = 0;
    engine_order(s->e, &turn, &none);
    while (s->e->turn_count > 0 && !s->e->gone) {
        swap_advance(&s->e->swap, s->e->swap.stride);
        turn_advance(s->e);
        subject_events(s);
    }
    if (s->e->gone)
        return error_set(s->err, STATUS_INTERNAL, "the engine failed; the log says why");
    return s->fault[0] != '\0' ? error_set(s->err, STATUS_EXHAUSTED, "%s", s->fault) : 0;
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
            tokens->tokens[i] = (uint32_t)(random >> 33) % s->shape->vocabulary;
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
                                .host_bytes = s->how.host_bytes,
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

int subject_model(struct subject *s, uint32_t model)
{
    struct order_model order = {
        .kind = ORDER_MODEL, .model = model, .files = 1, .kinds = {SOURCE_GGUF}};
    struct channel_files files = {.count = 1};
    enum dtype dtype;
    uint64_t bytes;
    int made;

    if (random_dtype(s->how.dtype, &dtype) != 0)
        return error_set(s->err, STATUS_INVALID, "no type of weights %s", s->how.dtype);
    snprintf(order.name, sizeof(order.name), "%s-%" PRIu32, s->how.shape, model);
    made = dtype == DTYPE_F8 ? random_checkpoint_create(s->shape, &order, &files, s->err)
                             : random_model_create(s->shape, dtype, &files.fds[0], &bytes, s->err);
    if (made != 0)
        return -1;
    engine_order(s->e, &order, &files);
    for (uint32_t i = 0; i < files.count; i++)
        close(files.fds[i]);
    subject_events(s);
    return s->fault[0] != '\0' ? error_set(s->err, STATUS_UNSUPPORTED, "%s", s->fault) : 0;
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
    free(s);
}
