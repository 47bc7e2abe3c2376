/*
 * order.h - what the daemon and an engine say to each other
 *
 * The channel is a SOCK_SEQPACKET pair: one message, one datagram; the engine inherits its end as
 * descriptor 3.  Integers are native (both ends run on one host).  Every message starts with its
 * kind; a receiver checks the datagram's length against the kind before it looks at a field.
 *
 * The daemon holds all that is needed to start a sequence again elsewhere; an engine may forget a
 * sequence at any time (death, ORDER_SEQ_CLOSE) and be given it anew with the tokens so far.
 */
#ifndef MP_COMMON_ORDER_H
#define MP_COMMON_ORDER_H

#include <stdint.h>

#define ORDER_VERSION    3
#define ORDER_FD         3
#define ORDER_BYTES_MAX  65536u /* of any datagram */
#define ORDER_TOKENS_MAX 8192u  /* in one ORDER_SEQ_TOKENS */
#define ORDER_ROWS_MAX   256u   /* in one EVENT_STEP */
#define ORDER_TEXT_MAX   256u
#define ORDER_FILES_MAX  64u /* with one ORDER_MODEL */

enum order_kind {
    ORDER_HELLO = 1,  /* struct order_hello: the first message */
    ORDER_MODEL,      /* struct order_model, with its files' descriptors (SCM_RIGHTS) */
    ORDER_LOAD,       /* struct order_ref: make resident between steps, evicting if need be */
    ORDER_UNLOAD,     /* struct order_ref: give up its memory (its sequences' KV stays) */
    ORDER_SEQ_OPEN,   /* struct order_seq, then its tokens by ORDER_SEQ_TOKENS */
    ORDER_SEQ_TOKENS, /* struct order_tokens; the sequence may run when all have come */
    ORDER_SEQ_CLOSE,  /* struct order_ref: forget it at the next step boundary */
    ORDER_TURN,       /* struct order_turn: queued behind the running turn; at most 2 are held */
    ORDER_QUIT,       /* end now; so does the closing of the channel */

    EVENT_READY = 64, /* struct event_ready: answers ORDER_HELLO */
    EVENT_MODEL,      /* struct event_model: answers ORDER_MODEL */
    EVENT_RESIDENCY,  /* struct event_residency: weights came or went */
    EVENT_STEP,       /* struct event_step: all tokens of one step */
    EVENT_SEQ_FAULT,  /* struct event_seq_fault: this sequence cannot go on, and why */
    EVENT_TURN_END,   /* struct event_turn_end */
};

struct order_ref { /* ORDER_LOAD, ORDER_UNLOAD (a model), ORDER_SEQ_CLOSE (a sequence) */
    uint32_t kind;
    uint32_t model;
    uint64_t seq;
};

enum order_device { ORDER_DEVICE_CPU, ORDER_DEVICE_CUDA };
enum order_precision { ORDER_EXACT, ORDER_FAST }; /* of kernels.h's enum precision */

struct order_hello {
    uint32_t kind;
    uint32_t version;
    uint64_t memory_bytes; /* weights and KV together */
    uint32_t threads;      /* 0: one per core */
    uint32_t max_batch;    /* rows of a step */
    uint32_t device;       /* enum order_device */
    uint32_t gpu;          /* its number among those visible */
    uint32_t precision;    /* enum order_precision */
    uint32_t reserved;
    uint64_t host_bytes; /* of master copies in host memory; a CPU's instance has none */
    char instance[64];
};

struct order_model {
    uint32_t kind;
    uint32_t model;                 /* the daemon's number, also in later messages */
    uint32_t max_context;           /* 0: the file's */
    uint32_t files;                 /* descriptors that come with it */
    uint8_t kinds[ORDER_FILES_MAX]; /* of each file: enum source_kind of model/source.h */
    char name[64];
};

/* Sampling is a function of (seed, position, logits): no state, so it survives any move. */
struct order_sampling {
    uint64_t seed;
    float temperature;        /* 0: greedy */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off; over prompt and output */
    float frequency_penalty;  /* 0: off; over output */
    float presence_penalty;   /* 0: off; over output */
    uint32_t top_k;           /* 0: off */
    uint32_t flags;           /* SAMPLING_* */
};
#define SAMPLING_IGNORE_EOS 1u

struct order_seq {
    uint32_t kind;
    uint32_t model;
    uint64_t seq;        /* unique for the daemon's life */
    uint32_t tokens;     /* how many follow: prompt and what was generated before */
    uint32_t generated;  /* the last `generated` of these are output */
    uint32_t max_tokens; /* of output in all: it ends with FINISH_LENGTH there */
    uint32_t urgent;     /* it has an SLO: where a step is full, it goes before those without */
    struct order_sampling sampling;
};

struct order_tokens {
    uint32_t kind;
    uint32_t count;
    uint64_t seq;
    uint32_t offset;   /* of the first one in the sequence; parts come in order */
    uint32_t reserved; /* so that the tokens begin where the structure ends */
    uint32_t tokens[];
};

/* Which of a model's sequences a turn runs.  One prefills until it has a token of output, and also
 * one that is given anew with some decodes. */
enum order_phases { ORDER_PREFILL = 1, ORDER_DECODE = 2, ORDER_PHASES = 3 };

struct order_turn {
    uint32_t kind;
    uint32_t model;
    uint64_t turn;
    uint64_t quota_us;    /* of steps, the switch before them not counted; 0: none */
    uint32_t quota_steps; /* 0: none */
    uint32_t phases;      /* enum order_phases, 0: all; ORDER_PREFILL alone: until they are done */
    uint32_t fresh_max;   /* at most so many prompts, the oldest ones; 0: all */
    uint32_t chunk;       /* prompt tokens in a step beside rows that decode; 0: what fits */
};

struct event_ready {
    uint32_t kind;
    uint32_t version;
    uint64_t memory_bytes; /* as cut into handles */
    uint64_t handle_bytes;
    char device[64]; /* "cpu avx512-vnni fast, 2 threads" */
};

struct event_model {
    uint32_t kind;
    uint32_t model;
    uint32_t ok;          /* 0: text says why it cannot run here */
    uint32_t max_context; /* of the model, and of what fits into memory beside its weights */
    uint64_t weight_bytes;
    uint64_t kv_token_bytes;
    uint32_t page_tokens;
    uint32_t vocabulary;
    char text[ORDER_TEXT_MAX];
};

struct event_residency {
    uint32_t kind;
    uint32_t model;
    uint32_t resident; /* 1 came, 0 went */
    uint32_t reserved;
    uint64_t bytes; /* copied (came) or given up (went) */
    uint64_t us;    /* that the copy took */
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH };

struct event_row {
    uint64_t seq;
    uint32_t token;
    uint32_t finish;    /* enum finish; STOP: `token` is an end-of-sequence token */
    uint32_t position;  /* of the token in its sequence; a receiver drops what it has already */
    uint32_t prefilled; /* prompt tokens that were computed since the last event of this row */
};

struct event_step {
    uint32_t kind;
    uint32_t count; /* of rows that yielded a token */
    uint64_t turn;
    uint64_t us;    /* that the step took */
    uint32_t batch; /* rows in the step, prefilling ones included */
    uint32_t prefill_tokens;
    struct event_row rows[];
};

struct event_seq_fault {
    uint32_t kind;
    uint32_t reserved;
    uint64_t seq;
    char text[ORDER_TEXT_MAX];
};

enum turn_end {
    TURN_QUOTA,   /* steps or time used up */
    TURN_IDLE,    /* no sequence of this model is left to run */
    TURN_KV_FULL, /* no page for the next step: close a sequence and give it anew later */
    TURN_NEXT,    /* another turn was queued and this one had no quota */
    TURN_FAULT,   /* the model could not be made resident; text says why */
};

struct event_turn_end {
    uint32_t kind;
    uint32_t model;
    uint64_t turn;
    uint32_t reason; /* enum turn_end */
    uint32_t steps;
    uint64_t step_us;   /* spent in steps */
    uint64_t switch_us; /* spent making the model resident first; 0: it was */
    uint64_t switch_bytes;
    uint32_t kv_pages_used, kv_pages_total; /* of this model's shape */
    char text[ORDER_TEXT_MAX];
};

#endif
