/*
 * sim_host.c - the host memory of a node, between its disk and its devices
 *
 * A node's devices share one memory and one disk, which reads one model after the other.  What a
 * device loads is kept until room is needed; then the model goes that was loaded, run or asked for
 * least recently and is neither being read nor copied.  (A byte costs the same to read again
 * whichever model it is of, so that weighing by cost, as GreedyDual does, comes to the same.)  A
 * model for which no room can be made passes through.
 */
#include <stdlib.h>

#include "cli/sim_state.h"

#define NODE_DEVICES 8u

static struct node *node_of(struct sim *s, const struct device *d)
{
    return s->nodes != NULL ? &s->nodes[d->index / s->node_devices] : NULL;
}

static struct hosted *find(const struct node *n, uint32_t model)
{
    for (uint32_t i = 0; i < n->count; i++) {
        if (n->models[i].model == model)
            return &n->models[i];
    }
    return NULL;
}

/* Tell the scheduler, for each device of the node. */
static void tell(struct sim *s, const struct node *n, uint32_t model, int hosted)
{
    uint32_t first = (uint32_t)(n - s->nodes) * s->node_devices;

    for (uint32_t i = 0; i < s->node_devices && first + i < s->fleet->devices; i++)
        sched_set_hosted(s->sched, first + i, model, hosted);
}

static int evict(struct sim *s, struct node *n)
{
    struct hosted *oldest = NULL;

    for (uint32_t i = 0; i < n->count; i++) {
        struct hosted *h = &n->models[i];

        if (h->held <= s->now && (oldest == NULL || h->used < oldest->used))
            oldest = h;
    }
    if (oldest == NULL)
        return 0;
    tell(s, n, oldest->model, 0);
    n->bytes -= s->trace->models[oldest->model].kind->weight_bytes;
    *oldest = n->models[--n->count];
    s->report->host_evictions++;
    return 1;
}

static struct hosted *keep(struct sim *s, struct node *n, uint32_t model)
{
    double bytes = s->trace->models[model].kind->weight_bytes;

    if (bytes > s->fleet->host_memory)
        return NULL;
    while (n->bytes + bytes > s->fleet->host_memory) {
        if (!evict(s, n))
            return NULL;
    }
    if (n->count == n->room) {
        uint32_t room = n->room > 0 ? n->room * 2 : 16;
        struct hosted *more = realloc(n->models, room * sizeof *more);

        if (more == NULL) {
            sim_fail(s);
            return NULL;
        }
        n->models = more;
        n->room = room;
    }
    n->bytes += bytes;
    tell(s, n, model, 1);
    n->models[n->count] = (struct hosted){.model = model};
    return &n->models[n->count++];
}

static int64_t read_disk(struct sim *s, struct node *n, uint32_t model)
{
    double bytes = s->trace->models[model].kind->weight_bytes;
    int64_t from = n->disk_free > s->now ? n->disk_free : s->now;

    s->report->disk_loads++;
    s->report->disk_bytes += bytes;
    n->disk_free = from + (int64_t)(bytes / s->costs->disk * 1e9);
    return n->disk_free;
}

void host_touch(struct sim *s, const struct device *d, uint32_t model)
{
    struct node *n = node_of(s, d);
    struct hosted *h = n != NULL ? find(n, model) : NULL;

    if (h != NULL)
        h->used = ++s->host_uses;
}

int64_t host_fetch(struct sim *s, const struct device *d, uint32_t model)
{
    struct node *n = node_of(s, d);
    struct hosted *h;
    int64_t ready;

    if (n == NULL)
        return s->now;
    h = find(n, model);
    if (h != NULL) {
        h->used = ++s->host_uses;
        s->report->host_hits += h->ready <= s->now;
        s->report->host_waits += h->ready > s->now;
        return h->ready > s->now ? h->ready : s->now;
    }
    h = keep(s, n, model);
    ready = read_disk(s, n, model);
    if (h != NULL)
        *h = (struct hosted){.model = model, .ready = ready, .held = ready, .used = ++s->host_uses};
    return ready;
}

void host_hold(struct sim *s, const struct device *d, uint32_t model, int64_t until)
{
    struct node *n = node_of(s, d);
    struct hosted *h = n != NULL ? find(n, model) : NULL;

    if (h != NULL && until > h->held)
        h->held = until;
}

int host_begin(struct sim *s)
{
    const struct sim_fleet *f = s->fleet;

    if (!(f->host_memory > 0))
        return 0;
    if (!(s->costs->disk > 0))
        return error_set(s->err, STATUS_INVALID,
                         "sim: a host memory with bounds needs a disk: the costs of %s have no "
                         "Disk=BYTES_PER_S",
                         s->costs->device);
    s->node_devices = f->node_devices > 0 ? f->node_devices : NODE_DEVICES;
    s->node_count = (f->devices + s->node_devices - 1) / s->node_devices;
    s->nodes = calloc(s->node_count, sizeof *s->nodes);
    if (s->nodes == NULL)
        return error_set(s->err, STATUS_NOMEM, "sim: out of memory");
    return 0;
}

void host_end(struct sim *s)
{
    for (uint32_t i = 0; i < s->node_count; i++)
        free(s->nodes[i].models);
    free(s->nodes);
}
