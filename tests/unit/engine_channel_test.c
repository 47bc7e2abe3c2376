/*
 * engine_channel_test.c - the loop behind a real channel: hostile datagrams, joins within a turn,
 * the process's beginnings and ends; the arena's and the pages' own bookkeeping
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/channel.h"
#include "engine/engine.h"
#include "tests/unit/tiny_gguf.h"

#define PROGRAM "./modelpool-engine"
#define HANDLE  ((uint64_t)2 << 20) /* of a CPU */
#define WAIT_MS 60000

static char path[64];
_Alignas(8) static unsigned char buffer[ORDER_BYTES_MAX];

/* --- an engine in a thread -------------------------------------------------------------------- */

struct served {
    pthread_t thread;
    int fd; /* the daemon's end */
    int engine_fd;
    int rv;
    struct error err;
};

static void *serve(void *arg)
{
    struct served *s = arg;

    s->rv = engine_serve(s->engine_fd, &s->err);
    close(s->engine_fd);
    return NULL;
}

static void start(struct served *s)
{
    int fds[2];

    memset(s, 0, sizeof(*s));
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    s->fd = fds[0];
    s->engine_fd = fds[1];
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void join(struct served *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    assert_int_equal(pthread_join(s->thread, NULL), 0);
}

static void send_bytes(int fd, const void *bytes, size_t len)
{
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
}

static void send_fds(int fd, const void *bytes, size_t len, const int *fds, size_t count)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    assert_int_equal(sendmsg(fd, &m, MSG_NOSIGNAL), len);
}

/* Events until one of this kind, which is left in the buffer. */
static void await(int fd, uint32_t kind)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint32_t got = 0;

    do {
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        assert_true(recv(fd, buffer, sizeof(buffer), 0) > 0);
        memcpy(&got, buffer, sizeof(got));
    } while (got != kind);
}

static void send_hello_precision(int fd, uint32_t version, uint32_t precision)
{
    struct order_hello hello = {.kind = ORDER_HELLO,
                                .version = version,
                                .memory_bytes = 8 * HANDLE,
                                .threads = 1,
                                .max_batch = 8,
                                .precision = precision,
                                .instance = "test"};

    send_bytes(fd, &hello, sizeof(hello));
}

static void send_hello(int fd, uint32_t version)
{
    send_hello_precision(fd, version, ORDER_FAST);
}

static void send_model(int fd, uint32_t id)
{
    struct order_model order = {.kind = ORDER_MODEL, .model = id, .files = 1, .name = "tiny"};
    int file = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(file >= 0);
    send_fds(fd, &order, sizeof(order), &file, 1);
    close(file);
    await(fd, EVENT_MODEL);
    assert_int_equal(((const struct event_model *)(const void *)buffer)->ok, 1);
}

static void send_seq(int fd, uint64_t seq, uint32_t max_tokens)
{
    struct order_seq open = {
        .kind = ORDER_SEQ_OPEN,
        .model = 1,
        .seq = seq,
        .tokens = 3,
        .max_tokens = max_tokens,
        .sampling = {.top_p = 1, .repetition_penalty = 1, .flags = SAMPLING_IGNORE_EOS}};
    static const uint32_t text[3] = {72, 101, 108};
    union {
        struct order_tokens head;
        unsigned char bytes[sizeof(struct order_tokens) + sizeof(text)];
    } tokens = {.head = {.kind = ORDER_SEQ_TOKENS, .count = 3, .seq = seq}};

    memcpy(tokens.bytes + sizeof(tokens.head), text, sizeof(text));
    send_bytes(fd, &open, sizeof(open));
    send_bytes(fd, &tokens, sizeof(tokens.head) + sizeof(text));
}

static void send_turn(int fd, uint64_t turn, uint32_t quota_steps)
{
    struct order_turn order = {
        .kind = ORDER_TURN, .model = 1, .turn = turn, .quota_steps = quota_steps};

    send_bytes(fd, &order, sizeof(order));
}

/* --- hostile datagrams ------------------------------------------------------------------------ */

/* Each kind at each length from 1 to beyond its own: one length alone is right. */
static void test_check_lengths(void **state)
{
    static const struct {
        uint32_t kind;
        size_t size;
    } kinds[] = {
        {ORDER_HELLO, sizeof(struct order_hello)},   {ORDER_MODEL, sizeof(struct order_model)},
        {ORDER_LOAD, sizeof(struct order_ref)},      {ORDER_UNLOAD, sizeof(struct order_ref)},
        {ORDER_SEQ_OPEN, sizeof(struct order_seq)},  {ORDER_SEQ_CLOSE, sizeof(struct order_ref)},
        {ORDER_TURN, sizeof(struct order_turn)},     {ORDER_SEQ_SPILL, sizeof(struct order_ref)},
        {ORDER_SEQ_FETCH, sizeof(struct order_ref)},
    };
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        for (size_t len = 1; len < 300; len++) {
            unsigned char *exact = calloc(1, len < 8 ? 8 : len); /* so that ASan sees overreads */
            assert_non_null(exact);
            memcpy(exact, &kinds[i].kind, sizeof(kinds[i].kind));
            assert_int_equal(channel_check(exact, len, &err), len == kinds[i].size ? 0 : -1);
            free(exact);
        }
    }
}

static void test_check_tokens(void **state)
{
    union {
        struct order_tokens head;
        unsigned char bytes[sizeof(struct order_tokens) + 4 * sizeof(uint32_t)];
    } o = {.head = {.kind = ORDER_SEQ_TOKENS, .count = 4}};
    struct error err;

    (void)state;
    assert_int_equal(channel_check(&o, sizeof(o), &err), 0);
    assert_int_equal(channel_check(&o, sizeof(o) - 1, &err), -1);
    assert_int_equal(channel_check(&o, sizeof(o.head) - 1, &err), -1);
    o.head.count = 0;
    assert_int_equal(channel_check(&o, sizeof(o.head), &err), -1);
    o.head.count = 5;
    assert_int_equal(channel_check(&o, sizeof(o), &err), -1);
    o.head.count = 0x40000004; /* times 4 it would be 16 in 32 bits */
    assert_int_equal(channel_check(&o, sizeof(o), &err), -1);
    struct order_model model = {.kind = ORDER_MODEL};
    memset(model.name, 'x', sizeof(model.name));
    assert_int_equal(channel_check(&model, sizeof(model), &err), -1);
    assert_non_null(strstr(err.text, "not terminated"));
}

static void test_check_biases(void **state)
{
    union {
        struct order_bias head;
        unsigned char bytes[sizeof(struct order_bias) + 301 * sizeof(struct token_bias)];
    } o = {.head = {.kind = ORDER_SEQ_BIAS, .count = 300}};
    struct error err;

    (void)state;
    assert_int_equal(channel_check(&o, sizeof(o) - sizeof(struct token_bias), &err), 0);
    assert_int_equal(channel_check(&o, sizeof(o), &err), -1);
    assert_int_equal(channel_check(&o, sizeof(o.head) - 1, &err), -1);
    o.head.count = 0;
    assert_int_equal(channel_check(&o, sizeof(o.head), &err), -1);
    o.head.count = 301;
    assert_int_equal(channel_check(&o, sizeof(o), &err), -1);
    o.head.count = 0x20000001; /* times 8 it would be 8 in 32 bits */
    assert_int_equal(channel_check(&o, sizeof(o.head) + 8, &err), -1);
}

/* Rubbish is dropped; what comes behind it is served. */
static void test_hostile_then_served(void **state)
{
    static unsigned char junk[ORDER_BYTES_MAX + 100];
    int many[12];
    struct served s;

    (void)state;
    start(&s);
    send_hello(s.fd, ORDER_VERSION);
    await(s.fd, EVENT_READY);
    for (uint32_t kind = 0; kind < 70; kind++) {
        if (kind == ORDER_QUIT)
            continue;
        memcpy(junk, &kind, sizeof(kind));
        send_bytes(s.fd, junk, 2);
        send_bytes(s.fd, junk, 7);
        send_bytes(s.fd, junk, 5000);
        send_bytes(s.fd, junk, sizeof(junk));
    }
    for (size_t i = 0; i < 12; i++)
        many[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    send_fds(s.fd, junk, 9, many, 12); /* descriptors that nobody asked for */
    for (size_t i = 0; i < 12; i++)
        close(many[i]);
    send_model(s.fd, 1);
    send_seq(s.fd, 1, 5);
    send_turn(s.fd, 1, 0);
    await(s.fd, EVENT_TURN_END);
    const struct event_turn_end *end = (const void *)buffer;
    assert_int_equal(end->reason, TURN_IDLE);
    assert_int_equal(end->steps, 5);
    join(&s);
    assert_int_equal(s.rv, 0);
}

static void test_first_order(void **state)
{
    struct order_ref ref = {.kind = ORDER_LOAD};
    struct served s;

    (void)state;
    start(&s);
    send_hello(s.fd, ORDER_VERSION + 1);
    pthread_join(s.thread, NULL);
    close(s.fd);
    assert_int_equal(s.rv, -1);
    assert_non_null(strstr(s.err.text, "version"));

    start(&s);
    send_hello_precision(s.fd, ORDER_VERSION, ORDER_FAST + 1);
    pthread_join(s.thread, NULL);
    close(s.fd);
    assert_int_equal(s.rv, -1);
    assert_non_null(strstr(s.err.text, "precision"));

    start(&s);
    send_bytes(s.fd, &ref, sizeof(ref));
    pthread_join(s.thread, NULL);
    close(s.fd);
    assert_int_equal(s.rv, -1);
    assert_non_null(strstr(s.err.text, "hello"));

    start(&s); /* the daemon goes before it says anything */
    join(&s);
    assert_int_equal(s.rv, 0);
}

/* A sequence that comes while a turn runs is part of its steps, one that is closed leaves them. */
static void test_joins_and_leaves(void **state)
{
    struct order_ref leave = {.kind = ORDER_SEQ_CLOSE, .seq = 1};
    const struct event_step *step = (const void *)buffer;
    uint32_t both = 0, alone = 0;
    struct served s;

    (void)state;
    start(&s);
    send_hello(s.fd, ORDER_VERSION);
    send_model(s.fd, 1);
    send_seq(s.fd, 1, 4000); /* far more than it will be given */
    send_turn(s.fd, 1, 0);
    await(s.fd, EVENT_STEP);
    send_seq(s.fd, 2, 2000);
    do
        await(s.fd, EVENT_STEP);
    while (step->count < 2);
    both = step->rows[0].position;
    send_bytes(s.fd, &leave, sizeof(leave));
    do
        await(s.fd, EVENT_STEP);
    while (step->count == 2);
    assert_int_equal(step->rows[0].seq, 2);
    alone = step->rows[0].position;
    assert_true(both >= 3 && alone < 2003);
    join(&s); /* within a turn */
    assert_int_equal(s.rv, 0);
}

/* --- the process ------------------------------------------------------------------------------ */

/* Start the program with `channel` (or /dev/null) as descriptor 3; its stderr comes by *err. */
static pid_t spawn(int channel, const char *argument, int *err)
{
    int fds[2];

    if (access(PROGRAM, X_OK) != 0) {
        print_message("%s is not there: run from the build's top folder\n", PROGRAM);
        skip();
    }
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int from = channel >= 0 ? fcntl(channel, F_DUPFD, 10) : open("/dev/null", O_RDONLY);
        dup2(fds[1], 2);
        dup2(fds[1], 1);
        dup2(from, ORDER_FD);
        execl(PROGRAM, "modelpool-engine", argument, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    *err = fds[0];
    return pid;
}

static int exit_code(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void read_all(int fd, char *text, size_t room)
{
    size_t len = 0;
    ssize_t n;

    while (len + 1 < room && (n = read(fd, text + len, room - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(fd);
}

static void test_program_by_hand(void **state)
{
    char text[2048];
    int err;

    (void)state;
    pid_t pid = spawn(-1, NULL, &err);
    read_all(err, text, sizeof(text));
    assert_int_equal(exit_code(pid), 2);
    assert_non_null(strstr(text, "modelpoold"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
    pid = spawn(-1, "--version", &err);
    read_all(err, text, sizeof(text));
    assert_int_equal(exit_code(pid), 0);
    assert_string_equal(text, "modelpool-engine " MODELPOOL_RELEASE "\n");
    pid = spawn(-1, "--help", &err);
    read_all(err, text, sizeof(text));
    assert_int_equal(exit_code(pid), 0);
    pid = spawn(-1, "--frobnicate", &err);
    read_all(err, text, sizeof(text));
    assert_int_equal(exit_code(pid), 2);
}

static void test_program_serves(void **state)
{
    static const uint32_t quit = ORDER_QUIT;
    char text[4096];
    int err, fds[2];

    (void)state;
    for (int by_quit = 0; by_quit < 2; by_quit++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        pid_t pid = spawn(fds[1], NULL, &err);
        close(fds[1]);
        send_hello(fds[0], ORDER_VERSION);
        await(fds[0], EVENT_READY);
        send_model(fds[0], 1);
        send_seq(fds[0], 1, 3);
        send_turn(fds[0], 1, 0);
        await(fds[0], EVENT_TURN_END);
        if (by_quit)
            send_bytes(fds[0], &quit, sizeof(quit));
        else
            close(fds[0]);
        read_all(err, text, sizeof(text));
        assert_int_equal(exit_code(pid), 0);
        if (by_quit)
            close(fds[0]);
    }
}

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/engine_channel_test.%d.gguf", (int)getpid());
    return tiny_gguf_write(path, NULL);
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check_lengths),   cmocka_unit_test(test_check_tokens),
        cmocka_unit_test(test_check_biases),    cmocka_unit_test(test_hostile_then_served),
        cmocka_unit_test(test_first_order),     cmocka_unit_test(test_joins_and_leaves),
        cmocka_unit_test(test_program_by_hand), cmocka_unit_test(test_program_serves),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
