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

#define ORDER_VERSION    4
#define ORDER_FD         3
#define ORDER_BYTES_MAX  65536u /* of any datagram */
#define ORDER_TOKENS_MAX 8192u  /* in one ORDER_SEQ_TOKENS */
#define ORDER_ROWS_MAX   256u   /* in one EVENT_STEP */
#define ORDER_TEXT_MAX   256u
#define ORDER_FILES_MAX  64u  /* with one ORDER_MODEL */
#define ORDER_BIAS_MAX   300u /* in one ORDER_SEQ_BIAS */
#define ORDER_TOP_MAX    20u  /* alternatives in one EVENT_LOGPROBS */
#define ORDER_KEY        16u  /* bytes of a master copy's key, and of a file's hash */
#define ORDER_EVICT_MAX  16u  /* models that go for a prefetch */

enum order_kind {
    ORDER_HELLO = 1,     /* struct order_hello: the first message */
    ORDER_MODEL,         /* struct order_model, with its files' descriptors (SCM_RIGHTS) */
    ORDER_LOAD,          /* struct order_ref: make resident between steps, evicting if need be */
    ORDER_UNLOAD,        /* struct order_ref: give up its memory (its sequences' KV stays) */
    ORDER_SEQ_OPEN,      /* struct order_seq, then its tokens by ORDER_SEQ_TOKENS */
    ORDER_SEQ_TOKENS,    /* struct order_tokens; the sequence may run when all have come */
    ORDER_SEQ_CLOSE,     /* struct order_ref: forget it at the next step boundary */
    ORDER_TURN,          /* struct order_turn: queued behind the running turn; at most 2 are held */
    ORDER_QUIT,          /* end now; so does the closing of the channel */
    ORDER_MASTER = 10,   /* struct order_master, with the segment's descriptor */
    ORDER_PREFETCH = 11, /* struct order_prefetch: make resident behind the steps */
    ORDER_SEQ_SPILL = 12, /* struct order_ref: its KV goes to host memory; it does not run until */
    ORDER_SEQ_FETCH = 13, /* struct order_ref: its KV comes back, and it goes on */
    ORDER_SEQ_BIAS = 14, /* struct order_bias: between a sequence's ORDER_SEQ_OPEN and its tokens */

    EVENT_READY = 64,     /* struct event_ready: answers ORDER_HELLO */
    EVENT_MODEL,          /* struct event_model: answers ORDER_MODEL */
    EVENT_RESIDENCY,      /* struct event_residency: weights came or went */
    EVENT_STEP,           /* struct event_step: all tokens of one step */
    EVENT_SEQ_FAULT,      /* struct event_seq_fault: this sequence cannot go on, and why */
    EVENT_TURN_END,       /* struct event_turn_end */
    EVENT_MASTER = 70,    /* struct event_master: how a master copy fares */
    EVENT_SEQ_MOVED = 71, /* struct event_seq_moved: answers ORDER_SEQ_SPILL and ORDER_SEQ_FETCH */
    EVENT_LOGPROBS = 72,  /* struct event_logprobs: of a token of the EVENT_STEP that comes next */
};

struct order_ref { /* ORDER_LOAD, ORDER_UNLOAD (a model), ORDER_SEQ_* (a sequence) */
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
    uint32_t ranks;        /* TensorParallel=, which share memory and threads evenly; 0, 1: one */
    uint64_t swap_bytes;   /* of KV in host memory (ORDER_SEQ_SPILL); 0: none */
    char instance[64];
    uint64_t flags; /* HELLO_* */
};

#define HELLO_DETERMINISTIC 1u /* Deterministic=yes */

struct order_model {
    uint32_t kind;
    uint32_t model;       /* the daemon's number, also in later messages */
    uint32_t max_context; /* 0: the file's */
    uint32_t files;       /* descriptors that come with it */
    uint32_t flags;       /* MODEL_* */
    uint32_t reserved;
    uint8_t kinds[ORDER_FILES_MAX]; /* of each file: enum source_kind of model/source.h */
    char name[64];
};
#define MODEL_PINNED 1u /* once resident, it is evicted by ORDER_UNLOAD alone */

/* What an engine may do with a model's master copy (common/segment.h). */
enum master_use {
    MASTER_NONE,    /* no descriptor: give up what was lent; the model's files are read instead */
    MASTER_FILL,    /* an empty file: prepare into it at the first load */
    MASTER_PREPARE, /* an empty file: prepare into it now, behind the steps */
    MASTER_READ,    /* a complete one, read-only */
};

struct order_master {
    uint32_t kind;
    uint32_t model;
    uint32_t use; /* enum master_use */
    uint32_t reserved;
    uint8_t key[ORDER_KEY]; /* READ: that its header must have */
};

struct order_prefetch { /* answered by EVENT_RESIDENCY; ORDER_UNLOAD calls it off */
    uint32_t kind;
    uint32_t model;
    uint32_t evict_count;
    uint32_t reserved;
    uint32_t evict[ORDER_EVICT_MAX]; /* models that go first; no others do */
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
    uint32_t sharing;    /* equal prefixes of one model and number share pages; 0: nothing does */
    uint32_t urgent;     /* it has an SLO: where a step is full, it goes before those without */
    struct order_sampling sampling;
    uint32_t logprobs; /* 0: none; 1 + n: an EVENT_LOGPROBS a token, with the n likeliest tokens */
    uint32_t biases;   /* how many ORDER_SEQ_BIAS brings; 0: it does not come */
};

struct token_bias {
    uint32_t token;
    float bias; /* added to its logit */
};

struct order_bias {
    uint32_t kind;
    uint32_t count;
    uint64_t seq;
    struct token_bias biases[];
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
    uint32_t loads_behind; /* 1: it takes ORDER_PREFETCH */
    uint32_t reserved;
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
    uint64_t master_bytes; /* of weights in a master copy */
    uint64_t layout;       /* digest of which tensor lies where, as what type */
    char text[ORDER_TEXT_MAX];
};

struct event_residency {
    uint32_t kind;
    uint32_t model;
    uint32_t resident; /* 1 came, 0 went */
    uint32_t reserved;
    uint64_t bytes;      /* copied (came) or given up (went) */
    uint64_t us;         /* that the copy took */
    uint64_t file_bytes; /* read from the model's files for it, and not told by EVENT_MASTER */
    uint64_t disk_us;    /* that preparing its master copy took, before the copy */
};

enum master_state {
    MASTER_PROGRESS, /* done bytes of total are prepared; comes a few times a second */
    MASTER_COMPLETE, /* prepared: the hashes of its files make its key */
    MASTER_CORRUPT,  /* what was lent for reading is no good, text says why; it was given up */
    MASTER_FAILED,   /* could not be prepared, text says why; it was given up */
};

struct event_master {
    uint32_t kind;
    uint32_t model;
    uint32_t state;    /* enum master_state */
    uint32_t no_space; /* FAILED: the memory that the file lies in is full */
    uint64_t done, total;
    uint64_t us;         /* COMPLETE: that it took */
    uint64_t file_bytes; /* COMPLETE: read from the model's files */
    uint32_t files;      /* COMPLETE: hashes, of the files with weights in their order */
    uint32_t reserved;
    uint8_t hashes[ORDER_FILES_MAX][ORDER_KEY];
    char text[ORDER_TEXT_MAX];
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH };

struct event_row {
    uint64_t seq;
    uint32_t token;
    uint32_t finish;    /* enum finish; STOP: `token` is an end-of-sequence token */
    uint32_t position;  /* of the token in its sequence; a receiver drops what it has already */
    uint32_t prefilled; /* prompt tokens that were computed since the last event of this row */
    uint32_t cached;    /* prompt tokens whose KV was found since then, and so not computed */
    uint32_t reserved;
};

struct event_step {
    uint32_t kind;
    uint32_t count; /* of rows that yielded a token */
    uint64_t turn;
    uint64_t us;    /* that the step took */
    uint32_t batch; /* rows in the step, prefilling ones included */
    uint32_t prefill_tokens;
    uint32_t loading; /* 1: it began behind its weights' load: us is less than a step's */
    uint32_t reserved;
    struct event_row rows[];
};

struct token_logprob {
    double logprob; /* natural; of the model's own distribution: no bias, penalty, temperature */
    uint32_t token;
    uint32_t reserved;
};

struct event_logprobs {
    uint32_t kind;
    uint32_t count; /* of top[], as many as were asked for or as the vocabulary has */
    uint64_t seq;
    uint32_t position;                       /* as in the row */
    uint32_t reserved;                       /* so that there is no hole */
    struct token_logprob picked;             /* the row's token */
    struct token_logprob top[ORDER_TOP_MAX]; /* likeliest first; ties: the lower token */
};

struct event_seq_fault {
    uint32_t kind;
    uint32_t reserved;
    uint64_t seq;
    char text[ORDER_TEXT_MAX];
};

/*
 * A spill: with ok 0 its KV did not get there (the host's budget is used up, or it has none), and
 * it was dropped: the sequence is away all the same, and computes its KV again when it is fetched.
 * A fetch: with ok 0 there was no room, and nothing has changed.
 */
struct event_seq_moved {
    uint32_t kind;
    uint32_t out; /* 1: spilled, 0: fetched */
    uint64_t seq;
    uint64_t bytes; /* copied */
    uint64_t us;    /* that the copies took */
    uint32_t ok;
    uint32_t reserved;
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
