/*
 * policy_engine.c - life of an engine: start, models, death, back-off
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "daemon/policy_state.h"
#include "model/source.h"

_Static_assert(SOURCE_FILES_MAX == ORDER_FILES_MAX, "all of a model's files go with one order");

#define REAP_US    10000
#define WATCHES_IN 4 /* looks at an engine in limits.silence_us */

static void arm(struct instance *in, int64_t us)
{
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};

    event_add(in->timer, &tv);
}

static void set_instance_state(struct instance *in, enum instance_state state)
{
    in->state = state;
    in->policy->changed = 1;
}

int engine_failed(const struct instance *in)
{
    return in->failed_starts >= in->policy->limits.starts_max;
}

int engine_is_down(const struct instance *in)
{
    return in->state == INSTANCE_DOWN;
}

int engine_can_run(const struct instance *in, uint32_t model)
{
    return in->state == INSTANCE_READY && in->models[model].status.known &&
           in->models[model].status.ok;
}

/* --- start ------------------------------------------------------------------------------------ */

/* Wait before the next start; requests that have nowhere else to go learn of a failing one. */
static void back_off(struct instance *in)
{
    int64_t us = supervisor_delay(&in->process, &in->policy->limits.restart, clock_monotonic_us());

    set_instance_state(in, INSTANCE_DOWN);
    log_warn("instance %s: engine restarts in %.1f s", in->config->name, (double)us / 1e6);
    arm(in, us);
}

static void start_failed(struct instance *in, const char *text)
{
    log_error("instance %s: %s", in->config->name, text);
    snprintf(in->failure, sizeof in->failure, "%s", text);
    in->failed_starts++;
    in->policy->replace = 1;
    back_off(in);
}

static void send_hello(struct instance *in)
{
    struct order_hello hello = {
        .kind = ORDER_HELLO,
        .version = ORDER_VERSION,
        .memory_bytes = in->config->memory_bytes,
        .threads = in->config->threads,
        .max_batch = in->config->max_batch,
        .device = in->config->device == CONFIG_CUDA ? ORDER_DEVICE_CUDA : ORDER_DEVICE_CPU,
        .gpu = in->config->gpu,
        .swap_bytes = swap_share(in),
        .precision = in->config->precision,
        .ranks = in->config->ranks,
        .flags = in->config->deterministic ? HELLO_DETERMINISTIC : 0,
    };

    snprintf(hello.instance, sizeof hello.instance, "%s", in->config->name);
    engine_link_send(in->link, &hello, sizeof hello);
}

void engine_start(struct instance *in)
{
    struct policy *p = in->policy;
    struct error err;
    int fd;

    in->complete = 0;
    in->process.started_us = clock_monotonic_us();
    if (supervisor_start(&in->process, p->config->engine, in->process.started_us, &fd, &err) != 0) {
        start_failed(in, err.text);
        return;
    }
    in->link = engine_link_create(p->base, fd, &engine_calls, in, &err);
    if (in->link == NULL) {
        close(fd); /* which ends the engine */
        engine_lost(in, err.text);
        return;
    }
    log_info("instance %s: engine started, pid %d", in->config->name, (int)in->process.pid);
    in->status.pid = in->process.pid;
    in->heard_us = in->process.started_us;
    in->deadline_us = in->process.started_us + p->limits.start_us;
    set_instance_state(in, INSTANCE_STARTING);
    send_hello(in);
    arm(in, p->limits.start_us);
}

/* --- models ----------------------------------------------------------------------------------- */

/* All files are read: from here on a death is no failed start. */
static void check_complete(struct instance *in)
{
    for (uint32_t m = 0; m < in->policy->model_count; m++) {
        if (!in->models[m].status.known)
            return;
    }
    in->complete = 1;
    in->failed_starts = 0;
    in->failure[0] = '\0';
}

static void refuse_model(struct instance *in, uint32_t model, enum status status, const char *text)
{
    struct engine_model *m = &in->models[model];

    m->status.known = 1;
    m->status.ok = 0;
    m->refusal = status;
    snprintf(m->status.text, sizeof m->status.text, "%s", text);
    sched_drop_model(in->policy->sched, in->index, model);
    in->policy->replace = 1;
    in->policy->changed = 1;
    log_warn("instance %s: model %s cannot run: %s", in->config->name,
             in->policy->config->models[model].name, text);
}

/* The engine opens no path: it gets the files' descriptors, those that it reads. */
static void send_model(struct instance *in, uint32_t model)
{
    const struct config_model *config = &in->policy->config->models[model];
    struct order_model order = {.kind = ORDER_MODEL,
                                .model = model,
                                .max_context = config->max_context,
                                .flags = config->pin == PIN_GPU ? MODEL_PINNED : 0};
    char text[ORDER_TEXT_MAX];
    int fds[SOURCE_FILES_MAX];
    struct source_files files;
    struct error err;

    if (source_files_open(config->path, &files, &err) != 0) {
        snprintf(text, sizeof text, "Path=: %.*s", (int)sizeof text - 16, err.text);
        refuse_model(in, model, STATUS_UNAVAILABLE, text);
        return;
    }
    source_files_for_engine(&files);
    tier_forget_files(in, model);
    for (; order.files < files.count; order.files++) {
        enum source_kind kind = files.files[order.files].kind;

        if (kind == SOURCE_GGUF || kind == SOURCE_WEIGHTS)
            tier_note_file(in, model, files.files[order.files].fd);
        order.kinds[order.files] = (uint8_t)files.files[order.files].kind;
        fds[order.files] = files.files[order.files].fd;
    }
    snprintf(order.name, sizeof order.name, "%s", config->name);
    engine_link_send_files(in->link, &order, sizeof order, fds, order.files);
}

void engine_ready(struct instance *in, const struct event_ready *ev)
{
    if (in->state != INSTANCE_STARTING) {
        engine_link_break(in->link, "it was ready twice");
        return;
    }
    if (ev->version != ORDER_VERSION) {
        engine_link_break(in->link, "it speaks another version of the engine protocol; install "
                                    "modelpoold and modelpool-engine of one release");
        return;
    }
    snprintf(in->status.device, sizeof in->status.device, "%s", ev->device);
    in->status.memory_bytes = ev->memory_bytes;
    set_instance_state(in, INSTANCE_READY);
    log_info("instance %s: engine ready: %s", in->config->name, in->status.device);
    in->loads_behind = ev->loads_behind != 0 && in->policy->tier != NULL;
    sched_set_role(in->policy->sched, in->index, SCHED_MIXED, in->loads_behind);
    sched_set_available(in->policy->sched, in->index, !in->drained);
    for (uint32_t m = 0; m < in->policy->model_count; m++)
        send_model(in, m);
    check_complete(in);
    arm(in, in->policy->limits.silence_us / WATCHES_IN);
}

static void load_pinned(struct instance *in, uint32_t model)
{
    const struct order_ref order = {.kind = ORDER_LOAD, .model = model};

    sched_set_pinned(in->policy->sched, in->index, model, 1);
    tier_need(in, model);
    engine_link_send(in->link, &order, sizeof order);
}

void engine_model(struct instance *in, const struct event_model *ev)
{
    struct engine_model *m;
    struct error err;

    if (in->state != INSTANCE_READY || ev->model >= in->policy->model_count) {
        engine_link_break(in->link, "it speaks of a model that it was not given");
        return;
    }
    m = &in->models[ev->model];
    if (!ev->ok) {
        refuse_model(in, ev->model, STATUS_UNSUPPORTED, ev->text);
        check_complete(in);
        return;
    }
    if (sched_add_model(in->policy->sched, in->index, ev->model, ev->weight_bytes,
                        ev->kv_token_bytes, &err) != 0) {
        refuse_model(in, ev->model, err.status, err.text);
        return;
    }
    m->status.known = m->status.ok = 1;
    m->status.text[0] = '\0';
    m->status.weight_bytes = ev->weight_bytes;
    m->status.kv_token_bytes = ev->kv_token_bytes;
    m->status.max_context = ev->max_context;
    m->page_tokens = ev->page_tokens;
    m->vocabulary = ev->vocabulary;
    m->layout = ev->layout;
    cost_begin(in, ev->model);
    tier_model_known(in, ev);
    if (in->policy->config->models[ev->model].pin == PIN_GPU)
        load_pinned(in, ev->model);
    in->policy->replace = in->policy->retry = 1;
    in->policy->changed = 1;
    check_complete(in);
}

/* --- death ------------------------------------------------------------------------------------ */

static void forget_models(struct instance *in)
{
    for (uint32_t m = 0; m < in->policy->model_count; m++) {
        struct policy_model_status *status = &in->models[m].status;

        if (status->resident) {
            struct policy_event *ev = event_make(POLICY_MODEL, 0);

            ev->instance = in->status.index;
            ev->model = m;
            ev->bytes = status->weight_bytes;
            event_emit(in->policy, ev);
        }
        sched_drop_model(in->policy->sched, in->index, m);
        status->known = status->resident = 0;
        status->kv_pages_used = 0;
        in->models[m].prefill_us = in->models[m].prefill_tokens = 0;
    }
}

/*
 * Its sequences wait to be given anew, with the tokens that were passed on.  One of the model that
 * ran may be the cause: it is given up after deaths_max engines that died so, without a token of it
 * in between.
 */
static void take_back_all(struct instance *in)
{
    uint32_t ran = in->turn_count > 0 ? in->turns[0].model : UINT32_MAX;
    struct policy *p = in->policy;
    struct sequence *s, *next;

    for (s = TAILQ_FIRST(&p->sequences); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link);
        if (!s->scheduled || s->instance != in->index)
            continue;
        s->away = 0;
        if (s->state == SEQUENCE_OPEN && s->request->model == ran &&
            ++s->deaths >= p->limits.deaths_max)
            sequence_end(p, s, FINISH_NONE, 0, STATUS_INTERNAL,
                         "the engine died again and again while it ran this request");
        else
            sequence_take_back(p, s, SEQUENCE_WAITING);
    }
}

void engine_lost(struct instance *in, const char *why)
{
    log_error("instance %s: engine (pid %d) is lost: %s", in->config->name, (int)in->process.pid,
              why);
    snprintf(in->failure, sizeof in->failure, "%s", why); /* the link's own */
    engine_link_destroy(in->link);
    in->link = NULL;
    in->status.running_model = in->status.next_model = UINT32_MAX;
    in->status.restarts++;
    set_instance_state(in, INSTANCE_REAPING);
    sched_set_available(in->policy->sched, in->index, 0);
    tier_instance_lost(in);
    forget_models(in);
    take_back_all(in);
    in->turn_count = 0;
    in->calibration.model = UINT32_MAX;
    in->loading = UINT32_MAX;
    in->failed_loads = 0;
    in->empty_turns = 0;
    in->settled_turn = 0;
    command_instance_lost(in);
    in->policy->replace = in->policy->retry = 1;
    in->deadline_us = 0;
    arm(in, 0);
}

void engine_stop(struct instance *in)
{
    tier_instance_lost(in);
    engine_link_destroy(in->link);
    in->link = NULL;
    if (in->process.pid == 0) {
        event_del(in->timer);
        set_instance_state(in, INSTANCE_DOWN);
        return;
    }
    set_instance_state(in, INSTANCE_REAPING);
    in->deadline_us = clock_monotonic_us() + in->policy->limits.quit_us;
    arm(in, 0);
}

static void reap(struct instance *in)
{
    char text[sizeof in->failure];

    if (clock_monotonic_us() >= in->deadline_us)
        supervisor_kill(&in->process);
    if (!supervisor_reap(&in->process, text, sizeof text)) {
        arm(in, REAP_US);
        return;
    }
    in->status.pid = 0;
    if (in->policy->stopping) {
        set_instance_state(in, INSTANCE_DOWN);
        return;
    }
    if (!in->complete) {
        start_failed(in, text);
        return;
    }
    log_error("instance %s: engine: %s", in->config->name, text);
    snprintf(in->failure, sizeof in->failure, "%s", text);
    back_off(in);
}

/* An engine that has work and says nothing is as bad as a dead one. */
static void watch(struct instance *in)
{
    int64_t now = clock_monotonic_us();
    int busy = in->turn_count > 0 || in->loading != UINT32_MAX || !in->complete;

    if (busy && now - in->heard_us >= in->policy->limits.silence_us)
        engine_link_break(in->link, "it has work and says nothing");
    arm(in, in->policy->limits.silence_us / WATCHES_IN);
}

void engine_on_timer(struct instance *in)
{
    switch (in->state) {
    case INSTANCE_DOWN:
        if (!in->policy->stopping)
            engine_start(in);
        break;
    case INSTANCE_STARTING:
        engine_link_break(in->link, "it did not become ready in time");
        break;
    case INSTANCE_READY:
        watch(in);
        break;
    case INSTANCE_REAPING:
        reap(in);
        break;
    }
}
