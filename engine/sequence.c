/* sequence.c - sequences and their pages */
#include "engine/sequence.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/share.h"
#include "engine/swap.h"

void sequence_list_init(struct sequence_list *l, struct pages *pool, struct prefix_cache *prefixes,
                        struct swap *swap)
{
    TAILQ_INIT(&l->queue);
    l->count = 0;
    l->pool = pool;
    l->prefixes = prefixes;
    l->swap = swap;
}

void sequence_list_clear(struct sequence_list *l)
{
    while (!TAILQ_EMPTY(&l->queue))
        sequence_close(l, TAILQ_FIRST(&l->queue));
}

struct sequence *sequence_find(const struct sequence_list *l, uint64_t id)
{
    struct sequence *s;

    TAILQ_FOREACH(s, &l->queue, link)
    if (s->id == id)
        return s;
    return NULL;
}

static int check_open(const struct sequence_list *l, const struct model *m,
                      const struct order_seq *o, struct error *err)
{
    if (l->count >= SEQUENCES_MAX)
        return error_set(err, STATUS_EXHAUSTED, "%u sequences are open, the most there may be",
                         SEQUENCES_MAX);
    if (o->tokens == 0 || o->generated >= o->tokens)
        return error_set(err, STATUS_INVALID, "a sequence needs at least one token of prompt");
    if (o->tokens >= m->max_context)
        return error_set(err, STATUS_INVALID,
                         "%" PRIu32 " tokens leave no room in the context of %" PRIu32
                         " tokens of model %s",
                         o->tokens, m->max_context, m->name);
    if (o->generated >= o->max_tokens)
        return error_set(err, STATUS_INVALID,
                         "%" PRIu32 " of %" PRIu32 " tokens are generated: nothing is left to do",
                         o->generated, o->max_tokens);
    if (o->biases > ORDER_BIAS_MAX || o->logprobs > 1 + ORDER_TOP_MAX)
        return error_set(err, STATUS_INVALID,
                         "%" PRIu32 " biases and %" PRIu32 " log probabilities a token: at most %u "
                         "and %u are supported",
                         o->biases, o->logprobs, ORDER_BIAS_MAX, 1 + ORDER_TOP_MAX);
    return 0;
}

/* Room for the pages of `limit` tokens. */
static int open_pages(struct page_list *p, const struct kv_layout *kv, uint32_t limit)
{
    uint32_t room = (limit + kv->page_tokens - 1) / kv->page_tokens;

    p->pages = calloc(room, sizeof(*p->pages));
    p->shared = calloc(room, sizeof(struct prefix_page *));
    return p->pages == NULL || p->shared == NULL ? -1 : 0;
}

static void give_page(struct sequence_list *l, struct page_list *p, uint32_t i)
{
    if (p->shared[i] != NULL)
        prefix_release(l->prefixes, p->shared[i]);
    else
        pages_give(l->pool, p->pages[i]);
    p->pages[i] = NULL;
    p->shared[i] = NULL;
}

void sequence_give_first(struct sequence_list *l, struct page_list *p, uint32_t count)
{
    for (; p->gone < count; p->gone++)
        give_page(l, p, p->gone);
}

void sequence_give_last(struct sequence_list *l, struct page_list *p)
{
    give_page(l, p, --p->count);
}

void sequence_give_all(struct sequence_list *l, struct sequence *s)
{
    for (int i = 0; i < 2; i++) {
        struct page_list *p = &s->caches[i];
        while (p->count > p->gone)
            sequence_give_last(l, p);
        p->count = p->gone = 0;
    }
}

static void free_sequence(struct sequence *s)
{
    for (int i = 0; i < 2; i++) {
        free(s->caches[i].pages);
        free(s->caches[i].shared);
    }
    free(s->tokens);
    free(s->biases);
    free(s);
}

/* An urgent one stands before all others. */
static void enqueue(struct sequence_list *l, struct sequence *s)
{
    struct sequence *other;

    l->count++;
    TAILQ_FOREACH(other, &l->queue, link)
    {
        if (s->urgent && !other->urgent) {
            TAILQ_INSERT_BEFORE(other, s, link);
            return;
        }
    }
    TAILQ_INSERT_TAIL(&l->queue, s, link);
}

struct sequence *sequence_open(struct sequence_list *l, struct model *m,
                               const struct order_seq *order, struct error *err)
{
    struct sequence *s = NULL;
    uint64_t limit;

    if (check_open(l, m, order, err) != 0)
        return NULL;
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        goto nomem;
    s->id = order->seq;
    s->model = m;
    s->sampling = order->sampling;
    s->logprobs = order->logprobs;
    s->biases_room = order->biases;
    s->sharing = order->sharing;
    s->announced = order->tokens;
    s->prompt = order->tokens - order->generated;
    limit = (uint64_t)s->prompt + order->max_tokens;
    s->limit = limit < m->max_context ? (uint32_t)limit : m->max_context;
    s->tokens = malloc(s->limit * sizeof(*s->tokens));
    s->biases = calloc(s->biases_room + 1u, sizeof(*s->biases));
    if (s->tokens == NULL || s->biases == NULL ||
        open_pages(&s->caches[0], &m->kv, s->limit) != 0 ||
        open_pages(&s->caches[1], &m->kv_local, s->limit) != 0)
        goto nomem;
    s->urgent = order->urgent != 0;
    enqueue(l, s);
    return s;
nomem:
    error_set(err, STATUS_NOMEM, "no memory for a sequence of %" PRIu32 " tokens", order->tokens);
    if (s != NULL)
        free_sequence(s);
    return NULL;
}

int sequence_bias(struct sequence *s, const struct order_bias *order, struct error *err)
{
    if (order->count != s->biases_room || s->bias_count > 0 || s->count > 0)
        return error_set(err, STATUS_INVALID, "%" PRIu32 " biases came, %" PRIu32 " were announced",
                         order->count, s->biases_room);
    for (uint32_t i = 0; i < order->count; i++)
        if (order->biases[i].token >= s->model->arch.vocabulary ||
            !(order->biases[i].bias >= -100 && order->biases[i].bias <= 100))
            return error_set(err, STATUS_INVALID,
                             "a bias of %g for token %" PRIu32
                             ": they are from -100 to 100, for tokens below %" PRIu32
                             " of model %s",
                             (double)order->biases[i].bias, order->biases[i].token,
                             s->model->arch.vocabulary, s->model->name);
    memcpy(s->biases, order->biases, order->count * sizeof(*s->biases));
    s->bias_count = order->count;
    return 0;
}

int sequence_append(struct sequence *s, const struct order_tokens *order, struct error *err)
{
    if (s->bias_count < s->biases_room)
        return error_set(err, STATUS_INVALID, "its tokens came before its biases");
    if (order->offset != s->count || order->count > s->announced - s->count)
        return error_set(
            err, STATUS_INVALID,
            "tokens %" PRIu32 " to %" PRIu64 " came, %" PRIu32 " of %" PRIu32 " are there",
            order->offset, (uint64_t)order->offset + order->count, s->count, s->announced);
    for (uint32_t i = 0; i < order->count; i++)
        if (order->tokens[i] >= s->model->arch.vocabulary)
            return error_set(err, STATUS_INVALID,
                             "token %" PRIu32 " is not in the vocabulary of %" PRIu32
                             " of model %s",
                             order->tokens[i], s->model->arch.vocabulary, s->model->name);
    for (uint32_t i = 0; i < order->count; i++)
        s->tokens[s->count++] = order->tokens[i];
    return 0;
}

void sequence_close(struct sequence_list *l, struct sequence *s)
{
    swap_forget(l->swap, s);
    share_end(l, s);
    sequence_give_all(l, s);
    TAILQ_REMOVE(&l->queue, s, link);
    l->count--;
    free_sequence(s);
}

int sequence_ready(const struct sequence *s)
{
    return s->place == SEQUENCE_HERE && s->count >= s->announced;
}

int sequence_host_sampled(const struct sequence *s)
{
    const struct order_sampling *o = &s->sampling;

    if (s->biases_room > 0 || s->logprobs > 0)
        return 1;
    return o->repetition_penalty < 1 || o->repetition_penalty > 1 || o->frequency_penalty < 0 ||
           o->frequency_penalty > 0 || o->presence_penalty < 0 || o->presence_penalty > 0;
}

int sequence_runnable(const struct sequence *s)
{
    if (!sequence_ready(s))
        return 0;
    return s->pending == 0 || (s->count + s->pending < s->limit && !sequence_host_sampled(s));
}

int sequence_decodes(const struct sequence *s)
{
    return s->count + s->pending > s->prompt;
}

uint32_t sequence_unseen(const struct kv_layout *kv, uint32_t window, uint32_t computed)
{
    return window != 0 && computed >= window ? (computed + 1 - window) / kv->page_tokens : 0;
}

/* Pages of one kind for the first `tokens` positions, of which a token sees the last `window`. */
static int reserve(struct sequence_list *l, struct page_list *p, const struct kv_layout *kv,
                   uint32_t window, uint32_t computed, uint32_t tokens)
{
    uint32_t want = (tokens + kv->page_tokens - 1) / kv->page_tokens;

    if (kv->layers == 0)
        return 0;
    sequence_give_first(l, p, sequence_unseen(kv, window, computed));
    while (p->count < want) {
        void *page = pages_take(l->pool, kv->page_bytes);
        if (page == NULL)
            return -1;
        p->pages[p->count++] = page;
    }
    return 0;
}

int sequence_reserve(struct sequence_list *l, struct sequence *s, uint32_t tokens)
{
    const struct model *m = s->model;

    if (reserve(l, &s->caches[0], &m->kv, m->window, s->computed, tokens) != 0 ||
        reserve(l, &s->caches[1], &m->kv_local, m->window_local, s->computed, tokens) != 0)
        return -1;
    return 0;
}
