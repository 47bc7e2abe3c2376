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

#define SUBJECT_MODELS 64u
#define SUBJECT_TURNS  4u /* that it remembers */

struct subject_model {
    const struct random_shape *shape;
    int files[ORDER_FILES_MAX]; /* without weights once its master copy is there */
    uint32_t file_count;
    struct order_model order;
    int master; /* memory of its master copy; -1: there is none */
    uint8_t key[ORDER_KEY];
    int complete;
};

struct subject_steps { /* of a turn */
    uint64_t turn;
    int64_t first_us, last_us; /* when its first and last step was told */
    double us;                 /* of all steps */
    uint32_t steps;
    struct event_turn_end end;
};

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
    struct subject_model models[SUBJECT_MODELS]; /* by their number, from 1 */
    uint64_t host_used;                          /* of how.host_bytes */
    struct subject_steps turns[SUBJECT_TURNS];   /* by their numbers' remainders */
    uint64_t loads, loaded_bytes;                /* since the beginning */
    char fault[ORDER_TEXT_MAX];
};

/* An engine as `how` says; NULL and *err else.  Figures go to found. */
struct subject *subject_open(const struct bench_engine *how, limit_f *found, void *arg,
                             struct error *err);
void subject_close(struct subject *s);
/* One more random model, of number 1 and up, with an empty master copy if there is room for one,
 * which the first load fills; its files are forgotten then. */
int subject_model(struct subject *s, uint32_t model);
/* The same of another shape. */
int subject_model_of(struct subject *s, uint32_t model, const char *shape);
/* A model of the same contents as another one, whose complete master copy it reads, too. */
int subject_same(struct subject *s, uint32_t model, uint32_t as);
/* Prepare its master copy, and wait until it is pinned. */
int subject_prepare(struct subject *s, uint32_t model);
/* Lend its complete master copy, or take it back. */
void subject_lend(struct subject *s, uint32_t model, int back);
/* Make it resident. */
int subject_load(struct subject *s, uint32_t model);
/* Open a sequence of that number with a random prompt; forget it. */
int subject_sequence(struct subject *s, uint32_t model, uint64_t id, uint32_t prompt,
                     uint32_t output);
void subject_cancel(struct subject *s, uint64_t id);
void subject_cancel_all(struct subject *s);
/* Open a batch of sequences with random prompts. */
int subject_batch(struct subject *s, uint32_t model, uint32_t batch, uint32_t prompt,
                  uint32_t output);
/* Queue a turn; its number.  And go on for one step or so; 1 if turns are held still. */
uint64_t subject_queue(struct subject *s, uint32_t model, uint32_t quota_steps, uint64_t quota_us);
int subject_advance(struct subject *s);
/* What is known of a turn. */
const struct subject_steps *subject_steps(const struct subject *s, uint64_t turn);
/* Take what the engine has told. */
void subject_events(struct subject *s);
/* 0, or -1 with what went wrong. */
int subject_check(struct subject *s);
/* Models, among them those that are there, in turns of equal length, each loaded behind the turn
 * before its own. */
int bench_rotation(struct subject *s);
/* How long an engine takes to start with the first model, whose master copy is there. */
int bench_start(struct subject *s);
/* One turn, until its quota or until all sequences have ended (0); what it took is in s. */
int subject_turn(struct subject *s, uint32_t model, uint32_t quota_steps);

#endif
