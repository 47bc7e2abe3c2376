/*
 * policy_state.h - what the policy thread owns, and the parts of it that its files share
 *
 * A sequence is in one of three states:
 *   WAITING  no engine has it: its model's engines are not up, or their queues are full
 *   HELD     it belongs to an instance whose memory is full: given anew when pages can be expected,
 *            or fetched, if its engine still has it with its KV in host memory (away)
 *   OPEN     an engine has it
 * WAITING -> OPEN or HELD (sequence_place), OPEN -> HELD (turn_preempt), HELD -> WAITING -> OPEN
 * (sequence_release), any -> WAITING (the engine died), any -> ended (sequence_end).
 *
 * An instance goes DOWN -> STARTING -> READY -> REAPING -> DOWN.  Only the policy thread touches
 * any of this; the snapshot is a copy under its own lock.
 */
#ifndef MP_DAEMON_POLICY_STATE_H
#define MP_DAEMON_POLICY_STATE_H

#include <event2/event.h>
#include <pthread.h>
#include <sys/queue.h>

#include "daemon/cost_fit.h"
#include "daemon/engine_link.h"
#include "daemon/policy.h"
#include "daemon/supervisor.h"
#include "daemon/tier.h"
#include "sched/sched.h"

#define POLICY_TURNS_HELD 2u         /* by an engine */
#define POLICY_QUEUE_LOW  (1u << 19) /* bytes queued to an engine above which nothing is opened */
#define POLICY_OPEN_MAX   2048u      /* sequences in one engine */
#define POLICY_EMPTY_MAX  200u       /* turns in a row without a step though sequences are there */

struct policy_limits {
    struct supervisor_limits restart;
    int64_t start_us;     /* from start to EVENT_READY */
    int64_t silence_us;   /* without an event while there is work */
    int64_t quit_us;      /* from the end of the channel to SIGKILL */
    int64_t calibrate_us; /* of steps that measure a model's costs; 0: none do */
    uint32_t starts_max;  /* failed starts in a row after which requests are refused */
    uint32_t deaths_max;  /* of engines that had a sequence, without a token in between */
};

enum sequence_state { SEQUENCE_WAITING, SEQUENCE_HELD, SEQUENCE_OPEN };

struct sequence {
    TAILQ_ENTRY(sequence) link; /* all of them, in order of arrival */
    struct sequence *chain;     /* in its bucket */
    struct policy_request *request;
    uint64_t order;    /* of arrival */
    uint32_t prompt;   /* tokens */
    uint32_t count;    /* prompt and output so far */
    uint32_t capacity; /* of request->tokens */
    enum sequence_state state;
    int scheduled;     /* sched knows it, and instance is where */
    int away;          /* not OPEN, but the engine of `instance` has it: policy_swap.c */
    int parked;        /* OPEN, but its KV waits in host memory for its model's next turn */
    uint32_t instance; /* index into policy->instances */
    uint32_t deaths;
    int64_t engine_ns;
    struct policy_usage usage;
};

TAILQ_HEAD(sequence_list, sequence);

/*
 * A request with an SLO between policy_admit and policy_submit: it waits for its promise, or has
 * it. Then the scheduler knows it already, as a sequence that gets no turns, so that it counts.
 */
struct promise {
    TAILQ_ENTRY(promise) link; /* all of them, in order of arrival */
    struct sched_seq seq;
    uint32_t instance; /* admitted: where */
    int admitted;      /* else it waits */
    int64_t asked_us;
    int64_t deadline_us;       /* waiting: then it is refused */
    char text[ORDER_TEXT_MAX]; /* waiting: why */
};

TAILQ_HEAD(promise_list, promise);

struct held_turn {
    uint64_t turn;
    uint32_t model;
};

struct engine_model { /* a model on an instance */
    struct policy_model_status status;
    enum status refusal; /* why its requests fail while !status.ok */
    uint32_t page_tokens;
    uint64_t prefill_us, prefill_tokens; /* of steps, not charged to a sequence yet */
    struct cost cost;                    /* as measured so far; decode 0: the model is not known */
    struct cost_fit step, prefill;
    uint32_t vocabulary;
    uint64_t layout;            /* of its weights: models of one are of one shape */
    int calibrated;             /* its costs need no measuring off traffic any more */
    uint32_t calibration_tries; /* that requests cut short */
    int hosted;                 /* there is a master copy, as the scheduler knows */
    double load_error;
    uint64_t loads;
    int64_t measured_us;     /* the last step */
    int cost_changed;        /* since it was written */
    struct tier_file *files; /* with its weights, as this engine got them */
    uint32_t file_count;
    struct tier_master *master; /* NULL: the host tier has no place for it */
    enum master_use lent;       /* to this engine */
    int prefetched;             /* came behind the turns, and has had none since */
};

#define CALIBRATION_SCENES     10
#define CALIBRATION_POINTS     64u
#define CALIBRATION_PROMPT_MAX 1024u
#define CALIBRATION_STEPS      128u    /* that only decode, of a scene, at most, */
#define CALIBRATION_STEPS_MIN  8u      /* and at least */
#define CALIBRATE_IDLE_US      1000000 /* an instance that is idle for so long may measure */

struct calibration { /* of one model's costs on an idle instance */
    uint32_t model;  /* UINT32_MAX: none goes on */
    uint32_t round, scene;
    int warm_up;   /* the first scene is not believed */
    int yields;    /* a request has come */
    int reloading; /* the last part: what a switch takes */
    int64_t left_us;
    uint64_t turn, first; /* the scene's turn; the number of its first sequence, */
    uint32_t rows;        /* of so many, */
    uint32_t output;      /* and as many tokens as each yields */
    struct cost_point prompt;
    double prompt_seconds; /* so far */
    uint32_t step_count, batch_count, prompt_count;
    struct cost_point steps[CALIBRATION_STEPS]; /* of the scene */
    struct cost_point batches[CALIBRATION_POINTS], prompts[CALIBRATION_POINTS];
};

enum instance_state { INSTANCE_DOWN, INSTANCE_STARTING, INSTANCE_READY, INSTANCE_REAPING };

struct instance {
    struct policy *policy;
    uint32_t index; /* into policy->instances */
    const struct config_instance *config;
    enum instance_state state;
    int drained;
    struct supervisor process;
    struct engine_link *link; /* STARTING, READY */
    struct event *timer;
    int64_t deadline_us;                /* STARTING: of EVENT_READY; REAPING: of the kill */
    int64_t heard_us;                   /* the last event, or the start of work */
    int loads_behind;                   /* it can load one model while another runs */
    uint32_t loading;                   /* that one; UINT32_MAX: none */
    uint32_t failed_loads;              /* in a row */
    uint32_t evicting[SCHED_EVICT_MAX]; /* for the one that is loading */
    uint32_t evict_count;
    int complete;                 /* this engine has read all model files */
    uint32_t failed_starts;       /* engines in a row that ended before that */
    char failure[ERROR_TEXT_MAX]; /* why the last engine ended; "" since another one is complete */
    double load_speed;            /* bytes/s at which weights came; 0: none did */
    double disk_speed;            /* and at which they were read into the host tier */
    struct calibration calibration;
    struct held_turn turns[POLICY_TURNS_HELD];
    uint32_t turn_count;
    uint64_t settled_turn; /* the end of a turn before this one does not know of the last close */
    uint32_t empty_turns;
    uint32_t open, held; /* sequences */
    uint32_t ended;      /* since sequence_settle */
    struct policy_instance_status status;
    struct engine_model *models; /* [config->model_count] */
};

struct pending_command {
    TAILQ_ENTRY(pending_command) link;
    enum policy_command command;
    uint32_t target;
    uint64_t tag;
    struct instance *instance; /* LOAD: where; DRAIN */
    int loaded;                /* LOAD: it is there, and may have to be measured */
};

TAILQ_HEAD(command_list, pending_command);

struct policy {
    const struct config *config;
    struct policy_limits limits;
    struct mailbox *inbox, *sink;
    pthread_t thread;
    struct event_base *base;
    struct event *mail;
    struct sched *sched;
    struct instance *instances; /* [instance_count]: this node's */
    uint32_t instance_count, model_count;
    struct sequence_list sequences;
    struct sequence **buckets;
    size_t bucket_count; /* a power of two */
    uint32_t live;       /* sequences */
    uint64_t arrivals, turns;
    struct command_list commands;
    struct tier *tier; /* NULL: there is none */
    int admission;     /* requests with an SLO need a promise */
    struct promise_list promises;
    uint32_t promises_waiting;
    uint8_t *blocked;            /* [model_count]: an older promise of it waits */
    int retry;                   /* what waits for a promise should be asked about again */
    struct event *promise_timer; /* runs while some wait */
    struct policy_cost *taught;  /* what an earlier life has measured */
    uint32_t taught_count;
    struct event *cost_timer;
    uint32_t tenant_count; /* numbers that were told a share */
    double *shares;        /* [tenant_count] */
    int stopping;
    int replace;                     /* what waits for an engine should be placed again */
    int changed;                     /* the snapshot is out of date */
    pthread_mutex_t snapshot_lock;   /* guards snapshot's arrays */
    struct policy_snapshot snapshot; /* the copy that policy_snapshot copies */
};

/* policy_create with other limits than the usual ones; for tests. */
struct policy *policy_create_limited(const struct config *config, struct tier *tier,
                                     const struct policy_limits *limits, struct mailbox *sink,
                                     struct error *err);

/* --- policy.c --- */
/* After every callback of the loop: places, releases, feeds, answers and publishes what it changed.
 */
void policy_settle(struct policy *p);
/* A zeroed event with room for rows.  Waits for memory: an event that is lost is a lost token. */
struct policy_event *event_make(enum policy_event_kind kind, uint32_t rows);
void event_emit(struct policy *p, struct policy_event *ev);

/* --- policy_sequence.c: their table, opening and ending --- */
int sequence_table_init(struct policy *p, struct error *err);
void sequence_table_clear(struct policy *p);
struct sequence *sequence_find(const struct policy *p, uint64_t seq);
/* Takes the request; ends at once with a fault if it can never run. */
void sequence_submit(struct policy *p, struct policy_request *r);
/* Give a WAITING sequence to an engine if one can take it now; it ends if none ever will. */
void sequence_place(struct policy *p, struct sequence *s);
/* sequence_place for all that are WAITING, oldest first. */
void sequence_place_all(struct policy *p);
/* The oldest HELD sequence of an instance is given anew. */
void sequence_release(struct instance *in);
/* One HELD sequence for each that ended there goes on, and one if nothing else is open. */
void sequence_settle(struct instance *in);
/* Its engine has died or it is given up there: it waits. */
void sequence_take_back(struct policy *p, struct sequence *s, enum sequence_state state);
/* Its DONE event.  The engine is told if it still has it and `close` is set. */
void sequence_end(struct policy *p, struct sequence *s, enum finish finish, int close,
                  enum status status, const char *text);
/* One more token: 1 if it is new and passed on, 0 if it is known already, -1 if it does not fit
 * behind the others.  */
int sequence_append(struct policy *p, struct sequence *s, const struct event_row *row);
void sequence_order_close(struct policy *p, struct sequence *s);

/* --- policy_admit.c: promises --- */
int promise_init(struct policy *p, struct error *err);
void promise_clear(struct policy *p);
void promise_ask(struct policy *p, const struct policy_ask *ask);
/* The promise becomes a sequence, of which the scheduler knows; 0 if there is none. */
int promise_claim(struct policy *p, uint64_t seq, uint32_t *instance);
/* 0 if there is none. */
int promise_cancel(struct policy *p, uint64_t seq);
void promise_set_tenant(struct policy *p, uint64_t seq, uint32_t tenant);
/* Ask again for those that wait, if something has changed. */
void promise_settle(struct policy *p);
void promise_refuse_all(struct policy *p);

/* --- policy_engine.c: life of an engine --- */
void engine_start(struct instance *in);
/* Close its channel; it is killed later if it does not end. */
void engine_stop(struct instance *in);
void engine_on_timer(struct instance *in);
void engine_lost(struct instance *in, const char *why);
void engine_ready(struct instance *in, const struct event_ready *ev);
void engine_model(struct instance *in, const struct event_model *ev);
/* Reaped, or never started: the loop may end. */
int engine_is_down(const struct instance *in);
/* It does not start, again and again. */
int engine_failed(const struct instance *in);
/* READY, and the model's file is read and can run. */
int engine_can_run(const struct instance *in, uint32_t model);

/* --- policy_turn.c: what engines run next --- */
void turn_feed(struct instance *in);
void turn_ended(struct instance *in, const struct event_turn_end *ev);
/* A turn has been ordered. */
void turn_hold(struct instance *in, uint64_t turn, uint32_t model);
/* A model's weights came or went, and it may be what was loaded behind the turns. */
void turn_loaded(struct instance *in, const struct event_residency *ev);

/* --- policy_swap.c: KV in host memory --- */
uint64_t swap_share(const struct instance *in);
/* An OPEN sequence gives way, and its engine keeps its KV: 1, and the caller holds it.  0: close
 * it.
 */
int swap_spill(struct instance *in, struct sequence *s);
/* With a scheduler whose batches take turns with their KV: what decodes and has no turn held
 * leaves, and comes back with its model's turn, of which the order is about to go out. */
void swap_park(struct instance *in);
void swap_unpark(struct instance *in, uint32_t model);
/* A sequence that is away comes back. */
void swap_fetch(struct instance *in, struct sequence *s);
void swap_moved(struct instance *in, const struct event_seq_moved *ev);

/* --- policy_cost.c: what steps and loads cost, for the scheduler --- */
/* The model's file was read. */
void cost_begin(struct instance *in, uint32_t model);
/* A step; prefilling: prompt tokens that were computed before it of what is being prefilled. */
void cost_step(struct instance *in, uint32_t model, const struct event_step *ev,
               uint64_t prefilling);
/* Its weights came, by a turn, an order or behind the turns. */
void cost_load(struct instance *in, const struct event_residency *ev);
/* Models that were not measured take what was with others of their shape. */
void cost_share(struct policy *p);
/* A load that was made to be measured. */
void cost_switch(struct instance *in, uint32_t model, uint64_t us);
/* What was measured off traffic: decode steps, and prompts alone. */
void cost_calibrated(struct instance *in, uint32_t model, const struct cost_point *batches,
                     uint32_t batch_count, const struct cost_point *prompts, uint32_t prompt_count);
void cost_moved(struct instance *in, uint32_t model, uint64_t bytes, uint64_t us);

/* --- policy_calibrate.c: measuring costs off traffic --- */
/* The model's costs should be measured on the instance. */
int calibrate_wanted(const struct instance *in, uint32_t model);
/* The instance has nothing else to do. */
int calibrate_may(const struct instance *in);
/* Both hold, and the model is resident. */
void calibrate_begin(struct instance *in, uint32_t model);
/* Something else is to be done. */
void calibrate_yield(struct instance *in);
/* Of an instance that has been idle for a while. */
void calibrate_idle(struct instance *in);
/* 1: it was one of the calibration's own, and nobody else's. */
int calibrate_step(struct instance *in, const struct event_step *ev);
int calibrate_turn_ended(struct instance *in, const struct event_turn_end *ev);
void calibrate_residency(struct instance *in, const struct event_residency *ev);
/* What was measured before needs no calibration. */
int calibrate_is_known(const struct engine_model *m);

/* --- policy_tier.c: master copies of weights in host memory --- */
/* A load of the model may come from host memory. */
int tier_has(const struct instance *in, uint32_t model);
/* The scheduler learns which models lie in host memory. */
void tier_tell(struct policy *p);
void tier_begin(struct policy *p, struct tier *tier);
/* A file with weights goes to an engine; and all of the model's are forgotten. */
void tier_note_file(struct instance *in, uint32_t model, int fd);
void tier_forget_files(struct instance *in, uint32_t model);
void tier_model_known(struct instance *in, const struct event_model *ev);
/* The engine is about to load the model, or runs it. */
void tier_need(struct instance *in, uint32_t model);
/* A turn of the model has ended: an empty master copy that it did not need is for others. */
void tier_turn_ended(struct instance *in, uint32_t model);
void tier_on_master(struct instance *in, const struct event_master *ev);
void tier_instance_lost(struct instance *in);
void tier_show(const struct policy *p, struct policy_snapshot *s);
/* 1: its master copy is being prepared, and how far that is. */
int tier_percent(const struct engine_model *m, uint32_t *percent);
/* It was measured, and not long ago. */
int cost_is_known(const struct instance *in, uint32_t model);
void cost_teach(struct policy *p, const struct policy_cost *c);
/* Every COST_WRITE_US, and at the end. */
void cost_on_timer(struct policy *p);
void cost_flush(struct policy *p);
#define COST_WRITE_US 5000000

/* --- policy_event.c: what engines say --- */
extern const struct engine_link_calls engine_calls;

/* --- policy_command.c --- */
void command_start(struct policy *p, enum policy_command command, uint32_t target, uint64_t tag);
/* A model's weights came or went. */
void command_residency(struct instance *in, const struct event_residency *ev);
/* A sequence has ended: a drain may be complete. */
void command_check_drains(struct policy *p);
void command_instance_lost(struct instance *in);
/* What was loaded by command is measured, if the instance can do so now. */
void command_settle(struct instance *in);
void command_refuse_all(struct policy *p);

/* --- policy_snapshot.c --- */
int snapshot_init(struct policy *p, struct error *err);
void snapshot_publish(struct policy *p);

#endif
