#include "common/config.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/config_line.h"

/* configure sets these; the fallbacks are GNU's defaults. */
#ifndef LOCALSTATEDIR
#define LOCALSTATEDIR "/var"
#endif
#ifndef RUNSTATEDIR
#define RUNSTATEDIR "/run"
#endif
#ifndef LIBEXECDIR
#define LIBEXECDIR "/usr/local/libexec"
#endif

#define MEMORY_MIN         (16ull << 20)
#define BATCH_DEFAULT      32
#define BATCH_MAX          256
#define THREADS_MAX        1024
#define CONTEXT_MAX        (1u << 24)
#define HOST_CACHE_DEFAULT UINT64_MAX /* until all lines are read */
#define ITEMS_MAX          1024       /* models, instances, SLOs or tenants in one file */
#define REQUESTS_MAX       1000000
#define SHARE_MAX          1e6 /* sched's */

/* --- setting one value: each takes the text and the field's address ------------------------------
 */

typedef int (*set_f)(const char *text, void *field, struct error *err);

static int set_text(const char *text, void *field, struct error *err)
{
    char **to = field;
    char *copy = strdup(text);
    if (!copy)
        return error_errno(err, "out of memory");
    free(*to);
    *to = copy;
    return 0;
}

static int set_path(const char *text, void *field, struct error *err)
{
    if (text[0] != '/')
        return error_set(err, STATUS_INVALID, "\"%s\" must be an absolute path", text);
    return set_text(text, field, err);
}

static int set_name(const char *text, void *field, struct error *err)
{
    return config_check_name("it", text, err) ? -1 : set_text(text, field, err);
}

static int set_size(const char *text, void *field, struct error *err)
{
    uint64_t bytes;
    if (config_parse_size(text, &bytes, err))
        return -1;
    if (bytes < MEMORY_MIN || bytes > 1ull << 46)
        return error_set(err, STATUS_INVALID, "\"%s\" is not between 16M and 64T", text);
    *(uint64_t *)field = bytes;
    return 0;
}

/* A size, or none at all. */
static int set_cache(const char *text, void *field, struct error *err)
{
    uint64_t bytes;
    if (config_parse_size(text, &bytes, err))
        return -1;
    if (bytes > 1ull << 46)
        return error_set(err, STATUS_INVALID, "\"%s\" is more than 64T", text);
    *(uint64_t *)field = bytes;
    return 0;
}

static int set_time(const char *text, void *field, struct error *err)
{
    int64_t us;
    if (config_parse_time(text, &us, err))
        return -1;
    if (us <= 0)
        return error_set(err, STATUS_INVALID, "\"%s\" must be above zero", text);
    *(int64_t *)field = us;
    return 0;
}

static int set_number(const char *text, uint32_t max, void *field, struct error *err)
{
    uint64_t n;
    if (config_parse_size(text, &n, NULL) || n == 0 || n > max)
        return error_set(err, STATUS_INVALID, "\"%s\" is no number from 1 to %u", text, max);
    *(uint32_t *)field = (uint32_t)n;
    return 0;
}

static int set_context(const char *text, void *field, struct error *err)
{
    return set_number(text, CONTEXT_MAX, field, err);
}

static int set_threads(const char *text, void *field, struct error *err)
{
    return set_number(text, THREADS_MAX, field, err);
}

static int set_ranks(const char *text, void *field, struct error *err)
{
    if (strlen(text) != 1 || strchr("1248", *text) == NULL)
        return error_set(err, STATUS_INVALID, "\"%s\" is none of 1, 2, 4 and 8", text);
    *(uint32_t *)field = (uint32_t)(*text - '0');
    return 0;
}

static int set_batch(const char *text, void *field, struct error *err)
{
    return set_number(text, BATCH_MAX, field, err);
}

static int set_yes(const char *text, void *field, struct error *err)
{
    int yes = strcasecmp(text, "yes") == 0;
    if (!yes && strcasecmp(text, "no") != 0)
        return error_set(err, STATUS_INVALID, "\"%s\" is neither yes nor no", text);
    *(int *)field = yes;
    return 0;
}

/* A number of tokens; K, M and G are thousands here, and not 1024. */
static int set_tokens(const char *text, void *field, struct error *err)
{
    size_t digits = strspn(text, "0123456789");
    uint64_t n = digits <= 15 ? strtoull(text, NULL, 10) : 0, factor = 0;

    if (strcmp(text + digits, "") == 0)
        factor = 1;
    else if (strcasecmp(text + digits, "K") == 0)
        factor = 1000;
    else if (strcasecmp(text + digits, "M") == 0)
        factor = 1000000;
    else if (strcasecmp(text + digits, "G") == 0)
        factor = 1000000000;
    if (digits == 0 || n == 0 || factor == 0 || n > INT64_MAX / factor)
        return error_set(err, STATUS_INVALID,
                         "\"%s\" is no number of tokens above zero, as 500K or 20M", text);
    *(uint64_t *)field = n * factor;
    return 0;
}

static int set_requests(const char *text, void *field, struct error *err)
{
    return set_number(text, REQUESTS_MAX, field, err);
}

static int set_share(const char *text, void *field, struct error *err)
{
    double share = strtod(text, NULL);
    if (strspn(text, "0123456789.") != strlen(text) || !(share > 0) || share > SHARE_MAX)
        return error_set(err, STATUS_INVALID, "\"%s\" is no share above 0, up to %.0f", text,
                         SHARE_MAX);
    *(double *)field = share;
    return 0;
}

static int set_identity(const char *text, void *field, struct error *err)
{
    enum config_identity *to = field;
    if (strcasecmp(text, "slurm") == 0)
        *to = IDENTITY_SLURM;
    else if (strcasecmp(text, "none") == 0)
        *to = IDENTITY_NONE;
    else
        return error_set(err, STATUS_INVALID, "\"%s\" is neither slurm nor none", text);
    return 0;
}

static int set_sharing(const char *text, void *field, struct error *err)
{
    enum config_sharing *to = field;
    if (strcasecmp(text, "tenant") == 0)
        *to = SHARE_TENANT;
    else if (strcasecmp(text, "all") == 0)
        *to = SHARE_ALL;
    else if (strcasecmp(text, "no") == 0)
        *to = SHARE_NO;
    else
        return error_set(err, STATUS_INVALID, "\"%s\" is none of tenant, all, no", text);
    return 0;
}

static int set_scheduler(const char *text, void *field, struct error *err)
{
    static const char *const names[] = {"slack", "aegaeon", "rr", "fcfs"};
    if (strcmp(text, "sjf") == 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "the scheduler sjf knows the future and is for `modelpool sim`; there "
                         "are: slack, aegaeon, rr, fcfs");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0)
            return set_text(text, field, err);
    return error_set(err, STATUS_UNSUPPORTED,
                     "no scheduler \"%s\"; there are: slack, aegaeon, rr, fcfs", text);
}

static int set_device(const char *text, void *field, struct error *err)
{
    enum config_device *to = field;
    if (strcasecmp(text, "cpu") == 0)
        *to = CONFIG_CPU;
    else if (strcasecmp(text, "cuda") == 0)
        *to = CONFIG_CUDA;
    else
        return error_set(err, STATUS_UNSUPPORTED, "no device \"%s\"; there are: cpu, cuda", text);
    return 0;
}

/* One number: instances of several GPUs are not there yet. */
static int set_gpus(const char *text, void *field, struct error *err)
{
    struct config_instance *in = field;
    if (strspn(text, "0123456789") != strlen(text) || *text == '\0' || strlen(text) > 3)
        return error_set(err, STATUS_UNSUPPORTED,
                         "\"%s\" is not the number of one GPU; instances of several, and "
                         "UUIDs, are not supported yet",
                         text);
    in->gpu = (uint32_t)strtoul(text, NULL, 10);
    in->gpu_given = 1;
    return 0;
}

static int set_pin(const char *text, void *field, struct error *err)
{
    enum config_pin *to = field;
    if (strcasecmp(text, "host") == 0)
        *to = PIN_HOST;
    else if (strcasecmp(text, "gpu") == 0)
        *to = PIN_GPU;
    else
        return error_set(err, STATUS_INVALID, "\"%s\" is neither host nor gpu", text);
    return 0;
}

static int set_precision(const char *text, void *field, struct error *err)
{
    enum order_precision *to = field;
    if (strcasecmp(text, "exact") == 0)
        *to = ORDER_EXACT;
    else if (strcasecmp(text, "fast") == 0)
        *to = ORDER_FAST;
    else
        return error_set(err, STATUS_INVALID, "\"%s\" is neither exact nor fast", text);
    return 0;
}

static int set_listen(const char *text, void *field, struct error *err)
{
    char host[64];
    struct in_addr addr;
    const char *colon = strrchr(text, ':');
    char *end;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || (size_t)(colon - text) >= sizeof host || *end || port == 0 || port > 65535)
        return error_set(err, STATUS_INVALID, "\"%s\" is not ADDRESS:PORT", text);
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    if (inet_pton(AF_INET, host, &addr) != 1 || ntohl(addr.s_addr) >> 24 != 127)
        return error_set(err, STATUS_INVALID,
                         "\"%s\": jobs speak to their own node only; the address must be in "
                         "127.0.0.0/8",
                         text);
    return set_text(text, field, err);
}

/* --- keys ---------------------------------------------------------------------------------------
 */

struct key {
    const char *name;
    size_t offset;
    set_f set;
    int required;
};

#define OFFSET(type, member) offsetof(struct type, member)

static const struct key scalar_keys[] = {
    {"Admission", OFFSET(config, admission), set_yes, 0},
    {"ClusterName", OFFSET(config, cluster), set_name, 0},
    {"Engine", OFFSET(config, engine), set_path, 0},
    {"FairTime", OFFSET(config, fair_us), set_time, 0},
    {"HostCache", OFFSET(config, host_cache), set_cache, 0},
    {"HostCacheDir", OFFSET(config, host_cache_dir), set_path, 0},
    {"Identity", OFFSET(config, identity), set_identity, 0},
    {"Listen", OFFSET(config, listen), set_listen, 0},
    {"LocalUsers", OFFSET(config, local_users), set_yes, 0},
    {"NodeName", OFFSET(config, node), set_name, 0},
    {"RunDir", OFFSET(config, run_dir), set_path, 0},
    {"Scheduler", OFFSET(config, scheduler), set_scheduler, 0},
    {"SharePrefixes", OFFSET(config, share_prefixes), set_sharing, 0},
    {"SlurmBin", OFFSET(config, slurm_bin), set_path, 0},
    {"StateDir", OFFSET(config, state_dir), set_path, 0},
    {"SwapSpace", OFFSET(config, swap_space), set_cache, 0},
    {"TurnTime", OFFSET(config, turn_us), set_time, 0},
    {"User", OFFSET(config, user), set_text, 0},
    {"WaitMax", OFFSET(config, wait_max_us), set_time, 0},
    {0},
};

static const struct key model_keys[] = {
    {"AllowAccounts", OFFSET(config_model, allow_accounts), set_text, 0},
    {"MaxContext", OFFSET(config_model, max_context), set_context, 0},
    {"Path", OFFSET(config_model, path), set_path, 1},
    {"Pin", OFFSET(config_model, pin), set_pin, 0},
    {0},
};

static const struct key instance_keys[] = {
    {"Deterministic", OFFSET(config_instance, deterministic), set_yes, 0},
    {"Device", OFFSET(config_instance, device), set_device, 1},
    {"Gpus", 0, set_gpus, 0},
    {"MaxBatch", OFFSET(config_instance, max_batch), set_batch, 0},
    {"Memory", OFFSET(config_instance, memory_bytes), set_size, 1},
    {"Nodes", OFFSET(config_instance, nodes), set_text, 0},
    {"Precision", OFFSET(config_instance, precision), set_precision, 0},
    {"TensorParallel", OFFSET(config_instance, ranks), set_ranks, 0},
    {"Threads", OFFSET(config_instance, threads), set_threads, 0},
    {0},
};

static const struct key slo_keys[] = {
    {"TBT", OFFSET(config_slo, tbt_us), set_time, 1},
    {"TTFT", OFFSET(config_slo, ttft_us), set_time, 1},
    {0},
};

static const struct key tenant_keys[] = {
    {"MaxRequests", OFFSET(config_tenant, max_requests), set_requests, 0},
    {"Share", OFFSET(config_tenant, share), set_share, 0},
    {"TokensPerDay", OFFSET(config_tenant, tokens_per_day), set_tokens, 0},
    {0},
};

/* "Device, Memory, Nodes": the allowed keys in a refusal. */
static int refuse_key(const char *where, const char *name, const struct key *keys,
                      struct error *err)
{
    char names[300] = "";
    for (; keys->name; keys++) {
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", keys->name);
    }
    return error_set(
        err, STATUS_INVALID, "unknown key %.40s%s; allowed: %s%s", name, where, names,
        *where ? "" : ", and lines that begin with Model, Instance, Slo, Tenant, or Include");
}

static int set_pairs(const struct config_line *line, int from, const struct key *keys,
                     const char *where, void *base, struct error *err)
{
    unsigned seen = 0;
    for (int i = from; i < line->count; i++) {
        const struct key *k = keys;
        while (k->name && strcasecmp(k->name, line->pair[i].key) != 0)
            k++;
        if (!k->name)
            return refuse_key(where, line->pair[i].key, keys, err);
        if (seen & 1u << (k - keys))
            return error_set(err, STATUS_INVALID, "%s= stands twice on the line", k->name);
        seen |= 1u << (k - keys);
        if (k->set(line->pair[i].value, (char *)base + k->offset, err))
            return error_wrap(err, "%s", k->name);
    }
    for (const struct key *k = keys; k->name; k++)
        if (k->required && !(seen & 1u << (k - keys)))
            return error_set(err, STATUS_INVALID, "%s= is missing%s", k->name, where);
    return 0;
}

/* --- lines of several keys -----------------------------------------------------------------------
 */

/* The items with room for one more, zeroed; NULL (the old ones stay): out of memory or too many. */
static void *grow(void *items, size_t count, size_t size, struct error *err)
{
    if (count >= ITEMS_MAX) {
        error_set(err, STATUS_INVALID, "more than %d of them", ITEMS_MAX);
        return NULL;
    }
    char *bigger = realloc(items, (count + 1) * size);
    if (!bigger) {
        error_errno(err, "out of memory");
        return NULL;
    }
    memset(bigger + count * size, 0, size);
    return bigger;
}

static int read_model(struct config *c, const struct config_line *line, struct error *err)
{
    const char *name = line->pair[0].value;
    if (config_check_name("Model", name, err))
        return -1;
    if (config_find_model(c, name))
        return error_set(err, STATUS_EXISTS, "Model=%s stands twice", name);
    struct config_model *all = grow(c->models, c->model_count, sizeof *all, err);
    if (!all)
        return -1;
    c->models = all;
    struct config_model *m = &all[c->model_count++];
    strcpy(m->name, name);
    return set_pairs(line, 1, model_keys, " for a Model", m, err);
}

static int read_instance(struct config *c, const struct config_line *line, struct error *err)
{
    const char *name = line->pair[0].value;
    if (config_check_name("Instance", name, err))
        return -1;
    for (size_t i = 0; i < c->instance_count; i++)
        if (strcmp(c->instances[i].name, name) == 0)
            return error_set(err, STATUS_EXISTS, "Instance=%s stands twice", name);
    struct config_instance *all = grow(c->instances, c->instance_count, sizeof *all, err);
    if (!all)
        return -1;
    c->instances = all;
    struct config_instance *in = &all[c->instance_count++];
    strcpy(in->name, name);
    in->max_batch = BATCH_DEFAULT;
    in->precision = ORDER_FAST;
    in->ranks = 1;
    if (set_pairs(line, 1, instance_keys, " for an Instance", in, err))
        return -1;
    if (in->device == CONFIG_CPU && in->gpu_given)
        return error_set(err, STATUS_INVALID, "Gpus= needs Device=cuda");
    if (in->device == CONFIG_CUDA && in->threads != 0)
        return error_set(err, STATUS_INVALID, "Threads= needs Device=cpu");
    if (in->device == CONFIG_CUDA && in->ranks > 2)
        return error_set(err, STATUS_UNSUPPORTED,
                         "TensorParallel=%u with Device=cuda has not been tried yet: at most 2",
                         in->ranks);
    if (in->device == CONFIG_CUDA && in->ranks > 1 && in->deterministic)
        return error_set(err, STATUS_UNSUPPORTED,
                         "Deterministic=yes with TensorParallel=%u has not been tried on GPUs yet: "
                         "leave out one of them",
                         in->ranks);
    return 0;
}

static int read_slo(struct config *c, const struct config_line *line, struct error *err)
{
    const char *name = line->pair[0].value;
    if (config_check_name("Slo", name, err))
        return -1;
    if (config_find_slo(c, name))
        return error_set(err, STATUS_EXISTS, "Slo=%s stands twice", name);
    struct config_slo *all = grow(c->slos, c->slo_count, sizeof *all, err);
    if (!all)
        return -1;
    c->slos = all;
    struct config_slo *s = &all[c->slo_count++];
    strcpy(s->name, name);
    return set_pairs(line, 1, slo_keys, " for an Slo", s, err);
}

static const struct config_tenant *own_tenant(const struct config *c, const char *account)
{
    for (size_t i = 0; i < c->tenant_count; i++)
        if (strcasecmp(c->tenants[i].name, account) == 0)
            return &c->tenants[i];
    return NULL;
}

static int read_tenant(struct config *c, const struct config_line *line, struct error *err)
{
    const char *name = line->pair[0].value;
    if (config_check_name("Tenant", name, err))
        return -1;
    if (own_tenant(c, name))
        return error_set(err, STATUS_EXISTS, "Tenant=%s stands twice", name);
    struct config_tenant *all = grow(c->tenants, c->tenant_count, sizeof *all, err);
    if (!all)
        return -1;
    c->tenants = all;
    struct config_tenant *t = &all[c->tenant_count++];
    strcpy(t->name, name);
    t->share = 1;
    return set_pairs(line, 1, tenant_keys, " for a Tenant", t, err);
}

static int read_line(const struct config_line *line, void *arg, struct error *err)
{
    struct config *c = arg;
    if (strcasecmp(line->pair[0].key, "Model") == 0)
        return read_model(c, line, err);
    if (strcasecmp(line->pair[0].key, "Instance") == 0)
        return read_instance(c, line, err);
    if (strcasecmp(line->pair[0].key, "Slo") == 0)
        return read_slo(c, line, err);
    if (strcasecmp(line->pair[0].key, "Tenant") == 0)
        return read_tenant(c, line, err);
    return set_pairs(line, 0, scalar_keys, "", c, err);
}

/* --- the whole -----------------------------------------------------------------------------------
 */

static int set_defaults(struct config *c, struct error *err)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    host[strcspn(host, ".")] = '\0';
    c->local_users = 1;
    c->admission = 1;
    c->identity = IDENTITY_SLURM;
    c->turn_us = 250000;
    c->fair_us = 10000000;
    c->wait_max_us = 3600ll * 1000000;
    c->host_cache = HOST_CACHE_DEFAULT;
    return set_text("local", &c->cluster, err) || set_text(host, &c->node, err) ||
                   set_text(LOCALSTATEDIR "/lib/modelpool", &c->state_dir, err) ||
                   set_text(RUNSTATEDIR "/modelpool", &c->run_dir, err) ||
                   set_text("127.0.0.1:811", &c->listen, err) ||
                   set_text("modelpool", &c->user, err) ||
                   set_text(LIBEXECDIR "/modelpool-engine", &c->engine, err) ||
                   set_text("/usr/bin", &c->slurm_bin, err) || set_text("slack", &c->scheduler, err)
               ? -1
               : 0;
}

int config_is_here(const struct config *c, const struct config_instance *in)
{
    size_t len = strlen(c->node);

    for (const char *at = in->nodes; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, c->node, len) == 0 && (at[len] == ',' || at[len] == '\0'))
            return 1;
    }
    return in->nodes == NULL;
}

/* What needs the whole file: on a host of CPUs, a second copy beside the instance's own and the
 * page cache is for those who ask. */
static int settle(struct config *c, struct error *err)
{
    int cuda = 0;
    for (size_t i = 0; i < c->instance_count; i++)
        cuda |= c->instances[i].device == CONFIG_CUDA && config_is_here(c, &c->instances[i]);
    if (c->host_cache == HOST_CACHE_DEFAULT)
        c->host_cache =
            cuda ? (uint64_t)sysconf(_SC_PHYS_PAGES) / 2 * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    for (size_t i = 0; i < c->model_count; i++) {
        if (c->models[i].pin == PIN_HOST && c->host_cache == 0)
            return error_set(
                err, STATUS_INVALID,
                "%s: Model=%s: Pin=host needs HostCache=, which is 0 on a node without "
                "Device=cuda",
                c->path, c->models[i].name);
    }
    return 0;
}

struct config *config_read(const char *path, const char *node, struct error *err)
{
    int rv = -1;
    struct config *c = calloc(1, sizeof *c);
    if (!c) {
        error_errno(err, "out of memory");
        return NULL;
    }
    if (set_defaults(c, err) || set_text(path, &c->path, err))
        goto out;
    if (config_line_each(path, read_line, c, err))
        goto out;
    if (node && set_name(node, &c->node, err))
        goto out;
    if (c->model_count == 0) {
        error_set(err, STATUS_INVALID, "%s: no Model= line: there is nothing to serve", path);
        goto out;
    }
    if (c->instance_count == 0) {
        error_set(err, STATUS_INVALID, "%s: no Instance= line: there is nothing to serve on", path);
        goto out;
    }
    rv = settle(c, err);
out:
    if (rv) {
        config_destroy(c);
        return NULL;
    }
    return c;
}

void config_destroy(struct config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->model_count; i++) {
        free(c->models[i].path);
        free(c->models[i].allow_accounts);
    }
    for (size_t i = 0; i < c->instance_count; i++)
        free(c->instances[i].nodes);
    free(c->models);
    free(c->instances);
    free(c->slos);
    free(c->tenants);
    free(c->path);
    free(c->cluster);
    free(c->node);
    free(c->state_dir);
    free(c->run_dir);
    free(c->listen);
    free(c->user);
    free(c->engine);
    free(c->slurm_bin);
    free(c->scheduler);
    free(c->host_cache_dir);
    free(c);
}

const struct config_model *config_find_model(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->model_count; i++)
        if (strcmp(c->models[i].name, name) == 0)
            return &c->models[i];
    return NULL;
}

const struct config_slo *config_find_slo(const struct config *c, const char *name)
{
    for (size_t i = 0; i < c->slo_count; i++)
        if (strcmp(c->slos[i].name, name) == 0)
            return &c->slos[i];
    return NULL;
}

const struct config_tenant *config_find_tenant(const struct config *c, const char *account)
{
    static const struct config_tenant usual = {.name = TENANT_DEFAULT, .share = 1};
    const struct config_tenant *t = own_tenant(c, account);
    if (!t)
        t = own_tenant(c, TENANT_DEFAULT);
    return t ? t : &usual;
}

void config_apply(struct config *c, struct config *fresh)
{
    struct config old = *c;

    c->slos = fresh->slos;
    c->slo_count = fresh->slo_count;
    fresh->slos = old.slos;
    fresh->slo_count = old.slo_count;
    c->tenants = fresh->tenants;
    c->tenant_count = fresh->tenant_count;
    fresh->tenants = old.tenants;
    fresh->tenant_count = old.tenant_count;
    c->wait_max_us = fresh->wait_max_us;
    for (size_t i = 0; i < fresh->model_count && fresh->identity == c->identity; i++) {
        struct config_model *to = NULL, *from = &fresh->models[i];
        for (size_t k = 0; k < c->model_count && !to; k++)
            if (strcmp(c->models[k].name, from->name) == 0)
                to = &c->models[k];
        if (!to)
            continue;
        char *accounts = to->allow_accounts;
        to->allow_accounts = from->allow_accounts;
        from->allow_accounts = accounts;
    }
}
