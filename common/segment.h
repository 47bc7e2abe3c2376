/*
 * segment.h - a master copy of a model's weights: a file in shared memory
 *
 * The host tier's unit.  The daemon makes and owns the file; the first engine that needs the model
 * prepares the weights into it, in the layout of its own memory, and every later load, also of
 * other engines and after restarts, is a copy from it.
 *
 *   0                header
 *   sizeof header    a checksum for each piece of SEGMENT_PIECE bytes (the last may be shorter)
 *   data_offset      the weights; a multiple of SEGMENT_ALIGN
 *
 * The file is named by its key: what the source files hold, for which kind of device, in which
 * layout.  `complete` is written last, so that a file without it was never finished.  All of it is
 * checked before use: a file may have been cut short, or be another's.  Native byte order: a
 * segment never leaves its host.
 */
#ifndef MP_COMMON_SEGMENT_H
#define MP_COMMON_SEGMENT_H

#include <stdint.h>

#include "common/error.h"

#define SEGMENT_VERSION 1u
#define SEGMENT_KEY     16u /* bytes of a key, and of a source file's hash */
#define SEGMENT_NAME    (2 * SEGMENT_KEY + 1)
#define SEGMENT_PIECE   ((uint64_t)16 << 20)
#define SEGMENT_ALIGN   ((uint64_t)2 << 20)
#define SEGMENT_MAX     ((uint64_t)1 << 46) /* bytes of weights */

struct segment_header {
    char magic[8];
    uint32_t version;
    uint32_t device; /* enum order_device */
    uint8_t key[SEGMENT_KEY];
    uint64_t layout; /* digest of which tensor lies where, as what type */
    uint64_t bytes;  /* of weights */
    uint64_t data_offset;
    uint64_t piece_bytes, pieces;
    uint64_t checksum; /* of the fields above and the table of pieces */
    uint64_t complete; /* SEGMENT_COMPLETE; written last */
};
#define SEGMENT_COMPLETE UINT64_C(0x4574656c706d6f43)

/* Of the weights' source files in their order; layout and device as in the header. */
void segment_key(uint8_t key[SEGMENT_KEY], const uint8_t (*hashes)[SEGMENT_KEY], uint32_t files,
                 uint32_t device, uint64_t layout);
/* 32 hexadecimal digits. */
void segment_name(char name[SEGMENT_NAME], const uint8_t key[SEGMENT_KEY]);
/* -1: these are no 32 hexadecimal digits. */
int segment_parse_name(uint8_t key[SEGMENT_KEY], const char *name);

/* Of a file for so many bytes of weights (at most SEGMENT_MAX): where they begin, and its size. */
uint64_t segment_data_offset(uint64_t bytes);
uint64_t segment_file_bytes(uint64_t bytes);
uint64_t segment_pieces(uint64_t bytes);
/* Bytes of a piece. */
uint64_t segment_piece_bytes(uint64_t bytes, uint64_t piece);

/* An incomplete header without a key at the beginning of the mapped file. */
void segment_begin(void *base, uint32_t device, uint64_t layout, uint64_t bytes);
/* The table, to be filled before segment_complete(). */
uint64_t *segment_table(void *base);
uint64_t segment_piece_checksum(const void *piece, uint64_t bytes);
/* Everything is there: checksum of the header, and then the mark. */
void segment_complete(void *base, const uint8_t key[SEGMENT_KEY]);

/*
 * Is this the beginning of a complete segment, and does a file of so many bytes hold all of it?
 * Only the header itself is read: what the daemon looks at.  CORRUPT or UNSUPPORTED says why not.
 */
int segment_check_header(const struct segment_header *h, uint64_t file_bytes, struct error *err);
/* That, and the table's checksum, of a mapped file. */
int segment_check(const void *base, uint64_t file_bytes, struct error *err);

#endif
