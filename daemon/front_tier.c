/* front_tier.c - the host tier's beginning: pins, what the database knows, and how it learns */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/front.h"
#include "daemon/tier.h"

/* --- pins ------------------------------------------------------------------------------------- */

static int check_host_pins(const struct front *f, struct error *err)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < f->config->model_count; i++) {
        if (f->config->models[i].pin == PIN_HOST && f->models[i].bytes > 0)
            bytes += segment_file_bytes(f->models[i].bytes);
    }
    if (bytes <= f->config->host_cache)
        return 0;
    return error_set(err, STATUS_INVALID,
                     "%s: the models with Pin=host need %" PRIu64 " MiB, HostCache= is %" PRIu64
                     " MiB: raise it, or pin fewer",
                     f->config->path, bytes >> 20, f->config->host_cache >> 20);
}

static int check_gpu_pins(const struct front *f, const struct config_instance *in,
                          struct error *err)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < f->config->model_count; i++) {
        if (f->config->models[i].pin == PIN_GPU)
            bytes += f->models[i].bytes;
    }
    if (bytes < in->memory_bytes)
        return 0;
    return error_set(err, STATUS_INVALID,
                     "%s: the models with Pin=gpu need %" PRIu64 " MiB and their KV besides; "
                     "Memory= of instance %s is %" PRIu64 " MiB: raise it, or pin fewer",
                     f->config->path, bytes >> 20, in->name, in->memory_bytes >> 20);
}

int front_check_pins(const struct front *f, struct error *err)
{
    const struct config *c = f->config;

    if (check_host_pins(f, err) != 0)
        return -1;
    for (size_t i = 0; i < c->instance_count; i++) {
        if (config_is_here(c, &c->instances[i]) && check_gpu_pins(f, &c->instances[i], err) != 0)
            return -1;
    }
    return 0;
}

/* --- into the database ------------------------------------------------------------------------ */

struct tier_job {
    struct writer_job job;
    union {
        struct db_segment segment;
        struct db_source source;
        char key[DB_NAME_MAX];
    } row;
};

static int run_put(struct db *db, struct writer_job *job, struct error *err)
{
    return db_put_segment(db, &((struct tier_job *)job)->row.segment, err);
}

static int run_drop(struct db *db, struct writer_job *job, struct error *err)
{
    return db_drop_segment(db, ((struct tier_job *)job)->row.key, err);
}

static int run_source(struct db *db, struct writer_job *job, struct error *err)
{
    return db_put_source(db, &((struct tier_job *)job)->row.source, err);
}

static void post(struct front *f, const struct tier_job *what,
                 int (*run)(struct db *, struct writer_job *, struct error *))
{
    struct tier_job *job = malloc(sizeof *job);

    if (!job) {
        log_error("no memory to record a master copy");
        return;
    }
    *job = *what;
    job->job.reply = NULL; /* the writer frees it */
    job->job.run = run;
    writer_post(f->writer, &job->job);
}

static void store_put(void *context, const struct db_segment *row)
{
    const struct tier_job job = {.row.segment = *row};

    post(context, &job, run_put);
}

static void store_drop(void *context, const char *key)
{
    struct tier_job job = {.row.key = ""};

    snprintf(job.row.key, sizeof job.row.key, "%s", key);
    post(context, &job, run_drop);
}

static void store_source(void *context, const struct db_source *row)
{
    const struct tier_job job = {.row.source = *row};

    post(context, &job, run_source);
}

/* --- out of it -------------------------------------------------------------------------------- */

static int each_segment(const struct db_segment *row, void *arg)
{
    struct front_tier *t = arg;
    struct db_segment *more = realloc(t->segments, (t->segment_count + 1) * sizeof *more);

    if (!more)
        return 1;
    t->segments = more;
    more[t->segment_count++] = *row;
    return 0;
}

static int each_source(const struct db_source *row, void *arg)
{
    struct front_tier *t = arg;
    struct db_source *more = realloc(t->sources, (t->source_count + 1) * sizeof *more);

    if (!more)
        return 1;
    t->sources = more;
    more[t->source_count++] = *row;
    return 0;
}

int front_tier_read(struct front_tier *t, struct db *db, struct error *err)
{
    return db_each_segment(db, each_segment, t, err) || db_each_source(db, each_source, t, err) ? -1
                                                                                                : 0;
}

void front_tier_free(struct front_tier *t)
{
    free(t->segments);
    free(t->sources);
    memset(t, 0, sizeof *t);
}

/* Files of other folders, as HostCacheDir= was before, and of a tier that is switched off. */
static void remove_elsewhere(struct front *f, const struct front_tier *rows, const char *place)
{
    for (size_t i = 0; i < rows->segment_count; i++) {
        const struct db_segment *s = &rows->segments[i];
        char path[DB_PATH_MAX + DB_NAME_MAX + 1];
        uint8_t key[SEGMENT_KEY];

        if (strcmp(s->place, place) == 0 || segment_parse_name(key, s->key) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", s->place, s->key);
        if (remove(path) == 0)
            log_info("%s is removed: %s", path,
                     *place ? "the host tier lies elsewhere now" : "there is no host tier now");
        (void)rmdir(s->place); /* the last one takes the folder along */
        store_drop(f, s->key);
    }
}

int front_tier_open(struct front *f, const struct front_tier *rows, struct error *err)
{
    const struct tier_store store = {store_put, store_drop, store_source, f};
    uint64_t budget = tier_budget(f->config);
    struct error why = {0};
    char place[TIER_PLACE_MAX] = "";

    if (budget > 0)
        tier_place(place, f->config);
    remove_elsewhere(f, rows, place);
    if (budget == 0)
        return 0;
    f->tier = tier_create(place, budget, &store, &why);
    if (!f->tier) {
        for (size_t i = 0; i < f->config->model_count; i++)
            if (f->config->models[i].pin == PIN_HOST)
                return error_set(err, why.status, "%s", why.text);
        log_error("%s; models are read from their files", why.text);
        return 0;
    }
    for (size_t i = 0; i < rows->source_count; i++)
        tier_learn(f->tier, &rows->sources[i]);
    for (size_t i = 0; i < rows->segment_count; i++)
        if (strcmp(rows->segments[i].place, place) == 0)
            tier_attach(f->tier, &rows->segments[i]);
    tier_sweep(f->tier);
    return 0;
}
