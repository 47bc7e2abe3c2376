/* front_cost.c - measured costs between the policy thread and the database */
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "daemon/front.h"

struct cost_job {
    struct front_job job;
    struct db_cost row;
};

static int run_cost(struct db *db, struct writer_job *job, struct error *err)
{
    return db_put_cost(db, &((struct cost_job *)job)->row, err);
}

void front_cost_write(struct front *f, const struct policy_cost *c)
{
    struct cost_job *job = calloc(1, sizeof *job);

    if (!job)
        return; /* the next one comes soon */
    job->row = (struct db_cost){
        .weight_bytes = c->weight_bytes,
        .prefill = c->cost.prefill,
        .prefill_token = c->cost.prefill_token,
        .prefill_square = c->cost.prefill_square,
        .decode = c->cost.decode,
        .decode_context = c->cost.decode_context,
        .decode_row = c->cost.decode_row,
        .load = c->cost.load,
        .kv_token = c->cost.kv_token,
        .step_samples = c->samples[COST_STEP],
        .prefill_samples = c->samples[COST_PREFILL],
        .load_samples = c->samples[COST_LOAD],
        .step_error = c->error[COST_STEP],
        .prefill_error = c->error[COST_PREFILL],
        .load_error = c->error[COST_LOAD],
        .updated_us = clock_wall_us(),
    };
    snprintf(job->row.model, sizeof job->row.model, "%s", f->config->models[c->model].name);
    snprintf(job->row.device, sizeof job->row.device, "%s", c->device);
    front_write(f, &job->job, run_cost, NULL);
}

struct reading {
    const struct front *f;
    struct front_costs *costs;
};

static int read_cost(const struct db_cost *row, void *arg)
{
    const struct reading *r = arg;
    const struct config_model *m = config_find_model(r->f->config, row->model);
    struct policy_cost *grown;
    struct policy_cost c = {
        .weight_bytes = row->weight_bytes,
        .cost = {.prefill = row->prefill,
                 .prefill_token = row->prefill_token,
                 .prefill_square = row->prefill_square,
                 .decode = row->decode,
                 .decode_context = row->decode_context,
                 .decode_row = row->decode_row,
                 .load = row->load,
                 .kv_token = row->kv_token},
        .samples = {row->step_samples, row->prefill_samples, row->load_samples},
        .error = {row->step_error, row->prefill_error, row->load_error},
    };

    if (!m)
        return 0; /* a model of before */
    c.model = (uint32_t)(m - r->f->config->models);
    snprintf(c.device, sizeof c.device, "%s", row->device);
    grown = reallocarray(r->costs->costs, r->costs->count + 1, sizeof *grown);
    if (!grown)
        return 0; /* it is measured again */
    r->costs->costs = grown;
    grown[r->costs->count++] = c;
    return 0;
}

int front_cost_read(const struct front *f, struct front_costs *costs, struct db *db,
                    struct error *err)
{
    struct reading r = {f, costs};

    return db_each_cost(db, read_cost, &r, err);
}

void front_cost_teach(struct front *f, const struct front_costs *costs)
{
    for (size_t i = 0; i < costs->count; i++)
        policy_teach(f->policy, &costs->costs[i]);
}
