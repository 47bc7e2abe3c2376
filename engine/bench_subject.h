/*
 * bench_subject.h - an engine with random models, driven by a bench as the daemon would
 */
#ifndef MP_ENGINE_BENCH_SUBJECT_H
#define MP_ENGINE_BENCH_SUBJECT_H

#include "engine/bench_engine.h"
#include "engine/engine.h"
#include "engine/random_model.h"

#define SUBJECT_FIRST 4u  /* steps of a full batch that are not counted */
#define SUBJECT_STEPS 64u /* that are */

struct subject {
    struct bench_engine how;
    const struct random_shape *shape;
    struct engine *e;
    int daemon; /* its end of the channel */
    uint64_t turn;
    limit_f *found;
    void *arg;
    struct error *err;
    /* Of the events since the last turn began. */
    double step_us[SUBJECT_STEPS]; /* of steps in which every sequence decodes */
    uint32_t steps, full_batch;
    double prefill_us, first_us; /* first_us: of the first step */
    uint64_t prefill_tokens;
    uint32_t finished, yielded; /* sequences, tokens */
    /* Of sequences whose KV moved, since the bench cleared it. */
    uint32_t moved, moved_not;
    uint32_t moved_steps; /* steps at the last one's end */
    uint64_t moved_bytes;
    int64_t moved_start, moved_us;
    struct event_turn_end end;
    char fault[ORDER_TEXT_MAX];
};

/* An engine as `how` says; NULL and *err else.  Figures go to found. */
struct subject *subject_open(const struct bench_engine *how, limit_f *found, void *arg,
                             struct error *err);
void subject_close(struct subject *s);
/* One more random model, of number 1 and up.  Its file is gone when this returns, but to the
 * engine. */
int subject_model(struct subject *s, uint32_t model);
/* Make it resident. */
int subject_load(struct subject *s, uint32_t model);
/* Open a sequence of that number with a random prompt; forget it. */
int subject_sequence(struct subject *s, uint32_t model, uint64_t id, uint32_t prompt,
                     uint32_t output);
void subject_cancel(struct subject *s, uint64_t id);
/* Open a batch of sequences with random prompts. */
int subject_batch(struct subject *s, uint32_t model, uint32_t batch, uint32_t prompt,
                  uint32_t output);
/* Take what the engine has told. */
void subject_events(struct subject *s);
/* One turn, until its quota or until all sequences have ended (0); what it took is in s. */
int subject_turn(struct subject *s, uint32_t model, uint32_t quota_steps);

#endif
