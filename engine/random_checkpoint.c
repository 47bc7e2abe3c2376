/* random_checkpoint.c - config.json and a safetensors file of random FP8 weights */
#include "engine/random_checkpoint.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/source.h"

#define LENGTH_BYTES 8u
#define TILE         128u

enum content { CONTENT_BF16, CONTENT_CODES, CONTENT_SCALES };

struct part {
    enum content content;
    uint64_t offset, bytes; /* of the data */
};

struct checkpoint {
    const struct random_shape *shape;
    json_t *header;
    struct part *parts;
    uint32_t count, room;
    uint64_t bytes;
};

/* A tensor at the end; rows 0: a vector.  -1: no memory. */
static int add(struct checkpoint *c, const char *name, enum content content, uint64_t rows,
               uint64_t cols)
{
    static const char *const dtypes[] = {"BF16", "F8_E4M3", "F32"};
    static const uint64_t sizes[] = {2, 1, 4};
    uint64_t bytes = (rows == 0 ? 1 : rows) * cols * sizes[content];
    json_t *shape = rows == 0 ? json_pack("[I]", (json_int_t)cols)
                              : json_pack("[I,I]", (json_int_t)rows, (json_int_t)cols);

    if (c->count == c->room) {
        uint32_t room = c->room == 0 ? 256 : c->room * 2;
        struct part *parts = realloc(c->parts, room * sizeof(*parts));
        if (parts == NULL) {
            json_decref(shape);
            return -1;
        }
        c->parts = parts;
        c->room = room;
    }
    c->parts[c->count++] = (struct part){content, c->bytes, bytes};
    c->bytes += bytes;
    return json_object_set_new(c->header, name,
                               json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtypes[content], "shape",
                                         shape, "data_offsets", (json_int_t)(c->bytes - bytes),
                                         (json_int_t)c->bytes));
}

static int add_linear(struct checkpoint *c, const char *module, uint64_t rows, uint64_t cols)
{
    char name[128];

    snprintf(name, sizeof(name), "%s.weight", module);
    if (add(c, name, CONTENT_CODES, rows, cols) != 0)
        return -1;
    snprintf(name, sizeof(name), "%s.weight_scale_inv", module);
    return add(c, name, CONTENT_SCALES, (rows + TILE - 1) / TILE, (cols + TILE - 1) / TILE);
}

static int add_layer(struct checkpoint *c, uint32_t layer)
{
    const struct random_shape *s = c->shape;
    uint64_t q = (uint64_t)s->heads * s->head_dim, kv = (uint64_t)s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        uint64_t rows, cols; /* rows 0: a vector */
        int there;
    } all[] = {
        {"input_layernorm.weight", 0, s->width, 1},
        {"post_attention_layernorm.weight", 0, s->width, 1},
        {"self_attn.q_proj", q, s->width, 1},
        {"self_attn.k_proj", kv, s->width, 1},
        {"self_attn.v_proj", kv, s->width, 1},
        {"self_attn.q_proj.bias", 0, q, s->qkv_bias},
        {"self_attn.k_proj.bias", 0, kv, s->qkv_bias},
        {"self_attn.v_proj.bias", 0, kv, s->qkv_bias},
        {"self_attn.o_proj", s->width, q, 1},
        {"mlp.gate_proj", s->ffn, s->width, 1},
        {"mlp.up_proj", s->ffn, s->width, 1},
        {"mlp.down_proj", s->width, s->ffn, 1},
    };
    char name[96];

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        snprintf(name, sizeof(name), "model.layers.%" PRIu32 ".%s", layer, all[i].name);
        if (!all[i].there)
            continue;
        if (all[i].rows == 0 ? add(c, name, CONTENT_BF16, 0, all[i].cols) != 0
                             : add_linear(c, name, all[i].rows, all[i].cols) != 0)
            return -1;
    }
    return 0;
}

static int add_tensors(struct checkpoint *c)
{
    const struct random_shape *s = c->shape;

    if (add(c, "model.embed_tokens.weight", CONTENT_BF16, s->vocabulary, s->width) != 0 ||
        add(c, "model.norm.weight", CONTENT_BF16, 0, s->width) != 0)
        return -1;
    for (uint32_t i = 0; i < s->layers; i++)
        if (add_layer(c, i) != 0)
            return -1;
    return s->tied ? 0 : add(c, "lm_head.weight", CONTENT_BF16, s->vocabulary, s->width);
}

/* splitmix64 of a counter. */
static uint64_t random_at(uint64_t i)
{
    uint64_t z = i * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Eight bytes of small numbers: BF16 from 2^-6 to 2^-5, codes below 2, scales of 0.01, and signs
 * but for the scales. */
static uint64_t tame(enum content content, uint64_t r)
{
    if (content == CONTENT_BF16)
        return (r & 0x807f807f807f807fu) | 0x3c803c803c803c80u;
    return content == CONTENT_CODES ? r & 0xbfbfbfbfbfbfbfbfu : 0x3c23d70a3c23d70au;
}

static void fill(const struct checkpoint *c, uint8_t *data)
{
    for (uint32_t i = 0; i < c->count; i++) {
        const struct part *p = &c->parts[i];
        for (uint64_t b = 0; b < p->bytes; b += 8) {
            uint64_t r = tame(p->content, random_at((p->offset + b) / 8 + i));
            memcpy(data + p->offset + b, &r, p->bytes - b < 8 ? p->bytes - b : 8);
        }
    }
}

/* A file of so many bytes in memory, mapped; -1: there is no room. */
static int memory_file(uint64_t bytes, uint8_t **map, struct error *err)
{
    int fd = memfd_create("random-checkpoint", MFD_CLOEXEC);

    *map = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
        *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*map != MAP_FAILED)
        return fd;
    error_errno(err, "no room for a random checkpoint of %" PRIu64 " bytes", bytes);
    if (fd >= 0)
        close(fd);
    return -1;
}

static int write_text(const char *text, struct error *err)
{
    uint8_t *map;
    int fd = memory_file(strlen(text), &map, err);

    if (fd < 0)
        return -1;
    memcpy(map, text, strlen(text));
    munmap(map, strlen(text));
    return fd;
}

static int write_config(const struct random_shape *s, struct error *err)
{
    json_t *config = json_pack(
        "{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f,s:b,s:{s:s,s:[i,i]}}", "model_type",
        s->architecture, "num_hidden_layers", (int)s->layers, "hidden_size", (int)s->width,
        "num_attention_heads", (int)s->heads, "num_key_value_heads", (int)s->kv_heads, "head_dim",
        (int)s->head_dim, "intermediate_size", (int)s->ffn, "vocab_size", (int)s->vocabulary,
        "max_position_embeddings", (int)s->context, "rope_theta", (double)s->theta, "rms_norm_eps",
        1e-5, "tie_word_embeddings", s->tied, "quantization_config", "quant_method", "fp8",
        "weight_block_size", (int)TILE, (int)TILE);
    char *text = config != NULL ? json_dumps(config, JSON_COMPACT) : NULL;
    int fd = -1;

    if (text != NULL)
        fd = write_text(text, err);
    else
        error_set(err, STATUS_NOMEM, "no memory for a random checkpoint");
    free(text);
    json_decref(config);
    return fd;
}

static int write_weights(const struct checkpoint *c, struct error *err)
{
    char *text = json_dumps(c->header, JSON_COMPACT);
    uint64_t len, size;
    uint8_t *map;
    int fd = -1;

    if (text == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for a random checkpoint");
        return -1;
    }
    len = strlen(text);
    size = LENGTH_BYTES + len + c->bytes;
    fd = memory_file(size, &map, err);
    if (fd >= 0) {
        memcpy(map, &len, LENGTH_BYTES);
        memcpy(map + LENGTH_BYTES, text, len);
        fill(c, map + LENGTH_BYTES + len);
        munmap(map, size);
    }
    free(text);
    return fd;
}

int random_checkpoint_create(const struct random_shape *shape, struct order_model *order,
                             struct channel_files *files, struct error *err)
{
    struct checkpoint c = {.shape = shape, .header = json_object()};
    int rv = -1;

    files->count = 0;
    if (c.header == NULL || add_tensors(&c) != 0) {
        error_set(err, STATUS_NOMEM, "no memory for a random checkpoint");
        goto out;
    }
    files->fds[0] = write_config(shape, err);
    if (files->fds[0] < 0)
        goto out;
    files->fds[1] = write_weights(&c, err);
    if (files->fds[1] < 0) {
        close(files->fds[0]);
        goto out;
    }
    files->count = order->files = 2;
    order->kinds[0] = SOURCE_CONFIG;
    order->kinds[1] = SOURCE_WEIGHTS;
    rv = 0;
out:
    json_decref(c.header);
    free(c.parts);
    return rv;
}
