/* db_bench.h - a database in a folder of its own, and what tests put into it */
#ifndef MP_TESTS_UNIT_DB_BENCH_H
#define MP_TESTS_UNIT_DB_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "db/internal.h"

struct bench {
    char folder[64], path[128];
    struct db *db;
};

/* It opens, or the test fails. */
struct db *open_db(const char *path);
int make_bench(void **state);
int remove_bench(void **state);
void reopen(struct bench *b);

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, make_bench, remove_bench)

#define OK(CALL)                                                                                   \
    do {                                                                                           \
        struct error err = {STATUS_OK, ""};                                                        \
        if ((CALL) != 0)                                                                           \
            fail_msg("%s: %s", #CALL, err.text);                                                   \
    } while (0)

/* The call fails with a status and text that says so; err is its last argument. */
#define FAILS(STATUS, TEXT, CALL)                                                                  \
    do {                                                                                           \
        struct error err = {STATUS_OK, ""};                                                        \
        assert_int_equal((CALL), -1);                                                              \
        if (err.status != (STATUS) || !strstr(err.text, TEXT))                                     \
            fail_msg("%s: %s: %s", #CALL, status_word(err.status), err.text);                      \
    } while (0)

struct db_lease sample_lease(int64_t job);
/* Put there; its number. */
int64_t new_lease(struct db *db, int64_t job);

#endif
