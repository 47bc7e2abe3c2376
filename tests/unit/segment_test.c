/* segment_test.c - checksums and the form of a master copy's file */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <stdlib.h>
#include <string.h>

#include "common/checksum.h"
#include "common/segment.h"

/* Of bytes (131 i + 7) % 251 by python-xxhash 4.1.0. */
static const struct {
    size_t bytes;
    uint64_t plain, seeded;
} golden[] = {
    {0, 0xef46db3751d8e999u, 0x495a197c8d074e3du},
    {1, 0xa96c7f0ce858bbb7u, 0xe4d7edfefc0e4ac8u},
    {3, 0x340815731509cc08u, 0x81187b9244ceb647u},
    {4, 0x5fa711205d86e9dau, 0x949ca7b481fe1f89u},
    {7, 0xc56370b3a8e8a7bbu, 0xff38918b05587c5au},
    {8, 0xdf40710b591268c9u, 0x913a211816d7657cu},
    {13, 0xa6253b083d7fdf58u, 0xe7aaa3e39707cca3u},
    {31, 0xb1f705faa66f113eu, 0xa3fd671128eeb9b6u},
    {32, 0xe4d66d9393e3a596u, 0x08d3116d75581874u},
    {33, 0x2f77e96907a9337bu, 0x215a1290a100ae2cu},
    {63, 0xdaa92a8f02a3fa78u, 0x178388c6d7a78c04u},
    {100, 0x03e12a53974cdcd9u, 0x6fdbed9ba859304cu},
    {4096, 0x16edbceb4f6e3735u, 0x5c84874a4a921588u},
    {5003, 0x74a0c71352280b20u, 0x886a12421d7f50feu},
};

static void checksums_are_xxh64(void **state)
{
    unsigned char data[5004];

    (void)state;
    for (size_t off = 0; off < 2; off++) {
        for (size_t i = 0; i + off < sizeof data; i++)
            data[i + off] = (unsigned char)((i * 131 + 7) % 251);
        for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
            assert_int_equal(checksum64(data + off, golden[i].bytes, 0), golden[i].plain);
            assert_int_equal(checksum64(data + off, golden[i].bytes, 0x9747b28c), golden[i].seeded);
        }
    }
}

static void names_are_keys(void **state)
{
    const uint8_t one[2][SEGMENT_KEY] = {{1, 2, 3}, {4, 5, 6}};
    uint8_t key[SEGMENT_KEY], other[SEGMENT_KEY], parsed[SEGMENT_KEY];
    char name[SEGMENT_NAME];

    (void)state;
    segment_key(key, one, 2, 0, 7);
    segment_key(other, one, 2, 0, 7);
    assert_memory_equal(key, other, SEGMENT_KEY);
    segment_key(other, one, 1, 0, 7);
    assert_memory_not_equal(key, other, SEGMENT_KEY);
    segment_key(other, one, 2, 1, 7);
    assert_memory_not_equal(key, other, SEGMENT_KEY);
    segment_key(other, one, 2, 0, 8);
    assert_memory_not_equal(key, other, SEGMENT_KEY);
    segment_name(name, key);
    assert_int_equal(strlen(name), SEGMENT_NAME - 1);
    assert_int_equal(segment_parse_name(parsed, name), 0);
    assert_memory_equal(parsed, key, SEGMENT_KEY);
    name[3] = '/';
    assert_int_equal(segment_parse_name(parsed, name), -1);
    assert_int_equal(segment_parse_name(parsed, "12"), -1);
    assert_int_equal(segment_parse_name(parsed, ""), -1);
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(segment_pieces(1), 1);
    assert_int_equal(segment_pieces(SEGMENT_PIECE), 1);
    assert_int_equal(segment_pieces(SEGMENT_PIECE + 1), 2);
    assert_int_equal(segment_piece_bytes(SEGMENT_PIECE + 5, 0), SEGMENT_PIECE);
    assert_int_equal(segment_piece_bytes(SEGMENT_PIECE + 5, 1), 5);
    assert_int_equal(segment_data_offset(1), SEGMENT_ALIGN);
    assert_int_equal(segment_file_bytes(1), 2 * SEGMENT_ALIGN);
    assert_int_equal(segment_file_bytes(SEGMENT_ALIGN + 1), 3 * SEGMENT_ALIGN);
    /* A table that is longer than the first 2 MiB. */
    assert_true(segment_data_offset(SEGMENT_MAX) >= segment_pieces(SEGMENT_MAX) * sizeof(uint64_t));
}

static unsigned char *make(uint64_t bytes)
{
    const uint8_t key[SEGMENT_KEY] = {42};
    unsigned char *base = aligned_alloc(4096, segment_file_bytes(bytes));

    assert_non_null(base);
    memset(base, 0xa5, segment_file_bytes(bytes));
    segment_begin(base, 0, 99, bytes);
    for (uint64_t i = 0; i < segment_pieces(bytes); i++)
        segment_table(base)[i] = segment_piece_checksum(
            base + segment_data_offset(bytes) + i * SEGMENT_PIECE, segment_piece_bytes(bytes, i));
    segment_complete(base, key);
    return base;
}

/* Every byte of header and table counts. */
static void each_changed_byte_is_found(void **state)
{
    const uint64_t bytes = SEGMENT_PIECE + 3, size = segment_file_bytes(bytes);
    unsigned char *base = make(bytes);
    struct error err = {0};

    (void)state;
    assert_int_equal(segment_check(base, size, &err), 0);
    for (size_t i = 0; i < sizeof(struct segment_header) + 2 * sizeof(uint64_t); i++) {
        for (int bit = 0; bit < 8; bit++) {
            base[i] ^= (unsigned char)(1 << bit);
            assert_int_equal(segment_check(base, size, &err), -1);
            base[i] ^= (unsigned char)(1 << bit);
        }
    }
    assert_int_equal(segment_check(base, size - SEGMENT_ALIGN, &err), -1);
    assert_non_null(strstr(err.text, "cut short"));
    assert_int_equal(segment_check(base, 100, &err), -1);
    assert_int_equal(segment_check(base, size, &err), 0);
    free(base);
}

static void incomplete_is_refused(void **state)
{
    unsigned char *base = make(5);
    struct error err = {0};

    (void)state;
    ((struct segment_header *)(void *)base)->complete = 0;
    assert_int_equal(segment_check(base, segment_file_bytes(5), &err), -1);
    assert_non_null(strstr(err.text, "never completed"));
    free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_xxh64),
        cmocka_unit_test(names_are_keys),
        cmocka_unit_test(sizes),
        cmocka_unit_test(each_changed_byte_is_found),
        cmocka_unit_test(incomplete_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
