/* random_model.c - GGUF files of random weights (GGUF version 3, little-endian) */
#include "engine/random_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "model/vocabulary.h"

#define ALIGN       64u
#define TENSORS_MAX 2048u
#define HEADER_MAX  (1u << 20) /* without a vocabulary */
#define TOKEN_MAX   32u        /* of the header: text, its length, and type */
#define FILLERS     8u

static const struct random_shape shapes[] = {
    {"llama3-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 500000, 0, 0},
    {"llama3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 8192, 500000, 1, 0},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1000000, 0, 1},
    {"yi-1.5-9b", "llama", 48, 4096, 32, 4, 128, 11008, 64000, 4096, 5000000, 0, 0},
    {"llama2-13b", "llama", 40, 5120, 40, 40, 128, 13824, 32000, 4096, 10000, 0, 0},
    {"llama-2-13b", "llama", 40, 5120, 40, 40, 128, 13824, 32000, 4096, 10000, 0, 0},
    {"smollm2-135m", "llama", 30, 576, 9, 3, 64, 1536, 49152, 8192, 100000, 1, 0},
    {"tiny-a", "llama", 4, 256, 4, 2, 64, 768, 2048, 2048, 10000, 1, 0},
    {"tiny-b", "qwen2", 4, 512, 8, 2, 64, 1536, 4096, 4096, 10000, 0, 1},
    {"tiny-c", "llama", 8, 768, 12, 4, 64, 2048, 8192, 4096, 10000, 0, 0},
};

struct tensor {
    char name[64];
    enum dtype dtype;
    uint64_t cols, rows; /* rows 0: a vector */
    uint64_t offset, bytes;
};

struct file {
    const struct random_shape *shape;
    struct tensor tensors[TENSORS_MAX];
    uint32_t count;
    uint64_t data_bytes;
    uint8_t *header; /* HEADER_MAX, and TOKEN_MAX for each token if there is a vocabulary */
    uint64_t at;
    uint32_t keys;
    struct error *err;
};

const struct random_shape *random_shape_at(uint32_t i)
{
    return i < sizeof(shapes) / sizeof(shapes[0]) ? &shapes[i] : NULL;
}

const struct random_shape *random_shape_find(const char *name)
{
    for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    return NULL;
}

int random_dtype(const char *name, enum dtype *dtype)
{
    static const enum dtype all[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0,
                                     DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0,
                                     DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K};

    if (strcasecmp(name, "f8") == 0) {
        *dtype = DTYPE_F8;
        return 0;
    }
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcasecmp(dtype_name(all[i]), name) == 0) {
            *dtype = all[i];
            return 0;
        }
    }
    return -1;
}

/* ---- the header --------------------------------------------------------------------------------
 */

static void put(struct file *f, const void *bytes, uint64_t len)
{
    memcpy(f->header + f->at, bytes, len); /* names and numbers of a known shape: it fits */
    f->at += len;
}

static void put_u32(struct file *f, uint32_t v)
{
    put(f, &v, sizeof(v));
}

static void put_u64(struct file *f, uint64_t v)
{
    put(f, &v, sizeof(v));
}

static void put_string(struct file *f, const char *s)
{
    put_u64(f, strlen(s));
    put(f, s, strlen(s));
}

static void key(struct file *f, const char *name, uint32_t type)
{
    char full[96];

    snprintf(full, sizeof(full), "%s%s", name[0] == '.' ? f->shape->architecture : "", name);
    put_string(f, full);
    put_u32(f, type);
    f->keys++;
}

/* Names that begin with a dot belong to the architecture. */
static void key_u32(struct file *f, const char *name, uint32_t v)
{
    key(f, name, 4);
    put_u32(f, v);
}

static void key_f32(struct file *f, const char *name, float v)
{
    key(f, name, 6);
    put(f, &v, sizeof(v));
}

static void key_string(struct file *f, const char *name, const char *v)
{
    key(f, name, 8);
    put_string(f, v);
}

static void key_array(struct file *f, const char *name, uint32_t type, uint64_t count)
{
    key(f, name, 9);
    put_u32(f, type);
    put_u64(f, count);
}

/* Byte-level BPE: the 256 bytes, what one merge makes, words up to the shape's size, and an end. */
static void write_vocabulary(struct file *f)
{
    uint32_t count = f->shape->vocabulary;
    char letters[256][3], word[16] = "ab";

    key_string(f, "tokenizer.ggml.model", "gpt2");
    key_string(f, "tokenizer.ggml.pre", "gpt-2");
    key_u32(f, "tokenizer.ggml.eos_token_id", count - 1);
    key_array(f, "tokenizer.ggml.merges", 8, 1);
    put_string(f, "a b");
    key_array(f, "tokenizer.ggml.token_type", 5, count);
    for (uint32_t i = 0; i < count; i++)
        put_u32(f, i < count - 1 ? 1 : 3); /* normal, and control */
    vocabulary_alphabet(letters);
    key_array(f, "tokenizer.ggml.tokens", 8, count);
    for (uint32_t i = 0; i < count; i++) {
        if (i > 256) { /* "\u0120", the space's letter, and a number in letters */
            uint32_t n = i, len = 0;
            len += (uint32_t)snprintf(word, sizeof(word), "%s", letters[' ']);
            for (; n > 0; n /= 26)
                word[len++] = (char)('a' + n % 26);
            word[len] = '\0';
        }
        put_string(f, i < 256 ? letters[i] : i < count - 1 ? word : "<|end|>");
    }
}

static void write_header(struct file *f, int with_vocabulary)
{
    const struct random_shape *s = f->shape;
    uint64_t keys_at;

    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, f->count);
    keys_at = f->at;
    put_u64(f, 0);
    key_string(f, "general.architecture", s->architecture);
    key_u32(f, "general.alignment", ALIGN);
    key_u32(f, ".block_count", s->layers);
    key_u32(f, ".context_length", s->context);
    key_u32(f, ".embedding_length", s->width);
    key_u32(f, ".feed_forward_length", s->ffn);
    key_u32(f, ".attention.head_count", s->heads);
    key_u32(f, ".attention.head_count_kv", s->kv_heads);
    key_f32(f, ".attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32(f, ".rope.freq_base", s->theta);
    key_u32(f, ".rope.dimension_count", s->head_dim);
    if (with_vocabulary)
        write_vocabulary(f);
    memcpy(f->header + keys_at, &(uint64_t){f->keys}, sizeof(uint64_t));
    for (uint32_t i = 0; i < f->count; i++) {
        const struct tensor *t = &f->tensors[i];
        put_string(f, t->name);
        put_u32(f, t->rows == 0 ? 1 : 2);
        put_u64(f, t->cols);
        if (t->rows != 0)
            put_u64(f, t->rows);
        put_u32(f, t->dtype);
        put_u64(f, t->offset);
    }
    while (f->at % ALIGN != 0)
        put(f, "", 1);
}

/* ---- the tensors -------------------------------------------------------------------------------
 */

static int add(struct file *f, const char *name, enum dtype dtype, uint64_t cols, uint64_t rows)
{
    struct tensor *t = &f->tensors[f->count];
    uint64_t row = dtype_row_bytes(dtype, cols);

    if (row == 0)
        return error_set(f->err, STATUS_INVALID,
                         "%s of %s: rows of %" PRIu64 " elements are no multiple of a block of %s",
                         name, f->shape->name, cols, dtype_name(dtype));
    if (f->count == TENSORS_MAX)
        return error_set(f->err, STATUS_INTERNAL, "%s has too many tensors", f->shape->name);
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->dtype = dtype;
    t->cols = cols;
    t->rows = rows;
    t->bytes = row * (rows == 0 ? 1 : rows);
    t->offset = f->data_bytes;
    f->data_bytes += (t->bytes + ALIGN - 1) / ALIGN * ALIGN;
    f->count++;
    return 0;
}

static int add_layer(struct file *f, uint32_t layer, enum dtype dtype)
{
    const struct random_shape *s = f->shape;
    uint64_t q = (uint64_t)s->heads * s->head_dim, kv = (uint64_t)s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        uint64_t cols, rows;
        int there;
    } all[] = {
        {"attn_norm.weight", s->width, 0, 1},   {"attn_q.weight", s->width, q, 1},
        {"attn_k.weight", s->width, kv, 1},     {"attn_v.weight", s->width, kv, 1},
        {"attn_q.bias", q, 0, s->qkv_bias},     {"attn_k.bias", kv, 0, s->qkv_bias},
        {"attn_v.bias", kv, 0, s->qkv_bias},    {"attn_output.weight", q, s->width, 1},
        {"ffn_norm.weight", s->width, 0, 1},    {"ffn_gate.weight", s->width, s->ffn, 1},
        {"ffn_up.weight", s->width, s->ffn, 1}, {"ffn_down.weight", s->ffn, s->width, 1},
    };
    char name[64];

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        snprintf(name, sizeof(name), "blk.%" PRIu32 ".%s", layer, all[i].name);
        if (all[i].there &&
            add(f, name, all[i].rows == 0 ? DTYPE_F32 : dtype, all[i].cols, all[i].rows) != 0)
            return -1;
    }
    return 0;
}

static int add_tensors(struct file *f, enum dtype dtype)
{
    const struct random_shape *s = f->shape;

    if (add(f, "token_embd.weight", dtype, s->width, s->vocabulary) != 0)
        return -1;
    for (uint32_t i = 0; i < s->layers; i++)
        if (add_layer(f, i, dtype) != 0)
            return -1;
    if (add(f, "output_norm.weight", DTYPE_F32, s->width, 0) != 0)
        return -1;
    return s->tied ? 0 : add(f, "output.weight", dtype, s->width, s->vocabulary);
}

/* ---- random blocks -----------------------------------------------------------------------------
 */

/* splitmix64 of a counter. */
static uint64_t random_at(uint64_t i)
{
    uint64_t z = i * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Bits that must not be random, by the type: exponents, so that all numbers are small ones. */
static uint64_t tame(enum dtype dtype, uint64_t r)
{
    if (dtype == DTYPE_BF16) /* 2^-6 to 2^-5, and signs */
        return (r & 0x807f807f807f807fu) | 0x3c803c803c803c80u;
    if (dtype == DTYPE_F16)
        return (r & 0x83ff83ff83ff83ffu) | 0x2400240024002400u;
    if (dtype == DTYPE_F32)
        return (r & 0x807fffff807fffffu) | 0x3c8000003c800000u;
    return r;
}

/* Where the halves lie that scale a block: small ones, at these offsets; UINT32_MAX: none. */
static void tame_blocks(uint8_t *to, const struct tensor *t)
{
    uint32_t at[2] = {0, UINT32_MAX};
    uint64_t block = dtype_block_bytes(t->dtype);
    const uint16_t scale = 0x1418; /* 0.001 */

    if (dtype_block_elements(t->dtype) == 1)
        return;
    if (t->dtype == DTYPE_Q4_1 || t->dtype == DTYPE_Q5_1 || t->dtype == DTYPE_Q4_K ||
        t->dtype == DTYPE_Q5_K)
        at[1] = 2;
    if (t->dtype == DTYPE_Q6_K)
        at[0] = 208;
    for (uint64_t b = 0; b < t->bytes; b += block)
        for (int i = 0; i < 2 && at[i] != UINT32_MAX; i++)
            memcpy(to + b + at[i], &scale, sizeof(scale));
}

struct filler {
    struct file *f;
    uint8_t *data;
    uint32_t first; /* tensors first, first + FILLERS, ... */
};

static void *fill(void *arg)
{
    const struct filler *job = arg;

    for (uint32_t i = job->first; i < job->f->count; i += FILLERS) {
        const struct tensor *t = &job->f->tensors[i];
        uint8_t *to = job->data + t->offset;
        for (uint64_t b = 0; b < t->bytes; b += 8) {
            uint64_t r = tame(t->dtype, random_at((t->offset + b) / 8));
            memcpy(to + b, &r, t->bytes - b < 8 ? t->bytes - b : 8);
        }
        tame_blocks(to, t);
    }
    return NULL;
}

static int fill_all(struct file *f, uint8_t *data)
{
    struct filler jobs[FILLERS];
    pthread_t threads[FILLERS];
    uint32_t started = 0;

    for (; started < FILLERS; started++) {
        jobs[started] = (struct filler){f, data, started};
        if (pthread_create(&threads[started], NULL, fill, &jobs[started]) != 0)
            break;
    }
    for (uint32_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return started == FILLERS
               ? 0
               : error_set(f->err, STATUS_NOMEM, "no threads to make random weights");
}

static void destroy(struct file *f)
{
    if (f != NULL)
        free(f->header);
    free(f);
}

/* Tensors and header of a file; *size is all of it. */
static struct file *plan(const struct random_shape *shape, enum dtype dtype, int with_vocabulary,
                         uint64_t *size, struct error *err)
{
    struct file *f = calloc(1, sizeof(*f));
    uint64_t room = HEADER_MAX + (with_vocabulary ? (uint64_t)shape->vocabulary * TOKEN_MAX : 0);

    if (f == NULL || (f->header = calloc(1, room)) == NULL) {
        error_set(err, STATUS_NOMEM, "no memory for a random model");
        goto fail;
    }
    if (dtype == DTYPE_F8) {
        error_set(err, STATUS_INVALID, "a GGUF file has no %s", dtype_name(dtype));
        goto fail;
    }
    f->shape = shape;
    f->err = err;
    if (add_tensors(f, dtype) != 0)
        goto fail;
    write_header(f, with_vocabulary);
    *size = f->at + f->data_bytes;
    return f;
fail:
    destroy(f);
    return NULL;
}

/* Header and weights into a file of that size. */
static int write_all(struct file *f, int fd, uint64_t size)
{
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return error_errno(f->err, "no room for a random model of %" PRIu64 " bytes", size);
    memcpy(map, f->header, f->at);
    int rv = fill_all(f, map + f->at);
    munmap(map, size);
    return rv;
}

int random_model_create(const struct random_shape *shape, enum dtype dtype, int *fd,
                        uint64_t *bytes, struct error *err)
{
    uint64_t size = 0;
    int file = -1, rv = -1;
    struct file *f = plan(shape, dtype, 0, &size, err);

    if (f == NULL)
        return -1;
    file = memfd_create("random-model", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)size) != 0) {
        error_errno(err, "no room for a random model of %" PRIu64 " bytes", size);
        goto out;
    }
    if (write_all(f, file, size) != 0)
        goto out;
    *fd = file;
    *bytes = size;
    file = -1;
    rv = 0;
out:
    if (file >= 0)
        close(file);
    destroy(f);
    return rv;
}

/* ---- on a disk ---------------------------------------------------------------------------------
 */

/* The blocks are taken before they are written, so that a full disk is an error and no SIGBUS. */
static int take_room(int fd, const char *path, uint64_t size, struct error *err)
{
    struct statvfs disk;

    if (fstatvfs(fd, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < size)
        return error_set(err, STATUS_EXHAUSTED,
                         "%s: %" PRIu64 " bytes are needed, and %" PRIu64 " are free", path, size,
                         (uint64_t)disk.f_bavail * disk.f_frsize);
    errno = posix_fallocate(fd, 0, (off_t)size);
    return errno == 0 ? 0 : error_errno(err, "%s: no room for %" PRIu64 " bytes", path, size);
}

int random_model_write(const struct random_shape *shape, enum dtype dtype, const char *path,
                       uint64_t *bytes, struct error *err)
{
    uint64_t size = 0;
    int fd = -1, rv = -1;
    char part[4096];
    struct file *f = plan(shape, dtype, 1, &size, err);

    if (f == NULL)
        return -1;
    if ((size_t)snprintf(part, sizeof(part), "%s.part", path) >= sizeof(part)) {
        error_set(err, STATUS_INVALID, "%s: the name is too long", path);
        goto out;
    }
    fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        error_errno(err, "%s", part);
        goto out;
    }
    rv = take_room(fd, part, size, err);
    if (rv == 0)
        rv = write_all(f, fd, size);
    if (rv == 0 && rename(part, path) != 0)
        rv = error_errno(err, "%s", path);
    if (rv != 0)
        unlink(part);
    *bytes = size;
out:
    if (fd >= 0)
        close(fd);
    destroy(f);
    return rv;
}
