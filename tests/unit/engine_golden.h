/*
 * engine_golden.h - what an independent reference says of a real model: tests/golden/engine/
 */
#ifndef MP_TESTS_ENGINE_GOLDEN_H
#define MP_TESTS_ENGINE_GOLDEN_H

#include <stdint.h>

#define PROMPTS_MAX 32u
#define PROMPT_MAX  1024u
#define STEPS_MAX   64u
#define TOP         20u
#define LOGIT_STEPS 4u

/* A model that the environment may name, and how much of it is in its file. */
struct suite {
    const char *environment, *file;
    uint32_t prompts, steps;
    uint64_t memory;
};

struct top {
    uint32_t step, count;
    uint32_t tokens[TOP];
    double logits[TOP];
};

struct golden {
    uint32_t prompt[PROMPT_MAX], length;
    uint32_t tokens[STEPS_MAX], count;
    double gap; /* the narrowest between the two highest logits */
    struct top tops[LOGIT_STEPS];
    uint32_t top_count;
};

extern const struct suite suite_smollm2, suite_gemma3;

/* The model's path; the test is skipped, and says so, where there is none. */
const char *golden_model(const struct suite *suite);
/* golden[suite->prompts]; fails the test where the file is not what it should be. */
void golden_read(const struct suite *suite, struct golden *golden);

#endif
