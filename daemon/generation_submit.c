/* generation_submit.c - from a request to the policy's, one for each choice; see generation_state.h
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/generation_state.h"

/* The numbers under which users share prefixes: above those of tenants. */
#define SHARING_USERS 0x80000000u

static void free_request(struct policy_request *r)
{
    if (!r)
        return;
    free(r->tokens);
    free(r->biases);
    free(r);
}

/* Whose prefixes a request's may share pages with.  The accounts of jobs tell tenants apart; where
 * there are none, users do.  A lease whose account is not known yet shares with nobody. */
static uint32_t sharing(const struct generation *g)
{
    const struct config *config = g->all->f->config;
    const struct lease *lease = g->grant->lease;

    if (config->share_prefixes != SHARE_TENANT)
        return config->share_prefixes == SHARE_ALL ? UINT32_MAX : 0;
    if (lease->row.job != 0 && config->identity != IDENTITY_NONE)
        return lease->tenant;
    return lease->row.uid >= 0 && lease->row.uid < SHARING_USERS - 1
               ? SHARING_USERS + (uint32_t)lease->row.uid
               : 0;
}

/* A choice's own copy of what is asked; NULL without memory. */
static struct policy_request *request_of(const struct generation *g, const struct choice *c)
{
    struct policy_request *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    *r = (struct policy_request){
        .seq = generation_seq(g, c),
        .model = g->model,
        .tenant = g->grant->lease->tenant,
        .sharing = sharing(g),
        .max_tokens = g->request.max_tokens,
        .token_count = g->prompt_count,
        .tokens = malloc(g->prompt_count * sizeof *r->tokens),
        .ttft_us = g->grant->ttft_us,
        .tbt_us = g->grant->tbt_us,
        .sampling = g->request.sampling,
        .logprobs = g->request.logprobs,
        .bias_count = g->request.bias_count,
        .biases = calloc(g->request.bias_count + 1u, sizeof *r->biases),
    };
    if (!r->tokens || !r->biases) {
        free_request(r);
        return NULL;
    }
    r->sampling.seed += (uint64_t)(c - g->choices);
    memcpy(r->tokens, g->prompt, g->prompt_count * sizeof *r->tokens);
    if (r->bias_count > 0)
        memcpy(r->biases, g->request.biases, r->bias_count * sizeof *r->biases);
    return r;
}

int generation_submit(struct generation *g, struct error *err)
{
    struct policy_request *requests[OPENAI_CHOICES_MAX] = {NULL};
    uint32_t made = 0;

    while (made < g->request.n && (requests[made] = request_of(g, &g->choices[made])))
        made++;
    if (made < g->request.n) {
        for (uint32_t i = 0; i < made; i++)
            free_request(requests[i]);
        return error_set(err, STATUS_NOMEM, "out of memory");
    }
    free(g->prompt);
    g->prompt = NULL;
    generation_set_state(g, RUNNING);
    metrics_prompt(g->all->metrics, g->model, g->prompt_count);
    for (uint32_t i = 0; i < g->request.n; i++) {
        g->choices[i].submitted = 1;
        g->submitted++;
        policy_submit(g->all->f->policy, requests[i]);
    }
    return 0;
}
