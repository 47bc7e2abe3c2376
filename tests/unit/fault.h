/*
 * fault.h - the n-th call fails: by -Wl,--wrap= of what may fail in loading weights
 *
 * Counted are the calls of all threads to malloc, calloc, realloc, aligned_alloc, mmap, pread,
 * pwrite,
 * posix_fallocate and pthread_create while it is armed.
 */
#ifndef MP_TESTS_FAULT_H
#define MP_TESTS_FAULT_H

#include <stdint.h>

/* From now on, the call of this number (from 1) fails; 0: none does. */
void fault_arm(uint32_t number);
/* How many calls there were since. */
uint32_t fault_disarm(void);

#endif
