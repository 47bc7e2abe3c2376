/*
 * cost.h - what work costs on a device: linear models of steps, fixed or per-byte costs of moves
 *
 * Prefill of n tokens behind `from` others: a + b*n + c*((from+n)^2 - from^2).  A decode step of
 * `rows` sequences with `context` tokens of KV in all: a + b*context + c*rows.  Coefficients are
 * seconds.  A step with both shares its weights' reading: the decode step and b*n + c*(...) of the
 * prefill.
 */
#ifndef MP_SCHED_COST_H
#define MP_SCHED_COST_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define COST_NAME_MAX 64

struct cost { /* of a model on a device; seconds and bytes */
    double prefill, prefill_token, prefill_square;
    double decode, decode_context, decode_row;
    double load;     /* weights from the host tier to the device */
    double disk;     /* weights from the disk to the host tier; 0: they lie in it already */
    double kv_token; /* the KV of one token over the link, one way */
    double scale;    /* what steps really take, over what is predicted; 0 is 1 */
};

double cost_prefill(const struct cost *c, double from, double n);
/* What n tokens add to a decode step that runs anyway. */
double cost_chunk(const struct cost *c, double from, double n);
double cost_decode(const struct cost *c, double rows, double context);

/* --- a file of costs ------------------------------------------------------------------------- */

struct cost_entry { /* a line Model=... */
    char name[COST_NAME_MAX];
    double weight_bytes, kv_token_bytes;
    uint32_t context;
    double weight; /* share in the mix */
    double published_switch;
    struct cost cost;
};

struct cost_table {
    char device[COST_NAME_MAX];
    double memory_bytes; /* for weights and KV */
    double link;         /* bytes/s from the host to the device */
    double disk;         /* bytes/s from a node's disk to its host memory; 0: not told */
    struct cost_entry *models;
    size_t model_count;
};

/*
 * Text of a costs file; `path` is for messages.  Lines of Key=Value; `#` starts a comment.
 *   Device=NAME Memory=BYTES Link=BYTES_PER_S [Disk=BYTES_PER_S]
 *   Model=NAME Weights=BYTES KvToken=BYTES Context=TOKENS Prefill=A,B,C Decode=A,B,C
 *         [Switch=SECONDS] [Mix=SHARE]
 * The model's load takes Switch= seconds, or Weights= over Link= where it has none.  cost.disk is
 * left 0: whether models begin on a disk is the caller's to say.
 */
int cost_table_parse(struct cost_table *t, const char *text, const char *path, struct error *err);
void cost_table_clear(struct cost_table *t);
/* NULL if it has none of that name. */
const struct cost_entry *cost_table_find(const struct cost_table *t, const char *name);

#endif
