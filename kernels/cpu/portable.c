/*
 * portable.c - the kernels for any machine
 */
/* clang-format off */
#include "kernels/cpu/vec_portable.h"
#include "kernels/cpu/body.h"
/* clang-format on */

const struct isa isa_portable = {.name = "portable", ISA_FUNCTIONS};
