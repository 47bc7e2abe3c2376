/*
 * families_test.c - each family's forward pass against transformers'
 *
 * tests/golden/families/ holds tiny checkpoints with random weights, each also as a GGUF file where
 * that has a name for all of it, and transformers' logits (remake.py and fp8.py beside them).  All
 * positions' logits are compared; then the prompt goes through in chunks, token by token, and
 * beside others, and must give the same bits (bfloat16: logits as near, and the same bits on a
 * deterministic device).
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/source.h"
#include "tests/unit/engine_rig.h"

#define FOLDER     SRCDIR "/tests/golden/families/"
#define VOCABULARY 272u
#define PROMPT_MAX 128u
#define CROWD_MAX  64u
#define FULL_MAX   8u
#define MEMORY     (32 * rig_handle())

struct golden {
    uint32_t context, length;
    uint32_t prompt[PROMPT_MAX];
    uint32_t best[PROMPT_MAX]; /* token of the highest logit */
    double highest[PROMPT_MAX];
    uint32_t full_at[FULL_MAX], full_count;
    double full[FULL_MAX][VOCABULARY];
};

/* What a run gives: logits of each position. */
struct outcome {
    float logits[PROMPT_MAX][VOCABULARY];
};

static uint32_t read_numbers(const char *text, double *out, uint32_t room)
{
    uint32_t count = 0;
    char *end;

    for (;; text = end) {
        double v = strtod(text, &end);
        if (end == text)
            return count;
        assert_true(count < room);
        out[count++] = v;
    }
}

static void read_best(struct golden *g, char *text)
{
    uint32_t at = 0;

    for (char *save, *word = strtok_r(text, " \n", &save); word != NULL;
         word = strtok_r(NULL, " \n", &save), at++) {
        char *end;
        assert_true(at < g->length);
        g->best[at] = (uint32_t)strtoul(word, &end, 10);
        assert_true(*end == ':' && g->best[at] < VOCABULARY);
        g->highest[at] = strtod(end + 1, NULL);
    }
    assert_int_equal(at, g->length);
}

static void read_line(struct golden *g, char *line)
{
    double numbers[VOCABULARY + 1];
    uint32_t count;

    if (line[0] == '#')
        return;
    if (line[0] == 'a') {
        read_best(g, line + 2);
        return;
    }
    count = read_numbers(line + 2, numbers, VOCABULARY + 1);
    if (line[0] == 'c') {
        g->context = (uint32_t)numbers[0];
    } else if (line[0] == 'p') {
        assert_true(count <= PROMPT_MAX);
        g->length = count;
        for (uint32_t i = 0; i < count; i++)
            g->prompt[i] = (uint32_t)numbers[i];
    } else {
        assert_true(line[0] == 'l' && count == VOCABULARY + 1 && g->full_count < FULL_MAX);
        g->full_at[g->full_count] = (uint32_t)numbers[0];
        memcpy(g->full[g->full_count++], numbers + 1, sizeof(g->full[0]));
    }
}

static struct golden *read_golden(const char *name)
{
    struct golden *g = calloc(1, sizeof(*g));
    char path[512], *line = NULL;
    size_t room = 0;
    FILE *f;

    snprintf(path, sizeof(path), FOLDER "%s.golden", name);
    f = fopen(path, "re");
    if (f == NULL)
        fail_msg("%s is missing", path);
    assert_non_null(g);
    while (getline(&line, &room, f) > 0)
        read_line(g, line);
    free(line);
    fclose(f);
    assert_true(g->context > 0 && g->length > 16 && g->full_count >= 3);
    return g;
}

/* A model of one of the folders or files, opened in an engine of its own. */
static void open_model(struct rig *r, const char *name, uint32_t context)
{
    char path[512];

    snprintf(path, sizeof(path), FOLDER "%s", name);
    rig_open(r, MEMORY, 2, STEP_BATCH_MAX);
    rig_model(r, 1, path, context);
    if (!r->model.ok)
        fail_msg("%s: %s", name, r->model.text);
    rig_ref(r, ORDER_LOAD, 1, 0);
    assert_int_equal(r->came, 1);
}

/* Run a step and keep all its rows' logits; returns 0 when nothing is left. */
static int take_step(struct rig *r, uint32_t chunk, struct outcome *out)
{
    const float *logits;
    struct step *st = rig_step(r->e, chunk, 1, &logits);

    if (st == NULL)
        return 0;
    for (uint32_t i = 0; i < st->run_count; i++) {
        struct sequence *s = st->members[i];
        const struct attn_row *run = &st->plan.runs[i];
        memcpy(out[s->id].logits[run->first_pos], logits + (size_t)run->first_row * VOCABULARY,
               run->count * sizeof(out->logits[0]));
        s->computed += run->count;
        if (s->computed == s->count)
            sequence_close(&r->e->sequences, s);
    }
    return 1;
}

/* Run the prompts' first lengths[] tokens, all together, at most `chunk` rows a step. */
static void run(struct rig *r, const struct golden *g, const uint32_t *lengths, uint32_t count,
                uint32_t chunk, struct outcome *out)
{
    assert_int_equal(r->e->residency.models[0]->arch.vocabulary, VOCABULARY);
    for (uint32_t i = 0; i < count; i++)
        rig_seq(r, i, 1, g->prompt, lengths[i], 0, 1, SAMPLING_IGNORE_EOS);
    while (take_step(r, chunk, out))
        ;
}

/* How far off a logit may be: on the CPU, on a GPU. */
static double tolerance(void)
{
    return rig_device() == RIG_CPU ? 2e-3 : 1e-3;
}

static void compare_best(const char *name, const struct golden *g, const struct outcome *o,
                         uint32_t length)
{
    for (uint32_t at = 0; at < length; at++) {
        double diff = fabs((double)o->logits[at][g->best[at]] - g->highest[at]);
        if (!(diff <= tolerance()))
            fail_msg("%s: position %" PRIu32 ": logit of %" PRIu32 " is %g, not %g", name, at,
                     g->best[at], (double)o->logits[at][g->best[at]], g->highest[at]);
        for (uint32_t t = 0; t < VOCABULARY; t++)
            if (!((double)o->logits[at][t] <= g->highest[at] + tolerance()))
                fail_msg("%s: position %" PRIu32 ": token %" PRIu32 " instead of %" PRIu32, name,
                         at, t, g->best[at]);
    }
}

/* The largest difference of the positions whose logits are all there; of bfloat16 the norm of the
 * difference against that of the logits, within the limit. */
static double compare(const char *name, const struct golden *g, const struct outcome *o,
                      uint32_t length, double limit)
{
    int fast = rig_device() >= RIG_CUDA_FAST;
    double worst = 0, off = 0, all = 0;

    if (!fast)
        compare_best(name, g, o, length);
    for (uint32_t i = 0; i < g->full_count; i++) {
        for (uint32_t t = 0; t < VOCABULARY && g->full_at[i] < length; t++) {
            double diff = fabs((double)o->logits[g->full_at[i]][t] - g->full[i][t]);
            if (!fast && !(diff <= tolerance()))
                fail_msg("%s: position %" PRIu32 ": logit of %" PRIu32 " is %g off", name,
                         g->full_at[i], t, diff);
            worst = diff > worst ? diff : worst;
            off += diff * diff;
            all += g->full[i][t] * g->full[i][t];
        }
    }
    if (!fast)
        return worst;
    if (all > 0 && !(sqrt(off / all) <= limit))
        fail_msg("%s: logits are %g off, relatively", name, sqrt(off / all));
    return all > 0 ? sqrt(off / all) : 0;
}

static void assert_same(const char *name, const char *how, const struct golden *g,
                        const struct outcome *a, const struct outcome *b, uint32_t length)
{
    /* In bfloat16 another number of rows may go by another kernel. */
    if (rig_device() == RIG_CUDA_FAST) {
        compare(name, g, a, length, 3e-2); /* of few positions, which scatter more */
        return;
    }
    if (memcmp(a->logits, b->logits, length * sizeof(a->logits[0])) != 0)
        fail_msg("%s: %s gives other bits", name, how);
}

/* Beside 2, 16 and 63 others of all lengths. */
static void check_crowds(const char *model, struct rig *r, const struct golden *g,
                         const struct outcome *whole)
{
    static const uint32_t crowds[] = {3, 17, CROWD_MAX};
    struct outcome *got = calloc(CROWD_MAX, sizeof(*got));
    uint32_t lengths[CROWD_MAX];

    assert_non_null(got);
    for (uint32_t i = 0; i < CROWD_MAX; i++)
        lengths[i] = g->length - i * 5 % g->length;
    /* A CPU has a kernel for all: the smallest will do. */
    for (size_t c = 0; c < (rig_device() == RIG_CPU ? 1 : 3); c++) {
        memset(got, 0, CROWD_MAX * sizeof(*got));
        run(r, g, lengths, crowds[c], STEP_BATCH_MAX, got);
        for (uint32_t i = 0; i < crowds[c]; i++)
            assert_same(model, "a crowd", g, &got[i], whole, lengths[i]);
    }
    free(got);
}

/* A model against NAME.golden; then the ways to run it against each other. */
static void check_model(const char *model, const char *name)
{
    struct golden *g = read_golden(name);
    struct outcome *whole = calloc(1, sizeof(*whole)), *got = calloc(4, sizeof(*got));
    const uint32_t lengths[4] = {5, g->length, 19, g->length - 2};
    struct rig r;

    assert_non_null(whole);
    assert_non_null(got);
    open_model(&r, model, g->context);
    run(&r, g, &g->length, 1, STEP_BATCH_MAX, whole);
    print_message("%s: at most %.2g off\n", model, compare(model, g, whole, g->length, 2e-2));
    run(&r, g, &g->length, 1, 7, got);
    assert_same(model, "a chunked prompt", g, got, whole, g->length);
    memset(got, 0, sizeof(*got));
    run(&r, g, &g->length, 1, 1, got);
    assert_same(model, "token by token", g, got, whole, g->length);
    run(&r, g, lengths, 4, 29, got);
    for (uint32_t i = 0; i < 4; i++)
        assert_same(model, "a batch", g, &got[i], whole, lengths[i]);
    check_crowds(model, &r, g, whole);
    rig_close(&r);
    free(whole);
    free(got);
    free(g);
}

static void test_checkpoints(void **state)
{
    static const char *const names[] = {
        "llama3",  "mistral",       "qwen2",   "qwen2-yarn", "qwen3",
        "gemma2",  "gemma2-capped", "gemma3",  "phi3",       "phi3-window",
        "smollm3", "olmo2",         "granite", "qwen3moe",   "qwen3moe-mixed",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_model(names[i], names[i]);
    check_model("phi3", "phi3-short");
}

/* FP8 weights (fp8.py): scales of tiles, rows and tensors; in float32 each weight is what its code
 * and scale say. */
static void test_fp8(void **state)
{
    static const char *const names[] = {"qwen3-f8-block", "llama-f8-channel", "llama-f8-tensor",
                                        "phi3-f8-block", "qwen3moe-f8-block"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        check_model(names[i], names[i]);
}

static void test_gguf(void **state)
{
    static const char *const names[] = {
        "llama3", "mistral",     "qwen2-yarn", "qwen3", "gemma2-capped", "gemma3",
        "phi3",   "phi3-window", "smollm3",    "olmo2", "granite",       "qwen3moe",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char file[64];
        snprintf(file, sizeof(file), "%s.gguf", names[i]);
        check_model(file, names[i]);
    }
    check_model("phi3.gguf", "phi3-short");
    check_model("q2-q3-k.gguf", "q2-q3-k");
}

/* Pages that no later token sees are given back: all layers of a model with windows alone, the
 * windowed ones of others. */
static void check_pages(const char *model, uint32_t kinds, int whole)
{
    struct golden *g = read_golden(model);
    struct outcome *out = calloc(1, sizeof(*out));
    struct rig r;

    open_model(&r, model, g->context);
    struct model *m = r.e->residency.models[0];
    uint32_t page = m->kv.layers != 0 ? m->kv.page_tokens : m->kv_local.page_tokens;
    assert_int_equal((m->kv.layers != 0) + (m->kv_local.layers != 0), kinds);
    rig_seq(&r, 0, 1, g->prompt, g->length, 0, 1, SAMPLING_IGNORE_EOS);
    for (uint32_t n = 1; n <= g->length && page == 16; n++) {
        /* A window of 16 lies in at most two pages of 16; the last step gives all back. */
        uint32_t all = (n + 15) / 16, window = n <= 16 ? 1 : n % 16 == 0 ? 1 : 2;
        uint32_t want = (whole ? all : 0) + (whole && kinds == 1 ? 0 : window);
        assert_true(take_step(&r, 1, out));
        assert_int_equal(pages_live(r.e->pages), n < g->length ? want : 0);
    }
    rig_close(&r);
    free(out);
    free(g);
}

static void test_window_pages(void **state)
{
    (void)state;
    check_pages("mistral", 1, 0);
    check_pages("gemma3", 2, 1);
    check_pages("gemma2", 2, 1);
    check_pages("llama3", 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_window_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
