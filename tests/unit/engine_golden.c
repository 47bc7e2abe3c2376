/* engine_golden.c - reads tests/golden/engine/ */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/engine_golden.h"

#define FOLDER SRCDIR "/tests/golden/engine/"

const struct suite suite_smollm2 = {"MODELPOOL_TEST_MODEL", "smollm2.golden", 32, 64,
                                    (uint64_t)1 << 30};
const struct suite suite_gemma3 = {"MODELPOOL_TEST_GEMMA", "gemma3.golden", 16, 64,
                                   (uint64_t)1 << 30};

const char *golden_model(const struct suite *suite)
{
    const char *path = getenv(suite->environment);

    if (path == NULL) {
        print_message("%s is unset: no real model to compare\n", suite->environment);
        skip();
    }
    return path;
}

static uint32_t read_list(const char *text, uint32_t *out, uint32_t room)
{
    uint32_t count = 0;
    char *end;

    for (;; text = end) {
        unsigned long v = strtoul(text, &end, 10);
        if (end == text)
            return count;
        assert_true(count < room && v <= UINT32_MAX);
        out[count++] = (uint32_t)v;
    }
}

static void read_top(const char *text, struct top *t)
{
    char *end;

    t->step = (uint32_t)strtoul(text, &end, 10);
    for (t->count = 0; t->count < TOP; t->count++) {
        text = end;
        t->tokens[t->count] = (uint32_t)strtoul(text, &end, 10);
        if (end == text)
            break;
        assert_int_equal(*end, ':');
        t->logits[t->count] = strtod(end + 1, &end);
    }
    assert_int_equal(t->count, TOP);
}

void golden_read(const struct suite *suite, struct golden *golden)
{
    char path[512], *line = NULL;
    size_t room = 0;
    int at;
    unsigned n;
    char kind;
    FILE *f;

    memset(golden, 0, suite->prompts * sizeof(*golden));
    snprintf(path, sizeof(path), FOLDER "%s", suite->file);
    f = fopen(path, "re");
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%c %u%n", &kind, &n, &at), 2);
        assert_true(n < suite->prompts);
        struct golden *g = &golden[n];
        if (kind == 'p') {
            g->length = read_list(line + at, g->prompt, PROMPT_MAX);
        } else if (kind == 'g') {
            g->count = read_list(line + at, g->tokens, STEPS_MAX);
        } else if (kind == 'm') {
            g->gap = strtod(line + at, NULL);
        } else {
            assert_int_equal(kind, 'l');
            assert_true(g->top_count < LOGIT_STEPS);
            read_top(line + at, &g->tops[g->top_count++]);
        }
    }
    free(line);
    fclose(f);
    for (n = 0; n < suite->prompts; n++) {
        assert_int_equal(golden[n].count, suite->steps);
        assert_true(golden[n].length > 0 && golden[n].gap > 0);
    }
}
