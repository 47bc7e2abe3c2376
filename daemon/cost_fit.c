/* cost_fit.c - recursive least squares; see cost_fit.h */
#include "daemon/cost_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FORGET       0.002 /* of a measurement's weight with each further one; the first ones, */
#define FORGET_FIRST 4.0   /* which the guess spoils, faster: so much over their number */
#define RIDGE        0.01
#define SCALED       8   /* measurements that scale a guess as a whole */
#define GUESS_WEIGHT 1.0 /* of it then */
#define ERROR_FIRST  12u /* measurements, */
#define ERROR_FAST   1.4 /* whose median error is followed faster */
#define ERROR_STEP   1.1 /* the median error is followed by such factors */
#define ERROR_LEAST  1e-3
#define WILD         4.0  /* so many median errors are believed, */
#define WILD_LEAST   0.02 /* of which each is taken to be as much of the prediction */
#define SECONDS_MOST 600.0
#define PREDICT_MIN  1e-9
#define POINT_WEIGHT 10.0 /* of a point, in measurements, at least */

void cost_fit_begin(struct cost_fit *f, const double coefficient[COST_TERMS],
                    const double least[COST_TERMS], double weight)
{
    memset(f, 0, sizeof *f);
    f->scaled = weight > 0 ? SCALED : 0;
    for (int i = 0; i < COST_TERMS; i++) {
        f->guess[i] = coefficient[i] > least[i] ? coefficient[i] : least[i];
        f->value[i] = coefficient[i] > 0 ? coefficient[i] / f->guess[i] : 0;
        f->info[i][i] = weight > 0 ? weight : GUESS_WEIGHT;
    }
    f->error = 1;
}

double cost_fit_coefficient(const struct cost_fit *f, int term)
{
    return f->value[term] * f->guess[term];
}

double cost_fit_predict(const struct cost_fit *f, const double terms[COST_TERMS])
{
    double sum = 0;

    for (int i = 0; i < COST_TERMS; i++)
        sum += cost_fit_coefficient(f, i) * terms[i];
    return sum;
}

/* Gauss-Jordan without pivots: the matrix is symmetric and positive definite. */
static void solve(double a[COST_TERMS][COST_TERMS], double b[COST_TERMS])
{
    for (int k = 0; k < COST_TERMS; k++) {
        double pivot = a[k][k];

        for (int j = 0; j < COST_TERMS; j++)
            a[k][j] /= pivot;
        b[k] /= pivot;
        for (int i = 0; i < COST_TERMS; i++) {
            double times = a[i][k];

            if (i == k)
                continue;
            for (int j = 0; j < COST_TERMS; j++)
                a[i][j] -= times * a[k][j];
            b[i] -= times * b[k];
        }
    }
}

/* The step from f->value to the least squares' minimum at values of 0 or more: a coefficient that
 * would fall below goes to 0, and the others are solved for again. */
static void constrained_step(const struct cost_fit *f, const double gradient[COST_TERMS],
                             double step[COST_TERMS])
{
    int fixed[COST_TERMS] = {0}, again = 1;

    while (again) {
        double a[COST_TERMS][COST_TERMS];

        again = 0;
        for (int i = 0; i < COST_TERMS; i++) {
            step[i] = fixed[i] ? -f->value[i] : gradient[i];
            for (int j = 0; j < COST_TERMS; j++) {
                a[i][j] = fixed[i] ? i == j : f->info[i][j] + (i == j ? RIDGE : 0);
                if (!fixed[i] && fixed[j]) {
                    step[i] += a[i][j] * f->value[j];
                    a[i][j] = 0;
                }
            }
        }
        solve(a, step);
        for (int i = 0; i < COST_TERMS; i++) {
            if (!fixed[i] && !(f->value[i] + step[i] >= 0))
                fixed[i] = again = 1;
        }
    }
}

/* How wrong the prediction was, as far as it is believed; over the prediction. */
static double believed_error(struct cost_fit *f, double seconds, double predicted)
{
    double error = (seconds - predicted) / predicted;
    double relative = fabs(seconds - predicted) / seconds;
    double most = WILD * (f->error > WILD_LEAST ? f->error : WILD_LEAST);

    double factor = f->samples < ERROR_FIRST ? ERROR_FAST : ERROR_STEP;

    f->error *= relative > f->error ? factor : 1 / factor;
    if (f->error > 1)
        f->error = 1;
    if (!(f->error > ERROR_LEAST))
        f->error = ERROR_LEAST;
    if (fabs(error) <= most)
        return error;
    return error > 0 ? most : -most;
}

/* The geometric mean of measured over guessed so far becomes the guess. */
static void scale_guess(struct cost_fit *f, double seconds, double predicted)
{
    double factor = pow(seconds / predicted, 1.0 / ++f->scaled);

    for (int i = 0; i < COST_TERMS; i++)
        f->guess[i] *= factor;
}

void cost_fit_learn(struct cost_fit *f, const double terms[COST_TERMS], double seconds)
{
    double x[COST_TERMS], gradient[COST_TERMS], step[COST_TERMS], error, predicted;
    double forget = FORGET_FIRST / (40 + (double)f->samples);

    if (!(seconds > 0) || seconds > SECONDS_MOST)
        return;
    predicted = cost_fit_predict(f, terms);
    if (!(predicted > PREDICT_MIN))
        predicted = PREDICT_MIN;
    if (f->scaled < SCALED) {
        believed_error(f, seconds, predicted);
        scale_guess(f, seconds, predicted);
        f->samples++;
        return;
    }
    forget = 1 - (forget > FORGET ? forget : FORGET);
    error = believed_error(f, seconds, predicted);
    for (int i = 0; i < COST_TERMS; i++)
        x[i] = terms[i] * f->guess[i] / predicted;
    for (int i = 0; i < COST_TERMS; i++) {
        for (int j = 0; j < COST_TERMS; j++)
            f->info[i][j] = forget * f->info[i][j] + x[i] * x[j];
        gradient[i] = x[i] * error;
    }
    constrained_step(f, gradient, step);
    for (int i = 0; i < COST_TERMS; i++) {
        f->value[i] += step[i];
        if (!(f->value[i] > 0))
            f->value[i] = 0;
    }
    f->samples++;
}

/* --- points ----------------------------------------------------------------------------------- */

/* All coefficients together by how wrong they are in the geometric mean. */
static void scale_to(struct cost_fit *f, const struct cost_point *points, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        double predicted = cost_fit_predict(f, points[i].terms);

        sum += log(points[i].seconds / (predicted > PREDICT_MIN ? predicted : PREDICT_MIN));
    }
    for (int i = 0; i < COST_TERMS; i++) {
        f->guess[i] *= (f->value[i] > 0 ? f->value[i] : 1) * exp(sum / n);
        f->value[i] = f->value[i] > 0;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median_error(const struct cost_fit *f, const struct cost_point *points, uint32_t n)
{
    double *errors = malloc(n * sizeof *errors), median;

    if (errors == NULL)
        return 1;
    for (uint32_t i = 0; i < n; i++)
        errors[i] = fabs(cost_fit_predict(f, points[i].terms) / points[i].seconds - 1);
    qsort(errors, n, sizeof *errors, ascending);
    median = errors[n / 2];
    free(errors);
    return median > ERROR_LEAST ? fmin(median, 1) : ERROR_LEAST;
}

void cost_fit_points(struct cost_fit *f, const struct cost_point *points, uint32_t n,
                     uint32_t steps)
{
    double gradient[COST_TERMS] = {0}, step[COST_TERMS];
    double weight = steps > POINT_WEIGHT ? steps : POINT_WEIGHT;

    scale_to(f, points, n);
    memset(f->info, 0, sizeof f->info);
    for (uint32_t p = 0; p < n; p++) {
        double x[COST_TERMS], error = 1;

        for (int i = 0; i < COST_TERMS; i++) {
            x[i] = points[p].terms[i] * f->guess[i] / points[p].seconds;
            error -= x[i] * f->value[i];
        }
        for (int i = 0; i < COST_TERMS; i++) {
            for (int j = 0; j < COST_TERMS; j++)
                f->info[i][j] += weight * x[i] * x[j];
            gradient[i] += weight * x[i] * error;
        }
    }
    constrained_step(f, gradient, step);
    for (int i = 0; i < COST_TERMS; i++)
        f->value[i] = fmax(f->value[i] + step[i], 0);
    f->scaled = SCALED;
    f->error = median_error(f, points, n);
    if (f->samples < (uint64_t)n * steps)
        f->samples = (uint64_t)n * steps;
}
