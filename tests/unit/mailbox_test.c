/* mailbox_test.c - order, eventfd, many posters */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "daemon/mailbox.h"

#define POSTERS 4
#define MAILS   20000

struct numbered {
    struct mail mail;
    int number;
};

static int readable(const struct mailbox *m, int wait_ms)
{
    struct pollfd pfd = {.fd = mailbox_fd(m), .events = POLLIN};

    return poll(&pfd, 1, wait_ms) == 1;
}

static void post(struct mailbox *m, int kind, int number)
{
    struct numbered *n = malloc(sizeof *n);

    assert_non_null(n);
    n->mail.kind = kind;
    n->number = number;
    mailbox_post(m, &n->mail);
}

static void mails_come_in_order(void **state)
{
    struct mailbox *m = mailbox_create(NULL);
    int expected = 0;

    (void)state;
    assert_non_null(m);
    assert_false(readable(m, 0));
    assert_null(mailbox_take(m));
    for (int i = 0; i < 5; i++)
        post(m, 0, i);
    assert_true(readable(m, 0));
    for (struct mail *at = mailbox_take(m), *next; at != NULL; at = next) {
        next = at->next;
        assert_int_equal(((struct numbered *)at)->number, expected++);
        free(at);
    }
    assert_int_equal(expected, 5);
    assert_false(readable(m, 0));
    post(m, 0, 5);
    assert_true(readable(m, 0));
    mailbox_destroy(m); /* frees what is left: the leak check sees it */
    mailbox_destroy(NULL);
}

struct poster {
    struct mailbox *mailbox;
    int kind;
};

static void *post_many(void *arg)
{
    struct poster *p = arg;

    for (int i = 0; i < MAILS; i++)
        post(p->mailbox, p->kind, i);
    return NULL;
}

/* Nothing is lost, each poster's order is kept, and the eventfd never sleeps on mail. */
static void many_threads_post(void **state)
{
    struct mailbox *m = mailbox_create(NULL);
    struct poster posters[POSTERS];
    pthread_t threads[POSTERS];
    int next_of[POSTERS] = {0}, total = 0;

    (void)state;
    assert_non_null(m);
    for (int i = 0; i < POSTERS; i++) {
        posters[i] = (struct poster){m, i};
        assert_int_equal(pthread_create(&threads[i], NULL, post_many, &posters[i]), 0);
    }
    while (total < POSTERS * MAILS) {
        assert_true(readable(m, 10000));
        for (struct mail *at = mailbox_take(m), *next; at != NULL; at = next) {
            next = at->next;
            assert_int_equal(((struct numbered *)at)->number, next_of[at->kind]++);
            total++;
            free(at);
        }
    }
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    assert_false(readable(m, 0));
    mailbox_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mails_come_in_order),
        cmocka_unit_test(many_threads_post),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
