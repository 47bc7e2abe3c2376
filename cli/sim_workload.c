/* sim_workload.c - traces made up: arrivals, popularity and lengths by their laws, from a seed */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim.h"

enum stream { STREAM_ARRIVALS, STREAM_INPUT, STREAM_OUTPUT, STREAM_TENANT, STREAM_COUNT };

static struct sim_random stream(const struct sim_workload *w, uint32_t model, enum stream which)
{
    return sim_random_stream(w->seed, (uint64_t)model * STREAM_COUNT + which);
}

/* Kinds in turn, each as often as its share of the mix says (largest remainder first). */
static int make_models(struct sim_trace *t, uint32_t count, const struct cost_table *costs,
                       struct error *err)
{
    uint32_t *made = calloc(costs->model_count, sizeof *made);
    double sum = 0;

    t->models = calloc(count, sizeof *t->models);
    if (t->models == NULL || made == NULL) {
        free(made);
        return error_set(err, STATUS_NOMEM, "sim: out of memory");
    }
    t->model_count = count;
    for (size_t k = 0; k < costs->model_count; k++)
        sum += costs->models[k].weight;
    for (uint32_t m = 0; m < count; m++) {
        double best_lack = -1;
        size_t best = 0;

        for (size_t k = 0; k < costs->model_count; k++) {
            double lack = costs->models[k].weight / sum * (m + 1) - made[k];

            if (lack > best_lack + 1e-9) {
                best_lack = lack;
                best = k;
            }
        }
        made[best]++;
        t->models[m].kind = &costs->models[best];
        snprintf(t->models[m].name, sizeof t->models[m].name, "%.48s#%u", t->models[m].kind->name,
                 m);
    }
    free(made);
    return 0;
}

/* The mean rate of a model times its popularity. */
static double rate_of(const struct sim_workload *w, uint32_t model, double zipf_sum)
{
    if (w->zipf <= 0)
        return w->rate;
    return w->rate * w->models * pow(model + 1.0, -w->zipf) / zipf_sum;
}

static double next_gap(const struct sim_workload *w, struct sim_random *r)
{
    double shape = w->cv > 0 ? 1 / (w->cv * w->cv) : 1;

    if (w->arrivals == SIM_POISSON)
        return sim_exponential(r);
    return sim_gamma(r, shape) / shape;
}

static uint32_t clipped(double length, double scale, double most)
{
    length = floor(length * scale + 0.5);
    if (!(length > 1))
        return 1;
    return length < most ? (uint32_t)length : (uint32_t)most;
}

static int arrivals_of(struct sim_trace *t, const struct sim_workload *w, uint32_t model,
                       double rate, struct error *err)
{
    struct sim_random when = stream(w, model, STREAM_ARRIVALS);
    struct sim_random in = stream(w, model, STREAM_INPUT), out = stream(w, model, STREAM_OUTPUT);
    struct sim_random who = stream(w, model, STREAM_TENANT);
    double peak = rate * (1 + w->diurnal), at = next_gap(w, &when) / peak;

    for (; at < w->duration; at += next_gap(w, &when) / peak) {
        double wave = 1 + w->diurnal * sin(6.283185307179586 * at / w->day);
        double context = t->models[model].kind->context;
        struct sim_request r = {.arrival = (int64_t)(at * 1e9), .model = model};

        if (w->diurnal > 0 && sim_uniform(&when) * (1 + w->diurnal) > wave)
            continue; /* thinned: Lewis and Shedler 1979 */
        r.input = clipped(sim_length(&in, w->input), w->input_scale, context - 1);
        r.output = clipped(sim_length(&out, w->output), w->output_scale, context - r.input);
        r.tenant = (uint32_t)(sim_uniform(&who) * w->tenants);
        if (sim_trace_add(t, &r, err) != 0)
            return -1;
    }
    return 0;
}

static int by_arrival(const void *a, const void *b)
{
    const struct sim_request *x = a, *y = b;

    if (x->arrival != y->arrival)
        return x->arrival < y->arrival ? -1 : 1;
    return x->model < y->model ? -1 : x->model > y->model;
}

int sim_synthesize(struct sim_trace *t, const struct sim_workload *w,
                   const struct cost_table *costs, const struct sim_class *usual, struct error *err)
{
    double zipf_sum = 0;

    *t = (struct sim_trace){.class_count = 1};
    t->classes[0] = *usual;
    if (sim_law_check(w->input, err) != 0 || sim_law_check(w->output, err) != 0)
        return -1;
    if (make_models(t, w->models, costs, err) != 0)
        goto fail;
    t->tenants = calloc(w->tenants, sizeof *t->tenants);
    if (t->tenants == NULL) {
        error_set(err, STATUS_NOMEM, "sim: out of memory");
        goto fail;
    }
    t->tenant_count = w->tenants;
    for (uint32_t i = 0; i < w->tenants; i++)
        snprintf(t->tenants[i], sizeof t->tenants[i], "tenant%u", i);
    for (uint32_t m = 0; m < w->models; m++)
        zipf_sum += pow(m + 1.0, -w->zipf);
    for (uint32_t m = 0; m < w->models; m++) {
        if (arrivals_of(t, w, m, rate_of(w, m, zipf_sum), err) != 0)
            goto fail;
    }
    if (t->count > 0)
        qsort(t->requests, t->count, sizeof *t->requests, by_arrival);
    return 0;
fail:
    sim_trace_clear(t);
    return -1;
}
