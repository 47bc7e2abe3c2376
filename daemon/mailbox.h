/*
 * mailbox.h - messages from any thread to one
 *
 * A mutex-guarded list and an eventfd; the receiver watches the fd in its event loop and drains all
 * there is.  The lock is held for a pointer swap only.  Mails are intrusive: the first member of
 * the sender's malloc'd struct; the receiver owns what it takes.
 */
#ifndef MP_DAEMON_MAILBOX_H
#define MP_DAEMON_MAILBOX_H

#include "common/error.h"

struct mail {
    struct mail *next;
    int kind; /* the receiver's enum */
};

struct mailbox;

struct mailbox *mailbox_create(struct error *err);
void mailbox_destroy(struct mailbox *m);                 /* free()s what is left in it */
int mailbox_fd(const struct mailbox *m);                 /* readable when there is mail */
void mailbox_post(struct mailbox *m, struct mail *mail); /* any thread; never fails */
/* All mails in order of posting, as a list; NULL if none.  Clears the eventfd. */
struct mail *mailbox_take(struct mailbox *m);

#endif
