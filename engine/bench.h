/*
 * bench.h - benches that need the device, for `modelpool bench` and by hand
 */
#ifndef MP_ENGINE_BENCH_H
#define MP_ENGINE_BENCH_H

#include <stdint.h>
#include <stdio.h>

#include "engine/bench_engine.h"

struct bench {
    const char *name;           /* of the bench */
    uint32_t gpu;               /* among the visible ones */
    int json;                   /* 1: everything, all samples; 0: a table of medians */
    const char *machine;        /* for the record: NULL: the host's name */
    const char *commit;         /* for the record: NULL: not known */
    const char *command;        /* for the record */
    const char *out;            /* make-model: the file */
    struct bench_engine engine; /* of the bench of that name; its gpu is the one above */
};

/* Run it and write what it found to f.  INVALID: no bench of that name. */
int bench_run(const struct bench *b, FILE *f, struct error *err);

#endif
