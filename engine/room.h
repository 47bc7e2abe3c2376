/*
 * room.h - KV that gives way when memory is short
 *
 * Prefixes that no sequence uses go first, the longest unused first: they must never cost a switch.
 * Then live pages move out of sparse slabs.  Both cost no sequence anything.
 */
#ifndef MP_ENGINE_ROOM_H
#define MP_ENGINE_ROOM_H

#include "engine/sequence.h"

/* One thing given up or moved, after which a page may be found: 1.  0: there is nothing. */
int room_for_page(struct sequence_list *l);
/* Until so many handles of the arena are free, or there is nothing more. */
void room_for_handles(struct sequence_list *l, uint32_t handles);

#endif
