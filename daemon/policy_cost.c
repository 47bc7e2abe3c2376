/*
 * policy_cost.c - what a model's work costs, as the scheduler predicts it
 *
 * A decode step is a base, its rows and their context; a prompt's part of a step is a base (without
 * rows beside it), its tokens and the positions that these look back at.  Both are fitted to what
 * steps take (cost_fit.h).  They begin with what an earlier life of the daemon has measured for the
 * same weights on the same device, else with a guess from the weights' bytes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

#define DISK_SPEED    1e9       /* bytes/s from the disk, as a first guess */
#define COPY_LEARNED  0.2       /* share of the last copy */
#define TAUGHT_WEIGHT 30.0      /* at most */
#define KNOWN_SAMPLES 16u       /* steps from which on a cost is measured */
#define KNOWN_US      120000000 /* after so long it should be measured again */
#define LOAD_LEARNED  0.25      /* share of the last load */
#define BASE_LEAST    1e-6      /* seconds; without a base a cost counts as unknown */
#define LOAD_MOST     600.0

static const double least_step[COST_TERMS] = {1e-5, 1e-9, 1e-6};
static const double least_prefill[COST_TERMS] = {1e-5, 1e-7, 1e-11};

static const struct { /* a first guess */
    double memory;    /* bytes/s that a step reads */
    double link;      /* bytes/s of loads */
    double row;       /* a further row, in steps of one */
    double token;     /* a prompt's token, in these */
    double context;   /* a token of context, in these; half of it in a prompt */
    double copy;      /* bytes/s of KV to host memory and back */
} guesses[] = {
    [CONFIG_CPU] = {8e9, 1e9, 0.3, 0.3, 1e-4, 2e9},
    [CONFIG_CUDA] = {1.5e12, 10e9, 0.01, 0.003, 2e-6, 20e9},
};

static void tell(struct instance *in, uint32_t model)
{
    struct engine_model *m = &in->models[model];
    struct cost *c = &m->cost;

    c->decode = cost_fit_coefficient(&m->step, 0);
    c->decode_context = cost_fit_coefficient(&m->step, 1);
    c->decode_row = cost_fit_coefficient(&m->step, 2);
    c->prefill = cost_fit_coefficient(&m->prefill, 0);
    c->prefill_token = cost_fit_coefficient(&m->prefill, 1);
    c->prefill_square = cost_fit_coefficient(&m->prefill, 2);
    if (!(c->decode > BASE_LEAST))
        c->decode = BASE_LEAST;
    if (!(c->disk > 0) && tier_has(in, model))
        c->disk =
            (double)m->status.weight_bytes / (in->disk_speed > 0 ? in->disk_speed : DISK_SPEED);
    sched_set_cost(in->policy->sched, in->index, model, c, NULL);
}

/* --- the beginning ---------------------------------------------------------------------------- */

static void begin_fits(struct engine_model *m, const struct cost *c, double step_weight,
                       double prefill_weight)
{
    const double step[COST_TERMS] = {c->decode, c->decode_context, c->decode_row};
    const double prefill[COST_TERMS] = {c->prefill, c->prefill_token, c->prefill_square};

    cost_fit_begin(&m->step, step, least_step, step_weight);
    cost_fit_begin(&m->prefill, prefill, least_prefill, prefill_weight);
    m->cost = *c;
}

static void begin_guess(struct instance *in, uint32_t model)
{
    struct engine_model *m = &in->models[model];
    double bytes = (double)m->status.weight_bytes;
    double step = bytes / guesses[in->config->device].memory + 1e-4;
    const struct cost c = {
        .decode = step,
        .decode_context = guesses[in->config->device].context * step,
        .decode_row = guesses[in->config->device].row * step,
        .prefill = step,
        .prefill_token = guesses[in->config->device].token * step,
        .prefill_square = guesses[in->config->device].context * step / 4,
        .load =
            bytes / (in->load_speed > 0 ? in->load_speed : guesses[in->config->device].link) + 1e-3,
        .kv_token = (double)m->status.kv_token_bytes / guesses[in->config->device].copy,
    };

    begin_fits(m, &c, 0, 0);
}

static double taught_weight(uint64_t samples)
{
    return (double)samples < TAUGHT_WEIGHT ? (double)samples : TAUGHT_WEIGHT;
}

static void begin_taught(struct instance *in, uint32_t model, const struct policy_cost *t)
{
    struct engine_model *m = &in->models[model];

    begin_fits(m, &t->cost, taught_weight(t->samples[COST_STEP]),
               taught_weight(t->samples[COST_PREFILL]));
    m->step.samples = t->samples[COST_STEP];
    m->step.error = t->error[COST_STEP];
    m->prefill.samples = t->samples[COST_PREFILL];
    m->prefill.error = t->error[COST_PREFILL];
    m->loads = t->samples[COST_LOAD];
    m->load_error = t->error[COST_LOAD];
    m->measured_us = clock_monotonic_us();
    m->calibrated = calibrate_is_known(m);
    log_info("instance %s: model %s: costs of before: a step %.3g ms, a prompt's token %.3g ms, "
             "the load %.3g s",
             in->config->name, in->policy->config->models[model].name,
             cost_decode(&t->cost, 1, 0) * 1e3, t->cost.prefill_token * 1e3, t->cost.load);
}

/* What was measured for these weights on this device; NULL. */
static const struct policy_cost *find_taught(const struct instance *in, uint32_t model)
{
    const struct policy *p = in->policy;

    for (uint32_t i = 0; i < p->taught_count; i++) {
        const struct policy_cost *t = &p->taught[i];

        if (t->model == model && t->weight_bytes == in->models[model].status.weight_bytes &&
            strcmp(t->device, in->status.device) == 0)
            return t;
    }
    return NULL;
}

static int is_alike(const struct engine_model *a, const struct engine_model *b)
{
    return a->layout == b->layout && a->status.weight_bytes == b->status.weight_bytes &&
           a->status.kv_token_bytes == b->status.kv_token_bytes;
}

/* A model of the same shape, whose steps have been measured on such a device; NULL. */
static const struct engine_model *find_alike(const struct instance *in, uint32_t model)
{
    const struct policy *p = in->policy;
    const struct engine_model *m = &in->models[model];

    for (uint32_t k = 0; k < p->instance_count; k++) {
        const struct instance *other = &p->instances[k];

        for (uint32_t i = 0; i < p->model_count; i++) {
            const struct engine_model *o = &other->models[i];

            if (o != m && o->calibrated && is_alike(o, m) &&
                strcmp(other->status.device, in->status.device) == 0)
                return o;
        }
    }
    return NULL;
}

static void begin_alike(struct engine_model *m, const struct engine_model *like)
{
    m->cost = like->cost;
    m->step = like->step;
    m->prefill = like->prefill;
    m->loads = like->loads;
    m->load_error = like->load_error;
    m->measured_us = like->measured_us;
    m->calibrated = m->cost_changed = 1;
}

void cost_share(struct policy *p)
{
    for (uint32_t k = 0; k < p->instance_count; k++) {
        for (uint32_t i = 0; i < p->model_count; i++) {
            struct engine_model *m = &p->instances[k].models[i];
            const struct engine_model *like;

            if (m->calibrated || !(m->cost.decode > 0) ||
                (like = find_alike(&p->instances[k], i)) == NULL)
                continue;
            begin_alike(m, like);
            tell(&p->instances[k], i);
        }
    }
}

void cost_begin(struct instance *in, uint32_t model)
{
    const struct engine_model *like = find_alike(in, model);
    const struct policy_cost *t;

    if (in->models[model].cost.decode > 0) { /* an engine before this one has taught it */
        tell(in, model);
        return;
    }
    t = find_taught(in, model);
    if (t != NULL)
        begin_taught(in, model, t);
    else if (like != NULL)
        begin_alike(&in->models[model], like);
    else
        begin_guess(in, model);
    tell(in, model);
}

static int is_sound(const struct policy_cost *c)
{
    const double fields[] = {c->cost.decode,         c->cost.decode_context, c->cost.decode_row,
                             c->cost.prefill,        c->cost.prefill_token,  c->cost.load,
                             c->cost.prefill_square, c->error[COST_STEP],    c->error[COST_PREFILL],
                             c->error[COST_LOAD]};

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!isfinite(fields[i]) || fields[i] < 0 || fields[i] > LOAD_MOST)
            return 0;
    }
    return c->cost.decode > 0 && memchr(c->device, '\0', sizeof c->device) != NULL;
}

void cost_teach(struct policy *p, const struct policy_cost *c)
{
    struct policy_cost *more;

    if (c->model >= p->model_count || !is_sound(c))
        return;
    more = realloc(p->taught, (p->taught_count + 1) * sizeof *more);
    if (more == NULL)
        return; /* it is measured again */
    p->taught = more;
    more[p->taught_count++] = *c;
    for (uint32_t i = 0; i < p->instance_count; i++) { /* an engine may have been quicker */
        struct engine_model *m = &p->instances[i].models[c->model];

        if (m->cost.decode > 0 && m->step.samples == 0 &&
            find_taught(&p->instances[i], c->model) == &more[p->taught_count - 1]) {
            begin_taught(&p->instances[i], c->model, &more[p->taught_count - 1]);
            tell(&p->instances[i], c->model);
        }
    }
}

/* --- measurements ----------------------------------------------------------------------------- */

/* Rows that decode, and the tokens that they look back at. */
static double decoding(const struct event_step *ev, double *context)
{
    double rows = 0;

    *context = 0;
    for (uint32_t i = 0; i < ev->count; i++) {
        if (ev->rows[i].prefilled > 0)
            continue;
        rows++;
        *context += ev->rows[i].position;
    }
    return rows;
}

void cost_step(struct instance *in, uint32_t model, const struct event_step *ev,
               uint64_t prefilling)
{
    struct engine_model *m = &in->models[model];
    double seconds = (double)ev->us / 1e6, context, rows = decoding(ev, &context);

    if (!(m->cost.decode > 0) || ev->loading)
        return;
    if (ev->prefill_tokens == 0) {
        const double terms[COST_TERMS] = {1, context, rows};

        if (ev->count == 0 || rows < ev->batch)
            return; /* output that is computed again: no usual step */
        cost_fit_learn(&m->step, terms, seconds);
    } else {
        double n = ev->prefill_tokens, from = (double)prefilling;
        const double terms[COST_TERMS] = {rows > 0 ? 0 : 1, n, n * n + 2 * from * n};

        if (rows > 0)
            seconds -= cost_decode(&m->cost, rows, context);
        cost_fit_learn(&m->prefill, terms, seconds);
    }
    m->measured_us = clock_monotonic_us();
    m->cost_changed = 1;
    tell(in, model);
}

/* Reading the files into the host tier. */
static void learn_disk(struct instance *in, const struct event_residency *ev)
{
    struct engine_model *m = &in->models[ev->model];
    double seconds = (double)ev->disk_us / 1e6;

    if (!(seconds > 0) || seconds > LOAD_MOST)
        return;
    m->cost.disk = seconds;
    in->disk_speed = (double)m->status.weight_bytes / seconds;
}

void cost_load(struct instance *in, const struct event_residency *ev)
{
    struct engine_model *m = &in->models[ev->model];
    double seconds = (double)ev->us / 1e6, bytes = (double)m->status.weight_bytes, error;

    if (!(m->cost.decode > 0) || !(seconds > 0) || seconds > LOAD_MOST)
        return;
    if (tier_has(in, ev->model)) {
        learn_disk(in, ev);
        if (ev->file_bytes > 0) { /* it came from the files, and not from its copy */
            tell(in, ev->model);
            return;
        }
    }
    error = fabs(seconds - m->cost.load) / seconds;
    m->load_error += (m->loads == 0 ? 1 : LOAD_LEARNED) * (error - m->load_error);
    m->cost.load += (m->loads == 0 ? 1 : LOAD_LEARNED) * (seconds - m->cost.load);
    in->load_speed += (in->load_speed > 0 ? LOAD_LEARNED : 1) * (bytes / seconds - in->load_speed);
    m->loads++;
    m->cost_changed = 1;
    tell(in, ev->model);
}

void cost_switch(struct instance *in, uint32_t model, uint64_t us)
{
    if (us == 0)
        return;
    in->models[model].cost.load = (double)us / 1e6;
    in->models[model].cost_changed = 1;
    tell(in, model);
}

void cost_calibrated(struct instance *in, uint32_t model, const struct cost_point *batches,
                     uint32_t batch_count, const struct cost_point *prompts, uint32_t prompt_count)
{
    struct engine_model *m = &in->models[model];

    cost_fit_points(&m->step, batches, batch_count, CALIBRATION_STEPS_MIN);
    cost_fit_points(&m->prefill, prompts, prompt_count, 1);
    m->measured_us = clock_monotonic_us();
    m->cost_changed = 1;
    tell(in, model);
}

void cost_moved(struct instance *in, uint32_t model, uint64_t bytes, uint64_t us)
{
    struct cost *c = &in->models[model].cost;
    double token = (double)in->models[model].status.kv_token_bytes;

    if (!(c->decode > 0) || bytes == 0)
        return;
    c->kv_token += COPY_LEARNED * ((double)us / 1e6 * token / (double)bytes - c->kv_token);
    tell(in, model);
}

int cost_is_known(const struct instance *in, uint32_t model)
{
    const struct engine_model *m = &in->models[model];

    return m->step.samples >= KNOWN_SAMPLES && clock_monotonic_us() - m->measured_us < KNOWN_US;
}

/* --- out ------------------------------------------------------------------------------------- */

static void emit(struct instance *in, uint32_t model)
{
    struct engine_model *m = &in->models[model];
    struct policy_cost *c = calloc(1, sizeof *c);

    if (c == NULL)
        return; /* the next time */
    m->cost_changed = 0;
    c->mail.kind = POLICY_COST;
    c->model = model;
    memcpy(c->device, in->status.device, sizeof c->device);
    c->weight_bytes = m->status.weight_bytes;
    c->cost = m->cost;
    c->samples[COST_STEP] = m->step.samples;
    c->samples[COST_PREFILL] = m->prefill.samples;
    c->samples[COST_LOAD] = m->loads;
    c->error[COST_STEP] = m->step.error;
    c->error[COST_PREFILL] = m->prefill.error;
    c->error[COST_LOAD] = m->load_error;
    mailbox_post(in->policy->sink, &c->mail);
}

void cost_flush(struct policy *p)
{
    for (uint32_t i = 0; i < p->instance_count; i++) {
        for (uint32_t m = 0; m < p->model_count; m++) {
            if (p->instances[i].models[m].cost_changed)
                emit(&p->instances[i], m);
        }
    }
}

void cost_on_timer(struct policy *p)
{
    const struct timeval again = {.tv_sec = COST_WRITE_US / 1000000};

    cost_flush(p);
    for (uint32_t i = 0; i < p->instance_count; i++)
        calibrate_idle(&p->instances[i]);
    event_add(p->cost_timer, &again);
}
