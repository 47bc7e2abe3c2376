/* arch_rope.c - factors of stretched rotary embeddings */
#include <math.h>
#include <string.h>

#include "model/family.h"

static double frequency(const struct arch_rope *r, uint32_t i)
{
    return pow((double)r->theta, -2.0 * i / r->dims);
}

void rope_plain(struct arch_rope *r)
{
    r->scale = 1;
    r->scaled = r->extends = 0;
}

void rope_linear(struct arch_rope *r, double factor)
{
    r->scaled = r->dims / 2;
    for (uint32_t i = 0; i < r->scaled; i++)
        r->factors[i] = (float)factor;
}

void rope_llama3(struct arch_rope *r, double factor, double low, double high, double original)
{
    r->scaled = r->dims / 2;
    for (uint32_t i = 0; i < r->scaled; i++) {
        double turns = original * frequency(r, i) / (2 * M_PI);
        double smooth = (turns - low) / (high - low);
        if (turns < low)
            r->factors[i] = (float)factor;
        else if (turns > high)
            r->factors[i] = 1;
        else
            r->factors[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
}

/* The index of the frequency that turns so often in `original` positions. */
static double turning_index(const struct arch_rope *r, double original, double turns)
{
    return r->dims * log(original / (turns * 2 * M_PI)) / (2 * log((double)r->theta));
}

void rope_yarn(struct arch_rope *r, double factor, double original, double fast, double slow)
{
    double low = fmax(floor(turning_index(r, original, fast)), 0);
    double high = fmin(ceil(turning_index(r, original, slow)), r->dims - 1);

    r->scaled = r->dims / 2;
    if (!(high > low))
        high = low + 0.001;
    for (uint32_t i = 0; i < r->scaled; i++) {
        double stretched = fmin(fmax((i - low) / (high - low), 0), 1);
        r->factors[i] = (float)(1 / (stretched / factor + 1 - stretched));
    }
    r->scale = factor > 1 ? (float)(0.1 * log(factor) + 1) : 1;
}

const float *arch_rope_factors(const struct arch_rope *r, uint32_t context)
{
    if (r->scaled == 0)
        return NULL;
    return r->extends != 0 && context > r->extends ? r->long_factors : r->factors;
}
