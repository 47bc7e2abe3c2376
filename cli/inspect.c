/* inspect.c - modelpool inspect: what a model's files hold, and whether it will run here */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/model_report.h"
#include "cli/table.h"
#include "common/config.h"
#include "model/ggml_type.h"

#define USAGE "modelpool inspect [--memory=SIZE] [--json] PATH"
#define HELP                                                                                       \
    "Say what a GGUF file or a checkpoint folder holds, and whether it will run here.  Exit 1 "    \
    "if\n"                                                                                         \
    "it will not.\n"                                                                               \
    "      --memory=SIZE  for weights and KV, as Memory= of an instance; default: this host's\n"   \
    "      --json         JSON\n"

/* --- for people ------------------------------------------------------------------------------- */

static const char *bytes_text(char text[32], uint64_t bytes)
{
    table_bytes(text, 32, bytes);
    return text;
}

static void print_arch(const struct model_report *r)
{
    const struct arch *a = &r->arch;
    char text[32];

    printf("family       %s\n", a->family);
    printf("shape        %" PRIu32 " layers, width %" PRIu32 ", %" PRIu32 " heads and %" PRIu32
           " KV heads of %" PRIu32 ", feed-forward %" PRIu32 "\n",
           a->layers, a->width, a->heads, a->kv_heads, a->head_dim, a->ffn);
    if (a->experts)
        printf("experts      %" PRIu32 " of width %" PRIu32 ", %" PRIu32 " for a token\n",
               a->experts, a->expert_ffn, a->experts_used);
    printf("vocabulary   %" PRIu32 "%s\n", a->vocabulary, a->tied ? ", embedding is the head" : "");
    printf("context      %" PRIu32 " tokens\n", a->context);
    printf("end tokens  ");
    for (uint32_t i = 0; i < a->eos_count; i++)
        printf(" %" PRIu32, a->eos[i]);
    printf("%s\n", a->eos_count ? "" : " none");
    printf("parameters   %" PRIu64 "\n", r->parameters);
    printf("stored as   ");
    for (uint32_t i = 0, n = 0; i < REPORT_TYPES_MAX; i++)
        if (r->type_bytes[i])
            printf("%s %s %s", n++ ? "," : "", ggml_type_get(i)->name,
                   bytes_text(text, r->type_bytes[i]));
    printf("\nweights      %s on disk, ", bytes_text(text, r->disk_bytes));
    printf("%s in memory\n", bytes_text(text, r->memory_bytes));
    printf("KV           %" PRIu64 " bytes a token\n", r->kv_token_bytes);
    for (uint32_t i = 0; i < r->group_count; i++) {
        const struct report_group *g = &r->groups[i];

        printf("             %" PRIu64 " in %" PRIu32 " layers that see ", g->token_bytes,
               g->layers);
        if (g->window)
            printf("the last %" PRIu32 " tokens\n", g->window);
        else
            printf("all tokens\n");
    }
}

/* The types among those of which the bytes are given: BF16 (1), the others (0), all (-1). */
static uint32_t print_types(const uint64_t *bytes, int bf16)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < REPORT_TYPES_MAX; i++)
        if (bytes[i] && (bf16 < 0 || (i == GGML_TYPE_BF16) == bf16))
            printf("%s%s", n++ ? ", " : "", ggml_type_get(i)->name);
    return n;
}

/*
 * What a GPU's instance does with weights of these types (kernels/cuda: tune.cu, chosen.cu).  With
 * Precision=exact it decodes them as it multiplies, always.
 */
static void print_gpu(const struct model_report *r)
{
    printf("on a GPU     ");
    if (print_types(r->product_bytes, 1))
        printf(" as stored\n             ");
    if (print_types(r->product_bytes, 0))
        printf(" as stored for few rows of a step; for more, expanded to BF16\n"
               "             part by part in a buffer of 64 MiB, never as a whole\n             ");
    if (print_types(r->expert_bytes, -1))
        printf(" of experts as stored\n             ");
    printf("Precision=exact: all as stored\n");
}

static void print_report(const struct model_report *r, const char *path)
{
    uint32_t files = source_file_count(r->source);

    printf("path         %s\n", path);
    if (source_gguf(r->source))
        printf("format       GGUF\n");
    else
        printf("format       safetensors, %" PRIu32 " files read\n", files);
    if (r->has_arch)
        print_arch(r);
    if (r->has_arch)
        print_gpu(r);
    printf("tokenizer    ");
    if (r->tokenizer)
        printf("%s, %" PRIu32 " tokens\n", r->tokenizer_kind, tokenizer_vocabulary(r->tokenizer));
    else
        printf("not understood\n");
    if (r->rendered)
        printf("template     yes: a message \"Hello!\" becomes %zu tokens\n", r->rendered_tokens);
    else
        printf("template     %s\n", r->has_template ? "not understood" : "none: no chat");
    if (r->refused)
        printf("runs here    no: %s\n", r->refusal.text);
    else
        printf("runs here    yes, with up to %" PRIu32 " tokens of context\n", r->max_context);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *arch_json(const struct model_report *r)
{
    const struct arch *a = &r->arch;
    json_t *types = json_object(), *groups = json_array(), *ends = json_array();

    for (uint32_t i = 0; i < REPORT_TYPES_MAX; i++)
        if (r->type_bytes[i])
            json_object_set_new(types, ggml_type_get(i)->name,
                                json_integer((json_int_t)r->type_bytes[i]));
    for (uint32_t i = 0; i < r->group_count; i++)
        json_array_append_new(groups,
                              json_pack("{s:I,s:I,s:I}", "window", (json_int_t)r->groups[i].window,
                                        "layers", (json_int_t)r->groups[i].layers, "token_bytes",
                                        (json_int_t)r->groups[i].token_bytes));
    for (uint32_t i = 0; i < a->eos_count; i++)
        json_array_append_new(ends, json_integer(a->eos[i]));
    return json_pack(
        "{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:I,s:o,s:I,s:o,s:I,s:I,s:I,s:o}", "family",
        a->family, "layers", (json_int_t)a->layers, "width", (json_int_t)a->width, "heads",
        (json_int_t)a->heads, "kv_heads", (json_int_t)a->kv_heads, "head_dim",
        (json_int_t)a->head_dim, "ffn", (json_int_t)a->ffn, "experts", (json_int_t)a->experts,
        "experts_used", (json_int_t)a->experts_used, "expert_ffn", (json_int_t)a->expert_ffn,
        "tied", a->tied, "context", (json_int_t)a->context, "eos", ends, "parameters",
        (json_int_t)r->parameters, "types", types, "disk_bytes", (json_int_t)r->disk_bytes,
        "memory_bytes", (json_int_t)r->memory_bytes, "kv_token_bytes",
        (json_int_t)r->kv_token_bytes, "cache_groups", groups);
}

/* Names of the types among those of which the bytes are given, by what print_gpu() says. */
static json_t *gpu_json(const struct model_report *r)
{
    json_t *stored = json_array(), *expanded = json_array();

    for (uint32_t i = 0; i < REPORT_TYPES_MAX; i++) {
        if (r->product_bytes[i] && i != GGML_TYPE_BF16)
            json_array_append_new(expanded, json_string(ggml_type_get(i)->name));
        else if (r->product_bytes[i] || r->expert_bytes[i])
            json_array_append_new(stored, json_string(ggml_type_get(i)->name));
    }
    return json_pack("{s:b,s:o,s:o}", "runs", 1, "as_stored", stored, "expanded_for_many_rows",
                     expanded);
}

static json_t *report_json(const struct model_report *r, const char *path)
{
    json_t *all = json_pack("{s:s,s:s,s:b,s:b}", "path", path, "format",
                            source_gguf(r->source) ? "gguf" : "safetensors", "runs", !r->refused,
                            "template", r->has_template);

    if (!all)
        return NULL;
    if (r->has_arch) {
        json_object_set_new(all, "model", arch_json(r));
        json_object_set_new(all, "gpu", gpu_json(r));
        json_object_set_new(all, "max_context", json_integer(r->max_context));
    }
    if (r->tokenizer)
        json_object_set_new(all, "tokenizer",
                            json_pack("{s:s,s:I}", "kind", r->tokenizer_kind, "vocabulary",
                                      (json_int_t)tokenizer_vocabulary(r->tokenizer)));
    if (r->rendered)
        json_object_set_new(all, "rendered",
                            json_pack("{s:s%,s:I}", "text", r->rendered, r->rendered_len, "tokens",
                                      (json_int_t)r->rendered_tokens));
    if (r->refused)
        json_object_set_new(all, "refusal",
                            json_pack("{s:s,s:s}", "status", status_word(r->refusal.status), "text",
                                      r->refusal.text));
    return all;
}

/* --- the command ------------------------------------------------------------------------------ */

static int inspect(const char *path, uint64_t memory, int json)
{
    struct model_report *r = calloc(1, sizeof(*r));
    struct error err;
    int code = EXIT_REFUSED;

    if (!r)
        return cli_fail(EXIT_REFUSED, "out of memory");
    if (model_report_read(r, path, memory, &err)) {
        free(r);
        return cli_fail(EXIT_REFUSED, "%s", err.text);
    }
    if (json) {
        json_t *all = report_json(r, path);

        if (all) {
            json_dumpf(all, stdout, JSON_INDENT(2));
            putchar('\n');
            json_decref(all);
        } else {
            cli_fail(EXIT_REFUSED, "out of memory");
        }
    } else {
        print_report(r, path);
    }
    code = r->refused ? EXIT_REFUSED : EXIT_OK;
    model_report_free(r);
    free(r);
    return code;
}

static uint64_t host_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);

    return pages > 0 && bytes > 0 ? (uint64_t)pages * (uint64_t)bytes : 0;
}

int cmd_inspect(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {"json", no_argument, NULL, 'J'},
                                            {"memory", required_argument, NULL, 'm'},
                                            {NULL, 0, NULL, 0}};
    uint64_t memory = host_memory();
    struct error err;
    int c, json = 0;

    (void)cli;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(USAGE, HELP);
        if (c == 'J')
            json = 1;
        else if (c != 'm')
            return cli_usage(USAGE, NULL);
        else if (config_parse_size(optarg, &memory, &err))
            return cli_usage(USAGE, "--memory=: %s", err.text);
    }
    if (argc - optind != 1)
        return cli_usage(USAGE, "inspect: one file or folder");
    return inspect(argv[optind], memory, json);
}
