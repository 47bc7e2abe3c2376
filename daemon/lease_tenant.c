/*
 * lease_tenant.c - tenants: the accounts behind leases, with their shares and quotas (Tenant=)
 *
 * A day is the local one, from midnight to midnight.  A request's tokens belong to the day on which
 * it began, as its ledger row has it, so that a restart finds the same sums.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "daemon/lease_set.h"

/* --- days ------------------------------------------------------------------------------------- */

int64_t leases_today(int64_t *ends_us)
{
    time_t now = (time_t)(clock_wall_us() / 1000000);
    struct tm tm;

    if (localtime_r(&now, &tm) == NULL)
        memset(&tm, 0, sizeof(tm));
    tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
    tm.tm_isdst = -1;
    struct tm next = tm;
    next.tm_mday++; /* mktime() knows how long months and days are */
    if (ends_us)
        *ends_us = (int64_t)mktime(&next) * 1000000;
    return (int64_t)mktime(&tm) * 1000000;
}

/* --- the set ---------------------------------------------------------------------------------- */

static void set_limits(struct leases *l, struct tenant *t)
{
    const struct config_tenant *c = config_find_tenant(l->f->config, t->account);

    t->share = c->share;
    t->tokens_per_day = c->tokens_per_day;
    t->max_requests = c->max_requests;
    if (t->number == 0) /* who is not known yet has a share, and no quotas */
        t->tokens_per_day = t->max_requests = 0;
    if (l->f->policy)
        policy_set_share(l->f->policy, t->number, t->share);
}

static struct tenant *add(struct leases *l, const char *account)
{
    struct tenant *t = calloc(1, sizeof(*t));
    struct tenant **array = reallocarray(l->tenant, (size_t)l->tenant_count + 1, sizeof(*array));

    if (array)
        l->tenant = array;
    if (!t || !array) {
        free(t);
        return NULL;
    }
    snprintf(t->account, sizeof(t->account), "%s", account);
    t->number = l->tenant_count;
    l->tenant[l->tenant_count++] = t;
    set_limits(l, t);
    return t;
}

int leases_tenants_create(struct leases *l, struct error *err)
{
    return add(l, "") ? 0 : error_set(err, STATUS_NOMEM, "no memory for tenants");
}

void leases_tenants_destroy(struct leases *l)
{
    for (uint32_t i = 0; i < l->tenant_count; i++)
        free(l->tenant[i]);
    free(l->tenant);
}

uint32_t leases_tenant(struct leases *l, const char *account)
{
    for (uint32_t i = 1; i < l->tenant_count; i++)
        if (strcmp(l->tenant[i]->account, account) == 0)
            return i;
    struct tenant *t = add(l, account);
    return t ? t->number : 0;
}

void leases_reload_tenants(struct leases *l)
{
    for (uint32_t i = 0; i < l->tenant_count; i++)
        set_limits(l, l->tenant[i]);
}

static int restore_account(const char *account, uint64_t tokens, void *arg)
{
    struct leases *l = arg;
    uint32_t number = *account ? leases_tenant(l, account) : 0;

    if (number == 0)
        return 0; /* its lease brings them when it is known */
    l->tenant[number]->day = leases_today(NULL);
    l->tenant[number]->tokens = tokens;
    return 0;
}

int leases_restore_tenants(struct leases *l, struct db *db, struct error *err)
{
    int64_t today = leases_today(NULL);

    for (size_t i = 0; i < l->lease_count; i++) {
        struct lease *lease = l->lease[i];
        if (lease->identified || lease->row.created_us < today)
            continue;
        lease->day = today;
        lease->day_tokens = lease->used;
    }
    return db_each_account(db, today, restore_account, l, err);
}

/* --- tokens of a day -------------------------------------------------------------------------- */

/* Add to a day's sum, which begins anew when the day is a later one. */
static void add_tokens(int64_t *day, uint64_t *sum, int64_t to_day, int64_t tokens)
{
    if (to_day < *day)
        return;
    if (to_day > *day)
        *sum = 0;
    *day = to_day;
    if (tokens < 0 && (uint64_t)-tokens > *sum)
        *sum = 0;
    else
        *sum += (uint64_t)tokens;
}

void leases_count_tokens(struct leases *l, struct lease *lease, int64_t day, int64_t tokens)
{
    struct tenant *t = l->tenant[lease->tenant];

    add_tokens(&lease->day, &lease->day_tokens, day, tokens);
    add_tokens(&t->day, &t->tokens, day, tokens);
}

void leases_identified(struct leases *l, struct lease *lease)
{
    lease->tenant = leases_tenant(l, lease->row.account);
    if (lease->tenant != 0 && lease->day_tokens > 0) {
        struct tenant *t = l->tenant[lease->tenant], *unknown = l->tenant[0];
        add_tokens(&unknown->day, &unknown->tokens, lease->day, -(int64_t)lease->day_tokens);
        add_tokens(&t->day, &t->tokens, lease->day, (int64_t)lease->day_tokens);
    }
    if (l->f->http)
        http_lease_identified(l->f->http, lease);
}

uint64_t leases_day_left(const struct leases *l, const struct lease *lease, int64_t day)
{
    const struct tenant *t = l->tenant[lease->tenant];

    if (t->tokens_per_day == 0 || day < t->day)
        return UINT64_MAX;
    if (day > t->day)
        return t->tokens_per_day;
    return t->tokens >= t->tokens_per_day ? 0 : t->tokens_per_day - t->tokens;
}

int leases_day_refusal(const struct leases *l, const struct lease *lease, uint64_t tokens,
                       struct error *err)
{
    const struct tenant *t = l->tenant[lease->tenant];

    return error_set(err, STATUS_EXHAUSTED,
                     "account \"%s\" has used %" PRIu64 " of its %" PRIu64
                     " tokens of today (TokensPerDay=), and the prompt alone takes %" PRIu64
                     "; the next day begins at midnight",
                     t->account, t->tokens, t->tokens_per_day, tokens);
}

/* --- requests at once ------------------------------------------------------------------------- */

static uint32_t requests_of(const struct leases *l, uint32_t tenant)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < l->grant_count; i++)
        if (l->grant[i]->lease->tenant == tenant)
            sum += l->grant[i]->requests;
    return sum;
}

int leases_check_requests(const struct leases *l, const struct lease *lease, struct error *err)
{
    const struct tenant *t = l->tenant[lease->tenant];

    if (t->max_requests == 0 || requests_of(l, t->number) < t->max_requests)
        return 0;
    return error_set(err, STATUS_EXHAUSTED,
                     "account \"%s\" has %" PRIu32
                     " requests that run or wait, and more are not taken (MaxRequests=)",
                     t->account, t->max_requests);
}

void leases_each_tenant(const struct leases *l,
                        void (*each)(const struct tenant *, uint32_t requests, void *), void *arg)
{
    for (uint32_t i = 0; i < l->tenant_count; i++)
        each(l->tenant[i], requests_of(l, i), arg);
}

int leases_has_tenant(const struct leases *l, uint32_t tenant, int64_t uid)
{
    for (size_t i = 0; i < l->lease_count; i++)
        if (!l->lease[i]->ended && l->lease[i]->tenant == tenant && l->lease[i]->row.uid == uid)
            return 1;
    return 0;
}
