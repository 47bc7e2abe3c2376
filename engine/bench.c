/* bench.c - what the machine is, what it can do, as a table or as JSON */
#include "engine/bench.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/order.h"
#include "engine/random_model.h"

struct report {
    FILE *f;
    json_t *results; /* NULL: a table */
    int failed;      /* no memory for a row */
    double copy;     /* the best median of copies from host to device, in GB/s */
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The sample that a share of them does not exceed. */
static double quantile(const struct limit *l, double share)
{
    double sorted[LIMIT_ROOM], at = share * (l->count - 1);
    uint32_t below = (uint32_t)at;

    memcpy(sorted, l->samples, l->count * sizeof(*sorted));
    qsort(sorted, l->count, sizeof(*sorted), ascending);
    if (below + 1 >= l->count)
        return sorted[l->count - 1];
    return sorted[below] + (at - below) * (sorted[below + 1] - sorted[below]);
}

static double median(const struct limit *l)
{
    return quantile(l, 0.5);
}

static int is_met(const struct limit *l)
{
    double m = median(l);

    return l->bound == LIMIT_NONE || (l->bound == LIMIT_MOST ? m <= l->limit : m >= l->limit);
}

static void print_row(FILE *f, const struct limit *l)
{
    if (l->count == 0) {
        fprintf(f, "%-69s %10s\n", l->name, l->bytes != 0 ? "yes" : "NO");
        return;
    }
    double m = median(l);
    fprintf(f, "%-20.20s %-48.48s %10.4g %s", l->name, l->params, m, l->unit);
    if (strcmp(l->unit, "us") == 0 && l->bytes > 0)
        fprintf(f, "  (%.3g GB/s", l->bytes / 1e3 / m);
    if (strcmp(l->unit, "us") == 0 && l->bytes > 0 && l->flops > 0)
        fprintf(f, ", %.2f TFLOP/s", l->flops / 1e6 / m);
    if (strcmp(l->unit, "us") == 0 && l->bytes > 0)
        fputc(')', f);
    if (l->bound != LIMIT_NONE)
        fprintf(f, "  [at %s %.4g%s]", l->bound == LIMIT_MOST ? "most" : "least", l->limit,
                is_met(l) ? "" : ": MISSED");
    fputc('\n', f);
    fflush(f);
}

static json_t *samples_json(const struct limit *l)
{
    json_t *a = json_array();

    for (uint32_t i = 0; a && i < l->count; i++)
        json_array_append_new(a, json_real(l->samples[i]));
    return a;
}

static void found(void *arg, const struct limit *l)
{
    struct report *r = arg;
    json_t *row;

    if (strcmp(l->name, "copy host to device") == 0 && median(l) > r->copy)
        r->copy = median(l);
    if (!r->results) {
        print_row(r->f, l);
        return;
    }
    if (l->count == 0)
        row = json_pack("{s:s, s:b}", "name", l->name, "holds", l->bytes != 0);
    else
        row = json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:o}", "name", l->name, "params",
                        l->params, "unit", l->unit, "median", median(l), "p99", quantile(l, 0.99),
                        "bytes", l->bytes, "flops", l->flops, "samples", samples_json(l));
    if (row && l->count > 0 && l->bound != LIMIT_NONE &&
        (json_object_set_new(row, l->bound == LIMIT_MOST ? "at_most" : "at_least",
                             json_real(l->limit)) != 0 ||
         json_object_set_new(row, "met", json_boolean(is_met(l))) != 0))
        r->failed = 1;
    if (!row || json_array_append_new(r->results, row) != 0)
        r->failed = 1;
}

/* What stands behind `key` and a colon in the first line of the file that begins with it; else "".
 */
static void line_of(char *to, size_t size, const char *path, const char *key)
{
    char line[512];
    FILE *f = fopen(path, "re");

    to[0] = '\0';
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const char *value = line + strlen(key);
        value += strspn(value, " \t:");
        snprintf(to, size, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    if (f)
        fclose(f);
}

static json_t *about_json(const struct bench *b, const struct limits_gpu *g)
{
    struct utsname host;
    char cpu[256], driver[256], date[32], capability[16];
    time_t now = time(NULL);
    struct tm utc;

    if (uname(&host) != 0)
        memset(&host, 0, sizeof(host));
    line_of(cpu, sizeof(cpu), "/proc/cpuinfo", "model name");
    line_of(driver, sizeof(driver), "/proc/driver/nvidia/version", "NVRM version");
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(capability, sizeof(capability), "%d.%d", g->major, g->minor);
    return json_pack(
        "{s:s, s:s, s:s?, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:{s:i, s:i, s:s, s:s, s:i, s:i, "
        "s:i, s:I, s:I}}",
        "bench", b->name, "command", b->command, "commit", b->commit, "release", MODELPOOL_RELEASE,
        "date", date, "machine", b->machine ? b->machine : host.nodename, "kernel", host.release,
        "cpu", cpu, "cpus", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "driver", driver, "gpu",
        "cuda_driver", g->cuda_driver, "cuda_runtime", g->cuda_runtime, "name", g->name,
        "capability", capability, "multiprocessors", (int)g->multiprocessors, "sm_clock_max_mhz",
        (int)g->sm_clock_mhz, "memory_clock_max_mhz", (int)g->memory_clock_mhz, "memory_bytes",
        (json_int_t)g->memory_bytes, "l2_bytes", (json_int_t)g->l2_bytes);
}

static int write_json(const struct report *r, json_t *about, struct error *err)
{
    if (r->failed || json_object_set(about, "results", r->results) != 0)
        return error_set(err, STATUS_NOMEM, "no memory for the results");
    if (json_dumpf(about, r->f, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0 ||
        fputc('\n', r->f) == EOF || fflush(r->f) != 0)
        return error_set(err, STATUS_IO, "the results cannot be written");
    return 0;
}

/* The figures of a bench, one after the other; an engine's behind the limits of the same run. */
static int measure(const struct bench *b, unsigned what, struct report *r, struct error *err)
{
    struct bench_engine engine = b->engine;

    engine.gpu = b->gpu;
    if (what != 0 && limits_measure(b->gpu, what, found, r, err) != 0)
        return -1;
    engine.copy_rate = r->copy;
    if (strcmp(b->name, "switch") == 0)
        return bench_switch(&engine, found, r, err);
    if (strcmp(b->name, "swap") == 0)
        return bench_swap(&engine, found, r, err);
    if (strcmp(b->name, "soak") == 0)
        return bench_soak(&engine, found, r, err);
    if (strcmp(b->name, "prepare") == 0)
        return bench_prepare(&engine, found, r, err);
    return strcmp(b->name, "engine") == 0 ? bench_engine(&engine, found, r, err) : 0;
}

static int make_model(const struct bench *b, FILE *f, struct error *err)
{
    const struct random_shape *shape = random_shape_find(b->engine.shape);
    int64_t start = clock_monotonic_us();
    enum dtype dtype;
    uint64_t bytes;

    if (!b->out)
        return error_set(err, STATUS_INVALID, "make-model: where? --out=FILE.gguf");
    if (!shape)
        return error_set(err, STATUS_INVALID, "no shape %s", b->engine.shape);
    if (random_dtype(b->engine.dtype, &dtype) != 0)
        return error_set(err, STATUS_INVALID, "no type of weights %s", b->engine.dtype);
    if (random_model_write(shape, dtype, b->out, &bytes, err) != 0)
        return -1;
    double s = (double)(clock_monotonic_us() - start) / 1e6;
    fprintf(f, "%s: %s, random %s weights, %" PRIu64 " bytes in %.2f s\n", b->out, shape->name,
            dtype_name(dtype), bytes, s);
    return 0;
}

int bench_run(const struct bench *b, FILE *f, struct error *err)
{
    static const struct {
        const char *name;
        unsigned what;
    } benches[] = {
        {"limits", LIMITS_ALL & ~(unsigned)(LIMITS_MATMUL | LIMITS_ATTENTION)},
        {"matmul", LIMITS_HBM | LIMITS_GEMM | LIMITS_MATMUL},
        {"attention", LIMITS_HBM | LIMITS_GEMM | LIMITS_ATTENTION},
        {"engine", LIMITS_HBM | LIMITS_GEMM},
        {"switch", LIMITS_COPY},
        {"swap", LIMITS_COPY},
        {"soak", 0},
        {"prepare", 0},
    };
    int cpu = strcmp(b->name, "prepare") == 0 ||
              ((strcmp(b->name, "engine") == 0 || strcmp(b->name, "soak") == 0 ||
                strcmp(b->name, "swap") == 0) &&
               b->engine.device == ORDER_DEVICE_CPU);
    struct limits_gpu gpu = {.name = "none"};
    struct report r = {.f = f};
    json_t *about = NULL;
    size_t i = 0;
    int rv = -1;

    if (strcmp(b->name, "make-model") == 0)
        return make_model(b, f, err);
    while (i < sizeof(benches) / sizeof(benches[0]) && strcmp(b->name, benches[i].name) != 0)
        i++;
    if (i == sizeof(benches) / sizeof(benches[0]))
        return error_set(err, STATUS_INVALID,
                         "no bench %s: there are limits, matmul, attention, engine, switch, swap, "
                         "soak, prepare and make-model",
                         b->name);
    if (!cpu && limits_about(b->gpu, &gpu, err) != 0)
        return -1;
    if (b->json) {
        r.results = json_array();
        about = about_json(b, &gpu);
        if (!r.results || !about) {
            error_set(err, STATUS_NOMEM, "no memory for the results");
            goto out;
        }
    } else if (!cpu) {
        fprintf(f, "%s, %" PRIu32 " multiprocessors, %" PRIu32 " MHz at most\n", gpu.name,
                gpu.multiprocessors, gpu.sm_clock_mhz);
    }
    if (measure(b, cpu ? 0 : benches[i].what, &r, err) != 0)
        goto out;
    rv = b->json ? write_json(&r, about, err) : 0;
out:
    json_decref(about);
    json_decref(r.results);
    return rv;
}
