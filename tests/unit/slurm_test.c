/* slurm_test.c - squeue's lines, and squeue as a child: a script stands in for it */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "daemon/slurm.h"

/* --- parsing ---------------------------------------------------------------------------------- */

static void every_field_of_a_line(void **state)
{
    static const int64_t wanted[] = {41, 57, 60, 71};
    struct slurm_job j[8];

    (void)state;
    /* Slurm 22.05's words for a plain job, a member of an array, of a heterogeneous job, and a
     * pending one, with SLURM_TIME_FORMAT=%s. */
    size_t n = slurm_parse("mp|41|41|N/A|41|1000|physics|debug|1767225600|RUNNING\n"
                           "mp|57|55|3|55_3|1001|bio|long|1767225700|COMPLETING\n"
                           "mp|60|60|N/A|59+1|1000|(null)|debug|1767225800|SUSPENDED\n"
                           "mp|71|71|5-9%2|71_[5-9%2]|1000|physics|debug|N/A|PENDING\n",
                           wanted, 4, j, 8);
    assert_int_equal(n, 4);
    assert_int_equal(j[0].job, 41);
    assert_int_equal(j[0].uid, 1000);
    assert_string_equal(j[0].account, "physics");
    assert_string_equal(j[0].partition, "debug");
    assert_int_equal(j[0].start, 1767225600);
    assert_string_equal(j[0].state, "RUNNING");
    assert_int_equal(j[0].array_job, -1);
    assert_int_equal(j[0].het_job, -1);
    assert_false(j[0].ended);
    assert_int_equal(j[1].array_job, 55);
    assert_int_equal(j[1].array_task, 3);
    assert_true(j[1].ended);
    assert_int_equal(j[2].het_job, 59);
    assert_int_equal(j[2].het_offset, 1);
    assert_int_equal(j[2].array_job, -1);
    assert_string_equal(j[2].account, "none");
    assert_false(j[2].ended);
    assert_int_equal(j[3].start, 0);
    assert_int_equal(j[3].array_task, -1);
    assert_true(j[3].ended);
}

static void unwanted_lines_are_skipped(void **state)
{
    static const int64_t wanted[] = {2, 4};
    struct slurm_job j[2];

    (void)state;
    size_t n = slurm_parse("squeue: error: something\n"
                           "\n"
                           "mp|1|1|N/A|1|0|a|p|5|RUNNING\n" /* not asked for */
                           "mp|2|2|N/A|2|0|a|p|5|RUNNING\n"
                           "mp|3\n"
                           "mp|4|4|N/A|4|notauid|a|p|5|RUNNING\n"
                           "mp|4|4|N/A|4|-1|a|p|5|RUNNING\n"
                           "mp|4|4|N/A|4|0|a|p|5|\n"
                           "mq|4|4|N/A|4|0|a|p|5|RUNNING\n"
                           "mp|99999999999999999999|4|N/A|4|0|a|p|5|RUNNING",
                           wanted, 2, j, 2);
    assert_int_equal(n, 1);
    assert_int_equal(j[0].job, 2);
}

static void iso_times_are_local(void **state)
{
    static const int64_t wanted[] = {1};
    struct slurm_job j[1];
    struct tm tm = {.tm_year = 126, .tm_mon = 6, .tm_mday = 1, .tm_hour = 12, .tm_isdst = -1};

    (void)state;
    assert_int_equal(
        slurm_parse("mp|1|1|N/A|1|0|a|p|2026-07-01T12:00:00|RUNNING\n", wanted, 1, j, 1), 1);
    assert_int_equal(j[0].start, (int64_t)mktime(&tm));
}

static void unknown_states_end_nothing(void **state)
{
    static const int64_t wanted[] = {1};
    struct slurm_job j[1];

    (void)state;
    assert_int_equal(slurm_parse("mp|1|1|N/A|1|0|a|p|5|DANCING\n", wanted, 1, j, 1), 1);
    assert_false(j[0].ended);
    assert_int_equal(slurm_parse("mp|1|1|N/A|1|0|a|p|5|CANCELLED by 0\n", wanted, 1, j, 1), 1);
    assert_true(j[0].ended);
}

/* --- the child -------------------------------------------------------------------------------- */

struct fixture {
    struct event_base *base;
    char dir[64];
    int answers, answered;
    size_t count;
    struct slurm_job first;
    char text[512];
};

static void on_answer(void *arg, int answered, const struct slurm_job *jobs, size_t count,
                      const char *text)
{
    struct fixture *f = arg;

    f->answers++;
    f->answered = answered;
    f->count = count;
    if (count)
        f->first = jobs[0];
    snprintf(f->text, sizeof(f->text), "%s", text);
    event_base_loopbreak(f->base);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f || !(f->base = event_base_new()))
        return -1;
    strcpy(f->dir, "/tmp/slurm_test.XXXXXX");
    *state = f;
    return mkdtemp(f->dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[96];

    event_base_free(f->base);
    snprintf(command, sizeof(command), "rm -rf %s", f->dir);
    int rv = system(command);
    free(f);
    return rv;
}

static void write_squeue(struct fixture *f, const char *script)
{
    char path[96];

    snprintf(path, sizeof(path), "%s/squeue", f->dir);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fprintf(out, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

static void ask(struct fixture *f, const int64_t *jobs, size_t count, int64_t limit_us)
{
    struct error err;

    assert_non_null(slurm_ask(f->base, f->dir, jobs, count, limit_us, on_answer, f, &err));
    event_base_dispatch(f->base);
    assert_int_equal(f->answers, 1);
    errno = 0;
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left behind */
    assert_int_equal(errno, ECHILD);
}

static void the_question_reaches_squeue(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12, 7};

    setenv("SQUEUE_FORMAT", "bent", 1);
    setenv("SLURM_CONF", "/somewhere/slurm.conf", 1);
    write_squeue(
        f, "[ \"$*\" = '-h --states=all -j 12,7 -o mp|%A|%F|%K|%i|%U|%a|%P|%S|%T' ] || exit 3\n"
           "[ \"$SLURM_TIME_FORMAT\" = %s ] && [ -z \"$SQUEUE_FORMAT\" ] || exit 4\n"
           "[ \"$SLURM_CONF\" = /somewhere/slurm.conf ] || exit 5\n"
           "echo 'mp|7|7|N/A|7|1000|a|p|100|RUNNING'");
    ask(f, jobs, 2, 5000000);
    assert_string_equal(f->text, "");
    assert_int_equal(f->answered, 1);
    assert_int_equal(f->count, 1);
    assert_int_equal(f->first.job, 7);
}

static void one_unknown_job_is_an_answer(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12};

    write_squeue(f, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
    ask(f, jobs, 1, 5000000);
    assert_int_equal(f->answered, 1);
    assert_int_equal(f->count, 0);
}

static void a_failure_is_none(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12};

    write_squeue(f, "echo 'mp|12|12|N/A|12|1000|a|p|100|RUNNING'\n"
                    "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1");
    ask(f, jobs, 1, 5000000);
    assert_int_equal(f->answered, 0);
    assert_int_equal(f->count, 0);
    assert_string_not_equal(f->text, "");
}

static void a_hanging_squeue_is_killed(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12};
    int64_t began = clock_monotonic_us();

    /* Its own child holds the pipe open as well. */
    write_squeue(f, "echo 'mp|12|12|N/A|12|1000|a|p|100|RUNNING'; sleep 60");
    ask(f, jobs, 1, 200000);
    assert_int_equal(f->answered, 0);
    assert_non_null(strstr(f->text, "no answer within"));
    assert_true(clock_monotonic_us() - began < 5000000);
}

static void much_output_is_read(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {5, 20000};

    write_squeue(f, "i=1; while [ $i -le 20000 ]; do echo \"mp|$i|5|$i|5_$i|1|a|p|9|RUNNING\";"
                    " i=$((i+1)); done");
    ask(f, jobs, 2, 20000000);
    assert_int_equal(f->answered, 1);
    assert_int_equal(f->count, 2);
    assert_int_equal(f->first.array_task, 5);
}

static void a_missing_squeue_is_an_error(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12};
    struct error err;

    assert_null(slurm_ask(f->base, f->dir, jobs, 1, 1000000, on_answer, f, &err));
    assert_int_equal(err.status, STATUS_UNAVAILABLE);
    assert_non_null(strstr(err.text, "SlurmBin"));
    assert_int_equal(f->answers, 0);
}

static void a_cancelled_question_leaves_no_child(void **state)
{
    struct fixture *f = *state;
    static const int64_t jobs[] = {12};
    struct error err;

    write_squeue(f, "sleep 60");
    slurm_cancel(slurm_ask(f->base, f->dir, jobs, 1, 5000000, on_answer, f, &err));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(f->answers, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_of_a_line),
        cmocka_unit_test(unwanted_lines_are_skipped),
        cmocka_unit_test(iso_times_are_local),
        cmocka_unit_test(unknown_states_end_nothing),
        cmocka_unit_test_setup_teardown(the_question_reaches_squeue, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_unknown_job_is_an_answer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failure_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_hanging_squeue_is_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(much_output_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_missing_squeue_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cancelled_question_leaves_no_child, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
