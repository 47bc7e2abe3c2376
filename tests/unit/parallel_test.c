/*
 * parallel_test.c - one model on several ranks gives what it gives on one
 *
 * Every family's tiny checkpoint on 1, 2 and 4 ranks: logits of all positions, and greedy tokens
 * while models share memory, switch, and lose pages; what degrees are refused; what happens when a
 * rank has no memory, or does not come.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "engine/shard.h"
#include "engine/turn.h"
#include "tests/unit/checkpoint_folder.h"
#include "tests/unit/engine_rig.h"
#include "tests/unit/fault.h"
#include "tests/unit/tiny_gguf.h"

#define FOLDER     SRCDIR "/tests/golden/families/"
#define VOCABULARY 272u /* at most, of the models here */
#define LENGTH     40u  /* of prompts */
#define OUTPUT     16u
#define CONTEXT    96u
#define TOLERANCE  1e-4
#define NO_EOS     SAMPLING_IGNORE_EOS

static const uint32_t degrees[] = {1, 2, 4};

struct outcome {
    float logits[LENGTH][VOCABULARY];
    uint32_t greedy[OUTPUT];
};

/* Of MODELPOOL_TEST_DEVICE's: a machine with GPUs is asked for two. */
static uint32_t ranks_most(void)
{
    return rig_device() == RIG_CPU ? 4 : 2;
}

static struct order_hello hello(uint32_t ranks, uint64_t handles)
{
    return (struct order_hello){
        .kind = ORDER_HELLO,
        .version = ORDER_VERSION,
        .memory_bytes = handles * rig_handle() * ranks,
        .threads = ranks,
        .max_batch = 64,
        .ranks = ranks,
        .device = rig_device() == RIG_CPU ? ORDER_DEVICE_CPU : ORDER_DEVICE_CUDA,
        .precision = rig_device() == RIG_CUDA_FAST ? ORDER_FAST : ORDER_EXACT,
        .instance = "test"};
}

static void open_ranks(struct rig *r, uint32_t ranks, uint64_t handles)
{
    const struct order_hello h = hello(ranks, handles);

    rig_open_order(r, &h);
}

static uint32_t prompt_token(uint32_t i, uint32_t sequence)
{
    return (i * 31 + (i < 36 ? sequence / 4 : sequence) * 57 + 3) % 256;
}

/* What fails is meant to. */
static void quiet(void)
{
    log_init("parallel_test", LOG_LEVEL_ERROR);
}

/* --- families --------------------------------------------------------------------------------- */

static void take_logits(struct rig *r, uint32_t chunk, struct outcome *o)
{
    const struct model *m = r->e->residency.models[0];
    const float *logits;
    struct step *st;

    while ((st = rig_step(r->e, chunk, 1, &logits)) != NULL) {
        struct sequence *s = st->members[0];
        assert_int_equal(st->run_count, 1);
        for (uint32_t i = 0; i < st->rows; i++)
            memcpy(o->logits[s->computed + i], logits + (size_t)i * m->arch.vocabulary,
                   m->arch.vocabulary * sizeof(float));
        s->computed += st->rows;
        if (s->computed == s->count)
            sequence_close(&r->e->sequences, s);
    }
}

/* A row's bits do not depend on how many others are in its step. */
static void check_chunks(struct rig *r, const uint32_t *prompt, const struct outcome *o)
{
    struct outcome *got = calloc(1, sizeof(*got));

    assert_non_null(got);
    rig_seq(r, 2, 1, prompt, LENGTH, 0, 1, NO_EOS);
    take_logits(r, 3, got);
    if (rig_device() != RIG_CUDA_FAST) /* where another number of rows may go by another kernel */
        assert_memory_equal(got->logits, o->logits, sizeof(got->logits));
    free(got);
}

/* The model at `path` on so many ranks.  0: `text` says why it was refused. */
static int run_model(const char *path, uint32_t ranks, struct outcome *o, char *text)
{
    uint32_t prompt[LENGTH];
    struct rig r;
    int ok;

    for (uint32_t i = 0; i < LENGTH; i++)
        prompt[i] = prompt_token(i, 0);
    open_ranks(&r, ranks, 16);
    rig_model(&r, 1, path, CONTEXT);
    ok = (int)r.model.ok;
    memcpy(text, r.model.text, ORDER_TEXT_MAX);
    if (ok) {
        rig_ref(&r, ORDER_LOAD, 1, 0);
        assert_int_equal(r.came, 1);
        assert_true(r.e->residency.models[0]->arch.vocabulary <= VOCABULARY);
        rig_seq(&r, 0, 1, prompt, LENGTH, 0, 1, NO_EOS);
        take_logits(&r, 23, o);
        check_chunks(&r, prompt, o);
        rig_seq(&r, 1, 1, prompt, LENGTH / 2, 0, OUTPUT, NO_EOS);
        rig_turn(&r, 1, 0);
        assert_int_equal(r.seqs[1].count, OUTPUT);
        memcpy(o->greedy, r.seqs[1].tokens, sizeof(o->greedy));
    }
    rig_close(&r);
    return ok;
}

/* Of bfloat16: the norm of the difference against that of the logits; greedy tokens may differ. */
static double compare_fast(const char *name, const struct outcome *a, const struct outcome *b)
{
    double off = 0, all = 0;

    for (uint32_t i = 0; i < LENGTH; i++)
        for (uint32_t t = 0; t < VOCABULARY; t++) {
            double diff = (double)a->logits[i][t] - (double)b->logits[i][t];
            off += diff * diff;
            all += (double)b->logits[i][t] * (double)b->logits[i][t];
        }
    off = sqrt(off / all);
    if (!(off <= 2e-2))
        fail_msg("%s: logits are %g off, relatively", name, off);
    return off;
}

static double compare(const char *name, const struct outcome *a, const struct outcome *b)
{
    double worst = 0;

    if (rig_device() == RIG_CUDA_FAST)
        return compare_fast(name, a, b);
    for (uint32_t i = 0; i < LENGTH; i++)
        for (uint32_t t = 0; t < VOCABULARY; t++) {
            double diff = fabs((double)a->logits[i][t] - (double)b->logits[i][t]);
            if (!(diff <= TOLERANCE))
                fail_msg("%s: position %u: logit of %u is %g off", name, i, t, diff);
            worst = diff > worst ? diff : worst;
        }
    assert_memory_equal(a->greedy, b->greedy, sizeof(a->greedy));
    return worst;
}

/* On all degrees against one rank; `refused` from that degree on, with a text that has `why` there.
 */
static void check_path(const char *name, const char *path, uint32_t refused, const char *why)
{
    struct outcome *alone = calloc(1, sizeof(*alone)), *got = calloc(1, sizeof(*got));
    char text[ORDER_TEXT_MAX];
    double worst = 0, off;

    assert_non_null(alone);
    assert_non_null(got);
    for (size_t d = 0; d < sizeof(degrees) / sizeof(degrees[0]); d++) {
        if (degrees[d] > ranks_most())
            break;
        int ok = run_model(path, degrees[d], d == 0 ? alone : got, text);
        if (refused != 0 && degrees[d] >= refused) {
            char degree[32];
            snprintf(degree, sizeof(degree), "TensorParallel=%u", degrees[d]);
            if (ok || strstr(text, degree) == NULL ||
                (degrees[d] == refused && strstr(text, why) == NULL))
                fail_msg("%s, %u ranks: \"%s\" instead of \"%s\"", name, degrees[d], text, why);
            continue;
        }
        if (!ok)
            fail_msg("%s, %u ranks: %s", name, degrees[d], text);
        off = d == 0 ? 0 : compare(name, got, alone);
        worst = off > worst ? off : worst;
    }
    print_message("%s: at most %.2g off\n", name, worst);
    free(alone);
    free(got);
}

static void check_family(const char *name, uint32_t refused, const char *why)
{
    char path[512];

    snprintf(path, sizeof(path), FOLDER "%s", name);
    check_path(name, path, refused, why);
}

static void test_families(void **state)
{
    /* On GPUs, where a group takes a second to connect, the first ones alone. */
    static const char *const names[] = {
        "llama3",           "qwen2",         "gemma3",     "phi3-window",    "olmo2",
        "qwen3moe",         "mistral",       "qwen2-yarn", "qwen3",          "gemma2",
        "gemma2-capped",    "smollm3",       "granite",    "qwen3moe-mixed", "llama3.gguf",
        "phi3-window.gguf", "qwen3moe.gguf", "olmo2.gguf",
    };
    size_t count = rig_device() == RIG_CPU ? sizeof(names) / sizeof(names[0]) : 6;

    (void)state;
    for (size_t i = 0; i < count; i++)
        check_family(names[i], 0, NULL);
    check_family("phi3", 4, "its 2 heads");
}

/* Blocks of quantized types: whole ones or none. */
static void test_blocks(void **state)
{
    char path[] = "/tmp/modelpool-parallel-XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    if (rig_device() == RIG_CUDA_FAST) /* refused: engine_check_model() */
        skip();
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(tiny_gguf_write(path, &(struct tiny_options){.seed = 5, .untied = 1}), 0);
    check_path("tiny", path, 4, "tensor blk.0.attn_output.weight");
    unlink(path);
    check_family("q2-q3-k.gguf", 2, "blocks of 256 columns");
    if (rig_device() != RIG_CPU)
        return; /* no FP8 there */
    check_family("qwen3-f8-block", 2, "blocks of 128 columns (F8_E4M3");
    check_family("llama-f8-channel", 2, "model.layers.0.self_attn.o_proj.weight");
    check_family("phi3-f8-block", 2, "blocks of 128 columns");
    check_family("qwen3moe-f8-block", 2, "blocks of 128 columns");
}

static void test_degrees(void **state)
{
    const struct {
        struct arch arch;
        uint32_t ranks;
        const char *why;
    } cases[] = {
        {{.heads = 9, .kv_heads = 3, .ffn = 8, .vocabulary = 9},
         2,
         "=2 does not divide its 9 heads"},
        {{.heads = 12, .kv_heads = 3, .ffn = 8, .vocabulary = 9}, 2, "3 heads of keys"},
        {{.heads = 24, .kv_heads = 6, .ffn = 8, .vocabulary = 9}, 4, "6 heads of keys"},
        {{.heads = 8, .kv_heads = 2, .ffn = 12, .vocabulary = 9}, 8, "12 columns of its feed"},
        {{.heads = 8, .kv_heads = 8, .ffn = 8, .vocabulary = 7}, 8, "7 tokens"},
        {{.heads = 8, .kv_heads = 1, .ffn = 8, .vocabulary = 8}, 8, NULL},
        {{.heads = 8,
          .kv_heads = 4,
          .ffn = 9,
          .expert_ffn = 8,
          .vocabulary = 8,
          .layer = {{.moe = 1}}},
         4,
         NULL},
        {{.heads = 8,
          .kv_heads = 4,
          .ffn = 8,
          .expert_ffn = 9,
          .vocabulary = 8,
          .layer = {{.moe = 1}}},
         4,
         "9 columns of its experts"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct arch a = cases[i].arch;
        struct error err = {0};
        a.layers = 1;
        int rv = shard_check(&a, cases[i].ranks, "m", &err);
        assert_int_equal(rv == 0, cases[i].why == NULL);
        if (rv != 0 && (err.status != STATUS_UNSUPPORTED || !strstr(err.text, cases[i].why)))
            fail_msg("case %zu: %s", i, err.text);
    }
}

/* The vocabulary need not divide; heads of keys and values are shared by neighbours. */
static void test_shares(void **state)
{
    const struct arch a = {.heads = 8, .kv_heads = 2, .head_dim = 4, .vocabulary = 13};
    uint32_t next = 0, first, count;

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        const struct shard s = {.rank = i, .ranks = 4};
        struct arch_ref ref = {.first = 100, .count = 8};
        struct shard_columns part;
        struct arch local;
        first = shard_first_token(&a, i, 4);
        count = shard_first_token(&a, i + 1, 4) - first;
        assert_int_equal(first, next);
        assert_in_range(count, 3, 4);
        next = first + count;
        shard_arch(&local, &a, s);
        assert_int_equal(local.heads, 2);
        assert_int_equal(local.kv_heads, 1);
        shard_narrow(&a, s, ROLE_K, &ref, 64, &part);
        assert_int_equal(ref.first, 100 + i / 2 * 4);
        assert_int_equal(ref.count, 4);
        assert_int_equal(part.count, 64);
        ref = (struct arch_ref){.first = 7, .count = 64};
        shard_narrow(&a, s, ROLE_O, &ref, 32, &part);
        assert_true(ref.first == 7 && ref.count == 64 && part.first == 8 * i && part.count == 8);
    }
    assert_int_equal(next, 13);
}

/* --- FP8 with columns that divide ------------------------------------------------------------- */

#define F8_WIDTH 256u

struct f8_writer {
    char header[4096];
    size_t at, data;
};

static void f8_tensor(struct f8_writer *w, const char *name, const char *type, uint32_t size,
                      uint32_t rows, uint32_t cols)
{
    size_t bytes = (size_t)rows * (cols == 0 ? 1 : cols) * size;
    char shape[32];

    if (cols == 0)
        snprintf(shape, sizeof(shape), "%u", rows);
    else
        snprintf(shape, sizeof(shape), "%u,%u", rows, cols);
    w->at +=
        (size_t)snprintf(w->header + w->at, sizeof(w->header) - w->at,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         w->at == 1 ? "" : ",", name, type, shape, w->data, w->data + bytes);
    w->data += bytes;
}

static void f8_matrix(struct f8_writer *w, const char *name, uint32_t rows, uint32_t cols)
{
    char full[96];

    snprintf(full, sizeof(full), "model.layers.0.%s.weight", name);
    f8_tensor(w, full, "F8_E4M3", 1, rows, cols);
    strncat(full, "_scale_inv", sizeof(full) - strlen(full) - 1);
    f8_tensor(w, full, "F32", 4, (rows + 127) / 128, (cols + 127) / 128);
}

/* Random codes below 0x48 in magnitude, scales below 0.02, and other numbers within +-1. */
static void f8_fill(unsigned char *data, const char *header)
{
    uint64_t random = 88172645463325252u;

    for (const char *p = header; (p = strstr(p, "\"dtype\":\"")) != NULL; p++) {
        unsigned long long from, to;
        int codes = strncmp(p + 9, "F8", 2) == 0, scale = strncmp(p - 13, "_scale_inv", 10) == 0;
        assert_int_equal(sscanf(strstr(p, "offsets\":["), "offsets\":[%llu,%llu", &from, &to), 2);
        for (unsigned long long i = from; i < to; i += codes ? 1 : 4) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            float f = (float)(random % 2001) / 1000.0f - 1;
            if (codes)
                data[i] = (unsigned char)((random >> 20 & 0x80) | random % 0x48);
            else if (scale)
                f = (f + 1.01f) / 100;
            if (!codes)
                memcpy(data + i, &f, sizeof(f));
        }
    }
}

static void write_f8(const struct checkpoint *c)
{
    static const char config[] =
        "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":256,"
        "\"intermediate_size\":512,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":1,\"head_dim\":128,\"vocab_size\":272,\"bos_token_id\":1,"
        "\"eos_token_id\":2,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
        "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"hidden_act\":\"silu\","
        "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
        "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]}}";
    struct f8_writer w = {.header = "{", .at = 1};
    unsigned char *file;
    uint64_t len;

    f8_tensor(&w, "model.embed_tokens.weight", "F32", 4, VOCABULARY, F8_WIDTH);
    f8_tensor(&w, "model.norm.weight", "F32", 4, F8_WIDTH, 0);
    f8_tensor(&w, "model.layers.0.input_layernorm.weight", "F32", 4, F8_WIDTH, 0);
    f8_tensor(&w, "model.layers.0.post_attention_layernorm.weight", "F32", 4, F8_WIDTH, 0);
    f8_matrix(&w, "self_attn.q_proj", 512, F8_WIDTH);
    f8_matrix(&w, "self_attn.k_proj", 128, F8_WIDTH);
    f8_matrix(&w, "self_attn.v_proj", 128, F8_WIDTH);
    f8_matrix(&w, "self_attn.o_proj", F8_WIDTH, 512);
    f8_matrix(&w, "mlp.gate_proj", 512, F8_WIDTH);
    f8_matrix(&w, "mlp.up_proj", 512, F8_WIDTH);
    f8_matrix(&w, "mlp.down_proj", F8_WIDTH, 512);
    w.at += (size_t)snprintf(w.header + w.at, sizeof(w.header) - w.at, "}");
    len = w.at;
    file = calloc(1, 8 + w.at + w.data);
    assert_non_null(file);
    memcpy(file, &len, 8);
    memcpy(file + 8, w.header, w.at);
    f8_fill(file + 8 + w.at, w.header);
    checkpoint_text(c, "config.json", config);
    checkpoint_write(c, "model.safetensors", file, 8 + w.at + w.data);
    free(file);
}

static void test_f8(void **state)
{
    struct checkpoint c;

    (void)state;
    if (rig_device() != RIG_CPU)
        skip();
    checkpoint_start(&c);
    write_f8(&c);
    check_path("FP8 of 512 columns", c.folder, 0, NULL);
    checkpoint_remove(&c);
}

/* --- models that take turns ------------------------------------------------------------------- */

#define SEQS 6u

static uint32_t model_of(uint32_t i)
{
    return 1 + i % 2;
}

static void ask(struct rig *r, uint32_t i)
{
    uint32_t prompt[LENGTH];

    for (uint32_t j = 0; j < LENGTH; j++)
        prompt[j] = prompt_token(j, i);
    rig_reset(r, i);
    rig_seq(r, i, model_of(i), prompt, LENGTH, 0, OUTPUT, NO_EOS);
}

/* Pages so large that few fit, on all ranks. */
static void widen_pages(struct rig *r)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct model *m = r->e->residency.models[i];
        for (uint32_t p = 0; p < m->part_count; p++) {
            m->parts[p]->kv.page_bytes = rig_handle() / 4;
            m->parts[p]->kv_local.page_bytes = i == 1 ? rig_handle() / 8 : 0;
        }
    }
}

/* As the daemon does when memory is short: the youngest of the model gives way and begins anew,
 * with the tokens so far. */
static int preempt(struct rig *r, uint32_t model)
{
    uint32_t prompt[LENGTH];

    for (uint32_t i = SEQS; i-- > 0;) {
        const struct sequence *s = sequence_find(&r->e->sequences, i);
        if (s == NULL || model_of(i) != model || s->caches[0].count == 0)
            continue;
        for (uint32_t j = 0; j < LENGTH; j++)
            prompt[j] = prompt_token(j, i);
        rig_ref(r, ORDER_SEQ_CLOSE, 0, i);
        rig_seq(r, i, model, prompt, LENGTH, r->seqs[i].count, OUTPUT, NO_EOS);
        return 1;
    }
    return 0;
}

static int unfinished(const struct rig *r)
{
    for (uint32_t i = 0; i < SEQS; i++)
        if (r->seqs[i].count < OUTPUT)
            return 1;
    return 0;
}

/* Shared prefixes, slabs that move for weights, sequences that lose their pages and are computed
 * anew, and switches, in memory for a model and some pages. */
static void scenario(uint32_t ranks, uint32_t tokens[SEQS][OUTPUT])
{
    uint32_t preempted = 0, turns = 0;
    struct rig r;

    open_ranks(&r, ranks, 6);
    rig_model(&r, 1, FOLDER "llama3", CONTEXT);
    rig_model(&r, 2, FOLDER "gemma3", CONTEXT);
    assert_int_equal(r.model.ok, 1);
    widen_pages(&r);
    r.e->rows_max = 24;
    r.sharing = rig_device() == RIG_CPU;
    for (uint32_t i = 0; i < 4; i++) {
        ask(&r, i);
        rig_turn(&r, model_of(i), 2);
    }
    rig_ref(&r, ORDER_SEQ_SPILL, 0, 0);
    assert_int_equal(r.moved.ok, 0); /* there is no room for it: it is computed anew */
    rig_turn(&r, 2, 2);
    rig_ref(&r, ORDER_SEQ_CLOSE, 0, 2);
    ask(&r, 4);
    ask(&r, 5);
    rig_turn(&r, 2, 3);
    rig_ref(&r, ORDER_UNLOAD, 1, 0);
    rig_ref(&r, ORDER_SEQ_FETCH, 0, 0);
    ask(&r, 2);
    while (unfinished(&r)) {
        assert_true(++turns < 200);
        rig_turn(&r, 1 + turns % 2, 4);
        if (r.turn_end.reason == TURN_KV_FULL)
            preempted += (uint32_t)(preempt(&r, 2) || preempt(&r, 1));
    }
    for (uint32_t i = 0; i < SEQS; i++) {
        assert_string_equal(r.seqs[i].fault, "");
        assert_int_equal(r.seqs[i].count, OUTPUT);
        memcpy(tokens[i], r.seqs[i].tokens, sizeof(tokens[i]));
    }
    print_message("%u ranks: %u turns, %u departures, %u preempted\n", ranks, turns, r.went,
                  preempted);
    assert_true(rig_device() != RIG_CPU || (r.went > 1 && preempted > 0));
    rig_close(&r);
}

static void test_turns(void **state)
{
    static uint32_t alone[SEQS][OUTPUT], got[SEQS][OUTPUT];

    (void)state;
    quiet();
    if (rig_device() == RIG_CUDA_FAST)
        skip(); /* other bits, other tokens */
    scenario(1, alone);
    for (uint32_t ranks = 2; ranks <= ranks_most(); ranks *= 2) {
        memset(got, 0, sizeof(got));
        scenario(ranks, got);
        assert_memory_equal(got, alone, sizeof(got));
    }
}

/* --- sums ------------------------------------------------------------------------------------- */

#define SUM_RANKS 4u
#define ROUNDS    200u
#define SUM_MOST  3000u

struct sums {
    struct collective *collective;
    float x[SUM_RANKS][SUM_MOST], logits[3 * 10];
    atomic_uint wrong;
};

static float number(uint32_t round, uint32_t rank, uint32_t i)
{
    uint32_t h = (round * 2654435761u) ^ (rank * 40503u + 7) ^ (i * 2246822519u);

    h ^= h >> 15;
    h *= 2246822519u;
    return (float)(h >> 8) * 1e-5f - 70.0f;
}

static void sum_rank(void *context, uint32_t rank)
{
    static const uint32_t firsts[SUM_RANKS + 1] = {0, 1, 3, 6, 10};
    struct sums *s = context;
    float *x = s->x[rank];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t count = round % 5 == 0 ? round + 1 : (round * 977) % SUM_MOST + 1;
        for (uint32_t i = 0; i < count; i++)
            x[i] = number(round, rank, i);
        collective_sum(s->collective, rank, x, count, DTYPE_F32);
        for (uint32_t i = 0; i < count; i++) {
            float want = number(round, 0, i);
            for (uint32_t r = 1; r < SUM_RANKS; r++)
                want += number(round, r, i);
            s->wrong += memcmp(&want, &x[i], sizeof(want)) != 0;
        }
        /* 3 rows, as many columns of each rank as its number and one. */
        if (count < 12)
            continue;
        collective_gather(s->collective, rank, rank == 0 ? s->logits : NULL, x, 3, firsts);
        for (uint32_t i = 0; rank == 0 && i < 3; i++)
            for (uint32_t r = 0; r < SUM_RANKS; r++)
                s->wrong += memcmp(&s->logits[i * 10 + firsts[r]], &x[i * (r + 1)],
                                   (r + 1) * sizeof(float)) != 0;
        x[0] = (float)(round + rank);
        collective_broadcast(s->collective, rank, x, sizeof(*x));
        s->wrong += !(fabsf(x[0] - (float)round) < 0.5f);
    }
}

static struct group *make_group(uint32_t ranks, int64_t timeout_us, struct device **first)
{
    struct device *devices[COLLECTIVE_RANKS_MAX];
    struct error err = {0};

    for (uint32_t i = 0; i < ranks; i++) {
        devices[i] = device_create(1, PRECISION_EXACT, 16, 64, &err);
        assert_non_null(devices[i]);
    }
    *first = devices[0];
    struct group *g = group_create(devices, ranks, 16, 16, timeout_us, &err);
    if (g == NULL)
        fail_msg("%s", err.text);
    return g;
}

static void test_sums(void **state)
{
    struct sums *s = calloc(1, sizeof(*s));
    struct error err = {0};
    struct device *first;
    struct group *g = make_group(SUM_RANKS, 20000000, &first);

    (void)state;
    assert_non_null(s);
    s->collective = group_collective(g);
    group_run(g, sum_rank, s);
    if (collective_failed(s->collective, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(s->wrong, 0);
    assert_int_equal(group_stop(g), 0);
    group_destroy(g);
    device_destroy(first);
    free(s);
}

/* --- ranks that fail -------------------------------------------------------------------------- */

struct late {
    struct collective *collective;
    atomic_uint calls;
    float x[2][64];
};

static void late_rank(void *context, uint32_t rank)
{
    struct late *l = context;

    l->calls++;
    if (rank == 1)
        usleep(400000);
    collective_sum(l->collective, rank, l->x[rank], 64, DTYPE_F32);
}

static void test_timeout(void **state)
{
    struct late l = {0};
    struct error err = {0};
    struct device *first;
    struct group *g = make_group(2, 50000, &first);

    (void)state;
    l.collective = group_collective(g);
    assert_int_equal(collective_failed(l.collective, &err), 0);
    group_run(g, late_rank, &l);
    assert_int_equal(collective_failed(l.collective, &err), -1);
    assert_int_equal(err.status, STATUS_TIMEOUT);
    assert_non_null(strstr(err.text, "rank 0 of 2: the others did not come within 50 ms"));
    group_run(g, late_rank, &l);
    assert_int_equal(l.calls, 2); /* nobody was called again */
    assert_int_equal(group_stop(g), 0);
    group_destroy(g);
    device_destroy(first);
}

/* A rank that cannot go on ends the engine, as a device that fails does. */
static void test_failed_rank(void **state)
{
    const struct error why = {.status = STATUS_IO, .text = "its memory is gone"};
    const uint32_t prompt[] = {1, 2, 3, 4};
    struct rig r;

    (void)state;
    open_ranks(&r, 2, 16);
    rig_model(&r, 1, FOLDER "llama3", CONTEXT);
    rig_seq(&r, 0, 1, prompt, 4, 0, OUTPUT, NO_EOS);
    rig_queue(&r, 1, 0, 0);
    while (r.seqs[0].count == 0) {
        turn_advance(r.e);
        rig_events(&r);
    }
    assert_int_equal(r.e->gone, 0);
    collective_fail(group_collective(r.e->group), 1, &why);
    turn_advance(r.e);
    assert_int_equal(r.e->gone, 1);
    rig_events(&r);
    assert_int_equal(r.seqs[0].count, 1);
    engine_destroy(r.e);
    close(r.fd);
    free(r.seqs);
}

/* An engine of two ranks with the n-th call failing: NULL, or it is whole. */
static struct engine *fail_create(uint32_t n, int fds[2], uint32_t *calls)
{
    const struct order_hello h = hello(2, 16);
    struct error err = {0};
    struct engine *e;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    fault_arm(n);
    e = engine_create(fds[1], &h, &err);
    *calls = fault_disarm();
    if (e == NULL)
        assert_string_not_equal(err.text, "");
    return e;
}

static void test_no_engine(void **state)
{
    uint32_t n = 1, calls;
    int fds[2];

    (void)state;
    if (rig_device() != RIG_CPU)
        skip();
    quiet();
    for (;; n++) {
        struct engine *e = fail_create(n, fds, &calls);
        int whole = calls < n;
        assert_true(!whole || e != NULL);
        engine_destroy(e);
        close(fds[0]);
        close(fds[1]);
        if (whole)
            break;
    }
    print_message("%u calls failed\n", n - 1);
    assert_in_range(n, 20, 200);
}

/* The order of a model with its files, made while nothing fails. */
static void name_model(struct order_model *order, struct channel_files *files,
                       struct source_files *opened)
{
    struct error err = {0};

    if (source_files_open(FOLDER "llama3", opened, &err) != 0)
        fail_msg("%s", err.text);
    source_files_for_engine(opened);
    *order = (struct order_model){.kind = ORDER_MODEL, .model = 1, .files = opened->count};
    files->count = opened->count;
    for (uint32_t i = 0; i < opened->count; i++) {
        order->kinds[i] = (uint8_t)opened->files[i].kind;
        files->fds[i] = opened->files[i].fd;
    }
    snprintf(order->name, sizeof(order->name), "one");
}

/* The n-th call of opening and loading a model fails: it is told, and the next try works. */
static int fail_load(uint32_t n)
{
    const uint32_t prompt[] = {1, 2, 3, 4};
    struct source_files opened;
    struct channel_files files = {0};
    struct order_model order;
    struct rig r;
    uint32_t calls;

    open_ranks(&r, 2, 16);
    name_model(&order, &files, &opened);
    fault_arm(n);
    engine_order(r.e, &order, &files);
    rig_events(&r);
    if (r.model.ok)
        rig_ref(&r, ORDER_LOAD, 1, 0);
    calls = fault_disarm();
    if (!r.model.ok) {
        assert_string_not_equal(r.model.text, "");
        assert_int_equal(r.e->residency.count, 0);
        engine_order(r.e, &order, &files);
        rig_events(&r);
        assert_int_equal(r.model.ok, 1);
    } else if (r.came == 0) {
        assert_int_equal(r.went, 1);
        assert_int_equal(arena_held(r.e->arena, ARENA_FREE), arena_handles(r.e->arena));
    }
    rig_seq(&r, 0, 1, prompt, 4, 0, 2, NO_EOS);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.seqs[0].count, 2);
    source_files_close(&opened);
    rig_close(&r);
    return calls >= n;
}

static void test_no_load(void **state)
{
    uint32_t n = 1;

    (void)state;
    if (rig_device() != RIG_CPU)
        skip();
    quiet();
    while (fail_load(n))
        n += n < 120 ? 1 : 7; /* the many that read metadata are alike */
    print_message("%u calls\n", n);
    assert_true(n > 100);
}

static void test_ranks(void **state)
{
    struct order_hello h = hello(3, 16);
    struct error err = {0};

    (void)state;
    assert_null(engine_create(-1, &h, &err));
    assert_int_equal(err.status, STATUS_INVALID);
    assert_non_null(strstr(err.text, "TensorParallel=3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_degrees),     cmocka_unit_test(test_shares),
        cmocka_unit_test(test_sums),        cmocka_unit_test(test_families),
        cmocka_unit_test(test_blocks),      cmocka_unit_test(test_f8),
        cmocka_unit_test(test_turns),       cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_failed_rank), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_no_engine),   cmocka_unit_test(test_no_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
