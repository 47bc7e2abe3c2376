/* serve_pool.c - what bench serve asks the daemon: status, leases, the ledger */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/serve.h"
#include "common/clock.h"

#define READY_US  120000000 /* a large model's first look at its file */
#define SETTLE_US 50000

/* A request's answer: each row to `row`; 0, or the exit code after the error was printed. */
static int ask_rows(const struct cli *cli, const struct wire *request,
                    void (*row)(const struct wire *w, void *arg), void *arg)
{
    struct wire *w = malloc(sizeof *w);
    int fd, more = 1, code = cli_connect(cli, &fd);

    if (code != EXIT_OK || w == NULL) {
        if (code == EXIT_OK)
            close(fd);
        free(w);
        return code != EXIT_OK ? code : cli_fail(EXIT_REFUSED, "out of memory");
    }
    code = cli_send(fd, request);
    while (code == EXIT_OK && more > 0) {
        more = cli_receive(fd, w);
        if (more < 0)
            code = -more;
        else if (more > 0)
            row(w, arg);
    }
    close(fd);
    free(w);
    return code;
}

static uint64_t whole(const struct wire *w, const char *key)
{
    uint64_t v = 0;

    return wire_get_u64(w, key, &v, NULL) == 0 ? v : 0;
}

static void text(char *out, size_t size, const struct wire *w, const char *key)
{
    const char *v = wire_get(w, key);

    snprintf(out, size, "%s", v != NULL ? v : "");
}

static double number(const struct wire *w, const char *key)
{
    const char *v = wire_get(w, key);

    return v != NULL ? strtod(v, NULL) : 0;
}

/* --- status -------------------------------------------------------------------------------------
 */

static void take_instance(struct serve_pool *p, const struct wire *w)
{
    uint64_t memory = whole(w, "memory");
    struct serve_counters *n = &p->now;

    text(p->device, sizeof p->device, w, "device"); /* one word, as a file of costs has it */
    for (char *c = p->device; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && *c != '.')
            *c = '-';
    if (p->instances++ == 0 || memory < p->memory_bytes) {
        p->memory_bytes = memory;
        p->max_batch = (uint32_t)whole(w, "max_batch");
        p->loads_behind =
            wire_get(w, "loads_behind") && !strcmp(wire_get(w, "loads_behind"), "yes");
    }
    n->turns += whole(w, "turns");
    n->steps += whole(w, "steps");
    n->switches += whole(w, "switches");
    n->switch_bytes += whole(w, "switch_bytes");
    n->preemptions += whole(w, "preemptions");
    n->tokens += whole(w, "tokens");
    n->step_seconds += (double)whole(w, "step_us") / 1e6;
    n->switch_seconds += (double)whole(w, "switch_us") / 1e6;
}

/* Of the first instance that has them. */
static void take_cost(struct serve_pool *p, const struct wire *w)
{
    const char *name = wire_get(w, "model"), *measured = wire_get(w, "measured");
    struct serve_model *m = (struct serve_model *)(uintptr_t)serve_pool_find(p, name ? name : "");

    if (m == NULL || m->cost.decode > 0)
        return;
    m->cost = (struct cost){.prefill = number(w, "prompt"),
                            .prefill_token = number(w, "prompt_token"),
                            .prefill_square = number(w, "prompt_square"),
                            .decode = number(w, "step"),
                            .decode_context = number(w, "context_token"),
                            .decode_row = number(w, "row"),
                            .load = number(w, "load"),
                            .disk = number(w, "disk"),
                            .kv_token = number(w, "kv_token")};
    m->measured = measured != NULL && strcmp(measured, "yes") == 0;
    m->loads = whole(w, "loads");
}

/* Sizes are known as soon as one instance's engine knows the model; what is worse counts. */
static void take_model(struct serve_pool *p, const struct wire *w)
{
    const char *name = wire_get(w, "model");
    struct serve_model *m = (struct serve_model *)(uintptr_t)serve_pool_find(p, name ? name : "");
    char state[sizeof m->state];

    if (m == NULL) {
        m = realloc(p->models, (p->model_count + 1) * sizeof *m);
        if (m == NULL || p->model_count == SERVE_MODELS_MAX)
            return; /* it is missed by its name */
        p->models = m;
        m = &p->models[p->model_count++];
        memset(m, 0, sizeof *m);
        text(m->name, sizeof m->name, w, "model");
    }
    if (whole(w, "weight_bytes") > 0) {
        m->weight_bytes = whole(w, "weight_bytes");
        m->kv_token_bytes = whole(w, "kv_token_bytes");
        m->context = (uint32_t)whole(w, "context");
    }
    text(state, sizeof state, w, "state");
    if (m->state[0] == '\0' || strcmp(state, "preparing") == 0 || strcmp(state, "starting") == 0 ||
        strcmp(state, "down") == 0 || strcmp(state, "unusable") == 0)
        memcpy(m->state, state, sizeof state);
    text(m->text, sizeof m->text, w, "text");
}

static void take_status(const struct wire *w, void *arg)
{
    struct serve_pool *p = arg;
    const char *type = wire_type(w);

    if (strcmp(type, "daemon") == 0) {
        text(p->scheduler, sizeof p->scheduler, w, "scheduler");
        p->turn = (double)whole(w, "turn_us") / 1e6;
        p->admission = wire_get(w, "admission") && !strcmp(wire_get(w, "admission"), "yes");
    } else if (strcmp(type, "instance") == 0) {
        take_instance(p, w);
    } else if (strcmp(type, "model") == 0) {
        take_model(p, w);
    } else if (strcmp(type, "cost") == 0) {
        take_cost(p, w);
    }
}

int serve_pool_read(const struct cli *cli, struct serve_pool *p)
{
    struct wire *request = malloc(sizeof *request);
    int code;

    *p = (struct serve_pool){.instances = 0};
    if (request == NULL)
        return cli_fail(EXIT_REFUSED, "out of memory");
    wire_start(request, "status");
    code = ask_rows(cli, request, take_status, p);
    free(request);
    if (code == EXIT_OK && p->instances == 0)
        code = cli_fail(EXIT_REFUSED, "the pool has no instance on this node");
    if (code != EXIT_OK)
        serve_pool_clear(p);
    return code;
}

void serve_pool_clear(struct serve_pool *p)
{
    free(p->models);
    *p = (struct serve_pool){.instances = 0};
}

const struct serve_model *serve_pool_find(const struct serve_pool *p, const char *name)
{
    for (uint32_t i = 0; i < p->model_count; i++)
        if (strcmp(p->models[i].name, name) == 0)
            return &p->models[i];
    return NULL;
}

static void wait_us(int64_t us)
{
    usleep((useconds_t)us);
}

int serve_pool_settle(const struct cli *cli, struct serve_counters *now)
{
    uint64_t turns = UINT64_MAX;

    for (int i = 0; i < 100; i++) {
        struct serve_pool p;
        int code;

        wait_us(SETTLE_US);
        code = serve_pool_read(cli, &p);
        if (code != EXIT_OK)
            return code;
        *now = p.now;
        serve_pool_clear(&p);
        if (now->turns == turns)
            break;
        turns = now->turns;
    }
    return EXIT_OK;
}

/* 1: it can be asked; 0: not yet; or minus the exit code. */
static int ready(const struct serve_pool *p, const char *name, int wanted)
{
    const struct serve_model *m = serve_pool_find(p, name);

    if (m == NULL)
        return -cli_fail(EXIT_REFUSED, "the pool has no model %s; `modelpool list` shows them",
                         name);
    if (strcmp(m->state, "unusable") == 0 && !wanted)
        return 1;
    if (strcmp(m->state, "unusable") == 0)
        return -cli_fail(EXIT_REFUSED, "the pool cannot use model %s: %s", name, m->text);
    return strcmp(m->state, "preparing") != 0 && strcmp(m->state, "starting") != 0 &&
           strcmp(m->state, "down") != 0 && m->weight_bytes > 0;
}

int serve_pool_wait(const struct cli *cli, const char *const *names, size_t count)
{
    int64_t until = clock_monotonic_us() + READY_US;

    for (;;) {
        struct serve_pool p;
        const char *lacks = NULL;
        int code = serve_pool_read(cli, &p);

        if (code != EXIT_OK)
            return code;
        if (names == NULL)
            count = p.model_count;
        for (size_t i = 0; i < count && lacks == NULL && code == EXIT_OK; i++) {
            const char *name = names != NULL ? names[i] : p.models[i].name;
            int is = ready(&p, name, names != NULL);

            if (is < 0)
                code = -is;
            else if (is == 0)
                lacks = name;
        }
        if (lacks != NULL && clock_monotonic_us() > until)
            code = cli_fail(EXIT_REFUSED, "model %s is not ready after %d s; see `modelpool list`",
                            lacks, READY_US / 1000000);
        serve_pool_clear(&p);
        if (code != EXIT_OK || lacks == NULL)
            return code;
        wait_us(100000);
    }
}

/* --- leases -------------------------------------------------------------------------------------
 */

int serve_lease(const struct cli *cli, const char *const *models, size_t count,
                const struct sim_class *class, struct serve_grant *grant)
{
    struct wire *w = malloc(sizeof *w);
    char list[2048];
    size_t at = 0;
    int code = w != NULL ? cli_connect(cli, &grant->fd) : cli_fail(EXIT_REFUSED, "out of memory");

    if (code != EXIT_OK) {
        grant->fd = -1;
        goto out;
    }
    list[0] = '\0';
    for (size_t i = 0; i < count && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i > 0 ? "," : "", models[i]);
    wire_start(w, "lease");
    wire_put(w, "models", list);
    if (class != NULL && class->ttft > 0)
        wire_putf(w, "slo", "ttft:%" PRId64 "ms,tbt:%" PRId64 "ms",
                  (class->ttft + 999999) / 1000000, (class->tbt + 999999) / 1000000);
    code = cli_send(grant->fd, w);
    if (code == EXIT_OK)
        code = -cli_receive(grant->fd, w);
    if (code == EXIT_OK && (wire_get(w, "base_url") == NULL || wire_get(w, "key") == NULL))
        code = cli_fail(EXIT_REFUSED, "modelpoold's answer has no address or no key");
    if (code == EXIT_OK) {
        grant->lease = (int64_t)whole(w, "lease");
        text(grant->base_url, sizeof grant->base_url, w, "base_url");
        text(grant->key, sizeof grant->key, w, "key");
    } else {
        close(grant->fd);
        grant->fd = -1;
    }
out:
    if (w != NULL)
        explicit_bzero(w, sizeof *w);
    free(w);
    return code;
}

/* --- the ledger ---------------------------------------------------------------------------------
 */

struct bills {
    struct serve_bill *bills;
    size_t count;
    int64_t from_us;
};

static void take_row(const struct wire *w, void *arg)
{
    const struct bills *all = arg;
    int64_t lease = (int64_t)whole(w, "lease");

    /* The window is asked for by the request's end; what began before it is not ours. */
    if ((int64_t)whole(w, "start_us") < all->from_us)
        return;
    for (size_t i = 0; i < all->count; i++) {
        struct serve_bill *b = &all->bills[i];

        if (b->lease != lease)
            continue;
        b->rows++;
        b->prompt_tokens += whole(w, "prompt_tokens");
        b->completion_tokens += whole(w, "completion_tokens");
        b->engine_seconds += (double)whole(w, "engine_us") / 1e6;
    }
}

int serve_ledger(const struct cli *cli, int64_t from_us, struct serve_bill *bills, size_t count)
{
    struct bills all = {bills, count, from_us};
    struct wire *request = malloc(sizeof *request);
    int code;

    if (request == NULL)
        return cli_fail(EXIT_REFUSED, "out of memory");
    wire_start(request, "acct");
    wire_put_i64(request, "from", from_us / 1000000);
    code = ask_rows(cli, request, take_row, &all);
    free(request);
    return code;
}
