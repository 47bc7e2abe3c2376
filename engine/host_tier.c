/* host_tier.c - master copies of weights in host memory */
#include "engine/host_tier.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "common/log.h"
#include "engine/residency.h"

/* Names of the same files, laid out in the same way, have one master copy. */
static int same_weights(const struct model *a, const struct model *b)
{
    struct stat x, y;

    if (a->layout != b->layout || a->range_bytes != b->range_bytes || a->fd_count != b->fd_count)
        return 0;
    for (uint32_t i = 0; i < a->fd_count; i++) {
        if ((a->fds[i] < 0) != (b->fds[i] < 0))
            return 0;
        if (a->fds[i] < 0)
            continue;
        if (fstat(a->fds[i], &x) != 0 || fstat(b->fds[i], &y) != 0 || x.st_dev != y.st_dev ||
            x.st_ino != y.st_ino || x.st_size != y.st_size ||
            x.st_mtim.tv_sec != y.st_mtim.tv_sec || x.st_mtim.tv_nsec != y.st_mtim.tv_nsec)
            return 0;
    }
    return 1;
}

void host_tier_drop(struct host_tier *t, struct residency *r, struct model *m)
{
    uint8_t *master = m->master;

    m->master = NULL;
    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->master == master)
            return; /* another name still copies from it */
    if (master == NULL)
        return;
    device_host_free(arena_device(m->arena), master);
    t->used -= m->range_bytes;
}

/* The last use under any of its names. */
static uint64_t last_use(const struct residency *r, const uint8_t *master)
{
    uint64_t used = 0;

    for (uint32_t i = 0; i < r->count; i++)
        if (r->models[i]->master == master && r->models[i]->used > used)
            used = r->models[i]->used;
    return used;
}

/* Of the least recently used master copy; NULL: there is none. */
static struct model *oldest(const struct residency *r)
{
    struct model *found = NULL;

    for (uint32_t i = 0; i < r->count; i++) {
        struct model *o = r->models[i];
        if (o->master != NULL &&
            (found == NULL || last_use(r, o->master) < last_use(r, found->master)))
            found = o;
    }
    return found;
}

/* One that another name has made. */
static int find_shared(const struct residency *r, struct model *m)
{
    for (uint32_t i = 0; i < r->count && m->master == NULL; i++) {
        struct model *o = r->models[i];
        if (o != m && o->master != NULL && same_weights(o, m))
            m->master = o->master;
    }
    return m->master != NULL;
}

int host_tier_hold(struct host_tier *t, struct residency *r, struct model *m, struct error *err)
{
    struct error why = {0};
    struct model *other;

    if (m->master != NULL || m->range_bytes > t->budget || m->part_count > 1 || find_shared(r, m))
        return 0;
    while (t->used + m->range_bytes > t->budget && (other = oldest(r)) != NULL)
        host_tier_drop(t, r, other);
    m->master = device_host_alloc(arena_device(m->arena), m->range_bytes, &why);
    if (m->master == NULL) {
        log_warn("model %s has no copy in host memory, its loads read its files: %s", m->name,
                 why.text);
        return 0;
    }
    t->used += m->range_bytes;
    if (model_read(m, m->master, err) != 0) {
        host_tier_drop(t, r, m);
        return -1;
    }
    t->read += m->weight_bytes;
    return 0;
}
