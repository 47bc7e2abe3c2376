/* checksum.c - XXH64; see checksum.h */
#include "common/checksum.h"

#include <endian.h>
#include <string.h>

/* The specification's primes. */
#define P1 UINT64_C(0x9E3779B185EBCA87)
#define P2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define P3 UINT64_C(0x165667B19E3779F9)
#define P4 UINT64_C(0x85EBCA77C2B2AE63)
#define P5 UINT64_C(0x27D4EB2F165667C5)

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static uint64_t word(const unsigned char *at)
{
    uint64_t w;

    memcpy(&w, at, sizeof w);
    return le64toh(w);
}

static uint64_t mix(uint64_t lane, uint64_t input)
{
    return rotate(lane + input * P2, 31) * P1;
}

static uint64_t merge(uint64_t sum, uint64_t lane)
{
    return (sum ^ mix(0, lane)) * P1 + P4;
}

/* Whole stripes of 32 bytes. */
static uint64_t stripes(const unsigned char *at, size_t count, uint64_t seed)
{
    uint64_t a = seed + P1 + P2, b = seed + P2, c = seed, d = seed - P1, sum;

    for (; count > 0; count--, at += 32) {
        a = mix(a, word(at));
        b = mix(b, word(at + 8));
        c = mix(c, word(at + 16));
        d = mix(d, word(at + 24));
    }
    sum = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    return merge(merge(merge(merge(sum, a), b), c), d);
}

uint64_t checksum64(const void *data, size_t bytes, uint64_t seed)
{
    const unsigned char *at = data;
    uint64_t sum = (bytes >= 32 ? stripes(at, bytes / 32, seed) : seed + P5) + bytes;
    size_t left = bytes % 32;

    at += bytes - left;
    for (; left >= 8; left -= 8, at += 8)
        sum = rotate(sum ^ mix(0, word(at)), 27) * P1 + P4;
    if (left >= 4) {
        uint32_t half;

        memcpy(&half, at, sizeof half);
        sum = rotate(sum ^ le32toh(half) * P1, 23) * P2 + P3;
        left -= 4;
        at += 4;
    }
    for (; left > 0; left--, at++)
        sum = rotate(sum ^ *at * P5, 11) * P1;
    sum = (sum ^ sum >> 33) * P2;
    sum = (sum ^ sum >> 29) * P3;
    return sum ^ sum >> 32;
}
