/*
 * engine_link.h - the channel to one engine process: datagrams of common/order.h
 *
 * Lives in one event loop.  Sending never blocks and never fails: what the socket does not take is
 * queued, and an engine that lets ENGINE_LINK_QUEUE_MAX bytes pile up is given up.  A channel that
 * breaks, for whatever reason, calls `closed` once, from the loop and never from within a send.
 */
#ifndef MP_DAEMON_ENGINE_LINK_H
#define MP_DAEMON_ENGINE_LINK_H

#include <event2/event.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ENGINE_LINK_QUEUE_MAX (64u << 20)

struct engine_link;

struct engine_link_calls {
    /* A datagram of the right length for its kind, texts terminated; valid during the call.  May
     * not destroy the link. */
    void (*event)(void *arg, const void *msg);
    /* The channel is gone; may destroy the link. */
    void (*closed)(void *arg, const char *why);
    /* The queue, which was not empty, is empty.  May not destroy the link. */
    void (*drained)(void *arg);
};

/* Takes fd (non-blocking from now on) on success. */
struct engine_link *engine_link_create(struct event_base *base, int fd,
                                       const struct engine_link_calls *calls, void *arg,
                                       struct error *err);
void engine_link_destroy(struct engine_link *link); /* closes fd */
/* Send a datagram. */
void engine_link_send(struct engine_link *link, const void *msg, size_t len);
/* The same with descriptors, at most ORDER_FILES_MAX, which are closed here when it is sent or
 * dropped. */
void engine_link_send_files(struct engine_link *link, const void *msg, size_t len, const int *fds,
                            uint32_t count);
/* Bytes that wait in the queue. */
size_t engine_link_queued(const struct engine_link *link);
/* Give the engine up: `closed` comes from the loop with this text. */
void engine_link_break(struct engine_link *link, const char *why);

#endif
