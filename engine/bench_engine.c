/* bench_engine.c - how fast an engine decodes and reads prompts, with random weights of a shape */
#include "engine/bench_engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/engine.h"
#include "engine/random_model.h"
#include "engine/turn.h"
#include "model/source.h"

#define MODEL       1u
#define ALL_FIRST   4u  /* steps of a full batch that are not counted */
#define STEPS_MAX   64u /* that are */
#define PROMPT_SEED 0x9e3779b97f4a7c15u

struct subject {
    struct bench_engine how;
    const struct random_shape *shape;
    struct engine *e;
    int daemon; /* its end of the channel */
    uint64_t turn, weight_bytes;
    limit_f *found;
    void *arg;
    struct error *err;
    /* Of the events since the last turn began. */
    double step_us[STEPS_MAX]; /* of steps in which every sequence decodes */
    uint32_t steps, full_batch;
    double prefill_us;
    uint64_t prefill_tokens;
    uint32_t finished;
    char fault[ORDER_TEXT_MAX];
};

static void take_step(struct subject *s, const struct event_step *ev)
{
    if (ev->prefill_tokens > 0) {
        s->prefill_us += (double)ev->us;
        s->prefill_tokens += ev->prefill_tokens;
    } else if (ev->batch == s->full_batch && s->steps < STEPS_MAX + ALL_FIRST) {
        if (s->steps >= ALL_FIRST)
            s->step_us[s->steps - ALL_FIRST] = (double)ev->us;
        s->steps++;
    }
    for (uint32_t i = 0; i < ev->count; i++)
        s->finished += ev->rows[i].finish != FINISH_NONE;
}

static void take_events(struct subject *s)
{
    _Alignas(8) static unsigned char buffer[ORDER_BYTES_MAX];
    uint32_t kind;

    while (recv(s->daemon, buffer, sizeof(buffer), MSG_DONTWAIT) > 0) {
        const char *text = NULL;
        memcpy(&kind, buffer, sizeof(kind));
        if (kind == EVENT_STEP)
            take_step(s, (const void *)buffer);
        else if (kind == EVENT_MODEL && !((const struct event_model *)(void *)buffer)->ok)
            text = ((const struct event_model *)(void *)buffer)->text;
        else if (kind == EVENT_SEQ_FAULT)
            text = ((const struct event_seq_fault *)(void *)buffer)->text;
        else if (kind == EVENT_TURN_END &&
                 ((const struct event_turn_end *)(void *)buffer)->reason >= TURN_KV_FULL)
            text = ((const struct event_turn_end *)(void *)buffer)->text;
        if (text != NULL && s->fault[0] == '\0')
            snprintf(s->fault, sizeof(s->fault), "%.*s", (int)sizeof(s->fault) - 1,
                     text[0] != 0 ? text : "no KV page is left");
    }
}

/* Steps until all sequences have ended. */
static int run_turn(struct subject *s)
{
    struct order_turn turn = {.kind = ORDER_TURN, .model = MODEL, .turn = ++s->turn};
    const struct channel_files none = {0};

    engine_order(s->e, &turn, &none);
    while (s->e->turn_count > 0 && !s->e->gone) {
        turn_advance(s->e);
        take_events(s);
    }
    if (s->e->gone)
        return error_set(s->err, STATUS_INTERNAL, "the engine failed; the log says why");
    return s->fault[0] != '\0' ? error_set(s->err, STATUS_EXHAUSTED, "%s", s->fault) : 0;
}

/* Random tokens; sequences differ. */
static int open_sequence(struct subject *s, uint64_t id, uint32_t prompt, uint32_t output)
{
    struct order_seq open = {
        .kind = ORDER_SEQ_OPEN,
        .model = MODEL,
        .seq = id,
        .tokens = prompt,
        .max_tokens = output,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = SAMPLING_IGNORE_EOS}};
    const uint32_t room = (ORDER_BYTES_MAX - sizeof(struct order_tokens)) / sizeof(uint32_t);
    struct order_tokens *tokens = malloc(ORDER_BYTES_MAX);
    const struct channel_files none = {0};
    uint64_t random = id * PROMPT_SEED + 1;

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

static int run_batch(struct subject *s, uint32_t batch, uint32_t prompt, uint32_t output)
{
    s->steps = s->finished = 0;
    s->full_batch = batch;
    s->prefill_us = 0;
    s->prefill_tokens = 0;
    for (uint32_t i = 0; i < batch; i++)
        if (open_sequence(s, s->turn * 1000 + i, prompt, output) != 0)
            return -1;
    if (run_turn(s) != 0)
        return -1;
    if (s->finished != batch)
        return error_set(s->err, STATUS_INTERNAL, "%" PRIu32 " of %" PRIu32 " sequences ended",
                         s->finished, batch);
    return 0;
}

/* Bytes of one token's keys and values, in all layers. */
static double kv_token_bytes(const struct subject *s)
{
    return (double)model_kv_token_bytes(s->e->residency.models[0]);
}

/* Weights that every step reads: all but the embedding's table, unless it is the head too. */
static double step_weight_bytes(const struct subject *s)
{
    const struct model *m = s->e->residency.models[0];
    double table =
        (double)dtype_row_bytes(m->embedding.dtype, m->embedding.cols) * m->embedding.rows;

    return (double)m->weight_bytes - (s->shape->tied ? 0 : table);
}

/* Multiplications and additions of n tokens at positions first to first + n, the head for one. */
static double prompt_flops(const struct subject *s, double first, double n)
{
    const struct random_shape *h = s->shape;
    double q = (double)h->heads * h->head_dim, kv = (double)h->kv_heads * h->head_dim;
    double layer = (double)h->width * (q + 2 * kv) + q * h->width + 3.0 * h->width * h->ffn;
    double seen = n * first + n * (n + 1) / 2;

    return 2 * h->layers * (layer * n + 2 * q * seen) + 2.0 * h->width * h->vocabulary;
}

/* Decoding by `batch` sequences after prompts of `context` tokens. */
static int decode(struct subject *s, uint32_t batch, uint32_t context)
{
    struct limit l = {.name = "decode", .unit = "us"};
    char params[96];
    /* The first sequences decode while the last ones' prompts are read. */
    uint64_t ahead = 2 + (uint64_t)batch * context / (s->e->rows_max - batch);

    if (run_batch(s, batch, context, STEPS_MAX + ALL_FIRST + (uint32_t)ahead) != 0)
        return -1;
    if (s->steps < STEPS_MAX)
        return error_set(s->err, STATUS_INTERNAL, "only %" PRIu32 " full steps were seen",
                         s->steps);
    snprintf(params, sizeof(params), "%s %s, batch %" PRIu32 ", context %" PRIu32 " to %" PRIu32,
             s->how.shape, s->how.dtype, batch, context, context + STEPS_MAX);
    l.params = params;
    l.bytes = step_weight_bytes(s) + batch * kv_token_bytes(s) * (context + STEPS_MAX / 2.0);
    l.flops = batch * (prompt_flops(s, context + STEPS_MAX / 2.0, 1));
    /* Every second one: a limit has room for so many. */
    for (uint32_t i = 0; i + 1 < s->steps - ALL_FIRST && l.count < LIMIT_SAMPLES_MAX; i += 2)
        l.samples[l.count++] = s->step_us[i];
    s->found(s->arg, &l);
    return 0;
}

/* Reading `batch` prompts of `tokens` tokens, three times. */
static int prefill(struct subject *s, uint32_t batch, uint32_t tokens)
{
    struct limit l = {.name = "prefill", .unit = "us"};
    char params[96];

    snprintf(params, sizeof(params), "%s %s, %" PRIu32 " x %" PRIu32, s->how.shape, s->how.dtype,
             batch, tokens);
    l.params = params;
    l.flops = batch * prompt_flops(s, 0, tokens);
    l.bytes = step_weight_bytes(s);
    for (int i = 0; i < 4; i++) {
        if (run_batch(s, batch, tokens, 1) != 0)
            return -1;
        if (s->prefill_tokens != (uint64_t)batch * tokens)
            return error_set(s->err, STATUS_INTERNAL, "%" PRIu64 " tokens were read",
                             s->prefill_tokens);
        if (i > 0) /* the first warms up */
            l.samples[l.count++] = s->prefill_us;
    }
    s->found(s->arg, &l);
    return 0;
}

static int open_engine(struct subject *s)
{
    struct order_hello hello = {.kind = ORDER_HELLO,
                                .version = ORDER_VERSION,
                                .memory_bytes = s->how.memory_bytes,
                                .threads = s->how.threads,
                                .max_batch = STEP_BATCH_MAX,
                                .device = s->how.device,
                                .gpu = s->how.gpu,
                                .precision = s->how.precision,
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

/* The random model, known to the engine and resident. */
static int open_model(struct subject *s, enum dtype dtype)
{
    struct order_model order = {.kind = ORDER_MODEL, .model = MODEL, .files = 1};
    struct order_ref load = {.kind = ORDER_LOAD, .model = MODEL};
    struct channel_files files = {.count = 1};
    const struct channel_files none = {0};
    struct limit l = {.name = "load", .unit = "us", .count = 1};
    int64_t start;

    snprintf(order.name, sizeof(order.name), "%s", s->how.shape);
    order.kinds[0] = SOURCE_GGUF;
    if (random_model_create(s->shape, dtype, &files.fds[0], &s->weight_bytes, s->err) != 0)
        return -1;
    engine_order(s->e, &order, &files);
    close(files.fds[0]);
    take_events(s);
    if (s->fault[0] != '\0')
        return error_set(s->err, STATUS_UNSUPPORTED, "%s", s->fault);
    start = clock_monotonic_us();
    engine_order(s->e, &load, &none);
    l.samples[0] = (double)(clock_monotonic_us() - start);
    take_events(s);
    if (!s->e->residency.models[0]->resident)
        return error_set(s->err, STATUS_EXHAUSTED, "the model does not fit");
    l.params = s->how.shape;
    l.bytes = (double)s->e->residency.models[0]->weight_bytes;
    s->found(s->arg, &l);
    return 0;
}

static int measure(struct subject *s)
{
    static const uint32_t batches[] = {1, 8, 16, 32, 64, 128, 256};
    static const uint32_t prompts[][2] = {{1, 512}, {1, 2048}, {8, 1024}, {1, 8191}};

    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++)
        if (batches[i] <= s->how.batch_max && decode(s, batches[i], s->how.context) != 0)
            return -1;
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++)
        if (prompts[i][1] < s->shape->context && prompts[i][1] <= s->how.prompt_max &&
            prefill(s, prompts[i][0], prompts[i][1]) != 0)
            return -1;
    return 0;
}

int bench_engine(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct subject *s = calloc(1, sizeof(*s));
    enum dtype dtype;
    int fd = -1, rv = -1;

    if (s == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for a bench");
    s->how = *how;
    s->daemon = -1;
    s->found = found;
    s->arg = arg;
    s->err = err;
    s->shape = random_shape_find(how->shape);
    if (s->shape == NULL) {
        error_set(err, STATUS_INVALID, "no shape %s", how->shape);
        goto out;
    }
    if (random_dtype(how->dtype, &dtype) != 0) {
        error_set(err, STATUS_INVALID, "no type of weights %s", how->dtype);
        goto out;
    }
    if (open_engine(s) != 0 || open_model(s, dtype) != 0)
        goto out;
    rv = measure(s);
out:
    if (s->e != NULL) {
        fd = s->e->channel.fd;
        engine_destroy(s->e);
        close(fd);
    }
    if (s->daemon >= 0)
        close(s->daemon);
    free(s);
    return rv;
}
