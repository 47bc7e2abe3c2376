/*
 * sim_random.c - random numbers by counter: splitmix64's finalizer of key and counter (Steele, Lea,
 * Flood 2014), Box-Muller, Marsaglia and Tsang's gamma (2000), and laws of lengths
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim.h"

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct sim_random sim_random_stream(uint64_t seed, uint64_t stream)
{
    return (struct sim_random){.key = mix(mix(seed + 0x9e3779b97f4a7c15u) ^ (stream + 1))};
}

double sim_uniform(struct sim_random *r)
{
    uint64_t bits = mix(r->key + ++r->counter * 0x9e3779b97f4a7c15u) >> 11;

    return ((double)bits + 0.5) / 9007199254740992.0;
}

double sim_exponential(struct sim_random *r)
{
    return -log(sim_uniform(r));
}

double sim_normal(struct sim_random *r)
{
    double radius = sqrt(-2 * log(sim_uniform(r)));

    return radius * cos(6.283185307179586 * sim_uniform(r));
}

double sim_gamma(struct sim_random *r, double shape)
{
    double boost = shape < 1 ? pow(sim_uniform(r), 1 / shape) : 1;
    double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d);

    for (;;) {
        double x = sim_normal(r), v = 1 + c * x;

        v = v * v * v;
        if (v > 0 && log(sim_uniform(r)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v * boost;
    }
}

/* --- laws of lengths -------------------------------------------------------------------------- */

enum law { LAW_LOGNORMAL, LAW_EXPONENTIAL, LAW_FIXED, LAW_QUANTILE };

static const struct {
    const char *name;
    int numbers;
} laws[] = {{"lognormal", 2}, {"exponential", 1}, {"fixed", 1}, {"quantile", 4}};

/* The law and its numbers, or -1. */
static int parse(const char *text, double v[4])
{
    const char *colon = strchr(text, ':');

    for (size_t i = 0; colon != NULL && i < sizeof laws / sizeof laws[0]; i++) {
        const char *at = colon + 1;
        char *end;
        int k = 0;

        if ((size_t)(colon - text) != strlen(laws[i].name) ||
            strncmp(text, laws[i].name, strlen(laws[i].name)) != 0)
            continue;
        for (; k < laws[i].numbers; k++) {
            v[k] = strtod(at, &end);
            if (end == at || !isfinite(v[k]) || !(v[k] >= 0) || v[k] > 1e9 ||
                *end != (k + 1 < laws[i].numbers ? ',' : '\0'))
                return -1;
            at = end + 1;
        }
        if (i == LAW_QUANTILE && !(v[0] >= 1 && v[0] <= v[1] && v[1] <= v[2] && v[2] <= v[3]))
            return -1;
        return (int)i;
    }
    return -1;
}

int sim_law_check(const char *law, struct error *err)
{
    double v[4];

    if (parse(law, v) >= 0)
        return 0;
    return error_set(err, STATUS_INVALID,
                     "\"%s\" is no law of lengths; there are lognormal:MU,SIGMA, exponential:MEAN, "
                     "fixed:N, quantile:P0,P50,P95,P100",
                     law);
}

static double between(double from, double to, double part)
{
    return from * pow(to / from, part);
}

double sim_length(struct sim_random *r, const char *law)
{
    double v[4] = {0}, u;

    switch (parse(law, v)) {
    case LAW_LOGNORMAL:
        return exp(v[0] + v[1] * sim_normal(r));
    case LAW_EXPONENTIAL:
        return v[0] * sim_exponential(r);
    case LAW_QUANTILE:
        u = sim_uniform(r);
        if (u < 0.5)
            return between(v[0], v[1], u / 0.5);
        if (u < 0.95)
            return between(v[1], v[2], (u - 0.5) / 0.45);
        return between(v[2], v[3], (u - 0.95) / 0.05);
    default:
        return v[0];
    }
}
