/*
 * random_checkpoint.h - an FP8 checkpoint of a known shape with random weights, in memory
 *
 * What random_model.h is to GGUF files: linear layers are e4m3 with a scale for every tile of 128 x
 * 128, embedding and head are BF16, as the published checkpoints have them.
 */
#ifndef MP_ENGINE_RANDOM_CHECKPOINT_H
#define MP_ENGINE_RANDOM_CHECKPOINT_H

#include "engine/channel.h"
#include "engine/random_model.h"

/* Its files as an order wants them: kinds and open descriptors, which the caller closes. */
int random_checkpoint_create(const struct random_shape *shape, struct order_model *order,
                             struct channel_files *files, struct error *err);

#endif
