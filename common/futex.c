/* futex.c - waiting for a word; see futex.h */
#include "common/futex.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

/* Looks before sleeping: some 50 us of pauses, longer than most ranks' parts of a step differ. */
#define SPINS 1000

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleep until somebody wakes, the word is not `seen` any more, or the time is over. */
static void sleep_on(struct futex *f, uint32_t seen, int64_t left_us)
{
    const struct timespec limit = {.tv_sec = left_us / 1000000,
                                   .tv_nsec = left_us % 1000000 * 1000};

    /* Announced before the kernel's look at the word; futex_wake() looks the other way round. */
    atomic_fetch_add(&f->sleepers, 1);
    (void)syscall(SYS_futex, &f->word, FUTEX_WAIT_PRIVATE, seen, left_us < 0 ? NULL : &limit, NULL,
                  0);
    atomic_fetch_sub(&f->sleepers, 1);
}

int futex_await(struct futex *f, uint32_t seen, int64_t timeout_us)
{
    int64_t end, left = -1;

    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&f->word) != seen)
            return 0;
        pause_cpu();
    }
    end = timeout_us < 0 ? 0 : clock_monotonic_us() + timeout_us;
    while (atomic_load(&f->word) == seen) {
        if (timeout_us >= 0) {
            left = end - clock_monotonic_us();
            if (left <= 0)
                return -1;
        }
        sleep_on(f, seen, left);
    }
    return 0;
}

void futex_wake(struct futex *f)
{
    if (atomic_load(&f->sleepers) > 0)
        (void)syscall(SYS_futex, &f->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
