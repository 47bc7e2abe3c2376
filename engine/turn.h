/*
 * turn.h - turns: runs of steps of one model
 *
 * The running turn is the first of those held.  It makes its model resident, takes steps until its
 * quota is used up, nothing is left to run or no page is left, and says so by EVENT_TURN_END.  Each
 * turn takes at least one step if it can, so that turns always get on.
 */
#ifndef MP_ENGINE_TURN_H
#define MP_ENGINE_TURN_H

#include "engine/engine.h"

/* Queue an order; more than ENGINE_TURNS_MAX are answered at once by TURN_FAULT. */
void turn_queue(struct engine *e, const struct order_turn *order);
/* With a turn held: ask for one more step of the first, or collect one, or end it. */
void turn_advance(struct engine *e);
/* Collect all that is in flight. */
void turn_drain(struct engine *e);
/* Could so many tokens of a model ever fit beside its weights?  If not, 0 and the text. */
int turn_ever_fits(const struct engine *e, const struct model *m, uint32_t tokens, char *text,
                   size_t room);

#endif
