/* sim_segment.c - token times of a run of decode steps, in closed form */
#include "cli/sim.h"

int64_t sim_segment_end(const struct sim_segment *g, uint32_t k)
{
    double n = k;

    return g->start + (int64_t)(g->base * n + g->slope * n * (n - 1) / 2);
}

uint32_t sim_segment_until(const struct sim_segment *g, int64_t t)
{
    uint32_t low = 1, high = g->steps;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (sim_segment_end(g, mid) >= t)
            high = mid;
        else
            low = mid + 1;
    }
    return high;
}

static int64_t lateness(const struct sim_segment *g, uint32_t k, int64_t due, int64_t tbt)
{
    return sim_segment_end(g, k) - due - (int64_t)(k - 1) * tbt;
}

/*
 * Ends grow by base + slope k and deadlines by tbt, so lateness falls as long as a step is shorter
 * than tbt, and grows from then on: tokens on time are one interval around its minimum.
 */
static uint32_t minimum(const struct sim_segment *g, int64_t tbt)
{
    double k;

    if (!(g->slope > 0))
        return g->base < (double)tbt ? g->steps : 1;
    k = ((double)tbt - g->base) / g->slope + 1;
    if (!(k > 1))
        return 1;
    return k < (double)g->steps ? (uint32_t)k : g->steps;
}

uint32_t sim_segment_on_time(const struct sim_segment *g, int64_t due, int64_t tbt)
{
    uint32_t least = minimum(g, tbt), low, high, first, last;

    if (g->steps == 0)
        return 0;
    if (lateness(g, 1, due, tbt) <= 0 && lateness(g, g->steps, due, tbt) <= 0)
        return g->steps;
    /* rounding to nanoseconds may move the minimum by a step */
    if (least < g->steps && lateness(g, least + 1, due, tbt) < lateness(g, least, due, tbt))
        least++;
    if (lateness(g, least, due, tbt) > 0)
        return 0;
    for (low = 1, high = least; low < high;) { /* the first on time */
        uint32_t mid = low + (high - low) / 2;

        if (lateness(g, mid, due, tbt) <= 0)
            high = mid;
        else
            low = mid + 1;
    }
    first = high;
    for (low = least, high = g->steps; low < high;) { /* the last */
        uint32_t mid = high - (high - low) / 2;

        if (lateness(g, mid, due, tbt) <= 0)
            low = mid;
        else
            high = mid - 1;
    }
    last = low;
    return last - first + 1;
}

/* --- as published ----------------------------------------------------------------------------- */

/* The first step from k on whose token is late; steps + 1: none. */
static uint32_t first_late(const struct sim_segment *g, uint32_t k, int64_t due, int64_t tbt)
{
    uint32_t low = k, high = g->steps;

    if (lateness(g, k, due, tbt) > 0)
        return k;
    if (lateness(g, g->steps, due, tbt) <= 0) /* convex: and none between */
        return g->steps + 1;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;

        if (lateness(g, mid, due, tbt) <= 0)
            low = mid;
        else
            high = mid;
    }
    return high;
}

void sim_qos_add(struct sim_qos *q, const struct sim_segment *g, int64_t tbt)
{
    for (uint32_t k = 1; k <= g->steps;) {
        int64_t due = q->zero + q->target - (int64_t)(k - 1) * tbt; /* as if from step 1 */
        uint32_t late = first_late(g, k, due, tbt);

        q->target += (int64_t)(late - k) * tbt;
        if (late > k)
            q->within = q->target - tbt;
        if (late > g->steps)
            return;
        q->kept += q->within;
        q->zero = sim_segment_end(g, late);
        q->within = 0;
        q->target += tbt;
        k = late + 1;
    }
}

double sim_qos_share(const struct sim_qos *q, int64_t last)
{
    int64_t rest = last - q->zero < q->target ? last - q->zero : q->target;

    return last > 0 ? (double)(q->kept + rest) / (double)last : 1;
}
