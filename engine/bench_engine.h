/*
 * bench_engine.h - how fast an engine decodes and reads prompts, with random weights of a shape
 *
 * The engine that serves, driven by its own orders: sequences with random prompts, turns without a
 * quota.  A decode sample is the time of one step in which every sequence of the batch decodes; a
 * prefill sample that of all steps which read the prompts.  The shape's arithmetic gives the bytes
 * that a step must read (weights and keys and values once), and the operations of a prompt.
 */
#ifndef MP_ENGINE_BENCH_ENGINE_H
#define MP_ENGINE_BENCH_ENGINE_H

#include "kernels/cuda/limits.h"

struct bench_engine {
    const char *shape, *dtype;   /* as random_model.h names them */
    const char *model;           /* of prepare: a GGUF file */
    uint32_t device;             /* enum order_device */
    uint32_t gpu, threads;       /* of the one or the other */
    uint32_t ranks;              /* TensorParallel=; 0, 1: one */
    uint32_t precision;          /* enum precision */
    int deterministic;           /* device_deterministic() */
    uint64_t memory_bytes;       /* weights and KV */
    uint64_t host_bytes;         /* of master copies in host memory */
    uint64_t swap_bytes;         /* of KV there: bench_swap's own */
    double copy_rate;            /* GB/s from host to device, of this run; 0: not measured */
    uint32_t samples, names;     /* of switch: of each figure, and models in rotation */
    uint32_t batch_max, context; /* of decode: the largest batch, and tokens of prompt before it */
    uint32_t prompt_max;         /* of prefill: the longest prompt */
    uint32_t steps, models;      /* of soak */
};

/* INVALID: no such shape or type.  Figures are given as they come. */
int bench_engine(const struct bench_engine *how, limit_f *found, void *arg, struct error *err);

/* Switches between models whose master copies are in host memory, with batches whose keys and
 * values stay on the device: with nothing in memory, to what is there, and `names` models of a few
 * shapes in rotation, each prefetched in the turn before its own; then how fast an engine starts.
 * memory_bytes holds three of them.  INTERNAL if fewer bytes were copied than loads ask for. */
int bench_switch(const struct bench_engine *how, limit_f *found, void *arg, struct error *err);

/* The KV of batch_max sequences of so much context, of one of two models, to host memory and back:
 * alone, and while the other model decodes. */
int bench_swap(const struct bench_engine *how, limit_f *found, void *arg, struct error *err);

/* So many steps of batch_max sequences of each model, which come, go and are cancelled, in turns of
 * random length.  INTERNAL if memory grew after the first quarter, or a page or a handle is lost.
 */
int bench_soak(const struct bench_engine *how, limit_f *found, void *arg, struct error *err);
/* From the model's file on disk to a master copy in shared memory, and from there to memory on a
 * CPU; beside the disk's own rate, measured in turns with it. */
int bench_prepare(const struct bench_engine *how, limit_f *found, void *arg, struct error *err);

#endif
