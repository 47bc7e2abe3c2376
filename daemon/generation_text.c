/* generation_text.c - from tokens to text to events; see generation_state.h */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "daemon/generation_state.h"

#define KEPT_LOGPROBS_MAX 131072u /* of one answer, each some 500 bytes as JSON */

void generation_set_state(struct generation *g, enum generation_state state)
{
    if (g->state == HELD)
        g->all->held--;
    if (state == HELD)
        g->all->held++;
    if (g->state == ASKING)
        g->all->asking--;
    if (state == ASKING)
        g->all->asking++;
    g->state = state;
}

struct openai_answer generation_answer(const struct generation *g, const struct choice *c)
{
    return (struct openai_answer){
        .kind = g->request.kind,
        .id = g->id,
        .model = g->all->f->config->models[g->model].name,
        .created = g->created,
        .index = c ? (uint32_t)(c - g->choices) : 0,
    };
}

uint64_t generation_seq(const struct generation *g, const struct choice *c)
{
    return g->seq + (uint64_t)(c - g->choices) * GENERATIONS_MAX;
}

/* --- text goes out ------------------------------------------------------------------------------
 */

static int keep(struct choice *c, const char *text, size_t len, struct error *err)
{
    c->passed += len;
    if (len == 0)
        return 0;
    if (len > c->text_room - c->text_len) {
        size_t room = (c->text_len + len) * 2 + 256;
        char *t = realloc(c->text, room);
        if (!t)
            return error_set(err, STATUS_NOMEM, "out of memory");
        c->text = t;
        c->text_room = room;
    }
    memcpy(c->text + c->text_len, text, len);
    c->text_len += len;
    return 0;
}

static void count_whole(struct generation *g, struct choice *c)
{
    g->whole += c->completion - c->whole;
    c->whole = c->completion;
}

/* A chunk of text, with the log probabilities of tokens whose text begins before byte `end`, and
 * the tokens by then if they were asked for. */
static int send_text(struct generation *g, struct choice *c, const char *text, size_t len,
                     uint64_t end, uint32_t mark, struct error *err)
{
    const struct tokenizer *t = g->all->f->models[g->model].tokenizer;
    struct openai_answer a = generation_answer(g, c);
    json_t *logprobs = NULL;

    if (token_log_ready(&c->log, end) > 0) {
        logprobs = token_log_take(&c->log, a.kind, t, end);
        if (!logprobs)
            return error_set(err, STATUS_NOMEM, "out of memory");
    }
    json_t *chunk = openai_text_chunk(&a, text, len, logprobs, g->request.include_usage);
    if (g->request.continuous_usage) {
        struct openai_usage usage = {g->prompt_count, g->completion,
                                     (uint64_t)g->row.cached_tokens};
        chunk = openai_chunk_with_usage(chunk, &usage);
    }
    return stream_event(&g->stream, chunk, mark, err);
}

static int emit(struct generation *g, struct choice *c, const char *text, size_t len,
                struct error *err)
{
    /* No event says nothing, unless tokens are to be counted. */
    if (!g->request.stream || (len == 0 && !g->request.continuous_usage))
        return keep(c, text, len, err);
    c->passed += len;
    if (c->detokenizer.pending_len == 0 && stop_held(&c->stop) == 0)
        count_whole(g, c);
    return send_text(g, c, text, len, c->passed, g->whole, err);
}

int generation_tell(struct generation *g, struct choice *c, struct error *err)
{
    struct openai_answer a = generation_answer(g, c);
    uint32_t mark = g->state == CLOSING ? 0 : g->whole; /* then its row has been closed */

    if ((c->text_len || c->log.count) &&
        send_text(g, c, c->text ? c->text : "", c->text_len, UINT64_MAX, mark, err))
        return -1;
    c->text_len = 0;
    c->told = 1;
    return stream_event(&g->stream, openai_finish_chunk(&a, c->finish, g->request.include_usage),
                        mark, err);
}

/* --- the end ------------------------------------------------------------------------------------
 */

/* Tokens that lie wholly behind a stop string's beginning are no part of the answer. */
static void cut_log(struct choice *c)
{
    c->log.count = token_log_ready(&c->log, c->passed);
}

/* Text that ends the answer waits for the ledger's commit, with what was held back. */
static int keep_rest(struct generation *g, struct choice *c, struct error *err)
{
    const char *out;
    size_t out_len;
    size_t n = detokenizer_flush(&c->detokenizer, g->piece, g->piece_room);
    int stopped = stop_push(&c->stop, g->piece, n, &out, &out_len, err);

    if (stopped < 0 || keep(c, out, out_len, err))
        return -1;
    if (stopped == 0) {
        stop_flush(&c->stop, &out, &out_len);
        return keep(c, out, out_len, err);
    }
    cut_log(c);
    return 0;
}

static int end_choice(struct generation *g, struct choice *c, const char *word, struct error *err)
{
    uint32_t going = 0;

    c->finish = word;
    if (!g->finish || strcmp(word, "length") == 0)
        g->finish = word;
    for (uint32_t i = 0; i < g->request.n; i++)
        going += !g->choices[i].finish;
    if (going == 0) {
        g->outcome = DONE;
        generation_set_state(g, ENDING);
        return 0;
    }
    if (!g->request.stream)
        return 0;
    count_whole(g, c);
    return generation_tell(g, c, err);
}

int generation_finish(struct generation *g, struct choice *c, const char *word, struct error *err)
{
    return keep_rest(g, c, err) ? -1 : end_choice(g, c, word, err);
}

/* --- tokens -------------------------------------------------------------------------------------
 */

static int begin_stream(struct generation *g, struct choice *c, struct error *err)
{
    struct openai_answer a = generation_answer(g, c);

    if (!g->request.stream || g->request.kind != OPENAI_CHAT)
        return 0;
    return stream_event(&g->stream, openai_role_chunk(&a, g->request.include_usage), 0, err);
}

static void observe(struct generation *g, struct choice *c)
{
    int64_t now = clock_monotonic_us();

    if (g->completion == 1) {
        g->row.ttft_us = now - g->arrived_us;
        metrics_first_token(g->all->metrics, g->model, now - g->arrived_us);
    } else if (c->completion > 1) {
        metrics_next_token(g->all->metrics, g->model, now - c->last_us);
    }
    c->last_us = now;
}

/* What was heard ahead of the token.  One that ends the sequence is no part of the answer. */
static int log_token(struct generation *g, struct choice *c, const struct event_row *row,
                     struct error *err)
{
    uint64_t kept = (uint64_t)g->completion * g->request.logprobs;

    if (g->request.logprobs == 0 || row->finish == FINISH_STOP)
        return 0;
    if (c->next.position != row->position || c->next.picked.token != row->token)
        return error_set(err, STATUS_INTERNAL, "the engine gave a token no log probability");
    if (!g->request.stream && kept > KEPT_LOGPROBS_MAX)
        return error_set(err, STATUS_INVALID,
                         "an answer that is not streamed has at most %u log probabilities: ask for "
                         "fewer tokens or alternatives, or stream it",
                         KEPT_LOGPROBS_MAX);
    return token_log_push(&c->log, &c->next, c->made, c->characters, err);
}

static void count_made(struct choice *c, const char *text, size_t len)
{
    c->made += len;
    for (size_t i = 0; i < len; i++)
        c->characters += ((unsigned char)text[i] & 0xc0) != 0x80;
}

int generation_take_token(struct generation *g, struct choice *c, const struct event_row *row,
                          struct error *err)
{
    const struct front_model *fm = &g->all->f->models[g->model];
    const char *out;
    size_t out_len;

    if (generation_charge(g, 1, NULL)) { /* other requests used it up */
        policy_stop(g->all->f->policy, row->seq);
        return generation_finish(g, c, "length", err);
    }
    g->completion++;
    c->completion++;
    observe(g, c);
    if ((c->completion == 1 && begin_stream(g, c, err)) || log_token(g, c, row, err))
        return -1;
    size_t n =
        detokenizer_push(&c->detokenizer, fm->tokenizer, row->token, g->piece, g->piece_room);
    count_made(c, g->piece, n);
    int stopped = stop_push(&c->stop, g->piece, n, &out, &out_len, err);
    if (stopped < 0 || emit(g, c, out, out_len, err))
        return -1;
    if (stopped) {
        if (row->finish == FINISH_NONE)
            policy_stop(g->all->f->policy, row->seq);
        cut_log(c);
        return end_choice(g, c, "stop", err);
    }
    if (row->finish == FINISH_NONE)
        return 0;
    return generation_finish(g, c, row->finish == FINISH_STOP ? "stop" : "length", err);
}
