/*
 * generation_state.h - one generation, shared by generation*.c alone
 *
 * generation.c: its life, from admission to the ledger.  generation_text.c: its tokens and text.
 */
#ifndef MP_DAEMON_GENERATION_STATE_H
#define MP_DAEMON_GENERATION_STATE_H

#include "daemon/generation.h"

enum generation_state { HELD, OPENING, RUNNING, ENDING, CLOSING };
enum generation_outcome { OUTCOME_NONE, DONE, CANCELLED, FAILED, INTERRUPTED };

struct generation {
    struct generations *all;
    uint64_t seq;
    enum generation_state state;
    enum generation_outcome outcome;
    struct openai_error error; /* what to answer if it is not DONE */
    const char *finish;        /* DONE: "stop" or "length" */
    char id[REQUEST_ID_MAX];
    struct stream stream;
    struct openai_request request;
    struct grant *grant;
    uint32_t model;
    uint32_t *prompt; /* until it is submitted */
    uint32_t prompt_count;
    struct detokenizer detokenizer;
    char *piece; /* text of one token */
    size_t piece_room;
    char *text; /* not yet sent: all of it, or a stream's last */
    size_t text_len, text_room;
    uint32_t completion; /* tokens that count */
    uint32_t whole;      /* of these, how many have all their text in what was sent */
    uint32_t delivered;  /* of these, how many the socket has taken */
    int64_t arrived_us, last_us, created;
    struct db_usage row;
    int journal_slot; /* -1: none */
};

/* --- generation_text.c --- */
void generation_set_state(struct generation *g, enum generation_state state);
struct openai_answer generation_answer(const struct generation *g);
/* The event of a stream that brings this text, with the tokens by then if they were asked for. */
json_t *generation_text_chunk(const struct generation *g, const char *text, size_t len);
/* DONE, with "stop" or "length": no more tokens are taken. */
void generation_finish(struct generation *g, const char *word);
/* One token of a RUNNING generation: text goes out or is kept, and it may finish.  -1 if it cannot
 * go on: EXHAUSTED, its reader is too slow; NOMEM. */
int generation_take_token(struct generation *g, const struct event_row *row, struct error *err);
/* What was held back is kept for the answer's end. */
int generation_keep_rest(struct generation *g, struct error *err);

#endif
