/*
 * tenant.c - virtual counters in GPU seconds (after VTC, Sheng et al., OSDI 2024, which counts
 * tokens; seconds, since tokens of different models differ, and switches cost, too)
 */
#include <stdlib.h>

#include "sched/state.h"

struct sched_tenant *need_tenant(struct sched *s, uint32_t tenant)
{
    uint32_t before = s->tenant_count;
    struct sched_tenant *more;

    if (tenant >= SCHED_INDEX_MAX)
        return NULL;
    more = grow(s->tenants, &s->tenant_count, tenant, sizeof *more);
    if (more == NULL)
        return NULL;
    s->tenants = more;
    for (uint32_t i = before; i < s->tenant_count; i++)
        more[i].share = 1;
    return &more[tenant];
}

int sched_set_share(struct sched *s, uint32_t tenant, double share, struct error *err)
{
    struct sched_tenant *t;

    if (!(share > 0) || share > 1e6)
        return error_set(err, STATUS_INVALID, "a tenant's share must be above 0, up to 1000000");
    t = need_tenant(s, tenant);
    if (t == NULL)
        return error_set(err, STATUS_INVALID, "tenant number %u is too large", tenant);
    t->time *= t->share / share;
    t->share = share;
    return 0;
}

double sched_tenant_time(const struct sched *s, uint32_t tenant)
{
    return tenant < s->tenant_count ? s->tenants[tenant].time : 0;
}

double sched_tenant_used(const struct sched *s, uint32_t tenant)
{
    return tenant < s->tenant_count ? s->tenants[tenant].used : 0;
}

void sched_set_tenant(struct sched *s, uint64_t seq, uint32_t tenant)
{
    struct sched_entry *e = find_entry(s, seq);

    if (e == NULL || need_tenant(s, tenant) == NULL)
        return;
    tenant_left(s, e->tenant);
    e->tenant = tenant;
    tenant_joined(s, tenant);
}

double tenants_least(const struct sched *s)
{
    double least = -1;

    for (uint32_t i = 0; i < s->tenant_count; i++) {
        const struct sched_tenant *t = &s->tenants[i];

        if (t->sequences > 0 && (least < 0 || t->time < least))
            least = t->time;
    }
    return least > 0 ? least : 0;
}

/* No credit from idling: it starts no lower than those who have work. */
void tenant_joined(struct sched *s, uint32_t tenant)
{
    struct sched_tenant *t = &s->tenants[tenant];

    if (t->sequences == 0) {
        double least = tenants_least(s);

        if (t->time < least)
            t->time = least;
        s->tenants_busy++;
    }
    t->sequences++;
}

void tenant_left(struct sched *s, uint32_t tenant)
{
    if (--s->tenants[tenant].sequences == 0)
        s->tenants_busy--;
}

void tenant_gone(struct sched_slot *slot, uint32_t tenant)
{
    if (slot->gone_count == slot->gone_room) {
        uint32_t room = slot->gone_room > 0 ? slot->gone_room * 2 : 8;
        uint32_t *more = realloc(slot->gone, room * sizeof *more);

        if (more == NULL)
            return; /* the others pay its part */
        slot->gone = more;
        slot->gone_room = room;
    }
    slot->gone[slot->gone_count++] = tenant;
}

static void charge(struct sched_tenant *t, double seconds)
{
    t->time += seconds / t->share;
    t->used += seconds;
}

void tenants_charge(struct sched *s, struct sched_slot *slot, double seconds)
{
    uint32_t payers = slot->running + slot->gone_count;

    if (payers == 0)
        return;
    seconds /= payers;
    for (const struct sched_entry *e = slot->first; e != NULL; e = e->next)
        charge(&s->tenants[e->tenant], seconds);
    for (uint32_t i = 0; i < slot->gone_count; i++)
        charge(&s->tenants[slot->gone[i]], seconds);
    slot->gone_count = 0;
}
