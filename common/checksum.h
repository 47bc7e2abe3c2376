/*
 * checksum.h - a fast 64-bit checksum: XXH64, as its specification describes it
 *
 * https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md: four lanes of 8 bytes, several
 * GB/s of one core without special instructions.  It finds damage and names contents; it is no
 * defence against who chooses the bytes.
 */
#ifndef MP_COMMON_CHECKSUM_H
#define MP_COMMON_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum64(const void *data, size_t bytes, uint64_t seed);

#endif
