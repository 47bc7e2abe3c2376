/* clock.h - microseconds everywhere: monotonic for durations, wall (Unix epoch) for records. */
#ifndef MP_COMMON_CLOCK_H
#define MP_COMMON_CLOCK_H

#include <stdint.h>

int64_t clock_monotonic_us(void);
int64_t clock_wall_us(void);

#endif
