/*
 * policy_bench.h - the policy thread with a simulated engine (tests/tools/fake_engine.c), and
 * clients
 *
 * Every token that comes is compared with what it must be, so one that is lost, doubled or put in
 * another place is seen, whatever was killed in between.
 */
#ifndef MP_TESTS_UNIT_POLICY_BENCH_H
#define MP_TESTS_UNIT_POLICY_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/types.h>

#include "common/clock.h"
#include "daemon/policy_state.h"
#include "tests/tools/fake_engine.h"

#define STREAMS 64
#define WAIT_US 30000000
#define MB      (1024u * 1024u)

struct stream { /* what a client has seen of a sequence */
    uint32_t model, prompt, count;
    uint32_t *tokens;
    int done;
    enum finish finish;
    enum status status;
    struct policy_usage usage;
    char text[ORDER_TEXT_MAX];
    uint32_t logprobs;              /* as asked for */
    struct event_logprobs heard;    /* the last ones */
    int admitted, waiting, refused; /* events of policy_admit */
};

struct bench {
    struct config config;
    struct config_model models[4];
    struct config_instance instances[2];
    struct policy_limits limits;
    struct mailbox *sink;
    struct policy *policy;
    struct stream streams[STREAMS]; /* by sequence number */
    char folder[64], engine[512], paths[4][128];
    uint32_t order[4096], order_count; /* models of the rows as they came */
    int replies;
    struct {
        uint64_t tag;
        enum status status;
        char text[ORDER_TEXT_MAX];
    } last_reply;
    int arrivals[4], departures[4]; /* POLICY_MODEL */
    struct policy_cost costs[4];    /* the last of each model */
    uint64_t admissions[STREAMS];   /* sequences in the order of their promises */
    uint32_t admission_count;
    int64_t ttft_us, tbt_us; /* of the next requests */
    uint32_t tenant;
};

int bench_setup(void **state);
/* Stops what runs, forgets FAKE_* of the environment. */
int bench_teardown(void **state);
#define bench_test(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

/* A model file of that many bytes: its weights. */
void add_model(struct bench *b, const char *name, off_t bytes);
void add_instance(struct bench *b, const char *name, uint64_t memory);
void bench_start(struct bench *b);

/* Prompt: `first`, then numbers made from the sequence's.  Some ask for log probabilities, which
 * then come ahead of each token, and some have biases. */
void submit(struct bench *b, uint64_t seq, uint32_t model, uint32_t first, uint32_t prompt,
            uint32_t max_tokens);
/* Ask for a promise for it, with bench's SLO. */
void ask(struct bench *b, uint64_t seq, uint32_t model, int64_t wait_us);
void take_events(struct bench *b, int wait_ms);

#define wait_until(b, condition)                                                                   \
    do {                                                                                           \
        int64_t deadline = clock_monotonic_us() + WAIT_US;                                         \
        while (!(condition) && clock_monotonic_us() < deadline)                                    \
            take_events(b, 20);                                                                    \
        if (!(condition))                                                                          \
            fail_msg("%s did not come true in time", #condition);                                  \
    } while (0)

/* Of sequences from..to. */
int all_done(const struct bench *b, uint64_t from, uint64_t to);
int all_have(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens);
uint32_t generated(const struct bench *b, uint64_t seq);
void expect_length(const struct bench *b, uint64_t from, uint64_t to, uint32_t tokens);
void expect_fault(const struct bench *b, uint64_t seq, enum status status, const char *part);

struct policy_instance_status instance_status(struct bench *b, uint32_t i);
struct policy_model_status model_status(struct bench *b, uint32_t i, uint32_t model);
int state_is(struct bench *b, uint32_t i, const char *word);
/* SIGKILL to the first instance's engine, once there is one. */
void kill_engine(struct bench *b);

#endif
