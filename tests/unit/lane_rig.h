/*
 * lane_rig.h - a CPU's lane that takes its time, and pins and copies that fail: by -Wl,--wrap=
 *
 * With lane_rig.slow copies wait, and are done when somebody waits for a mark behind them: so what
 * is used before it was waited for is not there.
 */
#ifndef MP_TESTS_LANE_RIG_H
#define MP_TESTS_LANE_RIG_H

#include <stdatomic.h>
#include <stdint.h>

struct lane_rig {
    atomic_int slow;
    atomic_uint end_ms;              /* that the end of a load waits */
    atomic_uint fail_pin, fail_wait; /* the call of this number, from 1, fails; 0: none */
    atomic_uint pins, unpins, waits, awaits, copies;
};
extern struct lane_rig lane_rig;

#endif
