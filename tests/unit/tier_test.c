/* tier_test.c - the host tier's manager: files, budget, pins, attaching again */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/tier.h"

#define MIB        ((uint64_t)1 << 20)
#define ROWS       16
#define WEIGHT     (3 * MIB) /* of each model: a file of 6 MiB */
#define FILE_BYTES segment_file_bytes(WEIGHT)

struct bench {
    char place[96];
    struct tier *tier;
    struct db_segment rows[ROWS];
    uint32_t row_count;
    struct db_source sources[ROWS];
    uint32_t source_count;
    const struct tier_master *evicted;
    uint32_t evictions;
};

/* --- a database of our own -------------------------------------------------------------------- */

static void drop(void *context, const char *key)
{
    struct bench *b = context;

    for (uint32_t i = 0; i < b->row_count; i++) {
        if (strcmp(b->rows[i].key, key) == 0)
            b->rows[i--] = b->rows[--b->row_count];
    }
}

static void put(void *context, const struct db_segment *row)
{
    struct bench *b = context;

    drop(b, row->key);
    assert_true(b->row_count < ROWS);
    b->rows[b->row_count++] = *row;
}

static void put_source(void *context, const struct db_source *row)
{
    struct bench *b = context;

    assert_true(b->source_count < ROWS);
    b->sources[b->source_count++] = *row;
}

static void on_evict(void *context, struct tier_master *m)
{
    struct bench *b = context;

    b->evicted = m;
    b->evictions++;
}

static void start(struct bench *b, uint64_t budget)
{
    const struct tier_store store = {put, drop, put_source, b};
    struct db_segment rows[ROWS];
    uint32_t count = b->row_count;
    struct error err = {0};

    memcpy(rows, b->rows, sizeof rows);
    b->tier = tier_create(b->place, budget, &store, &err);
    if (b->tier == NULL)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < b->source_count; i++)
        tier_learn(b->tier, &b->sources[i]);
    for (uint32_t i = 0; i < count; i++)
        tier_attach(b->tier, &rows[i]);
    tier_sweep(b->tier);
    tier_on_evict(b->tier, on_evict, b);
}

static void restart(struct bench *b, uint64_t budget)
{
    tier_destroy(b->tier);
    start(b, budget);
}

/* --- the engine's part ------------------------------------------------------------------------ */

static struct tier_master *find(struct bench *b, uint64_t inode)
{
    const struct tier_file file = {1, inode, 1000, 5, 6};
    struct tier_master *m = tier_find(b->tier, "model", &file, 1, 0, 77, WEIGHT);

    assert_non_null(m);
    return m;
}

/* Contents are a number. */
static struct tier_master *fill(struct bench *b, struct tier_master *m, int fd, uint8_t contents,
                                uint64_t us)
{
    struct event_master ev = {.files = 1, .us = us, .hashes = {{contents}}};
    uint8_t key[SEGMENT_KEY];
    struct segment_header h;

    segment_begin(&h, 0, 77, WEIGHT);
    segment_key(key, ev.hashes, 1, 0, 77);
    memcpy(h.key, key, sizeof key);
    h.complete = SEGMENT_COMPLETE;
    assert_int_equal(ftruncate(fd, (off_t)FILE_BYTES), 0);
    assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
    close(fd);
    return tier_completed(b->tier, m, &ev);
}

static struct tier_master *make(struct bench *b, uint64_t inode, uint8_t contents, uint64_t us)
{
    struct tier_master *m = find(b, inode);
    int fd;

    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    m = fill(b, m, fd, contents, us);
    assert_int_equal(m->state, TIER_COMPLETE);
    return m;
}

static uint32_t files(const struct bench *b)
{
    DIR *dir = opendir(b->place);
    uint32_t n = 0;

    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void is_read(struct bench *b, struct tier_master *m)
{
    int fd;

    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_READ);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    close(fd);
}

/* --- tests ------------------------------------------------------------------------------------ */

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);

    if (b == NULL)
        return -1;
    snprintf(b->place, sizeof b->place, "/tmp/tier_test.%d", (int)getpid());
    start(b, 100 * MIB);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    char command[128];

    tier_destroy(b->tier);
    snprintf(command, sizeof command, "rm -rf %s", b->place);
    free(b);
    return system(command) == 0 ? 0 : -1;
}

static void lent_once_until_complete(void **state)
{
    struct bench *b = *state;
    struct tier_master *m = find(b, 1);
    struct stat st;
    int fd, other;

    assert_int_equal(stat(b->place, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    assert_int_equal(tier_lend(b->tier, m, &other), MASTER_NONE);
    assert_int_equal(other, -1);
    assert_int_equal(tier_used(b->tier), FILE_BYTES);
    assert_ptr_equal(find(b, 1), m);
    assert_ptr_equal(fill(b, m, fd, 9, 1000), m);
    assert_int_equal(m->state, TIER_COMPLETE);
    is_read(b, m);
    is_read(b, m);
    assert_int_equal(b->row_count, 1);
    assert_int_equal(b->source_count, 1);
    assert_int_equal(files(b), 1);
}

static void attached_again(void **state)
{
    struct bench *b = *state;
    char name[sizeof((struct tier_master *)0)->name];

    strcpy(name, make(b, 1, 9, 1000)->name);
    restart(b, 100 * MIB);
    struct tier_master *m = find(b, 1);
    assert_int_equal(m->state, TIER_COMPLETE);
    assert_string_equal(m->name, name);
    is_read(b, m);
    assert_int_equal(tier_used(b->tier), FILE_BYTES);
    /* A file that was written to since is another source. */
    const struct tier_file changed = {1, 1, 1000, 5, 7};
    assert_ptr_not_equal(tier_find(b->tier, "model", &changed, 1, 0, 77, WEIGHT), m);
    /* And so is the same one in another layout. */
    const struct tier_file same = {1, 1, 1000, 5, 6};
    assert_ptr_not_equal(tier_find(b->tier, "model", &same, 1, 0, 78, WEIGHT), m);
    assert_ptr_not_equal(tier_find(b->tier, "model", &same, 1, 1, 77, WEIGHT), m);
}

static void same_contents_share(void **state)
{
    struct bench *b = *state;
    struct tier_master *first = make(b, 1, 9, 1000), *second = find(b, 2);
    int fd;

    assert_ptr_not_equal(first, second); /* nobody knows yet */
    assert_int_equal(tier_lend(b->tier, second, &fd), MASTER_FILL);
    assert_ptr_equal(fill(b, second, fd, 9, 1000), first);
    assert_int_equal(files(b), 1);
    assert_int_equal(tier_used(b->tier), FILE_BYTES);
    assert_ptr_equal(find(b, 2), first);
    restart(b, 100 * MIB);
    assert_ptr_equal(find(b, 2), find(b, 1));
}

static void a_wrong_completion_is_thrown_away(void **state)
{
    struct bench *b = *state;
    struct tier_master *m = find(b, 1);
    const struct event_master nothing = {.files = 1, .hashes = {{1}}}, two = {.files = 2};
    int fd;

    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    close(fd);
    assert_ptr_equal(tier_completed(b->tier, m, &nothing), m); /* it says so, and wrote nothing */
    assert_int_equal(m->state, TIER_ABSENT);
    assert_int_equal(files(b), 0);
    assert_int_equal(tier_used(b->tier), 0);
    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    close(fd);
    assert_ptr_equal(tier_completed(b->tier, m, &two), m);
    assert_int_equal(m->state, TIER_ABSENT);
    assert_int_equal(b->row_count, 0);
    tier_completed(b->tier, m, &nothing); /* nobody was lent it */
    assert_int_equal(m->state, TIER_ABSENT);
}

static void no_room_is_tried_later(void **state)
{
    struct bench *b = *state;
    struct tier_master *m = find(b, 1);
    int fd;

    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    close(fd);
    tier_discard(b->tier, m, 1);
    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_NONE);
    m->retry_us = 0;
    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    close(fd);
}

static void the_least_worth_goes(void **state)
{
    struct bench *b = *state;
    int64_t now = 0;
    int fd;

    restart(b, 3 * FILE_BYTES);
    struct tier_master *slow = make(b, 1, 1, 9000000);
    struct tier_master *quick = make(b, 2, 2, 1000);
    struct tier_master *recent = make(b, 3, 3, 1000);
    now = recent->used_us;
    slow->used_us = now - 60000000;
    quick->used_us = now - 50000000;
    recent->used_us = now - 1000000;
    make(b, 4, 4, 1000);
    assert_int_equal(b->evictions, 1);
    assert_ptr_equal(b->evicted, quick);
    assert_int_equal(quick->state, TIER_ABSENT);
    assert_int_equal(files(b), 3);
    assert_int_equal(b->row_count, 3);
    /* What is pinned stays, and when all is, nothing more comes. */
    slow->pinned = recent->pinned = find(b, 4)->pinned = 1;
    assert_int_equal(tier_lend(b->tier, quick, &fd), MASTER_NONE);
    assert_int_equal(b->evictions, 1);
    recent->pinned = 0;
    assert_int_equal(tier_lend(b->tier, quick, &fd), MASTER_FILL);
    close(fd);
    assert_ptr_equal(b->evicted, recent);
    /* What is being prepared stays, too. */
    assert_int_equal(tier_lend(b->tier, recent, &fd), MASTER_NONE);
    assert_int_equal(tier_used(b->tier), 3 * FILE_BYTES);
}

static void larger_than_all_is_not_begun(void **state)
{
    struct bench *b = *state;
    const struct tier_file file = {1, 1, 1000, 5, 6};
    struct tier_master *small = make(b, 2, 2, 1000);
    struct tier_master *m = tier_find(b->tier, "huge", &file, 1, 0, 77, 200 * MIB);
    int fd;

    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_NONE);
    assert_int_equal(small->state, TIER_COMPLETE); /* and nothing went for it */
    assert_null(tier_find(b->tier, "none", &file, 0, 0, 77, WEIGHT));
    assert_null(tier_find(b->tier, "none", &file, 1, 0, 77, 0));
    assert_null(tier_find(b->tier, "none", &file, 1, 0, 77, UINT64_MAX));
}

static void a_smaller_budget_after_a_restart(void **state)
{
    struct bench *b = *state;

    make(b, 1, 1, 1000);
    make(b, 2, 2, 1000);
    restart(b, FILE_BYTES);
    assert_int_equal(files(b), 1);
    assert_int_equal(b->row_count, 1);
    assert_int_equal(tier_used(b->tier), FILE_BYTES);
}

static void write_file(const struct bench *b, const char *name, size_t bytes)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", b->place, name);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

static void what_does_not_match_is_dropped(void **state)
{
    struct bench *b = *state;
    char path[256];

    for (uint8_t i = 0; i < 6; i++)
        make(b, 1u + i, i, 1000);
    snprintf(path, sizeof path, "%s/%s", b->place, find(b, 1)->name);
    assert_int_equal(unlink(path), 0);     /* gone */
    write_file(b, find(b, 2)->name, 4096); /* cut short */
    write_file(b, find(b, 3)->name, 0);
    snprintf(path, sizeof path, "%s/%s", b->place, find(b, 4)->name);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/passwd", path), 0); /* a link */
    snprintf(path, sizeof path, "%s/%s", b->place, find(b, 5)->name);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* no file; and nobody waits for its other end */
    write_file(b, "0123456789abcdef0123456789abcdef", 10);
    write_file(b, "new-99", 10);
    write_file(b, "README", 10);
    restart(b, 100 * MIB);
    assert_int_equal(files(b), 2); /* the sixth, and what is not ours */
    assert_int_equal(b->row_count, 1);
    for (uint64_t inode = 1; inode < 6; inode++)
        assert_int_equal(find(b, inode)->state, TIER_ABSENT);
    is_read(b, find(b, 6));
}

/* It goes while the daemon runs: noticed when it is lent. */
static void one_that_vanishes_is_made_again(void **state)
{
    struct bench *b = *state;
    struct tier_master *m = make(b, 1, 1, 1000);
    char path[256];
    int fd;

    snprintf(path, sizeof path, "%s/%s", b->place, m->name);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tier_lend(b->tier, m, &fd), MASTER_FILL);
    assert_int_equal(b->row_count, 0);
    assert_ptr_equal(fill(b, m, fd, 1, 1000), m);
    is_read(b, m);
    assert_int_equal(b->row_count, 1);
}

static void hostile_rows_are_ignored(void **state)
{
    struct bench *b = *state;
    struct db_segment row = {.key = "../../../etc/passwd", .bytes = 5};
    struct db_source source = {.hash = "xyz"};

    snprintf(row.place, sizeof row.place, "%s", b->place);
    tier_attach(b->tier, &row);
    strcpy(row.key, "0123456789abcdef0123456789abcdef");
    tier_attach(b->tier, &row);
    row.bytes = UINT64_MAX;
    tier_attach(b->tier, &row);
    tier_learn(b->tier, &source);
    assert_int_equal(tier_used(b->tier), 0);
    assert_true(TAILQ_EMPTY(tier_all(b->tier)));
}

static void anothers_folder_is_refused(void **state)
{
    struct error err = {0};
    char path[128];

    (void)state;
    assert_null(tier_create("/nonexistent/folder", MIB, NULL, &err));
    snprintf(path, sizeof path, "/tmp/tier_test_link.%d", (int)getpid());
    assert_int_equal(symlink("/tmp", path), 0);
    assert_null(tier_create(path, MIB, NULL, &err));
    unlink(path);
    if (geteuid() != 0)
        return;
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(chown(path, 12345, 12345), 0);
    assert_null(tier_create(path, MIB, NULL, &err));
    assert_int_equal(err.status, STATUS_DENIED);
    rmdir(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lent_once_until_complete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(attached_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(same_contents_share, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_completion_is_thrown_away, set_up, tear_down),
        cmocka_unit_test_setup_teardown(no_room_is_tried_later, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_least_worth_goes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(larger_than_all_is_not_begun, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_smaller_budget_after_a_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_match_is_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_vanishes_is_made_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_rows_are_ignored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(anothers_folder_is_refused, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
