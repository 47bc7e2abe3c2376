/*
 * policy_sequence.c - the sequences: table, placement, opening, ending
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "daemon/policy_state.h"

#define BUCKETS 4096u

/* --- table ------------------------------------------------------------------------------------ */

int sequence_table_init(struct policy *p, struct error *err)
{
    TAILQ_INIT(&p->sequences);
    p->bucket_count = BUCKETS;
    p->buckets = calloc(BUCKETS, sizeof *p->buckets);
    if (p->buckets == NULL)
        return error_set(err, STATUS_NOMEM, "policy: out of memory");
    return 0;
}

/* Front numbers sequences one after the other. */
static struct sequence **find_slot(const struct policy *p, uint64_t seq)
{
    struct sequence **at = &p->buckets[seq & (p->bucket_count - 1)];

    while (*at != NULL && (*at)->request->seq != seq)
        at = &(*at)->chain;
    return at;
}

struct sequence *sequence_find(const struct policy *p, uint64_t seq)
{
    return *find_slot(p, seq);
}

static void request_free(struct policy_request *r)
{
    free(r->tokens);
    free(r->biases);
    free(r);
}

static void remove_sequence(struct policy *p, struct sequence *s)
{
    *find_slot(p, s->request->seq) = s->chain;
    TAILQ_REMOVE(&p->sequences, s, link);
    p->live--;
    request_free(s->request);
    free(s);
}

void sequence_table_clear(struct policy *p)
{
    struct sequence *s;

    while ((s = TAILQ_FIRST(&p->sequences)) != NULL)
        remove_sequence(p, s);
    free(p->buckets);
}

/* --- state ------------------------------------------------------------------------------------ */

/* The counters of the instance and model that the sequence is at; without one, the first
 * instance's, so that sums are right. */
static void count(struct policy *p, const struct sequence *s, int add)
{
    struct instance *in = &p->instances[s->scheduled ? s->instance : 0];
    struct policy_model_status *status = &in->models[s->request->model].status;
    uint32_t *shown = s->state == SEQUENCE_OPEN ? &status->running : &status->waiting;

    *shown = add ? *shown + 1 : *shown - 1;
    if (s->state == SEQUENCE_OPEN)
        in->open = add ? in->open + 1 : in->open - 1;
    else if (s->state == SEQUENCE_HELD)
        in->held = add ? in->held + 1 : in->held - 1;
    p->changed = 1;
}

static void set_state(struct policy *p, struct sequence *s, enum sequence_state state)
{
    count(p, s, 0);
    s->state = state;
    s->parked = 0;
    count(p, s, 1);
}

static void set_instance(struct policy *p, struct sequence *s, uint32_t instance)
{
    count(p, s, 0);
    s->scheduled = 1;
    s->instance = instance;
    count(p, s, 1);
}

/* --- submission ------------------------------------------------------------------------------- */

static void refuse(struct policy *p, struct policy_request *r, enum status status, const char *text)
{
    struct policy_event *ev = event_make(POLICY_DONE, 0);

    ev->seq = r->seq;
    ev->status = status;
    snprintf(ev->text, sizeof ev->text, "%s", text);
    event_emit(p, ev);
    request_free(r);
}

static void insert(struct policy *p, struct policy_request *r, struct sequence *s)
{
    struct sequence **at = find_slot(p, r->seq);

    s->request = r;
    s->order = ++p->arrivals;
    s->prompt = s->count = s->capacity = r->token_count;
    *at = s;
    TAILQ_INSERT_TAIL(&p->sequences, s, link);
    p->live++;
    count(p, s, 1);
}

void sequence_submit(struct policy *p, struct policy_request *r)
{
    struct sequence *s;

    if (p->stopping) {
        refuse(p, r, STATUS_UNAVAILABLE, "modelpoold is stopping");
    } else if (r->seq == 0 || sequence_find(p, r->seq) != NULL) {
        refuse(p, r, STATUS_INTERNAL, "this sequence number is in use");
    } else if (r->model >= p->model_count) {
        refuse(p, r, STATUS_NOT_FOUND, "no such model");
    } else if (r->token_count == 0 || r->max_tokens == 0) {
        refuse(p, r, STATUS_INVALID, "a request needs a prompt and room for one token of output");
    } else if (p->instance_count == 0) {
        refuse(p, r, STATUS_UNAVAILABLE,
               "no instance of modelpool.conf is on this node (Instance=, Nodes=)");
    } else if ((s = calloc(1, sizeof *s)) == NULL) {
        refuse(p, r, STATUS_NOMEM, "modelpoold is out of memory");
    } else {
        uint64_t seq = r->seq;
        uint32_t instance;

        insert(p, r, s);
        if (promise_claim(p, seq, &instance)) /* the scheduler knows it already */
            set_instance(p, s, instance);
        sequence_place(p, s);
    }
}

/* --- placement -------------------------------------------------------------------------------- */

/* May the instance still come to run the model? */
static int may_come(const struct instance *in, const struct sequence *s)
{
    if (engine_failed(in))
        return 0;
    if (in->drained && !(s->scheduled && s->instance == in->index))
        return 0;
    return in->state != INSTANCE_READY || !in->models[s->request->model].status.known;
}

/* Why no instance can run it, the most telling first: the model, the engine, a drain. */
static void end_unplaced(struct policy *p, struct sequence *s)
{
    const char *name = p->config->models[s->request->model].name;
    enum status status = STATUS_UNAVAILABLE;
    char text[2 * ERROR_TEXT_MAX] = "";

    for (uint32_t i = 0; i < p->instance_count && text[0] == '\0'; i++) {
        const struct engine_model *m = &p->instances[i].models[s->request->model];

        if (m->status.known && !m->status.ok) {
            snprintf(text, sizeof text, "model %s: %s", name, m->status.text);
            status = m->refusal;
        }
    }
    for (uint32_t i = 0; i < p->instance_count && text[0] == '\0'; i++) {
        if (engine_failed(&p->instances[i]))
            snprintf(text, sizeof text, "model %s: the engine of instance %s does not start: %s",
                     name, p->instances[i].config->name, p->instances[i].failure);
    }
    if (text[0] == '\0')
        snprintf(text, sizeof text,
                 "model %s: every instance is drained; `modelpool resume` opens one again", name);
    sequence_end(p, s, FINISH_NONE, 0, status, text);
}

/* Ask the scheduler for an instance.  -1: none can run it now. */
static int choose(struct policy *p, struct sequence *s)
{
    int64_t now = clock_monotonic_us();
    struct sched_seq arrival = {
        .seq = s->request->seq,
        .model = s->request->model,
        .tenant = s->request->tenant,
        .tokens = s->count,
        .max_tokens = s->request->max_tokens,
        .ttft_us = s->request->ttft_us,
        .tbt_us = s->request->tbt_us,
    };
    uint32_t instance;

    if (s->scheduled) {
        uint32_t was = s->instance;

        if (sched_resume(p->sched, now, s->request->seq, &instance, NULL) != 0)
            return -1;
        if (instance != was)
            sequence_order_close(p, s); /* where it is away, or not at all */
    } else if (sched_arrive(p->sched, now, &arrival, &instance, NULL) != 0) {
        return -1;
    }
    set_instance(p, s, instance);
    return 0;
}

/* The context bounds what can be asked for; the front has clipped it, when it knew. */
static int check_context(struct policy *p, struct sequence *s, const struct instance *in)
{
    uint32_t context = in->models[s->request->model].status.max_context;
    char text[ORDER_TEXT_MAX];

    if (s->prompt >= context) {
        snprintf(text, sizeof text, "the prompt has %u tokens; model %s takes %u with the answer",
                 s->prompt, p->config->models[s->request->model].name, context);
        sequence_end(p, s, FINISH_NONE, 0, STATUS_INVALID, text);
        return -1;
    }
    if (s->request->max_tokens > context - s->prompt)
        s->request->max_tokens = context - s->prompt;
    return 0;
}

_Static_assert(offsetof(struct order_tokens, tokens) == sizeof(struct order_tokens),
               "tokens begin where the structure ends");

static void send_tokens(struct instance *in, const struct sequence *s)
{
    static const size_t head = sizeof(struct order_tokens);
    union {
        struct order_tokens order;
        char bytes[sizeof(struct order_tokens) + ORDER_TOKENS_MAX * sizeof(uint32_t)];
    } msg;

    for (uint32_t at = 0; at < s->count; at += msg.order.count) {
        uint32_t n = s->count - at < ORDER_TOKENS_MAX ? s->count - at : ORDER_TOKENS_MAX;

        msg.order = (struct order_tokens){
            .kind = ORDER_SEQ_TOKENS, .count = n, .seq = s->request->seq, .offset = at};
        memcpy(msg.bytes + head, s->request->tokens + at, n * sizeof(uint32_t));
        engine_link_send(in->link, &msg, head + n * sizeof(uint32_t));
    }
}

/*
 * One more death with it and it is given up.  At most one such sequence is open in an engine, so
 * that the one that kills engines is found, and the others, which were only there, are not blamed.
 */
static int is_suspect(const struct policy *p, const struct sequence *s)
{
    return s->deaths > 0 && s->deaths + 1 >= p->limits.deaths_max;
}

static int suspect_is_open(const struct instance *in)
{
    const struct sequence *s;

    TAILQ_FOREACH(s, &in->policy->sequences, link)
    {
        if (s->state == SEQUENCE_OPEN && s->instance == in->index && is_suspect(in->policy, s))
            return 1;
    }
    return 0;
}

static void send_biases(struct instance *in, const struct policy_request *r)
{
    union {
        struct order_bias order;
        char bytes[sizeof(struct order_bias) + ORDER_BIAS_MAX * sizeof(struct token_bias)];
    } msg = {.order = {.kind = ORDER_SEQ_BIAS, .count = r->bias_count, .seq = r->seq}};
    size_t bytes = r->bias_count * sizeof *r->biases;

    if (r->bias_count == 0)
        return;
    memcpy(msg.bytes + sizeof msg.order, r->biases, bytes);
    engine_link_send(in->link, &msg, sizeof msg.order + bytes);
}

static void open_sequence(struct instance *in, const struct sequence *s)
{
    struct order_seq order = {
        .kind = ORDER_SEQ_OPEN,
        .model = s->request->model,
        .seq = s->request->seq,
        .tokens = s->count,
        .generated = s->count - s->prompt,
        .max_tokens = s->request->max_tokens,
        .urgent = s->request->ttft_us > 0,
        .sharing = s->request->sharing,
        .sampling = s->request->sampling,
        .logprobs = s->request->logprobs,
        .biases = s->request->bias_count,
    };

    engine_link_send(in->link, &order, sizeof order);
    send_biases(in, s->request);
    send_tokens(in, s);
}

void sequence_place(struct policy *p, struct sequence *s)
{
    int fresh = !s->scheduled;
    struct instance *in;

    if (choose(p, s) != 0) {
        for (uint32_t i = 0; i < p->instance_count; i++) {
            if (may_come(&p->instances[i], s))
                return;
        }
        end_unplaced(p, s);
        return;
    }
    in = &p->instances[s->instance];
    if (!engine_can_run(in, s->request->model)) { /* its own, which starts again */
        sched_requeue(p->sched, clock_monotonic_us(), s->request->seq);
        return;
    }
    if (check_context(p, s, in) != 0)
        return;
    if (engine_link_queued(in->link) > POLICY_QUEUE_LOW) {
        sequence_take_back(p, s, SEQUENCE_WAITING);
    } else if ((fresh && in->held > 0 && s->request->ttft_us <= 0) || in->open >= POLICY_OPEN_MAX ||
               (is_suspect(p, s) && suspect_is_open(in))) {
        sequence_take_back(p, s, SEQUENCE_HELD); /* behind older ones that wait */
    } else {
        if (s->away)
            swap_fetch(in, s);
        else
            open_sequence(in, s);
        set_state(p, s, SEQUENCE_OPEN);
    }
}

void sequence_place_all(struct policy *p)
{
    struct sequence *s, *next;

    for (s = TAILQ_FIRST(&p->sequences); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link); /* s may end; no other does */
        if (s->state == SEQUENCE_WAITING)
            sequence_place(p, s);
    }
}

void sequence_release(struct instance *in)
{
    struct policy *p = in->policy;
    struct sequence *s;

    if (in->held == 0 || in->state != INSTANCE_READY)
        return;
    TAILQ_FOREACH(s, &p->sequences, link)
    {
        if (s->state == SEQUENCE_HELD && s->instance == in->index)
            break;
    }
    if (s == NULL)
        return;
    set_state(p, s, SEQUENCE_WAITING);
    sequence_place(p, s);
}

void sequence_settle(struct instance *in)
{
    while (in->ended > 0 && in->held > 0 && in->state == INSTANCE_READY) {
        in->ended--;
        sequence_release(in);
    }
    in->ended = 0;
    if (in->open == 0)
        sequence_release(in);
}

void sequence_take_back(struct policy *p, struct sequence *s, enum sequence_state state)
{
    sched_requeue(p->sched, clock_monotonic_us(), s->request->seq);
    set_state(p, s, state);
}

/* --- tokens and the end ----------------------------------------------------------------------- */

int sequence_append(struct policy *p, struct sequence *s, const struct event_row *row)
{
    struct policy_request *r = s->request;

    if (row->position != s->count)
        return row->position < s->count ? 0 : -1;
    if (s->count == s->capacity) {
        uint64_t limit = (uint64_t)s->prompt + r->max_tokens;
        uint64_t room = s->capacity + s->capacity / 2u + 64u;
        uint32_t *tokens;

        if (room > limit)
            room = limit;
        if (room <= s->count || room > UINT32_MAX)
            return -1; /* it has had max_tokens already */
        tokens = realloc(r->tokens, room * sizeof *tokens);
        if (tokens == NULL)
            return -1;
        r->tokens = tokens;
        s->capacity = (uint32_t)room;
    }
    r->tokens[s->count++] = row->token;
    if (is_suspect(p, s)) /* not any more: those that wait for it go on */
        p->instances[s->instance].ended += p->instances[s->instance].held;
    s->deaths = 0;
    return 1;
}

void sequence_order_close(struct policy *p, struct sequence *s)
{
    struct instance *in = &p->instances[s->instance];
    struct order_ref order = {
        .kind = ORDER_SEQ_CLOSE, .model = s->request->model, .seq = s->request->seq};

    if ((s->state != SEQUENCE_OPEN && !s->away) || in->link == NULL)
        return;
    engine_link_send(in->link, &order, sizeof order);
    s->away = 0;
    in->settled_turn = p->turns + 1;
}

void sequence_end(struct policy *p, struct sequence *s, enum finish finish, int close,
                  enum status status, const char *text)
{
    struct policy_event *ev = event_make(POLICY_DONE, 0);

    if (close)
        sequence_order_close(p, s);
    s->usage.engine_us = s->engine_ns / 1000;
    ev->seq = s->request->seq;
    ev->finish = finish;
    ev->status = status;
    ev->usage = s->usage;
    snprintf(ev->text, sizeof ev->text, "%s", text);
    count(p, s, 0);
    if (s->scheduled) {
        sched_finish(p->sched, clock_monotonic_us(), s->request->seq);
        p->instances[s->instance].ended++;
        p->retry = 1;
    }
    remove_sequence(p, s);
    event_emit(p, ev);
}
