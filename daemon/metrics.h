/*
 * metrics.h - what /metrics shows, in Prometheus' text format 0.0.4
 *
 * Requests are counted here, per model; engines' numbers come from a policy snapshot at the time of
 * asking.  Names are vLLM's where it has the same thing, so that dashboards carry over; ours begin
 * with modelpool_.  Owned by the front loop; no locks.
 */
#ifndef MP_DAEMON_METRICS_H
#define MP_DAEMON_METRICS_H

#include <event2/buffer.h>
#include <stdint.h>

#include "common/config.h"
#include "daemon/policy.h"

enum metrics_finish {
    METRICS_STOP,
    METRICS_LENGTH,
    METRICS_ABORT, /* the client or the step went away */
    METRICS_ERROR,
    METRICS_FINISHES
};

enum metrics_refusal { /* 429, and why */
                       METRICS_BUDGET,
                       METRICS_TOKENS_PER_DAY,
                       METRICS_MAX_REQUESTS,
                       METRICS_ADMISSION,
                       METRICS_WAIT, /* no engine within --model-wait */
                       METRICS_REFUSALS
};

struct metrics;

struct metrics *metrics_create(const struct config *config, struct error *err);
void metrics_destroy(struct metrics *m);

void metrics_prompt(struct metrics *m, uint32_t model, uint64_t tokens);
/* Of a prompt's tokens, those that were not computed. */
void metrics_cached(struct metrics *m, uint32_t model, uint64_t tokens);
/* A request's first token, since its arrival. */
void metrics_first_token(struct metrics *m, uint32_t model, int64_t us);
/* Any later token, since the one before. */
void metrics_next_token(struct metrics *m, uint32_t model, int64_t us);
void metrics_end(struct metrics *m, uint32_t model, enum metrics_finish finish, int64_t us);
void metrics_refuse(struct metrics *m, enum metrics_refusal why);
/* An answer with this HTTP status has begun. */
void metrics_answer(struct metrics *m, int http);

/* An instance that gives tokens: its engine is up and it is not drained. */
int metrics_instance_up(const struct policy_instance_status *s);

struct metrics_gauge { /* of one model, as the front has it now */
    uint32_t running, waiting;
    uint32_t asking; /* for a promise of their SLO */
};
struct metrics_tenant {  /* of one account */
    const char *account; /* "": those that are not known yet */
    uint32_t number;     /* in the snapshot */
    uint32_t requests;
    uint64_t tokens_today, tokens_per_day; /* per day 0: no limit */
};
struct metrics_now {                    /* what is true at the time of asking */
    const struct metrics_gauge *gauges; /* one per model */
    const struct metrics_tenant *tenants;
    size_t tenant_count;
    const struct policy_snapshot *snapshot; /* may be empty (no engines yet) */
    int64_t now_us;                         /* monotonic */
};
/* Append the text.  -1 (NOMEM). */
int metrics_write(const struct metrics *m, const struct metrics_now *now, struct evbuffer *out,
                  struct error *err);

#endif
