/*
 * generation_state.h - one generation, shared by generation*.c alone
 *
 * generation.c: its life, to the ledger.  generation_admit.c: before it runs.  generation_submit.c:
 * what the policy is asked.  generation_text.c: its tokens and text.
 */
#ifndef MP_DAEMON_GENERATION_STATE_H
#define MP_DAEMON_GENERATION_STATE_H

#include "daemon/generation.h"
#include "daemon/token_log.h"

enum generation_state { HELD, ASKING, OPENING, RUNNING, ENDING, CLOSING };
enum generation_outcome { OUTCOME_NONE, DONE, CANCELLED, FAILED, INTERRUPTED };

struct choice { /* one of the answers that a request wants */
    struct detokenizer detokenizer;
    struct stop stop;
    struct token_log log;
    struct event_logprobs next; /* of the token that comes next */
    char *text;                 /* not yet sent: all of it, or a stream's last */
    size_t text_len, text_room;
    uint64_t made, characters; /* bytes that detokenizing has given, and characters */
    uint64_t passed;           /* of these bytes, those that no stop string holds back */
    uint32_t completion;       /* tokens that count */
    uint32_t whole;            /* of these, how many have all their text in what was sent */
    int64_t last_us;
    const char *finish; /* "stop" or "length"; NULL: it goes on */
    int submitted;      /* POLICY_DONE is awaited */
    int told;           /* a stream has had its end */
};

struct generation {
    struct generations *all;
    uint64_t seq; /* of the first choice, and of the ledger's callbacks */
    enum generation_state state;
    enum generation_outcome outcome;
    struct openai_error error; /* what to answer if it is not DONE */
    const char *finish;        /* DONE: "length" if it is that of any choice, else "stop" */
    char id[REQUEST_ID_MAX];
    struct stream stream;
    struct openai_request request;
    struct grant *grant;
    uint32_t model;
    uint32_t *prompt; /* until it is submitted */
    uint32_t prompt_count;
    struct choice *choices; /* [request.n] */
    uint32_t submitted;     /* choices whose POLICY_DONE is awaited */
    char *piece;            /* text of one token */
    size_t piece_room;
    uint32_t completion, whole; /* of all choices */
    uint32_t delivered;         /* of these, how many the socket has taken */
    int64_t arrived_us, created;
    int64_t day;              /* leases_today() when it arrived: its tokens are of that day */
    char why[ORDER_TEXT_MAX]; /* HELD, ASKING: what it waits for; ASKING "": the answer is near */
    struct db_usage row;
    int journal_slot; /* -1: none */
};

/* --- generation.c --- */
struct generation *generation_find(const struct generations *all, uint64_t seq); /* NULL: gone */
/* Nothing more is wanted.  The first reason stays, except that nobody is served who has gone. */
void generation_end_early(struct generation *g, enum generation_outcome outcome,
                          const struct openai_error *e);
/* Its ledger row is durable, or could not be written. */
void generation_on_opened(void *arg, uint64_t seq, const struct db_usage *row,
                          const struct error *err);

/* --- generation_admit.c --- */
/* Take tokens from the lease's budget and the account's day; EXHAUSTED: nothing was taken. */
int generation_charge(struct generation *g, uint64_t tokens, struct error *err);
/* Give back what was reserved for tokens that are not billed. */
void generation_refund(struct generation *g, uint64_t tokens);
/* 429 if the account may have no further request now. */
int generation_check_requests(struct generations *all, const struct grant *grant,
                              struct openai_error *e);
/* Ask whether it can run now: 1 it is on its way, 0 hold it, -1 refused. */
int generation_try_admit(struct generation *g, struct openai_error *e);
/* An ADMITTED, WAITING or REFUSED event. */
void generation_on_promise(struct generations *all, const struct policy_event *ev);

/* --- generation_submit.c --- */
/* Hand all choices to the policy: RUNNING.  -1 (NOMEM): nothing has happened. */
int generation_submit(struct generation *g, struct error *err);

/* --- generation_text.c --- */
void generation_set_state(struct generation *g, enum generation_state state);
/* c: of the chunk that is made; NULL: any. */
struct openai_answer generation_answer(const struct generation *g, const struct choice *c);
uint64_t generation_seq(const struct generation *g, const struct choice *c);
/* The choice ends with "stop" or "length": what was held back is kept for its end, which a stream
 * gets now if others go on.  The generation is DONE with the last one.  Errors as below. */
int generation_finish(struct generation *g, struct choice *c, const char *word, struct error *err);
/* One token of a RUNNING generation's choice that goes on: text goes out or is kept, and it may
 * finish.  -1 if it cannot go on: EXHAUSTED, its reader is too slow; NOMEM; INVALID, too much is to
 * be kept. */
int generation_take_token(struct generation *g, struct choice *c, const struct event_row *row,
                          struct error *err);
/* A stream's last of a choice: its text, its finish. */
int generation_tell(struct generation *g, struct choice *c, struct error *err);

#endif
