/* bench_soak.c - many steps with sequences that come and go, and models that switch */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "engine/bench_subject.h"

#define PARTS        LIMIT_SAMPLES_MAX
#define SETTLED      (PARTS / 4) /* parts after which memory may not grow */
#define GROWTH_BYTES ((uint64_t)8 << 20)
#define PROMPT_MAX   256u
#define OUTPUT_MAX   256u
#define QUOTA_MAX    64u
#define CANCELLED    64u /* one turn in so many ends a sequence early */
#define SWITCHES_MAX 4096u
#define P99_MOST     1.2 /* of the median */

struct soak {
    struct subject *s;
    uint64_t random, sequences;
    uint64_t steps, tokens, turns, cancelled, switches;
    double switch_us[SWITCHES_MAX];
};

static uint32_t draw(struct soak *k, uint32_t below)
{
    k->random = k->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(k->random >> 33) % below;
}

static uint32_t open_count(const struct soak *k, uint32_t model)
{
    const struct sequence *q;
    uint32_t n = 0;

    TAILQ_FOREACH(q, &k->s->e->sequences.queue, link)
    n += q->model->id == model;
    return n;
}

/* As many as the batch; each of its own lengths, the shorter ones the more. */
static int fill(struct soak *k, uint32_t model)
{
    for (uint32_t n = open_count(k, model); n < k->s->how.batch_max; n++)
        if (subject_sequence(k->s, model, ++k->sequences, 1 + draw(k, 1 + draw(k, PROMPT_MAX)),
                             1 + draw(k, OUTPUT_MAX)) != 0)
            return -1;
    return 0;
}

/* Any sequence, wherever it stands. */
static void cancel_one(struct soak *k)
{
    const struct sequence *q = TAILQ_FIRST(&k->s->e->sequences.queue);

    for (uint32_t n = draw(k, k->s->e->sequences.count + 1); n > 0 && q != NULL; n--)
        q = TAILQ_NEXT(q, link);
    if (q == NULL)
        return;
    subject_cancel(k->s, q->id);
    k->cancelled++;
}

static int one_turn(struct soak *k, uint64_t left)
{
    uint32_t model = 1 + draw(k, k->s->how.models);

    if (fill(k, model) != 0)
        return -1;
    if (draw(k, CANCELLED) == 0)
        cancel_one(k);
    if (subject_turn(k->s, model, 1 + draw(k, left < QUOTA_MAX ? (uint32_t)left : QUOTA_MAX)) != 0)
        return -1;
    k->turns++;
    k->steps += k->s->end.steps;
    k->tokens += k->s->yielded;
    if (k->s->end.switch_bytes > 0) {
        if (k->switches < SWITCHES_MAX)
            k->switch_us[k->switches] = (double)k->s->end.switch_us;
        k->switches++;
    }
    return 0;
}

/* Bytes of memory that this process has of its own; a CPU's arena, which is touched by and by, is
 * shared memory and none of them. */
static int host_used(const struct soak *k, double *bytes)
{
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    uint64_t kib = 0;
    int got = 0;

    while (f != NULL && !got && fgets(line, sizeof(line), f) != NULL)
        got = sscanf(line, "RssAnon: %" SCNu64, &kib) == 1;
    if (f != NULL)
        fclose(f);
    *bytes = (double)kib * 1024;
    return got ? 0 : error_set(k->s->err, STATUS_IO, "/proc/self/status has no RssAnon");
}

/* The same, and what is taken of the device's memory. */
static int memory_used(const struct soak *k, double *host, double *device)
{
    struct device *d = k->s->e->device;
    uint64_t free_bytes = 0, total = 0;

    *device = 0;
    if (host_used(k, host) != 0)
        return -1;
    if (device_kind(d) != DEVICE_CPU) {
        if (device_memory(d, &free_bytes, &total, k->s->err) != 0)
            return -1;
        *device = (double)(total - free_bytes);
    }
    return 0;
}

static int check_flat(const struct soak *k, const char *what, const double *bytes)
{
    double most = 0;

    for (uint32_t i = 0; i < SETTLED; i++)
        most = bytes[i] > most ? bytes[i] : most;
    if (bytes[PARTS - 1] <= most + (double)GROWTH_BYTES)
        return 0;
    return error_set(k->s->err, STATUS_INTERNAL,
                     "%s grew from %.0f to %.0f MiB between step %" PRIu64 " and %" PRIu64, what,
                     most / 1048576, bytes[PARTS - 1] / 1048576, k->steps * SETTLED / PARTS,
                     k->steps);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void tell(const struct soak *k, const char *name, const char *params, const char *unit,
                 const double *samples, uint32_t count, double scale)
{
    struct limit l = {.name = name, .params = params, .unit = unit};

    for (uint32_t i = 0; i < count && i < LIMIT_SAMPLES_MAX; i++)
        l.samples[l.count++] = samples[i] * scale;
    k->s->found(k->s->arg, &l);
}

static void tell_switches(struct soak *k)
{
    size_t n = k->switches < SWITCHES_MAX ? k->switches : SWITCHES_MAX;
    char params[64];

    if (n == 0)
        return;
    qsort(k->switch_us, n, sizeof(*k->switch_us), ascending);
    snprintf(params, sizeof(params), "the first %zu of %" PRIu64, n, k->switches);
    tell(k, "switch, median", params, "us", &k->switch_us[n / 2], 1, 1);
    struct limit p99 = {.name = "switch, p99",
                        .params = params,
                        .unit = "us",
                        .samples = {k->switch_us[n * 99 / 100]},
                        .count = 1,
                        .bound = LIMIT_MOST,
                        .limit = P99_MOST * k->switch_us[n / 2]};
    k->s->found(k->s->arg, &p99);
}

/* After the last sequence everything is back. */
static int check_pools(const struct soak *k)
{
    const struct engine *e = k->s->e;

    while (!TAILQ_EMPTY(&e->sequences.queue))
        subject_cancel(k->s, TAILQ_FIRST(&e->sequences.queue)->id);
    if (pages_live(e->pages) != 0 || arena_held(e->arena, ARENA_KV) != 0)
        return error_set(k->s->err, STATUS_INTERNAL,
                         "%" PRIu64 " pages and %" PRIu32 " handles of KV are left of no sequence",
                         pages_live(e->pages), arena_held(e->arena, ARENA_KV));
    return arena_check(e->arena, k->s->err);
}

static int measure(struct soak *k)
{
    double host[PARTS], device[PARTS], step_us[PARTS];
    char params[128];

    for (uint32_t model = 1; model <= k->s->how.models; model++)
        if (subject_model(k->s, model) != 0)
            return -1;
    for (uint32_t i = 0; i < PARTS; i++) {
        uint64_t until = (uint64_t)k->s->how.steps * (i + 1) / PARTS, from = k->steps;
        int64_t start = clock_monotonic_us();
        while (k->steps < until)
            if (one_turn(k, until - k->steps) != 0)
                return -1;
        step_us[i] = (double)(clock_monotonic_us() - start) / (double)(k->steps - from);
        if (memory_used(k, &host[i], &device[i]) != 0)
            return -1;
    }
    snprintf(params, sizeof(params), "%s, %" PRIu64 " steps, %" PRIu64 " sequences",
             k->s->how.shape, k->steps, k->sequences);
    tell(k, "soak: a step", params, "us", step_us, PARTS, 1);
    snprintf(params, sizeof(params), "%" PRIu64 " tokens, %" PRIu64 " turns, %" PRIu64 " cancelled",
             k->tokens, k->turns, k->cancelled);
    tell(k, "soak: host memory", params, "MiB", host, PARTS, 1.0 / 1048576);
    tell(k, "soak: GPU memory", "", "MiB", device, PARTS, 1.0 / 1048576);
    tell_switches(k);
    if (check_flat(k, "host memory", host) != 0 || check_flat(k, "GPU memory", device) != 0)
        return -1;
    return check_pools(k);
}

int bench_soak(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct soak *k = calloc(1, sizeof(*k));
    int rv = -1;

    if (k == NULL)
        return error_set(err, STATUS_NOMEM, "no memory for a bench");
    k->random = 1;
    if (how->steps < PARTS || how->models == 0)
        error_set(err, STATUS_INVALID, "a soak needs a model and %u steps", PARTS);
    else if ((k->s = subject_open(how, found, arg, err)) != NULL)
        rv = measure(k);
    subject_close(k->s);
    free(k);
    return rv;
}
