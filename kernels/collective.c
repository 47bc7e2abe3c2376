/*
 * collective.c - what the groups of all kinds of devices have in common
 */
#include "kernels/collective_parts.h"

#include <inttypes.h>

int collective_init(struct collective *c, const struct collective_ops *ops, uint32_t ranks,
                    struct error *err)
{
    if (ranks < 2 || ranks > COLLECTIVE_RANKS_MAX)
        return error_set(err, STATUS_INVALID, "a group of %" PRIu32 " ranks: 2 to %u", ranks,
                         COLLECTIVE_RANKS_MAX);
    c->ops = ops;
    c->ranks = ranks;
    pthread_mutex_init(&c->lock, NULL);
    return 0;
}

void collective_clear(struct collective *c)
{
    pthread_mutex_destroy(&c->lock);
}

void collective_destroy(struct collective *c)
{
    if (c != NULL)
        c->ops->destroy(c);
}

uint32_t collective_ranks(const struct collective *c)
{
    return c->ranks;
}

int collective_has_failed(const struct collective *c)
{
    return __atomic_load_n(&c->failed, __ATOMIC_SEQ_CST);
}

void collective_fail(struct collective *c, uint32_t rank, const struct error *why)
{
    pthread_mutex_lock(&c->lock);
    if (c->why.status == STATUS_OK)
        error_set(&c->why, why->status, "rank %" PRIu32 " of %" PRIu32 ": %s", rank, c->ranks,
                  why->text);
    pthread_mutex_unlock(&c->lock);
    __atomic_store_n(&c->failed, 1, __ATOMIC_SEQ_CST);
    c->ops->failing(c);
}

int collective_failed(struct collective *c, struct error *err)
{
    if (!collective_has_failed(c))
        return 0;
    pthread_mutex_lock(&c->lock);
    error_set(err, c->why.status, "%s", c->why.text);
    pthread_mutex_unlock(&c->lock);
    return -1;
}

void collective_sum(struct collective *c, uint32_t rank, void *x, uint64_t count, enum dtype dtype)
{
    if (!collective_has_failed(c))
        c->ops->sum(c, rank, x, count, dtype);
}

void collective_gather(struct collective *c, uint32_t rank, float *to, float *part, uint32_t rows,
                       const uint32_t *firsts)
{
    if (!collective_has_failed(c))
        c->ops->gather(c, rank, to, part, rows, firsts);
}

void collective_broadcast(struct collective *c, uint32_t rank, void *x, uint64_t bytes)
{
    if (!collective_has_failed(c))
        c->ops->broadcast(c, rank, x, bytes);
}
