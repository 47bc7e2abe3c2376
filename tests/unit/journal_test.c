/* journal_test.c - counts that survive kill -9, slots, and files that are no journal. */
#include "db/journal.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[128];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/journal_test.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/journal", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static struct journal *open_journal(void)
{
    struct error err = {STATUS_OK, ""};
    struct journal *j = journal_open(path, &err);
    if (!j)
        fail_msg("%s", err.text);
    return j;
}

static int take(struct journal *j, int64_t row)
{
    struct error err = {STATUS_OK, ""};
    int slot = journal_take(j, row, &err);
    if (slot < 0)
        fail_msg("row %lld: %s", (long long)row, err.text);
    return slot;
}

static void test_counts_and_slots(void **state)
{
    struct journal *j = open_journal();
    (void)state;
    assert_int_equal(journal_find(j, 7), -1);
    assert_int_equal(journal_find(j, 0), -1); /* a free slot's mark is no row */
    int a = take(j, 7), b = take(j, 8);
    assert_int_not_equal(a, b);
    assert_int_equal(journal_find(j, 7), 0);
    journal_set(j, a, 41);
    journal_set(j, b, UINT32_MAX);
    journal_set(j, a, 42);
    assert_int_equal(journal_find(j, 7), 42);
    assert_int_equal(journal_find(j, 8), UINT32_MAX);
    journal_release(j, a);
    assert_int_equal(journal_find(j, 7), -1);
    assert_int_equal(journal_find(j, 8), UINT32_MAX);
    assert_int_equal(journal_sync(j, NULL), 0);
    journal_clear(j);
    assert_int_equal(journal_find(j, 8), -1);
    journal_close(j);
    journal_close(NULL);
}

static void test_only_its_owner_reads(void **state)
{
    struct stat st;
    (void)state;
    journal_close(open_journal());
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_reused_slot_starts_at_zero(void **state)
{
    struct journal *j = open_journal();
    (void)state;
    for (int64_t row = 1; row <= 3 * (int64_t)JOURNAL_SLOTS; row++) {
        int slot = take(j, row);
        assert_int_equal(journal_find(j, row), 0);
        journal_set(j, slot, (uint32_t)row);
        assert_int_equal(journal_find(j, row), row);
        journal_release(j, slot);
    }
    journal_close(j);
}

static void test_full_is_refused_and_recovers(void **state)
{
    struct journal *j = open_journal();
    struct error err = {STATUS_OK, ""};
    char *seen = calloc(JOURNAL_SLOTS, 1);
    (void)state;
    for (int64_t row = 1; row <= (int64_t)JOURNAL_SLOTS; row++) {
        int slot = take(j, row);
        assert_in_range(slot, 0, JOURNAL_SLOTS - 1);
        assert_int_equal(seen[slot]++, 0); /* nobody else's */
    }
    assert_int_equal(journal_take(j, 99999, &err), -1);
    assert_int_equal(err.status, STATUS_EXHAUSTED);
    journal_release(j, 17);
    assert_int_equal(take(j, 99999), 17);
    assert_int_equal(journal_take(j, 0, &err), -1);
    assert_int_equal(err.status, STATUS_INVALID);
    free(seen);
    journal_clear(j);
    journal_close(j);
}

/* --- kill -9 -------------------------------------------------------------------------------- */

#define ROWS 50

struct shared { /* what the child says it has handed out, count by count */
    _Atomic uint32_t delivered[ROWS];
};

/* Bump all rows for ever: first the journal, as the daemon does, then what the test compares. */
static void bump_until_killed(struct shared *shared)
{
    struct journal *j = journal_open(path, NULL);
    int slots[ROWS];
    if (!j)
        _exit(1);
    for (int i = 0; i < ROWS; i++)
        slots[i] = journal_take(j, 1000 + i, NULL);
    for (uint32_t n = 1;; n++) {
        for (int i = 0; i < ROWS; i++) {
            journal_set(j, slots[i], n);
            shared->delivered[i] = n;
        }
    }
}

static void test_exact_under_kill_9(void **state)
{
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    (void)state;
    assert_true(shared != MAP_FAILED);
    for (int round = 0; round < 20; round++) {
        memset((void *)shared, 0, sizeof *shared);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            bump_until_killed(shared);
        while (shared->delivered[ROWS - 1] < 100 + (uint32_t)round * 997)
            usleep(100);
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        struct journal *j = open_journal();
        for (int i = 0; i < ROWS; i++) {
            /* death may fall between the two stores: the journal is ahead by that one, never behind
             */
            int64_t found = journal_find(j, 1000 + i), told = shared->delivered[i];
            if (found != told && found != told + 1)
                fail_msg("row %d: journal has %lld, handed out %lld", 1000 + i, (long long)found,
                         (long long)told);
        }
        journal_clear(j);
        journal_close(j);
    }
    munmap(shared, sizeof *shared);
}

/* --- files that are none -------------------------------------------------------------------- */

static void write_file(const void *data, size_t len, size_t file_len)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fflush(file), 0);
    assert_int_equal(ftruncate(fileno(file), (off_t)file_len), 0);
    fclose(file);
}

static void assert_corrupt(void)
{
    struct error err = {STATUS_OK, ""};
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_null(journal_open(path, &err));
    assert_int_equal(err.status, STATUS_CORRUPT);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(stat(path, &after), 0); /* left as it was, for who wants to look */
    assert_int_equal(before.st_size, after.st_size);
}

static void test_other_files_are_refused(void **state)
{
    struct stat st;
    (void)state;
    journal_close(open_journal());
    assert_int_equal(stat(path, &st), 0);
    size_t len = (size_t)st.st_size;
    write_file("SQLite format 3", 16, len);
    assert_corrupt();
    write_file("x", 1, 1);
    assert_corrupt();
    write_file("x", 1, len + 1);
    assert_corrupt();
}

static void test_other_slot_count_is_refused(void **state)
{
    unsigned char header[16];
    struct stat st;
    (void)state;
    journal_close(open_journal());
    assert_int_equal(stat(path, &st), 0);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(header, 1, sizeof header, file), sizeof header);
    fclose(file);
    write_file(header, sizeof header, (size_t)st.st_size);
    journal_close(open_journal()); /* the same header: still one */
    header[8] ^= 1;
    write_file(header, sizeof header, (size_t)st.st_size);
    assert_corrupt();
}

static void test_cut_short_making_is_new(void **state)
{
    struct stat st;
    (void)state;
    journal_close(open_journal());
    assert_int_equal(stat(path, &st), 0);
    write_file("", 0, (size_t)st.st_size); /* its length, and zeros */
    struct journal *j = open_journal();
    take(j, 5);
    assert_int_equal(journal_find(j, 5), 0);
    journal_close(j);
}

static void test_missing_folder_and_link(void **state)
{
    struct error err = {STATUS_OK, ""};
    char link[160];
    (void)state;
    assert_null(journal_open("/nonexistent/journal", &err));
    assert_int_equal(err.status, STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nonexistent/journal"));
    snprintf(link, sizeof link, "%s.link", path);
    assert_int_equal(symlink(path, link), 0);
    assert_null(journal_open(link, &err)); /* nobody redirects it */
    unlink(link);
}

/* A limit on file sizes fails the reservation as a full disk does, and before anything is mapped.
 */
static void test_no_room_for_it(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err = {STATUS_OK, ""};
        struct rlimit small = {1024, 1024};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &small) != 0 || journal_open(path, &err) != NULL)
            _exit(1);
        _exit(err.status == STATUS_IO && strstr(err.text, path) ? 0 : 2);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(access(path, F_OK), -1); /* nothing half-made stays behind */
}

static void test_device_is_refused(void **state)
{
    struct error err = {STATUS_OK, ""};
    (void)state;
    assert_null(journal_open("/dev/null", &err));
    assert_int_equal(err.status, STATUS_CORRUPT);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_counts_and_slots),
        TEST(test_only_its_owner_reads),
        TEST(test_reused_slot_starts_at_zero),
        TEST(test_full_is_refused_and_recovers),
        TEST(test_exact_under_kill_9),
        TEST(test_other_files_are_refused),
        TEST(test_other_slot_count_is_refused),
        TEST(test_cut_short_making_is_new),
        TEST(test_missing_folder_and_link),
        TEST(test_no_room_for_it),
        TEST(test_device_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
