/* engine_ranks.c - the devices of an instance, its memory on them, and what they do not run */
#include <inttypes.h>

#include "engine/engine.h"
#include "engine/weights_copy.h"

int engine_check_ranks(const struct order_hello *hello, struct error *err)
{
    uint32_t ranks = hello->ranks;

    if (ranks > COLLECTIVE_RANKS_MAX || (ranks & (ranks - 1)) != 0)
        return error_set(err, STATUS_INVALID, "TensorParallel=%" PRIu32 ": 1, 2, 4 or 8", ranks);
    return 0;
}

/* A rank's share of the instance's threads. */
static uint32_t rank_threads(const struct order_hello *hello)
{
    uint32_t all = hello->threads != 0 || hello->ranks < 2 ? hello->threads : device_threads();

    if (hello->ranks < 2)
        return all;
    return all < hello->ranks ? 1 : all / hello->ranks;
}

struct device *engine_device(const struct order_hello *hello, uint32_t rank, struct error *err)
{
    enum precision precision = hello->precision == ORDER_FAST ? PRECISION_FAST : PRECISION_EXACT;

    if (hello->device == ORDER_DEVICE_CUDA)
        return device_create_cuda(hello->gpu + rank, precision, STEP_ROWS_CUDA, ENGINE_COLS_MAX,
                                  err);
    return device_create(rank_threads(hello), precision, STEP_ROWS_CPU, ENGINE_COLS_MAX, err);
}

/* The other ranks, if the instance has several. */
static int create_ranks(struct engine *e, const struct order_hello *hello, struct error *err)
{
    struct device *devices[COLLECTIVE_RANKS_MAX] = {e->device};

    if (hello->ranks < 2)
        return 0;
    for (uint32_t i = 1; i < hello->ranks; i++) {
        devices[i] = engine_device(hello, i, err);
        if (devices[i] != NULL)
            continue;
        while (--i > 0)
            device_destroy(devices[i]);
        return -1;
    }
    e->group = group_create(devices, hello->ranks, e->rows_max, step_heads(e->max_batch),
                            GROUP_TIMEOUT_US, err);
    if (e->group == NULL)
        return -1;
    e->workspace.collective = group_collective(e->group);
    e->workspace.group = e->flight.group = e->group;
    return 0;
}

/* The instance's memory, shared out evenly among its ranks. */
static int create_arena(struct engine *e, const struct order_hello *hello, struct error *err)
{
    uint32_t ranks = hello->ranks < 2 ? 1 : hello->ranks;

    e->arena = arena_create(e->device, hello->memory_bytes / ranks, err);
    if (e->arena == NULL)
        return -1;
    for (uint32_t i = 1; i < ranks; i++)
        if (arena_add_rank(e->arena, group_device(e->group, i), err) != 0)
            return error_wrap(err, "rank %" PRIu32, i);
    return 0;
}

int engine_open_ranks(struct engine *e, const struct order_hello *hello, struct error *err)
{
    return create_ranks(e, hello, err) != 0 || create_arena(e, hello, err) != 0 ? -1 : 0;
}

/* A GPU's bfloat16 products of more experts than that depend on how many rows there are. */
#define DETERMINISTIC_EXPERTS 16u

static int has_quantized(const struct model *m)
{
    for (uint32_t i = 0; i < m->copy_count; i++) {
        uint32_t type = m->copies[i].type;
        if (type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_BF16)
            return 1;
    }
    return 0;
}

int engine_check_model(const struct engine *e, const struct model *m, struct error *err)
{
    if (device_operand(e->device) != DTYPE_BF16)
        return 0;
    if (e->deterministic && m->arch.experts_used > DETERMINISTIC_EXPERTS)
        return error_set(
            err, STATUS_UNSUPPORTED,
            "model %s: Deterministic=yes knows at most %u experts a token, not %" PRIu32
            ": leave it out of instance %s, or say Precision=exact",
            m->name, DETERMINISTIC_EXPERTS, m->arch.experts_used, e->instance);
    if (e->group != NULL && has_quantized(m))
        return error_set(err, STATUS_UNSUPPORTED,
                         "model %s: its quantized weights have not been tried on several GPUs with "
                         "Precision=fast: say Precision=exact for instance %s, or leave out "
                         "TensorParallel=",
                         m->name, e->instance);
    return 0;
}
