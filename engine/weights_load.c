/* weights_load.c - a model's weights from its files into its range, and out of it again */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/weights.h"
#include "engine/weights_copy.h"

/* Of rows that are read for a slice of them: one row at least. */
#define SLICES_BYTES ((uint64_t)256 << 10)

int read_weights(const struct model *m, const struct tensor_copy *c, void *to, uint64_t from,
                 uint64_t bytes, struct error *err)
{
    uint64_t done = 0;

    while (done < bytes) {
        ssize_t n =
            pread(m->fds[c->file], (uint8_t *)to + done, bytes - done, (off_t)(from + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(err, "model %s: cannot read tensor %s", m->name, c->name);
        if (n == 0)
            return error_set(
                err, STATUS_CORRUPT,
                "model %s: its file ends within tensor %s: it was changed or cut short "
                "after it was opened",
                m->name, c->name);
        done += (uint64_t)n;
    }
    return 0;
}

int read_rows(const struct model *m, const struct tensor_copy *c, uint64_t row_bytes, void *to,
              uint64_t first, uint64_t count, struct error *err)
{
    uint64_t most = c->pitch == 0 || c->pitch >= SLICES_BYTES ? 1 : SLICES_BYTES / c->pitch;
    uint8_t *rows;
    int rv = 0;

    if (c->pitch == 0)
        return read_weights(m, c, to, c->from + first * row_bytes, count * row_bytes, err);
    rows = malloc((most - 1) * c->pitch + c->slice);
    if (rows == NULL)
        return error_set(err, STATUS_NOMEM, "model %s: no memory to read tensor %s", m->name,
                         c->name);
    for (uint64_t at = 0, n; rv == 0 && at < count; at += n) {
        n = count - at < most ? count - at : most;
        rv = read_weights(m, c, rows, c->from + (first + at) * c->pitch,
                          (n - 1) * c->pitch + c->slice, err);
        for (uint64_t i = 0; rv == 0 && i < n; i++)
            memcpy((uint8_t *)to + (at + i) * c->slice, rows + i * c->pitch, c->slice);
    }
    free(rows);
    return rv;
}

/* IEEE 754 binary16 to binary32; every value has one. */
static float float_of_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, bits;
    uint32_t fraction = h & 0x3ffu;
    float f;

    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f; /* zero and the subnormal ones */
        return sign != 0 ? -f : f;
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

float stored_element(const unsigned char *at, uint32_t type)
{
    uint32_t bits = 0;
    uint16_t half;
    float f;

    if (type == DTYPE_F32) {
        memcpy(&f, at, sizeof(f));
        return f;
    }
    memcpy(&half, at, sizeof(half));
    if (type == DTYPE_F16)
        return float_of_half(half);
    bits = (uint32_t)half << 16; /* BF16 is the upper half of a float32 */
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static int tune_part(const struct model *m, struct error *err)
{
    struct device *d = model_device(m);

    for (uint32_t i = 0; i < m->arch.layers; i++) {
        const struct layer_weights *w = &m->layers[i];
        const struct weight *all[] = {w->qkv.rows != 0 ? &w->qkv : &w->q,
                                      &w->k,
                                      &w->v,
                                      &w->o,
                                      w->gate_up.rows != 0 ? &w->gate_up : &w->gate,
                                      &w->up,
                                      &w->down,
                                      &w->router};
        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++)
            if (all[j]->rows != 0 && device_tune(d, all[j], err) != 0)
                return -1;
    }
    return device_tune(d, &m->head, err);
}

int model_tune(const struct model *m, struct error *err)
{
    for (uint32_t i = 0; i < m->part_count; i++)
        if (tune_part(m->parts[i], err) != 0)
            return -1;
    return 0;
}

int staging_open(struct staging *s, struct device *d, struct error *err)
{
    s->device = d;
    s->buffers = device_host_alloc(d, STAGING_BUFFERS * STAGING_BYTES, err);
    return s->buffers == NULL ? -1 : 0;
}

void staging_close(struct staging *s)
{
    if (s->device != NULL)
        device_host_free(s->device, s->buffers);
    memset(s, 0, sizeof(*s));
}

static uint64_t stored_size(const struct tensor_copy *c)
{
    return c->type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

uint64_t copy_stored_bytes(const struct tensor_copy *c)
{
    return c->bytes / sizeof(float) * stored_size(c);
}

void copy_convert(const struct tensor_copy *c, const unsigned char *stored, float *to)
{
    for (uint64_t i = 0; i < c->bytes / sizeof(float); i++)
        to[i] = stored_element(stored + i * stored_size(c), c->type) + c->add;
}

/* A vector that is stored in another form than kernels want it, into float32. */
static int convert_vector(const struct model *m, const struct tensor_copy *c, float *to,
                          struct error *err)
{
    unsigned char stored[4096];
    uint64_t element = stored_size(c);
    uint64_t count = c->bytes / sizeof(float), chunk = sizeof(stored) / element;

    for (uint64_t at = 0; at < count; at += chunk) {
        uint64_t n = count - at < chunk ? count - at : chunk;
        if (read_weights(m, c, stored, c->from + at * element, n * element, err) != 0)
            return -1;
        for (uint64_t i = 0; i < n; i++)
            to[at + i] = stored_element(stored + i * element, c->type) + c->add;
    }
    return 0;
}

int read_part(const struct model *m, const struct tensor_copy *c, uint8_t *to, uint64_t at,
              uint64_t bytes, struct error *err)
{
    uint64_t row = c->f8.cols != 0 ? dtype_row_bytes(DTYPE_F8, c->f8.cols) : 0;

    if (row != 0)
        return f8_read(m, c, to, at / row, bytes / row, err);
    if (c->convert)
        return convert_vector(m, c, (float *)(void *)to, err);
    if (c->pitch != 0)
        return read_rows(m, c, c->slice, to, at / c->slice, bytes / c->slice, err);
    return read_weights(m, c, to, c->from + at, bytes, err);
}

int model_read_part(const struct model *part, atomic_int *cancel, atomic_uint_fast64_t *read,
                    struct error *err)
{
    for (uint32_t i = 0; i < part->copy_count; i++) {
        const struct tensor_copy *c = &part->copies[i];
        if (atomic_load(cancel))
            return error_set(err, STATUS_UNAVAILABLE, "model %s: its load was called off",
                             part->name);
        if (read_part(part, c, part->range + c->to, 0, c->bytes, err) != 0)
            return -1;
        atomic_fetch_add(read, c->bytes);
    }
    return 0;
}

_Static_assert(ENGINE_COLS_MAX * sizeof(float) <= STAGING_BYTES, "a vector fits into a buffer");

/* Tensors on their way through the buffers. */
struct stage {
    const struct model *m;
    struct staging *buffers;
    struct device_lane *lane;
    const atomic_int *cancel;
    uint64_t sent; /* buffers so far */
};

static int stage_tensor(struct stage *s, const struct tensor_copy *c, struct error *err)
{
    uint8_t *to = s->m->range + c->to;
    uint64_t row = c->f8.cols != 0 ? dtype_row_bytes(DTYPE_F8, c->f8.cols) : 1;
    uint64_t most = STAGING_BYTES / row * row;

    for (uint64_t at = 0, n; at < c->bytes; at += n) {
        uint32_t number = (uint32_t)(s->sent % STAGING_BUFFERS);
        uint8_t *buffer = s->buffers->buffers + number * STAGING_BYTES;
        if (atomic_load(s->cancel))
            return error_set(err, STATUS_UNAVAILABLE, "model %s: its load was called off",
                             s->m->name);
        /* What the buffer held has arrived. */
        if (s->sent >= STAGING_BUFFERS && device_lane_wait(s->lane, number, err) != 0)
            return -1;
        n = c->bytes - at < most ? c->bytes - at : most;
        if (read_part(s->m, c, buffer, at, n, err) != 0)
            return -1;
        device_lane_copy(s->lane, to + at, buffer, n);
        device_lane_mark(s->lane, number);
        s->sent++;
    }
    return 0;
}

int model_stage(const struct model *m, struct staging *s, struct device_lane *lane,
                const atomic_int *cancel, uint64_t *bytes, struct error *err)
{
    struct stage stage = {m, s, lane, cancel, 0};

    for (uint32_t i = 0; i < m->copy_count; i++) {
        if (stage_tensor(&stage, &m->copies[i], err) != 0)
            return -1;
        *bytes += m->copies[i].bytes;
    }
    return 0;
}

int model_take(struct model *m, struct error *err)
{
    struct arena *a = m->arena;

    if (m->by_lane ? arena_take_again(a, m->owner, m->handles, m->handle_count) == 0
                   : arena_take(a, m->owner, m->handles, m->handle_count) == 0)
        return 0;
    return error_set(err, STATUS_EXHAUSTED,
                     "model %s needs %" PRIu32 " handles and %" PRIu32 " are free", m->name,
                     m->handle_count, arena_held(a, ARENA_FREE));
}

int model_map(struct model *m, struct error *err)
{
    for (uint32_t i = 0; i < m->part_count; i++) {
        if (device_map(model_device(m->parts[i]), m->parts[i]->range, m->handles, m->handle_count,
                       err) == 0)
            continue;
        while (i-- > 0)
            device_unmap(model_device(m->parts[i]), m->parts[i]->range, m->handle_count);
        return -1;
    }
    return 0;
}

void model_give(struct model *m, int mapped)
{
    for (uint32_t i = 0; mapped && !m->by_lane && i < m->part_count; i++)
        device_unmap(model_device(m->parts[i]), m->parts[i]->range, m->handle_count);
    for (uint32_t i = 0; i < m->handle_count; i++)
        arena_give(m->arena, m->owner, m->handles[i]);
}

int model_place(struct model *m, uint64_t from, uint64_t to, struct error *err)
{
    uint64_t size = arena_handle_bytes(m->arena);

    for (uint64_t i = from / size; i * size < to; i++) {
        int had = m->mapped[i] != UINT32_MAX;
        if (m->mapped[i] == m->handles[i])
            continue;
        m->mapped[i] = UINT32_MAX;
        if (device_remap(arena_device(m->arena), m->range + i * size, had, m->handles[i], err) != 0)
            return -1;
        m->mapped[i] = m->handles[i];
    }
    return 0;
}

void model_await(const struct model *m, uint64_t end)
{
    if (m->arriving != NULL && end > 0)
        device_await(m->arriving->lane, (uint32_t)((end - 1) / m->arriving->mark_bytes));
}

void model_unload(struct model *m)
{
    if (!m->resident)
        return;
    model_give(m, 1);
    m->resident = 0;
}
