/*
 * slack.c - deadlines of undelivered tokens
 *
 * Two decisions in place of one round.  What to run: among the models that are in memory, the batch
 * whose next undelivered token is due first; it runs until it is ahead of the others.  What to
 * load, behind the running turn: the most urgent model that is not in memory, in place of those
 * that can spare theirs longest.  (A cyclic order over an LRU evicts exactly what is needed next.)
 *
 * Where an instance cannot load behind a turn, or has no room for a second model, a switch costs
 * time: then a model in memory goes on until another one's deadline, less the switch, is near, and
 * for several times the switch at least.
 *
 * A batch that has waited starve_us for a turn, or for memory, goes before all deadlines.
 */
#include "sched/state.h"

#define TURN_MIN   50000   /* us: below it the changes cost too much */
#define AHEAD      1000000 /* us: how far ahead of the others a batch runs */
#define LOAD_GAIN  500000  /* us: a model is evicted only for one that is due so much earlier, */
#define LOAD_TWICE 2       /* and by so many loads: it has to come back */
#define ROOM       0.04    /* of the memory stays free for KV when models are loaded */
#define CHUNK_MIN  16u
#define CHUNK_FREE 256u /* so many tokens hide behind the weights' reading, where that is long */
#define CHUNK_MAX  8192u
#define INLINE_MIN 4       /* a turn behind a switch takes as many times the switch at least */
#define FAIR_NEAR  2000000 /* us: deadlines this near are bound to the tenants' shares */

/* --- how urgent a batch is -------------------------------------------------------------------- */

struct urgency {
    int starving;
    int64_t since; /* it waits since */
    int poor;      /* near its deadline, and of a tenant that has had less than its share */
    int64_t due;   /* less the work until then */
};

/* The work between now and the next token of a batch, in us. */
static int64_t work_us(const struct sched *s, struct sched_slot *slot)
{
    const struct cost *c = slot_cost(s, slot);
    double seconds = slot_step(s, slot);

    if (slot->fresh > 0)
        seconds += cost_prefill(c, 0, slot->behind / slot->fresh);
    return (int64_t)(seconds * 1e6);
}

/* Does one of its tenants lag behind the others by less than the allowed gap? */
static int is_poor(const struct sched *s, const struct sched_slot *slot)
{
    double limit;

    if (s->tenants_busy < 2)
        return 0;
    limit = tenants_least(s) + (double)s->params.fair_us / 1e6;
    for (const struct sched_entry *e = slot->first; e != NULL; e = e->next) {
        if (s->tenants[e->tenant].time <= limit)
            return 1;
    }
    return 0;
}

static struct urgency urgency(const struct sched *s, int64_t now, struct sched_slot *slot)
{
    struct urgency u = {.due = 0};

    slot_scan(slot);
    u.due = slot->due - work_us(s, slot);
    u.since = slot->since;
    u.starving = now - slot->since >= s->params.starve_us;
    u.poor = u.due < now + FAIR_NEAR && is_poor(s, slot);
    return u;
}

static int before(const struct urgency *a, const struct urgency *b)
{
    if (a->starving != b->starving)
        return a->starving;
    if (a->starving && a->since != b->since)
        return a->since < b->since;
    if (a->poor != b->poor)
        return a->poor;
    return a->due < b->due;
}

/* --- what to run ------------------------------------------------------------------------------ */

struct choice {
    struct sched_slot *slot;
    struct urgency urgency;
    int64_t other; /* the earliest deadline of another one that could run */
};

static void consider(struct choice *c, struct sched_slot *slot, struct urgency u)
{
    if (c->slot == NULL || before(&u, &c->urgency)) {
        if (c->slot != NULL && c->urgency.due < c->other)
            c->other = c->urgency.due;
        c->slot = slot;
        c->urgency = u;
    } else if (u.due < c->other) {
        c->other = u.due;
    }
}

/* In memory; where loads go with turns, the last decision's model is, or will be. */
static int is_here(const struct sched_instance *in, const struct sched_slot *slot)
{
    return slot->resident == SCHED_RESIDENT || (!in->loads_behind && slot->model == in->turn_model);
}

/* Among those that can run without a load. */
static struct choice choose_resident(const struct sched *s, int64_t now,
                                     const struct sched_instance *in)
{
    struct choice c = {.other = SCHED_FAR};

    for (uint32_t i = 0; i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];

        struct urgency u;

        if (slot->running == 0 || !is_here(in, slot))
            continue;
        u = urgency(s, now, slot);
        u.starving |= in->unused_next && slot->unused;
        consider(&c, slot, u);
    }
    return c;
}

/* Where a load stops the device: the most urgent of the others, with its load before it. */
static struct choice choose_absent(const struct sched *s, int64_t now,
                                   const struct sched_instance *in)
{
    struct choice c = {.other = SCHED_FAR};

    for (uint32_t i = 0; i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];
        struct urgency u;

        if (slot->running == 0 || is_here(in, slot))
            continue;
        u = urgency(s, now, slot);
        u.due -= slot_load_us(s, slot);
        consider(&c, slot, u);
    }
    return c;
}

/* Does a switch pay?  If nothing else can run, if it is high time, or if the rest is well ahead. */
static int switch_pays(int64_t now, const struct choice *here, const struct choice *away)
{
    if (here->slot == NULL || away->urgency.starving)
        return away->slot != NULL;
    if (away->slot == NULL || here->urgency.starving)
        return 0;
    if (away->urgency.poor != here->urgency.poor)
        return away->urgency.poor;
    return away->urgency.due + AHEAD < here->urgency.due &&
           (away->urgency.due < now + AHEAD || here->urgency.due > now + 4 * AHEAD);
}

/* How long until it is ahead of the others: each second of steps wins TBT / step - 1. */
static int64_t quota(const struct sched *s, const struct choice *c)
{
    double share = slot_share(s, c->slot);
    int64_t most = s->params.turn_us / s->params.held + 1, lead;

    if (c->other >= SCHED_FAR || share >= 1)
        return most;
    lead = c->other - c->urgency.due + AHEAD;
    lead = (int64_t)((double)lead * share / (1 - share));
    if (lead > most)
        return most;
    return lead > TURN_MIN ? lead : TURN_MIN;
}

/* As many prompt tokens beside the batch as its nearest deadline leaves time for. */
static uint32_t chunk(const struct sched *s, int64_t now, struct sched_slot *slot)
{
    const struct cost *c = slot_cost(s, slot);
    int64_t due = SCHED_FAR;
    double least = CHUNK_FREE, room;

    for (const struct sched_entry *e = slot->first; e != NULL; e = e->next) {
        if (e->produced > 0 && entry_due(e) > now && entry_due(e) < due)
            due = entry_due(e);
    }
    if (due >= SCHED_FAR)
        return CHUNK_MAX;
    if (c->prefill_token * least > c->decode) /* a CPU: no more than doubles the step */
        least = c->decode / c->prefill_token;
    if (!(least > CHUNK_MIN))
        least = CHUNK_MIN;
    room = ((double)(due - now) / 1e6 - slot_step(s, slot)) / 2 / c->prefill_token;
    if (!(room > least))
        return (uint32_t)least;
    return room < CHUNK_MAX ? (uint32_t)room : CHUNK_MAX;
}

static int slack_next(struct sched *s, int64_t now, uint32_t instance, struct sched_turn *turn)
{
    const struct sched_instance *in = &s->instances[instance];
    struct choice c = choose_resident(s, now, in);
    int64_t load_us = 0;

    if (!in->loads_behind || in->blocked) {
        struct choice away = choose_absent(s, now, in);

        if (switch_pays(now, &c, &away)) {
            c = away;
            load_us = slot_load_us(s, c.slot);
        }
    }
    if (c.slot == NULL)
        return 0;
    turn->model = c.slot->model;
    turn->quota_us = quota(s, &c);
    if (turn->quota_us < INLINE_MIN * load_us)
        turn->quota_us = INLINE_MIN * load_us;
    turn->chunk = chunk(s, now, c.slot);
    return 1;
}

/* --- what to load ----------------------------------------------------------------------------- */

/*
 * May a batch lose its place in memory to one of urgency u?  Not while it runs, nor to one of
 * lesser right; and who was just loaded, in vain if it went now, yields to deadlines alone.
 */
static int may_go(const struct sched_instance *in, const struct sched_slot *slot,
                  const struct urgency *own, const struct urgency *u)
{
    if (slot->model == in->turn_model)
        return 0;
    if (own->starving > u->starving || (own->poor > u->poor && !u->starving))
        return 0;
    return !(slot->unused && (u->starving || u->poor));
}

static int is_chosen(const struct sched_load *load, uint32_t model)
{
    for (uint32_t k = 0; k < load->evict_count; k++) {
        if (load->evict[k] == model)
            return 1;
    }
    return 0;
}

/* The model in memory that can spare its place longest: idle ones first, the least recently run. */
static struct sched_slot *victim(const struct sched *s, int64_t now,
                                 const struct sched_instance *in, const struct sched_load *load,
                                 const struct urgency *u)
{
    struct sched_slot *best = NULL;
    int64_t best_due = 0;

    for (uint32_t i = 0; i < in->slot_count; i++) {
        struct sched_slot *slot = in->slots[i];
        struct urgency own = {.due = SCHED_FAR};

        if (slot->resident != SCHED_RESIDENT || slot->pinned || is_chosen(load, slot->model))
            continue;
        if (slot->running > 0) {
            own = urgency(s, now, slot);
            if (!may_go(in, slot, &own, u))
                continue;
        }
        if (best == NULL || own.due > best_due ||
            (own.due == best_due && slot->served < best->served)) {
            best = slot;
            best_due = own.due;
        }
    }
    return best;
}

static int some_unused(const struct sched_instance *in)
{
    int n = 0;

    for (uint32_t i = 0; i < in->slot_count; i++)
        n += in->slots[i]->unused && in->slots[i]->running > 0;
    return n > 0;
}

static struct sched_slot *most_urgent_absent(const struct sched *s, int64_t now,
                                             const struct sched_instance *in, struct urgency *u)
{
    struct choice c = choose_absent(s, now, in);

    if (c.slot != NULL)
        *u = c.urgency;
    return c.slot != NULL && c.slot->resident == SCHED_ABSENT ? c.slot : NULL;
}

static int slack_load(struct sched *s, int64_t now, uint32_t instance, struct sched_load *load)
{
    struct sched_instance *in = &s->instances[instance];
    const struct sched_slot *running = find_slot(s, instance, in->turn_model);
    struct urgency u = {.due = 0};
    struct sched_slot *slot = most_urgent_absent(s, now, in, &u);
    int64_t load_us, room = sched_free_bytes(s, instance) + in->kv;
    int64_t keep = in->kv + (int64_t)(ROOM * (double)in->memory_bytes);

    in->blocked = in->unused_next = 0;
    if (slot == NULL)
        return 0;
    if (keep > (int64_t)in->memory_bytes / 4)
        keep = (int64_t)in->memory_bytes / 4; /* KV beyond that gives way to weights, */
    if (running != NULL && keep < (int64_t)(running->kv_tokens * running->kv_token_bytes))
        keep = (int64_t)(running->kv_tokens * running->kv_token_bytes); /* but not what runs */
    load->model = slot->model;
    load_us = slot_load_us(s, slot);
    while (room - keep < (int64_t)slot->weight_bytes) {
        struct sched_slot *out = NULL;

        if (load->evict_count < SCHED_EVICT_MAX)
            out = victim(s, now, in, load, &u);
        if (out == NULL) {
            in->blocked = !some_unused(in); /* else it has its turn first */
            in->unused_next = u.starving && !in->blocked;
            return 0;
        }
        if (out->running > 0 && !u.starving && !u.poor &&
            urgency(s, now, out).due < u.due + LOAD_GAIN + LOAD_TWICE * load_us)
            return 0;
        load->evict[load->evict_count++] = out->model;
        room += (int64_t)out->weight_bytes;
    }
    return 1;
}

/* --- where to go ------------------------------------------------------------------------------ */

#define BACKLOG_MAX 3.0 /* s of prompts: a batch with more before it takes no others */

/* The part of its time that an instance's batches need. */
static double load_of(struct sched *s, struct sched_instance *in)
{
    if (!in->share_stale)
        return in->share;
    in->share_stale = 0;
    in->share = 0;
    for (uint32_t i = 0; i < in->slot_count; i++)
        in->share += slot_share(s, in->slots[i]);
    return in->share;
}

/* What a model's place there is worth, in parts of an instance's time: no load, or none from disk.
 */
static double place_gain(const struct sched_slot *slot)
{
    if (slot->resident != SCHED_ABSENT)
        return 0.3;
    return slot->hosted ? 0.1 : 0;
}

static int can_take(const struct sched *s, const struct sched_slot *slot, uint32_t instance,
                    uint32_t model, enum sched_role role)
{
    return slot_may_run(s, slot, instance, model) && role_fits(s->instances[instance].role, role);
}

/* Seconds of prompts that wait for their turn. */
static double backlog(const struct sched *s, const struct sched_slot *slot)
{
    const struct cost *c = slot_cost(s, slot);

    if (slot->prompts == 0)
        return 0;
    return slot->prompts * cost_prefill(c, 0, (double)slot->prompt_tokens / slot->prompts);
}

struct place {
    uint32_t instance;
    double load;   /* less gain; -1: its batch is there, and one more row costs nearly nothing */
    double late;   /* where all its batches have too much before them: the least, s; else 0 */
    double tokens; /* of its prompts there, in the mean */
};

static void best_place(struct place *best, uint32_t instance, double load)
{
    if (best->instance != SCHED_NONE && load >= best->load &&
        (load > best->load || instance > best->instance))
        return;
    best->instance = instance;
    best->load = load;
}

/* Among the instances that have its batch. */
static struct place batch_place(struct sched *s, uint32_t model, enum sched_role role)
{
    const struct sched_slot *slot = model < s->model_count ? s->models[model].slots : NULL;
    struct place best = {.instance = SCHED_NONE};

    for (; slot != NULL; slot = slot->sibling) {
        double late;

        if (slot->running + slot->waiting == 0 || !can_take(s, slot, slot->instance, model, role))
            continue;
        late = backlog(s, slot);
        if (late <= BACKLOG_MAX) {
            best_place(&best, slot->instance, -1);
            continue;
        }
        best_place(&best, slot->instance, load_of(s, &s->instances[slot->instance]) + late);
        if (!(best.late > 0) || late < best.late) {
            best.late = late;
            best.tokens = (double)slot->prompt_tokens / slot->prompts;
        }
    }
    return best;
}

/* May it begin a batch there?  Beside others only if it has its token before their backlog ends. */
static int may_begin(const struct sched *s, const struct sched_slot *slot, uint32_t instance,
                     uint32_t model, const struct place *p)
{
    const struct sched_slot none = {.instance = instance, .model = model};
    double seconds;

    if (!(p->late > 0))
        return 1;
    if (slot == NULL)
        slot = &none;
    if (slot->running + slot->waiting > 0)
        return 0; /* it has one */
    seconds = cost_prefill(slot_cost(s, slot), 0, p->tokens);
    if (slot->resident == SCHED_ABSENT)
        seconds += (double)slot_load_us(s, slot) / 1e6;
    return seconds < p->late;
}

/* Those that have its weights, or a copy of them. */
static void copy_place(struct sched *s, uint32_t model, enum sched_role role, struct place *best)
{
    const struct sched_slot *slot = model < s->model_count ? s->models[model].slots : NULL;

    for (; slot != NULL; slot = slot->sibling) {
        double gain = place_gain(slot);

        if (gain > 0 && can_take(s, slot, slot->instance, model, role) &&
            may_begin(s, slot, slot->instance, model, best))
            best_place(best, slot->instance, load_of(s, &s->instances[slot->instance]) - gain);
    }
}

/* With its batch, or else where load less gain is least.  Of the many instances that know nothing
 * of the model, those alone that are better than all before are looked up. */
static uint32_t slack_pick(struct sched *s, uint32_t model, enum sched_role role)
{
    struct place best = batch_place(s, model, role);

    if (best.instance != SCHED_NONE && best.load <= -1)
        return best.instance;
    copy_place(s, model, role, &best);
    for (uint32_t i = 0; i < s->instance_count; i++) {
        const struct sched_slot *slot;
        double load = load_of(s, &s->instances[i]);

        if (best.instance != SCHED_NONE &&
            (load > best.load || (load >= best.load && i > best.instance)))
            continue;
        slot = find_slot(s, i, model);
        if (can_take(s, slot, i, model, role) && may_begin(s, slot, i, model, &best))
            best_place(&best, i, load);
    }
    return best.instance;
}

const struct sched_policy sched_slack = {.name = "slack",
                                         .traits = {.slo = 1},
                                         .pick = slack_pick,
                                         .next = slack_next,
                                         .load = slack_load};
