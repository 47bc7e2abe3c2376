/*
 * sim_state.h - what sim_run.c and sim_device.c share: the event queue and devices in their turns
 */
#ifndef MP_CLI_SIM_STATE_H
#define MP_CLI_SIM_STATE_H

#include "cli/sim.h"

enum event_kind { EVENT_SEGMENT, EVENT_LOADED, EVENT_MOVED };

struct event {
    int64_t at;
    uint64_t number; /* of its making: the order of those at the same time */
    enum event_kind kind;
    uint32_t device, version; /* a segment's: void if the device has moved on */
    uint32_t request;         /* MOVED */
};

struct resident { /* a model in a device's memory */
    uint32_t model;
    int loading, behind; /* behind: came behind a turn, and has not run since */
    uint64_t used;       /* number of its last turn */
};

enum segment_kind { SEGMENT_WAIT, SEGMENT_PROMPT, SEGMENT_MIXED, SEGMENT_DECODE };

struct device {
    uint32_t index;
    enum sched_role role;
    uint32_t *members, member_count, member_room; /* requests here, in order of arrival */
    struct resident *residents;
    uint32_t resident_count, resident_room;
    int64_t link_free;   /* when the link has no more to copy */
    int64_t loaded;      /* when the load that goes on ends */
    uint32_t last_model; /* of the last turn */
    /* the turn */
    int busy;
    struct sched_turn turn;
    int64_t began, steps_began, step_time;
    uint32_t steps;
    uint32_t *rows, row_count, row_room; /* requests that decode */
    uint32_t *prompts, prompt_at, prompt_count, prompt_room;
    struct sim_segment segment;
    enum segment_kind kind;
    uint32_t chunk; /* of the prompt at hand */
    uint32_t version;
};

struct progress { /* of a request */
    uint32_t produced, cached, prefilled;
    uint8_t away, done, fresh_copy;
    uint32_t device;
};

struct sim {
    const struct sim_trace *trace;
    const struct sim_fleet *fleet;
    const struct cost_table *costs;
    struct sched *sched;
    struct sched_traits traits;
    struct device *devices;
    struct progress *progress;
    struct sim_outcome *outcomes;
    struct event *heap;
    size_t heap_count, heap_room;
    uint64_t events, turn_number;
    int64_t now;
    size_t next_arrival, done;
    struct sim_random coin;
    struct sim_report *report;
    double gap;
    struct error *err;
    int failed;
};

/* --- sim_run.c --- */
int sim_push(struct sim *s, struct event e);
/* Not enough memory: the run ends at the next event. */
void sim_fail(struct sim *s);
const struct cost *sim_cost(const struct sim *s, uint32_t model);

/* --- sim_device.c --- */
/* A request is there now, and its prompt or KV with it. */
void device_add(struct sim *s, struct device *d, uint32_t request);
/* Ask the scheduler what to load, and, if nothing runs, what to run. */
void device_kick(struct sim *s, struct device *d);
/* The running turn takes a new request of its model at the next step. */
void device_join(struct sim *s, struct device *d, uint32_t request);
void device_segment_end(struct sim *s, struct device *d);
void device_loaded(struct sim *s, struct device *d);
/* --- sim_memory.c --- */
struct resident *device_resident(const struct device *d, uint32_t model);
/* Make a model resident now; when it is.  *copied: bytes that had to come. */
int64_t device_load_now(struct sim *s, struct device *d, uint32_t model);
void device_load_behind(struct sim *s, struct device *d);
/* Make room for so many bytes for model's turn: 1 if they are there. */
int device_make_room(struct sim *s, struct device *d, uint32_t model, double bytes);
/* Bring a request's KV back: seconds. */
double device_fetch(struct sim *s, struct device *d, uint32_t request);

#endif
