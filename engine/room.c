/* room.c - KV that gives way when memory is short */
#include "engine/room.h"

#include "engine/swap.h"

/* Live pages move together until so many handles are free.  Steps in flight read them where they
 * were, before the copies do: the device works in order.  Not on several GPUs, where it was not
 * tried. */
static int squeeze(struct sequence_list *l, uint32_t handles)
{
    const struct arena *a = pages_arena(l->pool);
    struct sequence *s;

    if (arena_ranks(a) > 1 && device_kind(arena_device(a)) != DEVICE_CPU)
        return 0;
    swap_hold(l->swap);
    if (pages_squeeze(l->pool, handles) == 0)
        return 0;
    swap_go_on(l->swap);
    prefix_forward(l->prefixes);
    TAILQ_FOREACH(s, &l->queue, link)
    {
        for (int i = 0; i < 2; i++) {
            const struct page_list *p = &s->caches[i];
            for (uint32_t j = p->gone; j < p->count; j++)
                p->pages[j] = pages_forward(l->pool, p->pages[j]);
        }
    }
    pages_settle(l->pool);
    return 1;
}

int room_for_page(struct sequence_list *l)
{
    return prefix_evict(l->prefixes) ||
           squeeze(l, arena_held(pages_arena(l->pool), ARENA_FREE) + 1);
}

void room_for_handles(struct sequence_list *l, uint32_t handles)
{
    const struct arena *a = pages_arena(l->pool);

    while (arena_held(a, ARENA_FREE) < handles && prefix_evict(l->prefixes))
        ;
    if (arena_held(a, ARENA_FREE) < handles)
        squeeze(l, handles);
}
