/*
 * policy_calibrate.c - what a model's steps cost, measured off traffic
 *
 * Sequences of our own, which no client sees, on an instance that has nothing else to do: prompts
 * and batches of several sizes, round after round, and at last the weights' way from host memory.
 * The engine runs them like any others, so what is measured is what requests will have.  It takes
 * `limits.calibrate_us` of steps and one scene at most, and yields to the first request.
 */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"

#define SEQ_OURS      (UINT64_C(1) << 63) /* the front's numbers are below */
#define ROUNDS        3u
#define DECODE_PART   12  /* of the time for a scene's steps that only decode, */
#define LONG_PART     8   /* for those of the long one, */
#define SCENE_PART    3   /* and for all of a scene, at most */
#define TRIES         3u  /* that requests may cut short */
#define KNOWN_STEPS   16u /* of an earlier life that need no more, */
#define KNOWN_PROMPTS 3u  /* and prompts */
#define OUTLIER       2   /* medians; such steps were disturbed */

static const struct scene {
    uint32_t rows, prompt;
    int lasts; /* as one request's answer does: caches come to hold what it needs */
} scenes[CALIBRATION_SCENES] = {{1, 16, 0},  {1, 64, 1},  {16, 16, 0},  {1, 256, 0}, {4, 128, 0},
                                {64, 64, 0}, {8, 512, 0}, {1, 1024, 0}, {4, 16, 0},  {32, 32, 0}};

/* --- sequences -------------------------------------------------------------------------------- */

static void open_one(struct instance *in, uint64_t seq, uint32_t prompt)
{
    struct calibration *c = &in->calibration;
    const struct order_seq open = {
        .kind = ORDER_SEQ_OPEN,
        .model = c->model,
        .seq = seq,
        .tokens = prompt,
        .max_tokens = c->output,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = SAMPLING_IGNORE_EOS}};
    union {
        struct order_tokens order;
        char bytes[sizeof(struct order_tokens) + CALIBRATION_PROMPT_MAX * sizeof(uint32_t)];
    } msg = {.order = {.kind = ORDER_SEQ_TOKENS, .count = prompt, .seq = seq}};
    uint32_t tokens[CALIBRATION_PROMPT_MAX];
    uint64_t x = seq;

    for (uint32_t i = 0; i < prompt; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        tokens[i] = (uint32_t)(x >> 33) % in->models[c->model].vocabulary;
    }
    memcpy(msg.bytes + sizeof msg.order, tokens, prompt * sizeof tokens[0]);
    engine_link_send(in->link, &open, sizeof open);
    engine_link_send(in->link, &msg, sizeof msg.order + prompt * sizeof tokens[0]);
}

static void close_all(struct instance *in)
{
    struct calibration *c = &in->calibration;

    for (uint32_t i = 0; i < c->rows; i++) {
        const struct order_ref order = {
            .kind = ORDER_SEQ_CLOSE, .model = c->model, .seq = c->first + i};

        engine_link_send(in->link, &order, sizeof order);
    }
    c->rows = 0;
}

/* --- scenes ----------------------------------------------------------------------------------- */

static double scene_seconds(const struct cost *c, const struct scene *s, uint32_t steps)
{
    return s->rows * cost_prefill(c, 0, s->prompt) +
           steps * cost_decode(c, s->rows, s->rows * (double)s->prompt);
}

/* As many steps as a turn has: the first ones behind another batch are slower. */
static uint32_t scene_steps(const struct instance *in, const struct scene *s)
{
    const struct calibration *c = &in->calibration;
    double step = cost_decode(&in->models[c->model].cost, s->rows, s->rows * (double)s->prompt);
    double part = s->lasts ? LONG_PART : DECODE_PART;
    double n = (double)in->policy->limits.calibrate_us / 1e6 / part / step;

    if (c->warm_up || !(n > CALIBRATION_STEPS_MIN))
        return CALIBRATION_STEPS_MIN;
    return n < CALIBRATION_STEPS ? (uint32_t)n : CALIBRATION_STEPS;
}

/* Room for its KV beside all weights that are there: nothing is evicted for it. */
static int has_room(const struct instance *in, const struct scene *s)
{
    const struct engine_model *m = &in->models[in->calibration.model];
    uint64_t used = 0;
    uint64_t tokens = (uint64_t)s->rows * (s->prompt + CALIBRATION_STEPS + m->page_tokens);

    for (uint32_t i = 0; i < in->policy->model_count; i++)
        used += in->models[i].status.resident ? in->models[i].status.weight_bytes : 0;
    return used < in->status.memory_bytes &&
           tokens * m->status.kv_token_bytes <= (in->status.memory_bytes - used) / 2;
}

static int is_feasible(const struct instance *in, const struct scene *s)
{
    const struct calibration *c = &in->calibration;
    const struct engine_model *m = &in->models[c->model];
    double us = 1e6 * scene_seconds(&m->cost, s, scene_steps(in, s));

    return s->rows <= in->config->max_batch &&
           s->prompt + CALIBRATION_STEPS + 1 < m->status.max_context && has_room(in, s) &&
           c->left_us > 0 &&
           (s == scenes || (us * SCENE_PART <= (double)in->policy->limits.calibrate_us &&
                            us <= (double)c->left_us));
}

static void begin_scene(struct instance *in)
{
    struct calibration *c = &in->calibration;
    const struct scene *s = &scenes[c->scene];
    const struct order_turn turn = {.kind = ORDER_TURN,
                                    .model = c->model,
                                    .turn = ++in->policy->turns,
                                    .quota_us = (uint64_t)c->left_us,
                                    .phases = ORDER_PHASES};

    c->first = SEQ_OURS | turn.turn << 16;
    c->rows = s->rows;
    c->output = scene_steps(in, s) + 1;
    c->turn = turn.turn;
    c->prompt = (struct cost_point){.seconds = 0};
    c->prompt_seconds = 0;
    c->step_count = 0;
    for (uint32_t i = 0; i < s->rows; i++)
        open_one(in, c->first + i, s->prompt);
    in->heard_us = clock_monotonic_us();
    tier_need(in, c->model);
    engine_link_send(in->link, &turn, sizeof turn);
    turn_hold(in, turn.turn, turn.model);
}

/* --- measurements ----------------------------------------------------------------------------- */

static void add_point(struct cost_point *all, uint32_t *count, const struct cost_point *point)
{
    if (*count < CALIBRATION_POINTS)
        all[(*count)++] = *point;
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const struct cost_point *)a)->seconds, y = ((const struct cost_point *)b)->seconds;

    return x < y ? -1 : x > y;
}

/* The mean of the scene's steps, without those that something else has disturbed. */
static struct cost_point mean_step(struct calibration *c)
{
    struct cost_point sum = {.seconds = 0};
    uint32_t n = 0;

    qsort(c->steps, c->step_count, sizeof c->steps[0], by_seconds);
    for (;
         n < c->step_count && c->steps[n].seconds <= OUTLIER * c->steps[c->step_count / 2].seconds;
         n++) {
        for (int i = 0; i < COST_TERMS; i++)
            sum.terms[i] += c->steps[n].terms[i];
        sum.seconds += c->steps[n].seconds;
    }
    for (int i = 0; i < COST_TERMS; i++)
        sum.terms[i] /= n;
    sum.seconds /= n;
    return sum;
}

/* The scene's prompt, if it was one alone, and its steps that only decoded. */
static void take_scene(struct calibration *c)
{
    if (c->warm_up)
        return;
    if (c->prompt.seconds > 0)
        add_point(c->prompts, &c->prompt_count, &c->prompt);
    if (c->step_count > 0) {
        struct cost_point p = mean_step(c);

        add_point(c->batches, &c->batch_count, &p);
    }
}

/* A prompt's steps count together. */
static void take_prompt(struct calibration *c, const struct event_step *ev)
{
    double n = ev->prefill_tokens, from = c->prompt.terms[1];

    if (scenes[c->scene].rows != 1)
        return;
    c->prompt.terms[0] += 1;
    c->prompt.terms[1] += n;
    c->prompt.terms[2] += n * n + 2 * from * n;
    c->prompt_seconds += (double)ev->us / 1e6;
    if (ev->count == 1)
        c->prompt.seconds = c->prompt_seconds;
}

static void take_batch(struct calibration *c, const struct event_step *ev)
{
    struct cost_point p = {.terms = {1, 0, ev->count}, .seconds = (double)ev->us / 1e6};

    if (ev->count < scenes[c->scene].rows || c->step_count == CALIBRATION_STEPS || ev->us == 0)
        return;
    for (uint32_t i = 0; i < ev->count; i++)
        p.terms[1] += ev->rows[i].position;
    c->steps[c->step_count++] = p;
}

int calibrate_step(struct instance *in, const struct event_step *ev)
{
    struct calibration *c = &in->calibration;

    /* A request of the model runs in our turn, too, until the engine has closed what is ours. */
    if (c->model == UINT32_MAX || ev->turn != c->turn || c->yields)
        return 0;
    c->left_us -= (int64_t)ev->us;
    in->status.calibration_us += (int64_t)ev->us;
    if (ev->prefill_tokens > 0)
        take_prompt(c, ev);
    else
        take_batch(c, ev);
    return 1;
}

/* --- the way through -------------------------------------------------------------------------- */

static void learn(struct instance *in)
{
    const struct calibration *c = &in->calibration;

    if (c->prompt_count > 0 && c->batch_count > 0)
        cost_calibrated(in, c->model, c->batches, c->batch_count, c->prompts, c->prompt_count);
}

static void end(struct instance *in, int done)
{
    struct calibration *c = &in->calibration;
    struct engine_model *m = &in->models[c->model];
    uint32_t model = c->model;

    learn(in);
    m->calibrated = done || ++m->calibration_tries == TRIES;
    if (done)
        cost_share(in->policy);
    in->status.calibrations += done != 0;
    log_info("instance %s: model %s: costs measured%s: a step %.3g ms, a prompt's token %.3g ms, "
             "the load %.3g s",
             in->config->name, in->policy->config->models[model].name,
             done ? "" : " in part, a request came", cost_decode(&m->cost, 1, 0) * 1e3,
             m->cost.prefill_token * 1e3, m->cost.load);
    c->model = UINT32_MAX;
    in->policy->changed = 1;
}

/* What a switch takes: out of memory, and back from the host.  The first load is no measure of it:
 * memory is new, and files may have to come from the disk. */
static int reload(struct instance *in)
{
    struct calibration *c = &in->calibration;
    const struct engine_model *m = &in->models[c->model];
    struct order_ref order = {.kind = ORDER_UNLOAD, .model = c->model};

    if (in->policy->config->models[c->model].pin == PIN_GPU || !m->status.resident ||
        m->cost.load * 1e6 > (double)in->policy->limits.calibrate_us)
        return 0;
    tier_need(in, c->model);
    engine_link_send(in->link, &order, sizeof order);
    order.kind = ORDER_LOAD;
    engine_link_send(in->link, &order, sizeof order);
    c->reloading = 1;
    in->heard_us = clock_monotonic_us();
    return 1;
}

static void next_scene(struct instance *in)
{
    struct calibration *c = &in->calibration;

    for (; c->round < ROUNDS; c->round++, c->scene = 0) {
        for (; c->scene < CALIBRATION_SCENES; c->scene++) {
            if (is_feasible(in, &scenes[c->scene])) {
                begin_scene(in);
                return;
            }
        }
    }
    if (!reload(in))
        end(in, 1);
}

int calibrate_turn_ended(struct instance *in, const struct event_turn_end *ev)
{
    struct calibration *c = &in->calibration;

    if (c->model == UINT32_MAX || ev->turn != c->turn)
        return 0;
    take_scene(c);
    close_all(in); /* what the quota, or a full memory, has left */
    c->turn = 0;
    if (c->yields || ev->reason == TURN_FAULT) {
        end(in, 0);
        return 1;
    }
    learn(in); /* which says what the next scenes will take */
    c->scene += c->warm_up ? 0 : 1;
    c->warm_up = 0;
    next_scene(in);
    return 1;
}

void calibrate_residency(struct instance *in, const struct event_residency *ev)
{
    struct calibration *c = &in->calibration;

    if (c->model != ev->model || !c->reloading || (!ev->resident && ev->bytes > 0))
        return;
    if (ev->resident)
        cost_switch(in, ev->model, ev->us);
    end(in, ev->resident && !c->yields);
}

void calibrate_begin(struct instance *in, uint32_t model)
{
    struct calibration *c = &in->calibration;

    *c = (struct calibration){
        .model = model, .warm_up = 1, .left_us = in->policy->limits.calibrate_us};
    in->policy->changed = 1;
    next_scene(in);
}

int calibrate_wanted(const struct instance *in, uint32_t model)
{
    const struct engine_model *m = &in->models[model];

    return in->policy->limits.calibrate_us > 0 && engine_can_run(in, model) && !m->calibrated &&
           m->vocabulary > 0 && !in->drained;
}

int calibrate_may(const struct instance *in)
{
    return in->state == INSTANCE_READY && in->calibration.model == UINT32_MAX &&
           in->turn_count == 0 && in->open == 0 && in->held == 0 && in->loading == UINT32_MAX;
}

void calibrate_yield(struct instance *in)
{
    struct calibration *c = &in->calibration;

    if (c->model == UINT32_MAX || c->yields)
        return;
    c->yields = 1;
    close_all(in);
}

void calibrate_idle(struct instance *in)
{
    if (!calibrate_may(in) || clock_monotonic_us() - in->heard_us < CALIBRATE_IDLE_US)
        return;
    for (uint32_t m = 0; m < in->policy->model_count; m++) {
        if (in->models[m].status.resident && calibrate_wanted(in, m)) {
            calibrate_begin(in, m);
            return;
        }
    }
}

int calibrate_is_known(const struct engine_model *m)
{
    return m->step.samples >= KNOWN_STEPS && m->prefill.samples >= KNOWN_PROMPTS;
}
