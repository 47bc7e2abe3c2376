/* segment.c - the form of a master copy's file; see segment.h */
#include "common/segment.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/checksum.h"

static const char magic[8] = "mpmaster";

void segment_key(uint8_t key[SEGMENT_KEY], const uint8_t (*hashes)[SEGMENT_KEY], uint32_t files,
                 uint32_t device, uint64_t layout)
{
    struct {
        uint32_t version, device, files, reserved;
        uint64_t layout;
    } what = {.version = SEGMENT_VERSION, .device = device, .files = files, .layout = layout};
    uint64_t halves[2];

    for (uint64_t i = 0; i < 2; i++)
        halves[i] =
            checksum64(hashes, (size_t)files * SEGMENT_KEY, checksum64(&what, sizeof what, i));
    memcpy(key, halves, SEGMENT_KEY);
}

void segment_name(char name[SEGMENT_NAME], const uint8_t key[SEGMENT_KEY])
{
    for (uint32_t i = 0; i < SEGMENT_KEY; i++)
        snprintf(name + 2 * i, 3, "%02x", key[i]);
}

int segment_parse_name(uint8_t key[SEGMENT_KEY], const char *name)
{
    static const char digits[] = "0123456789abcdef";

    if (strlen(name) != SEGMENT_NAME - 1 || strspn(name, digits) != SEGMENT_NAME - 1)
        return -1;
    for (uint32_t i = 0; i < SEGMENT_KEY; i++)
        key[i] = (uint8_t)((strchr(digits, name[2 * i]) - digits) << 4 |
                           (strchr(digits, name[2 * i + 1]) - digits));
    return 0;
}

static uint64_t round_up(uint64_t n)
{
    return (n + SEGMENT_ALIGN - 1) / SEGMENT_ALIGN * SEGMENT_ALIGN;
}

uint64_t segment_pieces(uint64_t bytes)
{
    return (bytes + SEGMENT_PIECE - 1) / SEGMENT_PIECE;
}

uint64_t segment_piece_bytes(uint64_t bytes, uint64_t piece)
{
    uint64_t left = bytes - piece * SEGMENT_PIECE;

    return left < SEGMENT_PIECE ? left : SEGMENT_PIECE;
}

uint64_t segment_data_offset(uint64_t bytes)
{
    return round_up(sizeof(struct segment_header) + segment_pieces(bytes) * sizeof(uint64_t));
}

uint64_t segment_file_bytes(uint64_t bytes)
{
    return segment_data_offset(bytes) + round_up(bytes);
}

void segment_begin(void *base, uint32_t device, uint64_t layout, uint64_t bytes)
{
    struct segment_header *h = base;

    memset(h, 0, sizeof *h);
    memcpy(h->magic, magic, sizeof h->magic);
    h->version = SEGMENT_VERSION;
    h->device = device;
    h->layout = layout;
    h->bytes = bytes;
    h->data_offset = segment_data_offset(bytes);
    h->piece_bytes = SEGMENT_PIECE;
    h->pieces = segment_pieces(bytes);
}

uint64_t *segment_table(void *base)
{
    return (uint64_t *)(void *)((unsigned char *)base + sizeof(struct segment_header));
}

uint64_t segment_piece_checksum(const void *piece, uint64_t bytes)
{
    return checksum64(piece, bytes, SEGMENT_VERSION);
}

/* The table follows the header's last two fields, so it is a part of its own. */
static uint64_t header_checksum(const struct segment_header *h, const uint64_t *table)
{
    uint64_t sum = checksum64(h, offsetof(struct segment_header, checksum), 0);

    return checksum64(table, h->pieces * sizeof(uint64_t), sum);
}

void segment_complete(void *base, const uint8_t key[SEGMENT_KEY])
{
    struct segment_header *h = base;

    memcpy(h->key, key, SEGMENT_KEY);
    h->checksum = header_checksum(h, segment_table(base));
    __atomic_store_n(&h->complete, SEGMENT_COMPLETE, __ATOMIC_RELEASE);
}

int segment_check_header(const struct segment_header *h, uint64_t file_bytes, struct error *err)
{
    if (memcmp(h->magic, magic, sizeof h->magic) != 0)
        return error_set(err, STATUS_CORRUPT, "it is no master copy");
    if (h->version != SEGMENT_VERSION)
        return error_set(err, STATUS_UNSUPPORTED,
                         "it has layout version %" PRIu32 ", and this release knows %u", h->version,
                         SEGMENT_VERSION);
    if (h->complete != SEGMENT_COMPLETE)
        return error_set(err, STATUS_CORRUPT, "it was never completed");
    if (h->bytes == 0 || h->bytes > SEGMENT_MAX || h->piece_bytes != SEGMENT_PIECE ||
        h->pieces != segment_pieces(h->bytes) || h->data_offset != segment_data_offset(h->bytes))
        return error_set(err, STATUS_CORRUPT, "its header contradicts itself");
    if (file_bytes != segment_file_bytes(h->bytes))
        return error_set(err, STATUS_CORRUPT,
                         "it has %" PRIu64 " bytes instead of %" PRIu64 ": it was cut short",
                         file_bytes, segment_file_bytes(h->bytes));
    return 0;
}

int segment_check(const void *base, uint64_t file_bytes, struct error *err)
{
    const struct segment_header *h = base;
    const uint64_t *table;

    if (file_bytes < SEGMENT_ALIGN)
        return error_set(err, STATUS_CORRUPT, "it has only %" PRIu64 " bytes", file_bytes);
    if (segment_check_header(h, file_bytes, err) != 0)
        return -1;
    table = (const uint64_t *)(const void *)((const unsigned char *)base + sizeof *h);
    if (h->checksum != header_checksum(h, table))
        return error_set(err, STATUS_CORRUPT, "its header's checksum is wrong");
    return 0;
}
