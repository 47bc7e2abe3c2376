/*
 * futex.h - threads of one process that wait for a word to change
 *
 * They look for a while before they sleep: what is near costs no call.  The word's change is a
 * release by the one who makes it (or stronger), and an acquire by those who see it here.
 */
#ifndef MP_COMMON_FUTEX_H
#define MP_COMMON_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

struct futex {
    _Atomic uint32_t word;
    _Atomic uint32_t sleepers;
};

/* Until the word is another than `seen`: 0.  -1: it was not within so many microseconds (-1: no
 * limit). */
int futex_await(struct futex *f, uint32_t seen, int64_t timeout_us);
/* The word has been changed: wake all who sleep. */
void futex_wake(struct futex *f);

#endif
