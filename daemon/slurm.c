/*
 * slurm.c - squeue as a child, and what it says
 *
 * squeue(1) is asked with a format of our own whose lines begin with "mp|", so that its messages,
 * which share the pipe, are told from answers.  %A is the job's unique number, %F and %K the
 * array's number and index, %i shows a heterogeneous job as LEADER+OFFSET.  SLURM_TIME_FORMAT=%s
 * asks for Unix seconds; ISO times are understood as well, in the local zone, as squeue prints
 * them.
 */
#include "daemon/slurm.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OUTPUT_MAX                                                                                 \
    (32u << 20) /* an array's number yields a line per task, and there may be many                 \
                 */
#define OUTPUT_ROOM 16384u
#define FORMAT      "mp|%A|%F|%K|%i|%U|%a|%P|%S|%T"
#define FIELDS      10
#define REAP_US     10000 /* between looks at a child that has closed its output but not ended */
#define REAP_LOOKS  100   /* then it is killed */
#define UNKNOWN_JOB "Invalid job id specified"

extern char **environ;

struct slurm_question {
    struct event_base *base;
    struct event *readable, *tick;
    slurm_answer_f answer;
    void *arg;
    pid_t pid;
    int fd;
    int limit_passed, overlong;
    int looks;
    int64_t limit_us;
    int64_t *jobs; /* [asked], ascending */
    size_t asked;
    char *text; /* [room + 1] */
    size_t len, room;
};

/* --- parsing ---------------------------------------------------------------------------------- */

/* Ended, or waiting to run again.  A word that is not here ends nothing. */
static int state_ended(const char *state)
{
    static const char *const ended[] = {
        "BOOT_FAIL",     "CANCELLED",    "COMPLETED",     "COMPLETING",   "DEADLINE",  "FAILED",
        "LAUNCH_FAILED", "NODE_FAIL",    "OUT_OF_MEMORY", "PENDING",      "PREEMPTED", "REQUEUED",
        "REQUEUE_FED",   "REQUEUE_HOLD", "REVOKED",       "SPECIAL_EXIT", "STAGE_OUT", "TIMEOUT",
    };

    for (size_t i = 0; i < sizeof(ended) / sizeof(*ended); i++)
        if (strcmp(state, ended[i]) == 0)
            return 1;
    return 0;
}

static int parse_number(const char *text, int64_t *value)
{
    char *end;

    if (!isdigit((unsigned char)*text))
        return -1;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || *end)
        return -1;
    *value = v;
    return 0;
}

static int64_t parse_start(const char *text)
{
    int64_t seconds;
    struct tm tm;

    if (parse_number(text, &seconds) == 0)
        return seconds;
    memset(&tm, 0, sizeof(tm));
    tm.tm_isdst = -1;
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!end || *end)
        return 0;
    time_t t = mktime(&tm);
    return t == (time_t)-1 ? 0 : (int64_t)t;
}

static void copy_name(char *out, size_t size, const char *text, const char *none)
{
    if (!*text || strcmp(text, "(null)") == 0 || strcmp(text, "N/A") == 0)
        text = none;
    snprintf(out, size, "%s", text);
}

/* One line without its newline, cut in place. */
static int parse_line(char *line, struct slurm_job *job)
{
    char *field[FIELDS];
    int count = 0;

    for (char *at = line; count < FIELDS; count++) {
        field[count] = at;
        at = strchr(at, '|');
        if (!at) {
            count++;
            break;
        }
        *at++ = '\0';
    }
    if (count != FIELDS || strcmp(field[0], "mp") != 0)
        return -1;

    memset(job, 0, sizeof(*job));
    job->array_job = job->array_task = job->het_job = job->het_offset = -1;
    if (parse_number(field[1], &job->job) < 0 || parse_number(field[5], &job->uid) < 0)
        return -1;
    int64_t number;
    if (parse_number(field[3], &number) == 0 && parse_number(field[2], &job->array_job) == 0)
        job->array_task = number;
    char *plus = strchr(field[4], '+');
    if (plus) {
        *plus++ = '\0';
        if (parse_number(field[4], &job->het_job) < 0 || parse_number(plus, &job->het_offset) < 0)
            job->het_job = job->het_offset = -1;
    }
    copy_name(job->account, sizeof(job->account), field[6], "none");
    copy_name(job->partition, sizeof(job->partition), field[7], "");
    job->start = parse_start(field[8]);
    field[9][strcspn(field[9], " \t\r")] = '\0';
    snprintf(job->state, sizeof(job->state), "%s", field[9]);
    job->ended = state_ended(job->state);
    return *job->state ? 0 : -1;
}

static int compare_jobs(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

size_t slurm_parse(const char *text, const int64_t *wanted, size_t wanted_count,
                   struct slurm_job *jobs, size_t room)
{
    size_t count = 0;
    char line[1024];

    while (*text && count < room) {
        size_t len = strcspn(text, "\n");
        if (len < sizeof(line)) {
            memcpy(line, text, len);
            line[len] = '\0';
            if (parse_line(line, &jobs[count]) == 0 &&
                bsearch(&jobs[count].job, wanted, wanted_count, sizeof(*wanted), compare_jobs))
                count++;
        }
        text += len;
        if (*text)
            text++;
    }
    return count;
}

/* --- the child -------------------------------------------------------------------------------- */

/* Our environment without what would bend squeue's output; SLURM_CONF stays.  Strings are shared,
 * the array is the caller's. */
static char **child_environment(void)
{
    static char time_format[] = "SLURM_TIME_FORMAT=%s";
    size_t n = 0;

    while (environ[n])
        n++;
    char **env = calloc(n + 2, sizeof(*env));
    if (!env)
        return NULL;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const char *e = environ[i];
        int slurm = strncmp(e, "SLURM_", 6) == 0 || strncmp(e, "SQUEUE_", 7) == 0;
        if (!slurm || strncmp(e, "SLURM_CONF=", 11) == 0)
            env[kept++] = environ[i];
    }
    env[kept++] = time_format;
    env[kept] = NULL;
    return env;
}

/* "-j" argument: numbers with commas; malloc'd. */
static char *job_list(const int64_t *jobs, size_t count)
{
    size_t room = count * 21 + 1, len = 0;
    char *list = malloc(room);

    if (!list)
        return NULL;
    for (size_t i = 0; i < count; i++)
        len += (size_t)snprintf(list + len, room - len, "%s%" PRId64, i ? "," : "", jobs[i]);
    return list;
}

static int spawn(struct slurm_question *q, const char *bin, char *list, struct error *err)
{
    int rv = -1;
    int fds[2] = {-1, -1};
    char path[4096];
    char name[] = "squeue", no_header[] = "-h", states[] = "--states=all", jobs[] = "-j",
         option[] = "-o", format[] = FORMAT;
    char *argv[] = {name, no_header, states, jobs, list, option, format, NULL};
    char **env = child_environment();
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    int n = snprintf(path, sizeof(path), "%s/squeue", bin);
    if (!env || n < 0 || (size_t)n >= sizeof(path) || pipe2(fds, O_CLOEXEC) < 0) {
        error_set(err, STATUS_NOMEM, "%s/squeue: no memory or no pipe for it", bin);
        goto out;
    }
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    int code = posix_spawn(&q->pid, path, &actions, &attr, argv, env);
    if (code != 0) {
        error_set(err, STATUS_UNAVAILABLE, "%s: %s: set SlurmBin=, or Identity=none", path,
                  strerror(code));
        q->pid = -1;
        goto out;
    }
    q->fd = fds[0];
    fds[0] = -1;
    fcntl(q->fd, F_SETFL, O_NONBLOCK);
    rv = 0;
out:
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(env);
    return rv;
}

static void question_free(struct slurm_question *q)
{
    if (q->readable)
        event_free(q->readable);
    if (q->tick)
        event_free(q->tick);
    if (q->fd >= 0)
        close(q->fd);
    if (q->pid > 0) {
        kill(-q->pid, SIGKILL);
        while (waitpid(q->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    free(q->text);
    free(q->jobs);
    free(q);
}

/* The first line that is no answer: what squeue had to say. */
static void diagnose(const struct slurm_question *q, int status, char *out, size_t size)
{
    size_t len = strcspn(q->text, "\n");

    if (q->limit_passed)
        snprintf(out, size, "squeue: no answer within %.1f s", (double)q->limit_us / 1e6);
    else if (q->overlong)
        snprintf(out, size, "squeue: more output than can be held");
    else if (len > 0)
        snprintf(out, size, "%.*s", (int)(len > 400 ? 400 : len), q->text);
    else
        snprintf(out, size, "squeue: ended with wait status %d", status);
}

static void conclude(struct slurm_question *q, int status)
{
    char text[ERROR_TEXT_MAX] = "";
    struct slurm_job *jobs = calloc(q->asked, sizeof(*jobs));
    size_t count = 0;
    int complete = !q->limit_passed && !q->overlong && jobs;
    int answered = complete && WIFEXITED(status) && WEXITSTATUS(status) == 0;

    q->text[q->len] = '\0';
    /* One unknown job is an error to squeue, many with an unknown one among them are not. */
    if (complete && !answered && q->asked == 1 && strstr(q->text, UNKNOWN_JOB))
        answered = 1;
    if (answered)
        count = slurm_parse(q->text, q->jobs, q->asked, jobs, q->asked);
    else
        diagnose(q, status, text, sizeof(text));
    slurm_answer_f answer = q->answer;
    void *arg = q->arg;
    question_free(q);
    answer(arg, answered, jobs, count, text);
    free(jobs);
}

/* After the output's end, or the time limit: the child is looked at until it is gone. */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct slurm_question *q = arg;
    int status = 0;

    (void)fd;
    (void)what;
    if (q->fd >= 0) {
        q->limit_passed = 1;
        event_del(q->readable);
        close(q->fd);
        q->fd = -1;
        kill(-q->pid, SIGKILL);
    }
    pid_t got = waitpid(q->pid, &status, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) {
        if (++q->looks == REAP_LOOKS)
            kill(-q->pid, SIGKILL);
        const struct timeval soon = {.tv_usec = REAP_US};
        evtimer_add(q->tick, &soon);
        return;
    }
    q->pid = -1;
    conclude(q, status);
}

/* Room for more output; -1 at the bound. */
static int grow(struct slurm_question *q)
{
    if (q->len < q->room)
        return 0;
    if (q->room >= OUTPUT_MAX)
        return -1;
    char *bigger = realloc(q->text, q->room * 2 + 1);
    if (!bigger)
        return -1;
    q->text = bigger;
    q->room *= 2;
    return 0;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct slurm_question *q = arg;

    (void)what;
    if (grow(q) == 0) {
        ssize_t n = read(fd, q->text + q->len, q->room - q->len);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n > 0) {
            q->len += (size_t)n;
            return;
        }
    } else {
        q->overlong = 1;
        kill(-q->pid, SIGKILL);
    }
    event_del(q->readable);
    close(q->fd);
    q->fd = -1;
    on_tick(-1, 0, q);
}

struct slurm_question *slurm_ask(struct event_base *base, const char *bin, const int64_t *jobs,
                                 size_t count, int64_t limit_us, slurm_answer_f answer, void *arg,
                                 struct error *err)
{
    char *list = NULL;
    struct slurm_question *q = NULL;

    if (count == 0 || count > SLURM_JOBS_MAX) {
        error_set(err, STATUS_INTERNAL, "a question about %zu jobs", count);
        return NULL;
    }
    q = calloc(1, sizeof(*q));
    list = job_list(jobs, count);
    if (!q || !list) {
        error_set(err, STATUS_NOMEM, "no memory for a question to Slurm");
        goto fail;
    }
    *q = (struct slurm_question){.base = base,
                                 .answer = answer,
                                 .arg = arg,
                                 .pid = -1,
                                 .fd = -1,
                                 .limit_us = limit_us,
                                 .asked = count};
    q->room = OUTPUT_ROOM;
    q->text = malloc(q->room + 1);
    q->jobs = malloc(count * sizeof(*q->jobs));
    if (!q->text || !q->jobs) {
        error_set(err, STATUS_NOMEM, "no memory for a question to Slurm");
        goto fail;
    }
    memcpy(q->jobs, jobs, count * sizeof(*q->jobs));
    qsort(q->jobs, count, sizeof(*q->jobs), compare_jobs);
    if (spawn(q, bin, list, err) < 0)
        goto fail;
    const struct timeval limit = {.tv_sec = limit_us / 1000000, .tv_usec = limit_us % 1000000};
    q->readable = event_new(base, q->fd, EV_READ | EV_PERSIST, on_readable, q);
    q->tick = evtimer_new(base, on_tick, q);
    if (!q->readable || !q->tick || event_add(q->readable, NULL) < 0 ||
        evtimer_add(q->tick, &limit) < 0) {
        error_set(err, STATUS_NOMEM, "no memory for a question to Slurm");
        goto fail;
    }
    free(list);
    return q;
fail:
    if (q)
        question_free(q);
    free(list);
    return NULL;
}

void slurm_cancel(struct slurm_question *q)
{
    if (q)
        question_free(q);
}
