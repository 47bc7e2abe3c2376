/* lane_rig.c - a slow lane; see lane_rig.h */
#include "tests/unit/lane_rig.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"

#define COPIES 1024u
#define LANES  16u

struct lane_rig lane_rig;

static struct copy {
    struct device_lane *lane;
    void *to;
    const void *from;
    uint64_t bytes;
} copies[COPIES];
static uint32_t count; /* that wait */
static uint64_t done;  /* since the beginning */
static struct {
    struct device_lane *lane;
    uint64_t at[DEVICE_LANE_MARKS];
} marks[LANES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t *marks_of(struct device_lane *lane)
{
    static uint32_t oldest;

    for (uint32_t i = 0; i < LANES; i++)
        if (marks[i].lane == lane)
            return marks[i].at;
    oldest = (oldest + 1) % LANES; /* that one was closed long ago */
    marks[oldest].lane = lane;
    return marks[oldest].at;
}

static void reach(uint64_t place)
{
    while (done < place && count > 0) {
        memcpy(copies[0].to, copies[0].from, copies[0].bytes);
        memmove(copies, copies + 1, --count * sizeof(copies[0]));
        done++;
    }
}

static int is_cpu(const struct device_lane *l)
{
    return device_kind(l->device) == DEVICE_CPU;
}

void __real_device_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes);
void __wrap_device_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes);
void __wrap_device_lane_copy(struct device_lane *l, void *to, const void *from, uint64_t bytes)
{
    lane_rig.copies++;
    if (!lane_rig.slow || !is_cpu(l)) {
        __real_device_lane_copy(l, to, from, bytes);
        return;
    }
    pthread_mutex_lock(&lock);
    if (count == COPIES)
        reach(done + 1);
    copies[count++] = (struct copy){l, to, from, bytes};
    pthread_mutex_unlock(&lock);
}

void __real_device_lane_mark(struct device_lane *l, uint32_t number);
void __wrap_device_lane_mark(struct device_lane *l, uint32_t number);
void __wrap_device_lane_mark(struct device_lane *l, uint32_t number)
{
    if (!is_cpu(l)) {
        __real_device_lane_mark(l, number);
        return;
    }
    pthread_mutex_lock(&lock);
    marks_of(l)[number] = done + count;
    pthread_mutex_unlock(&lock);
}

int __real_device_lane_wait(struct device_lane *l, uint32_t number, struct error *err);
int __wrap_device_lane_wait(struct device_lane *l, uint32_t number, struct error *err);
int __wrap_device_lane_wait(struct device_lane *l, uint32_t number, struct error *err)
{
    if (!is_cpu(l))
        return __real_device_lane_wait(l, number, err);
    if (number == DEVICE_LANE_MARKS - 1)
        usleep(lane_rig.end_ms * 1000);
    pthread_mutex_lock(&lock);
    reach(marks_of(l)[number]);
    pthread_mutex_unlock(&lock);
    if (++lane_rig.waits == lane_rig.fail_wait)
        return error_set(err, STATUS_INTERNAL, "a copy has failed");
    return 0;
}

void __real_device_await(struct device_lane *l, uint32_t number);
void __wrap_device_await(struct device_lane *l, uint32_t number);
void __wrap_device_await(struct device_lane *l, uint32_t number)
{
    if (!is_cpu(l)) {
        __real_device_await(l, number);
        return;
    }
    lane_rig.awaits++;
    pthread_mutex_lock(&lock);
    reach(marks_of(l)[number]);
    pthread_mutex_unlock(&lock);
}

int __real_device_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err);
int __wrap_device_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err);
int __wrap_device_host_pin(struct device *d, void *p, uint64_t bytes, struct error *err)
{
    if (++lane_rig.pins == lane_rig.fail_pin)
        return error_set(err, STATUS_NOMEM, "no memory may be pinned");
    return __real_device_host_pin(d, p, bytes, err);
}

void __real_device_host_unpin(struct device *d, void *p);
void __wrap_device_host_unpin(struct device *d, void *p);
void __wrap_device_host_unpin(struct device *d, void *p)
{
    lane_rig.unpins++;
    __real_device_host_unpin(d, p);
}
