/*
 * engine_rig.h - a whole engine in a test's hands
 *
 * The rig plays the daemon on the other end of the channel and drives the engine's own functions in
 * one thread, so that a test decides what happens at each step boundary.  It keeps what each
 * sequence was given.  Helpers fail the test by cmocka's assertions.
 */
#ifndef MP_TESTS_ENGINE_RIG_H
#define MP_TESTS_ENGINE_RIG_H

#include "engine/engine.h"

#define RIG_SEQS   64u
#define RIG_TOKENS 4096u

struct rig_seq {
    uint32_t tokens[RIG_TOKENS]; /* of output */
    uint32_t count;
    uint32_t next_position; /* 0: any */
    uint32_t finish;
    uint32_t prefilled, cached;
    char fault[ORDER_TEXT_MAX];
};

struct rig {
    struct engine *e;
    int fd;          /* the daemon's end */
    uint32_t urgent; /* of the next sequences */
    struct rig_seq *seqs;
    struct event_model model; /* the last of each kind */
    struct event_turn_end turn_end;
    struct event_ready ready;
    struct event_seq_moved moved;
    uint32_t spilled, fetched; /* how often it was so */
    uint32_t sharing;          /* of the sequences that are opened; 0 */
    uint64_t swap_piece;       /* bytes moved between steps; 0: as the engine does */
    struct event_residency residency;
    struct event_master master; /* but for progress */
    uint32_t masters[4];        /* of each enum master_state */
    uint32_t flags;             /* of the next models */
    uint32_t came, went, turns_ended, steps, widest_batch;
    uint64_t turn;
    /* What sequences are opened with from now on, and who hears of their log probabilities. */
    uint32_t logprobs, bias_count;
    const struct token_bias *biases;
    void (*on_logprobs)(struct rig *r, const struct event_logprobs *event);
};

void rig_open(struct rig *r, uint64_t memory_bytes, uint32_t threads, uint32_t max_batch);
/* rig_open() is exact. */
void rig_open_precision(struct rig *r, enum order_precision precision, uint64_t memory_bytes,
                        uint32_t threads, uint32_t max_batch);
/* With host memory for KV. */
void rig_open_swap(struct rig *r, enum order_precision precision, uint64_t memory_bytes,
                   uint64_t swap_bytes, uint32_t threads, uint32_t max_batch);
/* By a hello of the test's own. */
void rig_open_order(struct rig *r, const struct order_hello *hello);
/* Also: the pools are whole once every sequence and weight is gone. */
void rig_close(struct rig *r);

/* The device that MODELPOOL_TEST_DEVICE names: cpu (without it), cuda (exact), cuda-fast or
 * cuda-deterministic (fast, too). */
enum rig_device { RIG_CPU, RIG_CUDA, RIG_CUDA_FAST, RIG_CUDA_DETERMINISTIC };
enum rig_device rig_device(void);
/* Bytes of a handle there. */
uint64_t rig_handle(void);
/* Build a step and run its forward pass; *logits are those of its head rows, or of all rows, until
 * the next call.  NULL: nothing is left.  Positions are left as they were. */
struct step *rig_step(struct engine *e, uint32_t rows_max, int all_rows, const float **logits);

/* Take events until none is left. */
void rig_events(struct rig *r);
void rig_order(struct rig *r, const void *order, int fd);
/* The answer is in r->model. */
void rig_model(struct rig *r, uint32_t id, const char *path, uint32_t max_context);
/* Another shape of pages for the last model, of whom no sequence is open: so many tokens of both
 * kinds; bytes 0: as many as those take. */
void rig_pages(struct rig *r, uint32_t page_tokens, uint64_t bytes, uint64_t local_bytes);
/* Open a sequence and give it its tokens: prompt, then `generated` of those it has been given. */
void rig_seq(struct rig *r, uint64_t seq, uint32_t model, const uint32_t *prompt, uint32_t count,
             uint32_t generated, uint32_t max_tokens, uint32_t flags);
void rig_ref(struct rig *r, enum order_kind kind, uint32_t model, uint64_t seq);
/* Kind and number are filled in. */
void rig_queue_order(struct rig *r, struct order_turn order);
void rig_queue(struct rig *r, uint32_t model, uint32_t quota_steps, uint64_t quota_us);
/* Queue a turn and run until it ends; r->turn_end says how. */
void rig_turn(struct rig *r, uint32_t model, uint32_t quota_steps);
/* Run until one turn more has ended. */
void rig_run(struct rig *r);
/* Forget what a sequence was given. */
void rig_reset(struct rig *r, uint64_t seq);
void rig_assert_empty(struct rig *r);

#endif
