/*
 * serve_costs.c - what work costs on a running pool, measured from outside of it
 *
 * A request alone, or a batch of them, and what the daemon's counters of time in steps and switches
 * have grown by.  Steps are linear in rows and context, so the sum over a batch's steps is linear
 * in the sums of both, however the steps fell: nothing needs to be known of single ones.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/serve.h"

#define PROMPT_SHORT  16u
#define PROMPT_MIDDLE 128u
#define PROMPT_LONG   512u
#define DECODED       32u
#define BATCHES       4
#define ROWS_MOST     8u
#define REPEATS       3    /* of which the fastest counts */
#define LOADS_MOST    12u  /* models that are loaded in turns, to see what that takes */
#define LINK_UNSEEN   1e12 /* bytes/s: the memory holds all models, none was ever loaded again */

struct measured {
    double prefill[3], decode[3], load; /* load 0: none was seen */
};

struct bench {
    const struct cli *cli;
    int code; /* of the first failure; its error was printed */
    double moved_bytes, moved_seconds;
};

/* --- the fit ------------------------------------------------------------------------------------
 */

/* Solves the normal equations of the unknowns in `use`; 0 if they are singular. */
static int solve(double a[3][4], const int use[3])
{
    for (int i = 0; i < 3; i++) {
        if (!use[i]) {
            for (int k = 0; k < 4; k++)
                a[i][k] = k == i;
            for (int k = 0; k < 3; k++)
                a[k][i] = k == i;
            a[i][3] = 0;
        }
    }
    for (int i = 0; i < 3; i++) {
        int best = i;

        for (int k = i + 1; k < 3; k++)
            if (fabs(a[k][i]) > fabs(a[best][i]))
                best = k;
        if (!(fabs(a[best][i]) > 1e-30))
            return 0;
        for (int j = 0; j < 4; j++) {
            double t = a[i][j];
            a[i][j] = a[best][j];
            a[best][j] = t;
        }
        for (int k = 0; k < 3; k++) {
            double f = a[k][i] / a[i][i];

            for (int j = i; j < 4 && k != i; j++)
                a[k][j] -= f * a[i][j];
        }
    }
    return 1;
}

void serve_fit(const double (*x)[3], const double *t, size_t n, double out[3])
{
    int use[3] = {1, 1, 1};

    /* An unknown that comes out below zero is none: leave it out and solve again. */
    for (int round = 0; round < 3; round++) {
        double a[3][4] = {{0}};
        int worst = -1;

        for (size_t p = 0; p < n; p++)
            for (int i = 0; i < 3; i++)
                for (int k = 0; k < 4; k++)
                    a[i][k] += x[p][i] * (k < 3 ? x[p][k] : t[p]);
        if (!solve(a, use)) {
            use[2 - round] = 0;
            continue;
        }
        for (int i = 0; i < 3; i++) {
            out[i] = use[i] ? a[i][3] / a[i][i] : 0;
            if (out[i] < 0 && (worst < 0 || out[i] < out[worst]))
                worst = i;
        }
        if (worst < 0)
            return;
        use[worst] = 0;
    }
    for (int i = 0; i < 3; i++)
        if (!(out[i] > 0))
            out[i] = 0;
}

/* --- one measurement ----------------------------------------------------------------------------
 */

struct growth {
    double step_seconds, switch_seconds, switch_bytes, steps, switches;
};

/* `rows` requests at once, each of that shape: what the counters grow by. */
static void measure(struct bench *b, const char *model, uint32_t rows, uint32_t input,
                    uint32_t output, uint64_t seed, struct growth *g)
{
    const struct sim_class free_class = {.name = "best-effort"};
    struct serve_ask asks[ROWS_MOST];
    struct serve_fate fates[ROWS_MOST] = {{.sent = 0}};
    struct sim_outcome outcomes[ROWS_MOST] = {{.first = 0}};
    struct serve_run run = {.asks = asks, .count = rows, .outcomes = outcomes, .fates = fates};
    struct serve_counters before, after;
    struct serve_grant grant = {.fd = -1};
    struct error err;

    *g = (struct growth){.steps = 0};
    if (b->code != EXIT_OK)
        return;
    b->code = serve_lease(b->cli, &model, 1, NULL, &grant);
    if (b->code == EXIT_OK)
        b->code = serve_pool_settle(b->cli, &before);
    for (uint32_t i = 0; i < rows; i++)
        asks[i] = (struct serve_ask){.grant = &grant,
                                     .model = model,
                                     .class = &free_class,
                                     .input = input,
                                     .output = output,
                                     .seed = seed * ROWS_MOST + i};
    if (b->code == EXIT_OK && serve_run(&run, &err) != 0)
        b->code = cli_fail(EXIT_REFUSED, "%s", err.text);
    if (run.interrupted)
        b->code = EXIT_INTERRUPTED;
    for (uint32_t i = 0; i < rows && b->code == EXIT_OK; i++)
        if (fates[i].reason[0] != '\0')
            b->code = cli_fail(EXIT_REFUSED, "what %s costs cannot be measured: %s", model,
                               fates[i].reason);
    if (b->code == EXIT_OK)
        b->code = serve_pool_settle(b->cli, &after);
    if (grant.fd >= 0)
        close(grant.fd);
    explicit_bzero(&grant, sizeof grant);
    if (b->code != EXIT_OK)
        return;
    *g = (struct growth){.step_seconds = after.step_seconds - before.step_seconds,
                         .switch_seconds = after.switch_seconds - before.switch_seconds,
                         .switch_bytes = (double)(after.switch_bytes - before.switch_bytes),
                         .steps = (double)(after.steps - before.steps),
                         .switches = (double)(after.switches - before.switches)};
}

/* --- a model ------------------------------------------------------------------------------------
 */

static uint32_t at_most(uint32_t n, uint32_t most)
{
    return n < most ? n : most;
}

static double prefill_seconds(const struct measured *m, double n)
{
    return m->prefill[0] + m->prefill[1] * n + m->prefill[2] * n * n;
}

static void measure_prefill(struct bench *b, const struct serve_model *model, struct measured *m)
{
    const uint32_t lengths[] = {PROMPT_SHORT, PROMPT_MIDDLE, PROMPT_LONG};
    double x[3][3], t[3];
    struct growth g;

    measure(b, model->name, 1, PROMPT_SHORT, 1, 1, &g); /* makes it resident */
    for (int i = 0; i < 3; i++) {
        double n = at_most(lengths[i], model->context / 2);

        t[i] = INFINITY;
        for (uint64_t k = 0; k < REPEATS; k++) {
            measure(b, model->name, 1, (uint32_t)n, 1, 10 + k, &g);
            t[i] = fmin(t[i], g.step_seconds);
        }
        /* what counts is how far a prediction is off in proportion */
        for (int j = 0; j < 3; j++)
            x[i][j] = pow(n, j) / fmax(t[i], 1e-6);
        t[i] = 1;
    }
    if (b->code == EXIT_OK)
        serve_fit(x, t, 3, m->prefill);
    if (!(m->prefill[1] > 0))
        m->prefill[1] = 1e-9; /* a file of costs wants some */
}

static void measure_decode(struct bench *b, const struct serve_model *model, struct measured *m)
{
    const uint32_t runs[BATCHES][2] = {
        {1, PROMPT_SHORT}, {1, PROMPT_LONG}, {4, PROMPT_SHORT}, {ROWS_MOST, PROMPT_SHORT}};
    double x[BATCHES][3], t[BATCHES];

    for (int i = 0; i < BATCHES; i++) {
        double rows = runs[i][0], prompt = at_most(runs[i][1], model->context / 2);
        double output = at_most(DECODED + 1, model->context / 2 - 1), steps;
        struct growth g = {.step_seconds = INFINITY};

        for (uint64_t k = 0; k < REPEATS; k++) { /* what else runs here makes one slower */
            struct growth one;

            measure(b, model->name, runs[i][0], (uint32_t)prompt, (uint32_t)output,
                    20 + REPEATS * (uint64_t)i + k, &one);
            if (one.step_seconds < g.step_seconds)
                g = one;
        }
        steps = fmax(g.steps - rows, output - 1);
        x[i][0] = steps;
        x[i][1] = rows * (output - 1) * (prompt + output / 2);
        x[i][2] = rows * (output - 1);
        t[i] = fmax(g.step_seconds - rows * prefill_seconds(m, prompt), 1e-6);
        for (int j = 0; j < 3; j++)
            x[i][j] /= t[i];
        t[i] = 1;
    }
    if (b->code == EXIT_OK)
        serve_fit(x, t, BATCHES, m->decode);
    if (!(m->decode[0] > 0))
        m->decode[0] = 1e-9;
}

/* Each model in turn, so that each has to be loaded if not all have room. */
static void measure_loads(struct bench *b, const struct serve_pool *pool, struct measured *m,
                          const size_t *kind_of, size_t count)
{
    double seconds[SERVE_MODELS_MAX] = {0};
    uint32_t seen[SERVE_MODELS_MAX] = {0};
    uint32_t models = pool->model_count < LOADS_MOST ? pool->model_count : LOADS_MOST;

    for (uint64_t round = 0; round < REPEATS; round++) {
        for (uint32_t i = 0; i < models; i++) {
            struct growth g;

            measure(b, pool->models[i].name, 1, PROMPT_SHORT, 1, 40 + round, &g);
            if (b->code != EXIT_OK || g.switches != 1 || !(g.switch_bytes > 0))
                continue;
            b->moved_bytes += g.switch_bytes;
            b->moved_seconds += g.switch_seconds;
            if (kind_of[i] < count) {
                seconds[kind_of[i]] += g.switch_seconds;
                seen[kind_of[i]]++;
            }
        }
    }
    for (size_t k = 0; k < count; k++)
        m[k].load = seen[k] > 0 ? seconds[k] / seen[k] : 0;
}

/* --- the file -----------------------------------------------------------------------------------
 */

/* Files of one size and form are taken for the same shape. */
static int alike(const struct serve_model *a, const struct serve_model *b)
{
    return a->weight_bytes == b->weight_bytes && a->kv_token_bytes == b->kv_token_bytes &&
           a->context == b->context;
}

static char *write_costs(const struct serve_pool *pool, const struct bench *b,
                         const char *const *kinds, const struct serve_model *const *models,
                         const double *shares, const struct measured *m, size_t count, int measured)
{
    double link = b->moved_seconds > 0 ? b->moved_bytes / b->moved_seconds : LINK_UNSEEN;
    char *text = NULL;
    size_t len;
    FILE *to = open_memstream(&text, &len);

    if (to == NULL)
        return NULL;
    fprintf(to, measured ? "# measured by modelpool bench serve on the running pool\n"
                         : "# sizes alone: modelpool bench serve has measured nothing\n");
    fprintf(to, "Device=%s Memory=%llu Link=%.4g\n", pool->device,
            (unsigned long long)pool->memory_bytes, link);
    for (size_t i = 0; i < count; i++) {
        const struct measured *c = &m[i];

        fprintf(to,
                "Model=%s Weights=%llu KvToken=%llu Context=%u Prefill=%.4g,%.4g,%.4g "
                "Decode=%.4g,%.4g,%.4g",
                kinds[i], (unsigned long long)models[i]->weight_bytes,
                (unsigned long long)models[i]->kv_token_bytes, models[i]->context, c->prefill[0],
                c->prefill[1], c->prefill[2], c->decode[0], c->decode[1], c->decode[2]);
        if (c->load > 0)
            fprintf(to, " Switch=%.4g", c->load);
        fprintf(to, " Mix=%g\n", shares != NULL ? shares[i] : 1.0);
    }
    return fclose(to) == 0 ? text : NULL;
}

static void measure_all(struct bench *b, const struct serve_pool *pool,
                        const struct serve_model *const *models, struct measured *m, size_t count)
{
    size_t *kind_of = calloc(pool->model_count + 1, sizeof *kind_of);

    if (kind_of == NULL) {
        b->code = cli_fail(EXIT_REFUSED, "out of memory");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;

        while (k < i && !alike(models[k], models[i]))
            k++;
        if (k < i) {
            m[i] = m[k];
            continue;
        }
        measure_prefill(b, models[i], &m[i]);
        measure_decode(b, models[i], &m[i]);
    }
    for (uint32_t i = 0; i < pool->model_count; i++)
        while (kind_of[i] < count && !alike(models[kind_of[i]], &pool->models[i]))
            kind_of[i]++;
    measure_loads(b, pool, m, kind_of, count);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i && m[i].load <= 0; k++)
            if (alike(models[k], models[i]))
                m[i].load = m[k].load;
    free(kind_of);
}

char *serve_costs(const struct cli *cli, const struct serve_pool *pool, const char *const *kinds,
                  const char *const *names, const double *shares, size_t count, int measured,
                  int *code)
{
    struct bench b = {.cli = cli};
    struct measured *m = calloc(count + 1, sizeof *m);
    const struct serve_model **models = calloc(count + 1, sizeof *models);
    char *text = NULL;

    if (m == NULL || models == NULL) {
        b.code = cli_fail(EXIT_REFUSED, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        models[i] = serve_pool_find(pool, names[i]);
        if (models[i] == NULL) {
            b.code = cli_fail(EXIT_REFUSED, "the pool has no model %s; `modelpool list` shows them",
                              names[i]);
            goto out;
        }
        m[i] = (struct measured){.prefill = {0, 1e-9, 0}, .decode = {1e-9, 0, 0}};
    }
    if (measured)
        measure_all(&b, pool, models, m, count);
    if (b.code == EXIT_OK)
        text = write_costs(pool, &b, kinds, models, shares, m, count, measured);
    if (b.code == EXIT_OK && text == NULL)
        b.code = cli_fail(EXIT_REFUSED, "out of memory");
out:
    *code = b.code;
    free(m);
    free(models);
    return text;
}
