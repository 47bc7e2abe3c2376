/*
 * cost_fit.h - a step's time as a sum of terms, corrected by each measurement
 *
 * Recursive least squares of relative errors with forgetting, in its information form (Ljung,
 * System Identification, 2nd ed., 11.2): value += (info + ridge)^-1 x error, with no coefficient
 * below 0. It begins with a guess whose coefficients are taken to be wrong together rather than
 * each by itself: a device is slower or faster than was thought.  The ridge keeps what the
 * measurements do not tell apart as it was; one wild measurement counts as a mildly wrong one.
 */
#ifndef MP_DAEMON_COST_FIT_H
#define MP_DAEMON_COST_FIT_H

#include <stdint.h>

#define COST_TERMS 3

struct cost_fit {
    double guess[COST_TERMS]; /* coefficients at first: seconds a unit of the term, above 0 */
    double value[COST_TERMS]; /* what they are, in guesses */
    double info[COST_TERMS][COST_TERMS];
    double error; /* running median of |measured - predicted| / measured; 1 at first */
    uint64_t samples;
    int scaled; /* measurements that went into the guess's scale */
};

/* Begin with coefficients that count as `weight` measurements; 0: a guess.  `least`, above 0, is
 * what one of them is taken to be for its size if it is 0. */
void cost_fit_begin(struct cost_fit *f, const double coefficient[COST_TERMS],
                    const double least[COST_TERMS], double weight);
struct cost_point { /* a measurement that was made on purpose */
    double terms[COST_TERMS], seconds;
};
/* In place of what was known: least squares of relative errors of all points, each of which stands
 * for `steps` measurements.  What they do not tell apart keeps its proportions.  n >= 1. */
void cost_fit_points(struct cost_fit *f, const struct cost_point *points, uint32_t n,
                     uint32_t steps);
double cost_fit_predict(const struct cost_fit *f, const double terms[COST_TERMS]);
/* A measurement in seconds; what is no number, or not above 0, is not one. */
void cost_fit_learn(struct cost_fit *f, const double terms[COST_TERMS], double seconds);
/* Seconds a unit of a term. */
double cost_fit_coefficient(const struct cost_fit *f, int term);

#endif
