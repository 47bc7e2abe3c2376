/* model_report.c - read a model's files and count; see model_report.h */
#include "cli/model_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/ggml_type.h"
#include "model/template.h"

/* Keys and values are float32 in an engine. */
#define KV_ELEMENT_BYTES sizeof(float)
/* Of a KV page, which is the least that a sequence takes. */
#define KV_PAGE_TOKENS 16u
/* That an engine computes at once, at most. */
#define STEP_TOKENS 256u
/* An engine cuts its memory into pieces of that size. */
#define HANDLE_BYTES ((uint64_t)2 << 20)

static void refuse(struct model_report *r, const struct error *err)
{
    if (!r->refused)
        r->refusal = *err;
    r->refused = 1;
}

/* Weights */

/* FP8 in an engine: kernels.h's DTYPE_F8, a scale for every 128 columns of a row, both padded. */
static uint64_t f8_row_bytes(uint64_t cols)
{
    return (cols + 15) / 16 * 16 + ((cols + 127) / 128 * sizeof(float) + 15) / 16 * 16;
}

/* Whether all its rows are multiplied with, unlike those of an embedding that is not the head. */
static int is_factor(const struct model_report *r, enum role role, const struct arch_ref *ref)
{
    return ref->tensor->dims > 1 && (role != ROLE_EMBEDDING || r->arch.tied);
}

static void count_ref(struct model_report *r, enum role role, const struct arch_ref *ref)
{
    const struct source_tensor *t = ref->tensor;
    const struct ggml_type *type = ggml_type_get(t->type);
    uint64_t elements = t->dims == 1 ? ref->count : ref->count * t->shape[0];
    uint64_t bytes = elements / type->block_elements * type->block_bytes;

    r->parameters += elements;
    r->disk_bytes += bytes;
    if (t->scale) {
        uint64_t scales = t->scale->bytes * ref->count / t->shape[1];

        r->disk_bytes += scales;
        r->type_bytes[t->scale->type] += scales;
    }
    if (t->dims == 1)
        r->memory_bytes += elements * sizeof(float); /* vectors become F32 */
    else if (t->type == GGML_TYPE_F8)
        r->memory_bytes += ref->count * f8_row_bytes(t->shape[0]);
    else
        r->memory_bytes += bytes;
    r->type_bytes[t->type] += bytes;
    if (is_factor(r, role, ref))
        (role < ROLE_FIRST_EXPERT ? r->product_bytes : r->expert_bytes)[t->type] += bytes;
}

static void count_weights(struct model_report *r)
{
    const struct arch *a = &r->arch;
    struct arch_ref ref;

    for (enum role role = 0; role < ROLE_COUNT; role++)
        for (uint32_t layer = 0; layer < (role < ROLE_FIRST_LAYERED ? 1 : a->layers); layer++) {
            if (role < ROLE_FIRST_EXPERT) {
                if (arch_tensor(a, r->source, role, layer, &ref))
                    count_ref(r, role, &ref);
                continue;
            }
            for (uint32_t e = 0; e < a->experts; e++)
                if (arch_expert(a, r->source, role, layer, e, &ref))
                    count_ref(r, role, &ref);
        }
}

/* Caches */

static struct report_group *find_group(struct model_report *r, uint32_t window)
{
    for (uint32_t i = 0; i < r->group_count; i++)
        if (r->groups[i].window == window)
            return &r->groups[i];
    if (r->group_count == REPORT_GROUPS_MAX)
        return &r->groups[REPORT_GROUPS_MAX - 1]; /* no family has that many */
    r->groups[r->group_count] = (struct report_group){.window = window};
    return &r->groups[r->group_count++];
}

static void count_caches(struct model_report *r)
{
    const struct arch *a = &r->arch;
    uint64_t layer_bytes = (uint64_t)2 * a->kv_heads * a->head_dim * KV_ELEMENT_BYTES;

    for (uint32_t i = 0; i < a->layers; i++) {
        struct report_group *g = find_group(r, a->layer[i].window);

        g->layers++;
        g->token_bytes += layer_bytes;
        r->kv_token_bytes += layer_bytes;
    }
}

/* Of one sequence of so many tokens: layers with a window keep those that a step may still see. */
static uint64_t cache_bytes(const struct model_report *r, uint64_t tokens)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < r->group_count; i++) {
        const struct report_group *g = &r->groups[i];
        uint64_t kept = (uint64_t)g->window + STEP_TOKENS;

        bytes += g->token_bytes * (g->window && kept < tokens ? kept : tokens);
    }
    return bytes;
}

/* Would an instance of that memory hold the weights and some tokens?  How many? */
static void fit(struct model_report *r, uint64_t memory)
{
    uint64_t weights = (r->memory_bytes + HANDLE_BYTES - 1) / HANDLE_BYTES * HANDLE_BYTES;
    uint32_t low = 0, high = r->arch.context; /* low tokens fit */
    struct error err;

    r->max_context = high;
    if (memory == 0)
        return;
    memory = memory / HANDLE_BYTES * HANDLE_BYTES;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (memory > weights && cache_bytes(r, middle) <= memory - weights)
            low = middle;
        else
            high = middle - 1;
    }
    r->max_context = low < r->arch.context ? low / KV_PAGE_TOKENS * KV_PAGE_TOKENS : low;
    if (low >= KV_PAGE_TOKENS || low == r->arch.context)
        return;
    r->max_context = 0;
    error_set(&err, STATUS_EXHAUSTED,
              "its weights take %" PRIu64 " bytes and the first tokens %" PRIu64
              " more; there are %" PRIu64,
              weights, cache_bytes(r, KV_PAGE_TOKENS), memory);
    refuse(r, &err);
}

/* Tokenizer and template */

/* What the files call it, of which a tokenizer was made. */
static void read_kind(struct model_report *r)
{
    const struct gguf *g = source_gguf(r->source);
    const json_t *model = json_object_get(source_json(r->source, SOURCE_TOKENIZER), "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    struct gguf_string text = {"", 0};
    const char *file, *bytes;
    size_t len;

    if (g && gguf_get_string(g, "tokenizer.ggml.model", &text, NULL))
        text.len = 0;
    if (!g && type)
        text = (struct gguf_string){type, strlen(type)};
    else if (!g && source_vocabulary(r->source, &file, &bytes, &len) == 0)
        text = (struct gguf_string){file, strlen(file)};
    snprintf(r->tokenizer_kind, sizeof(r->tokenizer_kind), "%.*s",
             (int)(text.len < 31 ? text.len : 31), text.data);
}

static json_t *token_text(const struct tokenizer *t, int64_t token)
{
    return json_string(token < 0 ? "" : tokenizer_text(t, (uint32_t)token));
}

/* A conversation of one message must come out, as tokens. */
static int render(struct model_report *r, const struct template *t, struct error *err)
{
    int rv = -1;
    struct token_list list = {0};
    json_t *variables =
        json_pack("{s:[{s:s,s:s}],s:b,s:o,s:o}", "messages", "role", "user", "content", "Hello!",
                  "add_generation_prompt", 1, "bos_token",
                  token_text(r->tokenizer, tokenizer_bos(r->tokenizer)), "eos_token",
                  token_text(r->tokenizer, tokenizer_eos(r->tokenizer)));

    if (!variables)
        return error_set(err, STATUS_NOMEM, "no memory for a conversation");
    if (template_render(t, variables, &r->rendered, &r->rendered_len, err) == 0 &&
        tokenizer_encode(r->tokenizer, r->rendered, r->rendered_len, TOKENIZER_PARSE_SPECIAL, &list,
                         err) == 0) {
        r->rendered_tokens = list.count;
        rv = 0;
    }
    json_decref(variables);
    free(list.tokens);
    return rv;
}

/* A model without a template serves completions, but no chat. */
static void read_template(struct model_report *r)
{
    struct template *t = NULL;
    struct error err;
    const char *text;
    size_t len;
    int found = source_template(r->source, &text, &len, &err);

    r->has_template = found <= 0;
    if (found > 0)
        return;
    if (found < 0 || !(t = template_create(text, len, &err)) ||
        (r->tokenizer && render(r, t, &err))) {
        error_wrap(&err, "chat template");
        refuse(r, &err);
    }
    template_destroy(t);
}

int model_report_read(struct model_report *r, const char *path, uint64_t memory, struct error *err)
{
    struct error why;

    memset(r, 0, sizeof(*r));
    r->source = source_open(path, err);
    if (!r->source)
        return -1;
    r->has_arch = arch_read(&r->arch, r->source, &why) == 0;
    if (r->has_arch) {
        count_weights(r);
        count_caches(r);
        if (arch_check_cols(&r->arch, &why))
            refuse(r, &why);
        fit(r, memory);
    } else {
        refuse(r, &why);
    }
    r->tokenizer = tokenizer_create(r->source, &why);
    if (r->tokenizer) {
        read_kind(r);
    } else {
        error_wrap(&why, "tokenizer");
        refuse(r, &why);
    }
    read_template(r);
    return 0;
}

void model_report_free(struct model_report *r)
{
    tokenizer_destroy(r->tokenizer);
    free(r->rendered);
    source_close(r->source);
    memset(r, 0, sizeof(*r));
}
