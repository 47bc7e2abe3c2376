/*
 * tiny_gguf.h - a random llama model of some 100 KiB, for tests that need a whole file but no sense
 *
 * Width 64, 4 heads of 16, 2 of them of keys and values, stored types mixed over F32, Q8_0 and Q4_1
 * so that fused and apart layouts both occur.  Byte-level vocabulary: token b is byte b, then a few
 * merges, then <|endoftext|>, <|im_start|>, <|im_end|> (which ends a sequence); a ChatML template.
 * The same options give the same bytes everywhere.
 */
#ifndef MP_TESTS_TINY_GGUF_H
#define MP_TESTS_TINY_GGUF_H

#include <stdint.h>

#define TINY_VOCABULARY 266u
#define TINY_IM_START   264u
#define TINY_IM_END     265u

struct tiny_options {
    uint64_t seed;
    uint32_t layers;  /* 0: 2 */
    uint32_t context; /* 0: 4096 */
    int untied;       /* a head of its own */
    int nan;          /* a weight that is not a number: every logit is NaN */
};

/* 0, or -1 with errno.  options may be NULL. */
int tiny_gguf_write(const char *path, const struct tiny_options *options);

#endif
