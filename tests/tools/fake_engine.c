/*
 * fake_engine.c - a simulator of modelpool-engine for tests of the policy thread
 *
 * It speaks common/order.h on descriptor ORDER_FD and keeps its rules (turns, quotas, pages,
 * residency), with tokens that are a hash instead of a model's.
 */
#include "tests/tools/fake_engine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/order.h"

#define MODELS 16
#define TURNS  2

struct fake_model {
    int known, resident;
    uint64_t bytes, used;
};

struct fake_sequence {
    TAILQ_ENTRY(fake_sequence) link;
    struct order_seq order;
    uint32_t *tokens;
    uint32_t count, announced, computed, prefilled, pages, biases;
    uint32_t away; /* pages in host memory */
    int gone;      /* spilled: it does not run */
    uint64_t turn; /* that took its prompt on */
};

static struct {
    struct order_hello hello;
    struct fake_model models[MODELS];
    TAILQ_HEAD(, fake_sequence) sequences;
    struct order_turn turns[TURNS];
    struct event_turn_end end;    /* of turns[0], so far */
    uint32_t turn_count, prompts; /* prompts: taken on by turns[0] */
    uint64_t pages, swapped, clock, steps;
    useconds_t step_us;
} fake;

static void send_event(const void *msg, size_t len)
{
    if (send(ORDER_FD, msg, len, MSG_NOSIGNAL) < 0)
        _exit(0); /* the daemon is gone */
}

static const char *mode(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? value : "";
}

/* --- memory ----------------------------------------------------------------------------------- */

static uint64_t memory_used(void)
{
    uint64_t bytes = fake.pages * FAKE_PAGE_BYTES;

    for (int i = 0; i < MODELS; i++)
        bytes += fake.models[i].resident ? fake.models[i].bytes : 0;
    return bytes;
}

static void set_resident(uint32_t model, int resident)
{
    struct event_residency ev = {.kind = EVENT_RESIDENCY,
                                 .model = model,
                                 .resident = (uint32_t)resident,
                                 .bytes = fake.models[model].bytes,
                                 .us = 10};

    fake.models[model].resident = resident;
    send_event(&ev, sizeof ev);
}

/* Make room by evicting the least recently used models but `keep`.  -1, with nothing evicted: KV is
 * in the way. */
static int make_room(uint64_t bytes, uint32_t keep)
{
    uint64_t stays = fake.pages * FAKE_PAGE_BYTES;

    if (keep < MODELS && fake.models[keep].resident)
        stays += fake.models[keep].bytes;
    if (stays + bytes > fake.hello.memory_bytes)
        return -1;
    while (memory_used() + bytes > fake.hello.memory_bytes) {
        uint32_t oldest = MODELS;

        for (uint32_t i = 0; i < MODELS; i++) {
            if (i != keep && fake.models[i].resident &&
                (oldest == MODELS || fake.models[i].used < fake.models[oldest].used))
                oldest = i;
        }
        if (oldest == MODELS)
            return -1;
        set_resident(oldest, 0);
    }
    return 0;
}

static int load(uint32_t model)
{
    fake.models[model].used = ++fake.clock;
    if (fake.models[model].resident)
        return 0;
    if (make_room(fake.models[model].bytes, model) != 0)
        return -1;
    set_resident(model, 1);
    fake.end.switch_bytes += fake.models[model].bytes;
    fake.end.switch_us += 10;
    return 0;
}

/* --- sequences -------------------------------------------------------------------------------- */

static struct fake_sequence *find(uint64_t seq)
{
    struct fake_sequence *s;

    TAILQ_FOREACH(s, &fake.sequences, link)
    {
        if (s->order.seq == seq)
            return s;
    }
    return NULL;
}

static void forget(struct fake_sequence *s)
{
    if (s == NULL)
        return;
    TAILQ_REMOVE(&fake.sequences, s, link);
    fake.pages -= s->pages;
    fake.swapped -= s->away;
    free(s->tokens);
    free(s);
}

static void open_sequence(const struct order_seq *o)
{
    struct fake_sequence *s = calloc(1, sizeof *s), *other;

    s->order = *o;
    s->announced = o->tokens;
    s->tokens = calloc((size_t)o->tokens + o->max_tokens + 1, sizeof *s->tokens);
    TAILQ_FOREACH(other, &fake.sequences, link)
    {
        if (o->urgent && !other->order.urgent)
            break;
    }
    if (other != NULL)
        TAILQ_INSERT_BEFORE(other, s, link);
    else
        TAILQ_INSERT_TAIL(&fake.sequences, s, link);
}

static void add_tokens(const struct order_tokens *o)
{
    struct fake_sequence *s = find(o->seq);

    if (s == NULL)
        return;
    if (o->offset != s->count || o->count > s->announced - s->count || s->biases != s->order.biases)
        abort(); /* the daemon breaks the protocol: the test must fail */
    memcpy(s->tokens + s->count, o->tokens, o->count * sizeof *s->tokens);
    s->count += o->count;
}

/* They come whole, before the tokens; their tokens are not looked at. */
static void add_biases(const struct order_bias *o)
{
    struct fake_sequence *s = find(o->seq);

    if (s == NULL)
        return;
    if (o->count != s->order.biases || s->biases != 0 || s->count != 0)
        abort();
    s->biases = o->count;
}

static void send_logprobs(const struct fake_sequence *s, uint32_t token)
{
    struct event_logprobs ev = {.kind = EVENT_LOGPROBS,
                                .count = s->order.logprobs - 1,
                                .seq = s->order.seq,
                                .position = s->count,
                                .picked = {.logprob = fake_logprob(token), .token = token}};

    for (uint32_t i = 0; i < ev.count; i++)
        ev.top[i] = (struct token_logprob){.logprob = fake_logprob(fake_alternative(token, i)),
                                           .token = fake_alternative(token, i)};
    send_event(&ev, sizeof ev);
}

static void fault(struct fake_sequence *s)
{
    struct event_seq_fault ev = {
        .kind = EVENT_SEQ_FAULT, .seq = s->order.seq, .text = "the sequence is broken"};

    send_event(&ev, sizeof ev);
    forget(s);
}

static void moved(const struct fake_sequence *s, uint32_t out, int ok)
{
    struct event_seq_moved ev = {.kind = EVENT_SEQ_MOVED,
                                 .out = out,
                                 .seq = s->order.seq,
                                 .bytes = ok ? FAKE_PAGE_BYTES : 0,
                                 .us = 1,
                                 .ok = (uint32_t)ok};

    send_event(&ev, sizeof ev);
}

static void spill(struct fake_sequence *s)
{
    int ok;

    if (s == NULL)
        return;
    if (s->gone)
        abort(); /* it is away already */
    ok = (fake.swapped + s->pages) * FAKE_PAGE_BYTES <= fake.hello.swap_bytes;
    s->gone = 1;
    s->away = ok ? s->pages : 0;
    s->computed = ok ? s->computed : 0;
    fake.swapped += s->away;
    fake.pages -= s->pages;
    s->pages = 0;
    moved(s, 1, ok);
}

static void fetch(struct fake_sequence *s)
{
    if (s == NULL)
        return;
    if (!s->gone)
        abort(); /* it is here */
    if (s->away > 0 && make_room(s->away * FAKE_PAGE_BYTES, s->order.model) != 0) {
        moved(s, 0, 0);
        return;
    }
    s->gone = 0;
    s->pages = s->away;
    fake.pages += s->away;
    fake.swapped -= s->away;
    s->away = 0;
    moved(s, 0, 1);
}

/* --- orders ----------------------------------------------------------------------------------- */

static void add_model(const struct order_model *o, const int *fds, size_t count)
{
    struct event_model ev = {.kind = EVENT_MODEL,
                             .model = o->model,
                             .ok = 1,
                             .max_context = FAKE_CONTEXT,
                             .kv_token_bytes = FAKE_PAGE_BYTES / FAKE_PAGE_TOKENS,
                             .page_tokens = FAKE_PAGE_TOKENS,
                             .vocabulary = FAKE_VOCABULARY};
    struct stat st;

    if (count == 0 || count != o->files || o->model >= MODELS || fstat(fds[0], &st) != 0)
        abort();
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    fake.models[o->model] = (struct fake_model){.known = 1, .bytes = (uint64_t)st.st_size};
    ev.weight_bytes = (uint64_t)st.st_size;
    if (strcmp(mode("FAKE_BAD_MODEL"), o->name) == 0) {
        ev.ok = 0;
        snprintf(ev.text, sizeof ev.text, "its architecture is not known");
    }
    send_event(&ev, sizeof ev);
}

static void answer_load(uint32_t model)
{
    struct event_residency ev = {.kind = EVENT_RESIDENCY, .model = model};

    ev.resident = (uint32_t)fake.models[model].resident;
    if (ev.resident || load(model) != 0)
        send_event(&ev, sizeof ev);
}

static void unload(uint32_t model)
{
    if (fake.models[model].resident)
        set_resident(model, 0);
}

static void take_order(const void *msg, const int *fds, size_t count)
{
    const struct order_ref *ref = msg;

    switch (ref->kind) {
    case ORDER_MODEL:
        add_model(msg, fds, count);
        break;
    case ORDER_LOAD:
        answer_load(ref->model);
        break;
    case ORDER_UNLOAD:
        unload(ref->model);
        break;
    case ORDER_SEQ_OPEN:
        open_sequence(msg);
        break;
    case ORDER_SEQ_TOKENS:
        add_tokens(msg);
        break;
    case ORDER_SEQ_BIAS:
        add_biases(msg);
        break;
    case ORDER_SEQ_CLOSE:
        forget(find(ref->seq));
        break;
    case ORDER_SEQ_SPILL:
        spill(find(ref->seq));
        break;
    case ORDER_SEQ_FETCH:
        fetch(find(ref->seq));
        break;
    case ORDER_TURN:
        if (fake.turn_count == TURNS)
            abort(); /* at most two are held */
        fake.turns[fake.turn_count++] = *(const struct order_turn *)msg;
        break;
    default:
        _exit(0);
    }
}

/* One order; sleeps for it if nothing is to run.  0: none is there. */
static int receive(void)
{
    static _Alignas(16) char buf[ORDER_BYTES_MAX];
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(ORDER_FILES_MAX * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = buf, .iov_len = sizeof buf};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof control};
    ssize_t n = recvmsg(ORDER_FD, &mh, fake.turn_count > 0 ? MSG_DONTWAIT : 0);
    int fds[ORDER_FILES_MAX];
    size_t count = 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        _exit(0);
    if (mh.msg_controllen >= CMSG_LEN(sizeof(int))) {
        count = (control.head.cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(&control.head), count * sizeof(int));
    }
    take_order(buf, fds, count);
    return 1;
}

/* --- steps ------------------------------------------------------------------------------------ */

static void end_turn(enum turn_end reason)
{
    struct order_turn turn = fake.turns[0];

    fake.end.kind = EVENT_TURN_END;
    fake.end.model = turn.model;
    fake.end.turn = turn.turn;
    fake.end.reason = reason;
    fake.end.kv_pages_used = (uint32_t)fake.pages;
    fake.end.kv_pages_total =
        (uint32_t)(fake.pages + (fake.hello.memory_bytes - memory_used()) / FAKE_PAGE_BYTES);
    if (reason == TURN_FAULT)
        snprintf(fake.end.text, sizeof fake.end.text, "no room for the weights");
    send_event(&fake.end, sizeof fake.end);
    memset(&fake.end, 0, sizeof fake.end);
    fake.turns[0] = fake.turns[--fake.turn_count];
    fake.prompts = 0;
}

static void maybe_die(void)
{
    const char *file = mode("FAKE_DIE_FILE");

    if (file[0] != '\0' && fake.steps == (uint64_t)atoi(mode("FAKE_DIE_STEP")) && unlink(file) == 0)
        raise(SIGKILL);
}

/* Pages for positions below `tokens`: -1 if there are none. */
static int reserve(struct fake_sequence *s, uint32_t tokens)
{
    while (s->pages * FAKE_PAGE_TOKENS < tokens) {
        if (make_room(FAKE_PAGE_BYTES, s->order.model) != 0)
            return -1;
        s->pages++;
        fake.pages++;
    }
    return 0;
}

/* A token of s into *row: 1, or 0 if it still prefills. */
static int compute(struct fake_sequence *s, struct event_row *row, uint32_t *prefilled)
{
    uint32_t n = s->count - s->computed < FAKE_CHUNK ? s->count - s->computed : FAKE_CHUNK;
    uint32_t prompt = s->order.tokens - s->order.generated;

    if (s->tokens[0] == FAKE_POISON)
        raise(SIGKILL);
    if (s->computed < prompt) {
        s->prefilled += n;
        *prefilled += n;
    }
    s->computed += n;
    if (s->computed < s->count)
        return 0;
    row->seq = s->order.seq;
    row->token = fake_token(s->order.model, s->tokens, s->count);
    row->position = s->count;
    row->prefilled = s->prefilled;
    s->prefilled = 0;
    if (s->order.logprobs > 0)
        send_logprobs(s, row->token);
    s->tokens[s->count++] = row->token;
    row->finish = FINISH_NONE;
    if (row->token % FAKE_EOS_EVERY == 0 && !(s->order.sampling.flags & SAMPLING_IGNORE_EOS))
        row->finish = FINISH_STOP;
    else if (s->count - prompt == s->order.max_tokens)
        row->finish = FINISH_LENGTH;
    return 1;
}

static union {
    struct event_step event;
    char bytes[sizeof(struct event_step) + ORDER_ROWS_MAX * sizeof(struct event_row)];
} out;

/* What the step at hand takes, in us. */
static useconds_t step_time(void)
{
    double ns[5], rows = 0, context = 0, sum;

    if (sscanf(mode("FAKE_COST_NS"), "%lf,%lf,%lf,%lf,%lf", &ns[0], &ns[1], &ns[2], &ns[3],
               &ns[4]) != 5)
        return fake.step_us;
    for (uint32_t i = 0; i < out.event.count; i++) {
        if (out.event.rows[i].prefilled > 0)
            continue;
        rows++;
        context += out.event.rows[i].position;
    }
    sum = rows > 0 ? ns[0] + ns[1] * context + ns[2] * rows : ns[3];
    return (useconds_t)((sum + ns[4] * out.event.prefill_tokens) / 1000);
}

static void finish_step(void)
{
    const useconds_t us = step_time();

    for (uint32_t i = 0; i < out.event.count; i++) {
        if (out.event.rows[i].finish != FINISH_NONE)
            forget(find(out.event.rows[i].seq));
    }
    usleep(us);
    out.event.kind = EVENT_STEP;
    out.event.turn = fake.turns[0].turn;
    out.event.us = us;
    fake.end.steps++;
    fake.end.step_us += us;
    send_event(&out, sizeof out.event + out.event.count * sizeof out.event.rows[0]);
}

/* May the running turn have it? */
static int is_chosen(struct fake_sequence *s)
{
    const struct order_turn *t = &fake.turns[0];
    uint32_t phases = t->phases != 0 ? t->phases : ORDER_PHASES;

    if (s->order.model != t->model || s->count < s->announced || s->gone)
        return 0;
    if (s->count > s->order.tokens - s->order.generated)
        return (phases & ORDER_DECODE) != 0;
    if ((phases & ORDER_PREFILL) == 0)
        return 0;
    if (t->fresh_max == 0 || s->turn == t->turn)
        return 1;
    if (fake.prompts == t->fresh_max)
        return 0;
    s->turn = t->turn;
    fake.prompts++;
    return 1;
}

/* A step of the turn's model: the reason why there is none, or -1. */
static int step(void)
{
    struct fake_sequence *s, *next;

    memset(&out, 0, sizeof out);
    for (s = TAILQ_FIRST(&fake.sequences); s != NULL; s = next) {
        uint32_t n = s->count - s->computed < FAKE_CHUNK ? s->count - s->computed : FAKE_CHUNK;

        next = TAILQ_NEXT(s, link);
        if (!is_chosen(s) || out.event.batch == fake.hello.max_batch)
            continue;
        if (s->tokens[0] == FAKE_BROKEN) {
            fault(s);
            continue;
        }
        if (reserve(s, s->computed + n) != 0) {
            if (out.event.batch == 0)
                return TURN_KV_FULL;
            break;
        }
        out.event.batch++;
        out.event.count +=
            (uint32_t)compute(s, &out.event.rows[out.event.count], &out.event.prefill_tokens);
        if (s->tokens[0] == FAKE_TWICE && out.event.count > 0 &&
            out.event.rows[out.event.count - 1].seq == s->order.seq) {
            out.event.rows[out.event.count] = out.event.rows[out.event.count - 1];
            out.event.count++;
        }
    }
    if (out.event.batch == 0)
        return TURN_IDLE;
    finish_step();
    return -1;
}

static int has_work(void)
{
    struct fake_sequence *s;

    TAILQ_FOREACH(s, &fake.sequences, link)
    {
        if (is_chosen(s))
            return 1;
    }
    return 0;
}

static void advance(void)
{
    const struct order_turn *t = &fake.turns[0];
    int reason;

    fake.steps++;
    maybe_die();
    if (fake.end.steps > 0 && ((t->quota_us > 0 && fake.end.step_us >= t->quota_us) ||
                               (t->quota_steps > 0 && fake.end.steps >= t->quota_steps))) {
        end_turn(TURN_QUOTA);
    } else if (!has_work()) {
        end_turn(TURN_IDLE);
    } else if (load(t->model) != 0) {
        end_turn(TURN_FAULT);
    } else if ((reason = step()) >= 0) {
        end_turn((enum turn_end)reason);
    }
}

int main(void)
{
    struct event_ready ready = {
        .kind = EVENT_READY, .version = ORDER_VERSION, .device = "simulated"};
    const char *us = mode("FAKE_STEP_US");

    if (strcmp(mode("FAKE_MODE"), "exit") == 0)
        return 1;
    TAILQ_INIT(&fake.sequences);
    fake.step_us = us[0] != '\0' ? (useconds_t)atoi(us) : 500;
    if (recv(ORDER_FD, &fake.hello, sizeof fake.hello, 0) != sizeof fake.hello)
        return 1;
    if (fake.hello.max_batch > ORDER_ROWS_MAX / 2)
        fake.hello.max_batch = ORDER_ROWS_MAX / 2;
    ready.memory_bytes = fake.hello.memory_bytes;
    ready.handle_bytes = FAKE_PAGE_BYTES;
    while (strcmp(mode("FAKE_MODE"), "mute") == 0)
        receive();
    send_event(&ready, sizeof ready);
    for (;;) {
        while (receive())
            continue;
        if (fake.turn_count > 0 && strcmp(mode("FAKE_MODE"), "silent") != 0)
            advance();
    }
}
