/* engine_rig.c - the daemon's part, played by a test */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "tests/unit/engine_rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/turn.h"

enum rig_device rig_device(void)
{
    const char *name = getenv("MODELPOOL_TEST_DEVICE");

    if (name == NULL || strcmp(name, "cpu") == 0)
        return RIG_CPU;
    if (strcmp(name, "cuda") == 0)
        return RIG_CUDA;
    if (strcmp(name, "cuda-deterministic") == 0)
        return RIG_CUDA_DETERMINISTIC;
    assert_string_equal(name, "cuda-fast");
    return RIG_CUDA_FAST;
}

uint64_t rig_handle(void)
{
    return rig_device() == RIG_CPU ? (uint64_t)2 << 20 : (uint64_t)64 << 20;
}

struct step *rig_step(struct engine *e, uint32_t rows_max, int all_rows, const float **logits)
{
    static float *copy; /* of a GPU's */
    static uint64_t room;
    struct model *m = e->residency.models[0];
    struct step *st = flight_next(&e->flight);
    struct error err = {0};
    struct forward_input in;
    uint32_t rows[STEP_BATCH_MAX];
    uint64_t bytes;

    struct step_choice choice = {.rows_max = rows_max, .phases = ORDER_PHASES};
    enum step_result got = step_build(&e->flight, st, m, &e->sequences, &e->residency, &choice);
    if (got == STEP_IDLE)
        return NULL;
    assert_int_equal(got, STEP_READY);
    step_input(&e->flight, st, &in);
    for (uint32_t i = 0; all_rows && i < st->rows; i++)
        rows[i] = i;
    if (all_rows) {
        in.head_rows = rows;
        in.head_count = st->rows;
    }
    assert_true(in.head_count <= e->workspace.heads_max);
    forward_run(m, &e->workspace, &in);
    *logits = e->workspace.logits;
    if (rig_device() == RIG_CPU)
        return st;
    bytes = (uint64_t)in.head_count * m->arch.vocabulary * sizeof(float);
    if (bytes > room) {
        copy = realloc(copy, bytes);
        assert_non_null(copy);
        room = bytes;
    }
    device_copy(e->device, copy, e->workspace.logits, bytes);
    if (device_check(e->device, &err) != 0)
        fail_msg("%s", err.text);
    *logits = copy;
    return st;
}

void rig_open(struct rig *r, uint64_t memory_bytes, uint32_t threads, uint32_t max_batch)
{
    rig_open_precision(r, ORDER_EXACT, memory_bytes, threads, max_batch);
}

void rig_open_precision(struct rig *r, enum order_precision precision, uint64_t memory_bytes,
                        uint32_t threads, uint32_t max_batch)
{
    rig_open_swap(r, precision, memory_bytes, 0, threads, max_batch);
}

void rig_open_swap(struct rig *r, enum order_precision precision, uint64_t memory_bytes,
                   uint64_t swap_bytes, uint32_t threads, uint32_t max_batch)
{
    struct order_hello hello = {
        .kind = ORDER_HELLO,
        .version = ORDER_VERSION,
        .memory_bytes = memory_bytes,
        .swap_bytes = swap_bytes,
        .threads = threads,
        .max_batch = max_batch,
        .device = rig_device() == RIG_CPU ? ORDER_DEVICE_CPU : ORDER_DEVICE_CUDA,
        .precision = rig_device() == RIG_CPU ? precision : rig_device() != RIG_CUDA,
        .flags = rig_device() == RIG_CUDA_DETERMINISTIC ? HELLO_DETERMINISTIC : 0,
        .instance = "test"};

    rig_open_order(r, &hello);
}

void rig_open_order(struct rig *r, const struct order_hello *hello)
{
    struct error err = {0};
    int fds[2];

    memset(r, 0, sizeof(*r));
    r->seqs = calloc(RIG_SEQS, sizeof(*r->seqs));
    assert_non_null(r->seqs);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    r->fd = fds[0];
    r->e = engine_create(fds[1], hello, &err);
    if (r->e == NULL)
        fail_msg("engine: %s", err.text);
    rig_events(r);
    assert_int_equal(r->ready.version, ORDER_VERSION);
}

void rig_assert_empty(struct rig *r)
{
    struct error err = {0};

    assert_int_equal(r->e->sequences.count, 0);
    assert_int_equal(pages_live(r->e->pages), 0);
    assert_int_equal(arena_held(r->e->arena, ARENA_KV), 0);
    if (pages_check(r->e->pages, &err) != 0)
        fail_msg("%s", err.text);
}

void rig_close(struct rig *r)
{
    int fd = r->e->channel.fd;

    sequence_list_clear(&r->e->sequences);
    while (prefix_evict(r->e->prefixes))
        ;
    assert_int_equal(r->e->prefixes->count, 0);
    rig_assert_empty(r);
    for (uint32_t i = 0; i < r->e->residency.count; i++)
        residency_unload(&r->e->residency, r->e->residency.models[i]);
    assert_int_equal(arena_held(r->e->arena, ARENA_FREE), arena_handles(r->e->arena));
    engine_destroy(r->e);
    close(fd);
    close(r->fd);
    free(r->seqs);
}

static void take_rows(struct rig *r, const struct event_step *event, ssize_t len)
{
    assert_int_equal((size_t)len, sizeof(*event) + (size_t)event->count * sizeof(struct event_row));
    r->steps++;
    if (event->batch > r->widest_batch)
        r->widest_batch = event->batch;
    for (uint32_t i = 0; i < event->count; i++) {
        const struct event_row *row = &event->rows[i];
        assert_true(row->seq < RIG_SEQS);
        struct rig_seq *s = &r->seqs[row->seq];
        assert_true(s->count < RIG_TOKENS);
        assert_int_equal(s->finish, FINISH_NONE);
        if (s->next_position != 0)
            assert_int_equal(row->position, s->next_position);
        s->next_position = row->position + 1;
        s->tokens[s->count++] = row->token;
        s->finish = row->finish;
        s->prefilled += row->prefilled;
        s->cached += row->cached;
    }
}

static void take_master(struct rig *r, const struct event_master *event)
{
    assert_true(event->state < 4);
    r->masters[event->state]++;
    if (event->state != MASTER_PROGRESS)
        r->master = *event;
}

void rig_events(struct rig *r)
{
    _Alignas(8) static unsigned char buffer[ORDER_BYTES_MAX];
    uint32_t kind;
    ssize_t n;

    while ((n = recv(r->fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
        const struct event_seq_fault *fault = (const void *)buffer;
        const struct event_residency *residency = (const void *)buffer;
        memcpy(&kind, buffer, sizeof(kind));
        switch (kind) {
        case EVENT_READY:
            memcpy(&r->ready, buffer, sizeof(r->ready));
            break;
        case EVENT_MODEL:
            memcpy(&r->model, buffer, sizeof(r->model));
            break;
        case EVENT_MASTER:
            take_master(r, (const void *)buffer);
            break;
        case EVENT_RESIDENCY:
            r->residency = *residency;
            if (residency->resident)
                r->came++;
            else
                r->went++;
            break;
        case EVENT_STEP:
            take_rows(r, (const void *)buffer, n);
            break;
        case EVENT_LOGPROBS:
            assert_int_equal(n, sizeof(struct event_logprobs));
            assert_non_null(r->on_logprobs);
            r->on_logprobs(r, (const void *)buffer);
            break;
        case EVENT_SEQ_FAULT:
            assert_true(fault->seq < RIG_SEQS);
            memcpy(r->seqs[fault->seq].fault, fault->text, ORDER_TEXT_MAX - 1);
            break;
        case EVENT_SEQ_MOVED:
            memcpy(&r->moved, buffer, sizeof(r->moved));
            r->spilled += r->moved.out;
            r->fetched += !r->moved.out;
            break;
        case EVENT_TURN_END:
            memcpy(&r->turn_end, buffer, sizeof(r->turn_end));
            r->turns_ended++;
            break;
        default:
            fail_msg("event of kind %u", kind);
        }
    }
}

void rig_order(struct rig *r, const void *order, int fd)
{
    const struct channel_files files = {.count = fd >= 0, .fds = {fd}};

    assert_int_equal(engine_order(r->e, order, &files), 0);
    rig_events(r);
}

void rig_model(struct rig *r, uint32_t id, const char *path, uint32_t max_context)
{
    struct order_model order = {
        .kind = ORDER_MODEL, .model = id, .max_context = max_context, .flags = r->flags};
    struct channel_files files = {0};
    struct source_files opened;
    struct error err = {0};

    if (source_files_open(path, &opened, &err) != 0)
        fail_msg("%s", err.text);
    source_files_for_engine(&opened);
    for (uint32_t i = 0; i < opened.count; i++) {
        order.kinds[i] = (uint8_t)opened.files[i].kind;
        files.fds[files.count++] = opened.files[i].fd;
    }
    order.files = files.count;
    snprintf(order.name, sizeof(order.name), "model-%u", id);
    memset(&r->model, 0, sizeof(r->model));
    assert_int_equal(engine_order(r->e, &order, &files), 0);
    rig_events(r);
    assert_int_equal(r->model.kind, EVENT_MODEL);
    assert_int_equal(r->model.model, id);
    source_files_close(&opened);
}

static void cut_pages(struct kv_layout *kv, uint32_t tokens, uint64_t bytes)
{
    kv->layer_bytes = kv->layer_bytes / kv->page_tokens * tokens;
    kv->page_tokens = tokens;
    kv->page_bytes = kv->layers * kv->layer_bytes;
    if (kv->layers == 0)
        return;
    assert_true(bytes == 0 || bytes >= kv->page_bytes);
    kv->page_bytes = bytes != 0 ? bytes : kv->page_bytes;
}

void rig_pages(struct rig *r, uint32_t page_tokens, uint64_t bytes, uint64_t local_bytes)
{
    struct engine *e = r->e;
    struct model *m = e->residency.models[e->residency.count - 1];
    struct error err = {0};

    cut_pages(&m->kv, page_tokens, bytes);
    cut_pages(&m->kv_local, page_tokens, local_bytes);
    /* Smaller pages are more of them in a table; graphs have the shape in them. */
    m->graphs_generation = 0;
    if (flight_fit(&e->flight, m, &err) != 0)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < e->residency.count; i++)
        if (step_record(&e->flight, e->residency.models[i], &e->workspace, &err) != 0)
            fail_msg("%s", err.text);
}

static void give_tokens(struct rig *r, uint64_t seq, const uint32_t *tokens, uint32_t offset,
                        uint32_t count)
{
    struct order_tokens *order = malloc(sizeof(*order) + count * sizeof(uint32_t));

    assert_non_null(order);
    order->kind = ORDER_SEQ_TOKENS;
    order->count = count;
    order->seq = seq;
    order->offset = offset;
    memcpy(order->tokens, tokens, count * sizeof(uint32_t));
    rig_order(r, order, -1);
    free(order);
}

static void give_biases(struct rig *r, uint64_t seq)
{
    size_t bytes = r->bias_count * sizeof(*r->biases);
    struct order_bias *order = malloc(sizeof(*order) + bytes);

    assert_non_null(order);
    *order = (struct order_bias){.kind = ORDER_SEQ_BIAS, .count = r->bias_count, .seq = seq};
    memcpy(order->biases, r->biases, bytes);
    rig_order(r, order, -1);
    free(order);
}

void rig_seq(struct rig *r, uint64_t seq, uint32_t model, const uint32_t *prompt, uint32_t count,
             uint32_t generated, uint32_t max_tokens, uint32_t flags)
{
    struct order_seq order = {
        .kind = ORDER_SEQ_OPEN,
        .model = model,
        .seq = seq,
        .tokens = count + generated,
        .generated = generated,
        .max_tokens = max_tokens,
        .sharing = r->sharing,
        .urgent = r->urgent,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = flags},
        .logprobs = r->logprobs,
        .biases = r->bias_count,
    };
    uint32_t half = count / 2;

    rig_order(r, &order, -1);
    if (r->bias_count > 0)
        give_biases(r, seq);
    if (half > 0)
        give_tokens(r, seq, prompt, 0, half);
    give_tokens(r, seq, prompt + half, half, count - half);
    if (generated > 0)
        give_tokens(r, seq, r->seqs[seq].tokens, count, generated);
}

void rig_ref(struct rig *r, enum order_kind kind, uint32_t model, uint64_t seq)
{
    struct order_ref order = {.kind = kind, .model = model, .seq = seq};

    rig_order(r, &order, -1);
}

void rig_queue_order(struct rig *r, struct order_turn order)
{
    order.kind = ORDER_TURN;
    order.turn = ++r->turn;
    rig_order(r, &order, -1);
}

void rig_queue(struct rig *r, uint32_t model, uint32_t quota_steps, uint64_t quota_us)
{
    rig_queue_order(
        r, (struct order_turn){.model = model, .quota_us = quota_us, .quota_steps = quota_steps});
}

void rig_run(struct rig *r)
{
    uint32_t ended = r->turns_ended;

    while (r->turns_ended == ended) {
        assert_true(r->e->turn_count > 0);
        assert_false(r->e->gone);
        swap_advance(&r->e->swap, r->swap_piece == 0 ? SWAP_PIECE : r->swap_piece);
        turn_advance(r->e);
        rig_events(r);
    }
}

void rig_turn(struct rig *r, uint32_t model, uint32_t quota_steps)
{
    rig_queue(r, model, quota_steps, 0);
    rig_run(r);
    assert_int_equal(r->turn_end.turn, r->turn);
}

void rig_reset(struct rig *r, uint64_t seq)
{
    memset(&r->seqs[seq], 0, sizeof(r->seqs[seq]));
}
