/*
 * master.h - a model's master copy, as the daemon has lent it to this engine
 *
 * The daemon owns the file (common/segment.h); an engine gets its descriptor, never its path: an
 * empty file to prepare the weights into, or a complete one, read-only.  Before the first use of a
 * complete one its header is checked here, and its pieces as they are copied for the first time.
 */
#ifndef MP_ENGINE_MASTER_H
#define MP_ENGINE_MASTER_H

#include <stdint.h>

#include "common/error.h"
#include "common/order.h"

struct model;

struct master {
    enum master_use use; /* FILL, PREPARE: the descriptor alone; READ: mapped */
    int fd;              /* good unless use is NONE */
    uint8_t *base;       /* of the mapped file, or NULL */
    uint64_t file_bytes;
    int verified; /* all pieces had their checksums, or were written here */
};

/*
 * Take what the daemon lends; fd is duplicated.  What was lent before is given up.  CORRUPT,
 * UNSUPPORTED: a file that is to be read does not hold this model's weights in this layout.
 */
int master_take(struct model *m, const struct order_master *o, int fd, struct error *err);
void master_drop(struct master *c);

/* The weights' place in it; NULL unless it is mapped. */
uint8_t *master_data(const struct master *c);

/* To prepare into it: take all of its memory (a full file system is EXHAUSTED here, and no signal
 * later), map it, begin the header. */
int master_begin(struct model *m, struct error *err);
/* The weights are there: checksums of all pieces, the key from the files' hashes, the mark.  From
 * now on it is read. */
int master_end(struct model *m, const uint8_t (*hashes)[ORDER_KEY], uint32_t files,
               struct error *err);
/* A piece, as it was copied to `copy`, has its checksum. */
int master_check_piece(const struct master *c, uint64_t piece, const uint8_t *copy,
                       struct error *err);

#endif
