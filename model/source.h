/*
 * source.h - a model's files behind one interface
 *
 * A source is one GGUF file, or a checkpoint folder as the Hugging Face hub holds them:
 * config.json, model.safetensors (or shards with model.safetensors.index.json) and, where there are
 * some, generation_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja
 * (where there is no tokenizer.json: *.tiktoken, tekken.json, tiktoken.model or tokenizer.model).
 * Its list of tensors has the same form for both, so that only those who read names and settings
 * (the architecture table, the tokenizer) need to know which of the two it is: source_gguf() is
 * NULL for a folder, source_json() is NULL for a GGUF file.  Immutable after opening.
 *
 * Reading happens in two steps, since an engine may open no path: source_files_open() opens
 * descriptors, source_open_files() reads what is behind them.
 */
#ifndef MP_MODEL_SOURCE_H
#define MP_MODEL_SOURCE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "model/gguf.h"

struct source;

/* What a file is; the numbers travel in struct order_model. */
enum source_kind {
    SOURCE_GGUF,
    SOURCE_WEIGHTS,    /* a safetensors file: the only one, or a shard */
    SOURCE_INDEX,      /* model.safetensors.index.json: JSON from here on, but for the template */
    SOURCE_CONFIG,     /* config.json */
    SOURCE_GENERATION, /* generation_config.json */
    SOURCE_TOKENIZER,  /* tokenizer.json */
    SOURCE_TOKENIZER_CONFIG, /* tokenizer_config.json */
    SOURCE_TEMPLATE,         /* chat_template.jinja: text */
    SOURCE_VOCABULARY,       /* in place of tokenizer.json: *.tiktoken, tekken.json, *.model */
    SOURCE_KIND_COUNT
};

#define SOURCE_FILES_MAX 64u
#define SOURCE_NAME_MAX  128u

struct source_files {
    uint32_t count;
    struct source_file {
        enum source_kind kind;
        int fd;
        char name[SOURCE_NAME_MAX]; /* in its folder; for messages */
    } files[SOURCE_FILES_MAX];
};

/* A tensor as it is stored. */
struct source_tensor {
    const char *name;  /* NUL-terminated, the source's */
    uint32_t dims;     /* 1..4 */
    uint64_t shape[4]; /* shape[0] is the contiguous one (columns), as in GGUF; unused ones are 1 */
    uint32_t type;     /* ggml's number (model/ggml_type.h) */
    uint32_t file;     /* index into the source's files */
    uint64_t offset;   /* of the data from the start of that file */
    uint64_t bytes;
    /* Of FP8: its scales, each of a tile of so many rows and columns, row by row; else NULL. */
    const struct source_tensor *scale;
    uint64_t scale_rows, scale_cols;
};

/*
 * Open what path names: a .gguf file or a checkpoint folder.  Nothing is read but the index of
 * shards.  NOT_FOUND, UNSUPPORTED and INVALID name what is missing or not understood, and the fix.
 */
int source_files_open(const char *path, struct source_files *files, struct error *err);
void source_files_close(struct source_files *files);
/* Close what an engine does not read: index, tokenizer.json or vocabulary, template. */
void source_files_for_engine(struct source_files *files);

/*
 * Read what is behind open descriptors (which stay the caller's, and may be closed afterwards).
 * name is the model's, for messages.  A folder's tensors are checked: inside of their file, no two
 * of one name or place, all that the index promises; FP8 weights have their scales.  Checkpoints
 * that are quantized otherwise are UNSUPPORTED by the name of their method (quantization.h).
 */
struct source *source_open_files(const struct source_files *files, const char *name,
                                 struct error *err);
/* A GGUF file that is open already and outlives the source. */
struct source *source_from_gguf(const struct gguf *g, struct error *err);
/* Both steps. */
struct source *source_open(const char *path, struct error *err);
void source_close(struct source *s);

/* For messages: the path, or the model's name. */
const char *source_name(const struct source *s);
/* NULL: a folder. */
const struct gguf *source_gguf(const struct source *s);
/* A JSON file's root, always an object; NULL: there is no such file.  Integers beyond 64 bits are
 * reals. */
const json_t *source_json(const struct source *s, enum source_kind kind);
/* The vocabulary that stands in for tokenizer.json, as it is, with its file's name; 0 found, 1
 * none. Both are the source's. */
int source_vocabulary(const struct source *s, const char **name, const char **bytes, size_t *len);
/* The chat template: 0 found, 1 none, -1 it is of the wrong type.  *text is the source's and not
 * NUL-terminated. */
int source_template(const struct source *s, const char **text, size_t *len, struct error *err);

uint32_t source_file_count(const struct source *s);
const char *source_file_name(const struct source *s, uint32_t file);

/* Of all tensors, as stored. */
uint64_t source_weight_bytes(const struct source *s);
size_t source_tensor_count(const struct source *s);
const struct source_tensor *source_tensor(const struct source *s, size_t i);
const struct source_tensor *source_find_tensor(const struct source *s, const char *name);
/* A scale of the activations that meet an FP8 weight: of no use here, where they are not rounded.
 */
int source_is_activation_scale(const struct source *s, const struct source_tensor *t);

#endif
