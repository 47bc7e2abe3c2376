/* bench_prepare.c - how fast a model's files become a master copy, beside the disk itself */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/bench_engine.h"
#include "engine/crew.h"
#include "engine/prepare.h"
#include "engine/residency.h"
#include "model/source.h"

#define ROUNDS     5u
#define DISK_SHARE 0.9 /* of the rate of direct reads, in the same round */

struct disk { /* the file read as prepare_run() reads it, and nothing done with it */
    int fd;
    uint64_t bytes;
};

static int read_block(void *context, uint64_t item, void *scratch, struct error *err)
{
    const struct disk *d = context;
    ssize_t n = pread(d->fd, scratch, PREPARE_BLOCK, (off_t)(item * PREPARE_BLOCK));

    return n > 0 ? 0 : error_errno(err, "the file cannot be read");
}

/* Nothing of it in the page cache, so that it comes from the disk. */
static void forget(int fd)
{
    (void)fdatasync(fd);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int measure_disk(const char *path, const struct disk *d, struct limit *l, struct error *err)
{
    struct disk direct = {.fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), .bytes = d->bytes};
    const struct crew crew = {.threads = PREPARE_THREADS,
                              .items = (d->bytes + PREPARE_BLOCK - 1) / PREPARE_BLOCK,
                              .scratch_bytes = PREPARE_BLOCK,
                              .work = read_block,
                              .context = &direct};
    int64_t start;
    int rv;

    if (direct.fd < 0)
        return error_errno(err, "%s: cannot be read past the page cache", path);
    forget(d->fd);
    start = clock_monotonic_us();
    rv = crew_run(&crew, err);
    l->samples[l->count++] = (double)(clock_monotonic_us() - start);
    close(direct.fd);
    return rv;
}

/* Of all threads, in the kernel, too: what does not depend on who else runs. */
static int64_t cpu_us(void)
{
    struct rusage u = {0};

    getrusage(RUSAGE_SELF, &u);
    return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

/* Into a new file in shared memory; then twice to memory, the first time with checksums. */
static int measure_model(struct residency *r, struct model *m, const struct disk *d,
                         struct limit *limits, struct error *err)
{
    const struct order_master order = {.kind = ORDER_MASTER, .use = MASTER_FILL};
    uint64_t bytes, us;
    int64_t start, cpu;
    int fd = memfd_create("modelpool-bench", MFD_CLOEXEC), rv = -1;

    if (fd < 0)
        return error_errno(err, "cannot make a file in shared memory");
    forget(d->fd);
    if (master_take(m, &order, fd, NULL, 0, err) != 0)
        goto out;
    start = clock_monotonic_us();
    cpu = cpu_us();
    loader_begin(&r->behind, m, 0, 0);
    while (!loader_wait(&r->behind, -1))
        ;
    limits[0].samples[limits[0].count++] = (double)(clock_monotonic_us() - start);
    limits[3].samples[limits[3].count++] = (double)(cpu_us() - cpu);
    residency_poll(r);
    if (m->copy.use != MASTER_READ) {
        error_set(err, STATUS_IO, "it could not be prepared: %s", r->behind.event.text);
        goto out;
    }
    m->copy.map->verified = 0;
    for (int i = 1; i <= 2; i++) {
        if (residency_load(r, m, NULL, &bytes, &us, err) != 0)
            goto out;
        limits[i].samples[limits[i].count++] = (double)us;
        residency_unload(r, m);
    }
    rv = 0;
out:
    master_drop(&m->copy);
    close(fd);
    return rv;
}

static int measure(const char *path, struct residency *r, struct model *m, const struct disk *d,
                   limit_f *found, void *arg, struct error *err)
{
    char params[96];
    struct limit limits[] = {{.name = "disk: direct read"},
                             {.name = "prepare"},
                             {.name = "load, checked"},
                             {.name = "load"},
                             {.name = "prepare: CPU time"}};

    snprintf(params, sizeof(params), "%" PRIu64 " MiB, %u threads", d->bytes >> 20,
             PREPARE_THREADS);
    for (uint32_t i = 0; i < 5; i++) {
        limits[i].params = params;
        limits[i].unit = "us";
        limits[i].bytes = (double)(i < 2 || i == 4 ? d->bytes : m->range_bytes);
    }
    for (uint32_t round = 0; round < ROUNDS; round++)
        if (measure_disk(path, d, &limits[0], err) != 0 ||
            measure_model(r, m, d, limits + 1, err) != 0)
            return -1;
    struct limit share = {.name = "prepare: of the disk's rate",
                          .params = params,
                          .unit = "x",
                          .count = ROUNDS,
                          .bound = LIMIT_LEAST,
                          .limit = DISK_SHARE};
    for (uint32_t i = 0; i < ROUNDS; i++)
        share.samples[i] = limits[0].samples[i] / limits[1].samples[i];
    for (uint32_t i = 0; i < 5; i++)
        found(arg, &limits[i]);
    found(arg, &share);
    return 0;
}

/* The model as an engine opens it. */
static struct model *open_model(const char *path, struct arena *a, struct disk *d,
                                struct error *err)
{
    struct order_model order = {.kind = ORDER_MODEL, .name = "bench"};
    struct channel_files files = {0};
    struct source_files opened;
    struct model *m = NULL;
    struct stat st;

    if (source_files_open(path, &opened, err) != 0)
        return NULL;
    source_files_for_engine(&opened);
    for (uint32_t i = 0; i < opened.count; i++) {
        order.kinds[i] = (uint8_t)opened.files[i].kind;
        files.fds[files.count++] = opened.files[i].fd;
    }
    order.files = files.count;
    if (opened.count != 1 || fstat(opened.files[0].fd, &st) != 0) {
        error_set(err, STATUS_INVALID, "%s: this bench reads one GGUF file", path);
    } else {
        m = model_open(&files, &order, a, ARENA_WEIGHTS, err);
        d->bytes = (uint64_t)st.st_size;
    }
    source_files_close(&opened);
    return m;
}

int bench_prepare(const struct bench_engine *how, limit_f *found, void *arg, struct error *err)
{
    struct device *device = NULL;
    struct residency r = {0};
    struct arena *arena = NULL;
    struct disk disk = {.fd = -1};
    struct model *m = NULL;
    int rv = -1;

    if (how->model == NULL)
        return error_set(err, STATUS_INVALID, "the bench prepare needs --model=FILE.gguf");
    disk.fd = open(how->model, O_RDONLY | O_CLOEXEC);
    if (disk.fd < 0)
        return error_errno(err, "%s", how->model);
    device = device_create(how->threads, PRECISION_FAST, 1, ENGINE_COLS_MAX, err);
    if (device == NULL)
        goto out;
    arena = arena_create(device, how->memory_bytes, err);
    if (arena == NULL || residency_open(&r, arena, err) != 0)
        goto out;
    m = open_model(how->model, arena, &disk, err);
    if (m == NULL)
        goto out;
    r.models[r.count++] = m;
    rv = measure(how->model, &r, m, &disk, found, arg, err);
out:
    if (r.arena != NULL)
        residency_close(&r);
    arena_destroy(arena);
    if (device != NULL)
        device_destroy(device);
    close(disk.fd);
    return rv;
}
