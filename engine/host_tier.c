/* host_tier.c - master copies of weights in host memory */
#include "engine/host_tier.h"

#include <inttypes.h>

#include "common/log.h"
#include "engine/residency.h"

void host_tier_drop(struct host_tier *t, struct model *m)
{
    if (m->master == NULL)
        return;
    device_host_free(arena_device(m->arena), m->master);
    m->master = NULL;
    t->used -= m->range_bytes;
}

/* The least recently used master copy but m's; NULL: there is no other. */
static struct model *oldest(const struct residency *r, const struct model *m)
{
    struct model *found = NULL;

    for (uint32_t i = 0; i < r->count; i++) {
        struct model *o = r->models[i];
        if (o != m && o->master != NULL && (found == NULL || o->used < found->used))
            found = o;
    }
    return found;
}

int host_tier_hold(struct host_tier *t, struct residency *r, struct model *m, struct error *err)
{
    struct error why = {0};
    struct model *other;

    if (m->master != NULL || m->range_bytes > t->budget || m->part_count > 1)
        return 0;
    while (t->used + m->range_bytes > t->budget && (other = oldest(r, m)) != NULL)
        host_tier_drop(t, other);
    m->master = device_host_alloc(arena_device(m->arena), m->range_bytes, &why);
    if (m->master == NULL) {
        log_warn("model %s has no copy in host memory, its loads read its files: %s", m->name,
                 why.text);
        return 0;
    }
    t->used += m->range_bytes;
    if (model_read(m, m->master, err) != 0) {
        host_tier_drop(t, m);
        return -1;
    }
    return 0;
}
