/*
 * model_report.h - what there is to say about a model's files, for `inspect` and `config check`
 *
 * Files are opened as the daemon and the engine would.  What is not understood does not end the
 * report: `refusal` has the first reason for which the model cannot run, and the parts that could
 * be read are there.
 */
#ifndef MP_CLI_MODEL_REPORT_H
#define MP_CLI_MODEL_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "model/arch.h"
#include "model/source.h"
#include "model/tokenizer.h"

#define REPORT_TYPES_MAX  64u /* beyond ggml's last number */
#define REPORT_GROUPS_MAX 8u

/* Layers whose caches keep the same tokens. */
struct report_group {
    uint32_t window; /* tokens; 0: all of them */
    uint32_t layers;
    uint64_t token_bytes;
};

struct model_report {
    struct source *source;
    int has_arch; /* arch and all counts below are there */
    struct arch arch;
    struct tokenizer *tokenizer; /* NULL: not understood */
    char tokenizer_kind[32];     /* as the files name it */

    uint64_t parameters;
    uint64_t type_bytes[REPORT_TYPES_MAX];    /* by ggml's number of the type */
    uint64_t product_bytes[REPORT_TYPES_MAX]; /* of these, matrices that are multiplied with */
    uint64_t expert_bytes[REPORT_TYPES_MAX];  /* of these, experts' */
    uint64_t disk_bytes;                      /* of the tensors, as stored */
    uint64_t memory_bytes;                    /* of the same in an engine */
    struct report_group groups[REPORT_GROUPS_MAX];
    uint32_t group_count;
    uint64_t kv_token_bytes;
    uint32_t max_context; /* that fits into the memory beside the weights */

    int has_template;
    char *rendered; /* a conversation of one message, or NULL */
    size_t rendered_len, rendered_tokens;

    int refused;
    struct error refusal;
};

/* memory: bytes for weights and KV of the instance that it would run on; 0: any.  -1: not even the
 * files could be opened. */
int model_report_read(struct model_report *r, const char *path, uint64_t memory, struct error *err);
void model_report_free(struct model_report *r);

#endif
