/* step.c - building and running one step */
#include "engine/step.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int step_fit(struct step *st, const struct model *m, uint32_t max_batch, struct error *err)
{
    uint64_t pages = ((uint64_t)m->max_context + m->kv.page_tokens - 1) / m->kv.page_tokens;
    uint64_t room = pages * max_batch * (m->kv_local.layers != 0 ? 2 : 1);
    void **table;

    if (room <= st->table_room)
        return 0;
    table = realloc(st->table, room * sizeof(*table));
    if (table == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for page tables of %" PRIu64 " pages", room);
    st->table = table;
    st->table_room = room;
    return 0;
}

void step_clear(struct step *st)
{
    free(st->table);
    memset(st, 0, sizeof(*st));
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

/* One kind of pages of the first `pages` of a sequence, behind the tables so far. */
static uint32_t add_table(struct step *st, const struct page_list *p, uint32_t pages,
                          uint64_t *table)
{
    uint64_t at = *table;

    memcpy(st->table + at, p->pages, pages * sizeof(*p->pages));
    *table += pages;
    return (uint32_t)at;
}

/* Rows of one sequence: its next n tokens. */
static void add_run(struct step *st, struct sequence *s, uint32_t n, uint64_t *table)
{
    struct attn_row *run = &st->runs[st->run_count], *local = &st->local_runs[st->run_count];
    uint32_t pages = (s->computed + n + s->model->kv.page_tokens - 1) / s->model->kv.page_tokens;

    *run = (struct attn_row){.first_row = st->rows, .count = n, .first_pos = s->computed};
    *local = *run;
    run->table = add_table(st, &s->caches[0], pages, table);
    if (s->model->kv_local.layers != 0)
        local->table = add_table(st, &s->caches[1], pages, table);
    memcpy(st->tokens + st->rows, s->tokens + s->computed, n * sizeof(*s->tokens));
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
                    uint64_t *table, struct sequence_list *seqs, struct residency *r,
                    uint32_t rows_max)
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
        add_run(st, s, n, table);
    }
    return 0;
}

enum step_result step_build(struct step *st, struct model *m, struct sequence_list *seqs,
                            struct residency *r, uint32_t max_batch, uint32_t rows_max)
{
    struct sequence *batch[STEP_ROWS_MAX];
    struct sequence *s;
    uint32_t count = 0;
    uint64_t table = 0;

    st->model = m;
    st->rows = st->run_count = st->head_count = st->prefill_tokens = 0;
    TAILQ_FOREACH(s, &seqs->queue, link)
    {
        if (count == max_batch || count == STEP_ROWS_MAX)
            break;
        if (s->model == m && sequence_ready(s))
            batch[count++] = s;
    }
    if (count == 0)
        return STEP_IDLE;
    if (add_runs(st, batch, count, 1, &table, seqs, r, rows_max) != 0 ||
        add_runs(st, batch, count, 0, &table, seqs, r, rows_max) != 0)
        return STEP_KV_FULL;
    return STEP_READY;
}

void step_run(struct step *st, struct device *d, struct workspace *w)
{
    struct forward_input in = {.rows = st->rows,
                               .tokens = st->tokens,
                               .seqs = st->runs,
                               .local_seqs = st->local_runs,
                               .seq_count = st->run_count,
                               .pages = st->table,
                               .head_rows = st->head_rows,
                               .head_count = st->head_count};

    forward_run(d, st->model, w, &in);
    for (uint32_t i = 0; i < st->run_count; i++) {
        struct sequence *s = st->members[i];
        uint32_t before = s->computed;
        s->computed += st->runs[i].count;
        if (before < s->prompt)
            s->prefilled += (s->computed < s->prompt ? s->computed : s->prompt) - before;
    }
}
