/* step.c - building and running one step */
#include "engine/step.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "engine/group.h"
#include "engine/room.h"
#include "engine/share.h"

static struct plan plan_at(const struct flight *f, uint8_t *base)
{
    struct plan p;

    p.tokens = (uint32_t *)(void *)base;
    base += ((uint64_t)f->rows_max * sizeof(*p.tokens) + 63) / 64 * 64;
    p.runs = (struct attn_row *)(void *)base;
    p.local_runs = p.runs + STEP_BATCH_MAX;
    p.samples = (struct sample *)(void *)(p.local_runs + STEP_BATCH_MAX);
    p.table = (void **)(void *)(p.samples + STEP_BATCH_MAX);
    return p;
}

/* Bytes of a plan with so many entries in its tables. */
static uint64_t plan_size(const struct flight *f, uint64_t entries)
{
    return ((uint64_t)f->rows_max * sizeof(uint32_t) + 63) / 64 * 64 +
           STEP_BATCH_MAX * (2 * sizeof(struct attn_row) + sizeof(struct sample)) +
           entries * sizeof(void *);
}

static uint64_t table_entries(const struct kv_layout *kv, uint64_t tokens)
{
    return kv->layers == 0 ? 0 : (tokens + kv->page_tokens - 1) / kv->page_tokens;
}

int flight_open(struct flight *f, struct device *d, uint32_t rows_max, uint32_t max_batch,
                struct error *err)
{
    memset(f, 0, sizeof(*f));
    f->device = d;
    f->rows_max = rows_max;
    f->max_batch = max_batch;
    f->depth = 1;
    if (device_kind(d) == DEVICE_CPU)
        return 0;
    f->depth = STEP_FLIGHT_MAX;
    f->picked = device_alloc(d, STEP_BATCH_MAX * sizeof(*f->picked), err);
    if (f->picked == NULL)
        return -1;
    for (uint32_t i = 0; i < f->depth; i++) {
        f->steps[i].picks = device_host_alloc(d, STEP_BATCH_MAX * sizeof(*f->picked), err);
        if (f->steps[i].picks == NULL)
            return -1;
    }
    return 0;
}

static void close_plans(struct flight *f)
{
    if (f->there.tokens != f->steps[0].plan.tokens)
        device_free(f->device, f->there.tokens);
    for (uint32_t i = 0; i < f->depth; i++) {
        device_host_free(f->device, f->steps[i].plan.tokens);
        memset(&f->steps[i].plan, 0, sizeof(f->steps[i].plan));
    }
    memset(&f->there, 0, sizeof(f->there));
    f->plan_bytes = 0;
}

static void close_logits(struct flight *f)
{
    for (uint32_t i = 0; f->picked != NULL && i < f->depth; i++) {
        device_host_free(f->device, f->steps[i].logits);
        f->steps[i].logits = NULL;
    }
    f->logits_bytes = 0;
}

void flight_close(struct flight *f)
{
    if (f->device == NULL)
        return;
    close_plans(f);
    close_logits(f);
    for (uint32_t i = 0; i < f->depth; i++)
        device_host_free(f->device, f->steps[i].picks);
    device_free(f->device, f->picked);
    memset(f, 0, sizeof(*f));
}

static int fit_plans(struct flight *f, uint64_t bytes, struct error *err)
{
    uint8_t *p;

    if (bytes <= f->plan_bytes)
        return 0;
    close_plans(f);
    for (uint32_t i = 0; i < f->depth; i++) {
        p = device_host_alloc(f->device, bytes, err);
        if (p == NULL)
            return -1;
        f->steps[i].plan = plan_at(f, p);
    }
    f->there = f->steps[0].plan;
    if (f->picked != NULL) {
        p = device_alloc(f->device, bytes, err);
        if (p == NULL)
            return -1;
        f->there = plan_at(f, p);
    }
    f->plan_bytes = bytes;
    f->generation++;
    return 0;
}

/* A CPU's sampler reads them where they were computed. */
static int fit_logits(struct flight *f, uint64_t bytes, struct error *err)
{
    if (f->picked == NULL || bytes <= f->logits_bytes)
        return 0;
    close_logits(f);
    for (uint32_t i = 0; i < f->depth; i++) {
        f->steps[i].logits = device_host_alloc(f->device, bytes, err);
        if (f->steps[i].logits == NULL)
            return -1;
    }
    f->logits_bytes = bytes;
    return 0;
}

int flight_fit(struct flight *f, const struct model *m, struct error *err)
{
    uint64_t entries =
        (table_entries(&m->kv, m->max_context) + table_entries(&m->kv_local, m->max_context)) *
        f->max_batch;
    uint64_t logits = (uint64_t)f->max_batch * m->arch.vocabulary * sizeof(float);

    if (fit_plans(f, plan_size(f, entries), err) != 0 || fit_logits(f, logits, err) != 0)
        return -1;
    return 0;
}

void flight_forget(struct flight *f, const struct sequence *s)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct step *st = &f->steps[(f->first + i) % f->depth];
        for (uint32_t j = 0; j < st->run_count; j++)
            if (st->members[j] == s)
                st->members[j] = NULL;
        for (uint32_t j = 0; j < st->head_count; j++)
            if (st->head_members[j] == s)
                st->head_members[j] = NULL;
    }
}

int flight_has(const struct flight *f, const struct sequence *s)
{
    for (uint32_t i = 0; i < f->count; i++) {
        const struct step *st = &f->steps[(f->first + i) % f->depth];
        for (uint32_t j = 0; j < st->run_count; j++)
            if (st->members[j] == s)
                return 1;
    }
    return 0;
}

struct step *flight_next(struct flight *f)
{
    return &f->steps[(f->first + f->count) % f->depth];
}

/* Pages for the sequence's first `tokens` positions, at the cost of others' weights. */
static int reserve(struct sequence_list *seqs, struct sequence *s, uint32_t tokens,
                   struct residency *r)
{
    while (sequence_reserve(seqs, s, tokens) != 0)
        if (!room_for_page(seqs) && !residency_evict(r, s->model, NULL))
            return -1;
    return 0;
}

/* One kind of pages of the first `tokens` positions of a sequence, behind the tables so far. */
static uint32_t add_table(struct step *st, const struct page_list *p, const struct kv_layout *kv,
                          uint64_t tokens)
{
    uint64_t at = st->table_used, pages = table_entries(kv, tokens);

    memcpy(st->plan.table + at, p->pages, pages * sizeof(*p->pages));
    st->table_used += pages;
    return (uint32_t)at;
}

/* Its last row gives the sequence's next token. */
static void add_head(struct step *st, struct sequence *s)
{
    const struct order_sampling *o = &s->sampling;

    st->plan.samples[st->head_count] = (struct sample){.seed = o->seed,
                                                       .position = s->count + s->pending,
                                                       .top_k = o->top_k,
                                                       .temperature = o->temperature,
                                                       .top_p = o->top_p,
                                                       .min_p = o->min_p};
    st->head_rows[st->head_count] = st->rows - 1;
    st->head_members[st->head_count++] = s;
}

/* Rows of one sequence: its next n tokens.  One that is pending is the last of them. */
static void add_run(struct step *st, struct sequence *s, uint32_t n)
{
    struct attn_row *run = &st->plan.runs[st->run_count];
    uint32_t known = s->count - s->computed;

    *run = (struct attn_row){.first_row = st->rows, .count = n, .first_pos = s->computed};
    memcpy(st->plan.tokens + st->rows, s->tokens + s->computed,
           (n < known ? n : known) * sizeof(*s->tokens));
    if (n > known) {
        st->plan.tokens[st->rows + known] = SAMPLE_FED + s->fed;
        st->fed++;
    }
    st->members[st->run_count++] = s;
    if (s->computed < s->prompt) {
        uint32_t left = s->prompt - s->computed;
        st->prefill_tokens += n < left ? n : left;
    }
    st->rows += n;
    st->longest = n > st->longest ? n : st->longest;
    if (n == known + s->pending)
        add_head(st, s);
}

/* Another one of this step computes what it needs next: it takes that over in the next step. */
static int follows_another(const struct step *st, const struct sequence *s)
{
    for (uint32_t i = 0; i < st->run_count; i++)
        if (share_follows(s, st->members[i], st->plan.runs[i].count))
            return 1;
    return 0;
}

/* One pass over the batch: the decoding ones, or the others.  -1: no page for *s. */
static int add_runs(struct step *st, struct sequence **batch, uint32_t count, int decoding,
                    struct sequence_list *seqs, struct residency *r, uint32_t rows_max)
{
    for (uint32_t i = 0; i < count && st->rows < rows_max; i++) {
        struct sequence *s = batch[i];
        uint32_t n = s->count + s->pending - s->computed;
        if ((n == 1) != decoding || (!decoding && follows_another(st, s)))
            continue;
        if (n > rows_max - st->rows)
            n = rows_max - st->rows;
        if (reserve(seqs, s, s->computed + n, r) != 0) {
            st->members[0] = s;
            return -1;
        }
        add_run(st, s, n);
    }
    return 0;
}

/* The runs' page tables, once all pages are taken: taking one may have moved others. */
static void add_tables(struct step *st)
{
    for (uint32_t i = 0; i < st->run_count; i++) {
        const struct sequence *s = st->members[i];
        struct attn_row *run = &st->plan.runs[i], *local = &st->plan.local_runs[i];
        uint64_t tokens = s->computed + run->count;
        *local = *run;
        run->table = add_table(st, &s->caches[0], &s->model->kv, tokens);
        if (s->model->kv_local.layers != 0)
            local->table = add_table(st, &s->caches[1], &s->model->kv_local, tokens);
    }
}

static int is_chosen(const struct step_choice *c, const struct sequence *s)
{
    if (sequence_decodes(s))
        return (c->phases & ORDER_DECODE) != 0;
    return (c->phases & ORDER_PREFILL) != 0 && (c->turn == 0 || s->turn == c->turn);
}

int step_any(const struct sequence_list *seqs, const struct model *m,
             const struct step_choice *choice)
{
    const struct sequence *s;

    TAILQ_FOREACH(s, &seqs->queue, link)
    {
        if (s->model == m && sequence_ready(s) && is_chosen(choice, s))
            return 1;
    }
    return 0;
}

enum step_result step_build(struct flight *f, struct step *st, struct model *m,
                            struct sequence_list *seqs, struct residency *r,
                            const struct step_choice *choice)
{
    struct sequence *batch[STEP_BATCH_MAX];
    struct sequence *s;
    uint32_t count = 0, places = 0, rows_max = choice->rows_max;

    st->model = m;
    st->rows = st->run_count = st->head_count = st->prefill_tokens = 0;
    st->longest = st->fed = 0;
    st->table_used = 0;
    TAILQ_FOREACH(s, &seqs->queue, link)
    {
        if (places == f->max_batch || places == STEP_BATCH_MAX)
            break;
        /* One that waits for its token to be picked keeps its place. */
        if (s->model == m && sequence_ready(s) && is_chosen(choice, s)) {
            places++;
            if (!sequence_runnable(s))
                continue;
            share_attach(seqs, s);
            batch[count++] = s;
        }
    }
    if (count == 0)
        return STEP_IDLE;
    if (add_runs(st, batch, count, 1, seqs, r, rows_max) != 0)
        return STEP_KV_FULL;
    if (st->rows > 0 && choice->chunk != 0 && choice->chunk < rows_max - st->rows)
        rows_max = st->rows + choice->chunk;
    if (add_runs(st, batch, count, 0, seqs, r, rows_max) != 0)
        return STEP_KV_FULL;
    add_tables(st);
    return STEP_READY;
}

static void describe(const struct flight *f, struct forward_input *in, uint32_t rows,
                     uint32_t seq_count, uint32_t longest)
{
    *in = (struct forward_input){.rows = rows,
                                 .tokens = f->there.tokens,
                                 .all = {.seqs = f->there.runs,
                                         .pages = f->there.table,
                                         .seq_count = seq_count,
                                         .rows = rows,
                                         .longest = longest}};
    in->local = in->all;
    in->local.seqs = f->there.local_runs;
}

static void send_plan(struct flight *f, const struct step *st)
{
    /* As it is, up to the last table entry in use. */
    if (f->there.tokens != st->plan.tokens)
        device_copy_now(f->device, f->there.tokens, st->plan.tokens, plan_size(f, st->table_used));
}

void step_input(struct flight *f, struct step *st, struct forward_input *in)
{
    send_plan(f, st);
    describe(f, in, st->rows, st->run_count, st->longest);
    in->plan = (const uint8_t *)st->plan.tokens;
    in->plan_bytes = plan_size(f, st->table_used);
    in->table_at = plan_size(f, 0);
    in->slot = (uint32_t)(st - f->steps);
    in->fed = st->fed > 0;
    in->head_rows = st->head_rows;
    in->head_count = st->head_count;
}

void step_advance(struct step *st, struct sequence_list *seqs)
{
    for (uint32_t i = 0; i < st->run_count; i++) {
        struct sequence *s = st->members[i];
        uint32_t before = s->computed;
        s->computed += st->plan.runs[i].count;
        if (before < s->prompt)
            s->prefilled += (s->computed < s->prompt ? s->computed : s->prompt) - before;
        share_publish(seqs, s);
    }
    for (uint32_t i = 0; i < st->head_count; i++) {
        st->head_members[i]->pending++;
        st->head_members[i]->fed = i;
    }
}

/* Rows up to the graph's size that are nobody's: tokens of no sequence. */
static void pad(struct step *st, uint32_t size)
{
    for (uint32_t i = st->rows; i < size; i++) {
        st->plan.tokens[i] = 0;
        st->plan.runs[i] = st->plan.local_runs[i] = (struct attn_row){0};
        st->plan.samples[i] = (struct sample){0};
    }
}

static void ask_picks(struct flight *f, const struct workspace *w, uint32_t vocabulary,
                      uint32_t heads)
{
    k_sample(f->device, f->picked, w->logits, f->there.samples, heads, vocabulary);
}

static const uint32_t graph_sizes[MODEL_GRAPHS] = {
    1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, STEP_BATCH_MAX};

uint32_t step_heads(uint32_t max_batch)
{
    uint32_t i = 0;

    while (i + 1 < MODEL_GRAPHS && graph_sizes[i] < max_batch)
        i++;
    return graph_sizes[i];
}

/* The model's graph for a step in which every row decodes; NULL: there is none. */
static struct graph *find_graph(const struct step *st, uint32_t *size)
{
    if (st->longest != 1 || st->head_count != st->rows)
        return NULL;
    for (uint32_t i = 0; i < MODEL_GRAPHS; i++) {
        *size = graph_sizes[i];
        if (st->rows <= *size && st->model->graphs[i] != NULL)
            return st->model->graphs[i];
    }
    return NULL;
}

/* What a graph of `size` decoding rows does. */
static void run_padded(struct flight *f, const struct model *m, struct workspace *w, uint32_t size)
{
    uint32_t rows[STEP_BATCH_MAX];
    struct forward_input in;

    for (uint32_t i = 0; i < size; i++)
        rows[i] = i;
    describe(f, &in, size, size, 1);
    in.head_rows = rows;
    in.head_count = size;
    k_feed(f->device, f->there.tokens, f->picked, size);
    forward_run(m, w, &in);
    ask_picks(f, w, m->arch.vocabulary, size);
}

void step_launch(struct flight *f, struct step *st, struct sequence_list *seqs, struct workspace *w)
{
    struct device *d = f->device;
    uint64_t vocabulary = st->model->arch.vocabulary;
    struct forward_input in;
    uint32_t size;
    struct graph *g = find_graph(st, &size);

    st->asked_us = clock_monotonic_us();
    st->loading = st->model->arriving != NULL;
    if (g != NULL) {
        pad(st, size);
        send_plan(f, st);
        if (st->loading) /* a graph does not wait for parts of the weights */
            run_padded(f, st->model, w, size);
        else
            device_replay(d, g);
    } else {
        step_input(f, st, &in);
        if (st->fed > 0)
            k_feed(d, f->there.tokens, f->picked, st->rows);
        if (f->group != NULL) { /* whose ranks all need the picks */
            in.picked = f->picked;
            in.samples = f->there.samples;
        }
        forward_run(st->model, w, &in);
        if (f->group == NULL && f->picked != NULL && st->head_count > 0)
            ask_picks(f, w, (uint32_t)vocabulary, st->head_count);
    }
    if (f->picked == NULL)
        st->logits = w->logits;
    else
        device_copy_now(d, st->picks, f->picked, st->head_count * sizeof(*st->picks));
    for (uint32_t i = 0; f->picked != NULL && i < st->head_count; i++)
        if (sequence_host_sampled(st->head_members[i]))
            device_copy_now(d, st->logits + i * vocabulary, w->logits + i * vocabulary,
                            vocabulary * sizeof(float));
    device_mark(d, (uint32_t)(st - f->steps));
    f->count++;
    step_advance(st, seqs);
}

int step_wait(struct flight *f, struct step **st, struct error *err)
{
    *st = &f->steps[f->first];
    device_wait(f->device, f->first);
    f->first = (f->first + 1) % f->depth;
    f->count--;
    if (f->group != NULL && group_failed(f->group, err) != 0)
        return -1;
    return device_failed(f->device, err);
}

/* A graph of `size` decoding rows. */
static struct graph *record(struct flight *f, const struct model *m, struct workspace *w,
                            uint32_t size, struct error *err)
{
    if (device_record(f->device, err) != 0)
        return NULL;
    run_padded(f, m, w, size);
    return device_recorded(f->device, err);
}

int step_record(struct flight *f, struct model *m, struct workspace *w, struct error *err)
{
    uint64_t generation = f->generation + w->generation;

    if (f->picked == NULL || f->group != NULL || m->graphs_generation == generation)
        return 0;
    for (uint32_t i = 0; i < MODEL_GRAPHS; i++) {
        device_graph_free(f->device, m->graphs[i]);
        m->graphs[i] = NULL;
    }
    for (uint32_t i = 0; i < MODEL_GRAPHS && graph_sizes[i] <= step_heads(f->max_batch); i++) {
        m->graphs[i] = record(f, m, w, graph_sizes[i], err);
        if (m->graphs[i] == NULL)
            return -1;
    }
    m->graphs_generation = generation;
    return 0;
}
