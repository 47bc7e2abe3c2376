/* swap.c - sequences whose KV waits in host memory */
#include "engine/swap.h"

#include <stdlib.h>

#include "common/clock.h"
#include "engine/room.h"
#include "engine/share.h"

/* What is kept of a sequence: the bytes of its pages, those of model.kv first. */
struct swapped {
    uint64_t bytes, room; /* copied so far, in this direction; of data */
    uint64_t us;
    uint32_t first[2], count[2]; /* pages, as page_list's gone and count */
    uint32_t next[2];            /* the page that moves next: down to first, or up to count */
    uint8_t data[];
};

static const struct kv_layout *layout(const struct sequence *s, int kind)
{
    return kind == 0 ? &s->model->kv : &s->model->kv_local;
}

static uint8_t *place(const struct sequence *s, int kind, uint32_t page)
{
    struct swapped *c = s->swapped;
    uint64_t before = kind == 0 ? 0 : (c->count[0] - c->first[0]) * s->model->kv.page_bytes;

    return c->data + before + (page - c->first[kind]) * layout(s, kind)->page_bytes;
}

static void drop_copy(struct swap *w, struct sequence *s)
{
    if (s->swapped == NULL)
        return;
    w->used -= s->swapped->room;
    free(s->swapped);
    s->swapped = NULL;
}

static void arrive(struct swap *w, struct sequence *s, enum sequence_place place, int ok)
{
    int out = place == SEQUENCE_AWAY && s->place != SEQUENCE_COMING;
    uint64_t bytes = s->swapped == NULL ? 0 : s->swapped->bytes;
    uint64_t us = s->swapped == NULL ? 0 : s->swapped->us;

    if (s->place == SEQUENCE_LEAVING || s->place == SEQUENCE_COMING)
        w->moving--;
    s->place = place;
    if (w->notify != NULL)
        w->notify(w->context, s, out, ok, bytes, us);
}

/* --- out -------------------------------------------------------------------------------------- */

/* Without a copy: all is computed anew. */
static void drop_all(struct swap *w, struct sequence *s)
{
    share_end(w->sequences, s);
    sequence_give_all(w->sequences, s);
    s->computed = 0;
    arrive(w, s, SEQUENCE_AWAY, 0);
}

/* Pages that hold nothing yet are not kept. */
static void trim(struct swap *w, struct sequence *s, int kind)
{
    const struct kv_layout *kv = layout(s, kind);
    struct page_list *p = &s->caches[kind];

    while (kv->layers != 0 && p->count > p->gone &&
           (uint64_t)(p->count - 1) * kv->page_tokens >= s->computed) {
        pages_give(w->sequences->pool, p->pages[--p->count]);
        p->pages[p->count] = NULL;
    }
}

void swap_spill(struct swap *w, struct sequence *s)
{
    uint64_t room = 0;

    if (s->place == SEQUENCE_COMING)
        swap_finish_coming(w, s->model);
    if (s->place == SEQUENCE_LEAVING)
        return;
    if (s->place == SEQUENCE_AWAY) {
        arrive(w, s, SEQUENCE_AWAY, s->swapped != NULL);
        return;
    }
    for (int i = 0; i < 2; i++) {
        trim(w, s, i);
        room += (s->caches[i].count - s->caches[i].gone) * layout(s, i)->page_bytes;
    }
    if (room <= w->budget - w->used)
        s->swapped = malloc(sizeof(*s->swapped) + room);
    if (s->swapped == NULL) {
        drop_all(w, s);
        return;
    }
    *s->swapped = (struct swapped){.room = room};
    for (int i = 0; i < 2; i++) {
        s->swapped->first[i] = s->caches[i].gone;
        s->swapped->count[i] = s->swapped->next[i] = s->caches[i].count;
    }
    w->used += room;
    w->moving++;
    s->place = SEQUENCE_LEAVING;
}

/* One page of a kind out, the last one first, so that it is the first to be forgotten where it is
 * shared.  0: none is left. */
static int move_out(struct swap *w, struct sequence *s, int kind)
{
    struct swapped *c = s->swapped;
    struct page_list *p = &s->caches[kind];
    uint32_t page = c->next[kind] - 1;

    if (c->next[kind] == c->first[kind])
        return 0;
    device_copy(arena_device(s->model->arena), place(s, kind, page), p->pages[page],
                layout(s, kind)->page_bytes);
    sequence_give_last(w->sequences, p);
    c->next[kind]--;
    return 1;
}

/* --- in --------------------------------------------------------------------------------------- */

/* Pages for all that was kept, at the cost of prefixes and weights that nobody uses now. */
static int take_pages(struct swap *w, struct sequence *s, const struct model *keep)
{
    for (int i = 0; i < 2; i++) {
        struct page_list *p = &s->caches[i];
        p->count = p->gone = s->swapped->first[i];
        while (p->count < s->swapped->count[i]) {
            void *page = pages_take(w->sequences->pool, layout(s, i)->page_bytes);
            if (page != NULL)
                p->pages[p->count++] = page;
            else if (!room_for_page(w->sequences) && !residency_evict(w->residency, keep, s->model))
                return -1;
        }
    }
    return 0;
}

void swap_fetch(struct swap *w, struct sequence *s, const struct model *keep)
{
    if (s->place == SEQUENCE_LEAVING)
        swap_finish_leaving(w);
    if (s->place == SEQUENCE_COMING)
        return;
    if (s->place == SEQUENCE_HERE || s->swapped == NULL) {
        arrive(w, s, SEQUENCE_HERE, 1);
        return;
    }
    s->swapped->bytes = s->swapped->us = 0;
    w->moving++;
    s->place = SEQUENCE_COMING;
    if (take_pages(w, s, keep) != 0) {
        sequence_give_all(w->sequences, s);
        arrive(w, s, SEQUENCE_AWAY, 0);
        return;
    }
    for (int i = 0; i < 2; i++)
        s->swapped->next[i] = s->swapped->first[i];
}

static int move_in(struct sequence *s, int kind)
{
    struct swapped *c = s->swapped;

    if (c->next[kind] == c->count[kind])
        return 0;
    device_copy(arena_device(s->model->arena), s->caches[kind].pages[c->next[kind]],
                place(s, kind, c->next[kind]), layout(s, kind)->page_bytes);
    c->next[kind]++;
    return 1;
}

/* --- moving ----------------------------------------------------------------------------------- */

/* Up to so many bytes of one sequence, a page at least; returns those that were moved. */
static uint64_t move(struct swap *w, struct sequence *s, uint64_t bytes)
{
    uint64_t start = s->swapped->bytes;
    int64_t began = clock_monotonic_us();
    int more = 1;

    while (more && s->swapped->bytes - start < bytes) {
        more = 0;
        for (int i = 0; i < 2 && !more; i++) {
            more = s->place == SEQUENCE_LEAVING ? move_out(w, s, i) : move_in(s, i);
            s->swapped->bytes += more ? layout(s, i)->page_bytes : 0;
        }
    }
    bytes = s->swapped->bytes - start;
    s->swapped->us += (uint64_t)(clock_monotonic_us() - began);
    if (more)
        return bytes;
    if (s->place == SEQUENCE_LEAVING) {
        arrive(w, s, SEQUENCE_AWAY, 1);
    } else {
        arrive(w, s, SEQUENCE_HERE, 1);
        drop_copy(w, s);
    }
    return bytes;
}

void swap_advance(struct swap *w, uint64_t bytes)
{
    struct sequence *s;

    /* In order of arrival: those that are coming are the oldest first. */
    for (s = TAILQ_FIRST(&w->sequences->queue); s != NULL && w->moving > 0 && bytes > 0;
         s = TAILQ_NEXT(s, link)) {
        if (s->place == SEQUENCE_LEAVING || s->place == SEQUENCE_COMING) {
            uint64_t moved = move(w, s, bytes);
            bytes -= moved < bytes ? moved : bytes;
        }
    }
}

int swap_finish_leaving(struct swap *w)
{
    struct sequence *s;
    int any = 0;

    TAILQ_FOREACH(s, &w->sequences->queue, link)
    {
        if (s->place == SEQUENCE_LEAVING) {
            move(w, s, UINT64_MAX);
            any = 1;
        }
    }
    return any;
}

int swap_finish_coming(struct swap *w, const struct model *m)
{
    struct sequence *s;
    int any = 0;

    TAILQ_FOREACH(s, &w->sequences->queue, link)
    {
        if (s->place == SEQUENCE_COMING && s->model == m) {
            move(w, s, UINT64_MAX);
            any = 1;
        }
    }
    return any;
}

void swap_forget(struct swap *w, struct sequence *s)
{
    if (s->place == SEQUENCE_LEAVING || s->place == SEQUENCE_COMING)
        w->moving--;
    drop_copy(w, s);
}
