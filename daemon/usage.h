/*
 * usage.h - the ledger row of a request: opened before it runs, closed before its last byte
 *
 * Both go through the writer; `done` comes from the loop once the commit is durable, or has failed.
 */
#ifndef MP_DAEMON_USAGE_H
#define MP_DAEMON_USAGE_H

#include "daemon/front.h"

/* err NULL: durable, and row->row is set. */
typedef void (*usage_done_f)(void *arg, uint64_t seq, const struct db_usage *row,
                             const struct error *err);

/* Who asks for what, and how many prompt tokens: all that is known at admission. */
void usage_fill(struct db_usage *u, const struct front *f, const struct grant *g, uint32_t model,
                const char *request, uint64_t prompt_tokens);
/* -1 (NOMEM): `done` will not come. */
int usage_open(struct front *f, const struct db_usage *u, uint64_t seq, usage_done_f done,
               void *arg, struct error *err);
int usage_close(struct front *f, const struct db_usage *u, uint64_t seq, usage_done_f done,
                void *arg, struct error *err);

#endif
