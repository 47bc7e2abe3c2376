/*
 * channel.h - the engine's end of the SOCK_SEQPACKET pair: one message, one datagram
 *
 * A datagram is looked at only after its length, and that of the texts in it, has been checked
 * against its kind (common/order.h).
 */
#ifndef MP_ENGINE_CHANNEL_H
#define MP_ENGINE_CHANNEL_H

#include <stddef.h>

#include "common/error.h"
#include "common/order.h"

struct channel {
    int fd; /* not owned */
    _Alignas(8) unsigned char buffer[ORDER_BYTES_MAX];
};

enum channel_result {
    CHANNEL_NONE,    /* nothing there, and `wait` was 0 */
    CHANNEL_MESSAGE, /* a checked order lies in the buffer */
    CHANNEL_REFUSED, /* a datagram was dropped; err says why */
    CHANNEL_CLOSED,  /* end of file, or the socket is broken */
};

/* What came with an order. */
struct channel_files {
    uint32_t count;
    int fds[ORDER_FILES_MAX];
};
void channel_files_close(struct channel_files *files);

/*
 * Take one order.  wait: block until one comes.  *files has the descriptors that came with it: the
 * caller closes them.  The buffer holds until the next call.
 */
enum channel_result channel_receive(struct channel *ch, int wait, struct channel_files *files,
                                    struct error *err);

/* Send one event, waiting for room.  -1: the daemon is gone. */
int channel_send(struct channel *ch, const void *event, size_t len);

/* The check alone: is this datagram a whole, well-formed order?  CORRUPT says what is wrong. */
int channel_check(const void *data, size_t len, struct error *err);

#endif
