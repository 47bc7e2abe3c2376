/*
 * config.h - modelpool.conf, in slurm.conf's grammar
 *
 * Lines of Key=Value; keys are case-insensitive, `#` starts a comment, a backslash at the end joins
 * lines, a value with blanks stands in double quotes, `Include FILE` reads another file.  Unknown
 * keys are refused and the allowed ones named.  Sizes take K, M, G (1024); times take plain
 * seconds, decimals, or a unit of ms, s, m, h.
 */
#ifndef MP_COMMON_CONFIG_H
#define MP_COMMON_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/order.h"

#define NAME_MAX_BYTES 64 /* model, instance, SLO, tenant names: [A-Za-z0-9][A-Za-z0-9._-]* */

/* Where a model stays: nowhere, in the host tier, and also in the memory of each instance. */
enum config_pin { PIN_NONE, PIN_HOST, PIN_GPU };

struct config_model {
    char name[NAME_MAX_BYTES];
    char *path;           /* Path= */
    char *allow_accounts; /* AllowAccounts=, comma-separated; NULL: all */
    uint32_t max_context; /* MaxContext=; 0: the model's own */
    enum config_pin pin;  /* Pin=host|gpu */
};

enum config_device { CONFIG_CPU, CONFIG_CUDA };

struct config_instance {
    char name[NAME_MAX_BYTES];
    char *nodes;                    /* Nodes=, comma-separated names; NULL: every node */
    enum config_device device;      /* Device=cpu|cuda */
    uint32_t gpu;                   /* Gpus=, default 0: the first rank's GPU among those we see */
    int gpu_given;                  /* Gpus= stood there */
    uint64_t memory_bytes;          /* Memory=: weights and KV together */
    uint32_t threads;               /* Threads=; 0: one per core that we may use */
    uint32_t ranks;                 /* TensorParallel=1|2|4|8, default 1: parts of each model */
    uint32_t max_batch;             /* MaxBatch=: rows of a step, default 32 */
    enum order_precision precision; /* Precision=exact|fast, default fast */
    int deterministic;              /* Deterministic=yes|no, default no; a CPU always is */
};

struct config_slo {
    char name[NAME_MAX_BYTES];
    int64_t ttft_us, tbt_us;
};

#define TENANT_DEFAULT "DEFAULT"

struct config_tenant { /* a Slurm account, or TENANT_DEFAULT: those without a line */
    char name[NAME_MAX_BYTES];
    double share;            /* Share=, default 1 */
    uint64_t tokens_per_day; /* TokensPerDay=; 0: no limit */
    uint32_t max_requests;   /* MaxRequests=, at once; 0: no limit */
};

enum config_identity { IDENTITY_SLURM, IDENTITY_NONE };
enum config_sharing { SHARE_TENANT, SHARE_ALL, SHARE_NO };

struct config {
    char *path;      /* the file that was read */
    char *cluster;   /* ClusterName=, default "local" */
    char *node;      /* from -N or NodeName=, default the short host name */
    char *state_dir; /* StateDir=, default LOCALSTATEDIR/lib/modelpool */
    char *run_dir;   /* RunDir=, default RUNSTATEDIR/modelpool: control.sock, http.sock */
    char *listen;    /* Listen=ADDR:PORT, loopback only; default 127.0.0.1:811 */
    char *user;      /* User=, a name or uid to drop to; default "modelpool" */
    char *engine;    /* Engine=, path of modelpool-engine; default LIBEXECDIR/... */
    char *slurm_bin; /* SlurmBin=, folder of scontrol and squeue; default "/usr/bin" */
    int local_users; /* LocalUsers=yes|no, default yes */
    enum config_identity identity; /* Identity=slurm|none, default slurm */
    char *scheduler;               /* Scheduler=slack|aegaeon|rr|fcfs, default slack */
    int admission; /* Admission=yes|no, default yes: may a request with an SLO be refused? */
    /* HostCache=: host memory for weights that are not on the device, of all instances of the node
     * together; default half of the host's memory if the node has an instance with Device=cuda,
     * else 0. */
    uint64_t host_cache;
    char *host_cache_dir;               /* HostCacheDir=, default hugetlbfs or /dev/shm: NULL */
    enum config_sharing share_prefixes; /* SharePrefixes=tenant|all|no, default tenant */
    uint64_t swap_space; /* SwapSpace=, default 0: KV in host memory, of all instances of the node
                          * together */
    int64_t turn_us;     /* TurnTime=, default 0.25 s: the longest turn while others wait */
    int64_t fair_us; /* FairTime=, default 10 s: GPU time over share that tenants may differ by */
    int64_t wait_max_us; /* WaitMax=, default 1 h: ceiling of --model-wait */
    struct config_model *models;
    size_t model_count;
    struct config_instance *instances;
    size_t instance_count;
    struct config_slo *slos;
    size_t slo_count;
    struct config_tenant *tenants;
    size_t tenant_count;
};

/* Read and check a file.  The error says "FILE:LINE: ..." .  Caller owns; config_destroy(NULL) ok.
 */
struct config *config_read(const char *path, const char *node, struct error *err);
void config_destroy(struct config *c);
/* Is the instance one of this node's? */
int config_is_here(const struct config *c, const struct config_instance *in);
/*
 * What may change while a daemon runs, from its file as read again: Slo=, Tenant=, WaitMax= and, of
 * models that both have, AllowAccounts= (unless Identity= changed, which the accounts are known
 * by). All else stays.  *fresh is still the caller's.  No other thread may look at these fields.
 */
void config_apply(struct config *c, struct config *fresh);
/* NULL if there is none of that name. */
const struct config_model *config_find_model(const struct config *c, const char *name);
const struct config_slo *config_find_slo(const struct config *c, const char *name);
/* The account's line, else that of TENANT_DEFAULT, else share 1 and no limits; never NULL.  Case
 * does not count, as in Slurm. */
const struct config_tenant *config_find_tenant(const struct config *c, const char *account);

/* Text to values, shared with the plugin and the command line; the text names the value. */
int config_parse_size(const char *text, uint64_t *bytes, struct error *err);
int config_parse_time(const char *text, int64_t *us, struct error *err);
/* A legal name; INVALID otherwise. */
int config_check_name(const char *what, const char *name, struct error *err);
/* `CLASS` or `ttft:T,tbt:T`.  A class leaves both times 0: the daemon looks it up. */
int config_parse_slo(const char *text, int64_t *ttft_us, int64_t *tbt_us, struct error *err);
/* Comma-separated names, each legal, none twice, at most 16. */
int config_check_models(const char *text, struct error *err);

#endif
