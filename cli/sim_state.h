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

struct hosted { /* a model in a node's host memory */
    uint32_t model;
    int64_t ready, held; /* read from disk; neither read nor copied any more */
    uint64_t used;       /* number of its last use */
};

struct node {
    struct hosted *models;
    uint32_t count, room;
    double bytes;
    int64_t disk_free; /* when the disk has no more to read */
};

#define SIM_TENANTS_MAX 64u /* whose bills are followed turn by turn */

struct sim {
    const struct sim_trace *trace;
    const struct sim_fleet *fleet;
    const struct cost_table *costs;
    struct sched *sched;
    struct sched_traits traits;
    struct device *devices;
    struct node *nodes; /* NULL: host memory has no bounds */
    uint32_t node_count, node_devices;
    uint64_t host_uses;
    uint64_t *seen; /* per model: the last turn at whose beginning it had work on the device */
    double paid[SIM_TENANTS_MAX], paid_switches[SIM_TENANTS_MAX]; /* by tenant, GPU s */
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

/* --- sim_host.c --- */
int host_begin(struct sim *s);
void host_end(struct sim *s);
/* A model is asked for, or runs: of those in the node's memory it is the last to go. */
void host_touch(struct sim *s, const struct device *d, uint32_t model);
/* Its weights are wanted on the device: when they are in the node's memory. */
int64_t host_fetch(struct sim *s, const struct device *d, uint32_t model);
/* They are being copied until then, and stay. */
void host_hold(struct sim *s, const struct device *d, uint32_t model, int64_t until);

#endif
