/*
 * engine_logprobs_test.c - biases of tokens, and log probabilities ahead of their rows
 *
 * On a tiny random model, and with MODELPOOL_TEST_MODEL on a real one beside what transformers says
 * of it: tests/golden/engine/smollm2-logprobs.golden (logprobs.py makes it).
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/engine_rig.h"
#include "tests/unit/tiny_gguf.h"

#define HANDLE rig_handle()
#define TOKENS 12u
#define TOP    5u
/* Of float32 logits in another order of summation; 3.5e-5 were found. */
#define TOLERANCE 1e-3

static char tiny_path[64];
static struct event_logprobs heard[4][64]; /* by sequence and token of output */
static uint32_t heard_count[4];

static void hear(struct rig *r, const struct event_logprobs *event)
{
    assert_true(event->seq < 4 && heard_count[event->seq] < 64);
    /* Its row has not come yet. */
    assert_int_equal(heard_count[event->seq], r->seqs[event->seq].count);
    heard[event->seq][heard_count[event->seq]++] = *event;
}

static void open_tiny(struct rig *r)
{
    memset(heard_count, 0, sizeof(heard_count));
    rig_open(r, 64 * HANDLE, 1, 4);
    rig_model(r, 1, tiny_path, 0);
    assert_true(r->model.ok);
    r->on_logprobs = hear;
}

/* Greedy: the picked one is the first of the likeliest, and its neighbours' tokens are unchanged.
 */
static void test_events(void **state)
{
    static const uint32_t prompt[] = {72, 101, 108, 108, 111};
    struct rig r;

    (void)state;
    open_tiny(&r);
    rig_seq(&r, 0, 1, prompt, 5, 0, TOKENS, SAMPLING_IGNORE_EOS);
    r.logprobs = 1 + TOP;
    rig_seq(&r, 1, 1, prompt, 5, 0, TOKENS, SAMPLING_IGNORE_EOS);
    r.logprobs = 1;
    rig_seq(&r, 2, 1, prompt, 5, 0, TOKENS, SAMPLING_IGNORE_EOS);
    rig_turn(&r, 1, 0);
    assert_int_equal(heard_count[0], 0);
    for (uint32_t s = 1; s < 3; s++) {
        assert_int_equal(heard_count[s], TOKENS);
        assert_memory_equal(r.seqs[s].tokens, r.seqs[0].tokens, TOKENS * sizeof(uint32_t));
        for (uint32_t i = 0; i < TOKENS; i++) {
            const struct event_logprobs *e = &heard[s][i];
            assert_int_equal(e->position, 5 + i);
            assert_int_equal(e->count, s == 1 ? TOP : 0);
            assert_int_equal(e->picked.token, r.seqs[0].tokens[i]);
            assert_true(e->picked.logprob < 0);
            if (s == 1) {
                assert_int_equal(e->top[0].token, e->picked.token);
                for (uint32_t t = 1; t < TOP; t++)
                    assert_true(e->top[t].logprob <= e->top[t - 1].logprob);
            }
        }
    }
    rig_close(&r);
}

/* A bias changes the pick and not the model's distribution. */
static void test_bias(void **state)
{
    static const uint32_t prompt[] = {72, 101, 108, 108, 111};
    static const struct token_bias forced[] = {{65, 100}};
    struct token_bias banned[1];
    struct rig r;

    (void)state;
    open_tiny(&r);
    r.logprobs = 1 + TOP;
    rig_seq(&r, 0, 1, prompt, 5, 0, 1, SAMPLING_IGNORE_EOS);
    rig_turn(&r, 1, 0);
    r.biases = forced;
    r.bias_count = 1;
    rig_seq(&r, 1, 1, prompt, 5, 0, TOKENS, SAMPLING_IGNORE_EOS);
    banned[0] = (struct token_bias){r.seqs[0].tokens[0], -100};
    r.biases = banned;
    rig_seq(&r, 2, 1, prompt, 5, 0, TOKENS, SAMPLING_IGNORE_EOS);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[1].count, TOKENS);
    for (uint32_t i = 0; i < TOKENS; i++) {
        assert_int_equal(r.seqs[1].tokens[i], 65);
        assert_int_not_equal(r.seqs[2].tokens[i], banned[0].token);
    }
    assert_memory_equal(heard[1][0].top, heard[0][0].top, sizeof(heard[0][0].top));
    assert_true(heard[1][0].picked.logprob < heard[0][0].picked.logprob);
    assert_int_equal(r.seqs[2].tokens[0], heard[0][0].top[1].token);
    rig_close(&r);
}

/* What the daemon may not send ends the sequence, by name. */
static void test_refused(void **state)
{
    static const uint32_t prompt[] = {1, 2};
    static const struct token_bias beyond[] = {{TINY_VOCABULARY, 1}}, wide[] = {{1, 101}},
                                   none[] = {{1, NAN}};
    static const struct token_bias *const bad[] = {beyond, wide, none};
    struct rig r;

    (void)state;
    open_tiny(&r);
    r.bias_count = 1;
    for (uint32_t i = 0; i < 3; i++) {
        r.biases = bad[i];
        rig_seq(&r, i, 1, prompt, 2, 0, 1, 0);
        assert_non_null(strstr(r.seqs[i].fault, "a bias of"));
    }
    r.bias_count = 0;
    r.logprobs = 2 + ORDER_TOP_MAX;
    rig_seq(&r, 3, 1, prompt, 2, 0, 1, 0);
    assert_non_null(strstr(r.seqs[3].fault, "log probabilities"));
    struct order_seq order = {.kind = ORDER_SEQ_OPEN,
                              .model = 1,
                              .seq = 4,
                              .tokens = 1,
                              .max_tokens = 1,
                              .sampling = {.top_p = 1, .repetition_penalty = 1},
                              .biases = 1};
    union {
        struct order_tokens order;
        char bytes[sizeof(struct order_tokens) + sizeof(uint32_t)];
    } tokens = {.order = {.kind = ORDER_SEQ_TOKENS, .count = 1, .seq = 4}};
    rig_order(&r, &order, -1);
    rig_order(&r, &tokens, -1);
    assert_non_null(strstr(r.seqs[4].fault, "before its biases"));
    rig_close(&r);
}

/* ---- a real model ------------------------------------------------------------------------------
 */

/* "token:logprob" at *text, which goes on behind it. */
static struct token_logprob read_pair(char **text)
{
    struct token_logprob p = {.token = (uint32_t)strtoul(*text, text, 10)};

    assert_int_equal(**text, ':');
    p.logprob = strtod(*text + 1, text);
    return p;
}

static double off(const struct event_logprobs *e, const struct token_logprob *want)
{
    for (uint32_t i = 0; i < e->count; i++)
        if (e->top[i].token == want->token)
            return fabs(e->top[i].logprob - want->logprob);
    return 0; /* at the list's end two may be near enough to change places */
}

/* One line of a step; what is most off. */
static double compare(char *text, const struct event_logprobs *e)
{
    struct token_logprob picked = read_pair(&text);
    double worst = fabs(e->picked.logprob - picked.logprob);

    assert_int_equal(e->picked.token, picked.token);
    assert_int_equal(e->count, ORDER_TOP_MAX);
    for (uint32_t i = 0; i < ORDER_TOP_MAX; i++) {
        struct token_logprob want = read_pair(&text);
        double nth = fabs(e->top[i].logprob - want.logprob), same = off(e, &want);
        worst = nth > worst ? nth : worst;
        worst = same > worst ? same : worst;
    }
    return worst;
}

static void run_prompt(struct rig *r, uint64_t seq, char *text)
{
    uint32_t prompt[64], count = 0;
    char *end;

    for (;; text = end) {
        unsigned long token = strtoul(text, &end, 10);
        if (end == text)
            break;
        assert_true(count < 64);
        prompt[count++] = (uint32_t)token;
    }
    rig_seq(r, seq, 1, prompt, count, 0, TOKENS, SAMPLING_IGNORE_EOS);
    rig_turn(r, 1, 0);
    assert_int_equal(heard_count[seq], TOKENS);
}

static void test_golden(void **state)
{
    const char *path = getenv("MODELPOOL_TEST_MODEL");
    char *line = NULL, kind;
    size_t room = 0;
    double worst = 0;
    uint32_t compared = 0;
    unsigned n, step;
    struct rig r;
    int at;

    (void)state;
    if (path == NULL) {
        print_message("MODELPOOL_TEST_MODEL is unset: no real model to compare\n");
        skip();
    }
    FILE *f = fopen(SRCDIR "/tests/golden/engine/smollm2-logprobs.golden", "re");
    assert_non_null(f);
    memset(heard_count, 0, sizeof(heard_count));
    rig_open(&r, (uint64_t)1 << 30, 1, 4);
    rig_model(&r, 1, path, 0);
    assert_true(r.model.ok);
    r.logprobs = 1 + ORDER_TOP_MAX;
    r.on_logprobs = hear;
    while (getline(&line, &room, f) > 0) {
        if (sscanf(line, "%c %u%n", &kind, &n, &at) != 2)
            continue;
        assert_true(n < 4);
        if (kind == 'p') {
            run_prompt(&r, n, line + at);
            continue;
        }
        assert_int_equal(sscanf(line, "s %*u %u%n", &step, &at), 1);
        assert_true(step < heard_count[n]);
        double most = compare(line + at, &heard[n][step]);
        if (!(most <= TOLERANCE))
            fail_msg("prompt %u, token %u: a log probability is %g off", n, step, most);
        worst = most > worst ? most : worst;
        compared++;
    }
    free(line);
    fclose(f);
    assert_int_equal(compared, 3 * TOKENS);
    print_message("%u tokens: log probabilities at most %.2g off\n", compared, worst);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_golden),
    };

    snprintf(tiny_path, sizeof(tiny_path), "/tmp/logprobs.%ld.gguf", (long)getpid());
    if (tiny_gguf_write(tiny_path, NULL) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(tiny_path);
    return failed;
}
