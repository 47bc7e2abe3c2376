/*
 * cuda_trace_test.c - what the engine asks of CUDA in a step
 *
 * CUPTI, where its library is found, calls back for every function of the runtime and the driver.
 * Turns of two lengths are compared, so what a turn calls once drops out.  A step in which every
 * sequence decodes is one launch of a graph, a plan copied there and picks copied back (each by a
 * kernel, from and to pinned memory), an event recorded and one waited for, that of the step
 * before: nothing is allocated, freed, synchronised, loaded or mapped, and nothing queues behind
 * copies.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/random_model.h"
#include "tests/unit/engine_rig.h"

#define MODEL     1u
#define CALLS_MAX 128u
#define SHORT     8u /* steps of a turn */
#define LONG      40u

/* ---- CUPTI (cupti_callbacks.h), without its header ---------------------------------------------
 */

enum { DOMAIN_DRIVER = 1, DOMAIN_RUNTIME = 2 };

struct callback_data {
    uint32_t site; /* 0: the call begins */
    const char *function;
    const void *params;
    /* What follows is not used. */
};

typedef void (*callback_f)(void *arg, uint32_t domain, uint32_t id, const void *data);
static int (*cupti_subscribe)(void **subscriber, callback_f f, void *arg);
static int (*cupti_enable)(uint32_t enable, void *subscriber, uint32_t domain);

/* Of the runtime's cudaMemcpyAsync. */
struct copy_params {
    void *to;
    const void *from;
    size_t bytes;
};

static const char *find_cupti(void)
{
    static const char *const names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so",
                                        "/usr/local/cuda/lib64/libcupti.so",
                                        "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so"};
    void *library = NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW);
    if (library == NULL)
        return "there is no libcupti";
    /* POSIX has this way around a pointer to an object. */
    *(void **)&cupti_subscribe = dlsym(library, "cuptiSubscribe");
    *(void **)&cupti_enable = dlsym(library, "cuptiEnableDomain");
    return cupti_subscribe != NULL && cupti_enable != NULL ? NULL : "libcupti lacks callbacks";
}

/* ---- counting ----------------------------------------------------------------------------------
 */

struct call {
    char name[64];
    uint64_t count, bytes;
};

struct trace {
    int counting;
    uint32_t count;
    struct call calls[CALLS_MAX];
};

static struct trace trace;

static struct call *call_of(struct trace *t, const char *name)
{
    uint32_t i = 0;

    while (i < t->count && strncmp(t->calls[i].name, name, sizeof(t->calls[i].name) - 1) != 0)
        i++;
    if (i == CALLS_MAX)
        abort(); /* of so many different functions */
    if (i == t->count) {
        t->calls[i] = (struct call){.count = 0};
        snprintf(t->calls[i].name, sizeof(t->calls[i].name), "%s", name);
        t->count++;
    }
    return &t->calls[i];
}

/* The engine's thread is the only one that calls. */
static void on_call(void *arg, uint32_t domain, uint32_t id, const void *data)
{
    const struct callback_data *d = data;
    struct trace *t = arg;

    (void)id;
    if (!t->counting || (domain != DOMAIN_DRIVER && domain != DOMAIN_RUNTIME) || d->site != 0)
        return;
    struct call *c = call_of(t, d->function);
    c->count++;
    if (domain == DOMAIN_RUNTIME && strncmp(d->function, "cudaMemcpyAsync", 15) == 0)
        c->bytes += ((const struct copy_params *)d->params)->bytes;
}

/* What a step may call, in either domain, and how often at most. */
static uint32_t allowed(const char *name)
{
    static const struct {
        const char *name;
        uint32_t most;
    } calls[] = {
        {"cudaGraphLaunch", 1},
        {"cuGraphLaunch", 1},
        /* device_copy_now(): the plan and the picks are copied by a kernel. */
        {"cudaLaunchKernel", 2},
        {"cuLaunchKernel", 2},
        {"cuKernelGetName", 2},
        {"cudaGetLastError", 2},
        {"cudaEventRecord", 1},
        {"cuEventRecord", 1},
        {"cudaEventSynchronize", 1},
        {"cuEventSynchronize", 1},
        /* Which GPU the thread speaks to: no more than a variable. */
        {"cudaSetDevice", 16},
        {"cuCtxSetCurrent", 16},
        {"cuCtxGetCurrent", 16},
        {"cuCtxGetDevice", 16},
    };

    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        size_t len = strlen(calls[i].name);
        if (strncmp(name, calls[i].name, len) == 0 &&
            (name[len] == '\0' || name[len] == '_')) /* _v2, _ptsz */
            return calls[i].most;
    }
    return 0;
}

/* ---- steps -------------------------------------------------------------------------------------
 */

static void turn(struct rig *r, uint32_t steps, struct trace *counted)
{
    trace.count = 0;
    trace.counting = 1;
    rig_turn(r, MODEL, steps);
    trace.counting = 0;
    assert_int_equal(r->turn_end.reason, TURN_QUOTA);
    *counted = trace;
}

/* All sequences decode from here on. */
static void begin(struct rig *r, uint32_t batch)
{
    const uint32_t prompt[] = {5, 6, 7};

    for (uint32_t i = 0; i < batch; i++) {
        rig_reset(r, i);
        rig_seq(r, i, MODEL, prompt, 3, 0, 1000, SAMPLING_IGNORE_EOS);
    }
    rig_turn(r, MODEL, 4);
}

static int check(struct rig *r, uint32_t batch)
{
    static struct trace few, many;
    int failed = 0;

    begin(r, batch);
    turn(r, SHORT, &few);
    turn(r, LONG, &many);
    for (uint32_t i = 0; i < batch; i++)
        rig_ref(r, ORDER_SEQ_CLOSE, 0, i);
    printf("# a step of %" PRIu32 " sequences calls (once a turn, too, in brackets)\n", batch);
    for (uint32_t i = 0; i < many.count; i++) {
        const struct call *c = &many.calls[i];
        const struct call *less = call_of(&few, c->name);
        double each = (double)(int64_t)(c->count - less->count) / (LONG - SHORT);
        double once = (double)less->count - each * SHORT;
        double bytes = (double)(int64_t)(c->bytes - less->bytes) / (LONG - SHORT);
        int more = !(each <= allowed(c->name));
        if (each > 0 || once > 0)
            printf("  %-36s %6.2f  (%.0f)", c->name, each, once);
        if (bytes > 0)
            printf("  %.0f bytes", bytes);
        if (each > 0 || once > 0)
            puts(more ? "  NOT ALLOWED" : "");
        failed |= more;
    }
    return failed | (many.count == 0);
}

static const char *missing; /* why nothing can be traced */

static void test_steps(void **state)
{
    static const uint32_t batches[] = {1, 17, 64};
    char path[64];
    struct rig r;
    struct error err = {0};
    void *subscriber;
    uint64_t bytes;
    int failed = 0;

    (void)state;
    if (missing != NULL) {
        print_message("%s: see the recorded run, bench/results/h200-*/trace.txt\n", missing);
        skip();
    }
    snprintf(path, sizeof(path), "/tmp/cuda_trace_test.%d.gguf", (int)getpid());
    if (random_model_write(random_shape_find("tiny-a"), DTYPE_BF16, path, &bytes, &err) != 0)
        fail_msg("%s", err.text);
    rig_open(&r, 16 * rig_handle(), 2, STEP_BATCH_MAX);
    rig_model(&r, MODEL, path, 0);
    unlink(path);
    assert_int_equal(r.model.ok, 1);
    assert_int_equal(cupti_subscribe(&subscriber, on_call, &trace), 0);
    assert_int_equal(cupti_enable(1, subscriber, DOMAIN_DRIVER), 0);
    assert_int_equal(cupti_enable(1, subscriber, DOMAIN_RUNTIME), 0);
    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++)
        failed |= check(&r, batches[i]);
    rig_close(&r);
    assert_int_equal(failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps)};
    static struct error err;
    struct device *gpu = device_create_cuda(0, PRECISION_EXACT, 1, 64, &err);

    missing = gpu == NULL ? err.text : find_cupti();
    if (gpu != NULL)
        device_destroy(gpu);
    setenv("MODELPOOL_TEST_DEVICE", "cuda-fast", 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
