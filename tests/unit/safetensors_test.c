/* safetensors_test.c - crafted files: what is right is read, what is wrong is refused by name */
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
#include <sys/mman.h>
#include <unistd.h>

#include "model/source.h"
#include "tests/unit/checkpoint_folder.h"

static const char good[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
    "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[28,30]},"
    "\"deep\":{\"dtype\":\"F16\",\"shape\":[2,1,3,1],\"data_offsets\":[30,42]}}   ";
#define GOOD_DATA 42u

static int memory_file(const void *bytes, size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len)
        abort();
    return fd;
}

/* Open these bytes as the only weights of a folder whose config.json says nothing. */
static struct source *open_bytes(const void *bytes, size_t len, struct error *err)
{
    struct source_files files = {
        .count = 2,
        .files = {{SOURCE_CONFIG, memory_file("{}", 2), "config.json"},
                  {SOURCE_WEIGHTS, memory_file(bytes, len), "model.safetensors"}}};
    struct source *s = source_open_files(&files, "test", err);

    source_files_close(&files);
    return s;
}

static struct source *open_header(const char *header, size_t data, struct error *err)
{
    size_t len;
    unsigned char *bytes = safetensors_bytes(header, strlen(header), data, &len);
    struct source *s = open_bytes(bytes, len, err);

    free(bytes);
    return s;
}

static void check_tensor(const struct source *s, const char *name, uint32_t type, uint32_t dims,
                         uint64_t columns, uint64_t rows, uint64_t offset, uint64_t bytes)
{
    const struct source_tensor *t = source_find_tensor(s, name);

    assert_non_null(t);
    assert_string_equal(t->name, name);
    assert_int_equal(t->type, type);
    assert_int_equal(t->dims, dims);
    assert_int_equal(t->shape[0], columns);
    assert_int_equal(t->shape[1], rows);
    assert_int_equal(t->offset, 8 + strlen(good) + offset);
    assert_int_equal(t->bytes, bytes);
    assert_int_equal(t->file, 1);
}

static void good_file(void **state)
{
    struct error err = {.text = ""};
    struct source *s = open_header(good, GOOD_DATA, &err);

    (void)state;
    if (!s)
        fail_msg("%s", err.text);
    assert_int_equal(source_tensor_count(s), 4);
    check_tensor(s, "a", 0, 1, 4, 1, 0, 16);
    check_tensor(s, "b", 30, 2, 3, 2, 16, 12);
    check_tensor(s, "scalar", 1, 1, 1, 1, 28, 2);
    check_tensor(s, "deep", 1, 4, 1, 3, 30, 12);
    assert_int_equal(source_find_tensor(s, "deep")->shape[3], 2);
    assert_null(source_find_tensor(s, "c"));
    assert_null(source_gguf(s));
    assert_int_equal(source_weight_bytes(s), GOOD_DATA);
    source_close(s);
}

/* A file that was cut anywhere, or grew, is refused; nothing is read outside of it. */
static void cut_anywhere(void **state)
{
    struct error err = {.text = ""};
    size_t len;
    unsigned char *bytes = safetensors_bytes(good, strlen(good), GOOD_DATA, &len);
    unsigned char *longer = calloc(1, len + 1);

    (void)state;
    assert_non_null(longer);
    for (size_t cut = 0; cut < len; cut++) {
        if (open_bytes(bytes, cut, &err))
            fail_msg("cut to %zu bytes", cut);
        assert_int_equal(err.status, STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "model.safetensors"));
        if (cut >= 8 + strlen(good)) /* within the data: some tensor is named */
            assert_non_null(strstr(err.text, "is it complete?"));
    }
    memcpy(longer, bytes, len);
    assert_null(open_bytes(longer, len + 1, &err));
    assert_non_null(strstr(err.text, "1 bytes of data behind the last tensor"));
    free(longer);
    free(bytes);
}

/* Each byte of the file changed to several values: refused or read, never out of bounds. */
static void changed_anywhere(void **state)
{
    static const unsigned char values[] = {0, '"', '9', '{', ']', '-', 0xff};
    size_t len, refused = 0;
    unsigned char *bytes = safetensors_bytes(good, strlen(good), GOOD_DATA, &len);

    (void)state;
    for (size_t at = 0; at < 8 + strlen(good); at++)
        for (size_t v = 0; v < sizeof(values); v++) {
            unsigned char saved = bytes[at];
            struct source *s;

            bytes[at] = values[v];
            s = open_bytes(bytes, len, NULL);
            bytes[at] = saved;
            refused += !s;
            for (size_t i = 0; s && i < source_tensor_count(s); i++) {
                const struct source_tensor *t = source_tensor(s, i);

                assert_true(t->offset <= len && t->bytes <= len - t->offset);
            }
            source_close(s);
        }
    assert_true(refused > 1000);
    free(bytes);
}

static void wrong_headers(void **state)
{
#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"first.weight\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header;
        size_t data;
        enum status status;
        const char *text;
    } cases[] = {
        {"[]", 0, STATUS_CORRUPT, "no object"},
        {"{", 0, STATUS_CORRUPT, "a header of 1 bytes"},
        {"{ ", 0, STATUS_CORRUPT, "no JSON"},
        {"{\"\":{}}", 0, STATUS_CORRUPT, "name is 0 bytes"},
        {"{\"a\\u001b[m\":{}}", 0, STATUS_CORRUPT, "not printable ASCII: a?[m"},
        {"{\"a\":3}", 0, STATUS_CORRUPT, "tensor a has no dtype"},
        {ENTRY("\"I32\"", "[1]", "[0,4]"), 4, STATUS_UNSUPPORTED, "first.weight is stored as I32;"},
        {ENTRY("\"F8_E4M3\"", "[4]", "[0,3]"), 4, STATUS_CORRUPT, "its dtype and shape need 4"},
        {ENTRY("\"F8_E5M2\"", "[4]", "[0,4]"), 4, STATUS_UNSUPPORTED, "is stored as F8_E5M2;"},
        {ENTRY("\"F32\"", "{}", "[0,4]"), 4, STATUS_CORRUPT, "first.weight has no shape"},
        {ENTRY("\"F32\"", "[1,1,1,1,1]", "[0,4]"), 4, STATUS_UNSUPPORTED, "5 dimensions"},
        {ENTRY("\"F32\"", "[0]", "[0,0]"), 0, STATUS_CORRUPT, "impossible dimension 0"},
        {ENTRY("\"F32\"", "[1,-1]", "[0,4]"), 4, STATUS_CORRUPT, "impossible dimension 1"},
        {ENTRY("\"F32\"", "[1.0]", "[0,4]"), 4, STATUS_CORRUPT, "impossible dimension 0"},
        /* 2^62 * 4 is 0 in 64 bits, and so is 2^33 * 2^31 */
        {ENTRY("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, STATUS_CORRUPT, "impossible"},
        {ENTRY("\"F16\"", "[8589934592,2147483648]", "[0,0]"), 0, STATUS_CORRUPT, "impossible"},
        {ENTRY("\"F32\"", "[1]", "[0]"), 4, STATUS_CORRUPT, "first.weight has no data_offsets"},
        {ENTRY("\"F32\"", "[1]", "[-4,0]"), 4, STATUS_CORRUPT, "no data_offsets"},
        {ENTRY("\"F32\"", "[1]", "[4,0]"), 4, STATUS_CORRUPT, "no data_offsets"},
        {ENTRY("\"F32\"", "[1]", "[0,8]"), 4, STATUS_CORRUPT, "goes past the end"},
        {ENTRY("\"F32\"", "[1]", "[9223372036854775803,9223372036854775807]"), 4, STATUS_CORRUPT,
         "goes past the end"},
        {ENTRY("\"F32\"", "[2]", "[0,4]"), 4, STATUS_CORRUPT, "has 4 bytes, its dtype and shape "},
        {ENTRY("\"F32\"", "[1]", "[4,8]"), 8, STATUS_CORRUPT, "comes behind a hole"},
        {ENTRY("\"F32\"", "[1]", "[0,4]"), 8, STATUS_CORRUPT, "4 bytes of data behind the last"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, STATUS_CORRUPT, "tensor b overlaps"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, STATUS_CORRUPT, "duplicate"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error err = {.text = ""};

        assert_null(open_header(cases[i].header, cases[i].data, &err));
        if (err.status != cases[i].status || !strstr(err.text, cases[i].text))
            fail_msg("case %zu: %s", i, err.text);
    }
}

static void wrong_lengths(void **state)
{
    static const uint64_t lengths[] = {0, 1, 100000001, UINT32_MAX, UINT64_MAX - 7, UINT64_MAX};
    unsigned char bytes[64] = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct error err = {.text = ""};

        for (int b = 0; b < 8; b++)
            bytes[b] = (unsigned char)(lengths[i] >> (8 * b));
        assert_null(open_bytes(bytes, sizeof(bytes), &err));
        assert_non_null(strstr(err.text, "not a safetensors file"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file),        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(changed_anywhere), cmocka_unit_test(wrong_headers),
        cmocka_unit_test(wrong_lengths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
