/*
 * mailbox.c - a list under a mutex, and an eventfd that says that it is not empty
 */
#include "daemon/mailbox.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
    pthread_mutex_t lock; /* guards head and tail */
    struct mail *head, **tail;
    int fd;
};

struct mailbox *mailbox_create(struct error *err)
{
    struct mailbox *m = malloc(sizeof *m);

    if (m == NULL) {
        error_set(err, STATUS_NOMEM, "mailbox: out of memory");
        return NULL;
    }
    m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->fd < 0) {
        error_errno(err, "mailbox: eventfd");
        free(m);
        return NULL;
    }
    m->head = NULL;
    m->tail = &m->head;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void mailbox_destroy(struct mailbox *m)
{
    if (m == NULL)
        return;
    for (struct mail *mail = m->head, *next; mail != NULL; mail = next) {
        next = mail->next;
        free(mail);
    }
    close(m->fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

int mailbox_fd(const struct mailbox *m)
{
    return m->fd;
}

/*
 * The eventfd is written only when the list was empty, and inside the lock: a taker that finds the
 * list empty has cleared it, so list and eventfd never disagree.
 */
void mailbox_post(struct mailbox *m, struct mail *mail)
{
    int was_empty;

    mail->next = NULL;
    pthread_mutex_lock(&m->lock);
    was_empty = m->head == NULL;
    *m->tail = mail;
    m->tail = &mail->next;
    if (was_empty)
        (void)eventfd_write(m->fd, 1); /* fails only at 2^64 - 1, and it is 0 here */
    pthread_mutex_unlock(&m->lock);
}

struct mail *mailbox_take(struct mailbox *m)
{
    struct mail *list;
    eventfd_t count;

    pthread_mutex_lock(&m->lock);
    list = m->head;
    m->head = NULL;
    m->tail = &m->head;
    if (list != NULL)
        (void)eventfd_read(m->fd, &count); /* non-blocking, and 1 here */
    pthread_mutex_unlock(&m->lock);
    return list;
}
