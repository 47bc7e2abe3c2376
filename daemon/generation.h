/*
 * generation.h - a chat or text completion from admission to the last byte
 *
 * States, and what ends each:
 *   HELD     no instance can take it yet (leases_ready): asked again every 100 ms
 *   ASKING   it has an SLO: can that be promised now?  The policy is asked, and it may have to wait
 *   OPENING  its ledger row is on the way to the disk
 *   RUNNING  submitted to the policy: tokens come
 *   ENDING   nothing more is wanted (finished, stopped, cancelled, failed): POLICY_DONE is awaited
 *   CLOSING  its ledger row is being closed; the last bytes go out after that commit
 *
 * A token counts when the front has taken it: before a stop string's end, within the budget, while
 * somebody listens.  A request that ends early is billed what its socket has taken.
 */
#ifndef MP_DAEMON_GENERATION_H
#define MP_DAEMON_GENERATION_H

#include <event2/event.h>
#include <event2/http.h>

#include "daemon/front.h"
#include "daemon/metrics.h"
#include "daemon/openai.h"
#include "daemon/stream.h"

/* At once, and of their choices; a power of two: the low bits of a sequence's number, above which
 * is the choice's. */
#define GENERATIONS_MAX 4096u
#define REQUEST_ID_MAX  48u

struct generation;

struct generations { /* all of them; part of struct http */
    struct front *f;
    struct metrics *metrics;
    struct generation *slot[GENERATIONS_MAX];
    uint64_t started; /* makes sequence numbers unique */
    uint32_t count, held, asking;
    uint32_t choices;        /* of all of them */
    struct event *poll;      /* asks again for those held */
    int stopping;            /* no new ones */
    void (*idle)(void *arg); /* called when the last one has ended */
    void *idle_arg;
};

int generations_init(struct generations *all, struct front *f, struct metrics *metrics,
                     struct error *err);
/* Frees what is left without a word to anybody; ledger rows that are open stay so. */
void generations_fini(struct generations *all);

/*
 * Take on a checked request.  *request moves in (it is empty afterwards); req is answered by the
 * generation.  On failure *e is what to answer, and nothing has happened.
 */
int generation_start(struct generations *all, struct evhttp_request *req, const char *id,
                     struct grant *grant, uint32_t model, struct openai_request *request,
                     struct openai_error *e);

void generations_policy_event(struct generations *all, const struct policy_event *ev);
void generations_grant_ended(struct generations *all, const struct grant *g);
/* End all of them; idle(arg) is called, perhaps at once, when the last one has ended. */
void generations_stop(struct generations *all, void (*idle)(void *arg), void *arg);
/* The lease's account has become known. */
void generations_identified(struct generations *all, const struct lease *lease);
/* Those that are HELD, or ASKING and have to wait. */
void generations_each_waiting(const struct generations *all,
                              void (*each)(const struct http_waiting *, void *), void *arg);
/* Per model: gauges[config->model_count], zeroed by the caller. */
void generations_count(const struct generations *all, struct metrics_gauge *gauges);

#endif
