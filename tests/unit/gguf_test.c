/* gguf_test.c - crafted files: what is right is read, what is wrong is refused by name */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/arch.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "tests/unit/gguf_builder.h"

/* One pair of each type, arrays, two tensors; ends with the last tensor's last byte. */
static void put_good(struct builder *b, uint32_t version)
{
    static const float floats[] = {1.5f, -2.0f};
    double wide = 0.1;

    builder_start(b, version);
    pair_string(b, "general.architecture", "llama");
    pair_raw(b, "n.u8", 0);
    put_bytes(b, "\xfe", 1);
    pair_raw(b, "n.i8", 1);
    put_bytes(b, "\xfe", 1);
    pair_raw(b, "n.u16", 2);
    put_bytes(b, "\xfe\xff", 2);
    pair_raw(b, "n.i16", 3);
    put_bytes(b, "\x01\x02", 2);
    pair_u32(b, "n.u32", 4000000000u);
    pair_raw(b, "n.i32", 5);
    put_u32(b, 7);
    pair_f32(b, "n.f32", 0.25f);
    pair_bool(b, "n.yes", 1);
    pair_raw(b, "n.u64", 10);
    put_u64(b, UINT64_MAX);
    pair_raw(b, "n.i64", 11);
    put_u64(b, 1u << 20);
    pair_raw(b, "n.f64", 12);
    put_bytes(b, &wide, sizeof(wide));
    pair_array(b, "a.strings", 8, 3);
    put_string(b, "one", 3);
    put_string(b, "", 0);
    put_string(b, "th\0ree", 6);
    pair_array(b, "a.i8", 1, 2);
    put_bytes(b, "\xff\x02", 2);
    pair_array(b, "a.f32", 6, 2);
    put_bytes(b, floats, sizeof(floats));
    pair_array(b, "a.empty", 8, 0);
    put_tensor(b, "matrix", 3, 64, 3, 0); /* Q4_1: 3 rows of 2 blocks of 20 bytes */
    put_tensor(b, "vector", 0, 5, 0, 128);
    builder_finish(b, 32, 128 + 20);
}

static struct gguf *open_good(uint32_t version)
{
    struct error err = {.text = ""};
    struct builder b;
    struct gguf *g;

    put_good(&b, version);
    g = open_bytes(b.data, b.len, &err);
    if (!g)
        fail_msg("%s", err.text);
    assert_int_equal(gguf_file_bytes(g), b.len);
    assert_memory_equal(gguf_base(g), b.data, b.len);
    builder_free(&b);
    return g;
}

static void good_numbers(void **state)
{
    static const struct {
        const char *key;
        uint64_t value;
    } integers[] = {{"n.u8", 254}, {"n.u16", 65534},      {"n.i16", 0x201},   {"n.u32", 4000000000},
                    {"n.i32", 7},  {"n.u64", UINT64_MAX}, {"n.i64", 1u << 20}};
    struct gguf *g = open_good(3);
    struct error err = {.text = ""};
    uint64_t u = 1;
    double d = 1;
    int truth = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(integers) / sizeof(integers[0]); i++) {
        assert_int_equal(gguf_get_u64(g, integers[i].key, &u, &err), 0);
        assert_int_equal(u, integers[i].value);
    }
    assert_int_equal(gguf_get_u64(g, "n.i8", &u, &err), -1); /* negative */
    assert_non_null(strstr(err.text, "n.i8"));
    assert_int_equal(gguf_get_u64(g, "n.f32", &u, &err), -1);
    assert_non_null(strstr(err.text, "n.f32 is f32, not an integer"));
    u = 77;
    assert_int_equal(gguf_get_u64(g, "n.none", &u, &err), 1);
    assert_int_equal(u, 77);
    assert_int_equal(gguf_get_f64(g, "n.f32", &d, &err), 0);
    assert_true(fabs(d - 0.25) <= 0);
    assert_int_equal(gguf_get_f64(g, "n.f64", &d, &err), 0);
    assert_true(fabs(d - 0.1) <= 0);
    assert_int_equal(gguf_get_f64(g, "n.u32", &d, &err), -1);
    assert_int_equal(gguf_get_bool(g, "n.yes", &truth, &err), 0);
    assert_int_equal(truth, 1);
    assert_int_equal(gguf_get_bool(g, "n.u8", &truth, &err), -1);
    assert_int_equal(gguf_get_bool(g, "n.none", &truth, &err), 1);
    gguf_close(g);
}

static void good_arrays(void **state)
{
    struct gguf *g = open_good(2);
    struct error err = {.text = ""};
    struct gguf_string s, *strings;
    uint64_t count = 0;
    int64_t *integers;
    float *floats;

    (void)state;
    assert_int_equal(gguf_get_string(g, "general.architecture", &s, &err), 0);
    assert_true(s.len == 5 && memcmp(s.data, "llama", 5) == 0);
    assert_int_equal(gguf_get_string(g, "n.u8", &s, &err), -1);
    assert_int_equal(gguf_get_array(g, "a.strings", &count, &err), 0);
    assert_int_equal(count, 3);
    assert_int_equal(gguf_get_array(g, "n.u8", &count, &err), -1);
    assert_int_equal(gguf_array_string(g, "a.strings", 2, &s, &err), 0);
    assert_true(s.len == 6 && memcmp(s.data, "th\0ree", 6) == 0);
    assert_int_equal(gguf_array_string(g, "a.strings", 3, &s, &err), -1);
    assert_int_equal(gguf_array_string(g, "a.i8", 0, &s, &err), -1);
    assert_int_equal(gguf_array_string(g, "none", 0, &s, &err), 1);
    assert_int_equal(gguf_get_strings(g, "a.strings", &strings, &count, &err), 0);
    assert_true(count == 3 && strings[0].len == 3 && strings[1].len == 0);
    free(strings);
    assert_int_equal(gguf_get_strings(g, "a.empty", &strings, &count, &err), 0);
    assert_int_equal(count, 0);
    free(strings);
    assert_int_equal(gguf_get_strings(g, "a.i8", &strings, &count, &err), -1);
    assert_int_equal(gguf_get_i64s(g, "a.i8", &integers, &count, &err), 0);
    assert_true(count == 2 && integers[0] == -1 && integers[1] == 2);
    free(integers);
    assert_int_equal(gguf_get_i64s(g, "a.strings", &integers, &count, &err), -1);
    assert_int_equal(gguf_get_i64s(g, "a.f32", &integers, &count, &err), -1);
    assert_int_equal(gguf_get_f32s(g, "a.f32", &floats, &count, &err), 0);
    assert_true(count == 2 && fabsf(floats[1] + 2.0f) <= 0);
    free(floats);
    assert_int_equal(gguf_get_f32s(g, "a.i8", &floats, &count, &err), -1);
    assert_int_equal(gguf_get_f32s(g, "none", &floats, &count, &err), 1);
    gguf_close(g);
}

static void good_tensors(void **state)
{
    struct gguf *g = open_good(3);
    const struct gguf_tensor *t = gguf_find_tensor(g, "matrix");

    (void)state;
    assert_int_equal(gguf_tensor_count(g), 2);
    assert_non_null(t);
    assert_ptr_equal(t, gguf_tensor(g, 0));
    assert_int_equal(t->dims, 2);
    assert_int_equal(t->shape[0], 64);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->shape[3], 1);
    assert_int_equal(t->bytes, 3 * 2 * 20);
    assert_int_equal(t->offset % 32, 0);
    t = gguf_find_tensor(g, "vector");
    assert_non_null(t);
    assert_int_equal(t->bytes, 20);
    assert_int_equal(t->offset + t->bytes, gguf_file_bytes(g));
    assert_null(gguf_find_tensor(g, "matri"));
    assert_null(gguf_find_tensor(g, ""));
    assert_int_equal(gguf_key_count(g), 16);
    for (size_t i = 1; i < gguf_key_count(g); i++)
        assert_true(memcmp(gguf_key(g, i - 1)->data, gguf_key(g, i)->data, 2) <= 0);
    gguf_close(g);
}

static void truncated(void **state)
{
    struct builder b;

    (void)state;
    put_good(&b, 3);
    for (size_t len = 0; len < b.len; len++) {
        struct error err = {.text = ""};

        assert_null(open_bytes(b.data, len, &err));
        assert_int_equal(err.status, STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "test.gguf: "));
    }
    builder_free(&b);
}

/* Every byte of the head, keys and entries set to values that hurt: any outcome but a crash. */
static void mutated(void **state)
{
    static const unsigned char values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    struct builder b;
    size_t refused = 0;

    (void)state;
    put_good(&b, 3);
    for (size_t at = 0; at < b.len; at++)
        for (size_t v = 0; v < sizeof(values); v++) {
            unsigned char saved = b.data[at];
            struct source *g;
            struct arch a;

            b.data[at] = values[v];
            g = open_source(b.data, b.len, NULL);
            b.data[at] = saved;
            refused += g == NULL;
            if (!g)
                continue;
            assert_int_equal(arch_read(&a, g, NULL), -1);
            assert_null(tokenizer_create(g, NULL));
            source_close(g);
        }
    assert_true(refused > 500);
    builder_free(&b);
}

static void hostile_text(struct builder *b)
{
    pair_raw(b, "k\n\x1b", 8);
    put_u64(b, UINT64_MAX);
}

static void hostile_key(struct builder *b)
{
    put_u64(b, UINT64_MAX - 7);
    put_u32(b, 4);
    b->pairs++;
}

static void long_key(struct builder *b)
{
    char *key = calloc(1, 65536);

    put_string(b, key, 65536);
    put_u32(b, 4);
    put_u32(b, 4);
    b->pairs++;
    free(key);
}

static void empty_key(struct builder *b)
{
    pair_u32(b, "", 1);
}

static void hostile_array(struct builder *b)
{
    pair_array(b, "k", 4, (UINT64_MAX >> 2) + 2); /* times 4 is 4 in 64 bits */
    put_u32(b, 1);
}

static void hostile_strings(struct builder *b)
{
    pair_array(b, "k", 8, UINT64_MAX);
    put_string(b, "x", 1);
}

static void array_of_arrays(struct builder *b)
{
    pair_array(b, "k", 9, 1);
    put_u32(b, 4);
    put_u64(b, 0);
}

static void array_of_nothing(struct builder *b)
{
    pair_array(b, "k", 13, 0);
}

static void unknown_type(struct builder *b)
{
    pair_raw(b, "k", 13);
    put_u64(b, 0);
}

static void odd_bool(struct builder *b)
{
    pair_bool(b, "k", 2);
}

static void same_key(struct builder *b)
{
    pair_u32(b, "k", 1);
    pair_u32(b, "l", 1);
    pair_bool(b, "k", 1);
}

static void many_pairs(struct builder *b)
{
    b->pairs = UINT64_MAX / 2;
}

static void many_tensors(struct builder *b)
{
    b->tensors = UINT64_MAX / 2;
}

static void no_alignment(struct builder *b)
{
    pair_u32(b, "general.alignment", 0);
}

static void odd_alignment(struct builder *b)
{
    pair_u32(b, "general.alignment", 12);
}

static void huge_alignment(struct builder *b)
{
    pair_raw(b, "general.alignment", 10);
    put_u64(b, UINT64_MAX - 7);
}

static void text_alignment(struct builder *b)
{
    pair_string(b, "general.alignment", "32");
}

static void past_end(struct builder *b)
{
    put_tensor(b, "t", 0, 64, 0, 32);
}

static void far_offset(struct builder *b)
{
    put_tensor(b, "t", 0, 8, 0, UINT64_MAX - 31);
}

static void odd_offset(struct builder *b)
{
    put_tensor(b, "t", 0, 4, 0, 16);
}

static void overflowing_shape(struct builder *b)
{
    put_tensor(b, "t", 0, 1ull << 33, 1ull << 33, 0);
}

static void overflowing_bytes(struct builder *b)
{
    put_tensor(b, "t", 0, 1ull << 31, 1ull << 32, 0);
}

static void empty_shape(struct builder *b)
{
    put_tensor(b, "t", 0, 0, 0, 0);
}

static void part_block(struct builder *b)
{
    put_tensor(b, "t", 8, 40, 1, 0);
}

static void unknown_tensor_type(struct builder *b)
{
    put_tensor(b, "t", 4, 32, 1, 0); /* Q4_2, which the format gave up */
}

static void unknown_large_type(struct builder *b)
{
    put_tensor(b, "t", UINT32_MAX, 32, 1, 0);
}

/* A number of our own, for what other files have. */
static void our_type(struct builder *b)
{
    put_tensor(b, "t", 63, 32, 1, 0);
}

static void five_dimensions(struct builder *b)
{
    put_string(b, "t", 1);
    put_u32(b, 5);
    for (int i = 0; i < 5; i++)
        put_u64(b, 1);
    put_u32(b, 0);
    put_u64(b, 0);
    b->tensors++;
}

static void no_dimensions(struct builder *b)
{
    put_string(b, "t", 1);
    put_u32(b, 0);
    put_u32(b, 0);
    put_u64(b, 0);
    put_u64(b, 0);
    b->tensors++;
}

static void same_tensor(struct builder *b)
{
    put_tensor(b, "t", 0, 8, 0, 0);
    put_tensor(b, "t", 0, 8, 0, 32);
}

static void overlapping(struct builder *b)
{
    put_tensor(b, "s", 0, 4, 0, 32);
    put_tensor(b, "t", 0, 9, 0, 0);
}

static void no_name(struct builder *b)
{
    put_tensor(b, "", 0, 8, 0, 0);
}

static void refused(void **state)
{
    static const struct {
        void (*put)(struct builder *);
        enum status status;
        const char *text;
    } cases[] = {
        {hostile_text, STATUS_CORRUPT, "value of key k?? goes past"},
        {hostile_key, STATUS_CORRUPT, "metadata key 0 goes past"},
        {long_key, STATUS_CORRUPT, "metadata key 0 is 65536 bytes long"},
        {empty_key, STATUS_CORRUPT, "metadata key 0 is 0 bytes long"},
        {hostile_array, STATUS_CORRUPT, "array of key k "},
        {hostile_strings, STATUS_CORRUPT, "array of key k "},
        {array_of_arrays, STATUS_UNSUPPORTED, "key k is an array of arrays"},
        {array_of_nothing, STATUS_CORRUPT, "key k is an array of unknown type 13"},
        {unknown_type, STATUS_CORRUPT, "key k is of unknown type 13"},
        {odd_bool, STATUS_CORRUPT, "key k is a bool of value 2"},
        {same_key, STATUS_CORRUPT, "key k is there twice"},
        {many_pairs, STATUS_CORRUPT, "metadata keys do not fit"},
        {many_tensors, STATUS_CORRUPT, "tensors do not fit"},
        {no_alignment, STATUS_CORRUPT, "general.alignment is 0"},
        {odd_alignment, STATUS_CORRUPT, "general.alignment is 12"},
        {huge_alignment, STATUS_CORRUPT, "general.alignment is 184"},
        {text_alignment, STATUS_CORRUPT, "general.alignment is string"},
        {past_end, STATUS_CORRUPT, "tensor t goes past the end"},
        {far_offset, STATUS_CORRUPT, "tensor t goes past the end"},
        {odd_offset, STATUS_CORRUPT, "tensor t is not aligned"},
        {overflowing_shape, STATUS_CORRUPT, "tensor t has an impossible dimension 1"},
        {overflowing_bytes, STATUS_CORRUPT, "tensor t is larger than any file"},
        {empty_shape, STATUS_CORRUPT, "tensor t has an impossible dimension 0"},
        {part_block, STATUS_CORRUPT, "tensor t has rows of 40 elements"},
        {unknown_tensor_type, STATUS_UNSUPPORTED, "tensor t is of unknown type 4"},
        {unknown_large_type, STATUS_UNSUPPORTED, "tensor t is of unknown type 4294967295"},
        {our_type, STATUS_UNSUPPORTED, "tensor t is of unknown type 63"},
        {five_dimensions, STATUS_CORRUPT, "tensor t has 5 dimensions"},
        {no_dimensions, STATUS_CORRUPT, "tensor t has 0 dimensions"},
        {same_tensor, STATUS_CORRUPT, "tensor t is there twice"},
        {overlapping, STATUS_CORRUPT, "tensor s overlaps"},
        {no_name, STATUS_CORRUPT, "name of tensor 0 is 0 bytes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error err = {.text = ""};
        struct builder b;

        builder_start(&b, 3);
        cases[i].put(&b);
        builder_finish(&b, 32, 64);
        assert_null(open_bytes(b.data, b.len, &err));
        if (err.status != cases[i].status || !strstr(err.text, cases[i].text))
            fail_msg("case %zu, wanted \"%s\": %s", i, cases[i].text, err.text);
        builder_free(&b);
    }
}

static void refused_heads(void **state)
{
    static const struct {
        uint32_t version;
        enum status status;
    } versions[] = {{0, STATUS_UNSUPPORTED},
                    {1, STATUS_UNSUPPORTED},
                    {4, STATUS_UNSUPPORTED},
                    {0x03000000, STATUS_UNSUPPORTED}};
    struct error err;
    int ends[2];

    (void)state;
    for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
        struct builder b;

        builder_start(&b, versions[i].version);
        assert_null(open_bytes(b.data, b.len, &err));
        assert_int_equal(err.status, versions[i].status);
        builder_free(&b);
    }
    assert_non_null(strstr(err.text, "big-endian"));
    assert_null(open_bytes("GGML\3\0\0\0", 8, &err));
    assert_non_null(strstr(err.text, "not a GGUF file"));
    assert_null(gguf_open("/nonexistent/model.gguf", &err));
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_null(gguf_open("/", &err));
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(pipe(ends), 0);
    assert_null(gguf_open_fd(ends[0], "pipe", &err));
    assert_non_null(strstr(err.text, "pipe: not a regular file"));
    close(ends[0]);
    close(ends[1]);
    assert_null(gguf_open_fd(-1, "nothing", &err));
    gguf_close(NULL);
}

static void alignment(void **state)
{
    struct error err = {.text = ""};
    struct builder b;
    struct gguf *g;

    (void)state;
    builder_start(&b, 3);
    pair_u32(&b, "general.alignment", 256);
    put_tensor(&b, "t", 1, 4, 0, 256);
    builder_finish(&b, 256, 256 + 8);
    g = open_bytes(b.data, b.len, &err);
    if (!g)
        fail_msg("%s", err.text);
    assert_int_equal(gguf_tensor(g, 0)->offset, b.len - 8);
    gguf_close(g);
    builder_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_numbers),  cmocka_unit_test(good_arrays),
        cmocka_unit_test(good_tensors),  cmocka_unit_test(truncated),
        cmocka_unit_test(mutated),       cmocka_unit_test(refused),
        cmocka_unit_test(refused_heads), cmocka_unit_test(alignment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
