/* step.c - building and running one step */
#include "engine/step.h"

#include <inttypes.h>
#include <string.h>

void step_init(struct step *st, struct device *d, uint32_t rows_max)
{
    memset(st, 0, sizeof(*st));
    st->device = d;
    st->rows_max = rows_max;
}

static struct plan plan_at(const struct step *st, uint8_t *base)
{
    struct plan p;

    p.tokens = (uint32_t *)(void *)base;
    base += ((uint64_t)st->rows_max * sizeof(*p.tokens) + 63) / 64 * 64;
    p.runs = (struct attn_row *)(void *)base;
    p.local_runs = p.runs + STEP_BATCH_MAX;
    p.table = (void **)(void *)(p.local_runs + STEP_BATCH_MAX);
    return p;
}

/* Bytes of a plan with so many entries in its tables. */
static uint64_t plan_size(const struct step *st, uint64_t entries)
{
    return ((uint64_t)st->rows_max * sizeof(uint32_t) + 63) / 64 * 64 +
           2 * STEP_BATCH_MAX * sizeof(struct attn_row) + entries * sizeof(void *);
}

static uint64_t table_entries(const struct kv_layout *kv, uint64_t tokens)
{
    return kv->layers == 0 ? 0 : (tokens + kv->page_tokens - 1) / kv->page_tokens;
}

int step_fit(struct step *st, const struct model *m, uint32_t max_batch, struct error *err)
{
    uint64_t room =
        (table_entries(&m->kv, m->max_context) + table_entries(&m->kv_local, m->max_context)) *
        max_batch;
    uint64_t bytes = plan_size(st, room);
    uint8_t *host, *there;

    if (bytes <= st->plan_bytes)
        return 0;
    host = device_host_alloc(st->device, bytes, err);
    if (host == NULL)
        return -1;
    there = host;
    if (device_kind(st->device) != DEVICE_CPU)
        there = device_alloc(st->device, bytes, err);
    if (there == NULL) {
        device_host_free(st->device, host);
        return -1;
    }
    step_clear(st);
    st->host = plan_at(st, host);
    st->there = plan_at(st, there);
    st->plan_bytes = bytes;
    st->table_room = room;
    return 0;
}

void step_clear(struct step *st)
{
    if (st->plan_bytes == 0)
        return;
    if (st->there.tokens != st->host.tokens)
        device_free(st->device, st->there.tokens);
    device_host_free(st->device, st->host.tokens);
    st->plan_bytes = 0;
}

/* Pages for the sequence's first `tokens` positions, at the cost of others' weights. */
static int reserve(struct sequence_list *seqs, struct sequence *s, uint32_t tokens,
                   struct residency *r)
{
    while (sequence_reserve(seqs, s, tokens) != 0)
        if (!residency_evict(r, s->model, NULL))
            return -1;
    return 0;
}

/* One kind of pages of the first `tokens` positions of a sequence, behind the tables so far. */
static uint32_t add_table(struct step *st, const struct page_list *p, const struct kv_layout *kv,
                          uint64_t tokens)
{
    uint64_t at = st->table_used, pages = table_entries(kv, tokens);

    memcpy(st->host.table + at, p->pages, pages * sizeof(*p->pages));
    st->table_used += pages;
    return (uint32_t)at;
}

/* Rows of one sequence: its next n tokens. */
static void add_run(struct step *st, struct sequence *s, uint32_t n)
{
    const struct model *m = s->model;
    struct attn_row *run = &st->host.runs[st->run_count];
    struct attn_row *local = &st->host.local_runs[st->run_count];

    *run = (struct attn_row){.first_row = st->rows, .count = n, .first_pos = s->computed};
    *local = *run;
    run->table = add_table(st, &s->caches[0], &m->kv, s->computed + n);
    if (m->kv_local.layers != 0)
        local->table = add_table(st, &s->caches[1], &m->kv_local, s->computed + n);
    memcpy(st->host.tokens + st->rows, s->tokens + s->computed, n * sizeof(*s->tokens));
    st->members[st->run_count++] = s;
    if (s->computed < s->prompt) {
        uint32_t left = s->prompt - s->computed;
        st->prefill_tokens += n < left ? n : left;
    }
    st->rows += n;
    if (s->computed + n == s->count) {
        st->head_rows[st->head_count] = st->rows - 1;
        st->head_members[st->head_count++] = s;
    }
}

/* One pass over the batch: the decoding ones, or the others.  -1: no page for *s. */
static int add_runs(struct step *st, struct sequence **batch, uint32_t count, int decoding,
                    struct sequence_list *seqs, struct residency *r, uint32_t rows_max)
{
    for (uint32_t i = 0; i < count && st->rows < rows_max; i++) {
        struct sequence *s = batch[i];
        uint32_t n = s->count - s->computed;
        if ((n == 1) != decoding)
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

enum step_result step_build(struct step *st, struct model *m, struct sequence_list *seqs,
                            struct residency *r, uint32_t max_batch, uint32_t rows_max)
{
    struct sequence *batch[STEP_BATCH_MAX];
    struct sequence *s;
    uint32_t count = 0;

    st->model = m;
    st->rows = st->run_count = st->head_count = st->prefill_tokens = 0;
    st->table_used = 0;
    TAILQ_FOREACH(s, &seqs->queue, link)
    {
        if (count == max_batch || count == STEP_BATCH_MAX)
            break;
        if (s->model == m && sequence_ready(s))
            batch[count++] = s;
    }
    if (count == 0)
        return STEP_IDLE;
    if (add_runs(st, batch, count, 1, seqs, r, rows_max) != 0 ||
        add_runs(st, batch, count, 0, seqs, r, rows_max) != 0)
        return STEP_KV_FULL;
    return STEP_READY;
}

void step_input(struct step *st, struct forward_input *in)
{
    /* As it is, up to the last table entry in use. */
    if (st->there.tokens != st->host.tokens)
        device_copy(st->device, st->there.tokens, st->host.tokens, plan_size(st, st->table_used));
    *in = (struct forward_input){.rows = st->rows,
                                 .tokens = st->there.tokens,
                                 .all = {.seqs = st->there.runs,
                                         .pages = st->there.table,
                                         .seq_count = st->run_count,
                                         .rows = st->rows},
                                 .head_rows = st->head_rows,
                                 .head_count = st->head_count};
    for (uint32_t i = 0; i < st->run_count; i++)
        if (st->host.runs[i].count > in->all.longest)
            in->all.longest = st->host.runs[i].count;
    in->local = in->all;
    in->local.seqs = st->there.local_runs;
}

void step_done(struct step *st)
{
    for (uint32_t i = 0; i < st->run_count; i++) {
        struct sequence *s = st->members[i];
        uint32_t before = s->computed;
        s->computed += st->host.runs[i].count;
        if (before < s->prompt)
            s->prefilled += (s->computed < s->prompt ? s->computed : s->prompt) - before;
    }
}

int step_run(struct step *st, struct workspace *w, struct error *err)
{
    struct forward_input in;

    step_input(st, &in);
    forward_run(st->model, w, &in);
    if (device_check(st->device, err) != 0)
        return -1;
    step_done(st);
    return 0;
}
