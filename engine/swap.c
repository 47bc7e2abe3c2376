/* swap.c - sequences whose KV waits in host memory */
#include "engine/swap.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "engine/room.h"
#include "engine/share.h"

/* What is kept of a sequence: the bytes of its pages, those of model.kv first. */
struct swapped {
    uint64_t bytes, room; /* moved so far, in this direction; of all pages */
    uint64_t us;
    uint32_t first[2], count[2]; /* pages, as page_list's gone and count */
    uint32_t next[2];            /* the page that moves next: down to first, or up to count */
    uint32_t pieces;             /* under way */
    uint8_t *data;               /* a CPU's: all places are in it */
    uint32_t placed;             /* places that were taken */
    void *places[];              /* of each page */
};

static const struct kv_layout *layout(const struct sequence *s, int kind)
{
    return kind == 0 ? &s->model->kv : &s->model->kv_local;
}

static uint32_t pages_kept(const struct swapped *c, int kind)
{
    return c->count[kind] - c->first[kind];
}

static void *place(const struct swapped *c, int kind, uint32_t page)
{
    return c->places[(kind == 0 ? 0 : pages_kept(c, 0)) + page - c->first[kind]];
}

void swap_open(struct swap *w, struct sequence_list *sequences, struct residency *residency,
               struct device *d, uint64_t bytes)
{
    int64_t start = clock_monotonic_us();
    struct error err = {0};

    *w = (struct swap){.sequences = sequences,
                       .residency = residency,
                       .device = d,
                       .budget = bytes,
                       .piece = SWAP_PIECE,
                       .stride = SWAP_PIECE};
    if (device_kind(d) == DEVICE_CPU)
        return;
    w->piece = SWAP_PIECE_GPU;
    w->stride = UINT64_MAX; /* as much as may be under way */
    if (swap_space_open(&w->space, d, bytes, &err) != 0) {
        log_warn("KV that has no room is computed again: %s; lower SwapSpace=", err.text);
        w->budget = 0;
    } else if (bytes > 0) {
        log_info("%" PRIu64 " MiB of host memory for KV, pinned in %.2f s", bytes >> 20,
                 (double)(clock_monotonic_us() - start) / 1e6);
    }
}

void swap_close(struct swap *w)
{
    swap_space_close(&w->space);
}

/* --- host memory ------------------------------------------------------------------------------ */

static void free_copy(struct swap *w, const struct sequence *s, struct swapped *c)
{
    for (uint32_t i = 0; c->data == NULL && i < c->placed; i++)
        swap_space_give(&w->space, c->places[i], layout(s, i >= pages_kept(c, 0))->page_bytes);
    free(c->data);
    free(c);
}

static void drop_copy(struct swap *w, struct sequence *s)
{
    if (s->swapped == NULL)
        return;
    w->used -= s->swapped->room;
    free_copy(w, s, s->swapped);
    s->swapped = NULL;
}

/* A place for each page.  -1: there is not so much room. */
static int take_places(struct swap *w, const struct sequence *s, struct swapped *c)
{
    uint32_t all = pages_kept(c, 0) + pages_kept(c, 1);
    uint64_t at = 0;

    if (device_kind(w->device) == DEVICE_CPU) {
        c->data = malloc(c->room + 1);
        if (c->data == NULL)
            return -1;
    }
    for (; c->placed < all; c->placed++) {
        uint64_t bytes = layout(s, c->placed >= pages_kept(c, 0))->page_bytes;
        void *p = c->data != NULL ? c->data + at : swap_space_take(&w->space, bytes);
        if (p == NULL)
            return -1;
        c->places[c->placed] = p;
        at += bytes;
    }
    return 0;
}

/* Room for the KV that the sequence has.  NULL: there is not so much. */
static struct swapped *make_copy(struct swap *w, const struct sequence *s)
{
    const struct page_list *p = s->caches;
    uint64_t pages = p[0].count - p[0].gone + p[1].count - p[1].gone;
    struct swapped *c = malloc(sizeof(*c) + pages * sizeof(c->places[0]));

    if (c == NULL)
        return NULL;
    *c = (struct swapped){0};
    for (int i = 0; i < 2; i++) {
        c->first[i] = p[i].gone;
        c->count[i] = c->next[i] = p[i].count;
        c->room += pages_kept(c, i) * layout(s, i)->page_bytes;
    }
    if (c->room > w->budget - w->used || take_places(w, s, c) != 0) {
        free_copy(w, s, c);
        return NULL;
    }
    return c;
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

/* --- moving ----------------------------------------------------------------------------------- */

static int moves(const struct sequence *s)
{
    return s->place == SEQUENCE_LEAVING || s->place == SEQUENCE_COMING;
}

static enum device_way way_of(const struct sequence *s)
{
    return s->place == SEQUENCE_LEAVING ? DEVICE_OUT : DEVICE_IN;
}

/* Pages that lie behind each other in both memories, as those of a sequence mostly do: one copy. */
struct run {
    uint8_t *page, *place;
    uint64_t bytes;
};

static void copy_run(struct swap *w, enum device_way way, const struct run *r)
{
    if (r->bytes > 0 && way == DEVICE_OUT)
        device_move_copy(w->device, way, r->place, r->page, r->bytes);
    else if (r->bytes > 0)
        device_move_copy(w->device, way, r->page, r->place, r->bytes);
}

/* A run stays within a handle. */
static int is_behind(const struct swap *w, const struct run *first, const struct run *second)
{
    const struct arena *a = pages_arena(w->sequences->pool);
    uint64_t size = arena_handle_bytes(a);
    uint64_t at = (uint64_t)(first->page - arena_window(a));

    return first->page + first->bytes == second->page &&
           first->place + first->bytes == second->place && (at + first->bytes) % size != 0;
}

static void add_page(struct swap *w, enum device_way way, struct run *r, struct run page)
{
    if (r->bytes == 0) {
        *r = page;
    } else if (is_behind(w, r, &page)) {
        r->bytes += page.bytes;
    } else if (is_behind(w, &page, r)) {
        page.bytes += r->bytes;
        *r = page;
    } else {
        copy_run(w, way, r);
        *r = page;
    }
}

/* The next page, those of model.kv first; of those that leave the last one first, so that it is the
 * first to be forgotten where it is shared.  0: none is left. */
static int next_page(struct swap *w, struct sequence *s, struct run *r, struct swap_piece *p)
{
    enum device_way way = way_of(s);
    struct swapped *c = s->swapped;

    for (int i = 0; i < 2; i++) {
        uint64_t bytes = layout(s, i)->page_bytes;
        uint32_t page;
        if (c->next[i] == (way == DEVICE_OUT ? c->first[i] : c->count[i]))
            continue;
        page = way == DEVICE_OUT ? --c->next[i] : c->next[i]++;
        add_page(w, way, r, (struct run){s->caches[i].pages[page], place(c, i, page), bytes});
        p->count[i]++;
        p->bytes += bytes;
        return 1;
    }
    return 0;
}

static int is_asked(const struct sequence *s)
{
    const struct swapped *c = s->swapped;
    const uint32_t *end = s->place == SEQUENCE_LEAVING ? c->first : c->count;

    return c->next[0] == end[0] && c->next[1] == end[1];
}

/* All of it is where it should be. */
static void settle(struct swap *w, struct sequence *s)
{
    if (s->swapped->pieces > 0 || !is_asked(s))
        return;
    if (s->place == SEQUENCE_LEAVING) {
        arrive(w, s, SEQUENCE_AWAY, 1);
    } else {
        arrive(w, s, SEQUENCE_HERE, 1);
        drop_copy(w, s);
    }
}

/* The oldest piece of a way, which there is: what it is done with goes.  0: it is not done. */
static int collect(struct swap *w, enum device_way way, int wait)
{
    struct swap_lane *lane = &w->lanes[way];
    struct swap_piece *p = &lane->pieces[lane->first];
    struct sequence *s = p->s;
    uint64_t us;

    if (!device_move_done(w->device, way, lane->first, wait, &us))
        return 0;
    lane->first = (lane->first + 1) % DEVICE_MOVES;
    lane->count--;
    s->swapped->pieces--;
    s->swapped->bytes += p->bytes;
    s->swapped->us += us;
    for (int i = 0; way == DEVICE_OUT && i < 2; i++)
        for (uint32_t j = 0; j < p->count[i]; j++)
            sequence_give_last(w->sequences, &s->caches[i]);
    settle(w, s);
    return 1;
}

static void collect_done(struct swap *w)
{
    for (int way = DEVICE_OUT; way <= DEVICE_IN; way++)
        while (w->lanes[way].count > 0 && collect(w, (enum device_way)way, 0))
            ;
}

/* Ask for a piece of one sequence; returns its bytes, 0: its way is full, or nothing is left. */
static uint64_t ask_piece(struct swap *w, struct sequence *s, uint64_t bytes)
{
    enum device_way way = way_of(s);
    struct swap_lane *lane = &w->lanes[way];
    uint32_t number = (lane->first + lane->count) % DEVICE_MOVES;
    struct swap_piece *p = &lane->pieces[number];
    struct run run = {0};

    if (lane->count == DEVICE_MOVES || is_asked(s))
        return 0;
    *p = (struct swap_piece){.s = s};
    if (bytes > w->piece)
        bytes = w->piece;
    device_move_begin(w->device, way, number);
    while (p->bytes < bytes && next_page(w, s, &run, p))
        ;
    copy_run(w, way, &run);
    device_move_end(w->device, way, number);
    lane->count++;
    s->swapped->pieces++;
    return p->bytes;
}

/* Up to so many bytes of it; returns those that were asked for. */
static uint64_t ask(struct swap *w, struct sequence *s, uint64_t bytes)
{
    uint64_t asked = 0, got = 1;

    while (moves(s) && got > 0 && asked < bytes) {
        got = ask_piece(w, s, bytes - asked);
        asked += got;
        collect_done(w);
    }
    if (moves(s))
        settle(w, s);
    return asked;
}

/* All of one that moves, to its end. */
static void finish(struct swap *w, struct sequence *s)
{
    enum sequence_place place = s->place;
    enum device_way way = way_of(s);

    while (ask(w, s, UINT64_MAX), s->place == place)
        collect(w, way, 1);
}

void swap_advance(struct swap *w, uint64_t bytes)
{
    struct sequence *s;

    collect_done(w);
    /* In order of arrival: those that are coming are the oldest first. */
    for (s = TAILQ_FIRST(&w->sequences->queue); s != NULL && w->moving > 0 && bytes > 0;
         s = TAILQ_NEXT(s, link)) {
        if (moves(s)) {
            uint64_t asked = ask(w, s, bytes);
            bytes -= asked < bytes ? asked : bytes;
        }
    }
}

int swap_wait_leaving(struct swap *w)
{
    uint32_t moving = w->moving;
    struct sequence *s;

    TAILQ_FOREACH(s, &w->sequences->queue, link)
    {
        if (s->place == SEQUENCE_LEAVING && ask(w, s, w->piece) > 0)
            break;
    }
    if (w->lanes[DEVICE_OUT].count > 0)
        return collect(w, DEVICE_OUT, 1);
    return s != NULL || w->moving < moving;
}

int swap_wait_coming(struct swap *w, const struct model *m)
{
    struct sequence *s;
    int any = 0;

    TAILQ_FOREACH(s, &w->sequences->queue, link)
    {
        if (s->place != SEQUENCE_COMING || s->model != m)
            continue;
        any = 1;
        finish(w, s);
        if (s->place == SEQUENCE_HERE)
            return 1;
    }
    return any;
}

int swap_wait(struct swap *w)
{
    for (int way = DEVICE_OUT; way <= DEVICE_IN; way++)
        if (w->lanes[way].count > 0)
            return collect(w, (enum device_way)way, 1);
    return 0;
}

void swap_forget(struct swap *w, struct sequence *s)
{
    while (s->swapped != NULL && s->swapped->pieces > 0)
        collect(w, way_of(s), 1);
    if (moves(s))
        w->moving--;
    drop_copy(w, s);
}

void swap_hold(struct swap *w)
{
    if (w->lanes[DEVICE_OUT].count + w->lanes[DEVICE_IN].count > 0)
        device_move_join(w->device);
}

void swap_go_on(struct swap *w)
{
    if (w->moving == 0)
        return;
    device_move_after(w->device, DEVICE_OUT);
    device_move_after(w->device, DEVICE_IN);
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
    if (s->place == SEQUENCE_COMING)
        finish(w, s);
    if (s->place == SEQUENCE_LEAVING)
        return;
    if (s->place == SEQUENCE_AWAY) {
        arrive(w, s, SEQUENCE_AWAY, s->swapped != NULL);
        return;
    }
    for (int i = 0; i < 2; i++)
        trim(w, s, i);
    s->swapped = make_copy(w, s);
    if (s->swapped == NULL) {
        drop_all(w, s);
        return;
    }
    w->used += s->swapped->room;
    w->moving++;
    s->place = SEQUENCE_LEAVING;
    /* Others may be computing what it shares, and its pages may just have been moved. */
    device_move_after(w->device, DEVICE_OUT);
}

/* --- in --------------------------------------------------------------------------------------- */

/* Pages for all that was kept, at the cost of prefixes and weights that nobody uses now; what is
 * leaving is waited for. */
static int take_pages(struct swap *w, struct sequence *s, const struct model *keep)
{
    for (int i = 0; i < 2; i++) {
        struct page_list *p = &s->caches[i];
        p->count = p->gone = s->swapped->first[i];
        while (p->count < s->swapped->count[i]) {
            void *page = pages_take(w->sequences->pool, layout(s, i)->page_bytes);
            if (page != NULL)
                p->pages[p->count++] = page;
            else if (!room_for_page(w->sequences) && !swap_wait_leaving(w) &&
                     !residency_evict(w->residency, keep, s->model))
                return -1;
        }
    }
    return 0;
}

void swap_fetch(struct swap *w, struct sequence *s, const struct model *keep)
{
    if (s->place == SEQUENCE_LEAVING)
        finish(w, s);
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
    /* Steps in flight may still use the pages' last contents. */
    device_move_after(w->device, DEVICE_IN);
}
