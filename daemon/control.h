/*
 * control.h - connections of the control socket, shared by control*.c alone
 *
 * control.c accepts, cuts frames, and calls the request's handler; the handlers stand one file a
 * subject.  A connection has at most one request at a time: until it is answered, what the client
 * sends stays in its (bounded) buffer, and so does everything while the client does not read what
 * was sent to it.
 */
#ifndef MP_DAEMON_CONTROL_H
#define MP_DAEMON_CONTROL_H

#include <event2/bufferevent.h>
#include <event2/listener.h>

#include "common/wire.h"
#include "daemon/front.h"

#define CONTROL_CONNS_MAX  1024u /* of all users together; a step that uses models holds one */
#define CONTROL_CONNS_ROOT 256u  /* of these, kept for root: nobody can lock the plugin out */
#define CONTROL_CONNS_UID  64u   /* of one user that is not root */
#define CONTROL_OUTPUT_HIGH                                                                        \
    262144u /* bytes not yet read by a client: it gets no more before that */

struct acct_walk;

struct conn {
    struct conn *next, **link; /* of control->conns */
    struct control *control;
    struct bufferevent *bev;
    uint64_t id;            /* never used again: answers that come later find it by this */
    uid_t uid;              /* the peer's, when it connected */
    int greeted;            /* hello is done */
    int busy;               /* a request is being worked on */
    int closing;            /* once its output is sent */
    struct grant *grant;    /* held by this connection */
    struct acct_walk *walk; /* control_acct.c: rows that are still to be sent */
};

struct control {
    struct front *f;
    struct evconnlistener *listener;
    struct event *again; /* accepts go on after descriptors ran out */
    struct conn *conns;
    size_t count;
    uint64_t last_id;
};

/* --- control.c --- */
struct conn *control_find(const struct control *c, uint64_t id); /* NULL: it has closed */
/* Queue a message. */
void conn_send(struct conn *conn, const struct wire *w);
/* The request is answered: by w, by an error, or by what was sent before. */
void conn_answer(struct conn *conn, const struct wire *w);
void conn_refuse(struct conn *conn, const struct error *err);
void conn_end(struct conn *conn); /* sends "end" */
/* DENIED unless the peer is root or the daemon's own user. */
int conn_check_admin(const struct conn *conn, const char *what, struct error *err);

/* --- handlers: 0: answered, or will be; -1: the error is the answer --- */
int control_grant(struct conn *conn, const struct wire *request, struct error *err);
int control_lease(struct conn *conn, const struct wire *request, struct error *err);
int control_list(struct conn *conn, const struct wire *request, struct error *err);
int control_status(struct conn *conn, const struct wire *request, struct error *err);
int control_load(struct conn *conn, const struct wire *request, struct error *err);
int control_unload(struct conn *conn, const struct wire *request, struct error *err);
int control_drain(struct conn *conn, const struct wire *request, struct error *err);
int control_resume(struct conn *conn, const struct wire *request, struct error *err);
int control_acct(struct conn *conn, const struct wire *request, struct error *err);
/* The connection's output has been sent: the next page, if there is one. */
void control_acct_continue(struct conn *conn);
void control_acct_free(struct acct_walk *walk); /* NULL is fine */

#endif
