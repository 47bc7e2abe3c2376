/*
 * journal.h - delivered tokens of open requests, exact under SIGKILL of any process
 *
 * A small mapped file of fixed slots {ledger row, prompt, delivered}.  The daemon bumps a slot when
 * bytes have been handed to a socket: a store to shared memory, no system call.  At the next start
 * the counts close the rows that were open.  Synced to disk once a second by the writer thread.
 */
#ifndef MP_DB_JOURNAL_H
#define MP_DB_JOURNAL_H

#include <stdint.h>

#include "common/error.h"

#define JOURNAL_SLOTS 4096u

struct journal;

/* Create or map.  A file of another layout is CORRUPT with its path. */
struct journal *journal_open(const char *path, struct error *err);
void journal_close(struct journal *j);
/* Take a free slot for a row; -1 (EXHAUSTED) if JOURNAL_SLOTS requests are open.  Thread-safe. */
int journal_take(struct journal *j, int64_t row, struct error *err);
/* Set the count of tokens delivered.  One writer per slot. */
void journal_set(struct journal *j, int slot, uint32_t delivered);
void journal_release(struct journal *j, int slot);
/* Delivered count of a row; -1 if no slot holds it. For db_recover_usage. */
int64_t journal_find(const struct journal *j, int64_t row);
/* After recovery: free every slot. */
void journal_clear(struct journal *j);
int journal_sync(struct journal *j, struct error *err);

#endif
