/* lease_rig.c - fakes under leases and the control socket */
#include "tests/unit/lease_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "daemon/tier.h"

struct rig *rig;

/* --- what they call --------------------------------------------------------------------------- */

static void finish_write(evutil_socket_t fd, short what, void *arg)
{
    struct front_job *job = arg;

    (void)fd;
    (void)what;
    if (job->done)
        job->done(&rig->f, job);
    free(job);
}

void front_write(struct front *f, struct front_job *job,
                 int (*run)(struct db *, struct writer_job *, struct error *),
                 void (*done)(struct front *, struct front_job *))
{
    const struct timeval now = {0};

    job->done = done;
    job->job.error = (struct error){.status = STATUS_OK};
    if (rig->write_fails)
        error_set(&job->job.error, STATUS_IO, "disk full");
    else if (run(rig->db, &job->job, &job->job.error) < 0)
        assert_int_not_equal(job->job.error.status, STATUS_OK);
    assert_int_equal(event_base_once(f->base, -1, EV_TIMEOUT, finish_write, job, &now), 0);
}

int policy_snapshot(struct policy *p, struct policy_snapshot *out, struct error *err)
{
    (void)p;
    (void)err;
    *out = (struct policy_snapshot){
        .instances = 1, .models = RIG_MODELS, .caches = 2, .cache_place = "/shm/pool"};
    out->cache = calloc(out->caches, sizeof(*out->cache));
    assert_non_null(out->cache);
    out->cache[0] =
        (struct policy_cache_status){.model = "beta",
                                     .name = "new-1",
                                     .state = rig->preparing ? TIER_FILLING : TIER_COMPLETE,
                                     .percent = 42,
                                     .pinned = 1,
                                     .bytes = 4096,
                                     .used_us = 7000000};
    out->cache[1] = (struct policy_cache_status){
        .model = "former", .name = "0123", .state = TIER_COMPLETE, .bytes = 8192};
    out->instance = calloc(1, sizeof(*out->instance));
    out->model = calloc(RIG_MODELS, sizeof(*out->model));
    assert_true(out->instance && out->model);
    snprintf(out->instance[0].state, sizeof(out->instance[0].state), "%s", rig->instance_state);
    snprintf(out->instance[0].failure, sizeof(out->instance[0].failure), "%s", rig->failure);
    snprintf(out->instance[0].device, sizeof(out->instance[0].device), "cpu");
    out->instance[0].running_model = UINT32_MAX;
    for (int i = 0; i < RIG_MODELS; i++) {
        out->model[i].known = rig->known[i];
        out->model[i].ok = rig->ok[i];
        out->model[i].resident = i == ALPHA;
        out->model[i].preparing = i == BETA && rig->preparing;
        out->model[i].percent = 42;
        out->model[i].in_host = i == BETA && !rig->preparing;
        if (!rig->ok[i])
            snprintf(out->model[i].text, sizeof(out->model[i].text), "needs more memory");
    }
    return 0;
}

void policy_snapshot_free(struct policy_snapshot *s)
{
    free(s->instance);
    free(s->model);
    free(s->cache);
}

void policy_command(struct policy *p, enum policy_command command, uint32_t target, uint64_t tag)
{
    (void)p;
    rig->commands++;
    rig->command = command;
    rig->target = target;
    rig->tag = tag;
}

void http_counts(const struct http *h, uint32_t *running, uint32_t *held)
{
    (void)h;
    *running = 3;
    *held = 2;
}

void http_grant_ended(struct http *h, const struct grant *g)
{
    (void)h;
    rig->grants_ended++;
    rig->last_ended = g->row.id;
}

void http_lease_identified(struct http *h, const struct lease *lease)
{
    (void)h;
    (void)lease;
    rig->identified++;
}

void http_each_waiting(const struct http *h, void (*each)(const struct http_waiting *, void *),
                       void *arg)
{
    struct http_waiting w = {
        .grant = rig->waiting, .model = GAMMA, .arrived_us = clock_monotonic_us(), .why = "full"};

    (void)h;
    if (rig->waiting)
        each(&w, arg);
}

void policy_set_share(struct policy *p, uint32_t tenant, double share)
{
    (void)p;
    if (tenant < RIG_TENANTS)
        rig->shares[tenant] = share;
}

/* --- set up ----------------------------------------------------------------------------------- */

static void configure(struct rig *r)
{
    static char cluster[] = "testing", node[] = "n1", only[] = "bio, chem", path[] = "/models/x";
    static const char *const names[] = {"alpha", "beta", "gamma"};

    for (int i = 0; i < RIG_MODELS; i++) {
        strcpy(r->models[i].name, names[i]);
        r->models[i].path = path;
        r->known[i] = r->ok[i] = 1;
    }
    r->models[BETA].allow_accounts = only;
    strcpy(r->instances[0].name, "cpu");
    strcpy(r->slos[0].name, "strict");
    r->slos[0].ttft_us = 500000;
    r->slos[0].tbt_us = 50000;
    strcpy(r->slos[1].name, "relaxed");
    r->slos[1].ttft_us = r->slos[1].tbt_us = 1000000;
    strcpy(r->instance_state, "idle");
    r->config = (struct config){.cluster = cluster,
                                .node = node,
                                .state_dir = r->dir,
                                .slurm_bin = r->bin,
                                .local_users = 1,
                                .identity = IDENTITY_SLURM,
                                .wait_max_us = 3600000000,
                                .models = r->models,
                                .model_count = RIG_MODELS,
                                .instances = r->instances,
                                .instance_count = 1,
                                .slos = r->slos,
                                .slo_count = 2};
}

static void start(void)
{
    struct error err;

    rig->db = db_open(rig->db_path, &err);
    if (!rig->db)
        fail_msg("%s", err.text);
    rig->f.leases = leases_create(&rig->f, rig->db, &err);
    if (!rig->f.leases)
        fail_msg("%s", err.text);
}

int rig_set_up(void **state)
{
    rig = calloc(1, sizeof(*rig));
    if (!rig)
        return -1;
    *state = rig;
    strcpy(rig->dir, "/tmp/lease_test.XXXXXX");
    if (!mkdtemp(rig->dir))
        return -1;
    snprintf(rig->db_path, sizeof(rig->db_path), "%s/db", rig->dir);
    snprintf(rig->bin, sizeof(rig->bin), "%s/bin", rig->dir);
    mkdir(rig->bin, 0755);
    rig_squeue("echo 'slurm_load_jobs error: Unable to contact slurm controller'; exit 1");
    configure(rig);
    rig->f.base = event_base_new();
    rig->f.config = &rig->config;
    rig->f.http = (struct http *)rig; /* not looked into: there is one */
    rig->f.started_us = clock_wall_us();
    strcpy(rig->f.base_url, "http://127.0.0.1:811/v1");
    strcpy(rig->f.http_socket, "/run/http.sock");
    start();
    return 0;
}

int rig_tear_down(void **state)
{
    char command[96];

    rig_loop(1); /* database jobs that are still to be freed */
    leases_destroy(rig->f.leases);
    db_close(rig->db);
    event_base_free(rig->f.base);
    snprintf(command, sizeof(command), "rm -rf %s", rig->dir);
    int rv = system(command);
    free(rig);
    *state = NULL;
    return rv;
}

void rig_restart(void)
{
    rig_loop(1);
    leases_destroy(rig->f.leases);
    db_close(rig->db);
    start();
}

void rig_squeue(const char *script)
{
    char path[128], fresh[128];

    snprintf(path, sizeof(path), "%s/squeue", rig->bin);
    snprintf(fresh, sizeof(fresh), "%s/new", rig->bin);
    FILE *out = fopen(fresh, "w");
    assert_non_null(out);
    fprintf(out, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(chmod(fresh, 0755), 0);
    assert_int_equal(rename(fresh, path), 0); /* one that runs keeps its own */
}

void rig_loop_until(const int *flag, int ms)
{
    int64_t end = clock_monotonic_us() + ms * 1000;
    struct timeval piece = {.tv_usec = 2000};

    while ((!flag || !*flag) && clock_monotonic_us() < end) {
        event_base_loopexit(rig->f.base, &piece);
        event_base_dispatch(rig->f.base);
    }
}

void rig_loop(int ms)
{
    rig_loop_until(NULL, ms);
}
