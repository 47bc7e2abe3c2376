/*
 * policy_cost.c - what a model's work costs, as the scheduler predicts it
 *
 * It begins with a guess from the weights' bytes, and each step and load corrects it: a share of
 * what was measured, so that one slow step does not count for much.
 */
#include "daemon/policy_state.h"

#define MEMORY_SPEED  8e9  /* bytes/s that a step reads, as a first guess */
#define LOAD_SPEED    1e9  /* bytes/s from a file */
#define COPY_SPEED    2e9  /* bytes/s of KV to host memory and back */
#define PREFILL_PART  0.3  /* a prompt's token, in decode steps of one row */
#define ROW_PART      0.3  /* a further row */
#define LEARNED       0.05 /* share of a measurement */
#define SECONDS_LEAST 1e-6
#define SECONDS_MOST  600.0

static double learn(double old, double measured)
{
    if (!(measured > SECONDS_LEAST))
        measured = SECONDS_LEAST;
    if (measured > SECONDS_MOST)
        measured = SECONDS_MOST;
    return old + LEARNED * (measured - old);
}

static void tell(struct instance *in, uint32_t model)
{
    sched_set_cost(in->policy->sched, in->index, model, &in->models[model].cost, NULL);
}

void cost_begin(struct instance *in, uint32_t model)
{
    struct cost *c = &in->models[model].cost;
    double bytes = (double)in->models[model].status.weight_bytes;
    double step = bytes / MEMORY_SPEED + 1e-4;

    if (c->decode > 0)
        return; /* an engine before this one has taught it */
    c->decode = step;
    c->decode_row = ROW_PART * step;
    c->prefill = step;
    c->prefill_token = PREFILL_PART * step;
    c->load = bytes / LOAD_SPEED + 1e-3;
    c->kv_token = (double)in->models[model].status.kv_token_bytes / COPY_SPEED;
    tell(in, model);
}

void cost_step(struct instance *in, uint32_t model, const struct event_step *ev)
{
    struct cost *c = &in->models[model].cost;
    double seconds = (double)ev->us / 1e6, rows = ev->batch > 0 ? ev->batch : 1;

    if (!(c->decode > 0))
        return;
    if (ev->prefill_tokens == 0) { /* the same proportion of its two parts */
        double part = (c->decode + c->decode_row * rows) / (c->decode + c->decode_row);
        double one = learn(c->decode + c->decode_row, seconds / part);

        c->decode_row = one * ROW_PART / (1 + ROW_PART);
        c->decode = c->prefill = one - c->decode_row;
    } else if (seconds > c->decode) {
        c->prefill_token =
            learn(c->prefill_token, (seconds - c->decode) / (double)ev->prefill_tokens);
    }
    tell(in, model);
}

void cost_load(struct instance *in, uint32_t model, uint64_t us)
{
    struct cost *c = &in->models[model].cost;

    if (!(c->decode > 0))
        return;
    c->load += 4 * (learn(c->load, (double)us / 1e6) - c->load); /* loads are few */
    tell(in, model);
}

void cost_moved(struct instance *in, uint32_t model, uint64_t bytes, uint64_t us)
{
    struct cost *c = &in->models[model].cost;
    double token = (double)in->models[model].status.kv_token_bytes;

    if (!(c->decode > 0) || bytes == 0)
        return;
    c->kv_token += LEARNED * 4 * ((double)us / 1e6 * token / (double)bytes - c->kv_token);
    tell(in, model);
}
