/* generation_text.c - from tokens to text to events; see generation_state.h */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "daemon/generation_state.h"

void generation_set_state(struct generation *g, enum generation_state state)
{
    if (g->state == HELD)
        g->all->held--;
    if (state == HELD)
        g->all->held++;
    g->state = state;
}

struct openai_answer generation_answer(const struct generation *g)
{
    return (struct openai_answer){
        .kind = g->request.kind,
        .id = g->id,
        .model = g->all->f->config->models[g->model].name,
        .created = g->created,
    };
}

static int keep(struct generation *g, const char *text, size_t len, struct error *err)
{
    if (len == 0)
        return 0;
    if (len > g->text_room - g->text_len) {
        size_t room = (g->text_len + len) * 2 + 256;
        char *t = realloc(g->text, room);
        if (!t)
            return error_set(err, STATUS_NOMEM, "out of memory");
        g->text = t;
        g->text_room = room;
    }
    memcpy(g->text + g->text_len, text, len);
    g->text_len += len;
    return 0;
}

json_t *generation_text_chunk(const struct generation *g, const char *text, size_t len)
{
    struct openai_answer a = generation_answer(g);
    struct openai_usage usage = {g->prompt_count, g->completion};
    json_t *chunk = openai_text_chunk(&a, text, len, g->request.include_usage);

    return g->request.continuous_usage ? openai_chunk_with_usage(chunk, &usage) : chunk;
}

static int emit(struct generation *g, const char *text, size_t len, struct error *err)
{
    if (len == 0 && !(g->request.stream && g->request.continuous_usage))
        return 0; /* no event says nothing */
    if (!g->request.stream)
        return keep(g, text, len, err);
    if (g->detokenizer.pending_len == 0 && stop_held(&g->request.stop) == 0)
        g->whole = g->completion;
    return stream_event(&g->stream, generation_text_chunk(g, text, len), g->whole, err);
}

/* Text that ends the answer waits for the ledger's commit, with what was held back. */
int generation_keep_rest(struct generation *g, struct error *err)
{
    const char *out;
    size_t out_len;
    size_t n = detokenizer_flush(&g->detokenizer, g->piece, g->piece_room);
    int stopped = stop_push(&g->request.stop, g->piece, n, &out, &out_len, err);

    if (stopped < 0 || keep(g, out, out_len, err))
        return -1;
    if (stopped == 0) {
        stop_flush(&g->request.stop, &out, &out_len);
        return keep(g, out, out_len, err);
    }
    return 0;
}

void generation_finish(struct generation *g, const char *word)
{
    g->outcome = DONE;
    g->finish = word;
    generation_set_state(g, ENDING);
}

static int begin_stream(struct generation *g, struct error *err)
{
    struct openai_answer a = generation_answer(g);

    if (!g->request.stream || g->request.kind != OPENAI_CHAT)
        return 0;
    return stream_event(&g->stream, openai_role_chunk(&a, g->request.include_usage), 0, err);
}

static void observe(struct generation *g)
{
    int64_t now = clock_monotonic_us();

    if (g->completion == 1) {
        g->row.ttft_us = now - g->arrived_us;
        metrics_first_token(g->all->metrics, g->model, now - g->arrived_us);
    } else {
        metrics_next_token(g->all->metrics, g->model, now - g->last_us);
    }
    g->last_us = now;
}

/* One token of a running generation: 0, or -1 if it cannot go on. */
int generation_take_token(struct generation *g, const struct event_row *row, struct error *err)
{
    const struct front_model *fm = &g->all->f->models[g->model];
    const char *out;
    size_t out_len;

    if (leases_charge(g->all->f->leases, g->grant, 1, NULL)) { /* other requests used it up */
        policy_stop(g->all->f->policy, g->seq);
        generation_finish(g, "length");
        return generation_keep_rest(g, err);
    }
    g->completion++;
    observe(g);
    if (g->completion == 1 && begin_stream(g, err))
        return -1;
    size_t n =
        detokenizer_push(&g->detokenizer, fm->tokenizer, row->token, g->piece, g->piece_room);
    int stopped = stop_push(&g->request.stop, g->piece, n, &out, &out_len, err);
    if (stopped < 0 || emit(g, out, out_len, err))
        return -1;
    if (stopped) {
        if (row->finish == FINISH_NONE)
            policy_stop(g->all->f->policy, g->seq);
        generation_finish(g, "stop");
    } else if (row->finish != FINISH_NONE) {
        generation_finish(g, row->finish == FINISH_STOP ? "stop" : "length");
        return generation_keep_rest(g, err);
    }
    return 0;
}
